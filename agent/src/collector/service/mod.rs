//! The service measures every process that the configuration names, as long as it lives.
//!
//! | module | job |
//! | --- | --- |
//! | [`find`] | which processes a target of the configuration is |
//! | `consider` | may a process be measured now? |
//! | [`watched`] | what has become of each: measured, paused, left alone |
//! | [`lines`] | what is reported of them |
//! | `reload` | what a changed configuration changes |
//! | [`recorder`], [`live`] | what is kept of them, and what is shown |
//!
//! The loop sleeps until a signal comes, the guard has an event, or a process search or a report is
//! due. A failure with one process does not end the others: it is logged, and tried again later if
//! that may help.

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

/// Time for examining new processes in sequence before signals and events have their turn.
const LOOK: Duration = Duration::from_secs(1);
/// Reason code of a target without a process, of which nothing was measured.
const NO_PROCESS: &str = "no_process";

/// Reason why the service ended by itself.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::large_enum_variant, reason = "there is one at the end of a process")]
pub enum ServiceError {
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// Waiting failed.
    #[error("cannot wait for events: {0}")]
    Wait(nix::Error),
    /// The guard is gone, or received a wrong request.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// State of the running service.
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
    /// CPUs on which targets may run, as far as known.
    busy: CpuSet,
    output: Output,
    recorder: Recorder,
    /// True if the guard has given up the right to attach to anything new.
    closed: bool,
}

/// Parts of the service.
#[derive(Debug)]
pub struct Parts {
    /// The line to the guard.
    pub line: Line,
    /// The configuration file.
    pub path: PathBuf,
    /// Its content.
    pub config: Config,
    /// Sources of names.
    pub sources: Sources,
    /// The log.
    pub log: Log,
    /// Builds that must not be probed.
    pub quarantine: Store,
    /// CPU placement of this process.
    pub placement: Placement,
    /// Output of the service.
    pub output: Output,
    /// Storage of the results.
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
    /// Creates a service that measures nothing yet.
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

    /// Runs until a signal ends it, or the guard is gone.
    ///
    /// # Errors
    /// Fails if the service cannot continue; the results have been reported by then.
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
            // All that came: the wake-up is consumed, and does not repeat for the second signal.
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
                // A missed interval is left out, not made up for.
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
        // The guard sends nothing unrequested; only its end is detected.
        fds.extend(self.line.guard().map(|fd| PollFd::new(fd, PollFlags::empty())));
        // Rounded up: waking a little too early would spin until the time has come.
        let time = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, time) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(errno) => Err(ServiceError::Wait(errno)),
        }
    }

    /// Takes in the events of the guard. Returns true if processes must be searched at once.
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

    /// Ends a session: reports its counts and decides the fate of the process.
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
        // A process that has ended has no gap in its coverage.
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

    /// Finds processes that came and that are gone. Returns true if an event interfered and the
    /// search must be repeated. Processes for which `time` was too short are left for the next
    /// search.
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
            // Children that were forked meanwhile are covered already, as an event reports.
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
        // A process that waited for a library and has ended: no event reports its end.
        let ended = |process: &Watched| process.session().is_some_and(|session| session.family.is_empty());
        let ended: Vec<usize> = (0..watched.len()).filter(|index| ended(&watched[*index])).collect();
        ended.into_iter().try_for_each(|index| self.finish(group, index, Ended::Target, None))
    }

    /// Checks that the collector is where it was placed, and away from its targets.
    fn stay_in_place(&mut self) {
        if let Some(drift) = placement::recheck(&mut self.placement) {
            self.log.say(Level::Warning, format_args!("{drift}"));
        }
        let wanted = self.config.place();
        if let Some(cpu) = placement::stay_away(&mut self.placement, &wanted, &self.busy) {
            self.log.say(Level::Info, format_args!("the collector moves to CPU {cpu}, which no target uses"));
        }
    }

    /// Reports all processes, and ends the interval of the spool.
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

    /// Writes the live snapshot; the last snapshot if the service has `ended`.
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
                // The guard may be gone; the counts are reported nevertheless.
                _ = self.finish(group, index, reason, None);
            }
        }
    }
}
