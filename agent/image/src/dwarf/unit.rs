//! Units of `.debug_info`, and the entries in them: DWARF 5 section 7.5, DWARF 4 section 7.5.

use super::abbreviations::{Kind, Kinds};
use super::cursor::Cursor;
use super::form::{self, Encoding, Value};
use super::sections::Sections;

/// `DW_UT_type`, `DW_UT_skeleton`, `DW_UT_split_compile`, `DW_UT_split_type`.
const UT_TYPE: u64 = 2;
const UT_SKELETON: u64 = 4;
const UT_SPLIT_COMPILE: u64 = 5;
const UT_SPLIT_TYPE: u64 = 6;

// Attributes (DW_AT_*) that matter here.
const AT_NAME: u64 = 0x03;
const AT_LOW_PC: u64 = 0x11;
const AT_ABSTRACT_ORIGIN: u64 = 0x31;
const AT_SPECIFICATION: u64 = 0x47;
const AT_ENTRY_PC: u64 = 0x52;
const AT_RANGES: u64 = 0x55;
const AT_LINKAGE_NAME: u64 = 0x6e;
const AT_STR_OFFSETS_BASE: u64 = 0x72;
const AT_ADDR_BASE: u64 = 0x73;
const AT_DWO_NAME: u64 = 0x76;
const AT_MIPS_LINKAGE_NAME: u64 = 0x2007;
const AT_GNU_DWO_NAME: u64 = 0x2130;
const AT_GNU_ADDR_BASE: u64 = 0x2133;

/// A unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) encoding: Encoding,
    /// Offset of its first entry.
    pub(super) entries: u64,
    /// Offset of its end.
    pub(super) end: u64,
    /// Offset of its kinds of entries in `.debug_abbrev`.
    pub(super) abbreviations: u64,
    /// True if the described code stands in another file.
    pub(super) split: bool,
    address_base: u64,
    strings_base: u64,
}

/// Contents of an entry, as far as they matter here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry<'b> {
    /// `DW_TAG_*`.
    pub(super) tag: u64,
    /// True if child entries follow.
    pub(super) children: bool,
    /// Its first address.
    pub(super) start: Option<u64>,
    /// True if it states the place of its code.
    pub(super) has_code: bool,
    /// The entry with more about the same function.
    pub(super) origin: Option<u64>,
    /// True if that entry stands in another file.
    pub(super) origin_elsewhere: bool,
    pub(super) linkage_name: Option<Value<'b>>,
    pub(super) name: Option<Value<'b>>,
}

impl Unit {
    /// Reads the unit at the cursor and moves behind its header. `None` if it is damaged or its
    /// version unknown.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let start = cursor.position();
        let (length, offset_bytes) = match cursor.number(4)? {
            0xffff_ffff => (cursor.number(8)?, 8),
            length => (length, 4),
        };
        let end = cursor.position().checked_add(length)?;
        let version = cursor.number(2)?;
        let (abbreviations, address_bytes, kind) = match version {
            2..=4 => (cursor.number(offset_bytes)?, cursor.number(1)?, 1),
            5 => {
                let (kind, address_bytes) = (cursor.number(1)?, cursor.number(1)?);
                (cursor.number(offset_bytes)?, address_bytes, kind)
            }
            _ => return None,
        };
        // A signature, and for type units the offset of the type.
        cursor.take(match kind {
            UT_TYPE | UT_SPLIT_TYPE => 8 + offset_bytes,
            UT_SKELETON | UT_SPLIT_COMPILE => 8,
            _ => 0,
        })?;
        // Without an attribute, offsets count from behind the table's header.
        let strings_base = if version < 5 { 0 } else { offset_bytes * 2 };
        Some(Self {
            encoding: Encoding { version, address_bytes, offset_bytes, start },
            entries: cursor.position(),
            end,
            abbreviations,
            split: matches!(kind, UT_SKELETON | UT_SPLIT_COMPILE),
            address_base: 8,
            strings_base,
        })
    }

    /// Reads the starts of its tables from the first entry, which is the unit itself.
    pub(super) fn learn(&mut self, mut cursor: Cursor<'_>, kinds: &Kinds) -> Option<()> {
        let kind = kinds.get(cursor.leb128()?)?;
        for (attribute, form) in &kind.attributes {
            let value = form::read(*form, &mut cursor, &self.encoding)?;
            match (*attribute, value) {
                (AT_STR_OFFSETS_BASE, Value::Offset(base)) => self.strings_base = base,
                (AT_ADDR_BASE | AT_GNU_ADDR_BASE, Value::Offset(base)) => self.address_base = base,
                (AT_DWO_NAME | AT_GNU_DWO_NAME, _) => self.split = true,
                _ => {}
            }
        }
        Some(())
    }

    /// Reads the entry at the cursor and moves behind it. Number 0 ends the children: `Some(None)`.
    pub(super) fn entry<'b>(
        &self,
        cursor: &mut Cursor<'b>,
        kinds: &Kinds,
        sections: &Sections,
        effort: &mut u64,
    ) -> Option<Option<Entry<'b>>> {
        let number = cursor.leb128()?;
        *effort = effort.checked_sub(1)?;
        if number == 0 {
            return Some(None);
        }
        let Kind { tag, children, attributes } = kinds.get(number)?;
        let mut entry = Entry { tag: *tag, children: *children, ..Entry::default() };
        *effort = effort.checked_sub(attributes.len() as u64)?;
        for (attribute, form) in attributes {
            let value = form::read(*form, cursor, &self.encoding)?;
            match *attribute {
                AT_NAME => entry.name = Some(value),
                AT_LINKAGE_NAME | AT_MIPS_LINKAGE_NAME => entry.linkage_name = Some(value),
                AT_LOW_PC | AT_ENTRY_PC => {
                    entry.has_code = true;
                    entry.start = entry.start.or_else(|| self.address(value, sections));
                }
                AT_RANGES => entry.has_code = true,
                AT_ABSTRACT_ORIGIN | AT_SPECIFICATION => match value {
                    Value::Entry(origin) => entry.origin = Some(origin),
                    _ => entry.origin_elsewhere = true,
                },
                _ => {}
            }
        }
        Some(Some(entry))
    }

    fn address(&self, value: Value<'_>, sections: &Sections) -> Option<u64> {
        match value {
            Value::Address(address) => Some(address),
            Value::AddressIndex(index) => {
                let at = index.checked_mul(self.encoding.address_bytes)?.checked_add(self.address_base)?;
                Cursor::new(&sections.addresses, at)?.number(self.encoding.address_bytes)
            }
            _ => None,
        }
    }

    /// Returns the string that a value contains or refers to.
    pub(super) fn string<'s>(&self, value: Value<'s>, sections: &'s Sections) -> Option<&'s [u8]> {
        match value {
            Value::Text(text) => Some(text),
            Value::String(at) => Cursor::new(&sections.strings, at)?.string(),
            Value::LineString(at) => Cursor::new(&sections.line_strings, at)?.string(),
            Value::StringIndex(index) => {
                let bytes = self.encoding.offset_bytes;
                let at = index.checked_mul(bytes)?.checked_add(self.strings_base)?;
                let at = Cursor::new(&sections.string_offsets, at)?.number(bytes)?;
                Cursor::new(&sections.strings, at)?.string()
            }
            _ => None,
        }
    }
}
