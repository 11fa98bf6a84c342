//! A command that is started to be measured from its first instruction.
//!
//! The child asks to be traced by us and executes; the kernel stops it in its new image before anything of
//! it has run. Nothing is written into it. While libraries are still to come it is led from system call to
//! system call, so that each library can be covered when it has been mapped and before it is called. Then it
//! is let go and traced no more.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::{GuardError, Text, text};

/// System calls through which a starting command is led at most; a dynamic linker needs some hundreds.
const STEPS: u32 = 20_000;

/// A started command, stopped until the collector has it released.
#[derive(Debug)]
pub struct Command {
    child: Child,
    name: Text,
    stopped: bool,
    steps: u32,
    /// The stop that comes next is the return from a system call.
    inside_call: bool,
}

impl Command {
    /// Starts a command up to its first instruction. With `quiet`, its output goes to standard error.
    ///
    /// # Errors
    /// When it cannot be executed or held, or ends at once.
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
        // SAFETY: between fork and exec the closure makes one system call and touches no lock and no heap.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
        let child = command.spawn().map_err(start)?;
        let started = Self { child, name, stopped: true, steps: 0, inside_call: false };
        match waitpid(started.process(), Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
            Ok(status) => return Err(started.ended(&status)),
            Err(errno) => return Err(started.trace(errno)),
        }
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(started.process(), options).map_err(|errno| started.trace(errno))?;
        Ok(started)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process().as_raw()
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Leads it to the end of its next system call. False when it was led far enough or has ended.
    pub(crate) fn step(&mut self) -> Result<bool, GuardError> {
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
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.stopped) {
            // Fails only where it has been killed meanwhile, which its end will tell.
            _ = ptrace::detach(self.process(), None);
        }
    }

    /// Waits for its end, after asking for it where `terminate` says so. Says how it ended where that was not well.
    pub(crate) fn finish(&mut self, terminate: bool) -> Option<Text> {
        if terminate {
            _ = kill(self.process(), Signal::SIGTERM);
        }
        match self.child.wait() {
            Ok(status) if !status.success() => {
                Some(text(format_args!("'{}' ended with {status}", self.name)))
            }
            _ => None,
        }
    }

    fn ended(&self, status: &WaitStatus) -> GuardError {
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

impl Drop for Command {
    fn drop(&mut self) {
        // Measuring failed before the command ran: it must not stay behind as a stopped process.
        if self.stopped {
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}
