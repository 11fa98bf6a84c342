//! Rows of the soundness oracle: small functions, each with one instruction on which edgelat puts a
//! probe.
//!
//! The program that is made of them (`tests/targets/soundness.c`) runs every function without
//! probes and again with them, and compares registers, flags, vector registers, signals and memory.
//! Which instructions there are is asked of edgelat itself: [`edgelat_sites::find`] decides
//! for each candidate whether a site stands on it, and only what it accepts becomes a row. So the
//! table follows the decoder's rules without being written again.
//!
//! - Which instructions: every opcode, prefix and kind of operand of x86-64; each group of words of
//!   AArch64; by hand what branches.
//! - Where in a function: behind an instruction that bears no probe, so that a leaf may have data in
//!   its red zone; first, where only that is sound.
//! - How a class is named: x86-64 by iced's name of the encoding, AArch64 by the top byte of the word.

mod aarch64;
#[cfg(test)]
mod tests;
mod x86_64;

use std::collections::BTreeSet;
use std::fmt::Write;

use edgelat_sites::Arch;
use edgelat_sites::{Part, find};

/// Where the decision is asked for. Links lead far away from there, as they do in the program.
const ADDRESS: u64 = 0x40_0000;

/// Sets of registers and flags that every row is run with.
const INPUTS: u32 = 3;

/// Sets for rows whose branch depends on the flags.
const BRANCH_INPUTS: u32 = 8;

/// A place in the code that the assembler has to fill in: an expression over symbols of the
/// program.
#[derive(Clone, Debug)]
struct Link {
    /// Bytes from the start of the function.
    at: usize,
    /// Bytes that it stands for.
    length: usize,
    /// The assembler's line; `{f}` is the function.
    text: String,
}

/// Code with its links.
#[derive(Clone, Debug, Default)]
struct Code {
    bytes: Vec<u8>,
    links: Vec<Link>,
    /// Behind the function, and no part of it.
    behind: Vec<u8>,
}

impl Code {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::default() }
    }

    /// Bytes that the assembler fills in, with what stands there when the decision is asked for.
    fn link(mut self, placeholder: &[u8], text: &str) -> Self {
        let (at, length) = (self.bytes.len(), placeholder.len());
        self.links.push(Link { at, length, text: text.to_owned() });
        self.bytes.extend_from_slice(placeholder);
        self
    }

    fn then(mut self, other: &Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.links.extend(other.links.iter().map(|link| Link { at: link.at + start, ..link.clone() }));
        self.behind.extend_from_slice(&other.behind);
        self
    }
}

/// What a row's instruction is for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Entry,
    Exit,
}

/// One function of the program.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its symbol begins with `sound_`.
    pub name: String,
    /// The instruction's class, see the head of this module.
    pub class: String,
    /// What it is summed up under in the report.
    pub group: &'static str,
    code: Code,
    inputs: u32,
    /// Other instructions ran before, so that there may be live data in the red zone.
    live: bool,
    by_hand: bool,
}

/// What is put around an instruction.
struct Frame<'a> {
    before: &'a [u8],
    after: &'a Code,
}

/// Whether edgelat puts a site of that kind on the instruction that begins `site` bytes into the
/// function.
fn bears_site(arch: Arch, code: &Code, site: usize, role: Role) -> bool {
    let part = Part { address: ADDRESS, bytes: &code.bytes };
    let Ok(sites) = find(arch, part, &[]) else { return false };
    let address = ADDRESS + site as u64;
    match role {
        Role::Entry => sites.entry.address == address,
        Role::Exit => sites.exits.iter().any(|exit| exit.address == address),
    }
}

/// Whether calls could begin on an instruction, wherever it stands in a function.
#[must_use]
pub fn may_begin(arch: Arch, instruction: &[u8]) -> bool {
    match arch {
        Arch::X86_64 => x86_64::may_begin(instruction),
        Arch::Aarch64 => aarch64::may_begin(instruction),
    }
}

/// The rows of an architecture, in a fixed order.
#[must_use]
pub fn rows(arch: Arch) -> Vec<Row> {
    match arch {
        Arch::X86_64 => x86_64::rows(),
        Arch::Aarch64 => aarch64::rows(),
    }
}

