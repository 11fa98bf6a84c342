//! The offsets that an interpreter of Python states for debuggers, right and damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::elf::{File, Symbol, TEXT_ADDRESS};
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
    // The places may be others, as long as one reading reaches them.
    let mut moved = debug_offsets();
    (moved[35], moved[37], moved[39]) = (120, 136, 76);
    assert_eq!(read(&interpreter(&moved)).unwrap().unwrap().layout.code_file, 120);
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
    // The version is that of the word beside the offsets.
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
