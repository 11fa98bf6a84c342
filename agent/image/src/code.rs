//! From a function to the file offsets of its probe sites.

use std::cell::OnceCell;
use std::ops::Range;

use edgelat_sites::boundary::{self, Instructed, LEAD, TAIL, instructed};
use edgelat_sites::decode::{Code, Step};
use edgelat_sites::{Around, Ends, Marks, Part, Site, Sites, Surroundings};

use crate::elf::unwind::Unwind;
use crate::functions::assembly::Text;
use crate::limits::{COLD_PARTS, FUNCTION_BYTES};
use crate::pack::{PackedFunction, PackedImage};
use crate::source::read_exact;
use crate::{Arch, Function, FunctionTable, Image, Language, ReadAt, Refusal};

/// A site and its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSite {
    /// Kind of the site and its ELF virtual address.
    pub site: Site,
    /// Bytes from the start of the file, inside an executable segment.
    pub file_offset: u64,
}

/// Probe sites of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSites {
    /// Site at which calls begin.
    pub entry: ProbeSite,
    /// Exits in its own code, by address. Empty only if [`Tails`](crate::Tails) followed all.
    pub exits: Vec<ProbeSite>,
}

/// A search for the sites of a function: its main part, other parts, and the surroundings.
pub(crate) type Find<'f> =
    dyn FnMut(Arch, Part<'_>, &[Part<'_>], &dyn Surroundings) -> Result<Sites, Refusal> + 'f;

impl<S: ReadAt> Image<S> {
    /// Decodes a function of `table` and finds its probe sites.
    ///
    /// # Errors
    /// The reason why it cannot be probed soundly.
    pub fn sites(&self, table: &FunctionTable, function: &Function) -> Result<FunctionSites, Refusal> {
        self.sites_by(table, function, Ends::AtExits)
    }

    /// Like [`Image::sites`], with a given way to see the ends of calls.
    ///
    /// # Errors
    /// The reason why it cannot be probed soundly.
    pub fn sites_by(
        &self,
        table: &FunctionTable,
        function: &Function,
        ends: Ends,
    ) -> Result<FunctionSites, Refusal> {
        self.sites_and(table, function, ends, &mut |arch, main, cold, around| {
            edgelat_sites::find_in(arch, main, cold, around, ends)
        })
    }

    /// Like [`Image::sites`], with `find` as the search in native code.
    pub(crate) fn sites_and(
        &self,
        table: &FunctionTable,
        function: &Function,
        ends: Ends,
        find: &mut Find<'_>,
    ) -> Result<FunctionSites, Refusal> {
        if let Some(refusal) = self.refusal().or_else(|| function.refusal.clone()) {
            return Err(refusal);
        }
        if let Some(planned) = table.planned(function.start, function.end) {
            return self.planned_sites(planned, ends);
        }
        let (main, cold) = self.bytes_of(function)?;
        let cold = parts_of(&cold);
        let main = Part { address: function.start, bytes: &main };
        let around = Neighbourhood { image: self, table, unwind: OnceCell::new() };
        let sites = match function.language {
            Language::Native => find(self.arch(), main, &cold, &around),
            Language::Go => edgelat_sites::go::find(self.arch(), main, &around),
            Language::GoAssembly => edgelat_sites::go::find_assembly(self.arch(), main, &around),
        };
        let mut sites = sites.map_err(|refusal| named(refusal, table))?;
        for exit in &mut sites.exits {
            exit.maybe |= table.is_shared(exit.address, function.start);
        }
        self.place(sites)
    }

    /// Returns the reasons, in the words of docs/PROBEABLE.md, why the kernel single-steps sites of
    /// a function, by address. Go functions and functions of a pack are not reported.
    pub fn why_stepped(&self, table: &FunctionTable, function: &Function) -> Vec<(u64, &'static str)> {
        let planned = table.planned(function.start, function.end).is_some();
        if planned || function.language != Language::Native {
            return Vec::new();
        }
        let Ok((main, cold)) = self.bytes_of(function) else { return Vec::new() };
        let around = Neighbourhood { image: self, table, unwind: OnceCell::new() };
        let main = Part { address: function.start, bytes: &main };
        edgelat_sites::why_stepped(self.arch(), main, &parts_of(&cold), &around)
    }

