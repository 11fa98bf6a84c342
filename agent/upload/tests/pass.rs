//! The data of a spool reaches a receiver, whatever happens to receiver, link, power and clock.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Appliance, BOOT, Fake, REAL, clock, holds, later, refused};
use edgelat_spool::{Directory, Options, Trust};
use edgelat_tests::otlp::Figure;
use edgelat_tests::records::{ROOMY, Records, SECOND};
use edgelat_upload::otlp::Partial;
use edgelat_upload::{Answer, Cursor, End, Limits, Post, Sent, pass};

fn recorded(it: &Appliance, intervals: u64) -> Records {
    let mut records = Records::begin(&it.dir(), 1, BOOT, clock(100 * SECOND, Trust::Synchronised));
    (0..intervals).for_each(|_| records.interval(3, 20));
    records
}

#[test]
fn a_receiver_has_what_was_counted_at_the_end_of_each_interval() {
    let mut it = Appliance::new();
    let mut records = recorded(&it, 200);
    records.uncovered("gateway", "budget", 2 * SECOND);
    records.interval(3, 20);
    let told = it.pass();
    assert_eq!((told.intervals, told.refused, told.undated, &told.end), (201, 0, 0, &End::Done));
    assert!(told.requests > 5 && told.accepted > 3 * 201);
    holds(&it.fake.books, &records, 0..201, REAL);
    assert_eq!(it.fake.books.again, 0);
    let key =
        it.fake.books.series.keys().find(|(_, metric, _)| metric == "edgelat_target_uncovered").unwrap();
    assert_eq!((&*key.2["target"], &*key.2["reason"]), ("gateway", "budget"));
    let seconds: Vec<_> = it.fake.books.series[key].values().collect();
    assert_eq!(seconds, [&Figure::Number(2.0)]);
    let resource = &edgelat_tests::otlp::points(&it.fake.requests[0].0)[0].resource;
    for (name, value) in [
        ("service.name", "edgelat"),
        ("service.version", "0.1.0"),
        ("service.instance.id", "it"),
        ("os.version", "6.1.0"),
        ("edgelat.boot_id", &"01".repeat(16)),
    ] {
        assert_eq!(resource[name], value, "{name}");
    }
}

#[test]
fn only_what_is_new_is_sent_and_from_the_exact_interval_on() {
    let mut it = Appliance::new();
    let mut records = recorded(&it, 20);
    it.pass();
    let requests = it.fake.requests.len();
    for round in 0..20 {
        assert_eq!(it.pass().requests, 0);
        records.interval(3, 20);
        if round % 3 == 0 {
            it.restart();
        }
        assert_eq!(it.pass().intervals, 1);
    }
    assert_eq!(it.fake.requests.len(), requests + 20);
    assert_eq!(it.fake.books.again, 0);
    holds(&it.fake.books, &records, 0..40, REAL);
}

#[test]
fn whichever_request_fails_nothing_is_lost_or_counted_twice() {
    let mut usual = Appliance::new();
    let records = recorded(&usual, 60);
    let requests = usual.pass().requests;
    assert!(requests >= 4);
    for fails in 0..requests {
        // The request was lost, or it was accepted and the answer was lost.
        for arrives in [false, true] {
            let mut it = Appliance::new();
            it.fake.replies.extend((0..fails).map(|_| Answer::Taken(Partial::default())));
            it.fake.replies.push_back(later());
            let told = it.pass_of(&usual.dir());
            assert_eq!(told.end, End::Later { reason: "gone".to_owned(), after: None });
            assert_eq!(told.requests, fails);
            if arrives {
                let lost = edgelat_tests::otlp::points(&it.fake.requests.last().unwrap().0);
                it.fake.books.take(&lost);
            }
            it.restart();
            let told = it.pass_of(&usual.dir());
            assert_eq!(told.end, End::Done);
            holds(&it.fake.books, &records, 0..60, REAL);
            assert_eq!(it.fake.books.again > 0, arrives);
        }
    }
}

