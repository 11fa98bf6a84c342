//! The manual page, edgelat(1), in roff with the man macros.

use std::fmt::Write as _;

use crate::cli::{
    exit::Exit,
    help,
    options::{COMMANDS, Command, Opt},
};

/// Returns the page. It has a version but no date, so that the same sources give the same bytes.
pub fn man() -> String {
    let mut page =
        format!(".TH EDGELAT 1 \"\" \"edgelat {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
    section(&mut page, "NAME");
    text(&mut page, &help::SUMMARY.replacen("edgelat measures", "edgelat - measure", 1));
    section(&mut page, "SYNOPSIS");
    for command in COMMANDS {
        for form in command.usage {
            page.push_str(".br\n");
            text(&mut page, &format!("edgelat {} {form}", command.name));
        }
    }
    section(&mut page, "DESCRIPTION");
    text(
        &mut page,
        "edgelat puts probes on functions of a running program, counts their durations in the kernel, and shows \
         histograms. The program is neither rebuilt nor restarted, and a function on which a probe could do harm is \
         refused with a reason.",
    );
    for command in COMMANDS {
        describe(&mut page, command);
    }
    section(&mut page, "EXIT STATUS");
    for (exit, meaning) in Exit::ALL {
        tagged(&mut page, &exit.status().to_string(), &format!("{meaning}."));
    }
    section(&mut page, "ENVIRONMENT");
    tagged(
        &mut page,
        "NO_COLOR",
        "When set to anything, no colours are used. They are used on a terminal only.",
    );
    page
}

fn describe(page: &mut String, command: &Command) {
    section(page, &format!("edgelat {}", command.name).to_uppercase());
    for (number, paragraph) in command.about.iter().enumerate() {
        if number > 0 {
            page.push_str(".PP\n");
        }
        text(page, paragraph);
    }
    for operand in command.operands.iter().chain(&command.trailing) {
        tagged(page, operand.name, &format!("{}.", operand.help));
    }
    for option in command.options {
        tagged(page, &label(option), &explanation(option));
    }
    for example in command.examples {
        page.push_str(".PP\n");
        text(page, example.purpose);
        // .EX keeps the line as typed.
        page.push_str(".PP\n.RS 4\n.EX\n");
        text(page, example.line);
        page.push_str(".EE\n.RE\n");
    }
}

fn label(option: &Opt) -> String {
    let mut label = option.short.map(|letter| format!("-{letter}, ")).unwrap_or_default();
    label.push_str(&option.dashed());
    if let Some(value) = &option.value {
        label.push(' ');
        label.push_str(value.name);
    }
    label
}

fn explanation(option: &Opt) -> String {
    let mut text = format!("{}.", option.help);
    if !option.more.is_empty() {
        text.push(' ');
        text.push_str(option.more);
    }
    if let Some(default) = option.default {
        // A write to a String cannot fail.
        let _ = write!(text, " The default is {default}.");
    }
    text
}

fn section(page: &mut String, title: &str) {
    let _ = writeln!(page, ".SH \"{title}\"");
}

fn tagged(page: &mut String, tag: &str, explanation: &str) {
    page.push_str(".TP\n\\fB");
    escape(page, tag);
    page.push_str("\\fR\n");
    text(page, explanation);
}

/// Appends a line of running text.
fn text(page: &mut String, text: &str) {
    // A dot or a quote at the start of a line would be a macro.
    if text.starts_with(['.', '\'']) {
        page.push_str("\\&");
    }
    escape(page, text.trim_end());
    page.push('\n');
}

/// Appends escaped text: roff turns `-` into a hyphen, which cannot be searched for or pasted, and
/// `'` into a closing quote.
fn escape(page: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => page.push_str("\\e"),
            '-' => page.push_str("\\-"),
            '\'' => page.push_str("\\(aq"),
            '^' => page.push_str("\\(ha"),
            '~' => page.push_str("\\(ti"),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    /// Returns the complaints of `groff` or `mandoc`, either of which can check the page.
    fn complaints() -> Option<String> {
        for (program, arguments) in
            [("groff", &["-man", "-Tutf8", "-ww", "-z"][..]), ("mandoc", &["-T", "lint", "-W", "warning"])]
        {
            let started = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let Ok(mut formatter) = started else { continue };
            formatter.stdin.take().unwrap().write_all(man().as_bytes()).unwrap();
            let output = formatter.wait_with_output().unwrap();
            return Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
        }
        None
    }

    #[test]
    fn the_formatter_has_nothing_to_complain_about() {
        // A machine without a formatter shows no man pages; the tests below still apply there.
        if let Some(complaints) = complaints() {
            assert_eq!(complaints, "");
        }
    }

    #[test]
    fn every_option_and_exit_status_is_in_the_page() {
        let page = man();
        for command in COMMANDS {
            for option in command.options {
                let mut dashed = String::new();
                escape(&mut dashed, &option.dashed());
                assert!(page.contains(&dashed), "{dashed}");
            }
        }
        for (exit, meaning) in Exit::ALL {
            let mut expected = format!("\\fB{}\\fR\n", exit.status());
            escape(&mut expected, meaning);
            assert!(page.contains(&expected), "{meaning}");
        }
    }

    #[test]
    fn no_text_can_begin_a_line_as_a_macro() {
        let mut page = String::new();
        text(&mut page, ".SH not a section");
        text(&mut page, "'br not a break");
        assert_eq!(page, "\\&.SH not a section\n\\&\\(aqbr not a break\n");
    }
}
