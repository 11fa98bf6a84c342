//! Instructions of x86-64.
//!
//! Instructions that continue with the next one are enumerated: prefixes, opcode map, opcode and
//! ModRM, with the bytes that keep the operands inside the compared memory. Branches are listed
//! explicitly, because each needs a destination.

use std::collections::{BTreeMap, BTreeSet};

use edgelat_sites::Arch;
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use super::{BRANCH_INPUTS, Code, Frame, INPUTS, Role, Row, bears_site};

/// `xchg %ax,%ax`: has no effect and bears no site.
const BARE: &[u8] = &[0x66, 0x90];
const RET: &[u8] = &[0xc3];
/// `lea 8(%rsp),%rsp`, and with -8.
const UP: &[u8] = &[0x48, 0x8d, 0x64, 0x24, 0x08];
const DOWN: &[u8] = &[0x48, 0x8d, 0x64, 0x24, 0xf8];
/// Placeholder for a distance until the assembler knows it.
const FAR: [u8; 4] = [0, 0, 1, 0];

/// Location of an instruction's operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Plain,
    Pointer,
    RedZone,
    Indexed,
    Relative,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Pointer => "_memory",
            Self::RedZone => "_redzone",
            Self::Indexed => "_indexed",
            Self::Relative => "_relative",
        }
    }
}

/// The class of the instruction at the start of the bytes.
pub(super) fn class(bytes: &[u8]) -> String {
    let instruction = decoded(bytes);
    let repeated = instruction.is_string_instruction()
        && (instruction.has_rep_prefix() || instruction.has_repne_prefix());
    format!("{:?}{}", instruction.code(), if repeated { "_repeated" } else { "" })
}

fn decoded(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, super::ADDRESS, DecoderOptions::NONE).decode()
}

/// Prefixes that change an instruction. `gs` begins at address 0 in the program; `addr32` finds all
/// compared memory of the program, which is below 4 GiB.
const PREFIXES: [&[u8]; 7] = [&[], &[0x66], &[0xf2], &[0xf3], &[0x66, 0xf2], &[0x65], &[0x67]];
/// No REX; W; R, X and B, which name the upper registers; all of them.
const REXES: [&[u8]; 4] = [&[], &[0x48], &[0x45], &[0x4d]];
const MAPS: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];

/// Instructions that cannot be compared, for reasons unrelated to a probe: segment bases, which the
/// program itself needs; waiting; and saving of state that the processor considers in use, which
/// depends on its earlier users. All others that may not run fault alike with and without a probe.
pub(super) fn is_unfit(bytes: &[u8]) -> bool {
    use Mnemonic as M;
    matches!(
        decoded(bytes).mnemonic(),
        M::Wrfsbase
            | M::Lfs
            | M::Umwait
            | M::Tpause
            | M::Umonitor
            | M::Xsave
            | M::Xsave64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsaves
            | M::Xsaves64
    )
}

/// ModRM and what follows it, for each kind of operand.
fn operands(map: &[u8], opcode: u8, number: u8) -> Vec<(Form, Vec<u8>)> {
    let reg = number << 3;
    let mut all = vec![
        (Form::Plain, vec![0xc1 | reg]),                      // %rcx
        (Form::Pointer, vec![0x07 | reg]),                    // (%rdi)
        (Form::RedZone, vec![0x44 | reg, 0x24, 0xc0]),        // -64(%rsp)
        (Form::Indexed, vec![0x44 | reg, 0x8f, 0x10]),        // 16(%rdi,%rcx,4)
        (Form::Relative, vec![0x05 | reg, 0x40, 0, 0x01, 0]), // data(%rip)
    ];
    if map.is_empty() && matches!(opcode, 0xd8..=0xdf) {
        all.extend((0..8).map(|register| (Form::Plain, vec![0xc0 | reg | register])));
    }
    all
}

/// The rows.
pub(super) fn rows() -> Vec<Row> {
    let mut table = Table::default();
    branches(&mut table);
    by_hand(&mut table);
    table.rows.iter_mut().for_each(|row| row.by_hand = true);
    for map in MAPS {
        for opcode in 0..=0xff {
            if !(map.is_empty() && is_prefix(opcode)) {
                opcode_rows(&mut table, map, opcode);
            }
        }
    }
    table.rows
}

const fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x0f | 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// All rows of one opcode.
fn opcode_rows(table: &mut Table, map: &[u8], opcode: u8) {
    let mut seen: BTreeMap<(String, Form, bool, Vec<u8>), u32> = BTreeMap::new();
    for prefixes in PREFIXES {
        for rex in REXES {
            for number in 0..8u8 {
                // Each opcode begins with another register, so that each register occurs somewhere.
                let number = number.wrapping_add(opcode) % 8;
                for (form, operand) in operands(map, opcode, number) {
                    let head = [prefixes, rex, map, &[opcode]].concat();
                    let Some(code) = instruction(&head, form, &operand) else { continue };
                    let instruction = decoded(&code.bytes);
                    let form = if uses_modrm(&instruction, form) { form } else { Form::Plain };
                    let segment = matches!(prefixes, [0x65 | 0x67]);
                    if segment && form != Form::Pointer {
                        continue;
                    }
                    let kept = if segment || form == Form::Plain && rex.is_empty() { prefixes } else { &[] };
                    let key = (class(&code.bytes), form, rex.len() == 1 && rex != [0x48], kept.to_vec());
                    // The kernel uses a register of its own for an operand relative to the
                    // instruction.
                    let most = if form == Form::Relative && map.is_empty() { 8 } else { 1 };
                    let count = seen.entry(key).or_default();
                    if *count < most
                        && table.entry(&code, group(&instruction, map, opcode, form, prefixes), form)
                    {
                        *count += 1;
                    }
                }
            }
        }
    }
}

/// One instruction, complete and with its link; `None` if the bytes are no instruction or it is not
/// to be run.
fn instruction(head: &[u8], form: Form, operand: &[u8]) -> Option<Code> {
    let bytes = [head, operand, &[0x03; 8]].concat();
    let instruction = decoded(&bytes);
    // rsm would leave system management mode; a program outside of it faults.
    let goes_on = matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Exception)
        || instruction.mnemonic() == Mnemonic::Rsm;
    if instruction.is_invalid() || !goes_on || is_unfit(&bytes) {
        return None;
    }
    let bytes = bytes.get(..instruction.len())?;
    // Of the red zone, only the part below the return address.
    if form == Form::RedZone && instruction.memory_size().size() > 64 {
        return None;
    }
    if form != Form::Relative || !uses_modrm(&instruction, form) {
        return absolute(&instruction, bytes);
    }
    let at = head.len() + 1;
    let (start, rest) = (bytes.get(..at)?, bytes.get(at + 4..)?);
    let text = format!(".long sound_data + 8192 - . - {}", 4 + rest.len());
    Some(Code::of(start).link(&FAR, &text).then(&Code::of(rest)))
}

/// Redirects an operand at a 64-bit address to the program's memory.
fn absolute(instruction: &Instruction, bytes: &[u8]) -> Option<Code> {
    let moffs = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
        && instruction.memory_base() == Register::None
        && instruction.memory_displ_size() >= 4;
    if !moffs {
        return Some(Code::of(bytes));
    }
    let size = instruction.memory_displ_size() as usize;
    let mut bytes = bytes.to_vec();
    let at = bytes.len().checked_sub(size)?;
    bytes.get_mut(at..)?.fill(0);
    // SCRATCH of the program, plus an offset.
    bytes.get_mut(at..at + 4)?.copy_from_slice(&0x1000_0400u32.to_le_bytes());
    Some(Code::of(&bytes))
}

/// True if the operand of ModRM has the given form.
fn uses_modrm(instruction: &Instruction, form: Form) -> bool {
    let memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    match form {
        Form::Plain => true,
        Form::Relative => instruction.is_ip_rel_memory_operand(),
        Form::Pointer | Form::RedZone | Form::Indexed => {
            memory && instruction.memory_base() != Register::None
        }
    }
}