#[test]
fn an_upload_goes_on_behind_what_was_merged_meanwhile() {
    let mut it = Appliance::new();
    let small = Options { max_bytes: 256 << 10, segment_bytes: 16 << 10, ..ROOMY };
    let mut records = Records::with(&it.dir(), 1, BOOT, clock(100 * SECOND, Trust::Synchronised), small);
    let mut sent = 0;
    for _ in 0..12 {
        for _ in 0..400 {
            records.interval(6, 20);
        }
        it.restart();
        let told = it.pass();
        assert_eq!((told.end, told.refused), (End::Done, 0));
        sent += told.intervals;
        holds(&it.fake.books, &records, records.history.len() - 1..records.history.len(), REAL);
    }
    // The first interval that was merged from sent and unsent ones counts with all its content.
    assert!((4_800..4_800 + 12 * 256).contains(&sent), "{sent}");
    assert_eq!(it.fake.books.again, 0);
}

/// A receiver so slow that the service records, and merges old data, between two of its answers.
struct Slow<'s> {
    fake: Fake,
    records: &'s mut Records,
    answers: u32,
}

impl Post for Slow<'_> {
    fn post(&mut self, request: &[u8]) -> Answer {
        if self.answers > 0 {
            self.answers -= 1;
            (0..100).for_each(|_| self.records.interval(6, 20));
        }
        self.fake.post(request)
    }
}

#[test]
fn what_is_merged_while_it_is_read_is_read_again() {
    let it = Appliance::new();
    let small = Options { max_bytes: 64 << 10, segment_bytes: 8 << 10, ..ROOMY };
    let mut records = Records::with(&it.dir(), 1, BOOT, clock(100 * SECOND, Trust::Synchronised), small);
    (0..300).for_each(|_| records.interval(6, 20));
    let mut slow = Slow { fake: Fake::default(), records: &mut records, answers: 5 };
    let store = Directory::open(&it.dir()).unwrap();
    let (mut cursor, mut sent) = (Cursor::default(), Sent::default());
    let mut pass =
        || pass(&store, &mut cursor, &mut sent, &it.host(), it.limits, &mut slow, &mut |_| Ok(())).unwrap();
    let told = [pass(), pass()];
    assert!(told.iter().all(|told| (told.refused, &told.end) == (0, &End::Done)), "{told:?}");
    // Intervals that are sent again after a merge count each time.
    assert!(told[0].intervals + told[1].intervals >= 800, "{told:?}");
    let books = slow.fake.books;
    holds(&books, &records, 799..800, REAL);
}

#[test]
fn an_hour_without_a_clock_waits_and_is_dated_when_it_is_set() {
    let mut it = Appliance::new();
    let mut records = Records::begin(&it.dir(), 1, BOOT, clock(5 * SECOND, Trust::Unset));
    (0..360).for_each(|_| records.interval(2, 5));
    let told = it.pass();
    assert_eq!((told.end, told.requests, told.undated), (End::Waiting, 0, 0));
    assert_eq!(it.cursor, Cursor::default(), "they stay where they are");
    records.now = clock(records.now.boot_ns, Trust::Synchronised);
    (0..10).for_each(|_| records.interval(2, 5));
    let told = it.pass();
    assert_eq!((told.end, told.intervals), (End::Done, 370));
    // Those of the first hour, too, have their right time.
    holds(&it.fake.books, &records, 0..370, REAL);
}

#[test]
fn a_cut_before_the_clock_was_ever_set_leaves_intervals_of_unknown_time_that_are_counted_and_not_sent() {
    let mut it = Appliance::new();
    let mut lost = Records::begin(&it.dir(), 1, [9; 16], clock(5 * SECOND, Trust::Unset));
    (0..30).for_each(|_| lost.interval(2, 5));
    drop(lost);
    let mut records = Records::begin(&it.dir(), 2, BOOT, clock(5 * SECOND, Trust::Synchronised));
    (0..30).for_each(|_| records.interval(2, 5));
    let told = it.pass();
    assert_eq!((told.end, told.intervals, told.undated), (End::Done, 30, 30));
    assert_eq!(it.saved.undated, 30);
    assert!(it.fake.books.series.keys().all(|(run, ..)| *run == records.run));
    holds(&it.fake.books, &records, 0..30, REAL);
    it.restart();
    assert_eq!(it.pass(), Default::default(), "they are counted once");
}

