use iced_x86::{InstructionInfoFactory, Mnemonic, OpAccess};

use super::*;
use crate::Arch;
use crate::decode::oracle::{Line, Random, Scratch, disassemble, library};

/// Returns the first instruction of the bytes, if it is accepted.
fn first(bytes: &[u8], address: u64) -> Option<(Instruction, Step)> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let bytes = &bytes[..instruction.len()];
    Some((instruction, step(&instruction, &Encoding::of(bytes)?, bytes)?))
}

fn is_prefix(word: &str) -> bool {
    let prefixes = [
        "rex", "data16", "addr32", "cs", "ds", "es", "ss", "fs", "gs", "lock", "repz", "repnz", "bnd",
        "notrack",
    ];
    prefixes.contains(&word.split('.').next().unwrap_or_default())
}

/// Matches `fwait` and the x87 instruction behind it, which objdump shows as one.
fn is_wait(line: &Line, step: &Step) -> bool {
    let length = usize::from(step.length);
    length < line.bytes.len() && line.bytes.get(length - 1) == Some(&0x9b)
}

fn check_flow(line: &Line, step: &Step) {
    let mut words = line.text.split_whitespace().skip_while(|word| is_prefix(word));
    let mnemonic = words.next().and_then(|word| word.split(',').next()).unwrap_or_default();
    let operand = words.next().unwrap_or_default();
    let target = || u64::from_str_radix(operand.trim_start_matches("0x"), 16).ok();
    let indirect = operand.starts_with('*');
    match (mnemonic, step.flow) {
        ("ret", flow) => assert_eq!(flow, Flow::Return, "{line:x?}"),
        ("jmp", Flow::Jump(to)) => assert_eq!(Some(to), target(), "{line:x?}"),
        ("jmp", flow) => assert!(indirect && matches!(flow, Flow::Indirect(_)), "{line:x?}"),
        ("call", Flow::Call(to)) => assert_eq!(to, if indirect { None } else { target() }, "{line:x?}"),
        ("ud2" | "hlt" | "int3", flow) => assert_eq!(flow, Flow::Stop, "{line:x?}"),
        (_, Flow::Branch { target: to, .. }) => {
            assert!(mnemonic.starts_with(['j', 'l', 'x']), "{line:x?}");
            assert_eq!(Some(to), target(), "{line:x?}");
        }
        (_, flow) => {
            let goes_on = matches!(flow, Flow::Next | Flow::Stop | Flow::SystemReturn);
            assert!(goes_on && (mnemonic == "jmpabs" || !mnemonic.starts_with('j')), "{line:x?} {flow:?}");
        }
    }
}

