//! Records with flipped bits, truncated ones and malicious ones: readers never fail, sound records
//! are read, and the others are counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::disk::{Disk, Files};
use common::{Has, Random, Run, SMALL, check, read_disk};
use edgelat_spool::record::Record;
use edgelat_spool::segment::{Found, Frames, HEADER_BYTES, Name, Payload, frame};
use edgelat_spool::{Options, Seen, merge, reader};

/// Segments of about a page.
const SHORT: Options = Options { segment_bytes: 4 << 10, ..SMALL };

/// Three segments, and their measurements.
fn written() -> (Files, Run) {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), SHORT, 1);
    while disk.files().len() < 3 {
        assert_eq!(run.interval(4, 30, true), None);
    }
    (disk.files(), run)
}

/// Number of damaged variants. `EDGELAT_FUZZ_ITERS` raises it.
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
        // Without a checkpoint the run of a segment's intervals is unknown.
        assert_eq!(left + 1 + has.orphans, all + usize::from(has.orphans > 0), "byte {byte}");
        assert_eq!(has.totals, before.totals, "the next checkpoint knows them");
    }
}

/// Offsets of the records of a sound segment, and its length.
fn begins(bytes: &[u8]) -> Vec<usize> {
    let mut frames = Frames::new(bytes, true);
    let mut begins = vec![0];
    while frames.next().is_some() {
        begins.push(frames.offset());
    }
    assert_eq!(begins.last(), Some(&bytes.len()), "all of it is sound");
    begins
}

/// Fourteen intervals in one segment, synced in groups of `sync_every`.
fn fourteen(sync_every: u64) -> (Files, Run) {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), Options { sync_ns: u64::MAX, ..SMALL }, 1);
    for number in 1..=14 {
        assert_eq!(run.interval(4, 30, number % sync_every == 0 || number == 14), None);
    }
    assert_eq!(disk.files().len(), 1);
    (disk.files(), run)
}

/// Checks a damaged spool: all records except those in `touched` are there, before and after the
/// next run has begun, and the damage is counted.
fn hold(damaged: &Files, before: &Has, run: &Run, touched: &[usize], what: &str) {
    let intervals = |has: &Has| has.runs.get(&run.id).map_or(0, Vec::len) + has.orphans;
    // Record 0 is the checkpoint.
    let gone = touched.iter().filter(|record| **record > 0).count();
    let disk = Disk::with(damaged);
    let has = read_disk(&disk);
    assert!(has.damaged >= 1, "{what}: not counted");
    assert_eq!(intervals(&has) + gone, intervals(before), "{what}");
    let mut next = Run::new(disk.store(), SMALL, 2);
    for (name, bytes) in damaged {
        assert_eq!(disk.files().get(name), Some(bytes), "{what}: the start changed {name}");
    }
    assert_eq!(next.interval(2, 3, true), None);
    let after = read_disk(&disk);
    assert_eq!((after.damaged, intervals(&after)), (has.damaged, intervals(&has)), "{what}: after the start");
    check(&after, next.id, &next.truth, 0, 1);
    let mut ids = after.ids.clone();
    ids.dedup();
    assert!(ids.is_sorted() && ids.len() == after.ids.len(), "{what}: ids only grow: {:?}", after.ids);
}

#[test]
fn any_bit_that_flips_in_the_newest_segment_costs_the_record_that_it_is_in() {
    for (sync_every, step) in [(1, 3), (5, 17), (14, 7)] {
        let (files, run) = fourteen(sync_every);
        let (name, bytes) = files.last_key_value().unwrap();
        let (before, begins) = (read_disk(&Disk::with(&files)), begins(bytes));
        assert_eq!(before.damaged, 0);
        // All bytes of the first headers, and a sample of the others.
        for byte in (0..300).chain((300..bytes.len()).step_by(step)) {
            let record = begins.partition_point(|begin| *begin <= byte) - 1;
            let flip = if byte % 2 == 0 { 1 << (byte % 8) } else { 0xff };
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[byte] ^= flip;
            hold(&damaged, &before, &run, &[record], &format!("byte {byte} of record {record}"));
        }
    }
}

