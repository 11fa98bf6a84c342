//! The link from a stripped file to its debug file.
//!
//! `objcopy --add-gnu-debuglink` writes a section `.gnu_debuglink`: the name of the debug file, a
//! zero, padding to a multiple of four, and the CRC-32 of the whole debug file, least significant
//! byte first (GDB's manual, "Separate Debug Files"). The name is untrusted: a name that leads out
//! of its folder is not followed.

use crc::{CRC_32_ISO_HDLC, Crc};

use crate::elf::{Elf, string_at};
use crate::limits::{DEBUG_LINK_BYTES, LINKED_BYTES};
use crate::source::{read_exact, read_range};
use crate::{ImageError, ReadAt};

const WHAT: &str = "link to the debug file";

/// The checksum of zlib, which GDB's `gnu_debuglink_crc32` computes too.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Contents of a link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DebugLink {
    /// Name of the debug file, without a folder.
    pub(crate) name: String,
    /// CRC-32 of its bytes.
    pub(crate) checksum: u32,
}

impl DebugLink {
    /// Reads the link of a file, if it has one.
    pub(crate) fn read(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<Self>, ImageError> {
        let Some(section) = elf.section_named(".gnu_debuglink") else { return Ok(None) };
        let bytes = read_range(&elf.source, WHAT, section.offset, section.size, DEBUG_LINK_BYTES)?;
        let reason = "it is not the name of a file with a checksum";
        Self::parse(&bytes).map(Some).ok_or(ImageError::Malformed { what: WHAT, reason })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(string_at(bytes, 0)?).ok()?;
        let at = (name.len() + 1).next_multiple_of(4);
        let checksum = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        let plain = !matches!(name, "" | "." | "..") && !name.contains('/');
        plain.then(|| Self { name: name.to_owned(), checksum })
    }
}

/// Returns the checksum of a debug file, and reports `progress` in bytes.
pub(crate) fn checksum(source: &dyn ReadAt, progress: &mut dyn FnMut(u64, u64)) -> Result<u32, ImageError> {
    let what = "debug file";
    let (size, limit) = (source.size().map_err(|source| ImageError::Read { what, source })?, LINKED_BYTES);
    if size > limit {
        return Err(ImageError::TooLarge { what, size, limit });
    }
    let mut buffer = vec![0; 64 << 10];
    let mut digest = CHECKSUM.digest();
    let mut done = 0;
    while done < size {
        let part = &mut buffer[..(size - done).min(64 << 10) as usize];
        read_exact(source, what, done, part)?;
        digest.update(part);
        done += part.len() as u64;
        progress(done, size);
    }
    Ok(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_plain_name_and_a_checksum_behind_the_padding() {
        let link = |name: &str, checksum| Some(DebugLink { name: name.to_owned(), checksum });
        assert_eq!(DebugLink::parse(b"ab\0\0\x01\0\0\x80"), link("ab", 0x8000_0001));
        assert_eq!(DebugLink::parse(b"abc\0\x01\0\0\0"), link("abc", 1));
        assert_eq!(DebugLink::parse(b"abcd\0\0\0\0\x02\0\0\0"), link("abcd", 2));
        for damaged in [
            &b""[..],
            b"abcd",
            b"abc\0\x01\0\0",
            b"\0\0\0\0\x01\0\0\0",
            b"..\0\0\x01\0\0\0",
            b"/ab\0\x01\0\0\0",
            b"../x\0\0\0\0\x01\0\0\0",
            b"\xff\0\0\0\x01\0\0\0",
        ] {
            assert_eq!(DebugLink::parse(damaged), None, "{damaged:?}");
        }
    }

    /// The check value of the catalogue of CRCs, over more than one buffer too.
    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(checksum(&b"123456789"[..].to_vec(), &mut |_, _| ()).unwrap(), 0xcbf4_3926);
        let long = vec![7; 100_000];
        assert_eq!(checksum(&long, &mut |_, _| ()).unwrap(), CHECKSUM.checksum(&long));
    }
}
