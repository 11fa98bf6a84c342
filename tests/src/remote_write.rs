//! Prometheus's translation of OTLP, for a Prometheus built without its OTLP receiver, as Debian's
//! are.
//!
//! Its own receiver makes the same series: `tests/tests/e2e/prometheus_otlp.rs` compares them if a
//! Prometheus with the receiver is available.
//!
//! Points are sent by remote write 1.0, with the names and labels of the specification
//! (OpenTelemetry, *Prometheus and OpenMetrics Compatibility*: unit and `_total` after the name,
//! `job` and `instance` of the resource, exponential histograms as native ones, whose buckets have
//! the index of their upper bound). Acceptance and computations remain Prometheus's own.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use edgelat_wire::protobuf::{bytes, double, number, signed, text};

use crate::otlp::{Figure, Labels, Point};
use crate::patience;

/// Difference of a Prometheus bucket index from the OpenTelemetry index.
const INDEX_STEP: i32 = 1;

/// Writes points to a Prometheus on a port of this machine; returns status and answer.
pub fn write(port: u16, points: &[Point]) -> (u16, Vec<u8>) {
    let mut series: BTreeMap<Labels, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for point in points {
        // Samples are field 2, histograms field 4.
        let (field, message) = match &point.figure {
            Figure::Number(value) => (2, sample(*value, point.time_ns)),
            Figure::Histogram { count, sum, zero, buckets } => {
                (4, histogram(*count, *sum, *zero, buckets, point.time_ns))
            }
        };
        series.entry(labels(point)).or_default().push((field, message));
    }
    let mut request = Vec::new();
    for (labels, mut messages) in series {
        let mut one = Vec::new();
        for (name, value) in &labels {
            let mut label = Vec::new();
            text(&mut label, 1, name);
            text(&mut label, 2, value);
            bytes(&mut one, 1, &label);
        }
        messages.sort_by_key(|(field, _)| *field);
        messages.iter().for_each(|(field, message)| bytes(&mut one, *field, message));
        bytes(&mut request, 1, &one);
    }
    post(port, &snappy(&request))
}

fn labels(point: &Point) -> Labels {
    let unit = if point.unit == "s" { "_seconds" } else { "" };
    let total = if point.monotonic { "_total" } else { "" };
    let mut labels = point.attributes.clone();
    labels.insert("__name__".to_owned(), format!("{}{unit}{total}", point.metric));
    labels.insert("job".to_owned(), point.resource["service.name"].clone());
    labels.insert("instance".to_owned(), point.resource["service.instance.id"].clone());
    labels
}

/// `prometheus.Sample`.
fn sample(value: f64, time_ns: u64) -> Vec<u8> {
    let mut out = Vec::new();
    double(&mut out, 1, value);
    number(&mut out, 2, time_ns / 1_000_000);
    out
}

/// `prometheus.Histogram`.
fn histogram(count: u64, sum: f64, zero: u64, buckets: &[(i32, u64)], time_ns: u64) -> Vec<u8> {
    let mut out = Vec::new();
    number(&mut out, 1, count);
    double(&mut out, 3, sum);
    signed(&mut out, 4, 3);
    double(&mut out, 5, (-24f64).exp2());
    number(&mut out, 6, zero);
    // A span for each bucket: its distance from the previous bucket, and its length.
    let (mut next, mut before, mut deltas) = (0, 0, Vec::new());
    for (index, count) in buckets {
        let mut span = Vec::new();
        signed(&mut span, 1, i64::from(index + INDEX_STEP - next));
        number(&mut span, 2, 1);
        bytes(&mut out, 11, &span);
        next = index + INDEX_STEP + 1;
        edgelat_wire::postcard::put_signed(&mut deltas, *count as i64 - before);
        before = *count as i64;
    }
    if !deltas.is_empty() {
        bytes(&mut out, 12, &deltas);
    }
    number(&mut out, 15, time_ns / 1_000_000);
    out
}

/// Snappy's block format with literals only: the total length, and pieces of up to 64 KiB after
/// their lengths.
fn snappy(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    edgelat_wire::postcard::put(&mut out, plain.len() as u64);
    for piece in plain.chunks(1 << 16) {
        // Tag 61: two bytes of length minus one.
        out.push(61 << 2);
        out.extend(((piece.len() - 1) as u16).to_le_bytes());
        out.extend_from_slice(piece);
    }
    out
}

fn post(port: u16, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a Prometheus");
    stream.set_read_timeout(Some(patience())).expect("a timeout");
    let head = format!(
        "POST /api/v1/write HTTP/1.0\r\nContent-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
         X-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_off(end + 4))
}
