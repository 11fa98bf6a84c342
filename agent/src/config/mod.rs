//! The configuration file of the service: TOML with the tables `[agent]`, `[spool]` and
//! `[upload]`, and a table `[[target]]` for each group of processes.
//!
//! | module | job |
//! | --- | --- |
//! | `document` | parses text into tables, keys and values with their lines |
//! | `keys` | reads the keys of a table, and finds the unknown ones |
//! | `read` | all keys, their valid values and their defaults |
//! | `error` | everything that can be wrong |
//!
//! All errors are found in one pass and reported with file, line and key. `docs/CONFIG.md` and
//! `rootfs/etc/edgelat.toml` list the keys for users; tests compare both with this parser.

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

/// Default runtime directory.
pub const RUN_DIR: &str = "/run/edgelat";
/// Maximum number of targets in a file.
pub const TARGETS: usize = 64;

/// A whole configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Settings of the service as a whole.
    pub agent: AgentConfig,
    /// Storage of records.
    pub spool: SpoolConfig,
    /// Destination of records. The service itself sends nothing.
    #[cfg(feature = "upload")]
    pub upload: UploadConfig,
    /// Targets in the order of the file; at most [`TARGETS`], and an empty list is valid.
    pub targets: Vec<TargetConfig>,
}

/// Settings of the service as a whole: `[agent]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// Directory of data that outlives a boot: quarantine, and spool by default. Absolute.
    pub state_dir: PathBuf,
    /// Directory of data that ends with the boot: lock and live snapshot. Absolute.
    pub run_dir: PathBuf,
    /// Time between two records, from 1 s to 1 h.
    pub interval: Duration,
    /// Time between two scans for targets, from 100 ms to 1 min.
    pub scan: Duration,
    /// Destination of the log.
    pub log: LogTo,
    /// Least important level that is logged.
    pub log_level: Level,
    /// CPUs that the collector runs on.
    pub collector_cpu: CollectorCpu,
    /// Scheduler of the collector.
    pub sched: Sched,
    /// The user that the collector becomes, by name or number.
    pub collector_user: Option<String>,
    /// Maximum cost of all probes together, in percent of one CPU, from 0.01 to 1000.
    pub max_cost: f64,
    /// Time that a build stays in quarantine after its last fault, from 1 h to 1 year.
    pub quarantine_for: Duration,
    /// Attach to processes that start later too. Otherwise the guard keeps no capability.
    pub reattach: bool,
    /// Further directories of debug files. Absolute.
    pub debug_dirs: Vec<PathBuf>,
    /// Packs for stripped images. Absolute.
    pub packs: Vec<PathBuf>,
    /// Globs of paths of images that are never probed.
    pub unprobed_images: Vec<String>,
    /// Address of `edgelat metrics`. The service itself has no network.
    pub metrics_listen: SocketAddr,
    /// Host names accepted in requests to it, besides addresses and `localhost`.
    pub metrics_hosts: Vec<String>,
}

/// Storage of records: `[spool]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Directory of the records. Absolute.
    pub dir: PathBuf,
    /// Maximum size of all records together, from 256 KiB to 1 GiB.
    pub max_bytes: u64,
    /// Size of a segment in bytes, from 16 KiB to 4 MiB.
    pub segment_bytes: u64,
    /// Maximum time until written data is on the disk, from 1 s to 1 h.
    pub sync: Duration,
    /// Maximum number of bytes written per day, from 64 KiB.
    pub bytes_per_day: Option<u64>,
    /// Wait for a time source before a merely plausible clock is trusted, from 1 s to 1 d.
    pub clock_patience: Duration,
}

/// Destination of records for `edgelat upload`: `[upload]`.
#[cfg(feature = "upload")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadConfig {
    /// Address of the receiver; the command line may name it instead.
    pub endpoint: Option<String>,
    /// Name that identifies this box to the receiver; defaults to its host name.
    pub instance: Option<String>,
    /// Time between two checks for new records, from 1 s to 1 h.
    pub interval: Duration,
    /// Timeout of a request with its response, from 1 s to 5 min.
    pub timeout: Duration,
    /// Compress requests with gzip.
    pub gzip: bool,
    /// A file with request headers. Absolute.
    pub headers_file: Option<PathBuf>,
    /// Certificates to trust instead of the system's. Absolute.
    pub ca_file: Option<PathBuf>,
    /// The proxy, which overrides the environment.
    pub proxy: Option<String>,
}

