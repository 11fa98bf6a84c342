//! The switch that every program tests first.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{CONTROL_ARMED, CONTROL_FAULTED, CONTROL_OFF, Control};
use crate::mapping::{MapError, Mapping};

const STATE: usize = std::mem::offset_of!(Control, state);
const LOST_EVENTS: usize = std::mem::offset_of!(Control, lost_events);

/// The switch of one loaded object. Held by the guard alone; a fatal signal turns it off in the kernel, for good.
#[derive(Debug)]
pub struct Switch(Mapping);

impl Switch {
    /// Maps the `control` array.
    ///
    /// # Errors
    /// [`MapError`] when the descriptor is not that array or memory is short.
    pub fn map(control: impl AsFd) -> Result<Self, MapError> {
        Ok(Self(Mapping::write(control, 1, size_of::<Control>())?))
    }

    /// From the next hit on, everything counts; false after a fault.
    pub fn arm(&self) -> bool {
        self.turn(CONTROL_OFF, CONTROL_ARMED)
    }

    /// No program that begins after this counts anything. Programs that are past their test finish.
    pub fn disarm(&self) {
        self.turn(CONTROL_ARMED, CONTROL_OFF);
    }

    /// Has a process of the family got a fatal signal?
    pub fn faulted(&self) -> bool {
        self.state().is_none_or(|state| state.load(Ordering::SeqCst) == CONTROL_FAULTED)
    }

    /// Events that were not told, because nobody made room in time.
    pub fn lost_events(&self) -> u32 {
        self.0.half(LOST_EVENTS).map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    fn turn(&self, from: u32, to: u32) -> bool {
        let Some(state) = self.state() else { return false };
        // What the kernel turned off stays off: the exchange fails.
        let was = state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        was.is_ok() || was == Err(to)
    }

    fn state(&self) -> Option<&AtomicU32> {
        self.0.half(STATE)
    }
}
