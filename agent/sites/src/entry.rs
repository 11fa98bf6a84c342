//! Entry sites of functions.
//!
//! The best entry is the first instruction that the kernel emulates: a single step costs many times
//! as much, and all of that adds to the measured latency. So the entry slides over instructions
//! that would be single-stepped, as long as each call passes the place exactly once at a known
//! distance to the caller's stack pointer: each passed instruction continues with the next, no
//! branch leads to it or behind it, and no other function begins there. If a return probe replaces
//! the word at the stack pointer, it must still be the return address: no passed instruction moves
//! the pointer then.

use crate::Refusal;
use crate::dataflow::trace::landing;
use crate::decode::{Code, Flow, Probing, Step};
use crate::{Site, SiteKind, Stepping};

/// Most instructions that the entry slides over. Their time is not measured: a few nanoseconds,
/// which more of them would exceed.
pub(crate) const PASSED: usize = 24;

/// Requirements of an entry.
pub(crate) struct Wanted<'a> {
    /// Indices of instructions that indirect jumps may reach with the caller's stack pointer.
    pub(crate) by_table: &'a [usize],
    /// Indices of those that they may reach with any other stack pointer.
    pub(crate) with_frame: &'a [usize],
    /// The exits.
    pub(crate) exits: &'a [Site],
    /// True if the stack pointer at the entry may have moved: nothing replaces the word there, and
    /// no jump with a frame has an unknown target.
    pub(crate) moves: bool,
    /// Registers that must still have the caller's values.
    pub(crate) kept: &'a [u8],
}

/// Returns the entry site.
pub(crate) fn entry(code: &Code, wanted: &Wanted<'_>) -> Result<Site, Refusal> {
    entry_among(code, wanted, |_| true)
}

/// Returns the entry site, at an instruction that each passing call runs `once`.
pub(crate) fn entry_among(
    code: &Code,
    wanted: &Wanted<'_>,
    once: impl Fn(&Step) -> bool,
) -> Result<Site, Refusal> {
    let start = code.at(code.start()).ok_or(Refusal::Undecodable { address: code.start() })?;
    let targets = targets(code, wanted.by_table);
    let mut best: Option<(usize, Stepping, u16)> = None;
    let mut refusal = None;
    let mut moved = 0;
    for index in start..=start + PASSED {
        let Some(step) = code.steps.get(index) else { break };
        if let Ok(target) = targets.binary_search_by_key(&index, |target| target.0) {
            let from = targets.get(target).map_or(code.start(), |target| target.1);
            refusal = Some(Refusal::LoopsToEntry { from });
            break;
        }
        if moved != 0 && wanted.with_frame.binary_search(&index).is_ok() {
            break;
        }
        if wanted.exits.iter().any(|exit| exit.address == step.address) {
            refusal = (index == start).then_some(Refusal::Empty);
            break;
        }
        if code.marks.next.is_some_and(|next| next <= step.address) {
            break;
        }
        if code.marks.restarts(step.address) {
            refusal = (index == start).then_some(Refusal::Restartable { address: step.address });
            break;
        }
        match (step.probing, above(moved)) {
            _ if !once(step) || breaks(code, step) => {}
            (Probing::Emulated, Some(above)) => {
                best = Some((index, Stepping::Emulated, above));
                break;
            }
            (Probing::SingleStepped, Some(above)) => {
                let pad = |best: usize| code.steps.get(best).is_some_and(|step| step.landing_pad);
                if best.is_none_or(|(best, ..)| pad(best)) {
                    best = Some((index, Stepping::SingleStepped, above));
                }
            }
            (Probing::Unsound, _) | (_, None) => {}
        }
        match passed(code, index, wanted) {
            Some(by) => moved += by,
            None => break,
        }
    }
    let found = best.and_then(|(index, stepping, above)| {
        let site = Site::new(code.steps.get(index)?.address, SiteKind::Entry, stepping);
        Some(Site { above, left_out: (index - start) as u8, ..site })
    });
    found.ok_or_else(|| refusal.unwrap_or(Refusal::Unsteppable { address: code.start() }))
}

/// Returns the reason for an entry that is not emulated, in the words of docs/PROBEABLE.md.
pub(crate) fn why(code: &Code, wanted: &Wanted<'_>) -> &'static str {
    let start = code.at(code.start()).unwrap_or(0);
    let targets = targets(code, wanted.by_table);
    let is_target = |index: usize| targets.binary_search_by_key(&index, |target| target.0).is_ok();
    for index in start..start + PASSED {
        let Some(step) = code.steps.get(index) else { break };
        let address = step.end();
        if passed(code, index, wanted).is_none() {
            return if step.brief { "stack" } else { "slow" };
        }
        if is_target(index + 1) || wanted.with_frame.contains(&(index + 1)) {
            return "branch-target";
        }
        if wanted.exits.iter().any(|exit| exit.address == address) {
            return "no-branch";
        }
    }
    "long"
}

/// Returns the change of the stack pointer by an instruction, if an entry may be behind it.
fn passed(code: &Code, index: usize, wanted: &Wanted<'_>) -> Option<i32> {
    let step = code.steps.get(index)?;
    let follows = code.steps.get(index + 1).is_some_and(|next| next.address == step.end());
    let kept = wanted.kept.iter().all(|&register| !step.effect.writes(register));
    if !step.is_passable() || !follows || !kept {
        return None;
    }
    let by = step.effect.added_to(code.machine.stack_pointer)?;
    (by == 0 || wanted.moves).then_some(by)
}

/// Returns the distance of the stack pointer below its entry value, if a site can have it.
pub(crate) fn above(moved: i32) -> Option<u16> {
    u16::try_from(-i64::from(moved)).ok().filter(|above| above % 8 == 0 && *above <= Site::MOST_ABOVE)
}

/// Returns [`above`] of an instruction that is reached straight from the start.
pub(crate) fn above_at(code: &Code, index: usize) -> Option<u16> {
    let passed = code.steps.get(code.at(code.start())?..index)?;
    let moved = passed.iter().try_fold(0i32, |moved, step| {
        step.effect.added_to(code.machine.stack_pointer).and_then(|by| moved.checked_add(by))
    });
    above(moved?)
}

/// Returns true if an entry probe on this instruction breaks the program, although the kernel steps
/// correctly over others of its kind.
pub(crate) fn breaks(code: &Code, step: &Step) -> bool {
    step.is_long_nop() || code.marks.shadow_stack && matches!(step.flow, Flow::Call(_))
}

/// Returns the targets of the function's direct branches, each with the branch.
pub(crate) fn jumps(code: &Code) -> impl Iterator<Item = (usize, u64)> {
    code.steps.iter().filter_map(|step| match step.flow {
        Flow::Jump(target) | Flow::Branch { target, .. } => Some((landing(code, target)?, step.address)),
        _ => None,
    })
}

/// Returns the targets of the function's branches, with one branch each, sorted.
pub(crate) fn targets(code: &Code, by_table: &[usize]) -> Vec<(usize, u64)> {
    let mut targets: Vec<_> = jumps(code).chain(by_table.iter().map(|&step| (step, code.start()))).collect();
    targets.sort_unstable();
    targets.dedup_by_key(|target| target.0);
    targets
}
