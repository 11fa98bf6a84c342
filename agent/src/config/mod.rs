//! The configuration file of the service: TOML with the tables `[agent]`, `[spool]` and `[upload]`, and a table `[[target]]` for each
//! group of processes.
//!
//! | module | job |
//! | --- | --- |
//! | `document` | from text to tables, keys and values with their lines |
//! | `keys` | asks a table for its keys, and finds those that nobody asked for |
//! | `read` | which keys there are, what they can be, and what holds without them |
//! | `error` | what can be wrong |
//!
//! All that is wrong is found at once and told with file, line and key. `docs/CONFIG.md` and `rootfs/etc/edgelat.toml`
//! list the keys for people; tests hold them to what is read here.

mod document;
mod error;
mod keys;
mod read;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use edgelat_guard::config_file::{self, ConfigFileError};
use edgelat_guard::placement::{CollectorCpu, Sched, TargetsOn, Wanted};
use edgelat_guard::protocol::{OnSignal, Returns, Route, Word};
use edgelat_guard::{Asked, Limits, Which};
use edgelat_image::{Glob, Pattern, PythonPattern};

use crate::log::{Level, LogTo};
use crate::values::{LATER_IMAGES, plans, ppm};
use error::Problem;

pub use error::Errors;

/// The directory of what runs, where none is named.
pub const RUN_DIR: &str = "/run/edgelat";
/// Most targets in a file.
pub const TARGETS: usize = 64;

/// A whole file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What holds for the service as such.
    pub agent: AgentConfig,
    /// How records are kept.
    pub spool: SpoolConfig,
    /// Where it is sent. The service itself sends nothing.
    #[cfg(feature = "upload")]
    pub upload: UploadConfig,
    /// What is measured, in the order of the file; at most [`TARGETS`], and none is no mistake.
    pub targets: Vec<TargetConfig>,
}

/// What holds for the service as such: `[agent]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// What outlives a boot: the quarantine, and the spool where it has no place of its own. Absolute.
    pub state_dir: PathBuf,
    /// What ends with the boot: lock and live snapshot. Absolute.
    pub run_dir: PathBuf,
    /// Time between two records, from 1 s to 1 h.
    pub interval: Duration,
    /// How often targets are looked for, from 100 ms to 1 min.
    pub scan: Duration,
    /// Where the log goes.
    pub log: LogTo,
    /// What is logged.
    pub log_level: Level,
    /// Where the collector runs.
    pub collector_cpu: CollectorCpu,
    /// Which scheduler the collector runs under.
    pub sched: Sched,
    /// The user that the collector becomes, by name or number.
    pub collector_user: Option<String>,
    /// Most that all probes together may cost, in percent of one CPU, from 0.01 to 1000.
    pub max_cost: f64,
    /// How long a build is in quarantine after its last fault, from 1 h to 1 year.
    pub quarantine_for: Duration,
    /// Attach to what comes after the start too. Without it the guard keeps no capability.
    pub reattach: bool,
    /// Where else to look for debug files. Absolute.
    pub debug_dirs: Vec<PathBuf>,
    /// Packs for stripped images. Absolute.
    pub packs: Vec<PathBuf>,
    /// Globs of paths of images that are never probed.
    pub unprobed_images: Vec<String>,
    /// Where `edgelat metrics` answers. The service itself has no network.
    pub metrics_listen: SocketAddr,
    /// Names that requests to it may be sent to, besides addresses and `localhost`.
    pub metrics_hosts: Vec<String>,
}

/// How records are kept: `[spool]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Where. Absolute.
    pub dir: PathBuf,
    /// Most bytes of all records together, from 256 KiB to 1 GiB.
    pub max_bytes: u64,
    /// Bytes of a segment, from 16 KiB to 4 MiB.
    pub segment_bytes: u64,
    /// After this time what was written is on the disk, from 1 s to 1 h.
    pub sync: Duration,
    /// Most bytes that are written in a day, from 64 KiB.
    pub bytes_per_day: Option<u64>,
    /// How long to wait for a source of time before a clock that is only plausible is believed, from 1 s to 1 d.
    pub clock_patience: Duration,
}

/// Where records are sent by `edgelat upload`: `[upload]`.
#[cfg(feature = "upload")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadConfig {
    /// Address of the receiver; it may be named on the command line instead.
    pub endpoint: Option<String>,
    /// What tells this box from others; otherwise its name.
    pub instance: Option<String>,
    /// Time between two looks for what is new, from 1 s to 1 h.
    pub interval: Duration,
    /// Most time for a request and its answer, from 1 s to 5 min.
    pub timeout: Duration,
    /// Make requests smaller with gzip.
    pub gzip: bool,
    /// A file with headers. Absolute.
    pub headers_file: Option<PathBuf>,
    /// Certificates to trust instead of those of the system. Absolute.
    pub ca_file: Option<PathBuf>,
    /// The proxy, instead of what the environment says.
    pub proxy: Option<String>,
}

