//! The log of the running agent: to stderr, read by a supervisor, or to syslog.
//!
//! Plain printing has three problems. A target that restarts ten times a second would fill the log
//! and with it the flash: each call site has a slowly refilled bucket of lines, and suppressed
//! lines are counted and reported once the flow calms. A supervisor that stops reading its pipe
//! would block the agent in a write: a line that cannot be written at once is lost, counted and
//! reported with the next one. Names chosen by a target could forge lines or control a terminal:
//! control characters are replaced.
//!
//! The collector can create no socket and needs none: the outputs are opened before it gives up its
//! rights. It cannot reconnect to a syslog that ends; from then on it logs to stderr, and reports
//! the change once.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::panic::Location;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::exit::Exit;
use crate::cli::failure::Fails;
use crate::cli::output::reason;

/// Socket of syslog.
const SYSLOG: &str = "/dev/log";
/// Longest line in bytes: far below PIPE_BUF, up to which pipe writes are atomic, and accepted by
/// every syslog.
const LINE_BYTES: usize = 1000;
/// End of a truncated line.
const CUT: &str = "...";
/// Maximum burst of lines from one call site.
const BURST: u32 = 10;
/// Time after which a call site may log one more line.
const REFILL: Duration = Duration::from_secs(10);
/// Maximum number of distinct call sites; the one that was silent longest is replaced.
const PLACES: usize = 32;
/// Bytes of a call site's last line that are repeated in the report of suppressed lines.
const EXAMPLE_BYTES: usize = 60;
/// The syslog facility of services without one of their own (RFC 3164, table 1).
const DAEMON: u8 = 3;

/// Importance of a line, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is abnormal.
    Warning,
    /// Normal events.
    Info,
    /// Details for diagnosis.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Returns the syslog severity, which the journal uses as well (RFC 3164, table 2).
    fn severity(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

/// Destination of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error.
    Stderr,
    /// The socket of syslog.
    Syslog,
}

/// Reasons that the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No connection to syslog.
    #[error("cannot reach syslog at {path}: {}; start it before edgelat, or let edgelat log to stderr", reason(.error))]
    Syslog {
        /// Its socket.
        path: &'static str,
        /// Cause of the failure.
        error: io::Error,
    },
    /// Standard error is unusable.
    #[error("cannot use standard error: {}; start edgelat with it open, if only to /dev/null", reason(.0))]
    Stderr(io::Error),
}

impl Fails for LogError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

/// The log of a process.
pub struct Log {
    level: Level,
    stderr: File,
    /// True if stderr is the journal, which expects a level before each line (sd-daemon(3)).
    journal: bool,
    /// Time since some fixed moment.
    clock: Box<dyn Fn() -> Duration>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    syslog: Option<UnixDatagram>,
    places: heapless::Vec<Place, PLACES>,
    /// Lines that could not be written.
    lost: u64,
}

/// A call site that logs.
struct Place {
    location: &'static Location<'static>,
    level: Level,
    /// Lines that it may still log.
    left: u32,
    /// Time of the last refill.
    filled: Duration,
    /// Time of its last attempt to log.
    spoke: Duration,
    /// Lines suppressed since its last logged line.
    left_out: u64,
    /// Beginning of its last line.
    example: heapless::String<EXAMPLE_BYTES>,
}

