//! Number of inlined copies of functions, from the debug data of a file (DWARF 2 to 5).
//!
//! A function may have code of its own and inlined copies. A probe sees calls of the former only,
//! so a reader of its figures needs the number of the latter. Each `DW_TAG_inlined_subroutine`
//! entry that states its code is one copy; its `DW_AT_abstract_origin` leads, perhaps over other
//! entries, to the entry with the function's name.
//!
//! Copies are counted by name: a function of a header has an entry in each unit that includes it, and functions of
//! different files that share a name share their count.

mod abbreviations;
mod cursor;
mod form;
mod sections;
mod unit;

use std::collections::HashMap;

use self::abbreviations::Kinds;
use self::cursor::Cursor;
use self::sections::Sections;
use self::unit::{Entry, Unit};
use crate::elf::Elf;
use crate::limits::{FUNCTIONS, NEAR_NAMES};
use crate::{ImageError, ReadAt, linkage};

const TAG_INLINED: u64 = 0x1d;
const TAG_SUBPROGRAM: u64 = 0x2e;

/// Entries, values and kinds read in total. [`DWARF_BYTES`](crate::limits::DWARF_BYTES) of debug
/// data have some 150 million.
const EFFORT: u64 = 1 << 28;

/// Entries between the origin of a copy and the entry with the name.
const HOPS: usize = 8;

/// Depth of nested entries. Deep scopes have some fifty.
const DEPTH: usize = 1 << 12;

/// Copies of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copies {
    /// Number of copies.
    pub(crate) count: u32,
    /// Starts of the first few functions that contain them, without duplicates.
    pub(crate) callers: Vec<u64>,
}

impl Copies {
    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        other.callers.iter().for_each(|caller| self.add_caller(*caller));
    }

    fn add_caller(&mut self, caller: u64) {
        if self.callers.len() < NEAR_NAMES && !self.callers.contains(&caller) {
            self.callers.push(caller);
        }
    }
}

/// Inlined copies in the debug data of an image.
#[derive(Debug, Default)]
pub(crate) struct Inlined {
    /// By linkage name, or by plain name if there is no linkage name.
    copies: HashMap<Vec<u8>, Copies>,
    /// Starts of the described functions, sorted.
    described: Vec<u64>,
    /// True if some of it stands in other files.
    incomplete: bool,
}

impl Inlined {
    /// Reads the debug data of a file; `None` if it has none. `is_code` distinguishes addresses of
    /// code from those of functions that the linker removed.
    ///
    /// # Errors
    /// An [`ImageError`] if they are damaged or above a cap.
    pub(crate) fn read(
        elf: &Elf<dyn ReadAt + '_>,
        is_code: &dyn Fn(u64) -> bool,
    ) -> Result<Option<Self>, ImageError> {
        let sections = Sections::read(elf)?;
        if sections.info.is_empty() {
            return Ok(None);
        }
        let mut reading = Reading { sections: &sections, effort: EFFORT, units: Vec::new() };
        let found = reading.copies(is_code);
        let found = found.and_then(|found| reading.name(found));
        found.map(Some).ok_or(ImageError::Malformed {
            what: ".debug_info",
            reason: "its entries are damaged, more than are read, or of a version that is not known",
        })
    }

    /// Returns the number of inlined copies of the function at `start` with these linkage names;
    /// `None` if unknown.
    pub(crate) fn of<'n>(&self, start: u64, names: impl Iterator<Item = &'n [u8]>) -> Option<u32> {
        let mut keys: Vec<Vec<u8>> = names
            .map(linkage::split)
            .filter(linkage::Split::is_whole)
            .flat_map(|split| [Some(split.base.to_vec()), unified(split.base)])
            .flatten()
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let found = keys.iter().filter_map(|key| self.copies.get(key));
        let count = found.fold(0u32, |sum, copies| sum.saturating_add(copies.count));
        let described = !self.incomplete && self.described.binary_search(&start).is_ok();
        (count > 0 || described).then_some(count)
    }

    /// Returns the copies of all functions with a name that `matches`.
    pub(crate) fn matching(&self, mut matches: impl FnMut(&[u8]) -> bool) -> Copies {
        let mut all = Copies::default();
        self.copies.iter().filter(|(name, _)| matches(name)).for_each(|(_, copies)| all.add(copies));
        all
    }
}

/// Returns the debug data's common name of constructors and destructors (`C1`, `C2`, `D1`, `D2`),
/// which have one entry for both: GCC writes `C4`, `D4`.
fn unified(name: &[u8]) -> Option<Vec<u8>> {
    let is = |window: &[u8]| matches!(window, [b'C' | b'D', b'1' | b'2', b'E']);
    let at = name.windows(3).rposition(is)?;
    let mut unified = name.to_vec();
    unified[at + 1] = b'4';
    Some(unified)
}

/// Copies by the entry of their origin.
struct Found {
    copies: HashMap<u64, Copies>,
    inlined: Inlined,
}

