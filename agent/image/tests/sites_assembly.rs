//! Hand-written assembly: one function for each rule.
//!
//! The assembly carries its own answers, as labels of the form `function.kind.flags`:
//!
//! * `f.entry.e` / `f.entry.s`: the entry site, emulated or single-stepped;
//! * `f.ret`, `f.tail`, `f.ahead`: an exit site, numbered if there are several, `.cN`: condition N;
//! * at any of them `.aN`: the stack pointer at the first instruction was N bytes above;
//! * `f.refused.reason`, with `_` for `-` in the reason.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod sites_support;

use std::collections::BTreeMap;
use std::process::Command;

use edgelat_image::{FunctionSites, SiteKind, Stepping};
use sites_support::{Built, Compiler, build, run};

/// Expectations from the labels of one function.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    refused: Option<String>,
    /// Address, true if emulated, and distance that the stack pointer has moved.
    entry: Option<(u64, bool, u16)>,
    /// Address, kind, condition, and distance that the stack pointer has moved.
    exits: Vec<(u64, &'static str, Option<u8>, u16)>,
}

fn wanted(built: &Built) -> BTreeMap<String, Wanted> {
    let mut all: BTreeMap<String, Wanted> = BTreeMap::new();
    let symbols = run(Command::new("nm").arg(built.path()));
    for line in symbols.lines() {
        // Undefined symbols have no address.
        let mut fields = line.split(' ');
        let address = fields.next().and_then(|field| u64::from_str_radix(field, 16).ok());
        let (Some(address), Some(name)) = (address, fields.nth(1)) else { continue };
        let mut words = name.split('.');
        let (Some(function), Some(kind)) = (words.next(), words.next()) else { continue };
        let rest: Vec<&str> = words.collect();
        let wanted = match kind {
            "entry" | "ret" | "tail" | "ahead" | "refused" => all.entry(function.to_owned()).or_default(),
            _ => continue,
        };
        let number = |mark| rest.iter().find_map(|word| word.strip_prefix(mark)?.parse::<u16>().ok());
        let (condition, above) = (number('c').map(|code| code as u8), number('a').unwrap_or(0));
        match kind {
            "entry" => wanted.entry = Some((address, rest.contains(&"e"), above)),
            "refused" => wanted.refused = Some(rest.concat().replace('_', "-")),
            "tail" => wanted.exits.push((address, "tail", condition, above)),
            "ahead" => wanted.exits.push((address, "ahead", condition, above)),
            _ => wanted.exits.push((address, "ret", condition, above)),
        }
    }
    for wanted in all.values_mut() {
        wanted.exits.sort_unstable();
    }
    all
}

fn found(sites: &FunctionSites) -> Wanted {
    assert_eq!(sites.entry.site.kind, SiteKind::Entry);
    Wanted {
        refused: None,
        entry: Some((
            sites.entry.site.address,
            sites.entry.site.stepping == Stepping::Emulated,
            sites.entry.site.above,
        )),
        exits: sites
            .exits
            .iter()
            .map(|exit| exit.site)
            .map(|exit| {
                let kind = match exit.kind {
                    SiteKind::TailJump => "tail",
                    SiteKind::Ahead => "ahead",
                    _ => "ret",
                };
                (exit.address, kind, exit.condition, exit.above)
            })
            .collect(),
    }
}

fn check(compiler: Compiler, name: &str, source: &str, flags: &[&str], least: usize) {
    let built = build(compiler, name, source, flags);
    let all = wanted(&built);
    assert!(all.len() >= least, "{} functions carry answers", all.len());
    let mut wrong = Vec::new();
    for (function, wanted) in &all {
        let function_of_name = built.functions.iter().find(|found| found.linkage_name == *function);
        let symbol = function_of_name.unwrap_or_else(|| panic!("{function} is a function"));
        let found = match built.image.sites(&built.functions, &symbol) {
            Ok(sites) => found(&sites),
            Err(refusal) => Wanted { refused: Some(refusal.code().to_owned()), ..Wanted::default() },
        };
        if found != *wanted {
            wrong.push(format!("{function}\n  wanted {wanted:x?}\n  found  {found:x?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[test]
fn x86_64_entries() {
    let source = include_str!("sites_assembly/x86_64_entries.s");
    check(Compiler::Clang, "entries.s", source, &[], 1);
    check(Compiler::Gcc, "entries.s", source, &[], 20);
}

#[test]
fn x86_64_exits() {
    let source = include_str!("sites_assembly/x86_64_exits.s");
    check(Compiler::Clang, "exits.s", source, &[], 1);
    check(Compiler::Gcc, "exits.s", source, &[], 30);
}

/// The dynamic linker fills descriptors in, or they stand in the file.
#[test]
fn x86_64_marks() {
    let source = include_str!("sites_assembly/x86_64_marks.s");
    check(Compiler::Gcc, "marks.s", source, &[], 5);
    check(Compiler::Gcc, "marks.s", source, &["-no-pie"], 5);
}

#[test]
fn x86_64_tables() {
    let source = include_str!("sites_assembly/x86_64_tables.s");
    check(Compiler::Clang, "tables.s", source, &[], 1);
    check(Compiler::Gcc, "tables.s", source, &[], 10);
}

#[test]
fn x86_64_position_dependent() {
    check(Compiler::Gcc, "absolute.s", include_str!("sites_assembly/x86_64_absolute.s"), &["-no-pie"], 3);
}

#[test]
fn aarch64_entries_and_exits() {
    let source = include_str!("sites_assembly/aarch64.s");
    check(Compiler::GccAarch64, "all.s", source, &["-march=armv8.5-a"], 30);
    check(Compiler::ClangAarch64, "all.s", source, &["-march=armv8.5-a"], 30);
}
