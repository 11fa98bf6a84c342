//! The switches that every program tests first, one for each plan.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{CONTROL_ARMED, CONTROL_FAULTED, CONTROL_OFF, PLANS, Switches as Layout};
use crate::mapping::{MapError, Mapping};

const STATE: usize = std::mem::offset_of!(Layout, state);
const LOST_EVENTS: usize = std::mem::offset_of!(Layout, lost_events);
const _: () = assert!(size_of::<Layout>() == 2 * PLANS as usize * size_of::<u32>());

/// The switches of all loaded objects. Only the guard holds them.
#[derive(Debug, Clone)]
pub struct Switches(Rc<Mapping>);

impl Switches {
    /// Maps the array of switches.
    ///
    /// # Errors
    /// [`MapError`] if the descriptor is not that array or memory is short.
    pub fn map(switches: impl AsFd) -> Result<Self, MapError> {
        Ok(Self(Rc::new(Mapping::write(switches, 1, size_of::<Layout>())?)))
    }

    /// Returns the switch of a plan, off and reset.
    pub fn begin(&self, plan: u32) -> Switch {
        let switch = Switch { all: Rc::clone(&self.0), place: plan as usize * size_of::<u32>() };
        if let Some(state) = switch.state() {
            state.store(CONTROL_OFF, Ordering::SeqCst);
        }
        if let Some(lost) = switch.all.half(LOST_EVENTS + switch.place) {
            lost.store(0, Ordering::SeqCst);
        }
        switch
    }
}

/// The switch of one plan. In the kernel, a fatal signal turns it off permanently.
#[derive(Debug)]
pub struct Switch {
    all: Rc<Mapping>,
    place: usize,
}

impl Switch {
    /// Makes everything count from the next hit on; false after a fault.
    pub fn arm(&self) -> bool {
        self.turn(CONTROL_OFF, CONTROL_ARMED)
    }

    /// Stops counting in programs that begin after this. Programs past their test finish.
    pub fn disarm(&self) {
        self.turn(CONTROL_ARMED, CONTROL_OFF);
    }

    /// True if a process of the plan received a fatal signal.
    pub fn faulted(&self) -> bool {
        self.state().is_none_or(|state| state.load(Ordering::SeqCst) == CONTROL_FAULTED)
    }

    /// Events that were not reported, because the ring buffer had no room.
    pub fn lost_events(&self) -> u32 {
        self.all.half(LOST_EVENTS + self.place).map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    fn turn(&self, from: u32, to: u32) -> bool {
        let Some(state) = self.state() else { return false };
        // A switch that the kernel turned off stays off: the exchange fails.
        let was = state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        was.is_ok() || was == Err(to)
    }

    fn state(&self) -> Option<&AtomicU32> {
        self.all.half(STATE + self.place)
    }
}