struct Reading<'s> {
    sections: &'s Sections,
    /// Rest of [`EFFORT`].
    effort: u64,
    /// Sorted by start.
    units: Vec<Unit>,
}

impl<'s> Reading<'s> {
    /// Reads all entries.
    fn copies(&mut self, is_code: &dyn Fn(u64) -> bool) -> Option<Found> {
        let mut found = Found { copies: HashMap::new(), inlined: Inlined::default() };
        let mut kinds: Option<(u64, Kinds)> = None;
        let mut cursor = Cursor::new(&self.sections.info, 0)?;
        while !cursor.is_at_end() {
            let mut unit = Unit::read(&mut cursor)?;
            let known = kinds.take().filter(|(at, _)| *at == unit.abbreviations);
            let (_, known) = kinds.insert(match known {
                Some(known) => known,
                None => (unit.abbreviations, self.kinds(&unit)?),
            });
            let entries = cursor.until(unit.end)?;
            if !entries.is_at_end() {
                unit.learn(entries, known)?;
            }
            found.inlined.incomplete |= unit.split;
            self.walk(&unit, entries, known, is_code, &mut found)?;
            self.units.push(unit);
            cursor = Cursor::new(&self.sections.info, unit.end)?;
        }
        found.inlined.described.sort_unstable();
        Some(found)
    }

    fn kinds(&mut self, unit: &Unit) -> Option<Kinds> {
        Kinds::read(&self.sections.abbreviations, unit.abbreviations, &mut self.effort)
    }

    /// Reads the entries of a unit.
    fn walk(
        &mut self,
        unit: &Unit,
        mut cursor: Cursor<'_>,
        kinds: &Kinds,
        is_code: &dyn Fn(u64) -> bool,
        found: &mut Found,
    ) -> Option<()> {
        // For each enclosing entry, the function that contains it.
        let mut around: Vec<Option<u64>> = vec![None];
        while !cursor.is_at_end() {
            let Some(entry) = unit.entry(&mut cursor, kinds, self.sections, &mut self.effort)? else {
                around.pop();
                // Padding behind the last entry.
                if around.is_empty() {
                    break;
                }
                continue;
            };
            let mut function = *around.last()?;
            match entry.tag {
                TAG_SUBPROGRAM => {
                    function = entry.start.filter(|start| is_code(*start));
                    if found.inlined.described.len() < FUNCTIONS {
                        found.inlined.described.extend(function);
                    }
                }
                TAG_INLINED => found.add(&entry, function, is_code),
                _ => {}
            }
            if entry.children {
                around.push(function);
                if around.len() > DEPTH {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Assigns names to the copies found.
    fn name(&mut self, found: Found) -> Option<Inlined> {
        let Found { copies, mut inlined } = found;
        // Entries of one unit are adjacent.
        let mut origins: Vec<(u64, Copies)> = copies.into_iter().collect();
        origins.sort_unstable_by_key(|(origin, _)| *origin);
        let mut kinds = None;
        for (origin, copies) in origins {
            match self.name_of(origin, &mut kinds) {
                Some(name) => inlined.copies.entry(name.to_vec()).or_default().add(&copies),
                None => inlined.incomplete = true,
            }
        }
        Some(inlined)
    }

    /// Returns the name of an entry, or of its origin.
    fn name_of(&mut self, origin: u64, kinds: &mut Option<(u64, Kinds)>) -> Option<&'s [u8]> {
        let mut at = origin;
        let mut plain = None;
        for _ in 0..HOPS {
            let number = self.units.partition_point(|unit| unit.encoding.start <= at).checked_sub(1)?;
            let unit = *self.units.get(number).filter(|unit| (unit.entries..unit.end).contains(&at))?;
            if kinds.as_ref().is_none_or(|(known, _)| *known != unit.abbreviations) {
                *kinds = Some((unit.abbreviations, self.kinds(&unit)?));
            }
            let (_, known) = kinds.as_ref()?;
            let mut cursor = Cursor::new(&self.sections.info, at)?.until(unit.end)?;
            let entry = unit.entry(&mut cursor, known, self.sections, &mut self.effort)??;
            if let Some(name) = entry.linkage_name.and_then(|name| unit.string(name, self.sections)) {
                return Some(name);
            }
            plain = plain.or_else(|| unit.string(entry.name?, self.sections));
            match entry.origin {
                Some(origin) => at = origin,
                None => break,
            }
        }
        plain
    }
}

impl Found {
    /// Records a copy in `function`.
    fn add(&mut self, entry: &Entry<'_>, function: Option<u64>, is_code: &dyn Fn(u64) -> bool) {
        // Inlined entries in functions without code are no copies.
        let here = entry.start.map_or(function.is_some(), is_code);
        if !entry.has_code || !here {
            return;
        }
        let Some(origin) = entry.origin else {
            self.inlined.incomplete |= entry.origin_elsewhere;
            return;
        };
        let copies = self.copies.entry(origin).or_default();
        copies.count = copies.count.saturating_add(1);
        function.iter().for_each(|function| copies.add_caller(*function));
    }
}
