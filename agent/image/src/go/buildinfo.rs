//! The version of the tool chain, from the block that `go version` reads (Go 1.13 to 1.27, debug/buildinfo/buildinfo.go).

use super::relative;
use crate::elf::{Elf, PF_W, PT_LOAD, Section};
use crate::source::read_exact;
use crate::{ImageError, ReadAt};

/// First bytes of the block, which is aligned to 16 bytes.
const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
const ALIGNMENT: usize = 16;
/// Flags, in the byte behind the size of a pointer.
const FLAGS: usize = 15;
/// Set from Go 1.18 on: the strings follow, each behind its length, instead of pointers.
const INLINE_STRINGS: u8 = 2;
/// The first string, behind the header.
const STRINGS: usize = 32;
/// Bytes searched without a section table, from the start of the first writable segment.
const LOOKED_AT: u64 = 1 << 20;
/// Longest text accepted as a version.
const VERSION_BYTES: usize = 64;

/// Returns the version, such as `go1.24.4`; `None` if the block is missing or implausible.
pub(super) fn version(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<String>, ImageError> {
    let Some((offset, size)) = place(elf) else { return Ok(None) };
    let what = "build information of Go";
    let mut bytes = vec![0; size.min(LOOKED_AT) as usize];
    read_exact(&elf.source, what, offset, &mut bytes)?;
    let block = bytes.chunks(ALIGNMENT).position(|chunk| chunk.starts_with(MAGIC));
    let Some(block) = block.and_then(|at| bytes.get(at * ALIGNMENT..)) else { return Ok(None) };
    let inline = block.get(FLAGS).is_some_and(|flags| flags & INLINE_STRINGS != 0);
    let text = if inline { inline_string(block) } else { pointed_string(elf, block)? };
    Ok(text.filter(|text| text.starts_with("go") || text.starts_with("devel")))
}

/// Returns the file offset at which the block may be, and the bytes there.
fn place(elf: &Elf<dyn ReadAt + '_>) -> Option<(u64, u64)> {
    let section: Option<&Section> = elf.section_named(".go.buildinfo");
    section.map(|section| (section.offset, section.size)).or_else(|| {
        let mut segments = elf.segments.iter().filter(|segment| segment.kind == PT_LOAD);
        segments.find(|segment| segment.flags & PF_W != 0).map(|segment| (segment.offset, segment.file_size))
    })
}

fn inline_string(block: &[u8]) -> Option<String> {
    let (&length, rest) = block.get(STRINGS..)?.split_first()?;
    // A length of 128 or more has a second byte, and no version is that long.
    text(rest.get(..usize::from(length))?)
}

/// Up to Go 1.17: a pointer to a string, which is a pointer and a length.
fn pointed_string(elf: &Elf<dyn ReadAt + '_>, block: &[u8]) -> Result<Option<String>, ImageError> {
    let Some(pointer) = block.get(16..24).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes)
    else {
        return Ok(None);
    };
    let [Some(start), Some(length)] = relative::words(elf, [pointer, pointer.saturating_add(8)])? else {
        return Ok(None);
    };
    let mut bytes = [0; VERSION_BYTES];
    let Some(bytes) = bytes.get_mut(..length.min(u64::from(u32::MAX)) as usize) else { return Ok(None) };
    let Some(offset) = elf.offset_of(start) else { return Ok(None) };
    read_exact(&elf.source, "build information of Go", offset, bytes)?;
    Ok(text(bytes))
}

fn text(bytes: &[u8]) -> Option<String> {
    let printable =
        bytes.len() <= VERSION_BYTES && bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let text = std::str::from_utf8(bytes).ok().filter(|_| printable)?;
    // Experiments and other remarks follow a space.
    Some(text.split(' ').next().unwrap_or_default().to_owned())
}
