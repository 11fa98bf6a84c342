//! Records that bits have flipped in, that are cut off, or that somebody made to do harm: readers never fail, what is sound is
//! read, and what is not is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::disk::{Disk, Files};
use common::{Random, Run, SMALL, check, read_disk};
use edgelat_spool::record::Record;
use edgelat_spool::segment::{Found, Frames, HEADER_BYTES, Name, Payload, frame};
use edgelat_spool::{Options, Seen, merge, reader};

/// Segments of a page or so.
const SHORT: Options = Options { segment_bytes: 4 << 10, ..SMALL };

/// Three segments, and what was measured.
fn written() -> (Files, Run) {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), SHORT, 1);
    while disk.files().len() < 3 {
        assert_eq!(run.interval(4, 30, true), None);
    }
    (disk.files(), run)
}

/// How often something is damaged. `EDGELAT_FUZZ_ITERS` raises it.
fn iterations() -> u64 {
    std::env::var("EDGELAT_FUZZ_ITERS").ok().and_then(|text| text.parse().ok()).unwrap_or(60) * 3
}

#[test]
fn a_bit_that_flips_in_an_older_segment_costs_one_record_and_the_totals_come_back() {
    let (files, run) = written();
    let before = read_disk(&Disk::with(&files));
    let all = before.runs[&run.id].len();
    let name = Name::of(1).file();
    for byte in (0..files[&name].len()).step_by(7) {
        let mut damaged = files.clone();
        damaged.get_mut(&name).unwrap()[byte] ^= 1 << (byte % 8);
        let has = read_disk(&Disk::with(&damaged));
        assert_eq!(has.damaged, 1, "byte {byte}");
        let left = has.runs.get(&run.id).map_or(0, Vec::len);
        // Without its checkpoint nobody knows whose a segment's intervals are.
        assert_eq!(left + 1 + has.orphans, all + usize::from(has.orphans > 0), "byte {byte}");
        assert_eq!(has.totals, before.totals, "the next checkpoint knows them");
    }
}

#[test]
fn the_newest_segment_ends_where_it_is_damaged_and_says_nothing_wrong() {
    let (files, run) = written();
    let (name, bytes) = files.last_key_value().unwrap();
    let all = read_disk(&Disk::with(&files)).runs[&run.id].len();
    for byte in 0..bytes.len() {
        for cut in [true, false] {
            let mut damaged = files.clone();
            let segment = damaged.get_mut(name).unwrap();
            match cut {
                true => segment.truncate(byte),
                false => segment[byte] ^= 1 << (byte % 8),
            }
            let has = read_disk(&Disk::with(&damaged));
            assert_eq!(has.damaged, 0);
            assert!(has.runs[&run.id].len() < all);
            check(&has, run.id, &run.truth, 0, 0);
        }
    }
}

/// Lengths and checksums as they should be.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while at + HEADER_BYTES <= bytes.len() {
        let left = bytes.len() - at - HEADER_BYTES;
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let length = length.min(left);
        bytes[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&(!(length as u32)).to_le_bytes());
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
        let mut digest = crc.digest();
        let (header, payload) = (at..at + 20, at + HEADER_BYTES..at + HEADER_BYTES + length);
        digest.update(&bytes[header]);
        digest.update(&bytes[payload]);
        bytes[at + 20..at + 24].copy_from_slice(&digest.finalize().to_le_bytes());
        at += HEADER_BYTES + length;
    }
}

#[test]
fn whatever_stands_in_segments_they_are_read_merged_and_written_to() {
    const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 24];
    let (files, _) = written();
    let mut random = Random(4);
    let (mut sound, mut broken) = (0, 0);
    for round in 0..iterations() {
        let mut damaged = files.clone();
        for bytes in damaged.values_mut() {
            for _ in 0..random.below(6) {
                let at = random.below(bytes.len() as u64) as usize;
                match random.below(4) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = random.below(256) as u8,
                    _ => bytes[at] = EDGES[random.below(8) as usize],
                }
            }
            if random.below(10) == 0 {
                bytes.truncate(random.below(bytes.len() as u64) as usize);
            }
            // Two of three get past the checksum.
            if round % 3 > 0 {
                mend(bytes);
            }
            for found in Frames::new(bytes, false) {
                let Found::Record(id, record) = found else { continue };
                let again = match &record {
                    Record::Checkpoint(checkpoint) => frame(id, Payload::Checkpoint(checkpoint)),
                    Record::Interval(interval) => frame(id, Payload::Interval(interval)),
                };
                assert_eq!(Frames::new(&again, true).next(), Some(Found::Record(id, record)));
            }
        }
        let disk = Disk::with(&damaged);
        reader::read_all(&disk, &mut |_, seen, _| {
            match seen {
                Seen::Interval(_) => sound += 1,
                Seen::Damaged | Seen::Unknown | Seen::Orphan(_) => broken += 1,
                Seen::Checkpoint | Seen::Replaced => {}
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        let [first, second, third] = [1, 2, 3].map(Name::of);
        let merged = merge::into_one(&disk, &[first, second], Some(third), 2_000).unwrap();
        assert!(merged.is_none_or(|bytes| bytes.len() <= 2_000));
        let mut run = Run::new(disk.store(), SHORT, 9);
        assert_eq!(run.interval(2, 3, true), None);
        check(&read_disk(&disk), run.id, &run.truth, 0, 1);
    }
    assert!(sound > 100 && broken > 100, "{sound} sound, {broken} broken");
}

#[test]
fn a_list_that_says_it_is_long_takes_no_memory() {
    // 4,294,967,295 rows, and nothing behind it.
    let mut payload = vec![0; 12];
    payload.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(Record::decode(2, &payload), None);
}
