//! The verifier of this kernel, and the size of maps.

use std::collections::BTreeMap;
use std::io::Write as _;

use libbpf_rs::{AsRawLibbpf as _, libbpf_sys};

use edgelat_bpf::object::AwaitConstants;

use super::*;

fn shape(programs: Programs) -> Shape {
    let python = PythonConstants {
        rows: 1,
        first_row: 1,
        slots: 64,
        sets: 8,
        texts: 16,
        // With the owner of a frame they check for the creation of a generator.
        frame_owner: 70,
        awaits: Some(AwaitConstants { sets: 8, code_first: 184, ..AwaitConstants::default() }),
        ..PythonConstants::default()
    };
    let python = programs.knows_python().then_some(python);
    Shape {
        programs,
        functions: 3,
        frames: 100,
        sites: 9,
        follow_forks: true,
        only_unhandled: false,
        // With CPUs the programs are at their largest.
        cpus: Some(CpuSet::ALL),
        python,
        goroutines: false,
    }
}

/// True if this kernel supports the programs.
fn possible(programs: Programs) -> bool {
    match programs {
        Programs::Multi | Programs::MultiReturn => features::uprobe_multi().is_ok(),
        Programs::MultiWriting => features::write_registers().is_ok(),
        Programs::Session => features::session().is_ok(),
        Programs::Address => features::compare_exchange().is_ok(),
        Programs::AddressReturn => features::compare_exchange().is_ok() && features::attach_cookie().is_ok(),
        Programs::AddressHash => true,
    }
}

/// A line for the table of kernels, past libtest, which keeps what `println!` prints. It begins on a line of its
/// own: libtest may have begun one.
fn fact(fact: std::fmt::Arguments<'_>) {
    std::io::stdout().write_all(format!("\nedgelat-fact {fact}\n").as_bytes()).unwrap();
}

/// Loading needs root; the tests of this crate are run as root.
#[test]
fn every_set_of_programs_passes_the_verifier_of_this_kernel() {
    let watchers = Rc::new(Watchers::new(8).unwrap());
    for &programs in Programs::ALL {
        if !possible(programs) {
            fact(format_args!("programs {programs:?} -"));
            continue;
        }
        let loaded =
            Loaded::new(&shape(programs), &watchers).unwrap_or_else(|error| panic!("{programs:?}: {error}"));
        let awaits = if programs.knows_python() { 8 } else { 0 };
        assert_eq!(loaded.frame_sets, 16 + awaits, "100 frames in sets of eight, a power of two");
        let frames = loaded.object.maps().any(|m| m.name() == map::FRAMES && m.autocreate());
        assert_eq!(frames, programs.maps_frames(), "{programs:?}");
        fact(format_args!("programs {programs:?} ok"));
        let go = Shape { goroutines: true, ..shape(programs) };
        Loaded::new(&go, &watchers).unwrap_or_else(|error| panic!("{programs:?} for Go: {error}"));
    }
}

/// Instructions that the verifier went through for each program of a set. Also checks their stacks.
fn instructions_verified(programs: Programs) -> Vec<(String, u64)> {
    let watchers = Watchers::new(8).unwrap();
    verified(Loaded::open(&shape(programs), &watchers, 0, 2, 16).unwrap())
}

fn verified(mut open: OpenObject) -> Vec<(String, u64)> {
    const STATISTICS: u32 = 4; // BPF_LOG_STATS, include/linux/bpf_verifier.h: 5.2
    const LOG_BYTES: usize = 64 * 1024;
    let mut logs = Vec::new();
    for mut program in open.progs_mut().filter(|program| program.autoload()) {
        program.set_log_level(STATISTICS);
        let mut log: Box<[u8]> = vec![0; LOG_BYTES].into();
        // SAFETY: the program is open and not loaded; the buffer is writable for its length, stays where it is, and
        // outlives the loading below, after which libbpf writes to it no more.
        let set = unsafe {
            libbpf_sys::bpf_program__set_log_buf(
                program.as_libbpf_object().as_ptr(),
                log.as_mut_ptr().cast(),
                LOG_BYTES as _,
            )
        };
        assert_eq!(set, 0);
        logs.push((program.name().to_string_lossy().into_owned(), log));
    }
    let loaded = open.load().unwrap_or_else(|error| panic!("{error}"));
    // Sub-programs follow the programs that call them once they are loaded.
    loaded.progs().filter(|program| program.autoload()).for_each(|program| small_stacks(&program));
    drop(loaded);
    let count = |log: &[u8]| -> Option<u64> {
        let log = String::from_utf8_lossy(log);
        // From 7.2 on another line gives the number for each sub-program.
        log.lines().find_map(|line| line.strip_prefix("processed ")?.split_once(" insns")?.0.parse().ok())
    };
    logs.into_iter()
        .map(|(name, log)| {
            let count = count(&log).unwrap_or_else(|| panic!("{name}: the verifier told no count"));
            (name, count)
        })
        .collect()
}

