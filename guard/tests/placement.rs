//! Placement of the collector. It is for good, so each test starts this program again as a process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use edgelat_guard::cpus::CpuSet;
use edgelat_guard::placement::{CollectorCpu, Placement, Sched, Wanted, place, recheck};
use edgelat_guard::sandbox::enter_collector;
use nix::sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

/// The environment of a process that is to be placed: the word for the CPU, the scheduler, CPUs of targets.
const PLACE: &str = "EDGELAT_PLACE";

fn whole_number(thread: i32, field: usize) -> i64 {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
    // Fields are numbered from 1, proc(5); the name, which may have anything in it, is the second.
    let rest = stat.rsplit_once(')').unwrap().1;
    rest.split_ascii_whitespace().nth(field - 3).unwrap().parse().unwrap()
}

fn nice(thread: i32) -> i64 {
    whole_number(thread, 19)
}

fn policy(thread: i32) -> i64 {
    whole_number(thread, 41)
}

fn mask(thread: i32) -> CpuSet {
    let mask = sched_getaffinity(Pid::from_raw(thread)).unwrap();
    (0..Mask::count()).filter(|cpu| mask.is_set(*cpu).unwrap()).map(|cpu| cpu as u32).collect()
}

fn put(thread: i32, cpus: &CpuSet) {
    let mut mask = Mask::new();
    cpus.iter().for_each(|cpu| mask.set(cpu as usize).unwrap());
    sched_setaffinity(Pid::from_raw(thread), &mask).unwrap();
}

/// The first and the last CPU that these tests may use.
fn two_cpus() -> (u32, u32) {
    let own = mask(0);
    let (first, last) = (own.iter().next().unwrap(), own.iter().next_back().unwrap());
    assert!(first < last, "these tests want two CPUs");
    (first, last)
}

/// Not a test: the tests start it. It is placed, enters the sandbox, reports, looks again at each
/// line.
#[test]
#[ignore = "started by the others"]
fn the_process_that_is_placed() {
    let Ok(words) = std::env::var(PLACE) else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let cpu = match words[0] {
        "prefer-isolated" => CollectorCpu::PreferIsolated,
        "isolated" => CollectorCpu::Isolated,
        "any" => CollectorCpu::Any,
        number => CollectorCpu::Cpu(number.parse().unwrap()),
    };
    let sched = if words[1] == "ext" { Sched::Ext } else { Sched::Other };
    let wanted = Wanted { cpu, sched, prompt: false };
    let mut placement = match place(&wanted, &CpuSet::parse(words[2]).unwrap()) {
        Ok(placement) => placement,
        Err(error) => return say(&format!("refused {error}")),
    };
    enter_collector(None, None).unwrap();
    let Placement { cpu, isolated, ext, nice, notes, .. } = &placement;
    say(&format!("{} placed {cpu:?} {isolated} {ext} {nice} {}", gettid(), notes.join("; ")));
    for _ in std::io::stdin().lines() {
        let drift = recheck(&mut placement);
        say(&drift.map_or("as before".to_owned(), |drift| drift.to_string()));
    }
}

/// Past libtest, which may have begun a line.
fn say(line: &str) {
    std::io::stdout().write_all(format!("\nsays {line}\n").as_bytes()).unwrap();
}

struct Placed {
    process: Child,
    told: BufReader<ChildStdout>,
    ask: Option<ChildStdin>,
    thread: i32,
    said: String,
}

impl Placed {
    fn new(cpu: &str, sched: &str, targets: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "the_process_that_is_placed",
                "--ignored",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env(PLACE, [cpu, sched, targets].join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(process.stdout.take().unwrap());
        let ask = process.stdin.take();
        let mut placed = Self { process, told, ask, thread: 0, said: String::new() };
        let line = placed.hear();
        match line.split_once(" placed ") {
            Some((thread, said)) => {
                placed.thread = thread.parse().unwrap();
                placed.said = said.to_owned();
            }
            None => placed.said = line,
        }
        placed
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        while self.told.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.trim_end().strip_prefix("says ") {
                return said.to_owned();
            }
            line.clear();
        }
        panic!("it said no more");
    }

