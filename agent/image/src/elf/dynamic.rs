//! The dynamic section: instructions for the dynamic linker, and the only way to the dynamic
//! symbols of an image without a section table.

use super::symbols::{SYMBOL_BYTES, SymbolTable};
use super::{Elf, PT_DYNAMIC, string_at, u32_at, u64_at};
use crate::limits::{DYNAMIC_ENTRIES, STRING_TABLE_BYTES, SYMBOLS};
use crate::source::{check_range, for_each_record, read_exact, read_range};
use crate::{ImageError, ReadAt};

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_PLTRELSZ: u64 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;
const DT_TEXTREL: u64 = 22;
const DT_JMPREL: u64 = 23;
const DT_FLAGS: u64 = 30;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;
/// Symbols in one chain of the GNU hash table. Linkers aim at fewer than 10.
const CHAIN: u64 = 4_096;
const DF_TEXTREL: u64 = 4;
const DF_1_PIE: u64 = 0x0800_0000;

/// Contents of the dynamic section. Addresses are ELF virtual addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dynamic {
    pub(crate) needed: Vec<String>,
    pub(crate) soname: Option<String>,
    pub(crate) text_relocations: bool,
    pub(crate) pie: bool,
    symbols: Option<u64>,
    symbol_bytes: Option<u64>,
    strings: Option<u64>,
    strings_size: Option<u64>,
    relocations: Option<u64>,
    relocations_size: Option<u64>,
    linkage: Option<u64>,
    linkage_size: Option<u64>,
    hash: Option<u64>,
    gnu_hash: Option<u64>,
    version_numbers: Option<u64>,
    versions: Option<u64>,
    version_count: Option<u64>,
}

impl Dynamic {
    /// Reads the section through `PT_DYNAMIC`; `None` in a static executable.
    pub(crate) fn read(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<Self>, ImageError> {
        let what = "dynamic section";
        let Some(segment) = elf.segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
            return Ok(None);
        };
        check_range(&elf.source, what, segment.offset, segment.file_size)?;
        let count = (segment.file_size / 16).min(DYNAMIC_ENTRIES as u64);
        let mut dynamic = Self::default();
        let mut needed = Vec::new();
        let mut soname = None;
        let mut ended = false;
        for_each_record::<16>(&elf.source, what, segment.offset, count, |_, entry| {
            let (tag, value) = (u64_at(entry, 0), u64_at(entry, 8));
            ended |= tag == DT_NULL;
            if ended {
                return Ok(());
            }
            match tag {
                DT_NEEDED => needed.push(value),
                DT_SONAME => soname = Some(value),
                DT_SYMTAB => dynamic.symbols = Some(value),
                DT_SYMENT => dynamic.symbol_bytes = Some(value),
                DT_STRTAB => dynamic.strings = Some(value),
                DT_RELA => dynamic.relocations = Some(value),
                DT_RELASZ => dynamic.relocations_size = Some(value),
                DT_JMPREL => dynamic.linkage = Some(value),
                DT_PLTRELSZ => dynamic.linkage_size = Some(value),
                DT_STRSZ => dynamic.strings_size = Some(value),
                DT_HASH => dynamic.hash = Some(value),
                DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                DT_VERSYM | DT_VERDEF | DT_VERDEFNUM if cfg!(not(feature = "versions")) => {}
                DT_VERSYM => dynamic.version_numbers = Some(value),
                DT_VERDEF => dynamic.versions = Some(value),
                DT_VERDEFNUM => dynamic.version_count = Some(value),
                DT_TEXTREL => dynamic.text_relocations = true,
                DT_FLAGS => dynamic.text_relocations |= value & DF_TEXTREL != 0,
                DT_FLAGS_1 => dynamic.pie = value & DF_1_PIE != 0,
                _ => {}
            }
            Ok(())
        })?;
        for at in needed {
            dynamic.needed.extend(dynamic.string(elf, at));
        }
        dynamic.soname = soname.and_then(|at| dynamic.string(elf, at));
        Ok(Some(dynamic))
    }

    /// Returns address and size in bytes of the relocations with addend.
    pub(crate) fn relocations(&self) -> Option<(u64, u64)> {
        self.relocations.zip(self.relocations_size)
    }

    /// Returns address and size in bytes of the relocations of the procedure linkage table.
    pub(crate) fn linkage(&self) -> Option<(u64, u64)> {
        self.linkage.zip(self.linkage_size)
    }

    /// Returns the addresses of the symbols' version numbers and of the definitions, and their
    /// count.
    pub(crate) fn versions(&self) -> Option<(u64, u64, u64)> {
        Some((self.version_numbers?, self.versions?, self.version_count?))
    }

