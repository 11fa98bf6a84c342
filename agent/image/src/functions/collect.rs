//! Reading and merging of symbol tables.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::assembly::Text;
use super::{Entry, FunctionTable, Mark, Name, Origin, Progress, Skipped, cold};
use crate::dwarf::Inlined;
use crate::elf::symbols::{Binding, Symbol, SymbolKind, SymbolTable};
use crate::elf::unwind::Unwind;
use crate::elf::versions::Versions;
use crate::elf::{Elf, within};
use crate::go::pclntab::{self, GoFunction, Layout, Pclntab};
use crate::limits::{FUNCTIONS, NAMES_TOTAL_BYTES};
use crate::linkage::{self, Body};
use crate::pack::{PackedFunction, PackedImage};
use crate::{Arch, ImageError, ReadAt};

/// Start and end of the text of BoringSSL's self-hashing FIPS module (`crypto/fipsmodule/bcm.cc`).
const SELF_CHECKED: [&[u8]; 2] = [b"BORINGSSL_bcm_text_start", b"BORINGSSL_bcm_text_end"];

/// Name prefixes of places that are no functions: mapping symbols, compiler labels, section bounds.
const NO_FUNCTIONS: [&[u8]; 4] = [b"$", b".L", b"__start_", b"__stop_"];

/// Symbols between two calls of the progress function.
const PROGRESS_STEP: u64 = 16_384;

/// A symbol that names code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) name: Name,
    /// Number of the `STT_FILE` symbol that it follows; 0 if it is not local.
    pub(super) file: u32,
    pub(super) binding: Binding,
    ifunc: bool,
    /// True if it has no type and may be no function; set only if assembly is searched.
    label: bool,
    /// Mark from Go's own table.
    pub(super) go: Option<Mark>,
}

impl Raw {
    /// Returns true if its symbol has no type.
    pub(super) const fn is_label(&self) -> bool {
        cfg!(feature = "assembly") && self.label
    }

    /// Makes a symbol of a range that a pack or an unwind table names.
    pub(super) fn of_range(range: Range<u64>, name: Name) -> Self {
        let size = range.end.saturating_sub(range.start);
        Self {
            start: range.start,
            size,
            name,
            file: 0,
            binding: Binding::Global,
            ifunc: false,
            label: false,
            go: None,
        }
    }
}

/// Go's part of an image.
#[derive(Clone, Debug)]
struct GoText {
    /// String table with its names; `None` if its function table cannot be read.
    table: Option<u8>,
    range: Range<u64>,
}

/// Symbols of all tables read so far.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pub(super) strings: Vec<Vec<u8>>,
    origins: Vec<Origin>,
    pub(super) raws: Vec<Raw>,
    /// Starts of data within code, by the mapping symbols of aarch64.
    data: Vec<u64>,
    self_checked: [Option<u64>; 2],
    name_bytes: u64,
    files: u32,
    skipped: Vec<Skipped>,
    go: Option<GoText>,
    planned: HashMap<(u64, u64), PackedFunction>,
    /// Facts from debug data about inlined functions.
    pub(crate) inlined: Option<Inlined>,
    /// Versions of symbols, as written behind a name. The first is empty.
    versions: Vec<Vec<u8>>,
}