/// What `make test` and emulated guests have time for: one row of each class in each group.
#[must_use]
pub fn brief(rows: Vec<Row>) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    rows.into_iter().filter(|row| row.by_hand || seen.insert((row.class.clone(), row.group))).collect()
}

/// The assembly of the program of that name for this machine: `soundness-whole` has all rows,
/// `soundness` the brief ones.
#[must_use]
pub fn assembly_of(program: &str) -> String {
    let arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };
    let rows = rows(arch);
    assembly(arch, &if program == "soundness-whole" { rows } else { brief(rows) })
}

/// Without the rows that QEMU 7.2 gets wrong without any probe: it forgets the byte behind an address that is
/// relative to the instruction (`shld` and `shrd` by a number).
#[must_use]
pub fn for_emulation(rows: Vec<Row>) -> Vec<Row> {
    let shifts = |row: &Row| row.class.starts_with("Shld") || row.class.starts_with("Shrd");
    rows.into_iter().filter(|row| !(shifts(row) && row.name.ends_with("_relative"))).collect()
}

/// The class of an instruction, see the head of this module.
#[must_use]
pub fn class(arch: Arch, instruction: &[u8]) -> String {
    match arch {
        Arch::X86_64 => x86_64::class(instruction),
        Arch::Aarch64 => {
            aarch64::class(instruction.first_chunk().map_or(0, |word| u32::from_le_bytes(*word)))
        }
    }
}

/// Whether an instruction has no row although a site may stand on it, for a reason that has nothing
/// to do with probes.
#[must_use]
pub fn is_unfit(arch: Arch, instruction: &[u8]) -> bool {
    arch == Arch::X86_64 && x86_64::is_unfit(instruction)
}

/// The classes that the rows of an architecture cover.
#[must_use]
pub fn classes(arch: Arch) -> BTreeSet<String> {
    rows(arch).into_iter().map(|row| row.class).collect()
}

/// The rows as assembly: the functions, and the table of them that the program reads.
#[must_use]
pub fn assembly(arch: Arch, rows: &[Row]) -> String {
    let mut text = String::from("\t.text\n");
    for row in rows {
        function(&mut text, row, arch == Arch::Aarch64);
    }
    text.push_str("\t.section .data.rel.ro,\"aw\"\n\t.p2align 3\n\t.globl sound_rows\nsound_rows:\n");
    for (number, row) in rows.iter().enumerate() {
        let _ = writeln!(text, "\t.quad {}, 1{number}f, 2{number}f", row.name);
        let _ = writeln!(text, "\t.long {}, {}", row.inputs, u32::from(row.live));
    }
    text.push_str("\t.globl sound_rows_end\nsound_rows_end:\n\t.section .rodata\n");
    for (number, row) in rows.iter().enumerate() {
        let _ = writeln!(text, "1{number}:\t.asciz \"{}\"\n2{number}:\t.asciz \"{}\"", row.name, row.group);
    }
    text.push_str("\t.section .note.GNU-stack,\"\",%progbits\n");
    text
}

fn function(text: &mut String, row: &Row, words: bool) {
    let name = &row.name;
    let _ = writeln!(text, "\t.p2align 4\n\t.globl {name}\n\t.type {name}, %function\n{name}:");
    let mut at = 0;
    for link in &row.code.links {
        bytes(text, row.code.bytes.get(at..link.at).unwrap_or_default(), words);
        let _ = writeln!(text, "\t{}", link.text.replace("{f}", name));
        at = link.at + link.length;
    }
    bytes(text, row.code.bytes.get(at..).unwrap_or_default(), words);
    let _ = writeln!(text, "\t.size {name}, . - {name}");
    bytes(text, &row.code.behind, words);
}

/// As instructions on AArch64: its assembler marks other bytes as data.
fn bytes(text: &mut String, bytes: &[u8], words: bool) {
    if words {
        for word in bytes.as_chunks::<4>().0 {
            let _ = writeln!(text, "\t.inst {:#010x}", u32::from_le_bytes(*word));
        }
    } else if !bytes.is_empty() {
        let list: Vec<String> = bytes.iter().map(|byte| format!("{byte:#04x}")).collect();
        let _ = writeln!(text, "\t.byte {}", list.join(","));
    }
}
