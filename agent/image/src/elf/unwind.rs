//! Function ranges from the unwind tables.
//!
//! `.eh_frame` has a record (FDE) with start and length for each function of a compiler, and is
//! kept when symbols are stripped because exceptions need it. `.eh_frame_hdr` is an index over it,
//! sorted by start (Linux Standard Base, "Exception Frames"; DWARF 5 section 6.4). It gives the end
//! of a function whose symbol has no size, or whose address has no symbol.
//!
//! For one address a few positioned reads search the index and read the record.

use std::ops::Range;

use super::{Elf, PT_GNU_EH_FRAME, u32_at};
use crate::limits::UNWIND_ENTRIES;
use crate::source::read_exact;
use crate::{ImageError, ReadAt};

const WHAT: &str = "unwind table";

// Pointer encodings, DW_EH_PE_* of the Linux Standard Base.
const ABSPTR: u8 = 0x00;
const UDATA4: u8 = 0x03;
const UDATA8: u8 = 0x04;
const SDATA4: u8 = 0x0b;
const SDATA8: u8 = 0x0c;
const PCREL: u8 = 0x10;
const DATAREL_SDATA4: u8 = 0x3b;

/// The index of an image.
pub(crate) struct Unwind<'e> {
    elf: &'e Elf<dyn ReadAt + 'e>,
    /// Address of the header, from which the entries count.
    header: u64,
    /// File offset of the first entry.
    entries_at: u64,
    count: u64,
}

impl<'e> Unwind<'e> {
    /// Returns the index; `None` if missing, or in a form that linkers do not make.
    pub(crate) fn new(elf: &'e Elf<dyn ReadAt + 'e>) -> Result<Option<Self>, ImageError> {
        let Some(segment) = elf.segments.iter().find(|segment| segment.kind == PT_GNU_EH_FRAME) else {
            return Ok(None);
        };
        // Version, encodings of: pointer to .eh_frame, count, table. Both fields have 4 bytes if
        // sorted.
        let mut header = [0; 12];
        if segment.file_size < header.len() as u64 {
            return Ok(None);
        }
        read_exact(&elf.source, WHAT, segment.offset, &mut header)?;
        let known = header[0] == 1
            && matches!(header[1] & 0x0f, UDATA4 | SDATA4)
            && header[2] == UDATA4
            && header[3] == DATAREL_SDATA4;
        let room = (segment.file_size - header.len() as u64) / 8;
        let count = u64::from(u32_at(&header, 8));
        if !known || count > room || count > UNWIND_ENTRIES {
            return Ok(None);
        }
        Ok(Some(Self { elf, header: segment.address, entries_at: segment.offset + 12, count }))
    }

