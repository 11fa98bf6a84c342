use super::*;
use crate::Arch;
use crate::decode::oracle::{Line, Random, Scratch, disassemble};
use crate::decode::{Effect, Probing};

fn of(word: u32) -> Step {
    step(word, 0x1000).unwrap_or_else(|| panic!("{word:08x} is an instruction"))
}

#[test]
fn branches_lead_where_the_assembler_meant() {
    // As assembled by GNU as at address 0x1000 with the labels at 0x1040 and 0xfc0.
    assert_eq!(of(0x1400_0010).flow, Flow::Jump(0x1040)); // b
    assert_eq!(of(0x17ff_fff0).flow, Flow::Jump(0xfc0)); // b, backwards
    assert_eq!(of(0x9400_0010).flow, Flow::Call(Some(0x1040))); // bl
    assert_eq!(of(0x5400_0201).flow, Flow::Branch { target: 0x1040, condition: Some(1) }); // b.ne
    assert_eq!(of(0x54ff_fe0b).flow, Flow::Branch { target: 0xfc0, condition: Some(11) }); // b.lt
    assert_eq!(of(0xb400_0205).flow, Flow::Branch { target: 0x1040, condition: None }); // cbz x5
    assert_eq!(of(0x3738_0205).flow, Flow::Branch { target: 0x1040, condition: None }); // tbnz w5, #7
    assert_eq!(of(0xd61f_0040).flow, Flow::Indirect(Pointer::Register(2))); // br x2
    assert_eq!(of(0xd63f_0040).flow, Flow::Call(None)); // blr x2
    assert_eq!(of(0xd65f_03c0).flow, Flow::Return); // ret
    assert_eq!(of(0xd65f_0bff).flow, Flow::AuthenticatedReturn); // retaa
    assert_eq!(of(0xd65f_0fff).flow, Flow::AuthenticatedReturn); // retab
    assert_eq!(of(0xd69f_03e0).flow, Flow::SystemReturn); // eret
    assert_eq!(of(0xd420_0020).flow, Flow::Stop); // brk #1
    assert_eq!(of(0).flow, Flow::Stop); // udf #0
}

#[test]
fn the_stack_pointer_is_followed() {
    let sp = |by| Effect::Adjust { register: SP, by, clobbers: 0 };
    assert_eq!(of(0xa9be_7bfd).effect, sp(-32)); // stp x29, x30, [sp, #-32]!
    assert_eq!(
        of(0xa8c2_7bfd).effect, // ldp x29, x30, [sp], #32
        Effect::Adjust { register: SP, by: 32, clobbers: 1 << 29 | 1 << 30 }
    );
    assert_eq!(of(0xf81f_0fe1).effect, sp(-16)); // str x1, [sp, #-16]!
    assert_eq!(of(0x6dbb_27e8).effect, sp(-80)); // stp d8, d9, [sp, #-80]!
    assert_eq!(of(0xd100_83ff).effect, Effect::Move { to: SP, from: SP, add: -32 }); // sub sp, sp, #32
    assert_eq!(of(0xd140_07ff).effect, Effect::Move { to: SP, from: SP, add: -4096 }); // sub sp, sp, #1, lsl #12
    assert_eq!(of(0x9100_03fd).effect, Effect::Move { to: 29, from: SP, add: 0 }); // mov x29, sp
    assert_eq!(of(0x9100_03bf).effect, Effect::Move { to: SP, from: 29, add: 0 }); // mov sp, x29
    assert_eq!(of(0xcb2c_63ff).effect, Effect::Difference { to: SP, from: SP, less: 12 }); // sub sp, sp, x12
    assert_eq!(
        of(0x8b2c_63ff).effect, // add sp, sp, x12
        Effect::Sum { to: SP, a: SP, b: 12, shift: 0, extend: None }
    );
    assert_eq!(of(0x927c_ed3f).effect, Effect::AlignDown { to: SP, from: 9 }); // and sp, x9, #-16
    // The same number means zero here.
    assert_eq!(of(0xeb02_003f).effect, Effect::Nothing); // cmp x1, x2
    assert_eq!(of(0xf100_043f).effect, Effect::Nothing); // cmp x1, #1
    assert_eq!(of(0xaa1f_03e0).effect, Effect::Set { to: 0, value: 0 }); // mov x0, xzr
    assert_eq!(of(0xf900_001f).effect, Effect::Nothing); // str xzr, [x0]
}

