//! Size and write volume of a spool; data that is merged for that still counts the same.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::disk::Disk;
use common::{Did, Run, SECOND, SMALL, add, check, read_disk, short_run};
use edgelat_spool::{Options, Trust};

const DAY: u64 = 8_640;

fn longest(has: &common::Has, id: [u8; 16]) -> u64 {
    has.runs[&id].iter().map(|(first, last, _)| last - first + 1).max().unwrap()
}

#[test]
fn a_week_in_a_megabyte_counts_every_call_that_was_measured() {
    let options = Options {
        max_bytes: 1 << 20,
        segment_bytes: 64 << 10,
        sync_ns: 60 * SECOND,
        bytes_per_day: None,
        ..SMALL
    };
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), options, 1);
    for number in 0..7 * DAY {
        // Busy by day, quiet by night.
        let functions = if number % DAY < DAY / 2 { 12 } else { 3 };
        assert_eq!(run.interval(functions, 6, false), None);
        if number % 100 == 0 {
            let bytes: usize = disk.files().values().map(Vec::len).sum();
            assert!(bytes <= 1 << 20, "{bytes} bytes after {number} intervals");
            // The history is not needed, and would fill memory.
            disk.0.borrow_mut().ops.clear();
        }
    }
    run.interval(0, 0, true);
    let has = read_disk(&disk);
    check(&has, run.id, &run.truth, 0, 7 * DAY + 1);
    assert_eq!((has.damaged, has.dropped, has.orphans), (0, 0, 0));
    // The newest intervals are unchanged, and older ones are longer and longer.
    let lengths: Vec<u64> = has.runs[&run.id].iter().map(|(first, last, _)| last - first + 1).collect();
    assert_eq!(lengths[lengths.len() - 100..], [1; 100]);
    assert!(lengths[0] >= 16, "{}", lengths[0]);
    assert!(lengths[0] <= 1024, "{}", lengths[0]);
}

#[test]
fn an_agent_that_is_started_again_and_again_fills_nothing() {
    let options = Options { max_bytes: 256 << 10, segment_bytes: 16 << 10, ..SMALL };
    let disk = Disk::default();
    let mut truths: Vec<([u8; 16], Vec<Did>)> = Vec::new();
    for number in 1..=250 {
        let mut run = Run::new(disk.store(), options, number);
        for _ in 0..3 {
            assert_eq!(run.interval(3, 5, true), None);
        }
        truths.push((run.id, run.truth));
        let files = disk.files();
        assert!(files.len() <= 34, "{} files", files.len());
        assert!(files.values().map(Vec::len).sum::<usize>() <= 256 << 10);
    }
    let has = read_disk(&disk);
    for (id, truth) in &truths {
        check(&has, *id, truth, 0, 3);
    }
    assert_eq!((has.damaged, has.dropped), (0, 0));
}

#[test]
fn time_resolution_goes_before_any_run_where_no_two_segments_fit_into_one() {
    let disk = Disk::default();
    for number in 1..=120 {
        short_run(&disk, number);
        disk.0.borrow_mut().ops.clear();
        let has = read_disk(&disk);
        assert_eq!(has.damaged, 0);
        if has.dropped > 0 {
            // The newest runs need not be shorter yet; half as many records save a block.
            let old = has.runs.iter().filter(|(id, _)| id[0] + 8 < number);
            let most = old.map(|(_, records)| records.len()).max().unwrap();
            assert_eq!(most, 2, "records of a run, while other runs are gone");
            return;
        }
    }
    panic!("120 runs fit");
}

#[test]
fn where_nothing_can_be_merged_any_more_the_oldest_run_goes_and_is_counted() {
    let options = Options { max_bytes: 16 << 10, segment_bytes: 4 << 10, ..SMALL };
    let disk = Disk::default();
    let mut last = None;
    for number in 1..=120 {
        let mut run = Run::new(disk.store(), options, number);
        for _ in 0..3 {
            assert_eq!(run.interval(6, 5, true), None);
        }
        last = Some(run);
    }
    let has = read_disk(&disk);
    let last = last.unwrap();
    check(&has, last.id, &last.truth, 0, 3);
    assert!(has.dropped > 0 && has.damaged == 0, "{} dropped", has.dropped);
}

