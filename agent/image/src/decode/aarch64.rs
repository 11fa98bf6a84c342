//! aarch64
use super::{Code, Machine};
use crate::Refusal;
use crate::sites::Part;
pub(super) const MACHINE: Machine = Machine { stack_pointer: 31, frame_pointer: 29, registers: 32, call_clobbers: 0x4007_ffff };
pub(super) fn decode(_part: Part<'_>, _code: &mut Code) -> Result<(), Refusal> { Ok(()) }
