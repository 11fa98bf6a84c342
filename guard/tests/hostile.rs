//! A collector under an attacker: it has no rights, speaks the protocol, and makes requests that
//! edgelat was not started for. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/probed.rs"]
mod probed;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{OPTIONS, begin, call, guard, open_executable, open_target};
use edgelat_bpf::layout::{
    SITE_ABOVE_SHIFT, SITE_ANY_CPU, SITE_CONDITION_SHIFT, SITE_CONDITIONAL, SITE_GOROUTINE, SITE_MAYBE,
    SITE_PROCESS_SHIFT, SITE_PYTHON, SITE_RETURN, SITE_STEPPED, SITE_TWIN, SITE_UNWOUND,
};
use edgelat_guard::placement::TargetsOn;
use edgelat_guard::protocol::{
    Event, ImageId, List, OnSignal, PlanOptions, PlanSite, Reply, Request, Returns, Route, Word,
};
use edgelat_guard::{GuardError, Line};
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use probed::{Target, edgelat_test_probed, edgelat_test_probed_return, site};

// An instruction of several bytes, which hides others from its second byte on: nop; ret.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl edgelat_test_long",
    ".text",
    "edgelat_test_long:",
    ".byte 0xb8, 0x90, 0xc3, 0xc3, 0x90",
    "ret",
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(".globl edgelat_test_long", ".text", "edgelat_test_long:", "nop", "ret");

unsafe extern "C" {
    fn edgelat_test_long();
}

/// Names the attack and the processes, for the process that is guard and collector.
const ATTACK: &str = "EDGELAT_TEST_ATTACK";

type Attack = fn(&mut Line, asked: i32, other: i32);

const ATTACKS: &[(&str, Attack)] = &[
    ("other process", other_process),
    ("limits", limits),
    ("floods", floods),
    ("sites", sites),
    ("marks", marks),
    ("settled", settled),
    ("inside", inside),
    ("cost", cost),
];

/// Not a test: the target, which the tests start.
#[test]
fn the_target() {
    probed::target();
}

/// Not a test: guard and collector, which the tests start.
#[test]
#[ignore = "started by the others"]
fn the_process_that_is_taken_over() {
    let Ok(words) = std::env::var(ATTACK) else { return };
    let words: Vec<&str> = words.split(',').collect();
    let [name, asked, other] = words[..] else { panic!("{words:?}") };
    let (asked, other) = (asked.parse().unwrap(), other.parse().unwrap());
    let attack = ATTACKS.iter().find(|(known, _)| *known == name).unwrap().1;
    // The guard wants to be the only thread of its process.
    // SAFETY: this program's other thread waits for this one and holds no lock.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let guard = guard(asked, &options(name)).confirmed_by(edgelat_sites::boundary::confirm);
            let status = edgelat_guard::split(guard, |line| {
                let tried = std::panic::catch_unwind(AssertUnwindSafe(move || {
                    attack(&mut line.unwrap(), asked, other);
                }));
                u8::from(tried.is_err())
            });
            // SAFETY: the process ends.
            unsafe { libc::_exit(status.map_or(2, i32::from)) };
        }
        ForkResult::Parent { child } => {
            assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 0)));
        }
    }
}

fn options(attack: &str) -> PlanOptions {
    match attack {
        "cost" => PlanOptions { max_cost_ppm: Some(50), ..OPTIONS },
        _ => OPTIONS,
    }
}

/// Text of a process, as it is in its memory.
fn text_of(pid: i32) -> Vec<u8> {
    let own = std::env::current_exe().unwrap();
    let begun = Instant::now();
    let line = loop {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let of_own = |line: &&str| line.contains(" r-xp ") && line.ends_with(own.to_str().unwrap());
        // Until the child has executed this program it has no mappings, or its parent's.
        match maps.lines().find(of_own) {
            Some(line) => break line.to_owned(),
            None => assert!(begun.elapsed() < Duration::from_secs(30), "the target does not begin"),
        }
    };
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let hex = |digits| u64::from_str_radix(digits, 16).unwrap();
    let mut text = vec![0; (hex(end) - hex(start)) as usize];
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    memory.seek(SeekFrom::Start(hex(start))).unwrap();
    memory.read_exact(&mut text).unwrap();
    text
}

/// Starts an attack against two processes, one of them edgelat's target; neither may be changed by
/// it.
fn attacked(name: &str) {
    let (asked, other) = (Target::start(), Target::start());
    let before = [&asked, &other].map(|target| text_of(target.0.id() as i32));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_taken_over", "--ignored", "--nocapture"])
        .env(ATTACK, format!("{name},{},{}", asked.0.id(), other.0.id()))
        .status()
        .unwrap();
    let after = [&asked, &other].map(|target| text_of(target.0.id() as i32));
    assert!(status.success(), "{name}");
    assert!(before == after, "the processes are what they were");
    for mut target in [asked, other] {
        drop(target.0.stdin.take());
        assert!(target.0.wait().unwrap().success(), "a target ends well");
    }
}

