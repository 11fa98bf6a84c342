//! Programs whose calls are timed: their compilation, start, calls and text.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, file};
use crate::tools::answer_of;

/// Paths of the finished target programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) c: PathBuf,
    pub(crate) rust: PathBuf,
    pub(crate) go: PathBuf,
    pub(crate) many: PathBuf,
}

impl Programs {
    /// Compiles all of them into `work`, each function with the options for the start that it is
    /// named after.
    pub(crate) fn compile(sources: &Path, work: &Path) -> Result<Self, Error> {
        fs::create_dir_all(work).map_err(file("create", work))?;
        let programs = Self {
            c: work.join("calls"),
            rust: work.join("rust_calls"),
            go: work.join("go_calls"),
            many: work.join("many"),
        };
        let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        let source = |name: &str| sources.join(name).into_os_string();
        let object = |name: &str| work.join(name).into_os_string();

        for (name, protection) in
            [("calls", "none"), ("starts", "none"), ("opaque", "none"), ("starts_endbr64", "full")]
        {
            answer_of(
                Command::new(&cc)
                    .args(["-O2", "-g", "-c"])
                    .arg(format!("-fcf-protection={protection}"))
                    .args([source(&format!("{name}.c")), "-o".into(), object(&format!("{name}.o"))]),
            )?;
        }
        answer_of(
            Command::new(&cc)
                .args(["calls.o", "starts.o", "opaque.o", "starts_endbr64.o"].map(object))
                .arg("-o")
                .arg(&programs.c),
        )?;
        answer_of(
            Command::new(&cc)
                .args(["-O1", "-g", "-fcf-protection=none"])
                .arg(source("many.c"))
                .arg("-o")
                .arg(&programs.many),
        )?;
        answer_of(
            Command::new(rustc)
                .args(["--edition", "2024", "-C", "opt-level=3", "-g"])
                .arg(source("rust_calls.rs"))
                .arg("-o")
                .arg(&programs.rust),
        )?;
        // The folder of a tool chain that `tests/toolchain` has fetched.
        let go = std::env::var("GOROOT").map_or_else(|_| "go".into(), |root| format!("{root}/bin/go"));
        answer_of(
            Command::new(go)
                .envs([
                    ("GO111MODULE", "off"),
                    ("GOTOOLCHAIN", "local"),
                    ("GOFLAGS", ""),
                    ("CGO_ENABLED", "0"),
                ])
                .env("GOCACHE", work.join("go-cache"))
                .args(["build", "-trimpath", "-o"])
                .arg(&programs.go)
                .arg(source("go_calls.go")),
        )?;
        Ok(programs)
    }
}

/// Result of a batch of calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) calls: u64,
    /// CPU time of the calling thread, kernel included.
    pub(crate) cpu_ns: f64,
}

/// A running target. It ends with this value.
#[derive(Debug)]
pub(crate) struct Target {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    image: PathBuf,
    /// Calls of all functions so far.
    pub(crate) calls: u64,
}

impl Target {
    /// Starts a **copy** of the program, so that its probes are on an inode of its own: each hit
    /// runs the consumers of one uprobe in turn, and targets measured side by side would pay for
    /// each other.
    pub(crate) fn start_copy(program: &Path, copy: PathBuf, cpu: usize) -> Result<Self, Error> {
        // Never over a file that still runs; and a new inode in any case.
        match fs::remove_file(&copy) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::File { action: "remove", path: copy, source });
            }
            _ => {}
        }
        fs::copy(program, &copy).map_err(file("write", &copy))?;
        let mut child = Command::new(&copy)
            .arg(cpu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Spawn { program: copy.display().to_string(), source })?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Answer { program: copy.display().to_string(), answer: "no pipes".into() });
        };
        Ok(Self { child, commands: Some(commands), answers: BufReader::new(answers), image: copy, calls: 0 })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file it runs.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// Has it call `function` this many times and waits for the result.
    pub(crate) fn call(&mut self, function: &str, calls: u64) -> Result<Batch, Error> {
        let pid = self.pid();
        let gone = |source| Error::Process { pid, what: "pipe", source };
        if let Some(commands) = &mut self.commands {
            writeln!(commands, "{function} {calls}").map_err(gone)?;
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(gone)?;
        self.calls += calls;
        let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (words.next(), words.next()) {
            (Some(Ok(calls)), Some(Ok(ns))) => Ok(Batch { calls, cpu_ns: ns as f64 }),
            _ => Err(Error::Answer { program: self.image.display().to_string(), answer: line }),
        }
    }

    /// A view of its text, which shows breakpoints.
    pub(crate) fn text(&self) -> Result<Text, Error> {
        Text::of(self.pid(), &self.image)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // End of file on its input ends it; a target that hangs in a probe is killed.
        self.commands = None;
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_file(&self.image);
    }
}

/// The mapped text of an image in a process.
#[derive(Debug)]
pub(crate) struct Text {
    pid: u32,
    memory: File,
    /// Address of file offset 0 if it were mapped with the text.
    base: u64,
}

/// The instruction that the kernel puts on a probed site (x86-64 `int3`).
const BREAKPOINT: u8 = 0xcc;

impl Text {
    fn of(pid: u32, image: &Path) -> Result<Self, Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        // The parent continues once the child has left its memory, before the kernel has mapped the
        // new image.
        let base = loop {
            match Self::base(pid, image)? {
                Some(base) => break base,
                None if Instant::now() > deadline => {
                    return Err(Error::NotMapped { pid, file: image.to_owned() });
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        let path = format!("/proc/{pid}/mem");
        let memory = File::open(&path).map_err(file("open", &path))?;
        Ok(Self { pid, memory, base })
    }

    fn base(pid: u32, image: &Path) -> Result<Option<u64>, Error> {
        let maps = format!("/proc/{pid}/maps");
        let text = fs::read_to_string(&maps).map_err(file("read", &maps))?;
        Ok(text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (range, mode, offset) = (words.next()?, words.next()?, words.next()?);
            let path = words.nth(2)?;
            if !mode.contains('x') || Path::new(path) != image {
                return None;
            }
            let start = u64::from_str_radix(range.split_once('-')?.0, 16).ok()?;
            start.checked_sub(u64::from_str_radix(offset, 16).ok()?)
        }))
    }

    /// Number of these file offsets, in ascending order, with a probe.
    pub(crate) fn probed(&self, offsets: &[u64]) -> Result<usize, Error> {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else { return Ok(0) };
        // One read for all, as this runs every millisecond while ten thousand sites come and go.
        let mut bytes = vec![0; (last - first) as usize + 1];
        self.memory.read_exact_at(&mut bytes, self.base + first).map_err(|source| Error::Process {
            pid: self.pid,
            what: "text",
            source,
        })?;
        Ok(offsets.iter().filter(|&offset| bytes.get((offset - first) as usize) == Some(&BREAKPOINT)).count())
    }
}
