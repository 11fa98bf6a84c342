//! Segments: files of records, one behind the other, and their names.
//!
//! All numbers of a frame are little-endian:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 4 | length of the payload |
//! | 4 | 4 | the same, every bit turned over |
//! | 8 | 1 | type: 1 checkpoint, 2 interval |
//! | 9 | 1 | version, 1 |
//! | 10 | 2 | flags, 0 |
//! | 12 | 8 | id: each record has a higher one than all before it |
//! | 20 | 4 | CRC-32C of the 20 bytes before and the payload |
//! | 24 | | payload |
//!
//! The length and its complement find damage before the length is used, so that what is behind a damaged record can be
//! found again; zeros, which some file systems leave at the end of a file after a power cut, are no frame.

use crc::{CRC_32_ISCSI, Crc, NoTable};

use crate::record::{CHECKPOINT, Checkpoint, INTERVAL, Interval, Record};

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 24;

/// A segment is not read any further. It is longer than it should be only where one checkpoint or interval is; one with
/// [`crate::record::STREAMS`] streams of the longest names and all their buckets has less.
pub const READ_BYTES: usize = 32 << 20;

const VERSION: u8 = 1;

/// The quarantine has the same one: a table would take more room than it saves time.
const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISCSI);

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'p> {
    /// What there was before.
    Checkpoint(&'p Checkpoint),
    /// What happened.
    Interval(&'p Interval),
}

/// A record in its frame.
pub fn frame(id: u64, payload: Payload<'_>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    let kind = match payload {
        Payload::Checkpoint(checkpoint) => {
            checkpoint.encode(&mut bytes);
            CHECKPOINT
        }
        Payload::Interval(interval) => {
            interval.encode(&mut bytes);
            INTERVAL
        }
    };
    // Far below 4 GiB: see READ_BYTES.
    let length = (bytes.len() - HEADER_BYTES) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&(!length).to_le_bytes());
    bytes[8] = kind;
    bytes[9] = VERSION;
    bytes[12..20].copy_from_slice(&id.to_le_bytes());
    let crc = checksum(&bytes[..20], &bytes[HEADER_BYTES..]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The checksum of two pieces, one behind the other.
pub fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(header);
    digest.update(payload);
    digest.finalize()
}

/// A record in a segment, or what is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A record with its id.
    Record(u64, Record),
    /// Sound, and of a type or version that this program does not know, with its id.
    Unknown(u64),
    /// No record.
    Damaged,
}

/// What stands at the beginning of `bytes`, and how long it is; `None` where that is no sound frame.
fn at(bytes: &[u8]) -> Option<(Found, usize)> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let length = word(0)?;
    if word(4)? != !length {
        return None;
    }
    let payload = rest.get(..length as usize)?;
    if word(20)? != checksum(&header[..20], payload) {
        return None;
    }
    let id = u64::from_le_bytes(header.get(12..20)?.try_into().ok()?);
    let known = (header[9] == VERSION).then(|| Record::decode(header[8], payload)).flatten();
    let found = known.map_or(Found::Unknown(id), |record| Found::Record(id, record));
    Some((found, HEADER_BYTES + payload.len()))
}

/// The records of a segment.
#[derive(Debug, Clone)]
pub struct Frames<'b> {
    bytes: &'b [u8],
    offset: usize,
    /// It is the newest: what is no record ends it.
    newest: bool,
}

impl<'b> Frames<'b> {
    /// Those in the bytes of a segment, the `newest` or an older one.
    pub fn new(bytes: &'b [u8], newest: bool) -> Self {
        Self { bytes, offset: 0, newest }
    }

    /// Where the next one begins.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl Iterator for Frames<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let rest = self.bytes.get(self.offset..).filter(|rest| !rest.is_empty())?;
        if let Some((found, length)) = at(rest) {
            self.offset += length;
            return Some(found);
        }
        if self.newest {
            // The tail rule: what was written last was not synced, and nothing behind it counts.
            return None;
        }
        // The complement of the length makes a sound frame in the middle of nothing as good as impossible, and cheap to
        // look for.
        let skipped = (1..rest.len()).find(|skip| at(&rest[*skip..]).is_some());
        self.offset += skipped.unwrap_or(rest.len());
        Some(Found::Damaged)
    }
}

/// A segment stands for those that were written with the numbers from `first` to `last`; with more than one it was merged of
/// them, and takes their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Number of the first.
    pub first: u32,
    /// Number of the last.
    pub last: u32,
}

/// A merged segment before it takes the place of what it was made of.
pub const UNFINISHED: &str = "merge.tmp";

const SUFFIX: &str = ".seg";

impl Name {
    /// Of a segment that is not merged.
    pub fn of(number: u32) -> Self {
        Self { first: number, last: number }
    }

    /// `00000001-00000002.seg`, in hexadecimal.
    pub fn file(self) -> String {
        format!("{:08x}-{:08x}{SUFFIX}", self.first, self.last)
    }

    /// The opposite; `None` for any other file.
    pub fn parse(file: &str) -> Option<Self> {
        let (first, last) = file.strip_suffix(SUFFIX)?.split_once('-')?;
        let name =
            Self { first: u32::from_str_radix(first, 16).ok()?, last: u32::from_str_radix(last, 16).ok()? };
        (name.first <= name.last && name.file() == file).then_some(name)
    }

    /// Does `other` stand for what this stands for, and more?
    pub fn is_in(self, other: Self) -> bool {
        self != other && other.first <= self.first && self.last <= other.last
    }

    /// Of how many it was made.
    pub fn made_of(self) -> u32 {
        (self.last - self.first).saturating_add(1)
    }
}

/// Those of a directory's files that count, the oldest first, and those whose place was taken by a merged one.
pub fn sorted(files: &[String]) -> (Vec<Name>, Vec<Name>) {
    let mut names: Vec<Name> = files.iter().filter_map(|file| Name::parse(file)).collect();
    names.sort_unstable();
    let (count, replaced): (Vec<Name>, Vec<Name>) =
        names.iter().partition(|name| !names.iter().any(|other| name.is_in(*other)));
    (count, replaced)
}
