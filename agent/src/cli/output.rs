//! What goes to the person: standard output that may be a closed pipe, colours, and progress on the terminal.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use super::{
    exit::Exit,
    failure::{Fails, Failure},
};

/// Why output ended.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Standard output does not take more.
    #[error("cannot write to standard output: {}; look whether its disk is full", reason(.0))]
    Write(#[from] io::Error),
}

impl Fails for OutputError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

/// Runs `print` on buffered standard output. A pipe that its reader has closed, as `head` does, ends the output and is
/// no error: the reader has what it wanted.
///
/// # Errors
/// What `print` says; [`OutputError`] when the output cannot be written.
pub fn to_stdout<T>(
    done: T,
    print: impl FnOnce(&mut dyn Write) -> Result<T, PrintError>,
) -> Result<T, Failure> {
    let mut out = io::BufWriter::with_capacity(32 << 10, io::stdout().lock());
    let printed = print(&mut out).and_then(|value| Ok(out.flush().map(|()| value)?));
    // What is still buffered has no reader, or was flushed above; dropping the writer must not try again.
    let _ = out.into_parts();
    match printed {
        Ok(value) => Ok(value),
        Err(PrintError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(done),
        Err(PrintError::Output(error)) => Err(OutputError::Write(error).into()),
        Err(PrintError::Other(failure)) => Err(failure),
    }
}

/// What can go wrong while printing: the output, or what makes it.
#[derive(Debug)]
pub enum PrintError {
    /// The output did not take it.
    Output(io::Error),
    /// What should be printed could not be made.
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

/// What the system said, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_string(),
        None => error.to_string(),
    }
}

/// Says something to the person on standard error, after the name of the program. Where even that cannot be written
/// there is nobody to tell.
pub fn say(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "edgelat: {message}");
}

/// Colours, where they are wanted: on a terminal, and unless `NO_COLOR` is set (see no-color.org).
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// For standard output.
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { colours: io::stdout().is_terminal() && !refused && !dumb }
    }

    /// No colours.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { colours: false }
    }

    /// Something to be seen first.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Good.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Doubtful.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Bad.
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Of less interest.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// A line on the terminal that says how far a long piece of work is; silent for the first second, and where standard
/// error is no terminal.
#[derive(Debug)]
pub struct ProgressLine {
    enabled: bool,
    next: Instant,
    shown: bool,
}

/// Work that ends within this time needs no progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two changes of the line.
const CHANGE: Duration = Duration::from_millis(100);

impl ProgressLine {
    /// Starts the second of silence.
    pub fn new() -> Self {
        Self { enabled: io::stderr().is_terminal(), next: Instant::now() + PATIENCE, shown: false }
    }

    /// `done` of `total` of `what`.
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
