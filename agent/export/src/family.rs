//! Metrics independent of a format.

use std::fmt;

use edgelat_spool::Counts;

/// Kind of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that only grows while an agent runs. Its samples end in `_total`.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Information in labels; the value is 1. Its samples end in `_info`.
    Info,
    /// Durations.
    Histogram,
}

/// All metrics with one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// Name without `_total` or `_info`. It ends with its unit, if it has one.
    pub name: &'static str,
    /// Its description, a sentence without a full stop.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// `seconds`, `bytes`, `ratio`, or nothing for plain numbers.
    pub unit: &'static str,
    /// A metric for each set of labels.
    pub metrics: Vec<Metric>,
}

/// A set of labels with its value.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
    /// Start of counting, in nanoseconds since 1970, if known.
    pub created_ns: Option<u64>,
}

/// A value.
#[derive(Debug, Clone)]
pub enum Value {
    /// A number.
    Number(Number),
    /// A histogram.
    Histogram(Counts),
}

/// An exact decimal number: `digits / 10^decimals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    digits: u64,
    decimals: u32,
}

impl Number {
    /// A whole number.
    pub fn whole(digits: u64) -> Self {
        Self { digits, decimals: 0 }
    }

    /// Nanoseconds, as seconds.
    pub fn seconds(ns: u64) -> Self {
        Self { digits: ns, decimals: 9 }
    }

    /// Millionths, as a ratio.
    pub fn ratio(ppm: u64) -> Self {
        Self { digits: ppm, decimals: 6 }
    }

    /// The nearest floating-point number.
    pub fn as_f64(self) -> f64 {
        self.digits as f64 / 10f64.powi(self.decimals as i32)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10u64.pow(self.decimals);
        let (whole, rest) = (self.digits / unit, self.digits % unit);
        if rest == 0 {
            return write!(out, "{whole}");
        }
        let rest = format!("{rest:0width$}", width = self.decimals as usize);
        write!(out, "{whole}.{}", rest.trim_end_matches('0'))
    }
}

impl Family {
    /// A family without metrics.
    pub fn new(name: &'static str, kind: Kind, unit: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, unit, metrics: Vec::new() }
    }

    /// Adds a number.
    pub fn number(&mut self, labels: Vec<(&'static str, String)>, number: Number, created_ns: Option<u64>) {
        self.metrics.push(Metric { labels, value: Value::Number(number), created_ns });
    }

    /// Suffix of the only sample's name; a histogram has others.
    pub fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }
}

/// Makes a label's value safe. Programs choose the names of their functions, and Prometheus' text
/// parser takes a NUL for the end of the input.
pub fn label(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_exactly() {
        for (number, text) in [
            (Number::whole(0), "0"),
            (Number::whole(u64::MAX), "18446744073709551615"),
            (Number::seconds(1), "0.000000001"),
            (Number::seconds(1_500_000_000), "1.5"),
            (Number::seconds(3_000_000_000), "3"),
            (Number::seconds(u64::MAX), "18446744073.709551615"),
            (Number::ratio(12_345), "0.012345"),
        ] {
            assert_eq!(number.to_string(), text);
            assert_eq!(number.as_f64(), text.parse::<f64>().unwrap(), "{text}");
        }
    }
}
