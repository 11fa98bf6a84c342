//! Linux uprobes on x86-64 instructions.
//!
//! From `arch/x86/kernel/uprobes.c` of Linux 6.1, 6.12 and 6.18, and the part of its history back
//! to 5.10. `uprobe_init_insn` refuses by prefix and by two tables of opcodes;
//! `branch_setup_xol_ops` and `push_setup_xol_ops` select the emulated instructions; all others are
//! copied and single-stepped. Instructions that only newer kernels emulate (nops of several bytes,
//! from 6.18) count as single-stepped here, so that one answer holds for all kernels.
//!
//! Some things in that code are traps, and probes that would hit them are [`Probing::Unsound`]:
//!
//! * It reads the opcode byte without the map. A VEX or EVEX instruction with opcode 70 to 7f, 90,
//!   e8, e9 or eb (`vmovdqa` to memory, `vzeroupper`, `vpor`...) is mistaken for a branch, nop or
//!   call and "emulated" as such. Seen on 6.18: with a probe on `vmovdqu %xmm0, (%rdi)` nothing is
//!   stored.
//! * `90` with REX.B is `xchg %rax, %r8` and is emulated as a nop (seen on 6.18). With prefix 66 it
//!   is a nop, which older kernels refuse.
//! * From 6.18 a 5-byte nop, later a 10-byte nop, and then also a `jmp` over exactly 8 bytes, may
//!   be overwritten with a call of a trampoline (`can_optimize`). The `jmp` may be one of the
//!   program's own, with code behind it that is overwritten. The call on a 5-byte nop writes its
//!   return address below the stack pointer, where a leaf function may keep data: seen on 6.18 as
//!   wrong results. It would be sound on a function's first instruction, before the function has
//!   stored anything. But bytes do not show which instruction is the first: assembly has entries
//!   inside other functions, and a pack or a plan may be forged. So no site is on a nop of several
//!   bytes, nor on any other five bytes without an effect; the entry slides past them. This loses
//!   nothing: kernels before 6.18 single-step such a nop like the instruction behind it. Only a
//!   `jmp` to the next instruction may be an exit: a tail call leaves nothing below the stack
//!   pointer.
//! * Before 7.2 an emulated call leaves nothing on the program's shadow stack (user shadow stacks:
//!   6.6), and the return of the called function kills the program. A mark of the image
//!   ([`Marks`](crate::Marks)) shows if there may be one; the entry then is elsewhere. The
//!   processor itself runs a single-stepped return.

use super::encoding::{Encoding, Map};
use crate::decode::Probing;

/// `good_insns_64` of uprobes.c, Linux 6.12: bit n of row r stands for the opcode 0x10 * r + n. The
/// rows of prefixes do not matter, as the opcode byte is never a prefix.
const GOOD_ONE: [u16; 16] = [
    0xbf3f, 0x3f3f, 0x7f7f, 0x7f7f, 0xffff, 0xffff, 0x0ff8, 0xffff, 0xfffb, 0xfbff, 0xffff, 0xffff, 0x0fff,
    0xff8f, 0x0b0f, 0xf3ed,
];

/// `good_2byte_insns` of uprobes.c, Linux 6.12. The kernel never reaches it, since 0f is good in
/// the first table; it is followed here all the same.
const GOOD_TWO: [u16; 16] = [
    0xf41c, 0xffff, 0xffff, 0xff4e, 0xffff, 0xffff, 0xffff, 0xfcff, 0xffff, 0xffff, 0xbfff, 0xffff, 0xffff,
    0xffff, 0xffff, 0xffff,
];

/// Returns the kernel's treatment of a probe on the instruction of these bytes.
pub(super) fn probing(encoding: &Encoding, bytes: &[u8]) -> Probing {
    if refused(encoding) || risky(encoding, bytes) {
        Probing::Unsound
    } else if emulated(encoding, bytes) {
        Probing::Emulated
    } else {
        Probing::SingleStepped
    }
}

