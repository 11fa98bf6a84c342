//! Where the probes of a function sit.
//!
//! A probe at the *entry site* notes the time under the key (process, function, stack pointer); a probe at each *exit
//! site* looks the same key up, with the stack pointer before the instruction runs. So the sites must be such that in
//! each call the entry is passed exactly once, and exactly one exit, each with the stack pointer that the caller gave or
//! one that is a known number of bytes below it ([`Site::above`]). A breakpoint on anything but the first byte of an
//! instruction corrupts the program. What cannot be shown to hold is refused, with a [`Refusal`] that says why; a function
//! that is not measured harms nobody.
//!
//! # How they are found
//!
//! 1. The function's parts are decoded from start to end (`decode`). Bytes that are no instruction, a branch into the
//!    middle of one, or an instruction that uses the function's bytes as data put the boundaries in doubt: refused.
//! 2. The registers are followed through all ways (`trace`): the height of the stack at each place where control
//!    leaves, and what the targets of indirect jumps are made of. Jump tables are read where the caller lets them be
//!    (`tables`), which it should: without it, fewer functions can be told to be sound.
//! 3. Every return and every jump out is an exit (`exits`). A jump that leaves with the frame still standing leads to
//!    a part that is not known, or is not understood: the part is looked for, or the function refused. So is one whose
//!    conditional exit lies in a loop (`loops`): a probe there is sound, but hit at every turn.
//! 4. The entry slides to the first instruction that the kernel emulates (`entry`), as single-stepping costs many
//!    times as much, but not past anything that matters. For the same reason exits move from returns that would be
//!    single-stepped to emulated branches behind which a call only returns (`ahead`).
//!
//! # What is taken for granted
//!
//! Code follows the conventions of its ABI: a called function returns to the instruction after the call, with the
//! stack pointer and the callee-saved registers as they were, or never; a return with something else on top of the
//! stack does not happen. An instruction runs with one height of the stack, however it is reached: where branches say
//! one height and the end of a table or the return from a call another, the table ends earlier, or the call never
//! returns; where branches disagree, nothing is known. Text is not changed while it runs. Pointers in memory that is
//! not the function's own stack or static data do not lead into the middle of a function. An exception lands where no
//! direct branch leads, with the stack as at some call of the function.
//!
//! Ranges of functions may overlap (assembly has entries inside other functions): then two functions share sites, and
//! a call of the inner one hits exits of the outer one. Those are marked `maybe` ([`crate::Image::sites`]): a hit that no
//! frame matches is not an end of a call that began earlier.

mod ahead;
pub(crate) mod confirm;
mod entry;
mod exits;
pub(crate) mod golang;
mod loops;
mod tables;
mod trace;
mod transfer;
mod value;

use std::ops::Range;

use self::tables::Tables;
use self::value::Balance;
use crate::decode::{Code, Flow};
use crate::{Arch, Refusal};

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
    /// A call goes on in another function by a jump ([`crate::Tails`]). Where it is not known which, or what leaves that,
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
    pub(crate) const MOST_ABOVE: u16 = 8 * 0xfff;

    /// A site that counts at each hit, with the stack pointer of the function's first instruction.
    pub(crate) const fn new(address: u64, kind: SiteKind, stepping: Stepping) -> Self {
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
    pub(crate) fn restarts(&self, address: u64) -> bool {
        self.sequences.iter().any(|sequence| sequence.contains(&address))
    }
}

/// What tells the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Probes on the exit sites.
    AtExits,
    /// A probe on the return address: nothing is put on the exit sites, and loops may pass them.
    AtReturnAddress,
}

/// Calls that may be the last deed of a call, as exits by exception, each with the address that is called.
pub(crate) type Unwinding = Vec<(Site, u64)>;

/// Most cold parts that are found by following jumps.
const FOUND_PARTS: usize = 16;

/// The sites of a function whose code is `main` (its entry at `main.address`) and `cold`.
///
/// # Errors
/// The reason why it cannot be probed soundly.
pub fn find(arch: Arch, main: Part<'_>, cold: &[Part<'_>]) -> Result<Sites, Refusal> {
    search(arch, main, cold, None, Asked::new(Ends::AtExits))
}

/// Like [`find`], with a view of the image around the function: jump tables are read, and cold parts that no symbol
/// names are found by following jumps. More functions can be probed, and none wrongly for want of a part. Where `ends`
/// is [`Ends::AtReturnAddress`], exits that a loop passes do not matter.
///
/// # Errors
/// The reason why it cannot be probed soundly.
pub fn find_in(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
    ends: Ends,
) -> Result<Sites, Refusal> {
    search(arch, main, cold, Some(surroundings), Asked::new(ends))
}