#[test]
fn a_boot_that_is_over_is_dated_by_the_best_clock_that_it_had() {
    // A battery-backed clock, for less than the hour after which it is believed; and a run before
    // the clock was set.
    let mut it = Appliance::new();
    let boot = [9; 16];
    let mut unset = Records::begin(&it.dir(), 1, boot, clock(5 * SECOND, Trust::Unset));
    (0..10).for_each(|_| unset.interval(2, 5));
    let mut plausible = Records::begin(&it.dir(), 2, boot, clock(200 * SECOND, Trust::Plausible));
    (0..10).for_each(|_| plausible.interval(2, 5));
    it.boot = Some(boot);
    assert_eq!(it.pass().end, End::Waiting, "something better may come");
    it.boot = Some(BOOT);
    let told = it.pass();
    assert_eq!((told.end, told.intervals, told.undated), (End::Done, 20, 0));
    holds(&it.fake.books, &unset, 0..10, REAL);
    holds(&it.fake.books, &plausible, 0..10, REAL);
}

#[test]
fn a_clock_that_is_corrected_dates_what_comes_and_moves_no_beginning() {
    let mut it = Appliance::new();
    let mut records = recorded(&it, 20);
    // The clock was believed, and was a minute behind.
    records.now.real_ns += 60 * SECOND;
    (0..20).for_each(|_| records.interval(3, 20));
    assert_eq!(it.pass().end, End::Done);
    holds(&it.fake.books, &records, 0..20, REAL);
    holds(&it.fake.books, &records, 20..40, REAL + 60 * SECOND);
}

#[test]
fn what_a_receiver_refuses_for_its_age_is_counted_and_the_newest_figures_arrive() {
    let mut it = Appliance::new();
    let records = recorded(&it, 60);
    // The first two requests are too old; of the second the newest figures are not.
    it.fake.replies.extend([refused(), refused(), refused()]);
    let told = it.pass();
    assert_eq!((told.end, told.intervals), (End::Done, 60));
    assert!(told.refusal.contains("400: too old"), "{}", told.refusal);
    let sent: usize = it.fake.requests.iter().map(|(_, points)| points).sum();
    assert!(told.refused > 0 && (told.accepted + told.refused) as usize <= sent);
    assert_eq!((it.saved.accepted, it.saved.refused), (told.accepted, told.refused));
    // The last intervals contain everything.
    holds(&it.fake.books, &records, 50..60, REAL);
    let first = it.fake.books.series.values().flat_map(|series| series.keys()).min().unwrap();
    let times: Vec<u64> = records.history.iter().map(|(boot_ns, _)| REAL + boot_ns).collect();
    let place = times.iter().position(|time| time == first).unwrap();
    assert!(place > 1, "{place}");
    holds(&it.fake.books, &records, place..place + 1, REAL);
}

#[test]
fn what_is_refused_in_an_accepted_request_is_counted_and_not_sent_again() {
    let mut it = Appliance::new();
    recorded(&it, 10);
    let partial = Partial { rejected: 4, message: "out of bounds".to_owned() };
    it.fake.replies.push_back(Answer::Taken(partial));
    let told = it.pass();
    assert_eq!((told.refused, &*told.refusal, told.end), (4, "out of bounds", End::Done));
    assert_eq!(it.pass().requests, 0);
}

#[test]
fn a_receiver_that_lets_nobody_in_leaves_everything_where_it_is() {
    let mut it = Appliance::new();
    let records = recorded(&it, 10);
    it.fake.replies.push_back(Answer::Barred { status: 401, message: "who?".to_owned() });
    let told = it.pass();
    assert_eq!(told.end, End::Barred { status: 401, message: "who?".to_owned() });
    assert_eq!((told.intervals, it.cursor.at), (0, None));
    assert_eq!(it.pass().end, End::Done);
    holds(&it.fake.books, &records, 0..10, REAL);
}

#[test]
fn requests_become_smaller_until_they_are_taken() {
    let mut it = Appliance::new();
    let mut records = Records::begin(&it.dir(), 1, BOOT, clock(100 * SECOND, Trust::Synchronised));
    (0..5).for_each(|_| records.interval(200, 3));
    it.limits = Limits::default();
    it.fake.most = Some(20 << 10);
    let mut halved = 0;
    while it.pass().end == End::TooLarge {
        it.limits.halve();
        halved += 1;
        assert!(halved < 10);
    }
    assert!(halved > 2);
    holds(&it.fake.books, &records, 0..5, REAL);
    // A receiver that takes nothing at all must not cause an endless loop.
    let mut it = Appliance::new();
    recorded(&it, 2);
    (it.fake.most, it.limits) = (Some(10), Limits { bytes: 1 });
    let told = it.pass();
    assert!(told.end == End::Done && told.refused > 0, "{told:?}");
}

