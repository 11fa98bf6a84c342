//! Random code: no bytes cause a panic, and sites are instructions of the function. In random
//! functions of known meaning, every path passes the entry once and leaves by one exit.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use edgelat_sites::{Arch, Around, Ends, Part, Refusal, Site, SiteKind, Sites, Surroundings, find, find_in};
use iced_x86::{Decoder, DecoderOptions};

/// xorshift64*: equal numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Repetitions of the random tests; `EDGELAT_FUZZ_ITERS` multiplies them.
fn rounds(rounds: usize) -> usize {
    let factor = std::env::var("EDGELAT_FUZZ_ITERS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    rounds * factor
}

/// An image with arbitrary answers.
struct Nonsense(Vec<u8>);

impl Surroundings for Nonsense {
    fn code_around(&self, address: u64) -> Option<Around> {
        let start = address as usize % self.0.len();
        let named = address.is_multiple_of(3);
        (!address.is_multiple_of(5)).then(|| Around {
            address: address - 8,
            bytes: self.0[start..].to_vec(),
            named,
        })
    }

    fn data_at(&self, address: u64, buffer: &mut [u8]) -> usize {
        let start = address as usize % self.0.len();
        let length = buffer.len().min(self.0.len() - start);
        buffer[..length].copy_from_slice(&self.0[start..start + length]);
        length
    }
}

/// Returns the instruction boundaries from the start of a part.
fn boundaries(arch: Arch, part: &Part<'_>) -> Vec<u64> {
    if arch == Arch::Aarch64 {
        return (part.address..part.address + part.bytes.len() as u64).step_by(4).collect();
    }
    let decoder = Decoder::with_ip(64, part.bytes, part.address, DecoderOptions::NONE);
    decoder.into_iter().map(|instruction| instruction.ip()).collect()
}

/// Checks the properties of the sites of any code.
fn check(sites: &Sites, arch: Arch, parts: &[Part<'_>]) {
    let boundaries: Vec<u64> = parts.iter().flat_map(|part| boundaries(arch, part)).collect();
    let main = &parts[0];
    assert_eq!(sites.entry.kind, SiteKind::Entry);
    assert!((main.address..main.address + main.bytes.len() as u64).contains(&sites.entry.address));
    assert!(boundaries.contains(&sites.entry.address));
    assert!(!sites.exits.is_empty());
    assert!(sites.exits.is_sorted_by(|a, b| a.address < b.address), "{sites:x?}");
    for exit in &sites.exits {
        assert_ne!(exit.kind, SiteKind::Entry);
        assert_ne!(exit.address, sites.entry.address);
        assert!(boundaries.contains(&exit.address), "{sites:x?}");
        assert!(exit.condition.is_none_or(|condition| condition < 16 && exit.kind != SiteKind::Return));
        assert!(exit.above == 0 || (exit.kind == SiteKind::Ahead), "{sites:x?}");
    }
}

#[test]
fn random_bytes_never_panic_and_sites_are_instructions() {
    let mut random = Random(0x1357_9bdf);
    let (mut found, mut refused) = (0, 0);
    // Random bytes are seldom valid code; these opcodes make it likelier.
    let likely =
        [0x55, 0xc3, 0x74, 0x75, 0xeb, 0x90, 0x53, 0x5b, 0xff, 0x48, 0x89, 0xe8, 0x83, 0xec, 0x5d, 0xc9];
    for round in 0..rounds(30_000) {
        let arch = if round % 2 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
        let length = 1 + random.below(200);
        let mut bytes = random.bytes(length);
        for byte in &mut bytes {
            match random.below(4) {
                0 | 1 => *byte = likely[random.below(likely.len())],
                2 => *byte %= 24,
                _ => {}
            }
        }
        if arch == Arch::Aarch64 {
            bytes.truncate(bytes.len() / 4 * 4);
            for word in bytes.chunks_exact_mut(4) {
                let word: &mut [u8; 4] = word.try_into().expect("four bytes");
                match random.below(6) {
                    0 => *word = 0xd65f_03c0u32.to_le_bytes(), // ret
                    1 => *word = (0x5400_0000u32 | (random.next() as u32 & 0x1ef)).to_le_bytes(), // b.cond
                    2 => *word = (0x1400_0000u32 | (random.next() as u32 & 0xf)).to_le_bytes(), // b
                    3 => *word = (0x9100_0000u32 | (random.next() as u32 & 0x7fff)).to_le_bytes(), // add
                    _ => {}
                }
            }
        }
        let main = Part { address: 0x40_0000, bytes: &bytes };
        let length = 4 * random.below(20);
        let other = random.bytes(length);
        let cold = [Part { address: 0x40_0000 + 4 * random.next() % 0x400, bytes: &other }];
        let cold = &cold[..random.below(2)];
        let nonsense = Nonsense(random.bytes(600));
        let parts: Vec<Part<'_>> = std::iter::once(main).chain(cold.iter().copied()).collect();
        match find(arch, main, cold) {
            Ok(sites) => {
                check(&sites, arch, &parts);
                found += 1;
            }
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty() && !refusal.code().is_empty());
                refused += 1;
            }
        }
        // Nonsense may add parts, which are then unknown here.
        let _ = find_in(arch, main, cold, &nonsense, Ends::AtExits);
    }
    println!("{found} with sites, {refused} refused");
    assert!(found > 500, "only {found}");
}

