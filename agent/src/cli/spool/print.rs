//! Output of records as text, as JSON lines, and as CSV (docs/SPOOL.md).

use std::io::{self, Write};

use edgelat_spool::record::hexadecimal;
use edgelat_spool::{Checkpoint, Counts, Interval, LOSSES, Seen, Stream, Times, Trust};
use nix::errno::Errno;

use super::utc::utc;

/// Name and version of a JSON line.
const SCHEMA: &str = "edgelat.spool/1";

/// An interval with its context.
struct Shown<'a> {
    interval: &'a Interval,
    state: &'a Checkpoint,
    begin: Option<(u64, Trust)>,
    end: Option<(u64, Trust)>,
}

impl<'a> Shown<'a> {
    fn of(seen: &Seen<'a>, state: &'a Checkpoint, times: &Times) -> Option<Self> {
        let Seen::Interval(interval) = *seen else { return None };
        let time = |boot_ns| times.of(&state.boot, boot_ns);
        Some(Self { interval, state, begin: time(interval.begin_ns), end: time(interval.end.boot_ns) })
    }

    /// Returns the trust in the time.
    fn clock(&self) -> &'static str {
        match self.end {
            None => "unknown",
            Some((_, Trust::Synchronised)) => "synchronised",
            Some(_) => "plausible",
        }
    }

    /// Returns the changes of each stream: its counts, and the calls that are inside at the end.
    fn rows(&self) -> impl Iterator<Item = (&'a Stream, &'a Counts, i64)> {
        let state = self.state;
        self.interval.rows.iter().filter_map(move |(id, counts)| {
            let stream = state.streams.iter().find(|stream| stream.id == *id)?;
            let inside = state.rows.iter().find(|row| row.0 == *id).map_or(0, |row| row.1.in_flight);
            Some((stream, counts, inside))
        })
    }
}

/// Prints text for a person.
pub(super) fn text(
    out: &mut dyn Write,
    seen: &Seen<'_>,
    state: &Checkpoint,
    times: &Times,
) -> io::Result<()> {
    if matches!(seen, Seen::Damaged) {
        return writeln!(out, "(damaged records)");
    }
    let Some(shown) = Shown::of(seen, state, times) else { return Ok(()) };
    let interval = shown.interval;
    let begin = shown.begin.map_or_else(
        || format!("time unknown, {:.1} s after boot", interval.begin_ns as f64 / 1e9),
        |(ns, _)| utc(ns),
    );
    let length = interval.end.boot_ns.saturating_sub(interval.begin_ns) as f64 / 1e9;
    writeln!(
        out,
        "{begin}  {length:.1} s  run {}  interval {} to {}",
        hexadecimal(&state.run[..4]),
        interval.first,
        interval.last
    )?;
    for (stream, counts, inside) in shown.rows() {
        let histogram = counts.histogram();
        let ms = |ns: Option<u64>| ns.map_or(0.0, |ns| ns as f64 / 1e6);
        writeln!(
            out,
            "  {:<40} {:>9} calls  p50 {:.3}  p90 {:.3}  p99 {:.3}  max {:.3} ms  {inside} inside",
            format_args!("{}/{}", stream.target, stream.function).to_string(),
            counts.entries,
            ms(histogram.quantile(0.5)),
            ms(histogram.quantile(0.9)),
            ms(histogram.quantile(0.99)),
            ms(histogram.max_ns())
        )?;
        if stream.partial {
            writeln!(out, "    only a part of its calls is seen, and the figures are of that part")?;
        }
        for (name, lost) in LOSSES.iter().zip(counts.lost).filter(|(_, lost)| *lost != 0) {
            writeln!(out, "    not measured: {lost} {name}")?;
        }
    }
    for uncovered in &interval.uncovered {
        let time = uncovered.time_ns as f64 / 1e9;
        write!(out, "  {} was not measured for {time:.1} s: {}", uncovered.target, uncovered.reason)?;
        match uncovered.processes {
            0 => writeln!(out)?,
            processes => writeln!(out, " ({processes})")?,
        }
    }
    if let Some(gap) = &interval.gap {
        let reason = Errno::from_raw(gap.errno as i32).desc();
        writeln!(
            out,
            "  the disk did not take this at once ({reason}); {} intervals came late",
            gap.intervals
        )?;
    }
    Ok(())
}

/// Prints `"name":`, after a comma unless it is the first of its object.
fn name(out: &mut dyn Write, comma: &str, name: &str) -> io::Result<()> {
    write!(out, "{comma}\"{name}\":")
}

/// Prints a text with JSON escapes.
fn quoted(out: &mut dyn Write, text: &str) -> io::Result<()> {
    Ok(serde_json::to_writer(out, text)?)
}

/// Formats a time, or `unknown` if it is not known.
fn moment(time: Option<(u64, Trust)>, unknown: &str) -> String {
    time.map_or_else(|| unknown.to_owned(), |(ns, _)| ns.to_string())
}

