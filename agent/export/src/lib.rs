//! Ways out for Prometheus: a live snapshot as metrics, in the three formats that it reads.
//!
//! | module | job |
//! | --- | --- |
//! | [`family`] | metrics before they have a format: numbers that are exact, labels that can be written |
//! | [`metrics`] | which metrics there are, from a snapshot |
//! | [`bounds`] | the `le` bounds of classic histograms |
//! | [`text`] | text format 0.0.4, and OpenMetrics 1.0 |
//! | [`protobuf`] | delimited protobuf, the only one that carries native histograms |
//! | [`negotiate`] | which of them a scraper asks for |
//! | [`http`] | as much of HTTP/1.1 as a scraper needs |
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
