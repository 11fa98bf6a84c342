//! A command started in order to measure it from its first instruction.
//!
//! The command may only start the program to be measured: `env`, `taskset`, a shell that executes
//! it, a script that does so after other things, `timeout`, which runs it as a child. So all
//! descendants of the command are traced: each image that one of its processes executes is held
//! before any of it has run, and the collector checks whether it is the target. While libraries are
//! still to come the process is led from one mapping to the next, so that each library can be
//! covered before it is called. A measured process is let go and traced no more. A process that
//! only starts programs stays traced, so that a program it starts later is covered from its first
//! instruction as well.
//!
//! Nothing is written into any of them. They get their signals, and stay stopped if another process
//! stops them: they are seized, not attached to; only seizing distinguishes the two kinds of stop.

mod trace;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::{GuardError, Text, text};
use crate::protocol::{Reply, TargetId};
use crate::target::Target;
use trace::{Onward, Stop};

/// Most system calls through which an image is led; a dynamic linker needs some hundreds.
const STEPS: u32 = 20_000;
/// Most stops handled before other work has its turn: a thread may stop repeatedly, as for each of
/// its signals.
const STOPS: u32 = 1_000;
/// Longest wait for a thread to stop.
const STOPPING: Duration = Duration::from_secs(1);
/// Time between two checks of the processes if the kernel has reported no stop.
const LOOK: Duration = Duration::from_millis(5);

/// A started command and its descendants.
#[derive(Debug)]
pub struct Command {
    child: Child,
    name: Text,
    traced: Vec<Traced>,
    /// The thread that waits for the collector to look at it.
    held: Option<i32>,
    /// Signals that a process may have stopped or ended; made at the first request.
    ready: Option<SignalFd>,
    /// The target was found and let go.
    found: bool,
    /// Processes that were let go, besides the command itself.
    free: Vec<Target>,
    /// Status with which the command ended, as in wait(2).
    ended: Option<i32>,
}

/// A thread of the command.
#[derive(Debug)]
struct Traced {
    pid: i32,
    process: i32,
    /// It is let go, and remains our child until it ends.
    free: bool,
    steps: u32,
    /// The stop that comes next is the return from a system call.
    inside_call: bool,
    /// The system call that the thread is inside maps an image.
    maps: bool,
}

/// Progress of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// This process executes an image of which nothing has run.
    Executed(i32),
    /// This process may have mapped an image of which nothing has run.
    Mapped(i32),
    /// Nothing to look at in the given time.
    Nothing,
    /// All descendants of the command have ended or are let go.
    Over,
}

