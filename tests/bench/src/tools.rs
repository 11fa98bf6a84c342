//! Programs that measure latency: edgelat and its peers, started, watched and stopped from outside.
//!
//! The peers are in their own root (`setup-peers`) and run through chroot, in a mount namespace
//! that `run` made, in which that root has the machine's `/proc`, `/sys` and `/dev` and the
//! targets' folder at its own path.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::error::Error;

/// Paths of the programs.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) edgelat: PathBuf,
    /// `None` if the peers could not be set up; their rows then say so.
    pub(crate) peers: Option<PathBuf>,
}

/// One of the programs, in one of its modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Edgelat { route: &'static str, returns: &'static str },
    Bpftrace,
    Bcc,
    LibbpfTools,
}

/// The functions to measure. Peers use the names in the symbol table.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) symbol: String,
}

impl Tool {
    /// Name in the tables.
    pub(crate) fn label(self) -> String {
        match self {
            Self::Edgelat { route, returns } => format!("edgelat, {route}, {returns}"),
            Self::Bpftrace => "bpftrace".into(),
            Self::Bcc => "bcc funclatency".into(),
            Self::LibbpfTools => "libbpf-tools funclatency".into(),
        }
    }

    /// `interval` is the seconds between two reports of edgelat; peers report at the end.
    fn command(
        self,
        installed: &Installed,
        pid: u32,
        image: &Path,
        choice: &Choice,
        interval: u32,
    ) -> Option<Command> {
        let pid = pid.to_string();
        let Choice { name, symbol } = choice;
        let image = image.display();
        let inside = |program: &[&str]| {
            let mut command = Command::new("chroot");
            command.arg(installed.peers.as_ref()?).args(program);
            Some(command)
        };
        Some(match self {
            Self::Edgelat { route, returns } => {
                let mut command = Command::new(&installed.edgelat);
                command.args(["watch", "-p", &pid, "--json", "--interval", &interval.to_string()]);
                // Ten thousand functions on a few CPUs need more than the default.
                command.args(["--max-map-bytes", "1073741824", "--route", route, "--returns", returns, name]);
                command
            }
            Self::Bpftrace => {
                let mut command = inside(&["/usr/bin/bpftrace", "-B", "line", "-p", &pid, "-e"])?;
                command.arg(format!(
                    "uprobe:{image}:{symbol} {{ @start[tid] = nsecs; }} \
                     uretprobe:{image}:{symbol} /@start[tid]/ {{ @ns = hist(nsecs - @start[tid]); delete(@start, tid); }}"
                ));
                // Its default is 1024 probes.
                command.env("BPFTRACE_MAX_PROBES", "40000").env("BPFTRACE_MAX_BPF_PROGS", "40000");
                command
            }
            Self::Bcc => {
                let mut command = inside(&["/usr/sbin/funclatency-bpfcc", "-p", &pid])?;
                command.arg(format!("{image}:{symbol}")).env("PYTHONUNBUFFERED", "1");
                command
            }
            Self::LibbpfTools => {
                let mut command =
                    inside(&["/usr/bin/stdbuf", "-oL", "/usr/sbin/funclatency-libbpf", "-p", &pid])?;
                command.arg(format!(":{symbol}"));
                command
            }
        })
    }

    /// Its output once it is ready. The target's text shows neither return probes nor the start of
    /// counting.
    fn ready_word(self) -> &'static str {
        match self {
            Self::Edgelat { .. } => "edgelat: armed",
            Self::Bpftrace => "Attached ",
            Self::Bcc | Self::LibbpfTools => "Tracing ",
        }
    }

    /// Starts it on a process, silent until it is stopped; `None` if it is not installed.
    pub(crate) fn start(
        self,
        installed: &Installed,
        pid: u32,
        image: &Path,
        choice: &Choice,
    ) -> Result<Option<Running>, Error> {
        self.start_reporting(installed, pid, image, choice, 600)
    }

    /// Starts it on a process with a report every `interval` seconds.
    pub(crate) fn start_reporting(
        self,
        installed: &Installed,
        pid: u32,
        image: &Path,
        choice: &Choice,
        interval: u32,
    ) -> Result<Option<Running>, Error> {
        let Some(mut command) = self.command(installed, pid, image, choice, interval) else {
            return Ok(None);
        };
        Running::of(self, &mut command).map(Some)
    }

    /// Number of calls in its final output.
    pub(crate) fn counted(self, output: &str) -> Option<u64> {
        match self {
            Self::Edgelat { .. } => {
                let last: Value =
                    serde_json::from_str(output.lines().rfind(|line| line.starts_with('{'))?).ok()?;
                last["functions"].as_array()?.iter().map(|f| f["count"].as_u64()).sum()
            }
            _ => histogram_total(output),
        }
    }
}

/// Runs a command to its end and returns its output.
pub(crate) fn answer_of(command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| Error::Spawn { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Failed { program, status: output.status.to_string(), output: said })
}

