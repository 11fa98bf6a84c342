//! x86-64 instructions.
//!
//! Lengths, validity and operands come from iced-x86. The kind of an instruction (branch, push,
//! string operation, the kernel's treatment) comes from its own bytes: prefixes, opcode map,
//! opcode, ModRM (Intel SDM volume 2, chapter 2 and appendix A). That needs no tables beyond the
//! decoder's, which already is the largest part of this crate in the binary.

mod encoding;
mod kernel;

use iced_x86::{Code as Opcode, Decoder, DecoderOptions, Instruction, OpKind, Register};

use self::encoding::{Encoding, Map};
use super::{Code, Effect, Flow, Machine, Memory, NULL_BYTES, Pointer, Step, Width};
use crate::Part;
use crate::Refusal;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
const RSI: u8 = 6;
const RDI: u8 = 7;
const R11: u8 = 11;

/// x86-64.
pub(super) const MACHINE: Machine = Machine {
    stack_pointer: RSP,
    registers: 16,
    // rax, rcx, rdx, rsi, rdi, r8 to r11.
    call_clobbers: 0b0000_1111_1100_0111,
    frame_pointer: RBP,
};

/// Registers that instructions write without an operand, except string instructions and calls.
const IMPLICIT: u32 = bit(RAX) | bit(RCX) | bit(RDX) | bit(RBX);

const fn bit(register: u8) -> u32 {
    1 << register
}

/// Decodes one part.
pub(super) fn decode(part: Part<'_>, code: &mut Code) -> Result<(), Refusal> {
    let mut decoder = Decoder::with_ip(64, part.bytes, part.address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let at = decoder.position();
        let address = part.address.wrapping_add(at as u64);
        decoder.decode_out(&mut instruction);
        let bytes = part.bytes.get(at..decoder.position()).unwrap_or_default();
        let undecodable = Refusal::Undecodable { address };
        if instruction.is_invalid() || bytes.is_empty() {
            return Err(undecodable);
        }
        let encoding = Encoding::of(bytes).ok_or(undecodable.clone())?;
        let step = step(&instruction, &encoding, bytes).ok_or(undecodable)?;
        note_references(&instruction, address, code);
        code.push(step)?;
        let rest = part.bytes.get(decoder.position()..).unwrap_or_default();
        if ends_flow(step.flow) && is_filling(rest) {
            break;
        }
    }
    Ok(())
}

/// Returns true if only branches, if any, reach the next instruction. A call may never return.
fn ends_flow(flow: Flow) -> bool {
    !matches!(flow, Flow::Next | Flow::Branch { .. })
}

/// Returns true if bytes only fill the space up to the next function: all zero or all `int3`.
fn is_filling(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (bytes.iter().all(|&byte| byte == 0) || bytes.iter().all(|&byte| byte == 0xcc))
}

fn step(instruction: &Instruction, encoding: &Encoding, bytes: &[u8]) -> Option<Step> {
    let flow = flow(instruction, encoding)?;
    let effect = effect(instruction, encoding);
    let landing_pad = bytes == [0xf3, 0x0f, 0x1e, 0xfa];
    Some(Step {
        address: instruction.ip(),
        flow,
        effect,
        length: u8::try_from(bytes.len()).ok()?,
        probing: kernel::probing(encoding, bytes),
        brief: !encoding.is_slow_or_system(),
        faults: may_fault(instruction, encoding),
        landing_pad,
        padding: encoding.is_padding(),
        locked: bytes.first() == Some(&0xf0),
        touches: touches(instruction, encoding),
        exclusive: None,
    })
}

