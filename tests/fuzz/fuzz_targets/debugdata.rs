//! `.gnu_debugdata`: the decompressor, and the ELF file that comes out of it.
#![no_main]

#[allow(dead_code)]
#[path = "../../../agent/image/tests/common/elf.rs"]
mod elf;

use edgelat_image::{DebugFiles, Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = elf::File::default();
    file.sections.push((".gnu_debugdata", 1, bytes.to_vec()));
    let image = Image::open(file.build()).expect("the file around it is right");
    let table = image.functions(&DebugFiles::none(), &mut |_| ()).expect("a bad one is skipped");
    assert!(table.skipped().len() <= 1);
});
