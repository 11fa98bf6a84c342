//! Instructions, reduced to the properties that the search for sites needs.
//!
//! A decoder turns a range of bytes into [`Step`]s: one for each instruction in address order,
//! without gaps. Each has the control flow ([`Flow`]), the effect on registers that may hold stack
//! pointers or jump-table addresses ([`Effect`]), and the kernel's way with a probe ([`Probing`]).
//! The rest is dropped, so the search ([`crate::find`]) serves both architectures.
//!
//! The decoders never guess. An instruction whose effect on a register is not fully known
//! *clobbers* that register, and bytes that are not an instruction refuse the function.

mod aarch64;
#[cfg(test)]
mod oracle;
mod x86_64;

use std::ops::Range;

use crate::{Arch, Refusal};
use crate::{Marks, Part};

/// Most instructions of one function, all parts together: a bound on the memory of the search
/// (about 64 bytes each). The largest interpreter loops have some ten thousand.
pub const STEPS: usize = 1 << 18;

/// Addresses from 0 on at which no program has memory: the first page (`mmap_min_addr` is 65536 by
/// default, Linux mm/Kconfig). An access there does not continue.
pub const NULL_BYTES: u64 = 4096;

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// ELF virtual address.
    pub address: u64,
    /// Destination of control.
    pub flow: Flow,
    /// Effect on the registers.
    pub effect: Effect,
    /// Bytes of the instruction.
    pub length: u8,
    /// Kernel's treatment of a probe on it.
    pub probing: Probing,
    /// True if it takes a short, bounded time, and an interruption before or after does no harm.
    pub brief: bool,
    /// True if it may fault in practice: it divides, or accesses memory through a register other
    /// than the stack and frame pointers. Set on x86-64 only.
    pub faults: bool,
    /// A landing pad for indirect branches (`endbr64`, `bti`); the entry avoids it if possible.
    pub landing_pad: bool,
    /// Padding between code; reaching it or not proves nothing.
    pub padding: bool,
    /// x86-64: begins with a LOCK prefix, which old C libraries jump past when they run with one thread.
    pub locked: bool,
    /// aarch64: opens (`Some(true)`) or closes (`Some(false)`) an exclusive sequence. A probe inside one clears the
    /// monitor at each turn, so that the closing store never succeeds and the program hangs.
    pub exclusive: Option<bool>,
    /// Accesses this many bytes, fewer than [`NULL_BYTES`], behind the address in a register, or 0.
    pub touches: Option<(Option<u8>, u16)>,
}

impl Step {
    /// Returns the address after the instruction.
    pub const fn end(&self) -> u64 {
        self.address.wrapping_add(self.length as u64)
    }

    /// Returns true if the entry may be moved past it.
    pub fn is_passable(&self) -> bool {
        self.brief && self.flow == Flow::Next
    }

    /// A 5-byte jump to the next instruction (x86-64), which some kernels overwrite with a call,
    /// like a nop of 5 bytes. The call writes below the stack pointer, unused only if the function
    /// leaves by it.
    pub fn is_long_nop(&self) -> bool {
        self.length == 5 && self.flow == Flow::Jump(self.end())
    }
}

/// Destination of control after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next instruction.
    Next,
    /// To a called function, and after its return to the next instruction.
    Call(Option<u64>),
    /// To one other place.
    Jump(u64),
    /// To another place or to the next instruction.
    Branch {
        /// The other place.
        target: u64,
        /// The condition on the flags, in the architecture's own numbering; `None`: on a register.
        condition: Option<u8>,
    },
    /// To the address in a register or a word of memory.
    Indirect(Pointer),
    /// To the caller.
    Return,
    /// Nowhere: the instruction always traps.
    Stop,
    /// By an authenticated return, which the kernel does not step over.
    AuthenticatedReturn,
    /// By a far or system return or jump.
    SystemReturn,
}

impl Flow {
    /// Returns true if the next instruction may run after it.
    pub const fn goes_on(self) -> bool {
        matches!(self, Self::Next | Self::Branch { .. } | Self::Call(_))
    }
}

