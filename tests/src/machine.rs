//! The kernel's view of a target, and of an agent's remains.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// Fails with the next step unless the test runs as root: the tested code needs it, and a test that
/// skips itself shows nothing.
#[track_caller]
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "end-to-end tests attach probes and must run as root, for example: sudo -E make test"
    );
}

/// Waits until `condition` holds; false if the time was up first.
pub fn eventually(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// A lock across all tests of all processes: tests that need the processors for themselves hold it
/// exclusively, the others share it.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Turn {
    fn take(how: FlockArg) -> Self {
        // Children of this process get no huge pages: while the kernel makes one, the moved memory
        // is briefly unreadable, and a call of Go in that moment is in the account but in no
        // histogram. Tests count exactly.
        nix::sys::prctl::set_thp_disable(true).expect("PR_SET_THP_DISABLE");
        let path = crate::target::folder().join(".turn");
        let file = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(Flock::lock(file, how).map_err(|(_, e)| e).expect("flock"))
    }

    /// Takes a turn together with others.
    pub fn shared() -> Self {
        Self::take(FlockArg::LockShared)
    }

    /// Takes a turn with no other test at the same time.
    pub fn alone() -> Self {
        Self::take(FlockArg::LockExclusive)
    }
}

/// A directory of one test, removed on drop. World-readable: some tests act as another user.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes it below the machine's temporary directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("edgelat-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Copies a file into it.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.0.join(name);
        fs::copy(from, &to).unwrap_or_else(|e| panic!("{} to {}: {e}", from.display(), to.display()));
        to
    }
}

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One mapped and executable piece of a file.
struct Text {
    start: u64,
    end: u64,
    offset: u64,
    path: String,
}

fn texts(pid: i32) -> Vec<Text> {
    let maps =
        fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_else(|e| panic!("maps of {pid}: {e}"));
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let executable = words.next()?.contains('x');
            let offset = u64::from_str_radix(words.next()?, 16).ok()?;
            let path = words.nth(2)?;
            (executable && path.starts_with('/')).then(|| Text {
                start: u64::from_str_radix(start, 16).unwrap(),
                end: u64::from_str_radix(end, 16).unwrap(),
                offset,
                path: path.to_owned(),
            })
        })
        .collect()
}

fn is_mapped(pid: i32, text: &Text) -> bool {
    texts(pid).iter().any(|found| (found.start, found.end) == (text.start, text.end))
}

/// Every byte of the executable mappings of `pid` that differs from the mapped file: (path, offset
/// in the file). Probes are such bytes; none may remain after detaching.
pub fn changed_text(pid: i32) -> Vec<(String, u64)> {
    let mut memory =
        File::open(format!("/proc/{pid}/mem")).unwrap_or_else(|e| panic!("memory of {pid}: {e}"));
    let mut changed = Vec::new();
    for text in texts(pid) {
        // Through map_files: the path may name another file here than there.
        let name = format!("/proc/{pid}/map_files/{:x}-{:x}", text.start, text.end);
        let file = match File::open(&name) {
            Ok(file) => file,
            // A program that has only begun maps its libraries: read again.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_mapped(pid, &text) => {
                return changed_text(pid);
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let length = usize::try_from(text.end - text.start).unwrap();
        let (mut mapped, mut stored) = (vec![0; length], vec![0; length]);
        memory.seek(SeekFrom::Start(text.start)).unwrap();
        memory.read_exact(&mut mapped).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut got = 0; // the last page may extend past the end of the file
        while got < length {
            match file.read_at(&mut stored[got..], text.offset + got as u64).expect("reading an image") {
                0 => break,
                n => got += n,
            }
        }
        let differing = (0..got).filter(|&i| mapped[i] != stored[i]);
        changed.extend(differing.map(|i| (text.path.clone(), text.offset + i as u64)));
    }
    changed
}

/// Fails unless all text of `pid` equals its files.
#[track_caller]
pub fn assert_text_restored(pid: i32) {
    let mut changed = Vec::new();
    // The kernel restores the text of a killed agent's probes when it closes the agent's
    // descriptors.
    let restored = eventually(Duration::from_secs(10), || {
        changed = changed_text(pid);
        changed.is_empty()
    });
    assert!(restored, "text of {pid} still differs from its files: {changed:x?}");
}

/// Fails unless some text of `pid` differs from its files: probes are really in place.
#[track_caller]
pub fn assert_text_probed(pid: i32) {
    assert!(!changed_text(pid).is_empty(), "no byte of the text of {pid} is a probe");
}

/// Runs a script in the root of tracefs and returns its output. If tracefs is not mounted, it is
/// mounted temporarily in a separate mount namespace.
fn in_tracefs(script: &str) -> String {
    let script = format!("mount -t tracefs none /mnt && cd /mnt && {script}");
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tracefs: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The tracefs event definitions of all agents: lines such as `p:edgelat_123_456/entry ...`.
pub fn trace_events() -> Vec<String> {
    let text = fs::read_to_string("/sys/kernel/tracing/uprobe_events")
        .unwrap_or_else(|_| in_tracefs("cat uprobe_events"));
    text.lines().filter(|line| line.contains("edgelat_")).map(str::to_owned).collect()
}

/// Defines an event as the agent with that pid would do.
pub fn define_trace_event(agent: i32) {
    in_tracefs(&format!("echo 'p:edgelat_{agent}_1/e0 /bin/true:0x1000' >>uprobe_events"));
}

/// The event definitions of the agent with that pid.
pub fn trace_events_of(agent: i32) -> Vec<String> {
    let mark = format!("edgelat_{agent}_");
    trace_events().into_iter().filter(|line| line.contains(&mark)).collect()
}

/// The state letter of a process; `None` if the process does not exist.
pub fn state_of(pid: i32) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("State:\t")?.chars().next())
}
