//! Exit sites of functions.

use std::rc::Rc;

use crate::Refusal;
use crate::dataflow::jump_tables::{Tables, Targets};
use crate::dataflow::trace::{Ending, Reached, Target, Trace, landing, trace};
use crate::dataflow::value::{Balance, Value};
use crate::decode::{Code, Flow, Pointer, Probing, Step};
use crate::entry::{Wanted, above, breaks};
use crate::loops::Jumps;
use crate::{Ends, Site, SiteKind, Stepping, Unwinding};

/// Most instructions searched backwards between the load and the store of an exclusive sequence
/// (the architecture requires far less: Arm ARM B2.17.5).
const EXCLUSIVE_WINDOW: usize = 32;

/// A direct jump out of the function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    /// The jump.
    pub(crate) from: u64,
    /// Its target.
    pub(crate) target: u64,
    /// The stack pointer there, compared with that at the entry.
    pub(crate) balance: Balance,
}

/// Ways out of a function.
#[derive(Debug)]
pub(crate) struct Exits {
    /// Sound exits.
    sites: Vec<Site>,
    /// Direct jumps out of it, sound or not.
    pub(crate) leaving: Vec<Leaving>,
    /// Targets of entries behind the tables that were read: mostly none.
    pub(crate) beyond_tables: Vec<u64>,
    /// The first reason to refuse, if no part is missing.
    refusal: Option<Refusal>,
    /// See [`Checked`].
    by_table: Vec<usize>,
    with_frame: Vec<usize>,
    /// Jumps that stay inside, and their known targets.
    jumps: Jumps,
    /// Direct calls, as indices of instructions, and the stack pointer before each.
    calls: Vec<(usize, Value)>,
    /// See [`Checked`].
    endings: Vec<Ending>,
    leads_anywhere: bool,
}

/// All exits, all of them sound.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The exits in address order.
    pub(crate) sites: Vec<Site>,
    /// Indices of instructions that jumps through tables may reach with the entry's stack pointer.
    pub(crate) by_table: Vec<usize>,
    /// Indices of those that they may reach with any other stack pointer.
    pub(crate) with_frame: Vec<usize>,
    /// Jumps that stay inside, and their known targets.
    pub(crate) jumps: Jumps,
    /// Direct calls, as indices of instructions, and the stack pointer before each.
    calls: Vec<(usize, Value)>,
    /// Reached returns, jumps and branches, in address order, with the state there.
    pub(crate) endings: Vec<Ending>,
    /// True if some jump stays inside with an unknown target.
    pub(crate) leads_anywhere: bool,
}

impl Checked {
    /// Returns the requirements of an entry for these `exits`.
    pub(crate) fn wanted<'a>(&'a self, exits: &'a [Site], ends: Ends, kept: &'a [u8]) -> Wanted<'a> {
        let moves = ends == Ends::AtExits && !self.leads_anywhere;
        Wanted { by_table: &self.by_table, with_frame: &self.with_frame, exits, moves, kept }
    }
}

impl Exits {
    /// Selects the returns, regardless of other ways out.
    pub(crate) fn returns(mut self) -> Result<Checked, Refusal> {
        self.sites.retain(|site| site.kind == SiteKind::Return && !site.maybe);
        self.refusal = None;
        self.sites()
    }

