//! Numbers of inlined copies, compared with the debug data that readelf shows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::elf::{File, Symbol, TEXT_ADDRESS};
use common::{compile, directory, open, run, text};
use edgelat_image::{DebugFiles, Image, Pattern, ReadAt};

const C: &str = r#"
#include <stdlib.h>
static volatile long sum;
static inline long always(long x) { sum += x; return sum; }
long part(long x) { sum++; for (int i = 0; i < 3; i++) sum += always(x); return sum; }
long first(long x) { return part(x) + always(x); }
long second(long x) { return x > 3 ? part(x + 1) + always(x + 2) : first(x); }
int main(int c, char **v) { return (int)(first(c) + second(c) + (v ? part(c) : 0)); }
"#;

const CPP: &str = r#"
#include <cstdlib>
#include <string>
#include <vector>
namespace ns {
struct Base { long data; __attribute__((noinline)) Base(long x) : data(x * rand()) {} virtual ~Base() { data--; } long twice() const { return data * 2; } };
struct Left : Base { Left() : Base(3) {} long twice_more() const { return twice() + twice(); } };
template <typename T> T largest(T a, T b) { return a < b ? b : a; }
}
int main(int argc, char **) {
    ns::Left left;
    ns::Base *base = new ns::Left;
    std::vector<long> many{left.twice_more(), ns::largest<long>(argc, 2), base->twice()};
    auto add = [&](long x) { many.push_back(x); return many.size(); };
    add(argc); add(argc + 1);
    delete base;
    return (int)many.back();
}
"#;

const RUST: &str = r#"
mod queue {
    pub struct Queue(pub Vec<u64>);
    impl Queue {
        pub fn push(&mut self, item: u64) { self.0.push(item); }
        #[inline(always)]
        pub fn last(&self) -> u64 { self.0.last().copied().unwrap_or(3) }
    }
}
fn main() {
    let mut queue = queue::Queue(Vec::new());
    queue.push(std::env::args().count() as u64);
    queue.push(queue.last());
    println!("{}", queue.last());
}
"#;

/// Fields of an entry that readelf shows.
#[derive(Default)]
struct Entry {
    tag: String,
    /// The function around it.
    function: Option<u64>,
    attributes: HashMap<String, String>,
}

impl Entry {
    fn origin(&self) -> Option<u64> {
        let attributes = ["DW_AT_abstract_origin", "DW_AT_specification"];
        let value = attributes.iter().find_map(|name| self.attributes.get(*name))?;
        let digits = value.trim_start_matches("<0x").split('>').next()?;
        u64::from_str_radix(digits, 16).ok()
    }

    fn address(&self) -> Option<u64> {
        let digits = self.attributes.get("DW_AT_low_pc")?.rsplit(' ').next()?.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).ok()
    }

    /// Returns the text behind `(indirect string, offset: 0x1):` and the like.
    fn text(&self, name: &str) -> Option<String> {
        let value = self.attributes.get(name)?;
        Some(value.rsplit_once("): ").map_or(&**value, |(_, text)| text).trim().to_owned())
    }
}

/// Counts copies by name in readelf's output, without those in functions that the linker removed.
fn shown(path: &Path, image: &Image<std::fs::File>) -> HashMap<String, u32> {
    let mut entries: HashMap<u64, Entry> = HashMap::new();
    let mut copies = Vec::new();
    let mut functions: Vec<(usize, u64)> = Vec::new();
    let mut last = 0;
    for line in run("readelf", &["--debug-dump=info", text(path)]).lines() {
        let line = line.trim_start();
        // " <2><cf>: Abbrev Number: 12 (DW_TAG_inlined_subroutine)", " <d0>   DW_AT_abstract_origin: <0x2c1>"
        if let Some((place, rest)) = line.split_once(">: Abbrev Number: ") {
            last = u64::from_str_radix(place.rsplit_once('<').unwrap().1, 16).unwrap();
            let tag = rest.split_once('(').map_or("", |(_, tag)| tag.trim_end_matches(')'));
            let level = place[1..].split('>').next().unwrap().parse().unwrap();
            functions.retain(|(other, _)| *other < level);
            let function = functions.last().map(|(_, function)| *function);
            entries.insert(last, Entry { tag: tag.to_owned(), function, ..Entry::default() });
            if tag == "DW_TAG_subprogram" {
                functions.push((level, last));
            }
            if tag == "DW_TAG_inlined_subroutine" {
                copies.push(last);
            }
        } else if let Some((name, value)) = line.split_once(": ")
            && let Some((_, name)) = name.split_once("DW_AT_")
            && let Some(entry) = entries.get_mut(&last)
        {
            entry.attributes.insert(format!("DW_AT_{}", name.trim()), value.trim().to_owned());
        }
    }
    let mut shown = HashMap::new();
    for copy in copies {
        let entry = &entries[&copy];
        assert_eq!(entry.tag, "DW_TAG_inlined_subroutine");
        let has_code = ["DW_AT_low_pc", "DW_AT_ranges", "DW_AT_entry_pc"];
        if !has_code.iter().any(|name| entry.attributes.contains_key(*name)) {
            continue;
        }
        let address = entry.address().or_else(|| entries.get(&entry.function?)?.address());
        if address.is_none_or(|address| image.file_offset(address).is_none()) {
            continue;
        }
        let (mut at, mut name) = (entry.origin(), None);
        while let Some(entry) = at.and_then(|at| entries.get(&at)) {
            if let Some(linkage_name) = entry.text("DW_AT_linkage_name") {
                name = Some(linkage_name);
                break;
            }
            name = name.or(entry.text("DW_AT_name"));
            at = entry.origin();
        }
        *shown.entry(name.unwrap()).or_insert(0) += 1;
    }
    shown
}

