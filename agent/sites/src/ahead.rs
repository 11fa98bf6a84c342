//! Exits ahead of the returns.
//!
//! On x86-64 kernels emulate branches, but no `ret`. The code between a call's last branch and its
//! return usually takes nanoseconds: it restores registers. So the *end* of a function is all code
//! from which every path returns within [`INSTRUCTIONS`], with no call and no loop. A call that is
//! in the end stays there, so each call crosses its edge once. If the instruction before the edge
//! is a branch that the kernel emulates, with a known distance of the stack pointer below its entry
//! value, the exit is on that branch, and counts if the branch goes to the end; the returns behind
//! it carry no probe.
//!
//! In an end a signal may still interrupt the call, and a fault may end the program; if a handler
//! then leaves by `longjmp`, the call counts as returned. Go recovers from faults, so nothing in
//! its ends may fault.
//!
//! If an edge has no such exit (behind a call, or a jump through a table), the code behind it is
//! removed from the end, until all edges have one. Returns outside the end stay exits themselves.

use std::cell::Cell;
use std::ops::Range;

use crate::dataflow::trace::{Reached, landing};
use crate::dataflow::value::Value;
use crate::decode::{Code, Flow, Step};
use crate::entry::{above, breaks, jumps};
use crate::exits::{Checked, site};
use crate::loops::{behind, successors};
use crate::{Site, SiteKind, Stepping};

/// Maximum path lengths of an end, tried in turn. The first that gives the most returns is taken:
/// it leaves out the least.
const INSTRUCTIONS: [u8; 3] = [8, 16, 24];

/// Number of edges that an end may have beyond its number of returns.
const MORE_EDGES: usize = 16;

/// Most conditional edges that one call may pass: calls that do not take an edge pay for it too. On
/// bare metal a single step costs about as much as three emulated instructions.
const PASSED_EDGES: usize = 3;

/// Most instructions visited to find the branches of one function that are in a loop.
const VISITS: usize = 1 << 16;

/// Per instruction, the length of its longest path to a return; 0 if it is not in the end.
type End = Vec<u8>;

/// Returns the instructions from one in the end to a return; 0 for any other instruction.
fn length_from(index: usize, end: &End) -> u8 {
    end.get(index).copied().unwrap_or(0)
}

fn has(end: &End, index: usize) -> bool {
    length_from(index, end) != 0
}

fn put(end: &mut End, index: usize, length: u8) {
    if let Some(place) = end.get_mut(index) {
        *place = length;
    }
}

/// Returns `exits`, moved ahead if possible. Calls run straight from the start to `entry`.
pub(crate) fn ahead(code: &Code, ways: &Checked, exits: Vec<Site>, entry: u64) -> Vec<Site> {
    moved(code, ways, exits, entry, false)
}

/// Like `ahead` for Go, where a recovered panic may leave a call: nothing in an end may fault.
pub(crate) fn ahead_of_go(code: &Code, ways: &Checked, exits: Vec<Site>, entry: u64) -> Vec<Site> {
    moved(code, ways, exits, entry, true)
}

fn moved(code: &Code, ways: &Checked, exits: Vec<Site>, entry: u64, recovers: bool) -> Vec<Site> {
    if !exits.iter().any(is_stepped) || ways.leads_anywhere {
        return exits;
    }
    let Some(search) = Search::new(code, ways, entry, recovers) else { return exits };
    let returns = search.returns(&exits);
    let (mut best, mut most_moved) = (None, 0);
    for most in INSTRUCTIONS {
        let end = search.seen(search.reaching(&returns, most), &returns);
        let moved = returns.iter().filter(|&&index| has(&end, index)).count();
        let edges = search.edges(&end);
        let cheap = edges.len() <= moved + MORE_EDGES && search.few_are_passed(&edges);
        if moved > most_moved && cheap {
            (best, most_moved) = (Some((end, edges)), moved);
        }
    }
    let Some((end, edges)) = best else { return exits };
    let mut exits = exits;
    exits.retain(|exit| !code.at(exit.address).is_some_and(|index| has(&end, index)));
    for edge in edges {
        let at = exits.partition_point(|exit| exit.address < edge.address);
        exits.insert(at, edge);
    }
    exits
}

