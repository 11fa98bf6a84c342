//! Meaning of answers and time of retries: the rules of the OTLP specification (OTLP/HTTP,
//! *Failures*), as functions without clock or network.

use std::time::{Duration, SystemTime};

use crate::otlp::{self, Partial, readable};

/// Longest wait that a receiver can request.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// Result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Accepted, except for the points that the answer excludes. Those are not sent again.
    Taken(Partial),
    /// Refused for its content; a retry would be refused as well.
    Refused {
        /// HTTP status.
        status: u16,
        /// Message of the receiver.
        message: String,
    },
    /// The request is too large.
    TooLarge,
    /// Refused for its sender or address: every request would be, until a person changes something
    /// at either end.
    Barred {
        /// HTTP status.
        status: u16,
        /// The thing to check.
        message: String,
    },
    /// Not accepted; to be sent again later.
    Later {
        /// The reason.
        reason: String,
        /// Minimum wait before the next try, if the receiver gives one.
        after: Option<Duration>,
    },
}

/// Interprets the answer to a request. A success counts only with an OTLP answer: a captive portal,
/// or a web server, answers everything with 200 and a page of its own.
///
/// Only 429, 502, 503 and 504 are retried, as the specification requires. An error that is
/// unrelated to the data (a wrong password, a missing path) is no reason to drop the intervals
/// either: they stay.
pub fn judge(
    status: u16,
    content_type: Option<&str>,
    retry_after: Option<&str>,
    body: &[u8],
    now: SystemTime,
) -> Answer {
    let message = || readable(body);
    match status {
        200..=299 => accepted(content_type, body).map_or_else(
            || Answer::Later {
                reason: format!(
                    "status {status} with {}, which is no answer of an OTLP receiver; look at `endpoint`, or log in where the network asks for it",
                    readable(content_type.unwrap_or("a body without a type").as_bytes())
                ),
                after: None,
            },
            Answer::Taken,
        ),
        // RFC 6585, 6: the same, from a portal that identifies itself.
        511 => Answer::Later { reason: "status 511: the network wants a login first".to_owned(), after: None },
        429 | 502 | 503 | 504 => Answer::Later {
            reason: format!("status {status}"),
            after: retry_after.and_then(|text| wait(text, now)),
        },
        413 => Answer::TooLarge,
        300..=399 => {
            Answer::Barred { status, message: "the receiver is elsewhere; correct `endpoint`".to_owned() }
        }
        401 | 403 => Answer::Barred {
            status,
            message: format!("the receiver does not let us in; look at `headers_file`: {}", message()),
        },
        404 | 405 => Answer::Barred {
            status,
            message: format!("this is no address that takes metrics; look at `endpoint`: {}", message()),
        },
        407 => Answer::Barred {
            status,
            message: "the proxy does not let us through; look at `proxy`".to_owned(),
        },
        _ => Answer::Refused { status, message: message() },
    }
}

/// Decodes the answer of a receiver that accepted a request; `None` if it is no OTLP receiver. It
/// answers in the format of the request, without any field if all was accepted (OTLP/HTTP,
/// *Response*); some answer in JSON, or give no type.
fn accepted(content_type: Option<&str>, body: &[u8]) -> Option<Partial> {
    if body.is_empty() {
        return Some(Partial::default());
    }
    let kind = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/x-protobuf" | "application/protobuf" => otlp::response(body).ok(),
        "text/html" | "application/xhtml+xml" => None,
        _ => otlp::response_json(body).or_else(|| otlp::known_response(body)),
    }
}

/// The value of `Retry-After` (RFC 9110, 10.2.3): seconds or a date.
pub fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let time = match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // A number that does not fit is a long time too.
        true => Duration::from_secs(text.parse().unwrap_or(u64::MAX)),
        // A date in the past means now.
        false => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(time.min(LONGEST_WAIT))
}

