//! Programs are replaced by other builds while they are measured. Each build has its own figures,
//! and processes of the old build keep theirs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_probed};
use edgelat_tests::service::{Told, measure};
use edgelat_tests::session::run;
use edgelat_tests::{Oracle, Place, Service, Target, amount, target};

const FUNCTIONS: [&str; 3] = ["main.add", "main.work", "main.hold"];

/// A build of the program, and its build-id.
struct Build {
    file: PathBuf,
    id: String,
}

impl Build {
    fn of(name: &str) -> Self {
        let file = target(name);
        let mut command = Command::new("readelf");
        command.arg("--notes").arg(&file);
        let notes = run(command).stdout;
        let value = |name: &str| notes.lines().find_map(|line| line.trim().strip_prefix(name));
        let id = value("Build ID: ").map(str::to_owned);
        // Go wrote no such note before 1.24; its own note has hashes in letters, the last one of
        // the linked output.
        let id = id.or_else(|| {
            let bytes: Vec<&str> = value("description data: ")?.split_whitespace().collect();
            Some(bytes.rsplit(|byte| *byte == "2f").next()?.concat())
        });
        Self { id: id.unwrap_or_else(|| panic!("no build-id: {notes}")), file }
    }

    /// Another file takes the name; processes keep the executed one.
    fn rename_to(&self, program: &Path) {
        let new = program.with_extension("new");
        std::fs::copy(&self.file, &new).unwrap();
        std::fs::rename(&new, program).unwrap();
    }

    /// The name is removed and recreated, as some package managers do it.
    fn unlink_and_write(&self, program: &Path) {
        std::fs::remove_file(program).unwrap();
        std::fs::copy(&self.file, program).unwrap();
    }

    /// The same file gets other bytes, while no process may execute it.
    fn write_over(&self, program: &Path) {
        std::fs::copy(&self.file, program).unwrap();
    }
}

/// Total counts of one build.
#[derive(Debug, Default)]
struct Sum {
    calls: u64,
    inside: u64,
    before: u64,
}

/// Expected reports about a process.
#[derive(Clone, Copy)]
struct Expected<'a> {
    build: &'a Build,
    /// Measured from its first call on.
    whole: bool,
}

/// A running program.
struct Running<'a> {
    target: Target,
    expected: Expected<'a>,
}

/// Environment of the test.
struct Scene<'a> {
    place: &'a Place,
    service: &'a Service,
    sums: BTreeMap<String, Sum>,
}

impl Expected<'_> {
    fn is(&self, told: &Told) -> bool {
        told.report
            .as_ref()
            .is_some_and(|report| report.value["target"]["build_id"] == self.build.id.as_str())
    }

    /// The last report equals the program's own figures.
    fn agrees(&self, told: &Told, oracle: &Oracle, sum: &mut Sum) {
        assert!(self.is(told), "not of build {}: {told:#?}", self.build.id);
        let report = told.report();
        report.assert_identity();
        oracle.assert_right();
        assert_eq!(report.functions.len(), FUNCTIONS.len(), "{report:#?}");
        for function in &report.functions {
            let truth = oracle.function(&function.name);
            let inside = function.lost("ended_inside");
            assert_eq!(function.in_flight, 0, "calls of an image that is gone: {function:#?}");
            assert_eq!(function.entries, function.exits + inside, "{function:#?}");
            if self.whole {
                assert_eq!(function.entries, truth.calls, "{truth:#?}, {function:#?}");
                assert_eq!(function.exits, truth.completed, "{truth:#?}, {function:#?}");
                assert_eq!(function.unmatched_exits, 0, "{function:#?}");
            } else {
                assert!(function.entries <= truth.calls, "{truth:#?}, {function:#?}");
                assert!(function.exits <= truth.completed, "{truth:#?}, {function:#?}");
            }
            sum.calls += function.entries;
            sum.inside += inside;
            sum.before += truth.calls - function.entries;
        }
    }
}

impl<'a> Scene<'a> {
    fn program(&self) -> PathBuf {
        self.place.path().join("service")
    }