impl Place {
    fn fill(&mut self, now: Duration) {
        let ticks = now.saturating_sub(self.filled).as_secs() / REFILL.as_secs();
        self.left = u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(self.left).min(BURST);
        self.filled += REFILL * u32::try_from(ticks).unwrap_or(u32::MAX);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log, which creates no further file or socket from then on.
    ///
    /// # Errors
    /// If there is nothing to write to.
    pub fn open(to: LogTo, level: Level) -> Result<Self, LogError> {
        let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(LogError::Stderr)?.into();
        let syslog = match to {
            LogTo::Stderr => None,
            LogTo::Syslog => {
                Some(connect(Path::new(SYSLOG)).map_err(|error| LogError::Syslog { path: SYSLOG, error })?)
            }
        };
        let journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stderr, &stream));
        let begin = std::time::Instant::now();
        Ok(Self::with(stderr, journal, syslog, level, Box::new(move || begin.elapsed())))
    }

    fn with(
        stderr: File,
        journal: bool,
        syslog: Option<UnixDatagram>,
        level: Level,
        clock: Box<dyn Fn() -> Duration>,
    ) -> Self {
        let state = RefCell::new(State { syslog, ..State::default() });
        Self { level, stderr, journal, clock, state }
    }

    /// Logs a line if it is important enough and its call site has not logged too much.
    #[track_caller]
    pub fn say(&self, level: Level, text: fmt::Arguments<'_>) {
        if level > self.level {
            return;
        }
        let mut state = self.state.borrow_mut();
        let now = (self.clock)();
        let place = self.place(&mut state, Location::caller(), level, now);
        place.fill(now);
        place.spoke = now;
        if place.left == 0 {
            place.left_out += 1;
            return;
        }
        place.left -= 1;
        let left_out = std::mem::take(&mut place.left_out);
        let before = std::mem::replace(&mut place.example, bounded(text));
        self.tell_left_out(&mut state, level, left_out, &before);
        self.write(&mut state, level, text);
    }

    /// Reports suppressed lines of call sites that are calm again. Call it periodically.
    pub fn calm(&self) {
        let mut state = self.state.borrow_mut();
        let now = (self.clock)();
        for index in 0..state.places.len() {
            let place = &mut state.places[index];
            place.fill(now);
            if place.left_out > 0 && now.saturating_sub(place.spoke) >= REFILL {
                place.left = place.left.saturating_sub(1);
                let (left_out, example) = (std::mem::take(&mut place.left_out), place.example.clone());
                let level = place.level;
                self.tell_left_out(&mut state, level, left_out, &example);
            }
        }
    }

    fn place<'s>(
        &self,
        state: &'s mut State,
        location: &'static Location<'static>,
        level: Level,
        now: Duration,
    ) -> &'s mut Place {
        let known = state.places.iter().position(|place| place.location == location);
        let index = known.unwrap_or_else(|| {
            let new = Place {
                location,
                level,
                left: BURST,
                filled: now,
                spoke: now,
                left_out: 0,
                example: heapless::String::new(),
            };
            match state.places.push(new) {
                Ok(()) => state.places.len() - 1,
                Err(new) => {
                    let silent = state.places.iter().enumerate().min_by_key(|(_, place)| place.spoke);
                    let index = silent.map_or(0, |(index, _)| index);
                    let gone = std::mem::replace(&mut state.places[index], new);
                    self.tell_left_out(state, gone.level, gone.left_out, &gone.example);
                    index
                }
            }
        });
        &mut state.places[index]
    }

    fn tell_left_out(&self, state: &mut State, level: Level, left_out: u64, example: &str) {
        if left_out > 0 {
            self.write(state, level, format_args!("{left_out} more like this were left out: {example}"));
        }
    }

    fn write(&self, state: &mut State, level: Level, text: fmt::Arguments<'_>) {
        if state.lost > 0 {
            let lost = state.lost;
            if !self.write_line(
                state,
                Level::Warning,
                format_args!("{lost} lines were lost: nobody took them"),
            ) {
                state.lost += 1;
                return;
            }
            state.lost = 0;
        }
        if !self.write_line(state, level, text) {
            state.lost += 1;
        }
    }

    /// Returns false if the line could not be written.
    fn write_line(&self, state: &mut State, level: Level, text: fmt::Arguments<'_>) -> bool {
        if let Some(syslog) = &state.syslog {
            let line = packet(level, std::process::id(), text);
            match syslog.send(line.as_bytes()) {
                Ok(_) => return true,
                Err(error) if is_busy(&error) => return false,
                Err(error) => {
                    state.syslog = None;
                    let gone = format_args!(
                        "syslog is gone ({}); what there is to say comes here until edgelat is started again",
                        reason(&error)
                    );
                    self.write_stderr(Level::Warning, gone);
                }
            }
        }
        self.write_stderr(level, text)
    }

    fn write_stderr(&self, level: Level, text: fmt::Arguments<'_>) -> bool {
        // Not O_NONBLOCK: it would apply to every other process with this open file.
        let mut ready = [PollFd::new(self.stderr.as_fd(), PollFlags::POLLOUT)];
        let takes = poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        // One write per line, so that lines of the two processes do not mix.
        takes && (&self.stderr).write_all(line(level, self.journal, text).as_bytes()).is_ok()
    }
}

/// Text of bounded length without control characters.
struct Bounded<const N: usize> {
    text: heapless::String<N>,
    /// Bytes that are kept free.
    reserved: usize,
    cut: bool,
}

impl<const N: usize> fmt::Write for Bounded<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            self.cut |= self.text.len() + c.len_utf8() + self.reserved > N;
            if self.cut {
                return Ok(());
            }
            self.text.push(c).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

fn bounded<const N: usize>(text: fmt::Arguments<'_>) -> heapless::String<N> {
    let mut bounded = Bounded { text: heapless::String::new(), reserved: CUT.len() + 1, cut: false };
    // Fails only if the text's own formatting fails; the text written before that is kept.
    _ = bounded.write_fmt(text);
    if bounded.cut {
        // Space was reserved for it.
        _ = bounded.text.push_str(CUT);
    }
    bounded.text
}

/// Formats a line for stderr.
fn line(level: Level, journal: bool, text: fmt::Arguments<'_>) -> heapless::String<LINE_BYTES> {
    let name = level.name();
    let mut line = match journal {
        true => bounded(format_args!("<{}>edgelat: {name}: {text}", level.severity())),
        false => bounded(format_args!("edgelat: {name}: {text}")),
    };
    // Space was reserved for it.
    _ = line.push('\n');
    line
}

/// Formats a syslog packet as local programs may send it: without host name, and without a time,
/// which the daemon adds (RFC 3164, section 4.3.2). Local time would need the time zone rules.
fn packet(level: Level, pid: u32, text: fmt::Arguments<'_>) -> heapless::String<LINE_BYTES> {
    let priority = DAEMON * 8 + level.severity();
    bounded(format_args!("<{priority}>edgelat[{pid}]: {}: {text}", level.name()))
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // A syslog that does not read must not block the agent.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Returns true if a later attempt may succeed.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Returns true if the file is the one that `JOURNAL_STREAM` names, by device and inode.
///
/// Standard error may have been redirected since.
fn is_stream(file: &File, stream: &str) -> bool {
    let named =
        stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let found = file.metadata().ok().map(|found| (found.dev(), found.ino()));
    named.is_some() && named == found
}

#[cfg(test)]
mod tests;
