//! An entry, and what of another entry it takes the place of.

use nix::libc;

use super::{BOOT_ID_BYTES, Key, PATH_BYTES, TARGET_BYTES};

/// One entry: what happened, to whom, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What must not be probed again.
    pub key: Key,
    /// The last signal.
    pub signal: i32,
    /// Where it came from: `si_code` of sigaction(2).
    pub code: i32,
    /// The process that got it.
    pub pid: i32,
    /// When, in seconds since 1970 by the clock of the box, which may have been wrong.
    pub time: u64,
    /// In which run of the kernel. Zeros: not known.
    pub boot_id: [u8; BOOT_ID_BYTES],
    /// The image, as its process saw it.
    pub path: heapless::String<PATH_BYTES>,
    /// Name of the target in the configuration.
    pub target: heapless::String<TARGET_BYTES>,
    /// How often it happened. [`Store::add`](super::Store::add) counts it on top of what is there. The first SIGKILL
    /// that is known to be for memory counts twice.
    pub times: u32,
}

impl Record {
    /// Is it of a process that was killed, and not of a fault?
    #[must_use]
    pub fn is_kill(&self) -> bool {
        self.signal == libc::SIGKILL
    }

    /// Is the other one of the same matter?
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.key == other.key && self.is_kill() == other.is_kill()
    }

    /// The same, on top of what happened before.
    pub(super) fn after(&self, before: u32) -> Self {
        let times = if self.is_kill() && before > 0 { self.times.min(1) } else { self.times };
        Self { times: before.saturating_add(times), ..self.clone() }
    }
}
