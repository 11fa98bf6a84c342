//! What a search asks of the image around a function.

use std::ops::Range;

use crate::Part;

/// A range of code near the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// ELF virtual address of the first byte.
    pub address: u64,
    /// The bytes, as they stand in the file.
    pub bytes: Vec<u8>,
    /// Whether a symbol of a function starts in the range; otherwise it may be a part that the compiler put aside.
    pub named: bool,
}

/// What lies around a function in its image.
pub trait Surroundings {
    /// The range of code that contains `address`, by symbols or, where no symbol covers it, by the unwind tables.
    fn code_around(&self, address: u64) -> Option<Around>;

    /// Copies what the file holds at the virtual `address` (read-only data: jump tables) into `buffer` and
    /// returns how many bytes are there.
    fn data_at(&self, address: u64, buffer: &mut [u8]) -> usize;

    /// What the image says of its code, and of what begins behind `start`.
    fn marks(&self, _start: u64) -> Marks {
        Marks::default()
    }
}

/// What an image says of its code, where a site would be unsound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Code that begins again where it is interrupted (rseq), as ELF virtual addresses. A single step in it takes its
    /// protection away, and the kernel may have it begin again behind an entry.
    pub sequences: Vec<Range<u64>>,
    /// x86-64: it may run with a shadow stack. Kernels before 7.2 emulate a call without a word to it, so that the return
    /// of the called function kills the program (arch/x86/kernel/uprobes.c, `branch_emulate_op`).
    pub shadow_stack: bool,
    /// Where the next function begins, perhaps within the range of this one: calls of it begin there, and an entry that slid
    /// there would count them.
    pub next: Option<u64>,
}

impl Marks {
    /// Whether an address lies in code that begins again.
    pub fn restarts(&self, address: u64) -> bool {
        self.sequences.iter().any(|sequence| sequence.contains(&address))
    }
}

impl Around {
    pub(crate) fn part(&self) -> Part<'_> {
        Part { address: self.address, bytes: &self.bytes }
    }
}
