//! Callers of inlined Go functions.
//!
//! A traceback names inlined functions, which have no code of their own. For that each function
//! with inlined code has a tree of the calls in it (`FUNCDATA_InlTree`), and a table that assigns
//! instructions to these calls (`PCDATA_InlTreeIndex`). Sizes and offsets are those of
//! runtime/symtab.go (`moduledata`, `inlinedCall` up to 1.19), runtime/symtabinl.go (`inlinedCall`
//! from 1.20 on), runtime/runtime2.go (`_func`) and internal/abi/symtab.go (table numbers) of these
//! versions.
//!
//! | Go | bytes of a call | its name at | `gofunc` in the module data |
//! | --- | --- | --- | --- |
//! | 1.18, 1.19 | 20 | 12 | 304 |
//! | 1.20 to 1.26 | 16 | 4 | 320 |
//! | 1.27 | 16 | 4 | 344 |

use super::pclntab::{self, Header, Layout};
use super::relative;
use crate::elf::{Elf, u32_at};
use crate::limits::NEAR_NAMES;
use crate::source::{read_exact, read_range};
use crate::{ImageError, ReadAt};

const WHAT: &str = "inline tree of Go";

/// `PCDATA_InlTreeIndex`, `FUNCDATA_InlTree`.
const INDEX_TABLE: usize = 2;
const TREE: usize = 3;

/// Number tables of a function; Go knows six.
const TABLES: u32 = 64;

/// Inlined calls of one function. Functions of large programs have some thousand.
const CALLS: i64 = 1 << 14;

/// Bytes read from the index table of one function.
const INDEX_BYTES: u64 = 64 << 10;

/// Calls read in a program.
const ALL_CALLS: u64 = 1 << 24;

/// Differences between versions.
#[derive(Clone, Copy)]
struct Calls {
    bytes: u64,
    name: usize,
    /// In the module data.
    base: u64,
}

impl Calls {
    /// Values for Go 1.`minor`; `None` if unknown.
    fn of(layout: Layout, minor: u32) -> Option<Self> {
        match (layout, minor) {
            (Layout::Go118, _) => Some(Self { bytes: 20, name: 12, base: 304 }),
            (Layout::Go120, 20..=26) => Some(Self { bytes: 16, name: 4, base: 320 }),
            (Layout::Go120, 27) => Some(Self { bytes: 16, name: 4, base: 344 }),
            _ => None,
        }
    }
}

/// Returns the first few functions with an inlined call of a function whose name stands at one of
/// `names` (sorted) in the name table. `None` if this Go version's layout is unknown.
///
/// # Errors
/// An [`ImageError`] if the function table is damaged.
pub(crate) fn callers(
    elf: &Elf<dyn ReadAt + '_>,
    minor: Option<u32>,
    names: &[u32],
) -> Result<Vec<u64>, ImageError> {
    let mut callers = Vec::new();
    let Some(header) = pclntab::find(elf)? else { return Ok(callers) };
    let Some(calls) = minor.and_then(|minor| Calls::of(header.layout, minor)) else { return Ok(callers) };
    let Some(module) = pclntab::module(elf, &header)? else { return Ok(callers) };
    let [Some(base)] = relative::words(elf, [module.address.saturating_add(calls.base)])? else {
        return Ok(callers);
    };
    let mut left = ALL_CALLS;
    for (start, description) in pclntab::read_list(elf, &header)? {
        // Damage in one function does not affect the others.
        let Some((tree, count)) = tree_of(elf, &header, description) else { continue };
        let Some(at) = base.checked_add(tree).and_then(|address| elf.offset_of(address)) else { continue };
        let size = count.saturating_mul(calls.bytes);
        let Ok(tree) = read_range(&elf.source, WHAT, at, size, size) else { continue };
        let is_wanted = |call: &[u8]| {
            let name = call.get(calls.name..).and_then(<[u8]>::first_chunk::<4>);
            name.is_some_and(|name| names.binary_search(&u32::from_le_bytes(*name)).is_ok())
        };
        if tree.chunks_exact(calls.bytes as usize).any(is_wanted) {
            callers.push(module.text.saturating_add(start));
        }
        left = left.saturating_sub(count);
        if callers.len() == NEAR_NAMES || left == 0 {
            break;
        }
    }
    Ok(callers)
}

