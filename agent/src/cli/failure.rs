//! How a command fails: a message for a person, and an exit status for a script.

use super::exit::Exit;

/// An error that knows its exit status. Its `Display` is complete: it names the thing, the reason and the next step.
pub trait Fails: std::error::Error {
    /// The status that edgelat ends with.
    fn exit(&self) -> Exit;
}

/// The end of a command that did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// The status that edgelat ends with.
    pub exit: Exit,
    /// What is printed, without the name of the program.
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
