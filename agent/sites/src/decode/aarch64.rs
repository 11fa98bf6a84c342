//! AArch64 instructions: words of 32 bits, distinguished by masks (Arm ARM DDI 0487, chapter C4).
//!
//! Register 31 is the stack pointer in some places and zero in others. If an instruction of an
//! unknown kind could mean the stack pointer, it counts as written.

mod effect;
mod kernel;

use super::{Code, Flow, Machine, NULL_BYTES, Pointer, Step};
use crate::Part;
use crate::Refusal;

const SP: u8 = 31;

/// AArch64.
pub(super) const MACHINE: Machine = Machine {
    stack_pointer: SP,
    frame_pointer: 29,
    registers: 32,
    // x0 to x18 and the link register x30.
    call_clobbers: 0x4007_ffff,
};

const NOP: u32 = 0xd503_201f;

/// Decodes one part.
pub(super) fn decode(part: Part<'_>, code: &mut Code) -> Result<(), Refusal> {
    let (words, rest) = part.bytes.as_chunks::<4>();
    if !part.address.is_multiple_of(4) {
        return Err(Refusal::Undecodable { address: part.address });
    }
    let mut address = part.address;
    for word in words {
        let word = u32::from_le_bytes(*word);
        let step = step(word, address).ok_or(Refusal::Undecodable { address })?;
        if let Some((to, accesses)) = effect::refers_to(word, address) {
            code.refer(address, to, accesses);
        }
        code.push(step)?;
        address = address.wrapping_add(4);
    }
    if rest.is_empty() { Ok(()) } else { Err(Refusal::Undecodable { address }) }
}

/// Bits `low` to `low + count - 1`.
const fn bits(word: u32, low: u32, count: u32) -> u32 {
    word >> low & ((1 << count) - 1)
}

/// Returns a register's number, in bits `low` to `low + 4`.
const fn register(word: u32, low: u32) -> u8 {
    bits(word, low, 5) as u8
}

/// Returns a signed number of `count` bits from bit `low` on.
const fn signed(word: u32, low: u32, count: u32) -> i64 {
    let unused = 32 - count;
    ((word >> low << unused).cast_signed() >> unused) as i64
}

fn step(word: u32, address: u64) -> Option<Step> {
    // Bits 25 to 28: unallocated encodings. UDF is 0 to ffff; with bit 31 they belong to SME.
    let unallocated = match bits(word, 25, 4) {
        0 => word >> 31 == 0 && word > 0xffff,
        1 | 3 => true,
        _ => false,
    };
    if unallocated {
        return None;
    }
    let flow = flow(word, address)?;
    let effect =
        if matches!(flow, Flow::Call(_)) { super::Effect::Call } else { effect::effect(word, address) };
    Some(Step {
        address,
        flow,
        effect,
        length: 4,
        probing: kernel::probing(word),
        brief: !is_slow_or_system(word),
        faults: true,
        landing_pad: is_landing_pad(word),
        padding: word == NOP || word == 0,
        locked: false,
        exclusive: exclusive(word),
        touches: touches(word),
    })
}

/// Returns register and offset of a load or store of general registers with an unsigned offset (Arm
/// ARM C4.1, "Load/store register (unsigned immediate)").
fn touches(word: u32) -> Option<(Option<u8>, u16)> {
    let offset = bits(word, 10, 12) << bits(word, 30, 2);
    // Size 3 with opc 2 is prefetching, which never faults.
    let plain = word & 0x3f00_0000 == 0x3900_0000 && word & 0xffc0_0000 != 0xf980_0000;
    let base = register(word, 5);
    (plain && base != SP && u64::from(offset) < NULL_BYTES).then_some((Some(base), offset as u16))
}

/// Matches `bti`, and `paciasp` and `pacibsp`, which are landing pads too.
fn is_landing_pad(word: u32) -> bool {
    word & 0xffff_ff3f == 0xd503_241f || word & 0xffff_ffbf == 0xd503_233f
}