fn refused(encoding: &Encoding) -> bool {
    let good = |table: &[u16; 16]| {
        let row = table.get(usize::from(encoding.opcode >> 4)).copied().unwrap_or_default();
        row >> (encoding.opcode & 0x0f) & 1 != 0
    };
    encoding.bad_prefix
        || match encoding.map {
            Map::One => !good(&GOOD_ONE),
            Map::Two => !good(&GOOD_TWO),
            Map::Three38 | Map::Three3a => false,
            Map::Vector => true,
        }
}

/// Instructions that the kernel accepts and handles wrongly, or may handle wrongly.
fn risky(encoding: &Encoding, bytes: &[u8]) -> bool {
    match (encoding.map, encoding.opcode) {
        // Near branches whose length or width depends on the maker of the processor.
        (Map::One, 0xc2 | 0xc3 | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb | 0x70..=0x7f) if encoding.operand_size => {
            true
        }
        (Map::Two, 0x80..=0x8f) if encoding.operand_size => true,
        (Map::One, 0xff) if encoding.operand_size => true,
        // loop and jrcxz: stepped out of line, the address corrected afterwards; not relied on.
        (Map::One, 0xe0..=0xe3) => true,
        (Map::One, 0x90) => bytes.len() > 1,
        (Map::Two, 0x1f) => true,
        // pushf would push the trap flag of the step; popf would set it.
        (Map::One, 0x9c | 0x9d) => true,
        // mov to ss, pop to segments, int n, enter, xbegin, xabort.
        (Map::One, 0x8e | 0xcd | 0xc8) => true,
        (Map::One, 0xc6 | 0xc7) => encoding.modrm == Some(0xf8),
        // Far jumps and calls; indirect calls, whose return address is corrected afterwards.
        (Map::One, 0xff) => matches!(encoding.extension(), 2 | 3 | 5 | 7),
        (Map::One, 0x8f) => encoding.modrm.is_some_and(|modrm| modrm >> 6 == 3),
        (Map::Two, 0xa1 | 0xa9) => true,
        // jmp over 8 bytes, and other five bytes without an effect: see the head of this file.
        (Map::One, 0xeb) => bytes.last() == Some(&8) || bytes.len() == 5,
        // mov of a register to itself, lea of only a register.
        (Map::One, 0x89) => bytes.len() == 5 && encoding.modrm >= Some(0xc0),
        (Map::One, 0x8d) => {
            bytes.len() == 5
                && encoding.modrm.is_some_and(|modrm| modrm >> 6 == 1)
                && bytes.last() == Some(&0)
        }
        // 3DNow.
        (Map::Two, 0x0f) => true,
        // movntss, movntsd of AMD, and forms missing in the kernel's table: it does not correct
        // their instruction-relative operand, and other memory is used (seen on 6.18).
        (Map::Two, 0x2b) => encoding.repeat || encoding.repeat_not,
        (Map::Three38, 0xd8 | 0xf8..=0xff) => true,
        // The trap flag stops a repeated string operation each turn: a hit each (seen on 6.18).
        _ => encoding.is_string() && (encoding.repeat || encoding.repeat_not),
    }
}