/// Source of an indirect jump's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// A register.
    Register(u8),
    /// A register, with the `notrack` prefix, which compilers put before jumps through tables of their own.
    Untracked(u8),
    /// A word of memory.
    Memory(Memory),
    /// A word of memory, with the `notrack` prefix.
    UntrackedMemory(Memory),
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Base register; `None` if `displacement` is the address (absolute or instruction-relative).
    pub base: Option<u8>,
    /// True if an index register is added.
    pub indexed: bool,
    /// Added to the base, or the address.
    pub displacement: u64,
}

/// Effect on the registers, in the architecture's numbering (x86-64: rsp 4, rbp 5; aarch64: sp 31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No effect on general registers.
    Nothing,
    /// The registers of the mask get unknown values.
    Clobber(u32),
    /// Like [`Effect::Clobber`], then `by` is added to `register`: pushes, pops, pairs with write-back.
    Adjust {
        /// The register that is changed.
        register: u8,
        /// The number that is added.
        by: i32,
        /// The registers that get unknown values.
        clobbers: u32,
    },
    /// `to` becomes `from` plus `add`.
    Move {
        /// Destination.
        to: u8,
        /// Source.
        from: u8,
        /// Added.
        add: i32,
    },
    /// `to` becomes a number or an address.
    Set {
        /// Destination.
        to: u8,
        /// The number.
        value: u64,
    },
    /// The low bits of `to` (of value `from`) are cleared, so that it stays equal or decreases.
    AlignDown {
        /// Destination.
        to: u8,
        /// Source.
        from: u8,
    },
    /// `to` becomes `a` plus `b` shifted left.
    Sum {
        /// Destination.
        to: u8,
        /// First summand.
        a: u8,
        /// Second summand.
        b: u8,
        /// Bits that `b` is shifted by.
        shift: u8,
        /// If only the low bytes of `b` are used: their number and sign extension.
        extend: Option<Width>,
    },
    /// `to` becomes `from` less a register.
    Difference {
        /// Destination.
        to: u8,
        /// Minuend.
        from: u8,
        /// Subtrahend.
        less: u8,
    },
    /// `to` is read from memory.
    Load {
        /// Destination.
        to: u8,
        /// Source.
        memory: Memory,
        /// Number of bytes, and sign extension.
        width: Width,
    },
    /// `to` keeps its value or gets that of `from`; the result effectively has the given width
    /// (sign extension in place, as x86-64's `cdqe` after a load of a table entry).
    Extend {
        /// Destination.
        to: u8,
        /// Source.
        from: u8,
        /// Bytes used of it.
        width: Width,
    },
    /// x86-64 `leave`: the stack pointer becomes the frame pointer plus 8, the frame pointer is read from memory.
    Leave,
    /// A call: the registers that a callee may change are lost.
    Call,
}

impl Effect {
    /// Returns true if the value of a register may change.
    pub const fn writes(self, register: u8) -> bool {
        match self {
            Self::Nothing => false,
            Self::Clobber(mask) => mask >> register & 1 != 0,
            Self::Adjust { register: adjusted, clobbers, .. } => {
                adjusted == register || clobbers >> register & 1 != 0
            }
            Self::Move { to, .. }
            | Self::Set { to, .. }
            | Self::AlignDown { to, .. }
            | Self::Sum { to, .. }
            | Self::Difference { to, .. }
            | Self::Load { to, .. }
            | Self::Extend { to, .. } => to == register,
            Self::Leave | Self::Call => true,
        }
    }

    /// Returns the number added to a register; `None` if it gets another value.
    pub fn added_to(self, register: u8) -> Option<i32> {
        match self {
            Self::Adjust { register: adjusted, by, clobbers } if adjusted == register => {
                (clobbers >> register & 1 == 0).then_some(by)
            }
            Self::Move { to, from, add } if to == register => (from == register).then_some(add),
            _ => (!self.writes(register)).then_some(0),
        }
    }
}

