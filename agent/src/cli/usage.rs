//! What can be wrong with a command line, and what is said about it: the argument, the reason, what to type instead.

use thiserror::Error;

use super::{exit::Exit, failure::Fails};

/// What is wrong with a command line.
#[derive(Debug, Error)]
pub enum UsageError {
    /// No command at all.
    #[error("no command given; 'edgelat --help' lists them")]
    NoCommand,
    /// A command that there is not.
    #[error("there is no command '{given}'; {}", did_you_mean(near, "edgelat "))]
    UnknownCommand {
        /// What was typed.
        given: String,
        /// The command that looks most like it.
        near: Option<String>,
    },
    /// An option that the command does not have.
    #[error("{command}: there is no option '{given}'; {}", did_you_mean_option(near, command))]
    UnknownOption {
        /// The command.
        command: &'static str,
        /// What was typed.
        given: String,
        /// The option that looks most like it.
        near: Option<String>,
    },
    /// An option that needs a value and has none.
    #[error("{command}: {option} needs a value; write {option} {value}")]
    MissingValue {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
        /// What stands for its value.
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
    /// An option given twice that can be given once.
    #[error("{command}: {option} is given twice; leave one")]
    Twice {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
    },
    /// A value that the option cannot have.
    #[error("{command}: {option} cannot be '{given}'; give {wanted}")]
    BadValue {
        /// The command.
        command: &'static str,
        /// The option.
        option: String,
        /// The value.
        given: String,
        /// What it can be.
        wanted: String,
    },
    /// Too few arguments.
    #[error("{command}: {operand} is missing; write edgelat {command} {usage}")]
    MissingOperand {
        /// The command.
        command: &'static str,
        /// The argument.
        operand: &'static str,
        /// How the command is written.
        usage: &'static str,
    },
    /// Too many arguments.
    #[error("{command}: '{given}' is one argument too many; write edgelat {command} {usage}")]
    ExtraOperand {
        /// The command.
        command: &'static str,
        /// The argument.
        given: String,
        /// How the command is written.
        usage: &'static str,
    },
    /// The cost is to be bounded and not to be measured.
    #[error("{command}: --max-cost needs the calibration that --no-bias leaves out; leave out one of them")]
    NoCost {
        /// The command.
        command: &'static str,
    },
    /// Options of one action with another.
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
    /// A pattern that is none.
    #[error("{command}: {reason}")]
    Pattern {
        /// The command.
        command: &'static str,
        /// What is wrong with it and what to write.
        reason: edgelat_image::PatternError,
    },
    /// Nothing to watch.
    #[error("watch: nothing to measure; name a process with -p PID, or a command after --")]
    NoTarget,
    /// A process and a file to check.
    #[error("check: -p PID and -c FILE are two questions; ask one at a time")]
    TwoQuestions,
    /// Two places of records.
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
