//! Kinds of errors.

use super::GuardError;

/// Kind of an error; the command line derives its exit status from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A right is missing.
    Permission,
    /// The kernel lacks something.
    Kernel,
    /// The target is gone or must not be probed.
    Target,
    /// Something else went wrong.
    Failure,
}

impl GuardError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotPermitted { .. } | Self::NoRoute { denied: true, .. } => Kind::Permission,
            Self::Proc { os, .. }
            | Self::OpenImage { os, .. }
            | Self::Attach { os, .. }
            | Self::Load { os, .. }
            | Self::Pin { os, .. }
                if os.denied() =>
            {
                Kind::Permission
            }
            Self::NoBtf
            | Self::PidNamespace
            | Self::Unsupported { .. }
            | Self::Load { .. }
            | Self::Route { .. }
            | Self::NotArmed { .. }
            | Self::NoRoute { denied: false, .. } => Kind::Kernel,
            Self::NoProcess { .. }
            | Self::Thread { .. }
            | Self::NoImage { .. }
            | Self::MainThreadEnded { .. }
            | Self::OwnProcess { .. }
            | Self::Start { .. }
            | Self::EndedEarly { .. }
            | Self::Traced { .. }
            | Self::NotOnIsolated { .. }
            | Self::TooManyThreads { .. }
            | Self::NoMapping { .. }
            | Self::OpenImage { .. }
            | Self::ImageReplaced { .. }
            | Self::NoElf { .. }
            | Self::Stalled { .. }
            | Self::ImageChanged { .. }
            | Self::NoHeadroom { .. }
            | Self::OutOfMemory { .. }
            | Self::Unfit { .. } => Kind::Target,
            Self::Proc { .. }
            | Self::BadPlan { .. }
            | Self::TooMuchMemory { .. }
            | Self::Map { .. }
            | Self::Attach { .. }
            | Self::Order { .. }
            | Self::Gone
            | Self::CollectorKilled { .. }
            | Self::Silent { .. }
            | Self::User { .. }
            | Self::ConfigFile { .. }
            | Self::Split { .. }
            | Self::AlreadyRuns { .. }
            | Self::RunLock { .. }
            | Self::Share { .. }
            | Self::Quarantine { .. }
            | Self::NoBpfFileSystem { .. }
            | Self::Pin { .. }
            | Self::Rights { .. }
            | Self::NoIsolatedCpu { .. }
            | Self::CollectorCpu { .. }
            | Self::Placement { .. }
            | Self::Hold { .. }
            | Self::Message => Kind::Failure,
        }
    }
}