    /// Returns the exits of a function that another one jumps to. Most of its calls did not come
    /// from there: a hit without a matching frame is not an earlier call's.
    pub(crate) fn exits_of_callee(
        &self,
        table: &FunctionTable,
        function: &Function,
    ) -> Result<Vec<ProbeSite>, Refusal> {
        if let Some(refusal) = self.refusal().or_else(|| function.refusal.clone()) {
            return Err(refusal);
        }
        let exits = if let Some(planned) = table.planned(function.start, function.end) {
            self.planned_sites(planned, Ends::AtExits)?.exits
        } else {
            let (main, cold) = self.bytes_of(function)?;
            let around = Neighbourhood { image: self, table, unwind: OnceCell::new() };
            let main = Part { address: function.start, bytes: &main };
            let exits = edgelat_sites::find_exits(self.arch(), main, &parts_of(&cold), &around)?;
            exits.into_iter().map(|site| self.place_one(site)).collect::<Result<_, _>>()?
        };
        let maybe = |exit: ProbeSite| ProbeSite { site: Site { maybe: true, ..exit.site }, ..exit };
        Ok(exits.into_iter().map(maybe).collect())
    }

    /// Reads the code of a function and of its cold parts, as far as their names show them.
    fn bytes_of(&self, function: &Function) -> Result<(Vec<u8>, Parts), Refusal> {
        let main = function.start..function.end;
        let parts = function.cold.get(..function.cold.len().min(COLD_PARTS)).unwrap_or_default();
        let size = std::iter::once(&main)
            .chain(parts)
            .fold(0u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
        if size > FUNCTION_BYTES {
            return Err(Refusal::TooLarge { size, limit: FUNCTION_BYTES });
        }
        let main = self.code(main.start, main.end)?;
        let cold = parts.iter().map(|range| Ok((range.start, self.code(range.start, range.end)?)));
        Ok((main, cold.collect::<Result<_, Refusal>>()?))
    }

    /// Returns the entry and the returns of a function that is known to leave in no other way.
    pub(crate) fn returns(
        &self,
        table: &FunctionTable,
        function: &Function,
    ) -> Result<FunctionSites, Refusal> {
        let bytes = self.code(function.start, function.end)?;
        let around = Neighbourhood { image: self, table, unwind: OnceCell::new() };
        self.place(edgelat_sites::find_returns(
            self.arch(),
            Part { address: function.start, bytes: &bytes },
            &around,
        )?)
    }

    /// Returns the sites of a function of a pack, as far as they fit its code.
    fn planned_sites(&self, planned: &PackedFunction, ends: Ends) -> Result<FunctionSites, Refusal> {
        let parts = self.packed_parts(planned)?;
        let sites = planned.sites().ok_or(Refusal::NoExit)?;
        self.place(edgelat_sites::confirm(self.arch(), &parts_of(&parts), sites, &self.marks, ends)?)
    }

    /// Returns the starts and bytes of the parts of a function of a pack.
    fn packed_parts(&self, planned: &PackedFunction) -> Result<Parts, Refusal> {
        planned.parts().map(|range| Ok((range.start, self.code(range.start, range.end)?))).collect()
    }

    /// Returns true if the code here is that of a function of a pack.
    pub(crate) fn holds(&self, planned: &PackedFunction) -> bool {
        let bytes = |parts: Parts| parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
        self.packed_parts(planned).map(bytes).is_ok_and(|bytes: Vec<u8>| planned.is_code(&bytes))
    }

    /// Puts a function into a pack: its names, its ranges and its sites.
    ///
    /// # Errors
    /// The reason why it cannot be probed soundly.
    pub fn pack(
        &self,
        table: &FunctionTable,
        function: &Function,
        pack: &mut PackedImage,
    ) -> Result<(), Refusal> {
        let sites = self.sites(table, function)?;
        let main = function.start..function.end;
        let mut parts: Vec<Range<u64>> = std::iter::once(main).chain(function.cold.iter().cloned()).collect();
        // Parts without a symbol, found by following jumps, are recognised by their exits.
        let around = Neighbourhood { image: self, table, unwind: OnceCell::new() };
        for exit in &sites.exits {
            let address = exit.site.address;
            if !parts.iter().any(|part| part.contains(&address)) {
                let found = around.code_around(address).ok_or(Refusal::BadParts { address })?;
                parts.push(found.address..found.address.saturating_add(found.bytes.len() as u64));
            }
        }
        let mut code = Vec::new();
        for part in &parts {
            code.extend(self.code(part.start, part.end)?);
        }
        pack.push(function, &parts, &sites, &code);
        Ok(())
    }

    /// Locates sites in the file.
    fn place(&self, sites: Sites) -> Result<FunctionSites, Refusal> {
        let exits = sites.exits.into_iter().map(|site| self.place_one(site));
        Ok(FunctionSites {
            entry: self.place_one(sites.entry)?,
            exits: exits.collect::<Result<_, Refusal>>()?,
        })
    }

    /// Locates a site in the file.
    pub(crate) fn place_one(&self, site: Site) -> Result<ProbeSite, Refusal> {
        let file_offset =
            self.file_offset(site.address).ok_or(Refusal::NotInText { address: site.address })?;
        self.confirm(site.address)?;
        Ok(ProbeSite { site, file_offset })
    }

    /// A site is confirmed by code alone before it is probed; failures are refused here, by name.
    fn confirm(&self, address: u64) -> Result<(), Refusal> {
        let segment = self.segment_of(address, 1).ok_or(Refusal::NotInText { address })?;
        let start = address.saturating_sub(LEAD).max(segment.address);
        let end = address.saturating_add(TAIL).min(segment.address.saturating_add(segment.file_size));
        match instructed(self.arch(), &self.code(start, end)?, (address - start) as usize) {
            Instructed::No => Err(Refusal::Unconfirmed { address }),
            Instructed::Emulated | Instructed::SingleStepped => Ok(()),
        }
    }

    /// Reads a range of code, which must lie in one executable segment that is not writable.
    pub(crate) fn code(&self, start: u64, end: u64) -> Result<Vec<u8>, Refusal> {
        let size = end.checked_sub(start).filter(|&size| size > 0).ok_or(Refusal::UnknownEnd)?;
        if size > FUNCTION_BYTES {
            return Err(Refusal::TooLarge { size, limit: FUNCTION_BYTES });
        }
        let segment = self.segment_of(start, size).ok_or(Refusal::NotInText { address: start })?;
        if segment.writable {
            return Err(Refusal::WritableText);
        }
        let mut bytes = vec![0; size as usize];
        read_exact(&self.elf.source, "code", segment.file_offset + (start - segment.address), &mut bytes)
            .map_err(|error| Refusal::Unreadable { reason: error.to_string() })?;
        Ok(bytes)
    }
}

/// Bytes of the longest instruction.
const INSTRUCTION_BYTES: u64 = 15;
/// Bytes of an instruction that calls or jumps, if its size is fixed.
const CALL_BYTES: usize = 5;
/// Bytes of code searched for calls at a time, and in total.
const SEARCHED: [u64; 2] = [1 << 16, 512 << 20];

impl<S: ReadAt> Text for Image<S> {
    fn is_text(&self, start: u64, size: u64) -> bool {
        self.segment_of(start, size).is_some()
    }