fn refused(line: &mut Line, request: Request) -> GuardError {
    match line.call(&request) {
        Err(error) => error,
        Ok((reply, _)) => panic!("{request:?} was answered with {reply:?}"),
    }
}

#[test]
fn no_process_but_the_one_that_was_asked_for_is_opened_read_or_found() {
    attacked("other process");
}

fn other_process(line: &mut Line, asked: i32, other: i32) {
    // The other process, the guard, the first process, and the parent of all.
    for pid in [other, nix::unistd::getppid().as_raw(), 1] {
        for allow_ptrace in [false, true] {
            refused(line, Request::OpenTarget { pid, allow_ptrace });
        }
    }
    for word in [Word::Executable, Word::Command, Word::ControlGroup] {
        let mut request = Request::FindProcesses { word, begins: heapless::String::new(), whole: false };
        loop {
            let Reply::Processes { processes, more } = call(line, request) else { panic!() };
            assert!(processes.is_empty(), "{processes:?}");
            if !more {
                break;
            }
            request = Request::FindMore;
        }
    }
    let target = open_target(line, asked);
    // Nothing of Python is to be measured.
    let list = List { image: ImageId(0), begin: 0, first: 0, next: 0, word: 0 };
    for pid in [asked, other] {
        let error = refused(line, Request::ReadList { target, pid, list });
        assert!(error.to_string().contains("Python"), "{error}");
    }
    refused(line, Request::OpenConfig);
}

#[test]
fn no_bound_that_was_set_is_lifted() {
    attacked("limits");
}

fn limits(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    for options in [
        PlanOptions { frames: OPTIONS.frames + 1, ..OPTIONS },
        PlanOptions { max_map_bytes: OPTIONS.max_map_bytes + 1, ..OPTIONS },
        PlanOptions { functions: u32::MAX, ..OPTIONS },
        PlanOptions { returns: Returns::Uretprobe, ..OPTIONS },
        PlanOptions { route: Some(Route::Single), ..OPTIONS },
        PlanOptions { on_signal: OnSignal::Fatal, ..OPTIONS },
        PlanOptions { targets_on: TargetsOn::Isolated, ..OPTIONS },
        PlanOptions { max_cost_ppm: Some(u64::MAX), ..OPTIONS },
        PlanOptions { sample: true, ..OPTIONS },
        PlanOptions { pin: true, ..OPTIONS },
    ] {
        let error = refused(line, Request::BeginPlan { target, options });
        assert!(matches!(error, GuardError::BadPlan { .. }), "{options:?}: {error}");
    }
    // As many functions as any plan may have, in the memory of this one.
    let plan = begin(line, target, PlanOptions { functions: 60_000, ..OPTIONS });
    add(line, target, plan, &probed_sites);
    assert!(matches!(refused(line, Request::Load { plan }), GuardError::TooMuchMemory { .. }));
}

type Found = fn(&fs::File) -> Vec<PlanSite>;

fn probed_sites(file: &fs::File) -> Vec<PlanSite> {
    let addresses =
        [edgelat_test_probed as *const () as usize, edgelat_test_probed_return as *const () as usize];
    vec![site(file, addresses[0], false), site(file, addresses[1], true)]
}

fn add(
    line: &mut Line,
    target: edgelat_guard::protocol::TargetId,
    plan: edgelat_guard::protocol::PlanId,
    sites: &dyn Fn(&fs::File) -> Vec<PlanSite>,
) {
    let (image, file) = open_executable(line, target, |_| true);
    let sites = heapless::Vec::from_slice(&sites(&file)).unwrap();
    call(line, Request::PlanSites { plan, image, sites });
}

#[test]
fn what_is_open_at_once_is_bounded() {
    attacked("floods");
}

fn floods(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    let plan = begin(line, target, OPTIONS);
    let begin = Request::BeginPlan { target, options: OPTIONS };
    refused(line, begin.clone());
    // Nor under another number.
    let again = open_target(line, asked);
    refused(line, Request::BeginPlan { target: again, options: OPTIONS });
    let mut opened = 2;
    while line.call(&Request::OpenTarget { pid: asked, allow_ptrace: false }).is_ok() {
        opened += 1;
        assert!(opened < 100, "a process is opened as often as one likes");
    }
    open_executable(line, target, |_| true);
    let mut open = || {
        let Reply::Image { image } = call(line, Request::OpenImage { target, index: 0 }) else { panic!() };
        image
    };
    let image = open();
    assert!((0..1000).all(|_| open() == image), "an image is opened as often as one likes");
    // A number given back can be issued again.
    call(line, Request::Detach { plan });
    call(line, begin);
    call(line, Request::ForgetTarget { target: again });
    open_target(line, asked);
}

#[test]
fn a_site_is_probed_once() {
    attacked("sites");
}

