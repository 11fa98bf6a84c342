//! Errors in a command line: the argument, the reason, and the correction.

use thiserror::Error;

use super::{exit::Exit, failure::Fails};

/// An error in a command line.
#[derive(Debug, Error)]
pub enum UsageError {
    /// No command at all.
    #[error("no command given; 'edgelat --help' lists them")]
    NoCommand,
    /// An unknown command.
    #[error("there is no command '{given}'; {}", did_you_mean(near, "edgelat "))]
    UnknownCommand {
        /// The command as typed.
        given: String,
        /// The most similar command.
        near: Option<String>,
    },
    /// An option that the command does not have.
    #[error("{command}: there is no option '{given}'; {}", did_you_mean_option(near, command))]
    UnknownOption {
        /// The command.
        command: &'static str,
        /// The option as typed.
        given: String,
        /// The most similar option.
        near: Option<String>,
    },
    /// An option without its required value.
    #[error("{command}: {option} needs a value; write {option} {value}")]
    MissingValue {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
        /// Placeholder of its value.
        value: &'static str,
    },
    /// A switch with a value.
    #[error("{command}: {option} takes no value, but has '{given}'; write {option} alone")]
    UnexpectedValue {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
        /// The value.
        given: String,
    },
    /// A non-repeatable option that is given twice.
    #[error("{command}: {option} is given twice; leave one")]
    Twice {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
    },
    /// An invalid value of an option.
    #[error("{command}: {option} cannot be '{given}'; give {wanted}")]
    BadValue {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
        /// The value.
        given: String,
        /// Description of the valid values.
        wanted: String,
    },
    /// Too few arguments.
    #[error("{command}: {operand} is missing; write edgelat {command} {usage}")]
    MissingOperand {
        /// The command.
        command: &'static str,
        /// The argument.
        operand: &'static str,
        /// Usage of the command.
        usage: &'static str,
    },
    /// Too many arguments.
    #[error("{command}: '{given}' is one argument too many; write edgelat {command} {usage}")]
    ExtraOperand {
        /// The command.
        command: &'static str,
        /// The argument.
        given: String,
        /// Usage of the command.
        usage: &'static str,
    },
    /// A cost bound without the calibration that it needs.
    #[error("{command}: --max-cost needs the calibration that --no-bias leaves out; leave out one of them")]
    NoCost {
        /// The command.
        command: &'static str,
    },
    /// Options of one action, given with another action.
    #[error("{command}: only {action} takes {options}; leave that out")]
    OnlyFor {
        /// The command.
        command: &'static str,
        /// The options.
        options: &'static str,
        /// The action that has them.
        action: &'static str,
    },
    /// An argument that is not text.
    #[error("{command}: '{given}' is not UTF-8 text; names of functions and values of options are")]
    NotText {
        /// The command.
        command: &'static str,
        /// The argument, as far as it can be shown.
        given: String,
    },
    /// An invalid pattern.
    #[error("{command}: {reason}")]
    Pattern {
        /// The command.
        command: &'static str,
        /// The error in the pattern and its correction.
        reason: edgelat_image::PatternError,
    },
    /// Nothing to watch.
    #[error("watch: nothing to measure; name a process with -p PID, or a command after --")]
    NoTarget,
    /// Both a process and a file to check.
    #[error("check: -p PID and -c FILE are two questions; ask one at a time")]
    TwoQuestions,
    /// Two locations of records.
    #[error("spool: -c FILE and --dir DIR both say where the records are; leave one")]
    TwoSpools,
    /// Two things to watch.
    #[error("watch: both -p PID and a command after -- are given; leave one")]
    TwoTargets,
}

impl Fails for UsageError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

fn did_you_mean(near: &Option<String>, prefix: &str) -> String {
    match near {
        Some(near) => format!("did you mean '{prefix}{near}'?"),
        None => "'edgelat --help' lists them".to_string(),
    }
}

fn did_you_mean_option(near: &Option<String>, command: &str) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("'edgelat {command} --help' lists them"),
    }
}