fn table<S: ReadAt>(image: &Image<S>) -> edgelat_image::FunctionTable {
    image.functions(&DebugFiles::none().inlined(true), &mut |_| ()).unwrap()
}

#[test]
fn copies_are_those_that_readelf_shows() {
    let directory = directory("inlined");
    for (file, source, options) in [
        ("c.c", C, &["-O2", "-gdwarf-5"][..]),
        ("c.c", C, &["-O3", "-gdwarf-4", "-flto"]),
        ("c.c", C, &["-O2", "-gdwarf-3"]),
        ("c.c", C, &["-O2", "-gdwarf-2", "-gz=zlib"]),
        ("cpp.cpp", CPP, &["-O2", "-gdwarf-5"]),
        ("cpp.cpp", CPP, &["-O2", "-gdwarf-4"]),
        ("rust.rs", RUST, &["-g", "-O"]),
    ] {
        let path = compile(&directory, file, source, options);
        let image = open(&path);
        let shown = shown(&path, &image);
        assert!(!shown.is_empty(), "{options:?}");
        let table = table(&image);
        let mut described = 0;
        for function in table.iter() {
            let names = std::iter::once(&function.linkage_name).chain(&function.aliases);
            let both = names.flat_map(|name| {
                let unified = ["C1E", "C2E", "D1E", "D2E"]
                    .iter()
                    .find(|letters| name.contains(**letters))
                    .map(|letters| name.replace(letters, &format!("{}4E", &letters[..1])));
                [Some(name.clone()), unified]
            });
            let names: std::collections::BTreeSet<String> = both.flatten().collect();
            let expected: u32 = names.iter().filter_map(|name| shown.get(name)).sum();
            assert_eq!(function.inlined.unwrap_or(0), expected, "{options:?}: {function:#?}");
            described += u32::from(function.inlined.is_some());
        }
        assert!(described > 0, "{options:?}");
    }
}

#[test]
fn a_function_that_was_put_into_its_callers_is_answered_with_their_names() {
    for version in [4, 5] {
        let mut file = File::with_symbols(vec![Symbol::function("outer", TEXT_ADDRESS, 0x1000)]);
        file.sections
            .extend(common::dwarf::sections(version).into_iter().map(|(name, bytes)| (name, 1, bytes)));
        let image = Image::open(file.build()).unwrap();
        let table = table(&image);
        assert!(table.skipped().is_empty(), "{:?}", table.skipped());
        assert_eq!(table.iter().next().unwrap().inlined, Some(0));
        for pattern in ["inner", "inn*"] {
            let error = image.find(&table, &Pattern::parse(pattern).unwrap()).unwrap_err().to_string();
            assert!(error.contains("inlined") && error.ends_with(": outer"), "{error}");
        }
        assert_eq!(image.find(&table, &Pattern::parse("*er").unwrap()).unwrap().len(), 1);
    }
}

/// Changes every byte to edge values, and truncates everywhere.
#[test]
fn damaged_debug_data_leave_the_functions_and_are_named() {
    let mut named = 0;
    for version in [4, 5] {
        let sections = common::dwarf::sections(version);
        for (number, (_, bytes)) in sections.iter().enumerate() {
            for at in 0..bytes.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
                    for cut in [false, true] {
                        let mut damaged = sections.clone();
                        damaged[number].1[at] = value;
                        damaged[number].1.truncate(if cut { at + 1 } else { bytes.len() });
                        let mut file = File::with_symbols(vec![Symbol::function("outer", TEXT_ADDRESS, 16)]);
                        file.sections.extend(damaged.into_iter().map(|(name, bytes)| (name, 1, bytes)));
                        let image = Image::open(file.build()).unwrap();
                        let table = table(&image);
                        assert_eq!(table.len(), 1);
                        named += table.skipped().len();
                    }
                }
            }
        }
    }
    assert!(named > 500, "{named}");
}
