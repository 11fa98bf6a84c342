//! Where calls of a function begin.
//!
//! The best entry is the first instruction that the kernel emulates: a single step costs many times as much, and all
//! of that lands in the measured latency. So the entry slides over instructions that would be single-stepped, as long
//! as the place is still passed exactly once by each call, with the stack pointer the caller gave: what is passed does
//! not touch the stack pointer and goes on with the next instruction, and neither does a branch lead to it or behind it,
//! nor does another function begin there.

use super::trace::landing;
use super::{Site, SiteKind, Stepping};
use crate::Refusal;
use crate::decode::{Code, Flow, Probing, Step};

/// Most instructions that the entry slides over. What they do is not part of the measured time: a few nanoseconds,
/// which more of them would no longer be.
pub(super) const PASSED: usize = 24;

/// The entry site. `by_table` are indices of instructions that indirect jumps may lead to, `exits` the exits.
pub(super) fn entry(code: &Code, by_table: &[usize], exits: &[Site]) -> Result<Site, Refusal> {
    entry_among(code, by_table, exits, |_| true)
}

/// The entry site, at an instruction that `once` says is run once by each call that passes it.
pub(super) fn entry_among(
    code: &Code,
    by_table: &[usize],
    exits: &[Site],
    once: impl Fn(&Step) -> bool,
) -> Result<Site, Refusal> {
    let start = code.at(code.start()).ok_or(Refusal::Undecodable { address: code.start() })?;
    let targets = targets(code, by_table);
    let mut best: Option<(&Step, Stepping)> = None;
    let mut refusal = None;
    for index in start..=start + PASSED {
        let Some(step) = code.steps.get(index) else { break };
        if let Ok(target) = targets.binary_search_by_key(&index, |target| target.0) {
            let from = targets.get(target).map_or(code.start(), |target| target.1);
            refusal = Some(Refusal::LoopsToEntry { from });
            break;
        }
        if exits.iter().any(|exit| exit.address == step.address) {
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
        match step.probing {
            _ if !once(step) || breaks(code, step) => {}
            Probing::Emulated => {
                best = Some((step, Stepping::Emulated));
                break;
            }
            Probing::SingleStepped => {
                if best.is_none_or(|(best, _)| best.landing_pad) {
                    best = Some((step, Stepping::SingleStepped));
                }
            }
            Probing::Unsound => {}
        }
        if !step.passable || code.steps.get(index + 1).is_none_or(|next| next.address != step.end()) {
            break;
        }
    }
    match best {
        Some((step, stepping)) => Ok(Site {
            address: step.address,
            kind: SiteKind::Entry,
            stepping,
            condition: None,
            maybe: false,
            goroutine: false,
        }),
        None => Err(refusal.unwrap_or(Refusal::Unsteppable { address: code.start() })),
    }
}

/// Whether a probe on this instruction as an entry breaks the program, although the kernel steps correctly over others of
/// its kind.
pub(super) fn breaks(code: &Code, step: &Step) -> bool {
    step.is_long_nop() || code.marks.shadow_stack && matches!(step.flow, Flow::Call(_))
}

/// The instructions that branches of the function lead to, with one branch each, sorted.
pub(super) fn targets(code: &Code, by_table: &[usize]) -> Vec<(usize, u64)> {
    let direct = code.steps.iter().filter_map(|step| match step.flow {
        Flow::Jump(target) | Flow::Branch { target, .. } => Some((landing(code, target)?, step.address)),
        _ => None,
    });
    let mut targets: Vec<_> = direct.chain(by_table.iter().map(|&step| (step, code.start()))).collect();
    targets.sort_unstable();
    targets.dedup_by_key(|target| target.0);
    targets
}
