//! Rows of the soundness oracle: small functions with one probed instruction each.
//!
//! The program that contains them (`tests/targets/soundness.c`) runs every function without probes
//! and again with them, and compares registers, flags, vector registers, signals and memory.
//! edgelat itself decides on the instructions: a candidate becomes a row only if
//! [`edgelat_sites::find`] puts a site on it. So the table follows the decoder's rules without
//! repeating them.
//!
//! - Instructions: every opcode, prefix and kind of operand of x86-64; each word group of AArch64;
//!   branches by hand.
//! - Position in a function: after an instruction without a probe, so that a leaf may have data in
//!   its red zone; first, if only that is sound.
//! - Name of a class: x86-64 by iced's name of the encoding, AArch64 by the top byte of the word.

mod aarch64;
#[cfg(test)]
mod tests;
mod x86_64;

use std::collections::BTreeSet;
use std::fmt::Write;

use edgelat_sites::Arch;
use edgelat_sites::{Part, find};

/// Address for the decision. Links lead far away from it, as they do in the program.
const ADDRESS: u64 = 0x40_0000;

/// Sets of registers and flags that every row is run with.
const INPUTS: u32 = 3;

/// Sets for rows whose branch depends on the flags.
const BRANCH_INPUTS: u32 = 8;

/// A place in the code that the assembler fills in: an expression over symbols of the program.
#[derive(Clone, Debug)]
struct Link {
    /// Bytes from the start of the function.
    at: usize,
    /// Number of bytes it replaces.
    length: usize,
    /// The assembler's line; `{f}` is the function.
    text: String,
}

/// Code with its links.
#[derive(Clone, Debug, Default)]
struct Code {
    bytes: Vec<u8>,
    links: Vec<Link>,
    /// Code after the function that is no part of it.
    behind: Vec<u8>,
}

impl Code {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::default() }
    }

    /// Adds bytes that the assembler fills in, with a placeholder for the decision.
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

/// Role of a row's instruction in the call.
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
    /// Its group in the report.
    pub group: &'static str,
    code: Code,
    inputs: u32,
    /// Other instructions ran before, so there may be live data in the red zone.
    live: bool,
    by_hand: bool,
}

/// Code around an instruction.
struct Frame<'a> {
    before: &'a [u8],
    after: &'a Code,
}

/// True if edgelat puts a site of that kind on the instruction that begins `site` bytes into the
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

/// True if calls could begin on an instruction, at any position in a function.
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

/// A subset short enough for `make test` and emulated guests: one row per class in each group.
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

/// Removes the rows that QEMU 7.2 gets wrong even without a probe: it forgets the byte after an
/// address that is relative to the instruction (`shld` and `shrd` by a number).
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

/// True if an instruction has no row although a site may stand on it, for a reason unrelated to
/// probes.
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
