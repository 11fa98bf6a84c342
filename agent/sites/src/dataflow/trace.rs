//! Tracking of registers through a function.
//!
//! Two questions need more than single instructions: is an exit's stack pointer that of the entry,
//! and what is an indirect jump's target? To answer them, the code is run on *known* register
//! contents ([`Value`]), along all paths at once, until nothing changes (abstract interpretation).
//!
//! Code that no direct branch reaches is followed afterwards, with the state at the jumps or calls
//! that must lead there: a jump table with unknown entries, or an exception to a landing pad, which
//! has the stack pointer of the call. These assumptions are *weak*: they do not change known state.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::jump_tables::{Tables, Targets};
use super::transfer::{apply, get, join, set, target};
use super::value::{Table, Value};
use crate::Refusal;
use crate::decode::{Code, Flow, NULL_BYTES, Step};

/// Most places where paths meet, times registers: a bound on memory (16 bytes each).
const STATE_VALUES: usize = 1 << 20;

/// Most instructions and table entries followed, repeatedly where paths meet: a bound on time. The
/// interpreter loop of CPython 3.11 needs 65,000.
const EFFORT: usize = 1 << 21;

/// Restarts of the search because a table leads to a place that was not known as a target.
const ROUNDS: usize = 64;

/// Known contents of all registers at one place.
type State = Box<[Value]>;

/// Way in which an instruction was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    /// Not reached: padding, data, or code that is never run.
    Never,
    /// From the entry, by branches and known tables.
    Directly,
    /// By a jump through a table that is unknown, or known in part.
    ByTable,
    /// Presumably by an exception.
    ByException,
}

/// A place where control may leave the straight path, and the state there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// Index of the instruction.
    pub(crate) step: usize,
    /// The stack pointer before it.
    pub(crate) stack_pointer: Value,
    /// Source of an indirect jump's target.
    pub(crate) target: Target,
    /// Way in which it was reached.
    pub(crate) reached: Reached,
}

/// Known target of an indirect jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// No indirect jump.
    Direct,
    /// An entry of a table.
    Table(Table),
    /// A pointer from outside.
    Foreign,
    /// Unknown.
    Unknown,
}

/// The result.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Reached returns and jumps, in address order.
    pub(crate) endings: Vec<Ending>,
    /// Reached direct calls, as indices of instructions, and the stack pointer before each.
    pub(crate) calls: Vec<(usize, Value)>,
    /// Address of a part's end that is reached by falling through.
    pub(crate) falls_through: Option<u64>,
    /// True if at most an unknown table or an exception reaches some non-padding instruction.
    pub(crate) orphans: bool,
    /// True if a table leads into the function.
    pub(crate) tabled: bool,
}

struct Tracer<'c> {
    code: &'c Code,
    tables: &'c Tables<'c>,
    /// Indices of the instructions at which paths may meet, sorted.
    leaders: &'c [usize],
    /// State at each leader.
    states: Vec<Option<State>>,
    /// Way in which each leader was first reached.
    phases: Vec<Reached>,
    reached: Vec<Reached>,
    /// Leaders whose state changed.
    work: Vec<usize>,
    /// Calls before a branch target, which may never return, and faulting accesses: the return's
    /// place, and the state there. They follow the branches, which show if a return is possible.
    returns: BTreeMap<usize, (usize, State)>,
    /// Jumps through tables of unknown length: the targets, the number done, and the state there.
    /// They come last, in table order.
    jumps: BTreeMap<usize, (Rc<[usize]>, usize, State)>,
    /// The tables that values refer to.
    seen_tables: Vec<Table>,
    /// Table targets that are no leaders.
    missing: Vec<usize>,
    /// True if some jump leads, or may lead, to a place in the function.
    indirect: bool,
    /// True if a table leads into the function.
    tabled: bool,
    /// True if some function is called.
    calls: bool,
    falls_through: Option<u64>,
    phase: Reached,
    /// Used part of [`EFFORT`].
    effort: usize,
}

