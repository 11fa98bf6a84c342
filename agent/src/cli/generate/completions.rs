//! Shell completions: the words that can follow each other, for bash, zsh and fish.

use std::fmt::Write as _;

use crate::cli::options::{COMMANDS, Command, Complete, Opt};

/// Returns the words that can follow `edgelat` itself.
fn first_words() -> String {
    let commands = COMMANDS.iter().map(|command| command.name);
    commands.chain(["help", "--help", "--version"]).collect::<Vec<_>>().join(" ")
}

/// Returns the completions for a command's operands: those of its first one.
fn operand(command: &Command) -> Complete {
    command.operands.first().map_or(Complete::Nothing, |operand| operand.complete)
}

/// Returns the spellings of an option.
fn spellings(option: &Opt) -> Vec<String> {
    option.short.map(|letter| format!("-{letter}")).into_iter().chain([option.dashed()]).collect()
}

/// Returns a script for bash 4 and later. It needs no bash-completion package.
pub(super) fn bash() -> String {
    const PROCESSES: &str = "COMPREPLY=($(compgen -W \"$(cd /proc && echo [0-9]*)\" -- \"$current\"))";
    let words = |words: &str| format!("COMPREPLY=($(compgen -W \"{words}\" -- \"$current\"))");
    let reply = |complete| match complete {
        Complete::Nothing => ":".to_string(),
        Complete::Words(list) => words(&list.join(" ")),
        Complete::CommandLine => "compopt -o default".to_string(),
        Complete::Files => "COMPREPLY=($(compgen -f -- \"$current\"))".to_string(),
        Complete::Directories => "COMPREPLY=($(compgen -d -- \"$current\"))".to_string(),
        Complete::Processes => PROCESSES.to_string(),
        Complete::ProcessesAndFiles => format!("{PROCESSES}; compopt -o default"),
    };
    let mut script = format!(
        "# Completion of edgelat for bash.\n\
         _edgelat() {{\n\
         \x20   local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} word\n\
         \x20   COMPREPLY=()\n\
         \x20   if [ \"$COMP_CWORD\" -eq 1 ]; then\n\
         \x20       {}\n\
         \x20       return\n\
         \x20   fi\n\
         \x20   for word in \"${{COMP_WORDS[@]:2:COMP_CWORD-2}}\"; do\n\
         \x20       if [ \"$word\" = -- ]; then compopt -o default; return; fi\n\
         \x20   done\n\
         \x20   case ${{COMP_WORDS[1]}} in\n",
        words(&first_words())
    );
    for command in COMMANDS {
        // A write to a String cannot fail.
        let _ = writeln!(script, "    {})\n        case $previous in", command.name);
        for option in command.options {
            if let Some(value) = &option.value {
                let _ = writeln!(
                    script,
                    "        {}) {}; return ;;",
                    spellings(option).join("|"),
                    reply(value.complete)
                );
            }
        }
        let mut options: Vec<String> = command.options.iter().map(Opt::dashed).collect();
        options.push("--help".to_string());
        let _ = writeln!(
            script,
            "        esac\n        case $current in\n        -*) {} ;;\n        *) {} ;;\n        esac\n        ;;",
            words(&options.join(" ")),
            reply(operand(command))
        );
    }
    let commands: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let _ = writeln!(script, "    help) {} ;;", words(&commands.join(" ")));
    script.push_str("    esac\n}\ncomplete -F _edgelat edgelat\n");
    script
}

/// Returns a script for zsh: `_edgelat`, for a directory of `$fpath`.
pub(super) fn zsh() -> String {
    let action = |complete| match complete {
        Complete::Nothing => String::new(),
        Complete::Words(list) => format!("({})", list.join(" ")),
        Complete::Files => "_files".to_string(),
        Complete::Directories => "_files -/".to_string(),
        Complete::Processes => "_pids".to_string(),
        Complete::ProcessesAndFiles => "{_pids; _files}".to_string(),
        Complete::CommandLine => "_normal".to_string(),
    };
    let mut script =
        "#compdef edgelat\n# Completion of edgelat for zsh.\n_edgelat() {\n    local -a commands\n    \
                      commands=(\n"
            .to_string();
    for command in COMMANDS {
        let _ = writeln!(script, "        '{}:{}'", command.name, zsh_quoted(command.summary));
    }
    script.push_str(
        "    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        \
         _arguments '(- *)'{-h,--help}'[explain edgelat]' '(- *)'{-V,--version}'[print the version]'\n        \
         return\n    fi\n    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n",
    );
    for command in COMMANDS {
        let _ = writeln!(script, "    {})\n        _arguments -S \\", command.name);
        for option in command.options {
            // Spellings exclude each other unless the option may be repeated.
            let spellings = spellings(option);
            let exclusive =
                if option.repeatable { "*".to_string() } else { format!("({})", spellings.join(" ")) };
            let value = option
                .value
                .as_ref()
                .map(|value| format!(":{}:{}", value.name, action(value.complete)))
                .unwrap_or_default();
            for spelling in spellings {
                let _ = writeln!(
                    script,
                    "            '{exclusive}{spelling}[{}]{value}' \\",
                    zsh_quoted(option.help)
                );
            }
        }
        for (number, operand) in command.operands.iter().enumerate() {
            let position = if operand.at_most > 1 { "*".to_string() } else { (number + 1).to_string() };
            let _ = writeln!(
                script,
                "            '{position}:{}:{}' \\",
                operand.name.replace('|', " or "),
                action(operand.complete)
            );
        }
        script.push_str("            '(- *)'{-h,--help}'[explain the command]'\n        ;;\n");
    }
    script.push_str("    help) _describe command commands ;;\n    esac\n}\n_edgelat \"$@\"\n");
    script
}

