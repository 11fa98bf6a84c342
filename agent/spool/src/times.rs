//! When something was, by the clock of the box: a box may not know the time until long after it has booted.
//!
//! Every interval has its time since boot, which is never wrong, and what the clock showed. What the clock showed when it
//! could be believed most, in the same boot, dates all others of that boot. Where it never could, the time is not known.

use crate::record::{Clock, Trust};

/// The clock of each boot.
#[derive(Debug, Default)]
pub struct Times {
    /// Boot, trust, and what the clock showed at boot, reckoned back.
    boots: Vec<([u8; 16], Trust, u64)>,
}

impl Times {
    /// None is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns from a clock. Of two that can be believed alike the later one counts.
    pub fn learn(&mut self, boot: &[u8; 16], clock: &Clock) {
        let Some(at_boot) = clock.real_ns.checked_sub(clock.boot_ns).filter(|_| clock.trust != Trust::Unset)
        else {
            return;
        };
        match self.boots.iter_mut().find(|known| known.0 == *boot) {
            Some(known) if clock.trust >= known.1 => *known = (*boot, clock.trust, at_boot),
            Some(_) => {}
            None => self.boots.push((*boot, clock.trust, at_boot)),
        }
    }

    /// When something was that happened so many nanoseconds after boot, in nanoseconds since 1970, and how far that can be
    /// believed. `None`: not known.
    pub fn of(&self, boot: &[u8; 16], boot_ns: u64) -> Option<(u64, Trust)> {
        let (_, trust, at_boot) = self.boots.iter().find(|known| known.0 == *boot)?;
        Some((at_boot.checked_add(boot_ns)?, *trust))
    }
}
