//! `edgelat watch`: measures functions of one process and shows them until the user stops it.
//!
//! | module | job |
//! | --- | --- |
//! | [`command`] | a started command: from image to image, and to its end |
//! | [`screen`] | the table and the histogram for a person |
//!
//! The loop sleeps until a signal, an event of the guard, or the next report is due.

mod command;
mod screen;
pub(super) mod signals;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edgelat_guard::placement::{self, Placement};
use edgelat_guard::protocol::{Event, Reply, Request};
use edgelat_guard::{Asked, Beside, Command, Guard, GuardError, Limits, Line, Share};
use edgelat_image::Progress;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::screen::Screen;
use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::guarded::guarded_apart;
use super::options::CONFIG;
use super::output::{ProgressLine, say};
use super::parse::{WatchOptions, WatchTarget};
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::report::{Ended, Report};
use crate::collector::resolve::ResolveError;
use crate::collector::session::{Notices, Session, SessionError, Sources, Wanted, percent_of};
use crate::config::{Config, RUN_DIR};
use crate::values::{plans, ppm};

/// Interval between two checks for a library that is not mapped yet.
const LOOK_FOR_LIBRARIES: Duration = Duration::from_millis(100);

/// Reasons that watching cannot begin or continue.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The guard refused something.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The process cannot be measured.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The library of the only functions was never mapped.
    #[error(
        "nothing was measured: process {pid} never mapped the library of '{pattern}'; `edgelat functions PID` lists what a process has mapped"
    )]
    NoLibrary {
        /// The requested pattern.
        pattern: String,
        /// The process.
        pid: i32,
    },
    /// No image that the command executed was that of the only functions.
    #[error(
        "nothing was measured: the command executed {executed}, and none of them is or mapped the image of '{pattern}'"
    )]
    NotExecuted {
        /// The requested pattern.
        pattern: String,
        /// Executed images.
        executed: String,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// Waiting failed.
    #[error("cannot wait for events: {0}")]
    Wait(nix::Error),
}

impl Fails for SessionError {
    fn exit(&self) -> Exit {
        match self {
            Self::Guard(error) | Self::Resolve(ResolveError::Guard(error)) => error.exit(),
            Self::Resolve(ResolveError::Image { .. }) => Exit::Image,
            Self::Resolve(
                ResolveError::Find { .. }
                | ResolveError::Refused { .. }
                | ResolveError::TooManyImages { .. }
                | ResolveError::NoFile { .. }
                | ResolveError::NoPython { .. }
                | ResolveError::Python { .. },
            ) => Exit::Functions,
            Self::UnsafeReturns { .. } => Exit::Target,
        }
    }
}

