//! Failures of commands: a message for a person, and an exit status for a script.

use super::exit::Exit;

/// An error with an exit status. Its `Display` names the object, the reason and the next step.
pub trait Fails: std::error::Error {
    /// Returns the exit status of edgelat.
    fn exit(&self) -> Exit;
}

/// The failure of a command.
#[derive(Debug)]
pub struct Failure {
    /// The exit status of edgelat.
    pub exit: Exit,
    /// The printed message, without the name of the program.
    pub message: String,
}

impl<E: Fails> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: error.exit(), message: error.to_string() }
    }
}

impl Fails for crate::config::Errors {
    fn exit(&self) -> Exit {
        match self.not_permitted() {
            true => Exit::NotPermitted,
            false => Exit::Usage,
        }
    }
}

impl Fails for edgelat_guard::GuardError {
    fn exit(&self) -> Exit {
        match (self, self.kind()) {
            (Self::Silent { .. } | Self::CollectorKilled { .. }, _) => return Exit::Watchdog,
            (Self::AlreadyRuns { .. }, _) => return Exit::Running,
            _ => {}
        }
        match self.kind() {
            edgelat_guard::Kind::Permission => Exit::NotPermitted,
            edgelat_guard::Kind::Kernel => Exit::Unsupported,
            edgelat_guard::Kind::Target => Exit::Target,
            edgelat_guard::Kind::Failure => Exit::Failed,
        }
    }
}
