//! C compiled by gcc and clang, with many flags, on both architectures. The oracle is objdump: its
//! returns and jumps to other functions must be the exits, without others. For exits ahead of
//! returns (x86-64), the test follows the listed paths instead: each must pass one exit.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod listed;
mod sites_support;

use std::collections::BTreeMap;
use std::ops::Range;

use edgelat_image::{ProbeSite, Refusal, SiteKind, Stepping};
use listed::{Listing, follow, listing, stack_taken};
use sites_support::{Built, Compiler, build};

const SOURCE: &str = include_str!("sites_compilers/functions.c");

/// Returns the exits of a function by its listing: address and kind.
fn exits(listing: &Listing, parts: &[Range<u64>], indirect_is_tail: bool) -> Vec<(u64, SiteKind)> {
    let mut exits = Vec::new();
    for part in parts {
        for (&address, text) in listing.range(part.clone()) {
            let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let operands = operands.trim();
            let branch = mnemonic.starts_with('j') || mnemonic == "b" || mnemonic.starts_with("b.");
            if mnemonic == "ret" {
                exits.push((address, SiteKind::Return));
            } else if mnemonic == "br" || branch && operands.starts_with('*') {
                // A jump through the global offset table always is.
                if indirect_is_tail || operands.contains("(%rip)") {
                    exits.push((address, SiteKind::TailJump));
                }
            } else if branch {
                let target =
                    operands.split_whitespace().next().and_then(|word| u64::from_str_radix(word, 16).ok());
                let target = target.unwrap_or_else(|| panic!("{text} has a target"));
                if !parts.iter().any(|part| part.contains(&target)) {
                    exits.push((address, SiteKind::TailJump));
                }
            }
        }
    }
    exits.sort_unstable_by_key(|exit| exit.0);
    exits
}

fn check(compiler: Compiler, flags: &[&str]) {
    let aarch64 = matches!(compiler, Compiler::GccAarch64 | Compiler::ClangAarch64);
    let built = build(compiler, "functions.c", SOURCE, flags);
    let listing = listing(&built.path(), aarch64);
    let (mut probed, mut emulated, mut ahead) = (0, 0, 0);
    for function in built.functions.iter() {
        let name = &function.linkage_name;
        let place = format!("{name} of {compiler:?} {flags:?}");
        let sites = match built.image.sites(&built.functions, &function) {
            Ok(sites) => sites,
            Err(Refusal::NoExit) if name.starts_with("never_") => continue,
            Err(Refusal::LoopsToEntry { .. }) if name.starts_with("spin_") => continue,
            // A function that only jumps to another one.
            Err(Refusal::Empty)
                if listing.range(function.start..).next().is_some_and(|(_, text)| leaves(text)) =>
            {
                continue;
            }
            // The exclusive sequence of a lock begins with the first instruction.
            Err(Refusal::Unsteppable { .. } | Refusal::LoopsToEntry { .. })
                if aarch64 && matches!(name.as_str(), "locked" | "compare_and_swap") =>
            {
                continue;
            }
            Err(refusal) => panic!("{place}: {refusal}"),
        };
        assert!(!name.starts_with("never_"), "{place} was not refused");
        probed += 1;
        let parts: Vec<_> =
            std::iter::once(function.start..function.end).chain(function.cold.iter().cloned()).collect();
        let wanted = exits(&listing, &parts, name.starts_with("tail_"));
        let is_ahead = |exit: &&ProbeSite| exit.site.kind == SiteKind::Ahead;
        let moved = sites.exits.iter().any(|exit| is_ahead(&exit));
        let found = sites.exits.iter().filter(|exit| !is_ahead(exit));
        let found: Vec<_> = found.map(|exit| (exit.site.address, exit.site.kind)).collect();
        if moved {
            assert!(!aarch64 && found.iter().all(|exit| wanted.contains(exit)), "{place}: {found:?}");
            let jumps =
                |exits: &[(u64, SiteKind)]| exits.iter().filter(|exit| exit.1 != SiteKind::Return).count();
            assert_eq!(jumps(&found), jumps(&wanted), "{place}");
            follow(&listing, &parts, &sites, &place);
            ahead += 1;
        } else {
            assert_eq!(found, wanted, "{place}: exits, addresses in decimal");
        }
        let entry = sites.entry.site;
        let text = listing.get(&entry.address).unwrap_or_else(|| panic!("{place}: entry is no instruction"));
        let mnemonic = text.split_whitespace().next().unwrap_or_default();
        let cheap = if aarch64 {
            mnemonic.starts_with("b.")
                || matches!(mnemonic, "b" | "bl" | "blr" | "cbz" | "cbnz" | "tbz" | "tbnz" | "adr" | "adrp")
        } else {
            mnemonic == "push" || mnemonic == "nop" || mnemonic.starts_with('j') || mnemonic == "call"
        };
        assert_eq!(entry.stepping == Stepping::Emulated, cheap, "{place}: entry on {text}");
        emulated += usize::from(cheap);
        // No branch stands before the entry, and the stack pointer agrees with the listing.
        let mut above = 0;
        for (_, text) in listing.range(function.start..entry.address) {
            above += stack_taken(text, aarch64).unwrap_or_else(|| panic!("{place}: the entry passes {text}"));
            let mnemonic = text.split_whitespace().next().unwrap_or_default();
            let branches = mnemonic.starts_with('j')
                || matches!(mnemonic, "call" | "bl" | "blr" | "ret" | "syscall" | "svc");
            assert!(!branches, "{place}: the entry passes {text}");
        }
        assert_eq!(i64::from(entry.above), above, "{place}: entry at {:x}", entry.address);
    }
    println!(
        "{compiler:?} {flags:?}: {probed} probed, {emulated} with an emulated entry, {ahead} left ahead"
    );
    assert!(aarch64 || ahead > 0 || flags[0] == "-Os", "{compiler:?} {flags:?}");
    assert!(probed >= 32, "{compiler:?} {flags:?}: only {probed}");
}