#[test]
fn addresses_of_tables_are_followed() {
    assert_eq!(of(0x9000_0000).effect, Effect::Set { to: 0, value: 0x1000 }); // adrp
    assert_eq!(of(0x1000_0201).effect, Effect::Set { to: 1, value: 0x1040 }); // adr
    assert_eq!(of(0x9104_8000).effect, Effect::Move { to: 0, from: 0, add: 0x120 }); // add x0, x0, #0x120
    let memory = |indexed| crate::decode::Memory { base: Some(0), indexed, displacement: 0 };
    let width = |bytes, signed| crate::decode::Width { bytes, signed };
    assert_eq!(
        of(0x3861_4800).effect, // ldrb w0, [x0, w1, uxtw]
        Effect::Load { to: 0, memory: memory(true), width: width(1, false) }
    );
    assert_eq!(
        of(0xb8a1_7800).effect, // ldrsw x0, [x0, x1, lsl #2]
        Effect::Load { to: 0, memory: memory(true), width: width(4, true) }
    );
    assert_eq!(
        of(0x8b20_8820).effect, // add x0, x1, w0, sxtb #2
        Effect::Sum { to: 0, a: 1, b: 0, shift: 2, extend: Some(width(1, true)) }
    );
    assert_eq!(
        of(0x8b0a_0929).effect, // add x9, x9, x10, lsl #2
        Effect::Sum { to: 9, a: 9, b: 10, shift: 2, extend: None }
    );
}

#[test]
fn the_kernel_simulates_branches_and_addresses_and_refuses_what_it_cannot_step() {
    for word in [
        0x1400_0010,
        0x9400_0010,
        0x5400_0201,
        0xb400_0205,
        0x3738_0205,
        0xd61f_0040,
        0xd65f_03c0,
        0x9000_0000,
    ] {
        assert_eq!(of(word).probing, Probing::Emulated, "{word:08x}");
    }
    // stp, mov, nop, bti c, paciasp, mrs x0, tpidr_el0
    for word in [0xa9be_7bfd, 0xaa01_03e0, NOP, 0xd503_245f, 0xd503_233f, 0xd53b_d040] {
        assert_eq!(of(word).probing, Probing::SingleStepped, "{word:08x}");
    }
    // ldr of a literal, ldxr, stxr, svc, brk, msr, wfe, retaa, braa
    for word in [
        0x5800_0040,
        0xc85f_7c00,
        0xc800_7c01,
        0xd400_0001,
        0xd420_0020,
        0xd51b_d040,
        0xd503_205f,
        0xd65f_0bff,
        0xd71f_0841,
    ] {
        assert_eq!(of(word).probing, Probing::Unsound, "{word:08x}");
    }
}

#[test]
fn an_exclusive_sequence_is_known_by_its_ends() {
    assert_eq!(of(0xc85f_7c00).exclusive, Some(true)); // ldxr
    assert_eq!(of(0x885f_fc00).exclusive, Some(true)); // ldaxr
    assert_eq!(of(0xc87f_0400).exclusive, Some(true)); // ldxp
    assert_eq!(of(0xc800_7c01).exclusive, Some(false)); // stxr
    assert_eq!(of(0xd503_3f5f).exclusive, Some(false)); // clrex
    assert_eq!(of(0xc8df_fc00).exclusive, None); // ldar
    assert_eq!(of(0xc8a0_7c01).exclusive, None); // cas
    assert_eq!(of(0x4820_7c82).exclusive, None); // casp
    for word in [0xc85f_7c00, 0xc800_7c01] {
        assert!(!of(word).is_passable());
    }
}