/// Escapes text for single quotes, and colons and brackets, special to _arguments and _describe.
fn zsh_quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace(':', "\\:").replace('[', "\\[").replace(']', "\\]")
}

/// Returns a script for fish 3 and later.
pub(super) fn fish() -> String {
    let arguments = |complete| match complete {
        Complete::Nothing | Complete::CommandLine => String::new(),
        Complete::Words(list) => format!(" -a '{}'", list.join(" ")),
        Complete::Files => " -F".to_string(),
        Complete::Directories => " -a '(__fish_complete_directories)'".to_string(),
        Complete::Processes => " -a '(__fish_complete_pids)'".to_string(),
        Complete::ProcessesAndFiles => " -F -a '(__fish_complete_pids)'".to_string(),
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut script = "# Completion of edgelat for fish.\ncomplete -c edgelat -f\n".to_string();
    for command in COMMANDS {
        let _ = writeln!(
            script,
            "complete -c edgelat -n __fish_use_subcommand -a {} -d {}",
            command.name,
            quoted(command.summary)
        );
    }
    script.push_str("complete -c edgelat -n __fish_use_subcommand -a help -d 'explain a command'\n");
    script.push_str("complete -c edgelat -n __fish_use_subcommand -s V -l version -d 'Print the version'\n");
    script.push_str("complete -c edgelat -s h -l help -d 'Explain edgelat, or the command'\n");
    for command in COMMANDS {
        let condition = format!("complete -c edgelat -n '__fish_seen_subcommand_from {}'", command.name);
        for option in command.options {
            let short = option.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
            let value = option.value.as_ref().map(|value| format!(" -x{}", arguments(value.complete)));
            let _ = writeln!(
                script,
                "{condition}{short} -l {}{} -d {}",
                option.long,
                value.unwrap_or_default(),
                quoted(option.help)
            );
        }
        let operands = arguments(operand(command));
        if !operands.is_empty() {
            let _ = writeln!(script, "{condition}{operands}");
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

    /// Returns the words that bash offers after `line`, which ends with the incomplete word.
    fn bash_offers(line: &[&str]) -> Vec<String> {
        let words = line.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let script = format!(
            "compopt() {{ :; }}\n{}\nCOMP_WORDS=({words}); COMP_CWORD={}; _edgelat; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            bash(),
            line.len() - 1
        );
        let output = Process::new("bash").args(["-u", "-c", &script]).output().expect("bash runs");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let offers = String::from_utf8(output.stdout).unwrap();
        offers.lines().filter(|word| !word.is_empty()).map(str::to_string).collect()
    }

    #[test]
    fn bash_offers_commands_first() {
        assert_eq!(bash_offers(&["edgelat", "wa"]), ["watch"]);
        let all = bash_offers(&["edgelat", ""]);
        assert!(COMMANDS.iter().all(|command| all.contains(&command.name.to_string())), "{all:?}");
    }

    #[test]
    fn bash_offers_the_options_of_the_command_that_is_typed() {
        assert_eq!(bash_offers(&["edgelat", "watch", "--du"]), ["--duration"]);
        assert_eq!(bash_offers(&["edgelat", "check", "--du"]), [""; 0]);
        let all = bash_offers(&["edgelat", "watch", "-"]);
        assert_eq!(all.len(), Command::named("watch").unwrap().options.len() + 1);
    }

    #[test]
    fn bash_offers_the_values_of_the_option_that_is_typed() {
        assert_eq!(bash_offers(&["edgelat", "watch", "--route", "u"]), ["uprobe_multi"]);
        assert_eq!(bash_offers(&["edgelat", "completions", ""]), ["bash", "zsh", "fish"]);
        let processes = bash_offers(&["edgelat", "watch", "-p", "1"]);
        assert!(processes.contains(&"1".to_string()), "{processes:?}");
    }

    #[test]
    fn bash_leaves_what_follows_the_dashes_to_the_command_there() {
        assert_eq!(bash_offers(&["edgelat", "watch", "f", "--", "ls", "--du"]), [""; 0]);
    }

    #[test]
    fn shells_that_are_installed_accept_their_script() {
        for (shell, script) in [("bash", bash()), ("zsh", zsh()), ("fish", fish())] {
            let path =
                std::env::temp_dir().join(format!("edgelat-completion-{}.{shell}", std::process::id()));
            std::fs::write(&path, script).unwrap();
            let output = Process::new(shell).arg("-n").arg(&path).output();
            std::fs::remove_file(&path).unwrap();
            // bash is always there (it runs the project's scripts); others are checked if present.
            match output {
                Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
                Err(error) => assert!(shell != "bash", "{error}"),
            }
        }
    }

    #[test]
    fn every_script_knows_every_option() {
        for command in COMMANDS {
            for option in command.options {
                assert!(bash().contains(&option.dashed()), "bash: {}", option.long);
                assert!(zsh().contains(&option.dashed()), "zsh: {}", option.long);
                assert!(fish().contains(&format!("-l {}", option.long)), "fish: {}", option.long);
            }
        }
    }
}
