//! Decision about a process that was found: measurement now, or its fate if that fails.

use std::time::Instant;

use edgelat_guard::placement;
use edgelat_guard::protocol::{Found, Request};
use edgelat_guard::quarantine::Record;
use edgelat_guard::{GuardError, Line};

use super::watched::{self, Fate, Group, Watched};
use super::{Logged, NO_PROCESS, Service, ServiceError};
use crate::collector::notes::Killed;
use crate::collector::session::{Session, SessionError};
use crate::log::Level;

/// Outcome of the attempt.
enum Begun {
    Measured(Session),
    /// The build is left alone because of this record.
    Held(Session, Box<Record>),
}

impl Service {
    /// Measures a process that is not measured yet, if it is due. Returns true if processes must be
    /// searched at once.
    pub(super) fn consider(&mut self, group: usize, found: &Found) -> Result<bool, ServiceError> {
        let now = Instant::now();
        if self.closed || self.groups.iter().any(|of| of.covers(found.pid)) {
            return Ok(false);
        }
        let Group { config, watched, absent_ns, .. } = &mut self.groups[group];
        let known = watched.iter().position(|process| process.is(found));
        if known.is_some_and(|index| !watched[index].fate.is_due(now)) {
            return Ok(false);
        }
        let index = known.unwrap_or_else(|| {
            if let Some(since) = absent_ns.take() {
                self.recorder.uncovered(&config.name, NO_PROCESS, since);
            }
            watched.push(Watched::new(found));
            watched.len() - 1
        });
        let mut killing = None;
        match self.begin(group, found.pid, &mut killing) {
            Ok(begun) => {
                self.settle_fate(group, index, begun)?;
                // Its children are covered with it.
                self.take_events()
            }
            Err(SessionError::Guard(GuardError::Gone)) => Err(GuardError::Gone.into()),
            // It came and went, or has not executed anything yet: there is nothing to report.
            Err(SessionError::Guard(GuardError::NoProcess { .. } | GuardError::NoImage { .. })) => {
                self.groups[group].watched.remove(index);
                Ok(false)
            }
            Err(error) => {
                let Group { config, watched, .. } = &mut self.groups[group];
                self.log.say(Level::Warning, format_args!("{}: process {}: {error}", config.name, found.pid));
                let out_of_memory = matches!(error, SessionError::Guard(GuardError::OutOfMemory { .. }));
                if let Some(killing) = killing.filter(|_| out_of_memory) {
                    let killed = Some(Killed::OutOfMemory);
                    watched::note_killing(&self.quarantine, killing, killed, false, &self.log);
                }
                let process = &mut watched[index];
                process.fate = Fate::failed(now, &mut process.pauses);
                Ok(false)
            }
        }
    }

    /// Opens a process and attaches to it, unless its build must not be probed. `killing` receives
    /// the record to keep if that kills the process, once its build is known.
    fn begin(&mut self, group: usize, pid: i32, killing: &mut Option<Record>) -> Result<Begun, SessionError> {
        let Group { config, wanted, .. } = &self.groups[group];
        let mut session = Session::open(&mut self.line, pid, wanted)?;
        let key = &killing.insert(watched::killing(session.description(), config)).key;
        match self.quarantine.contains(key) {
            Ok(Some(record)) => return Ok(Begun::Held(session, Box::new(record))),
            Ok(None) => {}
            // An unreadable quarantine cannot forbid anything; the log reports it for repair.
            Err(error) => self.log.say(Level::Warning, format_args!("{error}")),
        }
        let mut notices = Logged { log: &self.log, name: &config.name };
        session.begin(&mut self.line, wanted, &self.sources, &mut notices)?;
        Ok(Begun::Measured(session))
    }

    fn settle_fate(&mut self, group: usize, index: usize, begun: Begun) -> Result<(), ServiceError> {
        let Group { config, watched, .. } = &mut self.groups[group];
        let process = &mut watched[index];
        let name = &config.name;
        match begun {
            Begun::Measured(session) => {
                let functions = session.function_names().len();
                let (pid, exe) = (process.pid, &session.description().exe);
                self.log.say(
                    Level::Info,
                    format_args!("{name}: measuring process {pid} ({exe}), {functions} functions so far"),
                );
                if let Ok(cpus) = placement::cpus_of(pid) {
                    self.busy = self.busy.and(&cpus);
                }
                let before = std::mem::replace(&mut process.fate, Fate::Measured(Box::new(session)));
                if let (Some(since), (_, Some(why))) = (process.uncovered_ns.take(), before.in_words()) {
                    self.recorder.uncovered(name, why, since);
                }
                Ok(())
            }
            Begun::Held(session, record) => {
                let held = Fate::held(Instant::now(), &record);
                // The check repeats; the message does not.
                if process.fate.in_words() != held.in_words() {
                    self.log.say(
                        Level::Warning,
                        format_args!(
                            "{name}: process {} is left alone: build {} {}",
                            process.pid,
                            session.description().build_id.as_deref().unwrap_or("without a build-id"),
                            watched::held(&record)
                        ),
                    );
                }
                process.fate = held;
                forget(&mut self.line, &session)
            }
        }
    }
}

fn forget(line: &mut Line, session: &Session) -> Result<(), ServiceError> {
    line.call(&Request::ForgetTarget { target: session.target.id })?;
    Ok(())
}
