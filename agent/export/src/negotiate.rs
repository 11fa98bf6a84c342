//! Content negotiation: the format that a scraper requests.

use crate::bounds::Bounds;
use crate::family::Family;
use crate::text::Text;
use crate::{protobuf, text};

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Delimited protobuf.
    Protobuf,
}

const PROTOBUF: &str = "application/vnd.google.protobuf";

impl Format {
    /// The format that an `Accept` header prefers; text if it names none, or none that exists.
    pub fn wanted(accept: Option<&str>) -> Self {
        let mut best = (0, Self::Classic);
        for choice in accept.unwrap_or_default().split(',') {
            let mut parts = choice.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut quality = 1_000;
            let (mut version, mut encoding, mut message) = (None, None, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = thousandths(value),
                    "version" => version = Some(value),
                    "encoding" => encoding = Some(value),
                    "proto" => message = Some(value),
                    _ => {}
                }
            }
            let format = match kind.as_str() {
                PROTOBUF
                    if (encoding, message)
                        == (Some("delimited"), Some("io.prometheus.client.MetricFamily")) =>
                {
                    Self::Protobuf
                }
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => {
                    Self::OpenMetrics
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => Self::Classic,
                "*/*" | "text/*" => Self::Classic,
                _ => continue,
            };
            // The first of two formats with equal quality.
            if quality > best.0 {
                best = (quality, format);
            }
        }
        best.1
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// Encodes families in this format.
    pub fn write(self, families: &[Family], bounds: Bounds) -> Vec<u8> {
        match self {
            Self::Classic => text::write(families, Text::Classic, bounds).into_bytes(),
            Self::OpenMetrics => text::write(families, Text::OpenMetrics, bounds).into_bytes(),
            Self::Protobuf => protobuf::write(families, bounds),
        }
    }
}

/// Parses `0.75` as 750. A text that is no number counts as 0.
fn thousandths(text: &str) -> u32 {
    let number: f32 = text.parse().unwrap_or(0.0);
    (number.clamp(0.0, 1.0) * 1_000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_sends_gets_what_it_likes_best() {
        // Prometheus 2.53, without and with the flag for native histograms, and Prometheus 3.
        let plain = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                      application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2";
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (plain, Format::OpenMetrics),
            (native, Format::Protobuf),
            (three, Format::OpenMetrics),
            ("text/plain", Format::Classic),
            ("text/html, application/xhtml+xml, */*;q=0.8", Format::Classic),
            ("application/vnd.google.protobuf;encoding=text", Format::Classic),
            ("application/openmetrics-text; version=0.0.1", Format::Classic),
            ("application/openmetrics-text;q=0, text/plain;q=0.1", Format::Classic),
            ("APPLICATION/OpenMetrics-Text; VERSION=\"1.0.0\"", Format::OpenMetrics),
            (";;=,,q=nan", Format::Classic),
            ("", Format::Classic),
        ] {
            assert_eq!(Format::wanted(Some(accept)), format, "{accept}");
        }
        assert_eq!(Format::wanted(None), Format::Classic);
    }
}
