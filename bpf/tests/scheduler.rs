//! A sched_ext scheduler for tests of targets that run under one. It takes only tasks that request
//! it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;

use libbpf_rs::{Link, MapCore, Object, ObjectBuilder};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scheduler.bpf.o"));

fn state() -> Option<String> {
    let state = std::fs::read_to_string("/sys/kernel/sched_ext/state").ok()?;
    Some(state.trim().to_owned())
}

/// The scheduler is active as long as both values live.
fn enable() -> (Object, Link) {
    let mut object = ObjectBuilder::default().open_memory(OBJECT).unwrap().load().unwrap();
    let link = object.maps_mut().find(|map| map.name() == "scheduler").unwrap().attach_struct_ops().unwrap();
    (object, link)
}

#[test]
fn a_scheduler_is_in_force_until_its_link_is_closed() {
    // A kernel without sched_ext, or with another scheduler, shows nothing.
    if state().as_deref() != Some("disabled") {
        return;
    }
    let (object, link) = enable();
    assert_eq!(state().unwrap(), "enabled");
    drop((link, object));
    // The kernel removes it with a delay.
    while state().unwrap() != "disabled" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Not a test: scripts start it. The kernel ends the scheduler with this process, however that
/// ends.
#[test]
#[ignore = "runs until it is killed"]
fn until_it_is_killed() {
    let _scheduler = enable();
    std::io::stdout().write_all(b"\nscheduler enabled\n").unwrap();
    loop {
        std::thread::park();
    }
}
