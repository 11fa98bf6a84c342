//! One executable or shared object.

use std::path::PathBuf;

use edgelat_sites::Marks;

use crate::debug_link::{self, DebugLink};
use crate::dwarf::Inlined;
use crate::elf::dynamic::Dynamic;
use crate::elf::symbols::SymbolTable;
use crate::elf::unwind::Unwind;
use crate::elf::{ET_EXEC, Elf, PF_W, PF_X, PT_INTERP, PT_LOAD, Purpose, notes, rseq};
use crate::functions::collect::Collector;
use crate::go::{Go, pclntab};
use crate::identity::Identity;
use crate::source::read_exact;
use crate::{
    Arch, BuildId, DebugFiles, FunctionTable, Glob, ImageError, Origin, Progress, ReadAt, Refusal, Skipped,
    debugdata,
};

/// Kind of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An executable at fixed addresses.
    Executable,
    /// An executable that is loaded at any address.
    PositionIndependentExecutable,
    /// A shared object.
    SharedObject,
}

/// A loadable segment: bytes of the file that become memory of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// ELF virtual address of the first byte.
    pub address: u64,
    /// File offset of the first byte.
    pub file_offset: u64,
    /// Bytes that come from the file.
    pub file_size: u64,
    /// Bytes in memory; those beyond `file_size` are zero.
    pub memory_size: u64,
    /// True if it is executable.
    pub executable: bool,
    /// True if it is writable.
    pub writable: bool,
}

/// Facts about an image besides its functions, for the guard and the collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Built by the Go tool chain, at least in part.
    pub go: Option<Go>,
    /// Compressed by UPX.
    pub packed: bool,
    /// The dynamic linker changes the text.
    pub text_relocations: bool,
    /// Has a full symbol table.
    pub symtab: bool,
    /// Libraries that it needs (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// Its name as a library (`DT_SONAME`).
    pub soname: Option<String>,
}

/// An executable or shared object that is being read.
#[derive(Debug)]
pub struct Image<S> {
    pub(crate) elf: Elf<S>,
    kind: Kind,
    /// Build-id that debug files are named by.
    gnu_build_id: Option<BuildId>,
    identity: Identity,
    segments: Vec<Segment>,
    facts: Facts,
    pub(crate) marks: Marks,
}

impl<S: ReadAt> Image<S> {
    /// Reads the parts that identify the file: headers, notes and the dynamic section.
    ///
    /// # Errors
    /// An [`ImageError`] with the error and the next step; the caller adds the path.
    pub fn open(source: S) -> Result<Self, ImageError> {
        let elf = Elf::open(source, Purpose::Image)?;
        let notes = notes::read(&elf, Purpose::Image)?;
        let dynamic = Dynamic::read(&elf)?.unwrap_or_default();
        let segments = elf
            .segments
            .iter()
            .filter(|segment| segment.kind == PT_LOAD)
            .map(|segment| Segment {
                address: segment.address,
                file_offset: segment.offset,
                file_size: segment.file_size,
                memory_size: segment.memory_size,
                executable: segment.flags & PF_X != 0,
                writable: segment.flags & PF_W != 0,
            })
            .collect();
        let interpreted = elf.segments.iter().any(|segment| segment.kind == PT_INTERP);
        let kind = if elf.file_type == ET_EXEC {
            Kind::Executable
        } else if dynamic.pie || interpreted && dynamic.soname.is_none() {
            // Linkers before 2015 did not mark executables; some libraries have an interpreter.
            Kind::PositionIndependentExecutable
        } else {
            Kind::SharedObject
        };
        let facts = Facts {
            go: Go::find(&elf, notes.go)?,
            packed: is_packed(&elf)?,
            text_relocations: dynamic.text_relocations,
            symtab: elf.sections().iter().any(|section| section.kind == crate::elf::SHT_SYMTAB),
            needed: dynamic.needed,
            soname: dynamic.soname,
        };
        let marks = Marks { sequences: rseq::sequences(&elf)?, shadow_stack: notes.shadow_stack, next: None };
        Ok(Self {
            elf,
            marks,
            kind,
            gnu_build_id: notes.build_id,
            identity: Identity::of(&notes),
            segments,
            facts,
        })
    }

