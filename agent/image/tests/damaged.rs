//! Invalid files: each gives a clear error or a refusal, in bounded time, without a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::{Duration, Instant};

use common::elf::{self, File, HEADER, PROGRAM_HEADER, Symbol, TEXT_ADDRESS};
use common::pipeline::exercise;
use common::{assert_helps, directory, own_functions, run, text};
use edgelat_image::{DebugFiles, Image, ImageError, Origin, Pattern, Refusal};

fn error_of(bytes: &[u8]) -> ImageError {
    let error = exercise(bytes).expect_err("must be refused");
    assert_helps(&error);
    error
}

#[test]
fn the_file_that_the_tests_damage_is_right() {
    let bytes = elf::small().build();
    assert_eq!(exercise(&bytes).unwrap(), 2);
    let image = Image::open(bytes.as_slice()).unwrap();
    assert_eq!(image.build_id().unwrap().bytes(), elf::BUILD_ID);
}

#[test]
fn what_is_no_elf_file_says_so() {
    assert!(matches!(error_of(b""), ImageError::Empty));
    let error = error_of(b"#!/bin/sh\nexec /opt/target\n");
    assert!(error.to_string().contains("#!/bin/s") && error.to_string().contains("script"), "{error}");
    assert!(matches!(error_of(&[0; 4096]), ImageError::NotElf { .. }));
    assert!(matches!(error_of(b"\x7fE"), ImageError::Truncated { .. }));
    assert!(matches!(error_of(b"M"), ImageError::NotElf { .. }));
}

