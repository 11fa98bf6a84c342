//! Functions without a name: ranges of the unwind tables that have no symbol.
//!
//! They include cold parts of functions, which compilers move into a range of their own.

use std::ops::Range;

use super::assembly::merged;
use super::collect::{Collector, Raw};
use super::{Name, Origin};
use crate::elf::Elf;
use crate::elf::unwind::Unwind;
use crate::limits::FUNCTIONS;
use crate::{ImageError, ReadAt};

/// Prefix of names made from an address.
pub const UNNAMED: &str = "fn_0x";

/// Stubs for jumps into other libraries: each of these sections is one range.
const STUBS: [&str; 3] = [".plt", ".plt.sec", ".plt.got"];

/// Returns the name of an unnamed function at this address.
pub(crate) fn name_at(address: u64) -> String {
    format!("{UNNAMED}{address:x}")
}

impl Collector {
    /// Adds the ranges of the unwind tables that have no symbol. Must run last.
    pub(crate) fn add_unnamed(&mut self, elf: &Elf<dyn ReadAt + '_>) -> Result<(), ImageError> {
        let known = self.known(elf);
        let table = self.next_table("unwind table")?;
        let (mut strings, mut found) = (Vec::new(), Vec::new());
        let room = FUNCTIONS.saturating_sub(self.raws().len());
        Unwind::for_each(elf, |range| {
            let before = known.partition_point(|known| known.start <= range.start);
            let inside = before.checked_sub(1).and_then(|at| known.get(at));
            if found.len() >= room || inside.is_some_and(|known| range.start < known.end) {
                return;
            }
            let text = name_at(range.start);
            let (Ok(offset), Ok(length)) = (u32::try_from(strings.len()), u16::try_from(text.len())) else {
                return;
            };
            strings.extend_from_slice(text.as_bytes());
            found.push(Raw::of_range(range, Name { table, version: 0, length, offset }));
        })?;
        self.add_table(strings, Origin::Unwind, found);
        Ok(())
    }

    /// Returns the ranges that have a name, sorted, without duplicates.
    fn known(&self, elf: &Elf<dyn ReadAt + '_>) -> Vec<Range<u64>> {
        let stubs = STUBS.iter().filter_map(|name| elf.section_named(name));
        let stubs = stubs.filter_map(|section| {
            let start = elf.address_of(section.offset)?;
            Some(start..start.saturating_add(section.size))
        });
        let named = self.raws().iter().map(|raw| raw.start..raw.start.saturating_add(raw.size.max(1)));
        merged(named.chain(stubs).collect())
    }
}
