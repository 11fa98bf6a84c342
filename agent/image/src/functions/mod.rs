//! Symbols of all sources as one table of functions.
//!
//! [`collect`] reads and merges the tables: symbols of the same range become one function with
//! aliases, cold parts go to their original functions, and known unsound functions get their
//! [`Refusal`]. [`FunctionTable`] holds the result in about 40 bytes a function, besides the string
//! tables of the file; a [`Function`] with its own text is made on request.

pub(crate) mod assembly;
mod cold;
pub(crate) mod collect;
mod go_names;
mod lookup;
pub(crate) mod unnamed;

use std::borrow::Cow;
use std::collections::{HashMap, hash_map};
use std::ops::Range;
use std::path::PathBuf;

use crate::demangle::{self, Form};
use crate::dwarf::Inlined;
use crate::pack::PackedFunction;
use crate::{ImageError, Refusal};

/// Table that a function's symbol came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The full symbol table of the image.
    Symtab,
    /// The dynamic symbol table of the image.
    Dynsym,
    /// The compressed table inside the image.
    Debugdata,
    /// The separate debug file with the same build-id.
    DebugFile,
    /// A pack for this build.
    Pack,
    /// The table of Go's own runtime.
    Gopclntab,
    /// The unwind tables: a range without a name, found by its address.
    Unwind,
    /// Debug data: no names, only facts about inlined functions.
    DebugInfo,
}

impl Language {
    /// Returns the word for JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Go => "go",
            Self::GoAssembly => "go-assembly",
        }
    }
}

impl Origin {
    /// Returns the name of the section, or a word, for people and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symtab => ".symtab",
            Self::Dynsym => ".dynsym",
            Self::Debugdata => ".gnu_debugdata",
            Self::DebugFile => "debug file",
            Self::Pack => "pack",
            Self::Gopclntab => ".gopclntab",
            Self::Unwind => ".eh_frame",
            Self::DebugInfo => ".debug_info",
        }
    }
}

/// Progress while the functions of a large image are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The table that is being read.
    pub origin: Origin,
    /// Symbols read, or compressed bytes of [`Origin::Debugdata`] while it is decompressed.
    pub done: u64,
    /// Total of the same unit, at least 1.
    pub total: u64,
}

/// One function of an image. Addresses are ELF virtual addresses, before any load bias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The name for people: demangled, with parameters, without return type, or the linkage name;
    /// without symbol `fn_0xADDRESS`. Has its version (`name@V_1.0`, `name@@V_2.0`) if the name is
    /// ambiguous.
    pub name: String,
    /// The name in the symbol table, without a version.
    pub linkage_name: String,
    /// Other linkage names of the same range.
    pub aliases: Vec<String>,
    /// Address of the first instruction.
    pub start: u64,
    /// Address after the last byte; equal to `start` if unknown.
    pub end: u64,
    /// Parts that the compiler moved away, as far as their names show.
    /// [`Image::sites`](crate::Image::sites) finds unnamed parts by following the function's jumps.
    pub cold: Vec<Range<u64>>,
    /// Source of the name.
    pub origin: Origin,
    /// Reason why it cannot be probed, as far as it is known without the code.
    pub refusal: Option<Refusal>,
    /// Producer of its code.
    pub language: Language,
    /// Number of its inlined copies by debug data, where probes on it see no call; `None` if debug
    /// data were not read, or do not describe it.
    pub inlined: Option<u32>,
}

/// Producer of a function's code, as far as it matters for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// C, C++, Rust or another language with the conventions of the platform.
    Native,
    /// Go, compiled.
    Go,
    /// Go's assembly.
    GoAssembly,
}

/// An unusable source of symbols. The functions of the other sources are present.
#[derive(Debug)]
pub struct Skipped {
    /// Kind of the source.
    pub origin: Origin,
    /// Its path, for a debug file.
    pub path: Option<PathBuf>,
    /// Its error.
    pub error: ImageError,
}

/// All functions of an image, sorted by start.
#[derive(Debug, Default)]
pub struct FunctionTable {
    strings: Vec<Vec<u8>>,
    functions: Vec<Entry>,
    names: Vec<Name>,
    /// Cold parts: function index ([`cold::UNCERTAIN`] if ambiguous), start and end; sorted.
    cold: Vec<(u32, u64, u64)>,
    skipped: Vec<Skipped>,
    /// String table with Go names, which are not mangled and have no suffixes.
    go: Option<u8>,
    /// Functions of packs, by start and end.
    planned: HashMap<(u64, u64), PackedFunction>,
    /// Versions of symbols as written behind a name, by number; 0 is no version.
    versions: Vec<Vec<u8>>,
    /// Facts from debug data about inlined functions.
    inlined: Option<Inlined>,
}