    /// Result of another look.
    fn look(&mut self) -> String {
        self.ask.as_mut().unwrap().write_all(b"look\n").unwrap();
        self.hear()
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.ask = None;
        let ended = self.process.wait().unwrap();
        assert!(std::thread::panicking() || ended.success(), "{ended}");
    }
}

#[test]
fn the_collector_runs_on_one_cpu_that_no_target_uses_behind_everybody_else() {
    let (first, last) = two_cpus();
    let placed = Placed::new("prefer-isolated", "other", &first.to_string());
    assert_eq!(nice(placed.thread), 19);
    assert_eq!(policy(placed.thread), 0);
    let own = mask(placed.thread);
    assert_eq!(own.iter().count(), 1);
    assert!(!own.contains(first));
    if edgelat_guard::placement::isolated_cpus().is_err() {
        assert!(own.contains(last));
        let said = format!(
            "Some({last}) false false 19 no CPU is isolated here: the collector runs on CPU {last}, which no target uses"
        );
        assert_eq!(placed.said, said);
    }
}

#[test]
fn where_targets_use_every_cpu_the_collector_runs_on_any_of_them_and_says_so() {
    let placed = Placed::new("prefer-isolated", "other", "0-1023");
    assert_eq!(nice(placed.thread), 19);
    assert_eq!(mask(placed.thread), mask(0));
    assert!(placed.said.starts_with("None false false 19 "), "{}", placed.said);
    assert!(placed.said.ends_with(": the collector runs on any CPU"), "{}", placed.said);
}

#[test]
fn any_leaves_the_collector_where_it_was_started_and_has_nothing_to_say() {
    let placed = Placed::new("any", "other", "");
    assert_eq!(mask(placed.thread), mask(0));
    assert_eq!(placed.said, "None false false 19");
}

#[test]
fn an_isolated_cpu_that_is_not_there_is_refused_with_the_next_step() {
    let placed = Placed::new("isolated", "other", "0-1023");
    assert!(
        placed.said.starts_with("refused there is no isolated CPU for the collector: "),
        "{}",
        placed.said
    );
    assert!(placed.said.contains("isolcpus=") && placed.said.contains("prefer-isolated"), "{}", placed.said);
}

#[test]
fn a_named_cpu_that_is_not_there_is_refused_with_the_reason() {
    let placed = Placed::new("1023", "other", "");
    let expected = "refused the collector cannot run on CPU 1023: it is not online; these are: ";
    assert!(placed.said.starts_with(expected), "{}", placed.said);
}

#[test]
fn a_collector_that_somebody_moves_goes_back_and_tells_it_once() {
    let (first, last) = two_cpus();
    let mut placed = Placed::new(&last.to_string(), "other", "");
    assert_eq!(mask(placed.thread), CpuSet::from_iter([last]));
    assert_eq!(placed.look(), "as before");
    for elsewhere in [CpuSet::from_iter([first]), CpuSet::from_iter([first, last])] {
        put(placed.thread, &elsewhere);
        assert_eq!(
            placed.look(),
            format!("the collector had been put on CPU {elsewhere}; it is back on CPU {last}")
        );
        assert_eq!(mask(placed.thread), CpuSet::from_iter([last]));
        assert_eq!(placed.look(), "as before");
    }
}

#[test]
fn without_a_sched_ext_scheduler_the_collector_says_that_it_runs_under_the_kernels_own() {
    let state = std::fs::read_to_string("/sys/kernel/sched_ext/state");
    let mut placed = Placed::new("any", "ext", "");
    let (expected, reason) = match state.as_deref().map(str::trim) {
        Err(_) => (0, "this kernel has no sched_ext"),
        Ok("enabled") => (7, ""),
        Ok(_) => (7, "no sched_ext scheduler is enabled: the collector runs as SCHED_OTHER until one is"),
    };
    assert!(placed.said.contains(reason), "{}", placed.said);
    assert_eq!(policy(placed.thread), expected);
    assert_eq!(placed.look(), "as before");
}