    /// Returns the exits, if every way out can be probed.
    pub(crate) fn sites(self) -> Result<Checked, Refusal> {
        match self.refusal {
            Some(refusal) => Err(refusal),
            None if self.sites.is_empty() => Err(Refusal::NoExit),
            None => Ok(Checked {
                sites: self.sites,
                by_table: self.by_table,
                with_frame: self.with_frame,
                jumps: self.jumps,
                calls: self.calls,
                endings: self.endings,
                leads_anywhere: self.leads_anywhere,
            }),
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }
}

/// Finds the ways out of the function.
pub(crate) fn exits(code: &Code, tables: &Tables<'_>) -> Result<Exits, Refusal> {
    check_branches(code)?;
    let mut trace = trace(code, tables)?;
    let mut exits = Exits {
        sites: Vec::new(),
        leaving: Vec::new(),
        beyond_tables: Vec::new(),
        refusal: None,
        by_table: Vec::new(),
        with_frame: Vec::new(),
        jumps: Jumps::new(),
        calls: std::mem::take(&mut trace.calls),
        endings: Vec::new(),
        leads_anywhere: false,
    };
    for ending in &trace.endings {
        if let Some(step) = code.steps.get(ending.step) {
            add(code, tables, &trace, ending, step, &mut exits);
        }
    }
    exits.endings = std::mem::take(&mut trace.endings);
    if let Some(end) = trace.falls_through {
        exits.refuse(Refusal::FallsThrough { end });
    }
    exits.by_table.extend(code.references.iter().filter_map(|reference| code.at(reference.to)));
    for targets in [&mut exits.by_table, &mut exits.with_frame] {
        targets.sort_unstable();
        targets.dedup();
    }
    Ok(exits)
}

/// Refuses code whose decoding is in doubt, and code that is called from within.
fn check_branches(code: &Code) -> Result<(), Refusal> {
    let mut indirect = false;
    for step in &code.steps {
        match step.flow {
            Flow::Jump(target) | Flow::Branch { target, .. }
                if code.contains(target) && landing(code, target).is_none() =>
            {
                return Err(Refusal::JumpIntoInstruction { from: step.address, to: target });
            }
            Flow::Call(Some(target)) if target != code.start() && code.contains(target) => {
                return Err(Refusal::CallsInside { address: step.address });
            }
            Flow::Indirect(_) => indirect = true,
            _ => {}
        }
    }
    // An address inside is a label if something may jump to it, otherwise data.
    let is_label = |to| indirect && code.at(to).is_some();
    match code.references.iter().find(|reference| reference.accesses || !is_label(reference.to)) {
        Some(reference) => Err(Refusal::DataInCode { address: reference.from }),
        None => Ok(()),
    }
}

fn add(code: &Code, tables: &Tables<'_>, trace: &Trace, ending: &Ending, step: &Step, exits: &mut Exits) {
    let address = step.address;
    let balance = ending.stack_pointer.balance();
    match step.flow {
        Flow::Return => {
            if balance == Balance::Differs {
                exits.refuse(Refusal::UnbalancedStack { address });
            } else {
                let maybe = balance == Balance::Unclear && ending.reached != Reached::Directly;
                exit(code, ending.step, SiteKind::Return, None, maybe, exits);
            }
        }
        Flow::Jump(target) if !code.contains(target) => leave(code, ending, target, None, exits),
        Flow::Branch { target, condition } if !code.contains(target) => match condition {
            Some(condition) => leave(code, ending, target, Some(condition), exits),
            None => {
                exits.leaving.push(Leaving { from: address, target, balance });
                exits.refuse(Refusal::RegisterBranch { address });
            }
        },
        Flow::Indirect(pointer) => match direction(code, tables, trace, ending, pointer) {
            Direction::Inside(steps, next) => {
                // With a frame it cannot lead to the first instruction, even if read behind a
                // table.
                let list = if balance == Balance::Same { &mut exits.by_table } else { &mut exits.with_frame };
                list.extend_from_slice(&steps);
                if balance == Balance::Unclear {
                    exits.by_table.extend_from_slice(&steps);
                }
                exits.leads_anywhere |= steps.is_empty();
                exits.beyond_tables.extend(next);
                exits.jumps.insert(ending.step, steps);
            }
            Direction::Out => exit(code, ending.step, SiteKind::TailJump, None, false, exits),
            Direction::Unclear => exits.refuse(Refusal::IndirectJump { address }),
            Direction::Unbalanced => exits.refuse(Refusal::UnbalancedStack { address }),
        },
        Flow::AuthenticatedReturn => exits.refuse(Refusal::AuthenticatedReturn { address }),
        Flow::SystemReturn => exits.refuse(Refusal::SystemReturn { address }),
        Flow::Jump(_) | Flow::Branch { .. } | Flow::Next | Flow::Call(_) | Flow::Stop => {}
    }
}

/// Adds a direct jump out.
fn leave(code: &Code, ending: &Ending, target: u64, condition: Option<u8>, exits: &mut Exits) {
    let Some(step) = code.steps.get(ending.step) else { return };
    let balance = ending.stack_pointer.balance();
    exits.leaving.push(Leaving { from: step.address, target, balance });
    if balance == Balance::Same {
        exit(code, ending.step, SiteKind::TailJump, condition, false, exits);
    } else {
        exits.refuse(Refusal::UnbalancedStack { address: step.address });
    }
}

fn exit(code: &Code, index: usize, kind: SiteKind, condition: Option<u8>, maybe: bool, exits: &mut Exits) {
    match site(code, index, kind) {
        Ok(site) => exits.sites.push(Site { condition, maybe, ..site }),
        Err(refusal) => exits.refuse(refusal),
    }
}

/// Returns a site on an instruction, if a probe does no harm there.
pub(crate) fn site(code: &Code, index: usize, kind: SiteKind) -> Result<Site, Refusal> {
    let step = code.steps.get(index).ok_or(Refusal::NoExit)?;
    let address = step.address;
    let stepping = match step.probing {
        Probing::Emulated => Stepping::Emulated,
        Probing::SingleStepped => Stepping::SingleStepped,
        Probing::Unsound => return Err(Refusal::Unsteppable { address }),
    };
    if code.marks.restarts(address) {
        return Err(Refusal::Restartable { address });
    }
    if in_exclusive_sequence(code, index) {
        return Err(Refusal::Unsteppable { address });
    }
    Ok(Site::new(address, kind, stepping))
}

/// Adds calls of other code that may lead to the unwinder, at a known height of the stack pointer.
///
/// That may rest on an assumption (`trace`), but a wrong height finds no frame and counts nothing.
pub(crate) fn unwinding(code: &Code, ways: &Checked, entry: u64, unwinding: &mut Unwinding) {
    for &(index, stack_pointer) in &ways.calls {
        let (Some(step), Value::Entry(offset)) = (code.steps.get(index), stack_pointer) else { continue };
        let (Flow::Call(Some(target)), Some(above)) = (step.flow, above(offset)) else { continue };
        if code.contains(target) {
            continue;
        }
        // Every call that passes the instruction before a call makes that call.
        let at = if breaks(code, step) { before(code, index) } else { Some(index) };
        let site = at.map(|at| site(code, at, SiteKind::Unwound));
        if let Some(Ok(site)) = site
            && site.address != entry
        {
            unwinding.push((Site { maybe: true, above, ..site }, target));
        }
    }
}

/// Returns the previous instruction, if it continues here with the same stack pointer.
fn before(code: &Code, index: usize) -> Option<usize> {
    let (before, step) = (code.steps.get(index.checked_sub(1)?)?, code.steps.get(index)?);
    let same = before.flow == Flow::Next && !before.effect.writes(code.machine.stack_pointer);
    (same && before.end() == step.address).then_some(index - 1)
}

/// Returns true in an exclusive sequence, behind its load: the store would fail on continuing.
fn in_exclusive_sequence(code: &Code, index: usize) -> bool {
    let before = code.steps.get(..index).unwrap_or_default();
    before.iter().rev().take(EXCLUSIVE_WINDOW).find_map(|step| step.exclusive).unwrap_or(false)
}

/// Direction of an indirect jump.
enum Direction {
    /// To places in the function, as far as known, and the target of a table's first odd entry.
    Inside(Rc<[usize]>, Option<u64>),
    /// Out of it, with the stack as at the entry.
    Out,
    /// Unknown.
    Unclear,
    /// Out of it, with another stack.
    Unbalanced,
}

/// Distinguishes a jump through a table of the function from a tail call through a pointer.
///
/// A tail call leaves with the caller's stack pointer, since the callee will return with it. So a
/// jump with a frame stays inside. Without a frame, the source of the pointer decides; if it is
/// unknown, the jump leaves if every instruction can be reached without it: nothing inside needs
/// it.
fn direction(
    code: &Code,
    tables: &Tables<'_>,
    trace: &Trace,
    ending: &Ending,
    pointer: Pointer,
) -> Direction {
    let untracked = matches!(pointer, Pointer::Untracked(_) | Pointer::UntrackedMemory(_));
    let balance = ending.stack_pointer.balance();
    let out = match balance {
        Balance::Same => Direction::Out,
        Balance::Differs => Direction::Unbalanced,
        Balance::Unclear => Direction::Unclear,
    };
    match ending.target {
        Target::Table(table) => match (tables.targets(table, code), balance) {
            (Targets::Inside { steps, next }, _) => Direction::Inside(steps, next),
            (Targets::Outside, _) if !untracked => out,
            (Targets::Unknown, Balance::Differs) => Direction::Inside(Rc::default(), None),
            // The table may lead to the entry, without evidence against it.
            (Targets::Unknown, Balance::Same) if !trace.orphans && !untracked && table.base.is_none() => out,
            (Targets::Unknown | Targets::Outside, _) => Direction::Unclear,
        },
        Target::Foreign if !untracked => out,
        Target::Foreign | Target::Unknown | Target::Direct => match balance {
            // Labels with a taken address, a table of them, or code reached only by such a jump.
            Balance::Differs if trace.orphans || trace.tabled || !code.references.is_empty() => {
                Direction::Inside(Rc::default(), None)
            }
            Balance::Same if !trace.orphans && !untracked => Direction::Out,
            _ => Direction::Unclear,
        },
    }
}