fn flow(instruction: &Instruction, encoding: &Encoding) -> Option<Flow> {
    let target = instruction.near_branch_target();
    let flow = match (encoding.map, encoding.opcode) {
        (Map::One, 0xeb | 0xe9) => Flow::Jump(target),
        (Map::One, 0x70..=0x7f) | (Map::Two, 0x80..=0x8f) => {
            Flow::Branch { target, condition: Some(encoding.opcode & 0x0f) }
        }
        // loopne, loope, loop, jrcxz
        (Map::One, 0xe0..=0xe3) => Flow::Branch { target, condition: None },
        // xbegin: on an abort control goes to the target.
        (Map::One, 0xc7) if encoding.modrm == Some(0xf8) => Flow::Branch { target, condition: None },
        (Map::One, 0xe8) => Flow::Call(Some(target)),
        (Map::One, 0xff) => match encoding.extension() {
            2 => Flow::Call(None),
            3 | 5 => Flow::SystemReturn,
            4 => Flow::Indirect(pointer(instruction, encoding)),
            _ => Flow::Next,
        },
        (Map::One, 0xc2 | 0xc3) => Flow::Return,
        // ret far, iret; sysret, sysenter, sysexit; uiret.
        (Map::One, 0xca | 0xcb | 0xcf) | (Map::Two, 0x07 | 0x34 | 0x35) => Flow::SystemReturn,
        (Map::Two, 0x01) if encoding.modrm == Some(0xec) && encoding.repeat => Flow::SystemReturn,
        // int3, int1, hlt; ud2, ud1, ud0.
        (Map::One, 0xcc | 0xf1 | 0xf4) | (Map::Two, 0x0b | 0xb9 | 0xff) => Flow::Stop,
        _ => Flow::Next,
    };
    // With an operand-size prefix Intel and AMD disagree on the length of a near branch; with REX.W they agree.
    let near = !matches!(flow, Flow::Next | Flow::Stop | Flow::SystemReturn);
    (!near || !encoding.operand_size || encoding.rex & 0x08 != 0).then_some(flow)
}

/// See [`Step::faults`].
fn may_fault(instruction: &Instruction, encoding: &Encoding) -> bool {
    // div and idiv of group 3.
    let divides =
        encoding.map == Map::One && matches!(encoding.opcode, 0xf6 | 0xf7) && encoding.extension() >= 6;
    let kinds =
        [instruction.op0_kind(), instruction.op1_kind(), instruction.op2_kind(), instruction.op3_kind()];
    let memory = kinds.contains(&OpKind::Memory);
    let address_only = encoding.map == Map::One && encoding.opcode == 0x8d;
    let safe = [Register::RSP, Register::RBP, Register::RIP, Register::None];
    let known = safe.contains(&instruction.memory_base()) && instruction.memory_index() == Register::None;
    divides || memory && !address_only && !known
}

/// Returns the low fixed address that a `mov` reads or writes.
fn touches(instruction: &Instruction, encoding: &Encoding) -> Option<(Option<u8>, u16)> {
    let moves = matches!((encoding.map, encoding.opcode), (Map::One, 0x88..=0x8b | 0xc6 | 0xc7));
    let names_memory = instruction.op0_kind() == OpKind::Memory || instruction.op1_kind() == OpKind::Memory;
    let memory = memory(instruction).filter(|_| moves && names_memory)?;
    let low = memory.base.is_none() && !memory.indexed && memory.displacement < NULL_BYTES;
    low.then_some((None, memory.displacement as u16))
}

fn pointer(instruction: &Instruction, encoding: &Encoding) -> Pointer {
    match (instruction.op0_kind(), gpr(instruction.op0_register()), encoding.notrack) {
        (OpKind::Register, Some(register), false) => Pointer::Register(register),
        (OpKind::Register, Some(register), true) => Pointer::Untracked(register),
        (_, _, notrack) => {
            // An untracked word (segment, 32-bit address) is like a word behind an unknown pointer.
            let unknown = Memory { base: Some(RSP), indexed: true, displacement: 0 };
            let memory = memory(instruction).unwrap_or(unknown);
            if notrack { Pointer::UntrackedMemory(memory) } else { Pointer::Memory(memory) }
        }
    }
}

/// Returns the memory operand, if it uses 64-bit registers and no segment.
fn memory(instruction: &Instruction) -> Option<Memory> {
    if instruction.segment_prefix() == Register::FS || instruction.segment_prefix() == Register::GS {
        return None;
    }
    let displacement = instruction.memory_displacement64();
    let indexed = instruction.memory_index() != Register::None;
    let base = match instruction.memory_base() {
        // iced has already added the address of the next instruction.
        Register::None | Register::RIP => None,
        base => Some(gpr64(base)?),
    };
    if indexed {
        gpr64(instruction.memory_index())?;
    }
    Some(Memory { base, indexed, displacement })
}

