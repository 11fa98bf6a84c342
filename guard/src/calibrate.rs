//! Time that a probe itself adds to the durations that it reports.
//!
//! The entry program reads the clock, and so does the exit program. Between the two readings lies
//! not only the function but also the end of the entry's trap and the beginning of the exit's; and
//! the kernel single-steps an instruction there that it cannot emulate. This time depends on the
//! machine, so it is measured on the machine: on empty functions of our own, one for each pair of
//! kinds of site, attached by the same route with the same programs. The result is reported beside
//! the numbers, never subtracted.

use std::fs::File;
use std::rc::Rc;
use std::time::{Duration, Instant};

use edgelat_bpf::Rows;
use edgelat_bpf::layout::{SITE_ANY_CPU, SITE_FUNCTION_MASK, SITE_MAYBE, SITE_RETURN, SITE_TWIN};
use nix::time::{ClockId, clock_gettime};

use crate::attach::{ImageSites, Site};
use crate::error::{GuardError, text};
use crate::prices::{Halves, Prices, Walk};
use crate::protocol::{Bias, Returns};
use crate::target::Target;

/// Rows that the calibration takes after those of the plan.
pub(crate) const FUNCTIONS: u32 = 9;
/// Sites that the calibration takes.
pub(crate) const SITES: u32 = 2 * FUNCTIONS;
/// Links of another process on the same sites, from which the price of one link follows.
pub(crate) const OTHERS: u32 = 4;
/// Calls in one batch, and batches; the result is the median of the batches' means, so that an
/// interrupt in one batch does not show.
const BATCH: u32 = 25;
const BATCHES: usize = 15;
/// Calls of one later sample, after as many for warming up: the first calls take a tenth longer.
const CALLS_AGAIN: u32 = 16;
/// Samples in one median.
const SAMPLES: usize = 3;

// Each function leaves one byte of distance between entry and exit site, so that both can carry a
// probe. x86-64: the kernel emulates `push` and `jmp`, and single-steps `mov` and `ret`
// (arch/x86/kernel/uprobes.c, push_setup_xol_ops and branch_setup_xol_ops).
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".globl edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_es, edgelat_bias_es_exit, edgelat_bias_se, edgelat_bias_se_exit, edgelat_bias_ss, edgelat_bias_ss_exit",
    ".globl edgelat_bias_er, edgelat_bias_er_exit, edgelat_bias_twin, edgelat_bias_twin_exit, edgelat_bias_lone",
    ".globl edgelat_bias_beside, edgelat_bias_beside_exit",
    ".hidden edgelat_bias_beside, edgelat_bias_beside_exit",
    ".hidden edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_es, edgelat_bias_es_exit, edgelat_bias_se, edgelat_bias_se_exit, edgelat_bias_ss, edgelat_bias_ss_exit",
    ".hidden edgelat_bias_er, edgelat_bias_er_exit, edgelat_bias_twin, edgelat_bias_twin_exit, edgelat_bias_lone",
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
    // A return that no program does itself.
    ".p2align 4",
    "edgelat_bias_er: push rax",
    "  pop rax",
    "edgelat_bias_er_exit: ret 0",
    ".p2align 4",
    "edgelat_bias_twin: push rax",
    "  pop rax",
    "edgelat_bias_twin_exit: jmp edgelat_bias_out",
    ".p2align 4",
    "edgelat_bias_beside: push rax",
    "  pop rax",
    "edgelat_bias_beside_exit: jmp edgelat_bias_out",
    ".p2align 4",
    "edgelat_bias_lone: jmp edgelat_bias_out",
    ".p2align 4",
    "edgelat_bias_out: ret",
);