/// Returns true if an instruction touches memory at an address that no program has.
fn aborts(step: &Step) -> bool {
    matches!(step.touches, Some((None, _)))
}

/// Returns true if an exit is on a return that the kernel single-steps.
pub(crate) fn is_stepped(exit: &Site) -> bool {
    exit.kind == SiteKind::Return && exit.stepping == Stepping::SingleStepped
}

/// Returns the reasons for exits on single-stepped returns, in the words of docs/PROBEABLE.md.
pub(crate) fn why(code: &Code, ways: &Checked, exits: &[Site], entry: u64) -> Vec<(u64, &'static str)> {
    let Some(search) = Search::new(code, ways, entry, false) else { return Vec::new() };
    let whole = search.reaching(&search.returns(&ways.sites), *INSTRUCTIONS.last().unwrap_or(&0));
    let reason = |exit: &Site| match code.at(exit.address) {
        _ if ways.leads_anywhere => "table",
        Some(index) if has(&whole, index) => search.why(index, &whole),
        _ => "stack",
    };
    exits.iter().filter(|exit| is_stepped(exit)).map(|exit| (exit.address, reason(exit))).collect()
}

struct Search<'a> {
    code: &'a Code,
    ways: &'a Checked,
    /// From the first instruction to the entry.
    begin: Range<usize>,
    /// True if faults are recovered from.
    recovers: bool,
    /// Targets of direct jumps and branches, and the addresses of these, sorted.
    jumps: Vec<(usize, u64)>,
    /// True for instructions in a loop, as far as it was determined.
    loops: Vec<Cell<Option<bool>>>,
    /// Rest of [`VISITS`].
    visits: Cell<usize>,
}

impl<'a> Search<'a> {
    fn new(code: &'a Code, ways: &'a Checked, entry: u64, recovers: bool) -> Option<Self> {
        let begin = code.at(code.start())?..code.at(entry)? + 1;
        let mut jumps: Vec<(usize, u64)> = jumps(code).collect();
        jumps.sort_unstable();
        let loops = vec![Cell::new(None); code.steps.len()];
        Some(Self { code, ways, begin, recovers, jumps, loops, visits: Cell::new(VISITS) })
    }

    /// Finds the returns whose exits may be moved.
    fn returns(&self, exits: &[Site]) -> Vec<usize> {
        exits.iter().filter(|exit| is_stepped(exit)).filter_map(|exit| self.end_of(exit)).collect()
    }

