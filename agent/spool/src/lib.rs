//! The spool: what was measured, on flash, bounded, and there after a power cut.
//!
//! A spool is a directory of **segments**, files that are only appended to. A segment begins with a **checkpoint**, which
//! says what there was before, and goes on with **intervals**, which say what happened from one moment to another. When
//! there is no room any more the oldest intervals are merged, two by two: histograms add exactly, so that resolution in time
//! is lost before any sample is. docs/SPOOL.md is the format, complete enough to write another reader.
//!
//! | module | job |
//! | --- | --- |
//! | [`counts`] | what a function did: numbers that add up |
//! | [`buckets`] | a histogram in few bits |
//! | [`record`] | what is written: checkpoints and intervals |
//! | [`segment`] | records in their frames, and what is left of damaged ones |
//! | `torn` | what a power cut leaves of a write, told from damage |
//! | [`store`] | a directory, as far as a spool needs one |
//! | [`writer`] | a run that writes: recovery, rotation, disks that fail |
//! | [`merge`] | two segments as one |
//! | [`budget`] | bytes a day |
//! | [`reader`] | all records of a spool, with the state that each leaves |
//! | [`times`] | when something was, on a box that did not know |
//! | [`live`] | all that was counted so far, in a file that is not on flash |
//!
//! It knows no network, no process and no BPF, and reads no clock: whoever writes says what time it is.
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
