//! Reads the content of uploads (opentelemetry-proto, metrics/v1/metrics.proto), and accounts for
//! it.

use std::collections::BTreeMap;

use edgelat_wire::protobuf::{Fields, Value, packed, unsigned_as_signed};
use serde_json::Value as Json;

/// Names with values.
pub type Labels = BTreeMap<String, String>;

/// A value of a point.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// A number.
    Number(f64),
    /// A histogram: its count, its sum in seconds, its zero count, and its occupied buckets.
    Histogram {
        /// Number of values.
        count: u64,
        /// Sum of all values.
        sum: f64,
        /// Number of values that count as zero.
        zero: u64,
        /// Index and count.
        buckets: Vec<(i32, u64)>,
    },
}

/// A point.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Attributes of its resource.
    pub resource: Labels,
    /// Name of its metric.
    pub metric: String,
    /// Unit of its metric.
    pub unit: String,
    /// True if it belongs to a sum that only grows.
    pub monotonic: bool,
    /// Its attributes.
    pub attributes: Labels,
    /// Start of its count, in nanoseconds since 1970; 0 if absent.
    pub start_ns: u64,
    /// Its time, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Its value.
    pub figure: Figure,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    Fields::of(message).map(|field| field.expect("a message of protobuf"))
}

/// The messages in a field.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |field| match field {
        (found, Value::Bytes(inner)) if found == number => Some(inner),
        _ => None,
    })
}

/// `KeyValue`s in a field.
fn labels(message: &[u8], number: u64) -> Labels {
    let pairs = messages(message, number).map(|pair| {
        let name = messages(pair, 1).next().map(text).expect("a key");
        let any = messages(pair, 2).next().expect("a value");
        let value = match fields(any).next() {
            Some((1, Value::Bytes(value))) => text(value),
            Some((3, Value::Number(value))) => value.to_string(),
            other => panic!("{name}: {other:?}"),
        };
        (name, value)
    });
    pairs.collect()
}

/// The points of an `ExportMetricsServiceRequest`. Temporality and sums of counts must be correct.
pub fn points(request: &[u8]) -> Vec<Point> {
    let mut points = Vec::new();
    for of_resource in messages(request, 1) {
        let resource =
            messages(of_resource, 1).map(|resource| labels(resource, 1)).next().expect("a resource");
        for of_scope in messages(of_resource, 2) {
            let scope = messages(of_scope, 1).next().expect("a scope");
            assert_eq!(messages(scope, 1).next().map(text).as_deref(), Some("edgelat"));
            for metric in messages(of_scope, 2) {
                let name = messages(metric, 1).next().map(text).expect("a name");
                let unit = messages(metric, 3).next().map(text).unwrap_or_default();
                let (kind, data) = fields(metric)
                    .find_map(|field| match field {
                        (kind @ (5 | 7 | 10), Value::Bytes(data)) => Some((kind, data)),
                        _ => None,
                    })
                    .expect("data");
                let cumulative = fields(data).any(|field| field == (2, Value::Number(2)));
                assert_eq!(cumulative, kind != 5, "{name}: what counts is cumulative");
                assert_eq!(fields(data).any(|field| field == (3, Value::Number(1))), kind == 7, "{name}");
                for point in messages(data, 1) {
                    let fixed = |number| {
                        fields(point)
                            .find_map(|field| match field {
                                (found, Value::Fixed(value)) if found == number => Some(value),
                                _ => None,
                            })
                            .unwrap_or(0)
                    };
                    points.push(Point {
                        resource: resource.clone(),
                        metric: name.clone(),
                        unit: unit.clone(),
                        monotonic: kind == 7,
                        attributes: labels(point, if kind == 10 { 1 } else { 7 }),
                        start_ns: fixed(2),
                        time_ns: fixed(3),
                        figure: if kind == 10 { histogram(point, &fixed) } else { number(point) },
                    });
                }
            }
        }
    }
    points
}

fn number(point: &[u8]) -> Figure {
    let value = fields(point).find_map(|field| match field {
        (4, Value::Fixed(bits)) => Some(f64::from_bits(bits)),
        (6, Value::Fixed(number)) => Some(number as i64 as f64),
        _ => None,
    });
    Figure::Number(value.expect("a value"))
}

fn histogram(point: &[u8], fixed: &dyn Fn(u64) -> u64) -> Figure {
    assert!(fields(point).any(|field| field == (6, Value::Number(6))), "scale 3, zig-zag");
    let mut buckets = Vec::new();
    for positive in messages(point, 8) {
        let offset = fields(positive).find_map(|field| match field {
            (1, Value::Number(offset)) => Some(unsigned_as_signed(offset) as i32),
            _ => None,
        });
        let counts = messages(positive, 2).next().map(packed).expect("counts").expect("numbers");
        buckets = (offset.unwrap_or(0)..).zip(counts).filter(|(_, count)| *count > 0).collect();
    }
    assert_eq!(f64::from_bits(fixed(14)), ZERO_THRESHOLD);
    consistent(fixed(4), f64::from_bits(fixed(5)), fixed(7), buckets)
}

/// Durations up to 2^-24 s count as zero.
const ZERO_THRESHOLD: f64 = 1.0 / (1 << 24) as f64;

