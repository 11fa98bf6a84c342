//! The reported cost is what the target pays: its CPU time per turn with and without probes is
//! compared with the reports, for hits that count and for hits that do not.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use edgelat_tests::lines::Lines;
use edgelat_tests::machine::Turn;
use edgelat_tests::service::measure;
use edgelat_tests::{Place, Report, Session, need_root, patience, soaking, target};

use crate::python::{script, under};
use crate::service::{exe, start};

/// Permitted ratio of reported to actual cost: caches are cold if much else runs.
const RIGHT: std::ops::RangeInclusive<f64> = 0.8..=1.25;
/// Number of lines of the target, and of reports, for one figure.
const LINES: usize = 8;
/// Attempts, since figures of a busy machine vary: an error shows in each attempt.
const ATTEMPTS: usize = 4;

/// A program that only makes calls, and reports the time of its turns.
pub(crate) struct Caller {
    child: Child,
    stdin: ChildStdin,
    lines: Lines,
}

impl Caller {
    pub(crate) fn start(shape: &str, threads: u32, children: u32) -> Self {
        let mut command = Command::new(target("costs"));
        command.args([shape, &threads.to_string(), &children.to_string()]);
        Self::of(command)
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut caller = Self { child, stdin, lines: Lines::of(stdout) };
        caller.next();
        caller
    }

    /// Starts it, or its children.
    pub(crate) fn next(&mut self) {
        self.stdin.write_all(b".").unwrap();
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Turns so far, and their CPU time in nanoseconds.
    pub(crate) fn spent(&self) -> (u64, u64) {
        let numbers = |line: &str| {
            let (turns, spent) = line.split_once(' ')?;
            turns.parse().ok().zip(spent.parse().ok())
        };
        self.lines.wait(self.lines.count(), patience(), numbers).unwrap().1
    }

    /// Nanoseconds of a turn, the median of the next lines.
    pub(crate) fn turn(&self) -> f64 {
        let mut before: Option<(u64, u64)> = None;
        let mut turns = Vec::new();
        let found = self.lines.wait(self.lines.count(), patience(), |line| {
            let (turns_now, spent) = line.split_once(' ')?;
            let now: (u64, u64) = (turns_now.parse().ok()?, spent.parse().ok()?);
            let before = before.replace(now)?;
            if now.0 > before.0 {
                turns.push((now.1 - before.1) as f64 / (now.0 - before.0) as f64);
            }
            (turns.len() == LINES).then_some(())
        });
        found.unwrap();
        turns.sort_by(f64::total_cmp);
        turns[LINES / 2]
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Calls of the function that each turn calls once, and the cost of the probes, between two
/// reports.
fn shown(reports: &[Report], once: &str) -> f64 {
    let (first, rest) = reports.split_first().unwrap();
    let (mut cost, mut before) = (0.0, first.elapsed_ns);
    for report in rest {
        let percent = report.value["cost_percent"].as_f64().unwrap();
        cost += percent / 100.0 * (report.elapsed_ns - before) as f64;
        before = report.elapsed_ns;
    }
    let calls = |report: &Report| report.function(once).entries;
    cost / (calls(rest.last().unwrap()) - calls(first)) as f64
}

struct Case {
    shape: &'static str,
    threads: u32,
    /// Number of children, forked and covered once it is measured.
    children: u32,
    options: &'static [&'static str],
    /// The first function is called once a turn.
    functions: &'static [&'static str],
}

const PLAIN: Case = Case { shape: "returns", threads: 1, children: 0, options: &[], functions: &["returns"] };

impl Case {
    /// Ratio of reported to actual cost, with the last report.
    fn ratio(&self) -> (f64, Report) {
        let (ratio, _, report) = self.of(Caller::start(self.shape, self.threads, self.children));
        (ratio, report)
    }

    /// The same of a caller, with the time that the probes add to a turn in nanoseconds.
    fn of(&self, mut caller: Caller) -> (f64, f64, Report) {
        let without = caller.turn();
        let pid = caller.pid().to_string();
        // With a bound, the cost of a hit is known before the first hit.
        let fixed = ["-p", &pid, "--interval", "0.3", "--max-cost", "1000"];
        let session = Session::watch(&[&fixed[..], self.options, self.functions].concat());
        if self.children > 0 {
            caller.next();
            session.wait_for(|report| report.processes.len() > self.children as usize);
        }
        let from = session
            .wait_for(|report| report.value["cost_percent"].as_f64() > Some(0.0))
            .seq
            .max(session.reports().len() as u64);
        let with = caller.turn();
        let to = session.wait_for(|report| report.seq >= from + 3).seq;
        let reports = session.reports();
        let once = self.functions[0].rsplit(':').next().unwrap_or_default();
        let ratio = shown(&reports[from as usize..=to as usize], once) / (with - without);
        (ratio, with - without, session.interrupt())
    }