#[test]
fn a_spool_that_was_made_anew_is_sent_from_its_beginning() {
    let mut it = Appliance::new();
    recorded(&it, 50);
    it.pass();
    it.anew();
    let mut records = Records::begin(&it.dir(), 2, BOOT, clock(900 * SECOND, Trust::Synchronised));
    (0..5).for_each(|_| records.interval(3, 20));
    it.restart();
    assert_eq!(it.pass().intervals, 5);
    holds(&it.fake.books, &records, 0..5, REAL);
}

#[test]
fn a_stream_that_does_nothing_has_a_point_a_minute_for_an_hour() {
    let mut it = Appliance::new();
    let mut records = Records::begin(&it.dir(), 1, BOOT, clock(100 * SECOND, Trust::Synchronised));
    records.interval(2, 10);
    (0..3 * 360).for_each(|_| records.interval(1, 10));
    records.interval(2, 10);
    it.pass();
    let series = |function: &str| {
        let is = |(key, _): &(&(String, String, edgelat_tests::otlp::Labels), _)| {
            key.1 == "edgelat_function_duration" && key.2["function"] == function
        };
        it.fake.books.series.iter().find(is).map(|(_, series)| series.len()).unwrap()
    };
    assert_eq!(series("function_0"), 3 * 360 + 2);
    let idle = series("function_1");
    assert!((60..=64).contains(&idle), "{idle}");
    holds(&it.fake.books, &records, 0..3 * 360 + 2, REAL);
}

#[test]
fn whatever_happens_in_whatever_order_the_figures_are_right_in_the_end() {
    for seed in 1..=12u64 {
        let mut state = seed;
        let mut chance = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let mut it = Appliance::new();
        let options = Options { max_bytes: 256 << 10, segment_bytes: 16 << 10, ..ROOMY };
        let mut records: Vec<Records> = Vec::new();
        for number in 1..=3 {
            let boot_ns = 1_000_000 * SECOND * u64::from(number);
            let now = clock(boot_ns, Trust::Synchronised);
            let mut run = Records::with(&it.dir(), number, BOOT, now, options);
            for _ in 0..chance(30) + 1 {
                for _ in 0..chance(40) {
                    run.interval(chance(5), 7);
                }
                for _ in 0..chance(4) {
                    it.fake.replies.push_back(match chance(4) {
                        0 => later(),
                        1 => Answer::Taken(Partial::default()),
                        2 => refused(),
                        _ => Answer::Barred { status: 403, message: String::new() },
                    });
                }
                if chance(3) == 0 {
                    it.restart();
                }
                it.pass();
            }
            // Another one of each, so that some data was not refused.
            it.fake.replies.clear();
            run.interval(5, 1);
            it.pass();
            records.push(run);
        }
        let told = it.pass();
        assert_eq!(told.end, End::Done, "seed {seed}");
        assert_eq!(it.pass().requests, 0);
        for run in &records {
            let intervals = run.history.len();
            holds(&it.fake.books, run, intervals - 1..intervals, REAL);
        }
    }
}

/// This test produces the table of docs/UPLOAD.md.
#[test]
fn bytes_of_an_interval_are_those_of_the_page() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/UPLOAD.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut rows = Vec::new();
    for functions in [20, 100] {
        for calls in [100, 1_000, 10_000] {
            let mut it = Appliance::new();
            it.limits = Limits::default();
            let now = clock(100 * SECOND, Trust::Synchronised);
            let mut records = Records::begin(&it.dir(), 1, BOOT, now);
            records.interval(functions, calls);
            it.pass();
            it.fake.requests.clear();
            // Six intervals are the minute between two uploads.
            (0..6).for_each(|_| records.interval(functions, calls));
            let told = it.pass();
            let packed: usize =
                it.fake.requests.iter().map(|(bytes, _)| edgelat_upload::client::gzip(bytes).len()).sum();
            let each = |whole: u64| whole / 6;
            rows.push(format!(
                "| {functions} | {calls} | {} | {} | {} |",
                each(told.accepted),
                each(told.bytes),
                each(packed as u64)
            ));
        }
    }
    assert!(page.contains(&rows.join("\n")), "the page should say\n{}", rows.join("\n"));
}