#[test]
fn a_directory_or_a_pipe_is_refused_before_it_is_read() {
    let error = Image::open(std::fs::File::open("/").unwrap()).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    assert_helps(&error);
    let error = Image::open(std::fs::File::open("/dev/zero").unwrap()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn programs_that_cannot_be_measured_say_why() {
    let changed = |at: usize, value: &[u8]| {
        let mut bytes = elf::small().build();
        bytes[at..at + value.len()].copy_from_slice(value);
        error_of(&bytes)
    };
    assert!(matches!(changed(4, &[1]), ImageError::Class32));
    assert!(matches!(changed(4, &[7]), ImageError::Identification { value: 7, .. }));
    assert!(matches!(changed(5, &[2]), ImageError::BigEndian));
    assert!(matches!(changed(5, &[0]), ImageError::Identification { .. }));
    assert!(matches!(changed(6, &[9]), ImageError::Identification { value: 9, .. }));
    assert!(matches!(changed(18, &[243, 0]), ImageError::Machine { machine: 243 }));
    for (kind, word) in [(1u8, "relocatable"), (4, "core dump"), (9, "type 9")] {
        let error = changed(16, &[kind, 0]);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(matches!(changed(54, &[55, 0]), ImageError::Malformed { .. }));
    assert!(matches!(changed(58, &[65, 0]), ImageError::Malformed { .. }));
    assert!(matches!(changed(62, &[200, 0]), ImageError::Malformed { .. }));
}

/// The section table is last, so every shorter file lacks a part of it.
#[test]
fn a_file_cut_anywhere_is_truncated() {
    let bytes = elf::small().build();
    let mut ends: Vec<usize> = (4..700).chain(bytes.len() - 1000..bytes.len()).collect();
    ends.extend((700..bytes.len() - 1000).step_by(37));
    for end in ends {
        let error = error_of(&bytes[..end]);
        let ImageError::Truncated { size, .. } = error else { panic!("cut at {end}: {error}") };
        assert_eq!(size, end as u64);
    }
}

/// Without a section table the segments give the length of the file.
#[test]
fn a_file_without_sections_cut_in_a_segment_is_truncated() {
    let bytes = File { section_table: false, ..elf::small() }.build();
    for end in [200, 0xfff, 0x1000, 0x1001, 0x1fff] {
        assert!(matches!(error_of(&bytes[..end]), ImageError::Truncated { .. }), "cut at {end}");
    }
    assert_eq!(exercise(&bytes).unwrap(), 0);
}

#[test]
fn counts_and_lengths_that_the_file_cannot_have_are_refused_at_once() {
    let (bytes, layout) = elf::small().build_with_layout();
    let changed = |changes: &[(usize, &[u8])]| {
        let mut bytes = bytes.clone();
        for (at, value) in changes {
            bytes[*at..*at + value.len()].copy_from_slice(value);
        }
        let start = Instant::now();
        let result = exercise(&bytes);
        assert!(start.elapsed() < Duration::from_secs(20));
        result
    };
    let huge = u64::MAX.to_le_bytes();
    let large = (1u64 << 40).to_le_bytes();
    // e_phnum: above the cap; with the escape to section 0; table outside the file.
    assert!(changed(&[(56, &[0xff, 0x7f])]).is_err());
    assert!(changed(&[(56, &[0xff, 0xff]), (layout.section_table + 44, &[0xff; 4])]).is_err());
    assert!(changed(&[(32, &huge)]).is_err());
    // e_shnum: in the header, and in section 0.
    assert!(changed(&[(60, &[0xff, 0xfe])]).is_err());
    assert!(changed(&[(60, &[0, 0]), (layout.section_table + 32, &huge)]).is_err());
    assert!(changed(&[(60, &[0, 0]), (layout.section_table + 32, &large)]).is_err());
    assert!(changed(&[(40, &huge)]).is_err());
    // The escape with the real number is legal.
    assert_eq!(changed(&[(60, &[0, 0]), (layout.section_table + 32, &6u64.to_le_bytes())]).unwrap(), 2);
    // A segment that ends beyond the file, or wraps round.
    for (field, value) in [(8, &huge), (32, &large), (16, &huge), (40, &huge)] {
        assert!(changed(&[(HEADER + field, value)]).is_err());
    }
    // A symbol table, a string table and a table of section names of excessive size.
    for (header, field) in
        [(layout.symtab, 32), (layout.symtab, 24), (layout.strtab, 32), (layout.strtab, 24)]
    {
        for value in [&huge, &large] {
            let error = changed(&[(header + field, value)]).unwrap_err();
            assert!(matches!(error, ImageError::Truncated { .. } | ImageError::TooLarge { .. }), "{error}");
        }
    }
    // A note of excessive size is no build-id; then one is made.
    let mut without = bytes.clone();
    without[layout.note + 4..layout.note + 8].fill(0xff);
    let image = Image::open(without).unwrap();
    assert_eq!((image.build_id().unwrap().bytes().len(), image.build_id_offset()), (8, None));
}

#[test]
fn sections_that_refer_to_themselves_or_each_other_are_read_once() {
    let (bytes, layout) = elf::small().build_with_layout();
    let link = |to: u32| {
        let mut bytes = bytes.clone();
        bytes[layout.symtab + 40..layout.symtab + 44].copy_from_slice(&to.to_le_bytes());
        exercise(&bytes)
    };
    // The symbol table as its own string table gives empty or nonsense names, and no harm.
    assert!(link(2).is_ok());
    assert!(link(1).is_ok());
    assert!(matches!(link(0xffff_ffff), Err(ImageError::Malformed { .. })));
    // String table and symbol table over the whole file.
    let mut overlapping = bytes.clone();
    overlapping[layout.strtab + 24..layout.strtab + 32].fill(0);
    let size = (overlapping.len() as u64).to_le_bytes();
    overlapping[layout.strtab + 32..layout.strtab + 40].copy_from_slice(&size);
    overlapping[layout.symtab + 24..layout.symtab + 32].fill(0);
    overlapping[layout.symtab + 32..layout.symtab + 40].copy_from_slice(&size);
    assert!(exercise(&overlapping).is_ok());
}

#[test]
fn names_outside_the_string_table_or_without_end_are_left_out() {
    let (bytes, layout) = elf::small().build_with_layout();
    for offset in [u32::MAX, 0x10_0000, 14] {
        let mut bytes = bytes.clone();
        bytes[layout.symbols + 24..layout.symbols + 28].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(exercise(&bytes).unwrap(), 1, "{offset}");
    }
    let endless = "x".repeat(edgelat_image::limits::NAME_BYTES + 1);
    let file = File::with_symbols(vec![
        Symbol::function(&endless, TEXT_ADDRESS, 16),
        Symbol::function(&endless[1..], TEXT_ADDRESS + 16, 16),
    ]);
    assert_eq!(exercise(&file.build()).unwrap(), 1);
}

/// Many symbols that share one long name cost more time than the length of their string table.
#[test]
fn names_that_overlap_do_not_take_forever() {
    let long = "a".repeat(16_000);
    let symbols: Vec<Symbol> =
        (0..50_000).map(|index| Symbol::function("", TEXT_ADDRESS + index % 4096, 1)).collect();
    let mut file = File::with_symbols(symbols);
    file.symbols.push(Symbol::function(&long, TEXT_ADDRESS, 1));
    let (mut bytes, layout) = file.build_with_layout();
    for index in 0..50_000 {
        let at = layout.symbols + 24 * (index + 1);
        bytes[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
    }
    let start = Instant::now();
    let error = error_of(&bytes);
    assert!(matches!(error, ImageError::TooLarge { what: "names of all functions", .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_bomb_in_gnu_debugdata_is_skipped_and_named() {
    let directory = directory("damaged_bomb");
    let zeros = directory.join("zeros");
    std::fs::write(&zeros, vec![0; 100 << 20]).unwrap();
    run("xz", &["-6", "--force", text(&zeros)]);
    let bomb = std::fs::read(directory.join("zeros.xz")).unwrap();
    for (content, word) in
        [(bomb, "size"), (b"not xz at all".to_vec(), "decompress"), (Vec::new(), "decompress")]
    {
        let mut file = elf::small();
        file.sections.push((".gnu_debugdata", 1, content));
        let image = Image::open(file.build()).unwrap();
        let table = own_functions(&image);
        assert_eq!(table.len(), 2, "the other symbols are there");
        let [skipped] = table.skipped() else { panic!("{:?}", table.skipped()) };
        assert_eq!(skipped.origin, Origin::Debugdata);
        assert!(skipped.error.to_string().contains(word), "{}", skipped.error);
        assert_helps(&skipped.error);
    }
}

/// Refusals from the image and its symbols, not from the code.
#[test]
fn functions_that_must_not_be_probed_are_refused_with_the_reason() {
    let refusal = |file: &File, name: &str| {
        let image = Image::open(file.build()).unwrap();
        let table = own_functions(&image);
        let function = image.find(&table, &Pattern::parse(name).unwrap()).unwrap().remove(0);
        image.sites(&table, &function).unwrap_err()
    };
    let one = |symbol: Symbol| File::with_symbols(vec![symbol]);
    let text_end = TEXT_ADDRESS + 0x1000;

    let resolver = one(Symbol::function("f", TEXT_ADDRESS, 16).kind(elf::IFUNC));
    assert_eq!(refusal(&resolver, "f"), Refusal::IfuncResolver);
    let endless = File { text: vec![0x90; 0x1000], ..one(Symbol::function("f", TEXT_ADDRESS, 0)) };
    assert_eq!(refusal(&endless, "f"), Refusal::UnknownEnd);
    for (start, size) in [(text_end - 8, 9), (text_end, 1), (0, 16), (TEXT_ADDRESS, u64::MAX), (u64::MAX, 5)]
    {
        let refused = refusal(&one(Symbol::function("f", start, size)), "f");
        assert_eq!(refused, Refusal::NotInText { address: start }, "{start:#x} {size:#x}");
    }

    let mut go = one(Symbol::function("main.main", TEXT_ADDRESS, 16));
    go.sections.push((".go.buildinfo", 1, b"\xff Go buildinf:".to_vec()));
    assert_eq!(refusal(&go, "main.main"), Refusal::Go);
    assert!(refusal(&go, "main.main").to_string().contains("gopclntab"));

    let writable = File { flags: 7, ..one(Symbol::function("f", TEXT_ADDRESS, 16)) };
    assert_eq!(refusal(&writable, "f"), Refusal::WritableText);
    let data = File { flags: 4, ..one(Symbol::function("f", TEXT_ADDRESS, 16)) };
    assert_eq!(refusal(&data, "f"), Refusal::NoText);

    let mut boring = File::with_symbols(vec![
        Symbol::function("before", TEXT_ADDRESS, 16),
        Symbol::function("BORINGSSL_bcm_text_start", TEXT_ADDRESS + 16, 0).kind(elf::LABEL).local(),
        Symbol::function("aes_encrypt", TEXT_ADDRESS + 16, 16),
        Symbol::function("BORINGSSL_bcm_text_end", TEXT_ADDRESS + 32, 0).kind(elf::LABEL).local(),
    ]);
    assert_eq!(refusal(&boring, "aes_encrypt"), Refusal::SelfChecked);
    let image = Image::open(boring.build()).unwrap();
    assert!(
        own_functions(&image).iter().any(|function| function.name == "before" && function.refusal.is_none())
    );
    boring.symbols.pop();
    let image = Image::open(boring.build()).unwrap();
    assert!(own_functions(&image).iter().all(|function| function.refusal != Some(Refusal::SelfChecked)));

    let arm = File {
        machine: elf::AARCH64,
        symbols: vec![
            Symbol::function("$x", TEXT_ADDRESS, 0).kind(elf::LABEL).local(),
            Symbol::function("$d", TEXT_ADDRESS + 8, 0).kind(elf::LABEL).local(),
            Symbol::function("with_data", TEXT_ADDRESS, 16),
            Symbol::function("without", TEXT_ADDRESS + 16, 16),
        ],
        ..File::default()
    };
    assert_eq!(refusal(&arm, "with_data"), Refusal::DataInside);
    let image = Image::open(arm.build()).unwrap();
    assert!(
        own_functions(&image).iter().any(|function| function.name == "without" && function.refusal.is_none())
    );

    let mut packed = File { section_table: false, ..File::default() }.build();
    let at = HEADER + 2 * PROGRAM_HEADER + 100;
    packed[at..at + 4].copy_from_slice(b"UPX!");
    assert_eq!(Image::open(packed).unwrap().refusal(), Some(Refusal::Packed));
}

#[test]
fn cold_parts_go_to_the_function_of_their_source_file() {
    let at = |offset: u64| TEXT_ADDRESS + offset;
    let file = File::with_symbols(vec![
        Symbol::file("one.c"),
        Symbol::function("init", at(0), 16).local(),
        Symbol::function("init.cold", at(0x800), 8).local(),
        Symbol::function("work.cold", at(0x808), 8).local(),
        Symbol::file("two.c"),
        Symbol::function("init", at(16), 16).local(),
        Symbol::function("init.cold", at(0x810), 8).local(),
        Symbol::function("init.part.0", at(64), 16).local(),
        Symbol::function("init.part.0.cold", at(0x818), 8).local(),
        Symbol::file("three.c"),
        Symbol::function("unnamed.cold", at(0x820), 8).local(),
        Symbol::file("four.c"),
        Symbol::function("ambiguous.cold", at(0x828), 8).local(),
        Symbol::file("five.c"),
        Symbol::function("ambiguous", at(80), 16).local(),
        Symbol::file("six.c"),
        Symbol::function("ambiguous", at(96), 16).local(),
        Symbol::function("work", at(32), 16),
        Symbol::function("clone.constprop.0", at(48), 16),
    ]);
    let image = Image::open(file.build()).unwrap();
    let table = own_functions(&image);
    let cold = |name: &str| -> Vec<(u64, Vec<u64>)> {
        image
            .find(&table, &Pattern::parse(name).unwrap())
            .unwrap()
            .iter()
            .map(|function| {
                (function.start - at(0), function.cold.iter().map(|part| part.start - at(0)).collect())
            })
            .collect()
    };
    assert_eq!(cold("init"), [(0, vec![0x800]), (16, vec![0x810])]);
    assert_eq!(cold("work"), [(32, vec![0x808])]);
    assert_eq!(cold("init.part.0"), [(64, vec![0x818])]);
    assert_eq!(cold("clone"), [(48, vec![])]);
    assert_eq!(cold("ambiguous"), [(80, vec![]), (96, vec![])]);
    // A part whose function has no symbol is listed with the reason, and not found as a function.
    let lost: Vec<_> = table.iter().filter(|function| function.refusal == Some(Refusal::ColdPart)).collect();
    assert_eq!((lost.len(), lost[0].name.as_str()), (1, "unnamed.cold"));
    assert!(image.find(&table, &Pattern::parse("unnamed.cold").unwrap()).is_err());
    assert_eq!(table.len(), 8);
}

#[test]
fn a_name_of_several_ranges_finds_all_that_do_work() {
    let at = |offset: u64| TEXT_ADDRESS + offset;
    let file = File::with_symbols(vec![
        Symbol::function("step", at(0), 16),
        Symbol::function("step.constprop.0", at(16), 16).local(),
        Symbol::function("step.isra.0", at(32), 16).local(),
        Symbol::function("step.part.0", at(48), 16).local(),
        Symbol::function("stepping", at(64), 16),
        Symbol::function("copy", at(80), 16).kind(elf::IFUNC),
        Symbol::function("copy.resolver", at(80), 16),
        Symbol::function("copy.avx2", at(96), 16),
        Symbol::function("copy.default", at(112), 16),
        Symbol::function("_ZN2ns4stepEi", at(128), 16),
        Symbol::function("_ZN2ns4stepEi.constprop.0", at(144), 16).local(),
        Symbol::function("versioned@@LIB_2.0", at(160), 16),
        Symbol::function("versioned@LIB_1.0", at(176), 16),
    ]);
    let image = Image::open(file.build()).unwrap();
    let table = own_functions(&image);
    let starts = |name: &str| -> Vec<u64> {
        let found = image.find(&table, &Pattern::parse(name).unwrap()).unwrap();
        found.iter().map(|function| function.start - at(0)).collect()
    };
    assert_eq!(starts("step"), [0, 16, 32]);
    assert_eq!(starts("step.part.0"), [48]);
    assert_eq!(starts("step*"), [0, 16, 32, 48, 64]);
    assert_eq!(starts("copy"), [80, 96, 112]);
    assert_eq!(starts("ns::step"), [128, 144]);
    assert_eq!(starts("ns::step(int)"), [128, 144]);
    assert_eq!(starts("versioned"), [160, 176]);
    let error = image.find(&table, &Pattern::parse("setp").unwrap()).unwrap_err().to_string();
    assert!(error.contains("'setp' not found; did you mean step"), "{error}");
}

#[test]
fn symbols_of_one_range_are_one_function_with_aliases() {
    let at = |offset: u64| TEXT_ADDRESS + offset;
    let file = File::with_symbols(vec![
        Symbol::function("local_name", at(0), 16).local(),
        Symbol::function("__internal", at(0), 16),
        Symbol::function("work", at(0), 16),
        Symbol::function("work", at(0), 16),
        Symbol::function("unsized_alias", at(0), 0),
        Symbol::function("longer", at(0), 32),
    ]);
    let image = Image::open(file.build()).unwrap();
    let table = own_functions(&image);
    assert_eq!(table.len(), 2);
    let short = table.iter().next().unwrap();
    assert_eq!((short.name.as_str(), short.end), ("work", at(16)));
    assert_eq!(short.aliases, ["local_name", "__internal"]);
    let long = table.iter().nth(1).unwrap();
    assert_eq!((long.name.as_str(), long.end), ("longer", at(32)));
    assert_eq!(
        long.aliases,
        ["unsized_alias"],
        "a symbol without size takes the longest range that begins with it"
    );
}

#[test]
fn an_image_that_shrinks_while_it_is_read_is_an_error() {
    let directory = directory("damaged_shrinks");
    let path = directory.join("image");
    std::fs::write(&path, elf::small().build()).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let image = Image::open(file.try_clone().unwrap()).unwrap();
    let table = own_functions(&image);
    let function = table.iter().next().unwrap();
    file.set_len(0x1010).unwrap();
    assert!(matches!(image.sites(&table, &function), Err(Refusal::Unreadable { .. })));
    let error = image.functions(&DebugFiles::none(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { .. }), "{error}");
}
