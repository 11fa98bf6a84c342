//! Function table that every Go program carries for its own runtime.
//!
//! A header gives the offsets of its parts, then comes a list of (start, offset of the description)
//! sorted by start, whose last entry only ends the function before it. A description begins with
//! start and name offset. The magic number distinguishes four layouts; sizes and offsets are those
//! of debug/gosym/pclntab.go and runtime/symtab.go, runtime/runtime2.go (`_func`).
//!
//! | magic | Go | starts are | the text's start is in |
//! | --- | --- | --- | --- |
//! | fffffffb | 1.2 to 1.15 | addresses | - |
//! | fffffffa | 1.16, 1.17 | addresses | - |
//! | fffffff0 | 1.18, 1.19 | offsets in the text | the header |
//! | fffffff1 | 1.20 and later | offsets in the text | the header, from 1.26 on the module data alone |
//!
//! The section is `.gopclntab`, in a position-independent program up to 1.25
//! `.data.rel.ro.gopclntab`. In such a program linked by the C tool chain it has no name of its
//! own, and is found by its first eight bytes.

use super::relative;
use crate::elf::{Elf, PF_W, PF_X, PT_LOAD, ProgramHeader, string_at, u32_at, u64_at};
use crate::limits::{FUNCTIONS, GO_SCANNED_BYTES, STRING_TABLE_BYTES};
use crate::source::{check_range, for_each_record, read_exact, read_range};
use crate::{Arch, ImageError, ReadAt};

/// Names of its section.
pub(super) const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
const WHAT: &str = "table of functions of Go";
/// Bytes of the longest header.
const HEADER_BYTES: usize = 72;
/// Bytes read of a description: up to its flags.
const DESCRIPTION_BYTES: usize = 44;

/// Bits of a function's flags (internal/abi/symtab.go; runtime/symtab.go before 1.21).
pub(crate) const TOP_FRAME: u8 = 1;
/// It sets the stack pointer to another stack.
pub(crate) const WRITES_SP: u8 = 2;
/// It was written in assembly.
pub(crate) const ASSEMBLY: u8 = 4;

/// One range of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoFunction {
    /// ELF virtual address.
    pub(crate) start: u64,
    /// Bytes to the next function, padding included.
    pub(crate) size: u64,
    /// Offset of its name in [`Pclntab::names`].
    pub(crate) name: u32,
    /// Bytes of the name.
    pub(crate) name_bytes: u16,
    /// [`TOP_FRAME`] and others; 0 up to Go 1.16, which had no flags.
    pub(crate) flags: u8,
    /// Number of a function that the runtime knows, or of a wrapper; 0 for all others.
    pub(crate) id: u8,
}

/// The table without the parts that only the runtime needs.
#[derive(Debug)]
pub(crate) struct Pclntab {
    pub(crate) names: Vec<u8>,
    /// Sorted by start.
    pub(crate) functions: Vec<GoFunction>,
    /// Goroutines are in a register: always from Go 1.18 on; for earlier versions the caller
    /// decides.
    pub(crate) layout: Layout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layout {
    Go12,
    Go116,
    Go118,
    Go120,
}

/// Module data, which lead to all of Go's tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Module {
    /// ELF virtual address.
    pub(super) address: u64,
    /// The start of the text.
    pub(super) text: u64,
}

/// Location and parts of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) layout: Layout,
    /// In the file.
    pub(super) offset: u64,
    /// In memory.
    address: u64,
    /// Bytes to the end of the section or segment.
    pub(super) size: u64,
    functions: u64,
    text: u64,
    names: u64,
    names_end: u64,
    /// The list, and the base of description offsets.
    list: u64,
    pub(super) descriptions: u64,
    /// Tables that map instructions to numbers, from Go 1.18 on.
    pub(super) numbers: u64,
}