fn sites(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    let mut check = |functions: u32, sites: &dyn Fn(&fs::File) -> Vec<PlanSite>| {
        let plan = begin(line, target, PlanOptions { functions, ..OPTIONS });
        add(line, target, plan, sites);
        let error = refused(line, Request::Load { plan });
        assert!(matches!(error, GuardError::BadPlan { .. }), "{error}");
        call(line, Request::Detach { plan });
    };
    let twice: Found = |file| probed_sites(file).repeat(2);
    check(1, &twice);
    let by_all: Found = |file| {
        let with =
            |function| probed_sites(file).into_iter().map(move |site| PlanSite { cookie: function, ..site });
        (0..100).flat_map(with).collect()
    };
    check(100, &by_all);
}

#[test]
fn no_byte_inside_an_instruction_is_probed() {
    attacked("inside");
}

fn inside(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    let plan = begin(line, target, OPTIONS);
    let (image, file) = open_executable(line, target, |_| true);
    let begins = edgelat_test_long as *const () as usize;
    let mut add = |sites: &[PlanSite]| {
        line.call(&Request::PlanSites { plan, image, sites: heapless::Vec::from_slice(sites).unwrap() })
    };
    // All that is stated of them is true, but no instruction begins there.
    for place in [begins + 1, begins + 2] {
        for exit in [false, true] {
            let error = add(&[site(&file, place, exit)]).expect_err("a byte inside an instruction");
            assert!(matches!(error, GuardError::BadPlan { .. }), "{error}");
        }
    }
    // A probe that is dearer than stated.
    let single_stepped = PlanSite { stepped: false, ..site(&file, begins, false) };
    assert!(matches!(add(&[single_stepped]), Err(GuardError::BadPlan { .. })));
    // It continues after a refusal.
    add(&[PlanSite { stepped: true, ..site(&file, begins, false) }]).unwrap();
}

#[test]
fn what_marks_say_of_a_site_changes_figures_and_no_process() {
    attacked("marks");
}

fn marks(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    let marked = |file: &fs::File, marks: u64| {
        // An exception leaves by no entry.
        let of = |site: &PlanSite| if site.exit || marks & SITE_UNWOUND == 0 { marks } else { 0 };
        let with = |site: PlanSite| PlanSite { cookie: of(&site), ..site };
        probed_sites(file).into_iter().map(with).collect::<Vec<PlanSite>>()
    };
    let conditional = |condition: u64| SITE_CONDITIONAL | condition << SITE_CONDITION_SHIFT;
    let unwound = SITE_UNWOUND | 77 << SITE_ABOVE_SHIFT;
    let moved = 5 << SITE_ABOVE_SHIFT;
    for marks in [conditional(4), conditional(5), SITE_MAYBE, SITE_GOROUTINE, SITE_PYTHON, unwound, moved] {
        let plan = begin(line, target, OPTIONS);
        add(line, target, plan, &|file| marked(file, marks));
        for request in [Request::Load { plan }, Request::Attach { plan }, Request::Arm { plan }] {
            call(line, request);
        }
        // It calls the function a thousand times a second.
        std::thread::sleep(Duration::from_millis(100));
        call(line, Request::Detach { plan });
    }
    // The guard does a return only at a return: neither at the entry, nor under a mark of its own.
    let plan = begin(line, target, OPTIONS);
    let (image, file) = open_executable(line, target, |_| true);
    for marks in [SITE_RETURN, SITE_TWIN, SITE_STEPPED, SITE_ANY_CPU, 1 << SITE_PROCESS_SHIFT, SITE_UNWOUND] {
        let entry = PlanSite { cookie: marks, ..marked(&file, 0)[0] };
        let sites = heapless::Vec::from_slice(&[entry]).unwrap();
        let error = refused(line, Request::PlanSites { plan, image, sites });
        assert!(matches!(error, GuardError::BadPlan { .. }), "{marks:#x}: {error}");
    }
}

#[test]
fn nothing_new_is_attached_once_the_guard_has_settled() {
    attacked("settled");
}

fn settled(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    call(line, Request::Settle);
    refused(line, Request::BeginPlan { target, options: OPTIONS });
}

#[test]
fn a_bound_for_the_cost_holds_although_nobody_asks_what_a_call_costs() {
    attacked("cost");
}

fn cost(line: &mut Line, asked: i32, _other: i32) {
    let target = open_target(line, asked);
    let plan = begin(line, target, options("cost"));
    add(line, target, plan, &probed_sites);
    for request in [Request::Load { plan }, Request::Attach { plan }, Request::Arm { plan }] {
        call(line, request);
    }
    let begun = Instant::now();
    loop {
        let Reply::Events { events, .. } = call(line, Request::Events) else { panic!() };
        if events.iter().any(|told| matches!(told.event, Event::OverBudget { .. })) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the probes stay on");
        std::thread::sleep(Duration::from_millis(50));
    }
}
