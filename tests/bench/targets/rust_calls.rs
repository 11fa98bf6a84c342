// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Rust counterpart of `calls.c`: same protocol, one function as rustc compiles it.

use std::io::BufRead;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, now: *mut Timespec) -> i32;
    fn sched_setaffinity(pid: i32, size: usize, mask: *const u64) -> i32;
}

const CLOCK_THREAD_CPUTIME_ID: i32 = 3; // linux/time.h

fn cpu_ns() -> i64 {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the pointer is to a live structure of the layout that the C library expects on 64-bit Linux.
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.seconds * 1_000_000_000 + now.nanoseconds
}

mod packets {
    /// A typical Rust function: a slice with bounds checks, an early return, a call.
    #[inline(never)]
    pub fn checksum(packet: &[u8], seed: u32) -> Option<u32> {
        let length = usize::from(*packet.first()?);
        let body = packet.get(1..1 + length)?;
        let head = header(body, seed);
        Some(head ^ seed.rotate_left(7))
    }

    #[inline(never)]
    fn header(body: &[u8], seed: u32) -> u32 {
        std::hint::black_box(body.len() as u32).wrapping_mul(0x9e37_79b9) ^ seed
    }
}

fn main() {
    if let Some(cpu) = std::env::args().nth(1).and_then(|cpu| cpu.parse::<u32>().ok()) {
        let mask = [1u64 << (cpu % 64)];
        // SAFETY: the mask is eight bytes long and is only read.
        unsafe { sched_setaffinity(0, 8, mask.as_ptr()) };
    }
    let packet = [3u8, 1, 2, 3];
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("read the command");
        let Some((_, calls)) = line.split_once(' ') else { continue };
        let calls: u32 = calls.parse().expect("a number of calls");
        let start = cpu_ns();
        let mut sum = 0u32;
        for call in 0..calls {
            sum ^= packets::checksum(std::hint::black_box(&packet), call).unwrap_or(0);
        }
        std::hint::black_box(sum);
        println!("{calls} {}", cpu_ns() - start);
    }
}