#[test]
fn parts_at_the_ends_of_the_address_space_are_refused() {
    for address in [u64::MAX, u64::MAX - 1, u64::MAX - 3] {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let part = Part { address, bytes: &[0xc3; 8] };
            assert_eq!(find(arch, part, &[]), Err(Refusal::BadParts { address }));
        }
    }
    let empty = Part { address: 4096, bytes: &[] };
    assert_eq!(find(Arch::X86_64, empty, &[]), Err(Refusal::BadParts { address: 4096 }));
    let part = Part { address: 4096, bytes: &[0x55, 0x5d, 0xc3] };
    assert_eq!(find(Arch::X86_64, part, &[part]), Err(Refusal::BadParts { address: 4096 }));
}

/// One instruction of a function of known meaning.
#[derive(Clone, Copy, Debug)]
enum Op {
    Work(u8),
    Push,
    Pop,
    /// Reserves (negative: releases) this many times 16 bytes of stack.
    Frame(i8),
    Branch(usize),
    Jump(usize),
    Call,
    Return,
    TailJump,
    TailBranch,
    /// A jump through a table to one of these places.
    Table([usize; 3]),
}

const BASE: u64 = 0x1000;
const OUTSIDE: u64 = 0x9000;
const TABLES: u64 = 0x4000;

/// Returns the bytes of an instruction at `address`, with targets at `places`.
fn encode(arch: Arch, op: Op, address: u64, places: &[u64], index: usize) -> Vec<u8> {
    let place = |target: usize| places.get(target).copied().unwrap_or(BASE);
    let word = |word: u32| word.to_le_bytes().to_vec();
    if arch == Arch::Aarch64 {
        let distance = |to: u64| (to.wrapping_sub(address) >> 2) as u32;
        return match op {
            Op::Work(kind) => {
                word([0xaa00_03e9, 0xeb01_001f, 0x9100_03e2, 0xd503_201f][usize::from(kind) % 4])
            }
            Op::Push => word(0xf81f_0ff3),
            Op::Pop => word(0xf841_07f3),
            Op::Frame(count) if count > 0 => word(0xd100_03ff | u32::from(count.unsigned_abs()) << 14),
            Op::Frame(count) => word(0x9100_03ff | u32::from(count.unsigned_abs()) << 14),
            Op::Branch(target) => word(0x5400_0001 | (distance(place(target)) & 0x7ffff) << 5),
            Op::Jump(target) => word(0x1400_0000 | distance(place(target)) & 0x03ff_ffff),
            Op::Call => word(0x9400_0000 | distance(OUTSIDE) & 0x03ff_ffff),
            Op::Return => word(0xd65f_03c0),
            Op::TailJump => word(0x1400_0000 | distance(OUTSIDE) & 0x03ff_ffff),
            Op::TailBranch => word(0x5400_000b | (distance(OUTSIDE) & 0x7ffff) << 5),
            // adrp x8; add x8; ldrsw x9, [x8, x0, lsl #2]; add x9, x9, x8; br x9
            Op::Table(_) => {
                let table = table_address(index);
                let pages = ((table >> 12).wrapping_sub(address >> 12)) as u32;
                [
                    0x9000_0008 | (pages & 3) << 29 | (pages >> 2 & 0x7ffff) << 5,
                    0x9100_0108 | (table as u32 & 0xfff) << 10,
                    0xb8a0_7909,
                    0x8b08_0129,
                    0xd61f_0120,
                ]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect()
            }
        };
    }
    let relative = |opcode: &[u8], to: u64| {
        let end = address + opcode.len() as u64 + 4;
        [opcode, &(to.wrapping_sub(end) as u32).to_le_bytes()].concat()
    };
    match op {
        Op::Work(kind) => match kind % 5 {
            0 => vec![0x48, 0x89, 0xf8],
            1 => vec![0x48, 0x85, 0xff],
            2 => vec![0xf3, 0x0f, 0x1e, 0xfa],
            3 => vec![0x48, 0x89, 0xe1],
            _ => vec![0x48, 0x8d, 0x44, 0x24, 0x08],
        },
        Op::Push => vec![0x53],
        Op::Pop => vec![0x5b],
        Op::Frame(count) => vec![0x48, 0x83, 0xec, count.wrapping_mul(16) as u8],
        Op::Branch(target) => relative(&[0x0f, 0x85], place(target)),
        Op::Jump(target) => relative(&[0xe9], place(target)),
        Op::Call => relative(&[0xe8], OUTSIDE),
        Op::Return => vec![0xc3],
        Op::TailJump => relative(&[0xe9], OUTSIDE),
        Op::TailBranch => relative(&[0x0f, 0x8c], OUTSIDE),
        // lea table(%rip), %rdx; movslq (%rdx,%rdi,4), %rax; add %rdx, %rax; jmp *%rax
        Op::Table(_) => [
            &relative(&[0x48, 0x8d, 0x15], table_address(index))[..],
            &[0x48, 0x63, 0x04, 0xba, 0x48, 0x01, 0xd0, 0xff, 0xe0],
        ]
        .concat(),
    }
}

