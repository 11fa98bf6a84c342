//! A service among programs that fork, replace themselves from any thread, map thousands of files,
//! and are stopped, frozen, traced and killed at random. The agent neither ends them nor falsifies
//! their results, the cost of measuring stays bounded, and the service answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgelat_tests::lines::Lines;
use edgelat_tests::machine::{TempDir, Turn, eventually};
use edgelat_tests::service::{Told, measure};
use edgelat_tests::{Place, Service, amount, patience, soaking};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::service::exe;

/// Number of concurrent programs.
const PROGRAMS: usize = 6;
/// Bound for the cost of all their probes, in percent of one CPU.
const MAX_COST: f64 = 5.0;
/// Time limit for an answer, on an otherwise idle machine.
const ANSWER: Duration = Duration::from_secs(2);

/// splitmix64: a seed reproduces the events.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// A running `restless`. Its status is requested by pid, because a tracer gets its stops the same
/// way.
struct Program {
    pid: Pid,
    /// Folder of the files that it maps.
    _files: TempDir,
}

impl Program {
    #[expect(clippy::zombie_processes, reason = "it is waited for by its number, in `end` and `kill`")]
    fn start(path: &Path, seed: u64) -> Self {
        let files = TempDir::new();
        let mut command = Command::new(path);
        command.arg(files.path()).arg(seed.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        let ready = lines.wait(0, patience(), |line| line.contains("ready").then_some(()));
        assert!(ready.is_some(), "{} does not begin", path.display());
        Self { pid: Pid::from_raw(child.id().try_into().unwrap()), _files: files }
    }

    /// It has not ended: nothing has requested that.
    fn assert_alive(&self) {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive => {}
            ended => panic!("a program that nobody had asked to end did: {ended:?}"),
        }
    }

    /// A debugger attaches, watches for a while, and detaches. It detaches early if the program
    /// executes itself from an untraced thread: the traced threads are gone then.
    fn trace(&self, time: Duration) {
        match self.trace_main_thread(time) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => panic!("tracing fails with {errno}"),
        }
    }

    fn trace_main_thread(&self, time: Duration) -> nix::Result<()> {
        match ptrace::seize(self.pid, ptrace::Options::empty()) {
            // Another thread executes a program, and the main one has ended to make room for it.
            Err(Errno::EPERM) => return Err(Errno::ESRCH),
            seized => seized?,
        }
        let (begun, mut asked) = (Instant::now(), false);
        while begun.elapsed() < patience() {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL))? {
                WaitStatus::StillAlive if begun.elapsed() < time || asked => {
                    std::thread::sleep(Duration::from_millis(5));
                    let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
                    if status.contains("TracerPid:\t0\n") {
                        return Err(Errno::ESRCH);
                    }
                }
                WaitStatus::StillAlive => {
                    ptrace::interrupt(self.pid)?;
                    asked = true;
                }
                WaitStatus::PtraceEvent(..) if asked => return ptrace::detach(self.pid, None),
                WaitStatus::PtraceEvent(..) => ptrace::cont(self.pid, None)?,
                // Its own signals are passed on to it; none of them is a breakpoint of the agent.
                WaitStatus::Stopped(_, signal) if signal != Signal::SIGTRAP => {
                    ptrace::cont(self.pid, signal)?
                }
                status => panic!("while it was traced: {status:?}"),
            }
        }
        panic!("a traced program does not stop");
    }

    /// Ends it by its own protocol, and checks that each of its results was right.
    fn end(self) {
        self.signal(Signal::SIGTERM);
        let mut status = WaitStatus::StillAlive;
        let ended = eventually(patience(), || {
            status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).unwrap();
            status != WaitStatus::StillAlive
        });
        assert!(ended, "a program does not end");
        assert_eq!(status, WaitStatus::Exited(self.pid, 0), "3 means wrong results");
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    fn kill(self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(waitpid(self.pid, None).unwrap(), WaitStatus::Signaled(self.pid, Signal::SIGKILL, false));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// A control group that can be frozen, if this machine has the unified hierarchy.
struct Freezer(PathBuf);

impl Freezer {
    fn make() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            (words.next()? == "cgroup2").then(|| words.next()).flatten()
        })?;
        let group = Path::new(mount).join(format!("edgelat-test-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        Some(Self(group))
    }

    fn freeze(&self, pid: Pid, time: Duration) {
        let write = |file: &Path, text: &str| std::fs::write(file, text).unwrap();
        write(&self.0.join("cgroup.procs"), &pid.to_string());
        write(&self.0.join("cgroup.freeze"), "1");
        std::thread::sleep(time);
        write(&self.0.join("cgroup.freeze"), "0");
        write(&self.0.parent().unwrap().join("cgroup.procs"), &pid.to_string());
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Children of its processes may remain for a moment.
        eventually(Duration::from_secs(10), || std::fs::remove_dir(&self.0).is_ok());
    }
}

