//! The table and the histogram for a person.
//!
//! Plain ASCII and at most 80 columns if names allow it: the output is designed for a serial
//! console. On a terminal each picture replaces the previous one; elsewhere they follow each other.

use std::io::{self, IsTerminal, Write};

use edgelat_histogram::{SCALE, upper_bound_ns};

use crate::cli::output::Style;
use crate::collector::report::{Ended, FunctionReport, Report};

/// Maximum lines of a histogram; neighbours are merged until it fits.
const LINES: usize = 20;
/// Columns of the longest bar.
const BAR: usize = 40;
/// Maximum functions in the table while measuring; the last picture has all.
const FUNCTIONS: usize = 20;
/// Columns of a name in the table.
const NAME: usize = 30;

/// Screen that pictures are drawn on.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    terminal: bool,
    /// Lines of the previous picture, to be replaced.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { style: Style::of_stdout(), terminal: io::stdout().is_terminal(), drawn: 0 }
    }

    /// Draws one picture.
    pub(super) fn draw(&mut self, out: &mut impl Write, report: &Report) -> io::Result<()> {
        // Without a terminal, there is nothing to show before the first interval.
        if report.seq == 0 && !self.terminal {
            return Ok(());
        }
        let picture = picture(report, self.style);
        if self.drawn > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
        }
        out.write_all(picture.as_bytes())?;
        self.drawn = if self.terminal { picture.lines().count() } else { 0 };
        if report.last {
            self.drawn = 0;
        }
        Ok(())
    }
}

fn picture(report: &Report, style: Style) -> String {
    let mut lines = vec![heading(report)];
    let header = format!(
        "{:NAME$} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "FUNCTION", "RATE/s", "CALLS", "p50", "p90", "p99", "p99.9", "max", "INSIDE"
    );
    lines.push(style.bold(&header));
    let shown = if report.last { report.functions.len() } else { FUNCTIONS };
    for function in report.functions.iter().take(shown) {
        lines.push(row(function));
        lines.extend(account(function).map(|line| style.yellow(&line)));
        lines.extend(exceptions(function).map(|line| style.dim(&line)));
        lines.extend(sampled(function).map(|line| style.yellow(&line)));
        lines.extend(probes(function).map(|line| style.yellow(&line)));
        lines.extend(suspended(function).map(|line| style.dim(&line)));
        lines.extend(inlined(function).map(|line| style.dim(&line)));
    }
    if report.functions.len() > shown {
        lines.push(style.dim(&format!("... and {} more", report.functions.len() - shown)));
    }
    if let [function] = report.functions.as_slice() {
        lines.extend(histogram(function));
    }
    lines.extend(biases(&report.functions[..shown.min(report.functions.len())]).map(|line| style.dim(&line)));
    if report.functions.iter().take(shown).any(|function| function.until_tail_call) {
        lines
            .push(style.dim(
                "> some calls leave by a jump into another function; they are measured up to that jump",
            ));
    }
    of_python(report, shown, |line| lines.push(style.yellow(line)));
    lines.extend(unattributed(report).map(|line| style.yellow(&line)));
    if report.children_uncovered_ns > 0 {
        let (missed, lived) = (report.children_missed, duration(report.children_uncovered_ns));
        lines.push(style.yellow(&format!(
            "children lived for {lived} without being covered, {missed} of them until they ended; their calls are in no account"
        )));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Reports Python calls that are not seen: of functions in the table, and of whole functions.
fn of_python(report: &Report, shown: usize, mut say: impl FnMut(&str)) {
    let Some(python) = &report.python else { return };
    if report.functions.iter().take(shown).any(|function| function.partial) {
        say(
            "% only a part of the calls is seen, and the figures are of that part: `edgelat check -p PID` says how to see all",
        );
    }
    for name in &python.not_called {
        say(&format!("{name}: no call of such a function was seen"));
    }
}

/// Formats the hits that are attributed to no function, by reason.
fn unattributed(report: &Report) -> impl Iterator<Item = String> {
    let python = report.python.as_ref().map_or([0; 3], |p| [p.no_room, p.unreadable, p.unnamed]);
    let elsewhere = report.unattributed_hits.saturating_sub(python.iter().sum());
    let told = [
        (elsewhere, "probe hits came from unknown addresses and are not counted"),
        (
            python[0],
            "calls of Python functions are not counted: there was no room for more functions; raise --max-map-bytes",
        ),
        (python[1], "calls of Python functions are not counted: their code objects could not be read"),
        (
            python[2],
            "calls of Python functions are not counted: too many functions came at once for all names to be read; \
             raise --max-map-bytes",
        ),
    ];
    told.into_iter().filter(|(calls, _)| *calls > 0).map(|(calls, text)| format!("{calls} {text}"))
}

fn heading(report: &Report) -> String {
    let children = report.processes.len() - 1;
    let family = match children {
        0 => String::new(),
        1 => " and 1 child".to_owned(),
        n => format!(" and {n} children"),
    };
    let end = match report.ended {
        None => String::new(),
        Some(Ended::Duration) => ", time is over".to_owned(),
        Some(Ended::Signal) => ", stopped".to_owned(),
        Some(Ended::Target) => ", the target has ended".to_owned(),
        Some(Ended::Replaced) => ", the target executes another image".to_owned(),
        Some(Ended::Output) => ", output closed".to_owned(),
        Some(Ended::Fault) => ", the target got into trouble".to_owned(),
        Some(Ended::Config) => ", not named any more".to_owned(),
        Some(Ended::Overrun) => ", too much happened at once".to_owned(),
        Some(Ended::Traced) => ", a debugger traces it now".to_owned(),
        Some(Ended::ImageChanged) => ", a file that it executes has changed".to_owned(),
        Some(Ended::Guard) => ", the guard has ended".to_owned(),
        Some(Ended::Budget) => ", stopped because of its cost".to_owned(),
    };
    let cost =
        report.cost_percent.map(|percent| format!(", probes cost {percent} % of a CPU")).unwrap_or_default();
    format!(
        "{} (process {}{family}), {} by {}, {:.1} s{cost}{end}",
        report.target.exe,
        report.target.pid,
        report.returns,
        report.route,
        report.elapsed_ns as f64 / 1e9
    )
}

fn row(function: &FunctionReport) -> String {
    let quantile = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), duration);
    format!(
        "{:NAME$} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7}",
        label(function),
        function.rate_per_s,
        function.entries,
        quantile(function.p50_ns),
        quantile(function.p90_ns),
        quantile(function.p99_ns),
        quantile(function.p999_ns),
        quantile(function.max_ns),
        function.in_flight
    )
}

