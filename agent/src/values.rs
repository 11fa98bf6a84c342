//! Values on the command line and in the configuration file: numbers with units, and words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::{ops::RangeInclusive, time::Duration};

use edgelat_guard::cpus::MAX_CPUS;
use edgelat_guard::placement::{CollectorCpu, Sched, TargetsOn};
use edgelat_guard::protocol::{OnSignal, Returns, Route};

/// Default address of `edgelat metrics`: on this box only.
pub const METRICS_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9_105);

/// Description of a valid listen address.
pub const LISTEN_WANTED: &str = "an address with a port, such as \"127.0.0.1:9105\" or \"[::1]:9105\"";

/// Process ids: PID_MAX_LIMIT of include/linux/threads.h is 4 Mi.
pub const PIDS: RangeInclusive<u64> = 1..=4 << 20;

/// Smallest and largest size of the frame table, in frames.
pub const FRAMES: RangeInclusive<u64> = 16..=1 << 20;

/// Smallest and largest bound for the memory of rows and frames: 4 KiB to 1 GiB.
pub const MAP_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 30;

/// Words for the methods that detect returns.
pub const RETURNS: [(&str, Returns); 2] = [("ret", Returns::Ret), ("uretprobe", Returns::Uretprobe)];

/// Words for the routes of probes into the kernel; the first leaves the choice to the guard.
pub const ROUTES: [(&str, Option<Route>); 4] = [
    ("auto", None),
    ("uprobe_multi", Some(Route::UprobeMulti)),
    ("tracefs", Some(Route::Tracefs)),
    ("single", Some(Route::Single)),
];

/// Words for the signals that remove probes; the first leaves it to the functions' language.
pub const ON_SIGNAL: [(&str, Option<OnSignal>); 3] =
    [("auto", None), ("any", Some(OnSignal::Any)), ("fatal", Some(OnSignal::Fatal))];

/// Words for the CPUs of the collector, beside the number of a CPU.
pub const COLLECTOR_CPUS: [(&str, CollectorCpu); 3] = [
    ("prefer-isolated", CollectorCpu::PreferIsolated),
    ("isolated", CollectorCpu::Isolated),
    ("any", CollectorCpu::Any),
];

/// Numbers of CPUs.
pub const CPUS: RangeInclusive<u64> = 0..=MAX_CPUS as u64 - 1;

/// Words for the scheduler of the collector.
pub const SCHEDS: [(&str, Sched); 2] = [("other", Sched::Other), ("ext", Sched::Ext)];

/// Words for the CPUs on which a measured call has to begin.
pub const TARGETS_ON: [(&str, TargetsOn); 2] = [("any", TargetsOn::Any), ("isolated", TargetsOn::Isolated)];

/// Words for what comes of a measurement that costs more than it may: is it sampled?
pub const OVER_BUDGET: [(&str, bool); 2] = [("sample", true), ("end", false)];

/// The words of a table.
pub const fn words<T, const N: usize>(table: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut index = 0;
    while index < N {
        words[index] = table[index].0;
        index += 1;
    }
    words
}

/// Returns the meaning of a word in a table.
pub fn meaning<T: Copy>(table: &[(&'static str, T)], word: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == word).map(|(_, meaning)| *meaning)
}

/// Parses a decimal number without a sign; `str::parse` would accept a plus.
pub fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Parses a word of [`COLLECTOR_CPUS`], or a number of [`CPUS`].
pub fn collector_cpu(text: &str) -> Option<CollectorCpu> {
    let number = || digits(text).filter(|cpu| CPUS.contains(cpu));
    meaning(&COLLECTOR_CPUS, text).or_else(|| number().map(|cpu| CollectorCpu::Cpu(cpu as u32)))
}

/// Units of [`bytes`]. A longer unit precedes those that are suffixes of it.
const SIZES: [(&str, u64); 6] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("K", 1 << 10), ("k", 1 << 10), ("M", 1 << 20), ("m", 1 << 20)];

/// Parses a number of bytes; K or KiB is 1024, M or MiB is 1048576.
pub fn bytes(text: &str) -> Option<u64> {
    let (unit, size) = SIZES.iter().find(|(unit, _)| text.ends_with(unit)).unwrap_or(&("", 1));
    digits(text.strip_suffix(unit)?)?.checked_mul(*size)
}

/// Parses seconds, or another number of up to nine decimals, exactly.
pub fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let nanoseconds = digits(fraction)? * 10u64.pow(9 - fraction.len() as u32);
    Some(Duration::new(digits(whole)?, nanoseconds as u32))
}