fn leaves(text: &str) -> bool {
    matches!(text.split_whitespace().next(), Some("jmp" | "b" | "ret" | "br"))
}

const LEVELS: [&str; 5] = ["-O0", "-O1", "-O2", "-O3", "-Os"];

#[test]
fn gcc_x86_64() {
    for level in LEVELS {
        check(Compiler::Gcc, &[level, "-fPIC", "-fcf-protection=none"]);
        check(Compiler::Gcc, &[level, "-fPIC", "-fcf-protection=full"]);
        check(Compiler::Gcc, &[level, "-fno-pie", "-no-pie", "-fcf-protection=none"]);
    }
    check(Compiler::Gcc, &["-O2", "-fPIC", "-fstack-clash-protection", "-fstack-protector-strong"]);
    check(Compiler::Gcc, &["-O2", "-fPIC", "-fno-omit-frame-pointer"]);
    check(Compiler::Gcc, &["-O3", "-fPIC", "-march=haswell"]);
    check(Compiler::Gcc, &["-O2", "-fPIC", "-fno-plt", "-fno-reorder-blocks-and-partition"]);
}

#[test]
fn clang_x86_64() {
    for level in LEVELS {
        check(Compiler::Clang, &[level, "-fPIC"]);
        check(Compiler::Clang, &[level, "-fPIC", "-fcf-protection=full"]);
        check(Compiler::Clang, &[level, "-fno-pie", "-no-pie"]);
    }
    check(Compiler::Clang, &["-O2", "-fPIC", "-fno-omit-frame-pointer", "-fstack-protector-strong"]);
    check(Compiler::Clang, &["-O3", "-fPIC", "-march=haswell"]);
}

#[test]
fn gcc_aarch64() {
    for level in LEVELS {
        check(Compiler::GccAarch64, &[level, "-fPIC", "-mno-outline-atomics"]);
        check(Compiler::GccAarch64, &[level, "-fno-pie", "-no-pie", "-mno-outline-atomics"]);
    }
    check(Compiler::GccAarch64, &["-O2", "-fPIC", "-mbranch-protection=standard", "-mno-outline-atomics"]);
    check(Compiler::GccAarch64, &["-O2", "-fPIC", "-march=armv8.2-a", "-fstack-clash-protection"]);
}

#[test]
fn clang_aarch64() {
    for level in LEVELS {
        check(Compiler::ClangAarch64, &[level, "-fPIC", "-mno-outline-atomics"]);
    }
    check(Compiler::ClangAarch64, &["-O2", "-fPIC", "-mbranch-protection=standard", "-mno-outline-atomics"]);
}

/// Returns the sites of each exported function, or the reason for a refusal.
fn sites_by_name(built: &Built) -> BTreeMap<String, Result<Vec<u64>, &'static str>> {
    let exported = built.functions.iter().filter(|function| !function.linkage_name.contains('.'));
    let sites = |function| match built.image.sites(&built.functions, &function) {
        Ok(sites) => {
            let exits = sites.exits.iter().map(|exit| exit.site.address);
            Ok(std::iter::once(sites.entry.site.address).chain(exits).collect())
        }
        Err(refusal) => Err(refusal.code()),
    };
    exported.map(|function| (function.linkage_name.clone(), sites(function))).collect()
}

/// A stripped library names no cold parts: following jumps finds those that jump back. A part that
/// returns by itself looks like another function, and the jump to it becomes the exit.
#[test]
fn a_stripped_library_has_the_same_sites() {
    for compiler in [Compiler::Gcc, Compiler::GccAarch64] {
        let mut built = build(compiler, "functions.c", SOURCE, &["-O2", "-fPIC", "-g0"]);
        let cold: Vec<Range<u64>> = built.functions.iter().flat_map(|function| function.cold).collect();
        // On aarch64 gcc moves no cold parts without a profile.
        assert!(
            matches!(compiler, Compiler::GccAarch64) || !cold.is_empty(),
            "{compiler:?} put something aside"
        );
        let with_symbols = sites_by_name(&built);
        built.strip(compiler);
        assert!(built.functions.iter().all(|function| function.cold.is_empty()));
        let without = sites_by_name(&built);
        assert_eq!(with_symbols.len(), without.len());
        let mut same = 0;
        for (name, sites) in &with_symbols {
            let in_cold =
                |sites: &Vec<u64>| sites.iter().any(|site| cold.iter().any(|part| part.contains(site)));
            if sites.as_ref().is_ok_and(in_cold) {
                assert!(without[name].is_ok(), "{compiler:?}: {name}");
            } else {
                assert_eq!(*sites, without[name], "{compiler:?}: {name}, addresses in decimal");
                same += 1;
            }
        }
        assert!(same >= 30, "{compiler:?}: only {same}");
    }
}