// aarch64: the kernel simulates branches and `ret`, and single-steps `mov`
// (arch/arm64/kernel/probes/decode-insn.c). No exit is single-stepped: RET is the only exit.
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".text",
    ".globl edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_se, edgelat_bias_se_exit",
    ".globl edgelat_bias_twin, edgelat_bias_twin_exit, edgelat_bias_lone",
    ".globl edgelat_bias_beside, edgelat_bias_beside_exit",
    ".hidden edgelat_bias_beside, edgelat_bias_beside_exit",
    ".hidden edgelat_bias_ee, edgelat_bias_ee_exit, edgelat_bias_se, edgelat_bias_se_exit",
    ".hidden edgelat_bias_twin, edgelat_bias_twin_exit, edgelat_bias_lone",
    ".p2align 4",
    "edgelat_bias_ee: b 1f",
    "1: nop",
    "edgelat_bias_ee_exit: ret",
    ".p2align 4",
    "edgelat_bias_se: mov x0, #1",
    "  nop",
    "edgelat_bias_se_exit: ret",
    ".p2align 4",
    "edgelat_bias_twin: b 1f",
    "1: nop",
    "edgelat_bias_twin_exit: ret",
    ".p2align 4",
    "edgelat_bias_beside: b 1f",
    "1: nop",
    "edgelat_bias_beside_exit: ret",
    ".p2align 4",
    "edgelat_bias_lone: ret",
);

unsafe extern "C" {
    fn edgelat_bias_ee();
    fn edgelat_bias_ee_exit();
    fn edgelat_bias_se();
    fn edgelat_bias_se_exit();
    fn edgelat_bias_twin();
    fn edgelat_bias_twin_exit();
    fn edgelat_bias_beside();
    fn edgelat_bias_beside_exit();
    fn edgelat_bias_lone();
}
#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn edgelat_bias_es();
    fn edgelat_bias_es_exit();
    fn edgelat_bias_ss();
    fn edgelat_bias_ss_exit();
    fn edgelat_bias_er();
    fn edgelat_bias_er_exit();
}

/// Cost of a call, for each kind of site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    /// Part in the reported durations.
    pub(crate) bias: Bias,
    /// Whole cost.
    pub(crate) cost: Bias,
    /// Prices of each hit.
    pub(crate) prices: Prices,
}

/// One of the empty functions.
struct Empty {
    row: u32,
    /// Its exit is a plain `ret` that some programs do themselves.
    returns: bool,
    entry: unsafe extern "C" fn(),
    exit: unsafe extern "C" fn(),
}

impl Empty {
    fn call(&self) {
        // SAFETY: the function is the assembly above: it takes nothing, keeps the stack and all
        // registers but rax/x0, which every caller gives up, and returns. A probe on it runs in the
        // kernel and restores all registers.
        unsafe { (self.entry)() };
    }
}

/// Rows of the empty functions: kinds of entry and exit, emulated (E) or single-stepped (S).
const EE: u32 = 0;
const SE: u32 = 1;
const ES: u32 = 2;
const SS: u32 = 3;
/// With an exit that is single-stepped with any program.
const ER: u32 = 4;
/// As `EE`, with a second program at both ends.
const TWIN: u32 = 5;
/// The row of that second program.
const SECOND: u32 = 6;
/// With one site only.
const LONE: u32 = 7;
/// As `EE`, with the links of other processes on its sites after a first measurement without.
const BESIDE: u32 = 8;

fn empties() -> impl Iterator<Item = Empty> {
    let all = [
        Some(Empty { row: EE, returns: false, entry: edgelat_bias_ee, exit: edgelat_bias_ee_exit }),
        Some(Empty { row: SE, returns: false, entry: edgelat_bias_se, exit: edgelat_bias_se_exit }),
        #[cfg(target_arch = "x86_64")]
        Some(Empty { row: ES, returns: true, entry: edgelat_bias_es, exit: edgelat_bias_es_exit }),
        #[cfg(target_arch = "x86_64")]
        Some(Empty { row: SS, returns: true, entry: edgelat_bias_ss, exit: edgelat_bias_ss_exit }),
        #[cfg(target_arch = "x86_64")]
        Some(Empty { row: ER, returns: false, entry: edgelat_bias_er, exit: edgelat_bias_er_exit }),
        Some(Empty { row: TWIN, returns: false, entry: edgelat_bias_twin, exit: edgelat_bias_twin_exit }),
        Some(Empty { row: LONE, returns: false, entry: edgelat_bias_lone, exit: edgelat_bias_lone }),
        Some(Empty {
            row: BESIDE,
            returns: false,
            entry: edgelat_bias_beside,
            exit: edgelat_bias_beside_exit,
        }),
    ];
    all.into_iter().flatten()
}

