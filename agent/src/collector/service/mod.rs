//! The service: every process that the configuration names, measured as long as it lives.
//!
//! | module | job |
//! | --- | --- |
//! | [`find`] | which processes a target of the configuration is |
//! | `consider` | may a process be measured now? |
//! | [`watched`] | what has become of each: measured, paused, left alone |
//! | [`lines`] | what is told of them |
//! | `reload` | what a changed configuration changes |
//! | [`recorder`], [`live`] | what is kept of them, and what is shown |
//!
//! The loop sleeps until a signal comes, the guard has something to tell, or it is time to look for processes or to report.
//! Nothing that goes wrong with one process ends the others: it is logged, and tried again later where that may help.

mod consider;
pub mod find;
pub mod lines;
pub mod live;
pub mod recorder;
mod reload;
pub mod signals;
pub mod watched;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use edgelat_guard::cpus::CpuSet;
use edgelat_guard::placement::{self, Placement};
use edgelat_guard::protocol::{Event, Found, Reply, Request, Told};
use edgelat_guard::quarantine::{self, Store};
use edgelat_guard::{GuardError, Line, error};
use edgelat_image::Progress;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::lines::{Output, State};
use self::live::Shown;
use self::recorder::{Recorder, boot_ns};
use self::signals::{Signals, Wish};
use self::watched::{Fate, Group, Watched};
use super::notes::Killed;
use super::report::Ended;
use super::session::{Notices, SessionError, Sources};
use crate::config::Config;
use crate::log::{Level, Log};

/// How long new processes are looked into, one after the other, before signals and events have their turn.
const LOOK: Duration = Duration::from_secs(1);
/// Why nothing of a target was measured that no process is of.
const NO_PROCESS: &str = "no_process";

/// Why the service ended by itself.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::large_enum_variant, reason = "there is one at the end of a process")]
pub enum ServiceError {
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// Waiting failed.
    #[error("cannot wait for events: {0}")]
    Wait(nix::Error),
    /// The guard is gone, or was asked for something wrong.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// Everything that lives while the service runs.
#[derive(Debug)]
pub struct Service {
    line: Line,
    path: PathBuf,
    config: Config,
    groups: Vec<Group>,
    sources: Sources,
    log: Log,
    quarantine: Store,
    placement: Placement,
    /// Where targets may run, as far as it is known.
    busy: CpuSet,
    output: Output,
    recorder: Recorder,
    /// The guard has given up the right to attach to anything new.
    closed: bool,
}

/// What the service is made of.
#[derive(Debug)]
pub struct Parts {
    /// The line to the guard.
    pub line: Line,
    /// The configuration file.
    pub path: PathBuf,
    /// What is in it.
    pub config: Config,
    /// Where names come from.
    pub sources: Sources,
    /// The log.
    pub log: Log,
    /// What must not be probed.
    pub quarantine: Store,
    /// Where this process runs.
    pub placement: Placement,
    /// What is told.
    pub output: Output,
    /// What is kept.
    pub recorder: Recorder,
}

/// Notices of sessions are lines of the log.
struct Logged<'a> {
    log: &'a Log,
    name: &'a str,
}

impl Notices for Logged<'_> {
    fn bound(&self) -> &'static str {
        "max_cost"
    }

    fn say(&mut self, text: fmt::Arguments<'_>) {
        self.log.say(Level::Info, format_args!("{}: {text}", self.name));
    }

    fn progress(&mut self, _image: &str, _at: Progress) {}
}

