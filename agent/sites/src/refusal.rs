//! Reasons not to probe a function.
//!
//! A refusal is a value, not an error: it concerns one function, is counted by its
//! [code](Refusal::code) and shown with its sentence; the other functions of the image stay
//! measurable. Refusing is the safe answer: a probe on a wrong byte corrupts the target.

use thiserror::Error;

/// The reason why one function cannot be probed soundly.
///
/// `Display` gives one sentence for a person; [`Refusal::code`] a stable word for JSON and counts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    // ---- known from the image and its symbols ----
    /// A Go program without the table that separates its functions.
    #[error(
        "it is a Go program, and its table of functions (gopclntab) cannot be read: nothing tells what is safe"
    )]
    Go,
    /// The Go version keeps the goroutine in memory.
    #[error(
        "it was built by a Go older than 1.17, which keeps its goroutines where they are not found; rebuild it"
    )]
    GoVersion,
    /// A function of Go's runtime that runs on several stacks, or at the end of one.
    #[error("the function changes the stack or stands at its end: its calls cannot be told apart")]
    GoStack,
    /// A function in assembly that calls others; during these calls its goroutine may move.
    #[error(
        "the function is written in assembly and calls others at 0x{address:x}; probe the function that calls it"
    )]
    GoAssembly {
        /// ELF virtual address of the call.
        address: u64,
    },
    /// A compiler-made wrapper, which jumps to the method that it wraps.
    #[error("the function only jumps to the method that it wraps; probe {method}")]
    GoWrapper {
        /// Target of the jump.
        target: u64,
        /// The method that it wraps.
        method: String,
    },
    /// The symbol is of type `STT_GNU_IFUNC`: its code only chooses an implementation, once, at load time.
    #[error(
        "the symbol is an ifunc resolver, which runs once at load time; \
         probe the implementation that it chooses (same name with a suffix such as _avx2)"
    )]
    IfuncResolver,
    /// The symbol has no size and nothing in the image soundly shows the end of its code.
    #[error(
        "the symbol has no size and the end of the function cannot be told; state .type and .size in its assembly, or probe \
         the function that calls it"
    )]
    UnknownEnd,
    /// The code checks its own bytes at run time, and a probe changes bytes.
    #[error("the code lies in text that checks itself (FIPS module): a probe would make that check fail")]
    SelfChecked,
    /// The image is compressed; its real text is made at run time and not backed by a file.
    #[error("the image is packed (UPX): its code is unpacked at run time and not backed by the file")]
    Packed,
    /// The image has no executable segment with bytes in the file.
    #[error("the file has no code: no executable segment is backed by it")]
    NoText,
    /// The range is not inside the file-backed part of an executable segment.
    #[error("the code at 0x{address:x} is not inside a file-backed executable segment")]
    NotInText {
        /// First ELF virtual address that is not in such a segment.
        address: u64,
    },
    /// The range is longer than this crate decodes.
    #[error("the function has {size} bytes of code, more than the {limit} that are decoded")]
    TooLarge {
        /// Bytes of the range.
        size: u64,
        /// The cap, in bytes.
        limit: u64,
    },
    /// The file could not be read at the place of the code.
    #[error("the code cannot be read from the file: {reason}")]
    Unreadable {
        /// Error of the system.
        reason: String,
    },
    /// The symbol is a part of a function whose other part has no symbol.
    #[error(
        "the symbol is the cold part of a function that has no symbol of its own; probe the function by its address"
    )]
    ColdPart,
    /// A mapping symbol marks data between the instructions.
    #[error("there is data between the instructions of the function")]
    DataInside,
    /// The dynamic linker changes the text when it loads the image.
    #[error(
        "the image has text relocations: its code in memory differs from the file (rebuild it with -fPIC)"
    )]
    TextRelocations,
    /// The segment of the code is writable.
    #[error("the code lies in a segment that the program may write, so it may change under a probe")]
    WritableText,
    // ---- known from the instructions (sites.rs and decode/) ----
    /// The parts of the function overlap, or one of them is empty or ends beyond the address space.
    #[error("the parts of the function at 0x{address:x} overlap or are empty")]
    BadParts {
        /// Start of the offending part.
        address: u64,
    },
    /// More instructions or meeting paths than are followed.
    #[error("the function has more than {limit} {what}, and is not followed")]
    TooIntricate {
        /// The excess items.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// Some bytes of the range are no instruction, or an instruction runs over the end of the range.
    #[error("the bytes at 0x{address:x} are not an instruction: data between the code, or a wrong range")]
    Undecodable {
        /// ELF virtual address of the bytes.
        address: u64,
    },
    /// A branch of the function leads into the middle of a decoded instruction, so the decoding may be wrong.
    #[error("the branch at 0x{from:x} leads into the middle of the instruction before 0x{to:x}")]
    JumpIntoInstruction {
        /// ELF virtual address of the branch.
        from: u64,
        /// Its target.
        to: u64,
    },
    /// An instruction reads bytes inside the function's own range: they may be data, and a probe would change them.
    #[error("the instruction at 0x{address:x} uses bytes of the function itself as data")]
    DataInCode {
        /// ELF virtual address of the instruction that reads them.
        address: u64,
    },
    /// Decoding from before a site does not reach it: tables stand before this function.
    #[error("that an instruction begins at 0x{address:x} does not follow from what stands before it")]
    Unconfirmed {
        /// ELF virtual address of the site.
        address: u64,
    },
    /// The function calls a place inside itself, so not all its returns end a call of it.
    #[error(
        "the function calls a place inside itself at 0x{address:x}, and the returns cannot be told apart"
    )]
    CallsInside {
        /// ELF virtual address of the call.
        address: u64,
    },
    /// The function loops to its first instructions: a probe there would count each turn as a call.
    #[error(
        "the function loops to its entry from 0x{from:x}: turns of the loop and calls cannot be told apart"
    )]
    LoopsToEntry {
        /// ELF virtual address of the branch.
        from: u64,
    },
    /// The function leaves by its first instruction: one probe cannot be entry and exit.
    #[error("the function leaves by its first instruction, so there is nothing to measure")]
    Empty,
    /// The function has no way out: it never returns, or only by an exception.
    #[error("the function has no way out that can be probed: it never returns")]
    NoExit,
    /// The end of the range is reached without return or jump: the function runs into the next.
    #[error("the function falls through its end at 0x{end:x} into what follows")]
    FallsThrough {
        /// ELF virtual address after the range.
        end: u64,
    },
    /// A jump through a register or memory, which may stay inside or leave; the code is unclear.
    #[error("the indirect jump at 0x{address:x} may stay inside the function or leave it")]
    IndirectJump {
        /// ELF virtual address of the jump.
        address: u64,
    },
    /// The function leaves with a stack pointer that is, or may be, different from the entry's.
    #[error("the function leaves at 0x{address:x} with a stack pointer that differs from that at its entry")]
    UnbalancedStack {
        /// ELF virtual address of the instruction that leaves.
        address: u64,
    },
    /// The function jumps to another one that jumps back into the middle of it.
    #[error(
        "the function jumps at 0x{address:x} into another one that jumps back into the middle of this one"
    )]
    Entangled {
        /// ELF virtual address of the jump.
        address: u64,
    },
    /// A branch on a register (`jrcxz`, `loop`, `cbz`, `tbz`) leaves the function; only flags can be checked.
    #[error(
        "the branch at 0x{address:x} leaves the function depending on a register, which is not supported"
    )]
    RegisterBranch {
        /// ELF virtual address of the branch.
        address: u64,
    },
    /// A conditional exit lies in a loop: its probe would be hit at every turn.
    #[error(
        "the exit at 0x{address:x} depends on a condition and lies in a loop, so a probe there would be hit at every \
         turn; use --returns uretprobe, or probe the function that calls it"
    )]
    ExitInLoop {
        /// ELF virtual address of the branch that leaves.
        address: u64,
    },
    /// The code restarts if it is interrupted, and a probe would remove its protection.
    #[error(
        "the only place for a probe, at 0x{address:x}, lies in a restartable sequence (rseq), whose protection a probe \
         would take away; probe the function that calls it"
    )]
    Restartable {
        /// ELF virtual address of the instruction.
        address: u64,
    },
    /// Exit by `retaa` or `retab`: the kernel cannot step over them.
    #[error(
        "the function returns by an authenticated return at 0x{address:x}, which the kernel cannot step over"
    )]
    AuthenticatedReturn {
        /// ELF virtual address of the return.
        address: u64,
    },
    /// A far or system return, or a far jump.
    #[error("the function leaves by a far or system return or jump at 0x{address:x}")]
    SystemReturn {
        /// ELF virtual address of the instruction.
        address: u64,
    },
    /// A pack names a site that does not fit the code.
    #[error("the pack has a site at 0x{address:x} that does not fit the code; make the pack again")]
    PlanDiffers {
        /// ELF virtual address of the site.
        address: u64,
    },
    /// The kernel refuses, or steps wrongly, a probe on the only possible site.
    #[error("the kernel does not step correctly over the instruction at 0x{address:x}")]
    Unsteppable {
        /// ELF virtual address of the instruction.
        address: u64,
    },
}