fn group(instruction: &Instruction, map: &[u8], opcode: u8, form: Form, prefixes: &[u8]) -> &'static str {
    let mnemonic = instruction.mnemonic();
    match (map, opcode) {
        _ if matches!(mnemonic, Mnemonic::Nop) => "nop",
        _ if matches!(mnemonic, Mnemonic::Endbr64 | Mnemonic::Endbr32) => "endbr",
        _ if prefixes == [0x65] => "operand in a segment (gs, fs)",
        _ if prefixes == [0x67] => "operand at a 32-bit address",
        ([], 0x50..=0x57 | 0x68 | 0x6a) => "push",
        ([], 0x58..=0x5f | 0x8f) => "pop",
        ([], 0xa4..=0xa7 | 0xaa..=0xaf) => "string operations, with and without rep",
        ([], 0xd8..=0xdf) => "x87",
        ([], _) if form == Form::Relative => "one-byte map, operand relative to rip",
        ([], _) if form == Form::RedZone => "one-byte map, operand in the red zone",
        ([], 0xff) if mnemonic == Mnemonic::Push => "push",
        ([], _) => "one-byte map (mov, lea, arithmetic, shifts, mul, div...)",
        (_, _) if form == Form::Relative => "other maps, operand relative to rip",
        ([0x0f], 0x40..=0x4f | 0x90..=0x9f) => "cmov, setcc",
        ([0x0f], 0x10..=0x17 | 0x28..=0x2f | 0x50..=0x7f | 0xc2..=0xc6 | 0xd0..) => "SSE, MMX",
        ([0x0f], _) => "two-byte map (movzx, bit tests, xadd, cmpxchg, rdtsc...)",
        ([0x0f, 0x38], _) => "map 0f38 (SSSE3, SSE4, AES, movbe, crc32, adx)",
        _ => "map 0f3a (SSE4, AES, CLMUL)",
    }
}

/// Compensation for an instruction's change of the stack pointer, and the return; `None` if a
/// function could not return after it.
fn after(bytes: &[u8]) -> Option<Code> {
    let instruction = decoded(bytes);
    let to_stack_pointer = instruction.op0_register().full_register() == Register::RSP;
    let fix = match (instruction.stack_pointer_increment(), instruction.mnemonic()) {
        (-8, Mnemonic::Push) => UP,
        (8, Mnemonic::Pop) if !to_stack_pointer => DOWN,
        (0, _) => &[],
        _ => return None,
    };
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(&instruction).used_registers();
    let written = used.iter().any(|used| {
        used.register().full_register() == Register::RSP
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
    });
    (!written || !fix.is_empty()).then(|| Code::of(fix).then(&Code::of(RET)))
}

/// True if calls could begin on the instruction.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    let Some(after) = after(bytes) else { return false };
    let code = Code::of(bytes).then(&after);
    [BARE, &[]]
        .iter()
        .any(|before| bears_site(Arch::X86_64, &Code::of(before).then(&code), before.len(), Role::Entry))
}

/// The rows so far.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    /// Code that has a row.
    seen: BTreeSet<Vec<u8>>,
}

impl Table {
    /// Adds an instruction that continues with the next one, if edgelat would begin calls on it.
    fn entry(&mut self, code: &Code, group: &'static str, form: Form) -> bool {
        if self.seen.contains(&code.bytes) {
            return false;
        }
        let Some(after) = after(&code.bytes) else { return false };
        let mut found = false;
        for before in [BARE, &[]] {
            // An instruction that is sound after others is sound at the start.
            if !found || group == "nop" {
                let frame = Frame { before, after: &after };
                found |= self.framed(code, &frame, group, form, Role::Entry, INPUTS);
            }
        }
        found && self.seen.insert(code.bytes.clone())
    }

    /// Adds an instruction in its surroundings, if edgelat would put a site of that kind on it.
    fn framed(
        &mut self,
        code: &Code,
        frame: &Frame<'_>,
        group: &'static str,
        form: Form,
        role: Role,
        inputs: u32,
    ) -> bool {
        let whole = Code::of(frame.before).then(code).then(frame.after);
        if !bears_site(Arch::X86_64, &whole, frame.before.len(), role) {
            return false;
        }
        let class = class(&code.bytes);
        let name = format!("sound_{:05}_{class}{}", self.rows.len(), form.name());
        let live = !frame.before.is_empty();
        self.rows.push(Row { name, class, group, code: whole, inputs, live, by_hand: false });
        true
    }
}

