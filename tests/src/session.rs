//! Runs edgelat: short commands to their end, and `watch` as an interactive session.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal};

use crate::agent::{Agent, Outcome};
use crate::lines::Lines;
use crate::patience;
use crate::report::{Function, Oracle, Report};
use crate::target::Target;

/// The line on stderr at which probes begin to count.
const ARMED: &str = "edgelat: armed";

/// The binary under test: `EDGELAT_BIN`, or the binary beside this test in cargo's target
/// directory.
pub fn binary() -> PathBuf {
    hear_signals();
    if let Some(path) = std::env::var_os("EDGELAT_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "EDGELAT_BIN names {}, which is no file", path.display());
        return path.canonicalize().expect("a file that exists");
    }
    let test = std::env::current_exe().expect("the path of this test");
    let built = test.ancestors().skip(1).map(|folder| folder.join("edgelat")).find(|path| path.is_file());
    built.unwrap_or_else(|| {
        panic!(
            "no edgelat stands above {}: build it first (`cargo build`, or `make build` and \
             EDGELAT_BIN=dist/x86_64/edgelat)",
            test.display()
        )
    })
}

/// A shell makes its background jobs ignore Ctrl-C. The agent would inherit that from the tests.
fn hear_signals() {
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the default action is no handler, so there is no code to run that could be
        // unsafe.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }
            .expect("a signal that may be handled");
    }
}

/// Runs `edgelat` with these arguments to its end.
#[track_caller]
pub fn edgelat<S: AsRef<OsStr>>(arguments: &[S]) -> Outcome {
    let mut command = Command::new(binary());
    command.args(arguments);
    run(command)
}

/// Runs any command to its end; fails if it does not end in time.
#[track_caller]
pub fn run(command: Command) -> Outcome {
    Agent::start(command).ended()
}

/// A running `edgelat watch --json`. Ends with the test that started it.
pub struct Session(Agent);

impl Session {
    /// Watches functions of a target; returns when the probes count.
    #[track_caller]
    pub fn on(target: &Target, functions: &[&str]) -> Self {
        Self::with(target, &[], functions)
    }

    /// As [`on`](Self::on), with more options.
    #[track_caller]
    pub fn with(target: &Target, options: &[&str], functions: &[&str]) -> Self {
        let pid = target.pid().to_string();
        let mut arguments = vec!["-p", &pid];
        arguments.extend(options);
        arguments.extend(functions);
        Self::watch(&arguments)
    }