    #[track_caller]
    fn is_shown_as_it_is(&self) -> Report {
        need_root();
        let _turn = Turn::alone();
        let mut seen = Vec::new();
        for _ in 0..ATTEMPTS {
            let (ratio, report) = self.ratio();
            if RIGHT.contains(&ratio) {
                return report;
            }
            seen.push(ratio);
        }
        panic!("{} by {:?}: what is shown is {seen:.2?} of what is paid", self.shape, self.options);
    }
}

#[test]
fn exits_that_are_not_taken_cost_what_is_shown() {
    let report = Case { shape: "looks_out", functions: &["looks_out"], ..PLAIN }.is_shown_as_it_is();
    assert!(report.function("looks_out").entries > 0, "{report:#?}");
}

#[test]
fn exits_of_other_functions_cost_what_is_shown_and_are_no_ends_of_earlier_calls() {
    let report = Case { shape: "shares", functions: &["outer"], ..PLAIN }.is_shown_as_it_is();
    let outer = report.function("outer");
    assert!(outer.entries > 0 && outer.unmatched_exits == 0, "{outer:#?}");
}

#[test]
fn calls_that_never_return_cost_what_is_shown() {
    Case { shape: "leaves", functions: &["leaves"], ..PLAIN }.is_shown_as_it_is();
}

#[test]
fn one_trap_for_two_functions_is_paid_once() {
    let case = Case { shape: "shares", functions: &["outer", "inner"], ..PLAIN };
    case.is_shown_as_it_is();
    // On this route, one program serves both.
    Case { options: &["--route", "tracefs"], ..case }.is_shown_as_it_is();
}

/// Each further process has links on the same instructions, which every call of any process walks.
#[test]
fn covered_children_add_to_the_cost_and_to_the_bias_that_are_shown() {
    let case = Case { shape: "jumps_on", children: 40, functions: &["jumps_on"], ..PLAIN };
    let figure = |report: &Report, name: &str| report.value["functions"][0][name].as_f64().unwrap();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let report = case.is_shown_as_it_is();
        let alone = Case { children: 0, ..case }.is_shown_as_it_is();
        let bias = figure(&report, "bias_ns");
        // It does nothing, so the measured time is all bias.
        let (more, all) = (bias / figure(&alone, "bias_ns"), bias / figure(&report, "p50_ns"));
        if more > 1.5 && (0.6..1.7).contains(&all) {
            return;
        }
        seen.push((more, all));
    }
    panic!("of that without children, and of what is measured: {seen:.2?}");
}

/// Finding the function of a call takes a third of the probes' time.
#[test]
fn functions_of_python_cost_what_is_shown_and_what_calls_have_of_it_inside() {
    let functions = &["py:nests.py:handle", "py:nests.py:small"];
    let case = Case { shape: "nests.py", functions, ..PLAIN };
    need_root();
    let _turn = Turn::alone();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut command = under("3.14", &script("nests.py"));
        command.env("PYTHONPERFSUPPORT", "1");
        let (cost, added, report) = case.of(Caller::of(command));
        let handle = report.function("handle");
        let inside = handle.probes_inside_ns.unwrap() as f64 / handle.count as f64 / added;
        if RIGHT.contains(&cost) && RIGHT.contains(&inside) {
            return;
        }
        seen.push((cost, inside));
    }
    panic!("what is shown as cost, and as inside of a call, is {seen:.2?} of what is paid");
}

#[test]
fn all_kinds_of_sites_by_all_routes_cost_what_is_shown() {
    let routes: [&[&str]; 4] =
        [&[], &["--route", "tracefs"], &["--route", "single"], &["--returns", "uretprobe"]];
    let functions: [(&str, &[&str]); 4] = [
        ("returns", &["returns"]),
        ("steps", &["steps"]),
        ("jumps_on", &["jumps_on"]),
        ("looks_out", &["looks_out"]),
    ];
    let all = routes.iter().flat_map(|options| functions.map(|function| (*options, function)));
    for (at, (options, (shape, functions))) in all.enumerate() {
        for threads in [1, 2] {
            // A few of them; all of them run in the long run.
            if soaking() || at % 5 == 2 && threads == 2 {
                Case { shape, threads, options, functions, ..PLAIN }.is_shown_as_it_is();
            }
        }
    }
    if soaking() {
        for children in [50, 200, 500] {
            Case { shape: "jumps_on", children, functions: &["jumps_on"], ..PLAIN }.is_shown_as_it_is();
        }
    }
}

/// The whole machine pays for tracepoint programs: there are four, however much is measured.
#[test]
fn signals_and_forks_cost_the_machine_the_same_with_one_target_and_with_many() {
    let _turn = Turn::shared();
    let place = Place::new();
    let names = ["one", "two", "three"];
    let targets: Vec<_> =
        names.iter().map(|name| start(&place.program("plain", name), &["--calls", "0"])).collect();
    let sections: Vec<_> =
        names.iter().map(|name| measure(name, &exe(&place.path().join(name)), &["add"], "")).collect();
    place.configure("", &sections);
    let service = place.start();
    for target in &targets {
        service.wait_after(0, |told| told.is(target.pid(), "measured"));
    }
    let links = std::fs::read_dir(format!("/proc/{}/fdinfo", service.pid())).unwrap();
    let links = links.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok());
    let of_tracepoints = links.filter(|info| info.contains("link_type:\traw_tracepoint")).count();
    assert_eq!(of_tracepoints, 4);
}
