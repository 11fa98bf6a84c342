//! What a probe itself adds to the durations that it reports.
//!
//! The clock is read in the entry program and again in the exit program. Between the two readings lies not
//! only the function but also the end of the entry's trap and the beginning of the exit's; and an instruction
//! that the kernel cannot emulate is single-stepped there. How long that takes depends on the machine, so it
//! is measured on the machine: on empty functions of our own, one for each pair of kinds of site, attached by
//! the same route with the same programs. The result is reported beside the numbers, never subtracted.

use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use edgelat_bpf::Rows;
use edgelat_bpf::layout::{SITE_ANY_CPU, SITE_RETURN};
use nix::time::{ClockId, clock_gettime};

use crate::attach::{ImageSites, Site};
use crate::error::{GuardError, text};
use crate::protocol::{Bias, Returns};
use crate::target::Target;

/// Rows that the calibration takes behind those of the plan.
pub(crate) const FUNCTIONS: u32 = 4;
/// Sites that the calibration takes.
pub(crate) const SITES: u32 = 2 * FUNCTIONS;
/// Calls of one batch, and batches; the median of the batches' means is the result, so that an interrupt in
/// one batch does not show.
const BATCH: u32 = 25;
const BATCHES: usize = 15;

// Each function leaves one byte of distance between entry and exit site, so that both can carry a probe.
// x86-64: `push` and `jmp` are emulated by the kernel, `mov` and `ret` are single-stepped
// (arch/x86/kernel/uprobes.c, push_setup_xol_ops and branch_setup_xol_ops).
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".globl edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_es, edgelat_bias_es_exit, edgelat_bias_se, edgelat_bias_se_exit, edgelat_bias_ss, edgelat_bias_ss_exit",
    ".hidden edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_es, edgelat_bias_es_exit, edgelat_bias_se, edgelat_bias_se_exit, edgelat_bias_ss, edgelat_bias_ss_exit",
    ".p2align 4",
    "edgelat_bias_ee: push rax",
    "  pop rax",
    "edgelat_bias_ee_exit: jmp edgelat_bias_out",
    ".p2align 4",
    "edgelat_bias_es: push rax",
    "  pop rax",
    "edgelat_bias_es_exit: ret",
    ".p2align 4",
    "edgelat_bias_se: mov eax, 1",
    "edgelat_bias_se_exit: jmp edgelat_bias_out",
    ".p2align 4",
    "edgelat_bias_ss: mov eax, 1",
    "edgelat_bias_ss_exit: ret",
    ".p2align 4",
    "edgelat_bias_out: ret",
);

// aarch64: branches and `ret` are simulated, `mov` is single-stepped (arch/arm64/kernel/probes/decode-insn.c).
// There is no exit that is single-stepped: RET is the only one.
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".text",
    ".globl edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_se, edgelat_bias_se_exit",
    ".hidden edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_se, edgelat_bias_se_exit",
    ".p2align 4",
    "edgelat_bias_ee: b 1f",
    "1: nop",
    "edgelat_bias_ee_exit: ret",
    ".p2align 4",
    "edgelat_bias_se: mov x0, #1",
    "  nop",
    "edgelat_bias_se_exit: ret",
);

unsafe extern "C" {
    fn edgelat_bias_ee();
    fn edgelat_bias_ee_exit();
    fn edgelat_bias_se();
    fn edgelat_bias_se_exit();
}
#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn edgelat_bias_es();
    fn edgelat_bias_es_exit();
    fn edgelat_bias_ss();
    fn edgelat_bias_ss_exit();
}

/// What a call costs, for each kind of site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    /// In the reported durations.
    pub(crate) bias: Bias,
    /// In all.
    pub(crate) cost: Bias,
}

/// One of the empty functions.
struct Empty {
    /// Row behind those of the plan.
    row: u32,
    /// Its exit is a plain `ret` that some programs do themselves.
    returns: bool,
    entry: unsafe extern "C" fn(),
    exit: unsafe extern "C" fn(),
}