    fn step(&self, address: u64) -> Option<Step> {
        let arch = self.arch();
        let length = match arch {
            Arch::Aarch64 => 4,
            Arch::X86_64 => {
                let segment = self.segment_of(address, 1)?;
                let end = segment.address.saturating_add(segment.file_size);
                let end = end.min(address.saturating_add(INSTRUCTION_BYTES));
                boundary::length(&self.code(address, end).ok()?, 0) as u64
            }
        };
        let bytes = self.code(address, address.checked_add(length)?).ok()?;
        let code = Code::decode(arch, &[Part { address, bytes: &bytes }]).ok()?;
        code.steps.first().copied()
    }

    fn called(&self, addresses: &[u64]) -> Vec<u64> {
        if cfg!(not(feature = "assembly")) {
            return Vec::new();
        }
        let mut called = vec![false; addresses.len()];
        let [chunk, mut left] = SEARCHED;
        for segment in self.segments().iter().filter(|segment| segment.executable) {
            let (mut at, end) = (segment.address, segment.address.saturating_add(segment.file_size));
            while at < end && left > 0 {
                let next = at.saturating_add(chunk).min(end);
                let bytes =
                    self.code(at, next.saturating_add(CALL_BYTES as u64).min(end)).unwrap_or_default();
                for (offset, bytes) in bytes.windows(CALL_BYTES).enumerate() {
                    let from = at.wrapping_add(offset as u64);
                    let target = target_of_call(self.arch(), from, bytes);
                    if let Some(found) = target.and_then(|to| addresses.binary_search(&to).ok()) {
                        called[found] = true;
                    }
                }
                (at, left) = (next, left.saturating_sub(next - at));
            }
        }
        addresses.iter().zip(called).filter(|(_, called)| *called).map(|(address, _)| *address).collect()
    }
}

/// Returns the target of the call or jump at an address, if an instruction begins there.
fn target_of_call(arch: Arch, from: u64, bytes: &[u8]) -> Option<u64> {
    match (arch, bytes) {
        // call rel32, jmp rel32.
        (Arch::X86_64, [0xe8 | 0xe9, a, b, c, d]) => {
            let distance = i32::from_le_bytes([*a, *b, *c, *d]);
            Some(from.wrapping_add(5).wrapping_add_signed(distance.into()))
        }
        // bl, b: 26 bits, in instructions.
        (Arch::Aarch64, [a, b, c, d, _]) if from.is_multiple_of(4) && d & 0x7c == 0x14 => {
            let distance = i32::from_le_bytes([*a, *b, *c, *d]) << 6 >> 4;
            Some(from.wrapping_add_signed(distance.into()))
        }
        _ => None,
    }
}

/// Parts of a function: the start and the bytes of each.
type Parts = Vec<(u64, Vec<u8>)>;

fn parts_of(parts: &Parts) -> Vec<Part<'_>> {
    parts.iter().map(|(address, bytes)| Part { address: *address, bytes }).collect()
}

