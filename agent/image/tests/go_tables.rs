//! Go's tables in every layout, intact and damaged, and the sites of functions of the Go tool
//! chain. The code below is that of small functions of Go 1.24, from its own disassembler.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::elf::{AARCH64, File, TEXT_ADDRESS, X86_64};
use common::languages::{ASSEMBLY, GoTable, MAGICS, TOP_FRAME, build_info, module_data};
use common::{assert_helps, own_functions};
use edgelat_image::{FunctionSites, Image, Pattern, Refusal};

const NEWEST: u32 = 0xffff_fff1;

/// Returns names, ranges from the start of the text, and refusal codes.
fn listed(file: &File) -> Vec<(String, u64, u64, &'static str)> {
    let image = Image::open(file.build()).unwrap();
    let table = own_functions(&image);
    let line = |function: edgelat_image::Function| {
        let code = function.refusal.as_ref().map_or("", Refusal::code);
        (function.name, function.start - TEXT_ADDRESS, function.end - TEXT_ADDRESS, code)
    };
    table.iter().map(line).collect()
}

fn sites(file: &File, name: &str) -> Result<FunctionSites, Refusal> {
    let image = Image::open(file.build()).unwrap();
    let table = own_functions(&image);
    let function = image.find(&table, &Pattern::parse(name).unwrap()).unwrap().remove(0);
    image.sites(&table, &function)
}

fn entry_and_exits(file: &File, name: &str) -> (u64, Vec<u64>) {
    let sites = sites(file, name).unwrap();
    assert!(sites.entry.site.goroutine, "{name}");
    let exits = sites.exits.iter().map(|exit| exit.site.address - TEXT_ADDRESS);
    (sites.entry.site.address - TEXT_ADDRESS, exits.collect())
}

const THREE: [(u32, &str, u8); 3] =
    [(0, "main.a", 0), (16, "runtime.rt0_go", TOP_FRAME), (48, "main.(*T).b", 0)];

#[test]
fn every_layout_gives_names_and_ranges() {
    for (magic, version) in MAGICS {
        for machine in [X86_64, AARCH64] {
            let table = GoTable::new(magic, &THREE, 80);
            let mut file = table.program(&[0x90; 96], machine);
            file.data[1].1 = build_info(version);
            let stack = if version == "go1.15" { "go-version" } else { "go-stack" };
            let other = if version == "go1.15" { "go-version" } else { "" };
            let expected =
                [("main.a", 0, 16, other), ("runtime.rt0_go", 16, 48, stack), ("main.(*T).b", 48, 80, other)]
                    .map(|(name, start, end, code)| (name.to_owned(), start, end, code));
            assert_eq!(listed(&file), expected, "{version}, machine {machine}");
            // Without section names the first bytes identify the table.
            file.section_table = false;
            let names = |listed: Vec<(String, u64, u64, &str)>| {
                listed.into_iter().map(|(name, start, end, _)| (name, start, end)).collect::<Vec<_>>()
            };
            assert_eq!(names(listed(&file)), names(expected.to_vec()), "{version}, machine {machine}");
        }
    }
}

#[test]
fn the_text_is_found_by_the_module_data() {
    let table = GoTable { states_text: false, ..GoTable::new(NEWEST, &THREE, 80) };
    for name in [".go.module", ".noptrdata"] {
        let mut file = table.program(&[0x90; 96], X86_64);
        let module = module_data(file.data_address(0), 96);
        file.data.push((name, module));
        assert_eq!(listed(&file)[2].1, 48, "{name}");
        // Data that only resembles module data has no effect.
        let mut damaged = file;
        damaged.data[2].1[22 * 8] ^= 0x10;
        damaged.data[2].1[22 * 8 + 2] ^= 0xff;
        let image = Image::open(damaged.build()).unwrap();
        let table = own_functions(&image);
        assert!(table.is_empty(), "{name}");
    }
}

#[test]
fn a_version_is_taken_only_where_it_makes_sense() {
    let language = |info: Vec<u8>| {
        let mut file = GoTable::new(NEWEST, &THREE, 80).program(&[0x90; 96], X86_64);
        file.data[1].1 = info;
        Image::open(file.build()).unwrap().facts().go.as_ref().unwrap().to_string()
    };
    assert_eq!(language(build_info("go1.24.4")), "Go (go1.24.4)");
    assert_eq!(language(build_info("go1.24.4 X:nocoverageredesign")), "Go (go1.24.4)");
    for wrong in
        [build_info("go1.\x1b[2J"), build_info("python"), build_info("go1.24.4")[..34].to_vec(), vec![0; 64]]
    {
        assert_eq!(language(wrong), "Go (of an unknown version)");
    }
    // Pointers to strings at arbitrary places.
    for pointer in [0, 1, u64::MAX, u64::MAX - 7, TEXT_ADDRESS] {
        let mut info = b"\xff Go buildinf:\x08\x00".to_vec();
        info.extend(pointer.to_le_bytes());
        info.resize(64, 0);
        assert_eq!(language(info), "Go (of an unknown version)", "{pointer:#x}");
    }
}