/// Returns the sites of the empty functions whose rows are `wanted`, as a plan for the agent
/// itself.
pub(crate) fn images(
    own: &Target,
    first_row: u32,
    returns: Returns,
    wanted: impl Fn(u32) -> bool,
) -> Result<Vec<ImageSites>, GuardError> {
    let address = edgelat_bias_ee as *const () as u64;
    let mappings = own.mappings(|mapping| (mapping.start..mapping.end).contains(&address))?;
    let mapping = mappings.first();
    let mapping =
        mapping.ok_or_else(|| GuardError::BadPlan { reason: text("own code is not mapped from a file") })?;
    let file = File::open("/proc/self/exe")
        .map_err(|error| GuardError::Proc { file: text("/proc/self/exe"), os: error.into() })?;
    let file = Rc::new(file);
    let site = |function: unsafe extern "C" fn(), row: u32, marks: u64| Site {
        offset: function as *const () as u64 - mapping.start + mapping.offset,
        cookie: u64::from(first_row + row) | SITE_ANY_CPU | marks,
        before: 0,
        unshadowed: false,
    };
    let (mut entries, mut exits) = (Vec::new(), Vec::new());
    for Empty { row, returns: plain, entry, exit } in empties().filter(|empty| wanted(empty.row)) {
        match (row, returns) {
            (LONE, Returns::Ret) => exits.push(site(exit, row, SITE_MAYBE)),
            // The plan has no such function: a session then requests no return.
            (LONE, Returns::Uretprobe) => {
                entries.push(Site { cookie: SITE_FUNCTION_MASK | SITE_ANY_CPU, ..site(entry, row, 0) });
            }
            _ => {
                entries.push(site(entry, row, 0));
                exits.push(site(exit, row, if plain { SITE_RETURN } else { 0 }));
            }
        }
        if row == TWIN {
            entries.push(site(entry, SECOND, SITE_TWIN));
            exits.push(site(exit, SECOND, SITE_TWIN));
        }
    }
    if returns == Returns::Uretprobe {
        exits.clear();
    }
    Ok(vec![ImageSites { bytes: Rc::clone(&file), file, key: mapping.file, entries, exits, mark: 0 }])
}

/// Measurement of one function, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// Time that a call adds to the durations; `None` if none was measured.
    bias: Option<u64>,
    /// CPU time of a call.
    cost: Option<u64>,
    /// Its probes were hit.
    hit: bool,
}

/// Calls an empty function with probes on it. Reads its row, and the time of all calls: a trap
/// begins before the first reading of the clock and ends after the last one.
fn measure(rows: &Rows, first_row: u32, empty: &Empty) -> Measured {
    let row = (first_row + empty.row) as usize;
    let hits = || rows.hits(row, 0).map_or(0, |hits| hits.mark);
    let mut means = Vec::with_capacity(BATCHES);
    let mut whole = Vec::with_capacity(BATCHES);
    let begun = hits();
    for _ in 0..BATCHES {
        let before = rows.read(row);
        let begin = own_time();
        for _ in 0..BATCH {
            empty.call();
        }
        whole.push(own_time().saturating_sub(begin).as_nanos() as u64 / u64::from(BATCH));
        let after = rows.read(row);
        means.extend((after.sum_ns - before.sum_ns).checked_div(after.exits() - before.exits()));
    }
    Measured { bias: median(means), cost: median(whole), hit: hits() != begun }
}

/// Calls all the empty functions.
pub(crate) fn run(rows: &Rows, first_row: u32, returns: Returns) -> Costs {
    let mut all = [Measured::default(); FUNCTIONS as usize];
    for empty in empties() {
        all[empty.row as usize] = measure(rows, first_row, &empty);
    }
    // Without hits no probe was paid for.
    let of = |row: u32| Some(all[row as usize]).filter(|measured| measured.hit);
    let cost_of = |row: u32| of(row)?.cost;
    let lone = all[LONE as usize].cost;
    let twin = cost_of(TWIN).zip(cost_of(EE)).map_or(0, |(both, one)| both.saturating_sub(one) / 2);
    let prices = Prices { twin, ..prices(cost_of, lone, returns) };
    Costs { bias: by_kind(|row| of(row)?.bias), cost: by_kind(cost_of), prices }
}

