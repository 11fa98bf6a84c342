//! Exits that a loop passes.
//!
//! A conditional exit leaves only where its condition holds, but its probe is hit either way. Outside of a loop that
//! makes one hit a call at most. On a cycle of the flow graph it makes one hit a turn: a search through a list that
//! ends in a conditional tail call costs a trap for each element, and no count of calls tells how many.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::Refusal;
use crate::Site;
use crate::dataflow::trace::landing;
use crate::decode::{Code, Flow, Step};

/// Most instructions that are visited for all exits of a function together. It bounds the time; real functions have
/// few conditional exits, and need some thousand.
const VISITS: usize = 1 << 22;

/// Where jumps through tables lead, by the index of the jump.
pub(crate) type Jumps = BTreeMap<usize, Rc<[usize]>>;

/// Refuses a conditional one of `probed` that a call may pass more than once, where `exits` leave the function. More than is
/// followed counts as that, too.
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

/// All that may run after an instruction, where `next` tells what runs right after one; `None` where that is more than is
/// left of the `visits`.
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

/// The indices of the instructions that may run after another one.
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
        // One that leaves is an exit. Where a table is not known, it leads to labels whose address is taken.
        Flow::Indirect(_) => match jumps.get(&index) {
            Some(targets) if !targets.is_empty() => targets.to_vec(),
            _ if exits.iter().any(|exit| exit.address == step.address) => Vec::new(),
            _ => labels.to_vec(),
        },
        Flow::Return | Flow::Stop | Flow::AuthenticatedReturn | Flow::SystemReturn => Vec::new(),
    }
}
