//! A running edgelat with any command: its output, its signals and its end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lines::Lines;
use crate::patience;
use crate::target::wait;

/// Time that the agent of a failed test has to clean up.
const GRACE: Duration = Duration::from_secs(10);

/// Outcome of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it printed to stdout.
    pub stdout: String,
    /// All it printed to stderr.
    pub stderr: String,
    /// Time from its start to its end.
    pub took: Duration,
}

impl Outcome {
    /// Fails unless it ended with this exit status and printed each of `words` on stderr, in upper
    /// or lower case.
    #[track_caller]
    pub fn refused(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(status), "exit status of {self:#?}");
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(stderr.contains(&word.to_lowercase()), "`{word}` is not in the message of {self:#?}");
        }
        assert!(!stderr.contains("panicked"), "a panic instead of a message in {self:#?}");
    }

    /// Fails unless it succeeded; returns stdout as JSON objects, one a line.
    #[track_caller]
    pub fn objects(&self) -> Vec<serde_json::Value> {
        assert!(self.status.success(), "{self:#?}");
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// A running command. Ends with the test that started it.
pub(crate) struct Agent {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    ended: bool,
}

impl Agent {
    /// Starts a command with an empty stdin.
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr, ended: false }
    }

    /// Pid of the process that was started.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap_or_else(|e| panic!("{signal} to the agent: {e}"));
    }

    /// Waits for the end with any status; fails if it does not end in time.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Outcome {
        let started = Instant::now();
        let Some(status) = wait(&mut self.child, patience()) else {
            panic!("edgelat does not end; it said:\n{}\n{}", self.stdout.text(), self.stderr.text());
        };
        self.ended = true;
        let took = started.elapsed();
        self.stdout.to_the_end(patience());
        self.stderr.to_the_end(patience());
        Outcome { status, stdout: self.stdout.text(), stderr: self.stderr.text(), took }
    }

    /// Kills and reaps it; returns its pid.
    pub(crate) fn kill(&mut self) -> i32 {
        self.signal(Signal::SIGKILL);
        let status = wait(&mut self.child, patience()).expect("a killed agent ends");
        self.ended = true;
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "the agent was killed while it ran");
        self.pid()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.ended {
            // The test failed: end it as gently as possible, so that it cleans up.
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            if wait(&mut self.child, GRACE).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}
