//! Runs `edgelat run`: a place with a configuration, and the agents that run there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent::{Agent, Outcome};
use crate::machine::{TempDir, eventually, trace_events_of};
use crate::report::Report;
use crate::session::{binary, run};
use crate::target::target;
use crate::{Function, patience};

/// A user id without any other use here.
pub const STRANGER: u32 = 65_534;

/// A place for consecutive agents: a folder with their configuration, state and runtime files.
/// Nothing in it is shared with another test.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// Creates the folder, without a configuration.
    pub fn new() -> Self {
        crate::need_root();
        Self { folder: TempDir::new() }
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Copies a target for a single test, so that its path selects only that test's processes.
    pub fn program(&self, name: &str, copy: &str) -> PathBuf {
        let to = self.path().join(copy);
        // By another process: a concurrent child of this one would have the file open for writing,
        // and the file could not be executed.
        let copied = Command::new("cp").arg(target(name)).arg(&to).status().expect("cp");
        assert!(copied.success(), "{} to {}", name, to.display());
        to
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("edgelat.toml")
    }

    /// Writes the configuration: the keys of `[agent]` other than the folders, and the targets. It
    /// searches for processes and reports as often as possible, without a cost limit, unless
    /// `agent` sets them.
    pub fn configure(&self, agent: &str, targets: &[String]) {
        let folder = self.folder.path().display();
        let mut text = format!("[agent]\nstate_dir = \"{folder}/state\"\nrun_dir = \"{folder}/run\"\n");
        for (key, usual) in [("interval", "\"1s\""), ("scan", "\"100ms\""), ("max_cost", "1000")] {
            if !agent.lines().any(|line| line.starts_with(key)) {
                text.push_str(&format!("{key} = {usual}\n"));
            }
        }
        text.push_str(agent);
        targets.iter().for_each(|target| text.push_str(target));
        // Written beside it and renamed: readers find either the old or the new file.
        let (new, file) = (self.folder.path().join("new.toml"), self.config());
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).expect("a configuration file");
    }

    /// The command line of the service.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        self.arguments(&mut command);
        command
    }

    /// Adds the arguments of the service to a command that ends with the path of edgelat.
    pub fn arguments(&self, command: &mut Command) {
        command.args(["run", "--json", "-c"]).arg(self.config());
    }

    /// Starts a service; returns when it reports that it is ready.
    #[track_caller]
    pub fn start(&self) -> Service {
        Service::start(self.command())
    }

    /// Runs another command of edgelat with this configuration to its end.
    #[track_caller]
    pub fn edgelat<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome {
        let mut command = Command::new(binary());
        command.args(arguments).arg("-c").arg(self.config());
        run(command)
    }

    /// A copy of edgelat that [`STRANGER`] may execute.
    pub fn copy(&self) -> PathBuf {
        let copy = self.path().join("edgelat");
        if !copy.exists() {
            // By another process: a concurrent child of this one would have the file open for
            // writing.
            let copied = Command::new("cp").arg(binary()).arg(&copy).status().expect("cp");
            assert!(copied.success(), "{}", copy.display());
        }
        copy
    }

    /// The process that holds the lock of this place: the guard.
    pub fn holder(&self) -> Option<i32> {
        std::fs::read_to_string(self.path().join("run/lock")).ok()?.trim().parse().ok()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// A target of a configuration without a cost limit. `rest` are more keys, one a line.
pub fn measure(name: &str, select: &str, functions: &[&str], rest: &str) -> String {
    let functions: Vec<String> = functions.iter().map(|function| format!("{function:?}")).collect();
    let functions = functions.join(", ");
    let cost = if rest.lines().any(|line| line.starts_with("max_cost")) { "" } else { "max_cost = 1000\n" };
    format!("[[target]]\nname = \"{name}\"\n{select}\nfunctions = [{functions}]\n{cost}{rest}\n")
}

/// One line of the service.
#[derive(Clone, Debug)]
pub struct Told {
    /// Name of the target in the configuration.
    pub name: String,
    /// Its process.
    pub pid: i32,
    /// `measured`, `paused`, `left` or `ended`.
    pub state: String,
    /// Reason that it is not measured.
    pub reason: Option<String>,
    /// Its counts.
    pub report: Option<Report>,
    /// Position of its record.
    pub spool: Value,
}

impl Told {
    /// Parses one line; `None` if it is another kind of line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut value: Value = serde_json::from_str(line).ok()?;
        if value.get("schema")?.as_str()? != "edgelat.run/1" {
            return None;
        }
        assert!(value["time_ns"].as_u64().is_some_and(|time| time > 0), "{value}");
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self {
            name: text("name")?,
            pid: value["pid"].as_i64()?.try_into().ok()?,
            state: text("state")?,
            reason: text("reason"),
            report: Report::of(value["report"].take()),
            spool: value["spool"].take(),
        })
    }

    /// True if it reports this state of this process.
    pub fn is(&self, pid: i32, state: &str) -> bool {
        self.pid == pid && self.state == state
    }

    /// Calls of all its functions that were seen to begin.
    pub fn entries(&self) -> u64 {
        self.report.iter().flat_map(|report| &report.functions).map(|function| function.entries).sum()
    }

    /// Its counts; fails if nothing was counted.
    #[track_caller]
    pub fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("a report is missing in {self:#?}"))
    }
}