const fn table_address(index: usize) -> u64 {
    TABLES + 16 * index as u64
}

/// A function in memory.
struct Model {
    ops: Vec<Op>,
    /// Address of each instruction, and of the end.
    places: Vec<u64>,
    bytes: Vec<u8>,
    /// Bytes of stack that a push takes.
    word: i64,
}

impl Model {
    fn new(arch: Arch, ops: Vec<Op>) -> Self {
        let mut places = vec![BASE];
        for (index, op) in ops.iter().enumerate() {
            let at = places[index];
            places.push(at + encode(arch, *op, at, &[], index).len() as u64);
        }
        let encoded =
            ops.iter().enumerate().flat_map(|(index, op)| encode(arch, *op, places[index], &places, index));
        let bytes = encoded.collect();
        Self { ops, places, bytes, word: if arch == Arch::Aarch64 { 16 } else { 8 } }
    }

    /// Makes a function like a compiler's: saves, works with branches, restores and leaves.
    fn random(arch: Arch, random: &mut Random) -> Self {
        let count = 4 + random.below(24);
        let mut ops = Vec::new();
        let saves = random.below(3);
        let frame = random.below(3) as i8;
        for _ in 0..random.below(4) {
            ops.push(Op::Work(random.next() as u8));
        }
        if random.below(3) == 0 {
            ops.push(if random.below(2) == 0 { Op::TailBranch } else { Op::Branch(random.below(count)) });
        }
        for _ in 0..saves {
            ops.push(Op::Push);
        }
        if frame > 0 {
            ops.push(Op::Frame(frame));
        }
        while ops.len() < count {
            ops.push(match random.below(14) {
                0 | 1 => Op::Branch(random.below(count + 8)),
                2 => Op::Jump(random.below(count)),
                3 => Op::Call,
                4 if random.below(3) == 0 => Op::Push,
                5 if random.below(3) == 0 => Op::Pop,
                6 if random.below(2) == 0 => Op::Table(std::array::from_fn(|_| random.below(count))),
                7 if saves == 0 && frame == 0 => Op::TailBranch,
                8 => {
                    leave(&mut ops, saves, frame, random);
                    continue;
                }
                _ => Op::Work(random.next() as u8),
            });
        }
        leave(&mut ops, saves, frame, random);
        let end = ops.len();
        for op in &mut ops {
            if let Op::Branch(target) | Op::Jump(target) = op {
                *target %= end;
            }
            if let Op::Table(targets) = op {
                targets.iter_mut().for_each(|target| *target %= end);
            }
        }
        Self::new(arch, ops)
    }
}

