//! The live snapshot: a reader gets exactly what was written, and never anything else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::{Random, busy, stream};
use edgelat_spool::Counts;
use edgelat_spool::live::{
    Agent, FILE, HALF_BYTES, HEADER_BYTES, Half, LiveError, Own, Row, Snapshot, SpoolFigures, Target, Writer,
    decode, encode, read,
};
use edgelat_spool::record::{Clock, Trust};

/// A run directory that is removed with the test.
struct RunDir(PathBuf);

impl RunDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgelat-live-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn writer(&self) -> Writer {
        Writer::new(File::create(self.0.join(FILE)).unwrap())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rows(random: &mut Random, count: u64) -> Vec<Row> {
    let row = |number: u64| {
        let mut counts = busy(random, 40 - random.clone().below(100) as i32, 200);
        counts.lost = std::array::from_fn(|_| random.below(3) as i64 - 1);
        counts.in_flight = random.below(5) as i64 - 2;
        counts.zero = random.below(2);
        let mut stream = stream(&format!("function_{number}"));
        stream.id = number as u32 + 1;
        stream.bias_ns = (random.below(2) == 0).then_some(646);
        Row { stream, read_ns: random.below(1 << 40), counts }
    };
    (0..count).map(row).collect()
}

fn head(random: &mut Random, seconds: u64) -> Snapshot {
    let option = |random: &mut Random| (random.below(2) == 0).then(|| random.below(1 << 50));
    Snapshot {
        agent: Agent {
            version: "0.1.0".to_owned(),
            kernel: "6.1.0-30-amd64".to_owned(),
            boot: [9; 16],
            pid: random.below(1 << 22) as u32,
            began_ns: random.below(1 << 40),
        },
        now: Clock {
            boot_ns: seconds * common::SECOND,
            real_ns: random.below(1 << 60),
            trust: Trust::Plausible,
        },
        epoch_ns: option(random),
        interval_ns: 10 * common::SECOND,
        ended: random.below(2) == 0,
        own: Own {
            cpu_ns: random.below(1 << 40),
            collector_bytes: option(random),
            guard_bytes: option(random),
            quarantine: random.below(64),
            limit_ppm: 10_000,
            spool: option(random).map(|bytes| SpoolFigures {
                bytes,
                errno: option(random),
                ..SpoolFigures::default()
            }),
        },
        targets: (0..random.below(4))
            .map(|number| Target {
                name: format!("target-{number}"),
                processes: vec![(String::new(), random.below(9)), ("budget".to_owned(), 1)],
                cost_ns: random.below(1 << 50),
                cost_ppm: option(random),
                ..Target::default()
            })
            .collect(),
        ..Snapshot::default()
    }
}

fn with(head: &Snapshot, rows: &[Row]) -> Snapshot {
    Snapshot { rows: rows.to_vec(), ..head.clone() }
}

#[test]
fn what_is_written_is_read_again() {
    let run_dir = RunDir::new("again");
    let mut random = Random(1);
    let mut writer = run_dir.writer();
    for seconds in 0..60 {
        // Longer and shorter ones: bytes of the one before stand behind a shorter one.
        let count = random.below(40);
        let (head, rows) = (head(&mut random, seconds), rows(&mut random, count));
        writer.write(&head, &rows).unwrap();
        assert_eq!(read(&run_dir.0).unwrap(), with(&head, &rows));
    }
}

#[test]
fn a_snapshot_that_is_half_written_is_never_seen() {
    let run_dir = RunDir::new("half");
    let mut random = Random(2);
    let mut writer = run_dir.writer();
    let (old, old_rows) = (head(&mut random, 1), rows(&mut random, 5));
    writer.write(&head(&mut random, 0), &rows(&mut random, 9)).unwrap();
    writer.write(&old, &old_rows).unwrap();
    let (new, new_rows) = (head(&mut random, 2), rows(&mut random, 6));
    let mut bytes = Vec::new();
    encode(&new, &new_rows, 3, &mut bytes);
    let file = File::options().write(true).open(run_dir.0.join(FILE)).unwrap();
    let file_bytes = || std::fs::read(run_dir.0.join(FILE)).unwrap();
    for length in 0..bytes.len() {
        file.write_all_at(&bytes[..length], HALF_BYTES as u64).unwrap();
        if file_bytes()[HALF_BYTES..].starts_with(&bytes) {
            // The earlier content had the same end.
            assert!(length + 8 > bytes.len());
            break;
        }
        assert_eq!(read(&run_dir.0).unwrap(), with(&old, &old_rows), "after {length} bytes");
    }
    file.write_all_at(&bytes, HALF_BYTES as u64).unwrap();
    assert_eq!(read(&run_dir.0).unwrap(), with(&new, &new_rows), "once all of it is there");
}

#[test]
fn readers_beside_a_writer_see_whole_snapshots_in_their_order() {
    let run_dir = RunDir::new("beside");
    let mut random = Random(3);
    let mut writer = run_dir.writer();
    let mut rows = rows(&mut random, 100);
    let mut count = move |number: u64| {
        rows.iter_mut().for_each(|row| row.counts = Counts { entries: number, ..Counts::default() });
        rows.clone()
    };
    let mut head = head(&mut random, 0);
    writer.write(&head, &count(0)).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 0;
                    let mut seen = 0;
                    while last < 300 {
                        // The writer does not pause here, so a reader may be overtaken repeatedly.
                        let Ok(snapshot) = read(&run_dir.0) else { continue };
                        assert_eq!(snapshot.rows.len(), 100);
                        let number = snapshot.now.boot_ns;
                        assert!(snapshot.rows.iter().all(|row| row.counts.entries == number), "torn");
                        assert!(number >= last, "{number} after {last}");
                        (last, seen) = (number, seen + 1);
                    }
                    seen
                })
            })
            .collect();
        for number in 0..=300u64 {
            head.now.boot_ns = number;
            writer.write(&head, &count(number)).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
        // The last snapshot stays, so that every reader comes to an end.
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() > 0));
    });
}

