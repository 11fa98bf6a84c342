//! The offsets that a Python interpreter states for debuggers, and the texts at its offsets. The
//! first bytes are length and state of a text, then come 32 bytes of it; the rest are the offsets.
#![no_main]

#[path = "../common.rs"]
mod common;

use common::languages::interpreter;
use edgelat_image::{DebugFiles, Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, offsets)) = bytes.split_first_chunk::<40>() else { return };
    let mut words: Vec<u64> = offsets.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    words.resize(words.len().max(2), 0);
    let image = Image::open(interpreter(&words).build()).expect("the file around it is right");
    let none = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let table = image.functions(&DebugFiles::new(&none), &mut |_| ()).expect("the symbols are right");
    let Ok(Some(python)) = image.python(&table) else { return };
    let layout = python.layout;
    assert!((8..=15).contains(&python.minor));
    assert!(layout.code_name > layout.code_file && layout.code_name - layout.code_file <= 16);
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if let Some(text) = layout.text_of(word(0), word(4), &head[8..]) {
        assert!(text.len() <= 4 * 32 && !text.contains(char::is_control));
    }
});
