//! Known value of one register at one place.

use crate::decode::Width;

/// Knowledge of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing.
    Unknown,
    /// The stack pointer at the function's entry plus this many bytes.
    Entry(i32),
    /// At most the stack pointer at the entry plus this many bytes.
    AtMost(i32),
    /// This number or address.
    Constant(u64),
    /// This address plus an unknown number.
    From(u64),
    /// From outside: an argument, the result of a call, a pointer in memory that is not on the
    /// stack. Compilers do not keep places inside a function there.
    Foreign,
    /// A table entry or a value derived from it: the index of a [`Table`].
    Element(u16),
}

/// A table of an indirect jump, and the computation of the target from an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table {
    /// ELF virtual address of its first entry.
    pub(crate) address: u64,
    /// Width of one entry.
    pub(crate) width: Width,
    /// Base that is added to the entry; `None` if not added yet, or if the entry is an address.
    pub(crate) base: Option<u64>,
    /// Bits by which the entry is shifted left before.
    pub(crate) shift: u8,
}

/// Comparison of a stack pointer with that at the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    /// Equal.
    Same,
    /// Different.
    Differs,
    /// Unknown.
    Unclear,
}

impl Value {
    /// Returns the value plus a number.
    pub(crate) fn plus(self, add: i32) -> Self {
        match self {
            Self::Entry(offset) => offset.checked_add(add).map_or(Self::Unknown, Self::Entry),
            Self::AtMost(offset) => offset.checked_add(add).map_or(Self::Unknown, Self::AtMost),
            Self::Constant(value) => Self::Constant(value.wrapping_add_signed(i64::from(add))),
            Self::From(value) => Self::From(value.wrapping_add_signed(i64::from(add))),
            Self::Foreign => Self::Foreign,
            Self::Element(_) if add == 0 => self,
            Self::Element(_) | Self::Unknown => Self::Unknown,
        }
    }

    /// Returns the value with its low bits cleared.
    pub(crate) fn aligned_down(self) -> Self {
        match self {
            Self::Entry(offset) | Self::AtMost(offset) => Self::AtMost(offset),
            _ => Self::Unknown,
        }
    }

    /// Merges two paths. Ascends at most three times per value, so that repetition ends.
    pub(crate) fn join(self, new: Self) -> Self {
        match (self, new) {
            _ if self == new => self,
            (Self::Entry(a), Self::Entry(b) | Self::AtMost(b)) => Self::AtMost(a.max(b)),
            (Self::AtMost(a), Self::Entry(b) | Self::AtMost(b)) if b <= a => self,
            _ => Self::Unknown,
        }
    }

    /// Compares the value, as a stack pointer, with that at the entry.
    pub(crate) const fn balance(self) -> Balance {
        match self {
            Self::Entry(0) => Balance::Same,
            Self::Entry(_) => Balance::Differs,
            Self::AtMost(offset) if offset < 0 => Balance::Differs,
            _ => Balance::Unclear,
        }
    }

    /// Returns true if it is an address on the function's stack.
    pub(crate) const fn is_stack(self) -> bool {
        matches!(self, Self::Entry(_) | Self::AtMost(_))
    }
}
