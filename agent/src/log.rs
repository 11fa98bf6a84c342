//! What the agent says while it runs: to stderr, where a supervisor reads it, or to syslog.
//!
//! Three things would go wrong with plain printing. A target that restarts ten times a second would fill the log, and with
//! it the flash: each place in the program has a bucket of lines that fills up again slowly, and what was left out is
//! counted and told when the flow calms. A supervisor that stops reading its pipe would stop the agent in the middle of a
//! write: a line that cannot be taken at once is lost, counted and told with the next one. And names that a target chose
//! could forge lines or speak to a terminal: no control character comes through.
//!
//! The collector can make no socket and needs none: what is written to is opened before it gives up its rights. So a syslog
//! that ends cannot be found again; what is to be said goes to stderr from then on, and that is said once.

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

/// Where syslog listens.
const SYSLOG: &str = "/dev/log";
/// Longest line in bytes: far below PIPE_BUF, up to which a pipe takes a line as a whole, and what every syslog takes.
const LINE_BYTES: usize = 1000;
/// Stands at the end of a line that was cut.
const CUT: &str = "...";
/// Lines that one place may say at once.
const BURST: u32 = 10;
/// Time after which it may say one more.
const REFILL: Duration = Duration::from_secs(10);
/// Places that are told apart; the one that was silent longest makes room.
const PLACES: usize = 32;
/// Bytes of a place's last line that are repeated to say what was left out.
const EXAMPLE_BYTES: usize = 60;
/// The facility of services without one of their own (RFC 3164, table 1).
const DAEMON: u8 = 3;

/// How important it is, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What happens.
    Info,
    /// What helps to find out why.
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

    /// The severity of syslog, which the journal uses as well (RFC 3164, table 2).
    fn severity(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error.
    Stderr,
    /// The socket of syslog.
    Syslog,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No syslog.
    #[error("cannot reach syslog at {path}: {}; start it before edgelat, or let edgelat log to stderr", reason(.error))]
    Syslog {
        /// Its socket.
        path: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// No standard error.
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
    /// Standard error is the journal, which takes a level before each line (sd-daemon(3)).
    journal: bool,
    /// Time since some fixed moment.
    clock: Box<dyn Fn() -> Duration>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    syslog: Option<UnixDatagram>,
    places: heapless::Vec<Place, PLACES>,
    /// Lines that nobody took.
    lost: u64,
}

/// A place in the program that says something.
struct Place {
    location: &'static Location<'static>,
    level: Level,
    /// Lines that it may still say.
    left: u32,
    /// When the last of them was added.
    filled: Duration,
    /// When it last wanted to say something.
    spoke: Duration,
    /// Lines that were left out since the last one that was not.
    left_out: u64,
    /// How its last line began.
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
    /// Opens it. From then on it makes no file and no socket any more.
    ///
    /// # Errors
    /// Where there is nothing to write to.
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

    /// Says something, if it is important enough and its place in the program has not said too much.
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

    /// Tells what was left out of places that are calm again. To be called now and then.
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

    /// False where it was not taken.
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
        // Not by O_NONBLOCK: whoever else has this file open would have it, too.
        let mut ready = [PollFd::new(self.stderr.as_fd(), PollFlags::POLLOUT)];
        let takes = poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        // One write for one line, so that those of the two processes do not mix.
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
    // Fails only where the text itself does; what it wrote before that is there.
    _ = bounded.write_fmt(text);
    if bounded.cut {
        // Room was kept for it.
        _ = bounded.text.push_str(CUT);
    }
    bounded.text
}

/// A line of standard error.
fn line(level: Level, journal: bool, text: fmt::Arguments<'_>) -> heapless::String<LINE_BYTES> {
    let name = level.name();
    let mut line = match journal {
        true => bounded(format_args!("<{}>edgelat: {name}: {text}", level.severity())),
        false => bounded(format_args!("edgelat: {name}: {text}")),
    };
    // Room was kept for it.
    _ = line.push('\n');
    line
}

/// A packet of syslog as programs of the same machine may send it: without the name of the host, and without a time, which
/// the daemon adds (RFC 3164, section 4.3.2). Local time would take the rules of the time zone.
fn packet(level: Level, pid: u32, text: fmt::Arguments<'_>) -> heapless::String<LINE_BYTES> {
    let priority = DAEMON * 8 + level.severity();
    bounded(format_args!("<{priority}>edgelat[{pid}]: {}: {text}", level.name()))
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // A syslog that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Is it worth while to try again later?
fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Is it the file that `JOURNAL_STREAM` names, by device and inode? It may have been redirected since.
fn is_stream(file: &File, stream: &str) -> bool {
    let named =
        stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let found = file.metadata().ok().map(|found| (found.dev(), found.ino()));
    named.is_some() && named == found
}

#[cfg(test)]
mod tests;