/// The kernel gives up at a million. Each kernel counts in its own way; the number is printed as a
/// fact, for a table of all kernels.
#[test]
fn no_program_comes_near_the_bound_of_the_verifier_or_has_a_stack_that_threads_would_share() {
    const BOUND: u64 = 100_000;
    let sets = Programs::ALL.iter().filter(|programs| possible(**programs));
    // Sets share programs.
    let mut counts: BTreeMap<String, u64> = sets.flat_map(|set| instructions_verified(*set)).collect();
    counts.extend(verified(Watchers::open(8).unwrap()));
    for (program, count) in counts {
        fact(format_args!("verifier {program} {count}"));
        assert!((1..BOUND).contains(&count), "{program}: {count} instructions");
    }
}

#[test]
fn a_large_plan_with_a_large_family_does_not_take_a_machines_memory() {
    let shape = |sites| Shape {
        programs: Programs::Address,
        functions: sites / 3,
        frames: 8192,
        sites,
        follow_forks: true,
        only_unhandled: false,
        cpus: None,
        python: None,
        goroutines: false,
    };
    assert_eq!(shape(3).site_entries(), 3 * SITE_PROCESSES);
    assert_eq!(shape(3_000).site_entries(), SITE_ENTRIES);
    assert_eq!(shape(100_000).site_entries(), 200_000);
    assert!(shape(3).bytes(2) < 1 << 20);
}

/// Bytes of stack of each (sub-)program in a row of instructions.
fn stacks(instructions: &[libbpf_sys::bpf_insn]) -> Vec<i32> {
    const FRAME_POINTER: u8 = 10;
    const PSEUDO_CALL: u8 = 1; // BPF_PSEUDO_CALL: a call of a sub-program, by relative address
    let calls = instructions.iter().enumerate().filter(|(_, i)| i.code == 0x85 && i.src_reg() == PSEUDO_CALL);
    let mut starts: Vec<usize> = calls.map(|(at, i)| (at as i32 + 1 + i.imm) as usize).collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    let mut lowest = vec![0; starts.len()];
    let mut copies = [false; 16];
    for (at, i) in instructions.iter().enumerate() {
        let low = &mut lowest[starts.partition_point(|start| *start <= at) - 1];
        match i.code & 7 {
            // Loads (BPF_LDX) from and stores (BPF_ST, BPF_STX) to the stack.
            1 if i.src_reg() == FRAME_POINTER => *low = (*low).max(-i32::from(i.off)),
            2 | 3 if i.dst_reg() == FRAME_POINTER => *low = (*low).max(-i32::from(i.off)),
            // `r = r10; r += -n` makes a pointer to the stack.
            7 if i.code == 0xbf => copies[usize::from(i.dst_reg())] = i.src_reg() == FRAME_POINTER,
            7 if i.code == 0x07 && copies[usize::from(i.dst_reg())] => *low = (*low).max(-i.imm),
            _ => {}
        }
    }
    lowest
}

/// See the head of latency.bpf.c: from 64 bytes on, threads would share the stack of a program.
fn small_stacks(program: &libbpf_rs::Program<'_>) {
    const BOUND: i32 = 48;
    let stacks = stacks(program.insns());
    assert!(stacks.iter().any(|bytes| *bytes > 0) || stacks.len() > 1, "{:?}", program.name());
    assert!(stacks.iter().all(|bytes| *bytes <= BOUND), "{:?}: {stacks:?}", program.name());
}

#[test]
fn the_error_number_of_a_refused_call_is_found() {
    let error = libbpf_rs::Error::from_raw_os_error(Errno::EINVAL as i32);
    assert_eq!(os_error(&error), Errno::EINVAL.into());
}

/// True if a row of instructions adds a value to the context, in registers and on the stack.
/// Verifiers refuse to read by that, and some programs do not load on the test kernel. Ignores
/// branches.
fn moves_the_context(instructions: &[libbpf_sys::bpf_insn]) -> bool {
    const FRAME_POINTER: u8 = 10;
    const MOVE: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
    const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
    let (mut held, mut stored) = ([false; 16], std::collections::BTreeSet::new());
    held[1] = true;
    for i in instructions {
        let (to, from) = (usize::from(i.dst_reg()), usize::from(i.src_reg()));
        match i.code & 7 {
            _ if i.code == MOVE => held[to] = held[from],
            _ if i.code == CALL => held[..=5].fill(false),
            4 | 7 if held[to] => return true,
            3 if i.dst_reg() == FRAME_POINTER && held[from] => drop(stored.insert(i.off)),
            3 if i.dst_reg() == FRAME_POINTER => drop(stored.remove(&i.off)),
            1 => held[to] = i.src_reg() == FRAME_POINTER && stored.contains(&i.off),
            0 => held[to] = false,
            _ => {}
        }
    }
    false
}

#[test]
fn no_program_reads_its_context_by_a_changed_pointer() {
    let watchers = Watchers::new(8).unwrap();
    let open = Loaded::open(&shape(Programs::Multi), &watchers, 0, 2, 16).unwrap();
    let uprobes = open.progs().filter(|program| program.section().to_string_lossy().starts_with("uprobe"));
    let moving: Vec<_> = uprobes.filter(|program| moves_the_context(program.insns())).collect();
    assert!(moving.is_empty(), "{:?}", moving.iter().map(|program| program.name()).collect::<Vec<_>>());
}