    /// Returns the function of the index whose range contains `address`.
    pub(crate) fn range(&self, address: u64) -> Result<Option<Range<u64>>, ImageError> {
        // The last entry that does not begin behind the address.
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)?.0 <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(index) = low.checked_sub(1) else { return Ok(None) };
        let (start, record) = self.entry(index)?;
        let Some(range) = self.record(record)? else { return Ok(None) };
        Ok((range.start == start && range.contains(&address)).then_some(range))
    }

    /// Visits all ranges of an image: through the index or, without one, as in statically linked
    /// programs, record by record.
    pub(crate) fn for_each(
        elf: &'e Elf<dyn ReadAt + 'e>,
        mut each: impl FnMut(Range<u64>),
    ) -> Result<(), ImageError> {
        let Some(unwind) = Self::new(elf)? else { return Self::one_by_one(elf, each) };
        for index in 0..unwind.count {
            let (start, record) = unwind.entry(index)?;
            if let Some(range) = unwind.record(record)?.filter(|range| range.start == start) {
                each(range);
            }
        }
        Ok(())
    }

    fn one_by_one(elf: &'e Elf<dyn ReadAt + 'e>, mut each: impl FnMut(Range<u64>)) -> Result<(), ImageError> {
        let Some(section) = elf.section_named(".eh_frame") else { return Ok(()) };
        let Some(mut at) = elf.address_of(section.offset) else { return Ok(()) };
        let (end, unwind) =
            (at.saturating_add(section.size), Self { elf, header: 0, entries_at: 0, count: 0 });
        for _ in 0..UNWIND_ENTRIES {
            // A length of 0 ends the section.
            let Some(length) = unwind.bytes::<4>(at)?.map(u32::from_le_bytes).filter(|length| *length > 0)
            else {
                break;
            };
            unwind.record(at)?.into_iter().for_each(&mut each);
            at = at.saturating_add(4 + u64::from(length));
            if at >= end {
                break;
            }
        }
        Ok(())
    }

    /// Returns the function whose range contains `address`, with or without an index.
    pub(crate) fn around(
        elf: &'e Elf<dyn ReadAt + 'e>,
        address: u64,
    ) -> Result<Option<Range<u64>>, ImageError> {
        if let Some(unwind) = Self::new(elf)? {
            return unwind.range(address);
        }
        let mut found = None;
        Self::one_by_one(elf, |range| {
            if found.is_none() && range.contains(&address) {
                found = Some(range);
            }
        })?;
        Ok(found)
    }

    /// Returns the start of a function and the address of its record.
    fn entry(&self, index: u64) -> Result<(u64, u64), ImageError> {
        let mut bytes = [0; 8];
        read_exact(&self.elf.source, WHAT, self.entries_at.saturating_add(index * 8), &mut bytes)?;
        let at = |field| self.header.wrapping_add_signed(i64::from(u32_at(&bytes, field).cast_signed()));
        Ok((at(0), at(4)))
    }

    /// Returns the range that an FDE describes.
    fn record(&self, address: u64) -> Result<Option<Range<u64>>, ImageError> {
        let Some(bytes) = self.bytes::<24>(address)? else { return Ok(None) };
        // Length, distance back to the CIE from this field, then start and length of the code.
        let length = u32_at(&bytes, 0);
        let back = u32_at(&bytes, 4);
        if matches!(length, 0 | u32::MAX) || back == 0 {
            return Ok(None);
        }
        let Some(common) = (address.wrapping_add(4)).checked_sub(u64::from(back)) else { return Ok(None) };
        let Some(encoding) = self.encoding(common)? else { return Ok(None) };
        let (width, signed) = match encoding & 0x0f {
            ABSPTR | UDATA8 | SDATA8 => (8, false),
            UDATA4 => (4, false),
            SDATA4 => (4, true),
            _ => return Ok(None),
        };
        let field = |at: usize| {
            if width == 8 {
                super::u64_at(&bytes, at)
            } else if signed {
                i64::from(u32_at(&bytes, at).cast_signed()).cast_unsigned()
            } else {
                u64::from(u32_at(&bytes, at))
            }
        };
        let start = match encoding & 0xf0 {
            0 => field(8),
            PCREL => field(8).wrapping_add(address.wrapping_add(8)),
            _ => return Ok(None),
        };
        // A length has no base and no sign.
        let size = field(8 + width) & if width == 8 { u64::MAX } else { u64::from(u32::MAX) };
        Ok(start.checked_add(size).filter(|_| size > 0).map(|end| start..end))
    }

    /// Returns the pointer encoding that a CIE states for its FDEs (`R` of its augmentation).
    fn encoding(&self, address: u64) -> Result<Option<u8>, ImageError> {
        let Some(bytes) = self.bytes::<64>(address)? else { return Ok(None) };
        Ok(encoding_of(&bytes))
    }

    /// Reads `N` bytes at an address; `None` outside the segments or beyond the end of the file.
    fn bytes<const N: usize>(&self, address: u64) -> Result<Option<[u8; N]>, ImageError> {
        let Some(offset) = self.elf.offset_of(address) else { return Ok(None) };
        let mut bytes = [0; N];
        match read_exact(&self.elf.source, WHAT, offset, &mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(ImageError::Truncated { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// CIE: length, 0, version, augmentation string, code and data alignment, return register, then the
/// augmentation data in the order of the string.
fn encoding_of(bytes: &[u8; 64]) -> Option<u8> {
    let version = bytes[8];
    if u32_at(bytes, 4) != 0 || !matches!(version, 1 | 3) {
        return None;
    }
    let augmentation = super::string_at(bytes, 9)?;
    let Some((b'z', parts)) = augmentation.split_first() else {
        return augmentation.is_empty().then_some(ABSPTR);
    };
    let mut rest = bytes.get(9 + augmentation.len() + 1..)?;
    skip_leb128(&mut rest)?;
    skip_leb128(&mut rest)?;
    if version == 1 {
        rest = rest.get(1..)?;
    } else {
        skip_leb128(&mut rest)?;
    }
    skip_leb128(&mut rest)?;
    for part in parts {
        match part {
            b'R' => return rest.first().copied(),
            b'L' => rest = rest.get(1..)?,
            b'P' => {
                let width = match rest.first()? & 0x0f {
                    ABSPTR | UDATA8 | SDATA8 => 8,
                    UDATA4 | SDATA4 => 4,
                    _ => return None,
                };
                rest = rest.get(1 + width..)?;
            }
            // S: signal frame; B: return addresses are signed with key B. Both have no data.
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    Some(ABSPTR)
}

fn skip_leb128(bytes: &mut &[u8]) -> Option<()> {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    *bytes = bytes.get(end + 1..)?;
    Some(())
}