/// Returns the lines of objdump for random words, with the words.
fn random_lines() -> Vec<(u32, Line)> {
    let mut random = Random(0xfeed_5eed);
    let mut words: Vec<u32> = (0..100_000).map(|_| (random.next() >> 32) as u32).collect();
    // Half are from important groups: immediates, branches, loads and stores; many with the stack
    // pointer.
    for word in words.iter_mut().step_by(2) {
        let group = [0x1000_0000, 0x1400_0000, 0x0800_0000, 0x0c00_0000, 0x0a00_0000]
            [(random.next() >> 40) as usize % 5];
        *word = *word & !0x1e00_0000 | group;
        match random.next() >> 33 & 3 {
            0 => *word |= 0x1f,
            1 => *word |= 0x3e0,
            _ => {}
        }
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let file = Scratch::new("random-aarch64", &bytes);
    let lines = disassemble(Arch::Aarch64, file.path(), true).into_iter().flatten();
    lines.map(|line| (words[line.address as usize / 4], line)).collect()
}

#[test]
fn random_words_branch_where_objdump_says() {
    let mut branches = 0;
    for (word, line) in random_lines() {
        let text = line.text.as_str();
        let mnemonic = text.split_whitespace().next().unwrap_or_default();
        if text.contains("undefined") || mnemonic == ".inst" {
            continue;
        }
        let Some(step) = step(word, line.address) else {
            assert!(!matches!(mnemonic, "ret" | "b" | "bl"), "{line:x?} is refused");
            continue;
        };
        let target = || {
            let last =
                text.split("//").next()?.split([' ', '\t', ',']).rfind(|field| field.starts_with("0x"))?;
            u64::from_str_radix(&last[2..], 16).ok()
        };
        let register =
            || text.split_whitespace().nth(1).and_then(|name| name.strip_prefix('x')?.parse::<u8>().ok());
        branches += 1;
        match mnemonic {
            "b" | "b.al" | "b.nv" => {
                assert_eq!(step.flow, Flow::Jump(target().expect("a target")), "{line:x?}")
            }
            "bl" => assert_eq!(step.flow, Flow::Call(target()), "{line:x?}"),
            "ret" => assert_eq!(step.flow, Flow::Return, "{line:x?}"),
            "retaa" | "retab" => assert_eq!(step.flow, Flow::AuthenticatedReturn, "{line:x?}"),
            "br" => assert_eq!(
                step.flow,
                Flow::Indirect(Pointer::Register(register().unwrap_or(SP))),
                "{line:x?}"
            ),
            "blr" => assert_eq!(step.flow, Flow::Call(None), "{line:x?}"),
            "cbz" | "cbnz" | "tbz" | "tbnz" => {
                assert_eq!(
                    step.flow,
                    Flow::Branch { target: target().expect("a target"), condition: None },
                    "{line:x?}"
                );
            }
            _ if mnemonic.starts_with("b.") => {
                let condition = Some(word as u8 & 0xf);
                assert_eq!(
                    step.flow,
                    Flow::Branch { target: target().expect("a target"), condition },
                    "{line:x?}"
                );
            }
            _ => {
                branches -= 1;
                assert!(
                    !matches!(step.flow, Flow::Jump(_) | Flow::Return | Flow::Indirect(_))
                        || mnemonic.starts_with("bra")
                        || matches!(mnemonic, "bc.al" | "bc.nv"),
                    "{line:x?} {:?}",
                    step.flow
                );
            }
        }
    }
    assert!(branches > 1500, "{branches}");
}

#[test]
fn no_write_of_the_stack_pointer_is_missed() {
    let mut writes = 0;
    for (word, line) in random_lines() {
        let text = line.text.split("//").next().unwrap_or_default();
        let Some(step) = step(word, line.address).filter(|_| !text.contains("undefined")) else { continue };
        let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let operands = operands.trim();
        let compares = matches!(mnemonic, "cmp" | "cmn" | "tst" | "subps" | "cmpp");
        let first = operands.split(',').next().unwrap_or_default();
        // A tag of the stack pointer may be stored.
        let destination = matches!(first, "sp" | "wsp") && !compares && !mnemonic.starts_with("st");
        // [sp, #8]! and [sp], #8
        let written_back =
            operands.contains("[sp], ") || operands.contains("[sp, ") && operands.ends_with("]!");
        if destination || written_back {
            writes += 1;
            assert!(step.effect.writes(SP), "{line:x?} {:?}", step.effect);
            let by_nothing = operands.contains("#0]!") || operands.ends_with("], #0");
            assert!(by_nothing || step.effect.added_to(SP) != Some(0), "{line:x?} {:?}", step.effect);
        }
    }
    assert!(writes > 1500, "{writes}");
}
