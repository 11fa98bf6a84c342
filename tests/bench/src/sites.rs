//! The sites that edgelat chooses, as reported by edgelat itself.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, file};
use crate::tools::answer_of;

/// Location of a function and of its sites in edgelat; all are offsets in the file.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Name in the symbol table, for tools that do not demangle.
    pub(crate) symbol: String,
    /// First instruction.
    pub(crate) start: u64,
    pub(crate) entry: u64,
    /// Place for a return probe: `entry`, unless the stack pointer has moved there.
    pub(crate) return_entry: u64,
    pub(crate) exits: Vec<u64>,
    /// The bytes of the first instruction and some that follow.
    pub(crate) bytes: [u8; 8],
}

impl Function {
    /// The first instruction of the function, in words.
    pub(crate) fn first_instruction(&self) -> &'static str {
        first_instruction(&self.bytes)
    }
}

/// Names the few first instructions that the bench distinguishes (x86-64; Intel SDM vol. 2).
fn first_instruction(bytes: &[u8; 8]) -> &'static str {
    match bytes {
        [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..] => "push",
        [0xf3, 0x0f, 0x1e, 0xfa, ..] => "endbr64",
        [0x48, 0x83 | 0x81, 0xec, ..] => "sub",
        [0x31 | 0x33, ..] => "xor",
        [0x48 | 0x49 | 0x4c | 0x4d, 0x89 | 0x8b, ..] | [0x89 | 0x8b, ..] => "mov",
        _ => "another instruction",
    }
}

/// Runs `edgelat functions` for the functions of a file that match a name or glob.
pub(crate) fn ask(edgelat: &Path, image: &Path, name: &str) -> Result<Vec<Function>, Error> {
    let program = format!("{} functions", edgelat.display());
    let text = answer_of(Command::new(edgelat).args(["functions", "--json"]).arg(image).arg(name))?;
    let bytes = std::fs::read(image).map_err(file("read", image))?;
    let mut functions = Vec::new();
    for line in text.lines() {
        let unclear = || Error::Answer { program: program.clone(), answer: line.to_owned() };
        let object: Value = serde_json::from_str(line).map_err(|_| unclear())?;
        if object["probeable"] != true {
            continue;
        }
        let sites = &object["sites"];
        let address = object["start"].as_u64().ok_or_else(unclear)?;
        let start = offset_of(&bytes, address).ok_or_else(unclear)?;
        // If it leaves by a jump, calls end in the destination of the jump.
        let exits =
            ["exits", "exits_of_callees"].map(|key| sites[key].as_array().map_or(&[][..], Vec::as_slice));
        let exits: Vec<u64> = exits.concat().iter().filter_map(Value::as_u64).collect();
        let entry = sites["entry"].as_u64().ok_or_else(unclear)?;
        let first = bytes.get(start as usize..start as usize + 8).and_then(|b| b.try_into().ok());
        functions.push(Function {
            symbol: object["linkage_name"].as_str().ok_or_else(unclear)?.to_owned(),
            start,
            entry,
            return_entry: if sites["above"]["entry"] == 0 { entry } else { start },
            exits,
            bytes: first.ok_or_else(unclear)?,
        });
    }
    Ok(functions)
}

/// File offset of an address by the program headers of a little-endian 64-bit ELF file (gABI, chapter 5).
fn offset_of(elf: &[u8], address: u64) -> Option<u64> {
    let word = |at: usize| Some(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    const PT_LOAD: u16 = 1;
    let (table, size, count) = (word(32)? as usize, usize::from(half(54)?), usize::from(half(56)?));
    (0..count).find_map(|index| {
        let header = table + index * size;
        let (offset, start, length) = (word(header + 8)?, word(header + 16)?, word(header + 32)?);
        (half(header)? == PT_LOAD && (start..start + length).contains(&address))
            .then(|| address - start + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_instructions_are_told_apart() {
        assert_eq!(first_instruction(&[0x53, 0x48, 0x89, 0xfb, 0, 0, 0, 0]), "push");
        assert_eq!(first_instruction(&[0x41, 0x57, 0, 0, 0, 0, 0, 0]), "push");
        assert_eq!(first_instruction(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53, 0, 0, 0]), "endbr64");
        assert_eq!(first_instruction(&[0x48, 0x83, 0xec, 0x28, 0, 0, 0, 0]), "sub");
        assert_eq!(first_instruction(&[0x41, 0x89, 0, 0, 0, 0, 0, 0]), "another instruction");
    }
}
