//! How often functions were put into others (inlined), by the debug data of a file (DWARF 2 to 5).
//!
//! A function may have code of its own and copies of it within others. A probe sees calls of the former only, so whoever reads
//! its figures should know of the latter. An entry `DW_TAG_inlined_subroutine` that says where its code is is one such copy; its
//! `DW_AT_abstract_origin` leads, perhaps over others, to the entry with the function's name.
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

/// Entries, values and kinds of entries that are looked at, together. Debug data of [`DWARF_BYTES`](crate::limits::DWARF_BYTES)
/// has some 150 million.
const EFFORT: u64 = 1 << 28;

/// Entries between one that a copy leads to and the one with the name.
const HOPS: usize = 8;

/// Entries within each other. Those of deep scopes are some fifty.
const DEPTH: usize = 1 << 12;

/// Copies of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copies {
    /// How many.
    pub(crate) count: u32,
    /// Where the first few functions begin that they stand in, each once.
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

/// What the debug data of an image say of copies.
#[derive(Debug, Default)]
pub(crate) struct Inlined {
    /// By linkage name, or by name where there is no other.
    copies: HashMap<Vec<u8>, Copies>,
    /// Where functions begin that are described, sorted.
    described: Vec<u64>,
    /// Some of it stands in other files.
    incomplete: bool,
}

impl Inlined {
    /// Reads the debug data of a file; `None` where it has none. `is_code` tells addresses of code from those of functions that
    /// the linker has removed.
    ///
    /// # Errors
    /// An [`ImageError`] where they are damaged or above a cap.
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

    /// How often a function that begins at `start` and has these linkage names was put into others; `None` where that is not
    /// known.
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

    /// The copies of all functions of which a name `matches`.
    pub(crate) fn matching(&self, mut matches: impl FnMut(&[u8]) -> bool) -> Copies {
        let mut all = Copies::default();
        self.copies.iter().filter(|(name, _)| matches(name)).for_each(|(_, copies)| all.add(copies));
        all
    }
}

/// The name that debug data have for constructors and destructors (`C1`, `C2`, `D1`, `D2`), which have one entry for both:
/// GCC writes `C4`, `D4` for it.
fn unified(name: &[u8]) -> Option<Vec<u8>> {
    let is = |window: &[u8]| matches!(window, [b'C' | b'D', b'1' | b'2', b'E']);
    let at = name.windows(3).rposition(is)?;
    let mut unified = name.to_vec();
    unified[at + 1] = b'4';
    Some(unified)
}

/// Copies by the entry that they lead to.
struct Found {
    copies: HashMap<u64, Copies>,
    inlined: Inlined,
}

struct Reading<'s> {
    sections: &'s Sections,
    /// What is left of [`EFFORT`].
    effort: u64,
    /// Sorted by where they begin.
    units: Vec<Unit>,
}

impl<'s> Reading<'s> {
    /// Looks at all entries.
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

    /// Looks at the entries of a unit.
    fn walk(
        &mut self,
        unit: &Unit,
        mut cursor: Cursor<'_>,
        kinds: &Kinds,
        is_code: &dyn Fn(u64) -> bool,
        found: &mut Found,
    ) -> Option<()> {
        // For each entry around, the function that it is in.
        let mut around: Vec<Option<u64>> = vec![None];
        while !cursor.is_at_end() {
            let Some(entry) = unit.entry(&mut cursor, kinds, self.sections, &mut self.effort)? else {
                around.pop();
                // What fills the space behind the last entry.
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

    /// Gives what was found its names.
    fn name(&mut self, found: Found) -> Option<Inlined> {
        let Found { copies, mut inlined } = found;
        // Those of one unit follow each other.
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

    /// The name of an entry, or of the one that it leads to.
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
    /// Notes a copy that stands in `function`.
    fn add(&mut self, entry: &Entry<'_>, function: Option<u64>, is_code: &dyn Fn(u64) -> bool) {
        // Those in descriptions of functions without code are no copies.
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