/// A running service. Ends with the test that started it.
pub struct Service(Agent);

impl Service {
    /// Runs a command that executes `edgelat run --json` in the end; returns when it is ready.
    #[track_caller]
    pub fn start(command: Command) -> Self {
        let service = Self::begin(command);
        service.says("ready: ");
        service
    }

    /// Runs such a command without waiting.
    #[track_caller]
    pub fn begin(command: Command) -> Self {
        crate::need_root();
        Self(Agent::start(command))
    }

    /// Pid of the process that was started: the guard, unless another command precedes it.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// True if it has not ended.
    pub fn is_alive(&self) -> bool {
        crate::machine::state_of(self.pid()).is_some_and(|state| state != 'Z')
    }

    /// The child of the guard; `None` before its creation and after its end.
    pub fn collector(&self) -> Option<i32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.0.stderr.text()
    }

    /// Number of log lines that contain these words.
    pub fn times(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Waits until the log contains these words.
    #[track_caller]
    pub fn says(&self, words: &str) {
        let said = self.0.stderr.wait(0, patience(), |line| line.contains(words).then_some(()));
        assert!(said.is_some(), "`{words}` was not logged, only:\n{}", self.log());
    }

    /// Number of lines.
    pub fn count(&self) -> usize {
        self.0.stdout.text().lines().count()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Told> {
        self.0.stdout.text().lines().filter_map(Told::parse).collect()
    }

    /// Waits for a line for which `wanted` holds. Each line until then must fulfil the identity,
    /// unless it is marked as unsettled.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&Told) -> bool) -> Told {
        self.wait_after(0, wanted)
    }

    /// Waits for such a line from number `from` on.
    #[track_caller]
    pub fn wait_after(&self, from: usize, wanted: impl Fn(&Told) -> bool) -> Told {
        let found = self.0.stdout.wait(from, patience(), |line| {
            let told = Told::parse(line).unwrap_or_else(|| panic!("no line of the service: {line}"));
            let functions = told.report.iter().flat_map(|report| &report.functions);
            functions.filter(|function| !function.unsettled).for_each(Function::assert_identity);
            wanted(&told).then_some(told)
        });
        let last = || self.lines().pop();
        found.unwrap_or_else(|| panic!("no such line came; the last: {:#?}\n{}", last(), self.log())).1
    }

    /// Waits until calls of a process are counted; returns that line.
    #[track_caller]
    pub fn counts(&self, pid: i32) -> Told {
        self.wait_for(|told| told.is(pid, "measured") && told.entries() > 0)
    }

    /// Waits for the last figures of a process.
    #[track_caller]
    pub fn ends(&self, pid: i32) -> Told {
        self.wait_for(|told| told.is(pid, "ended"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Waits for the end with any status.
    #[track_caller]
    pub fn ended(mut self) -> Outcome {
        self.0.ended()
    }

    /// Ends it with a signal and waits: exit status 0, last figures for each measured process, and
    /// no remains. Returns all its lines.
    #[track_caller]
    pub fn end(self) -> Vec<Told> {
        self.end_by(Signal::SIGTERM)
    }

    /// Ends it in this way with another signal.
    #[track_caller]
    pub fn end_by(self, signal: Signal) -> Vec<Told> {
        self.signal(signal);
        let pid = self.pid();
        let outcome = self.ended();
        assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
        let left = trace_events_of(pid);
        assert!(left.is_empty(), "the agent left trace events behind: {left:?}");
        let lines: Vec<Told> = outcome.stdout.lines().filter_map(Told::parse).collect();
        assert_eq!(lines.len(), outcome.stdout.lines().count(), "{}", outcome.stdout);
        for (at, told) in lines.iter().enumerate() {
            let Some(report) = &told.report else { continue };
            assert_eq!(report.is_final, told.state == "ended", "{told:#?}");
            if report.is_final {
                report.assert_identity();
            } else {
                let after = |later: &&Told| later.is(told.pid, "ended");
                assert!(lines[at..].iter().any(|later| after(&later)), "no last figures of {told:#?}");
            }
        }
        lines
    }

    /// Kills guard and collector, and waits until both are gone.
    pub fn kill(mut self) -> i32 {
        let collector = self.collector();
        self.signal(Signal::SIGKILL);
        if let Some(collector) = collector {
            // It may have ended by itself, as its peer no longer answers.
            _ = kill(Pid::from_raw(collector), Signal::SIGKILL);
            let gone = || crate::machine::state_of(collector).is_none_or(|state| state == 'Z');
            assert!(eventually(patience(), gone), "collector {collector} does not end");
        }
        self.0.kill()
    }
}