fn flow(word: u32, address: u64) -> Option<Flow> {
    let to = |offset: i64| address.wrapping_add_signed(offset << 2);
    let flow = match word >> 24 {
        _ if word <= 0xffff => Flow::Stop,
        // b, bl
        0x14..=0x17 => Flow::Jump(to(signed(word, 0, 26))),
        0x94..=0x97 => Flow::Call(Some(to(signed(word, 0, 26)))),
        // b.cond, bc.cond; the conditions 14 and 15 are "always"
        0x54 => match (to(signed(word, 5, 19)), bits(word, 0, 4) as u8) {
            (target, 14 | 15) => Flow::Jump(target),
            (target, condition) => Flow::Branch { target, condition: Some(condition) },
        },
        // retaasppc, retabsppc
        0x55 => Flow::AuthenticatedReturn,
        // cbz, cbnz
        0x34 | 0x35 | 0xb4 | 0xb5 => Flow::Branch { target: to(signed(word, 5, 19)), condition: None },
        // tbz, tbnz
        0x36 | 0x37 | 0xb6 | 0xb7 => Flow::Branch { target: to(signed(word, 5, 14)), condition: None },
        // compare and branch (FEAT_CMPBR)
        0x74 | 0x75 | 0xf4 | 0xf5 => Flow::Branch { target: to(signed(word, 5, 9)), condition: None },
        0xd6 | 0xd7 => branch_to_register(word)?,
        // brk, hlt
        0xd4 if matches!(word & 0xffe0_001f, 0xd420_0000 | 0xd440_0000) => Flow::Stop,
        _ => Flow::Next,
    };
    Some(flow)
}

fn branch_to_register(word: u32) -> Option<Flow> {
    let plain = word & 0xffff_fc1f;
    let authenticated = word & 0xfeff_f800;
    Some(match (plain, authenticated) {
        // br, braa, brab
        (0xd61f_0000, _) | (_, 0xd61f_0800) => Flow::Indirect(Pointer::Register(register(word, 5))),
        // blr, blraa, blrab
        (0xd63f_0000, _) | (_, 0xd63f_0800) => Flow::Call(None),
        (0xd65f_0000, _) => Flow::Return,
        // retaa, retab and their forms with an address
        _ if word & 0xffff_fbe0 == 0xd65f_0be0 => Flow::AuthenticatedReturn,
        // eret, drps
        _ if word & 0xffdf_0000 == 0xd69f_0000 => Flow::SystemReturn,
        _ => return None,
    })
}

/// `Some(true)`: load-exclusive, `Some(false)`: store-exclusive or clrex. Compare-and-swap of a
/// pair has this form but is not exclusive.
fn exclusive(word: u32) -> Option<bool> {
    if word & 0xffff_f0ff == 0xd503_305f {
        return Some(false);
    }
    let pair_swap = word & 0xbfa0_7c00 == 0x0820_7c00;
    (word & 0x3f80_0000 == 0x0800_0000 && !pair_swap).then_some(word & 0x0040_0000 != 0)
}

/// Instructions that the entry must not pass although the next one follows: exclusive sequences,
/// memory copy and set, system instructions other than hints without waiting, reads of system
/// registers, and barriers.
fn is_slow_or_system(word: u32) -> bool {
    let system = match word >> 24 {
        0xd4 => true,
        0xd5 => {
            let hint = word & 0xffff_f01f == 0xd503_201f;
            // yield, wfe, wfi, sev, sevl, dgh: 1 to 6
            let waits = hint && (1..=6).contains(&bits(word, 5, 7));
            let read = word & 0xfff0_0000 == 0xd530_0000;
            let barrier = word & 0xffff_f09f == 0xd503_309f;
            !(read || barrier || hint && !waits)
        }
        _ => false,
    };
    let copies = word & 0x3b20_0c00 == 0x1900_0400;
    system || copies || exclusive(word).is_some()
}

#[cfg(test)]
mod tests;