#[test]
fn damage_to_the_table_is_named() {
    let good = GoTable::new(NEWEST, &THREE, 80).program(&[0x90; 96], X86_64);
    let table = good.data[0].1.clone();
    let put = |at: usize, value: u64| {
        let mut table = table.clone();
        table[at..at + 8].copy_from_slice(&value.to_le_bytes());
        table
    };
    let list = u64::from_le_bytes(table[64..72].try_into().unwrap()) as usize;
    let first_entry = u64::from_le_bytes(table[list..list + 8].try_into().unwrap());
    for (damaged, word) in [
        (put(0, 0x0801_0000_1234_5678), "no version that is known"),
        (put(8, 0), "number of functions"),
        (put(8, u64::MAX), "number of functions"),
        (put(8, 1 << 16), "lie outside"),
        (put(32, 4000), "lie outside"),
        (put(40, u64::MAX), "lie outside"),
        (put(64, u64::MAX - 3), "lie outside"),
        (put(list, first_entry | 0xffff_0000), "out of order"),
        (put(list, first_entry | 0x7fff_0000 << 32), "lies outside"),
        (put(24, u64::MAX - 4), "address space"),
        (table[..40].to_vec(), "lie outside"),
        (table[..7].to_vec(), "no version that is known"),
    ] {
        let mut file = GoTable::new(NEWEST, &THREE, 80).program(&[0x90; 96], X86_64);
        file.data[0].1 = damaged;
        let image = Image::open(file.build()).unwrap();
        let functions = own_functions(&image);
        let [skipped] = functions.skipped() else { panic!("{word}: {:?}", functions.skipped()) };
        assert!(skipped.error.to_string().contains(word), "{word}: {}", skipped.error);
        assert_helps(&skipped.error);
        assert!(functions.is_empty());
    }
}

/// Makes a file with one function of the given bytes, padded up to the next function.
fn one(code: &[u8], machine: u16, flags: u8) -> File {
    let mut text = code.to_vec();
    let padding: &[u8] = if machine == X86_64 { &[0xcc] } else { &[0] };
    while !text.len().is_multiple_of(32) {
        text.extend(padding);
    }
    let end = text.len() as u32;
    GoTable::new(NEWEST, &[(0, "main.f", flags)], end).program(&text, machine)
}

