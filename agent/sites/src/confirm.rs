//! Sites that were found elsewhere, on this code.
//!
//! A pack brings sites that were found where all symbols are. What could do harm is checked again here, by decoding the
//! same bytes: a site stands on an instruction, the instruction is one that ends a call where it is said to be an exit,
//! nothing that a probe must not pass stands between the start and the entry, and no loop hits an exit at every turn.

use crate::decode::{Code, Flow, Probing, Step};
use crate::entry::{self, PASSED, Wanted, above_at, breaks};
use crate::{Arch, Ends, Marks, Part, Refusal, Site, SiteKind, Sites, Stepping, loops};

/// `sites` with the cost of their probes told by this code, whose main part comes first. Where the ends of calls are told by
/// [`Ends::AtReturnAddress`], the entry stands where the stack pointer is as the caller gave it.
///
/// # Errors
/// [`Refusal::PlanDiffers`] where a site does not fit the code, [`Refusal::ExitInLoop`], or why the code cannot be
/// decoded.
pub fn confirm(
    arch: Arch,
    parts: &[Part<'_>],
    mut sites: Sites,
    marks: &Marks,
    ends: Ends,
) -> Result<Sites, Refusal> {
    let mut code = Code::decode(arch, parts)?;
    code.marks.clone_from(marks);
    let differs = |site: &Site| Refusal::PlanDiffers { address: site.address };
    let entry = code
        .at(sites.entry.address)
        .filter(|&index| is_entry(&code, index) && above_at(&code, index) == Some(sites.entry.above));
    let mut entry = entry.ok_or_else(|| differs(&sites.entry))?;
    if ends == Ends::AtReturnAddress && sites.entry.above != 0 {
        // It does not slide as far, so nothing leads there or behind that.
        let wanted = Wanted { by_table: &[], with_frame: &[], exits: &[], moves: false, kept: &[] };
        sites.entry = entry::entry(&code, &wanted)?;
        entry = code.at(sites.entry.address).ok_or_else(|| differs(&sites.entry))?;
    }
    let checked = |site: Site, step: &Step| match step.probing {
        Probing::Emulated => Ok(Site { stepping: Stepping::Emulated, ..site }),
        Probing::SingleStepped => Ok(Site { stepping: Stepping::SingleStepped, ..site }),
        Probing::Unsound => Err(Refusal::Unsteppable { address: site.address }),
    };
    let exit = |exit: Site| match code.at(exit.address).map(|index| &code.steps[index]) {
        Some(step) if is_exit(&code, step, &exit) && !code.marks.restarts(step.address) => {
            checked(exit, step)
        }
        _ => Err(differs(&exit)),
    };
    loops::check(&code, &loops::Jumps::new(), &sites.exits, &sites.exits)?;
    Ok(Sites {
        entry: checked(sites.entry, &code.steps[entry])?,
        exits: sites.exits.into_iter().map(exit).collect::<Result<_, Refusal>>()?,
    })
}

/// Whether the entry may have slid to this instruction.
fn is_entry(code: &Code, index: usize) -> bool {
    let Some(passed) = code.at(code.start()).and_then(|start| code.steps.get(start..=index)) else {
        return false;
    };
    passed.len() <= PASSED + 1
        && passed.last().is_some_and(|entry| !breaks(code, entry))
        && passed.iter().all(|step| !code.marks.restarts(step.address))
        && passed.windows(2).all(|pair| pair[0].is_passable() && pair[0].end() == pair[1].address)
}

/// Whether the instruction ends a call in the way that is said.
fn is_exit(code: &Code, step: &Step, exit: &Site) -> bool {
    let stands = exit.above == 0 || matches!(exit.kind, SiteKind::Ahead);
    stands
        && match (exit.kind, step.flow) {
            (SiteKind::Return, Flow::Return) => exit.condition.is_none(),
            (SiteKind::TailJump, Flow::Jump(target)) => exit.condition.is_none() && !code.contains(target),
            (SiteKind::TailJump, Flow::Branch { target, condition }) => {
                exit.condition.is_some() && exit.condition == condition && !code.contains(target)
            }
            (SiteKind::TailJump, Flow::Indirect(_)) => exit.condition.is_none(),
            (SiteKind::Ahead, Flow::Jump(_)) => exit.condition.is_none() && !breaks(code, step),
            (SiteKind::Ahead, Flow::Branch { condition: Some(condition), .. }) => {
                exit.condition.is_none_or(|exit| exit | 1 == condition | 1)
            }
            _ => false,
        }
}
