//! Completeness of the classes: each instruction that edgelat accepts elsewhere must have a row.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use edgelat_image::{DebugFiles, Image};
use iced_x86::{Decoder, DecoderOptions};

use super::*;

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

/// Fails with the classes that have no row, and an instruction of each.
fn assert_covered(arch: Arch, found: &BTreeMap<String, Vec<u8>>) {
    static CLASSES: OnceLock<[BTreeSet<String>; 2]> = OnceLock::new();
    let all = CLASSES.get_or_init(|| [classes(Arch::X86_64), classes(Arch::Aarch64)]);
    let rows = &all[usize::from(arch == Arch::Aarch64)];
    let missing: Vec<_> = found.iter().filter(|(class, _)| !rows.contains(*class)).collect();
    assert!(missing.is_empty(), "{} classes of {arch:?} have no row: {missing:x?}", missing.len());
}

/// Legacy prefixes and REX before an opcode of each map and random bytes: each accepted instruction
/// has a row.
#[test]
fn each_class_of_x86_64_that_is_accepted_has_a_row() {
    let mut random = Random(0x1bad_b002);
    let mut found = BTreeMap::new();
    for _ in 0..60_000 {
        let mut bytes: Vec<u8> = Vec::new();
        let draw = random.next();
        bytes.extend([&[][..], &[0x66], &[0xf2], &[0xf3], &[0x65], &[0x67]][(draw % 6) as usize]);
        if draw >> 8 & 1 != 0 {
            bytes.push(0x40 | (draw >> 9) as u8 & 15);
        }
        bytes.extend([&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]][(draw >> 16 & 3) as usize]);
        bytes.extend(random.next().to_le_bytes());
        bytes.extend([3; 6]);
        let length = Decoder::with_ip(64, &bytes, ADDRESS, DecoderOptions::NONE).decode().len();
        bytes.truncate(length);
        if length > 0 && may_begin(Arch::X86_64, &bytes) && !is_unfit(Arch::X86_64, &bytes) {
            found.entry(class(Arch::X86_64, &bytes)).or_insert(bytes);
        }
    }
    assert!(found.len() > 400, "only {} classes", found.len());
    assert_covered(Arch::X86_64, &found);
}

#[test]
fn each_class_of_aarch64_that_is_accepted_has_a_row() {
    let mut random = Random(0x1bad_b002);
    let mut found = BTreeMap::new();
    for _ in 0..60_000 {
        let word = (random.next() as u32).to_le_bytes();
        if may_begin(Arch::Aarch64, &word) {
            found.entry(class(Arch::Aarch64, &word)).or_insert(word.to_vec());
        }
    }
    assert!(found.len() > 80, "only {} classes", found.len());
    assert_covered(Arch::Aarch64, &found);
}

/// Every site in the libraries of this machine stands on an instruction of a class that has a row.
#[test]
fn each_site_of_real_libraries_is_of_a_class_with_a_row() {
    let libraries = [
        (Arch::X86_64, "/lib/x86_64-linux-gnu/libc.so.6"),
        (Arch::X86_64, "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"),
        (Arch::Aarch64, "/usr/aarch64-linux-gnu/lib/libc.so.6"),
    ];
    let mut sites = 0;
    for (arch, path) in libraries.into_iter().filter(|(_, path)| Path::new(path).exists()) {
        let bytes = std::fs::read(path).expect("a library that can be read");
        let image = Image::open(File::open(path).expect("the same")).expect("an image");
        let functions = image.functions(&DebugFiles::none(), &mut |_| ()).expect("functions");
        let mut found = BTreeMap::new();
        for function in functions.iter() {
            let Ok(all) = image.sites(&functions, &function) else { continue };
            for site in std::iter::once(&all.entry).chain(&all.exits) {
                let at = site.file_offset as usize;
                let code = &bytes[at..bytes.len().min(at + 16)];
                found.entry(class(arch, code)).or_insert(code.to_vec());
                sites += 1;
            }
        }
        assert_covered(arch, &found);
    }
    assert!(sites > 5000, "only {sites} sites were looked at");
}
