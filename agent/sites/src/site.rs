//! Sites, and ways to see the end of a call.

/// One contiguous range of code.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// ELF virtual address of the first byte.
    pub address: u64,
    /// The bytes, as in the file.
    pub bytes: &'a [u8],
}

/// Way in which the kernel executes a probed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stepping {
    /// By computing its effect: cheap.
    Emulated,
    /// By running a copy of it with the trap flag set: expensive, most of all in virtual machines.
    SingleStepped,
}

/// Event at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// A call of the function begins.
    Entry,
    /// A call ends by a return.
    Return,
    /// A call continues in another function by a jump. If that function or its end is unknown, the
    /// call ends here, without the time of the other function.
    TailJump,
    /// A call is almost over: behind this branch no calls, no loop, and few instructions to a
    /// return.
    Ahead,
    /// An exception leaves a call: its clean-up is done, and it calls the unwinder to continue with
    /// the caller. The frame still stands there.
    Unwound,
}

impl SiteKind {
    /// Returns a word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Return => "return",
            Self::TailJump => "tail-jump",
            Self::Ahead => "branch",
            Self::Unwound => "exception",
        }
    }
}

/// One instruction that carries a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// ELF virtual address of the instruction.
    pub address: u64,
    /// Entry, return or tail jump.
    pub kind: SiteKind,
    /// Cost of the probe.
    pub stepping: Stepping,
    /// For a conditional jump, the condition that ends the call; only then the hit counts. As
    /// encoded: x86-64 low opcode nibble (4 is ZF set), aarch64 `cond` field (0 is Z set).
    pub condition: Option<u8>,
    /// True if the stack height there is an assumption, or another function's range has the
    /// instruction: a hit without a matching frame is not an unmatched exit.
    pub maybe: bool,
    /// The code keeps its goroutine in a register; the frame's key is goroutine and depth instead
    /// of the stack pointer, because the stack moves.
    pub goroutine: bool,
    /// Bytes of the stack pointer at the function's first instruction (on x86-64 it points at the
    /// return address) above that before this instruction: a multiple of 8.
    pub above: u16,
    /// Instructions excluded from the time: those before an entry, or at most after an exit.
    pub left_out: u8,
}

impl Site {
    /// Maximum of `above`: the number of words has 12 bits.
    pub const MOST_ABOVE: u16 = 8 * 0xfff;

    /// Makes a site that counts each hit, with the first instruction's stack pointer.
    pub const fn new(address: u64, kind: SiteKind, stepping: Stepping) -> Self {
        Self {
            address,
            kind,
            stepping,
            condition: None,
            maybe: false,
            goroutine: false,
            above: 0,
            left_out: 0,
        }
    }

    /// Returns true if the measured time ends at the jump to another function.
    #[must_use]
    pub const fn until_tail_call(&self) -> bool {
        matches!(self.kind, SiteKind::TailJump)
    }
}

/// The sites of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// Site at which calls begin.
    pub entry: Site,
    /// Sites at which calls end, by address, none at the entry. At least one, unless all calls
    /// leave by followed jumps.
    pub exits: Vec<Site>,
}

/// Way to see the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Probes on the exit sites.
    AtExits,
    /// A probe on the return address: no probe is on the exit sites, and loops may pass them.
    AtReturnAddress,
}
