//! The handmade files that the crate's tests use too.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each target uses its part")]

#[path = "../../agent/image/tests/common/dwarf.rs"]
pub mod dwarf;
#[path = "../../agent/image/tests/common/elf.rs"]
pub mod elf;
#[path = "../../agent/image/tests/common/languages.rs"]
pub mod languages;
