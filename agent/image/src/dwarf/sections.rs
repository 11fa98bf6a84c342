//! Reading of the debug sections, with decompression.

use crate::elf::{Elf, u32_at, u64_at};
use crate::limits::DWARF_BYTES;
use crate::source::{read_exact, read_range};
use crate::{ImageError, ReadAt};

/// `ELFCOMPRESS_ZLIB`.
const ZLIB: u32 = 1;
/// `sizeof(Elf64_Chdr)`.
const COMPRESSED_HEADER_BYTES: usize = 24;

/// Debug data of a file; missing sections are empty.
#[derive(Debug, Default)]
pub(super) struct Sections {
    /// `.debug_info`
    pub(super) info: Vec<u8>,
    /// `.debug_abbrev`
    pub(super) abbreviations: Vec<u8>,
    /// `.debug_str`
    pub(super) strings: Vec<u8>,
    /// `.debug_line_str`
    pub(super) line_strings: Vec<u8>,
    /// `.debug_str_offsets`
    pub(super) string_offsets: Vec<u8>,
    /// `.debug_addr`
    pub(super) addresses: Vec<u8>,
}

impl Sections {
    /// Reads the sections of a file.
    ///
    /// # Errors
    /// An [`ImageError`] if a section is outside the file, above [`DWARF_BYTES`], or unknown in
    /// coding.
    pub(super) fn read(elf: &Elf<dyn ReadAt + '_>) -> Result<Self, ImageError> {
        Ok(Self {
            info: section(elf, ".debug_info")?,
            abbreviations: section(elf, ".debug_abbrev")?,
            strings: section(elf, ".debug_str")?,
            line_strings: section(elf, ".debug_line_str")?,
            string_offsets: section(elf, ".debug_str_offsets")?,
            addresses: section(elf, ".debug_addr")?,
        })
    }
}

fn section(elf: &Elf<dyn ReadAt + '_>, name: &'static str) -> Result<Vec<u8>, ImageError> {
    let Some(section) = elf.section_named(name) else { return Ok(Vec::new()) };
    if !section.is_compressed() {
        return read_range(&elf.source, name, section.offset, section.size, DWARF_BYTES);
    }
    let mut header = [0; COMPRESSED_HEADER_BYTES];
    read_exact(&elf.source, name, section.offset, &mut header)?;
    // ch_type, ch_reserved, ch_size, ch_addralign.
    let size = u64_at(&header, 8);
    if size > DWARF_BYTES {
        return Err(ImageError::TooLarge { what: name, size, limit: DWARF_BYTES });
    }
    let malformed = |reason| ImageError::Malformed { what: name, reason };
    if u32_at(&header, 0) != ZLIB {
        return Err(malformed("it is compressed in another way than by zlib"));
    }
    let (from, bytes) = (header.len() as u64, section.size.saturating_sub(header.len() as u64));
    let packed = read_range(&elf.source, name, section.offset.saturating_add(from), bytes, DWARF_BYTES)?;
    inflate(&packed, size as usize).ok_or(malformed("it cannot be decompressed"))
}

fn inflate(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(packed, size).ok()
}
