//! Once everything is armed, reading needs no right: a thread that has given up all capabilities,
//! and for which every bpf() call fails, continues to read mapped rows and frames and gets reports
//! of forks. Needs root to begin with.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/probed.rs"]
mod probed;

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use common::{OPTIONS, begin, call, guard, open_executable, open_target};
use edgelat_bpf::{Frames, Rows};
use edgelat_guard::Line;
use edgelat_guard::protocol::{Event, PlanOptions, Reply, Request, Route};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use probed::{Target, edgelat_test_probed, edgelat_test_probed_return, site};

/// Not a test: the target, which the tests start.
#[test]
fn the_target() {
    probed::target();
}

/// Result of an empty bpf() call of this thread, which every kernel refuses in one way or another.
fn bpf_call() -> Errno {
    // SAFETY: no attributes are passed, so the kernel reads none.
    let result = unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) };
    Errno::result(result).expect_err("an empty bpf() call must fail")
}

/// Gives up every capability of this thread, and bpf() by a filter that answers with an error of its own.
fn give_up_rights() {
    const FORBIDDEN: Errno = Errno::EXDEV;
    assert_ne!(bpf_call(), FORBIDDEN);
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).unwrap();
    }
    assert!(!caps::has_cap(None, CapSet::Permitted, Capability::CAP_BPF).unwrap());
    let word = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // seccomp(2): the number of the call is the first word that the filter sees.
    let mut filter = [
        word(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..word(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_bpf as u32)
        },
        word(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | FORBIDDEN as u32),
        word(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs().unwrap();
    // SAFETY: the program and its instructions outlive the call, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(set).unwrap();
    assert_eq!(bpf_call(), FORBIDDEN);
}

/// Waits until `done` returns true.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn read_without_rights(route: Route) {
    let mut target = Target::start();
    let pid = target.0.id() as i32;
    let options = PlanOptions { route: Some(route), ..OPTIONS };
    let mut line = Line::new(guard(pid, &options));
    let id = open_target(&mut line, pid);
    let (image, file) = open_executable(&mut line, id, |image| image.path.contains("without_rights"));
    let plan = begin(&mut line, id, options);
    let sites = [
        site(&file, edgelat_test_probed as *const () as usize, false),
        site(&file, edgelat_test_probed_return as *const () as usize, true),
    ];
    call(&mut line, Request::PlanSites { plan, image, sites: heapless::Vec::from_slice(&sites).unwrap() });
    let (loaded, mut descriptors) = match line.call(&Request::Load { plan }) {
        Err(edgelat_guard::GuardError::Route { .. }) => return, // not on this kernel
        answer => answer.unwrap(),
    };
    let Reply::Loaded { lanes, rows, frame_sets, maps_frames, .. } = loaded else { panic!("{loaded:?}") };
    let rows = Rows::map(descriptors.remove(0), rows as usize, lanes as usize).unwrap();
    let frames = maps_frames.then(|| Frames::map(descriptors.remove(0), frame_sets as usize).unwrap());
    call(&mut line, Request::Attach { plan });
    call(&mut line, Request::Arm { plan });

    give_up_rights();
    for _ in 0..2 {
        let before = rows.read(0).exits();
        wait_until("the rows grow", || rows.read(0).exits() > before + 20);
    }
    // There is no lasting call of the function; the frames must be of this target.
    if let Some(frames) = frames {
        assert!(frames.occupied().all(|frame| frame.tgid == pid as u32 && frame.function == 0));
    }
    target.0.stdin.as_mut().unwrap().write_all(b"f").unwrap();
    let mut told = Vec::new();
    wait_until("the fork is told", || {
        let mut fds = [PollFd::new(line.events().unwrap(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(100u16)).unwrap();
        let Reply::Events { events, .. } = call(&mut line, Request::Events) else { panic!() };
        told.extend(events);
        // Attaching to the child needs rights.
        told.iter().any(|told| matches!(told.event, Event::NotCovered { pid: child, .. } if child != pid))
    });
    call(&mut line, Request::Disarm { plan });
    // A program that had passed the switch may end only now on a busy machine.
    wait_until("a switch in mapped memory turns counting off", || {
        let still = rows.read(0).entries;
        thread::sleep(Duration::from_millis(50));
        rows.read(0).entries == still
    });
    call(&mut line, Request::Detach { plan });
    drop(target.0.stdin.take());
    assert!(target.0.wait().unwrap().success(), "the target ends well, without probes");
}

/// Each in a thread of its own, which gives up its rights.
#[test]
fn what_is_armed_is_read_without_capabilities_and_without_bpf() {
    for route in [Route::UprobeMulti, Route::Tracefs, Route::Single] {
        thread::spawn(move || read_without_rights(route)).join().unwrap();
    }
}
