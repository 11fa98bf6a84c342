//! What is known of the value of one register at one place.

use crate::decode::Width;

/// What is known of a value.
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
    /// This address plus something.
    From(u64),
    /// From outside: an argument, the result of a call, a pointer found in memory that is not on the stack. Compilers
    /// do not keep places inside a function there.
    Foreign,
    /// An entry of a table, or what was made of it: the index of a [`Table`].
    Element(u16),
}

/// A table that an indirect jump may go through, and how the target is made of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table {
    /// ELF virtual address of its first entry.
    pub(crate) address: u64,
    /// One entry.
    pub(crate) width: Width,
    /// What the entry is added to; `None`: not added yet, the entry is an address itself.
    pub(crate) base: Option<u64>,
    /// By how many bits the entry is shifted left before.
    pub(crate) shift: u8,
}

/// How a stack pointer compares with that at the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    /// The same.
    Same,
    /// Not the same.
    Differs,
    /// Not known.
    Unclear,
}

impl Value {
    /// The value plus a number.
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

    /// The value with its low bits cleared.
    pub(crate) fn aligned_down(self) -> Self {
        match self {
            Self::Entry(offset) | Self::AtMost(offset) => Self::AtMost(offset),
            _ => Self::Unknown,
        }
    }

    /// What is known where two ways meet. Ascends at most three times per value, so that repetition ends.
    pub(crate) fn join(self, new: Self) -> Self {
        match (self, new) {
            _ if self == new => self,
            (Self::Entry(a), Self::Entry(b) | Self::AtMost(b)) => Self::AtMost(a.max(b)),
            (Self::AtMost(a), Self::Entry(b) | Self::AtMost(b)) if b <= a => self,
            _ => Self::Unknown,
        }
    }

    /// Taken as a stack pointer, how it compares with that at the entry.
    pub(crate) const fn balance(self) -> Balance {
        match self {
            Self::Entry(0) => Balance::Same,
            Self::Entry(_) => Balance::Differs,
            Self::AtMost(offset) if offset < 0 => Balance::Differs,
            _ => Balance::Unclear,
        }
    }

    /// Whether it is an address on the function's stack.
    pub(crate) const fn is_stack(self) -> bool {
        matches!(self, Self::Entry(_) | Self::AtMost(_))
    }
}