#[test]
fn boundaries_of_real_libraries_are_those_of_objdump() {
    let libraries = [
        &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"][..],
        &["/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "/usr/lib64/libstdc++.so.6"],
    ];
    for library in libraries.into_iter().filter_map(library) {
        let (mut equal, mut refused) = (0, 0);
        for run in disassemble(Arch::X86_64, library, false) {
            let bytes: Vec<u8> = run.iter().flat_map(|line| &line.bytes).copied().collect();
            let part = Part { address: run[0].address, bytes: &bytes };
            let Ok(code) = Code::decode(Arch::X86_64, &[part]) else {
                refused += 1;
                continue;
            };
            equal += 1;
            let mut steps = code.steps.iter();
            for line in &run {
                // Padding behind the last instruction is not decoded.
                let Some(step) = steps.next() else { break };
                assert_eq!(step.address, line.address, "{line:x?}");
                if is_wait(line, step) {
                    steps.next();
                } else {
                    assert_eq!(usize::from(step.length), line.bytes.len(), "{line:x?}");
                    check_flow(line, step);
                }
            }
        }
        println!("{}: {equal} runs equal, {refused} refused", library.display());
        assert!(equal > 1000 && refused * 50 < equal, "{equal} equal, {refused} refused");
    }
}

#[test]
fn lengths_of_random_instructions_are_those_of_objdump() {
    let bytes = Random(0x9e37_79b9_7f4a_7c15).bytes(200_000);
    let file = Scratch::new("random-x86", &bytes);
    let (mut equal, mut refused) = (0, 0);
    for line in disassemble(Arch::X86_64, file.path(), true).into_iter().flatten() {
        // Prefixes without effect stand on a line of their own.
        if line.text.contains("(bad)") || line.text.split_whitespace().all(is_prefix) {
            continue;
        }
        let at = line.address as usize;
        match first(&bytes[at..bytes.len().min(at + 15)], line.address) {
            None => refused += 1,
            Some((_, step)) if is_wait(&line, &step) => {}
            Some((_, step)) => {
                assert_eq!(usize::from(step.length), line.bytes.len(), "{line:x?}");
                equal += 1;
            }
        }
    }
    println!("{equal} equal, {refused} refused");
    assert!(equal > 30_000 && refused * 20 < equal, "{equal} equal, {refused} refused");
}

/// iced's own tables of written registers are the oracle: no entry of theirs may be missing here.
#[test]
fn no_write_of_a_general_register_is_missed() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut factory = InstructionInfoFactory::new();
    let mut checked = 0;
    while checked < 100_000 {
        let mut bytes = random.bytes(15);
        // Half have a prefix and a two-byte opcode, which are rare in random bytes.
        if random.next() & 1 == 0 {
            bytes[0] = [0x0f, 0x48, 0x66, 0xf3, 0xf2, 0xc5, 0xc4, 0x62][(random.next() >> 40) as usize % 8];
            bytes[1] = if bytes[0] == 0x0f {
                bytes[1]
            } else {
                [0x0f, bytes[1]][(random.next() >> 41) as usize % 2]
            };
        }
        let Some((instruction, step)) = first(&bytes, 0x1000) else { continue };
        checked += 1;
        // The next instruction does not follow these, so their writes are not tracked.
        if matches!(step.flow, Flow::Return | Flow::SystemReturn | Flow::Stop) {
            continue;
        }
        for used in factory.info(&instruction).used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            let Some(register) = gpr(used.register()).filter(|_| writes) else { continue };
            // A call returns with its own stack pointer; other writes are the callee's.
            if matches!(step.flow, Flow::Call(_)) {
                continue;
            }
            assert!(
                step.effect.writes(register),
                "{:02x?} {:?} writes {:?}, but {:?}",
                &bytes[..instruction.len()],
                instruction.code(),
                used.register(),
                step.effect
            );
        }
    }
}

#[test]
fn what_the_entry_may_pass_goes_on_and_tells_what_it_does_to_the_stack_pointer() {
    let mut random = Random(77);
    let mut factory = InstructionInfoFactory::new();
    let mut passed = 0;
    while passed < 40_000 {
        let Some((instruction, step)) = first(&random.bytes(15), 0) else { continue };
        if step.is_passable() && step.effect.added_to(RSP) == Some(0) {
            passed += 1;
            assert_eq!(instruction.flow_control(), iced_x86::FlowControl::Next, "{:?}", instruction.code());
            assert!(!instruction.is_stack_instruction(), "{:?}", instruction.code());
            assert!(!instruction.is_privileged(), "{:?}", instruction.code());
            for used in factory.info(&instruction).used_registers() {
                let stack_pointer = gpr(used.register()) == Some(RSP);
                assert!(!stack_pointer || used.access() == OpAccess::Read, "{:?}", instruction.code());
            }
        }
    }
}

#[test]
fn what_does_not_fault_touches_the_stack_and_static_data_alone() {
    let mut random = Random(78);
    let mut factory = InstructionInfoFactory::new();
    let (mut touching, mut faulting) = (0, 0);
    while touching < 5_000 {
        let Some((instruction, step)) = first(&random.bytes(15), 0) else { continue };
        if !step.is_passable() || step.faults {
            faulting += usize::from(step.faults);
            continue;
        }
        for used in factory.info(&instruction).used_memory() {
            touching += 1;
            let base = used.base();
            let known = [Register::RSP, Register::RBP, Register::None].contains(&base);
            // 32-bit, instruction-relative or in a thread segment: no pointer of the program.
            let fixed = instruction.is_ip_rel_memory_operand() || base == Register::EIP;
            assert!(known || fixed, "{:?} {used:?}", instruction.code());
        }
        assert!(
            !matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv),
            "{:?}",
            instruction.code()
        );
    }
    assert!(faulting > 1_000, "{faulting}");
}

