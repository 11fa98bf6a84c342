//! From a function's code to its sites: collects the parts, finds the exits, then the entry.

use crate::dataflow::jump_tables::Tables;
use crate::dataflow::value::Balance;
use crate::decode::{Code, Flow};
use crate::{
    Arch, Around, Ends, Part, Refusal, Site, SiteKind, Sites, Stepping, Surroundings, ahead, entry, exits,
    loops,
};

/// Calls that may end their caller, as exits by exception, each with the address that is called.
pub type Unwinding = Vec<(Site, u64)>;

/// Most cold parts found by following jumps.
const FOUND_PARTS: usize = 16;

/// Returns the sites of a function whose code is `main` (its entry at `main.address`) and `cold`.
///
/// # Errors
/// The reason why it cannot be probed soundly.
pub fn find(arch: Arch, main: Part<'_>, cold: &[Part<'_>]) -> Result<Sites, Refusal> {
    search(arch, main, cold, None, Asked::new(Ends::AtExits))
}

/// Like [`find`], with a view of the image around the function: it reads jump tables, and finds
/// unnamed cold parts by following jumps. More functions can be probed, and none wrongly for lack
/// of a part. If `ends` is [`Ends::AtReturnAddress`], exits that a loop passes do not matter.
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

/// Like [`find_in`] with [`Ends::AtExits`]; at the entry the arguments are still in registers.
pub fn find_with_arguments(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
) -> Result<Sites, Refusal> {
    let asked = Asked { kept: arguments(arch), ..Asked::new(Ends::AtExits) };
    search(arch, main, cold, Some(surroundings), asked)
}

/// Like [`find_in`] with [`Ends::AtExits`], if some jumps end no calls: `follow` gets all tail
/// jumps and returns the addresses of those. There may be no other exit, the entry may stand on
/// such a jump, and a loop may pass it.
///
/// Adds the exits by exception, if the called function should be the unwinder.
pub fn find_whole(
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

/// Returns the exits of a function that another one jumps to, regardless of its entry.
///
/// # Errors
/// The reason why they cannot be probed soundly.
pub fn find_exits(
    arch: Arch,
    main: Part<'_>,
    cold: &[Part<'_>],
    surroundings: &dyn Surroundings,
) -> Result<Vec<Site>, Refusal> {
    let (code, exits) = ways_out(arch, main, cold, Some(surroundings))?;
    loops::check(&code, &exits.jumps, &exits.sites, &exits.sites)?;
    // As if its own calls were measured: then one trap serves both.
    let wanted = exits.wanted(&exits.sites, Ends::AtExits, &[]);
    let entry = entry::entry(&code, &wanted).map_or(main.address, |entry| entry.address);
    Ok(ahead::ahead(&code, &exits, exits.sites.clone(), entry))
}

/// Returns the reasons why sites of a function are single-stepped, with their addresses.
pub fn why_stepped(
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

/// Returns the addresses of those jumps that end no calls.
type Follow<'f> = dyn FnMut(&[Site]) -> Vec<u64> + 'f;

/// Options of a search.
struct Asked<'a> {
    ends: Ends,
    /// Registers that must have the caller's values at the entry.
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
    // Last, because a caller that reads this refusal may leave the exits unprobed.
    if asked.ends == Ends::AtExits {
        loops::check(&code, &ways.jumps, &ways.sites, &exits)?;
        exits = ahead::ahead(&code, &ways, exits, entry.address);
    }
    if let Some(unwinding) = asked.unwinding {
        exits::unwinding(&code, &ways, entry.address, unwinding);
    }
    Ok(Sites { entry, exits })
}

/// Returns the code of a function with all its parts, and its ways out.
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

/// Like [`find_with_arguments`], for a function known to return from every jump that leaves with
/// its frame: uses its returns alone.
pub fn find_returns(arch: Arch, main: Part<'_>, surroundings: &dyn Surroundings) -> Result<Sites, Refusal> {
    let code = Code::decode(arch, &[main])?;
    let ways = exits::exits(&code, &Tables::new(Some(surroundings)))?.returns()?;
    let entry = entry::entry(&code, &ways.wanted(&ways.sites, Ends::AtExits, arguments(arch)))?;
    Ok(Sites { entry, exits: ways.sites })
}

/// Returns the registers of the first two arguments (x86-64 ABI 3.2.3: rdi, rsi; AAPCS64 6.8.2).
pub const fn arguments(arch: Arch) -> &'static [u8] {
    match arch {
        Arch::X86_64 => &[7, 6],
        Arch::Aarch64 => &[0, 1],
    }
}

/// Returns a missing part of the function: a jump leads there with a frame, or code there jumps
/// back.
fn missing_part(
    arch: Arch,
    code: &Code,
    exits: &exits::Exits,
    surroundings: &dyn Surroundings,
) -> Result<Option<Around>, Refusal> {
    for leaving in &exits.leaving {
        let Some(around) = surroundings.code_around(leaving.target) else { continue };
        // An ordinary tail call: to the start of a function, or through the procedure linkage
        // table, which is one range of many stubs and would be decoded repeatedly.
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

/// Returns true if the code at an address only jumps through a word of memory, as linkage stubs do.
fn is_stub(arch: Arch, around: &Around, address: u64) -> bool {
    let length = if arch == Arch::X86_64 { 16 } else { STUB_BYTES };
    let start = usize::try_from(address.wrapping_sub(around.address)).unwrap_or(usize::MAX);
    let bytes = around.bytes.get(start..).unwrap_or_default();
    let part = Part { address, bytes: bytes.get(..length).unwrap_or(bytes) };
    let Ok(code) = Code::decode(arch, &[part]) else { return false };
    let ends = code.steps.iter().find(|step| step.flow != Flow::Next);
    ends.is_some_and(|step| matches!(step.flow, Flow::Indirect(_)))
}

/// Returns true if code jumps into the function other than to its start.
fn leads_back(arch: Arch, code: &Code, around: &Around) -> Result<bool, Refusal> {
    let other = Code::decode(arch, &[around.part()])?;
    Ok(other.steps.iter().any(|step| match step.flow {
        Flow::Jump(target) | Flow::Branch { target, .. } => target != code.start() && code.contains(target),
        _ => false,
    }))
}
