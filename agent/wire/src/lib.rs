//! Encoding of numbers, texts and lists, and decoding of bytes that may be damaged.
//!
//! | module | job |
//! | --- | --- |
//! | [`postcard`] | payloads of the spool and of the live snapshot |
//! | [`protobuf`] | messages to and from other programs |
//!
//! It knows no message and no file: its users define the fields.
#![forbid(unsafe_code)]

pub mod postcard;
pub mod protobuf;