/// Like [`find_in`] with [`Ends::AtExits`], where the entry must have the arguments still in their registers.
pub(crate) fn find_with_arguments(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
) -> Result<Sites, Refusal> {
    let asked = Asked { kept: arguments(arch), ..Asked::new(Ends::AtExits) };
    search(arch, main, cold, Some(surroundings), asked)
}

/// Like [`find_in`] with [`Ends::AtExits`], where some jumps are no ends of calls: `follow` is given all tail jumps and
/// gives the addresses of those. There may be no other exit, the entry may stand on such a jump, and a loop may pass it.
///
/// Exits by exception are put beside, if what is called there should be the unwinder.
pub(crate) fn find_whole(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
    follow: &mut dyn FnMut(&[Site]) -> Vec<u64>,
    unwinding: &mut Unwinding,
) -> Result<Sites, Refusal> {
    let asked = Asked { follow: Some(follow), unwinding: Some(unwinding), ..Asked::new(Ends::AtExits) };
    search(arch, main, cold, Some(surroundings), asked)
}

/// The exits of a function, wherever its calls begin: of one that another function jumps to.
///
/// # Errors
/// The reason why they cannot be probed soundly.
pub(crate) fn find_exits(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
) -> Result<Vec<Site>, Refusal> {
    let (code, exits) = ways_out(arch, main, cold, Some(surroundings))?;
    loops::check(&code, &exits.jumps, &exits.sites, &exits.sites)?;
    // The same as where calls of it are measured themselves: then one trap serves both.
    let wanted = exits.wanted(&exits.sites, Ends::AtExits, &[]);
    let entry = entry::entry(&code, &wanted).map_or(main.address, |entry| entry.address);
    Ok(ahead::ahead(&code, &exits, exits.sites.clone(), entry))
}

/// Why sites of a function are single-stepped, with their addresses.
pub(crate) fn why_stepped(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
) -> Vec<(u64, &'static str)> {
    let Ok((code, ways)) = ways_out(arch, main, cold, Some(surroundings)) else { return Vec::new() };
    let wanted = ways.wanted(&ways.sites, Ends::AtExits, &[]);
    let Ok(entry) = entry::entry(&code, &wanted) else { return Vec::new() };
    let exits = ahead::ahead(&code, &ways, ways.sites.clone(), entry.address);
    let mut why = ahead::why(&code, &ways, &exits, entry.address);
    if entry.stepping == Stepping::SingleStepped {
        why.push((entry.address, entry::why(&code, &wanted)));
    }
    why
}

/// Which of some jumps are no ends of calls, by their addresses.
type Follow<'f> = dyn FnMut(&[Site]) -> Vec<u64> + 'f;

/// What is asked of a search.
struct Asked<'a> {
    ends: Ends,
    /// Registers that the entry must find as the caller left them.
    kept: &'static [u8],
    /// See [`find_whole`].
    follow: Option<&'a mut Follow<'a>>,
    unwinding: Option<&'a mut Unwinding>,
}

impl Asked<'_> {
    const fn new(ends: Ends) -> Self {
        Self { ends, kept: &[], follow: None, unwinding: None }
    }
}

fn search(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: Option<&dyn Surroundings>,
    asked: Asked<'_>,
) -> Result<Sites, Refusal> {
    let (code, ways) = ways_out(arch, main, cold, surroundings)?;
    let is_jump = |exit: &&Site| exit.kind == SiteKind::TailJump;
    let jumps: Vec<Site> = ways.sites.iter().filter(is_jump).copied().collect();
    let followed = asked.follow.filter(|_| !jumps.is_empty()).map(|follow| follow(&jumps));
    let mut exits = ways.sites.clone();
    exits.retain(|exit| !followed.as_ref().is_some_and(|followed| followed.contains(&exit.address)));
    let entry = entry::entry(&code, &ways.wanted(&exits, asked.ends, asked.kept))?;
    // Last, because whoever reads it may have the exits left alone.
    if asked.ends == Ends::AtExits {
        loops::check(&code, &ways.jumps, &ways.sites, &exits)?;
        exits = ahead::ahead(&code, &ways, exits, entry.address);
    }
    if let Some(unwinding) = asked.unwinding {
        exits::unwinding(&code, &ways, entry.address, unwinding);
    }
    Ok(Sites { entry, exits })
}

