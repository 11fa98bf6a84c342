//! The functions of the large C and C++ libraries of this machine: at least 85 % can be probed, and
//! their exits are the returns and outward jumps that objdump shows.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod listed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use edgelat_image::{DebugFiles, Image, Refusal, SiteKind, boxed};
use listed::{follow, listing};

/// Candidate libraries; the installed ones are tested.
const LIBRARIES: [&str; 5] =
    ["libc.so.6", "libstdc++.so.6", "libcrypto.so.3", "libssl.so.3", "libsqlite3.so.0"];

fn libraries() -> Vec<PathBuf> {
    let triplet = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
    let directories =
        [format!("/lib/{triplet}"), format!("/usr/lib/{triplet}"), "/lib64".into(), "/usr/lib64".into()];
    let find = |library| {
        directories.iter().map(|directory| Path::new(directory).join(library)).find(|path| path.exists())
    };
    let found: Vec<PathBuf> = LIBRARIES.iter().filter_map(find).collect();
    assert!(!found.is_empty(), "there is a C library");
    found
}

/// Returns the address that a direct branch leads to; `None` for other instructions.
fn branch_target(text: &str) -> Option<u64> {
    let (mnemonic, operands) = text.split_once(char::is_whitespace)?;
    let branch = mnemonic.starts_with('j') || mnemonic == "b" || mnemonic.starts_with("b.");
    branch.then(|| u64::from_str_radix(operands.trim().split([' ', ',']).next()?, 16).ok()).flatten()
}

#[test]
fn most_functions_can_be_probed_and_their_exits_are_those_of_objdump() {
    let open = |path: &Path| File::open(path).map(boxed);
    for path in libraries() {
        let image = Image::open(File::open(&path).expect("it is there")).expect("an image");
        let functions = image.functions(&DebugFiles::new(&open), &mut |_| ()).expect("functions");
        let starts: BTreeSet<u64> = functions.iter().map(|function| function.start).collect();
        let listing = listing(&path, cfg!(target_arch = "aarch64"));
        let (mut all, mut probed, mut exits_seen, mut ahead) = (0, 0, 0, 0);
        let mut dead = Vec::new();
        let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
        for function in functions.iter() {
            let sites = match image.sites(&functions, &function) {
                Ok(sites) => sites,
                Err(Refusal::IfuncResolver) => continue,
                Err(refusal) => {
                    *refused.entry(refusal.code()).or_default() += 1;
                    all += 1;
                    continue;
                }
            };
            (all, probed) = (all + 1, probed + 1);
            let place = format!("{} at {:#x} of {}", function.name, function.start, path.display());
            assert!(listing.contains_key(&sites.entry.site.address), "{place}: entry");
            let mut moved = false;
            let exits: BTreeSet<u64> = sites.exits.iter().map(|exit| exit.site.address).collect();
            exits_seen += exits.len();
            for exit in &sites.exits {
                let text = listing
                    .get(&exit.site.address)
                    .unwrap_or_else(|| panic!("{place}: exit is no instruction"));
                let returns = text.starts_with("ret");
                assert_eq!(returns, exit.site.kind == SiteKind::Return, "{place}: {text}");
                assert!(returns || text.starts_with(['j', 'b']), "{place}: {text}");
                moved |= exit.site.kind == SiteKind::Ahead;
            }
            let parts: Vec<_> =
                std::iter::once(function.start..function.end).chain(function.cold.iter().cloned()).collect();
            if moved {
                ahead += 1;
                follow(&listing, &parts, &sites, &place);
            }
            let inside = |address: u64| parts.iter().any(|part| part.contains(&address));
            for (address, text) in parts.iter().flat_map(|part| listing.range(part.clone())) {
                // A jump out without an exit leads to an unnamed part.
                let leaves =
                    branch_target(text).is_some_and(|target| !inside(target) && starts.contains(&target));
                if !exits.contains(address) && (leaves || !moved && text.starts_with("ret")) {
                    dead.push(format!("{place}: {address:x} {text}"));
                }
            }
        }
        // Assembly has a few unreachable returns.
        assert!(dead.len() * 1000 < exits_seen, "{} are no exits: {}", dead.len(), dead.join("\n"));
        println!(
            "{}: {probed} of {all}, {ahead} left ahead, {exits_seen} exits, refused {refused:?}, dead {dead:#?}",
            path.display()
        );
        assert!(ahead * 10 >= probed || cfg!(target_arch = "aarch64"), "{}: {ahead}", path.display());
        assert!(probed * 100 >= all * 85, "{}: {probed} of {all}: {refused:?}", path.display());
    }
}