impl Service {
    /// A service that measures nothing yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { line, path, config, sources, log, quarantine, placement, output, recorder } = parts;
        let groups = config.targets.iter().map(|target| Group::new(target, &config.agent)).collect();
        let (busy, closed) = (CpuSet::default(), false);
        Self {
            line,
            path,
            config,
            groups,
            sources,
            log,
            quarantine,
            placement,
            busy,
            output,
            recorder,
            closed,
        }
    }

    /// Runs until it is told to end, or the guard is gone.
    ///
    /// # Errors
    /// When it cannot go on; what was measured has been told then.
    pub fn run(mut self) -> Result<(), ServiceError> {
        let signals = Signals::catch().map_err(ServiceError::Signals)?;
        self.placement.notes.iter().for_each(|note| self.log.say(Level::Warning, format_args!("{note}")));
        self.log.say(Level::Info, format_args!("the collector runs {}", self.placement));
        let ended = self.start().and_then(|()| self.serve(&signals));
        let reason = match &ended {
            Ok(()) => Ended::Signal,
            Err(_) => Ended::Guard,
        };
        self.end_all(reason);
        self.recorder.close(true, &self.log);
        self.show(true);
        ended
    }

    fn start(&mut self) -> Result<(), ServiceError> {
        self.look_for_processes(None)?;
        self.closed = !self.config.agent.reattach;
        self.line.call(&Request::Settle)?;
        self.show(false);
        self.status(true)
    }

    fn serve(&mut self, signals: &Signals) -> Result<(), ServiceError> {
        let mut scan = Instant::now() + self.config.agent.scan;
        let mut report = Instant::now() + self.config.agent.interval;
        loop {
            let now = Instant::now();
            self.sleep(scan.min(report).saturating_duration_since(now), signals)?;
            // All that came: what woke us is gone, and would not wake us for the second one.
            while let Some(wish) = signals.taken() {
                match wish {
                    Wish::End => return Ok(()),
                    Wish::Reload => self.reload()?,
                    Wish::Report => self.report_all(true),
                }
            }
            let mut again = self.take_events()?;
            let now = Instant::now();
            if now >= scan || again {
                scan = now + self.config.agent.scan;
                again = self.look_for_processes(Some(LOOK))?;
                self.stay_in_place();
                self.log.calm();
                if again {
                    scan = now;
                }
            }
            if now >= report {
                // An interval that was slept through is left out, not made up for.
                while report <= now {
                    report += self.config.agent.interval;
                }
                self.report_all(false);
                self.status(false)?;
            }
        }
    }

    fn sleep(&self, time: Duration, signals: &Signals) -> Result<(), ServiceError> {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(signals.fd(), PollFlags::POLLIN)];
        fds.extend(self.line.events().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // Nothing comes unasked but its end.
        fds.extend(self.line.guard().map(|fd| PollFd::new(fd, PollFlags::empty())));
        // Rounded up: waking a little too early would spin until the time has come.
        let time = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(errno) => Err(ServiceError::Wait(errno)),
        }
    }

    /// Takes in what the guard saw. True when processes have to be looked for at once.
    fn take_events(&mut self) -> Result<bool, ServiceError> {
        let mut again = false;
        loop {
            let (Reply::Events { events, more }, _) = self.line.call(&Request::Events)? else {
                return Ok(again);
            };
            for told in &events {
                again |= self.take_event(told)?;
            }
            if !more {
                return Ok(again);
            }
        }
    }

    fn take_event(&mut self, told: &Told) -> Result<bool, ServiceError> {
        let place =
            self.groups.iter().enumerate().find_map(|(group, of)| Some((group, of.owner(told.plan)?)));
        let Some((group, index)) = place else { return Ok(false) };
        let Group { config, watched, .. } = &mut self.groups[group];
        let Some(session) = watched[index].session_mut() else { return Ok(false) };
        let mut notices = Logged { log: &self.log, name: &config.name };
        let before = session.children;
        let ended = session.take(told, &mut notices);
        self.recorder.children(&config.name, before, session.children);
        let Some(ended) = ended else {
            if told.event == Event::NewCode
                && let Some(text) = session.look_at_python(&mut self.line, false)
            {
                notices.say(format_args!("{text}"));
            }
            return Ok(false);
        };
        self.finish(group, index, ended, Some(&told.event))?;
        Ok(matches!(ended, Ended::Replaced | Ended::ImageChanged))
    }

    /// The end of a session: tells what it counted and decides what becomes of the process.
    fn finish(
        &mut self,
        group: usize,
        index: usize,
        ended: Ended,
        event: Option<&Event>,
    ) -> Result<(), ServiceError> {
        let Group { config, watched, spent, .. } = &mut self.groups[group];
        let process = &mut watched[index];
        let Some(mut session) = process.take_session() else { return Ok(()) };
        let (report, failure) = session.end(&mut self.line, ended);
        spent.cost_ns += session.cost().unwrap_or(0);
        spent.unattributed += report.unattributed_hits;
        spent.children.add(session.children);
        self.output.tell((&config.name, process.pid), (State::Ended, None), Some(&report), &self.recorder);
        self.recorder.take(&config.name, &report);
        if let Some(error) = failure {
            self.log.say(Level::Error, format_args!("{}: {error}", config.name));
        }
        if let Some(Event::Faulted { fault, .. }) = event {
            let key = watched::key(session.description(), config);
            let record = watched::record(key, fault, session.description(), config);
            if !quarantine::deserves(fault) {
                self.log.say(
                    Level::Info,
                    format_args!("{}: the signal came from another process; no quarantine", config.name),
                );
            } else if fault.handled {
                process.if_it_dies = Some((Instant::now(), record));
            } else {
                watched::put(&self.quarantine, record, &self.log);
            }
        }
        if ended == Ended::Target {
            let killing = watched::killing(session.description(), config);
            let lived = session.armed.elapsed() >= Killed::SOON;
            let killed = event.and_then(|event| Killed::of(event, session.armed.elapsed()));
            watched::note_killing(&self.quarantine, killing, killed, lived, &self.log);
        }
        process.fate = Fate::after(ended, Instant::now(), &mut process.pauses);
        // One that is no more lacks nothing.
        process.uncovered_ns = (ended != Ended::Target).then(boot_ns);
        if ended == Ended::Guard {
            return Ok(());
        }
        match self.line.call(&Request::ForgetTarget { target: session.target.id }) {
            Ok(_) => Ok(()),
            Err(GuardError::Gone) => Err(GuardError::Gone.into()),
            Err(error) => {
                self.log.say(Level::Error, format_args!("{}: {error}", config.name));
                Ok(())
            }
        }
    }

    /// Finds processes that came and those that are gone. True when something came in the way and it has to be done again.
    /// Processes for which there was no `time` are left for the next look.
    fn look_for_processes(&mut self, time: Option<Duration>) -> Result<bool, ServiceError> {
        let begun = Instant::now();
        let mut again = false;
        for group in 0..self.groups.len() {
            let found = match find::all(&mut self.line, &self.groups[group].config.select) {
                Ok(found) => found,
                Err(GuardError::Gone) => return Err(GuardError::Gone.into()),
                Err(error) => {
                    self.log.say(Level::Error, format_args!("{}: {error}", self.groups[group].config.name));
                    continue;
                }
            };
            // Children that were forked meanwhile are covered already, and an event says so.
            again |= self.take_events()?;
            self.forget_gone(group, &found);
            for process in &found {
                if time.is_some_and(|time| begun.elapsed() > time) {
                    break;
                }
                again |= self.consider(group, process)?;
            }
            self.look_for_libraries(group)?;
        }
        Ok(again)
    }

    fn forget_gone(&mut self, group: usize, found: &[Found]) {
        let Group { config, watched, absent_ns, .. } = &mut self.groups[group];
        watched.retain_mut(|process| {
            let here = process.session_mut().is_some() || found.iter().any(|found| process.is(found));
            if !here && let Some(record) = process.died_of() {
                watched::put(&self.quarantine, record, &self.log);
            }
            if !here
                && let (_, Some(why)) = process.fate.in_words()
                && let Some(since) = process.uncovered_ns
            {
                self.recorder.uncovered(&config.name, why, since);
            }
            here
        });
        if watched.is_empty() && absent_ns.is_none() {
            *absent_ns = Some(boot_ns());
        }
    }

    fn look_for_libraries(&mut self, group: usize) -> Result<(), ServiceError> {
        let Group { config, wanted, watched, .. } = &mut self.groups[group];
        for process in watched.iter_mut() {
            let Some(session) = process.session_mut().filter(|session| session.looks_on(wanted)) else {
                continue;
            };
            let mut notices = Logged { log: &self.log, name: &config.name };
            match session.look_for_libraries(&mut self.line, wanted, &self.sources, &mut notices) {
                Ok(()) => {}
                Err(SessionError::Guard(GuardError::Gone)) => return Err(GuardError::Gone.into()),
                Err(error) => {
                    self.log.say(Level::Warning, format_args!("{}: {error}", config.name));
                    session.stop_waiting();
                }
            }
        }
        // One that waited for a library and has ended: no event tells of it.
        let ended = |process: &Watched| process.session().is_some_and(|session| session.family.is_empty());
        let ended: Vec<usize> = (0..watched.len()).filter(|index| ended(&watched[*index])).collect();
        ended.into_iter().try_for_each(|index| self.finish(group, index, Ended::Target, None))
    }

    /// Looks whether the collector is where it was put, and away from its targets.
    fn stay_in_place(&mut self) {
        if let Some(drift) = placement::recheck(&mut self.placement) {
            self.log.say(Level::Warning, format_args!("{drift}"));
        }
        let wanted = self.config.place();
        if let Some(cpu) = placement::stay_away(&mut self.placement, &wanted, &self.busy) {
            self.log.say(Level::Info, format_args!("the collector moves to CPU {cpu}, which no target uses"));
        }
    }

    /// Tells of all processes, and ends the interval of the spool.
    fn report_all(&mut self, sync: bool) {
        for group in &mut self.groups {
            let name = &group.config.name;
            for process in &mut group.watched {
                let (state, reason) = process.fate.in_words();
                let report = process.session_mut().map(|session| {
                    session.learn_costs(&mut self.line);
                    if let Some(text) = session.look_at_python(&mut self.line, true) {
                        Logged { log: &self.log, name }.say(format_args!("{text}"));
                    }
                    session.report(None)
                });
                self.output.tell((name, process.pid), (state, reason), report.as_ref(), &self.recorder);
                if let Some(report) = &report {
                    self.recorder.take(name, report);
                } else if let (Some(why), Some(since)) = (reason, process.uncovered_ns) {
                    self.recorder.uncovered(name, why, since);
                }
            }
            if let Some(since) = group.absent_ns {
                self.recorder.uncovered(name, NO_PROCESS, since);
            }
        }
        self.recorder.close(sync, &self.log);
        self.show(false);
    }

    /// Writes the live snapshot; the last one where it has `ended`.
    fn show(&mut self, ended: bool) {
        let held = self.quarantine.list().0;
        let quarantine = held.iter().filter(|held| quarantine::lasts(held) && !held.is_kill()).count();
        let shown = Shown { agent: &self.config.agent, groups: &self.groups, quarantine, ended };
        self.recorder.show(&shown, &self.log);
    }

    fn status(&mut self, ready: bool) -> Result<(), ServiceError> {
        let of = |wanted: fn(&Watched) -> bool| {
            self.groups.iter().flat_map(|group| &group.watched).filter(|process| wanted(process)).count()
        };
        let measured = of(|process| process.session().is_some());
        let others = of(|process| process.session().is_none());
        let text = error::text(format_args!("{measured} processes measured, {others} not"));
        self.line.call(&Request::Status { ready, text })?;
        if ready {
            self.log.say(Level::Info, format_args!("ready: {measured} processes measured, {others} not"));
        }
        Ok(())
    }

    fn end_all(&mut self, reason: Ended) {
        for group in 0..self.groups.len() {
            for index in 0..self.groups[group].watched.len() {
                // The guard may be gone; what was counted is told all the same.
                _ = self.finish(group, index, reason, None);
            }
        }
    }
}
