//! Real programs of each kind, damaged in a few places at a time, from bytes to probe sites.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::pipeline::exercise;
use common::{assert_helps, compile, directory, elf, run, text};

/// A repeatable generator, as in the unit tests.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}

/// Number of damaged copies of each file. `EDGELAT_FUZZ_ITERS` raises it.
fn iterations() -> usize {
    std::env::var("EDGELAT_FUZZ_ITERS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Edge values of the checks in parsers.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

/// Damages a copy of `bytes` in a few places, mostly in headers and tables.
fn damage(bytes: &[u8], hot: &[(usize, usize)], random: &mut Random) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    for _ in 0..=random.below(6) {
        let at = if random.below(4) == 0 {
            random.below(bytes.len())
        } else {
            let (start, size) = hot[random.below(hot.len())];
            (start + random.below(size.max(1))).min(bytes.len() - 1)
        };
        match random.below(4) {
            0 => damaged[at] ^= 1 << random.below(8),
            1 => damaged[at] = random.below(256) as u8,
            _ => {
                let width = [2, 4, 8][random.below(3)];
                let at = (at & !(width - 1)).min(bytes.len() - width);
                let value = EDGES[random.below(EDGES.len())].to_le_bytes();
                damaged[at..at + width].copy_from_slice(&value[..width]);
            }
        }
    }
    if random.below(20) == 0 {
        damaged.truncate(random.below(bytes.len()));
    }
    damaged
}

fn seeds(directory: &Path) -> Vec<Vec<u8>> {
    let source = r#"
        #include <stdlib.h>
        __attribute__((cold, noinline)) static void fail(int x) { if (x) abort(); }
        __attribute__((noinline)) int work(int x) { if (x > 100) fail(x); return x * 3; }
        int main(int c, char **v) { switch (c) { case 1: return work(1); case 2: return 7; case 3: return work(9);
            case 4: return 8; case 5: return 1; default: return work(c); } }
    "#;
    let cpp = r#"
        #include <vector>
        #include <string>
        #include <stdexcept>
        namespace ns { struct Queue { std::vector<std::string> v; void push(std::string s) { if (s.empty()) throw std::runtime_error("x"); v.push_back(s); } }; }
        int main(int c, char**) { ns::Queue q; try { q.push(std::string(c - 1, 'x')); } catch (...) {} return (int)q.v.size(); }
    "#;
    let mut paths = vec![
        compile(directory, "dynamic.c", source, &["-O2", "-Wl,--build-id"]),
        compile(directory, "library.c", source, &["-O2", "-shared", "-fPIC", "-s", "-Wl,--hash-style=gnu"]),
        compile(directory, "queue.cpp", cpp, &["-O1"]),
        compile(directory, "debug.c", source, &["-O2", "-g"]),
    ];
    // .gnu_debugdata
    let mini = directory.join("mini");
    run("objcopy", &["--only-keep-debug", text(&paths[0]), text(&mini)]);
    run("xz", &["-0", "--force", text(&mini)]);
    let stripped = directory.join("stripped");
    run("strip", &["-s", "-o", text(&stripped), text(&paths[0])]);
    run(
        "objcopy",
        &["--add-section", &format!(".gnu_debugdata={}", text(&directory.join("mini.xz"))), text(&stripped)],
    );
    paths.push(stripped);
    // aarch64, if the compiler is installed.
    if Command::new("aarch64-linux-gnu-gcc").arg("--version").output().is_ok() {
        let (input, output) = (directory.join("dynamic.c"), directory.join("arm"));
        run(
            "aarch64-linux-gnu-gcc",
            &["-O2", "-shared", "-fPIC", "-nostdlib", "-o", text(&output), text(&input)],
        );
        paths.push(output);
    }
    let mut seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut sectionless = seeds[1].clone();
    sectionless[40..48].fill(0);
    sectionless[60..64].fill(0);
    seeds.push(sectionless);
    seeds.push(elf::small().build());
    seeds
}

#[test]
fn damaged_files_never_panic_and_take_bounded_time() {
    let directory = directory("damaged_mutation");
    let mut random = Random(0x5eed);
    let (mut read, mut refused) = (0, 0);
    for (index, seed) in seeds(&directory).iter().enumerate() {
        assert!(exercise(seed).is_ok(), "seed {index} itself must be readable");
        let hot = hot_ranges(seed);
        for iteration in 0..iterations() {
            let damaged = damage(seed, &hot, &mut random);
            let last = directory.join("last");
            std::fs::write(&last, &damaged).unwrap();
            let start = Instant::now();
            match exercise(&damaged) {
                Ok(_) => read += 1,
                Err(error) => {
                    assert_helps(&error);
                    refused += 1;
                }
            }
            let limit = Duration::from_secs(60);
            assert!(start.elapsed() < limit, "seed {index}, iteration {iteration}: {:?}", start.elapsed());
        }
    }
    assert!(read > 0 && refused > 0, "the damage must be of both kinds: {read} read, {refused} refused");
}

/// Headers and the tables that are parsed.
fn hot_ranges(bytes: &[u8]) -> Vec<(usize, usize)> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let mut ranges = vec![(0, 64), (word(32), half(56) * 56)];
    let table = word(40);
    if table != 0 {
        ranges.push((table, half(60) * 64));
        for index in 0..half(60) {
            let header = table + index * 64;
            let kind = u32::from_le_bytes(bytes[header + 4..header + 8].try_into().unwrap());
            // Everything except code, zeros and sections that only debuggers read.
            if !matches!(kind, 0 | 8) && word(header + 32) < 20_000 && word(header + 24) < bytes.len() {
                ranges.push((word(header + 24), word(header + 32)));
            }
        }
    } else {
        for index in 0..half(56) {
            let header = word(32) + index * 56;
            if word(header + 32) < 5_000 {
                ranges.push((word(header + 8), word(header + 32)));
            }
        }
    }
    ranges.retain(|&(start, size)| size > 0 && start < bytes.len());
    ranges
}
