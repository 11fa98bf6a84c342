//! Owners of cold parts.
//!
//! A compiler moves the unlikely part of `foo` away and calls it `foo.cold`; both run in one frame
//! and jump to each other. Its symbol is local even if `foo` is not, and static functions of
//! different files may share a name. Symbol tables keep the local symbols of one source file
//! together behind its `STT_FILE` symbol, so the owner is, in this order: a local `foo` of the same
//! file, a global `foo`, any `foo`. If several remain, the jump into the part decides instead of
//! the name.

use std::collections::HashMap;

use super::Entry;
use super::collect::Raw;
use crate::linkage;

/// Placeholder for the owner of a part that several functions may own.
pub(super) const UNCERTAIN: u32 = u32::MAX;

/// Owners of cold symbols, by index of the symbol.
pub(super) struct Cold {
    owners: HashMap<u32, Vec<u32>>,
}

impl Cold {
    /// The symbols that own the cold symbol.
    pub(super) fn owners(&self, symbol: u32) -> &[u32] {
        self.owners.get(&symbol).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Finds the owners of all cold symbols.
pub(super) fn link(raws: &[Raw], strings: &[Vec<u8>]) -> Cold {
    let mut wanted: HashMap<&[u8], Vec<u32>> = HashMap::new();
    for (index, raw) in (0u32..).zip(raws).filter(|(_, raw)| raw.go.is_none()) {
        if let Some(parent) = linkage::parent_of_cold(raw.name.text(strings)) {
            wanted.entry(parent).or_default().push(index);
        }
    }
    let mut best: HashMap<u32, (u8, Vec<u32>)> = HashMap::new();
    if wanted.is_empty() {
        return Cold { owners: HashMap::new() };
    }
    for (index, raw) in (0u32..).zip(raws) {
        for &symbol in wanted.get(raw.name.text(strings)).into_iter().flatten() {
            let part = &raws[symbol as usize];
            // The debug file repeats symbols of the image, so the same table comes first; but
            // `.gnu_debugdata` leaves out the symbols of the dynamic table.
            let rank = match (part.name.table == raw.name.table, raw.file) {
                (true, file) if file == part.file => 0,
                (true, 0) => 1,
                (true, _) => 2,
                (false, 0) => 3,
                (false, _) => 4,
            };
            let (best, owners) = best.entry(symbol).or_insert((rank, Vec::new()));
            if rank < *best {
                (*best, *owners) = (rank, Vec::new());
            }
            if rank == *best {
                owners.push(index);
            }
        }
    }
    Cold { owners: best.into_iter().map(|(symbol, (_, owners))| (symbol, certain(owners, raws))).collect() }
}

/// Returns the owners, if they are symbols of one range.
fn certain(owners: Vec<u32>, raws: &[Raw]) -> Vec<u32> {
    let range = |index: &u32| raws.get(*index as usize).map(|raw| (raw.start, raw.size));
    let one = owners.windows(2).all(|pair| pair.first().and_then(range) == pair.get(1).and_then(range));
    if one { owners } else { vec![UNCERTAIN] }
}

/// Maps (owner symbol, start, end) to (function index, start, end), sorted, without duplicates.
pub(super) fn parts(parts: &[(u32, u64, u64)], raws: &[Raw], functions: &[Entry]) -> Vec<(u32, u64, u64)> {
    let mut found: Vec<(u32, u64, u64)> = parts
        .iter()
        .filter(|(_, start, end)| start < end)
        .filter_map(|&(owner, start, end)| {
            let Some(owner) = raws.get(owner as usize) else { return Some((UNCERTAIN, start, end)) };
            let index = functions
                .binary_search_by_key(&(owner.start, owner.size), |entry| (entry.start, entry.size))
                .ok()?;
            Some((u32::try_from(index).ok()?, start, end))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
