//! A slot of the file: a record as bytes, by the table at the head of [`super`].

use crc::{CRC_32_ISCSI, Crc, NoTable};

use super::{
    ANY_USER, BOOT_ID_BYTES, BUILD_ID_BYTES, Key, PATH_BYTES, Record, SLOT_BYTES, TARGET_BYTES, cut,
};

pub(super) const MAGIC: &[u8; 4] = b"EDQR";
pub(super) const VERSION: u8 = 2;
/// Before there were users: the path extended to the name of the target.
pub(super) const WITHOUT_USER: u8 = 1;

// Offsets in a slot; see the head of this file.
pub(super) const AT_VERSION: usize = 4;
pub(super) const AT_LENGTHS: usize = 5;
pub(super) const AT_SEQUENCE: usize = 8;
pub(super) const AT_FUNCTIONS: usize = 16;
pub(super) const AT_TIME: usize = 24;
pub(super) const AT_SIGNAL: usize = 32;
pub(super) const AT_CODE: usize = 36;
pub(super) const AT_PID: usize = 40;
pub(super) const AT_TIMES: usize = 44;
pub(super) const AT_BOOT_ID: usize = 48;
pub(super) const AT_BUILD_ID: usize = 64;
pub(super) const AT_PATH: usize = AT_BUILD_ID + BUILD_ID_BYTES;
pub(super) const AT_USER: usize = AT_PATH + PATH_BYTES;
pub(super) const AT_TARGET: usize = AT_USER + 8;
pub(super) const AT_CRC: usize = AT_TARGET + TARGET_BYTES;
const _: () = assert!(AT_CRC + 4 == SLOT_BYTES && 512 % SLOT_BYTES == 0);

/// Without a table: a kilobyte of the binary is too much for some kilobytes read now and then.
pub(super) const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISCSI);

/// A path, which could be eight bytes longer before.
fn path(version: u8, words: &str) -> Option<heapless::String<PATH_BYTES>> {
    match version {
        WITHOUT_USER => Some(cut(words)).filter(|_| words.len() <= PATH_BYTES + 8),
        _ => heapless::String::try_from(words).ok(),
    }
}

/// Content of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there are a few dozen, and most hold a record")]
pub(super) enum Slot {
    Free,
    /// No record, or one of another version.
    Damaged,
    Taken {
        sequence: u64,
        record: Record,
    },
}

impl Slot {
    pub(super) fn read(bytes: &[u8]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Free;
        }
        Self::decode(bytes).unwrap_or(Self::Damaged)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let version = *bytes.get(AT_VERSION)?;
        let sound = bytes.get(..4)? == MAGIC && matches!(version, VERSION | WITHOUT_USER);
        if !sound || u32_at(AT_CRC)? != CRC.checksum(bytes.get(..AT_CRC)?) {
            return None;
        }
        let part = |number: usize, at: usize| {
            let length = usize::from(*bytes.get(AT_LENGTHS + number)?);
            bytes.get(at..at + length)
        };
        let words = |number, at| std::str::from_utf8(part(number, at)?).ok();
        let record = Record {
            key: Key {
                build_id: heapless::Vec::from_slice(part(0, AT_BUILD_ID)?).ok()?,
                functions: u64_at(AT_FUNCTIONS)?,
                user: if version == WITHOUT_USER { ANY_USER } else { u32_at(AT_USER)? },
            },
            signal: u32_at(AT_SIGNAL)? as i32,
            code: u32_at(AT_CODE)? as i32,
            pid: u32_at(AT_PID)? as i32,
            time: u64_at(AT_TIME)?,
            boot_id: bytes.get(AT_BOOT_ID..AT_BOOT_ID + BOOT_ID_BYTES)?.try_into().ok()?,
            path: path(version, words(1, AT_PATH)?)?,
            target: heapless::String::try_from(words(2, AT_TARGET)?).ok()?,
            times: u32_at(AT_TIMES)?,
        };
        Some(Self::Taken { sequence: u64_at(AT_SEQUENCE)?, record })
    }

    /// Sequence and record, if it is about the same matter.
    pub(super) fn like(&self, other: &Record) -> Option<(u64, &Record)> {
        match self {
            Self::Taken { sequence, record } if record.is_like(other) => Some((*sequence, record)),
            _ => None,
        }
    }

    pub(super) fn sequence(&self) -> Option<u64> {
        match self {
            Self::Taken { sequence, .. } => Some(*sequence),
            _ => None,
        }
    }
}

pub(super) fn encode(sequence: u64, record: &Record) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, MAGIC);
    put(AT_VERSION, &[VERSION]);
    // Each capacity is far below 256.
    let lengths = [record.key.build_id.len(), record.path.len(), record.target.len()];
    put(AT_LENGTHS, &lengths.map(|length| length as u8));
    put(AT_SEQUENCE, &sequence.to_le_bytes());
    put(AT_FUNCTIONS, &record.key.functions.to_le_bytes());
    put(AT_TIME, &record.time.to_le_bytes());
    put(AT_SIGNAL, &record.signal.to_le_bytes());
    put(AT_CODE, &record.code.to_le_bytes());
    put(AT_PID, &record.pid.to_le_bytes());
    put(AT_TIMES, &record.times.to_le_bytes());
    put(AT_USER, &record.key.user.to_le_bytes());
    put(AT_BOOT_ID, &record.boot_id);
    put(AT_BUILD_ID, &record.key.build_id);
    put(AT_PATH, record.path.as_bytes());
    put(AT_TARGET, record.target.as_bytes());
    let crc = CRC.checksum(&bytes[..AT_CRC]);
    bytes[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
    bytes
}
