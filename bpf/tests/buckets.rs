//! The bucket of a duration: BPF code in the kernel against the histogram crate.
//!
//! The histogram crate is checked against big-integer arithmetic; here the same neighbors of every
//! boundary pass through the loaded program. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use edgelat_bpf::layout::Row;
use edgelat_bpf::{RowTotals, Rows, object};
use edgelat_histogram::{INDEX_MAX, INDEX_MIN, bucket_index, upper_bound_ns};
use libbpf_rs::{MapCore, Object, ObjectBuilder, ProgramInput};
use std::os::fd::AsFd;

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/record.bpf.o"));

struct Recorder {
    object: Object,
    rows: Rows,
}

impl Recorder {
    fn load() -> Self {
        let mut open = ObjectBuilder::default().open_memory(OBJECT).unwrap();
        for mut program in open.progs_mut() {
            let wanted = program.name() == "record_one";
            program.set_autoload(wanted);
        }
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if name.ends_with(object::map::CONSTANTS_SUFFIX) {
                map.initial_value_mut()
                    .unwrap()
                    .copy_from_slice(&object::constants(1, 1, 0, 0, None, None, false));
            } else if name != object::map::ROWS {
                map.set_autocreate(name.ends_with(object::map::CONTROL_SUFFIX)).unwrap();
            }
        }
        let object = open.load().expect("loading needs root and a kernel with BTF");
        let rows = object.maps().find(|map| map.name() == object::map::ROWS).unwrap();
        let rows = Rows::map(rows.as_fd(), 1, 1).unwrap();
        Self { object, rows }
    }

    /// Row before and after the kernel records one duration.
    fn record(&self, ns: u64) -> (RowTotals, RowTotals) {
        let before = self.rows.read(0);
        let mut args = [0; 8];
        args.copy_from_slice(&ns.to_ne_bytes());
        let program = self.object.progs_mut().find(|program| program.name() == "record_one").unwrap();
        let input = ProgramInput { context_in: Some(&mut args), ..Default::default() };
        program.test_run(input).unwrap();
        (before, self.rows.read(0))
    }

    fn check(&self, ns: u64) {
        let (mut expected, after) = self.record(ns);
        match bucket_index(ns) {
            Some(index @ INDEX_MIN..=INDEX_MAX) => {
                expected.buckets[(index - INDEX_MIN) as usize] += 1;
                expected.sum_ns = expected.sum_ns.wrapping_add(ns);
            }
            Some(index) if index > INDEX_MAX => expected.over_range += 1,
            _ => {
                expected.zero += 1;
                expected.sum_ns = expected.sum_ns.wrapping_add(ns);
            }
        }
        assert_eq!(after, expected, "{ns} ns");
    }
}

#[test]
fn the_loaded_program_and_the_histogram_agree_on_the_neighbours_of_every_boundary() {
    let recorder = Recorder::load();
    for index in INDEX_MIN - 1..=INDEX_MAX {
        let bound = upper_bound_ns(index);
        for ns in bound.saturating_sub(2)..=bound + 2 {
            recorder.check(ns);
        }
    }
}

#[test]
fn the_loaded_program_and_the_histogram_agree_from_nothing_to_the_end_of_time() {
    let recorder = Recorder::load();
    for ns in (0..300).chain([u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1]) {
        recorder.check(ns);
    }
    for shift in 0..64 {
        for ns in [(1u64 << shift).wrapping_sub(1), 1 << shift, (1 << shift) + 1] {
            recorder.check(ns);
        }
    }
}

#[test]
fn the_loaded_program_and_the_histogram_agree_on_random_durations() {
    let recorder = Recorder::load();
    // xorshift64 (Marsaglia 2003): spread over all magnitudes by a random shift.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..20_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        recorder.check(state >> (state % 64));
    }
}

#[test]
fn a_row_is_as_large_in_the_kernel_as_here() {
    let recorder = Recorder::load();
    let rows = recorder.object.maps().find(|map| map.name() == object::map::ROWS).unwrap();
    assert_eq!(rows.value_size() as usize, size_of::<Row>());
}