/// Jumps, calls and returns.
fn branches(table: &mut Table) {
    // mov %rbx,%rbx: beginning of the call.
    let begins: &[u8] = &[0x48, 0x89, 0xdb];
    let leads = |head: &[u8], to: &str| Code::of(head).link(&FAR, &format!(".long {to} - . - 4"));
    let nothing = Code::default();
    let returns = Code::of(RET);
    // mov $0x77,%r11d, skipped if the branch is taken.
    let skipped = Code::of(&[0x41, 0xbb, 0x77, 0, 0, 0]).then(&returns);
    for condition in 0..16u8 {
        let inside = Frame { before: BARE, after: &skipped };
        let out = Frame { before: begins, after: &returns };
        let short = Code::of(&[0x70 | condition, 6]);
        let long = Code::of(&[0x0f, 0x80 | condition, 6, 0, 0, 0]);
        for code in [&short, &long] {
            table.framed(code, &inside, "jcc inside a function", Form::Plain, Role::Entry, BRANCH_INPUTS);
        }
        // Over the return that follows, and to a return outside of any function.
        let behind = Code { behind: RET.to_vec(), ..Code::of(&[0x70 | condition, 1]) };
        let far = leads(&[0x0f, 0x80 | condition], "sound_return");
        let bound = leads(&[0xf2, 0x0f, 0x80 | condition], "sound_return");
        for code in [&behind, &far, &bound] {
            table.framed(code, &out, "jcc out of a function", Form::Plain, Role::Exit, BRANCH_INPUTS);
        }
    }
    let last = |after| Frame { before: begins, after };
    let behind = Code { behind: vec![0xcc, 0xcc, 0xc3], ..Code::of(&[0xeb, 2]) };
    for code in [behind, leads(&[0xe9], "sound_return"), leads(&[0xf2, 0xe9], "sound_return")] {
        table.framed(&code, &last(&nothing), "jmp", Form::Plain, Role::Exit, INPUTS);
    }
    for code in [Code::of(&[0xeb, 6]), Code::of(&[0xe9, 6, 0, 0, 0])] {
        let inside = Frame { before: BARE, after: &skipped };
        table.framed(&code, &inside, "jmp", Form::Plain, Role::Entry, INPUTS);
    }
    for code in [leads(&[0xe8], "sound_return"), leads(&[0xf2, 0xe8], "sound_return")] {
        for before in [BARE, &[]] {
            let calls = Frame { before, after: &returns };
            table.framed(&code, &calls, "call", Form::Plain, Role::Entry, INPUTS);
        }
    }
    for code in [&[0xc3][..], &[0xf3, 0xc3], &[0xf2, 0xc3], &[0xc2, 8, 0], &[0x48, 0xc3]] {
        table.framed(&Code::of(code), &last(&nothing), "ret", Form::Plain, Role::Exit, INPUTS);
    }
    indirect(table);
}

/// Jumps through a register or memory, after the address is stored there.
fn indirect(table: &mut Table) {
    // Each: the code that fills the place, and the jump.
    let address = |head: &[u8]| Code::of(head).link(&FAR, ".long sound_return - . - 4");
    let to_rax = address(&[0x48, 0x8d, 0x05]); // lea sound_return(%rip),%rax
    let to_r11 = address(&[0x4c, 0x8d, 0x1d]);
    let store = |bytes: &[u8]| to_rax.clone().then(&Code::of(bytes));
    let relative = Code::of(&[0xff, 0x25]).link(&FAR, ".long sound_pointer - . - 4");
    let begins = Code::of(&[0x48, 0x89, 0xdb]);
    let cases = [
        (to_rax.clone(), Code::of(&[0xff, 0xe0]), Form::Plain),
        (to_rax.clone(), Code::of(&[0x48, 0xff, 0xe0]), Form::Plain),
        (to_rax.clone(), Code::of(&[0xf2, 0xff, 0xe0]), Form::Plain),
        (to_r11, Code::of(&[0x41, 0xff, 0xe3]), Form::Plain),
        (store(&[0x48, 0x89, 0x07]), Code::of(&[0xff, 0x27]), Form::Pointer), // (%rdi)
        (store(&[0x49, 0x89, 0x45, 0x10]), Code::of(&[0x41, 0xff, 0x65, 0x10]), Form::Pointer), // 16(%r13)
        (store(&[0x48, 0x89, 0x44, 0x24, 0xc0]), Code::of(&[0xff, 0x64, 0x24, 0xc0]), Form::RedZone),
        (store(&[0x48, 0x89, 0x44, 0x8f, 0x10]), Code::of(&[0xff, 0x64, 0x8f, 0x10]), Form::Indexed),
        (begins, relative, Form::Relative),
    ];
    for (fill, jump, form) in cases {
        let whole = fill.clone().then(&jump);
        if bears_site(Arch::X86_64, &whole, fill.bytes.len(), Role::Exit) {
            let class = class(&jump.bytes);
            let name = format!("sound_{:05}_{class}{}", table.rows.len(), form.name());
            let group = "jmp through a register or memory";
            table.rows.push(Row {
                name,
                class,
                group,
                code: whole,
                inputs: INPUTS,
                live: true,
                by_hand: true,
            });
        }
    }
}

