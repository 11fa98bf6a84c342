//! An entry, and its match with the entry that it replaces.

use nix::libc;

use super::{BOOT_ID_BYTES, Key, PATH_BYTES, TARGET_BYTES};

/// One entry: the event, its target, and its count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The image and functions that must not be probed again.
    pub key: Key,
    /// The last signal.
    pub signal: i32,
    /// Origin: `si_code` of sigaction(2).
    pub code: i32,
    /// The process that got it.
    pub pid: i32,
    /// Time in seconds since 1970 by the clock of the box, which may have been wrong.
    pub time: u64,
    /// Boot of the kernel. Zeros: not known.
    pub boot_id: [u8; BOOT_ID_BYTES],
    /// The image, as its process saw it.
    pub path: heapless::String<PATH_BYTES>,
    /// Name of the target in the configuration.
    pub target: heapless::String<TARGET_BYTES>,
    /// Number of times. [`Store::add`](super::Store::add) adds the existing count. The first
    /// SIGKILL that is known to be for memory counts twice.
    pub times: u32,
}

impl Record {
    /// True for a process that was killed, and not for a fault.
    #[must_use]
    pub fn is_kill(&self) -> bool {
        self.signal == libc::SIGKILL
    }

    /// True if the other is about the same matter.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.key == other.key && self.is_kill() == other.is_kill()
    }

    /// The same entry, added to an earlier count.
    pub(super) fn after(&self, before: u32) -> Self {
        let times = if self.is_kill() && before > 0 { self.times.min(1) } else { self.times };
        Self { times: before.saturating_add(times), ..self.clone() }
    }
}
