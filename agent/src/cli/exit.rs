//! Exit statuses: the outcome of edgelat for a script.

use std::process::ExitCode;

/// Outcome of a command. The discriminant is the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything requested was done.
    Ok = 0,
    /// A failure at run time.
    Failed = 1,
    /// The command line or the configuration file is wrong; nothing was done.
    Usage = 2,
    /// A right is missing.
    NotPermitted = 3,
    /// The kernel lacks a required feature.
    Unsupported = 4,
    /// The target does not exist, has ended, or must not be probed.
    Target = 5,
    /// A function was not found, or no function that was found can be probed.
    Functions = 6,
    /// A file is not an image that can be read.
    Image = 7,
    /// The probes cost more than allowed.
    Budget = 8,
    /// One of the two processes of edgelat ended the other, or found it gone.
    Watchdog = 9,
    /// Another agent runs on this box.
    Running = 10,
    /// Records are damaged.
    Damaged = 11,
    /// A measured process died of a fault.
    Fault = 12,
}

impl Exit {
    /// All statuses with their meaning, for help, man page and the test of the README.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::Ok, "done"),
        (Self::Failed, "something failed at run time"),
        (Self::Usage, "wrong usage or configuration; nothing was done"),
        (Self::NotPermitted, "not permitted: root or capabilities are missing"),
        (Self::Unsupported, "this kernel cannot: no BTF, no uprobes, too old"),
        (Self::Target, "the target was not found, has ended, or must not be probed"),
        (Self::Functions, "a function was not found, or none can be probed"),
        (Self::Image, "a file is not an ELF image, or is damaged"),
        (
            Self::Budget,
            "measuring was stopped, because it cost more than --max-cost, or a service beside it, allows",
        ),
        (
            Self::Watchdog,
            "one of the two processes of edgelat hung or was killed, and the other ended; start it again",
        ),
        (Self::Running, "another agent runs on this box"),
        (Self::Damaged, "records of the spool are damaged or lost"),
        (Self::Fault, "watch: the target died of a fault (SIGSEGV, SIGABRT, ...)"),
    ];

    /// Returns the exit with this status; an unknown status is a failure.
    pub fn of(status: u8) -> Self {
        Self::ALL.iter().map(|(exit, _)| *exit).find(|exit| exit.status() == status).unwrap_or(Self::Failed)
    }

    /// Returns the number that the shell sees.
    pub const fn status(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_listed_at_its_own_number() {
        for (status, (exit, _)) in Exit::ALL.iter().enumerate() {
            assert_eq!(usize::from(exit.status()), status);
            assert_eq!(Exit::of(exit.status()), *exit);
        }
    }
}