/// Processes to measure: `[[target]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetConfig {
    /// What it is called in every output: `[a-z0-9][a-z0-9_.-]{0,62}`, and no other target's name.
    pub name: String,
    /// Which processes.
    pub select: Select,
    /// Which functions of them; at least one, here or in `python`.
    pub functions: Vec<Pattern>,
    /// Which of their functions of Python.
    pub python: Vec<PythonPattern>,
    /// How the end of a call is seen.
    pub returns: Returns,
    /// How probes reach the kernel; `None` leaves it to the guard.
    pub route: Option<Route>,
    /// Which signals take the probes off; `None`: as the language of the functions wants it.
    pub on_signal: Option<OnSignal>,
    /// Measure the children of the processes too.
    pub follow_forks: bool,
    /// On which CPUs the processes may run.
    pub targets_on: TargetsOn,
    /// Pin the maps below `/sys/fs/bpf`.
    pub pin: bool,
    /// Measure a process that a debugger traces.
    pub allow_ptrace: bool,
    /// Size of the frame table in frames, a power of two from 16 to 1048576.
    pub frames: u32,
    /// Most memory for rows and frames, in bytes, from 4 KiB to 1 GiB.
    pub max_map_bytes: u64,
    /// Most that its probes may cost, in percent of one CPU, from 0.01 to 1000.
    pub max_cost: f64,
}

/// Which processes a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// The one with this number.
    Pid(i32),
    /// Those that execute this file: an absolute path or a glob of such.
    Exe(String),
    /// Those with this command name, or a glob of such; at most 15 bytes.
    Command(String),
    /// Those of this unit of systemd, such as `nginx.service`.
    Unit(String),
    /// Those in this control group or below: a path below `/sys/fs/cgroup`, without a slash at either end.
    Cgroup(String),
}

impl Select {
    /// The same as the guard compares it.
    pub fn which(&self) -> Which {
        let word = |word, wanted: &str| match Glob::is_glob(wanted) {
            true => Which::Word { word, begins: literal(wanted).to_owned(), whole: false },
            false => Which::Word { word, begins: wanted.to_owned(), whole: true },
        };
        match self {
            Self::Pid(pid) => Which::Pid(*pid),
            Self::Exe(path) => word(Word::Executable, path),
            Self::Command(name) => word(Word::Command, name),
            Self::Unit(unit) => Which::Unit(unit.clone()),
            Self::Cgroup(group) => Which::Cgroup(group.trim_matches('/').to_owned()),
        }
    }
}

/// What stands before the first special character of a glob.
fn literal(glob: &str) -> &str {
    glob.split(['*', '?', '[', '\\']).next().unwrap_or_default()
}

impl TargetConfig {
    /// Bounds of the plans for its processes.
    pub fn limits(&self, agent: &AgentConfig) -> Limits {
        Limits {
            plans: plans(self.functions.len(), self.python.len()) + LATER_IMAGES,
            frames: self.frames,
            max_map_bytes: self.max_map_bytes,
            returns: self.returns,
            route: self.route,
            follow_forks: self.follow_forks && agent.reattach,
            on_signal: self.on_signal,
            targets_on: self.targets_on,
            max_cost_ppm: Some(ppm(self.max_cost)),
            sample: false,
            python: !self.python.is_empty(),
            pin: self.pin,
            allow_ptrace: self.allow_ptrace,
        }
    }
}

impl AgentConfig {
    /// Does it differ in what holds from the start to the end only?
    pub fn needs_restart(&self, before: &Self) -> bool {
        let same = Self {
            interval: before.interval,
            scan: before.scan,
            metrics_listen: before.metrics_listen,
            metrics_hosts: before.metrics_hosts.clone(),
            ..self.clone()
        };
        same != *before
    }
}

impl Config {
    /// Where the collector has to run.
    pub fn place(&self) -> Wanted {
        let prompt = self.targets.iter().any(|target| !target.python.is_empty());
        Wanted { cpu: self.agent.collector_cpu, sched: self.agent.sched, prompt }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        Self::of(path, config_file::read(path))
    }

    /// Reads a file that the guard has opened, and checked as [`Config::load`] does; `path` names it in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_file(path: &Path, file: File) -> Result<Self, Errors> {
        Self::of(path, config_file::bytes(file))
    }

    fn of(path: &Path, bytes: Result<Vec<u8>, ConfigFileError>) -> Result<Self, Errors> {
        bytes.map_or_else(|error| Err(Errors::about_file(path, error)), |bytes| Self::parse(path, &bytes))
    }

    /// What is to be measured, for the guard; without bounds of plans where processes are only looked `at`.
    pub fn asked(&self, at: bool) -> Vec<Asked> {
        let limits = |target: &TargetConfig| (!at).then(|| target.limits(&self.agent));
        let asked = |target: &TargetConfig| Asked { which: target.select.which(), limits: limits(target) };
        self.targets.iter().map(asked).collect()
    }

    /// Understands the bytes of a file; `path` names it in errors.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Errors> {
        let mut errors = Errors::of(path.to_owned());
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                let tables = document::read(text, &mut errors);
                let config = read::config(&tables, &mut errors);
                if errors.is_empty() { Ok(config) } else { Err(errors) }
            }
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u32;
                errors.add(line, Problem::NotText);
                Err(errors)
            }
        }
    }
}
