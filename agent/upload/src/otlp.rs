//! OTLP messages: `ExportMetricsServiceRequest` and its answer, `ExportMetricsServiceResponse`
//! (opentelemetry-proto 1.x: collector/metrics/v1/metrics_service.proto, metrics/v1/metrics.proto).

use edgelat_histogram::{INDEX_MIN, SCALE};
use edgelat_spool::Counts;
use edgelat_wire::postcard::put;
use edgelat_wire::protobuf::{Fields, Malformed, Value, bytes, double, fixed, number, signed, text};

/// Name of the scope of all metrics.
pub const SCOPE: &str = "edgelat";

/// AGGREGATION_TEMPORALITY_CUMULATIVE.
const CUMULATIVE: u64 = 2;

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An exponential histogram.
    Histogram,
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
}

/// A metric. Prometheus derives the names of docs/METRICS.md: `_seconds` from the unit, `_total`
/// from a counter.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its unit in UCUM notation; text in braces names the counted thing and is no unit.
    pub unit: &'static str,
    /// Its description, a sentence without a full stop.
    pub description: &'static str,
    /// Its kind.
    pub kind: Kind,
}

const fn metric(name: &'static str, unit: &'static str, kind: Kind, description: &'static str) -> Metric {
    Metric { name, unit, description, kind }
}

/// Places of the metrics in [`METRICS`].
pub const DURATION: usize = 0;
/// See [`DURATION`].
pub const CALLS: usize = 1;
/// See [`DURATION`].
pub const INSIDE: usize = 2;
/// See [`DURATION`].
pub const ENDED_INSIDE: usize = 3;
/// See [`DURATION`].
pub const LOST: usize = 4;
/// See [`DURATION`].
pub const UNMATCHED: usize = 5;
/// See [`DURATION`].
pub const BIAS: usize = 6;
/// See [`DURATION`].
pub const UNCOVERED: usize = 7;
/// See [`DURATION`].
pub const UNTIL_TAIL_CALL: usize = 8;
/// See [`DURATION`].
pub const PROBES_INSIDE: usize = 9;
/// See [`DURATION`].
pub const EXCEPTIONS: usize = 10;
/// See [`DURATION`].
pub const UNCOVERED_PROCESSES: usize = 11;
/// See [`DURATION`].
pub const SUSPENDED: usize = 12;
/// See [`DURATION`].
pub const PARTIAL: usize = 13;

/// All metrics that are sent.
pub const METRICS: [Metric; 14] = [
    metric(
        "edgelat_function_duration",
        "s",
        Kind::Histogram,
        "How long calls of a function took, what the probes add included",
    ),
    metric("edgelat_function_calls", "{call}", Kind::Counter, "Calls that began"),
    metric("edgelat_function_inside_calls", "{call}", Kind::Gauge, "Calls that have not ended"),
    metric(
        "edgelat_function_ended_inside_calls",
        "{call}",
        Kind::Gauge,
        "Calls that had not ended when their process did",
    ),
    metric(
        "edgelat_function_lost_calls",
        "{call}",
        Kind::Counter,
        "Calls that began and are not in the histogram, by reason",
    ),
    metric(
        "edgelat_function_unmatched_exits",
        "{call}",
        Kind::Counter,
        "Ends of calls that began before the function was measured",
    ),
    metric(
        "edgelat_function_bias",
        "s",
        Kind::Gauge,
        "What the probes add to each duration; not subtracted from anything here",
    ),
    metric(
        "edgelat_target_uncovered",
        "s",
        Kind::Gauge,
        "For how long processes of a target were not measured in the interval that ends here, by reason",
    ),
    metric(
        "edgelat_function_until_tail_call",
        "{function}",
        Kind::Gauge,
        "1 where some calls leave by a jump and are measured up to there only",
    ),
    metric(
        "edgelat_function_probes_inside",
        "s",
        Kind::Counter,
        "Of the sum of the durations, what probes took that were hit inside of the calls",
    ),
    metric(
        "edgelat_function_exceptions",
        "{call}",
        Kind::Counter,
        "Of the calls that were measured to their end, those that an exception or panic left",
    ),
    metric(
        "edgelat_target_uncovered_processes",
        "{process}",
        Kind::Gauge,
        "Children that ended before they could be covered in the interval that ends here, by reason",
    ),
    metric(
        "edgelat_function_suspended",
        "s",
        Kind::Counter,
        "Of the sum of the durations of whole awaits, when they were suspended",
    ),
    metric(
        "edgelat_function_partial",
        "{function}",
        Kind::Gauge,
        "1 where only a part of the calls of a function of Python is seen, and the figures are of that part",
    ),
];