    /// Returns the instruction set.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.elf.arch
    }

    /// Returns the kind: executable or library.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the build-id: that of the linker, else that of Go, else a hash of the image, which
    /// is read for it. `None` if the image is too large for that.
    #[must_use]
    pub fn build_id(&self) -> Option<&BuildId> {
        self.identity.build_id(&self.elf)
    }

    /// Returns the file offset of the build-id's bytes, for a later comparison. `None` if they are
    /// not in the file.
    #[must_use]
    pub fn build_id_offset(&self) -> Option<u64> {
        self.identity.offset()
    }

    /// Returns the loadable segments in file order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns other facts.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the source of the bytes, such as the open file.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.elf.source
    }

    /// Returns the file offset of an ELF virtual address of code; `None` outside the file-backed
    /// part of every executable segment.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.segment_of(address, 1).map(|segment| segment.file_offset + (address - segment.address))
    }

    /// Returns the ELF virtual address of a code offset; `None` outside every executable segment.
    #[must_use]
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|segment| segment.executable)
            .find(|segment| crate::elf::within(file_offset, segment.file_offset, segment.file_size))
            .map(|segment| segment.address + (file_offset - segment.file_offset))
    }

    /// Returns the executable segment whose file-backed part contains `size` bytes from `address`.
    pub(crate) fn segment_of(&self, address: u64, size: u64) -> Option<&Segment> {
        self.segments.iter().filter(|segment| segment.executable).find(|segment| {
            address
                .checked_sub(segment.address)
                .and_then(|start| start.checked_add(size))
                .is_some_and(|end| end <= segment.file_size)
        })
    }

    /// Returns the reason why no function of this image can be probed, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        if self.facts.packed {
            Some(Refusal::Packed)
        } else if self.facts.text_relocations {
            Some(Refusal::TextRelocations)
        } else {
            let text = |segment: &&Segment| segment.executable && segment.file_size > 0;
            self.segments.iter().find(text).is_none().then_some(Refusal::NoText)
        }
    }

    /// Returns the undefined dynamic symbols that match one of `globs`, such as `swapcontext` or
    /// `_Unwind_*`, sorted.
    ///
    /// # Errors
    /// An [`ImageError`] if the dynamic symbol table cannot be read.
    pub fn imports(&self, globs: &[&str]) -> Result<Vec<String>, ImageError> {
        let globs: Vec<Glob> = globs.iter().map(|glob| Glob::new(glob)).collect();
        let mut found = Vec::new();
        if let Some(table) = SymbolTable::dynamic(&self.elf)? {
            table.for_each(&self.elf.source, |_, symbol| {
                if let Some(name) = table.name(symbol).filter(|_| symbol.undefined) {
                    let name = String::from_utf8_lossy(crate::linkage::without_version(name));
                    if globs.iter().any(|glob| glob.matches(name.chars())) {
                        found.push(name.into_owned());
                    }
                }
            })?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Reads the symbols of all sources: the image's own tables, the compressed one inside it, and
    /// its build's debug file. `progress` is called now and then, for a display after a second.
    ///
    /// Unusable debug files or compressed tables are listed in [`FunctionTable::skipped`].
    ///
    /// # Errors
    /// An [`ImageError`] if its own tables are damaged or above the caps of [`crate::limits`].
    pub fn functions(
        &self,
        debug_files: &DebugFiles<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<FunctionTable, ImageError> {
        let mut collector = Collector::default();
        if let Some(go) = &self.facts.go {
            match pclntab::read(&self.elf) {
                Ok(Some(table)) => collector.add_go(table, go.minor())?,
                Ok(None) => collector.go_is_unknown(),
                Err(error) => {
                    collector.go_is_unknown();
                    collector.skip(Skipped { origin: Origin::Gopclntab, path: None, error });
                }
            }
        }
        if let Some(table) = SymbolTable::full(&self.elf)? {
            collector.add(&self.elf, table, Origin::Symtab, progress)?;
        }
        if let Some(table) = SymbolTable::dynamic(&self.elf)? {
            collector.add(&self.elf, table, Origin::Dynsym, progress)?;
        }
        let origin = Origin::Debugdata;
        let mut decompressing = |done, total| progress(Progress { origin, done, total });
        let inner = debugdata::read(&self.elf, &mut decompressing);
        let added = inner.and_then(|inner| {
            inner.map_or(Ok(()), |inner| add_full(&mut collector, &inner, origin, progress))
        });
        if let Err(error) = added {
            collector.skip(Skipped { origin, path: None, error });
        }
        self.add_debug_file(&mut collector, debug_files, progress);
        self.add_packs(&mut collector, debug_files)?;
        if self.reads_inlined(debug_files) && collector.inlined.is_none() {
            self.add_inlined(&mut collector, &self.elf, None);
        }
        // All Go functions have names.
        if cfg!(feature = "unnamed") && debug_files.unnamed && self.facts.go.is_none() {
            collector.add_unnamed(&self.elf)?;
        }
        let unwind = Unwind::new(&self.elf)?;
        collector.finish(unwind.as_ref(), self)
    }

    /// Adds the first usable debug file.
    fn add_debug_file(
        &self,
        collector: &mut Collector,
        debug_files: &DebugFiles<'_>,
        progress: &mut dyn FnMut(Progress),
    ) {
        let origin = Origin::DebugFile;
        let by_build = self.gnu_build_id.iter().flat_map(|build_id| debug_files.candidates(build_id));
        // The link of a file with full symbols leads to nothing new.
        let follows = cfg!(feature = "links") && !self.facts.symtab;
        let link = if follows { DebugLink::read(&self.elf) } else { Ok(None) };
        let link = link.unwrap_or_else(|error| {
            collector.skip(Skipped { origin, path: None, error });
            None
        });
        let checksum = link.as_ref().map(|link| link.checksum);
        let linked = link.iter().flat_map(|link| debug_files.linked(&link.name));
        let candidates = by_build.map(|found| (found, None)).chain(linked.map(|found| (found, checksum)));
        for ((path, opened), checksum) in candidates {
            let added = opened
                .map_err(|source| ImageError::Read { what: "debug file", source })
                .and_then(|source| self.debug_file(source, checksum, progress))
                .and_then(|elf| add_full(collector, &elf, origin, progress).map(|()| elf));
            match added {
                Ok(elf) => {
                    if self.reads_inlined(debug_files) {
                        self.add_inlined(collector, &elf, Some(PathBuf::from(&path)));
                    }
                    return;
                }
                Err(error) => collector.skip(Skipped { origin, path: Some(PathBuf::from(&path)), error }),
            }
        }
    }

    /// Returns true if debug data are read: Go inlines by its own rules, and keeps a table of it.
    fn reads_inlined(&self, debug_files: &DebugFiles<'_>) -> bool {
        cfg!(feature = "inlined") && debug_files.inlined && self.facts.go.is_none()
    }

    /// Adds the inlined copies from the debug data of this image or its debug file.
    fn add_inlined(&self, collector: &mut Collector, elf: &Elf<dyn ReadAt + '_>, path: Option<PathBuf>) {
        match Inlined::read(elf, &|address| self.segment_of(address, 1).is_some()) {
            Ok(inlined) => collector.inlined = inlined,
            Err(error) => collector.skip(Skipped { origin: Origin::DebugInfo, path, error }),
        }
    }

    /// Adds the packs of this build that match its code.
    fn add_packs(&self, collector: &mut Collector, debug_files: &DebugFiles<'_>) -> Result<(), ImageError> {
        if !debug_files.has_packs() {
            return Ok(());
        }
        let Some(build_id) = self.build_id() else { return Ok(()) };
        for packed in debug_files.packed(self.arch(), build_id) {
            match packed.functions().iter().find(|function| !self.holds(function)) {
                None => collector.add_pack(packed)?,
                Some(function) => {
                    let name = function.names().first().cloned().unwrap_or_default();
                    let error = ImageError::PackDiffers { name };
                    collector.skip(Skipped { origin: Origin::Pack, path: None, error });
                }
            }
        }
        Ok(())
    }

    /// Opens a debug file and checks that it belongs to this build: by its build-id, or by the
    /// `checksum` of a link and, if both have a build-id, also by that.
    fn debug_file(
        &self,
        source: Box<dyn ReadAt>,
        checksum: Option<u32>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Elf<Box<dyn ReadAt>>, ImageError> {
        let elf = Elf::open(source, Purpose::Symbols)?;
        let found = notes::read(&elf, Purpose::Symbols)?.build_id;
        let unknown = checksum.is_some() && (found.is_none() || self.gnu_build_id.is_none());
        if found != self.gnu_build_id && !unknown || elf.arch != self.elf.arch {
            let text = |id: Option<BuildId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(ImageError::DebugFileDiffers { found: text(found), wanted: text(self.gnu_build_id) });
        }
        if let Some(wanted) = checksum {
            let origin = Origin::DebugFile;
            let found = debug_link::checksum(&elf.source, &mut |done, total| {
                progress(Progress { origin, done, total });
            })?;
            if found != wanted {
                return Err(ImageError::DebugFileChecksum { found, wanted });
            }
        }
        Ok(elf)
    }
}

/// Adds the full symbol table of a file that exists for its symbols.
fn add_full(
    collector: &mut Collector,
    elf: &Elf<dyn ReadAt + '_>,
    origin: Origin,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImageError> {
    match SymbolTable::full(elf)? {
        Some(table) => collector.add(elf, table, origin, progress),
        None => Ok(()),
    }
}

/// UPX puts its `l_info` (a checksum, then the magic) right behind the program headers, and removes
/// the section table (UPX, src/p_lx_elf.cpp and src/stub/src/include/linux.h).
fn is_packed(elf: &Elf<dyn ReadAt + '_>) -> Result<bool, ImageError> {
    const MAGIC: &[u8; 4] = b"UPX!";
    const LOOKED_AT: u64 = 4_096;
    if !elf.sections().is_empty() {
        return Ok(false);
    }
    let size = elf.source.size().map_err(|source| ImageError::Read { what: "file", source })?;
    let mut start = vec![0; size.min(LOOKED_AT) as usize];
    read_exact(&elf.source, "file", 0, &mut start)?;
    Ok(start.windows(MAGIC.len()).any(|window| window == MAGIC))
}
