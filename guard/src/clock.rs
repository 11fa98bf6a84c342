//! The clocks of the machine, and their synchronisation.

use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// Readings of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since boot, including suspended time.
    pub boot_ns: u64,
    /// Nanoseconds since 1970, right or wrong; 0 before.
    pub real_ns: u64,
    /// The kernel considers the clock synchronised: a time daemon has set it.
    pub synchronised: bool,
}

fn shows(clock: ClockId) -> u64 {
    // There is no kernel without these clocks.
    let time = clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    u64::try_from(time).unwrap_or(0)
}

/// Nanoseconds on the monotonic clock, which the programs in the kernel read.
pub(crate) fn monotonic_ns() -> u64 {
    shows(ClockId::CLOCK_MONOTONIC)
}

/// Reads the clocks.
#[must_use]
pub fn now() -> Now {
    Now {
        boot_ns: shows(ClockId::CLOCK_BOOTTIME),
        real_ns: shows(ClockId::CLOCK_REALTIME),
        synchronised: synchronised(),
    }
}

fn synchronised() -> bool {
    // SAFETY: timex is made of numbers, for which zeros are values; with modes = 0 nothing is set.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a timex that lives as long as the call, which writes no further.
    let state = unsafe { libc::syscall(libc::SYS_clock_adjtime, libc::CLOCK_REALTIME, &raw mut timex) };
    state >= 0 && timex.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_since_boot_passes_and_the_wall_clock_is_one() {
        let (before, after) = (now(), now());
        assert!(0 < before.boot_ns && before.boot_ns <= after.boot_ns);
        assert!(after.real_ns > 1_600_000_000 * 1_000_000_000);
    }
}