/// A name as it stands in a string table, without its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    table: u8,
    /// Its number in `FunctionTable::versions`.
    version: u8,
    length: u16,
    offset: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    size: u64,
    /// The first of its names in `FunctionTable::names`, which is the best.
    first: u32,
    names: u32,
    origin: Origin,
    mark: Mark,
    /// True if another version of its name is another function.
    versioned: bool,
}

/// A refusal in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Fine,
    Ifunc,
    UnknownEnd,
    SelfChecked,
    NotInText,
    ColdPart,
    DataInside,
    Go,
    GoAssembly,
    GoStack,
    GoVersion,
    GoUnknown,
}

impl Mark {
    fn refusal(self, start: u64) -> Option<Refusal> {
        match self {
            Self::Fine | Self::Go | Self::GoAssembly => None,
            Self::GoStack => Some(Refusal::GoStack),
            Self::GoVersion => Some(Refusal::GoVersion),
            Self::GoUnknown => Some(Refusal::Go),
            Self::Ifunc => Some(Refusal::IfuncResolver),
            Self::UnknownEnd => Some(Refusal::UnknownEnd),
            Self::SelfChecked => Some(Refusal::SelfChecked),
            Self::NotInText => Some(Refusal::NotInText { address: start }),
            Self::ColdPart => Some(Refusal::ColdPart),
            Self::DataInside => Some(Refusal::DataInside),
        }
    }
}