/// Description of the names that [`host_name`] accepts.
pub const HOST_WANTED: &str = "the name of a host, such as \"box.lan\"";

/// Returns true for a valid host name (RFC 1123, 2.1), without a port.
pub fn host_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(fits)
}

/// Parses a number without a sign, of up to nine decimals.
pub fn decimal(text: &str) -> Option<f64> {
    Some(seconds(text)?.as_secs_f64())
}

/// Units of [`duration`] in milliseconds. A longer unit precedes those that are suffixes of it.
const UNITS: [(&str, u32); 4] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];

/// Parses a time with its unit: `100ms`, `10s`, `1.5min`, `1h`.
pub fn duration(text: &str) -> Option<Duration> {
    let (unit, milliseconds) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    Some(seconds(text.strip_suffix(unit)?)?.checked_mul(*milliseconds)? / 1_000)
}

/// Returns a time in nanoseconds; beyond 584 years, the largest number.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Formats a time in the largest unit of which it is a whole number.
pub fn in_words(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let whole = |(_, size): &&(&str, u32)| milliseconds.is_multiple_of(u128::from(*size));
    let (unit, size) = UNITS.iter().rev().find(whole).unwrap_or(&UNITS[0]);
    format!("{}{unit}", milliseconds / u128::from(*size))
}

/// Converts percent of one CPU to millionths.
pub fn ppm(percent: f64) -> u64 {
    (percent * 1e4).round() as u64
}

/// Returns the maximum number of concurrent plans of a process.
///
/// Each library that comes later has a plan of its own, and so has a Python interpreter.
pub fn plans(functions: usize, python: usize) -> u32 {
    functions as u32 + u32::from(python > 0)
}

/// Additional plans for further images with a requested name: a plug-in that is opened anew while
/// the old one is in use.
pub const LATER_IMAGES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_are_ten_thousand_millionths() {
        assert_eq!([ppm(1.0), ppm(0.01), ppm(100.0)], [10_000, 100, 1_000_000]);
    }

    #[test]
    fn times_are_read_with_their_unit_and_shown_in_the_largest() {
        for (text, milliseconds, shown) in [
            ("100ms", 100, "100ms"),
            ("10s", 10_000, "10s"),
            ("1.5min", 90_000, "90s"),
            ("0.25s", 250, "250ms"),
            ("60min", 3_600_000, "1h"),
            ("2h", 7_200_000, "2h"),
        ] {
            let time = duration(text);
            assert_eq!(time, Some(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(in_words(time.unwrap()), shown);
        }
        for text in
            ["", "10", "s", "10 s", "-1s", "+1s", "1e3s", "10S", "1.s", "10d", "99999999999999999999h"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551615h"), None);
    }

    #[test]
    fn sizes_are_read_with_either_spelling_of_their_unit() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("4K", Some(4096)),
            ("4KiB", Some(4096)),
            ("4MiB", Some(4 << 20)),
            ("4m", Some(4 << 20)),
            ("4GiB", None),
            ("4 MiB", None),
            ("4MB", None),
            ("4iB", None),
            ("MiB", None),
            ("18446744073709551615M", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn every_route_has_the_word_that_the_guard_has_for_it() {
        for (word, route) in ROUTES {
            assert_eq!(word, route.map_or("auto", Route::name));
            assert_eq!(meaning(&ROUTES, word), Some(route));
        }
        assert_eq!(meaning(&ROUTES, "fast"), None);
    }
}
