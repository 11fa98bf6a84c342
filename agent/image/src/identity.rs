//! Identity of the build of an image.
//!
//! | where it comes from | what it is |
//! | --- | --- |
//! | the note `NT_GNU_BUILD_ID` | what the linker wrote there, mostly 20 bytes |
//! | else the note of the Go linker | the last part of it, the hash of what was linked: 20 characters |
//! | else the image itself | 8 bytes, the CRC-64 of its program headers and of what it maps to be read only |
//!
//! Go programs before 1.24 have no GNU build-id, and lld writes none by default. The last kind is
//! equal for an image and its stripped copy: it excludes the ELF header, which has the place of the
//! sections. The hash that OpenTelemetry defines (`process.executable.build_id.htlhash`, of the
//! first and the last 4096 bytes and the size) cannot distinguish builds that differ in a constant.

use std::cell::OnceCell;

use crc::{CRC_64_XZ, Crc, Table};

use crate::elf::notes::Notes;
use crate::elf::{Elf, PF_W, PT_LOAD};
use crate::limits::HASHED_BYTES;
use crate::{BuildId, ReadAt};

static HASH: Crc<u64, Table<1>> = Crc::<u64, Table<1>>::new(&CRC_64_XZ);

/// Bytes of an ELF header (gABI 4.1, `Elf64_Ehdr`).
const HEADER_BYTES: u64 = 64;

/// The build-id of an image and its place.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Build-id of a note, with its file offset.
    noted: Option<(BuildId, u64)>,
    /// Build-id of an image without a note. Computing it takes time, and not every caller needs it.
    hashed: OnceCell<Option<BuildId>>,
}

impl Identity {
    pub(crate) fn of(notes: &Notes) -> Self {
        let gnu = notes.build_id.map(|id| (id, notes.build_id_offset));
        Self { noted: gnu.or(notes.go_build_id), hashed: OnceCell::new() }
    }

    /// Returns the file offset of the [`Self::build_id`] bytes; `None` if the file lacks them.
    pub(crate) fn offset(&self) -> Option<u64> {
        self.noted.map(|(_, offset)| offset)
    }

    /// Returns the build-id; `None` if the image is unreadable, or larger than any known image.
    pub(crate) fn build_id(&self, elf: &Elf<impl ReadAt>) -> Option<&BuildId> {
        match &self.noted {
            Some((id, _)) => Some(id),
            None => self.hashed.get_or_init(|| hash(elf)).as_ref(),
        }
    }
}

fn hash(elf: &Elf<impl ReadAt>) -> Option<BuildId> {
    let mut digest = HASH.digest();
    let mut left = HASHED_BYTES;
    let mut buffer = vec![0; 64 << 10];
    for segment in &elf.segments {
        let words = [segment.offset, segment.address, segment.file_size, segment.memory_size, segment.align];
        words.iter().for_each(|word| digest.update(&word.to_le_bytes()));
        digest.update(&segment.kind.to_le_bytes());
        digest.update(&segment.flags.to_le_bytes());
        if segment.kind != PT_LOAD || segment.flags & PF_W != 0 {
            continue;
        }
        let end = segment.offset.checked_add(segment.file_size)?;
        let mut at = segment.offset.max(HEADER_BYTES);
        while at < end {
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let read = elf.source.read_at(at, &mut buffer[..wanted]).ok()?;
            left = left.checked_sub(read as u64)?;
            digest.update(buffer.get(..read)?);
            // A truncated file: the existing bytes are hashed.
            if read == 0 {
                break;
            }
            at += read as u64;
        }
    }
    BuildId::new(&digest.finalize().to_be_bytes())
}
