//! The functions of a plan that the target's memory allows.
//!
//! The guard compares the code of each function with the target's memory, and computes the memory
//! of the target that the probes take. Functions that must not be probed are refused by name. If
//! there is room for only some functions, the first named functions are measured.

use std::collections::BTreeSet;

use edgelat_guard::protocol::{ImageId, PlanId, PlanSite, Reply, Request, Unsound};
use edgelat_guard::{GuardError, Line};

use super::report::RefusedReport;
use super::resolve::{Function, ResolveError, Resolved};
use super::session::SessionError;
use super::unexpected;

/// Smallest page of the kernels that edgelat runs on, as a power of two. With larger pages, more
/// functions share a page than computed here.
const PAGE_SHIFT: u32 = 12;

/// Pages of the target that the kernel takes besides those of its code.
const KERNEL_PAGES: u8 = 2;

/// Functions of a plan that are refused.
#[derive(Debug, Default)]
pub struct Refused {
    /// In the order of the plan, each with the reason.
    pub functions: Vec<RefusedReport>,
    /// Error of the guard if the target's memory had no room for all functions.
    pub no_room: Option<GuardError>,
}

/// Reason code of functions without room.
pub const NO_HEADROOM: &str = "no-headroom";

impl Refused {
    /// Returns true if the plan can be measured unchanged.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Adds the functions of a later look.
    pub fn add(&mut self, later: Self) {
        self.functions.extend(later.functions);
        self.no_room = self.no_room.take().or(later.no_room);
    }
}

/// Has the guard examine the target's memory, and removes from `resolved` what must not be probed.
///
/// # Errors
/// Fails if no function is left, with the first reason.
pub fn sift(
    line: &mut Line,
    pid: i32,
    plan: PlanId,
    resolved: &mut Resolved,
) -> Result<Refused, SessionError> {
    let mut unsound = Vec::new();
    let (bytes, allowed, room, of) = loop {
        let from = unsound.last().map_or(0, |last: &Unsound| last.function + 1);
        let (reply, _) = line.call(&Request::Examine { plan, from })?;
        let Reply::Examined { unsound: next, more, bytes, allowed, room, of } = reply else {
            return Err(unexpected().into());
        };
        unsound.extend(next);
        if !more {
            break (bytes, allowed, room, of);
        }
    };
    let no_room = (bytes > allowed).then_some(GuardError::NoHeadroom { pid, bytes, room, of });
    let mut refused = Refused { functions: take_unsound(pid, resolved, &unsound)?, no_room: None };
    // The refused functions may have taken the room: the plan is examined again without them.
    if let (Some(error), true) = (no_room, refused.is_empty()) {
        let fit = fitting(&resolved.functions, bytes, allowed);
        if fit == 0 || resolved.python.is_some() {
            return Err(error.into());
        }
        let left_out = resolved.functions.split_off(fit);
        let refuse = |function: &Function| refusal(function, NO_HEADROOM, &error.to_string());
        refused.functions = left_out.iter().map(refuse).collect();
        refused.no_room = Some(error);
    }
    Ok(refused)
}

fn take_unsound(
    pid: i32,
    resolved: &mut Resolved,
    unsound: &[Unsound],
) -> Result<Vec<RefusedReport>, SessionError> {
    let mut refused = Vec::new();
    for Unsound { function, why } in unsound {
        match resolved.functions.get(*function as usize) {
            Some(function) => refused.push(refusal(function, why.code(), why.reason())),
            // Numbers beyond the list belong to Python.
            None => {
                let name = edgelat_guard::error::text("the evaluation loop of Python");
                return Err(GuardError::Unfit { pid, function: *function, name, why: *why }.into());
            }
        }
    }
    if !refused.is_empty() && refused.len() == resolved.functions.len() {
        let RefusedReport { name, image, text, .. } = refused.swap_remove(0);
        return Err(ResolveError::Refused { pattern: name, path: image, reason: text }.into());
    }
    let out: BTreeSet<u32> = unsound.iter().map(|unsound| unsound.function).collect();
    let mut number = 0..;
    resolved.functions.retain(|_| number.next().is_none_or(|number| !out.contains(&number)));
    Ok(refused)
}

fn refusal(function: &Function, code: &str, text: &str) -> RefusedReport {
    RefusedReport {
        name: function.name.clone(),
        image: function.image_path.clone(),
        reason: code.to_owned(),
        text: text.to_owned(),
    }
}

/// Number of leading functions that take no more than `allowed`, if all take `bytes`.
fn fitting(functions: &[Function], bytes: u64, allowed: u64) -> usize {
    let pages_of = |function: &Function| {
        let own = function.sites.iter().map(|site| (function.image, site));
        let elsewhere = function.elsewhere.iter().map(|(image, site)| (*image, site));
        let page = |(image, site): (ImageId, &PlanSite)| (image.0, site.offset >> PAGE_SHIFT);
        own.chain(elsewhere).map(page).collect::<Vec<_>>()
    };
    let all: BTreeSet<(u32, u64)> = functions.iter().flat_map(pages_of).collect();
    // An image that is mapped more than once takes each page as often; the kernel's own pages are
    // included.
    let pages = all.len() as u128 + u128::from(KERNEL_PAGES);
    let most = (u128::from(allowed) * pages / u128::from(bytes.max(1))).saturating_sub(KERNEL_PAGES.into());
    let mut taken = BTreeSet::new();
    let fits = |function: &&Function| {
        taken.extend(pages_of(function));
        taken.len() as u128 <= most
    };
    functions.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::resolve::Steppings;

    fn function(pages: &[u64]) -> Function {
        let site = |page: &u64| PlanSite {
            offset: page << PAGE_SHIFT,
            cookie: 0,
            exit: false,
            stepped: false,
            code: [0; 4],
            code_len: 4,
            before: 0,
        };
        Function {
            name: "f".to_owned(),
            image_path: "/f".to_owned(),
            image: ImageId(1),
            language: "native",
            steppings: Steppings { entry_stepped: false, exit_stepped: false },
            until_tail_call: false,
            unwound: false,
            inlined: None,
            sites: pages.iter().map(site).collect(),
            elsewhere: Vec::new(),
        }
    }

    #[test]
    fn as_many_functions_as_there_is_room_for_are_the_first_ones() {
        let functions = [function(&[1, 2]), function(&[2]), function(&[9]), function(&[1, 3])];
        let bytes = 6 * 4096;
        let fit = |pages: u64| fitting(&functions, bytes, pages * 4096);
        assert_eq!([0, 2, 3, 4, 5, 6, 9].map(fit), [0, 0, 0, 2, 3, 4, 4]);
    }
}
