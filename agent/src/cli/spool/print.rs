//! The records for a person, as JSON lines, and as CSV (docs/SPOOL.md).

use std::io::{self, Write};

use edgelat_spool::{Checkpoint, Counts, Interval, LOSSES, Seen, Stream, Times, Trust};
use nix::errno::Errno;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::utc::utc;

/// Name and version of a JSON line.
const SCHEMA: &str = "edgelat.spool/1";

/// An interval with what is known around it.
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

    /// How far the time can be believed.
    fn clock(&self) -> &'static str {
        match self.end {
            None => "unknown",
            Some((_, Trust::Synchronised)) => "synchronised",
            Some(_) => "plausible",
        }
    }

    /// What happened to each stream: its counts, and how many calls are inside at the end.
    fn rows(&self) -> impl Iterator<Item = (&'a Stream, &'a Counts, i64)> {
        let state = self.state;
        self.interval.rows.iter().filter_map(move |(id, counts)| {
            let stream = state.streams.iter().find(|stream| stream.id == *id)?;
            let inside = state.rows.iter().find(|row| row.0 == *id).map_or(0, |row| row.1.in_flight);
            Some((stream, counts, inside))
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// For a person.
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
    writeln!(out, "{begin}  {length:.1} s  run {}  interval {} to {}", hexadecimal(&state.run[..4]), interval.first, interval.last)?;
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
        for (name, lost) in LOSSES.iter().zip(counts.lost).filter(|(_, lost)| *lost != 0) {
            writeln!(out, "    not measured: {lost} {name}")?;
        }
    }
    for uncovered in &interval.uncovered {
        let time = uncovered.time_ns as f64 / 1e9;
        writeln!(out, "  {} was not measured for {time:.1} s: {}", uncovered.target, uncovered.reason)?;
    }
    if let Some(gap) = &interval.gap {
        let reason = Errno::from_raw(gap.errno as i32).desc();
        writeln!(out, "  the disk did not take this at once ({reason}); {} intervals came late", gap.intervals)?;
    }
    Ok(())
}

/// Each as an object.
struct Objects<T>(T);

impl Serialize for Objects<&Shown<'_>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (shown, interval) = (self.0, self.0.interval);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", SCHEMA)?;
        map.serialize_entry("run", &hexadecimal(&shown.state.run))?;
        map.serialize_entry("boot", &hexadecimal(&shown.state.boot))?;
        map.serialize_entry("first", &interval.first)?;
        map.serialize_entry("last", &interval.last)?;
        map.serialize_entry("begin_boot_ns", &interval.begin_ns)?;
        map.serialize_entry("end_boot_ns", &interval.end.boot_ns)?;
        map.serialize_entry("begin_ns", &shown.begin.map(|(ns, _)| ns))?;
        map.serialize_entry("end_ns", &shown.end.map(|(ns, _)| ns))?;
        map.serialize_entry("clock", shown.clock())?;
        let functions: Vec<Objects<(&Stream, &Counts, i64)>> = shown.rows().map(Objects).collect();
        map.serialize_entry("functions", &functions)?;
        let uncovered: Vec<(&str, &str, u64)> = (interval.uncovered.iter())
            .map(|uncovered| (uncovered.target.as_str(), uncovered.reason.as_str(), uncovered.time_ns))
            .collect();
        map.serialize_entry("uncovered", &uncovered)?;
        map.serialize_entry("late", &interval.gap.map_or(0, |gap| gap.intervals))?;
        map.end()
    }
}

impl Serialize for Objects<(&Stream, &Counts, i64)> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (stream, counts, inside) = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("target", stream.target.as_str())?;
        map.serialize_entry("function", stream.function.as_str())?;
        map.serialize_entry("image", stream.image.as_str())?;
        map.serialize_entry("build_id", &hexadecimal(&stream.build_id))?;
        map.serialize_entry("language", stream.language.as_str())?;
        map.serialize_entry("line", &u64::from(stream.line))?;
        map.serialize_entry("entries", &counts.entries)?;
        map.serialize_entry("exits", &counts.exits())?;
        map.serialize_entry("in_flight", &inside)?;
        for (name, lost) in LOSSES.iter().zip(&counts.lost) {
            map.serialize_entry(*name, lost)?;
        }
        map.serialize_entry("unmatched_exits", &counts.unmatched)?;
        map.serialize_entry("sum_ns", &counts.sum_ns)?;
        map.serialize_entry("zero_count", &counts.zero)?;
        map.serialize_entry("buckets", &counts.buckets)?;
        map.end()
    }
}

/// As a JSON line.
pub(super) fn json(
    out: &mut dyn Write,
    seen: &Seen<'_>,
    state: &Checkpoint,
    times: &Times,
) -> io::Result<()> {
    let Some(shown) = Shown::of(seen, state, times) else { return Ok(()) };
    serde_json::to_writer(&mut *out, &Objects(&shown))?;
    out.write_all(b"\n")
}

/// The names of the columns.
pub(super) fn csv_header(out: &mut dyn Write) -> io::Result<()> {
    write!(out, "run,first,last,begin_boot_ns,end_boot_ns,begin_ns,end_ns,clock,target,function,image,build_id,entries,exits,in_flight")?;
    LOSSES.iter().try_for_each(|name| write!(out, ",{name}"))?;
    writeln!(out, ",unmatched_exits,sum_ns,zero_count,buckets,uncovered_ns,uncovered_reason")
}

/// A field, in quotes where it has to be (RFC 4180).
fn field(out: &mut dyn Write, text: &str) -> io::Result<()> {
    match text.contains([',', '"', '\n', '\r']) {
        true => write!(out, "\"{}\",", text.replace('"', "\"\"")),
        false => write!(out, "{text},"),
    }
}

/// As lines of CSV: one for each function, and one for each reason for which a target was not measured.
pub(super) fn csv(
    out: &mut dyn Write,
    seen: &Seen<'_>,
    state: &Checkpoint,
    times: &Times,
) -> io::Result<()> {
    let Some(shown) = Shown::of(seen, state, times) else { return Ok(()) };
    let interval = shown.interval;
    let moment = |time: Option<(u64, Trust)>| time.map_or_else(String::new, |(ns, _)| ns.to_string());
    let first = format!(
        "{},{},{},{},{},{},{},{},",
        hexadecimal(&state.run),
        interval.first,
        interval.last,
        interval.begin_ns,
        interval.end.boot_ns,
        moment(shown.begin),
        moment(shown.end),
        shown.clock()
    );
    for (stream, counts, inside) in shown.rows() {
        out.write_all(first.as_bytes())?;
        for text in [&stream.target, &stream.function, &stream.image] {
            field(out, text)?;
        }
        write!(out, "{},{},{},{inside}", hexadecimal(&stream.build_id), counts.entries, counts.exits())?;
        counts.lost.iter().try_for_each(|lost| write!(out, ",{lost}"))?;
        write!(out, ",{},{},{},", counts.unmatched, counts.sum_ns, counts.zero)?;
        for (place, (index, count)) in counts.buckets.iter().enumerate() {
            let space = if place > 0 { " " } else { "" };
            write!(out, "{space}{index}:{count}")?;
        }
        out.write_all(b",,\n")?;
    }
    for uncovered in &interval.uncovered {
        out.write_all(first.as_bytes())?;
        field(out, &uncovered.target)?;
        // Nothing is known, which is not 0.
        out.write_all(&[b','; 9 + LOSSES.len()])?;
        writeln!(out, ",{},{}", uncovered.time_ns, uncovered.reason)?;
    }
    Ok(())
}
