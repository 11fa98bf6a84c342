//! CPUs on which a call must begin to count, as the kernel's programs decide. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::os::fd::AsFd;

use edgelat_bpf::Rows;
use edgelat_bpf::layout::SITE_ANY_CPU;
use edgelat_bpf::object::{self, CPU_WORDS};
use libbpf_rs::{MapCore, ObjectBuilder, ProgramInput};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/record.bpf.o"));
/// BPF_F_TEST_RUN_ON_CPU, include/uapi/linux/bpf.h.
const ON_CPU: u32 = 1;

/// For a call that begins at each of these sites on each of these CPUs: true if it counts.
fn counted(cpus: Option<&[u64; CPU_WORDS]>, calls: &[(u64, u32)]) -> Vec<bool> {
    let mut open = ObjectBuilder::default().open_memory(OBJECT).unwrap();
    for mut program in open.progs_mut() {
        let wanted = program.name() == "count_here";
        program.set_autoload(wanted);
    }
    let lanes = libbpf_rs::num_possible_cpus().unwrap();
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name.ends_with(object::map::CONSTANTS_SUFFIX) {
            let constants = object::constants(lanes as u32, 1, 0, 0, cpus, None, false);
            map.initial_value_mut().unwrap().copy_from_slice(&constants);
        } else if name != object::map::ROWS {
            map.set_autocreate(name.ends_with(object::map::CONTROL_SUFFIX)).unwrap();
        }
    }
    let object = open.load().expect("loading needs root and a kernel with BTF");
    let rows = object.maps().find(|map| map.name() == object::map::ROWS).unwrap();
    let rows = Rows::map(rows.as_fd(), 1, 1).unwrap();
    let program = object.progs_mut().find(|program| program.name() == "count_here").unwrap();
    let mut one = |(site, cpu): &(u64, u32)| {
        let before = rows.read(0).entries;
        let mut args = [0; 8];
        args.copy_from_slice(&site.to_ne_bytes());
        let input =
            ProgramInput { context_in: Some(&mut args), cpu: *cpu, flags: ON_CPU, ..Default::default() };
        program.test_run(input).unwrap();
        rows.read(0).entries - before == 1
    };
    calls.iter().map(&mut one).collect()
}

#[test]
fn calls_that_begin_on_other_cpus_do_not_count() {
    let calls = [(0, 0), (0, 1), (SITE_ANY_CPU, 0), (SITE_ANY_CPU, 1)];
    let mut cpus = [0; CPU_WORDS];
    assert_eq!(counted(None, &calls), [true, true, true, true]);
    assert_eq!(counted(Some(&cpus), &calls), [false, false, true, true]);
    cpus[0] = 0b10;
    assert_eq!(counted(Some(&cpus), &calls), [false, true, true, true]);
    cpus[0] = 0b01;
    assert_eq!(counted(Some(&cpus), &calls), [true, false, true, true]);
}