#[test]
fn sectors_of_zeros_and_bytes_that_are_missing_in_what_was_synced_are_damage() {
    let (files, run) = fourteen(1);
    let (name, bytes) = files.last_key_value().unwrap();
    let (before, begins) = (read_disk(&Disk::with(&files)), begins(bytes));
    let touched = |from: usize, to: usize| -> Vec<usize> {
        let records = begins.windows(2).enumerate();
        records.filter(|(_, record)| record[0] < to && from < record[1]).map(|(at, _)| at).collect()
    };
    for from in (0..bytes.len() - 512).step_by(512) {
        let mut damaged = files.clone();
        damaged.get_mut(name).unwrap()[from..from + 512].fill(0);
        let touched = touched(from, from + 512);
        hold(&damaged, &before, &run, &touched, &format!("zeros from byte {from} on"));
    }
    // A whole record as zeros, and a missing record.
    for record in 1..begins.len() - 2 {
        let (from, to) = (begins[record], begins[record + 1]);
        let mut damaged = files.clone();
        damaged.get_mut(name).unwrap()[from..to].fill(0);
        hold(&damaged, &before, &run, &[record], &format!("record {record} is zeros"));
        let mut damaged = files.clone();
        drop(damaged.get_mut(name).unwrap().drain(from + 5..to - 5));
        hold(&damaged, &before, &run, &[record], &format!("the middle of record {record} is missing"));
    }
}

#[test]
fn what_a_power_cut_leaves_of_the_last_record_is_no_damage() {
    let (files, run) = written();
    let (name, bytes) = files.last_key_value().unwrap();
    let all = read_disk(&Disk::with(&files)).runs[&run.id].len();
    let last = begins(bytes)[begins(bytes).len() - 2];
    for byte in 0..bytes.len() {
        let mut torn = files.clone();
        torn.get_mut(name).unwrap().truncate(byte);
        let mut states = vec![torn];
        // Alternatively, only some of its sectors are there.
        if byte > last && byte % 512 == 0 && byte + HEADER_BYTES <= bytes.len() {
            let mut zeros = files.clone();
            zeros.get_mut(name).unwrap()[byte..].fill(0);
            states.push(zeros);
        }
        for state in states {
            let disk = Disk::with(&state);
            let has = read_disk(&disk);
            assert_eq!(has.damaged, 0, "cut at byte {byte}");
            assert!(has.runs[&run.id].len() < all);
            check(&has, run.id, &run.truth, 0, 0);
            let mut next = Run::new(disk.store(), SHORT, 2);
            assert_eq!(next.interval(2, 3, true), None);
            assert_eq!(read_disk(&disk).damaged, 0, "cut at byte {byte}, after the start");
        }
    }
}

/// After a power cut the next file may contain blocks of a removed file.
#[test]
fn older_records_behind_a_tail_do_not_count() {
    let (files, run) = fourteen(1);
    let (name, bytes) = files.last_key_value().unwrap();
    let begins = begins(bytes);
    let mut stale = bytes[..begins[10]].to_vec();
    stale.resize(begins[10] + 40, 0);
    stale.extend(&bytes[begins[2]..begins[5]]);
    let files = Files::from([(name.clone(), stale)]);
    let has = read_disk(&Disk::with(&files));
    check(&has, run.id, &run.truth, 0, 9);
    assert_eq!(has.runs[&run.id].len(), 9);
}

/// Corrects lengths and checksums.
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
            // Two of three pass the checksum.
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
    // 4,294,967,295 rows, and no bytes behind the number.
    let mut payload = vec![0; 12];
    payload.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(Record::decode(2, 2, &payload), None);
}
