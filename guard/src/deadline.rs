//! The kernel ends a guard that is stopped or stuck while probes are on.
//!
//! A process that stops the guard also stops the budget, and probes would continue at any cost. So
//! the guard sets a timer at each turn of its loop, and the signal of that timer is SIGKILL, which
//! also ends a stopped process (kernel/signal.c, `complete_signal`). The guard's descriptors end
//! with it, and all probes with those. This needs no right: the collector has none to end the guard
//! with.
//! with which it could end the guard.

use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use crate::error::{GuardError, text};

/// Longest time from one turn of the loop to the next. A turn sleeps for a second at most; the rest
/// allows for a busy machine.
pub(crate) const TURN: Duration = Duration::from_secs(10);
/// Longest time between two turns: loading, attaching and removing may each take many seconds.
pub(crate) const WORK: Duration = Duration::from_secs(120);

/// A timer that ends this process. Not inherited by a child.
#[derive(Debug)]
pub(crate) struct Deadline {
    timer: Timer,
    set: bool,
}

impl Deadline {
    pub(crate) fn new() -> Result<Self, GuardError> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let timer = Timer::new(ClockId::CLOCK_MONOTONIC, kill)
            .map_err(|errno| GuardError::Split { step: text("make a timer"), os: errno.into() })?;
        Ok(Self { timer, set: false })
    }

    /// Ends the process in `time` unless called again before; never if `time` is `None`.
    pub(crate) fn set(&mut self, time: Option<Duration>) {
        if time.is_none() && !self.set {
            return;
        }
        self.set = time.is_some();
        let expiration = Expiration::OneShot(TimeSpec::from(time.unwrap_or(Duration::ZERO)));
        // The kernel refuses only a nonexistent timer and an invalid time (timer_settime(2)).
        _ = self.timer.set(expiration, TimerSetTimeFlags::empty());
    }
}