/// Wait between tries: doubled each time up to a bound, minus a random part of up to half, so that
/// a thousand boxes do not return at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// Waits from `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most: most.max(first), tries: 0 }
    }

    /// Restarts after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Wait after another failure. `chance` is any number; `asked` is the wait that the receiver
    /// requests, a lower bound.
    pub fn next(&mut self, chance: u64, asked: Option<Duration>) -> Duration {
        let whole = self.first.saturating_mul(1 << self.tries.min(20)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        let half = whole / 2;
        let part = half.mul_f64((chance % 1_000) as f64 / 1_000.0);
        asked.unwrap_or_default().max(whole - part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        // 1994-11-06 08:49:37, the date of the RFC.
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn only_what_the_specification_names_is_sent_again() {
        for status in 200..=599 {
            let answer = judge(status, None, None, b"", now());
            let later = matches!(answer, Answer::Later { .. });
            assert_eq!(later, [429, 502, 503, 504, 511].contains(&status), "{status}");
            assert_eq!(matches!(answer, Answer::Taken(_)), status < 300, "{status}");
            let barred = matches!(answer, Answer::Barred { .. });
            assert_eq!(barred, (300..400).contains(&status) || [401, 403, 404, 405, 407].contains(&status));
        }
    }

    #[test]
    fn a_receiver_is_given_the_time_that_it_asks_for() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (text, expected) in [
            ("0", seconds(0)),
            (" 120 ", seconds(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", seconds(60)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", seconds(10)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", seconds(0)),
            ("Sat, 06 Nov 2094 08:00:00 GMT", Some(LONGEST_WAIT)),
            ("99999999999999999999999", Some(LONGEST_WAIT)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(wait(text, now()), expected, "{text}");
        }
        let answer = judge(429, None, Some("7"), b"", now());
        assert!(matches!(answer, Answer::Later { after: Some(after), .. } if after.as_secs() == 7));
    }

    #[test]
    fn what_was_not_taken_of_a_request_is_said_once_and_not_sent_again() {
        let response = b"\x0a\x12\x08\x03\x12\x0eout of\nbounds!";
        let Answer::Taken(partial) = judge(200, None, None, response, now()) else { panic!() };
        assert_eq!(partial, Partial { rejected: 3, message: "out of bounds!".to_owned() });
        // A negative count.
        let negative = b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(judge(200, None, None, negative, now()), Answer::Taken(Partial::default()));
    }

    #[test]
    fn a_success_counts_only_where_it_is_an_answer_of_otlp() {
        let three = Partial { rejected: 3, message: "old".to_owned() };
        let protobuf = &b"\x0a\x07\x08\x03\x12\x03old"[..];
        let json = br#"{"partialSuccess": {"rejectedDataPoints": "3", "errorMessage": "old"}}"#;
        for (content_type, body, expected) in [
            (None, &b""[..], Partial::default()),
            (Some("text/html"), b"", Partial::default()),
            (Some("application/x-protobuf"), protobuf, three.clone()),
            // A field from a newer version.
            (Some("Application/X-Protobuf; a=b"), b"\x10\x01", Partial::default()),
            (None, protobuf, three.clone()),
            (Some("application/octet-stream"), b"\x0a\0", Partial::default()),
            (Some("application/json"), json, three.clone()),
            (Some("application/json; charset=utf-8"), b" {}\n", Partial::default()),
            (
                Some("text/plain"),
                br#"{"partial_success":{"rejected_data_points":3,"error_message":"old"}}"#,
                three,
            ),
            (Some("application/json"), br#"{"partialSuccess":null}"#, Partial::default()),
        ] {
            for status in [200, 202, 204] {
                let answer = judge(status, content_type, None, body, now());
                assert_eq!(answer, Answer::Taken(expected.clone()), "{content_type:?} {body:?}");
            }
        }
        for (content_type, body) in [
            (Some("text/html"), &b"<html>log in</html>"[..]),
            (Some("text/html; charset=utf-8"), protobuf),
            (None, b"<html>log in</html>"),
            (None, b"ok"),
            (Some("text/plain"), b"ok\n"),
            (Some("application/x-protobuf"), b"<html>"),
            (Some("application/json"), b"{\"login\":\"http://portal/\"}"),
            (Some("application/json"), br#"{"partialSuccess":{"rejectedDataPoints":"many"}}"#),
            (Some("application/json"), b"[]"),
            (Some("application/json"), b"{"),
            (None, b"\x10\x01"),
            (None, b"\x0a\x02\x18\x01"),
        ] {
            for status in [200, 203, 206] {
                let answer = judge(status, content_type, None, body, now());
                let Answer::Later { reason, after: None } = answer else {
                    panic!("{content_type:?}: {answer:?}")
                };
                assert!(reason.contains("endpoint") && reason.contains(&status.to_string()), "{reason}");
            }
        }
    }

    #[test]
    fn tries_are_ever_further_apart_up_to_a_bound_and_no_sooner_than_asked() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(300));
        for chance in [0, 499, 999, u64::MAX] {
            let mut backoff = Backoff::new(first, most);
            let mut sum = Duration::ZERO;
            for number in 0..100u32 {
                let whole = first.saturating_mul(1 << number.min(20)).min(most);
                let next = backoff.next(chance, None);
                assert!(next <= whole && next >= whole / 2, "{next:?} of {whole:?}");
                sum += next;
            }
            assert!(sum >= most * 45, "an hour has no more than a few dozen tries: {sum:?}");
            assert_eq!(backoff.next(chance, Some(most * 3)), most * 3);
            backoff.reset();
            assert!(backoff.next(chance, None) <= first);
        }
    }
}
