//! `edgelat watch`: measure functions of one process now, and show them until somebody stops it.
//!
//! | module | job |
//! | --- | --- |
//! | [`budget`] | what the probes may cost |
//! | [`screen`] | the table and the histogram for a person |
//!
//! The loop sleeps until one of three things happens: a signal, an event of the guard, the next report.

mod budget;
mod screen;
mod signals;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use edgelat_guard::protocol::{Event, Fault, Reply, Request, Returns};
use edgelat_guard::{Command, Guard, GuardError, Line};
use edgelat_image::{Pack, Pattern, PythonPattern};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use self::budget::Budget;
use self::screen::Screen;
use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::guarded::guarded;
use super::notes;
use super::output::{ProgressLine, say};
use super::parse::{WatchOptions, WatchTarget};
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::measurement::{self, Measurement, rate};
use crate::collector::refusals;
use crate::collector::report::{
    Ended, FunctionReport, ProcessReport, RefusedReport, Report, SCHEMA, TargetReport,
};
use crate::collector::resolve::{self, Context, ResolveError, Resolved};
use crate::collector::target::Target;

/// How often a library that is not mapped yet is looked for.
const LOOK_FOR_LIBRARIES: Duration = Duration::from_millis(100);

/// Why watching could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The guard refused something.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Names did not become functions.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The library of the only functions never came.
    #[error(
        "nothing was measured: process {pid} never mapped the library of '{pattern}'; `edgelat functions PID` lists what a process has mapped"
    )]
    NoLibrary {
        /// What was asked for.
        pattern: String,
        /// The process.
        pid: i32,
    },
    /// Return probes would harm the target.
    #[error(
        "--returns uretprobe is unsafe for process {pid}: {reason}; leave it out: probes on exit sites are safe here"
    )]
    UnsafeReturns {
        /// The process.
        pid: i32,
        /// Why.
        reason: String,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// Waiting failed.
    #[error("cannot wait for events: {0}")]
    Wait(nix::Error),
}