/// Instructions like the enumerated ones that the enumeration lacks: with the stack pointer, with
/// the thread's segment, nops of each length and shape.
fn by_hand(table: &mut Table) {
    let lea = |by: i8| Code::of(&[0x48, 0x8d, 0x64, 0x24, by.cast_unsigned()]).then(&Code::of(RET));
    let wide =
        |by: i32| Code::of(&[&[0x48, 0x8d, 0xa4, 0x24][..], &by.to_le_bytes()].concat()).then(&Code::of(RET));
    let plain = Code::of(RET);
    let stack: [(&[u8], Code); 10] = [
        (&[0x48, 0x83, 0xec, 0x18], lea(0x18)),               // sub $24,%rsp
        (&[0x48, 0x81, 0xec, 0x80, 0x01, 0, 0], wide(0x180)), // sub $384,%rsp
        (&[0x48, 0x83, 0xc4, 0xe8], lea(0x18)),               // add $-24,%rsp
        (&[0x48, 0x83, 0xc4, 0x80], wide(0x80)),              // add $-128,%rsp
        (&[0x48, 0x83, 0xec, 0x80], lea(-0x80)),              // sub $-128,%rsp
        (&[0x48, 0x8d, 0x64, 0x24, 0xd8], lea(0x28)),         // lea -40(%rsp),%rsp
        (&[0x48, 0x89, 0xe0], plain.clone()),                 // mov %rsp,%rax
        (&[0x49, 0x89, 0xe2], plain.clone()),                 // mov %rsp,%r10
        (&[0x4c, 0x8d, 0x54, 0x24, 0x08], plain.clone()),     // lea 8(%rsp),%r10
        (&[0x48, 0x8b, 0x04, 0x24], plain.clone()),           // mov (%rsp),%rax
    ];
    for (bytes, after) in &stack {
        let frame = Frame { before: BARE, after };
        let group = "stack pointer as an operand";
        table.framed(&Code::of(bytes), &frame, group, Form::Plain, Role::Entry, INPUTS);
    }
    let thread: [&[u8]; 5] = [
        &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], // mov %fs:40,%rax
        &[0x64, 0x48, 0x33, 0x04, 0x25, 0x28, 0, 0, 0], // xor %fs:40,%rax
        &[0x64, 0x48, 0x8b, 0x0c, 0x25, 0, 0, 0, 0],    // mov %fs:0,%rcx
        &[0x64, 0x8b, 0x14, 0x25, 0x10, 0, 0, 0],       // mov %fs:16,%edx
        &[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 4, 0, 0x10], // mov %gs:SCRATCH+1024,%rax
    ];
    for bytes in thread {
        let frame = Frame { before: BARE, after: &plain };
        let group = "operand in a segment (gs, fs)";
        table.framed(&Code::of(bytes), &frame, group, Form::Pointer, Role::Entry, INPUTS);
    }
    let landing: [&[u8]; 2] = [&[0xf3, 0x0f, 0x1e, 0xfa], &[0xf3, 0x0f, 0x1e, 0xfb]];
    for bytes in landing {
        for before in [BARE, &[]] {
            let frame = Frame { before, after: &plain };
            table.framed(&Code::of(bytes), &frame, "endbr", Form::Plain, Role::Entry, INPUTS);
        }
    }
    let nops: [&[u8]; 16] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x45, 0x00, 0x90],
        &[0x66, 0x0f, 0x1f, 0x40, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0x66, 0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0x48, 0x0f, 0x1f, 0xc0],
        &[0x0f, 0x18, 0x07],
        &[0x0f, 0x0d, 0x0f],
    ];
    for bytes in nops {
        for before in [BARE, &[]] {
            let frame = Frame { before, after: &plain };
            table.framed(&Code::of(bytes), &frame, "nop", Form::Plain, Role::Entry, INPUTS);
        }
    }
}
