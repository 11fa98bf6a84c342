//! A whole session with the guard by each route, which measures the calibration's empty functions.
//!
//! The target sleeps; its probes are on its start-up code, which never runs again. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use common::{OPTIONS, begin, call, guard, open_executable, open_target};
use edgelat_bpf::layout::{SITE_ABOVE_SHIFT, SITE_PLACE_SHIFT, SITE_PROCESS_SHIFT, SITE_RETURN};
use edgelat_guard::protocol::{
    Bias, ImageId, PlanId, PlanOptions, PlanSite, Reply, Request, Returns, Route, TargetId,
};
use edgelat_guard::{GuardError, Line};
use nix::sys::ptrace;
use nix::unistd::Pid;

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Another process that traces it, from here on until it is dropped.
fn debugger(sleeper: &Sleeper) -> Sleeper {
    let traced = Pid::from_raw(sleeper.pid());
    let mut command = Command::new("sleep");
    let seize = move || ptrace::seize(traced, ptrace::Options::empty()).map_err(std::io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and touches no lock and no
    // heap.
    unsafe { command.pre_exec(seize) };
    Sleeper(command.arg("60").spawn().unwrap())
}

fn open_sleep(line: &mut Line, target: TargetId) -> (ImageId, File) {
    open_executable(line, target, |image| !image.path.contains("routes"))
}

/// Start of the program: e_entry, which equals its file offset in Debian's coreutils.
fn sites(file: &File) -> [PlanSite; 2] {
    let mut entry = [0; 8];
    file.read_exact_at(&mut entry, 24).unwrap();
    let offset = u64::from_le_bytes(entry);
    let site = |offset: u64, exit: bool| {
        let mut code = [0; 4];
        file.read_exact_at(&mut code, offset).unwrap();
        PlanSite { offset, cookie: 0, exit, stepped: false, code, code_len: 4, before: 0 }
    };
    let entry = site(offset, false);
    // The next instruction: past endbr64, past `xor ebp, ebp` in its two encodings, past a word of aarch64.
    let length = match entry.code {
        [0xf3, 0x0f, 0x1e, 0xfa] => 4,
        [0x31, ..] => 2,
        [0x48, 0x31, ..] => 3,
        _ if cfg!(target_arch = "aarch64") => 4,
        other => panic!("a start that this test does not know: {other:x?}"),
    };
    [entry, site(offset + length, true)]
}

/// Opens the executable of a target.
fn opened(sleeper: &Sleeper, options: &PlanOptions) -> (Line, TargetId, ImageId, File) {
    let mut line = Line::new(guard(sleeper.pid(), options));
    let target = open_target(&mut line, sleeper.pid());
    let (image, file) = open_sleep(&mut line, target);
    (line, target, image, file)
}

/// Gives the guard a plan with its sites.
fn planned(sleeper: &Sleeper, options: PlanOptions) -> (Line, PlanId) {
    let (mut line, target, image, file) = opened(sleeper, &options);
    let plan = begin(&mut line, target, options);
    let mut sites = heapless::Vec::from_slice(&sites(&file)).unwrap();
    if options.returns == Returns::Uretprobe {
        sites.truncate(1);
    }
    call(&mut line, Request::PlanSites { plan, image, sites });
    (line, plan)
}

/// Runs a complete session; `None` if this kernel does not have the route.
fn session(route: Route, returns: Returns) -> Option<Bias> {
    let sleeper = Sleeper::start();
    let (mut line, plan) = planned(&sleeper, PlanOptions { route: Some(route), returns, ..OPTIONS });
    match line.call(&Request::Load { plan }) {
        Ok(_) => {}
        Err(GuardError::Route { .. }) => return None,
        Err(error) => panic!("{error}"),
    }
    let Reply::Calibrated { bias, .. } = call(&mut line, Request::Calibrate { plan }) else { panic!() };
    let Reply::Attached { sites, .. } = call(&mut line, Request::Attach { plan }) else { panic!() };
    assert_eq!(sites, if returns == Returns::Ret { 2 } else { 1 });
    call(&mut line, Request::Arm { plan });
    call(&mut line, Request::Disarm { plan });
    let Reply::Detached { .. } = call(&mut line, Request::Detach { plan }) else { panic!() };
    Some(bias)
}

fn measured(bias: Option<Bias>) -> Option<u64> {
    let bias = bias?;
    let ns = bias.emulated_emulated_ns.expect("the empty function was measured");
    assert!((10..1_000_000).contains(&ns), "{ns} ns for an empty function");
    Some(ns)
}

#[test]
fn a_session_by_uprobe_multi_measures() {
    // The kernel may lack this route; then the next ones must be there.
    measured(session(Route::UprobeMulti, Returns::Ret));
    measured(session(Route::UprobeMulti, Returns::Uretprobe));
}

#[test]
fn a_session_by_events_of_the_tracing_file_system_measures() {
    measured(session(Route::Tracefs, Returns::Ret)).expect("every kernel from the floor on has this route");
}

#[test]
fn a_session_by_single_events_measures() {
    measured(session(Route::Single, Returns::Ret)).expect("every kernel from the floor on has this route");
    measured(session(Route::Single, Returns::Uretprobe));
}

#[test]
fn without_a_wish_the_guard_finds_a_route() {
    let sleeper = Sleeper::start();
    let (mut line, plan) = planned(&sleeper, OPTIONS);
    assert!(matches!(call(&mut line, Request::Load { plan }), Reply::Loaded { .. }));
}

/// A nop of five bytes, which some kernels overwrite with a call: the first filler after a site.
fn nop(file: &File, behind: PlanSite) -> PlanSite {
    let mut text = [0; 4096];
    let length = file.read_at(&mut text, behind.offset).unwrap();
    let mut windows = text[..length].windows(5);
    let distance = windows.position(|bytes| bytes == [0x0f, 0x1f, 0x44, 0, 0]).expect("compilers align code");
    PlanSite { offset: behind.offset + distance as u64, code: [0x0f, 0x1f, 0x44, 0], ..behind }
}

#[test]
fn a_plan_is_not_believed() {
    let sleeper = Sleeper::start();
    let (mut line, target, image, file) = opened(&sleeper, &OPTIONS);
    let plan = begin(&mut line, target, OPTIONS);
    let [good, _] = sites(&file);
    let mut refused = |site: PlanSite| {
        let sites = heapless::Vec::from_slice(&[site]).unwrap();
        line.call(&Request::PlanSites { plan, image, sites }).expect_err("it must be refused")
    };
    // The ELF header is mapped, but not executable.
    assert!(matches!(refused(PlanSite { offset: 0, ..good }), GuardError::BadPlan { .. }));
    assert!(matches!(refused(PlanSite { offset: u64::MAX, ..good }), GuardError::BadPlan { .. }));
    assert!(matches!(refused(PlanSite { cookie: 1, ..good }), GuardError::BadPlan { .. }));
    let not_a_return = SITE_RETURN;
    assert!(matches!(
        refused(PlanSite { cookie: not_a_return, exit: true, ..good }),
        GuardError::BadPlan { .. }
    ));
    // The guard writes the bits at a return's place in the cookie and above it.
    for mark in
        [SITE_RETURN | 1 << SITE_PLACE_SHIFT, SITE_RETURN | 1 << SITE_ABOVE_SHIFT, 1 << SITE_PROCESS_SHIFT]
    {
        let error = refused(PlanSite { cookie: mark, exit: true, ..good });
        assert!(error.to_string().contains("the guard's own"), "{error}");
    }
    assert!(matches!(refused(PlanSite { code_len: 0, ..good }), GuardError::BadPlan { .. }));
    assert!(matches!(refused(PlanSite { code_len: 9, ..good }), GuardError::BadPlan { .. }));
    assert!(matches!(refused(PlanSite { code: [0xcc; 4], ..good }), GuardError::ImageChanged { .. }));
    if cfg!(target_arch = "x86_64") {
        assert!(matches!(refused(nop(&file, good)), GuardError::BadPlan { .. }));
    }
    let bytes = heapless::Vec::from_slice(&[1; 20]).unwrap();
    let wrong = line.call(&Request::PlanBuildId { plan, image, offset: 0, bytes }).unwrap_err();
    assert!(matches!(wrong, GuardError::ImageChanged { .. }));
}

#[test]
fn no_word_but_the_return_address_is_replaced() {
    let sleeper = Sleeper::start();
    let options = PlanOptions { returns: Returns::Uretprobe, ..OPTIONS };
    let (mut line, target, image, file) = opened(&sleeper, &options);
    let plan = begin(&mut line, target, options);
    let [good, _] = sites(&file);
    let moved = PlanSite { cookie: good.cookie | 3 << SITE_ABOVE_SHIFT, ..good };
    for (site, refused) in [(moved, true), (good, false)] {
        let sites = heapless::Vec::from_slice(&[site]).unwrap();
        let reply = line.call(&Request::PlanSites { plan, image, sites });
        assert_eq!(matches!(reply, Err(GuardError::BadPlan { .. })), refused, "{reply:?}");
    }
}

#[test]
fn numbers_that_were_not_issued_and_requests_out_of_order_are_refused() {
    let sleeper = Sleeper::start();
    let mut line = Line::new(guard(sleeper.pid(), &OPTIONS));
    let target = open_target(&mut line, sleeper.pid());
    let refused = |line: &mut Line, request| {
        let error = line.call(&request).expect_err("out of order");
        assert!(matches!(error, GuardError::Order { .. }), "{request:?}: {error}");
    };
    let plan = PlanId(999);
    for request in [
        Request::ListImages { target: TargetId(999), from: None },
        Request::BeginPlan { target: TargetId(999), options: OPTIONS },
        Request::Load { plan },
        Request::Attach { plan },
        Request::Arm { plan },
        Request::Detach { plan },
        Request::Calibrate { plan },
    ] {
        refused(&mut line, request);
    }
    let plan = begin(&mut line, target, OPTIONS);
    for request in [
        Request::Load { plan },
        Request::Attach { plan },
        Request::Arm { plan },
        Request::Calibrate { plan },
        Request::PlanSites { plan, image: ImageId(999), sites: heapless::Vec::new() },
    ] {
        refused(&mut line, request);
    }
}

#[test]
fn a_plan_that_needs_more_memory_than_allowed_names_the_figure() {
    let sleeper = Sleeper::start();
    let options = PlanOptions { functions: 60_000, max_map_bytes: 1 << 20, ..OPTIONS };
    let (mut line, plan) = planned(&sleeper, options);
    let error = line.call(&Request::Load { plan }).unwrap_err();
    assert!(
        matches!(error, GuardError::TooMuchMemory { functions: 60_000, bound: 1_048_576, .. }),
        "{error}"
    );
}

/// Attaches a loaded plan to a target that executes a file of its own, after `change_then`.
fn of_own_file(change_then: impl FnOnce(&std::path::Path)) -> Result<Reply, GuardError> {
    let folder = std::env::temp_dir().join(format!(
        "edgelat-own-file-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("sleep");
    // By a process of its own: a file open for writing here is inherited by every process that
    // another test starts at that moment, and a file open for writing is not executed (ETXTBSY).
    assert!(Command::new("cp").arg("/bin/sleep").arg(&path).status().unwrap().success());
    let sleeper = Sleeper(Command::new(&path).arg("60").spawn().unwrap());
    let (mut line, plan) = planned(&sleeper, OPTIONS);
    call(&mut line, Request::Load { plan });
    change_then(&path);
    let attached = line.call(&Request::Attach { plan }).map(|(reply, _)| reply);
    std::fs::remove_dir_all(&folder).unwrap();
    attached
}

#[test]
fn a_file_that_was_written_to_after_its_sites_were_checked_is_not_probed() {
    let written = |path: &std::path::Path| {
        // A writer may write elsewhere: only the time of writing shows the change.
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
        File::open(path).unwrap().set_modified(earlier).unwrap();
    };
    assert!(matches!(of_own_file(written), Err(GuardError::ImageChanged { .. })));
}

#[test]
fn a_file_that_only_lost_its_name_is_probed() {
    let renamed = |path: &std::path::Path| std::fs::remove_file(path).unwrap();
    let attached = of_own_file(renamed);
    assert!(matches!(attached, Ok(Reply::Attached { sites: 2, .. })), "{attached:?}");
}

/// A debugger may come between the look at a process and its probes.
#[test]
fn a_process_that_has_a_debugger_by_now_gets_no_probes() {
    let sleeper = Sleeper::start();
    let (mut line, plan) = planned(&sleeper, OPTIONS);
    call(&mut line, Request::Load { plan });
    let debugger = debugger(&sleeper);
    let refused = line.call(&Request::Attach { plan }).unwrap_err();
    assert_eq!(refused, GuardError::Traced { pid: sleeper.pid(), tracer: debugger.pid() });
    drop(debugger);
    assert!(matches!(call(&mut line, Request::Attach { plan }), Reply::Attached { .. }));
}