/// Bytes used of a word, and the filling of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Width {
    /// 1, 2, 4 or 8.
    pub bytes: u8,
    /// True if the highest bit is repeated.
    pub signed: bool,
}

/// Kernel's treatment of a probe on an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    /// Computes its effect.
    Emulated,
    /// Runs a copy of it and corrects the result.
    SingleStepped,
    /// Refuses the probe, or gets the instruction wrong.
    Unsound,
}

/// Differences between the architectures in the search.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Number of the stack pointer.
    pub stack_pointer: u8,
    /// Number of registers.
    pub registers: u8,
    /// Registers that a called function may change (System V ABI x86-64 figure 3.4; AAPCS64 section 6.1.1).
    pub call_clobbers: u32,
    /// Number of the frame pointer.
    pub frame_pointer: u8,
}

/// Returns the machine of an architecture.
const fn machine(arch: Arch) -> Machine {
    match arch {
        Arch::X86_64 => x86_64::MACHINE,
        Arch::Aarch64 => aarch64::MACHINE,
    }
}

/// A use of an address inside the function's own code.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// The instruction.
    pub from: u64,
    /// The address it uses.
    pub to: u64,
    /// True if it reads or writes there; otherwise it only takes the address.
    pub accesses: bool,
}

/// The decoded parts of one function.
#[derive(Debug)]
pub struct Code {
    /// Differences between the architectures.
    pub machine: Machine,
    /// The parts, in the order given: the main one first.
    pub ranges: Vec<Range<u64>>,
    /// All instructions, sorted by address.
    pub steps: Vec<Step>,
    /// Uses of addresses inside the parts, other than the start of the function.
    pub references: Vec<Reference>,
    /// Facts from the image about the code.
    pub marks: Marks,
}

impl Code {
    /// Decodes `parts`, the main one first, each from its start to its end.
    pub fn decode(arch: Arch, parts: &[Part<'_>]) -> Result<Self, Refusal> {
        let mut code = Self {
            machine: machine(arch),
            ranges: Vec::new(),
            steps: Vec::new(),
            references: Vec::new(),
            marks: Marks::default(),
        };
        for part in parts {
            let bad = Refusal::BadParts { address: part.address };
            let end = part.address.checked_add(part.bytes.len() as u64).ok_or(bad.clone())?;
            let range = part.address..end;
            if range.is_empty() || code.overlaps(part) {
                return Err(bad);
            }
            code.ranges.push(range);
        }
        for part in parts {
            match arch {
                Arch::X86_64 => x86_64::decode(*part, &mut code)?,
                Arch::Aarch64 => aarch64::decode(*part, &mut code)?,
            }
        }
        code.steps.sort_unstable_by_key(|step| step.address);
        Ok(code)
    }

    /// Returns true if a part shares an address with one of the function's.
    pub fn overlaps(&self, part: &Part<'_>) -> bool {
        let end = part.address.saturating_add(part.bytes.len() as u64);
        self.ranges.iter().any(|range| part.address < range.end && range.start < end)
    }

    /// Returns the start of the function.
    pub fn start(&self) -> u64 {
        self.ranges.first().map_or(0, |range| range.start)
    }

    /// Returns true if an address belongs to one of the parts.
    pub fn contains(&self, address: u64) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// Returns the index of the instruction that begins at an address.
    pub fn at(&self, address: u64) -> Option<usize> {
        self.steps.binary_search_by_key(&address, |step| step.address).ok()
    }

    /// Adds an instruction, up to the limit.
    fn push(&mut self, step: Step) -> Result<(), Refusal> {
        if self.steps.len() >= STEPS {
            return Err(Refusal::TooIntricate { what: "instructions", limit: STEPS });
        }
        self.steps.push(step);
        Ok(())
    }

    /// Records that `from` uses `to`, if `to` lies in the function and is not its start.
    fn refer(&mut self, from: u64, to: u64, accesses: bool) {
        if to != self.start() && self.contains(to) {
            self.references.push(Reference { from, to, accesses });
        }
    }
}
