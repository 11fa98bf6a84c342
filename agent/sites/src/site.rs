//! What a site is, and what tells the end of a call.

/// One contiguous range of code.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// ELF virtual address of the first byte.
    pub address: u64,
    /// The bytes, as they stand in the file.
    pub bytes: &'a [u8],
}

/// How the kernel gets a probed instruction done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stepping {
    /// By computing its effect: cheap.
    Emulated,
    /// By running a copy of it with the trap flag set: dear, most of all in virtual machines.
    SingleStepped,
}

/// What happens at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// A call of the function begins.
    Entry,
    /// A call ends by a return.
    Return,
    /// A call goes on in another function by a jump. Where it is not known which, or what leaves that,
    /// the call ends here: what the other function does is no part of the time.
    TailJump,
    /// A call is as good as over: behind this branch it calls nothing, turns in no loop and returns after a few instructions.
    Ahead,
    /// A call is left by an exception: its clean-up is done, and the unwinder is called to go on with the caller. The frame
    /// still stands there.
    Unwound,
}

impl SiteKind {
    /// A word for it.
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
    /// What the probe costs.
    pub stepping: Stepping,
    /// Of a conditional jump the condition under which the call ends; the hit counts only then. Numbered as in the
    /// instruction: x86-64 the low nibble of the opcode (4 is ZF set), aarch64 the `cond` field (0 is Z set).
    pub condition: Option<u8>,
    /// The height of the stack there is an assumption, or the instruction is in the range of another function too: a hit with
    /// no matching frame is not an unmatched exit.
    pub maybe: bool,
    /// The code keeps its goroutine in a register, and the frame's key is goroutine and depth instead of the stack
    /// pointer, because the stack moves.
    pub goroutine: bool,
    /// By how many bytes the stack pointer at the function's first instruction (on x86-64 it points at the return address) was
    /// above that before this one: a multiple of 8.
    pub above: u16,
    /// Instructions of the call that are no part of its time: those before an entry, or at most after an exit.
    pub left_out: u8,
}

impl Site {
    /// Most that `above` can be: the number of words has 12 bits.
    pub const MOST_ABOVE: u16 = 8 * 0xfff;

    /// A site that counts at each hit, with the stack pointer of the function's first instruction.
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

    /// Whether the measured time ends where another function takes over.
    #[must_use]
    pub const fn until_tail_call(&self) -> bool {
        matches!(self.kind, SiteKind::TailJump)
    }
}

/// The sites of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// Where calls begin.
    pub entry: Site,
    /// Where calls end, sorted by address, none at the entry's address. At least one, unless all calls leave by jumps that
    /// are followed.
    pub exits: Vec<Site>,
}

/// What tells the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Probes on the exit sites.
    AtExits,
    /// A probe on the return address: nothing is put on the exit sites, and loops may pass them.
    AtReturnAddress,
}
