//! Layout of an ELF64 little-endian file, as far as finding functions needs it.
//!
//! Structures, constants and field offsets are those of the System V ABI, chapters 4 (object files)
//! and 5 (program loading), as in `<elf.h>`; the constants keep their names. [`Elf`] is the common
//! part of [`Image`](crate::Image), a debug file and the file inside `.gnu_debugdata`.

pub(crate) mod dynamic;
pub(crate) mod notes;
pub(crate) mod relocations;
pub(crate) mod rseq;
pub(crate) mod symbols;
pub(crate) mod unwind;
pub(crate) mod versions;

use std::ffi::CStr;
use std::ops::{Deref, Range};

use crate::limits;
use crate::source::{check_range, for_each_record, read_exact, read_range};
use crate::{Arch, ImageError, ReadAt};

const EI_CLASS: usize = 4;
const EI_DATA: usize = 5;
const EI_VERSION: usize = 6;
const HEADER_BYTES: usize = 64; // sizeof(Elf64_Ehdr)
const PROGRAM_HEADER_BYTES: usize = 56; // sizeof(Elf64_Phdr)
const SECTION_HEADER_BYTES: usize = 64; // sizeof(Elf64_Shdr)

const ET_REL: u16 = 1;
pub(crate) const ET_EXEC: u16 = 2;
pub(crate) const ET_DYN: u16 = 3;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PN_XNUM: u16 = 0xffff;
const SHN_XINDEX: u16 = 0xffff;

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_DYNAMIC: u32 = 2;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_NOTE: u32 = 4;
pub(crate) const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
pub(crate) const PF_X: u32 = 1;
pub(crate) const PF_W: u32 = 2;

pub(crate) const SHT_SYMTAB: u32 = 2;
pub(crate) const SHT_NOTE: u32 = 7;
pub(crate) const SHT_NOBITS: u32 = 8;
pub(crate) const SHT_DYNSYM: u32 = 11;
const SHF_EXECINSTR: u64 = 4;
#[cfg(feature = "inlined")]
const SHF_COMPRESSED: u64 = 0x800;
/// Sections of code. A file has some five, into which the linker merges those of its input.
const CODE_SECTIONS: usize = 64;

/// Purpose of reading, which decides how much of the file must be present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Execution: its segments must lie within the file.
    Image,
    /// Symbols only: the tool that made it emptied segments and allocated sections.
    Symbols,
}

/// A program header (`Elf64_Phdr`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramHeader {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
    pub(crate) align: u64,
}

/// A section header (`Elf64_Shdr`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    name: u32,
    pub(crate) kind: u32,
    flags: u64,
    address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) link: u32,
    pub(crate) align: u64,
}

/// Contents of the headers of a file.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) arch: Arch,
    pub(crate) file_type: u16,
    pub(crate) segments: Vec<ProgramHeader>,
    sections: Vec<Section>,
    section_names: Vec<u8>,
}

/// A file and its layout. Parsers take it as `Elf<dyn ReadAt>`, so that each exists once in the
/// program, not once for each kind of source.
#[derive(Debug)]
pub(crate) struct Elf<S: ?Sized> {
    layout: Layout,
    pub(crate) source: S,
}

impl<S: ReadAt> Elf<S> {
    /// Reads header, program headers and section headers.
    pub(crate) fn open(source: S, purpose: Purpose) -> Result<Self, ImageError> {
        Ok(Self { layout: Layout::read(&source, purpose)?, source })
    }
}

impl<S: ?Sized> Deref for Elf<S> {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

impl Layout {
    fn read(source: &dyn ReadAt, purpose: Purpose) -> Result<Self, ImageError> {
        let what = "ELF header";
        let size = source.size().map_err(|source| ImageError::Read { what, source })?;
        if size == 0 {
            return Err(ImageError::Empty);
        }
        let mut start = [0; HEADER_BYTES];
        let there = size.min(HEADER_BYTES as u64) as usize;
        read_exact(source, what, 0, &mut start[..there])?;
        check_magic(&start[..there])?;
        if there < HEADER_BYTES {
            return Err(ImageError::Truncated { what, end: HEADER_BYTES as u64, size });
        }
        let header = Header::parse(&start)?;
        let counts = header.counts(source)?;
        let segments = header.read_segments(source, counts.segments, purpose)?;
        let (sections, section_names) = header.read_sections(source, counts.sections, counts.names)?;
        Ok(Self { arch: header.arch, file_type: header.file_type, segments, sections, section_names })
    }

    /// Returns all sections.
    pub(crate) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Returns the section at `index`, as `sh_link` refers to it.
    pub(crate) fn section(&self, index: u32) -> Option<&Section> {
        self.sections.get(usize::try_from(index).ok()?)
    }

    /// Returns the name of a section, empty if the file has no name for it.
    pub(crate) fn section_name(&self, section: &Section) -> &[u8] {
        string_at(&self.section_names, section.name as usize).unwrap_or_default()
    }

    /// Returns the first section of this name that has bytes in the file.
    pub(crate) fn section_named(&self, name: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.kind != SHT_NOBITS && self.section_name(section) == name.as_bytes())
    }