/// Formats the calls that are missing from the histogram, if any.
fn account(function: &FunctionReport) -> Option<String> {
    let lost = &function.lost;
    // Exits of calls that were evicted from the table find no frame either.
    let (no_frame, advice) = match lost.evicted + lost.table_full {
        0 => ("entered before", ""),
        _ => ("entered before or evicted", " (--frames makes room for more calls at once)"),
    };
    let named = [
        ("abandoned", lost.abandoned),
        ("cut", lost.cut),
        ("evicted", lost.evicted),
        ("ended inside", lost.ended_inside),
        ("over range", lost.over_range),
        ("table full", lost.table_full),
        ("unkeyed", lost.unkeyed),
        ("unresolved", lost.unresolved),
        (no_frame, function.unmatched_exits),
    ];
    let words: Vec<String> =
        named.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    (!words.is_empty()).then(|| format!("  not measured: {}{advice}", words.join(", ")))
}

/// Formats the number of calls in the histogram that did not return.
fn exceptions(function: &FunctionReport) -> Option<String> {
    let exceptions = function.exceptions.filter(|calls| *calls > 0)?;
    Some(format!(
        "  {exceptions} of its calls were left by an exception or panic; their times are among these"
    ))
}

/// Formats the share of probes in the durations if it is large: their time inside of the calls, and
/// durations in which nothing else is visible. A fiftieth is less than the buckets resolve.
fn probes(function: &FunctionReport) -> impl Iterator<Item = String> {
    let means = function.mean_ns.zip(function.mean_without_probes_ns);
    let inside = means.filter(|(mean, without)| mean - without > mean / 50).map(|(mean, without)| {
        let (ours, mean, without) = (duration(mean - without), duration(mean), duration(without));
        format!("  probes inside take {ours} of its mean of {mean}; without them {without}")
    });
    let all = function.mean_ns.zip(function.unresolved_ns()).map(|(mean, left)| {
        let (mean, left) = (duration(mean), duration(left));
        format!("  probes inside take nearly all of its mean of {mean}: what is left, {left} at most, cannot be resolved")
    });
    let below = function.below_bias.then(|| {
        "  shorter than can be resolved: half of its calls take no longer than what the probes add".to_owned()
    });
    inside.into_iter().chain(all).chain(below)
}