/// A refusal that names the function that should be probed instead.
fn named(refusal: Refusal, table: &FunctionTable) -> Refusal {
    let Refusal::GoWrapper { target, .. } = refusal else { return refusal };
    let method = match table.starting_at(target) {
        Some(index) => table.function(index).name,
        None => format!("what begins at 0x{target:x}"),
    };
    Refusal::GoWrapper { target, method }
}

/// Surroundings of a function, as the decoder may query them.
struct Neighbourhood<'i, S> {
    image: &'i Image<S>,
    table: &'i FunctionTable,
    /// Read on first use: most functions never need it.
    unwind: OnceCell<Option<Unwind<'i>>>,
}

impl<S: ReadAt> Surroundings for Neighbourhood<'_, S> {
    fn marks(&self, start: u64) -> Marks {
        Marks { next: self.table.next_behind(start), ..self.image.marks.clone() }
    }

    fn code_around(&self, address: u64) -> Option<Around> {
        let (range, named) = match self.table.code_around(address) {
            Some(known) => known,
            None => {
                let unwind = self.unwind.get_or_init(|| Unwind::new(&self.image.elf).ok().flatten());
                (unwind.as_ref()?.range(address).ok()??, false)
            }
        };
        let bytes = self.image.code(range.start, range.end).ok()?;
        Some(Around { address: range.start, bytes, named })
    }

    fn data_at(&self, address: u64, buffer: &mut [u8]) -> usize {
        let Some(segment) = self
            .image
            .segments()
            .iter()
            .find(|segment| crate::elf::within(address, segment.address, segment.file_size))
        else {
            return 0;
        };
        let start = address - segment.address;
        let length = (segment.file_size - start).min(buffer.len() as u64) as usize;
        let Some(buffer) = buffer.get_mut(..length) else { return 0 };
        match read_exact(&self.image.elf.source, "data", segment.file_offset + start, buffer) {
            Ok(()) => length,
            Err(_) => 0,
        }
    }
}
