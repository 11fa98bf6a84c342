//! Output for a person: standard output that may be a closed pipe, colours, and terminal progress.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use super::{
    exit::Exit,
    failure::{Fails, Failure},
};

/// Reasons that output ended.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Standard output accepts no more.
    #[error("cannot write to standard output: {}; look whether its disk is full", reason(.0))]
    Write(#[from] io::Error),
}

impl Fails for OutputError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

/// Runs `print` on buffered standard output. A pipe that its reader has closed, as `head` does,
/// ends the output without an error: the reader has all it wanted.
///
/// # Errors
/// The error of `print`; [`OutputError`] if the output cannot be written.
pub fn to_stdout<T>(
    done: T,
    print: impl FnOnce(&mut dyn Write) -> Result<T, PrintError>,
) -> Result<T, Failure> {
    let mut out = io::BufWriter::with_capacity(32 << 10, io::stdout().lock());
    let printed = print(&mut out).and_then(|value| Ok(out.flush().map(|()| value)?));
    // Buffered data has no reader, or was flushed above; dropping the writer must not retry.
    let _ = out.into_parts();
    match printed {
        Ok(value) => Ok(value),
        Err(PrintError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(done),
        Err(PrintError::Output(error)) => Err(OutputError::Write(error).into()),
        Err(PrintError::Other(failure)) => Err(failure),
    }
}

/// Errors while printing: of the output, or of its source.
#[derive(Debug)]
pub enum PrintError {
    /// The output did not accept it.
    Output(io::Error),
    /// The text could not be made.
    Other(Failure),
}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Failure> for PrintError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

/// Returns the system's message, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_string(),
        None => error.to_string(),
    }
}

/// Prints a message on standard error, after the name of the program. A failure of standard error
/// cannot be reported and is ignored.
pub fn say(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "edgelat: {message}");
}

/// Colours, if wanted: on a terminal, and unless `NO_COLOR` is set (see no-color.org).
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// Returns the style of standard output.
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { colours: io::stdout().is_terminal() && !refused && !dumb }
    }

    /// Returns the style without colours.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { colours: false }
    }

    /// Paints text that should be seen first.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Paints a good result.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Paints a doubtful result.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Paints a bad result.
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Paints less interesting text.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// A line on the terminal that reports the progress of long work; silent for the first second, and
/// if standard error is not a terminal.
#[derive(Debug)]
pub struct ProgressLine {
    enabled: bool,
    next: Instant,
    shown: bool,
}

/// Work that ends within this time needs no progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// Minimum time between two changes of the line.
const CHANGE: Duration = Duration::from_millis(100);

impl ProgressLine {
    /// Begins the second of silence.
    pub fn new() -> Self {
        Self { enabled: io::stderr().is_terminal(), next: Instant::now() + PATIENCE, shown: false }
    }

    /// Shows `done` of `total` of `what`.
    pub fn update(&mut self, what: &str, done: u64, total: u64) {
        if !self.enabled || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + CHANGE;
        self.shown = true;
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
        let _ = write!(io::stderr(), "\r\x1b[K{what}: {percent} %");
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
