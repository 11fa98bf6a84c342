//! The OpenTelemetry uploader: sends the spool as cumulative points to an OTLP/HTTP receiver.
//!
//! A point has the counts of a stream from its beginning to the end of an interval. So a point that
//! is sent twice counts once, refused data is in the next point all the same, and a lost interval
//! costs time resolution and no call. The cursor moves only after a receiver has acknowledged.
//!
//! | module | job |
//! | --- | --- |
//! | [`otlp`], [`json`] | the messages of the protocol |
//! | [`dates`] | dates of intervals, as far as they are known |
//! | [`points`] | from intervals to the points of a request |
//! | [`cursor`] | progress of a receiver |
//! | [`mod@pass`] | from the cursor to the end of the spool, request by request |
//! | [`retry`] | meaning of answers, and time of retries |
//! | [`client`] | HTTP |
//!
//! docs/UPLOAD.md describes the data sent, and possible losses. The crate knows no process and no
//! BPF, and needs no privilege but read access to a spool.
#![forbid(unsafe_code)]

pub mod client;
pub mod cursor;
pub mod dates;
pub mod json;
pub mod otlp;
pub mod pass;
pub mod points;
pub mod retry;

pub use client::{Client, ClientError, ClientOptions};
pub use cursor::{At, Cursor, CursorFile, Found};
pub use pass::{End, Host, Limits, PassError, Post, Sent, Told, pass};
pub use retry::{Answer, Backoff};