/// Line for a function that is sampled because of its cost.
fn sampled(function: &FunctionReport) -> Option<String> {
    let window = function.window_ns?;
    Some(format!(
        "  sampled because of its cost: measured for {} in windows of {}, and no call longer than one is seen",
        duration(function.covered_ns),
        duration(window)
    ))
}

/// Formats the time that a whole await was suspended, as part of its mean.
fn suspended(function: &FunctionReport) -> Option<String> {
    let suspended = function.suspended_ns?.checked_div(function.count)?;
    Some(format!("  suspended for {} of its mean of {}", duration(suspended), duration(function.mean_ns?)))
}

/// Formats the time that the probes add to each duration, by function if the times differ.
fn biases(functions: &[FunctionReport]) -> Option<String> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for function in functions {
        let Some(bias) = function.bias_ns.map(duration) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == bias) {
            Some((_, names)) => names.push(&function.name),
            None => groups.push((bias, vec![&function.name])),
        }
    }
    let about = match groups.as_slice() {
        [] => return None,
        [(bias, _)] => bias.clone(),
        several => {
            let one = |(bias, names): &(String, Vec<&str>)| match names.as_slice() {
                [name] => format!("{bias} ({})", shortened(name, NAME)),
                [name, rest @ ..] => format!("{bias} ({} and {} more)", shortened(name, NAME), rest.len()),
                [] => bias.clone(),
            };
            several.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    Some(format!("the probes themselves add about {about} to each duration (not subtracted)"))
}

/// Formats bounds, count and bar of each line; neighbours are merged until the lines are few.
fn histogram(function: &FunctionReport) -> Vec<String> {
    let (Some(first), Some(last)) = (function.buckets.first(), function.buckets.last()) else {
        return Vec::new();
    };
    let (first, last) = (first.0, last.0);
    // Each step halves the number of lines: index >> 1 is the bucket one scale down.
    let shift = (0..16).find(|shift| ((last >> shift) - (first >> shift)) < LINES as i32).unwrap_or(16);
    let mut counts = vec![0u64; ((last >> shift) - (first >> shift) + 1) as usize];
    for (index, count) in &function.buckets {
        counts[((index >> shift) - (first >> shift)) as usize] += count;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let line = |(at, count): (usize, &u64)| {
        let coarse = (first >> shift) + at as i32;
        let low = upper_bound_ns((coarse << shift) - 1);
        let high = upper_bound_ns(((coarse + 1) << shift) - 1);
        let bar = "#".repeat((*count as u128 * BAR as u128).div_ceil(most as u128) as usize);
        format!("{:>9} .. {:<9} {count:>10} |{bar}", duration(low), duration(high))
    };
    // The shift counts from the scale of a row.
    const { assert!(SCALE == 3) };
    counts.iter().enumerate().map(line).collect()
}

/// Formats a duration with three digits and a unit.
fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// Formats the number of inlined copies, whose calls are not measured.
fn inlined(function: &FunctionReport) -> Option<String> {
    let copies = function.inlined_copies.filter(|copies| cfg!(feature = "inlined") && *copies > 0)?;
    Some(format!("  also inlined at {copies} places, whose calls are not counted"))
}

/// Marks a function that is measured up to a jump.
const UNTIL_JUMP: &str = " >";

/// Marks a Python function of which only a part of the calls is seen.
const PARTIAL: &str = " %";

/// Returns the name for the table.
fn label(function: &FunctionReport) -> String {
    let mark = match (function.until_tail_call, function.partial) {
        (true, _) => UNTIL_JUMP,
        (_, true) => PARTIAL,
        _ => "",
    };
    shortened(&function.name, NAME - mark.len()) + mark
}

/// Shortens a name to `columns`: the end of a C++ name is more informative than its beginning.
fn shortened(name: &str, columns: usize) -> String {
    let length = name.chars().count();
    if length <= columns {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length - (columns - 2)).collect();
    format!("..{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_345, "12.3 us"),
            (123_456, "123 us"),
            (1_500_000, "1.50 ms"),
            (2_000_000_000, "2.00 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn a_wide_histogram_is_merged_until_it_fits_and_loses_no_call() {
        let mut function = FunctionReport::new("f".into(), "/bin/f".into());
        function.buckets = (-192..64).map(|index| (index, 3)).collect();
        let lines = histogram(&function);
        assert!(lines.len() <= LINES, "{} lines", lines.len());
        let count = |line: &String| -> u64 {
            line.split('|')
                .next()
                .and_then(|l| l.split_whitespace().last())
                .and_then(|n| n.parse().ok())
                .unwrap()
        };
        assert_eq!(lines.iter().map(count).sum::<u64>(), 256 * 3);
    }

    #[test]
    fn a_function_that_is_measured_up_to_a_jump_is_marked_within_its_column() {
        let mut function = FunctionReport::new("f".into(), "/bin/f".into());
        assert_eq!(label(&function), "f");
        function.until_tail_call = true;
        assert_eq!(label(&function), "f >");
        function.name = "x".repeat(40);
        assert_eq!(label(&function), format!("..{} >", "x".repeat(26)));
        (function.until_tail_call, function.partial) = (false, true);
        assert_eq!(label(&function), format!("..{} %", "x".repeat(26)));
    }

    #[test]
    fn how_much_of_a_function_is_ours_is_said_where_it_is_much() {
        let mut function = FunctionReport::new("f".into(), "/bin/f".into());
        (function.count, function.sum_ns, function.p50_ns) = (100, 3_200_000, Some(31_000));
        function.take_probes(None);
        assert_eq!((function.mean_ns, function.mean_without_probes_ns), (Some(32_000), None));
        assert_eq!(probes(&function).count(), 0, "not known");
        function.take_probes(Some((64_000, 0)));
        assert_eq!(probes(&function).count(), 0, "a fiftieth");
        // For ten calls, the probe time is unknown.
        function.take_probes(Some((90 * 26_100, 10)));
        let lines: Vec<String> = probes(&function).collect();
        assert_eq!(lines, ["  probes inside take 26.1 us of its mean of 32.0 us; without them 5.90 us"]);
        // The remainder must exceed the possible error of the prices.
        for (ours, left) in [(28_446, "7.11 us"), (32_000, "4.00 us"), (40_000, "5.00 us")] {
            function.take_probes(Some((100 * ours, 0)));
            let expected = format!(
                "  probes inside take nearly all of its mean of 32.0 us: what is left, {left} at most, cannot be resolved"
            );
            assert_eq!(probes(&function).collect::<Vec<String>>(), [expected]);
        }
        function.bias_ns = Some(29_000);
        function.take_probes(Some((0, 0)));
        assert!(function.below_bias && probes(&function).all(|line| line.starts_with("  shorter than")));
        function.bias_ns = Some(28_000);
        function.take_probes(Some((0, 0)));
        assert!(!function.below_bias);
    }

    #[test]
    fn what_the_probes_add_is_said_of_every_function() {
        let functions: Vec<FunctionReport> = ["f", "g", "h"]
            .map(|name| FunctionReport::new(name.into(), "/bin/f".into()))
            .into_iter()
            .zip([Some(600), Some(600), None])
            .map(|(function, bias_ns)| FunctionReport { bias_ns, ..function })
            .collect();
        let said = |functions: &[FunctionReport]| biases(functions).unwrap();
        let all = "the probes themselves add about 600 ns to each duration (not subtracted)";
        assert_eq!(said(&functions), all);
        assert_eq!(biases(&functions[2..]), None);
        let mut others = functions;
        others[2].bias_ns = Some(7_000);
        assert!(
            said(&others).contains("about 600 ns (f and 1 more), 7.00 us (h) to each"),
            "{}",
            said(&others)
        );
    }

    #[test]
    fn what_is_not_measured_is_said_by_name() {
        let mut function = FunctionReport::new("f".into(), "/bin/f".into());
        assert_eq!(account(&function), None);
        function.lost.evicted = 7;
        function.unmatched_exits = 1;
        assert_eq!(
            account(&function).unwrap(),
            "  not measured: 7 evicted, 1 entered before or evicted (--frames makes room for more calls at once)"
        );
        function.lost.evicted = 0;
        assert_eq!(account(&function).unwrap(), "  not measured: 1 entered before");
    }
}
