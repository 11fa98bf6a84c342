//! Versions of dynamic symbols: a library may have several functions of one name, the newest for
//! programs linked now and the others for programs linked long ago.
//!
//! `.gnu.version` has a number for each dynamic symbol; `.gnu.version_d` names the file's own
//! versions (Linux Standard Base Core, "Symbol Versioning"; `Elf64_Verdef`, `Elf64_Verdaux` of
//! `<elf.h>`).

use super::dynamic::Dynamic;
use super::symbols::SymbolTable;
use super::{Elf, string_at, u16_at, u32_at};
use crate::limits::{SYMBOLS, VERSIONS};
use crate::source::{read_exact, read_range};
use crate::{ImageError, ReadAt};

/// Bit in the number of a symbol that is not the default version.
const HIDDEN: u16 = 0x8000;
/// `VER_FLG_BASE`: the version is the file itself.
const BASE: u16 = 1;
/// `sizeof(Elf64_Verdef)`.
const DEFINITION_BYTES: usize = 20;

/// The versions of the dynamic symbols of an image.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// One number for each symbol, 16 bits each.
    numbers: Vec<u8>,
    /// Names of the versions, by number.
    names: Vec<Vec<u8>>,
}

impl Versions {
    /// Reads the versions of `table`, the file's dynamic symbols; empty if it defines no versions.
    ///
    /// # Errors
    /// An [`ImageError`] if they stand outside the file.
    pub(crate) fn read(elf: &Elf<dyn ReadAt + '_>, table: &SymbolTable) -> Result<Self, ImageError> {
        const WHAT: &str = "table of symbol versions";
        let found = Dynamic::read(elf)?.and_then(|dynamic| dynamic.versions());
        let Some((numbers, definitions, count)) = found else { return Ok(Self::default()) };
        let (Some(at), Some(mut definition)) = (elf.offset_of(numbers), elf.offset_of(definitions)) else {
            return Ok(Self::default());
        };
        let numbers = read_range(&elf.source, WHAT, at, table.count.saturating_mul(2), SYMBOLS * 2)?;
        let mut names = Vec::new();
        for _ in 0..count.min(VERSIONS) {
            let mut bytes = [0; DEFINITION_BYTES];
            read_exact(&elf.source, WHAT, definition, &mut bytes)?;
            // vd_version, vd_flags, vd_ndx, vd_cnt, vd_hash, vd_aux, vd_next; first vda_name: its
            // own.
            let (flags, number) = (u16_at(&bytes, 2), u16_at(&bytes, 4));
            let (own, next) = (u32_at(&bytes, 12), u32_at(&bytes, 16));
            let mut name = [0; 4];
            read_exact(&elf.source, WHAT, definition.saturating_add(own.into()), &mut name)?;
            if let Some(name) = string_at(&table.strings, u32_at(&name, 0) as usize)
                && flags & BASE == 0
            {
                let number = usize::from(number & !HIDDEN);
                if number >= names.len() && number <= VERSIONS as usize + 1 {
                    names.resize(number + 1, Vec::new());
                }
                if let Some(known) = names.get_mut(number) {
                    *known = name.to_vec();
                }
            }
            if next == 0 {
                break;
            }
            definition = definition.saturating_add(next.into());
        }
        Ok(Self { numbers, names })
    }

    /// Returns the version of a numbered symbol as written behind its name: `@V_1.0`, or `@@V_2.0`
    /// for the default version. Empty for a symbol without a version.
    pub(crate) fn of(&self, symbol: u64) -> Vec<u8> {
        let at = usize::try_from(symbol).ok().and_then(|symbol| symbol.checked_mul(2));
        let number = at.and_then(|at| self.numbers.get(at..)?.first_chunk::<2>());
        let number = number.map_or(0, |number| u16::from_le_bytes(*number));
        let sign: &[u8] = if number & HIDDEN == 0 { b"@@" } else { b"@" };
        let name = self.names.get(usize::from(number & !HIDDEN)).filter(|name| !name.is_empty());
        name.map(|name| [sign, name].concat()).unwrap_or_default()
    }
}
