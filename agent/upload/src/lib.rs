//! The way out for OpenTelemetry: what the spool holds, sent as cumulative points to a receiver of OTLP over HTTP.
//!
//! A point says what a stream has counted from its beginning to the end of an interval. So what is sent twice counts once, what
//! a receiver refuses is in the next point all the same, and a lost interval loses resolution in time and no call. The cursor
//! moves when a receiver has acknowledged, and not before.
//!
//! | module | job |
//! | --- | --- |
//! | [`otlp`], [`json`] | the messages of the protocol |
//! | [`dates`] | when intervals were, as far as anybody knows |
//! | [`points`] | from intervals to the points of a request |
//! | [`cursor`] | how far a receiver has got |
//! | [`mod@pass`] | from the cursor to the end of the spool, request by request |
//! | [`retry`] | what an answer means, and when to try again |
//! | [`client`] | HTTP |
//!
//! docs/UPLOAD.md says what is sent and what is lost when. It knows no process and no BPF, and needs no right but to read a
//! spool.
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
