//! Debug offsets that a Python interpreter states, valid and damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::elf::{File, OBJECT, Symbol, TEXT_ADDRESS};
use common::languages::{debug_offsets, interpreter};
use common::own_functions;
use edgelat_image::Image;
use edgelat_image::python::{Interpreter, PythonError};

fn read(file: &File) -> Result<Option<Interpreter>, PythonError> {
    let image = Image::open(file.build()).unwrap();
    let table = own_functions(&image);
    image.python(&table)
}

#[test]
fn the_offsets_of_3_13_are_read() {
    let found = read(&interpreter(&debug_offsets())).unwrap().unwrap();
    assert_eq!(found.minor, 13);
    assert_eq!((found.layout.code_file, found.layout.code_name, found.layout.code_line), (112, 128, 68));
    assert_eq!(found.layout.frame_owner, 70);
    let awaits = found.layout.awaits.unwrap();
    assert_eq!((awaits.position, awaits.code_first, awaits.state, awaits.ended), (56, 184, -5, 0));
    assert_eq!(found.sites.entry.site.address, TEXT_ADDRESS);
    // The offsets may differ, as long as one read reaches them.
    let mut moved = debug_offsets();
    (moved[35], moved[37], moved[39]) = (120, 136, 76);
    assert_eq!(read(&interpreter(&moved)).unwrap().unwrap().layout.code_file, 120);
}

/// `endbr64; mov 0x2118(%rdi),%rax`, in the middle of the test's loop.
const ACCESSOR: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x87, 0x18, 0x21, 0, 0];

#[test]
fn where_the_interpreters_of_a_process_are_is_stated_and_loaded_by_an_accessor() {
    let state = |finalizing: u64, first: u64, next: u64| {
        let mut words = debug_offsets();
        (words[4], words[5], words[8]) = (finalizing, first, next);
        let mut file = interpreter(&words);
        let at = file.text.len() / 2;
        file.text[at..at + ACCESSOR.len()].copy_from_slice(ACCESSOR);
        let name = "_PyInterpreterState_GetEvalFrameFunc";
        file.symbols.push(Symbol::function(name, TEXT_ADDRESS + at as u64, 12).kind(OBJECT));
        read(&file).unwrap().unwrap().state
    };
    // As in Debian's 3.13, except the interpreters' place in the runtime, which is smaller here.
    let found = state(0x260, 0x278, 0x1c60).unwrap();
    assert_eq!((found.first, found.next, found.eval_frame), (4, 0x1c60, 0x2118));
    assert_eq!(state(0x268, 0x278, 0x1c60).unwrap().started, found.started + 8);
    // Not in the file, before or far behind the rest, beyond any structure.
    for (finalizing, first, next) in [
        (0x2600, 0x2618, 0x1c60),
        (0x260, 0x250, 0x1c60),
        (0x220, 0x278, 0x1c60),
        (0, 0x10, 0x1c60),
        (0x260, 0x278, 1 << 16),
        (u64::MAX, u64::MAX, 0),
        (1 << 40, (1 << 40) + 24, 0),
    ] {
        assert_eq!(state(finalizing, first, next), None, "{finalizing:#x} {first:#x} {next:#x}");
    }
    assert_eq!(read(&interpreter(&debug_offsets())).unwrap().unwrap().state, None, "no accessor");
}

#[test]
fn an_image_without_the_loop_is_no_interpreter() {
    let mut file = interpreter(&debug_offsets());
    file.symbols[0] = Symbol::function("PyEval_EvalCode", TEXT_ADDRESS, 0x1000);
    assert!(read(&file).unwrap().is_none());
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let with = |index: usize, value: u64| {
        let mut words = debug_offsets();
        words[index] = value;
        read(&interpreter(&words)).unwrap_err().to_string()
    };
    for (index, value, word) in [
        (0, 0, "not those of its version"),
        (2, 1, "free-threaded Python 3.13"),
        (30, 1 << 12, "code of a frame"),
        (31, 1 << 12, "position of a frame"),
        (33, 1 << 12, "owner of a frame"),
        (43, 8, "instructions of a code object"),
        (35, u64::MAX, "file of a code object"),
        (37, 1 << 40, "name of a code object"),
        (39, 4096, "line of a code object"),
        (37, 136, "names of a code object"),
        (69, 24, "length of a string"),
        (70, 48, "names of a code object"),
        (70, 1 << 16, "header of a string"),
    ] {
        let message = with(index, value);
        assert!(message.contains(word), "word {index} = {value:#x}: {message}");
    }
    // The version comes from the word beside the offsets.
    for (version, word) in [(0x0310_00f0, "3.16"), (0x0307_00f0, "3.7"), (0x0200_00f0, "2.0")] {
        let message = with(1, version);
        assert!(message.contains(word), "{version:#x}: {message}");
    }
    let mut without = interpreter(&debug_offsets());
    without.symbols.truncate(1);
    assert!(read(&without).unwrap_err().to_string().contains("3.7 or older"));
    let mut outside = interpreter(&debug_offsets());
    outside.symbols[1].value = u64::MAX - 3;
    assert!(read(&outside).unwrap_err().to_string().contains("not in the file"));
    let mut cut_off = interpreter(&debug_offsets());
    cut_off.data[0].1.truncate(64);
    cut_off.sections.clear();
    assert!(read(&cut_off).is_err());
}
