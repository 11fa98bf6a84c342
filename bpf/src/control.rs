//! The switch that every program tests first.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::layout::Control;
use crate::mapping::{MapError, Mapping};

const ARMED: usize = std::mem::offset_of!(Control, armed);

/// The armed flag of one loaded object. Held by the guard alone.
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

    /// From the next hit on, everything counts.
    pub fn arm(&self) {
        self.set(1);
    }

    /// No program that begins after this counts anything. Programs that are past their test finish.
    pub fn disarm(&self) {
        self.set(0);
    }

    fn set(&self, value: u32) {
        if let Some(armed) = self.0.half(ARMED) {
            armed.store(value, Ordering::SeqCst);
        }
    }
}