    /// Returns the address ranges of the sections that hold code.
    pub(crate) fn code(&self) -> Vec<Range<u64>> {
        let code = self.sections.iter().filter(|section| section.flags & SHF_EXECINSTR != 0);
        code.map(|section| section.address..section.address.saturating_add(section.size))
            .take(CODE_SECTIONS)
            .collect()
    }

    /// Returns the address at which a byte of the file is loaded.
    pub(crate) fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD)
            .find(|segment| within(offset, segment.offset, segment.file_size))
            .map(|segment| segment.address.saturating_add(offset - segment.offset))
    }

    /// Returns the file offset of a loaded address, regardless of its segment's permissions.
    pub(crate) fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD)
            .find(|segment| within(address, segment.address, segment.file_size))
            .map(|segment| segment.offset.saturating_add(address - segment.address))
    }
}

impl Elf<dyn ReadAt + '_> {
    /// Returns the 64-bit word at a loaded address, as in the file; `None` if there are no bytes.
    pub(crate) fn word_at(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        read_exact(&self.source, "data", self.offset_of(address)?, &mut word).ok()?;
        Some(u64::from_le_bytes(word))
    }
}

/// Returns true if `value` lies in the `size` values from `start`.
pub(crate) fn within(value: u64, start: u64, size: u64) -> bool {
    value.checked_sub(start).is_some_and(|distance| distance < size)
}

fn check_magic(start: &[u8]) -> Result<(), ImageError> {
    const MAGIC: &[u8] = b"\x7fELF";
    if start.starts_with(MAGIC) {
        return Ok(());
    }
    if start.len() < MAGIC.len() && MAGIC.starts_with(start) {
        let (end, size) = (HEADER_BYTES as u64, start.len() as u64);
        return Err(ImageError::Truncated { what: "ELF header", end, size });
    }
    let found = start.get(..start.len().min(8)).unwrap_or_default();
    Err(ImageError::NotElf { found: format!("\"{}\"", found.escape_ascii()) })
}

fn check_count(what: &'static str, count: u64, limit: u64) -> Result<(), ImageError> {
    if count > limit {
        return Err(ImageError::TooLarge { what, size: count, limit });
    }
    Ok(())
}

struct Counts {
    segments: u64,
    sections: u64,
    names: u64,
}

/// The used fields of `Elf64_Ehdr`.
struct Header {
    arch: Arch,
    file_type: u16,
    segments_at: u64,
    sections_at: u64,
    segment_bytes: u16,
    segments: u16,
    section_bytes: u16,
    sections: u16,
    names: u16,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ImageError> {
        match bytes[EI_CLASS] {
            2 => {}
            1 => return Err(ImageError::Class32),
            value => return Err(ImageError::Identification { what: "the class", value: value.into() }),
        }
        match bytes[EI_DATA] {
            1 => {}
            2 => return Err(ImageError::BigEndian),
            value => {
                return Err(ImageError::Identification { what: "the data encoding", value: value.into() });
            }
        }
        if bytes[EI_VERSION] != 1 {
            return Err(ImageError::Identification { what: "the version", value: bytes[EI_VERSION].into() });
        }
        let file_type = u16_at(bytes, 16);
        let what = match file_type {
            ET_EXEC | ET_DYN => None,
            ET_REL => Some("a relocatable object".to_owned()),
            ET_CORE => Some("a core dump".to_owned()),
            other => Some(format!("an ELF file of type {other}")),
        };
        if let Some(what) = what {
            return Err(ImageError::FileType { what });
        }
        let arch = match u16_at(bytes, 18) {
            EM_X86_64 => Arch::X86_64,
            EM_AARCH64 => Arch::Aarch64,
            machine => return Err(ImageError::Machine { machine }),
        };
        Ok(Self {
            arch,
            file_type,
            segments_at: u64_at(bytes, 32),
            sections_at: u64_at(bytes, 40),
            segment_bytes: u16_at(bytes, 54),
            segments: u16_at(bytes, 56),
            section_bytes: u16_at(bytes, 58),
            sections: u16_at(bytes, 60),
            names: u16_at(bytes, 62),
        })
    }

    /// Returns the header counts, which are in section header 0 if the ELF header cannot hold them.
    fn counts(&self, source: &dyn ReadAt) -> Result<Counts, ImageError> {
        let mut counts = Counts {
            segments: u64::from(self.segments),
            sections: u64::from(self.sections),
            names: u64::from(self.names),
        };
        let extended = self.segments == PN_XNUM
            || self.names == SHN_XINDEX
            || (self.sections == 0 && self.sections_at != 0);
        if extended {
            if self.sections_at == 0 {
                return Err(ImageError::Malformed {
                    what: "ELF header",
                    reason: "it refers to section header 0, and there is no section table",
                });
            }
            let mut first = [0; SECTION_HEADER_BYTES];
            read_exact(source, "section table", self.sections_at, &mut first)?;
            if self.segments == PN_XNUM {
                counts.segments = u64::from(u32_at(&first, 44)); // sh_info
            }
            if self.sections == 0 {
                counts.sections = u64_at(&first, 32); // sh_size
            }
            if self.names == SHN_XINDEX {
                counts.names = u64::from(u32_at(&first, 40)); // sh_link
            }
        }
        Ok(counts)
    }