/// Returns the figures of a function by name, in the order of columns. Signed figures can be
/// negative if a loss turned out to be a different one; missing figures are unknown.
fn figures(counts: &Counts, inside: i64) -> impl Iterator<Item = (&'static str, Option<i128>)> {
    let first =
        [("entries", counts.entries.into()), ("exits", counts.exits().into()), ("in_flight", inside.into())]
            .map(|(word, number): (_, i128)| (word, Some(number)));
    let last = [
        ("unmatched_exits", Some(counts.unmatched.into())),
        ("exceptions", Some(counts.exceptions.into())),
        ("sum_ns", Some(counts.sum_ns.into())),
        ("probes_inside_ns", counts.probes_inside_ns.map(i128::from)),
        ("suspended_ns", counts.suspended_ns.map(i128::from)),
        ("zero_count", Some(counts.zero.into())),
    ];
    let lost = LOSSES.into_iter().zip(counts.lost.map(|lost| Some(lost.into())));
    first.into_iter().chain(lost).chain(last)
}

/// Prints a figure, or `unknown` if it is not known.
fn figure(out: &mut dyn Write, number: Option<i128>, unknown: &str) -> io::Result<()> {
    match number {
        Some(number) => write!(out, "{number}"),
        None => out.write_all(unknown.as_bytes()),
    }
}

/// Prints a JSON line.
pub(super) fn json(
    out: &mut dyn Write,
    seen: &Seen<'_>,
    state: &Checkpoint,
    times: &Times,
) -> io::Result<()> {
    let Some(shown) = Shown::of(seen, state, times) else { return Ok(()) };
    let interval = shown.interval;
    write!(
        out,
        "{{\"schema\":\"{SCHEMA}\",\"run\":\"{}\",\"boot\":\"{}\",\"begin_ns\":{},\"end_ns\":{},\"clock\":\"{}\"",
        hexadecimal(&state.run),
        hexadecimal(&state.boot),
        moment(shown.begin, "null"),
        moment(shown.end, "null"),
        shown.clock()
    )?;
    for (word, number) in [
        ("first", interval.first),
        ("last", interval.last),
        ("begin_boot_ns", interval.begin_ns),
        ("end_boot_ns", interval.end.boot_ns),
        ("late", interval.gap.map_or(0, |gap| gap.intervals)),
    ] {
        name(out, ",", word)?;
        write!(out, "{number}")?;
    }
    name(out, ",", "functions")?;
    let mut comma = "[";
    for (stream, counts, inside) in shown.rows() {
        write!(out, "{comma}{{\"build_id\":\"{}\",\"line\":{}", hexadecimal(&stream.build_id), stream.line)?;
        for (word, text) in [
            ("target", &stream.target),
            ("function", &stream.function),
            ("image", &stream.image),
            ("language", &stream.language),
        ] {
            name(out, ",", word)?;
            quoted(out, text)?;
        }
        for (word, number) in figures(counts, inside) {
            name(out, ",", word)?;
            figure(out, number, "null")?;
        }
        name(out, ",", "partial")?;
        write!(out, "{}", stream.partial)?;
        name(out, ",", "buckets")?;
        buckets(out, counts, "[", ",", ["[", "]"])?;
        out.write_all(b"]}")?;
        comma = ",";
    }
    out.write_all(if comma == "[" { b"[]" } else { b"]" })?;
    name(out, ",", "uncovered")?;
    let mut comma = "[";
    for uncovered in &interval.uncovered {
        write!(out, "{comma}[")?;
        quoted(out, &uncovered.target)?;
        out.write_all(b",")?;
        quoted(out, &uncovered.reason)?;
        write!(out, ",{},{}]", uncovered.time_ns, uncovered.processes)?;
        comma = ",";
    }
    out.write_all(if comma == "[" { b"[]}\n" } else { b"]}\n" })
}

/// Prints occupied buckets, with text before all, between index and count, and around each pair.
fn buckets(
    out: &mut dyn Write,
    counts: &Counts,
    before: &str,
    between: &str,
    around: [&str; 2],
) -> io::Result<()> {
    write!(out, "{before}")?;
    for (place, (index, count)) in counts.buckets.iter().enumerate() {
        let comma = match place {
            0 => "",
            _ if before.is_empty() => " ",
            _ => ",",
        };
        write!(out, "{comma}{}{index}{between}{count}{}", around[0], around[1])?;
    }
    Ok(())
}

/// Prints the names of the columns.
pub(super) fn csv_header(out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        "run,first,last,begin_boot_ns,end_boot_ns,begin_ns,end_ns,clock,target,function,image,build_id"
    )?;
    figures(&Counts::default(), 0).try_for_each(|(word, _)| write!(out, ",{word}"))?;
    writeln!(out, ",buckets,uncovered_ns,uncovered_reason,uncovered_processes,partial")
}

/// Prints a field, in quotes if required (RFC 4180).
fn field(out: &mut dyn Write, text: &str) -> io::Result<()> {
    match text.contains([',', '"', '\n', '\r']) {
        true => write!(out, "\"{}\",", text.replace('"', "\"\"")),
        false => write!(out, "{text},"),
    }
}

