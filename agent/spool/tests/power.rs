//! Power cuts at any moment: everything reported as synced is there, and no invented data.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::disk::{Disk, Files, Kept, Op};
use common::{Did, Run, SMALL, check, read_disk, short_run};
use edgelat_spool::Options;

/// A history, with the synced intervals reported after each number of operations.
struct History {
    disk: Disk,
    truth: Vec<Did>,
    /// Operations, intervals measured, intervals synced.
    said: Vec<(usize, u64, u64)>,
}

fn history(options: Options, intervals: u64, functions: u64, sync_every: u64) -> History {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), options, 1);
    let mut said = Vec::new();
    for number in 1..=intervals {
        assert_eq!(run.interval(functions, 20, number % sync_every == 0), None);
        said.push((disk.ops(), number, run.spool.status().synced));
    }
    History { disk, truth: run.truth, said }
}

/// Intervals synced after `end` operations.
fn synced(history: &History, end: usize) -> u64 {
    history.said.iter().rev().find(|(ops, ..)| *ops <= end).map_or(0, |(_, _, synced)| *synced)
}

/// Checks a spool after a cut: reads it, begins a new run in it, and reads it again.
fn hold(history: &History, files: &Files, synced: u64, options: Options) {
    let disk = Disk::with(files);
    let before = read_disk(&disk);
    assert_eq!((before.damaged, before.orphans, before.unknown), (0, 0, 0));
    check(&before, [1; 16], &history.truth, 0, synced);
    let mut run = Run::new(disk.store(), options, 2);
    for _ in 0..2 {
        assert_eq!(run.interval(2, 3, true), None);
    }
    let after = read_disk(&disk);
    assert_eq!((after.damaged, after.orphans, after.unknown), (0, 0, 0));
    check(&after, [1; 16], &history.truth, 0, synced);
    check(&after, [2; 16], &run.truth, 0, 2);
    if before.runs.contains_key(&[1; 16]) {
        let sum = |has: &common::Has| has.runs[&[1; 16]].last().map(|(_, last, _)| *last);
        assert_eq!(sum(&before), sum(&after), "a new run takes nothing from an old one");
    }
    let mut ids = after.ids.clone();
    ids.dedup();
    assert!(ids.is_sorted() && ids.len() == after.ids.len(), "ids only grow: {:?}", after.ids);
}

const LAZY: Options = Options { sync_ns: u64::MAX, ..SMALL };
/// Segments of a page, four of them at most.
const TIGHT: Options =
    Options { max_bytes: 16 << 10, segment_bytes: 4 << 10, sync_ns: u64::MAX, bytes_per_day: None, ..SMALL };

#[test]
fn a_cut_at_every_byte_loses_nothing_that_was_synced() {
    let history = history(LAZY, 10, 3, 3);
    let ops = history.disk.0.borrow().ops.clone();
    let mut cuts = 0;
    for (number, op) in ops.iter().enumerate() {
        let Op::Write(_, _, bytes) = op else { continue };
        for length in 0..bytes.len() {
            let files = history.disk.after(number + 1, &|other| match other == number {
                true => Kept::First(length),
                false => Kept::All,
            });
            hold(&history, &files, synced(&history, number), LAZY);
            cuts += 1;
        }
    }
    assert!(cuts > 1_000, "{cuts} cuts");
}

/// Every subset of the data that need not be on the disk, its last part whole, halved or zeros.
fn all_orders(history: &History, options: Options, most: usize) -> usize {
    let mut states = 0;
    for end in 0..=history.disk.ops() {
        let loose = history.disk.loose(end);
        // Only a write can be partial.
        let last = loose.last().map(|last| history.disk.0.borrow().ops[*last].clone());
        let torn = matches!(last, Some(Op::Write(_, _, bytes)) if bytes.len() > 30);
        let parts = [Kept::All, Kept::Zeros, Kept::First(30)];
        assert!(loose.len() <= most, "{} operations are loose", loose.len());
        for subset in 0..1usize << loose.len() {
            for part in &parts[..if torn { 3 } else { 1 }] {
                let files = history.disk.after(end, &|number| match loose
                    .iter()
                    .position(|other| *other == number)
                {
                    None => Kept::All,
                    Some(bit) if subset & 1 << bit == 0 => Kept::Nothing,
                    Some(bit) if torn && bit + 1 == loose.len() => *part,
                    Some(_) => Kept::All,
                });
                hold(history, &files, synced(history, end), options);
                states += 1;
            }
        }
    }
    states
}

#[test]
fn whatever_of_the_unsynced_writes_is_there_nothing_synced_is_lost_and_nothing_invented() {
    let history = history(LAZY, 9, 2, 4);
    assert!(all_orders(&history, LAZY, 5) > 200);
}

#[test]
fn a_cut_while_segments_are_merged_loses_nothing() {
    let history = history(TIGHT, 170, 6, 3);
    let ops = history.disk.0.borrow().ops.clone();
    let merges = ops.iter().filter(|op| matches!(op, Op::Rename(..))).count();
    assert!(merges > 3, "{merges} merges");
    assert!(all_orders(&history, TIGHT, 7) > 2_000);
}

#[test]
fn a_cut_while_a_segment_is_made_shorter_loses_nothing() {
    let (mut files, mut truths) = (Files::new(), Vec::<([u8; 16], Vec<Did>)>::new());
    for number in 1..=120 {
        let disk = Disk::with(&files);
        let begin = disk.ops();
        let run = short_run(&disk, number);
        let shorter = |op: &Op| matches!(op, Op::Rename(_, to, _) if files.contains_key(to));
        if disk.0.borrow().ops[begin..].iter().any(shorter) {
            let mut states = 0;
            for end in begin..=disk.ops() {
                let loose = disk.loose(end);
                for kept in [Kept::Nothing, Kept::All] {
                    let left = disk.after(end, &|op| if loose.contains(&op) { kept } else { Kept::All });
                    let has = read_disk(&Disk::with(&left));
                    assert_eq!((has.damaged, has.orphans, has.unknown, has.dropped), (0, 0, 0, 0));
                    for (id, truth) in &truths {
                        check(&has, *id, truth, 0, 4);
                    }
                    states += 1;
                }
            }
            assert!(states > 20, "{states} states");
            return;
        }
        truths.push((run.id, run.truth));
        files = disk.files();
    }
    panic!("no segment was made shorter");
}
