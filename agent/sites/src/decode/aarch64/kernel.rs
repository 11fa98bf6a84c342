//! Linux uprobes on AArch64 instructions.
//!
//! From `arch/arm64/kernel/probes/decode-insn.c` and `arch/arm64/include/asm/insn.h` of Linux 6.12
//! and their history back to 5.10: `aarch64_insn_is_steppable` lists the instructions that are
//! copied and single-stepped, `arm_probe_decode_insn` those that are simulated; all others are
//! refused. Instructions that only newer kernels simulate (nop) count as single-stepped.
//!
//! Control flow protection does not affect this (from reading the Arm ARM, and the patches that
//! brought guarded control stacks to probes; not run on such processors):
//!
//! * BTI: a breakpoint in the place of a landing pad raises no branch target exception (Arm ARM,
//!   "BRK"), and the copy of the pad is stepped on a page that is not guarded.
//! * PAC: `paciasp` takes the stack pointer and a key; a step elsewhere changes neither.
//!   Authenticated returns are refused. A return probe replaces the link register before it is
//!   signed.
//! * GCS: up to 6.17 a kernel has either uprobes or guarded control stacks (`ARM64_GCS` of
//!   arch/arm64/Kconfig); from 6.18 on simulated calls and returns keep the control stack
//!   (`update_lr`, `simulate_ret` of simulate-insn.c).
//! * MTE: a simulation reads and writes nothing for the program.

use crate::decode::Probing;

/// Returns the kernel's treatment of a probe on the instruction.
pub(super) fn probing(word: u32) -> Probing {
    match word >> 24 {
        // b, bl, cbz, cbnz, tbz, tbnz
        0x14..=0x17 | 0x94..=0x97 | 0x34..=0x37 | 0xb4..=0xb7 => Probing::Emulated,
        // b.cond; bc.cond is not known to the kernel by name
        0x54 if word & 0x10 == 0 => Probing::Emulated,
        0x54 | 0x55 | 0x74 | 0x75 | 0xf4 | 0xf5 => Probing::Unsound,
        // br, blr, ret; the authenticated forms are refused
        0xd6 if matches!(word & 0xffff_fc1f, 0xd61f_0000 | 0xd63f_0000 | 0xd65f_0000) => Probing::Emulated,
        0xd6 | 0xd7 | 0xd4 => Probing::Unsound,
        0xd5 => system(word),
        // adr, adrp
        _ if word & 0x1f00_0000 == 0x1000_0000 => Probing::Emulated,
        // ldr, ldrsw, prfm of a literal
        _ if word & 0x3b00_0000 == 0x1800_0000 => Probing::Unsound,
        // Exclusive loads and stores, and compare-and-swap of a pair, as in the kernel's mask.
        _ if word & 0x3f80_0000 == 0x0800_0000 => Probing::Unsound,
        // Memory copy and set: three instructions that must stand together.
        _ if word & 0x3b20_0c00 == 0x1900_0400 => Probing::Unsound,
        // udf
        _ if word <= 0xffff => Probing::Unsound,
        _ => Probing::SingleStepped,
    }
}

/// Of the system instructions only reads of system registers and the hints on the kernel's list are
/// steppable, or not known to be harmful.
fn system(word: u32) -> Probing {
    let read = word & 0xfff0_0000 == 0xd530_0000;
    let daif = word & 0xffff_ffe0 == 0xd53b_4220;
    // nop, bti, paciasp, pacibsp
    let hint = word == super::NOP || super::is_landing_pad(word);
    if hint || read && !daif { Probing::SingleStepped } else { Probing::Unsound }
}
