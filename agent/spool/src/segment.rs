//! Segments: files of consecutive records, and their names.
//!
//! All numbers of a frame are little-endian:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 4 | length of the payload |
//! | 4 | 4 | the same, every bit turned over |
//! | 8 | 1 | type: 1 checkpoint, 2 interval |
//! | 9 | 1 | version, 3 |
//! | 10 | 2 | number of records directly before that may not have been on the disk at the time |
//! | 12 | 8 | id: each record has a higher one than all before it |
//! | 20 | 4 | CRC-32C of the 20 bytes before and the payload |
//! | 24 | | payload |
//!
//! The length and its complement reveal damage before the length is used, so that records behind a
//! damaged one can be found again. Zeros, which some file systems leave at the end of a file after
//! a power cut, are no frame.
//!
//! # A tail, or damage
//!
//! Bytes in the newest segment that are no record are either the remains of a write during a power
//! cut (a *tail*: it ends the spool, and the next run cuts it off) or a record that was sound once
//! (*damage*: it is counted, and the records behind it still count). [`Frames`] distinguishes them:
//! bytes before a record that was written when they were on the disk are damage; others are a tail
//! only if they look like one (`torn`).

use crc::{CRC_32_ISCSI, Crc, NoTable};

use crate::torn;

use crate::record::{CHECKPOINT, Checkpoint, INTERVAL, Interval, Record, VERSION};

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 24;

/// Most bytes read of a segment. It is too long only if one checkpoint or interval is; a record of
/// [`crate::record::STREAMS`] streams with the longest names and all their buckets is shorter.
pub const READ_BYTES: usize = 32 << 20;

/// As in the quarantine, without a table, which would take more room than it saves time.
const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISCSI);

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'p> {
    /// The state before the segment.
    Checkpoint(&'p Checkpoint),
    /// The events of some period.
    Interval(&'p Interval),
}

/// Frames a record behind records that are all on the disk.
pub fn frame(id: u64, payload: Payload<'_>) -> Vec<u8> {
    frame_behind(id, payload, 0)
}

/// Frames a record behind `unsynced` records that may not be on the disk yet.
pub fn frame_behind(id: u64, payload: Payload<'_>, unsynced: usize) -> Vec<u8> {
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
    // This many or more.
    let unsynced = u16::try_from(unsynced).unwrap_or(u16::MAX);
    bytes[10..12].copy_from_slice(&unsynced.to_le_bytes());
    bytes[12..20].copy_from_slice(&id.to_le_bytes());
    let crc = checksum(&bytes[..20], &bytes[HEADER_BYTES..]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The checksum of two consecutive pieces.
pub fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(header);
    digest.update(payload);
    digest.finalize()
}

/// A record in a segment, or bytes that are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A record with its id.
    Record(u64, Record),
    /// A sound record of a type or version that this program does not know, with its id.
    Unknown(u64),
    /// Bytes that are no record.
    Damaged,
}

/// A sound frame.
struct Sound<'b> {
    id: u64,
    /// All records of the segment below this id were on the disk when this record was written.
    on_disk: u64,
    kind: u8,
    version: u8,
    payload: &'b [u8],
}

/// Returns the frame at the beginning of `bytes`; `None` if it is not sound.
fn at(bytes: &[u8]) -> Option<Sound<'_>> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let length = torn::length(header)?;
    let payload = rest.get(..length)?;
    let crc = u32::from_le_bytes(header.get(20..24)?.try_into().ok()?);
    if crc != checksum(&header[..20], payload) {
        return None;
    }
    let id = u64::from_le_bytes(header.get(12..20)?.try_into().ok()?);
    let unsynced = u16::from_le_bytes(header.get(10..12)?.try_into().ok()?);
    let (kind, version) = (header[8], header[9]);
    Some(Sound { id, on_disk: id.saturating_sub(unsynced.into()), kind, version, payload })
}

impl Sound<'_> {
    fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    fn found(&self) -> Found {
        let known = Record::decode(self.version, self.kind, self.payload);
        known.map_or(Found::Unknown(self.id), |record| Found::Record(self.id, record))
    }
}

/// The records of a segment.
#[derive(Debug, Clone)]
pub struct Frames<'b> {
    bytes: &'b [u8],
    offset: usize,
    /// The segment is the newest: a tail ends it.
    newest: bool,
    /// Id of the last record.
    last: Option<u64>,
    /// Everything below this id was on the disk once, according to records behind the first damage.
    on_disk: Option<u64>,
}