/// Tracks the registers through `code`.
pub(crate) fn trace(code: &Code, tables: &Tables<'_>) -> Result<Trace, Refusal> {
    let mut leaders = leaders(code);
    let mut effort = 0;
    for _ in 0..ROUNDS {
        let values = leaders.len().saturating_mul(usize::from(code.machine.registers));
        if values > STATE_VALUES {
            let limit = STATE_VALUES / usize::from(code.machine.registers);
            return Err(Refusal::TooIntricate { what: "branch targets", limit });
        }
        let mut tracer = Tracer {
            code,
            tables,
            leaders: &leaders,
            states: vec![None; leaders.len()],
            phases: vec![Reached::Never; leaders.len()],
            reached: vec![Reached::Never; code.steps.len()],
            work: Vec::new(),
            returns: BTreeMap::new(),
            jumps: BTreeMap::new(),
            seen_tables: Vec::new(),
            missing: Vec::new(),
            indirect: false,
            tabled: false,
            calls: false,
            falls_through: None,
            phase: Reached::Directly,
            effort,
        };
        tracer.run();
        if tracer.effort > EFFORT {
            return Err(Refusal::TooIntricate { what: "ways through it", limit: EFFORT });
        }
        if tracer.missing.is_empty() {
            return Ok(tracer.result());
        }
        effort = tracer.effort;
        let missing = tracer.missing;
        leaders.extend(missing);
        leaders.sort_unstable();
        leaders.dedup();
    }
    Err(Refusal::IndirectJump { address: code.start() })
}

/// Returns meeting places of paths: entry, branch targets, code after a final instruction.
fn leaders(code: &Code) -> Vec<usize> {
    let mut leaders: Vec<usize> = code.ranges.iter().filter_map(|range| code.at(range.start)).collect();
    for (index, step) in code.steps.iter().enumerate() {
        if let Flow::Jump(target) | Flow::Branch { target, .. } = step.flow {
            leaders.extend(landing(code, target));
        }
        let goes_on = step.flow.goes_on();
        if !goes_on {
            leaders.extend(after_padding(code, index + 1));
        }
    }
    leaders.extend(code.references.iter().filter_map(|reference| code.at(reference.to)));
    leaders.sort_unstable();
    leaders.dedup();
    leaders
}

/// Returns the first non-padding instruction from `index` on.
fn after_padding(code: &Code, index: usize) -> Option<usize> {
    let rest = code.steps.get(index..)?;
    rest.iter().position(|step| !step.padding).map(|padding| index + padding)
}

/// Returns the index of the instruction at `target`, or of one whose LOCK prefix it skips.
pub(crate) fn landing(code: &Code, target: u64) -> Option<usize> {
    code.at(target).or_else(|| {
        let before = code.at(target.wrapping_sub(1))?;
        code.steps.get(before).filter(|step| step.locked).map(|_| before)
    })
}

/// Returns true if an instruction touches memory that no program has. Some programs abort this way.
fn faults(step: &Step, state: &[Value]) -> bool {
    let address = step.touches.and_then(|(base, offset)| match base {
        None => Some(offset.into()),
        Some(base) => match get(state, base) {
            Value::Constant(base) => Some(base.wrapping_add(offset.into())),
            _ => None,
        },
    });
    address.is_some_and(|address| address < NULL_BYTES)
}