/// The code of a function with all its parts, and what leaves it.
fn ways_out(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: Option<&dyn Surroundings>,
) -> Result<(Code, exits::Checked), Refusal> {
    let mut found: Vec<Around> = Vec::new();
    for _ in 0..=FOUND_PARTS {
        let mut parts = vec![main];
        parts.extend_from_slice(cold);
        parts.extend(found.iter().map(Around::part));
        let mut code = Code::decode(arch, &parts)?;
        code.marks = surroundings.map(|known| known.marks(main.address)).unwrap_or_default();
        let tables = Tables::new(surroundings);
        let exits = exits::exits(&code, &tables)?;
        let part = match surroundings {
            Some(surroundings) => missing_part(arch, &code, &exits, surroundings)?,
            None => None,
        };
        match part {
            Some(part) => found.push(part),
            None => return Ok((code, exits.sites()?)),
        }
    }
    Err(Refusal::BadParts { address: main.address })
}

/// Like [`find_with_arguments`], of a function of which it is known from elsewhere that whatever leaves it by a jump with its
/// frame standing comes back: its returns alone.
pub(crate) fn find_returns(
    arch: Arch,
    main: Part<'_>,
    surroundings: &dyn Surroundings,
) -> Result<Sites, Refusal> {
    let code = Code::decode(arch, &[main])?;
    let ways = exits::exits(&code, &Tables::new(Some(surroundings)))?.returns()?;
    let entry = entry::entry(&code, &ways.wanted(&ways.sites, Ends::AtExits, arguments(arch)))?;
    Ok(Sites { entry, exits: ways.sites })
}

/// The registers of the first two arguments (System V ABI x86-64, 3.2.3: rdi and rsi; AAPCS64, 6.8.2).
pub(crate) const fn arguments(arch: Arch) -> &'static [u8] {
    match arch {
        Arch::X86_64 => &[7, 6],
        Arch::Aarch64 => &[0, 1],
    }
}

/// A part of the function that is not among those known: a jump leads there although the frame still stands, or code
/// there jumps back.
fn missing_part(
    arch: Arch,
    code: &Code,
    exits: &exits::Exits,
    surroundings: &dyn Surroundings,
) -> Result<Option<Around>, Refusal> {
    for leaving in &exits.leaving {
        let Some(around) = surroundings.code_around(leaving.target) else { continue };
        // The ordinary tail call: to the start of a function, or through the procedure linkage table, which is one
        // range of many stubs and would be decoded again and again.
        if around.named && around.address == leaving.target || is_stub(arch, &around, leaving.target) {
            continue;
        }
        let frame_stands = leaving.balance == Balance::Differs && !around.named;
        if frame_stands || leads_back(arch, code, &around)? {
            let overlaps = code.overlaps(&around.part());
            if around.named || overlaps {
                return Err(Refusal::Entangled { address: leaving.from });
            }
            return Ok(Some(around));
        }
    }
    for &target in &exits.beyond_tables {
        let Some(around) = surroundings.code_around(target) else { continue };
        if !around.named && !code.overlaps(&around.part()) && leads_back(arch, code, &around).unwrap_or(false)
        {
            return Ok(Some(around));
        }
    }
    Ok(None)
}

/// Bytes of the longest stub of a procedure linkage table: x86-64 16, aarch64 with a landing pad 24.
const STUB_BYTES: usize = 24;

/// Whether the code at an address only jumps on through a word of memory, as the stubs of a linkage table do.
fn is_stub(arch: Arch, around: &Around, address: u64) -> bool {
    let length = if arch == Arch::X86_64 { 16 } else { STUB_BYTES };
    let start = usize::try_from(address.wrapping_sub(around.address)).unwrap_or(usize::MAX);
    let bytes = around.bytes.get(start..).unwrap_or_default();
    let part = Part { address, bytes: bytes.get(..length).unwrap_or(bytes) };
    let Ok(code) = Code::decode(arch, &[part]) else { return false };
    let ends = code.steps.iter().find(|step| step.flow != Flow::Next);
    ends.is_some_and(|step| matches!(step.flow, Flow::Indirect(_)))
}

/// Whether code jumps into the function other than to its start.
fn leads_back(arch: Arch, code: &Code, around: &Around) -> Result<bool, Refusal> {
    let other = Code::decode(arch, &[around.part()])?;
    Ok(other.steps.iter().any(|step| match step.flow {
        Flow::Jump(target) | Flow::Branch { target, .. } => target != code.start() && code.contains(target),
        _ => false,
    }))
}

impl Around {
    fn part(&self) -> Part<'_> {
        Part { address: self.address, bytes: &self.bytes }
    }
}