/// Attributes, each an encoded `KeyValue`.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<Vec<u8>>);

impl Attributes {
    /// Attributes from pairs, without empty values.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut attributes = Self::default();
        for (name, value) in pairs {
            if !value.is_empty() {
                attributes.push(name, |out| bytes(out, 1, value.as_bytes()));
            }
        }
        attributes
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.push(name, |out| number(out, 3, value));
    }

    /// Returns a copy with another text.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut more = self.clone();
        more.push(name, |out| bytes(out, 1, value.as_bytes()));
        more
    }

    /// `KeyValue`: key 1, value 2; `AnyValue`: string 1, int 3.
    fn push(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        let (mut any, mut pair) = (Vec::new(), Vec::new());
        value(&mut any);
        bytes(&mut pair, 1, name.as_bytes());
        bytes(&mut pair, 2, &any);
        self.0.push(pair);
    }

    fn put(&self, out: &mut Vec<u8>, field: u64) {
        self.0.iter().for_each(|pair| bytes(out, field, pair));
    }
}

/// Beginning and moment of a point, in nanoseconds since 1970. A beginning of 0 is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The beginning of the stream.
    pub start_ns: u64,
    /// The moment of the point.
    pub time_ns: u64,
}

/// Value of a point that is no histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A count.
    Whole(i64),
    /// Nanoseconds, sent as seconds.
    Seconds(u64),
}

/// A request that is being filled: points of one resource.
#[derive(Debug)]
pub struct Request {
    resource: Vec<u8>,
    scope: Vec<u8>,
    /// Encoded points for each of [`METRICS`].
    points: [Vec<u8>; METRICS.len()],
    count: u64,
}

impl Request {
    /// An empty request: its resource, and the version of edgelat that measured it.
    pub fn new(resource: &Attributes, version: &str) -> Self {
        let (mut out, mut scope) = (Vec::new(), Vec::new());
        resource.put(&mut out, 1);
        text(&mut scope, 1, SCOPE);
        text(&mut scope, 2, version);
        Self { resource: out, scope, points: Default::default(), count: 0 }
    }

    /// Number of points in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Approximate size in bytes.
    pub fn length(&self) -> usize {
        self.points.iter().map(Vec::len).sum::<usize>() + self.resource.len()
    }

    /// Adds a histogram, `ExponentialHistogramDataPoint`.
    pub fn histogram(&mut self, attributes: &Attributes, span: Span, counts: &Counts) {
        let mut out = Vec::new();
        attributes.put(&mut out, 1);
        span.put(&mut out);
        fixed(&mut out, 4, counts.exits());
        double(&mut out, 5, counts.sum_ns as f64 / 1e9);
        signed(&mut out, 6, SCALE.into());
        fixed(&mut out, 7, counts.zero);
        if let (Some((first, _)), Some((last, _))) = (counts.buckets.first(), counts.buckets.last()) {
            let (mut buckets, mut list) = (Vec::new(), Vec::new());
            let mut occupied = counts.buckets.iter().peekable();
            for index in *first..=*last {
                let here = occupied.next_if(|(bucket, _)| *bucket == index);
                put(&mut list, here.map_or(0, |(_, count)| *count));
            }
            signed(&mut buckets, 1, (*first).into());
            bytes(&mut buckets, 2, &list);
            bytes(&mut out, 8, &buckets);
        }
        double(&mut out, 14, (f64::from(INDEX_MIN) / f64::from(1 << SCALE)).exp2());
        self.push(DURATION, &out);
    }

    /// Adds a number, `NumberDataPoint`, to a metric that is no histogram.
    pub fn number(&mut self, metric: usize, attributes: &Attributes, span: Span, value: Number) {
        let mut out = Vec::new();
        span.put(&mut out);
        match value {
            Number::Whole(value) => fixed(&mut out, 6, value as u64),
            Number::Seconds(ns) => double(&mut out, 4, ns as f64 / 1e9),
        }
        attributes.put(&mut out, 7);
        self.push(metric, &out);
    }