fn leave(ops: &mut Vec<Op>, saves: usize, frame: i8, random: &mut Random) {
    if frame > 0 {
        ops.push(Op::Frame(-frame));
    }
    for _ in 0..saves {
        ops.push(Op::Pop);
    }
    ops.push(if random.below(3) == 0 { Op::TailJump } else { Op::Return });
}

impl Surroundings for Model {
    fn code_around(&self, _: u64) -> Option<Around> {
        None
    }

    fn data_at(&self, address: u64, buffer: &mut [u8]) -> usize {
        let index = (address.wrapping_sub(TABLES) / 16) as usize;
        let Some(Op::Table(targets)) = self.ops.get(index) else { return 0 };
        let entries =
            targets.iter().map(|&target| self.places[target].wrapping_sub(table_address(index)) as u32);
        let bytes: Vec<u8> = entries.flat_map(u32::to_le_bytes).chain([0; 4]).collect();
        let length = buffer.len().min(bytes.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        length
    }
}

/// Returns the used stack after an instruction.
fn depth_after(model: &Model, op: Op, depth: i64) -> i64 {
    match op {
        Op::Push => depth + model.word,
        Op::Pop => depth - model.word,
        Op::Frame(count) => depth + 16 * i64::from(count),
        _ => depth,
    }
}

/// Returns true if a table or a call's return leads to an instruction that also runs with another
/// stack height. No compiler makes that, as such a function could not return: such entries are
/// taken for garbage behind the table, and such calls never return.
fn heights_contradict(model: &Model) -> bool {
    let mut seen: BTreeSet<(usize, i64)> = BTreeSet::new();
    let mut doubtful = BTreeSet::new();
    let mut work = vec![(0, 0i64)];
    while let Some((index, depth)) = work.pop() {
        let Some(&op) = model.ops.get(index) else { continue };
        if depth.abs() > 400 || !seen.insert((index, depth)) {
            continue;
        }
        let depth = depth_after(model, op, depth);
        match op {
            Op::Return | Op::TailJump => {}
            Op::Call => {
                // Nops behind a call that never returns are padding; aarch64: every fourth kind.
                let fills = |op: &&Op| matches!(op, Op::Work(kind) if kind % 4 == 3);
                let filling = model.ops[index + 1..].iter().take_while(fills).count();
                doubtful.extend(index + 1..=index + 1 + filling);
                work.push((index + 1, depth));
            }
            Op::Jump(target) => work.push((target, depth)),
            Op::Branch(target) => work.extend([(target, depth), (index + 1, depth)]),
            Op::Table(targets) => {
                doubtful.extend(targets);
                work.extend(targets.map(|target| (target, depth)));
            }
            _ => work.push((index + 1, depth)),
        }
    }
    doubtful.iter().any(|&target| seen.range((target, i64::MIN)..=(target, i64::MAX)).count() > 1)
}

/// State of one path through the function.
#[derive(Debug)]
struct Way {
    op: usize,
    depth: i64,
    entered: usize,
    left: usize,
    /// Addresses of exits whose condition did not hold.
    stayed: BTreeSet<u64>,
    /// After an exit ahead of a return: most instructions up to the return.
    due: Option<u8>,
}

/// Returns true if a hit of an exit on this instruction counts.
fn counts(arch: Arch, exit: &Site, op: Op, taken: bool) -> Result<bool, String> {
    let own = match (arch, op) {
        (Arch::X86_64, Op::Branch(_)) => 5,
        (Arch::X86_64, _) => 12,
        (Arch::Aarch64, Op::Branch(_)) => 1,
        (Arch::Aarch64, _) => 11,
    };
    match exit.condition {
        None => Ok(true),
        Some(condition) if condition == own => Ok(taken),
        Some(condition) if condition == own ^ 1 => Ok(!taken),
        Some(condition) => Err(format!("another condition: {condition}")),
    }
}

/// Returns true if the instruction at an address may run again after it has run.
fn is_in_loop(model: &Model, address: u64) -> bool {
    let Ok(begin) = model.places.binary_search(&address) else { return false };
    let mut seen = BTreeSet::new();
    let mut work = vec![begin];
    while let Some(index) = work.pop() {
        let next: &[usize] = match model.ops.get(index) {
            None | Some(Op::Return | Op::TailJump) => &[],
            Some(Op::Jump(target)) => &[*target],
            Some(Op::Branch(target)) => &[*target, index + 1],
            Some(Op::Table(targets)) => targets,
            Some(_) => &[index + 1],
        };
        if next.contains(&begin) {
            return true;
        }
        work.extend(next.iter().filter(|&&next| seen.insert(next)));
    }
    false
}

/// Takes one random path through the function; `Err` describes the error of the probes.
fn go(arch: Arch, model: &Model, sites: &Sites, random: &mut Random) -> Result<bool, String> {
    let mut way = Way { op: 0, depth: 0, entered: 0, left: 0, stayed: BTreeSet::new(), due: None };
    for _ in 0..300 {
        let Some(&op) = model.ops.get(way.op) else { return Err(format!("runs over the end: {way:?}")) };
        let address = model.places[way.op];
        // The table's sequence is several instructions, and only the last one leaves.
        let exit = sites
            .exits
            .iter()
            .find(|exit| exit.address >= address && exit.address < model.places[way.op + 1]);
        if sites.entry.address == address {
            way.entered += 1;
            if way.depth != i64::from(sites.entry.above) || way.left != 0 {
                return Err(format!("entered with another stack: {way:?}"));
            }
        } else if sites.entry.address > address && sites.entry.address < model.places[way.op + 1] {
            way.entered += 1;
        }
        let taken = random.below(2) == 0;
        let leaves = matches!(op, Op::Return | Op::TailJump) || matches!(op, Op::TailBranch) && taken;
        if let Some(due) = way.due {
            let Some(due) = due.checked_sub(1).filter(|_| !matches!(op, Op::Call)) else {
                return Err(format!("more than was said behind an exit: {way:?}"));
            };
            way.due = Some(due);
        }
        if let Some(exit) = exit {
            let counts = counts(arch, exit, op, taken)?;
            match exit.kind {
                SiteKind::Ahead if counts => way.due = Some(exit.left_out),
                SiteKind::Ahead => {}
                _ if counts != leaves => return Err(format!("an exit that does not leave: {way:?}")),
                _ => {}
            }
            let ahead = exit.kind == SiteKind::Ahead;
            if counts && ahead && way.depth != i64::from(exit.above) {
                return Err(format!("left with another stack: {way:?}"));
            }
            way.left += usize::from(counts);
            if !counts && !way.stayed.insert(exit.address) {
                return Err(format!("an exit that is hit at every turn of a loop: {way:?}"));
            }
        }
        if leaves {
            // With other data on top of the stack a return fails: the function crashes either way.
            if matches!(op, Op::Return) && way.depth != 0 {
                return Ok(false);
            }
            return if way.depth != 0 || way.entered != 1 || way.left != 1 {
                Err(format!("{way:?}"))
            } else {
                Ok(true)
            };
        }
        way.op += 1;
        way.depth = depth_after(model, op, way.depth);
        match op {
            Op::Branch(target) if taken => way.op = target,
            Op::Jump(target) => way.op = target,
            Op::Table(targets) => way.op = targets[random.below(3)],
            _ => {}
        }
    }
    Ok(false)
}

#[test]
fn every_way_through_a_random_function_enters_once_and_leaves_once() {
    let mut random = Random(0x2468_ace0);
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let (mut probed, mut ways, mut refused) = (0, 0, BTreeMap::new());
        for _ in 0..rounds(20_000) {
            let model = Model::random(arch, &mut random);
            if heights_contradict(&model) {
                continue;
            }
            let part = Part { address: BASE, bytes: &model.bytes };
            match find_in(arch, part, &[], &model, Ends::AtExits) {
                Ok(sites) => {
                    check(&sites, arch, &[part]);
                    probed += 1;
                    for _ in 0..20 {
                        match go(arch, &model, &sites, &mut random) {
                            Ok(left) => ways += usize::from(left),
                            Err(wrong) => panic!("{wrong}\n{:?}\n{:x?}\n{sites:x?}", model.ops, model.places),
                        }
                    }
                }
                Err(refusal @ Refusal::ExitInLoop { address }) => {
                    assert!(is_in_loop(&model, address), "{refusal}\n{:?}\n{:x?}", model.ops, model.places);
                    assert!(find_in(arch, part, &[], &model, Ends::AtReturnAddress).is_ok());
                    *refused.entry(refusal.code()).or_insert(0) += 1;
                }
                Err(refusal) => *refused.entry(refusal.code()).or_insert(0) += 1,
            }
        }
        println!("{arch}: {probed} probed, {ways} ways, refused {refused:?}");
        assert!(probed > 2000 && ways > 20_000, "{probed} probed, {ways} ways");
    }
}
