//! A request as JSON, for transport by hand: the encoding that OTLP has beside protobuf
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>). Names are in
//! lowerCamelCase, 64-bit numbers are texts, enums are numbers.
//!
//! It is derived from the protobuf message, so that one place defines the data sent. This module
//! maps fields to names: the fields that [`crate::otlp`] writes, and no others.

use std::io::Write as _;

use edgelat_wire::protobuf::{Fields, Malformed, Value, packed, unsigned_as_signed};

/// JSON form of a field's value.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A text.
    Text,
    /// `int64`, and `fixed64`: a text of digits.
    Whole,
    /// `sfixed64`: a text of digits with a sign.
    Signed,
    /// `double`.
    Real,
    /// `sint32`: a number.
    Small,
    /// An enum: its number.
    Word,
    /// `bool`.
    Flag,
    /// A packed list of `uint64`: texts of digits.
    List,
    /// A message.
    One(Message),
    /// A message, followed by others of the same kind.
    Each(Message),
}

/// The fields of a message: number, name, kind.
type Message = &'static [(u64, &'static str, Kind)];

// collector/metrics/v1/metrics_service.proto, metrics/v1/metrics.proto,
// resource/v1/resource.proto and common/v1/common.proto of opentelemetry-proto 1.x.
const REQUEST: Message = &[(1, "resourceMetrics", Kind::Each(RESOURCE_METRICS))];
const RESOURCE_METRICS: Message =
    &[(1, "resource", Kind::One(RESOURCE)), (2, "scopeMetrics", Kind::Each(SCOPE_METRICS))];
const RESOURCE: Message = &[(1, "attributes", Kind::Each(KEY_VALUE))];
const KEY_VALUE: Message = &[(1, "key", Kind::Text), (2, "value", Kind::One(ANY_VALUE))];
const ANY_VALUE: Message = &[(1, "stringValue", Kind::Text), (3, "intValue", Kind::Whole)];
const SCOPE_METRICS: Message = &[(1, "scope", Kind::One(SCOPE)), (2, "metrics", Kind::Each(METRIC))];
const SCOPE: Message = &[(1, "name", Kind::Text), (2, "version", Kind::Text)];
const METRIC: Message = &[
    (1, "name", Kind::Text),
    (2, "description", Kind::Text),
    (3, "unit", Kind::Text),
    (5, "gauge", Kind::One(NUMBERS)),
    (7, "sum", Kind::One(NUMBERS)),
    (10, "exponentialHistogram", Kind::One(HISTOGRAMS)),
];
/// `Sum`; `Gauge` has only the first field.
const NUMBERS: Message = &[
    (1, "dataPoints", Kind::Each(NUMBER)),
    (2, "aggregationTemporality", Kind::Word),
    (3, "isMonotonic", Kind::Flag),
];
const HISTOGRAMS: Message =
    &[(1, "dataPoints", Kind::Each(HISTOGRAM)), (2, "aggregationTemporality", Kind::Word)];
const NUMBER: Message = &[
    (2, "startTimeUnixNano", Kind::Whole),
    (3, "timeUnixNano", Kind::Whole),
    (4, "asDouble", Kind::Real),
    (6, "asInt", Kind::Signed),
    (7, "attributes", Kind::Each(KEY_VALUE)),
];
const HISTOGRAM: Message = &[
    (1, "attributes", Kind::Each(KEY_VALUE)),
    (2, "startTimeUnixNano", Kind::Whole),
    (3, "timeUnixNano", Kind::Whole),
    (4, "count", Kind::Whole),
    (5, "sum", Kind::Real),
    (6, "scale", Kind::Small),
    (7, "zeroCount", Kind::Whole),
    (8, "positive", Kind::One(BUCKETS)),
    (14, "zeroThreshold", Kind::Real),
];
const BUCKETS: Message = &[(1, "offset", Kind::Small), (2, "bucketCounts", Kind::List)];

/// Converts an encoded `ExportMetricsServiceRequest` into one line, without a line end.
///
/// # Errors
/// If it is malformed, or not from [`crate::otlp::Request`].
pub fn of_request(request: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(4 * request.len());
    object(&mut out, request, REQUEST)?;
    Ok(out)
}

fn object(out: &mut Vec<u8>, message: &[u8], fields: Message) -> Result<(), Malformed> {
    out.push(b'{');
    // The previous field, and its list's state: true if open.
    let (mut before, mut open) = (0, false);
    for field in Fields::of(message) {
        let (number, value) = field?;
        let &(_, name, kind) = fields.iter().find(|field| field.0 == number).ok_or(Malformed)?;
        let next = open && number == before;
        // Fields are in ascending order: a field that is read twice would be written twice.
        if number <= before && !next {
            return Err(Malformed);
        }
        if open && !next {
            out.push(b']');
        }
        if before > 0 {
            out.push(b',');
        }
        if !next {
            text(out, name)?;
            out.push(b':');
        }
        let each = matches!(kind, Kind::Each(_));
        if each && !next {
            out.push(b'[');
        }
        written(out, kind, value)?;
        (before, open) = (number, each);
    }
    if open {
        out.push(b']');
    }
    out.push(b'}');
    Ok(())
}

