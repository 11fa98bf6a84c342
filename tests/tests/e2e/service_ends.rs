//! However a process of a service ends, or its target: no probe remains, the target is unharmed,
//! and the next agent finds no remains.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use edgelat_tests::lines::Lines;
use edgelat_tests::machine::{Turn, assert_text_restored, eventually, state_of, trace_events_of};
use edgelat_tests::service::{Told, measure};
use edgelat_tests::{Place, Service, Target, amount, patience};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::service::{exe, start};

const FUNCTIONS: &[&str] = &["add", "work", "hold"];

/// A target at work, and a service that counts its calls.
fn measured(place: &Place) -> (Target, Service) {
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), FUNCTIONS, "")]);
    let mut target = start(&program, &["--calls", "0", "--threads", "2"]);
    let service = place.start();
    target.go();
    service.counts(target.pid());
    (target, service)
}

/// Starts the service again and checks that it measures.
fn measures_again(place: &Place, target: Target) {
    assert_text_restored(target.pid());
    let service = place.start();
    service.counts(target.pid());
    service.end();
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn a_collector_that_hangs_is_given_up() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (target, service) = measured(&place);
    let collector = service.collector().unwrap();
    kill(Pid::from_raw(collector), Signal::SIGSTOP).unwrap();
    let outcome = service.ended();
    outcome.refused(9, &["30 s"]);
    assert!(state_of(collector).is_none(), "it does not go on either");
    measures_again(&place, target);
}

#[test]
fn a_guard_without_its_collector_ends_the_service() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (target, service) = measured(&place);
    kill(Pid::from_raw(service.collector().unwrap()), Signal::SIGKILL).unwrap();
    service.ended().refused(9, &["the collector was ended by SIGKILL", "probes are removed"]);
    measures_again(&place, target);
}

#[test]
fn a_collector_without_its_guard_tells_the_last_figures() {
    // Orphans become children of this process for a moment.
    let _turn = Turn::alone();
    let place = Place::new();
    let (target, service) = measured(&place);
    let (guard, collector) = (service.pid(), service.collector().unwrap());
    set_child_subreaper(true).unwrap();
    kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    let mut status = None;
    let ended = eventually(patience(), || {
        status = waitpid(Pid::from_raw(collector), Some(nix::sys::wait::WaitPidFlag::WNOHANG)).ok();
        !matches!(status, None | Some(WaitStatus::StillAlive))
    });
    set_child_subreaper(false).unwrap();
    assert!(ended, "the collector runs on");
    assert_eq!(status, Some(WaitStatus::Exited(Pid::from_raw(collector), 9)));
    let outcome = service.ended();
    let lines: Vec<Told> = outcome.stdout.lines().filter_map(Told::parse).collect();
    let last = lines.last().unwrap();
    assert!(last.is(target.pid(), "ended") && last.entries() > 0, "{last:#?}");
    assert_eq!(last.report().ended.as_deref(), Some("guard"));
    assert!(outcome.stderr.contains("the guard has ended"), "{}", outcome.stderr);
    measures_again(&place, target);
}

/// A mount namespace with its own BPF file system, in which no other test sweeps.
struct Mounts {
    holder: Child,
    _stdin: ChildStdin,
}

impl Mounts {
    fn new() -> Self {
        let script = "mount -t bpf bpf /sys/fs/bpf && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(holder.stdout.take().unwrap());
        let ready = lines.wait(0, patience(), |line| (line == "ready").then_some(()));
        assert!(ready.is_some(), "no BPF file system can be mounted");
        Self { _stdin: holder.stdin.take().unwrap(), holder }
    }

    /// The command of a service there.
    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.arg(edgelat_tests::session::binary());
        place.arguments(&mut command);
        command
    }

    fn folder(&self) -> PathBuf {
        format!("/proc/{}/root/sys/fs/bpf", self.holder.id()).into()
    }

    fn pins(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("vnf_")).collect()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

#[test]
fn pinned_maps_are_there_while_their_target_is_measured_and_no_longer() {
    let _turn = Turn::shared();
    let (place, mounts) = (Place::new(), Mounts::new());
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), FUNCTIONS, "pin = true\n")]);
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    let service = Service::start(mounts.command(&place));
    target.go();
    service.counts(pid);
    let name = format!("vnf_{pid}");
    assert_eq!(mounts.pins(), [&*name]);
    assert!(mounts.folder().join(&name).join("rows").exists());
    // Another tool reads the same figures, if the machine has it.
    let path = format!("/sys/fs/bpf/{name}/rows");
    let mut bpftool = Command::new("nsenter");
    bpftool.arg(format!("--mount=/proc/{}/ns/mnt", mounts.holder.id()));
    let dump = bpftool.args(["bpftool", "map", "dump", "pinned", &path]).output().unwrap();
    if dump.status.success() {
        let dump = String::from_utf8(dump.stdout).unwrap();
        assert!(dump.contains("\"entries\": ") && dump.contains("\"buckets\": ["), "{dump}");
    }
    // A target that ends removes its pin, a new one has its own.
    target.stop();
    service.ends(pid);
    assert!(eventually(patience(), || mounts.pins().is_empty()), "{:?}", mounts.pins());
    let second = start(&program, &["--calls", "0"]);
    let name = format!("vnf_{}", second.pid());
    service.says(&format!("measuring process {}", second.pid()));
    assert_eq!(mounts.pins(), [&*name]);
    // A killed service leaves the pin to the next one.
    service.kill();
    assert_eq!(mounts.pins(), [&*name]);
    second.kill();
    let service = Service::start(mounts.command(&place));
    assert!(mounts.pins().is_empty(), "{:?}", mounts.pins());
    service.end();
}

