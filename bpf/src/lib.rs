//! The BPF object of edgelat, the names inside it, and typed views over its mapped arrays.
//!
//! Nothing here needs privilege: the object is bytes, and a view maps a descriptor that a
//! privileged process made. Loading and attaching are the guard's.
//!
//! | file | question |
//! | --- | --- |
//! | `layout.rs` | what do the BPF programs and Rust both touch, and how is it laid out? |
//! | `latency.bpf.c`, `python.bpf.h`, `await.bpf.h` | what happens at a hit? |
//! | `object.rs` | what is in the object, and what do the parts of it need? |
//! | `rows.rs` | what did each function do? |
//! | `frames.rs` | which calls are inside now? |
//! | `codes.rs` | which functions of Python are there, and what becomes of their calls? |
//! | `control.rs` | the switches |
//! | `mapping.rs` | memory shared with the kernel, the only unsafe code of the crate |

pub mod codes;
mod control;
mod frames;
pub mod layout;
mod mapping;
pub mod object;
mod rows;

pub use codes::Codes;
pub use control::{Switch, Switches};
pub use frames::{Frame, Frames};
pub use mapping::MapError;
pub use rows::{Abandoned, Hits, RowTotals, Rows};
