//! The collector turns names into sites, and rows into numbers.
//!
//! It has no privilege of its own. It requests kernel operations from the guard ([`Line`]) and
//! reads the counts of the programs from mapped memory.
//!
//! | module | job |
//! | --- | --- |
//! | [`target`] | a process and its images, opened by the guard |
//! | [`debug_dirs`] | folders with debug files, opened while there are rights |
//! | [`resolve`] | patterns to functions with sites, and refusals |
//! | `tails` | functions that leave by a jump into another image |
//! | [`service`] | many processes, as long as they live |
//! | [`session`] | one process, from its opening to its last report |
//! | [`family`] | its processes: which are covered, which have ended |
//! | [`faults`] | signals that report a fault of a process |
//! | [`notes`] | notes for the user before the figures |
//! | [`examine`] | the functions that the target's memory allows |
//! | `missed` | names that no function has |
//! | [`measurement`] | one loaded plan: attach, arm, read, detach |
//! | `hand_over`, `plan` | what was resolved, to the guard |
//! | [`interpreters`] | whether those of Python show every call |
//! | [`python`] | functions of Python, found while they are called |
//! | [`refusals`] | targets for which return probes would be unsafe |
//! | [`report`] | what is known of each function at one moment |
//!
//! [`Line`]: edgelat_guard::Line

pub mod debug_dirs;
pub mod examine;
pub mod family;
pub mod faults;
mod hand_over;
pub mod interpreters;
pub mod measurement;
mod missed;
pub mod notes;
mod plan;
pub mod python;
pub mod refusals;
pub mod report;
pub mod resolve;
pub mod service;
pub mod session;
mod tails;
pub mod target;

use edgelat_guard::GuardError;
use edgelat_guard::error::text;

/// Error for a reply of the guard that does not fit the request: a bug of edgelat, reported instead
/// of a panic. No message contains the reply: the code that formats every reply would be as large
/// as a command.
fn unexpected() -> GuardError {
    GuardError::Order { what: text("the guard answered something else than was asked") }
}
