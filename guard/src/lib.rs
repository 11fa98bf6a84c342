//! The guard: every privileged operation of edgelat, behind typed messages.
//!
//! The guard finds targets, opens their images, loads the BPF programs, attaches a checked plan,
//! watches and detaches. It understands neither images nor histograms: sites come to it as file
//! offsets in a plan, and others read the programs' counts through mappings that it hands out. That
//! keeps the privileged part small, and keeps bytes that a target controls away from it.
//!
//! The guard checks before it attaches: the target and the bounds are those that edgelat was
//! started for, the image is the one it opened, each offset lies in an executable segment of it,
//! the bytes at each site and the build-id are still those that were decoded, and the numbers are
//! under their bounds.
//!
//! | file | question |
//! | --- | --- |
//! | `split.rs`, `sandbox/` | two processes, one of them without rights |
//! | `protocol.rs`, `line.rs` | what can be requested and answered, and how does it get there? |
//! | `guard.rs` | what happens at each request? |
//! | `scope.rs` | what was edgelat started for? |
//! | `confirm.rs` | does an instruction begin at a site? |
//! | `plan.rs` | what is measured, from its sites to its probes |
//! | `python.rs` | is what a plan says of an interpreter possible? |
//! | `aside.rs` | what is done by a process of its own, because it may never come back? |
//! | `interpreters.rs` | what do interpreters of Python in a target do with calls? |
//! | `examine.rs` | which functions do not fit the target's memory, and do the others have room? |
//! | `look.rs` | what does the guard check periodically? |
//! | `stop.rs` | what happens when the guard is stopped and continued? |
//! | `windows.rs` | when are the probes of a plan on that costs too much? |
//! | `deadline.rs` | who ends a guard that does not come round any more? |
//! | `command.rs` | a command that is held until its probes are in place |
//! | `find.rs` | which processes are there? |
//! | `budget.rs`, `prices.rs`, `costs.rs` | what do the probes cost, and when is it enough? |
//! | `target.rs` | which process, which files does it map? |
//! | `maps.rs` | what does a line of /proc/PID/maps say? |
//! | `listing.rs` | which images does it map? |
//! | `image.rs` | is this still the file that was decoded? |
//! | `family.rs` | which processes are covered? |
//! | `foreign.rs` | what if another machine or program serves that file? |
//! | `elf.rs` | which parts of an image are executable? |
//! | `load.rs` | programs and maps of a plan in the kernel |
//! | `watchers.rs` | the programs that see events of the processes of all plans, and the switches |
//! | `attach/` | probes, by three routes |
//! | `memory.rs` | does the target have room for attaching? |
//! | `placement/`, `cpus.rs` | which CPU is the collector on, and where may targets run? |
//! | `calibrate.rs`, `repricing.rs` | what does a probe itself add, and what does a hit cost by now? |
//! | `features.rs`, `check.rs` | what can this kernel do? |
//! | `pins.rs` | which maps can other tools read? |
//! | `user.rs` | which user does the collector become? |
//! | `outside.rs` | how does it read files of the box then? |
//! | `config_file.rs` | may root take this configuration file? |
//! | `lock.rs` | which process is the agent of this box? |
//! | `share.rs` | what may be spent beside a service? |
//! | `quarantine.rs` | what must not be probed again? |
//! | `clock.rs` | what time is it, and is it certain? |
//! | `notify.rs` | what does the supervisor have to know? |
//! | `error.rs`, `rights.rs` | why not? |

mod aside;
mod attach;
mod budget;
mod calibrate;
pub mod check;
pub mod clock;
mod command;
pub mod config_file;
mod confirm;
mod costs;
pub mod cpus;
mod deadline;
mod elf;
pub mod error;
mod examine;
mod family;
mod features;
mod find;
mod foreign;
mod guard;
mod image;
mod interpreters;
pub mod line;
mod listing;
mod load;
pub mod lock;
mod look;
mod maps;
mod memory;
pub mod notify;
pub mod outside;
pub mod pins;
pub mod placement;
mod plan;
mod prices;
pub mod protocol;
mod python;
pub mod quarantine;
mod repricing;
mod rights;
pub mod sandbox;
mod scope;
mod share;
mod split;
mod stop;
mod target;
#[cfg(test)]
mod testing;
pub mod user;
mod watchers;
mod windows;

/// Removes the remains of killed agents, as far as permitted: definitions of trace events, which
/// keep file systems of their targets busy, and pinned maps. Those of a running agent stay.
pub fn sweep() {
    attach::tracefs::sweep();
    pins::sweep();
}

pub use command::Command;
pub use confirm::Confirm;
pub use error::{GuardError, Kind};
pub use guard::{Guard, Service, Understand};
pub use line::Line;
pub use lock::RunLock;
pub use notify::Notify;
pub use scope::{Asked, Limits, Which};
pub use share::{Beside, Offer, Share};
pub use split::{split, split_and_place};
pub use windows::WINDOW;
