//! Purpose of the binary's bytes: sizes of the symbols of an unstripped build, summed by crate.
//!
//! A Rust symbol belongs to the crate that its path begins with, so generic code counts for the
//! crate that wrote it, not for its user. A C symbol belongs to the archive that defines it.
//! Constants without a name (strings, tables, the BPF object) have no symbol: they are the rest of
//! the file, after the sections with unwind tables.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, file};
use crate::tools::answer_of;

/// Sizes in bytes.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// The binary as it ships.
    pub(crate) stripped: u64,
    /// Largest first.
    pub(crate) parts: Vec<(String, u64)>,
    /// The BPF object, a constant without a name.
    pub(crate) bpf_object: u64,
    /// Sections for stack unwinding only.
    pub(crate) unwind: u64,
}

impl Sizes {
    /// Bytes without a symbol.
    pub(crate) fn rest(&self) -> u64 {
        let named: u64 = self.parts.iter().map(|(_, size)| size).sum();
        self.stripped.saturating_sub(named + self.unwind)
    }
}

/// Measures `stripped`, with the symbols of `unstripped`, the same build; searches `folders` for C
/// archives.
pub(crate) fn measure(stripped: &Path, unstripped: &Path, folders: &[PathBuf]) -> Result<Sizes, Error> {
    let mut archives = Vec::new();
    for folder in folders {
        find_archives(folder, &mut archives);
    }
    let mut owners = HashMap::new();
    // libbpf, libelf and zlib first: musl's own names are looked up last.
    archives.sort_by_key(|path| path.file_name() == Some("libc.a".as_ref()));
    for archive in archives {
        let Some(owner) = owner_of(&archive) else { continue };
        for (_, name) in symbols(&archive, &["--defined-only"])? {
            owners.entry(name).or_insert(owner);
        }
    }
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    for (size, name) in symbols(unstripped, &["--demangle", "--print-size", "--defined-only"])? {
        let part = match crate_of(&name) {
            Some(part) => part.to_owned(),
            None => owners.get(&name).map_or("C, other", |owner| owner).to_owned(),
        };
        *parts.entry(part).or_default() += size;
    }
    let mut parts: Vec<_> = parts.into_iter().filter(|(_, size)| *size > 0).collect();
    parts.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    Ok(Sizes {
        stripped: fs::metadata(stripped).map_err(file("look at", stripped))?.len(),
        parts,
        bpf_object: edgelat_bpf::object::PACKED_OBJECT.len() as u64,
        unwind: unwind_tables(stripped)?,
    })
}

fn find_archives(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_archives(&path, found);
        } else if owner_of(&path).is_some() {
            found.push(path);
        }
    }
}

fn owner_of(archive: &Path) -> Option<&'static str> {
    match archive.file_name()?.to_str()? {
        "libbpf.a" => Some("libbpf (C)"),
        "libelf.a" => Some("libelf (C)"),
        "libz.a" => Some("zlib (C)"),
        "libc.a" => Some("musl (C)"),
        _ => None,
    }
}

/// Size (0 if nm has none) and name of each symbol of code or data in the file.
fn symbols(path: &Path, options: &[&str]) -> Result<Vec<(u64, String)>, Error> {
    let output = answer_of(Command::new("nm").args(options).arg(path))?;
    Ok(output.lines().filter_map(symbol).collect())
}

/// Bytes of the unwind tables, from `NAME SIZE ADDRESS` lines of size.
fn unwind_tables(path: &Path) -> Result<u64, Error> {
    let output = answer_of(Command::new("size").args(["-A", "-d"]).arg(path))?;
    let sizes = output.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let unwind = matches!(words.next()?, ".eh_frame" | ".eh_frame_hdr" | ".gcc_except_table");
        words.next()?.parse::<u64>().ok().filter(|_| unwind)
    });
    Ok(sizes.sum())
}

/// Parses `ADDRESS [SIZE] KIND NAME`; skips symbols that take no room in the file (bss).
fn symbol(line: &str) -> Option<(u64, String)> {
    let (_, rest) = line.split_once(' ')?;
    let (size, rest) = match rest.split_once(' ')? {
        (kind, name) if kind.len() == 1 => (0, (kind, name)),
        (size, rest) => (u64::from_str_radix(size, 16).ok()?, rest.split_once(' ')?),
    };
    let (kind, name) = rest;
    matches!(kind, "t" | "T" | "w" | "W" | "r" | "R" | "d" | "D" | "V" | "v").then(|| (size, name.to_owned()))
}

/// The crate of a demangled Rust path, `None` for a C name.
fn crate_of(name: &str) -> Option<&str> {
    let mut rest = name;
    // `<&mut [alloc::vec::Vec<T>] as Trait>::method`: the first path inside.
    loop {
        let shorter = rest.trim_start_matches(['<', '&', '(', '[', '*', ' ']);
        let shorter =
            ["mut ", "const ", "dyn "].iter().fold(shorter, |s, word| s.strip_prefix(word).unwrap_or(s));
        if shorter == rest {
            break;
        }
        rest = shorter;
    }
    let (first, _) = rest.split_once("::")?;
    let ident = !first.is_empty() && first.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    // `<T as core::convert::Into<U>>::into` has no first path; its trait's crate wrote it.
    if ident { Some(first) } else { rest.split_once(" as ").and_then(|(_, of)| crate_of(of)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_belongs_to_the_crate_that_wrote_it() {
        assert_eq!(crate_of("edgelat_image::elf::parse"), Some("edgelat_image"));
        assert_eq!(crate_of("<edgelat_guard::Error as core::fmt::Display>::fmt"), Some("edgelat_guard"));
        assert_eq!(crate_of("<&mut alloc::vec::Vec<u8> as core::fmt::Write>::write_str"), Some("alloc"));
        assert_eq!(crate_of("<T as core::convert::Into<U>>::into"), Some("core"));
        assert_eq!(crate_of("bpf_object__load"), None);
    }

    #[test]
    fn sizes_come_from_lines_that_have_them() {
        assert_eq!(symbol("0000000000401000 0000000000000010 T main"), Some((16, "main".into())));
        assert_eq!(symbol("0000000000401000 T main"), Some((0, "main".into())));
        assert_eq!(symbol("0000000000401000 0000000000000010 b zeroes"), None);
    }
}
