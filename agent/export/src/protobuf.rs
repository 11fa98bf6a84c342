//! The protobuf format: `io.prometheus.client.MetricFamily` messages (prometheus/client_model,
//! metrics.proto), each after its length.
//!
//! It is the only format with native histograms. The few messages are written by hand: field
//! numbers stand where they are used. A histogram has native and classic buckets; servers choose.

use edgelat_histogram::{INDEX_MIN, SCALE};
use edgelat_spool::Counts;
use edgelat_wire::postcard::{put, put_signed};
use edgelat_wire::protobuf::{bytes, double, number, signed};

use crate::bounds::Bounds;
use crate::family::{Family, Kind, Metric, Number, Value};

/// Added to a bucket index for schema 3: Prometheus counts by upper bound, OpenTelemetry by lower.
const INDEX_STEP: i32 = 1;

/// Encodes families as bytes.
pub fn write(families: &[Family], bounds: Bounds) -> Vec<u8> {
    let mut out = Vec::new();
    for family in families.iter().filter(|family| !family.metrics.is_empty()) {
        let message = of_family(family, bounds);
        put(&mut out, message.len() as u64);
        out.extend(message);
    }
    out
}

fn of_family(family: &Family, bounds: Bounds) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, format!("{}{}", family.name, family.suffix()).as_bytes());
    bytes(&mut out, 2, format!("{}.", family.help).as_bytes());
    // enum MetricType
    let kind = match family.kind {
        Kind::Counter => 0,
        Kind::Gauge | Kind::Info => 1,
        Kind::Histogram => 4,
    };
    number(&mut out, 3, kind);
    for metric in &family.metrics {
        bytes(&mut out, 4, &of_metric(family.kind, metric, bounds));
    }
    if !family.unit.is_empty() {
        bytes(&mut out, 5, family.unit.as_bytes());
    }
    out
}

fn of_metric(kind: Kind, metric: &Metric, bounds: Bounds) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in &metric.labels {
        let mut pair = Vec::new();
        bytes(&mut pair, 1, name.as_bytes());
        bytes(&mut pair, 2, value.as_bytes());
        bytes(&mut out, 1, &pair);
    }
    match &metric.value {
        Value::Number(value) => {
            let mut message = Vec::new();
            double(&mut message, 1, value.as_f64());
            match kind {
                Kind::Counter => {
                    timestamp(&mut message, 3, metric.created_ns);
                    bytes(&mut out, 3, &message);
                }
                _ => bytes(&mut out, 2, &message),
            }
        }
        Value::Histogram(counts) => bytes(&mut out, 7, &of_histogram(counts, metric.created_ns, bounds)),
    }
    out
}

fn of_histogram(counts: &Counts, created_ns: Option<u64>, bounds: Bounds) -> Vec<u8> {
    let mut out = Vec::new();
    number(&mut out, 1, counts.exits());
    double(&mut out, 2, Number::seconds(counts.sum_ns).as_f64());
    for (bound, count) in bounds.cumulative(counts).chain([(f64::INFINITY, counts.exits())]) {
        let mut bucket = Vec::new();
        number(&mut bucket, 1, count);
        double(&mut bucket, 2, bound);
        bytes(&mut out, 3, &bucket);
    }
    signed(&mut out, 5, SCALE.into());
    double(&mut out, 6, (f64::from(INDEX_MIN) / f64::from(1 << SCALE)).exp2());
    number(&mut out, 7, counts.zero);
    let mut deltas = Vec::new();
    let (mut next, mut before) = (0, 0);
    let mut buckets = counts.buckets.as_slice();
    while let Some((first, _)) = buckets.first() {
        // A span: adjacent buckets, and the number of empty ones before them.
        let length = (buckets.iter().zip(*first..)).take_while(|((index, _), at)| index == at).count();
        let (run, rest) = buckets.split_at(length);
        let mut span = Vec::new();
        signed(&mut span, 1, i64::from(first + INDEX_STEP - next));
        number(&mut span, 2, length as u64);
        bytes(&mut out, 12, &span);
        next = first + INDEX_STEP + length as i32;
        for (_, count) in run {
            put_signed(&mut deltas, (*count as i64).wrapping_sub(before));
            before = *count as i64;
        }
        buckets = rest;
    }
    if !deltas.is_empty() {
        bytes(&mut out, 13, &deltas);
    }
    timestamp(&mut out, 15, created_ns);
    out
}

/// `google.protobuf.Timestamp`.
fn timestamp(out: &mut Vec<u8>, field: u64, ns: Option<u64>) {
    if let Some(ns) = ns {
        let mut message = Vec::new();
        number(&mut message, 1, ns / 1_000_000_000);
        number(&mut message, 2, ns % 1_000_000_000 / 1_000_000 * 1_000_000);
        bytes(out, field, &message);
    }
}
