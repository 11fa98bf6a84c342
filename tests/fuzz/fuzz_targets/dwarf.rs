//! Debug data in an otherwise correct file: the lengths of four sections, then the sections.
#![no_main]

#[path = "../common.rs"]
mod common;
#[path = "../../../agent/image/tests/common/pipeline.rs"]
mod pipeline;

use common::elf::{File, Symbol, TEXT_ADDRESS};
use libfuzzer_sys::fuzz_target;

/// The last section has the rest of the bytes.
const SECTIONS: [&str; 5] =
    [".debug_info", ".debug_abbrev", ".debug_str", ".debug_str_offsets", ".debug_addr"];

fuzz_target!(|bytes: &[u8]| {
    let Some((lengths, mut rest)) = bytes.split_first_chunk::<8>() else { return };
    let lengths = lengths.chunks(2).map(|length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let mut file = File::with_symbols(vec![Symbol::function("outer", TEXT_ADDRESS, 16)]);
    for (name, length) in SECTIONS.into_iter().zip(lengths.chain([usize::MAX])) {
        let (section, after) = rest.split_at(rest.len().min(length));
        file.sections.push((name, 1, section.to_vec()));
        rest = after;
    }
    let _ = pipeline::exercise(&file.build());
});
