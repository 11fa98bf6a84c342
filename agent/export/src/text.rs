//! The text formats: 0.0.4, which all scrapers read, and OpenMetrics 1.0.
//!
//! The differences are small: OpenMetrics names a family without the `_total` of its samples, has
//! units and the time of creation, writes whole bounds as `1.0`, and ends with `# EOF`, so that a
//! truncated answer is detected.

use std::fmt::Write as _;

use crate::bounds::{Bounds, in_go};
use crate::family::{Family, Kind, Metric, Number, Value};

/// One of the two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// Encodes families as text.
pub fn write(families: &[Family], text: Text, bounds: Bounds) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.metrics.is_empty()) {
        head(&mut out, family, text);
        for metric in &family.metrics {
            match &metric.value {
                Value::Number(number) => {
                    sample(&mut out, family, family.suffix(), &metric.labels, None, number);
                }
                Value::Histogram(counts) => {
                    for (bound, count) in bounds.cumulative(counts) {
                        let bound = in_go(bound, text == Text::OpenMetrics);
                        sample(&mut out, family, "_bucket", &metric.labels, Some(&bound), &count);
                    }
                    let count = counts.exits();
                    sample(&mut out, family, "_bucket", &metric.labels, Some("+Inf"), &count);
                    let sum = Number::seconds(counts.sum_ns);
                    sample(&mut out, family, "_sum", &metric.labels, None, &sum);
                    sample(&mut out, family, "_count", &metric.labels, None, &count);
                }
            }
            created(&mut out, family, metric, text);
        }
    }
    if text == Text::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn head(out: &mut String, family: &Family, text: Text) {
    let (name, kind) = match (text, family.kind) {
        (Text::OpenMetrics, kind) => (family.name.to_owned(), kind),
        // Without a type of its own, an info metric is a gauge.
        (Text::Classic, Kind::Info) => (format!("{}_info", family.name), Kind::Gauge),
        (Text::Classic, kind) => (format!("{}{}", family.name, family.suffix()), kind),
    };
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Info => "info",
        Kind::Histogram => "histogram",
    };
    // Writing to a text cannot fail.
    _ = writeln!(out, "# HELP {name} {}.", family.help);
    _ = writeln!(out, "# TYPE {name} {kind}");
    if text == Text::OpenMetrics && !family.unit.is_empty() {
        _ = writeln!(out, "# UNIT {name} {}", family.unit);
    }
}

fn created(out: &mut String, family: &Family, metric: &Metric, text: Text) {
    let counts = matches!(family.kind, Kind::Counter | Kind::Histogram);
    if let Some(ns) = metric.created_ns.filter(|_| counts && text == Text::OpenMetrics) {
        // Milliseconds, as Prometheus gets from protobuf as well.
        let since = Number::seconds(ns / 1_000_000 * 1_000_000);
        sample(out, family, "_created", &metric.labels, None, &since);
    }
}

fn sample(
    out: &mut String,
    family: &Family,
    suffix: &str,
    labels: &[(&'static str, String)],
    bound: Option<&str>,
    value: &dyn std::fmt::Display,
) {
    out.push_str(family.name);
    out.push_str(suffix);
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let mut before = '{';
    for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
        out.push(before);
        out.push_str(name);
        out.push_str("=\"");
        escape(out, value);
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    _ = writeln!(out, " {value}");
}

fn escape(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            character => out.push(character),
        }
    }
}
