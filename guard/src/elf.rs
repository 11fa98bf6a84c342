//! The only part of an image that the guard itself reads: the ranges of its executable segments.
//!
//! The bytes come from a file that the target may have written. So: one header, at most 64 program
//! headers, fixed buffers, no allocation. Anything unusual is refused; interpreting it is the
//! collector's work.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most program headers that are read.
const MAX_SEGMENTS: usize = 64;
/// Size of an ELF64 header (gABI, "ELF Header").
const HEADER: usize = 64;
/// Size of an ELF64 program header (gABI, "Program Header").
const SEGMENT: usize = 56;
const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;

/// File ranges that the kernel maps executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Executable {
    ranges: [(u64, u64); MAX_SEGMENTS],
    count: usize,
}

impl Executable {
    /// Reads header and program headers; the error message says what is wrong.
    pub(crate) fn read(file: &File) -> Result<Self, &'static str> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|_| "it is shorter than an ELF header")?;
        let (offset, count) = segments(&header)?;
        let mut found = Self { ranges: [(0, 0); MAX_SEGMENTS], count: 0 };
        for index in 0..count {
            let mut bytes = [0; SEGMENT];
            let at = offset.checked_add((index * SEGMENT) as u64).ok_or("its program headers lie nowhere")?;
            file.read_exact_at(&mut bytes, at).map_err(|_| "its program headers are cut off")?;
            if let Some(range) = executable_range(&bytes) {
                found.ranges[found.count] = range;
                found.count += 1;
            }
        }
        if found.count == 0 { Err("it has no executable segment") } else { Ok(found) }
    }

    /// Returns true if an instruction at this file offset belongs to an executable segment.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.range_of(offset).is_some()
    }

    /// Returns start and end of the executable segment around an offset.
    pub(crate) fn range_of(&self, offset: u64) -> Option<(u64, u64)> {
        self.ranges[..self.count].iter().copied().find(|(start, end)| (*start..*end).contains(&offset))
    }
}

/// Offset and number of the program headers.
fn segments(header: &[u8; HEADER]) -> Result<(u64, usize), &'static str> {
    if header[..4] != *b"\x7fELF" {
        return Err("it is not an ELF file");
    }
    // EI_CLASS 1: 32 bit, which a 64-bit kernel runs as well (i386, x32, 32-bit Arm).
    if header[4] == 1 {
        return Err(
            "it is a 32-bit ELF file, and edgelat measures 64-bit processes only; run its 64-bit build",
        );
    }
    // EI_CLASS 2: 64 bit; EI_DATA 1: little endian.
    if header[4] != 2 || header[5] != 1 {
        return Err("it is not a 64-bit little-endian ELF file");
    }
    let offset = u64::from_le_bytes(array(header, 32));
    let size = u16::from_le_bytes(array(header, 54));
    let count = usize::from(u16::from_le_bytes(array(header, 56)));
    if usize::from(size) != SEGMENT {
        return Err("its program headers have an unknown size");
    }
    if count > MAX_SEGMENTS {
        return Err("it has more than 64 program headers");
    }
    Ok((offset, count))
}

fn executable_range(segment: &[u8; SEGMENT]) -> Option<(u64, u64)> {
    let kind = u32::from_le_bytes(array(segment, 0));
    let flags = u32::from_le_bytes(array(segment, 4));
    let offset = u64::from_le_bytes(array(segment, 8));
    let size = u64::from_le_bytes(array(segment, 32));
    (kind == PT_LOAD && flags & PF_X != 0).then_some((offset, offset.checked_add(size)?))
}

/// `N` bytes at a constant offset inside a fixed buffer.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("edgelat-elf-{}-{:p}", std::process::id(), bytes));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(bytes).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file
    }

    #[test]
    fn the_running_test_has_an_executable_segment_and_a_header_outside_of_it() {
        let executable = Executable::read(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(executable.count >= 1);
        assert!(executable.contains(executable.ranges[0].0));
        assert!(!executable.contains(u64::MAX));
    }

    #[test]
    fn damaged_headers_are_refused_whatever_their_bytes() {
        let mut good = vec![0; HEADER];
        File::open("/proc/self/exe").unwrap().read_exact_at(&mut good, 0).unwrap();
        assert_eq!(Executable::read(&file(&good[..20])), Err("it is shorter than an ELF header"));
        assert_eq!(Executable::read(&file(&[0; HEADER])), Err("it is not an ELF file"));
        let mut short = good.clone();
        short[4] = 1;
        assert!(Executable::read(&file(&short)).unwrap_err().contains("a 32-bit ELF file"));
        // No change of one byte makes it panic or loop; the result depends on the byte.
        for at in 0..HEADER {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                _ = Executable::read(&file(&bytes));
            }
        }
    }

    #[test]
    fn an_end_past_the_last_offset_is_no_range() {
        let mut segment = [0; SEGMENT];
        segment[0] = 1;
        segment[4] = 1;
        segment[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        segment[32..40].copy_from_slice(&2u64.to_le_bytes());
        assert_eq!(executable_range(&segment), None);
    }
}
