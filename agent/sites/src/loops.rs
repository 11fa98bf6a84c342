//! Exits that a loop passes.
//!
//! A conditional exit leaves only if its condition holds, but its probe is hit either way. Outside
//! a loop that makes at most one hit a call. On a cycle of the flow graph it makes one hit a turn:
//! a list search ending in a conditional tail call costs a trap per element, which call counts do
//! not show.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::Refusal;
use crate::Site;
use crate::dataflow::trace::landing;
use crate::decode::{Code, Flow, Step};

/// Most instructions visited for all exits of a function together: a bound on time. Real functions
/// have few conditional exits, and need some thousand.
const VISITS: usize = 1 << 22;

/// Targets of jumps through tables, by the index of the jump.
pub(crate) type Jumps = BTreeMap<usize, Rc<[usize]>>;

/// Refuses a conditional exit in `probed` that a call may pass more than once, or beyond the search
/// limit; `exits` leave the function.
pub(crate) fn check(code: &Code, jumps: &Jumps, exits: &[Site], probed: &[Site]) -> Result<(), Refusal> {
    let labels: Vec<usize> = code.references.iter().filter_map(|reference| code.at(reference.to)).collect();
    let visits = Cell::new(VISITS);
    for exit in probed.iter().filter(|exit| exit.condition.is_some()) {
        let Some(index) = code.at(exit.address) else { continue };
        let next = |step| successors(code, jumps, exits, &labels, step);
        if behind(code, index, &visits, &next).is_none_or(|behind| behind.contains(&index)) {
            return Err(Refusal::ExitInLoop { address: exit.address });
        }
    }
    Ok(())
}

/// Returns all successors of an instruction, by `next` for direct ones; `None` if they exceed the
/// rest of the `visits`.
pub(crate) fn behind(
    code: &Code,
    index: usize,
    visits: &Cell<usize>,
    next: &dyn Fn(usize) -> Vec<usize>,
) -> Option<Vec<usize>> {
    let mut seen = vec![false; code.steps.len()];
    let mut behind = Vec::new();
    let mut at = index;
    let mut done = 0;
    loop {
        for next in next(at) {
            visits.set(visits.get().checked_sub(1)?);
            if seen.get_mut(next).is_some_and(|seen| !std::mem::replace(seen, true)) {
                behind.push(next);
            }
        }
        let Some(&next) = behind.get(done) else { return Some(behind) };
        (at, done) = (next, done + 1);
    }
}

/// Returns the indices of the direct successors of an instruction.
pub(crate) fn successors(
    code: &Code,
    jumps: &Jumps,
    exits: &[Site],
    labels: &[usize],
    index: usize,
) -> Vec<usize> {
    let Some(step) = code.steps.get(index) else { return Vec::new() };
    let follows = |next: &Step| next.address == step.end();
    let next = code.steps.get(index + 1).filter(|next| follows(next)).map(|_| index + 1);
    match step.flow {
        Flow::Next | Flow::Call(_) => Vec::from_iter(next),
        Flow::Jump(target) => Vec::from_iter(landing(code, target)),
        Flow::Branch { target, .. } => landing(code, target).into_iter().chain(next).collect(),
        // A jump that leaves is an exit. An unknown table leads to labels whose address is taken.
        Flow::Indirect(_) => match jumps.get(&index) {
            Some(targets) if !targets.is_empty() => targets.to_vec(),
            _ if exits.iter().any(|exit| exit.address == step.address) => Vec::new(),
            _ => labels.to_vec(),
        },
        Flow::Return | Flow::Stop | Flow::AuthenticatedReturn | Flow::SystemReturn => Vec::new(),
    }
}