    fn push(&mut self, metric: usize, point: &[u8]) {
        if let Some(points) = self.points.get_mut(metric) {
            // The list of points is field 1 in all three kinds.
            bytes(points, 1, point);
            self.count += 1;
        }
    }

    /// Encodes the whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut metrics = Vec::with_capacity(self.length() + 1024);
        bytes(&mut metrics, 1, &self.scope);
        for (metric, points) in METRICS.iter().zip(&self.points).filter(|(_, points)| !points.is_empty()) {
            let mut data = points.clone();
            let mut out = Vec::with_capacity(data.len() + 256);
            text(&mut out, 1, metric.name);
            text(&mut out, 2, metric.description);
            text(&mut out, 3, metric.unit);
            if metric.kind != Kind::Gauge {
                number(&mut data, 2, CUMULATIVE);
            }
            if metric.kind == Kind::Counter {
                number(&mut data, 3, 1);
            }
            let field = match metric.kind {
                Kind::Gauge => 5,
                Kind::Counter => 7,
                Kind::Histogram => 10,
            };
            bytes(&mut out, field, &data);
            bytes(&mut metrics, 2, &out);
        }
        let mut of_resource = Vec::with_capacity(metrics.len() + self.resource.len() + 32);
        bytes(&mut of_resource, 1, &self.resource);
        bytes(&mut of_resource, 2, &metrics);
        let mut request = Vec::with_capacity(of_resource.len() + 16);
        bytes(&mut request, 1, &of_resource);
        request
    }
}

impl Span {
    fn put(self, out: &mut Vec<u8>) {
        if self.start_ns > 0 {
            fixed(out, 2, self.start_ns);
        }
        fixed(out, 3, self.time_ns);
    }
}

/// Points that a receiver did not take of a request that it accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partial {
    /// Number of rejected points.
    pub rejected: u64,
    /// The reason, or another message.
    pub message: String,
}

/// Maximum length of a kept message, in bytes.
pub const MESSAGE_BYTES: usize = 512;

/// Decodes `ExportMetricsServiceResponse`. An empty one means that everything was accepted.
///
/// # Errors
/// If the message is malformed.
pub fn response(message: &[u8]) -> Result<Partial, Malformed> {
    let mut partial = Partial::default();
    for field in Fields::of(message) {
        let (1, Value::Bytes(inner)) = field? else { continue };
        for field in Fields::of(inner) {
            match field? {
                // An int64: a negative number means nothing.
                (1, Value::Number(rejected)) => {
                    partial.rejected = u64::try_from(rejected as i64).unwrap_or(0)
                }
                (2, Value::Bytes(message)) => partial.message = readable(message),
                _ => {}
            }
        }
    }
    Ok(partial)
}

/// Decodes a response of unknown type: it must have known fields and no others.
pub fn known_response(message: &[u8]) -> Option<Partial> {
    for field in Fields::of(message) {
        let (1, Value::Bytes(inner)) = field.ok()? else { return None };
        let known = |field| matches!(field, Ok((1, Value::Number(_)) | (2, Value::Bytes(_))));
        if !Fields::of(inner).all(known) {
            return None;
        }
    }
    response(message).ok()
}

/// Decodes a JSON response (OTLP, *JSON Protobuf Encoding*); names in either spelling, no others.
pub fn response_json(text: &[u8]) -> Option<Partial> {
    let serde_json::Value::Object(response) = serde_json::from_slice(text).ok()? else { return None };
    let mut partial = Partial::default();
    for (name, value) in &response {
        let inner = match (name.as_str(), value) {
            ("partialSuccess" | "partial_success", serde_json::Value::Object(inner)) => inner,
            ("partialSuccess" | "partial_success", serde_json::Value::Null) => continue,
            _ => return None,
        };
        for (name, value) in inner {
            match name.as_str() {
                "rejectedDataPoints" | "rejected_data_points" => {
                    // An int64 is a text in JSON; some programs write a number.
                    let rejected = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
                    partial.rejected = u64::try_from(rejected).unwrap_or(0);
                }
                "errorMessage" | "error_message" => partial.message = readable(value.as_str()?.as_bytes()),
                _ => return None,
            }
        }
    }
    Some(partial)
}

/// A foreign text in one line, cut to the limit.
pub fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MESSAGE_BYTES)]);
    let words: Vec<&str> =
        text.split(|c: char| c.is_control() || c == ' ').filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
