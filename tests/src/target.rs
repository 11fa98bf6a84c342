//! Starts the programs under `tests/targets` and speaks their protocol.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lines::Lines;
use crate::patience;
use crate::report::Oracle;

/// Folder of the built targets; builds them first (once per process, one process at a time). If
/// `EDGELAT_TARGETS` names a folder, its targets are used as they are: for a machine without
/// compilers.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = ready_made() {
            return folder;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/targets");
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let folder = folder.canonicalize().expect("a directory that was just made");
        make(&folder, "", &folder, "all");
        folder
    })
}

fn ready_made() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("EDGELAT_TARGETS")?);
    Some(folder.canonicalize().expect("EDGELAT_TARGETS names a folder"))
}

/// Makes `goal` of the Makefile in `tests/targets/part` in the folder `out`; one process at a time.
fn make(folder: &Path, part: &str, out: &Path, goal: &str) {
    let lock = std::fs::File::create(folder.join(".building")).expect("a lock file");
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, e)| e);
    let _lock = lock.expect("flock");
    let output = Command::new("make")
        .arg("-C")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("targets").join(part))
        .arg("-j2")
        .arg(format!("OUT={}", out.display()))
        .arg(goal)
        .output()
        .expect("`make` builds the targets of the tests");
    assert!(
        output.status.success(),
        "the targets do not build (compilers come with `cross/setup test`):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Path of a built target. Go targets (`go/calls-1.24-plain`, see the Makefile there) are built one
/// by one on demand: each tool chain compiles its library first. `soundness` and `soundness-whole`
/// consist of the instructions that edgelat accepts as a site; the words of `checks-gcc-O2-v3`
/// describe its build.
pub fn target(name: &str) -> PathBuf {
    let path = folder().join(name);
    if name.starts_with("go/") && ready_made().is_none() {
        make(folder(), "go", &folder().join("go"), path.to_str().expect("a path in UTF-8"));
    }
    if name.starts_with("checks-") && ready_made().is_none() {
        make(folder(), "", folder(), path.to_str().expect("a path in UTF-8"));
    }
    if name.starts_with("soundness") && ready_made().is_none() {
        static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let mut made = MADE.lock().expect("no test fails while it makes a target");
        if !made.iter().any(|made| made == name) {
            make_soundness(name, &path);
            made.push(name.to_owned());
        }
    }
    assert!(path.exists(), "no target is called `{name}`");
    path
}

/// Writes the rows of a program of the soundness oracle if they have changed, and builds it.
fn make_soundness(name: &str, path: &Path) {
    let rows = crate::soundness::assembly_of(name);
    let file = folder().join(format!("{name}-rows.s"));
    if !std::fs::read(&file).is_ok_and(|there| there == rows.as_bytes()) {
        let aside = file.with_extension(format!("s.{}", std::process::id()));
        std::fs::write(&aside, rows).expect("a file beside the targets");
        std::fs::rename(&aside, &file).expect("a file in the same folder");
    }
    make(folder(), "", folder(), path.to_str().expect("a path in UTF-8"));
}

/// A running target. Ends with the test that started it.
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Its output.
    pub lines: Lines,
    seen: usize,
    pid: i32,
}

impl Target {
    /// Starts the target and waits until it is ready: it has not called anything yet.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(target(name));
        command.args(arguments);
        Self::start_command(command)
    }

    /// As [`start`](Self::start), with any command that executes a target in the end, such as
    /// `unshare`.
    pub fn start_command(mut command: Command) -> Self {
        crate::need_root();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let lines = Lines::of(child.stdout.take().unwrap());
        let mut this = Self { stdin: child.stdin.take(), child, lines, seen: 0, pid: 0 };
        this.pid = this.wait_for("ready").pid;
        this
    }

    /// As [`start_command`](Self::start_command), for a command that starts the target as its child
    /// in a PID namespace, in which the target does not know its outer number.
    pub fn start_in_pid_namespace(command: Command) -> Self {
        let mut this = Self::start_command(command);
        let parent = this.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("children");
        this.pid =
            children.trim().parse().unwrap_or_else(|_| panic!("one child of {parent}, not `{children}`"));
        this
    }

    /// Pid of the process that reported ready.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends one line of the protocol.
    pub fn say(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("a target that is still spoken to");
        writeln!(stdin, "{command}")
            .unwrap_or_else(|e| panic!("the target does not listen to `{command}`: {e}"));
    }

    /// Begins the work, or continues it after a rest.
    pub fn go(&mut self) {
        self.say("go");
    }

    /// Waits for the next line with that event.
    #[track_caller]
    pub fn wait_for(&mut self, event: &str) -> Oracle {
        let found =
            self.lines.wait(self.seen, patience(), |line| Oracle::parse(line).filter(|o| o.event == event));
        let Some((at, oracle)) = found else {
            panic!("the target did not say `{event}`; it said:\n{}", self.lines.text())
        };
        self.seen = at + 1;
        oracle
    }

    /// Brings all its threads to rest and returns the figures at rest.
    #[track_caller]
    pub fn rest(&mut self) -> Oracle {
        self.say("rest");
        self.wait_for("rest")
    }

    /// Requests the current figures.
    #[track_caller]
    pub fn tell(&mut self) -> Oracle {
        self.say("tell");
        self.wait_for("told")
    }

    /// Waits until its workers have finished; it has then ended by itself, unless started with
    /// `--stay`.
    #[track_caller]
    pub fn finished(&mut self) -> Oracle {
        self.wait_for("end")
    }

    /// Waits for its end; returns its last figures after checking that it ended well.
    #[track_caller]
    pub fn end(mut self) -> Oracle {
        let oracle = self.finished();
        drop(self.stdin.take());
        oracle.assert_right();
        let status = self.status();
        assert!(status.success(), "the target ended with {status}");
        oracle
    }

    /// Stops endless work and waits for the end.
    #[track_caller]
    pub fn stop(mut self) -> Oracle {
        self.say("stop");
        self.end()
    }

    /// True if it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child").is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.pid));
    }

    /// Kills and reaps it.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.status();
    }

    /// Waits for its exit status.
    #[track_caller]
    pub fn status(&mut self) -> ExitStatus {
        wait(&mut self.child, patience()).expect("a target that ends")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for the end of a child; `None` if the time was up.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("waiting for a child") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