#[test]
fn the_entry_is_the_branch_of_the_stack_check_on_x86_64() {
    let small = [
        0x49, 0x3b, 0x66, 0x10, // cmp 0x10(%r14),%rsp
        0x76, 0x0e, //             jbe more
        0x55, //                   push %rbp
        0x48, 0x89, 0xe5, //       mov %rsp,%rbp
        0xe8, 0, 0xf0, 0xff, 0xff, //       call
        0x90, //                   nop
        0x5d, //                   pop %rbp
        0xc3, //                   ret
        0x90, 0x90, // more:
        0xe8, 0, 0xf0, 0xff, 0xff, //       call runtime.morestack_noctxt
        0xeb, 0xe5, //             jmp 0
    ];
    let small = one(&small, X86_64, 0);
    assert_eq!(entry_and_exits(&small, "main.f"), (4, vec![17]));
    let above = Some(7);
    assert_eq!(sites(&small, "main.f").unwrap().entry.site.condition, above);

    let large = [
        0x4c, 0x8d, 0xa4, 0x24, 0x00, 0xf0, 0xff, 0xff, // lea -0x1000(%rsp),%r12
        0x4d, 0x3b, 0x66, 0x10, //                         cmp 0x10(%r14),%r12
        0x76, 0x02, //                                     jbe more
        0x90, //                                           nop
        0xc3, //                                           ret
        0xe8, 0, 0xf0, 0xff, 0xff, // more:                         call
        0xeb, 0xe9, //                                     jmp 0
    ];
    assert_eq!(entry_and_exits(&one(&large, X86_64, 0), "main.f"), (12, vec![15]));

    // A comparison of other values is no stack check: calls take both paths of the branch.
    let leaf = [0x48, 0x39, 0xd8, 0x76, 0x01, 0xc3, 0xc3]; // cmp %rbx,%rax; jbe; ret; ret
    let leaf = one(&leaf, X86_64, 0);
    assert_eq!(entry_and_exits(&leaf, "main.f").1, [5, 6]);
    assert_eq!(sites(&leaf, "main.f").unwrap().entry.site.condition, None);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn the_entry_is_the_branch_of_the_stack_check_on_aarch64() {
    let small = words(&[
        0xf940_0b90, // ldr x16, [x28, #16]
        0xeb30_63ff, // cmp sp, x16
        0x5400_00c9, // b.ls more
        0xf81f_0ffe, // str x30, [sp, #-16]!
        0x97ff_fc00, // bl
        0xf841_07fe, // ldr x30, [sp], #16
        0xd65f_03c0, // ret
        0xd503_201f, // nop
        0xaa1e_03e3, // more: mov x3, x30
        0x97ff_fc00, // bl runtime.morestack_noctxt
        0x17ff_fff6, // b 0
    ]);
    assert_eq!(entry_and_exits(&one(&small, AARCH64, 0), "main.f"), (8, vec![24]));

    // A constant behind the code that looks like a `ret`, which is loaded and never run.
    let with_constant = words(&[
        0xd503_201f, // nop
        0x5800_0060, // ldr x0, 16
        0xd65f_03c0, // ret
        0xd503_201f, // nop
        0xd65f_03c0, // constant, two words
        0xd65f_03c0,
    ]);
    let (entry, exits) = entry_and_exits(&one(&with_constant, AARCH64, 0), "main.f");
    assert_eq!((entry, exits), (0, vec![8]));
}

/// Found by fuzzing: a word that loads itself is a constant only as long as it is not one.
#[test]
fn a_word_that_loads_itself_ends_the_search_for_constants() {
    let code = words(&[0x5800_0000, 0xd65f_03c0]); // ldr x0, 0; ret
    assert_eq!(sites(&one(&code, AARCH64, 0), "main.f").unwrap_err().code(), "unsteppable");
}

/// A goroutine that is interrupted in the middle of `adrp`, `ldr` continues at the `adrp`.
#[test]
fn the_entry_is_run_once_where_a_sequence_may_begin_again() {
    let code = words(&[
        0xb000_0abb, // adrp x27
        0xf945_eb62, // ldr x2, [x27, #3024]
        0xf940_0040, // ldr x0, [x2]
        0xd65f_03c0, // ret
    ]);
    assert_eq!(entry_and_exits(&one(&code, AARCH64, 0), "main.f"), (4, vec![12]));
    let branching = words(&[
        0xb000_0abb, // adrp x27
        0xf945_eb62, // ldr x2, [x27, #3024]
        0xb000_0abb, // adrp x27
        0x396b_af63, // ldrb w3, [x27, #2795]
        0x3600_0043, // tbz w3, #0, 24
        0xd65f_03c0, // ret
        0xd65f_03c0, // ret
    ]);
    assert_eq!(entry_and_exits(&one(&branching, AARCH64, 0), "main.f"), (16, vec![20, 24]));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    // A wrapper only jumps to another function, which is named.
    let text = [
        0x48, 0x83, 0xc0, 0x08, 0xeb, 0x0a, 0xcc, 0xcc, // add $8,%rax; jmp 16
        0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
        0x90, 0xc3,
    ];
    let functions = [(0, "main.(*Outer).Get", 0), (16, "main.Inner.Get", 0)];
    let file = GoTable::new(NEWEST, &functions, 18).program(&text, X86_64);
    let refused = sites(&file, "main.(*Outer).Get").unwrap_err();
    assert_eq!(refused.code(), "go-wrapper");
    assert!(refused.to_string().contains("main.Inner.Get"), "{refused}");

    // Assembly is measured while it calls nothing.
    let leaf = one(&[0x90, 0xc3], X86_64, ASSEMBLY);
    let found = sites(&leaf, "main.f").unwrap();
    assert!(!found.entry.site.goroutine && found.exits.len() == 1);
    let calling = one(&[0xe8, 0, 0xf0, 0xff, 0xff, 0xc3], X86_64, ASSEMBLY);
    assert_eq!(sites(&calling, "main.f").unwrap_err(), Refusal::GoAssembly { address: TEXT_ADDRESS });

    // A check that is a branch target is no stack check.
    let looped = [0x90, 0x49, 0x3b, 0x66, 0x10, 0x76, 0x03, 0xeb, 0xf8, 0xc3, 0x90, 0xeb, 0xf3];
    match sites(&one(&looped, X86_64, 0), "main.f") {
        Ok(found) => assert_eq!(found.entry.site.condition, None, "{found:?}"),
        Err(refused) => assert!(!refused.code().is_empty()),
    }
}