impl Collector {
    /// Adds the symbols of a table.
    pub(crate) fn add(
        &mut self,
        elf: &Elf<dyn ReadAt + '_>,
        table: SymbolTable,
        origin: Origin,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImageError> {
        let what = table.what;
        let total = table.count.max(1);
        let index = self.next_table(what)?;
        let mut over = None;
        self.files += 1;
        let code = if cfg!(feature = "assembly") { elf.code() } else { Vec::new() };
        // If the version table is damaged, names have no version.
        let versions = (cfg!(feature = "versions") && origin == Origin::Dynsym)
            .then(|| Versions::read(elf, &table).ok())
            .flatten();
        let version_of = |symbol| versions.as_ref().map(|versions| versions.of(symbol)).unwrap_or_default();
        table.for_each(&elf.source, |done, symbol| {
            if done % PROGRESS_STEP == 0 {
                progress(Progress { origin, done, total });
            }
            if over.is_none() {
                over = self.symbol(elf.arch, &table, index, symbol, &code, || version_of(done)).err();
            }
        })?;
        if let Some(over) = over {
            return Err(over);
        }
        progress(Progress { origin, done: total, total });
        self.strings.push(table.strings);
        self.origins.push(origin);
        Ok(())
    }

    /// Adds the functions of a pack. Their cold parts are not symbols of their own: the plan knows them.
    pub(crate) fn add_pack(&mut self, image: &PackedImage) -> Result<(), ImageError> {
        let index = self.next_table("pack")?;
        let (mut strings, mut found) = (Vec::new(), Vec::new());
        for function in image.functions() {
            let Some(main) = function.parts().next() else { continue };
            for name in function.names() {
                // Both are bounded by the caps of a pack.
                let (Ok(offset), Ok(length)) = (u32::try_from(strings.len()), u16::try_from(name.len()))
                else {
                    continue;
                };
                strings.extend_from_slice(name.as_bytes());
                found.push(Raw::of_range(
                    main.start..main.end,
                    Name { table: index, version: 0, length, offset },
                ));
            }
            self.planned.insert((main.start, main.end), function.clone());
        }
        self.add_table(strings, Origin::Pack, found);
        Ok(())
    }

    /// Returns the number of the string table to be added next.
    pub(super) fn next_table(&self, what: &'static str) -> Result<u8, ImageError> {
        u8::try_from(self.strings.len())
            .map_err(|_| ImageError::Malformed { what, reason: "there are too many symbol tables" })
    }

    pub(super) fn add_table(&mut self, strings: Vec<u8>, origin: Origin, found: Vec<Raw>) {
        self.strings.push(strings);
        self.origins.push(origin);
        self.raws.extend(found);
    }

    pub(super) fn raws(&self) -> &[Raw] {
        &self.raws
    }

    /// Adds the functions of Go's own table, of a program built by version 1.`minor`. Must run
    /// before the symbol tables are added.
    pub(crate) fn add_go(&mut self, pclntab: Pclntab, minor: Option<u32>) -> Result<(), ImageError> {
        let Pclntab { names, functions, layout } = pclntab;
        let name = |function: &GoFunction| {
            names.get(function.name as usize..)?.get(..usize::from(function.name_bytes))
        };
        // A wrapper of the same name calls the function that it wraps, which then sees each call.
        let mut wrapped: HashSet<&[u8]> = HashSet::new();
        wrapped.extend(functions.iter().filter(|function| !is_wrapper(function)).filter_map(name));
        let self_checked = fips_range(&functions, &name);
        let registers = layout >= Layout::Go118 || minor.is_some_and(|minor| minor >= GO_WITH_REGISTERS);
        let table = u8::try_from(self.strings.len()).unwrap_or(u8::MAX);
        self.raws.reserve_exact(functions.len());
        for function in &functions {
            let Some(text) = name(function) else { continue };
            if is_wrapper(function) && wrapped.contains(text) {
                continue;
            }
            let mark = if self_checked.contains(&function.start) {
                Mark::SelfChecked
            } else if !registers {
                Mark::GoVersion
            } else if function.flags & (pclntab::TOP_FRAME | pclntab::WRITES_SP) != 0 {
                Mark::GoStack
            } else if function.flags & pclntab::ASSEMBLY != 0 {
                Mark::GoAssembly
            } else {
                Mark::Go
            };
            self.raws.push(Raw {
                start: function.start,
                size: function.size,
                name: Name { table, version: 0, length: function.name_bytes, offset: function.name },
                file: 0,
                binding: Binding::Global,
                ifunc: false,
                label: false,
                go: Some(mark),
            });
        }
        let start = functions.first().map_or(0, |first| first.start);
        let end = functions.last().map_or(0, |last| last.start.saturating_add(last.size));
        self.go = Some(GoText { table: Some(table), range: start..end });
        self.strings.push(names);
        self.origins.push(Origin::Gopclntab);
        Ok(())
    }

    /// Records that Go's function table is missing or damaged; its functions are then unknown.
    pub(crate) fn go_is_unknown(&mut self) {
        self.go = Some(GoText { table: None, range: 0..0 });
    }

    /// Records an unusable source.
    pub(crate) fn skip(&mut self, skipped: Skipped) {
        self.skipped.push(skipped);
    }

    fn symbol(
        &mut self,
        arch: Arch,
        table: &SymbolTable,
        index: u8,
        symbol: Symbol,
        code: &[Range<u64>],
        version: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), ImageError> {
        match symbol.kind {
            SymbolKind::File => self.files = self.files.saturating_add(1),
            // Go's own table describes its functions better, without duplicates.
            SymbolKind::Function | SymbolKind::Ifunc
                if self.go.as_ref().is_some_and(|go| go.range.contains(&symbol.value)) => {}
            SymbolKind::Function | SymbolKind::Ifunc if symbol.defined => {
                return self.function(table, index, symbol, version);
            }
            SymbolKind::Label if symbol.defined => {
                let Some(name) = table.name(symbol) else { return Ok(()) };
                // $d, $d.N: data begins; ELF for the Arm 64-bit Architecture, "Mapping symbols".
                if arch == Arch::Aarch64 && name.starts_with(b"$d") && self.data.len() < FUNCTIONS {
                    self.data.push(symbol.value);
                }
                self.mark_self_checked(name, symbol.value);
                if cfg!(feature = "assembly")
                    && code.iter().any(|range| range.contains(&symbol.value))
                    && !self.go.as_ref().is_some_and(|go| go.range.contains(&symbol.value))
                    && !NO_FUNCTIONS.iter().any(|begin| name.starts_with(begin))
                {
                    return self.function(table, index, symbol, version);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds a symbol that is, or may be, a function.
    fn function(
        &mut self,
        table: &SymbolTable,
        index: u8,
        symbol: Symbol,
        version: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), ImageError> {
        let Some(name) = table.name(symbol) else { return Ok(()) };
        self.name_bytes += name.len() as u64;
        if self.name_bytes > NAMES_TOTAL_BYTES {
            let (size, limit) = (self.name_bytes, NAMES_TOTAL_BYTES);
            return Err(ImageError::TooLarge { what: "names of all functions", size, limit });
        }
        if self.raws.len() >= FUNCTIONS {
            let (size, limit) = (self.raws.len() as u64 + 1, FUNCTIONS as u64);
            return Err(ImageError::TooLarge { what: "list of functions", size, limit });
        }
        self.mark_self_checked(name, symbol.value);
        let (name, written) = name.split_at(linkage::without_version(name).len());
        let Ok(length) = u16::try_from(name.len()) else { return Ok(()) };
        let version = match written {
            _ if cfg!(not(feature = "versions")) => 0,
            [] => self.version(version()),
            written => self.version(written.to_vec()),
        };
        self.raws.push(Raw {
            start: symbol.value,
            size: symbol.size,
            name: Name { table: index, version, length, offset: symbol.name },
            file: if symbol.binding == Binding::Local { self.files } else { 0 },
            binding: symbol.binding,
            ifunc: symbol.kind == SymbolKind::Ifunc,
            label: symbol.kind == SymbolKind::Label,
            go: None,
        });
        Ok(())
    }

    /// Returns the number of a version, 0 for no version or beyond the limit.
    fn version(&mut self, text: Vec<u8>) -> u8 {
        if self.versions.is_empty() {
            self.versions.push(Vec::new());
        }
        // Versions are few, and equal ones mostly follow each other.
        let known = self.versions.iter().position(|known| *known == text);
        let number = known.unwrap_or(self.versions.len());
        match u8::try_from(number) {
            Ok(number) => {
                if known.is_none() {
                    self.versions.push(text);
                }
                number
            }
            Err(_) => 0,
        }
    }

    fn mark_self_checked(&mut self, name: &[u8], value: u64) {
        for (mark, wanted) in self.self_checked.iter_mut().zip(SELF_CHECKED) {
            if name == wanted {
                *mark = Some(value);
            }
        }
    }

    /// Builds the table, using the facts that the image's code gives about its functions.
    pub(crate) fn finish(
        mut self,
        unwind: Option<&Unwind<'_>>,
        text: &dyn Text,
    ) -> Result<FunctionTable, ImageError> {
        self.end_symbols_without_size(unwind, text)?;
        self.data.sort_unstable();
        let cold = cold::link(&self.raws, &self.strings);
        let mut order: Vec<u32> = (0..self.raws.len() as u32).collect();
        let raws = &self.raws;
        order.sort_unstable_by_key(|&index| {
            let raw = &raws[index as usize];
            // Within one range the best table comes first.
            (raw.start, raw.size, raw.name.table, index)
        });
        let mut table = FunctionTable::default();
        table.functions.reserve_exact(count_ranges(raws, &order));
        let mut parts = Vec::new();
        for group in order.chunk_by(|&a, &b| {
            let (a, b) = (&raws[a as usize], &raws[b as usize]);
            (a.start, a.size) == (b.start, b.size)
        }) {
            let raw = |index: &u32| &raws[*index as usize];
            let Some(first) = group.first().map(raw) else { continue };
            // A range with only cold names is part of its owners; others are a function too.
            let owners: Vec<u32> = group.iter().flat_map(|index| cold.owners(*index)).copied().collect();
            parts.extend(
                owners.iter().map(|&owner| (owner, first.start, first.start.saturating_add(first.size))),
            );
            let only_cold = group.iter().map(raw).all(|raw| is_cold(raw, &self.strings));
            if only_cold && !owners.is_empty() {
                continue;
            }
            let from = table.names.len();
            let mut names: Vec<&Raw> = group.iter().map(raw).collect();
            // Without keeping the keys, which are larger than the symbols: one range may have
            // millions of names. The first of equal names is from the best table. A name without a
            // version equals the versioned one, from a table without versions.
            names.sort_unstable_by_key(|raw| {
                let version = match cfg!(feature = "versions") {
                    true => raw.name.version.wrapping_sub(1),
                    false => 0,
                };
                (preference(raw, &self.strings), version, raw.name.table, raw.name.offset)
            });
            names.dedup_by(|b, a| {
                (cfg!(not(feature = "versions")) || b.name.version == 0 || b.name.version == a.name.version)
                    && a.name.text(&self.strings) == b.name.text(&self.strings)
            });
            table.names.extend(names.iter().map(|raw| raw.name));
            let mark = if only_cold {
                Mark::ColdPart
            } else {
                self.mark(first, group.iter().map(raw).any(|raw| raw.ifunc), text)
            };
            table.functions.push(Entry {
                start: first.start,
                size: first.size,
                first: from as u32,
                names: names.len() as u32,
                origin: self.origins[usize::from(first.name.table)],
                mark,
                versioned: false,
            });
        }
        table.cold = cold::parts(&parts, raws, &table.functions);
        table.strings = self.strings;
        table.inlined = self.inlined;
        if cfg!(feature = "versions") && !self.versions.is_empty() {
            table.tell_versions_apart(self.versions);
        }
        table.skipped = self.skipped;
        table.planned = self.planned;
        table.go = self.go.and_then(|go| go.table);
        Ok(table)
    }

    fn mark(&self, raw: &Raw, ifunc: bool, text: &dyn Text) -> Mark {
        let Raw { start, size, .. } = *raw;
        let end = start.saturating_add(size);
        if let Some(mark) = raw.go {
            if text.is_text(start, size) { mark } else { Mark::NotInText }
        } else if self.go.as_ref().is_some_and(|go| go.table.is_none()) {
            Mark::GoUnknown
        } else if ifunc {
            Mark::Ifunc
        } else if size == 0 {
            Mark::UnknownEnd
        } else if !text.is_text(start, size) {
            Mark::NotInText
        } else if let [Some(from), Some(to)] = self.self_checked
            && start < to
            && end > from
        {
            Mark::SelfChecked
        } else if self
            .data
            .get(self.data.partition_point(|&data| data < start))
            .is_some_and(|&data| within(data, start, size))
        {
            Mark::DataInside
        } else {
            Mark::Fine
        }
    }
}

/// Go keeps the goroutine in a register of x86-64 from 1.17 on.
const GO_WITH_REGISTERS: u32 = 17;

/// Function numbers from here on are wrappers (`FuncID_wrapper` is the last: 21 up to Go 1.22, 22
/// up to 1.24, 23 from 1.25 on; internal/abi/symtab.go), or runtime functions without a namesake.
const WRAPPERS: u8 = 21;

const fn is_wrapper(function: &GoFunction) -> bool {
    function.id >= WRAPPERS && function.flags & pclntab::ASSEMBLY == 0
}

/// Range of the self-checking text of a Go program in FIPS mode. The linker joins all text with
/// this name prefix and the private text of those packages (cmd/internal/obj/fips140.go,
/// cmd/link/internal/ld/fips140.go, Go 1.24).
fn fips_range<'n>(functions: &[GoFunction], name: &impl Fn(&GoFunction) -> Option<&'n [u8]>) -> Range<u64> {
    const PACKAGE: &[u8] = b"crypto/internal/fips140";
    let checked = |function: &&GoFunction| {
        let rest = name(function).and_then(|name| name.strip_prefix(PACKAGE));
        rest.is_some_and(|rest| matches!(rest.first(), Some(b'.' | b'/')))
    };
    let mut found = functions.iter().filter(checked);
    let Some(first) = found.next() else { return 0..0 };
    let last = found.next_back().unwrap_or(first);
    first.start..last.start.saturating_add(last.size)
}

fn count_ranges(raws: &[Raw], order: &[u32]) -> usize {
    let range = |index: u32| (raws[index as usize].start, raws[index as usize].size);
    order.windows(2).filter(|pair| range(pair[0]) != range(pair[1])).count() + usize::from(!order.is_empty())
}

pub(super) fn is_cold(raw: &Raw, strings: &[Vec<u8>]) -> bool {
    raw.go.is_none() && linkage::split(raw.name.text(strings)).body == Body::Cold
}

/// Sort key of a name: the smallest is the name that callers use, not a library's internal one.
fn preference<'s>(raw: &Raw, strings: &'s [Vec<u8>]) -> (usize, u8, Reverse<bool>, usize, &'s [u8]) {
    let name = raw.name.text(strings);
    let mangled = crate::demangle::is_mangled(name);
    let underscores = if mangled { 0 } else { name.iter().take_while(|&&byte| byte == b'_').count() };
    let binding = match raw.binding {
        Binding::Global => 0,
        Binding::Weak => 1,
        Binding::Local => 2,
    };
    (underscores, binding, Reverse(mangled), name.len(), name)
}
