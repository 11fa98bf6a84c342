//! Output of the service: one JSON object per line (docs/RUN-JSON.md), or nothing.

use std::io::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::recorder::Recorder;
use crate::collector::report::Report;
use crate::values::nanoseconds;

/// Name and version of the schema of a line.
const SCHEMA: &str = "edgelat.run/1";

/// Destination of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    None,
    /// Standard output.
    Json,
}

/// State of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is measured.
    Measured,
    /// It is not measured, and will be tried again.
    Paused,
    /// It is left alone as long as it lives.
    Left,
    /// It was measured until now; these are the last figures.
    Ended,
}

/// Position of figures in the spool.
#[derive(Debug, Clone, Serialize)]
pub struct Spooled {
    /// The run, as `spool export` writes it.
    pub run: String,
    /// Interval of the figures.
    pub interval: u64,
    /// All intervals before this one are on the disk.
    pub synced: u64,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: &'static str,
    /// Nanoseconds since 1970 by the system clock.
    time_ns: u64,
    /// Name of the target in the configuration.
    name: &'a str,
    pid: i32,
    state: State,
    /// Reason why the process is not measured.
    reason: Option<&'a str>,
    /// Counts; `None` if nothing is counted, which is not the same as 0.
    report: Option<&'a Report>,
    /// Position of the counts in the spool; `None` if they are not recorded.
    spool: Option<Spooled>,
}

impl Output {
    /// Writes a line. A reader that is gone does not end the service.
    pub fn tell(
        self,
        (name, pid): (&str, i32),
        (state, reason): (State, Option<&str>),
        report: Option<&Report>,
        recorder: &Recorder,
    ) {
        if self == Self::None {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = nanoseconds(now);
        let line =
            Line { schema: SCHEMA, time_ns, name, pid, state, reason, report, spool: recorder.place() };
        let Ok(mut bytes) = serde_json::to_vec(&line) else { return };
        bytes.push(b'\n');
        // One write per line, so that on a terminal it does not mix with other output.
        let mut out = io::stdout().lock();
        _ = out.write_all(&bytes).and_then(|()| out.flush());
    }
}
