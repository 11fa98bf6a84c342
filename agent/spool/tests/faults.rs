//! Full, read-only or broken disks: measuring continues, nothing is lost, and one notice is given.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::disk::{Disk, Faults};
use common::{Run, SMALL, check, read_disk};
use edgelat_spool::{Notice, Options};
use nix::errno::Errno;

/// Ten good intervals, `bad` ones while the disk fails, and five good ones.
fn outage(faults: Faults, bad: u64, options: Options) -> (Disk, Run, Vec<(u64, Notice)>) {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), options, 1);
    let mut notices = Vec::new();
    for number in 0..15 + bad {
        match number {
            10 => disk.fail(faults),
            number if number == 10 + bad => disk.fail(Faults::default()),
            _ => {}
        }
        notices.extend(run.interval(4, 50, false).map(|notice| (number, notice)));
    }
    (disk, run, notices)
}

#[test]
fn a_disk_that_takes_nothing_for_a_while_is_told_of_twice_and_nothing_is_lost() {
    for errno in [Errno::ENOSPC, Errno::EROFS, Errno::EIO] {
        for faults in [
            Faults { all: Some(errno), ..Faults::default() },
            Faults { sync: Some(errno), ..Faults::default() },
        ] {
            // Fewer than fit into memory, and far more.
            for bad in [1, 5, 200] {
                let (disk, run, notices) = outage(faults, bad, SMALL);
                let expected = [(10, Notice::Failing(errno)), (10 + bad, Notice::Recovered(bad + 1))];
                assert_eq!(notices, expected, "{faults:?}, {bad} intervals");
                assert_eq!(run.spool.status().failing, None);
                let has = read_disk(&disk);
                check(&has, run.id, &run.truth, 0, 15 + bad);
                assert_eq!(has.damaged, 0);
                let gap = has.gaps[0];
                assert_eq!((gap.errno, gap.intervals), (errno as u32, bad + 1), "the gap is in a record");
                assert_eq!(has.gaps.len(), 1);
            }
        }
    }
}

#[test]
fn what_waits_in_memory_is_bounded() {
    let disk = Disk::default();
    disk.fail(Faults { all: Some(Errno::ENOSPC), ..Faults::default() });
    let mut run = Run::new(disk.store(), SMALL, 1);
    for _ in 0..10_000 {
        run.interval(3, 5, false);
        assert!(run.spool.status().waiting <= 33);
    }
    disk.fail(Faults::default());
    assert_eq!(run.interval(3, 5, false), Some(Notice::Recovered(10_001)));
    check(&read_disk(&disk), run.id, &run.truth, 0, 10_001);
}

#[test]
fn a_full_disk_takes_what_fits_and_the_rest_when_there_is_room() {
    for capacity in (0..1_600).step_by(13) {
        let disk = Disk::default();
        disk.fail(Faults { capacity: Some(capacity), ..Faults::default() });
        let mut run = Run::new(disk.store(), SMALL, 1);
        for _ in 0..12 {
            run.interval(4, 50, false);
        }
        assert_eq!(run.spool.status().failing, Some(Errno::ENOSPC), "{capacity} bytes");
        let synced = run.spool.status().synced;
        check(&read_disk(&disk), run.id, &run.truth, 0, synced);
        disk.fail(Faults::default());
        run.interval(4, 50, false);
        let has = read_disk(&disk);
        check(&has, run.id, &run.truth, 0, 13);
        assert_eq!(has.damaged, 0);
    }
}

#[test]
fn a_disk_that_fails_while_segments_are_merged_keeps_what_there_is() {
    let tight = Options { max_bytes: 16 << 10, segment_bytes: 4 << 10, ..SMALL };
    for errno in [Errno::ENOSPC, Errno::EIO] {
        for bad in [1, 40] {
            let disk = Disk::default();
            let mut run = Run::new(disk.store(), tight, 1);
            for number in 0..300u64 {
                // The disk fails and recovers all the time.
                let faults = Faults { all: (number / bad % 2 == 1).then_some(errno), ..Faults::default() };
                disk.fail(faults);
                run.interval(5, 30, false);
            }
            disk.fail(Faults::default());
            run.interval(5, 30, true);
            let has = read_disk(&disk);
            check(&has, run.id, &run.truth, 0, 301);
            assert_eq!((has.damaged, has.dropped), (0, 0));
        }
    }
}

#[test]
fn a_spool_that_can_only_be_read_at_the_start_is_written_to_later() {
    let disk = Disk::default();
    let mut first = Run::new(disk.store(), SMALL, 1);
    first.interval(2, 5, true);
    disk.fail(Faults { all: Some(Errno::EROFS), ..Faults::default() });
    let mut second = Run::new(disk.store(), SMALL, 2);
    assert_eq!(second.interval(2, 5, true), Some(Notice::Failing(Errno::EROFS)));
    disk.fail(Faults::default());
    assert_eq!(second.interval(2, 5, true), Some(Notice::Recovered(2)));
    let has = read_disk(&disk);
    check(&has, first.id, &first.truth, 0, 1);
    check(&has, second.id, &second.truth, 0, 2);
}
