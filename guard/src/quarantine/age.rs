//! Lifetime of an entry, by a clock that may be wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{ANY_USER, Record};

/// A build that died twice is left alone for a week, unless configured otherwise.
pub const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3_600);

/// After its first fault a build is left alone for this long, so that a supervisor's immediate
/// restart is not probed at once.
pub const MOMENT: Duration = Duration::from_secs(10);

/// Faults that last.
const FAULTS: u32 = 2;

/// Seconds for which a build is left alone after its process was killed soon after its probes came;
/// doubled with each.
const PAUSE: u64 = 300;
/// Longest such time.
const LONGEST_PAUSE: u64 = 4 * 3_600;

/// A clock that shows a time before 2025 was never set.
const PLAUSIBLE: u64 = 1_735_689_600;

/// The clock of the box in seconds since 1970, right or not.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// True if it has happened often enough to hold for long. Before entries had a user, once was.
#[must_use]
pub fn lasts(record: &Record) -> bool {
    record.times >= FAULTS || record.key.user == ANY_USER
}

/// Time for which a build is left alone for this, if `expiry` is that of the [store](super::Store)
/// and it [lasts].
fn held_for(record: &Record, expiry: Duration) -> u64 {
    match record.is_kill() {
        true => PAUSE.saturating_mul(1 << record.times.saturating_sub(FAULTS).min(16)).min(LONGEST_PAUSE),
        false => expiry.as_secs(),
    }
}

/// Time for which a build is left alone after its processes were killed soon after their probes
/// came. `None` if a single kill may have been by hand.
#[must_use]
pub fn pause(record: &Record) -> Option<Duration> {
    (record.is_kill() && lasts(record)).then(|| Duration::from_secs(held_for(record, EXPIRY)))
}

/// End of the entry in seconds since 1970, if `expiry` is that of the [store](super::Store).
#[must_use]
pub fn expires(record: &Record, expiry: Duration) -> u64 {
    record.time.saturating_add(held_for(record, expiry))
}

/// Seconds since it happened; `None` if the clock was set in between.
fn age(record: &Record, now: u64) -> Option<u64> {
    let by_one_clock = (record.time < PLAUSIBLE) == (now < PLAUSIBLE);
    now.checked_sub(record.time).filter(|_| by_one_clock)
}

/// True if it is too old to count.
pub(super) fn is_over(record: &Record, now: u64, expiry: Duration) -> bool {
    age(record, now).is_some_and(|age| age >= expiry.as_secs())
}

/// True if its processes must be left alone now.
pub(super) fn holds(record: &Record, now: u64, expiry: Duration) -> bool {
    let age = age(record, now);
    match lasts(record) {
        true => age.is_none_or(|age| age < held_for(record, expiry)),
        false => !record.is_kill() && age.is_some_and(|age| age < MOMENT.as_secs()),
    }
}

/// True if it needs a date, because its own is by a clock that was not set, or was set back.
pub(super) fn is_undated(record: &Record, now: u64) -> bool {
    now >= PLAUSIBLE && age(record, now).is_none()
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::*;

    const DAY: u64 = 24 * 3_600;

    fn record(times: u32, time: u64) -> Record {
        let key = Key::new(&[1; 20], 7).of_user(1000);
        let (path, target) = (heapless::String::new(), heapless::String::new());
        Record { key, signal: 11, code: 1, pid: 1, time, boot_id: [0; 16], path, target, times }
    }

    #[test]
    fn the_first_fault_holds_for_a_moment_and_the_second_for_a_week() {
        let begin = PLAUSIBLE + DAY;
        let holds = |times, after| holds(&record(times, begin), begin + after, EXPIRY);
        assert!(holds(1, 0) && holds(1, 9) && !holds(1, 10) && !holds(1, DAY));
        assert!(holds(2, 0) && holds(2, 7 * DAY - 1) && !holds(2, 7 * DAY) && !holds(9, 70 * DAY));
        let mut old = record(1, begin);
        old.key.user = ANY_USER;
        assert!(super::holds(&old, begin + DAY, EXPIRY) && !super::holds(&old, begin + 8 * DAY, EXPIRY));
        assert!(
            !is_over(&record(1, begin), begin + DAY, EXPIRY)
                && is_over(&record(1, begin), begin + 7 * DAY, EXPIRY)
        );
    }

    #[test]
    fn a_build_that_was_killed_is_left_alone_for_minutes_and_hours() {
        let killed = |times| Record { signal: 9, ..record(times, PLAUSIBLE) };
        let minutes = |times| pause(&killed(times)).map(|pause| pause.as_secs() / 60);
        assert_eq!([1, 2, 3, 4, 99].map(minutes), [None, Some(5), Some(10), Some(20), Some(240)]);
        assert_eq!(pause(&record(2, PLAUSIBLE)), None);
        let holds = |times, after| holds(&killed(times), PLAUSIBLE + after, EXPIRY);
        assert!(!holds(1, 0) && holds(2, 299) && !holds(2, 300) && holds(3, 300) && !holds(3, 600));
    }

    #[test]
    fn a_clock_that_jumps_ends_nothing_and_what_it_dated_gets_a_new_date() {
        let now = PLAUSIBLE + 100 * DAY;
        // Set from 1970, and set back from the future.
        for time in [50, now + DAY, u64::MAX] {
            assert!(holds(&record(2, time), now, EXPIRY) && is_undated(&record(2, time), now), "{time}");
            assert!(!holds(&record(1, time), now, EXPIRY), "{time}");
        }
        // Not set again after a boot: the time is unknown, and there is no better date.
        assert!(holds(&record(2, now), 60, EXPIRY) && !is_undated(&record(2, now), 60));
        assert!(holds(&record(2, 50), 60, EXPIRY) && holds(&record(1, 50), 55, EXPIRY));
    }
}
