//! The kernel ends a guard that is stopped or stuck while probes are on.
//!
//! Whoever stops the guard stops the budget as well, and probes would go on at any cost. So the guard sets a timer at each
//! turn of its loop, and the signal of that timer is SIGKILL, which also ends a process that is stopped (kernel/signal.c,
//! `complete_signal`). With the guard its descriptors end, and with those all probes. That takes no right of anybody: the
//! collector has none that it could end the guard with.

use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use crate::error::{GuardError, text};

/// Longest time from one turn of the loop to the next. A turn sleeps for a second at most; the rest is for a machine that is
/// busy with something else.
pub(crate) const TURN: Duration = Duration::from_secs(10);
/// Longest time for what is done between two turns: loading, attaching and removing may each take the kernel many seconds.
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

    /// The process ends in `time` unless this is called again before; never where that is `None`.
    pub(crate) fn set(&mut self, time: Option<Duration>) {
        if time.is_none() && !self.set {
            return;
        }
        self.set = time.is_some();
        let expiration = Expiration::OneShot(TimeSpec::from(time.unwrap_or(Duration::ZERO)));
        // Only a timer that does not exist and a time that is none are refused (timer_settime(2)).
        _ = self.timer.set(expiration, TimerSetTimeFlags::empty());
    }
}
