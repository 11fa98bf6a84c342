//! Words that the dynamic linker fills with an address of the program itself.

use crate::elf::dynamic::Dynamic;
use crate::elf::{Elf, relocations};
use crate::{Arch, ImageError, ReadAt};

const R_X86_64_RELATIVE: u64 = 8; // System V ABI x86-64, table 4.9
const R_AARCH64_RELATIVE: u64 = 1027; // ELF for the Arm 64-bit Architecture, "Dynamic relocations"

/// Calls `each` with address and value (an ELF virtual address) of every such word.
pub(crate) fn for_each(elf: &Elf<dyn ReadAt + '_>, mut each: impl FnMut(u64, u64)) -> Result<(), ImageError> {
    let Some(table) = Dynamic::read(elf)?.and_then(|dynamic| dynamic.relocations()) else {
        return Ok(());
    };
    let relative = match elf.arch {
        Arch::X86_64 => R_X86_64_RELATIVE,
        Arch::Aarch64 => R_AARCH64_RELATIVE,
    };
    relocations::for_each(elf, table, |relocation| {
        if relocation.kind == relative {
            each(relocation.at, relocation.addend);
        }
    })
}

/// Returns the words at `addresses`: values of the dynamic linker, or else those in the file.
pub(super) fn words<const N: usize>(
    elf: &Elf<dyn ReadAt + '_>,
    addresses: [u64; N],
) -> Result<[Option<u64>; N], ImageError> {
    let mut values = addresses.map(|address| elf.word_at(address));
    // If all words are filled in, the table need not be read.
    if values.contains(&Some(0)) {
        for_each(elf, |at, value| {
            for (address, found) in addresses.iter().zip(&mut values) {
                if at == *address {
                    *found = Some(value);
                }
            }
        })?;
    }
    Ok(values)
}
