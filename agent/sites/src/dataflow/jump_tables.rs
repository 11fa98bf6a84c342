//! Jump tables, read from the image.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::value::Table;
use crate::Surroundings;
use crate::decode::{Code, Width};

/// Entries read of one table. The largest switches of generated code have some thousand.
const ENTRIES: usize = 1 << 14;

/// Entries read of all tables of one function together, a bound on time and memory.
const ALL_ENTRIES: usize = 1 << 18;

/// Bytes read at a time.
const CHUNK: usize = 512;

/// Targets of a table's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    /// Into the function.
    Inside {
        /// Indices of the instructions, without duplicates, in table order. The table may be
        /// shorter than the part read, so the last ones may not be targets.
        steps: Rc<[usize]>,
        /// Target of the first entry that is no instruction of the function: the entry belongs to
        /// other data, or leads to an unknown part.
        next: Option<u64>,
    },
    /// To other functions: an array of function pointers.
    Outside,
    /// It is unreadable, or filled in when the image is loaded.
    Unknown,
}

/// Reads tables and remembers them.
pub(crate) struct Tables<'s> {
    surroundings: Option<&'s dyn Surroundings>,
    /// By table. A sorted list: a map is more code.
    known: RefCell<Vec<(Table, Targets)>>,
    /// Number of entries that may still be read.
    room: Cell<usize>,
}

impl<'s> Tables<'s> {
    pub(crate) fn new(surroundings: Option<&'s dyn Surroundings>) -> Self {
        Self { surroundings, known: RefCell::default(), room: Cell::new(ALL_ENTRIES) }
    }

    /// Returns the targets of a jump through `table`.
    pub(crate) fn targets(&self, table: Table, code: &Code) -> Targets {
        let mut known = self.known.borrow_mut();
        match known.binary_search_by_key(&table, |(table, _)| *table) {
            Ok(at) => known[at].1.clone(),
            Err(at) => {
                let targets = self.read(table, code);
                known.insert(at, (table, targets.clone()));
                targets
            }
        }
    }

    /// Reads entries as long as they lead into the function. A table's length is unknown, but
    /// behind it stand entries that lead elsewhere, or another table, whose entries do no harm
    /// here.
    fn read(&self, table: Table, code: &Code) -> Targets {
        let Some(surroundings) = self.surroundings else { return Targets::Unknown };
        let width = usize::from(table.width.bytes);
        if width == 0 || (table.base.is_none() && width != 8) {
            return Targets::Unknown;
        }
        let mut steps = Vec::new();
        let mut buffer = [0; CHUNK];
        let mut address = table.address;
        let mut first = true;
        for _ in 0..ENTRIES * width / CHUNK {
            let length = surroundings.data_at(address, &mut buffer).min(CHUNK);
            for entry in buffer[..length].chunks_exact(width) {
                match self.room.get().checked_sub(1) {
                    Some(room) => self.room.set(room),
                    None => return Targets::Unknown,
                }
                let entry = extended(entry, table.width);
                let target = table.base.unwrap_or(0).wrapping_add(entry << table.shift);
                match code.at(target) {
                    Some(step) => steps.push(step),
                    // An impossible case may lead behind the last instruction.
                    None if !first && code.ranges.iter().any(|range| range.end == target) => {}
                    None if !first => return inside(&steps, Some(target)),
                    None if table.base.is_none() && entry != 0 && !code.contains(target) => {
                        return Targets::Outside;
                    }
                    None => return Targets::Unknown,
                }
                first = false;
            }
            if length < CHUNK {
                break;
            }
            address = address.wrapping_add(CHUNK as u64);
        }
        if first { Targets::Unknown } else { inside(&steps, None) }
    }
}

fn inside(steps: &[usize], next: Option<u64>) -> Targets {
    let mut first: Vec<(usize, usize)> = steps.iter().copied().zip(0..).collect();
    first.sort_unstable();
    first.dedup_by_key(|(step, _)| *step);
    // Back in table order.
    first.iter_mut().for_each(|(step, place)| std::mem::swap(step, place));
    first.sort_unstable();
    Targets::Inside { steps: first.into_iter().map(|(_, step)| step).collect(), next }
}

/// Extends a little-endian number of up to 8 bytes.
fn extended(bytes: &[u8], width: Width) -> u64 {
    let mut value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    let unused = 64u32.saturating_sub(u32::from(width.bytes) * 8);
    if width.signed && unused < 64 {
        value = (value.cast_signed() << unused >> unused).cast_unsigned();
    }
    value
}
