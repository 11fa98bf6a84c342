//! Exits by exception and their stack heights, compared with the unwinder's tables as readelf shows
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::path::Path;

use common::{compile, compile_aarch64, directory, open, own_functions, run, text};
use edgelat_image::{Followers, FunctionTable, Image, ProbeSite, ReadAt, SiteKind, Tails};

const SOURCE: &str = r#"
#define SEEN __attribute__((noipa))
#define CLEANED __attribute__((cleanup(clean)))
extern int may_throw(void *);
extern int takes_nine(int, int, int, int, int, int, int, int, int);
static volatile int seen;
static inline void clean(int *p) { seen += *p; }
SEEN int cleans(int x) { int v CLEANED = x; may_throw(0); return seen; }
SEEN int cleans_twice(int x) { int v CLEANED = x; { int w CLEANED = 2; may_throw(0); } may_throw(&v); return seen; }
SEEN int has_room(int x) { char room[5000]; int v CLEANED = x; may_throw(room); return room[x]; }
SEEN int switches(int x) {
    int v CLEANED = x;
    switch (x) { case 0: return may_throw(0); case 1: seen = 3; break; case 2: may_throw(&v); seen = 4; break;
                 case 3: return seen; case 4: may_throw(&x); return 9; default: seen = 1; }
    return may_throw(0);
}
SEEN int lets_pass(int x) { return may_throw(&x) + 1; }
SEEN int has_too_much_room(int x) { char room[40000]; int v CLEANED = x; may_throw(room); return room[x]; }
SEEN int has_any_room(int x) { char room[x]; int v CLEANED = x; may_throw(room); return room[x / 2]; }
"#;

/// Returns the height of the caller's stack: rows of each function by address, with the rule.
fn heights(readelf: &str, path: &Path) -> BTreeMap<u64, String> {
    let shown = run(readelf, &["--debug-dump=frames-interp", text(path)]);
    let mut rows = BTreeMap::new();
    for line in shown.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = words.first().filter(|word| word.len() == 16);
        if let (Some(Ok(address)), Some(rule)) =
            (address.map(|address| u64::from_str_radix(address, 16)), words.get(1))
            && words.get(2).is_some_and(|word| !word.starts_with("00000"))
        {
            rows.insert(address, (*rule).to_owned());
        }
    }
    rows
}

/// Returns the rule at an address of a function that begins at `start`.
fn rule(rows: &BTreeMap<u64, String>, start: u64, address: u64) -> Option<&str> {
    let row = rows.range((Unbounded, Included(address))).next_back().filter(|row| *row.0 >= start);
    row.map(|row| row.1.as_str())
}

fn above(site: &ProbeSite) -> u64 {
    assert_eq!(site.site.kind, SiteKind::Unwound, "{site:?}");
    assert!(site.site.maybe && site.site.condition.is_none() && !site.site.goroutine, "{site:?}");
    site.site.above.into()
}

/// Returns such exits of one in `each` functions.
fn found<S: ReadAt>(image: &Image<S>, table: &FunctionTable, each: usize) -> Vec<(String, Vec<ProbeSite>)> {
    let mut tails = Tails::new(image, table, Followers::new());
    let functions = table.iter().step_by(each).filter_map(|function| {
        let (_, ends) = tails.look(&function).ok()?;
        Some((function.name, ends.unwound))
    });
    functions.collect()
}

/// `entry` is the distance of the caller's stack above the stack pointer at an entry.
fn check(path: &Path, readelf: &str, entry: u64) {
    let image = open(path);
    let table = own_functions(&image);
    let rows = heights(readelf, path);
    let found: BTreeMap<String, Vec<ProbeSite>> = found(&image, &table, 1).into_iter().collect();
    for name in ["cleans", "cleans_twice", "has_room", "switches"] {
        assert!(!found[name].is_empty(), "{name}: nothing is known");
        for site in &found[name] {
            let rule = rule(&rows, 0, site.site.address).unwrap();
            let (_, height) = rule.split_once("sp+").unwrap_or_else(|| panic!("{name}: {rule}"));
            assert_eq!(above(site) + entry, height.parse::<u64>().unwrap(), "{name}: {site:?}");
        }
    }
    for name in ["lets_pass", "has_too_much_room", "has_any_room"] {
        assert_eq!(found[name], [], "{name}");
    }
}

#[test]
fn exceptions_are_seen_leaving_at_their_height() {
    let directory = directory("unwound");
    for (name, options) in [
        ("lazy", &["-Wl,-z,lazy", "-fcf-protection=none"][..]),
        ("pads", &["-Wl,-z,now", "-fcf-protection=full"]),
        ("shadowed", &["-fcf-protection=full", "-Wl,-z,shstk"]),
    ] {
        let options = [options, &["-O2", "-fexceptions", "-shared", "-fPIC"]].concat();
        check(&compile(&directory, &format!("{name}.c"), SOURCE, &options), "readelf", 8);
    }
}

#[test]
fn exceptions_are_seen_leaving_on_aarch64() {
    let directory = directory("unwound-aarch64");
    for (file, protection) in [("plain.c", "none"), ("pads.c", "bti")] {
        let protection = format!("-mbranch-protection={protection}");
        let options = ["-O2", "-fexceptions", "-shared", "-fPIC", "-fomit-frame-pointer", &protection];
        check(&compile_aarch64(&directory, file, SOURCE, &options), "aarch64-linux-gnu-readelf", 0);
    }
}

/// In a library with hundreds of such exits, each height equals the unwinder's.
#[test]
#[cfg(target_arch = "x86_64")]
fn heights_in_the_cpp_library_are_those_of_its_tables() {
    let path = Path::new("/usr/lib/x86_64-linux-gnu/libstdc++.so.6");
    let image = open(path);
    let table = own_functions(&image);
    let rows = heights("readelf", path);
    let (mut same, mut by_frame) = (0, 0);
    for (name, sites) in found(&image, &table, 4) {
        for site in &sites {
            let rule = rule(&rows, 0, site.site.address).unwrap();
            match rule.split_once("rsp+") {
                Some((_, height)) => {
                    assert_eq!(above(site) + 8, height.parse::<u64>().unwrap(), "{name}: {site:?}");
                    same += 1;
                }
                None => by_frame += 1,
            }
        }
    }
    println!(
        "figure: {same} exits by exception at the height of the tables, {by_frame} in frames with a pointer"
    );
    assert!(same > 150);
}