/// A histogram whose counts add up.
fn consistent(count: u64, sum: f64, zero: u64, buckets: Vec<(i32, u64)>) -> Figure {
    let in_buckets = buckets.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(count, zero + in_buckets, "all that is counted is in a bucket");
    Figure::Histogram { count, sum, zero, buckets }
}

/// The points of a request in JSON
/// (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>), with the same checks.
pub fn points_of_json(line: &str) -> Vec<Point> {
    fn each(list: &Json) -> &[Json] {
        list.as_array().expect("a list")
    }
    let request: Json = serde_json::from_str(line).expect("JSON");
    let mut points = Vec::new();
    for of_resource in each(&request["resourceMetrics"]) {
        let resource = labels_of_json(&of_resource["resource"]["attributes"]);
        for of_scope in each(&of_resource["scopeMetrics"]) {
            assert_eq!(of_scope["scope"]["name"], "edgelat");
            for metric in each(&of_scope["metrics"]) {
                let kind = ["gauge", "sum", "exponentialHistogram"]
                    .into_iter()
                    .find(|kind| !metric[*kind].is_null());
                let data = &metric[kind.expect("data")];
                let monotonic = data["isMonotonic"].as_bool() == Some(true);
                assert_eq!(
                    (data["aggregationTemporality"].as_u64() == Some(2), monotonic),
                    (kind != Some("gauge"), kind == Some("sum"))
                );
                points.extend(each(&data["dataPoints"]).iter().map(|point| Point {
                    resource: resource.clone(),
                    metric: metric["name"].as_str().expect("a name").to_owned(),
                    unit: metric["unit"].as_str().expect("a unit").to_owned(),
                    monotonic,
                    attributes: labels_of_json(&point["attributes"]),
                    start_ns: whole_of_json(&point["startTimeUnixNano"]),
                    time_ns: whole_of_json(&point["timeUnixNano"]),
                    figure: figure_of_json(point),
                }));
            }
        }
    }
    points
}

fn labels_of_json(pairs: &Json) -> Labels {
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let label = |pair: &Json| {
        let value = &pair["value"];
        (
            text(&pair["key"]).expect("a key"),
            text(&value["stringValue"]).or(text(&value["intValue"])).expect("a value"),
        )
    };
    pairs.as_array().into_iter().flatten().map(label).collect()
}

/// A number of 64 bits, which JSON has as a text; 0 if it is absent.
fn whole_of_json(value: &Json) -> u64 {
    value.as_str().map_or(0, |digits| digits.parse().expect("digits"))
}

fn figure_of_json(point: &Json) -> Figure {
    if point["count"].is_null() {
        let number = point["asDouble"]
            .as_f64()
            .or(point["asInt"].as_str().map(|digits| digits.parse().expect("digits")));
        return Figure::Number(number.expect("a value"));
    }
    assert_eq!(point["scale"], 3);
    let positive = &point["positive"];
    let counts = positive["bucketCounts"].as_array().into_iter().flatten().map(whole_of_json);
    let buckets =
        (positive["offset"].as_i64().unwrap_or(0) as i32..).zip(counts).filter(|(_, count)| *count > 0);
    assert_eq!(point["zeroThreshold"], ZERO_THRESHOLD);
    let (count, zero) = (whole_of_json(&point["count"]), whole_of_json(&point["zeroCount"]));
    consistent(count, point["sum"].as_f64().expect("a sum"), zero, buckets.collect())
}

/// Content of a receiver: the values of each series over time.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// By run, metric and attributes.
    pub series: BTreeMap<(String, String, Labels), BTreeMap<u64, Figure>>,
    /// Points that came again with the same value.
    pub again: usize,
    /// Start of the count of each series.
    starts: BTreeMap<(String, String, Labels), u64>,
}

impl Books {
    /// Adds points. A repeated point must have the same value, and no series may decrease or
    /// restart.
    #[track_caller]
    pub fn take(&mut self, points: &[Point]) {
        for point in points {
            let run = point.resource["edgelat.run_id"].clone();
            let key = (run, point.metric.clone(), point.attributes.clone());
            if point.metric.starts_with("edgelat_function") {
                let start = self.starts.entry(key.clone()).or_insert(point.start_ns);
                assert_eq!(*start, point.start_ns, "a beginning never moves: {key:?}");
                assert!(point.start_ns < point.time_ns, "{point:?}");
            }
            let series = self.series.entry(key).or_default();
            match series.insert(point.time_ns, point.figure.clone()) {
                Some(before) => {
                    assert_eq!(before, point.figure, "at the same time the same is counted: {point:?}");
                    self.again += 1;
                }
                None => {
                    let newest = series.last_key_value().map(|(time, _)| *time);
                    assert_eq!(newest, Some(point.time_ns), "time goes on: {point:?}");
                }
            }
        }
    }

    /// The last value of a series up to a given time.
    pub fn at(&self, run: &str, metric: &str, function: &str, reason: &str, time_ns: u64) -> Option<&Figure> {
        let is = |(of_run, name, labels): &&(String, String, Labels)| {
            of_run == run
                && name == metric
                && labels.get("function").is_some_and(|found| found == function)
                && labels.get("reason").map_or("", String::as_str) == reason
        };
        let key = self.series.keys().find(is)?;
        self.series[key].range(..=time_ns).next_back().map(|(_, figure)| figure)
    }
}