/// Returns the number of a general register of any width.
fn gpr(register: Register) -> Option<u8> {
    let number = register as usize;
    let at = |first: Register| u8::try_from(number - first as usize).ok();
    if (Register::AH as usize..=Register::BH as usize).contains(&number) {
        at(Register::AH)
    } else if (Register::AL as usize..=Register::BL as usize).contains(&number) {
        at(Register::AL)
    } else if (Register::SPL as usize..=Register::R15L as usize).contains(&number) {
        at(Register::SPL).map(|register| register + RSP)
    } else if (Register::AX as usize..=Register::R15W as usize).contains(&number) {
        at(Register::AX)
    } else if (Register::EAX as usize..=Register::R15D as usize).contains(&number) {
        at(Register::EAX)
    } else {
        gpr64(register)
    }
}

/// Returns the number of a 64-bit general register.
fn gpr64(register: Register) -> Option<u8> {
    let number = register as usize;
    (Register::RAX as usize..=Register::R15 as usize)
        .contains(&number)
        .then(|| u8::try_from(number - Register::RAX as usize).ok())
        .flatten()
}

/// Records operands relative to the instruction pointer that lie in the function.
fn note_references(instruction: &Instruction, address: u64, code: &mut Code) {
    if instruction.is_ip_rel_memory_operand() {
        let accesses =
            !matches!(instruction.code(), Opcode::Lea_r64_m | Opcode::Lea_r32_m | Opcode::Lea_r16_m);
        // A multi-byte nop names memory and does not touch it.
        let nop = matches!(instruction.code(), Opcode::Nop_rm16 | Opcode::Nop_rm32 | Opcode::Nop_rm64);
        if !nop {
            code.refer(address, instruction.ip_rel_memory_address(), accesses);
        }
    }
}

/// Returns the effect of an instruction on the general registers.
fn effect(instruction: &Instruction, encoding: &Encoding) -> Effect {
    stack_effect(instruction, encoding)
        .or_else(|| followed_effect(instruction))
        .unwrap_or_else(|| other_effect(instruction, encoding))
}

/// Instructions that move the stack pointer without naming it.
fn stack_effect(instruction: &Instruction, encoding: &Encoding) -> Option<Effect> {
    // Words of 16 bits: no compiler uses them.
    let narrow = encoding.operand_size && encoding.rex & 0x08 == 0;
    let push = Effect::Adjust { register: RSP, by: -8, clobbers: 0 };
    let effect = match (encoding.map, encoding.opcode) {
        (Map::One, 0x50..=0x57 | 0x68 | 0x6a | 0x9c) | (Map::Two, 0xa0 | 0xa8) => push,
        (Map::One, 0xff) if encoding.extension() == 6 => push,
        (Map::One, 0x58..=0x5f | 0x8f | 0x9d) | (Map::Two, 0xa1 | 0xa9) => {
            let to = gpr(instruction.op0_register()).map_or(0, bit);
            if to & bit(RSP) != 0 {
                Effect::Clobber(bit(RSP))
            } else {
                Effect::Adjust { register: RSP, by: 8, clobbers: to }
            }
        }
        (Map::One, 0xc8) => Effect::Clobber(bit(RSP) | bit(RBP)),
        (Map::One, 0xc9) => Effect::Leave,
        (Map::One, 0xe8) => Effect::Call,
        (Map::One, 0xff) if encoding.extension() == 2 => Effect::Call,
        _ => return None,
    };
    Some(if narrow {
        Effect::Clobber(bit(RSP) | bit(RBP) | gpr(instruction.op0_register()).map_or(0, bit))
    } else {
        effect
    })
}