    /// Starts the present build and lets it work: once it is covered, or at once.
    fn start(&self, build: &'a Build, at_once: bool) -> Running<'a> {
        let from = self.service.count();
        let mut command = Command::new(self.program());
        command.args(["--calls", "0", "--threads", "2"]);
        let target = Target::start_command(command);
        let mut running = Running { target, expected: Expected { build, whole: !at_once } };
        self.work(&mut running, from);
        running
    }

    fn work(&self, running: &mut Running<'_>, from: usize) {
        let Running { target, expected } = running;
        if !expected.whole {
            target.go();
        }
        self.service.wait_after(from, |told| told.is(target.pid(), "measured") && expected.is(told));
        if expected.whole {
            target.go();
        }
        self.counts_on(running);
    }

    /// Checks that it is measured now, as its own build.
    fn counts_on(&self, Running { target, expected }: &Running<'_>) {
        let measured = |told: &Told| told.is(target.pid(), "measured") && expected.is(told);
        let from = self.service.count();
        let before = self.service.wait_after(from, |told| measured(told) && told.entries() > 0).entries();
        self.service.wait_after(from, |told| measured(told) && told.entries() > before);
    }

    fn ended(&mut self, pid: i32, why: &str, from: usize, expected: Expected<'_>, oracle: &Oracle) {
        let told = self.service.wait_after(from, |told| told.is(pid, "ended"));
        assert_eq!(told.report().ended.as_deref(), Some(why), "{told:#?}");
        expected.agrees(&told, oracle, self.sums.entry(expected.build.id.clone()).or_default());
    }

    fn end(&mut self, Running { target, expected }: Running<'_>) {
        let (from, pid) = (self.service.count(), target.pid());
        let oracle = target.stop();
        self.ended(pid, "target", from, expected, &oracle);
    }

    /// One upgrade, of one of four kinds.
    fn upgrade(&mut self, mut old: Running<'a>, next: &'a Build, turn: u64) -> Running<'a> {
        let program = self.program();
        let at_once = turn % 8 >= 4;
        match turn % 4 {
            // The new process begins before the old one ends, which is still measured as its own
            // build.
            0 => {
                next.rename_to(&program);
                self.counts_on(&old);
                let new = self.start(next, at_once);
                self.counts_on(&old);
                self.end(old);
                new
            }
            // The process executes the new build: the same pid, and no open call returns.
            1 => {
                next.rename_to(&program);
                let oracle = old.target.rest();
                let (from, pid) = (self.service.count(), old.target.pid());
                old.target.say("exec");
                self.ended(pid, "replaced", from, old.expected, &oracle);
                assert_eq!(old.target.wait_for("ready").pid, pid);
                old.expected = Expected { build: next, whole: !at_once };
                self.work(&mut old, from);
                old
            }
            // The program is not running while its file is replaced.
            2 => {
                self.end(old);
                next.unlink_and_write(&program);
                self.start(next, at_once)
            }
            _ => {
                self.end(old);
                next.write_over(&program);
                self.start(next, at_once)
            }
        }
    }
}

/// A busy program is upgraded repeatedly: its process ends and another begins, or it executes the
/// new build itself; meanwhile the file was renamed, written anew, or overwritten.
#[test]
fn every_build_of_a_busy_go_program_is_measured_under_its_own_build_id() {
    let _turn = Turn::shared();
    let builds = ["go/calls-1.19-plain", "go/calls-1.27-shipped", "go/calls-1.19-pie"].map(Build::of);
    assert!(builds[0].id != builds[1].id && builds[0].id != builds[2].id);
    let place = Place::new();
    let program = place.path().join("service");
    builds[0].write_over(&program);
    place.configure("", &[measure("it", &format!("exe = \"{}\"", program.display()), &FUNCTIONS, "")]);
    let service = place.start();
    let mut scene = Scene { place: &place, service: &service, sums: BTreeMap::new() };
    let mut running = scene.start(&builds[0], false);
    let upgrades = amount(4, 100);
    for turn in 0..upgrades {
        running = scene.upgrade(running, &builds[(turn as usize + 1) % builds.len()], turn);
        assert_text_probed(running.target.pid());
    }
    scene.end(running);
    let sums = scene.sums;
    let lines = service.end();
    let ended: Vec<&Told> = lines.iter().filter(|told| told.state == "ended").collect();
    assert_eq!(ended.len() as u64, upgrades + 1, "each is measured once: {ended:#?}");
    for (id, sum) in &sums {
        let told = ended.iter().filter(|told| told.report().value["target"]["build_id"] == id.as_str());
        assert_eq!(told.map(|told| told.entries()).sum::<u64>(), sum.calls, "{id}");
    }
    let total = |of: fn(&Sum) -> u64| sums.values().map(of).sum::<u64>();
    println!(
        "figure: {upgrades} upgrades between {} builds of a busy Go program: {} calls counted as the program counts them, \
         {} of them inside when their image went, {} before coverage",
        sums.len(),
        total(|sum| sum.calls),
        total(|sum| sum.inside),
        total(|sum| sum.before)
    );
}