impl FunctionTable {
    /// Returns the number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Returns true if there are no functions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Iterates over all functions, sorted by start and then by end.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Function> + '_ {
        (0..self.functions.len()).map(|index| self.function(index))
    }

    /// Returns the unusable sources.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Returns true if a function comes from this source.
    #[must_use]
    pub fn has(&self, origin: Origin) -> bool {
        self.functions.iter().any(|entry| entry.origin == origin)
    }

    /// Returns the sources of the names, the best first.
    #[must_use]
    pub fn origins(&self) -> Vec<Origin> {
        let all = [
            Origin::Gopclntab,
            Origin::Symtab,
            Origin::Debugdata,
            Origin::DebugFile,
            Origin::Pack,
            Origin::Dynsym,
            Origin::Unwind,
        ];
        all.into_iter().filter(|origin| self.has(*origin)).collect()
    }

    /// Returns those of `names` that are linkage names in the image, such as
    /// `_Unwind_RaiseException` if the unwinder is linked in.
    #[must_use]
    pub fn defines(&self, names: &[&str]) -> Vec<String> {
        let mut found: Vec<String> = self
            .names
            .iter()
            .filter_map(|&name| {
                let linkage_name = self.linkage_name(name);
                names.iter().find(|name| name.as_bytes() == linkage_name).map(|name| (*name).to_owned())
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns the longest function that begins at `address`.
    pub(crate) fn starting_at(&self, address: u64) -> Option<usize> {
        let first = self.functions.partition_point(|entry| entry.start < address);
        let last = self.functions.partition_point(|entry| entry.start <= address);
        last.checked_sub(1).filter(|&last| last >= first)
    }

    /// Returns true if the function that begins at `address` has this linkage name.
    pub(crate) fn is_called(&self, address: u64, linkage_name: &str) -> bool {
        let names = self.starting_at(address).map_or(&[][..], |index| self.names_of(&self.functions[index]));
        names.iter().any(|name| self.linkage_name(*name) == linkage_name.as_bytes())
    }

    /// Returns the start of the next function behind `start`.
    pub(crate) fn next_behind(&self, start: u64) -> Option<u64> {
        let behind = self.functions.partition_point(|entry| entry.start <= start);
        self.functions.get(behind).map(|entry| entry.start)
    }

    /// Returns the function that contains `address` and begins last.
    pub(crate) fn around(&self, address: u64) -> Option<usize> {
        let end = self.functions.partition_point(|entry| entry.start <= address);
        // Functions inside functions are rare and not deep.
        (0..end).rev().take(64).find(|&index| {
            let entry = &self.functions[index];
            address - entry.start < entry.size
        })
    }

    /// Returns a pack's entry for the function with this range.
    pub(crate) fn planned(&self, start: u64, end: u64) -> Option<&PackedFunction> {
        self.planned.get(&(start, end))
    }

    /// Returns the code range with `address`; true for a function, false for a cold part.
    pub(crate) fn code_around(&self, address: u64) -> Option<(Range<u64>, bool)> {
        if let Some(entry) = self.around(address).map(|index| &self.functions[index]) {
            let range = entry.start..entry.start.saturating_add(entry.size);
            return Some((range, entry.mark != Mark::ColdPart));
        }
        let (_, start, end) = self.cold.iter().find(|(_, start, end)| (*start..*end).contains(&address))?;
        Some((*start..*end, false))
    }

    /// Returns true if `address`, in the function at `start`, is also in the range of another
    /// function, inside or around it.
    pub(crate) fn is_shared(&self, address: u64, start: u64) -> bool {
        /// Functions checked before the address: overlapping ranges are near each other.
        const NEAR: usize = 64;
        let behind = self.functions.partition_point(|entry| entry.start <= address);
        self.functions[..behind].iter().rev().take(NEAR).any(|entry| {
            entry.start != start && entry.mark != Mark::ColdPart && address - entry.start < entry.size
        })
    }

    /// Returns the function at an index of this table.
    pub(crate) fn function(&self, index: usize) -> Function {
        let entry = &self.functions[index];
        let text = |name: &Name| String::from_utf8_lossy(self.linkage_name(*name)).into_owned();
        let mut names = self.names_of(entry).iter();
        let first = names.next();
        let linkage_name = first.map(text).unwrap_or_default();
        let mut name = first.map(|first| self.shown(*first, Form::Full)).unwrap_or_default();
        let mut aliases: Vec<String> = names.map(text).collect();
        if cfg!(feature = "versions") {
            // Equal names are adjacent.
            aliases.dedup();
            aliases.retain(|alias| *alias != linkage_name);
            name.push_str(
                &first.filter(|_| entry.versioned).map(|first| self.version(*first)).unwrap_or_default(),
            );
        }
        let cold = self.cold.partition_point(|part| (part.0 as usize) < index);
        let inlined = self.inlined.as_ref().and_then(|known| {
            known.of(entry.start, self.names_of(entry).iter().map(|name| self.linkage_name(*name)))
        });
        Function {
            name,
            linkage_name,
            aliases,
            start: entry.start,
            end: entry.start.saturating_add(entry.size),
            cold: self.cold[cold..]
                .iter()
                .take_while(|part| part.0 as usize == index)
                .map(|part| part.1..part.2)
                .collect(),
            origin: entry.origin,
            refusal: entry.mark.refusal(entry.start),
            language: match entry.mark {
                Mark::Go => Language::Go,
                Mark::GoAssembly => Language::GoAssembly,
                _ => Language::Native,
            },
            inlined,
        }
    }

    /// Takes the versions, and marks functions whose name has another function in another version.
    fn tell_versions_apart(&mut self, versions: Vec<Vec<u8>>) {
        self.versions = versions;
        let mut first: HashMap<&[u8], usize> = HashMap::new();
        let mut apart = Vec::new();
        for (index, entry) in self.functions.iter().enumerate() {
            let Some(&name) = self.names_of(entry).first().filter(|name| name.version != 0) else { continue };
            match first.entry(self.linkage_name(name)) {
                hash_map::Entry::Occupied(known) => apart.extend([*known.get(), index]),
                hash_map::Entry::Vacant(free) => drop(free.insert(index)),
            }
        }
        for index in apart {
            self.functions[index].versioned = true;
        }
    }

    /// Returns a name for people.
    fn shown(&self, name: Name, form: Form) -> String {
        let linkage_name = self.linkage_name(name);
        demangle::demangle(linkage_name, form)
            .unwrap_or_else(|| String::from_utf8_lossy(linkage_name).into_owned())
    }

    /// Returns the version of a name, as written behind it.
    fn version(&self, name: Name) -> Cow<'_, str> {
        String::from_utf8_lossy(self.versions.get(usize::from(name.version)).map_or(&[], Vec::as_slice))
    }

    fn names_of(&self, entry: &Entry) -> &[Name] {
        &self.names[entry.first as usize..][..entry.names as usize]
    }

    fn linkage_name(&self, name: Name) -> &[u8] {
        name.text(&self.strings)
    }
}

impl Name {
    fn text(self, strings: &[Vec<u8>]) -> &[u8] {
        strings
            .get(usize::from(self.table))
            .and_then(|strings| strings.get(self.offset as usize..)?.get(..usize::from(self.length)))
            .unwrap_or_default()
    }
}
