//! A disk that remembers what was done to it, and loses power.
//!
//! A program knows its content of the disk when power goes: everything up to the last flush. Later writes may be there
//! or not, in any order, and in parts. A file system that is copied while it is used shows none of that, and neither does a
//! machine that is killed: its writes have all been taken by then. So the disk of the machine is a [`server`] of ours, which
//! keeps a [`log`] of each write and each flush, and a [`cut`] makes of it what a disk without power could have.
//!
//! | module | job |
//! | --- | --- |
//! | [`server`] | the disk, by the protocol of network block devices |
//! | [`log`] | what was done to it, in memory and in a file |
//! | [`cut`] | what is left of it without power |
//! | [`console`] | what the service in the machine said, and when |
//! | [`totals`] | what each function counted |
//! | [`spool`] | the records in an image, taken out without mounting it |
//! | [`judge`] | whether they are what they have to be |
//! | [`guest`] | the machine |

pub mod console;
pub mod cut;
pub mod guest;
pub mod judge;
pub mod log;
pub mod random;
pub mod server;
pub mod spool;
pub mod totals;
