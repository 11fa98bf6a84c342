//! A command that is started to be measured from its first instruction.
//!
//! The child asks to be traced by us and executes; the kernel stops it in its new image before anything of
//! it has run. Nothing is written into it. While libraries are still to come it is led from system call to
//! system call, so that each library can be covered when it has been mapped and before it is called. Then it
//! is let go and traced no more.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::exit::Exit;
use crate::cli::failure::Fails;
use crate::cli::output::say;
use crate::collector::report::Ended;

/// System calls through which a starting command is led at most; a dynamic linker needs some hundreds.
const STEPS: u32 = 20_000;

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It could not be executed.
    #[error("cannot start '{command}': {error}; give a path or a name in PATH after --")]
    Start {
        /// The word after `--`.
        command: String,
        /// The system's reason.
        error: io::Error,
    },
    /// It ended before its probes were in place.
    #[error("'{command}' ended before anything could be measured: {how}")]
    Ended {
        /// The word after `--`.
        command: String,
        /// Exit status or signal.
        how: String,
    },
    /// Tracing failed.
    #[error("cannot hold '{command}' while probes are attached: {errno}; start it yourself and use -p")]
    Trace {
        /// The word after `--`.
        command: String,
        /// The system's reason.
        errno: Errno,
    },
}

impl Fails for SpawnError {
    fn exit(&self) -> Exit {
        match self {
            Self::Start { .. } | Self::Ended { .. } => Exit::Target,
            Self::Trace { .. } => Exit::Failed,
        }
    }
}

/// A started command, stopped until [`release`](Self::release).
#[derive(Debug)]
pub(super) struct Spawned {
    child: Child,
    command: String,
    stopped: bool,
    steps: u32,
    /// The stop that comes next is the return from a system call.
    inside_call: bool,
}

impl Spawned {
    /// Starts a command up to its first instruction. With `json`, its output goes to standard error: the
    /// lines on standard output are ours.
    pub(super) fn start(words: &[OsString], json: bool) -> Result<Self, SpawnError> {
        let (program, arguments) = words.split_first().ok_or_else(|| SpawnError::Start {
            command: String::new(),
            error: io::Error::from(io::ErrorKind::InvalidInput),
        })?;
        let name = program.to_string_lossy().into_owned();
        let start = |error: io::Error| SpawnError::Start { command: name.clone(), error };
        let mut command = Command::new(program);
        command.args(arguments);
        if json {
            use std::os::fd::AsFd;
            let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(start)?;
            command.stdout(Stdio::from(stderr));
        }
        // SAFETY: between fork and exec the closure makes one system call and touches no lock and no heap.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
        let child = command.spawn().map_err(start)?;
        let spawned = Self { child, command: name, stopped: true, steps: 0, inside_call: false };
        match waitpid(spawned.process(), Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            Ok(status) => return Err(spawned.ended(&status)),
            Err(errno) => return Err(spawned.trace(errno)),
        }
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(spawned.process(), options).map_err(|errno| spawned.trace(errno))?;
        Ok(spawned)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.process().as_raw()
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Leads it to the end of its next system call. False when it was led far enough or has ended.
    pub(super) fn step(&mut self) -> Result<bool, SpawnError> {
        let mut signal = None;
        loop {
            self.steps += 1;
            if self.steps > STEPS {
                return Ok(false);
            }
            ptrace::syscall(self.process(), signal.take()).map_err(|errno| self.trace(errno))?;
            match waitpid(self.process(), Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceSyscall(_)) => {
                    self.inside_call = !self.inside_call;
                    if !self.inside_call {
                        return Ok(true);
                    }
                }
                // A signal of its own goes on to it.
                Ok(WaitStatus::Stopped(_, other)) => signal = (other != Signal::SIGTRAP).then_some(other),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    self.stopped = false;
                    return Ok(false);
                }
                Ok(_) => {}
                Err(errno) => return Err(self.trace(errno)),
            }
        }
    }

    /// Lets it run, no longer traced.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.stopped) {
            // Fails only where it has been killed meanwhile, which its end will tell.
            _ = ptrace::detach(self.process(), None);
        }
    }

    /// After measuring: a command that ended by itself is reported, one that runs on is ended with us, as a
    /// shell would end it at Ctrl-C.
    pub(super) fn finish(mut self, ended: Ended) {
        if ended != Ended::Target && ended != Ended::Replaced {
            _ = kill(self.process(), Signal::SIGTERM);
        }
        match self.child.wait() {
            Ok(status) if !status.success() => say(format_args!("'{}' ended with {status}", self.command)),
            _ => {}
        }
    }

    fn ended(&self, status: &WaitStatus) -> SpawnError {
        let how = match status {
            WaitStatus::Exited(_, code) => format!("exit status {code}"),
            WaitStatus::Signaled(_, signal, _) => format!("signal {signal}"),
            other => format!("{other:?}"),
        };
        SpawnError::Ended { command: self.command.clone(), how }
    }

    fn trace(&self, errno: Errno) -> SpawnError {
        SpawnError::Trace { command: self.command.clone(), errno }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // Measuring failed before the command ran: it must not stay behind as a stopped process.
        if self.stopped {
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}
