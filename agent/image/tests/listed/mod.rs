//! Listings of objdump as an oracle: the places of exits, and the instructions on the way there.
#![allow(dead_code, reason = "no test needs all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use edgelat_image::{FunctionSites, SiteKind};

/// Address to mnemonic and operands.
pub type Listing = BTreeMap<u64, String>;

/// Lists all executable sections of an image.
pub fn listing(path: &Path, aarch64: bool) -> Listing {
    let tool = if aarch64 == cfg!(target_arch = "aarch64") {
        "objdump"
    } else if aarch64 {
        "aarch64-linux-gnu-objdump"
    } else {
        "x86_64-linux-gnu-objdump"
    };
    let output = Command::new(tool).args(["-d", "--no-show-raw-insn"]).arg(path).output().expect("binutils");
    assert!(output.status.success(), "{tool} {}", path.display());
    let line = |line: &str| {
        let (address, text) = line.split_once(":\t")?;
        let text = text.trim_start_matches("bnd ").trim_start_matches("notrack ").trim_start_matches("repz ");
        Some((u64::from_str_radix(address.trim(), 16).ok()?, text.trim_end().to_owned()))
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(line).collect()
}

/// Returns the stack bytes that an instruction reserves; `None` if the listing does not show it.
pub fn stack_taken(text: &str, aarch64: bool) -> Option<i64> {
    let number = |text: &str| {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, text),
        };
        let number = match digits.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        };
        number.map(|number: i64| sign * number)
    };
    let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let operands = operands.trim();
    if aarch64 {
        let written_back = operands.split_once("[sp, #").filter(|_| operands.ends_with("]!"));
        let after = operands.split_once("[sp], #");
        return match (mnemonic, operands.strip_prefix("sp, ")) {
            ("cmp" | "cmn" | "tst", _) => Some(0),
            ("sub", Some(rest)) => number(rest.strip_prefix("sp, #")?),
            ("add", Some(rest)) => number(rest.strip_prefix("sp, #")?).map(|by| -by),
            (_, Some(_)) => None,
            _ if written_back.is_some() => number(written_back?.1.strip_suffix("]!")?).map(|by| -by),
            _ if after.is_some() => None,
            _ => Some(0),
        };
    }
    match (mnemonic, operands.strip_suffix(",%rsp")) {
        ("push", _) => Some(8),
        ("sub", Some(amount)) => number(amount.strip_prefix('$')?),
        ("add", Some(amount)) => number(amount.strip_prefix('$')?).map(|by| -by),
        ("cmp" | "test", _) => Some(0),
        ("pop" | "leave" | "enter", _) | (_, Some(_)) => None,
        _ => Some(0),
    }
}

/// Follows all paths through the listed parts of an x86-64 function, with the passed exits and the
/// stack depth.
pub fn follow(listing: &Listing, parts: &[Range<u64>], sites: &FunctionSites, place: &str) {
    // A path may begin behind a call that never returns, with any depth.
    let (mut met, mut agreed) = (BTreeSet::new(), BTreeSet::new());
    let mut seen = BTreeSet::new();
    let mut work = vec![(parts[0].start, Some(0i64), None)];
    while let Some((address, mut depth, left)) = work.pop() {
        // Code behind a call that never returns may be another function.
        let inside = parts.iter().any(|part| part.contains(&address));
        // No call takes a path with this many depths.
        if seen.range((address, None, None)..(address + 1, None, None)).count() > 32 {
            depth = None;
        }
        if !inside || !seen.insert((address, depth, left)) {
            continue;
        }
        let Some(text) = listing.get(&address) else {
            // The C library jumps past a LOCK prefix if there is one thread.
            assert!(
                listing.get(&(address - 1)).is_some_and(|text| text.starts_with("lock")),
                "{place}: {address:x}"
            );
            work.push((address - 1, depth, left));
            continue;
        };
        let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let exit = sites.exits.iter().map(|exit| exit.site).find(|exit| exit.address == address);
        let target = operands.split_whitespace().next().and_then(|word| u64::from_str_radix(word, 16).ok());
        let next = *listing.range(address + 1..).next().expect("more follows").0;
        let after = match mnemonic {
            "leave" => None,
            "pop" => depth.map(|depth| depth - 8),
            _ => depth.and_then(|depth| Some(depth + stack_taken(text, false)?)),
        };
        let at = format!("{place}, {address:x} {text}");
        let ahead = exit.filter(|exit| exit.kind == SiteKind::Ahead);
        if let (Some(exit), Some(depth)) = (ahead, depth) {
            met.insert(address);
            agreed.extend((i64::from(exit.above) == depth).then_some(address));
        }
        // Instructions left after an exit ahead of a return.
        let due = |left: Option<u8>| {
            left.map(|left| left.checked_sub(1).unwrap_or_else(|| panic!("{at}: too long")))
        };
        match (mnemonic, target) {
            ("ret", _) => {
                let here = exit.is_some_and(|exit| exit.kind == SiteKind::Return);
                assert!(here != left.is_some(), "{at}: {left:?}");
            }
            ("jmp", _) if exit.is_some_and(|exit| exit.kind == SiteKind::TailJump) => {
                assert_eq!(left, None, "{at}")
            }
            ("jmp", Some(target)) => {
                work.push((target, after, due(left).or(ahead.map(|exit| exit.left_out))))
            }
            ("call", _) => {
                assert_eq!(left, None, "{at}");
                work.push((next, after, left));
            }
            ("ud2" | "hlt", _) | ("jmp", None) => {}
            (jump, Some(target)) if jump.starts_with('j') => {
                // By the name in objdump, and by the site's condition.
                let names =
                    ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"];
                let own = names.iter().position(|name| *name == &jump[1..]).map(|code| code as u8);
                let counts = |taken| {
                    ahead
                        .filter(|exit| exit.condition.is_none_or(|code| (Some(code) == own) == taken))
                        .map(|exit| exit.left_out)
                };
                if let Some(code) = ahead.and_then(|exit| exit.condition) {
                    assert!(own.is_some_and(|own| own | 1 == code | 1), "{at}");
                }
                let outside = exit.is_some_and(|exit| exit.kind == SiteKind::TailJump);
                work.extend((!outside).then(|| (target, after, due(left).or(counts(true)))));
                work.push((next, after, due(left).or(counts(false))));
            }
            _ => work.push((next, after, due(left))),
        }
    }
    assert_eq!(met, agreed, "{place}: the depth of the stack at exits");
}
