//! How numbers, texts and lists become bytes, and come back from bytes that may be damaged.
//!
//! | module | job |
//! | --- | --- |
//! | [`postcard`] | payloads of the spool and of the live snapshot |
//! | [`protobuf`] | messages to and from other programs |
//!
//! It knows no message and no file: what fields there are, is said where they are used.
#![forbid(unsafe_code)]

pub mod postcard;
pub mod protobuf;
