//! Remains of a power cut, as distinct from later damage.
//!
//! A segment is only appended to, into blocks that read as zeros until they are written. So a power
//! cut leaves the beginning of a record at the end of the file, zeros, or, if the kernel wrote
//! pages in another order, a *hole*: zeros from the start of a record or sector up to a written
//! page or the end of the missing part. Flipped bits leave anything else.

use std::ops::Range;

use crate::segment::HEADER_BYTES;

/// Disks write sectors of this many bytes as a whole.
const SECTOR_BYTES: usize = 512;

/// The kernel, and flash file systems, write pages of this many bytes, or multiples of it.
const PAGE_BYTES: usize = 4096;

/// Length and complement.
const LENGTHS_BYTES: usize = 8;

/// Length of the payload according to a header; `None` if the complement does not match.
pub fn length(header: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let length = word(0)?;
    (word(4)? == !length).then_some(length as usize)
}

/// True if the bytes at `offset`, with no sound record behind them, are an unfinished write.
pub fn is_end(bytes: &[u8], offset: usize) -> bool {
    let rest = bytes.get(offset..).unwrap_or_default();
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if written < LENGTHS_BYTES {
        return true;
    }
    // No record begins with zeros; another one may begin behind them.
    rest.iter().take_while(|byte| **byte == 0).count() >= HEADER_BYTES
        || length(rest).is_some_and(|length| rest.len() < HEADER_BYTES.saturating_add(length))
        || has_hole(bytes, offset..bytes.len())
}

/// True if `gap`, where a record should begin, has zeros as of pages that were never written. Fewer
/// zeros than a header has bytes can occur in any record.
pub fn has_hole(bytes: &[u8], gap: Range<usize>) -> bool {
    let mut zeros: Option<usize> = None;
    for at in gap.clone() {
        if bytes.get(at) == Some(&0) {
            let begins = at == gap.start || at.is_multiple_of(SECTOR_BYTES);
            zeros = zeros.or(begins.then_some(at));
        } else {
            zeros = None;
        }
        let end = at + 1;
        let ends = end == gap.end || end.is_multiple_of(PAGE_BYTES);
        if ends && zeros.is_some_and(|begin| end - begin >= HEADER_BYTES) {
            return true;
        }
    }
    false
}
