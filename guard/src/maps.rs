//! /proc/PID/maps: read line by line, and parsed only here.
//!
//! Its paths are the target's own: every line has a bound, and so has their number.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result};

/// Longest line that is read: a path of PATH_MAX and the fields before it.
const LINE_BYTES: u64 = 4096 + 128;
/// Lines that are read: sixteen times the kernel's own default bound (vm.max_map_count).
const LINES: usize = 1 << 20;

/// Device and inode as maps shows them: comparable among lines of maps, but not with stat, which on
/// overlay and btrfs reports another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileKey {
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) offset: u64,
    pub(crate) file: FileKey,
    pub(crate) executable: bool,
    pub(crate) writable: bool,
    pub(crate) shared: bool,
    /// Path of the file, or the kernel's name for a mapping without one.
    pub(crate) path: String,
}

impl Mapping {
    /// True if executable, and backed by a file.
    pub(crate) fn is_code(&self) -> bool {
        self.executable && self.file.inode != 0
    }

    /// True if the file is gone from its path.
    pub(crate) fn is_deleted(&self) -> bool {
        self.path.ends_with(" (deleted)")
    }

    /// Address of a file offset, if it is mapped here.
    pub(crate) fn address(&self, file: FileKey, offset: u64) -> Option<u64> {
        let at = offset.checked_sub(self.offset).filter(|at| *at < self.end - self.start)?;
        (self.file == file).then_some(self.start + at)
    }

    /// True if the kernel places probes here. It leaves out, silently, writable or shared mappings
    /// (`valid_vma`, kernel/events/uprobes.c). It does not check if the mapping is executable now.
    pub(crate) fn takes_probes(&self) -> bool {
        !self.writable && !self.shared
    }
}

/// The unread rest.
#[derive(Debug)]
pub(crate) struct Maps {
    reader: BufReader<File>,
    line: Vec<u8>,
    lines: usize,
}

impl Maps {
    pub(crate) fn of(file: File) -> Self {
        Self { reader: BufReader::with_capacity(16 * 1024, file), line: Vec::with_capacity(256), lines: 0 }
    }

    /// The next line: a mapping, or something else. `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Option<Mapping>>> {
        self.lines += 1;
        if self.lines > LINES || !self.read()? {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            return Ok(Some(parse(&self.line)));
        }
        // No path that can be opened is as long; the line's rest must not pass for a line of its
        // own.
        while self.line.last() != Some(&b'\n') && self.read()? {}
        Ok(Some(None))
    }

    fn read(&mut self) -> Result<bool> {
        self.line.clear();
        self.reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut self.line).map(|read| read > 0)
    }

    /// True if there were more lines than are read.
    pub(crate) fn cut(&self) -> bool {
        self.lines > LINES
    }
}

fn parse(line: &[u8]) -> Option<Mapping> {
    let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start().to_owned();
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let device = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let has = |at: usize, letter: u8| permissions.get(at) == Some(&letter);
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        file: FileKey { device: (device(major)?, device(minor)?), inode },
        executable: has(2, b'x'),
        writable: has(1, b'w'),
        shared: has(3, b's'),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_with_spaces_in_its_path_is_read_whole() {
        let line =
            b"7f00-7f10 r-xp 00001000 fe:00 1234                       /opt/my app/lib foo.so (deleted)\n";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f00, 0x7f10, 0x1000));
        assert_eq!(mapping.file, FileKey { device: (0xfe, 0), inode: 1234 });
        assert_eq!(mapping.path, "/opt/my app/lib foo.so (deleted)");
        assert!(mapping.is_deleted() && mapping.is_code());
    }

    #[test]
    fn a_line_says_whether_the_kernel_places_probes() {
        let line = |permissions: &str| format!("7f00-8f00 {permissions} 00001000 fe:0a 12  /lib/a b.so\n");
        let takes = |permissions: &str| parse(line(permissions).as_bytes()).unwrap().takes_probes();
        assert!(takes("r-xp") && takes("r--p"), "it need not be executable now");
        assert!(!takes("rwxp") && !takes("r-xs") && !takes("rw-p"));
        let mapping = parse(line("r-xp").as_bytes()).unwrap();
        let key = FileKey { device: (0xfe, 10), inode: 12 };
        assert_eq!(mapping.address(key, 0x1010), Some(0x7f10));
        assert_eq!([0xfff, 0x2000].map(|offset| mapping.address(key, offset)), [None; 2]);
    }

    #[test]
    fn the_end_of_a_line_that_is_too_long_passes_for_no_line_of_its_own() {
        let folder = crate::testing::Folder::new();
        let path = folder.join("maps");
        let forged = "7f00-7f10 r-xp 0 fe:00 1 /forged";
        let long = format!("7f00-7f10 r-xp 0 fe:00 2 /{}", "x".repeat(2 * LINE_BYTES as usize));
        let at = LINE_BYTES as usize;
        let long = format!("{}{forged}{}", &long[..at], &long[at..]);
        std::fs::write(&path, format!("{long}\n7f00-7f10 r-xp 0 fe:00 3 /next\n")).unwrap();
        let mut maps = Maps::of(File::open(&path).unwrap());
        assert_eq!(maps.next().unwrap(), Some(None));
        assert_eq!(maps.next().unwrap().flatten().map(|mapping| mapping.file.inode), Some(3));
        assert_eq!(maps.next().unwrap(), None);
    }

    #[test]
    fn only_executable_files_are_code() {
        for line in [
            "7f00-7f10 r--p 00001000 fe:00 1234 /lib/x.so",
            "7f00-7f10 r-xp 00000000 00:00 0 [vdso]",
            "7f00-7f10 r-xp 00000000 00:00 0",
            "nonsense",
            "",
        ] {
            assert!(parse(line.as_bytes()).is_none_or(|mapping| !mapping.is_code()), "{line}");
        }
    }
}