/// Returns the tree's offset from the common base and its number of calls; `None` without a tree.
fn tree_of(elf: &Elf<dyn ReadAt + '_>, header: &Header, description: u64) -> Option<(u64, u64)> {
    let at = header.offset.checked_add(header.descriptions)?.checked_add(description)?;
    let mut fixed = [0; 44];
    read_exact(&elf.source, WHAT, at, &mut fixed).ok()?;
    let tables = u32_at(&fixed, 28);
    let (trees, bytes) = match header.layout {
        Layout::Go118 => (fixed[39], 40),
        _ => (fixed[43], 44),
    };
    if usize::from(trees) <= TREE || tables <= INDEX_TABLE as u32 || tables > TABLES {
        return None;
    }
    // Offsets of all number tables, then of all trees.
    let mut offsets = vec![0; (tables as usize + TREE + 1) * 4];
    read_exact(&elf.source, WHAT, at.checked_add(bytes)?, &mut offsets).ok()?;
    let offset =
        |index: usize| offsets.get(index * 4..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let (index, tree) = (offset(INDEX_TABLE)?, offset(tables as usize + TREE)?);
    if index == 0 || tree == u32::MAX {
        return None;
    }
    let at = header.offset.checked_add(header.numbers)?.checked_add(index.into())?;
    let left = header.size.checked_sub(at - header.offset)?.min(INDEX_BYTES);
    let table = read_range(&elf.source, WHAT, at, left.min(256), INDEX_BYTES).ok()?;
    let count =
        count(&table).or_else(|| count(&read_range(&elf.source, WHAT, at, left, INDEX_BYTES).ok()?))?;
    Some((tree.into(), count))
}

/// Returns the calls that a table refers to: its highest number plus one; `None` if it has no end.
///
/// The table has pairs of a zigzag-coded change of the number (runtime/symtab.go, `step`) and a
/// distance to the next change; the number begins with -1, and a change of 0 ends it.
fn count(table: &[u8]) -> Option<u64> {
    let mut rest = table;
    let mut number = -1i64;
    let mut highest = -1;
    for first in std::iter::once(true).chain(std::iter::repeat(false)) {
        let change = varint(&mut rest)?;
        if change == 0 && !first {
            break;
        }
        number += i64::from(change >> 1) ^ -i64::from(change & 1);
        highest = number.max(highest);
        varint(&mut rest)?;
    }
    u64::try_from(highest + 1).ok().filter(|_| (0..CALLS).contains(&highest))
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for place in 0..5 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f).checked_shl(place * 7)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_the_highest_number_that_an_instruction_has() {
        for (table, expected) in [
            // -1 for 5, 0 for 3, 2 for 1, -1 for 9.
            (&[0, 5, 2, 3, 4, 1, 5, 9, 0][..], Some(3)),
            // 0 from the start on.
            (&[2, 1, 0], Some(1)),
            // Only -1; no end; a number that is too high; a number without an end.
            (&[0, 9, 0], None),
            (&[2, 1], None),
            (&[], None),
            (&[0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 0], None),
            (&[0xff; 40], None),
        ] {
            assert_eq!(count(table), expected, "{table:?}");
        }
    }

    #[test]
    fn random_tables_never_panic() {
        let mut random = crate::testing::Random::new(29);
        let mut counted = 0;
        for _ in 0..20_000 {
            let table: Vec<u8> = (0..random.below(12)).map(|_| random.below(256) as u8 & 0x8f).collect();
            counted += usize::from(count(&table).is_some_and(|count| count <= CALLS as u64));
        }
        assert!(counted > 100, "{counted}");
    }
}