/// Reads the table; `None` if the program has no table.
pub(crate) fn read(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<Pclntab>, ImageError> {
    let Some(header) = find(elf)? else { return Ok(None) };
    let text = match header.layout {
        Layout::Go12 | Layout::Go116 => 0,
        Layout::Go118 | Layout::Go120 => text(elf, &header)?,
    };
    let names = read_range(
        &elf.source,
        "names of functions of Go",
        header.offset + header.names,
        header.names_end - header.names,
        STRING_TABLE_BYTES,
    )?;
    let list = read_list(elf, &header)?;
    let mut window = Window { elf, header, start: 0, bytes: Vec::new() };
    let mut functions = Vec::with_capacity(list.len().saturating_sub(1));
    for pair in list.windows(2) {
        let ((start, description), (end, _)) = (pair[0], pair[1]);
        let Some(size) = end.checked_sub(start) else {
            return Err(unusable(
                "its functions are out of order, as obfuscation leaves them; take a build that was not obfuscated",
            ));
        };
        let start = text.checked_add(start).ok_or(damaged("a function ends beyond the address space"))?;
        let description = window.description(description)?;
        let (name, id, flags) = match header.layout {
            // Not all versions of these layouts have both, and no probe needs them.
            Layout::Go12 => (u32_at(description, 8), 0, 0),
            Layout::Go116 => (u32_at(description, 8), description[40], description[41]),
            Layout::Go118 => (u32_at(description, 4), description[36], description[37]),
            Layout::Go120 => (u32_at(description, 4), description[40], description[41]),
        };
        // A function without a name cannot be requested.
        let name_bytes = string_at(&names, name as usize).map_or(0, <[u8]>::len);
        let Some(name_bytes) = u16::try_from(name_bytes).ok().filter(|&bytes| bytes > 0) else { continue };
        if size > 0 {
            functions.push(GoFunction { start, size, name, name_bytes, flags, id });
        }
    }
    Ok(Some(Pclntab { names, functions, layout: header.layout }))
}

const fn unusable(reason: &'static str) -> ImageError {
    ImageError::GoTable { reason }
}

const fn damaged(reason: &'static str) -> ImageError {
    ImageError::Malformed { what: WHAT, reason }
}

/// Reads the list: starts, as addresses or as text offsets, and description offsets.
pub(super) fn read_list(elf: &Elf<dyn ReadAt + '_>, header: &Header) -> Result<Vec<(u64, u64)>, ImageError> {
    let mut list = Vec::with_capacity(header.functions as usize + 1);
    let offset = header.offset + header.list;
    // The last entry has only a start.
    match header.layout {
        Layout::Go12 | Layout::Go116 => {
            for_each_record::<16>(&elf.source, WHAT, offset, header.functions, |_, entry| {
                list.push((u64_at(entry, 0), u64_at(entry, 8)));
                Ok(())
            })?;
            let mut end = [0; 8];
            read_exact(&elf.source, WHAT, offset + header.functions * 16, &mut end)?;
            list.push((u64::from_le_bytes(end), 0));
            if list.first().is_some_and(|(start, _)| *start == 0) {
                return Err(unusable(
                    "its addresses are filled in when the program is loaded, as before Go 1.18; build it with a newer \
                     Go, or without -buildmode=pie",
                ));
            }
        }
        Layout::Go118 | Layout::Go120 => {
            for_each_record::<8>(&elf.source, WHAT, offset, header.functions, |_, entry| {
                list.push((u64::from(u32_at(entry, 0)), u64::from(u32_at(entry, 4))));
                Ok(())
            })?;
            let mut end = [0; 4];
            read_exact(&elf.source, WHAT, offset + header.functions * 8, &mut end)?;
            list.push((u64::from(u32::from_le_bytes(end)), 0));
        }
    }
    Ok(list)
}

/// Descriptions, read in large pieces: they are in list order.
struct Window<'e, 'd> {
    elf: &'e Elf<dyn ReadAt + 'd>,
    header: Header,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_, '_> {
    fn description(&mut self, at: u64) -> Result<&[u8; DESCRIPTION_BYTES], ImageError> {
        const BYTES: u64 = 64 << 10;
        let outside = damaged("a description of a function lies outside");
        let at = self.header.descriptions.checked_add(at).filter(|&at| at < self.header.size);
        let Some(at) = at else { return Err(outside) };
        let there = |start: u64, bytes: &[u8]| {
            at.checked_sub(start).is_some_and(|skip| skip + DESCRIPTION_BYTES as u64 <= bytes.len() as u64)
        };
        if !there(self.start, &self.bytes) {
            let length = BYTES.min(self.header.size - at);
            self.bytes.resize(length as usize, 0);
            read_exact(&self.elf.source, WHAT, self.header.offset + at, &mut self.bytes)?;
            self.start = at;
        }
        let skip = (at - self.start) as usize;
        self.bytes.get(skip..).and_then(<[u8]>::first_chunk).ok_or(outside)
    }
}

/// Finds the table by its section name, or by its first bytes in the loaded segments.
pub(super) fn find(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<Header>, ImageError> {
    for section in SECTIONS.iter().filter_map(|name| elf.section_named(name)) {
        check_range(&elf.source, WHAT, section.offset, section.size)?;
        let Some(address) = elf.address_of(section.offset) else { continue };
        return header(elf, section.offset, address, section.size);
    }
    let mut scanned = 0;
    for segment in elf.segments.iter().filter(|segment| segment.kind == PT_LOAD) {
        // Without section names the table stands with data, maybe in the text's segment.
        let mut found = None;
        let start = |offset: u64, word: u64| -> Result<bool, ImageError> {
            if !is_magic(word, elf.arch) {
                return Ok(false);
            }
            let skip = offset - segment.offset;
            let address = segment.address.saturating_add(skip);
            // False matches are skipped.
            found = header(elf, offset, address, segment.file_size - skip).ok().flatten();
            Ok(found.is_some())
        };
        scan(elf, segment, &mut scanned, start)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Calls `each` with file offset and value of every aligned word of a segment until it is satisfied
/// or enough was scanned.
fn scan(
    elf: &Elf<dyn ReadAt + '_>,
    segment: &ProgramHeader,
    scanned: &mut u64,
    mut each: impl FnMut(u64, u64) -> Result<bool, ImageError>,
) -> Result<(), ImageError> {
    let words = segment.file_size.min(GO_SCANNED_BYTES.saturating_sub(*scanned)) / 8;
    *scanned += words * 8;
    let mut satisfied = false;
    for_each_record::<8>(&elf.source, WHAT, segment.offset, words, |index, word| {
        // Reading to the end of the segment costs less than a way to stop.
        satisfied = satisfied || each(segment.offset + index * 8, u64_at(word, 0))?;
        Ok(())
    })
}

/// Checks magic, two zero bytes, smallest instruction size, and pointer size.
fn is_magic(word: u64, arch: Arch) -> bool {
    let instruction = match arch {
        Arch::X86_64 => 1,
        Arch::Aarch64 => 4,
    };
    word >> 32 == 8 << 24 | instruction << 16 && layout(word as u32).is_some()
}

const fn layout(magic: u32) -> Option<Layout> {
    match magic {
        0xffff_fffb => Some(Layout::Go12),
        0xffff_fffa => Some(Layout::Go116),
        0xffff_fff0 => Some(Layout::Go118),
        0xffff_fff1 => Some(Layout::Go120),
        _ => None,
    }
}

/// Reads a header and checks that its parts are ordered and inside.
fn header(
    elf: &Elf<dyn ReadAt + '_>,
    offset: u64,
    address: u64,
    size: u64,
) -> Result<Option<Header>, ImageError> {
    let mut bytes = [0; HEADER_BYTES];
    let there = size.min(HEADER_BYTES as u64) as usize;
    read_exact(&elf.source, WHAT, offset, &mut bytes[..there])?;
    let first = u64_at(&bytes, 0);
    let Some(layout) = layout(first as u32).filter(|_| is_magic(first, elf.arch)) else {
        return Err(unusable(
            "its first bytes are those of no version that is known: it was obfuscated, or is of a newer Go; take a \
             build that was not obfuscated, or a newer edgelat",
        ));
    };
    let word = |at: usize| u64_at(&bytes, at);
    let functions = word(8);
    let (text, names, names_end, list) = match layout {
        // Names stand anywhere in the table.
        Layout::Go12 => (0, 0, size, 16),
        Layout::Go116 => (0, word(24), word(32), word(56)),
        Layout::Go118 | Layout::Go120 => (word(24), word(32), word(40), word(64)),
    };
    let descriptions = if layout == Layout::Go12 { 0 } else { list };
    let entry = if layout >= Layout::Go118 { 8 } else { 16 };
    if functions == 0 || functions > FUNCTIONS as u64 {
        return Err(damaged("its number of functions is out of range"));
    }
    let list_end = list.checked_add((functions + 1) * entry);
    if names > names_end || names_end > size || list_end.is_none_or(|end| end > size) {
        return Err(damaged("its parts lie outside"));
    }
    let numbers = word(56);
    Ok(Some(Header {
        layout,
        offset,
        address,
        size,
        functions,
        text,
        names,
        names_end,
        list,
        descriptions,
        numbers,
    }))
}

/// Returns the text's start: in the header, filled in at load time, or in the module data.
fn text(elf: &Elf<dyn ReadAt + '_>, header: &Header) -> Result<u64, ImageError> {
    if header.text != 0 {
        return Ok(header.text);
    }
    let [filled_in] = relative::words(elf, [header.address + 24])?;
    if let Some(text) = filled_in.filter(|&text| text != 0) {
        return Ok(text);
    }
    let module = module(elf, header)?.ok_or(damaged("where the text begins is not said"))?;
    Ok(module.text)
}

/// Finds the module data of this table.
pub(super) fn module(elf: &Elf<dyn ReadAt + '_>, header: &Header) -> Result<Option<Module>, ImageError> {
    let mut candidates = Vec::new();
    if let Some(section) = elf.section_named(".go.module") {
        candidates.extend(elf.address_of(section.offset));
    }
    // Its first word points to the table.
    relative::for_each(elf, |at, value| {
        if value == header.address {
            candidates.push(at);
        }
    })?;
    for address in &candidates {
        if let Some(module) = module_at(elf, *address)? {
            return Ok(Some(module));
        }
    }
    let mut scanned = 0;
    for segment in elf.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.flags & PF_W != 0)
    {
        let mut found = None;
        scan(elf, segment, &mut scanned, |offset, word| {
            if word == header.address {
                found = module_at(elf, segment.address.saturating_add(offset - segment.offset))?;
            }
            Ok(found.is_some())
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Returns the module data at an address if plausible: minpc, maxpc, text and etext
/// (runtime/symtab.go, `moduledata`, Go 1.18 to 1.27).
fn module_at(elf: &Elf<dyn ReadAt + '_>, address: u64) -> Result<Option<Module>, ImageError> {
    let at = [160, 168, 176, 184].map(|offset| address.saturating_add(offset));
    let [Some(min), Some(max), Some(text), Some(end)] = relative::words(elf, at)? else { return Ok(None) };
    let executable = elf.segments.iter().any(|segment| {
        segment.kind == PT_LOAD
            && segment.flags & PF_X != 0
            && crate::elf::within(text, segment.address, segment.file_size)
    });
    Ok((executable && text <= min && min < max && max <= end).then_some(Module { address, text }))
}
