//! Shared test helpers: programs compiled on the spot, listings of binutils, and hand-made ELF
//! files.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

pub mod dwarf;
pub mod elf;
pub mod languages;
pub mod pipeline;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_image::{DebugFiles, FunctionTable, Image, ImageError, ReadAt};

/// Returns an empty directory for this test, below cargo's directory for tests.
pub fn directory(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Runs a tool and returns what it printed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{tool} must be installed: {error}"));
    assert!(
        output.status.success(),
        "{tool} {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compiles `source` (the file name's extension selects the language); returns the result's path.
pub fn compile(directory: &Path, file: &str, source: &str, options: &[&str]) -> PathBuf {
    let tool = match file.rsplit('.').next().unwrap() {
        "c" => "gcc",
        "cpp" => "g++",
        "rs" => "rustc",
        other => panic!("no compiler for .{other}"),
    };
    compile_by(tool, directory, file, source, options)
}

/// Compiles C for aarch64.
pub fn compile_aarch64(directory: &Path, file: &str, source: &str, options: &[&str]) -> PathBuf {
    compile_by("aarch64-linux-gnu-gcc", directory, file, source, options)
}

fn compile_by(tool: &str, directory: &Path, file: &str, source: &str, options: &[&str]) -> PathBuf {
    let input = directory.join(file);
    std::fs::write(&input, source).unwrap();
    let output = directory.join(file.split('.').next().unwrap());
    let mut arguments = vec!["-o", text(&output), text(&input)];
    arguments.extend(options);
    run(tool, &arguments);
    output
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn open(path: &Path) -> Image<std::fs::File> {
    Image::open(std::fs::File::open(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Checks that a message states the error and the next step: two clauses.
pub fn assert_helps(error: &ImageError) {
    let message = error.to_string();
    assert!(message.contains("; "), "no next step: {message}");
}

/// Returns the functions that the file itself lists.
pub fn own_functions<S: ReadAt>(image: &Image<S>) -> FunctionTable {
    image.functions(&DebugFiles::none(), &mut |_| ()).unwrap()
}

/// A function symbol: address, size and name without version.
pub type Symbol = (u64, u64, String);

/// Returns the function symbols that `readelf` lists, of all tables.
pub fn readelf(path: &Path) -> BTreeSet<Symbol> {
    let listing = run("readelf", &["--symbols", "--wide", text(path)]);
    let mut symbols = BTreeSet::new();
    for line in listing.lines() {
        // Its form if the header does not name the GNU system.
        let line = line.replace("<OS specific>: 10", "IFUNC");
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Num: Value Size Type Bind Vis Ndx Name; Ndx may be preceded by "[<other>: 88]" on some architectures.
        let [_, value, size, "FUNC" | "IFUNC", _, _, rest @ ..] = fields.as_slice() else { continue };
        let rest = if rest.first().is_some_and(|field| field.starts_with('[')) {
            &rest[rest.iter().position(|field| field.ends_with(']')).unwrap() + 1..]
        } else {
            rest
        };
        let [section, name, ..] = rest else { continue };
        if section.parse::<u32>().is_err() {
            continue;
        }
        let size = match size.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => size.parse().unwrap(),
        };
        let name = name.split('@').next().unwrap();
        symbols.insert((u64::from_str_radix(value, 16).unwrap(), size, name.to_owned()));
    }
    assert!(!symbols.is_empty(), "readelf lists no function of {}", path.display());
    symbols
}

/// Returns the symbols that a table represents.
pub fn listed(table: &FunctionTable) -> BTreeSet<Symbol> {
    table
        .iter()
        .flat_map(|function| {
            let size = function.end - function.start;
            let names = std::iter::once(function.linkage_name).chain(function.aliases);
            names.map(move |name| (function.start, size, name)).collect::<Vec<_>>()
        })
        .collect()
}

/// Checks that a table has exactly the symbols that binutils list. Cold parts must be with their
/// functions, and a symbol without a size may have got one.
pub fn assert_same(table: &FunctionTable, expected: &BTreeSet<Symbol>) {
    let found = listed(table);
    let parts: BTreeSet<(u64, u64)> = table
        .iter()
        .flat_map(|function| function.cold)
        .map(|range| (range.start, range.end - range.start))
        .collect();
    let mut unlisted = BTreeSet::new();
    for (start, size, name) in expected {
        let is_part = name.contains(".cold") && parts.contains(&(*start, *size));
        let is_listed = found.contains(&(*start, *size, name.clone()))
            || *size == 0 && found.iter().any(|(other, _, named)| (other, named) == (start, name));
        assert!(is_part || is_listed, "{name} at {start:#x} with {size} bytes is missing");
        assert!(!(is_part && is_listed), "{name} is a part and a function");
        if is_part {
            unlisted.insert(name);
        }
    }
    for (start, size, name) in &found {
        let known = expected.contains(&(*start, *size, name.clone()))
            || expected.contains(&(*start, 0, name.clone()));
        assert!(known, "{name} at {start:#x} with {size} bytes is not in binutils' list");
    }
    assert_eq!(
        parts.len(),
        expected
            .iter()
            .filter(|(_, _, name)| unlisted.contains(name))
            .map(|(start, size, _)| (start, size))
            .collect::<BTreeSet<_>>()
            .len()
    );
}
