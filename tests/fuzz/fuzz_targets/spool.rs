//! Segments of a spool. The checksums are corrected first: they stop accidents, and this input is
//! deliberate.
#![no_main]

use std::ops::ControlFlow;

use edgelat_spool::segment::{Found, Frames, HEADER_BYTES, Payload, frame};
use edgelat_spool::record::Record;
use edgelat_spool::{Seen, Store, reader};
use libfuzzer_sys::fuzz_target;
use nix::errno::Errno;

/// Segments in memory without a writer.
#[derive(Debug)]
struct Segments(Vec<Vec<u8>>);

impl Store for Segments {
    fn list(&self) -> Result<Vec<(String, u64)>, Errno> {
        let name = |number: usize| format!("{number:08x}-{number:08x}.seg");
        Ok(self.0.iter().enumerate().map(|(number, bytes)| (name(number), bytes.len() as u64)).collect())
    }
    fn read(&self, file: &str, most: usize) -> Result<Vec<u8>, Errno> {
        let number = usize::from_str_radix(&file[..8], 16).map_err(|_| Errno::ENOENT)?;
        self.0.get(number).map(|bytes| bytes[..bytes.len().min(most)].to_vec()).ok_or(Errno::ENOENT)
    }
    fn create(&mut self, _: &str, _: u64) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn write(&mut self, _: &str, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn sync(&mut self, _: &str) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn sync_names(&mut self) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn truncate(&mut self, _: &str, _: u64) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn rename(&mut self, _: &str, _: &str) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
    fn remove(&mut self, _: &str) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }
}

/// Corrects lengths and checksums of everything that begins like a header.
fn mend(bytes: &mut [u8]) {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut at = 0;
    while at + HEADER_BYTES <= bytes.len() {
        let left = bytes.len() - at - HEADER_BYTES;
        let length = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let length = length.min(left);
        bytes[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&(!(length as u32)).to_le_bytes());
        let end = at + HEADER_BYTES + length;
        let mut digest = crc.digest();
        digest.update(&bytes[at..at + 20]);
        digest.update(&bytes[at + HEADER_BYTES..end]);
        let sum = digest.finalize().to_le_bytes();
        bytes[at + 20..at + 24].copy_from_slice(&sum);
        at = end;
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if how & 1 == 0 {
        mend(&mut bytes);
    }
    for found in Frames::new(&bytes, how & 2 == 0) {
        // A record that was read can be written, and is unchanged then.
        if let Found::Record(id, record) = found {
            let again = match &record {
                Record::Checkpoint(checkpoint) => frame(id, Payload::Checkpoint(checkpoint)),
                Record::Interval(interval) => frame(id, Payload::Interval(interval)),
            };
            assert_eq!(Frames::new(&again, true).next(), Some(Found::Record(id, record)));
        }
    }
    // Content of the newest segment is readable in an older one too.
    let sound = |newest| Frames::new(&bytes, newest).filter(|found| *found != Found::Damaged).count();
    assert!(sound(true) <= sound(false));
    let middle = bytes.len() / 2;
    let store = Segments(vec![bytes[..middle].to_vec(), bytes[middle..].to_vec(), bytes]);
    let read = reader::read_all(&store, &mut |_, seen, state| {
        if let Seen::Interval(interval) = seen {
            interval.rows.iter().for_each(|(_, counts)| _ = counts.histogram().quantile(0.5));
            assert!(state.next > interval.last || interval.last == u64::MAX);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(read, Ok(()));
    let names: Vec<_> = reader::segments(&store).into_iter().flatten().map(|(name, _)| name).collect();
    for most in [0, 100, 10_000] {
        let merged = edgelat_spool::merge::into_one(&store, &names[..2], Some(names[2]), most);
        assert!(merged.is_ok_and(|bytes| bytes.is_none_or(|bytes| bytes.len() <= most)));
    }
});