/// Processes to measure: `[[target]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetConfig {
    /// Name in every output: `[a-z0-9][a-z0-9_.-]{0,62}`, unique among the targets.
    pub name: String,
    /// Selected processes.
    pub select: Select,
    /// Native and Go functions to measure; at least one, here or in `python`.
    pub functions: Vec<Pattern>,
    /// Python functions to measure.
    pub python: Vec<PythonPattern>,
    /// Method that detects the end of a call.
    pub returns: Returns,
    /// Route of the probes into the kernel; `None` leaves the choice to the guard.
    pub route: Option<Route>,
    /// Signals that remove the probes; `None`: as the language of the functions requires.
    pub on_signal: Option<OnSignal>,
    /// Measure child processes too.
    pub follow_forks: bool,
    /// CPUs that the processes may run on.
    pub targets_on: TargetsOn,
    /// Pin the maps below `/sys/fs/bpf`.
    pub pin: bool,
    /// Measure a process that a debugger traces.
    pub allow_ptrace: bool,
    /// Size of the frame table in frames, a power of two from 16 to 1048576.
    pub frames: u32,
    /// Maximum memory for rows and frames, in bytes, from 4 KiB to 1 GiB.
    pub max_map_bytes: u64,
    /// Maximum cost of its probes, in percent of one CPU, from 0.01 to 1000.
    pub max_cost: f64,
}

/// Selector of the processes of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// The process with this id.
    Pid(i32),
    /// Processes that execute this file: an absolute path, or a glob of such paths.
    Exe(String),
    /// Processes with this command name, or a glob of such names; at most 15 bytes.
    Command(String),
    /// Processes of this systemd unit, such as `nginx.service`.
    Unit(String),
    /// Processes in or below this control group: a path below `/sys/fs/cgroup`, no outer slashes.
    Cgroup(String),
}

impl Select {
    /// Returns the selector in the form that the guard compares.
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

/// Returns the part of a glob before its first special character.
fn literal(glob: &str) -> &str {
    glob.split(['*', '?', '[', '\\']).next().unwrap_or_default()
}

impl TargetConfig {
    /// Returns the bounds of the plans for its processes.
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
    /// Returns true if a setting differs that is fixed from start to end.
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
    /// Returns the placement that the collector needs.
    pub fn place(&self) -> Wanted {
        let prompt = self.targets.iter().any(|target| !target.python.is_empty());
        Wanted { cpu: self.agent.collector_cpu, sched: self.agent.sched, prompt }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// All errors in the file.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        Self::of(path, config_file::read(path))
    }

    /// Reads a file that the guard opened and checked as [`Config::load`] does.
    ///
    /// `path` names the file in errors.
    ///
    /// # Errors
    /// All errors in the file.
    pub fn from_file(path: &Path, file: File) -> Result<Self, Errors> {
        Self::of(path, config_file::bytes(file))
    }

    fn of(path: &Path, bytes: Result<Vec<u8>, ConfigFileError>) -> Result<Self, Errors> {
        bytes.map_or_else(|error| Err(Errors::about_file(path, error)), |bytes| Self::parse(path, &bytes))
    }

    /// Returns the requests to the guard, without plan bounds if processes are only looked `at`.
    pub fn asked(&self, at: bool) -> Vec<Asked> {
        let limits = |target: &TargetConfig| (!at).then(|| target.limits(&self.agent));
        let asked = |target: &TargetConfig| Asked { which: target.select.which(), limits: limits(target) };
        self.targets.iter().map(asked).collect()
    }

    /// Parses the bytes of a file; `path` names it in errors.
    ///
    /// # Errors
    /// All errors in the bytes.
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
