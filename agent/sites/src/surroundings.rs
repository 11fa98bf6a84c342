//! Queries of a search about the image around a function.

use std::ops::Range;

use crate::Part;

/// A range of code near the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// ELF virtual address of the first byte.
    pub address: u64,
    /// The bytes, as in the file.
    pub bytes: Vec<u8>,
    /// True if a function symbol starts in the range; otherwise it may be a part moved away.
    pub named: bool,
}

/// Surroundings of a function in its image.
pub trait Surroundings {
    /// Returns the code range with `address`, by symbols or, without one, by the unwind tables.
    fn code_around(&self, address: u64) -> Option<Around>;

    /// Copies the file's bytes at the virtual `address` (read-only data: jump tables) into `buffer`
    /// and returns their number.
    fn data_at(&self, address: u64, buffer: &mut [u8]) -> usize;

    /// Returns the image's marks, and the start of the next function behind `start`.
    fn marks(&self, _start: u64) -> Marks {
        Marks::default()
    }
}

/// Marks of code in which a site would be unsound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Code that restarts if it is interrupted (rseq), as ELF virtual addresses. A single step in
    /// it removes its protection, and the kernel may restart it behind an entry.
    pub sequences: Vec<Range<u64>>,
    /// x86-64: may run with a shadow stack. Kernels before 7.2 emulate a call without an entry in
    /// it, so the called function's return kills the program (arch/x86/kernel/uprobes.c,
    /// `branch_emulate_op`).
    pub shadow_stack: bool,
    /// Start of the next function, perhaps within this range: calls of it begin there, and an entry
    /// that slid there would count them.
    pub next: Option<u64>,
}

impl Marks {
    /// Returns true if an address lies in restartable code.
    pub fn restarts(&self, address: u64) -> bool {
        self.sequences.iter().any(|sequence| sequence.contains(&address))
    }
}

impl Around {
    pub(crate) fn part(&self) -> Part<'_> {
        Part { address: self.address, bytes: &self.bytes }
    }
}
