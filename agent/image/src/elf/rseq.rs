//! Restartable sequences: code that the kernel restarts if it is interrupted (rseq, Linux 4.18).
//!
//! Libraries (librseq, tcmalloc) put the descriptors of their sequences into a section of this
//! name, which is read here; sequences with descriptors elsewhere are unknown. While the kernel
//! single-steps the copy of an instruction, the program is outside its sequence: on an interrupt
//! the kernel takes the sequence for finished (`rseq_ip_fixup` of kernel/rseq.c), and its data is
//! written unprotected.

use std::ops::Range;

use super::{Elf, u64_at};
use crate::go::relative;
use crate::limits::NOTE_BYTES;
use crate::source::read_range;
use crate::{ImageError, ReadAt};

/// `struct rseq_cs` of include/uapi/linux/rseq.h.
const DESCRIPTOR_BYTES: usize = 32;
/// Offset of the address of the first instruction; the length of the sequence follows.
const START: usize = 8;

/// Returns the restartable sequences that an image names, as ELF virtual addresses.
pub(crate) fn sequences(elf: &Elf<dyn ReadAt + '_>) -> Result<Vec<Range<u64>>, ImageError> {
    let Some(section) = elf.section_named("__rseq_cs") else { return Ok(Vec::new()) };
    let bytes = read_range(&elf.source, "restartable sequences", section.offset, section.size, NOTE_BYTES)?;
    let descriptors = bytes.as_chunks::<DESCRIPTOR_BYTES>().0;
    let mut starts: Vec<u64> = descriptors.iter().map(|descriptor| u64_at(descriptor, START)).collect();
    // In an image without fixed addresses the dynamic linker fills the addresses in.
    if let (true, Some(base)) = (starts.contains(&0), elf.address_of(section.offset)) {
        relative::for_each(elf, |at, value| {
            let place = usize::try_from(at.wrapping_sub(base)).unwrap_or(usize::MAX);
            if place % DESCRIPTOR_BYTES == START
                && let Some(start) = starts.get_mut(place / DESCRIPTOR_BYTES)
            {
                *start = value;
            }
        })?;
    }
    let lengths = descriptors.iter().map(|descriptor| u64_at(descriptor, START + 8));
    Ok(starts.into_iter().zip(lengths).map(|(start, length)| start..start.saturating_add(length)).collect())
}
