//! Times in readable form.

/// Formats nanoseconds since 1970 as `2026-01-01T00:00:00.0Z`.
pub fn utc(ns: u64) -> String {
    let tenths = ns / 100_000_000;
    let (seconds, tenth) = (tenths / 10, tenths % 10);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{tenth}Z")
}

/// Converts days since 1970 to year, month and day. Years are counted from March, so that the leap
/// day (every four years, not every hundred, but every four hundred) is the last day of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = year + 400 * era + month / 10;
    (year, (month + 2) % 12 + 1, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_that_date_shows() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.0Z"),
            (951_782_400, "2000-02-29T00:00:00.0Z"),
            (1_767_225_599, "2025-12-31T23:59:59.0Z"),
            (1_767_225_600, "2026-01-01T00:00:00.0Z"),
            (4_107_542_400, "2100-03-01T00:00:00.0Z"),
        ] {
            assert_eq!(utc(seconds * 1_000_000_000), text);
        }
        assert_eq!(utc(1_250_000_000), "1970-01-01T00:00:01.2Z");
    }
}
