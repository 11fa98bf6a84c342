//! The spool: measurements on flash, bounded in size and safe against power cuts.
//!
//! A spool is a directory of **segments**, files that are only appended to. A segment begins with a
//! **checkpoint**, the state before it, and continues with **intervals**, the events from one
//! moment to another. If there is no room left the oldest intervals are merged in pairs: histograms
//! add exactly, so time resolution is lost before any sample is. docs/SPOOL.md defines the format,
//! complete enough to write another reader.
//!
//! | module | job |
//! | --- | --- |
//! | [`counts`] | counts of a function: numbers that add up |
//! | [`buckets`] | a histogram in few bits |
//! | [`record`] | record contents: checkpoints and intervals |
//! | [`segment`] | records in their frames, and recovery behind damaged ones |
//! | `torn` | distinguishes the remains of a power cut from damage |
//! | [`store`] | a directory, as far as a spool needs one |
//! | [`writer`] | a run that writes: recovery, rotation, disks that fail |
//! | [`merge`] | two segments as one |
//! | [`budget`] | limit on bytes a day |
//! | [`reader`] | all records of a spool, with the state after each |
//! | [`times`] | dates on a box that did not know the time |
//! | [`live`] | everything counted so far, in a file that is not on flash |
//!
//! It knows no network, no process and no BPF, and reads no clock: the caller passes the time.
#![forbid(unsafe_code)]

pub mod buckets;
pub mod budget;
pub mod counts;
pub mod live;
pub mod merge;
pub mod reader;
pub mod record;
pub mod segment;
pub mod store;
pub mod times;
mod torn;
pub mod writer;

pub use counts::{Counts, LOSSES};
pub use reader::{Place, ReadError, Seen};
pub use record::{Checkpoint, Clock, Gap, Interval, Stream, Trust, Uncovered};
pub use store::{Directory, Store};
pub use times::Times;
pub use writer::{Identity, Notice, Options, Spool, Status};