    /// Runs `edgelat watch --json` with any arguments; returns when the probes count.
    #[track_caller]
    pub fn watch(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["watch", "--json"]).args(arguments);
        Self::start(command)
    }

    /// Runs a command that executes `edgelat watch --json` in the end; returns when the probes
    /// count.
    #[track_caller]
    pub fn start(command: Command) -> Self {
        crate::need_root();
        let session = Self(Agent::start(command));
        let armed = session.0.stderr.wait(0, patience(), |line| line.starts_with(ARMED).then_some(()));
        assert!(armed.is_some(), "edgelat was not armed; it said:\n{}", session.stderr());
        session
    }

    /// Pid of the agent.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Everything on stderr so far.
    pub fn stderr(&self) -> String {
        self.0.stderr.text()
    }

    /// The lines of stderr, which outlive the session.
    pub fn stderr_lines(&self) -> Lines {
        self.0.stderr.clone()
    }

    /// The lines of stdout, which outlive the session.
    pub fn stdout_lines(&self) -> Lines {
        self.0.stdout.clone()
    }

    /// Waits for the end with any status.
    #[track_caller]
    pub fn ended(mut self) -> Outcome {
        self.0.ended()
    }

    /// Waits for a report for which `wanted` holds. Each report until then must fulfil the
    /// identity, unless it is marked as unsettled.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&Report) -> bool) -> Report {
        let found = self.0.stdout.wait(0, patience(), |line| {
            let report = Report::parse(line)?;
            report.functions.iter().filter(|f| !f.unsettled).for_each(Function::assert_identity);
            wanted(&report).then_some(report)
        });
        match found {
            Some((_, report)) => report,
            None => panic!("no such report came; the last:\n{:#?}", self.reports().last()),
        }
    }

    /// Waits until two consecutive reports are equal: all activity has come to rest.
    #[track_caller]
    pub fn at_rest(&self) -> Report {
        let mut before: Option<Vec<(u64, u64)>> = None;
        // There may be thousands of reports; only later ones are examined.
        let from = self.0.stdout.count();
        let found = self.0.stdout.wait(from, patience(), |line| {
            let report = Report::parse(line)?;
            let now: Vec<_> = report.functions.iter().map(|f| (f.entries, f.exits)).collect();
            let rests = before.as_ref() == Some(&now);
            before = Some(now);
            rests.then_some(report)
        });
        let Some((_, report)) = found else {
            panic!("reports do not come to rest: {:#?}", self.reports().last())
        };
        report
    }

    /// All reports so far.
    pub fn reports(&self) -> Vec<Report> {
        self.0.stdout.text().lines().filter_map(Report::parse).collect()
    }

    /// Oracle lines of the command that `watch` runs, if it is a target. Its output goes to stderr:
    /// stdout is for reports.
    pub fn oracles(&self) -> Vec<Oracle> {
        self.0.stderr.text().lines().filter_map(Oracle::parse).collect()
    }

    /// Waits for the end as [`end`](Self::end) does; returns the report and the last figures of the
    /// command that `watch` ran.
    #[track_caller]
    pub fn end_of_command(self) -> (Report, Oracle) {
        let (report, stderr) = self.end_with_stderr();
        let oracle = stderr.lines().filter_map(Oracle::parse).rfind(|o| o.event == "end");
        (report, oracle.unwrap_or_else(|| panic!("the command told no figures: {stderr}")))
    }

    /// Waits for the end as [`end`](Self::end) does; returns the report and all of stderr.
    #[track_caller]
    pub fn end_with_stderr(self) -> (Report, String) {
        let stderr = self.0.stderr.clone();
        let report = self.end();
        (report, stderr.text())
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Sends Ctrl-C, then waits for the [`end`](Self::end).
    #[track_caller]
    pub fn interrupt(self) -> Report {
        self.signal(Signal::SIGINT);
        self.end()
    }

    /// Waits for the end: exit status 0, a final report that fulfils the identity, and no remains.
    #[track_caller]
    pub fn end(self) -> Report {
        self.end_with(0)
    }

    /// Waits for the end after the target died of a fault; returns all of stderr as well.
    #[track_caller]
    pub fn end_in_fault(self) -> (Report, String) {
        let stderr = self.0.stderr.clone();
        let report = self.end_with(12);
        (report, stderr.text())
    }

    #[track_caller]
    fn end_with(mut self, expected: i32) -> Report {
        let Outcome { status, stdout, stderr, .. } = self.0.ended();
        assert_eq!(status.code(), Some(expected), "exit status of edgelat ({status}); it said:\n{stderr}");
        let (_, closed) = self.0.stdout.to_the_end(Duration::ZERO);
        assert!(closed, "somebody still holds the stdout of edgelat");
        let reports: Vec<_> = stdout.lines().filter_map(Report::parse).collect();
        let finals = reports.iter().filter(|r| r.is_final).count();
        assert_eq!(finals, 1, "one report is final; edgelat said:\n{stderr}");
        let last = reports.last().expect("the final report").clone();
        assert!(last.is_final, "the last report is the final one");
        assert!(
            reports
                .windows(2)
                .all(|pair| pair[1].seq == pair[0].seq + 1 && pair[1].elapsed_ns >= pair[0].elapsed_ns),
            "reports are numbered and in order"
        );
        for pair in reports.windows(2) {
            for (place, before) in pair[0].functions.iter().enumerate() {
                // A function that was found meanwhile may precede it.
                let same = |after: &&Function| after.name == before.name && after.image == before.image;
                let here = pair[1].functions.get(place).filter(same);
                let after = here.or_else(|| pair[1].functions.iter().find(same));
                let grown = |after: &Function| after.entries >= before.entries && after.exits >= before.exits;
                assert!(after.is_none_or(grown), "counters only grow: {before:?}, {after:?}");
            }
        }
        last.assert_identity();
        let left = crate::machine::trace_events_of(self.pid());
        assert!(left.is_empty(), "the agent left trace events behind: {left:?}");
        last
    }

    /// Kills and reaps the agent; returns its pid.
    pub fn kill(mut self) -> i32 {
        self.0.kill()
    }
}