#[test]
fn the_effects_that_are_followed_are_the_right_ones() {
    let of = |bytes: &[u8]| first(bytes, 0x1000).expect("an instruction").1.effect;
    assert_eq!(of(&[0x55]), Effect::Adjust { register: RSP, by: -8, clobbers: 0 }); // push %rbp
    assert_eq!(of(&[0x5d]), Effect::Adjust { register: RSP, by: 8, clobbers: bit(RBP) }); // pop %rbp
    assert_eq!(of(&[0x5c]), Effect::Clobber(bit(RSP))); // pop %rsp
    assert_eq!(of(&[0xc9]), Effect::Leave);
    assert_eq!(of(&[0x48, 0x83, 0xec, 0x18]), Effect::Move { to: RSP, from: RSP, add: -24 }); // sub $24, %rsp
    assert_eq!(of(&[0x48, 0x83, 0xec, 0x80]), Effect::Move { to: RSP, from: RSP, add: 128 }); // sub $-128, %rsp
    assert_eq!(of(&[0x48, 0x81, 0xc4, 0, 1, 0, 0]), Effect::Move { to: RSP, from: RSP, add: 256 }); // add $256, %rsp
    assert_eq!(of(&[0x48, 0x8d, 0x64, 0x24, 0xf8]), Effect::Move { to: RSP, from: RSP, add: -8 }); // lea -8(%rsp), %rsp
    assert_eq!(of(&[0x48, 0x89, 0xe5]), Effect::Move { to: RBP, from: RSP, add: 0 }); // mov %rsp, %rbp
    assert_eq!(of(&[0x48, 0x83, 0xe4, 0xe0]), Effect::AlignDown { to: RSP, from: RSP }); // and $-32, %rsp
    assert_eq!(of(&[0x48, 0x29, 0xc4]), Effect::Difference { to: RSP, from: RSP, less: RAX }); // sub %rax, %rsp
    assert_eq!(of(&[0x48, 0x8d, 0x05, 1, 0, 0, 0]), Effect::Set { to: RAX, value: 0x1008 }); // lea 1(%rip), %rax
    assert_eq!(
        of(&[0x48, 0x63, 0x04, 0xba]), // movslq (%rdx,%rdi,4), %rax
        Effect::Load {
            to: RAX,
            memory: Memory { base: Some(RDX), indexed: true, displacement: 0 },
            width: Width { bytes: 4, signed: true }
        }
    );
    assert_eq!(of(&[0x48, 0x01, 0xd0]), Effect::Sum { to: RAX, a: RAX, b: RDX, shift: 0, extend: None }); // add %rdx, %rax
    assert_eq!(of(&[0x48, 0x39, 0xc4]), Effect::Nothing); // cmp %rax, %rsp
    assert_eq!(of(&[0x48, 0x87, 0xc4]), Effect::Clobber(bit(RSP) | IMPLICIT)); // xchg %rax, %rsp
}

#[test]
fn filling_after_the_last_instruction_is_left_out_and_other_bytes_refuse() {
    let count =
        |bytes: &[u8]| Code::decode(Arch::X86_64, &[Part { address: 0, bytes }]).map(|code| code.steps.len());
    assert_eq!(count(&[0xc3, 0, 0, 0]), Ok(1)); // ret, zeros
    assert_eq!(count(&[0xc3, 0xcc, 0xcc]), Ok(1)); // ret, int3
    assert_eq!(count(&[0xc3, 0x90]), Ok(2));
    assert_eq!(count(&[0xc3, 0x0f]), Err(Refusal::Undecodable { address: 1 })); // runs over the end
    assert_eq!(count(&[0x06, 0xc3]), Err(Refusal::Undecodable { address: 0 })); // no instruction in 64-bit mode
    assert_eq!(count(&[0x66, 0xe9, 0, 0, 0, 0]), Err(Refusal::Undecodable { address: 0 })); // length depends on the maker
    assert_eq!(count(&[0x48, 0x48, 0x89, 0xe5]), Err(Refusal::Undecodable { address: 0 })); // two REX
}