    fn read_segments(
        &self,
        source: &dyn ReadAt,
        count: u64,
        purpose: Purpose,
    ) -> Result<Vec<ProgramHeader>, ImageError> {
        let what = "program header table";
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(self.segment_bytes) != PROGRAM_HEADER_BYTES {
            return Err(ImageError::Malformed { what, reason: "its entries do not have 56 bytes" });
        }
        check_count(what, count, limits::PROGRAM_HEADERS as u64)?;
        check_range(source, what, self.segments_at, count * PROGRAM_HEADER_BYTES as u64)?;
        let mut segments = Vec::with_capacity(count as usize);
        for_each_record(source, what, self.segments_at, count, |_, bytes| {
            segments.push(ProgramHeader::parse(bytes));
            Ok(())
        })?;
        if purpose == Purpose::Image {
            for segment in segments.iter().filter(|segment| segment.kind == PT_LOAD) {
                check_range(source, "loadable segment", segment.offset, segment.file_size)?;
                if segment.file_size > segment.memory_size {
                    return Err(ImageError::Malformed {
                        what: "loadable segment",
                        reason: "it has more bytes in the file than in memory",
                    });
                }
                if segment.address.checked_add(segment.memory_size).is_none() {
                    return Err(ImageError::Malformed {
                        what: "loadable segment",
                        reason: "it ends beyond the address space",
                    });
                }
            }
        }
        Ok(segments)
    }

    fn read_sections(
        &self,
        source: &dyn ReadAt,
        count: u64,
        names: u64,
    ) -> Result<(Vec<Section>, Vec<u8>), ImageError> {
        let what = "section table";
        if self.sections_at == 0 || count == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        if usize::from(self.section_bytes) != SECTION_HEADER_BYTES {
            return Err(ImageError::Malformed { what, reason: "its entries do not have 64 bytes" });
        }
        check_count(what, count, limits::SECTIONS as u64)?;
        check_range(source, what, self.sections_at, count * SECTION_HEADER_BYTES as u64)?;
        let mut sections = Vec::with_capacity(count as usize);
        for_each_record(source, what, self.sections_at, count, |_, bytes| {
            sections.push(Section::parse(bytes));
            Ok(())
        })?;
        let mut section_names = Vec::new();
        if names != 0 {
            let strings = usize::try_from(names).ok().and_then(|index| sections.get(index)).ok_or(
                ImageError::Malformed { what, reason: "the index of the section with the names is too high" },
            )?;
            section_names = read_range(
                source,
                "table of section names",
                strings.offset,
                strings.size,
                limits::SECTION_NAME_BYTES,
            )?;
        }
        Ok((sections, section_names))
    }
}

impl ProgramHeader {
    fn parse(bytes: &[u8; PROGRAM_HEADER_BYTES]) -> Self {
        Self {
            kind: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            address: u64_at(bytes, 16),
            file_size: u64_at(bytes, 32),
            memory_size: u64_at(bytes, 40),
            align: u64_at(bytes, 48),
        }
    }
}

impl Section {
    /// Returns true if its bytes are a header and compressed data.
    #[cfg(feature = "inlined")]
    pub(crate) fn is_compressed(&self) -> bool {
        self.flags & SHF_COMPRESSED != 0
    }

    fn parse(bytes: &[u8; SECTION_HEADER_BYTES]) -> Self {
        Self {
            name: u32_at(bytes, 0),
            kind: u32_at(bytes, 4),
            flags: u64_at(bytes, 8),
            address: u64_at(bytes, 16),
            offset: u64_at(bytes, 24),
            size: u64_at(bytes, 32),
            link: u32_at(bytes, 40),
            align: u64_at(bytes, 48),
        }
    }
}

/// Returns the little-endian 16-bit number at a constant position of a record.
pub(crate) fn u16_at<const N: usize>(record: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([record[at], record[at + 1]])
}

/// Returns the little-endian 32-bit number at a constant position of a record.
pub(crate) fn u32_at<const N: usize>(record: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
}

/// Returns the little-endian 64-bit number at a constant position of a record.
pub(crate) fn u64_at<const N: usize>(record: &[u8; N], at: usize) -> u64 {
    u64::from(u32_at(record, at)) | u64::from(u32_at(record, at + 4)) << 32
}

/// Returns the NUL-terminated string at `at`; `None` if it begins outside the table, or does not
/// end there within [`limits::NAME_BYTES`].
pub(crate) fn string_at(table: &[u8], at: usize) -> Option<&[u8]> {
    let rest = table.get(at..)?;
    let rest = rest.get(..rest.len().min(limits::NAME_BYTES + 1))?;
    CStr::from_bytes_until_nul(rest).ok().map(CStr::to_bytes)
}