    /// Returns the reason why a return is in no end, with the largest possible end as `whole`.
    fn why(&self, index: usize, whole: &End) -> &'static str {
        let mut seen = vec![index];
        let mut done = 0;
        while let Some(&index) = seen.get(done) {
            let before = self.before(index);
            if self.by_table(index) {
                return "table";
            }
            if before.is_empty() {
                return "landing-pad";
            }
            for before in before {
                if has(whole, before) {
                    if !seen.contains(&before) {
                        seen.push(before);
                    }
                } else if self.edge(before, whole).is_none() {
                    return self.why_no_edge(before);
                }
            }
            done += 1;
        }
        "many-branches"
    }

    fn why_no_edge(&self, index: usize) -> &'static str {
        let flow = self.code.steps.get(index).map(|step| step.flow);
        match flow {
            _ if self.begin.contains(&index) => "no-branch",
            Some(Flow::Call(_)) => "call",
            Some(Flow::Next) => "long",
            _ if self.height(index).is_none() => "stack",
            _ if self.is_in_loop(index) => "loop",
            _ => "branch",
        }
    }

    /// Returns the index of a return at which the stack is known to be balanced.
    fn end_of(&self, exit: &Site) -> Option<usize> {
        let index = self.code.at(exit.address)?;
        let known = self.height(index)? == 0 && !exit.maybe && !self.begin.contains(&index);
        known.then_some(index)
    }

    /// Returns the known distance of the stack pointer below its entry value at an instruction.
    fn height(&self, index: usize) -> Option<u16> {
        let at = self.ways.endings.binary_search_by_key(&index, |ending| ending.step).ok()?;
        let ending = self.ways.endings.get(at)?;
        match (ending.stack_pointer, ending.reached) {
            (Value::Entry(offset), Reached::Directly) => above(offset),
            _ => None,
        }
    }

    /// Returns all code that returns within `most` instructions on every path, with no call or
    /// loop.
    fn reaching(&self, returns: &[usize], most: u8) -> End {
        let mut end = vec![0; self.code.steps.len()];
        returns.iter().for_each(|&index| put(&mut end, index, 1));
        let mut work = returns.to_vec();
        while let Some(index) = work.pop() {
            for before in self.before(index) {
                let length = self.length(before, &end);
                if !has(&end, before) && self.only_goes_on(before) && (1..=most).contains(&length) {
                    put(&mut end, before, length);
                    work.push(before);
                }
            }
        }
        end
    }

    /// Returns true if an instruction only continues, to a known place, and no call begins there.
    fn only_goes_on(&self, index: usize) -> bool {
        let inside = |target| landing(self.code, target).is_some();
        !self.begin.contains(&index)
            && self.code.steps.get(index).is_some_and(|step| match step.flow {
                Flow::Next => step.brief && !aborts(step) && !(self.recovers && step.faults),
                Flow::Jump(target) | Flow::Branch { target, condition: Some(_) } => inside(target),
                _ => false,
            })
    }

    /// Returns the instructions from one to a return, if all successors are in the end; else 0.
    fn length(&self, index: usize, end: &End) -> u8 {
        let mut longest = 0;
        for next in self.next(index) {
            match length_from(next, end) {
                0 => return 0,
                length => longest = length.max(longest),
            }
        }
        if longest == 0 { 0 } else { longest + 1 }
    }

    fn next(&self, index: usize) -> Vec<usize> {
        successors(self.code, &self.ways.jumps, &self.ways.sites, &[], index)
    }

    /// Returns the possible predecessors of an instruction.
    fn before(&self, index: usize) -> Vec<usize> {
        let mut before = Vec::new();
        let from = self.jumps.partition_point(|jump| jump.0 < index);
        for &(to, address) in self.jumps.get(from..).unwrap_or_default() {
            if to != index {
                break;
            }
            before.extend(self.code.at(address));
        }
        before.extend(index.checked_sub(1).filter(|&above| self.runs_on(above)));
        before
    }

    /// Returns true if the instruction behind `index` may run after it. Padding does not count.
    fn runs_on(&self, mut index: usize) -> bool {
        loop {
            let (Some(step), Some(next)) = (self.code.steps.get(index), self.code.steps.get(index + 1))
            else {
                return false;
            };
            if !step.flow.goes_on() || aborts(step) || next.address != step.end() {
                return false;
            }
            if !step.padding || self.is_target(index) {
                return true;
            }
            match index.checked_sub(1) {
                Some(before) => index = before,
                None => return true,
            }
        }
    }

    fn is_target(&self, index: usize) -> bool {
        self.jumps.binary_search_by_key(&index, |jump| jump.0).is_ok() || self.by_table(index)
    }

    fn by_table(&self, index: usize) -> bool {
        [&self.ways.by_table, &self.ways.with_frame]
            .iter()
            .any(|targets| targets.binary_search(&index).is_ok())
    }

    /// Returns the rest of an end in which each edge has an exit.
    fn seen(&self, mut end: End, returns: &[usize]) -> End {
        let members: Vec<usize> = (0..end.len()).filter(|&index| has(&end, index)).collect();
        loop {
            let mut all = true;
            for &index in &members {
                let goes_on = returns.contains(&index) || self.length(index, &end) > 0;
                let stays = !has(&end, index) || goes_on && self.all_seen(index, &end);
                if !stays {
                    put(&mut end, index, 0);
                    all = false;
                }
            }
            if all {
                return end;
            }
        }
    }

    /// Returns true if each path to an instruction of the end is from the end or has an exit.
    fn all_seen(&self, index: usize, end: &End) -> bool {
        let before = self.before(index);
        // An exception may land on code that nothing leads to.
        let landed = before.is_empty() || self.by_table(index);
        !landed && before.iter().all(|before| has(end, *before) || self.edge(*before, end).is_some())
    }

    fn edges(&self, end: &End) -> Vec<Site> {
        let mut edges = Vec::new();
        for index in 0..end.len() {
            if !has(end, index) {
                edges.extend(self.edge(index, end));
            }
        }
        edges
    }

    /// Returns the exit on an instruction before the end.
    fn edge(&self, index: usize, end: &End) -> Option<Site> {
        let step = self.code.steps.get(index).filter(|_| !self.begin.contains(&index))?;
        let above = self.height(index)?;
        let (condition, left_out) = self.condition(index, step, end)?;
        let exit = site(self.code, index, SiteKind::Ahead).ok()?;
        let sound = exit.stepping == Stepping::Emulated && !breaks(self.code, step);
        // A branch that always leads to the end is passed once.
        let once = condition.is_none() || !self.is_in_loop(index);
        (sound && once).then_some(Site { condition, above, left_out, ..exit })
    }

    /// Returns the condition on which a branch leads to the end, and the length of the end.
    fn condition(&self, index: usize, step: &Step, end: &End) -> Option<(Option<u8>, u8)> {
        match step.flow {
            Flow::Jump(target) => {
                let taken = length_from(landing(self.code, target)?, end);
                (taken > 0).then_some((None, taken))
            }
            Flow::Branch { target, condition: Some(condition) } => {
                let taken = length_from(landing(self.code, target)?, end);
                let next = if self.runs_on(index) { length_from(index + 1, end) } else { 0 };
                match (taken, next) {
                    (0, 0) => None,
                    (_, 0) => Some((Some(condition), taken)),
                    // The lowest bit negates.
                    (0, _) => Some((Some(condition ^ 1), next)),
                    _ => Some((None, taken.max(next))),
                }
            }
            _ => None,
        }
    }

    /// Returns true if a call may pass an instruction repeatedly, or the search limit is hit.
    fn is_in_loop(&self, index: usize) -> bool {
        let Some(known) = self.loops.get(index) else { return true };
        if known.get().is_none() {
            known.set(Some(self.behind(index).is_none_or(|behind| behind.contains(&index))));
        }
        known.get() != Some(false)
    }

    /// Returns all possible successors of an instruction; `None` above the search limit.
    fn behind(&self, index: usize) -> Option<Vec<usize>> {
        behind(self.code, index, &self.visits, &|step| self.next(step))
    }

    /// True if no call passes more than [`PASSED_EDGES`] conditional `edges`, none in a loop.
    fn few_are_passed(&self, edges: &[Site]) -> bool {
        let conditional = edges.iter().filter(|edge| edge.condition.is_some());
        let indices: Vec<usize> = conditional.filter_map(|edge| self.code.at(edge.address)).collect();
        // Edges followed by one more, then edges followed by two more, and so on.
        let mut left = indices.clone();
        for _ in 0..PASSED_EDGES {
            let mut before = Vec::new();
            for &index in &indices {
                let Some(behind) = self.behind(index) else { return false };
                before.extend(left.iter().any(|other| behind.contains(other)).then_some(index));
            }
            left = before;
        }
        left.is_empty()
    }
}
