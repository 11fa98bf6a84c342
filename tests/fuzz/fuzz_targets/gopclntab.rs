//! Go's function table, its module data and its build information, and the code that they refer to,
//! in an otherwise correct program. Two bytes choose the machine and the presence of section names,
//! then come the lengths of the first three parts; the rest is code.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../../agent/image/tests/common/pipeline.rs"]
mod pipeline;

use common::elf::{AARCH64, File, X86_64};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[machine, named, lengths @ ..], rest)) = bytes.split_first_chunk::<8>() else { return };
    let mut rest = rest;
    let mut part = |index: usize| {
        let length = u16::from_le_bytes([lengths[2 * index], lengths[2 * index + 1]]);
        let (part, after) = rest.split_at(rest.len().min(length.into()));
        rest = after;
        part.to_vec()
    };
    let data = vec![(".gopclntab", part(0)), (".go.module", part(1)), (".go.buildinfo", part(2))];
    let file = File {
        machine: if machine & 1 == 0 { X86_64 } else { AARCH64 },
        section_table: named & 1 == 0,
        text: rest.to_vec(),
        data,
        ..File::default()
    };
    let _ = pipeline::exercise(&file.build());
});
