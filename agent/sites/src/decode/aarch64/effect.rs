//! Effects of AArch64 instructions on the general registers.

use super::{SP, bits, register, signed};
use crate::decode::{Effect, Memory, Width};

const fn bit(register: u8) -> u32 {
    1 << register
}

/// Returns the bit of a register, for fields in which number 31 means zero.
const fn bit_or_zero(register: u8) -> u32 {
    if register == SP { 0 } else { bit(register) }
}

const fn clobber(mask: u32) -> Effect {
    if mask == 0 { Effect::Nothing } else { Effect::Clobber(mask) }
}

/// Returns an address that the instruction uses (`adr`, literal loads), and true if it reads there.
pub(super) fn refers_to(word: u32, address: u64) -> Option<(u64, bool)> {
    if word & 0x9f00_0000 == 0x1000_0000 {
        Some((address.wrapping_add_signed(signed(word, 5, 19) << 2 | i64::from(bits(word, 29, 2))), false))
    } else if word & 0x3b00_0000 == 0x1800_0000 {
        Some((address.wrapping_add_signed(signed(word, 5, 19) << 2), true))
    } else {
        None
    }
}

/// Returns the effect of a non-call instruction. Arm ARM C4.1: the groups by bits 25 to 28.
pub(super) fn effect(word: u32, address: u64) -> Effect {
    match bits(word, 25, 4) {
        0b1000 | 0b1001 => immediate(word, address),
        0b1010 | 0b1011 => system(word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => memory(word),
        0b0101 | 0b1101 => registers(word),
        0b0111 | 0b1111 => vector(word),
        _ => scalable(word),
    }
}

/// Data processing with immediate.
fn immediate(word: u32, address: u64) -> Effect {
    let to = register(word, 0);
    let from = register(word, 5);
    let wide = word >> 31 != 0;
    let sets_flags = bits(word, 29, 1) != 0;
    match bits(word, 23, 3) {
        // adr, adrp
        0 | 1 => {
            let offset = signed(word, 5, 19) << 2 | i64::from(bits(word, 29, 2));
            let value = if wide {
                (address & !0xfff).wrapping_add_signed(offset << 12)
            } else {
                address.wrapping_add_signed(offset)
            };
            if to == SP { Effect::Nothing } else { Effect::Set { to, value } }
        }
        // add, sub
        2 => {
            let amount = bits(word, 10, 12) << (12 * bits(word, 22, 1));
            let amount = if bits(word, 30, 1) != 0 { -amount.cast_signed() } else { amount.cast_signed() };
            match (wide, sets_flags) {
                (true, false) => Effect::Move { to, from, add: amount },
                (false, false) => Effect::Clobber(bit(to)),
                (_, true) => clobber(bit_or_zero(to)),
            }
        }
        // addg, subg: to may be the stack pointer
        3 => Effect::Clobber(bit(to)),
        // and, orr, eor, ands
        4 => {
            if bits(word, 29, 2) == 3 {
                clobber(bit_or_zero(to))
            } else if wide && bits(word, 29, 2) == 0 && clears_low_bits(word) && from != SP {
                Effect::AlignDown { to, from }
            } else {
                Effect::Clobber(bit(to))
            }
        }
        // movn, movz, movk
        5 => {
            let value = u64::from(bits(word, 5, 16)) << (16 * bits(word, 21, 2));
            let value = if bits(word, 29, 2) == 0 { !value } else { value };
            let value = if wide { value } else { value & 0xffff_ffff };
            match bits(word, 29, 2) {
                _ if to == SP => Effect::Nothing,
                0 | 2 => Effect::Set { to, value },
                _ => Effect::Clobber(bit(to)),
            }
        }
        // sbfm: sxtb, sxth, sxtw are follow-ups of loads of tables' entries
        6 if word & 0xffff_fc00 == 0x9340_7c00 => extend(to, from, 4, true),
        6 if word & 0xffff_fc00 == 0x9340_3c00 => extend(to, from, 2, true),
        6 if word & 0xffff_fc00 == 0x9340_1c00 => extend(to, from, 1, true),
        6 if word & 0xffff_fc00 == 0x5300_3c00 => extend(to, from, 2, false),
        6 if word & 0xffff_fc00 == 0x5300_1c00 => extend(to, from, 1, false),
        6 => clobber(bit_or_zero(to)),
        // extr; with register 31 an authentication of the link register
        _ => Effect::Clobber(if to == SP { bit(30) } else { bit(to) }),
    }
}

fn extend(to: u8, from: u8, bytes: u8, signed: bool) -> Effect {
    if to == SP || from == SP {
        clobber(bit_or_zero(to))
    } else {
        Effect::Extend { to, from, width: Width { bytes, signed } }
    }
}

/// Returns true if the mask of a 64-bit `and` is ones followed by zeros. DecodeBitMasks of the Arm
/// ARM, with N 1: `imms` + 1 ones, rotated right by `immr`; if both are equal, the highest is at
/// the top.
const fn clears_low_bits(word: u32) -> bool {
    bits(word, 22, 1) == 1 && bits(word, 10, 6) + 1 == bits(word, 16, 6)
}

/// Branches and system instructions other than calls.
fn system(word: u32) -> Effect {
    let to = register(word, 0);
    match word >> 24 {
        0xd5 if word & 0xffff_f01f == 0xd503_201f => {
            // Signing and authentication work on the link register or on x16 and x17.
            if word == super::NOP || word & 0xffff_ff3f == 0xd503_241f {
                Effect::Nothing
            } else {
                Effect::Clobber(bit(16) | bit(17) | bit(30))
            }
        }
        // Reads of one or two system registers, and system instructions with a result.
        0xd5 => clobber(bit_or_zero(to) | bit_or_zero((to + 1).min(SP))),
        // svc, hvc, smc
        0xd4 => Effect::Clobber(super::MACHINE.call_clobbers),
        _ => Effect::Nothing,
    }
}

/// Data processing with registers.
fn registers(word: u32) -> Effect {
    let (to, a, b) = (register(word, 0), register(word, 5), register(word, 16));
    let lost = clobber(bit_or_zero(to));
    // orr to, zero, b: the move
    if word & 0xffe0_ffe0 == 0xaa00_03e0 {
        return match (to, b) {
            (SP, _) => Effect::Nothing,
            (_, SP) => Effect::Set { to, value: 0 },
            _ => Effect::Move { to, from: b, add: 0 },
        };
    }
    if word & 0xffe0_ffe0 == 0x2a00_03e0 {
        return extend(to, b, 4, false);
    }
    // add, sub of 64 bits, shifted left
    if word & 0xbfe0_0000 == 0x8b00_0000 {
        let shift = bits(word, 10, 6) as u8;
        let subtracts = bits(word, 30, 1) != 0;
        return match (to, a, b) {
            (SP, _, _) | (_, SP, _) | (_, _, SP) => lost,
            _ if subtracts && shift == 0 => Effect::Difference { to, from: a, less: b },
            _ if subtracts => lost,
            _ => Effect::Sum { to, a, b, shift, extend: None },
        };
    }
    // add, sub extended: the first two may be the stack pointer
    if word & 0x1fe0_0000 == 0x0b20_0000 {
        let sets_flags = bits(word, 29, 1) != 0;
        let subtracts = bits(word, 30, 1) != 0;
        let wide = word >> 31 != 0;
        let shift = bits(word, 10, 3) as u8;
        let option = bits(word, 13, 3);
        let width = Width { bytes: 1 << (option & 3), signed: option & 4 != 0 };
        if sets_flags {
            return lost;
        }
        if !wide || b == SP {
            return Effect::Clobber(bit(to));
        }
        return match (subtracts, width.bytes) {
            (true, 8) if shift == 0 => Effect::Difference { to, from: a, less: b },
            (false, 8) => Effect::Sum { to, a, b, shift, extend: None },
            (false, _) => Effect::Sum { to, a, b, shift, extend: Some(width) },
            (true, _) if to == SP && a == SP => Effect::Difference { to, from: a, less: b },
            _ => Effect::Clobber(bit(to)),
        };
    }
    // ccmp, ccmn: the low bits are flags
    if word & 0x1fe0_0000 == 0x1a40_0000 {
        return Effect::Nothing;
    }
    // addpt, subpt: to may be the stack pointer
    if word & 0xbfe0_e000 == 0x9a00_2000 {
        return Effect::Clobber(bit(to));
    }
    lost
}

/// Floating point and vectors: only moves and conversions to general registers write one.
fn vector(word: u32) -> Effect {
    let scalar = word & 0x5f00_0000 == 0x1e00_0000;
    let copy = word & 0x9fe0_8400 == 0x0e00_0400;
    if scalar || copy { clobber(bit_or_zero(register(word, 0))) } else { Effect::Nothing }
}

/// SVE and SME: addvl, addpl and their streaming forms may write the stack pointer.
fn scalable(word: u32) -> Effect {
    let to = register(word, 0);
    if word & 0xffa0_f000 == 0x0420_5000 { Effect::Clobber(bit(to)) } else { clobber(bit_or_zero(to)) }
}

/// Loads and stores.
fn memory(word: u32) -> Effect {
    let to = bit_or_zero(register(word, 0));
    let second = bit_or_zero(register(word, 10));
    let status = register(word, 16);
    let status = bit_or_zero(status) | bit_or_zero((status + 1).min(SP));
    let base = register(word, 5);
    let vector = bits(word, 26, 1) != 0;
    match (bits(word, 28, 2), bits(word, 24, 1)) {
        // Exclusive, ordered, compare and swap.
        (0, _) if !vector => clobber(to | second | status),
        // Structures of vectors; bit 23 means that the base is advanced.
        (0, _) => clobber(if bits(word, 23, 1) != 0 { bit(base) } else { 0 }),
        // Literals.
        (1, 0) => clobber(if vector { 0 } else { to }),
        // Ordered with offset; the rest (tags, copies, ordered pairs) may write all named
        // registers.
        (1, _) if bits(word, 21, 1) == 0 && bits(word, 10, 2) == 0 => clobber(if vector { 0 } else { to }),
        (1, _) if vector && bits(word, 10, 2) == 2 => Effect::Nothing,
        (1, _) => clobber(to | second | status | bit(base)),
        (2, _) => pair(word),
        _ => single(word),
    }
}

/// ldp, stp.
fn pair(word: u32) -> Effect {
    let opc = bits(word, 30, 2);
    let load = bits(word, 22, 1) != 0;
    let vector = bits(word, 26, 1) != 0;
    let base = register(word, 5);
    let both = bit_or_zero(register(word, 0)) | bit_or_zero(register(word, 10));
    let clobbers = if load && !vector { both } else { 0 };
    let scale = match (vector, opc, load) {
        (false, 0, _) | (false, 1, true) => 2,
        // stgp
        (false, 1, false) => 4,
        (false, 2, _) => 3,
        (true, 0..=2, _) => 2 + opc,
        _ => return Effect::Clobber(both | bit(base)),
    };
    // Post-index and pre-index write the base back.
    if bits(word, 23, 1) != 0 {
        let by = (signed(word, 15, 7) << scale) as i32;
        Effect::Adjust { register: base, by, clobbers }
    } else {
        clobber(clobbers)
    }
}

/// ldr, str and atomics of one register.
fn single(word: u32) -> Effect {
    let to = register(word, 0);
    let base = register(word, 5);
    let size = bits(word, 30, 2);
    let opc = bits(word, 22, 2);
    let vector = bits(word, 26, 1) != 0;
    // prfm has the form of a signed load of 8 bytes.
    let load = !vector && opc != 0 && !(size == 3 && opc == 2);
    let clobbers = if load { bit_or_zero(to) } else { 0 };
    let read = |indexed, displacement| {
        let memory = Memory { base: Some(base), indexed, displacement };
        match opc {
            1 | 2 if load && to != SP => {
                Effect::Load { to, memory, width: Width { bytes: 1 << size, signed: opc == 2 } }
            }
            _ => clobber(clobbers),
        }
    };
    if bits(word, 24, 1) != 0 {
        return read(false, u64::from(bits(word, 10, 12)) << size);
    }
    match (bits(word, 21, 1), bits(word, 10, 2)) {
        (0, 0) => read(false, signed(word, 12, 9).cast_unsigned()),
        (0, 1 | 3) => Effect::Adjust { register: base, by: signed(word, 12, 9) as i32, clobbers },
        (0, _) => clobber(clobbers),
        // Atomics; ld64b writes eight registers.
        (_, 0) if !vector && word & 0xffff_fc00 == 0xf83f_d000 => clobber(0xff << to & !bit(SP)),
        (_, 0) => clobber(bit_or_zero(to) | bit_or_zero(register(word, 16))),
        (_, 2) => read(true, 0),
        // ldraa, ldrab; bit 11 writes the base back.
        _ => clobber(bit_or_zero(to) | if bits(word, 11, 1) != 0 { bit(base) } else { 0 }),
    }
}