#[test]
fn damage_is_no_snapshot_and_never_another_one() {
    let mut random = Random(4);
    let (head, rows) = (head(&mut random, 5), rows(&mut random, 8));
    let mut bytes = Vec::new();
    encode(&head, &rows, 7, &mut bytes);
    let Half::Snapshot(7, snapshot) = decode(&bytes) else { panic!("a snapshot") };
    assert_eq!(*snapshot, with(&head, &rows));
    for length in 0..bytes.len() {
        assert_eq!(decode(&bytes[..length]), Half::None, "{length} bytes of it");
    }
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&bytes), Half::None, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Corrects the checksum: it protects against accidents, and these changes are deliberate.
fn sign(bytes: &mut [u8]) {
    let length = (bytes.len() - HEADER_BYTES) as u32;
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut digest = crc.digest();
    digest.update(&bytes[..24]);
    digest.update(&bytes[HEADER_BYTES..]);
    let sum = digest.finalize();
    bytes[24..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn forged_snapshots_are_refused_or_understood_and_what_is_understood_can_be_written() {
    let mut random = Random(5);
    let (head, rows) = (head(&mut random, 5), rows(&mut random, 4));
    let mut sound = Vec::new();
    encode(&head, &rows, 7, &mut sound);
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = sound.clone();
        for _ in 0..=random.below(3) {
            let at = HEADER_BYTES + random.below((bytes.len() - HEADER_BYTES) as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
                1 => bytes.truncate(at.max(HEADER_BYTES + 1)),
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
        sign(&mut bytes);
        match decode(&bytes) {
            Half::Snapshot(_, snapshot) => {
                understood += 1;
                let mut again = Vec::new();
                encode(&snapshot, &snapshot.rows, 7, &mut again);
                let Half::Snapshot(_, other) = decode(&again) else { panic!("what was read can be written") };
                assert_eq!(other, snapshot);
            }
            Half::None => refused += 1,
            Half::Version(..) => panic!("the version was not touched"),
        }
    }
    assert!(understood > 1_000 && refused > 1_000, "{understood} understood, {refused} refused");
}

#[test]
fn what_has_no_room_is_left_out_and_counted() {
    let mut random = Random(6);
    let mut rows = rows(&mut random, 4_096);
    for row in &mut rows {
        row.stream.function = "f".repeat(edgelat_spool::record::NAME_BYTES);
        row.stream.image = "/".repeat(edgelat_spool::record::NAME_BYTES);
    }
    let head = head(&mut random, 1);
    let mut bytes = Vec::with_capacity(HALF_BYTES + (16 << 10));
    let before = bytes.as_ptr();
    encode(&head, &rows, 1, &mut bytes);
    assert!(bytes.len() <= HALF_BYTES);
    assert_eq!(bytes.as_ptr(), before, "no more memory than at the beginning");
    let Half::Snapshot(_, snapshot) = decode(&bytes) else { panic!("a snapshot") };
    assert!(snapshot.left_out > 0);
    assert_eq!(snapshot.rows.len() as u64 + snapshot.left_out, 4_096);
    assert_eq!(snapshot.rows[..], rows[..snapshot.rows.len()]);
}

#[test]
fn why_there_is_no_snapshot_is_said() {
    let run_dir = RunDir::new("why");
    assert!(matches!(read(&run_dir.0), Err(LiveError::NotThere { .. })));
    let mut writer = run_dir.writer();
    assert!(matches!(read(&run_dir.0), Err(LiveError::None { .. })));
    let mut random = Random(7);
    writer.write(&head(&mut random, 1), &[]).unwrap();
    let file = File::options().read(true).write(true).open(run_dir.0.join(FILE)).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize - HALF_BYTES];
    file.read_exact_at(&mut bytes, HALF_BYTES as u64).unwrap();
    bytes[8] = 5;
    sign(&mut bytes);
    file.write_all_at(&bytes, HALF_BYTES as u64).unwrap();
    let error = read(&run_dir.0).unwrap_err();
    assert!(matches!(error, LiveError::Version { version: 5, .. }), "{error}");
    assert!(error.to_string().contains("version 5"), "{error}");
}

#[test]
fn a_snapshot_is_current_as_long_as_the_next_may_come() {
    let mut random = Random(8);
    let snapshot = Snapshot { ended: false, ..head(&mut random, 100) };
    let seconds = |seconds: u64| seconds * common::SECOND;
    assert!(snapshot.is_current(&[9; 16], seconds(100)));
    assert!(snapshot.is_current(&[9; 16], seconds(135)));
    assert!(!snapshot.is_current(&[9; 16], seconds(136)));
    assert!(!snapshot.is_current(&[8; 16], seconds(100)), "of another boot");
    assert!(!Snapshot { ended: true, ..snapshot }.is_current(&[9; 16], seconds(100)));
}