fn written(out: &mut Vec<u8>, kind: Kind, value: Value<'_>) -> Result<(), Malformed> {
    // Writing to memory cannot fail.
    _ = match (kind, value) {
        (Kind::Text, Value::Bytes(bytes)) => return text(out, str::from_utf8(bytes).map_err(|_| Malformed)?),
        (Kind::Whole, Value::Number(number) | Value::Fixed(number)) => write!(out, "\"{number}\""),
        (Kind::Signed, Value::Fixed(number)) => write!(out, "\"{}\"", number as i64),
        (Kind::Real, Value::Fixed(bits)) if f64::from_bits(bits).is_finite() => {
            write!(out, "{}", f64::from_bits(bits))
        }
        (Kind::Small, Value::Number(number)) => write!(out, "{}", unsigned_as_signed(number)),
        (Kind::Word, Value::Number(number)) => write!(out, "{number}"),
        (Kind::Flag, Value::Number(number)) => write!(out, "{}", number != 0),
        (Kind::List, Value::Bytes(list)) => {
            let numbers: Vec<String> = packed(list)?.iter().map(|number| format!("\"{number}\"")).collect();
            write!(out, "[{}]", numbers.join(","))
        }
        (Kind::One(fields) | Kind::Each(fields), Value::Bytes(message)) => {
            return object(out, message, fields);
        }
        _ => return Err(Malformed),
    };
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<(), Malformed> {
    serde_json::to_writer(out, text).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use edgelat_spool::Counts;
    use edgelat_wire::protobuf::number;

    use super::*;
    use crate::otlp::{Attributes, BIAS, CALLS, DURATION, METRICS, Number, Request, Span};

    #[test]
    fn a_request_is_what_the_specification_makes_of_it() {
        let resource = Attributes::of([("service.name", "edgelat"), ("host.name", "a \"box\"\n")]);
        let mut request = Request::new(&resource, "1.2");
        let span = Span { start_ns: 1_700_000_000_000_000_001, time_ns: 1_700_000_010_000_000_000 };
        let mut attributes = Attributes::of([("function", "naïve")]);
        attributes.number("line", 7);
        let counts =
            Counts { zero: 2, sum_ns: 1_500_000_000, buckets: vec![(-3, 4), (-1, 5)], ..Counts::default() };
        request.histogram(&attributes, span, &counts);
        request.number(CALLS, &attributes, span, Number::Whole(11));
        request.number(CALLS, &Attributes::default(), span, Number::Whole(0));
        request.number(BIAS, &attributes, Span { start_ns: 0, ..span }, Number::Seconds(250));
        let line = of_request(&request.encode()).unwrap();
        assert!(!line.contains(&b'\n'));
        let found: serde_json::Value = serde_json::from_slice(&line).unwrap();
        // serde_json reads some numbers wrong in the last bit, here on both sides alike.
        let threshold = 2f64.powi(-24).to_string();
        assert!(str::from_utf8(&line).unwrap().contains(&format!("\"zeroThreshold\":{threshold}}}")));
        let threshold: serde_json::Value = serde_json::from_str(&threshold).unwrap();
        let (start, time) = ("1700000000000000001", "1700000010000000000");
        let given = serde_json::json!([
            {"key": "function", "value": {"stringValue": "naïve"}},
            {"key": "line", "value": {"intValue": "7"}},
        ]);
        let metric = |place: usize, kind: &str, data: serde_json::Value| {
            let of = METRICS[place];
            serde_json::json!({"name": of.name, "description": of.description, "unit": of.unit, kind: data})
        };
        let duration = serde_json::json!({"dataPoints": [{
            "attributes": given, "startTimeUnixNano": start, "timeUnixNano": time, "count": "11", "sum": 1.5, "scale": 3,
            "zeroCount": "2", "positive": {"offset": -3, "bucketCounts": ["4", "0", "5"]}, "zeroThreshold": threshold,
        }], "aggregationTemporality": 2});
        let calls = serde_json::json!({"dataPoints": [
            {"startTimeUnixNano": start, "timeUnixNano": time, "asInt": "11", "attributes": given},
            {"startTimeUnixNano": start, "timeUnixNano": time, "asInt": "0"},
        ], "aggregationTemporality": 2, "isMonotonic": true});
        let bias = serde_json::json!({"dataPoints": [{"timeUnixNano": time, "asDouble": 2.5e-7, "attributes": given}]});
        let expected = serde_json::json!({"resourceMetrics": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": "edgelat"}},
                {"key": "host.name", "value": {"stringValue": "a \"box\"\n"}},
            ]},
            "scopeMetrics": [{"scope": {"name": "edgelat", "version": "1.2"}, "metrics": [
                metric(DURATION, "exponentialHistogram", duration),
                metric(CALLS, "sum", calls),
                metric(BIAS, "gauge", bias),
            ]}],
        }]});
        assert_eq!(found, expected);
    }

    #[test]
    fn what_nobody_writes_is_refused() {
        let mut unknown = Vec::new();
        number(&mut unknown, 9, 1);
        // A resource twice.
        let twice = b"\x0a\x04\x0a\x00\x0a\x00";
        for request in [&unknown[..], b"\x0a\x05ab", b"\x08\x01", b"\x0a\x02\x0a\x07", twice] {
            assert_eq!(of_request(request), Err(Malformed), "{request:x?}");
        }
        assert_eq!(of_request(b"").as_deref(), Ok(&b"{}"[..]));
    }
}
