//! Where the probes of a function sit.
//!
//! A probe at the *entry site* notes the time under the key (process, function, stack pointer); a probe at each *exit
//! site* looks the same key up, with the stack pointer before the instruction runs. So the sites must be such that in
//! each call the entry is passed exactly once, and exactly one exit, each with the stack pointer that the caller gave or
//! one that is a known number of bytes below it ([`Site::above`]). A breakpoint on anything but the first byte of an
//! instruction corrupts the program. What cannot be shown to hold is refused, with a [`Refusal`] that says why; a function
//! that is not measured harms nobody.
//!
//! # How they are found
//!
//! 1. The function's parts are decoded from start to end (`decode`). Bytes that are no instruction, a branch into the
//!    middle of one, or an instruction that uses the function's bytes as data put the boundaries in doubt: refused.
//! 2. The registers are followed through all ways (`trace`): the height of the stack at each place where control
//!    leaves, and what the targets of indirect jumps are made of. Jump tables are read where the caller lets them be
//!    (`tables`), which it should: without it, fewer functions can be told to be sound.
//! 3. Every return and every jump out is an exit (`exits`). A jump that leaves with the frame still standing leads to
//!    a part that is not known, or is not understood: the part is looked for, or the function refused. So is one whose
//!    conditional exit lies in a loop (`loops`): a probe there is sound, but hit at every turn.
//! 4. The entry slides to the first instruction that the kernel emulates (`entry`), as single-stepping costs many
//!    times as much, but not past anything that matters. For the same reason exits move from returns that would be
//!    single-stepped to emulated branches behind which a call only returns (`ahead`).
//!
//! # What is taken for granted
//!
//! Code follows the conventions of its ABI: a called function returns to the instruction after the call, with the
//! stack pointer and the callee-saved registers as they were, or never; a return with something else on top of the
//! stack does not happen. An instruction runs with one height of the stack, however it is reached: where branches say
//! one height and the end of a table or the return from a call another, the table ends earlier, or the call never
//! returns; where branches disagree, nothing is known. Text is not changed while it runs. Pointers in memory that is
//! not the function's own stack or static data do not lead into the middle of a function. An exception lands where no
//! direct branch leads, with the stack as at some call of the function.
//!
//! Ranges of functions may overlap (assembly has entries inside other functions): then two functions share sites, and
//! a call of the inner one hits exits of the outer one. Those are marked `maybe`: a hit that no
//! frame matches is not an end of a call that began earlier.
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
