//! Symbol tables.

use super::{Elf, SHT_DYNSYM, SHT_NOBITS, SHT_SYMTAB, string_at, u16_at, u32_at, u64_at};
use crate::limits::{STRING_TABLE_BYTES, SYMBOLS};
use crate::source::{check_range, for_each_record, read_exact, read_range};
use crate::{ImageError, ReadAt};

/// `sizeof(Elf64_Sym)`.
pub(crate) const SYMBOL_BYTES: usize = 24;

const SHN_UNDEF: u16 = 0;
const SHN_LORESERVE: u16 = 0xff00;
const SHN_XINDEX: u16 = 0xffff;

/// The type of a symbol (low four bits of `st_info`), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SymbolKind {
    /// `STT_NOTYPE`: a label, as assembly and mapping symbols have.
    Label,
    /// `STT_FUNC`.
    Function,
    /// `STT_FILE`: the source file that the following local symbols come from.
    File,
    /// `STT_GNU_IFUNC`: a function that returns the address of the implementation.
    Ifunc,
    /// Any other type.
    Other,
}

/// The binding of a symbol (high four bits of `st_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// `STB_LOCAL`, or an unknown binding.
    Local,
    /// `STB_GLOBAL` or `STB_GNU_UNIQUE`.
    Global,
    /// `STB_WEAK`.
    Weak,
}

/// One symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Offset of the name in the string table.
    pub(crate) name: u32,
    pub(crate) kind: SymbolKind,
    pub(crate) binding: Binding,
    /// Defined in a section of this file (not imported, absolute or common).
    pub(crate) defined: bool,
    /// Not defined anywhere in this file.
    pub(crate) undefined: bool,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

/// Location of a symbol table, and its string table.
#[derive(Debug)]
pub(crate) struct SymbolTable {
    pub(crate) what: &'static str,
    pub(crate) symbols_at: u64,
    pub(crate) count: u64,
    pub(crate) strings: Vec<u8>,
}

impl SymbolTable {
    /// Returns the table of `.symtab`, if the file has one.
    pub(crate) fn full(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<Self>, ImageError> {
        Self::of_section(elf, SHT_SYMTAB, ".symtab")
    }

    /// Returns the table of `.dynsym`, by its section or, without sections, by the dynamic section.
    pub(crate) fn dynamic(elf: &Elf<dyn ReadAt + '_>) -> Result<Option<Self>, ImageError> {
        if let Some(table) = Self::of_section(elf, SHT_DYNSYM, ".dynsym")? {
            return Ok(Some(table));
        }
        match super::dynamic::Dynamic::read(elf)? {
            Some(dynamic) => dynamic.symbol_table(elf)?.map(|table| table.checked(elf)).transpose(),
            None => Ok(None),
        }
    }

    fn of_section(
        elf: &Elf<dyn ReadAt + '_>,
        kind: u32,
        what: &'static str,
    ) -> Result<Option<Self>, ImageError> {
        let Some(section) = elf.sections().iter().find(|section| section.kind == kind && section.size > 0)
        else {
            return Ok(None);
        };
        let strings = elf
            .section(section.link)
            .filter(|strings| strings.kind != SHT_NOBITS)
            .ok_or(ImageError::Malformed { what, reason: "it has no string table" })?;
        let table = Self {
            what,
            symbols_at: section.offset,
            count: section.size / SYMBOL_BYTES as u64,
            strings: read_range(
                &elf.source,
                "string table",
                strings.offset,
                strings.size,
                STRING_TABLE_BYTES,
            )?,
        };
        table.checked(elf).map(Some)
    }

    fn checked(self, elf: &Elf<dyn ReadAt + '_>) -> Result<Self, ImageError> {
        if self.count > SYMBOLS {
            return Err(ImageError::TooLarge { what: self.what, size: self.count, limit: SYMBOLS });
        }
        check_range(&elf.source, self.what, self.symbols_at, self.count * SYMBOL_BYTES as u64)?;
        Ok(self)
    }

    /// Calls `each` with the number of symbols before it and the symbol.
    pub(crate) fn for_each(
        &self,
        source: &dyn ReadAt,
        mut each: impl FnMut(u64, Symbol),
    ) -> Result<(), ImageError> {
        for_each_record(source, self.what, self.symbols_at, self.count, |index, bytes| {
            each(index, Symbol::parse(bytes));
            Ok(())
        })
    }

    /// Returns the symbol of a number.
    pub(crate) fn symbol(&self, source: &dyn ReadAt, number: u64) -> Option<Symbol> {
        let mut bytes = [0; SYMBOL_BYTES];
        let at = self.symbols_at.checked_add(number.checked_mul(SYMBOL_BYTES as u64)?)?;
        (number < self.count).then(|| read_exact(source, self.what, at, &mut bytes).ok())??;
        Some(Symbol::parse(&bytes))
    }

    /// Returns the name of a symbol; `None` if it is endless, empty or above the cap.
    pub(crate) fn name(&self, symbol: Symbol) -> Option<&[u8]> {
        string_at(&self.strings, symbol.name as usize).filter(|name| !name.is_empty())
    }
}

impl Symbol {
    fn parse(bytes: &[u8; SYMBOL_BYTES]) -> Self {
        let section = u16_at(bytes, 6);
        Self {
            name: u32_at(bytes, 0),
            kind: match bytes[4] & 0xf {
                0 => SymbolKind::Label,
                2 => SymbolKind::Function,
                4 => SymbolKind::File,
                10 => SymbolKind::Ifunc,
                _ => SymbolKind::Other,
            },
            binding: match bytes[4] >> 4 {
                1 | 10 => Binding::Global,
                2 => Binding::Weak,
                _ => Binding::Local,
            },
            defined: section != SHN_UNDEF && (section < SHN_LORESERVE || section == SHN_XINDEX),
            undefined: section == SHN_UNDEF,
            value: u64_at(bytes, 8),
            size: u64_at(bytes, 16),
        }
    }
}
