//! Tables of relocations with addends: words that the dynamic linker fills in.

use super::{Elf, u64_at};
use crate::source::{check_range, for_each_record};
use crate::{ImageError, ReadAt};

/// `sizeof(Elf64_Rela)`.
const RELOCATION_BYTES: usize = 24;
/// Relocations read. A large position-independent Go program has about a million.
const RELOCATIONS: u64 = 16_000_000;

/// A word that the dynamic linker fills in (System V ABI, "Relocation").
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relocation {
    /// ELF virtual address of the word.
    pub(crate) at: u64,
    /// Type, in the architecture's numbering.
    pub(crate) kind: u64,
    /// Index of the symbol in the dynamic symbol table; 0 is no symbol.
    pub(crate) symbol: u32,
    pub(crate) addend: u64,
}

/// Calls `each` with every relocation of a table, given by its address and its size in bytes.
pub(crate) fn for_each(
    elf: &Elf<dyn ReadAt + '_>,
    (address, size): (u64, u64),
    mut each: impl FnMut(Relocation),
) -> Result<(), ImageError> {
    let what = "relocation table";
    let outside = ImageError::Malformed { what, reason: "it is outside the segments" };
    let Some(offset) = elf.offset_of(address) else { return Err(outside) };
    let count = size / RELOCATION_BYTES as u64;
    if count > RELOCATIONS {
        return Err(ImageError::TooLarge { what, size: count, limit: RELOCATIONS });
    }
    check_range(&elf.source, what, offset, size)?;
    for_each_record::<RELOCATION_BYTES>(&elf.source, what, offset, count, |_, record| {
        let info = u64_at(record, 8);
        each(Relocation {
            at: u64_at(record, 0),
            kind: info & 0xffff_ffff,
            symbol: (info >> 32) as u32,
            addend: u64_at(record, 16),
        });
        Ok(())
    })
}
