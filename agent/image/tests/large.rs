//! A file with a hundred thousand functions is read fast and in little memory. Alone in its binary,
//! because the memory is measured for the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::{Duration, Instant};

use common::elf::{File, Symbol, TEXT_ADDRESS};
use common::{directory, open, own_functions};
use edgelat_image::Pattern;

const FUNCTIONS: u64 = 100_000;

/// Returns the peak memory of the process so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_thousand_functions_are_read_fast_and_in_little_memory() {
    let path = directory("large").join("image");
    {
        let symbols = (0..FUNCTIONS)
            .map(|index| {
                let name = format!("_ZN7company7product11module{index:05}6Worker8progressEi");
                Symbol::function(&name, TEXT_ADDRESS + index * 16, 16)
            })
            .collect();
        let file = File { text: vec![0x90; FUNCTIONS as usize * 16], ..File::with_symbols(symbols) };
        std::fs::write(&path, file.build()).unwrap();
    }
    // The peak includes the making of the file; reset it before measuring.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();

    let limit = |fast: u64| Duration::from_millis(if cfg!(debug_assertions) { fast * 10 } else { fast });
    let start = Instant::now();
    let image = open(&path);
    let mut progressed = 0;
    let table = image.functions(&edgelat_image::DebugFiles::none(), &mut |_| progressed += 1).unwrap();
    let reading = start.elapsed();
    assert_eq!(table.len() as u64, FUNCTIONS);
    assert!(progressed >= 5);
    assert!(reading < limit(1_000), "{reading:?}");

    let start = Instant::now();
    let found = image
        .find(&table, &Pattern::parse("company::product::module04711::Worker::progress").unwrap())
        .unwrap();
    let finding = start.elapsed();
    assert_eq!((found.len(), found[0].start), (1, TEXT_ADDRESS + 4711 * 16));
    assert!(finding < limit(1_000), "{finding:?}");

    let start = Instant::now();
    let found = image.find(&table, &Pattern::parse("company::*::module4711?::*(int)").unwrap()).unwrap();
    assert_eq!(found.len(), 10);
    assert!(start.elapsed() < limit(2_000), "{:?}", start.elapsed());

    let start = Instant::now();
    let error =
        image.find(&table, &Pattern::parse("module04711::Worker::progres").unwrap()).unwrap_err().to_string();
    assert!(error.contains("did you mean company::product::module"), "{error}");
    assert!(start.elapsed() < limit(4_000), "{:?}", start.elapsed());

    let used = peak() - before;
    println!("reading {reading:?}, finding {finding:?}, {used} KiB at the peak");
    assert!(used < 24 << 10, "{used} KiB");
    drop(own_functions(&image));
}
