//! Cost of a look at a thousand functions.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use edgelat_bpf::Rows;
use edgelat_bpf::layout::{ROW_BUCKETS, Row};
use libbpf_rs::libbpf_sys::{BPF_F_MMAPABLE, bpf_map_create_opts};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use nix::time::{ClockId, clock_gettime};

use crate::error::Error;
use crate::stats::Spread;
use crate::target::{Programs, Target};
use crate::tools::{Choice, Installed, Tool};

/// Number of functions.
pub(crate) const FUNCTIONS: usize = 1_000;

/// Milliseconds of CPU.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) lanes: usize,
    /// All rows read, with the view that the collector uses.
    pub(crate) read_all: Option<Spread>,
    /// Only the entry counts, which identify rows that need no reading.
    pub(crate) find_moved: Option<Spread>,
    /// One interval of `watch --json` with all functions, printing included; all its processes.
    pub(crate) watch: Result<Spread, String>,
}

/// Measures on `lanes` lanes, and `watch` for `seconds`.
pub(crate) fn measure(
    programs: &Programs,
    installed: &Installed,
    work: &Path,
    cpu: usize,
    seconds: u64,
) -> Result<Outcome, Error> {
    let lanes = libbpf_rs::num_possible_cpus().map_err(|error| Error::Rows(error.to_string()))?;
    let rows = filled(lanes)?;
    let mut read_all = Vec::new();
    let mut find_moved = Vec::new();
    for _ in 0..200 {
        let start = thread_ms();
        let buckets: u64 = (0..FUNCTIONS).map(|function| rows.read(function).exits()).sum();
        read_all.push(thread_ms() - start);
        let start = thread_ms();
        let entries: u64 = (0..FUNCTIONS).map(|function| rows.entries(function)).sum();
        find_moved.push(thread_ms() - start);
        // Also keeps the reading from being optimized away.
        if buckets != entries {
            return Err(Error::Rows(format!("{buckets} exits for {entries} entries")));
        }
    }
    Ok(Outcome {
        lanes,
        read_all: Spread::of(read_all),
        find_moved: Spread::of(find_moved),
        watch: watch(programs, installed, work, cpu, seconds)?,
    })
}

/// An array as the guard makes it, with twenty occupied buckets in each row.
fn filled(lanes: usize) -> Result<Rows, Error> {
    let failed = |error: libbpf_rs::Error| Error::Rows(error.to_string());
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as _,
        map_flags: BPF_F_MMAPABLE,
        ..Default::default()
    };
    let entries = (FUNCTIONS * lanes) as u32;
    let map =
        MapHandle::create(MapType::Array, Some("bench_rows"), 4, size_of::<Row>() as u32, entries, &options)
            .map_err(failed)?;
    let mut value = vec![0; size_of::<Row>()];
    let mut set = |offset: usize, word: u64| {
        if let Some(place) = value.get_mut(offset..offset + 8) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
    };
    set(std::mem::offset_of!(Row, entries), 20 * 50);
    // A lane without a sum has counted nothing, and its buckets are not read.
    set(std::mem::offset_of!(Row, sum_ns), 20 * 50 * 1_000);
    for bucket in 0..20 {
        set(std::mem::offset_of!(Row, buckets) + (ROW_BUCKETS / 2 + bucket) * 8, 50);
    }
    for index in 0..entries {
        map.update(&index.to_ne_bytes(), &value, MapFlags::ANY).map_err(failed)?;
    }
    Rows::map(&map, FUNCTIONS, lanes).map_err(|error| Error::Rows(error.to_string()))
}

fn thread_ms() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0.0, |now| now.tv_sec() as f64 * 1e3 + now.tv_nsec() as f64 / 1e6)
}

fn watch(
    programs: &Programs,
    installed: &Installed,
    work: &Path,
    cpu: usize,
    seconds: u64,
) -> Result<Result<Spread, String>, Error> {
    let target = Target::start_copy(&programs.many, work.join("many_target"), cpu)?;
    let choice = Choice { name: "group1000_*".into(), symbol: String::new() };
    let tool = Tool::Edgelat { route: "auto", returns: "ret" };
    let Some(mut running) = tool.start_reporting(installed, target.pid(), target.image(), &choice, 1)? else {
        return Ok(Err("not installed".into()));
    };
    let lines = |text: &str| text.lines().filter(|line| line.starts_with('{')).count();
    let limit = Instant::now() + Duration::from_secs(20);
    // Arming is over once the second object is printed.
    while lines(&running.output()) < 2 {
        if running.ended() || Instant::now() > limit {
            return Ok(Err("printed nothing".into()));
        }
        thread::sleep(Duration::from_millis(50));
    }
    let mut samples = Vec::new();
    for _ in 0..seconds {
        let before = (running.cpu_ns(), lines(&running.output()));
        thread::sleep(Duration::from_secs(1));
        let after = (running.cpu_ns(), lines(&running.output()));
        if after.1 > before.1 {
            samples.push((after.0 - before.0) as f64 / 1e6 / (after.1 - before.1) as f64);
        }
    }
    running.interrupt();
    running.wait(Duration::from_secs(20));
    Ok(Spread::of(samples).ok_or_else(|| "printed nothing more".into()))
}