impl Fails for WatchError {
    fn exit(&self) -> Exit {
        match self {
            Self::Guard(error) => error.exit(),
            Self::Session(error) => error.exit(),
            Self::NoLibrary { .. } | Self::NotExecuted { .. } => Exit::Functions,
            Self::Signals(_) | Self::Wait(_) => Exit::Failed,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The reason that nothing could be measured. Results from before an error are printed first.
pub fn run(options: WatchOptions) -> Result<Exit, Failure> {
    // Everything that needs the caller's rights is done here: the rest has no rights.
    let packs = super::pack::read_all(&options.packs)?;
    let debug_dirs = DebugDirs::open(&options.debug_dirs);
    let limits = limits(&options);
    let (guard, pid) = match &options.target {
        WatchTarget::Process(pid) => (Guard::new(vec![Asked::process(*pid, Some(limits))]), *pid),
        WatchTarget::Command(words) => {
            // With JSON, another program reads standard output: only our lines may go there.
            let command = Command::start(words, options.json)?;
            let pid = command.pid();
            (Guard::of_command(command, limits), pid)
        }
    };
    let beside = Beside::new(run_dir(options.config.as_deref())?);
    let service = beside.share();
    let guard = guard.held_to(options.max_cost.map(ppm), beside);
    guarded_apart(guard, &options.place, pid, |line, placement| {
        let signals = signals::catch().map_err(WatchError::Signals)?;
        let sources = Sources { debug_dirs, packs: super::pack::understand_all(&packs)? };
        let mut watch = Watch::open(&options, line, pid, sources, placement, service)?;
        let ended = match watch.begin(&signals)? {
            Some(ended) => ended,
            None => {
                watch.settle()?;
                watch.run(&options, &signals)?
            }
        };
        let mut shown = watch.end(ended);
        if watch.command.is_some() && watch.finish_command(ended, &signals) == Exit::Fault {
            shown = shown.map(|exit| if exit == Exit::Ok { Exit::Fault } else { exit });
        }
        shown
    })
}

/// Returns the directory where a service of this box publishes its cost.
/// Without a readable configuration, there can only be a service in the default directory.
fn run_dir(config: Option<&Path>) -> Result<PathBuf, Failure> {
    match config {
        Some(path) => Ok(Config::load(path)?.agent.run_dir),
        None => {
            Ok(Config::load(Path::new(CONFIG)).map_or_else(|_| RUN_DIR.into(), |known| known.agent.run_dir))
        }
    }
}

/// Returns the bounds of the plans for the target.
fn limits(options: &WatchOptions) -> Limits {
    Limits {
        plans: plans(options.functions.len(), options.python.len()),
        frames: options.frames,
        max_map_bytes: options.max_map_bytes,
        returns: options.returns,
        route: options.route,
        follow_forks: options.follow_forks,
        on_signal: options.on_signal,
        targets_on: options.targets_on,
        max_cost_ppm: options.max_cost.map(ppm),
        sample: options.sample,
        python: !options.python.is_empty(),
        pin: false,
        allow_ptrace: options.allow_ptrace,
    }
}

/// State of a running measurement.
struct Watch {
    line: Line,
    /// Placement of this process.
    placement: Placement,
    /// The service that runs on the same box.
    service: Option<Share>,
    session: Session,
    wanted: Wanted,
    sources: Sources,
    output: Output,
    /// The command that the guard started, if the target is a command.
    command: Option<command::Images>,
    /// The guard knows that no plan will follow.
    settled: bool,
}

enum Output {
    Json,
    Screen(Screen),
}

/// Notices on standard error, and a progress line for the reading of images.
#[derive(Default)]
struct Aloud(Option<ProgressLine>);

impl Notices for Aloud {
    fn bound(&self) -> &'static str {
        "--max-cost"
    }

    fn say(&mut self, text: fmt::Arguments<'_>) {
        // Any other message ends the progress line.
        self.0 = None;
        say(text);
    }

    fn progress(&mut self, image: &str, at: Progress) {
        let line = self.0.get_or_insert_with(ProgressLine::new);
        line.update(&format!("reading {image}"), at.done, at.total);
    }
}

impl Watch {
    fn open(
        options: &WatchOptions,
        mut line: Line,
        pid: i32,
        sources: Sources,
        placement: Placement,
        service: Option<Share>,
    ) -> Result<Self, WatchError> {
        let wanted = Wanted {
            functions: options.functions.clone(),
            python: options.python.clone(),
            plan: limits(options),
            bounded: options.max_cost.is_some() || service.is_some(),
            calibrated: options.calibrate,
            unprobed: Vec::new(),
            inlined: true,
        };
        let mut session = Session::open(&mut line, pid, &wanted)?;
        let output = match options.json {
            true => Output::Json,
            false => Output::Screen(Screen::new()),
        };
        let command = matches!(options.target, WatchTarget::Command(_)).then(|| {
            session.belongs_to(pid);
            command::Images::of(&session)
        });
        Ok(Self { line, placement, service, session, wanted, sources, output, command, settled: false })
    }

    /// Resolves, attaches, arms and then releases a command. Returns the reason to end, if any.
    fn begin(&mut self, signals: &UnixStream) -> Result<Option<Ended>, Failure> {
        let begun = self.session.begin(&mut self.line, &self.wanted, &self.sources, &mut Aloud::default());
        if self.command.is_some() {
            begun.inspect_err(command::hint).map_err(WatchError::from)?;
            if let Some(ended) = self.follow(signals)? {
                return Ok(Some(ended));
            }
            self.started()?;
            self.line.call(&Request::ReleaseCommand { pid: self.session.target.pid })?;
            return Ok(None);
        }
        begun.map_err(WatchError::from)?;
        if let Some(pattern) = self.session.python_pending.first() {
            let (pid, pattern) = (self.session.target.pid, pattern.to_string());
            let error = SessionError::from(ResolveError::NoPython { pid, pattern });
            return Err(WatchError::from(error).into());
        }
        self.started().map(|()| None)
    }

    fn say_what_is_waited_for(&self) {
        for pattern in &self.session.pending {
            say(format_args!("waiting for the library of '{pattern}'"));
        }
        for pattern in &self.session.python_pending {
            say(format_args!("waiting for the interpreter of '{pattern}'"));
        }
    }

    fn started(&mut self) -> Result<(), Failure> {
        self.say_what_is_waited_for();
        self.tell_placement();
        if let Some(service) = &self.service {
            say(format_args!(
                "a service runs beside, whose max_cost is {} % of one CPU: this measurement shares it, and ends when both \
                 cost more",
                percent_of(service.bound)
            ));
        }
        say("armed");
        self.show()
    }

    fn tell_placement(&self) {
        self.placement.notes.iter().for_each(say);
        // The requested placement needs no message if it is ordinary.
        if self.placement.isolated || self.placement.ext {
            say(format_args!("the collector runs {}", self.placement));
        }
    }

    /// Lets the guard drop rights once nothing is awaited.
    fn settle(&mut self) -> Result<(), WatchError> {
        if !self.session.waits() && !std::mem::replace(&mut self.settled, true) {
            match self.line.call(&Request::Settle) {
                // The next events report the guard's end; the counters are still readable then.
                Ok(_) | Err(GuardError::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn look_for_libraries(&mut self) -> Result<(), WatchError> {
        let aloud = &mut Aloud::default();
        Ok(self.session.look_for_libraries(&mut self.line, &self.wanted, &self.sources, aloud)?)
    }

    /// Runs the loop; returns the reason that it ended.
    fn run(&mut self, options: &WatchOptions, signals: &UnixStream) -> Result<Ended, Failure> {
        let end = options.duration.map(|duration| self.session.armed + duration);
        let mut next = self.session.armed + options.interval;
        let mut look = Instant::now() + LOOK_FOR_LIBRARIES;
        loop {
            let now = Instant::now();
            let mut wake = next.min(end.unwrap_or(next));
            if self.session.waits() {
                wake = wake.min(look);
            }
            if self.wait(wake.saturating_duration_since(now), signals)? {
                return Ok(Ended::Signal);
            }
            match self.take_events() {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(ended),
                // The counters are still readable.
                Err(WatchError::Guard(GuardError::Gone)) => return Ok(Ended::Guard),
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return Ok(Ended::Duration);
            }
            if self.session.waits() && now >= look {
                let looked = self.look_for_libraries();
                // A process that maps a great many files is examined less often.
                look = now + LOOK_FOR_LIBRARIES.max(now.elapsed() * 10);
                match looked {
                    Ok(()) if self.session.family.is_empty() => return Ok(Ended::Target),
                    Ok(()) => self.settle()?,
                    Err(error) if !self.session.measures() => return Err(error.into()),
                    // Functions that are already measured continue.
                    Err(error) => {
                        say(&error);
                        self.session.stop_waiting();
                    }
                }
            }
            if now >= next {
                // An interval that was slept through is skipped, not made up for.
                while next <= now {
                    next += options.interval;
                }
                for path in self.session.missed_images(&mut self.line, &self.wanted) {
                    say(format_args!(
                        "{path} was mapped after the measurement began and is not measured; end this and start it again for that"
                    ));
                }
                if let Some(drift) = placement::recheck(&mut self.placement) {
                    say(drift);
                }
                if let Err(failure) = self.show() {
                    // A reader that has seen enough closes the pipe: the end, not an error.
                    return if output_is_closed() { Ok(Ended::Output) } else { Err(failure) };
                }
            }
        }
    }

    /// Sleeps; returns true if a signal came.
    fn wait(&self, time: Duration, signals: &UnixStream) -> Result<bool, WatchError> {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.line.events().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // The guard sends nothing unrequested; only its end wakes the loop.
        fds.extend(self.line.guard().map(|fd| PollFd::new(fd, PollFlags::empty())));
        // Rounded up: waking a little too early would spin until the time is due.
        let time = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(WatchError::Wait(errno)),
        }
        Ok(fds[0].revents().is_some_and(|events| !events.is_empty()))
    }

    /// Processes the events of the guard; returns the reason to end, if any.
    fn take_events(&mut self) -> Result<Option<Ended>, WatchError> {
        loop {
            let (reply, _) = self.line.call(&Request::Events)?;
            let Reply::Events { events, more } = reply else {
                return Ok(None);
            };
            for told in &events {
                if let Some(ended) = self.session.take(told, &mut Aloud::default()) {
                    return Ok(Some(ended));
                }
            }
            let new = events.iter().any(|told| told.event == Event::NewCode);
            let learnt = if new { self.session.look_at_python(&mut self.line, false) } else { None };
            learnt.iter().for_each(say);
            if !more {
                return Ok(None);
            }
        }
    }

    /// Reads and prints a report.
    fn show(&mut self) -> Result<(), Failure> {
        self.session.look_at_python(&mut self.line, true).iter().for_each(say);
        self.session.learn_costs(&mut self.line);
        let report = self.session.report(None);
        self.print(&report)
    }

    fn print(&mut self, report: &Report) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = match &mut self.output {
            Output::Json => serde_json::to_writer(&mut out, report)
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n")),
            Output::Screen(screen) => screen.draw(&mut out, report),
        };
        written.and_then(|()| out.flush()).map_err(|error| super::output::OutputError::Write(error).into())
    }

    /// Removes the probes, reads for the last time and prints.
    fn end(&mut self, ended: Ended) -> Result<Exit, Failure> {
        let (report, failure) = self.session.end(&mut self.line, ended);
        let mut failure = failure.map(WatchError::from);
        if ended != Ended::Output {
            self.print(&report)?;
        }
        let pending = self.session.pending.first().map(ToString::to_string);
        let pending = pending.or_else(|| self.session.python_pending.first().map(ToString::to_string));
        if let (false, Some(pattern)) = (self.session.measures(), pending) {
            failure.get_or_insert(match &self.command {
                Some(command) => WatchError::NotExecuted { pattern, executed: command.in_words() },
                None => WatchError::NoLibrary { pattern, pid: self.session.target.pid },
            });
        }
        let exit = match ended {
            Ended::Budget => Exit::Budget,
            _ if self.session.died_of_fault => Exit::Fault,
            _ => Exit::Ok,
        };
        failure.map_or(Ok(exit), |error| Err(error.into()))
    }
}

/// Returns true if the reader of standard output is gone.
fn output_is_closed() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.intersects(gone))
}