/// Prints CSV lines: one per function, and one per reason for which a target was not measured.
pub(super) fn csv(out: &mut dyn Write, seen: &Seen<'_>, state: &Checkpoint, times: &Times) -> io::Result<()> {
    let Some(shown) = Shown::of(seen, state, times) else { return Ok(()) };
    let interval = shown.interval;
    let first = format!(
        "{},{},{},{},{},{},{},{},",
        hexadecimal(&state.run),
        interval.first,
        interval.last,
        interval.begin_ns,
        interval.end.boot_ns,
        moment(shown.begin, ""),
        moment(shown.end, ""),
        shown.clock()
    );
    for (stream, counts, inside) in shown.rows() {
        out.write_all(first.as_bytes())?;
        for text in [&stream.target, &stream.function, &stream.image] {
            field(out, text)?;
        }
        write!(out, "{}", hexadecimal(&stream.build_id))?;
        figures(counts, inside).try_for_each(|(_, number)| {
            out.write_all(b",")?;
            figure(out, number, "")
        })?;
        out.write_all(b",")?;
        buckets(out, counts, "", ":", [""; 2])?;
        writeln!(out, ",,,,{}", stream.partial)?;
    }
    for uncovered in &interval.uncovered {
        out.write_all(first.as_bytes())?;
        field(out, &uncovered.target)?;
        // Nothing is known, which is not 0.
        out.write_all(&[b','; 12 + LOSSES.len()])?;
        writeln!(out, ",{},{},{},", uncovered.time_ns, uncovered.reason, uncovered.processes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use edgelat_spool::{Clock, Gap};

    /// Formats a function whose name needs quotes in JSON and CSV, and an unmeasured target.
    fn shown(print: fn(&mut dyn Write, &Seen<'_>, &Checkpoint, &Times) -> io::Result<()>) -> String {
        let counts = Counts {
            entries: 5,
            in_flight: 1,
            lost: [0, -1, 2, 0, 0, 0, 0],
            sum_ns: 700,
            zero: 1,
            buckets: vec![(-180, 1), (-170, 1)],
            ..Counts::default()
        };
        let mut interval = Interval {
            end: Clock { boot_ns: 10_000_000_000, real_ns: 0, trust: Trust::Unset },
            gap: Some(Gap { errno: 28, since_ns: 1, intervals: 3 }),
            rows: vec![(1, counts)],
            ..Interval::default()
        };
        interval.uncovered("b,c", "budget", 2_500_000_000, 3);
        let stream = Stream {
            id: 1,
            target: "a".to_owned(),
            function: "f\"<int, 3>".to_owned(),
            partial: true,
            ..Stream::default()
        };
        let mut state = Checkpoint { streams: vec![stream], ..Checkpoint::default() };
        state.add(&interval);
        let mut out = Vec::new();
        print(&mut out, &Seen::Interval(&interval), &state, &Times::new()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_of_json_is_one_and_every_field_is_on_the_page() {
        let line: serde_json::Value = serde_json::from_str(&shown(json)).unwrap();
        let function = &line["functions"][0];
        assert_eq!(function["function"], "f\"<int, 3>");
        assert_eq!(function["buckets"], serde_json::json!([[-180, 1], [-170, 1]]));
        assert_eq!((&function["evicted"], &function["partial"]), (&(-1).into(), &true.into()));
        assert_eq!(line["uncovered"], serde_json::json!([["b,c", "budget", 2_500_000_000u64, 3]]));
        assert_eq!(
            (&line["begin_ns"], &line["clock"], &line["late"]),
            (&().into(), &"unknown".into(), &3.into())
        );
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SPOOL.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, exported) = page.split_once("## What `spool export` writes").unwrap();
        let rows = exported.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        let documented: BTreeSet<&str> =
            rows.flat_map(|names| names.split(['`', ',', ' '])).filter(|name| !name.is_empty()).collect();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let written = [keys(&line), keys(function)].concat();
        assert_eq!(documented, written.iter().map(String::as_str).collect());
    }

    #[test]
    fn lines_of_csv_have_as_many_fields_as_there_are_columns() {
        let mut header = Vec::new();
        csv_header(&mut header).unwrap();
        let columns = String::from_utf8(header).unwrap().trim_end().split(',').count();
        let lines = shown(csv);
        let (function, uncovered) = lines.split_once('\n').unwrap();
        assert!(function.contains(",a,\"f\"\"<int, 3>\",,,5,3,1,0,-1,2,"), "{function}");
        assert!(function.ends_with(",0,0,700,,,1,-180:1 -170:1,,,,true"), "{function}");
        // One comma is inside quotes.
        assert_eq!([function, uncovered.trim_end()].map(|line| line.split(',').count() - 1), [columns; 2]);
        assert!(uncovered.ends_with(",2500000000,budget,3,\n"), "{uncovered}");
    }

    #[test]
    fn a_person_reads_what_happened_and_what_is_missing() {
        let text = shown(text);
        for part in [
            "time unknown, 0.0 s after boot",
            "a/f",
            "5 calls",
            "only a part of its calls",
            "1 inside",
            "2 ended_inside",
            "No space left",
            "for 2.5 s: budget (3)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