/// Number of events of each kind.
#[derive(Debug, Default)]
struct Happened {
    stopped: u32,
    frozen: u32,
    traced: u32,
    killed: u32,
    reloaded: u32,
    answers: u32,
    slowest: Duration,
}

/// Requests the figures of the service, and waits for the first of them.
fn ask(service: &Service, happened: &mut Happened) {
    let (from, begun) = (service.count(), Instant::now());
    service.signal(Signal::SIGUSR1);
    assert!(
        eventually(patience(), || service.count() > from),
        "the service does not answer:\n{}",
        service.log()
    );
    happened.answers += 1;
    happened.slowest = happened.slowest.max(begun.elapsed());
}

fn disturb(
    program: &mut Program,
    path: &Path,
    random: &mut Random,
    freezer: Option<&Freezer>,
    happened: &mut Happened,
) {
    match random.below(8) {
        0 | 1 => {
            program.signal(Signal::SIGSTOP);
            std::thread::sleep(random.millis(400));
            program.signal(Signal::SIGCONT);
            happened.stopped += 1;
        }
        2 if let Some(freezer) = freezer => {
            freezer.freeze(program.pid, random.millis(400));
            happened.frozen += 1;
        }
        3 | 4 => {
            program.trace(random.millis(800));
            happened.traced += 1;
        }
        5 => {
            let next = Program::start(path, random.below(u64::MAX));
            std::mem::replace(program, next).kill();
            happened.killed += 1;
        }
        _ => std::thread::sleep(random.millis(300)),
    }
}

/// Total cost of measuring, in percent of one CPU over `time`.
fn cost_of(lines: &[Told], time: Duration) -> f64 {
    let reports = lines.iter().filter(|told| told.state == "ended").filter_map(|told| told.report.as_ref());
    let spent = reports
        .map(|report| report.value["cost_percent"].as_f64().unwrap_or(0.0) * report.elapsed_ns as f64 / 1e9);
    spent.sum::<f64>() / time.as_secs_f64()
}

#[test]
fn chaos_ends_no_program_and_the_service_answers() {
    let _turn = if soaking() { Turn::alone() } else { Turn::shared() };
    let place = Place::new();
    let path = place.program("restless", "restless");
    place.configure(
        &format!("max_cost = {MAX_COST}\n"),
        &[measure("it", &exe(&path), &["work"], "max_cost = 2.0\n")],
    );
    let seed = std::env::var("EDGELAT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("EDGELAT_SEED={seed}");
    let mut random = Random(seed);
    let mut programs: Vec<Program> =
        (0..PROGRAMS).map(|_| Program::start(&path, random.below(u64::MAX))).collect();
    let freezer = Freezer::make();
    let (mut happened, begun) = (Happened::default(), Instant::now());
    let service = place.start();
    let time = Duration::from_secs(amount(5, 3600));
    while begun.elapsed() < time {
        programs.iter().for_each(Program::assert_alive);
        let chosen = random.below(PROGRAMS as u64) as usize;
        disturb(&mut programs[chosen], &path, &mut random, freezer.as_ref(), &mut happened);
        match random.below(10) {
            0 => {
                service.signal(Signal::SIGHUP);
                happened.reloaded += 1;
            }
            1 | 2 => ask(&service, &mut happened),
            _ => {}
        }
    }
    ask(&service, &mut happened);
    let lasted = begun.elapsed();
    let lines = service.end();
    programs.into_iter().for_each(Program::end);

    let calls: u64 = lines.iter().filter(|told| told.state == "ended").map(Told::entries).sum();
    let cost = cost_of(&lines, lasted);
    println!(
        "figure: {PROGRAMS} programs for {} s: {happened:?}; {calls} calls counted, 0 wrong results, {cost:.2} % of a CPU",
        lasted.as_secs()
    );
    assert!(calls > 0, "nothing was measured");
    // The interval that the budget saw last is a large part of a few seconds.
    let bound = if soaking() { MAX_COST } else { MAX_COST * 1.25 };
    assert!(cost <= bound, "{cost} % of a CPU");
    if soaking() {
        assert!(happened.slowest <= ANSWER, "{happened:?}");
    }
}