impl Tracer<'_> {
    fn run(&mut self) {
        if let Some(entry) = self.code.at(self.code.start()) {
            let mut state: State = vec![Value::Foreign; usize::from(self.code.machine.registers)].into();
            set(&mut state, self.code.machine.stack_pointer, Value::Entry(0));
            self.meet(entry, &state);
            self.work_off();
        }
        // Only a part of a table may have been read, so the remaining code counts as reached by it.
        if self.indirect {
            self.phase = Reached::ByTable;
            let state = self.joined(|flow| matches!(flow, Flow::Indirect(_)));
            self.follow_orphans(state.as_deref());
        }
        if self.calls {
            self.phase = Reached::ByException;
            let state = self.joined(|flow| matches!(flow, Flow::Call(_)));
            self.follow_orphans(state.as_deref());
        }
    }

    /// Returns the merged state after all reached instructions of a kind.
    fn joined(&self, kind: impl Fn(Flow) -> bool) -> Option<State> {
        let mut joined: Option<State> = None;
        let mut tables = self.seen_tables.clone();
        self.replay(|_, step, state| {
            if kind(step.flow) {
                let mut after = state.clone();
                apply(self.code, step.effect, &mut after, &mut tables);
                if let Some(joined) = &mut joined {
                    join(joined, &after);
                } else {
                    joined = Some(after);
                }
            }
        });
        joined
    }

    /// Follows unreached code after instructions that do not continue.
    fn follow_orphans(&mut self, state: Option<&[Value]>) {
        let unknown = vec![Value::Unknown; usize::from(self.code.machine.registers)];
        let state = state.unwrap_or(&unknown);
        for number in 0..self.leaders.len() {
            let Some(&index) = self.leaders.get(number) else { continue };
            let unreached = self.reached.get(index) == Some(&Reached::Never);
            let unnamed = self.states.get(number).is_some_and(Option::is_none);
            if unreached && unnamed && self.is_orphan(index) {
                self.meet(index, state);
                self.work_off();
            }
        }
    }

    /// Returns true if only an unknown branch reaches an instruction: no predecessor continues.
    fn is_orphan(&self, index: usize) -> bool {
        let before = self.code.steps.get(..index).unwrap_or_default().iter().rev().find(|step| !step.padding);
        let Some(before) = before else { return true };
        let part = |address| self.code.ranges.iter().position(|range| range.contains(&address));
        let goes_on = before.flow.goes_on();
        let same_part =
            self.code.steps.get(index).is_some_and(|step| part(step.address) == part(before.address));
        !goes_on || !same_part
    }

    /// Merges a state into a leader.
    fn meet(&mut self, index: usize, state: &[Value]) {
        let Ok(number) = self.leaders.binary_search(&index) else {
            self.missing.push(index);
            return;
        };
        let (Some(known), Some(phase)) = (self.states.get_mut(number), self.phases.get_mut(number)) else {
            return;
        };
        let changed = match known {
            None => {
                *known = Some(state.into());
                *phase = self.phase;
                true
            }
            Some(known) => *phase == self.phase && join(known, state),
        };
        if changed {
            self.work.push(number);
        }
    }

    fn work_off(&mut self) {
        while self.effort <= EFFORT {
            self.effort += 1;
            self.work_off_branches();
            let doubtful = match self.returns.pop_first() {
                Some((_, next)) => next,
                None => match self.next_entry() {
                    Some(next) => next,
                    None => return,
                },
            };
            let (step, state) = doubtful;
            if !self.contradicts(step, &state) {
                self.meet(step, &state);
            }
        }
    }

    /// Returns the next table entry to be followed.
    fn next_entry(&mut self) -> Option<(usize, State)> {
        loop {
            let mut jump = self.jumps.first_entry()?;
            let (steps, done, state) = jump.get_mut();
            if let Some(&step) = steps.get(*done) {
                *done += 1;
                return Some((step, state.clone()));
            }
            jump.remove();
        }
    }

    fn work_off_branches(&mut self) {
        while let Some(number) = self.work.pop().filter(|_| self.effort <= EFFORT) {
            if let (Some(&start), Some(Some(state))) = (self.leaders.get(number), self.states.get(number)) {
                self.straight(start, state.clone());
            }
        }
    }

    /// Returns true if an instruction is known to run with another stack height. Then a table entry
    /// that leads there was read behind the table's end, or the call before it never returns: code
    /// that runs with two heights could not return.
    fn contradicts(&self, step: usize, state: &[Value]) -> bool {
        let stack_pointer = self.code.machine.stack_pointer;
        let known =
            self.leaders.binary_search(&step).ok().and_then(|number| self.states.get(number)?.as_ref());
        match (known.map(|known| get(known, stack_pointer)), get(state, stack_pointer)) {
            (Some(Value::Entry(known)), Value::Entry(new)) => known != new,
            _ => false,
        }
    }

    /// Follows the instructions from a leader to the next one, or to the end of the control flow.
    fn straight(&mut self, start: usize, mut state: State) {
        let code = self.code;
        let mut index = start;
        let mut may_end = None;
        while let Some(step) = code.steps.get(index) {
            if index != start && self.leaders.binary_search(&index).is_ok() {
                match may_end {
                    // A call may never return.
                    Some(end) => {
                        self.returns.insert(end, (index, state));
                    }
                    None => self.meet(index, &state),
                }
                return;
            }
            self.effort += 1;
            if !step.padding {
                may_end = (matches!(step.flow, Flow::Call(_)) || faults(step, &state)).then_some(index);
            }
            if let Some(reached) = self.reached.get_mut(index).filter(|reached| **reached == Reached::Never) {
                *reached = self.phase;
            }
            let pointed = match step.flow {
                Flow::Indirect(pointer) => target(code, pointer, &state, &mut self.seen_tables),
                _ => Target::Direct,
            };
            apply(code, step.effect, &mut state, &mut self.seen_tables);
            match step.flow {
                Flow::Next => {}
                Flow::Call(_) => {
                    self.calls = true;
                    // Only padding follows: the call never returns.
                    let end = code
                        .ranges
                        .iter()
                        .find(|range| range.contains(&step.address))
                        .map_or(0, |range| range.end);
                    if after_padding(code, index + 1)
                        .and_then(|next| code.steps.get(next))
                        .is_none_or(|next| next.address >= end || next.address < step.address)
                    {
                        return;
                    }
                }
                Flow::Branch { target, .. } => {
                    if let Some(target) = landing(code, target) {
                        self.meet(target, &state);
                    }
                }
                Flow::Jump(target) => {
                    if let Some(target) = landing(code, target) {
                        self.meet(target, &state);
                    }
                    return;
                }
                Flow::Indirect(_) => {
                    self.follow_table(index, pointed, &state);
                    return;
                }
                Flow::Return | Flow::Stop | Flow::AuthenticatedReturn | Flow::SystemReturn => return,
            }
            let next = code.steps.get(index + 1).filter(|next| next.address == step.end());
            if next.is_none() || code.ranges.iter().any(|range| range.end == step.end()) {
                // After a call that never returns, or a fault, the instruction may be missing.
                if may_end.is_none() {
                    self.falls_through.get_or_insert(step.end());
                }
                return;
            }
            index += 1;
        }
    }

    fn follow_table(&mut self, jump: usize, target: Target, state: &[Value]) {
        match target {
            Target::Direct | Target::Foreign => {}
            Target::Table(table) => match self.tables.targets(table, self.code) {
                Targets::Inside { steps, .. } => {
                    (self.indirect, self.tabled) = (true, true);
                    self.jumps.insert(jump, (steps, 0, state.into()));
                }
                Targets::Outside => {}
                Targets::Unknown => self.indirect = true,
            },
            Target::Unknown => self.indirect = true,
        }
    }

    /// Visits each reached instruction with the state before it.
    fn replay(&self, mut visit: impl FnMut(usize, &Step, &State)) {
        let mut tables = self.seen_tables.clone();
        for (number, &start) in self.leaders.iter().enumerate() {
            let Some(Some(state)) = self.states.get(number) else { continue };
            let mut state = state.clone();
            let mut index = start;
            while let Some(step) = self.code.steps.get(index) {
                if index != start && self.leaders.binary_search(&index).is_ok() {
                    break;
                }
                visit(index, step, &state);
                apply(self.code, step.effect, &mut state, &mut tables);
                if !step.flow.goes_on() {
                    break;
                }
                index += 1;
                if self.code.steps.get(index).is_none_or(|next| next.address != step.end()) {
                    break;
                }
            }
        }
    }

    fn result(self) -> Trace {
        let (mut endings, mut calls) = (Vec::new(), Vec::new());
        let mut tables = self.seen_tables.clone();
        self.replay(|index, step, state| {
            let stack_pointer = get(state, self.code.machine.stack_pointer);
            let target = match step.flow {
                Flow::Call(Some(_)) => return calls.push((index, stack_pointer)),
                Flow::Next | Flow::Call(None) | Flow::Stop => return,
                Flow::Indirect(pointer) => target(self.code, pointer, state, &mut tables),
                _ => Target::Direct,
            };
            let reached = self.reached.get(index).copied().unwrap_or(Reached::Never);
            endings.push(Ending { step: index, stack_pointer, target, reached });
        });
        endings.sort_unstable_by_key(|ending| ending.step);
        let orphans =
            self.code.steps.iter().zip(&self.reached).any(|(step, reached)| {
                *reached != Reached::Directly && !step.padding && step.flow != Flow::Stop
            });
        Trace { endings, calls, falls_through: self.falls_through, orphans, tabled: self.tabled }
    }
}