#[test]
fn a_supervisor_hears_of_the_start_of_the_life_and_of_the_end() {
    let _turn = Turn::shared();
    let place = Place::new();
    place.configure("", &[]);
    let path = place.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(patience())).unwrap();
    let hears = |wanted: &str| {
        let mut bytes = [0; 512];
        loop {
            let length = supervisor.recv(&mut bytes).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let told = std::str::from_utf8(&bytes[..length]).unwrap();
            if told.contains(wanted) {
                return;
            }
            assert!(["WATCHDOG=1", "STATUS="].iter().any(|usual| told.starts_with(usual)), "{told}");
        }
    };
    let mut command = place.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "500000");
    let service = Service::begin(command);
    hears("READY=1");
    hears("STATUS=0 processes measured");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    service.signal(Signal::SIGTERM);
    hears("STOPPING=1");
    assert!(service.ended().status.success());
}

/// Numbers that are equal in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Kills one process, if there is one.
fn end_now(pid: Option<i32>) {
    _ = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
}

fn gone(pid: i32) -> bool {
    eventually(patience(), || state_of(pid).is_none_or(|state| state == 'Z'))
}

/// Kills at any time: all phases of the start, of the steady state and of a target's end occur.
#[test]
fn kill_9_at_any_moment_leaves_no_probe_and_no_pin_and_harms_nobody() {
    let _turn = Turn::shared();
    let (place, mounts) = (Place::new(), Mounts::new());
    let program = place.program("plain", "plain");
    let working = || {
        let mut target = start(&program, &["--calls", "0", "--threads", "2"]);
        target.go();
        target
    };
    let (mut numbers, points) = (Numbers(1), amount(12, 200));
    let mut target = working();
    // A slow machine takes longer to arm, and the time after that must occur as well.
    place.configure("", &[measure("it", &exe(&program), FUNCTIONS, "pin = true\n")]);
    let begun = Instant::now();
    Service::start(mounts.command(&place)).end();
    let longest = (begun.elapsed().as_millis() as u64 * 3 / 2).max(2000);
    let mut killed = Vec::new();
    let (mut armed, mut of_guard, mut of_collector, mut of_both, mut of_target) = (0, 0, 0, 0, 0);
    for point in 0..points {
        let route = ["uprobe_multi", "tracefs", "single"][numbers.below(3) as usize];
        let keys = format!("pin = true\nroute = \"{route}\"\n");
        place.configure("", &[measure("it", &exe(&program), FUNCTIONS, &keys)]);
        let service = Service::begin(mounts.command(&place));
        std::thread::sleep(Duration::from_millis(numbers.below(longest)));
        let (guard, collector) = (service.pid(), service.collector());
        armed += u64::from(service.times("measuring process") > 0);
        killed.push(guard);
        match point % 4 {
            0 => {
                of_guard += 1;
                end_now(Some(guard));
                service.ended();
            }
            1 if collector.is_some() => {
                of_collector += 1;
                end_now(collector);
                let status = service.ended().status;
                assert!(!status.success(), "{status}");
            }
            2 => {
                of_target += 1;
                std::mem::replace(&mut target, working()).kill();
                service.says("ready: ");
                service.end();
                // If it is killed soon after its probes came, its build would be left alone for a
                // while.
                assert!(place.edgelat(&["quarantine", "clear"]).status.success());
            }
            _ => {
                of_both += 1;
                end_now(collector);
                end_now(Some(guard));
                service.ended();
            }
        }
        assert!(collector.is_none_or(gone), "the collector of {guard} runs on");
        assert!(target.is_alive());
        assert_text_restored(target.pid());
        target.tell().assert_right();
        if point % 4 == 3 || point + 1 == points {
            let service = Service::start(mounts.command(&place));
            service.counts(target.pid());
            for pid in &killed {
                assert_eq!(trace_events_of(*pid), Vec::<String>::new(), "of the agent {pid} that was killed");
            }
            assert_eq!(mounts.pins(), [format!("vnf_{}", target.pid())]);
            service.end();
            assert!(mounts.pins().is_empty(), "{:?}", mounts.pins());
            killed.clear();
        }
    }
    assert!(!Path::new(&format!("/proc/{}", place.holder().unwrap())).exists());
    target.stop().assert_right();
    println!(
        "figure: {points} times killed at a random moment of the first {longest} ms, {armed} of them after arming: the guard \
         {of_guard} times, the collector {of_collector}, both {of_both}, the target {of_target}; no probe, no event, no pin \
         left, and the targets right"
    );
}