#[test]
fn a_budget_of_bytes_widens_intervals_and_loses_nothing() {
    for (per_day, widest) in [(2 << 20, 12), (256 << 10, 120), (64 << 10, 900)] {
        // So large that room never forces a merge.
        let options =
            Options { bytes_per_day: Some(per_day), max_bytes: 64 << 20, sync_ns: 60 * SECOND, ..SMALL };
        let disk = Disk::default();
        let mut run = Run::new(disk.store(), options, 1);
        for _ in 0..DAY {
            assert_eq!(run.interval(20, 8, false), None);
        }
        let written = run.spool.status().written;
        // One hour's share may be saved up, and writes that make room cannot wait: a checkpoint and
        // a merged segment.
        assert!(written < per_day + per_day / 24 + (64 << 10) + 8_192, "{written} of {per_day}");
        assert!(written > per_day / 2, "{written} of {per_day}");
        run.interval(0, 0, true);
        let has = read_disk(&disk);
        check(&has, run.id, &run.truth, 0, DAY + 1);
        let longest = longest(&has, run.id);
        assert!((2..=widest).contains(&longest), "{longest} intervals in one record at {per_day} a day");
    }
}

#[test]
fn the_last_interval_is_written_whatever_the_budget_says() {
    let options = Options { bytes_per_day: Some(64 << 10), ..SMALL };
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), options, 1);
    for _ in 0..1_000 {
        run.interval(20, 8, false);
    }
    run.interval(20, 8, true);
    assert_eq!(run.spool.status().synced, 1_001);
    check(&read_disk(&disk), run.id, &run.truth, 0, 1_001);
}

#[test]
fn more_streams_than_have_numbers_are_counted_together() {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), Options { max_bytes: 64 << 20, segment_bytes: 4 << 20, ..SMALL }, 1);
    let mut all = Did::new();
    for number in 0..edgelat_spool::record::STREAMS + 10 {
        let counts = common::busy(&mut run.random, -80, 2);
        let id = run.spool.stream(common::stream(&format!("f{number}")));
        run.spool.add(id, &counts);
        add(&mut all, "all", &counts);
    }
    run.pass(10 * SECOND);
    assert_eq!(run.spool.close(run.now, true), None);
    let has = read_disk(&disk);
    let (_, _, did) = &has.runs[&run.id][0];
    assert_eq!(did.len(), edgelat_spool::record::STREAMS + 1);
    assert_eq!(did[""].entries, 20, "the rest has no name");
    let mut sum = Did::new();
    did.values().for_each(|counts| add(&mut sum, "all", counts));
    assert_eq!(sum, all);
}

/// The same interval as JSON lines, an object for each function, as short as possible.
fn json_lines(did: &Did) -> usize {
    let line = |(name, counts): (&String, &edgelat_spool::Counts)| {
        let buckets: Vec<String> =
            counts.buckets.iter().map(|(index, count)| format!("[{index},{count}]")).collect();
        format!(
            "{{\"t\":1767225600000000000,\"function\":\"{name}\",\"entries\":{},\"in_flight\":0,\"sum_ns\":{},\"buckets\":[{}]}}\n",
            counts.entries,
            counts.sum_ns,
            buckets.join(",")
        )
        .len()
    };
    did.iter().map(line).sum()
}