    /// Returns a dynamic string; `None` if it is endless or above 255 bytes, the most of a file
    /// name.
    fn string(&self, elf: &Elf<dyn ReadAt + '_>, at: u64) -> Option<String> {
        let (table, size) = (self.strings?, self.strings_size?);
        let offset = elf.offset_of(table.checked_add(at)?)?;
        let mut name = [0; 256];
        let length = size.checked_sub(at)?.min(name.len() as u64) as usize;
        let name = name.get_mut(..length)?;
        read_exact(&elf.source, "dynamic string table", offset, name).ok()?;
        Some(String::from_utf8_lossy(string_at(name, 0)?).into_owned())
    }

    /// Returns the dynamic linker's symbol table; `None` if an entry that leads to it is missing.
    pub(crate) fn symbol_table(&self, elf: &Elf<dyn ReadAt + '_>) -> Result<Option<SymbolTable>, ImageError> {
        let (Some(symbols), Some(strings), Some(strings_size)) =
            (self.symbols, self.strings, self.strings_size)
        else {
            return Ok(None);
        };
        let what = "dynamic section";
        if self.symbol_bytes.is_some_and(|bytes| bytes != SYMBOL_BYTES as u64) {
            return Err(ImageError::Malformed { what, reason: "its symbols do not have 24 bytes" });
        }
        let unmapped = ImageError::Malformed { what, reason: "the symbol table is outside the segments" };
        let Some(symbols_at) = elf.offset_of(symbols) else { return Err(unmapped) };
        let Some(strings_at) = elf.offset_of(strings) else { return Err(unmapped) };
        let count = match (self.gnu_hash, self.hash) {
            (_, Some(hash)) => self.count_by_hash(elf, hash)?,
            (Some(hash), None) => count_by_gnu_hash(elf, hash)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(SymbolTable {
            what: ".dynsym",
            symbols_at,
            count,
            strings: read_range(
                &elf.source,
                "dynamic string table",
                strings_at,
                strings_size,
                STRING_TABLE_BYTES,
            )?,
        }))
    }

    /// Counts by `DT_HASH`: two 32-bit words; the second, `nchain`, is the number of symbols.
    fn count_by_hash(&self, elf: &Elf<dyn ReadAt + '_>, hash: u64) -> Result<u64, ImageError> {
        let what = "symbol hash table";
        let offset = offset_of(elf, what, hash)?;
        let mut words = [0; 8];
        read_exact(&elf.source, what, offset, &mut words)?;
        Ok(u64::from(u32_at(&words, 4)))
    }
}

fn offset_of(elf: &Elf<dyn ReadAt + '_>, what: &'static str, address: u64) -> Result<u64, ImageError> {
    elf.offset_of(address).ok_or(ImageError::Malformed { what, reason: "it is outside the segments" })
}

/// Counts by `DT_GNU_HASH`, which does not state the number: one more than the index of the end of
/// the highest bucket's chain. `nbuckets, symoffset, bloom_size, bloom_shift`, bloom filter (64-bit
/// words), buckets, and per symbol from `symoffset` on a hash, whose lowest bit ends a chain.
fn count_by_gnu_hash(elf: &Elf<dyn ReadAt + '_>, hash: u64) -> Result<u64, ImageError> {
    let what = "GNU symbol hash table";
    let start = offset_of(elf, what, hash)?;
    let mut words = [0; 16];
    read_exact(&elf.source, what, start, &mut words)?;
    let buckets = u64::from(u32_at(&words, 0));
    let first = u64::from(u32_at(&words, 4));
    let bloom = u64::from(u32_at(&words, 8));
    let buckets_at = start.saturating_add(16).saturating_add(bloom * 8);
    check_range(&elf.source, what, buckets_at, buckets * 4)?;
    let mut highest = 0;
    for_each_record::<4>(&elf.source, what, buckets_at, buckets.min(SYMBOLS), |_, bucket| {
        highest = highest.max(u64::from(u32_at(bucket, 0)));
        Ok(())
    })?;
    if highest < first {
        return Ok(first);
    }
    let chains_at = buckets_at.saturating_add(buckets * 4);
    for index in highest..highest.saturating_add(CHAIN) {
        let mut word = [0; 4];
        read_exact(&elf.source, what, chains_at.saturating_add((index - first) * 4), &mut word)?;
        if u32_at(&word, 0) & 1 == 1 {
            return Ok(index + 1);
        }
    }
    Err(ImageError::Malformed { what, reason: "a chain of it does not end" })
}
