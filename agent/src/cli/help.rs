//! `--help`, laid out from the table of [`super::options`].

// A write to a String cannot fail, so its result is dropped below.
use std::fmt::Write as _;

use super::{
    exit::Exit,
    options::{COMMANDS, Command, Opt},
};

/// Columns of a line: every box has a terminal of this width.
const WIDTH: usize = 80;

/// Purpose of edgelat, in a line.
pub const SUMMARY: &str = "edgelat measures how long functions of running programs take";

/// Returns the help for all of edgelat.
pub fn overview() -> String {
    let mut help = format!("{SUMMARY}.\n\nUsage: edgelat COMMAND [OPTION...]\n\nCommands:\n");
    let column = 2 + 2 + COMMANDS.iter().map(|command| command.name.len()).max().unwrap_or(0);
    for command in COMMANDS {
        entry(&mut help, command.name, command.summary, column);
    }
    help.push_str("\nOptions:\n");
    entry(&mut help, "-h, --help", "Explain edgelat, or a command that stands before it", 17);
    entry(&mut help, "-V, --version", "Print the version", 17);
    help.push_str("\nExit statuses:\n");
    for (exit, meaning) in Exit::ALL {
        entry(&mut help, &format!("{:2}", exit.status()), meaning, 6);
    }
    help.push_str("\n'edgelat COMMAND --help' explains a command, 'edgelat help COMMAND' in full.\n");
    help
}

/// Level of detail of a command's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// A line for each option: `--help`.
    Short,
    /// Everything, for a box without a manual page: `edgelat help COMMAND`.
    Full,
}

/// Returns the help for one command.
pub fn of(command: &Command, detail: Detail) -> String {
    let mut help = String::new();
    for (number, form) in command.usage.iter().enumerate() {
        let label = if number == 0 { "Usage:" } else { "      " };
        let _ = writeln!(help, "{}", format!("{label} edgelat {} {form}", command.name).trim_end());
    }
    for paragraph in command.about {
        help.push('\n');
        wrap(&mut help, paragraph, 0, 0);
    }
    let operands: Vec<_> = command.operands.iter().chain(&command.trailing).collect();
    if !operands.is_empty() {
        help.push('\n');
        let column = 2 + 2 + operands.iter().map(|operand| operand.name.len()).max().unwrap_or(0);
        for operand in operands {
            entry(&mut help, operand.name, operand.help, column);
        }
    }
    help.push_str("\nOptions:\n");
    let labels: Vec<String> = command.options.iter().map(label).collect();
    let column = 2 + 2 + labels.iter().map(String::len).max().unwrap_or(0).max("-h, --help".len());
    for (option, label) in command.options.iter().zip(&labels) {
        let mut text = match option.default {
            Some(default) => format!("{} (default: {default})", option.help),
            None => option.help.to_string(),
        };
        if detail == Detail::Full && !option.more.is_empty() {
            text = format!("{text}. {}", option.more);
        }
        entry(&mut help, label, &text, column);
    }
    entry(&mut help, "-h, --help", "Print this", column);
    if detail == Detail::Short && command.options.iter().any(|option| !option.more.is_empty()) {
        let _ = writeln!(help, "\n'edgelat help {}' says more about them.", command.name);
    }
    if !command.examples.is_empty() {
        help.push_str("\nExamples:\n");
        for example in command.examples {
            let _ = writeln!(help, "  {}\n      {}", example.line, example.purpose);
        }
    }
    help
}

/// Formats `-p, --pid PID`, with space for the letter if the option has none.
fn label(option: &Opt) -> String {
    let mut label = match option.short {
        Some(letter) => format!("-{letter}, --{}", option.long),
        None => format!("    --{}", option.long),
    };
    if let Some(value) = &option.value {
        label.push(' ');
        label.push_str(value.name);
    }
    label
}

/// Appends a label, indented by 2, with its text in a column beside it.
fn entry(out: &mut String, label: &str, text: &str, column: usize) {
    let _ = write!(out, "  {label:<width$}", width = column - 2);
    wrap(out, text, column, column);
}

/// Appends `text` in lines of at most [`WIDTH`]; the cursor is at column `at`, further lines begin
/// at `indent`.
fn wrap(out: &mut String, text: &str, at: usize, indent: usize) {
    let mut at = at;
    let mut first = true;
    for word in text.split(' ') {
        if !first && at + 1 + word.len() > WIDTH {
            let _ = write!(out, "\n{:indent$}", "");
            at = indent;
            first = true;
        }
        if !first {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += word.len();
        first = false;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_terminal() {
        let of = |command| [of(command, Detail::Short), of(command, Detail::Full)];
        for text in COMMANDS.iter().flat_map(of).chain([overview()]) {
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert_eq!(line.trim_end(), line);
            }
        }
    }

    #[test]
    fn the_full_help_says_all_that_the_table_knows() {
        for command in COMMANDS {
            let words =
                |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>().join(" ");
            let help = words(&of(command, Detail::Full));
            for option in command.options {
                assert!(help.contains(&words(option.more)), "{}", option.long);
            }
        }
    }

    #[test]
    fn long_text_goes_on_in_its_column() {
        let mut out = String::new();
        entry(&mut out, "x", "word ".repeat(30).trim_end(), 6);
        assert!(out.lines().count() > 1);
        assert!(out.lines().skip(1).all(|line| line.starts_with("      word")));
    }
}