/// Instructions with a tracked result: copies, sums and loads of 64 bits, table entry loads.
fn followed_effect(instruction: &Instruction) -> Option<Effect> {
    let to = gpr(instruction.op0_register()).filter(|_| instruction.op0_kind() == OpKind::Register);
    let from = gpr(instruction.op1_register()).filter(|_| instruction.op1_kind() == OpKind::Register);
    let load = |bytes, signed| {
        Some(match memory(instruction) {
            Some(memory) => Effect::Load { to: to?, memory, width: Width { bytes, signed } },
            None => Effect::Clobber(bit(to?)),
        })
    };
    let add = |by: Option<i64>| by.and_then(|by| i32::try_from(by).ok());
    match instruction.code() {
        Opcode::Mov_r64_rm64 | Opcode::Mov_rm64_r64 => match (to, from) {
            (Some(to), Some(from)) => Some(Effect::Move { to, from, add: 0 }),
            (Some(_), None) => load(8, false),
            _ => Some(Effect::Nothing),
        },
        Opcode::Movsxd_r64_rm32 => match from {
            Some(from) => Some(Effect::Extend { to: to?, from, width: Width { bytes: 4, signed: true } }),
            None => load(4, true),
        },
        Opcode::Mov_r32_rm32 | Opcode::Mov_rm32_r32 => match (to, from) {
            (Some(to), Some(from)) => {
                Some(Effect::Extend { to, from, width: Width { bytes: 4, signed: false } })
            }
            (Some(_), None) => load(4, false),
            _ => Some(Effect::Nothing),
        },
        Opcode::Cdqe => Some(Effect::Extend { to: RAX, from: RAX, width: Width { bytes: 4, signed: true } }),
        Opcode::Lea_r64_m => {
            let to = to?;
            let Memory { base, indexed, displacement } = memory(instruction)?;
            match (base, indexed) {
                (None, false) => Some(Effect::Set { to, value: displacement }),
                (Some(from), false) => match add(Some(displacement.cast_signed())) {
                    Some(add) => Some(Effect::Move { to, from, add }),
                    None => Some(Effect::Clobber(bit(to))),
                },
                (Some(a), true) if displacement == 0 && instruction.memory_index_scale() == 1 => {
                    Some(Effect::Sum { to, a, b: gpr64(instruction.memory_index())?, shift: 0, extend: None })
                }
                _ => Some(Effect::Clobber(bit(to))),
            }
        }
        Opcode::Mov_r64_imm64 | Opcode::Mov_rm64_imm32 | Opcode::Mov_r32_imm32 => match to {
            Some(to) => Some(Effect::Set { to, value: instruction.immediate(1) }),
            None => Some(Effect::Nothing),
        },
        Opcode::Add_rm64_imm8 | Opcode::Add_rm64_imm32 | Opcode::Add_RAX_imm32 => match to {
            Some(to) => match add(Some(instruction.immediate(1).cast_signed())) {
                Some(add) => Some(Effect::Move { to, from: to, add }),
                None => Some(Effect::Clobber(bit(to))),
            },
            None => Some(Effect::Nothing),
        },
        Opcode::Sub_rm64_imm8 | Opcode::Sub_rm64_imm32 | Opcode::Sub_RAX_imm32 => match to {
            Some(to) => match add(instruction.immediate(1).cast_signed().checked_neg()) {
                Some(add) => Some(Effect::Move { to, from: to, add }),
                None => Some(Effect::Clobber(bit(to))),
            },
            None => Some(Effect::Nothing),
        },
        Opcode::Add_r64_rm64 | Opcode::Add_rm64_r64 => match (to, from) {
            (Some(to), Some(b)) => Some(Effect::Sum { to, a: to, b, shift: 0, extend: None }),
            (Some(to), None) => Some(Effect::Clobber(bit(to))),
            _ => Some(Effect::Nothing),
        },
        Opcode::Sub_r64_rm64 | Opcode::Sub_rm64_r64 => match (to, from) {
            (Some(to), Some(less)) => Some(Effect::Difference { to, from: to, less }),
            (Some(to), None) => Some(Effect::Clobber(bit(to))),
            _ => Some(Effect::Nothing),
        },
        // A negative mask keeps the sign and the high bits: `and $-16, %rsp`.
        Opcode::And_rm64_imm8 | Opcode::And_rm64_imm32 => match to {
            Some(to) if instruction.immediate(1).cast_signed() < 0 => {
                Some(Effect::AlignDown { to, from: to })
            }
            Some(to) => Some(Effect::Clobber(bit(to))),
            None => Some(Effect::Nothing),
        },
        _ => None,
    }
}

/// All other instructions: they clobber the registers that they may write.
fn other_effect(instruction: &Instruction, encoding: &Encoding) -> Effect {
    // A missing operand is the register without a name, which matches none of these.
    let named = |operand| match instruction.op_kind(operand) {
        OpKind::Register => gpr(instruction.op_register(operand)).map_or(0, bit),
        _ => 0,
    };
    let mask = if encoding.only_compares() {
        0
    } else if encoding.writes_first_operand_only() {
        named(0)
    } else {
        let mut mask = named(0) | named(1) | IMPLICIT;
        if encoding.is_string() {
            mask |= bit(RSI) | bit(RDI);
        }
        // syscall
        if (encoding.map, encoding.opcode) == (Map::Two, 0x05) {
            mask |= bit(R11);
        }
        mask
    };
    if mask == 0 { Effect::Nothing } else { Effect::Clobber(mask) }
}

#[cfg(test)]
mod tests;