/// Returns the prices of hits for these costs of calls of the empty functions.
fn prices(cost_of: impl Fn(u32) -> Option<u64>, lone: Option<u64>, returns: Returns) -> Prices {
    let call = cost_of(EE).unwrap_or(0);
    match returns {
        Returns::Ret => {
            let exit = cost_of(LONE).unwrap_or(0).min(call);
            let entry = call - exit;
            let of_exit = |row: u32| cost_of(row).map_or(exit, |cost| cost.saturating_sub(entry));
            Prices {
                entry: Halves {
                    emulated: entry,
                    stepped: cost_of(SE).map_or(entry, |cost| cost.saturating_sub(exit)),
                },
                idle_entry: entry,
                exit: Halves { emulated: exit, stepped: of_exit(ER) },
                written: of_exit(ES),
                ..Prices::default()
            }
        }
        // No row counts a call that is not entered; the return is part of each other entry's price.
        Returns::Uretprobe => Prices {
            entry: Halves { emulated: call, stepped: cost_of(SE).unwrap_or(call) },
            idle_entry: lone.unwrap_or(0).min(call),
            ..Prices::default()
        },
    }
}

/// Returns the addition of one more process on the same sites, after [`OTHERS`] were attached.
pub(crate) fn run_beside_others(rows: &Rows, first_row: u32, costs: &Costs) -> Option<Walk> {
    let again = measure(rows, first_row, &empties().find(|empty| empty.row == BESIDE)?);
    // Thousandths of a nanosecond: a link takes tens of them.
    let of_one =
        |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?) * 1000 / u64::from(OTHERS));
    Some(Walk {
        call_ps: of_one(again.cost, costs.cost.emulated_emulated_ns)?,
        bias_ps: of_one(again.bias, costs.bias.emulated_emulated_ns)?,
    })
}

/// Returns true for the row of the function that [`run_beside_others`] calls.
pub(crate) fn is_beside_others(row: u32) -> bool {
    row == BESIDE
}

/// Returns true for the rows of the functions that measure the cost of hits later.
pub(crate) fn is_called_again(row: u32) -> bool {
    [EE, SE, ES, ER, LONE].contains(&row)
}

/// Current costs of calls: a few of each kind, repeatedly. The time of a trap varies by a third
/// with the other load of the machine, even more on a virtual machine.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Last samples of each function, in nanoseconds.
    recent: [[u64; SAMPLES]; FUNCTIONS as usize],
    /// Number of samples taken.
    taken: usize,
}

impl Samples {
    /// Calls each function several times, with its probes armed and counting; reads only the clock.
    pub(crate) fn take(&mut self) {
        for empty in empties().filter(|empty| is_called_again(empty.row)) {
            // The first calls refill the caches that other programs have emptied.
            (0..CALLS_AGAIN).for_each(|_| empty.call());
            let begin = Instant::now();
            (0..CALLS_AGAIN).for_each(|_| empty.call());
            let ns = begin.elapsed().as_nanos() as u64 / u64::from(CALLS_AGAIN);
            self.recent[empty.row as usize][self.taken % SAMPLES] = ns;
        }
        self.taken += 1;
    }

    /// Returns true if the samples suffice for a median.
    pub(crate) fn suffice(&self) -> bool {
        self.taken >= SAMPLES
    }

    /// Returns the prices of hits by the medians, which ignore interruptions. Prices without
    /// repeated calls stay as in `known`, and so do all before there is a median.
    pub(crate) fn prices(&self, known: &Prices, returns: Returns) -> Prices {
        if !self.suffice() {
            return *known;
        }
        // A function that this machine lacks was never called.
        let cost_of = |row: u32| {
            let recent = &self.recent[row as usize];
            median(recent.iter().copied().filter(|ns| *ns > 0).collect())
        };
        Prices { twin: known.twin, walk: known.walk, ..prices(cost_of, cost_of(LONE), returns) }
    }
}

/// CPU time of this thread: on a busy machine others run in between, which is no cost of the
/// probes.
fn own_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn median(mut means: Vec<u64>) -> Option<u64> {
    means.sort_unstable();
    means.get(means.len() / 2).copied()
}

fn by_kind(of: impl Fn(u32) -> Option<u64>) -> Bias {
    Bias {
        emulated_emulated_ns: of(EE),
        stepped_emulated_ns: of(SE),
        emulated_stepped_ns: of(ES),
        stepped_stepped_ns: of(SS),
    }
}
