//! Dates by the clock of the box: a box may not know the time until long after boot.
//!
//! Every interval has its time since boot, which is never wrong, and the clock's reading. The most
//! trusted reading of a boot dates all others of that boot. If no reading could be believed, the
//! time is unknown.

use crate::record::{Clock, Trust};

/// The clock of each boot.
#[derive(Debug, Default)]
pub struct Times {
    /// Boot, trust, and the clock at boot, calculated back.
    boots: Vec<([u8; 16], Trust, u64)>,
}

impl Times {
    /// No clock is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns from a clock. Of two equally trusted clocks the later one counts.
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

    /// Converts nanoseconds since boot into nanoseconds since 1970, with the trust in the result.
    /// `None` if unknown.
    pub fn of(&self, boot: &[u8; 16], boot_ns: u64) -> Option<(u64, Trust)> {
        let (_, trust, at_boot) = self.boots.iter().find(|known| known.0 == *boot)?;
        Some((at_boot.checked_add(boot_ns)?, *trust))
    }
}