fn collect(mut stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            output.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        }
    })
}

/// Sum of the counts of printed histograms: `[512, 1K)  17 |@@` of bpftrace, `512 -> 1023 : 17 |**` of the others.
fn histogram_total(output: &str) -> Option<u64> {
    let counts = output.lines().filter_map(|line| {
        let (left, _) = line.split_once('|')?;
        let count = if left.trim_start().starts_with('[') {
            left.rsplit([')', ']']).next()?
        } else if left.contains("->") {
            left.rsplit_once(':')?.1
        } else {
            return None;
        };
        count.trim().parse::<u64>().ok()
    });
    counts.fold(None, |sum, count| Some(sum.unwrap_or(0) + count))
}

/// A running tool. It is killed with this value unless it was stopped.
#[derive(Debug)]
pub(crate) struct Running {
    tool: Tool,
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    pub(crate) started: Instant,
}

impl Running {
    fn of(tool: Tool, command: &mut Command) -> Result<Self, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().map_err(|source| Error::Spawn { program: tool.label(), source })?;
        let output = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let Some(stream) = child.stdout.take() {
            readers.push(collect(stream, &output));
        }
        if let Some(stream) = child.stderr.take() {
            readers.push(collect(stream, &output));
        }
        Ok(Self { tool, child, output, readers, started })
    }

    /// Starts the service of edgelat.
    pub(crate) fn service(installed: &Installed, config: &Path) -> Result<Self, Error> {
        let mut command = Command::new(&installed.edgelat);
        command.args(["run", "-c"]).arg(config);
        Self::of(Tool::Edgelat { route: "auto", returns: "ret" }, &mut command)
    }

    pub(crate) fn tool(&self) -> Tool {
        self.tool
    }

    /// Everything printed so far, both streams.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if it has reported that it is ready.
    pub(crate) fn says_ready(&self) -> bool {
        self.output().contains(self.tool.ready_word())
    }

    /// True if it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it with Ctrl-C, as a user does.
    pub(crate) fn interrupt(&self) {
        _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
    }

    /// Waits for its end; kills it after the time-out. `true` if it ended by itself.
    pub(crate) fn wait(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut in_time = true;
        while !self.ended() {
            if Instant::now() > deadline {
                in_time = false;
                _ = self.child.kill();
                _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        for reader in self.readers.drain(..) {
            _ = reader.join();
        }
        in_time
    }

    /// Memory of the tool's processes now.
    pub(crate) fn memory(&self) -> Memory {
        Memory::of_tree(self.child.id())
    }

    /// CPU time of the tool's processes so far in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        tree(self.child.id()).into_iter().map(cpu_ns).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    all
}

/// Time on a CPU of all threads: the first field of schedstat (Documentation/scheduler/sched-stats).
fn cpu_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Memory of a tool in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident now: sum over its processes of the proportional share, so that shared pages count
    /// once.
    pub(crate) resident: u64,
    /// Highest resident size of each process, summed.
    pub(crate) peak: u64,
    /// Kernel memory of the BPF maps it holds.
    pub(crate) maps: u64,
}

impl Memory {
    fn of_tree(root: u32) -> Self {
        let mut memory = Self::default();
        let mut maps = BTreeMap::new();
        for pid in tree(root) {
            let field = |file: &str, name: &str| {
                let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_ascii_whitespace().next()?.parse::<u64>().ok()
            };
            memory.resident += field("smaps_rollup", "Pss:").unwrap_or(0) * 1024;
            memory.peak += field("status", "VmHWM:").unwrap_or(0) * 1024;
            let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { continue };
            for descriptor in descriptors.flatten() {
                let name = format!("fdinfo/{}", descriptor.file_name().to_string_lossy());
                // kernel/bpf/syscall.c, bpf_map_show_fdinfo
                if let (Some(id), Some(bytes)) = (field(&name, "map_id:"), field(&name, "memlock:")) {
                    maps.insert(id, bytes);
                }
            }
        }
        memory.maps = maps.values().sum();
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_both_kinds_of_histogram() {
        let bpftrace = "@ns:\n[512, 1K)     2767 |@@@@|\n[1K, 2K)      224 |@   |\n[1]  3 |@|\n";
        assert_eq!(histogram_total(bpftrace), Some(2994));
        let bcc = "     nsecs     : count     distribution\n   512 -> 1023  : 3183  |****|\n  1024 -> 2047 : 17   |  |\navg = 3\n";
        assert_eq!(histogram_total(bcc), Some(3200));
        assert_eq!(histogram_total("Attached 2 probes\n"), None);
    }

    #[test]
    fn the_last_object_counts() {
        let tool = Tool::Edgelat { route: "auto", returns: "ret" };
        let output = "{\"functions\":[{\"count\":1}]}\n{\"functions\":[{\"count\":2},{\"count\":5}]}\n";
        assert_eq!(tool.counted(output), Some(7));
    }
}
