//! Data that a receiver lacks: counted, or printed for transport by hand. Nothing is sent or counts
//! as sent.

use std::io::{self, Write};
use std::path::Path;

use edgelat_upload::otlp::Partial;
use edgelat_upload::{Answer, Cursor, End, Host, Limits, Post, Sent, Told, client, json, pass};

use super::{UploadError, failed, open};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{PrintError, say, to_stdout};

/// Processes the data behind the cursor without storing any progress.
fn unsent(spool: &Path, mut cursor: Cursor, host: &Host, post: &mut dyn Post) -> Result<Told, UploadError> {
    let store = open(spool)?;
    let keep = &mut |_: &Cursor| Ok(());
    // No cursor is stored, so that only the spool can fail.
    pass(&store, &mut cursor, &mut Sent::default(), host, Limits::default(), post, keep)
        .map_err(|error| failed(error, spool, spool))
}

/// Describes the data that is left out, in sentences.
fn left_out(told: &Told) -> Vec<String> {
    let mut lines = Vec::new();
    if told.undated > 0 {
        lines.push(format!(
            "{} intervals have no time, and are never sent: the clock was not set before their boot was over",
            told.undated
        ));
    }
    if told.end == End::Waiting {
        lines.push("the intervals behind them wait until the clock can be believed".to_owned());
    }
    lines
}

/// Counts bytes.
#[derive(Debug, Default)]
struct Counter {
    packed: u64,
}

impl Post for Counter {
    fn post(&mut self, request: &[u8]) -> Answer {
        self.packed += client::gzip(request).len() as u64;
        Answer::Taken(Partial::default())
    }
}

/// Reports the amount of unsent data.
///
/// # Errors
/// If the records cannot be read.
pub fn count(spool: &Path, cursor: Cursor, host: &Host, gzip: bool, endpoint: &str) -> Result<Exit, Failure> {
    let mut counter = Counter::default();
    let told = unsent(spool, cursor, host, &mut counter)?;
    let Told { intervals, accepted, requests, bytes, .. } = told;
    let packed = if gzip { format!(", {} with gzip", counter.packed) } else { String::new() };
    to_stdout(Exit::Ok, |out| {
        writeln!(
            out,
            "{intervals} intervals of {} would be sent to {endpoint}: {accepted} points in {requests} requests of {bytes} bytes{packed}",
            spool.display()
        )?;
        for line in left_out(&told) {
            writeln!(out, "{line}")?;
        }
        Ok(Exit::Ok)
    })
}

/// Writes each request in a line.
struct Printer<'o> {
    out: &'o mut dyn Write,
    failed: Option<io::Error>,
}

impl Post for Printer<'_> {
    fn post(&mut self, request: &[u8]) -> Answer {
        let line = json::of_request(request).map_err(io::Error::other);
        match line.and_then(|line| self.out.write_all(&line)).and_then(|()| self.out.write_all(b"\n")) {
            Ok(()) => Answer::Taken(Partial::default()),
            Err(error) => {
                self.failed = Some(error);
                Answer::Later { reason: String::new(), after: None }
            }
        }
    }
}

/// Prints the unsent data, and reports its amount on standard error.
///
/// # Errors
/// If the records cannot be read, or standard output accepts no more.
pub fn print(spool: &Path, cursor: Cursor, host: &Host) -> Result<Exit, Failure> {
    let told = to_stdout(None, |out| {
        let mut printer = Printer { out, failed: None };
        let told = unsent(spool, cursor, host, &mut printer).map_err(Failure::from)?;
        match printer.failed {
            Some(error) => Err(PrintError::Output(error)),
            None => Ok(Some(told)),
        }
    })?;
    if let Some(told) = told {
        let Told { intervals, accepted, requests, .. } = told;
        say(format_args!(
            "{intervals} intervals of {}: {accepted} points in {requests} lines",
            spool.display()
        ));
        left_out(&told).iter().for_each(say);
    }
    Ok(Exit::Ok)
}
