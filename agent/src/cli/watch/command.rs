//! A watched command: its successive images until the intended one, and its end.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use edgelat_guard::GuardError;
use edgelat_guard::protocol::{Reply, Request};

use super::{Aloud, Watch, WatchError, say};
use crate::cli::exit::Exit;
use crate::collector::faults;
use crate::collector::report::Ended;
use crate::collector::resolve::ResolveError;
use crate::collector::session::{Session, SessionError};

/// Maximum number of images listed if none was the intended one.
const NAMED: usize = 16;
/// Longest silence with something measured and a library pending: dynamic linkers do not pause.
const PAUSE: Duration = Duration::from_millis(500);

/// Timeout for the end of a command.
const FINISH: Duration = Duration::from_secs(5);

/// Observations of a command.
#[derive(Debug)]
pub(super) struct Images {
    /// The started process.
    pub(super) pid: i32,
    executed: Vec<String>,
}

impl Images {
    pub(super) fn of(session: &Session) -> Self {
        Self { pid: session.target.pid, executed: vec![session.description().exe.clone()] }
    }

    /// Lists all executed images for a message.
    pub(super) fn in_words(&self) -> String {
        self.executed.join(", ")
    }
}

impl Watch {
    /// Steps the command from image to image until everything wanted is measured or no more comes.
    /// Returns the reason to end, if any.
    pub(super) fn follow(&mut self, signals: &UnixStream) -> Result<Option<Ended>, WatchError> {
        let (mut last, mut told) = (Instant::now(), false);
        while self.session.waits() {
            let Reply::Stepped { pid, executed, more } = self.line.call(&Request::StepCommand)?.0 else {
                break;
            };
            if pid != 0 {
                last = Instant::now();
                self.look_at(pid, executed)?;
            } else if !more {
                return Ok(Some(Ended::Target));
            } else if self.session.measures() && last.elapsed() > PAUSE {
                break;
            } else {
                if self.session.family.contains(self.session.target.pid) {
                    self.look_for_libraries()?;
                }
                if last.elapsed() > PAUSE && !std::mem::replace(&mut told, true) {
                    self.say_what_is_waited_for();
                }
            }
            if self.wait(Duration::ZERO, signals)? {
                return Ok(Some(Ended::Signal));
            }
        }
        Ok(None)
    }

    /// Examines a process of the command that is held at an image that it executes or maps.
    fn look_at(&mut self, pid: i32, executed: bool) -> Result<(), WatchError> {
        // The first match is the intended one.
        let elsewhere = pid != self.session.target.pid;
        if self.session.measures() || !(executed || elsewhere) {
            return if elsewhere { Ok(()) } else { self.look_for_libraries() };
        }
        let command = self.command.as_ref().map_or(pid, |command| command.pid);
        self.session.target.forget(&mut self.line);
        let begun = Session::open(&mut self.line, pid, &self.wanted).and_then(|mut session| {
            session.belongs_to(command);
            session.begin(&mut self.line, &self.wanted, &self.sources, &mut Aloud::default())?;
            Ok(session)
        });
        match begun {
            Ok(session) => {
                self.session = session;
                let exe = &self.session.description().exe;
                if let Some(command) = &mut self.command
                    && command.executed.len() < NAMED
                    && !command.executed.contains(exe)
                {
                    command.executed.push(exe.clone());
                }
                Ok(())
            }
            // It was killed, or it executes nothing that could be the intended image.
            Err(
                SessionError::Guard(GuardError::NoProcess { .. } | GuardError::NoImage { .. })
                | SessionError::Resolve(
                    ResolveError::NoFile { .. }
                    | ResolveError::Guard(GuardError::NoProcess { .. } | GuardError::NoImage { .. }),
                ),
            ) => {
                self.session.lost();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Finishes a command after measuring. A command that ended by itself is reported; a running
    /// command is ended too, as a shell does at Ctrl-C. A command that does not heed that is left
    /// alone after a while, or at a further signal.
    pub(super) fn finish_command(&mut self, ended: Ended, mut signals: &UnixStream) -> Exit {
        // A command under a debugger is left to the debugger.
        let mut terminate = !matches!(ended, Ended::Target | Ended::Traced);
        if ended == Ended::Signal {
            // This signal has been handled; only a further one counts.
            _ = signals.read(&mut [0]);
        }
        let begun = Instant::now();
        loop {
            match self.line.call(&Request::FinishCommand { terminate }) {
                Ok((Reply::Finished { badly, signal }, _)) => {
                    badly.iter().for_each(say);
                    let fault = signal.is_some_and(faults::is_fault);
                    return if fault { Exit::Fault } else { Exit::Ok };
                }
                Ok((Reply::Stepped { .. }, _)) => {}
                _ => return Exit::Ok,
            }
            terminate = false;
            if begun.elapsed() > FINISH || self.wait(Duration::ZERO, signals).unwrap_or(true) {
                let pid = self.command.as_ref().map_or(0, |command| command.pid);
                say(format_args!("the command (process {pid}) runs on; end it with kill {pid}"));
                return Exit::Ok;
            }
        }
    }
}

/// Explains how to name the image of a function: without an image, the function is looked for in
/// the image that the command executes first.
pub(super) fn hint(error: &SessionError) {
    if let SessionError::Resolve(ResolveError::Find { path, .. }) = error {
        say(format_args!(
            "a FUNCTION without IMAGE is looked for in {path}, which the command executes first; where that only starts the \
             program, write PROGRAM:FUNCTION"
        ));
    }
}
