//! Probe sites of functions.
//!
//! A probe at the *entry site* records the time under the key (process, function, stack pointer); a
//! probe at each *exit site* looks up the key, with the stack pointer before the instruction runs.
//! So each call must pass the entry exactly once, and exactly one exit, each with the caller's
//! stack pointer or a known number of bytes below it ([`Site::above`]). A breakpoint on anything
//! but the first byte of an instruction corrupts the program. A function not shown to meet this is
//! refused, with a [`Refusal`] that gives the reason; an unmeasured function does no harm.
//!
//! # Search
//!
//! 1. The function's parts are decoded from start to end (`decode`). Bytes that are no instruction,
//!    a branch into the middle of one, or an instruction that uses the function's bytes as data put
//!    the boundaries in doubt: refused.
//! 2. The registers are tracked along all paths (`trace`): the stack height at each place where
//!    control leaves, and the sources of indirect jump targets. Jump tables are read if the caller
//!    permits (`tables`), which it should: otherwise fewer functions can be shown to be sound.
//! 3. Every return and every jump out is an exit (`exits`). A jump that leaves with a frame leads
//!    to an unknown part, or is not understood: the part is searched, or the function refused. A
//!    function with a conditional exit in a loop is refused too (`loops`): a probe there is sound,
//!    but hit every turn.
//! 4. The entry slides to the first instruction that the kernel emulates (`entry`), as
//!    single-stepping costs many times as much, but not past anything that matters. So exits also
//!    move from single-stepped returns to emulated branches behind which a call only returns
//!    (`ahead`).
//!
//! # Assumptions
//!
//! Code follows the conventions of its ABI: a called function returns to the instruction after the
//! call, with the stack pointer and the callee-saved registers unchanged, or never; a return with
//! something else on top of the stack does not happen. An instruction runs with one stack height,
//! on every path: if branches give one height and a table's end or a call's return another, the
//! table ends earlier, or the call never returns; if branches disagree, the height is unknown. Text
//! does not change while it runs. Pointers in memory other than the function's own stack or static
//! data do not lead into the middle of a function. An exception lands on code that no direct branch
//! reaches, with the stack as at some call of the function.
//!
//! Ranges of functions may overlap (assembly has entries inside other functions): then two
//! functions share sites, and a call of the inner one hits exits of the outer one. Those are marked
//! `maybe`: a hit without a matching frame is not the end of an earlier call.
#![forbid(unsafe_code)]

mod ahead;
mod arch;
pub mod boundary;
mod confirm;
mod dataflow;
pub mod decode;
mod entry;
mod exits;
pub mod go;
mod loops;
mod refusal;
mod search;
mod site;
mod surroundings;

pub use arch::Arch;
pub use confirm::confirm;
pub use refusal::Refusal;
pub use search::{
    Unwinding, arguments, find, find_exits, find_in, find_returns, find_whole, find_with_arguments,
    why_stepped,
};
pub use site::{Ends, Part, Site, SiteKind, Sites, Stepping};
pub use surroundings::{Around, Marks, Surroundings};