impl<'b> Frames<'b> {
    /// The records in the bytes of a segment, the `newest` or an older one.
    pub fn new(bytes: &'b [u8], newest: bool) -> Self {
        Self { bytes, offset: 0, newest, last: None, on_disk: None }
    }

    /// Offset of the next record.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Finds the next sound record newer than the last one, and its distance from an offset.
    /// Remains of older files in reused blocks do not count.
    fn resync(&self, from: usize) -> Option<(usize, Sound<'b>)> {
        let rest = self.bytes.get(from..)?;
        // The complement of the length makes a chance frame all but impossible, and the search
        // cheap.
        (1..rest.len()).find_map(|skip| {
            let sound = at(&rest[skip..]).filter(|sound| self.last.is_none_or(|last| last < sound.id))?;
            Some((skip, sound))
        })
    }

    /// Id below which everything was on the disk once, according to the records that follow.
    fn on_disk(&mut self, first: (usize, &Sound<'b>)) -> u64 {
        if let Some(known) = self.on_disk {
            return known;
        }
        let (mut at_offset, mut on_disk) = (self.offset + first.0 + first.1.bytes(), first.1.on_disk);
        while at_offset < self.bytes.len() {
            match at(&self.bytes[at_offset..]) {
                Some(sound) => {
                    on_disk = on_disk.max(sound.on_disk);
                    at_offset += sound.bytes();
                }
                None => match self.resync(at_offset) {
                    Some((skipped, _)) => at_offset += skipped,
                    None => break,
                },
            }
        }
        self.on_disk = Some(on_disk);
        on_disk
    }

    /// True if a tail begins here, before the next record or the end.
    fn is_tail(&mut self, next: Option<(usize, &Sound<'b>)>) -> bool {
        let Some((skipped, sound)) = next else {
            return torn::is_end(self.bytes, self.offset);
        };
        // A segment's checkpoint was on the disk before anything else was written to the segment.
        let Some(missing) = self.last.map(|last| last.saturating_add(1)) else { return false };
        self.on_disk((skipped, sound)) <= missing
            && torn::has_hole(self.bytes, self.offset..self.offset + skipped)
    }
}

impl Iterator for Frames<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let rest = self.bytes.get(self.offset..).filter(|rest| !rest.is_empty())?;
        if let Some(sound) = at(rest) {
            self.offset += sound.bytes();
            self.last = Some(sound.id);
            return Some(sound.found());
        }
        let next = self.resync(self.offset);
        let next = next.as_ref().map(|(skipped, sound)| (*skipped, sound));
        if self.newest && self.is_tail(next) {
            return None;
        }
        self.offset += next.map_or(rest.len(), |(skipped, _)| skipped);
        Some(Found::Damaged)
    }
}

/// A segment stands for those that were written with the numbers from `first` to `last`. With more
/// than one number it was merged from them and takes their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Number of the first segment.
    pub first: u32,
    /// Number of the last segment.
    pub last: u32,
}

/// A merged segment before it takes the place of its parts.
pub const UNFINISHED: &str = "merge.tmp";

const SUFFIX: &str = ".seg";

impl Name {
    /// Name of a segment that is not merged.
    pub fn of(number: u32) -> Self {
        Self { first: number, last: number }
    }

    /// File name: `00000001-00000002.seg`, in hexadecimal.
    pub fn file(self) -> String {
        format!("{:08x}-{:08x}{SUFFIX}", self.first, self.last)
    }

    /// Parses a file name; `None` for any other file.
    pub fn parse(file: &str) -> Option<Self> {
        let (first, last) = file.strip_suffix(SUFFIX)?.split_once('-')?;
        let name =
            Self { first: u32::from_str_radix(first, 16).ok()?, last: u32::from_str_radix(last, 16).ok()? };
        (name.first <= name.last && name.file() == file).then_some(name)
    }

    /// True if `other` stands for everything that this stands for, and more.
    pub fn is_in(self, other: Self) -> bool {
        self != other && other.first <= self.first && self.last <= other.last
    }

    /// Number of segments that it was merged from.
    pub fn made_of(self) -> u32 {
        (self.last - self.first).saturating_add(1)
    }
}

/// The files of a directory that count, the oldest first, and those that a merged segment replaced.
pub fn sorted(files: &[String]) -> (Vec<Name>, Vec<Name>) {
    let mut names: Vec<Name> = files.iter().filter_map(|file| Name::parse(file)).collect();
    names.sort_unstable();
    let (count, replaced): (Vec<Name>, Vec<Name>) =
        names.iter().partition(|name| !names.iter().any(|other| name.is_in(*other)));
    (count, replaced)
}
