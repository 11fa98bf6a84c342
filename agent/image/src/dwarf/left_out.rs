//! Replacement for the debug data reader if it is compiled out: no copies are known.

use crate::elf::Elf;
use crate::{ImageError, ReadAt};

/// Copies of a function; always empty.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pub(crate) count: u32,
    pub(crate) callers: Vec<u64>,
}

/// Never constructed.
#[derive(Debug)]
pub(crate) enum Inlined {}

impl Inlined {
    pub(crate) fn read(
        _elf: &Elf<dyn ReadAt + '_>,
        _is_code: &dyn Fn(u64) -> bool,
    ) -> Result<Option<Self>, ImageError> {
        Ok(None)
    }

    pub(crate) fn of<'n>(&self, _start: u64, _names: impl Iterator<Item = &'n [u8]>) -> Option<u32> {
        match *self {}
    }

    pub(crate) fn matching(&self, _matches: impl FnMut(&[u8]) -> bool) -> Copies {
        match *self {}
    }
}