impl Refusal {
    /// Returns the stable short word, in kebab-case, for JSON and for counting.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::GoVersion => "go-version",
            Self::GoStack => "go-stack",
            Self::GoAssembly { .. } => "go-assembly",
            Self::GoWrapper { .. } => "go-wrapper",
            Self::IfuncResolver => "ifunc-resolver",
            Self::UnknownEnd => "unknown-end",
            Self::SelfChecked => "self-checked",
            Self::Packed => "packed",
            Self::NotInText { .. } => "not-in-text",
            Self::TooLarge { .. } => "too-large",
            Self::NoText => "no-text",
            Self::Unreadable { .. } => "unreadable",
            Self::ColdPart => "cold-part",
            Self::DataInside => "data-inside",
            Self::TextRelocations => "text-relocations",
            Self::WritableText => "writable-text",
            Self::BadParts { .. } => "bad-parts",
            Self::TooIntricate { .. } => "too-intricate",
            Self::Undecodable { .. } => "undecodable",
            Self::JumpIntoInstruction { .. } => "jump-into-instruction",
            Self::DataInCode { .. } => "data-in-code",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::CallsInside { .. } => "calls-inside",
            Self::LoopsToEntry { .. } => "loops-to-entry",
            Self::Empty => "empty",
            Self::NoExit => "no-exit",
            Self::FallsThrough { .. } => "falls-through",
            Self::IndirectJump { .. } => "indirect-jump",
            Self::UnbalancedStack { .. } => "unbalanced-stack",
            Self::Entangled { .. } => "entangled",
            Self::RegisterBranch { .. } => "register-branch",
            Self::Restartable { .. } => "restartable",
            Self::ExitInLoop { .. } => "exit-in-loop",
            Self::AuthenticatedReturn { .. } => "authenticated-return",
            Self::SystemReturn { .. } => "system-return",
            Self::PlanDiffers { .. } => "plan-differs",
            Self::Unsteppable { .. } => "unsteppable",
        }
    }
}