/// Bytes of an interval, of the same as JSON lines, and of a checkpoint, for functions and calls.
fn sizes(functions: u64, calls: u64) -> (u64, u64, u64) {
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), Options { max_bytes: 64 << 20, segment_bytes: 1 << 20, ..SMALL }, 1);
    run.interval(functions, calls, true);
    let before = run.spool.status().written;
    for _ in 0..20 {
        run.interval(functions, calls, true);
    }
    let bytes = (run.spool.status().written - before) / 20;
    let json = run.truth[1..].iter().map(json_lines).sum::<usize>() as u64 / 20;
    let Run { id, .. } = run;
    let mut next = Run::new(disk.store(), SMALL, 2);
    next.interval(0, 0, true);
    assert_eq!(read_disk(&disk).runs[&id].len(), 21);
    let (mut state, store) = (None, &disk);
    edgelat_spool::reader::read_all(store, &mut |_, _, known| {
        if known.run == id {
            state = Some(known.clone());
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    let payload = edgelat_spool::segment::Payload::Checkpoint(state.as_ref().unwrap());
    (bytes, json, edgelat_spool::segment::frame(1, payload).len() as u64)
}

/// This test produces the table of docs/SPOOL.md.
#[test]
fn twenty_functions_take_no_more_than_800_bytes_an_interval_and_the_page_has_the_figures() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SPOOL.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut rows = Vec::new();
    for functions in [20, 100] {
        for calls in [100, 1_000, 10_000] {
            let (bytes, json, checkpoint) = sizes(functions, calls);
            assert!(bytes <= 40 * functions, "{bytes} bytes for {functions} functions");
            let megabytes = |bytes: u64| format!("{:.1}", (bytes * DAY) as f64 / 1e6);
            let row = format!(
                "| {functions} | {calls} | {bytes} | {} | {checkpoint} | {json} | {:.1} |",
                megabytes(bytes),
                json as f64 / bytes as f64
            );
            rows.push(row);
        }
    }
    assert!(page.contains(&rows.join("\n")), "the page should say\n{}", rows.join("\n"));
}

#[test]
fn a_clock_that_is_set_late_dates_what_was_before_and_never_moves_a_beginning() {
    use edgelat_spool::{Clock, Seen, Times, reader};
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), SMALL, 1);
    let unset = |boot_ns| Clock { boot_ns, real_ns: 5 * SECOND + boot_ns, trust: Trust::Unset };
    let mut boot_ns = run.now.boot_ns;
    for hour in 0..3 {
        boot_ns += 3_600 * SECOND;
        let set = Clock { boot_ns, real_ns: common::REAL + boot_ns, trust: Trust::Synchronised };
        // Later the clock is set an hour back.
        let back = Clock { real_ns: set.real_ns - 3_600 * SECOND, ..set };
        run.spool.close([unset(boot_ns), set, back][hour], true);
    }
    let (mut times, mut epochs, mut fixed) = (Times::new(), Vec::new(), None);
    reader::read_all(&disk, &mut |_, seen, state| {
        if let Seen::Interval(interval) = seen {
            times.learn(&state.boot, &interval.end);
            epochs.push(interval.epoch_ns);
            fixed = state.epoch_ns;
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(epochs, [None, Some(common::REAL), None], "it is fixed once");
    assert_eq!(fixed, Some(common::REAL), "whatever the clock does");
    let hour = 3_600 * SECOND;
    // An hour after boot, by the most recently believed clock.
    assert_eq!(times.of(&[1; 16], hour), Some((common::REAL, Trust::Synchronised)));
    assert_eq!(times.of(&[2; 16], hour), None, "another boot");
    let mut never = Times::new();
    never.learn(&[1; 16], &unset(5 * SECOND));
    assert_eq!(never.of(&[1; 16], hour), None, "time unknown");
}

#[test]
fn a_clock_that_nobody_vouches_for_is_believed_when_patience_is_over() {
    use edgelat_spool::{Clock, Seen, reader};
    let disk = Disk::default();
    let mut run = Run::new(disk.store(), Options { patience_ns: 15 * SECOND, ..SMALL }, 1);
    for _ in 0..3 {
        run.pass(10 * SECOND);
        run.spool.close(Clock { trust: Trust::Plausible, ..run.now }, true);
    }
    let mut epochs = Vec::new();
    reader::read_all(&disk, &mut |_, seen, _| {
        if let Seen::Interval(interval) = seen {
            epochs.push(interval.epoch_ns);
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(epochs, [None, Some(common::REAL), None]);
}
