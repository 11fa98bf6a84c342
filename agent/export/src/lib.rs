//! Prometheus exporter: a live snapshot as metrics, in the three formats that Prometheus reads.
//!
//! | module | job |
//! | --- | --- |
//! | [`family`] | metrics independent of a format: exact numbers, writable labels |
//! | [`metrics`] | the metrics of a snapshot |
//! | [`bounds`] | the `le` bounds of classic histograms |
//! | [`text`] | text format 0.0.4, and OpenMetrics 1.0 |
//! | [`protobuf`] | delimited protobuf, the only format with native histograms |
//! | [`negotiate`] | the format that a scraper requests |
//! | [`http`] | HTTP/1.1 as far as a scraper needs it |
//!
//! docs/METRICS.md lists every metric with its labels and unit.
#![forbid(unsafe_code)]

pub mod bounds;
pub mod family;
pub mod http;
pub mod metrics;
pub mod negotiate;
pub mod protobuf;
pub mod text;

pub use bounds::Bounds;
pub use family::{Family, Kind, Metric, Number, Value};
pub use negotiate::Format;
