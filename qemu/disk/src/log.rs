//! Requests to a disk, in their order.
//!
//! In a file an entry is a head of 32 bytes, little-endian, and what was written behind it:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 1 | 1 write, 2 zeroes, 3 trim, 4 flush |
//! | 1 | 1 | 1: on the disk before it was answered (FUA) |
//! | 2 | 6 | 0 |
//! | 8 | 8 | nanoseconds since the log was begun, by a clock that never goes back |
//! | 16 | 8 | where |
//! | 24 | 8 | how many bytes |

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::time::Instant;

const HEAD: usize = 32;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Bytes were written.
    Write {
        /// Offset in bytes.
        offset: u64,
        /// The data.
        bytes: Vec<u8>,
        /// On the disk before it was answered.
        durable: bool,
    },
    /// A range became zeros.
    Zero {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// On the disk before it was answered.
        durable: bool,
        /// It was given back (trim).
        trim: bool,
    },
    /// All that was answered before is on the disk.
    Flush,
}

/// One of them, and when it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds since the log was begun.
    pub time_ns: u64,
    /// The request.
    pub act: Act,
}

/// A log that grows.
#[derive(Debug)]
pub struct Log {
    /// Origin of its times.
    begun: Instant,
    entries: Vec<Entry>,
    file: Option<BufWriter<File>>,
}

impl Log {
    /// One whose times count from `begun`, in memory, and in a file where there is one.
    pub fn new(begun: Instant, file: Option<File>) -> Self {
        Self { begun, entries: Vec::new(), file: file.map(BufWriter::new) }
    }

    /// Adds what is done now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, act: Act) -> io::Result<()> {
        let entry = Entry { time_ns: since(self.begun), act };
        if let Some(file) = &mut self.file {
            write(file, &entry)?;
            file.flush()?;
        }
        self.entries.push(entry);
        Ok(())
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Nanoseconds since a moment.
pub fn since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn write(file: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let (kind, durable, offset, length, bytes) = match &entry.act {
        Act::Write { offset, bytes, durable } => (1, *durable, *offset, bytes.len() as u64, &bytes[..]),
        Act::Zero { offset, length, durable, trim } => {
            (if *trim { 3 } else { 2 }, *durable, *offset, *length, &[][..])
        }
        Act::Flush => (4, false, 0, 0, &[][..]),
    };
    let mut head = [0; HEAD];
    head[..2].copy_from_slice(&[kind, u8::from(durable)]);
    for (at, number) in [(8, entry.time_ns), (16, offset), (24, length)] {
        head[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    file.write_all(&head)?;
    file.write_all(bytes)
}

/// Reads a file of entries; one that is not whole ends it.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn read(mut file: impl Read) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut head = [0; HEAD];
    loop {
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(entries),
            read => read?,
        }
        let number = |at: usize| {
            let bytes = head[at..at + 8].iter().rev();
            bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let (time_ns, offset, length, durable) = (number(8), number(16), number(24), head[1] == 1);
        let act = match head[0] {
            1 => {
                let mut bytes = Vec::new();
                (&mut file).take(length).read_to_end(&mut bytes)?;
                if bytes.len() as u64 != length {
                    return Ok(entries);
                }
                Act::Write { offset, bytes, durable }
            }
            kind @ (2 | 3) => Act::Zero { offset, length, durable, trim: kind == 3 },
            4 => Act::Flush,
            kind => {
                let what = format!("entry {} is of kind {kind}, which there is not", entries.len());
                return Err(io::Error::new(ErrorKind::InvalidData, what));
            }
        };
        entries.push(Entry { time_ns, act });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_was_done_up_to_the_last_whole_entry() {
        let acts = [
            Act::Write { offset: 512, bytes: vec![7; 1024], durable: false },
            Act::Zero { offset: 4096, length: 8192, durable: true, trim: false },
            Act::Flush,
            Act::Zero { offset: 1 << 40, length: 1, durable: false, trim: true },
            Act::Write { offset: 0, bytes: b"last".to_vec(), durable: true },
        ];
        let mut file = Vec::new();
        let entries: Vec<Entry> =
            acts.into_iter().enumerate().map(|(at, act)| Entry { time_ns: 10 * at as u64, act }).collect();
        for entry in &entries {
            write(&mut file, entry).unwrap();
        }
        assert_eq!(read(&file[..]).unwrap(), entries);
        for cut in 1..HEAD + 4 {
            assert_eq!(read(&file[..file.len() - cut]).unwrap(), entries[..4], "{cut}");
        }
        file[0] = 9;
        assert!(read(&file[..]).unwrap_err().to_string().contains("kind 9"));
    }

    #[test]
    fn times_never_go_back() {
        let mut log = Log::new(Instant::now(), None);
        (0..100).for_each(|_| log.add(Act::Flush).unwrap());
        assert!(log.entries().is_sorted_by_key(|entry| entry.time_ns));
    }
}