impl Command {
    /// Starts a command up to its first instruction. If `quiet`, its output goes to standard error.
    ///
    /// # Errors
    /// If it cannot be executed or held, or ends at once.
    pub fn start(words: &[OsString], quiet: bool) -> Result<Self, GuardError> {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| GuardError::Start { command: Text::new(), reason: text("there is no command") })?;
        let name = text(program.to_string_lossy());
        let start = |error: io::Error| GuardError::Start { command: name.clone(), reason: text(error) };
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        if quiet {
            let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(start)?;
            command.stdout(Stdio::from(stderr));
        }
        // SAFETY: between fork and exec the closure makes one system call, and touches no lock or
        // heap.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
        let child = command.spawn().map_err(start)?;
        let pid = child.id() as i32;
        let traced = vec![Traced::of(pid, pid)];
        let started = Self {
            child,
            name,
            traced,
            held: Some(pid),
            ready: None,
            found: false,
            free: Vec::new(),
            ended: None,
        };
        match waitpid(started.process(), Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => started.seize(),
            Ok(status) => Err(started.ended_early(&status)),
            Err(errno) => Err(started.trace(errno)),
        }
        .map(|()| started)
    }

    /// Seizes the command. A process that requests tracing is traced the old way, in which a stop
    /// by Ctrl-Z looks like a signal. So it is let go into a stop, seized there, and woken.
    fn seize(&self) -> Result<(), GuardError> {
        let (pid, failed) = (self.process(), |errno| self.trace(errno));
        ptrace::detach(pid, Signal::SIGSTOP).map_err(failed)?;
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).map_err(failed)?;
        if stopped != WaitStatus::Stopped(pid, Signal::SIGSTOP) {
            return Err(self.ended_early(&stopped));
        }
        let children =
            Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
        let options = children | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD;
        ptrace::seize(pid, options).map_err(failed)?;
        waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(failed)?;
        kill(pid, Signal::SIGCONT).map_err(failed)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process().as_raw()
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Returns true if that process belongs to the command and is traced by us.
    pub(crate) fn traces(&self, pid: i32) -> bool {
        self.traced.iter().any(|traced| traced.process == pid && !traced.free)
    }

    /// Returns true if the target was found and let go.
    pub(crate) fn found(&self) -> bool {
        self.found
    }

    /// Returns true if any of its processes is traced.
    pub(crate) fn follows(&self) -> bool {
        self.traced.iter().any(|traced| !traced.free)
    }

    /// Returns a descriptor that is readable when one of its processes may have stopped or ended.
    pub(crate) fn ready(&mut self) -> Result<BorrowedFd<'_>, GuardError> {
        if self.ready.is_none() {
            let child = SigSet::from_iter([Signal::SIGCHLD]);
            let fd = child
                .thread_block()
                .and_then(|()| SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
            self.ready = Some(fd.map_err(|errno| self.trace(errno))?);
        }
        self.ready.as_ref().map(AsFd::as_fd).ok_or(GuardError::Message)
    }

    /// Continues up to the next image to look at, and holds it; returns after `patience` at most.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<Step, GuardError> {
        let until = Instant::now() + patience;
        let mut stops = 0;
        if let Some(held) = self.held.take() {
            self.go_on(held, 0)?;
        }
        loop {
            self.ready()?;
            // Later stops are signalled again.
            while self.ready.as_ref().is_some_and(|ready| matches!(ready.read_signal(), Ok(Some(_)))) {}
            let mut at = 0;
            while let Some(Traced { pid, .. }) = self.traced.get(at) {
                let pid = *pid;
                let stop = trace::wait(pid).map_err(|errno| self.trace(errno))?;
                match stop.map(|stop| self.take(pid, stop)).transpose()? {
                    Some(Some(step)) => return Ok(step),
                    // It may have ended, or made others.
                    Some(None) => {
                        stops += 1;
                        if stops >= STOPS {
                            return Ok(Step::Nothing);
                        }
                    }
                    None => at += 1,
                }
            }
            let now = Instant::now();
            if !self.follows() && (self.ended.is_some() || patience.is_zero()) {
                return Ok(Step::Over);
            }
            if now >= until {
                return Ok(Step::Nothing);
            }
            let wait = LOOK.min(until - now) + Duration::from_micros(999);
            let fd = self.ready()?;
            _ = poll(
                &mut [PollFd::new(fd, PollFlags::POLLIN)],
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO),
            );
        }
    }

    /// Handles one stop; returns the step if the collector has to look at it.
    fn take(&mut self, pid: i32, stop: Stop) -> Result<Option<Step>, GuardError> {
        let signal = match stop {
            Stop::Gone(status) => {
                self.traced.retain(|traced| traced.pid != pid);
                if pid == self.pid() {
                    self.ended = Some(status);
                }
                return Ok(None);
            }
            Stop::Made(made) => {
                self.took(made);
                0
            }
            Stop::Executed => {
                // The executing thread is now the only one, and its id is that of the process.
                self.traced.retain(|traced| traced.process != pid || traced.pid == pid);
                if let Some(traced) = self.traced.iter_mut().find(|traced| traced.pid == pid) {
                    *traced = Traced { inside_call: true, ..Traced::of(pid, pid) };
                }
                self.held = Some(pid);
                return Ok(Some(Step::Executed(pid)));
            }
            Stop::SystemCall => {
                if let Some(traced) = self.traced.iter_mut().find(|traced| traced.pid == pid) {
                    traced.steps += 1;
                    traced.inside_call = !traced.inside_call;
                    let mapped = traced.maps && !traced.inside_call;
                    traced.maps = traced.inside_call && trace::maps(pid);
                    if mapped {
                        self.held = Some(pid);
                        return Ok(Some(Step::Mapped(pid)));
                    }
                }
                0
            }
            Stop::Signal(signal) => signal,
            Stop::Group => {
                _ = trace::go_on(pid, Onward::Listening, 0);
                return Ok(None);
            }
            Stop::Nothing => 0,
        };
        self.go_on(pid, signal)?;
        Ok(None)
    }

    /// Adds a thread or a process that a traced one made.
    fn took(&mut self, made: i32) {
        let process = match Target::unchecked(TargetId(0), made) {
            Err(GuardError::Thread { process, .. }) => process,
            _ => made,
        };
        // It runs the image of its maker, whose libraries are already mapped.
        self.traced.push(Traced { steps: STEPS, ..Traced::of(made, process) });
    }

    fn go_on(&mut self, pid: i32, signal: i32) -> Result<(), GuardError> {
        let stepped = |traced: &Traced| traced.pid == pid && pid == traced.process && traced.steps < STEPS;
        let onward = match !self.found && self.traced.iter().any(stepped) {
            true => Onward::ToSystemCall,
            false => Onward::Freely,
        };
        match trace::go_on(pid, onward, signal) {
            // Killed meanwhile; its end will be reported.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(self.trace(errno)),
        }
    }

    /// Lets a measured process run untraced. From here on no other is stopped at system calls.
    pub(crate) fn release(&mut self, process: i32) {
        self.found = true;
        if process != self.pid() && self.traces(process) {
            self.free.retain(|target| !target.ended());
            self.free.extend(Target::unchecked(TargetId(0), process));
        }
        while let Some(traced) = self.traced.iter().find(|traced| traced.process == process && !traced.free) {
            let pid = traced.pid;
            let signal = match self.held.take_if(|held| *held == pid) {
                Some(_) => Some(0),
                None => self.stop(pid),
            };
            // Fails only if the thread was killed meanwhile; its end will be reported.
            signal.map(|signal| trace::go_on(pid, Onward::Untraced, signal));
            match self.traced.iter_mut().find(|traced| traced.pid == pid) {
                Some(traced) if pid == self.child.id() as i32 => traced.free = true,
                _ => self.traced.retain(|traced| traced.pid != pid),
            }
        }
    }

    /// Lets all processes run untraced.
    pub(crate) fn release_all(&mut self) {
        while let Some(process) = self.traced.iter().find(|traced| !traced.free).map(|traced| traced.process)
        {
            self.release(process);
        }
    }

    /// Stops a thread; returns the signal to deliver on continuing. `None` if it ended or does not
    /// stop.
    fn stop(&mut self, pid: i32) -> Option<i32> {
        trace::interrupt(pid).ok()?;
        let begun = Instant::now();
        while begun.elapsed() < STOPPING {
            match trace::wait(pid) {
                Ok(Some(Stop::Gone(status))) => {
                    if pid == self.pid() {
                        self.ended = Some(status);
                    }
                    return None;
                }
                Ok(Some(Stop::Signal(signal))) => return Some(signal),
                Ok(Some(stop)) => {
                    if let Stop::Made(made) = stop {
                        self.took(made);
                    }
                    return Some(0);
                }
                Ok(None) => std::thread::sleep(Duration::from_micros(100)),
                Err(_) => return None,
            }
        }
        None
    }

    /// Waits up to `patience` for the end of the command. With `terminate`, sends SIGTERM to it and
    /// its descendants first. Returns an end without success, and the signal that caused it.
    pub(crate) fn finish(&mut self, terminate: bool, patience: Duration) -> Result<Reply, GuardError> {
        if terminate {
            let traced = self.traced.iter().map(|traced| traced.process);
            let free = self.free.iter().filter(|target| !target.ended()).map(|target| target.pid);
            for pid in traced.chain(free) {
                _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        // A process that cannot be traced any more has ended, or is about to end.
        let over = self.ended.is_some() || matches!(self.next(patience), Ok(Step::Over) | Err(_));
        if !over && self.ended.is_none() {
            return Ok(Reply::Stepped { pid: 0, executed: false, more: true });
        }
        let status = ExitStatus::from_raw(self.ended.unwrap_or(0));
        let badly = (!status.success()).then(|| text(format_args!("'{}' ended with {status}", self.name)));
        Ok(Reply::Finished { badly, signal: status.signal() })
    }

    fn ended_early(&self, status: &WaitStatus) -> GuardError {
        let how = match status {
            WaitStatus::Exited(_, code) => text(format_args!("exit status {code}")),
            WaitStatus::Signaled(_, signal, _) => text(format_args!("signal {signal}")),
            other => text(format_args!("{other:?}")),
        };
        GuardError::EndedEarly { command: self.name.clone(), how }
    }

    fn trace(&self, errno: Errno) -> GuardError {
        GuardError::Hold { command: self.name.clone(), os: errno.into() }
    }
}

impl Traced {
    fn of(pid: i32, process: i32) -> Self {
        Self { pid, process, free: false, steps: 0, inside_call: false, maps: false }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if !self.found {
            // Measuring failed before the program ran: no process may remain, stopped or not.
            for traced in &self.traced {
                _ = kill(Pid::from_raw(traced.process), Signal::SIGKILL);
            }
            _ = self.child.wait();
        }
    }
}