fn emulated(encoding: &Encoding, bytes: &[u8]) -> bool {
    match (encoding.map, encoding.opcode) {
        // push_setup_xol_ops: one byte, or two of which the first is REX.B alone.
        (Map::One, 0x50..=0x57) => matches!(bytes, [_] | [0x41, _]),
        (Map::One, 0x70..=0x7f | 0xe8 | 0xe9 | 0xeb | 0x90) | (Map::Two, 0x80..=0x8f) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Probing {
        probing(&Encoding::of(bytes).expect("whole instruction"), bytes)
    }

    #[test]
    fn pushes_branches_and_the_short_nop_are_emulated() {
        for bytes in [
            &[0x55][..],               // push %rbp
            &[0x41, 0x57],             // push %r15
            &[0x74, 0x05],             // je
            &[0x0f, 0x84, 0, 1, 0, 0], // je, long
            &[0xeb, 0x10],             // jmp
            &[0xe9, 0, 1, 0, 0],       // jmp, long
            &[0xe9, 0, 0, 0, 0],       // jmp to what follows: see Step::is_long_nop
            &[0xf2, 0xe9, 0, 1, 0, 0], // bnd jmp
            &[0xe8, 0, 1, 0, 0],       // call
            &[0x90],                   // nop
        ] {
            assert_eq!(of(bytes), Probing::Emulated, "{bytes:02x?}");
        }
    }

    #[test]
    fn ordinary_instructions_are_single_stepped() {
        for bytes in [
            &[0xc3][..],                                    // ret
            &[0xf3, 0xc3],                                  // repz ret
            &[0xc2, 8, 0],                                  // ret $8
            &[0xf3, 0x0f, 0x1e, 0xfa],                      // endbr64
            &[0x48, 0x83, 0xec, 0x18],                      // sub $24, %rsp
            &[0x48, 0x8b, 0x05, 0, 1, 0, 0],                // mov 256(%rip), %rax
            &[0x48, 0x55],                                  // push %rbp with a needless REX.W
            &[0x48, 0x89, 0xf6],                            // mov %rsi, %rsi
            &[0x48, 0x8d, 0x7c, 0x24, 8],                   // lea 8(%rsp), %rdi
            &[0xb8, 1, 0, 0, 0],                            // mov $1, %eax
            &[0xff, 0xe0],                                  // jmp *%rax
            &[0xff, 0x25, 0, 1, 0, 0],                      // jmp *256(%rip)
            &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], // mov %fs:40, %rax
        ] {
            assert_eq!(of(bytes), Probing::SingleStepped, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_or_gets_wrong_is_unsound() {
        for bytes in [
            &[0x3e, 0xff, 0xe0][..],                        // notrack jmp *%rax
            &[0xf0, 0x48, 0x0f, 0xb1, 0x0f],                // lock cmpxchg
            &[0x2e, 0x74, 0x05],                            // je, predicted not taken
            &[0xc5, 0xf9, 0x7f, 0x07],                      // vmovdqa %xmm0, (%rdi): taken for jg
            &[0xc5, 0xf8, 0x77],                            // vzeroupper: taken for ja
            &[0xc5, 0xf1, 0xeb, 0xc2],                      // vpor: taken for jmp
            &[0x62, 0xf1, 0x7d, 0x48, 0x6f, 0x07],          // vmovdqa32
            &[0x49, 0x90],                                  // xchg %rax, %r8: taken for nop
            &[0x66, 0x90],                                  // nop of two bytes: refused by older kernels
            &[0x67, 0x90],                                  // nop with a prefix that means nothing
            &[0x67, 0x67, 0x67, 0x67, 0x90],                // and of five bytes
            &[0x0f, 0x1f, 0x00],                            // nopl
            &[0x0f, 0x1f, 0x44, 0, 0],                      // nopl of five bytes: may become a call
            &[0x0f, 0x1f, 0x44, 0, 8],                      // the one of clang's -fpatchable-function-entry=5
            &[0x67, 0x0f, 0x1f, 0x40, 0],                   // with a prefix
            &[0x66, 0x0f, 0x1f, 0x40, 0],                   // with another one
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],                // nopw of six bytes
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], // of ten bytes: may become lea and call
            &[0x67, 0x67, 0x67, 0xeb, 0],                   // the short one in five bytes
            &[0x67, 0x67, 0x48, 0x89, 0xf6],                // mov %rsi, %rsi in five bytes
            &[0x48, 0x8d, 0x74, 0x26, 0],                   // lea 0(%rsi), %rsi in five bytes
            &[0xcc],                                        // int3
            &[0xf4],                                        // hlt
            &[0xcd, 0x80],                                  // int $0x80
            &[0x0f, 0x05],                                  // syscall
            &[0x0f, 0x0b],                                  // ud2
            &[0x9c],                                        // pushf
            &[0xe3, 0x05],                                  // jrcxz
            &[0xeb, 0x08],                                  // jmp over 8 bytes
            &[0x66, 0xe9, 0, 0],                            // jmp of 16 bits
            &[0xc7, 0xf8, 0, 1, 0, 0],                      // xbegin
        ] {
            assert_eq!(of(bytes), Probing::Unsound, "{bytes:02x?}");
        }
    }
}