fn empties() -> impl Iterator<Item = Empty> {
    let all = [
        Some(Empty { row: 0, returns: false, entry: edgelat_bias_ee, exit: edgelat_bias_ee_exit }),
        Some(Empty { row: 1, returns: false, entry: edgelat_bias_se, exit: edgelat_bias_se_exit }),
        #[cfg(target_arch = "x86_64")]
        Some(Empty { row: 2, returns: true, entry: edgelat_bias_es, exit: edgelat_bias_es_exit }),
        #[cfg(target_arch = "x86_64")]
        Some(Empty { row: 3, returns: true, entry: edgelat_bias_ss, exit: edgelat_bias_ss_exit }),
    ];
    all.into_iter().flatten()
}

/// The sites of the empty functions, as if they were a plan for the agent itself.
pub(crate) fn images(own: &Target, first_row: u32, returns: Returns) -> Result<Vec<ImageSites>, GuardError> {
    let address = edgelat_bias_ee as *const () as u64;
    let mappings = own.mappings(|mapping| (mapping.start..mapping.end).contains(&address))?;
    let mapping = mappings.first();
    let mapping =
        mapping.ok_or_else(|| GuardError::BadPlan { reason: text("own code is not mapped from a file") })?;
    let file = File::open("/proc/self/exe")
        .map_err(|error| GuardError::Proc { file: text("/proc/self/exe"), os: error.into() })?;
    let site = |function: unsafe extern "C" fn(), row: u32| Site {
        offset: function as *const () as u64 - mapping.start + mapping.offset,
        cookie: u64::from(first_row + row) | SITE_ANY_CPU,
        before: 0,
    };
    let exit = |empty: &Empty| {
        let site = site(empty.exit, empty.row);
        Site { cookie: if empty.returns { site.cookie | SITE_RETURN } else { site.cookie }, ..site }
    };
    let entries = empties().map(|empty| site(empty.entry, empty.row)).collect();
    let exits = match returns {
        Returns::Ret => empties().map(|empty| exit(&empty)).collect(),
        Returns::Uretprobe => Vec::new(),
    };
    Ok(vec![ImageSites { file: Rc::new(file), key: mapping.file, entries, exits, mark: 0 }])
}

/// Calls the empty functions with probes on them. Reads what the rows say, and how long the calls took in all: a trap
/// begins before the first reading of the clock and ends after the last one.
pub(crate) fn run(rows: &Rows, first_row: u32) -> Costs {
    let mut bias = [None; FUNCTIONS as usize];
    let mut cost = bias;
    for empty in empties() {
        let row = (first_row + empty.row) as usize;
        let mut means = Vec::with_capacity(BATCHES);
        let mut whole = Vec::with_capacity(BATCHES);
        for _ in 0..BATCHES {
            let before = rows.read(row);
            let begin = own_time();
            for _ in 0..BATCH {
                // SAFETY: the function is the assembly above: it takes nothing, keeps the stack and all
                // registers but rax/x0, which every caller gives up, and returns. A probe on it runs in the
                // kernel and restores all registers.
                unsafe { (empty.entry)() };
            }
            whole.push(own_time().saturating_sub(begin).as_nanos() as u64 / u64::from(BATCH));
            let after = rows.read(row);
            means.extend((after.sum_ns - before.sum_ns).checked_div(after.exits() - before.exits()));
        }
        bias[empty.row as usize] = median(means);
        // Where nothing was counted, there was no probe to pay for.
        cost[empty.row as usize] = bias[empty.row as usize].and_then(|_| median(whole));
    }
    Costs { bias: by_kind(bias), cost: by_kind(cost) }
}

/// CPU time of this thread: on a busy machine others run in between, and a budget would hold that against the probes.
fn own_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn median(mut means: Vec<u64>) -> Option<u64> {
    means.sort_unstable();
    means.get(means.len() / 2).copied()
}

fn by_kind(rows: [Option<u64>; FUNCTIONS as usize]) -> Bias {
    Bias {
        emulated_emulated_ns: rows[0],
        stepped_emulated_ns: rows[1],
        emulated_stepped_ns: rows[2],
        stepped_stepped_ns: rows[3],
    }
}
