//! Checks of foreign sites against this code.
//!
//! A pack brings sites found on a machine with all symbols. Everything that could do harm is
//! checked again here, by decoding these bytes: each site is on an instruction, each exit is on one
//! that ends a call, nothing that a probe must not pass is between the start and the entry, and no
//! loop hits an exit at every turn.

use crate::decode::{Code, Flow, Probing, Step};
use crate::entry::{self, PASSED, Wanted, above_at, breaks};
use crate::{Arch, Ends, Marks, Part, Refusal, Site, SiteKind, Sites, Stepping, loops};

/// Returns `sites` with the costs of their probes in this code, whose main part comes first. With
/// [`Ends::AtReturnAddress`], the stack pointer at the entry is the caller's.
///
/// # Errors
/// [`Refusal::PlanDiffers`] if a site does not fit the code, [`Refusal::ExitInLoop`], or the reason
/// why the code cannot be decoded.
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
        // The entry does not slide as far, so no branch leads there or behind it.
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

/// Returns true if the entry may have slid to this instruction.
fn is_entry(code: &Code, index: usize) -> bool {
    let Some(passed) = code.at(code.start()).and_then(|start| code.steps.get(start..=index)) else {
        return false;
    };
    passed.len() <= PASSED + 1
        && passed.last().is_some_and(|entry| !breaks(code, entry))
        && passed.iter().all(|step| !code.marks.restarts(step.address))
        && passed.windows(2).all(|pair| pair[0].is_passable() && pair[0].end() == pair[1].address)
}

/// Returns true if the instruction ends a call in the stated way.
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