impl Fails for WatchError {
    fn exit(&self) -> Exit {
        match self {
            Self::Guard(error) | Self::Resolve(ResolveError::Guard(error)) => error.exit(),
            Self::Resolve(ResolveError::Image { .. }) => Exit::Image,
            Self::Resolve(
                ResolveError::Find { .. }
                | ResolveError::Refused { .. }
                | ResolveError::NoFile { .. }
                | ResolveError::NoPython { .. }
                | ResolveError::Python { .. },
            ) => Exit::Functions,
            Self::NoLibrary { .. } => Exit::Functions,
            Self::UnsafeReturns { .. } => Exit::Target,
            Self::Signals(_) | Self::Wait(_) => Exit::Failed,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Why nothing could be measured. What was measured before an error is printed first.
pub fn run(options: WatchOptions) -> Result<Exit, Failure> {
    // All that only who called us may do is done here: the rest has no rights.
    let packs = super::pack::read_all(&options.packs)?;
    let debug_dirs = DebugDirs::open(&options.debug_dirs);
    let (guard, pid) = match &options.target {
        WatchTarget::Process(pid) => (Guard::new(), *pid),
        WatchTarget::Command(words) => {
            // Lines on standard output are ours where another program reads them.
            let command = Command::start(words, options.json)?;
            let pid = command.pid();
            (Guard::of_command(command), pid)
        }
    };
    guarded(guard, |line| {
        let signals = signals::catch().map_err(WatchError::Signals)?;
        let packs = super::pack::understand_all(&packs)?;
        let mut watch = Watch::open(&options, line, pid, packs, debug_dirs)?;
        watch.begin(&options)?;
        if options.calibrate {
            watch.calibrate();
        }
        watch.settle()?;
        let ended = watch.run(&options, signals)?;
        let shown = watch.end(ended);
        if watch.own {
            watch.finish_command(ended);
        }
        shown
    })
}

/// Everything that lives while a target is watched.
struct Watch {
    line: Line,
    target: Target,
    target_report: TargetReport,
    measurements: Vec<Measurement>,
    refused: Vec<RefusedReport>,
    /// Patterns whose library is not mapped yet.
    pending: Vec<Pattern>,
    /// Functions of Python whose interpreter is not mapped yet.
    python_pending: Vec<PythonPattern>,
    processes: Vec<ProcessReport>,
    alive: BTreeSet<i32>,
    armed: Instant,
    /// How long was counted, once that is over.
    measured: Option<Duration>,
    read: Instant,
    /// What the probes had cost then, in nanoseconds.
    cost_ns: u64,
    seq: u64,
    returns: Returns,
    detach_ns: Option<u64>,
    output: Output,
    packs: Vec<Pack>,
    debug_dirs: DebugDirs,
    /// The target is a command that the guard has started.
    own: bool,
    /// The guard knows that no plan will follow.
    settled: bool,
}

enum Output {
    Json,
    Screen(Screen),
}

impl Watch {
    fn open(
        options: &WatchOptions,
        mut line: Line,
        pid: i32,
        packs: Vec<Pack>,
        debug_dirs: DebugDirs,
    ) -> Result<Self, WatchError> {
        let own = matches!(options.target, WatchTarget::Command(_));
        let target = Target::open(&mut line, pid, options.allow_ptrace)?;
        if options.returns == Returns::Uretprobe {
            let images = target.images(&mut line)?;
            if let Some(reason) = refusals::return_probes(&mut line, &target, &images) {
                return Err(WatchError::UnsafeReturns { pid, reason });
            }
        }
        let target_report = describe(&mut line, &target)?;
        let output = match options.json {
            true => Output::Json,
            false => Output::Screen(Screen::new()),
        };
        let now = Instant::now();
        Ok(Self {
            line,
            target,
            target_report,
            measurements: Vec::new(),
            refused: Vec::new(),
            pending: Vec::new(),
            python_pending: Vec::new(),
            processes: vec![ProcessReport { pid, covered_since_ns: 0, ended_ns: None }],
            alive: BTreeSet::from([pid]),
            armed: now,
            measured: None,
            read: now,
            cost_ns: 0,
            seq: 0,
            returns: options.returns,
            detach_ns: None,
            output,
            packs,
            debug_dirs,
            own,
            settled: false,
        })
    }

    /// Resolves, attaches and arms; a command is let go then.
    fn begin(&mut self, options: &WatchOptions) -> Result<(), Failure> {
        if !options.functions.is_empty() {
            self.cover(options, &options.functions)?;
        }
        self.cover_python(options, options.python.clone())?;
        if !self.own {
            if let Some(pattern) = self.python_pending.first() {
                let pattern = pattern.to_string();
                return Err(WatchError::from(ResolveError::NoPython { pid: self.target.pid, pattern }).into());
            }
            return self.started();
        }
        // Libraries come one by one while a command starts; each is covered before it can be called.
        while self.waits() && self.step_command()? {
            self.look_for_libraries(options)?;
        }
        self.started()?;
        self.line.call(&Request::ReleaseCommand)?;
        Ok(())
    }

    /// Leads the command on to where it may have mapped a library. False when that is far enough.
    fn step_command(&mut self) -> Result<bool, WatchError> {
        match self.line.call(&Request::StepCommand)?.0 {
            Reply::Stepped { more } => Ok(more),
            _ => Ok(false),
        }
    }

    /// After measuring: a command that ended by itself is reported, one that runs on is ended with us, as a
    /// shell would end it at Ctrl-C.
    fn finish_command(&mut self, ended: Ended) {
        let terminate = ended != Ended::Target && ended != Ended::Replaced;
        if let Ok((Reply::Finished { badly: Some(how) }, _)) =
            self.line.call(&Request::FinishCommand { terminate })
        {
            say(how);
        }
    }

    fn started(&mut self) -> Result<(), Failure> {
        for pattern in &self.pending {
            say(format_args!("waiting for the library of '{pattern}'"));
        }
        for pattern in &self.python_pending {
            say(format_args!("waiting for the interpreter of '{pattern}'"));
        }
        say("armed");
        self.show()
    }

    /// Learns what the probes add, while they count already: a person waits for numbers, not for this.
    fn calibrate(&mut self) {
        for measurement in &mut self.measurements {
            if let Err(error) = measurement.calibrate(&mut self.line) {
                say(format_args!("what the probes themselves add is not known: {error}"));
            }
        }
    }

    /// Once nothing is waited for, the guard needs fewer rights.
    fn settle(&mut self) -> Result<(), WatchError> {
        if !self.waits() && !std::mem::replace(&mut self.settled, true) {
            self.line.call(&Request::Settle)?;
        }
        Ok(())
    }

    /// Attaches and arms what of `patterns` is mapped; the rest is pending.
    fn cover(&mut self, options: &WatchOptions, patterns: &[Pattern]) -> Result<(), WatchError> {
        let resolved = self.resolve(patterns)?;
        self.pending.clone_from(&resolved.pending);
        for refusal in &resolved.refused {
            say(format_args!("not measured: {}: {}", refusal.name, refusal.text));
        }
        self.refused.extend_from_slice(&resolved.refused);
        if resolved.functions.is_empty() {
            return Ok(());
        }
        self.measure(options, &resolved)
    }

    /// Attaches and arms functions of Python, once their interpreter is mapped.
    fn cover_python(
        &mut self,
        options: &WatchOptions,
        patterns: Vec<PythonPattern>,
    ) -> Result<(), WatchError> {
        if patterns.is_empty() {
            return Ok(());
        }
        let found = resolve::resolve_python(&mut self.line, &self.target, &patterns)?;
        let Some((python, image)) = found else {
            self.python_pending = patterns;
            return Ok(());
        };
        notes::of_python(&python).for_each(say);
        let resolved = Resolved { images: vec![image], python: Some(python), ..Resolved::default() };
        self.measure(options, &resolved)
    }

    /// Is there something that was asked for and is not mapped?
    fn waits(&self) -> bool {
        !self.pending.is_empty() || !self.python_pending.is_empty()
    }

    fn measure(&mut self, options: &WatchOptions, resolved: &Resolved) -> Result<(), WatchError> {
        let plan = measurement::Options {
            frames: options.frames,
            max_map_bytes: options.max_map_bytes,
            returns: options.returns,
            route: options.route,
            follow_forks: options.follow_forks,
            on_signal: options.on_signal,
        };
        let measurement = Measurement::attach(&mut self.line, &self.target, resolved, plan)?;
        measurement.arm(&mut self.line)?;
        if self.measurements.is_empty() {
            self.armed = Instant::now();
            self.read = self.armed;
        }
        self.measurements.push(measurement);
        Ok(())
    }

    fn resolve(&mut self, patterns: &[Pattern]) -> Result<Resolved, ResolveError> {
        let mut progress = ProgressLine::new();
        let mut context = Context {
            debug_dirs: &self.debug_dirs,
            packs: &self.packs,
            progress: &mut |image, at| progress.update(&format!("reading {image}"), at.done, at.total),
        };
        resolve::resolve(&mut self.line, &self.target, patterns, &mut context)
    }

    /// Has a library come that was waited for? A target that maps nothing any more has ended; where nothing is
    /// attached yet, no event tells of that.
    fn look_for_libraries(&mut self, options: &WatchOptions) -> Result<(), WatchError> {
        let images = self.target.images(&mut self.line).unwrap_or_default();
        if images.is_empty() {
            self.alive.remove(&self.target.pid);
        }
        let python = std::mem::take(&mut self.python_pending);
        self.cover_python(options, python)?;
        let here = |pattern: &Pattern| {
            images.iter().any(|image| pattern.matches_image(std::path::Path::new(image.path.as_str())))
        };
        if !self.pending.iter().any(here) {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.cover(options, &pending)
    }

    /// The loop; returns why it ended.
    fn run(&mut self, options: &WatchOptions, signals: UnixStream) -> Result<Ended, Failure> {
        let end = options.duration.map(|duration| self.armed + duration);
        let mut next = self.armed + options.interval;
        let mut look = Instant::now() + LOOK_FOR_LIBRARIES;
        let mut budget =
            options.max_cost.map(|percent| Budget::new(percent, Instant::now(), self.cost().unwrap_or(0)));
        loop {
            let now = Instant::now();
            let mut wake = next.min(end.unwrap_or(next));
            if let Some(budget) = &budget {
                wake = wake.min(budget.next());
            }
            if self.waits() {
                wake = wake.min(look);
            }
            if self.wait(wake.saturating_duration_since(now), &signals)? {
                return Ok(Ended::Signal);
            }
            match self.take_events() {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(ended),
                // What was counted can still be read.
                Err(WatchError::Guard(GuardError::Gone)) => return Ok(Ended::Guard),
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return Ok(Ended::Duration);
            }
            if let Some(budget) = &mut budget
                && let Some(percent) = budget.look(now, self.cost().unwrap_or(0))
            {
                say(format_args!(
                    "the probes cost {percent} % of one CPU, more than --max-cost allows; what was measured until now follows"
                ));
                return Ok(Ended::Budget);
            }
            if self.waits() && now >= look {
                look = now + LOOK_FOR_LIBRARIES;
                match self.look_for_libraries(options) {
                    Ok(()) if self.alive.is_empty() => return Ok(Ended::Target),
                    Ok(()) => self.settle()?,
                    Err(error) if self.measurements.is_empty() => return Err(error.into()),
                    // What is measured already goes on.
                    Err(error) => {
                        say(&error);
                        self.pending.clear();
                        self.python_pending.clear();
                    }
                }
            }
            if now >= next {
                // An interval that was slept through is left out, not made up for.
                while next <= now {
                    next += options.interval;
                }
                if let Err(failure) = self.show() {
                    // Somebody who has seen enough closes the pipe: the end, not an error.
                    return if output_is_closed() { Ok(Ended::Output) } else { Err(failure) };
                }
            }
        }
    }

    /// Sleeps; true when a signal came.
    fn wait(&self, time: Duration, signals: &UnixStream) -> Result<bool, WatchError> {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.line.events().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // Nothing comes unasked but its end.
        fds.extend(self.line.guard().map(|fd| PollFd::new(fd, PollFlags::empty())));
        // Rounded up: waking a little too early would spin until the time has come.
        let time = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(WatchError::Wait(errno)),
        }
        Ok(fds[0].revents().is_some_and(|events| !events.is_empty()))
    }

    /// What the guard saw; the reason to end, if it is one.
    fn take_events(&mut self) -> Result<Option<Ended>, WatchError> {
        loop {
            let (reply, _) = self.line.call(&Request::Events)?;
            let Reply::Events { events, more } = reply else {
                return Ok(None);
            };
            let now = self.elapsed();
            for event in events {
                match event {
                    Event::Covered { pid } if self.alive.insert(pid) => {
                        let process = ProcessReport { pid, covered_since_ns: now, ended_ns: None };
                        self.processes.push(process);
                    }
                    // A second plan covers the same process.
                    Event::Covered { .. } => {}
                    Event::NotCovered { pid, error } => {
                        say(format_args!("child {pid} is not covered: {error}"))
                    }
                    Event::NewCode => self.measurements.iter_mut().for_each(Measurement::attend),
                    Event::Faulted { pid, fault, sites, took_ns } => {
                        say(fault_in_words(pid, fault, sites, took_ns));
                        return Ok(Some(Ended::Fault));
                    }
                    Event::Ended { pid, .. } => self.gone(pid, now),
                    Event::MainThreadEnded { pid } => {
                        say(format_args!(
                            "the main thread of process {pid} has ended, and the kernel stops probes of this route \
                             with it; calls from here on are not measured (--route uprobe_multi can, from Linux 6.6)"
                        ));
                        self.gone(pid, now);
                    }
                    Event::Replaced { pid } => {
                        say(format_args!(
                            "process {pid} executes another image now; its functions are no longer measured"
                        ));
                        if pid == self.target.pid {
                            return Ok(Some(Ended::Replaced));
                        }
                    }
                }
            }
            if !more {
                return Ok(self.alive.is_empty().then_some(Ended::Target));
            }
        }
    }

    /// A process is no longer covered.
    fn gone(&mut self, pid: i32, now: u64) {
        self.alive.remove(&pid);
        if let Some(process) = self.processes.iter_mut().find(|process| process.pid == pid) {
            process.ended_ns.get_or_insert(now);
        }
    }

    /// Time since arming, or until disarming, in nanoseconds.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.measured.unwrap_or_else(|| self.armed.elapsed()).as_nanos()).unwrap_or(u64::MAX)
    }

    /// What the probes have cost so far, in nanoseconds; `None` where that is not known.
    fn cost(&self) -> Option<u64> {
        self.measurements.iter().map(Measurement::cost_ns).sum()
    }

    /// Reads and prints.
    fn show(&mut self) -> Result<(), Failure> {
        let report = self.report(None);
        self.print(&report)
    }

    fn report(&mut self, ended: Option<Ended>) -> Report {
        let since = match self.seq {
            0 => 0,
            _ => u64::try_from(self.read.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        self.read = Instant::now();
        let cost = self.cost();
        let before = std::mem::replace(&mut self.cost_ns, cost.unwrap_or(0));
        let cost_percent = cost.filter(|_| since > 0).map(|cost| match ended {
            None => budget::percent(cost.saturating_sub(before), Duration::from_nanos(since)),
            Some(_) => budget::percent(cost, Duration::from_nanos(self.elapsed())),
        });
        let mut functions: Vec<FunctionReport> = Vec::new();
        for measurement in &mut self.measurements {
            functions.extend_from_slice(measurement.read(&self.alive, since));
        }
        if ended.is_some() {
            // The last interval is of any length; a person wants the rate of it all.
            let whole = self.elapsed();
            functions.iter_mut().for_each(|function| function.rate_per_s = rate(function.entries, whole));
        }
        let first = self.measurements.first();
        let session = first.is_some_and(|measurement| measurement.session);
        let report = Report {
            schema: SCHEMA,
            seq: self.seq,
            elapsed_ns: self.elapsed(),
            last: ended.is_some(),
            ended,
            target: self.target_report.clone(),
            route: first.map_or("none", |measurement| measurement.route.name()),
            returns: match (self.returns, session) {
                (Returns::Ret, _) => "ret",
                (Returns::Uretprobe, true) => "uretprobe session",
                (Returns::Uretprobe, false) => "uretprobe",
            },
            sites: self.measurements.iter().map(|measurement| measurement.sites).sum(),
            attach_ns: self.measurements.iter().map(|measurement| measurement.attach_ns).sum(),
            detach_ns: self.detach_ns,
            processes: self.processes.clone(),
            functions,
            python: self.measurements.iter().find_map(Measurement::python),
            cost_percent,
            unattributed_hits: self.measurements.iter().map(Measurement::unattributed_hits).sum(),
            refused: self.refused.clone(),
        };
        self.seq += 1;
        report
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

    /// Takes the probes off, reads for the last time and prints.
    fn end(&mut self, ended: Ended) -> Result<Exit, Failure> {
        let mut failure = None;
        for measurement in &self.measurements {
            if let Err(error) = measurement.disarm(&mut self.line) {
                failure = Some(WatchError::from(error));
            }
        }
        // Nothing counts from here on, and what detaching takes belongs to no rate.
        self.measured = Some(self.armed.elapsed());
        // Detaching waits until no program runs any more: what is read after that does not move.
        for measurement in &self.measurements {
            match measurement.detach(&mut self.line) {
                Ok(ns) => *self.detach_ns.get_or_insert(0) += ns,
                Err(error) => failure = Some(WatchError::from(error)),
            }
        }
        let report = self.report(Some(ended));
        if ended != Ended::Output {
            self.print(&report)?;
        }
        if let (true, Some(pattern)) = (self.measurements.is_empty(), self.pending.first()) {
            let pattern = pattern.to_string();
            failure.get_or_insert(WatchError::NoLibrary { pattern, pid: self.target.pid });
        }
        let exit = if ended == Ended::Budget { Exit::Budget } else { Exit::Ok };
        failure.map_or(Ok(exit), |error| Err(error.into()))
    }
}

fn describe(line: &mut Line, target: &Target) -> Result<TargetReport, GuardError> {
    let images = target.images(line)?;
    let executable = images.iter().find(|image| image.executable);
    let open = executable.map(|image| target.open_image(line, image)).transpose()?;
    Ok(TargetReport {
        pid: target.pid,
        start: target.start,
        exe: executable.map(|image| image.path.to_string()).unwrap_or_default(),
        build_id: open.and_then(|open| resolve::build_id_of(&open.file)),
    })
}

fn fault_in_words(pid: i32, fault: Fault, sites: u32, took_ns: u64) -> String {
    let signal = match Signal::try_from(fault.signal) {
        Ok(signal) => signal.as_str(),
        Err(_) => "a signal",
    };
    let handled = match fault.handled {
        true => ", which it handles (--on-signal fatal goes on then)",
        false => "",
    };
    format!(
        "process {pid} got {signal}{handled}: counting stopped at once, and its {sites} probes were gone {:.1} ms later",
        took_ns as f64 / 1e6
    )
}

/// Has the reader of standard output gone?
fn output_is_closed() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.intersects(gone))
}
