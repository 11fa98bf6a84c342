//! The code of a process in its memory, which may differ from the decoded file.
//!
//! The kernel takes a probed instruction from the file and executes that copy. If a program patched
//! its own code (live patches, hooking agents), the copy is not the program's instruction, and the
//! bytes behind it no longer fit: the program dies of SIGILL. So memory is compared before probes
//! are attached, and again afterwards, because some kernels place fewer probes than requested.
//!
//! | question | answered by |
//! | --- | --- |
//! | Does the kernel place a probe there at all? | the permissions in /proc/PID/maps |
//! | Was the page written to? | /proc/PID/pagemap: it is anonymous then; any other page is the file's own |
//! | What stands there? | /proc/PID/mem, for pages that were written to only |
//!
//! Other probes are no patches, although their breakpoints also stand in memory. A program's own
//! breakpoint is distinguished by its effect: without a handler for SIGTRAP it kills the program.

use std::os::unix::fs::FileExt;

use edgelat_bpf::layout::SITE_FUNCTION_MASK;

use super::pages::{Memory, page_size};
use super::{ImageSites, Site};
use crate::error::{GuardError, text};
use crate::maps::{FileKey, Mapping};
use crate::memory::EXTRA_PAGES;
use crate::protocol::{Unfit, Unsound};
use crate::target::Target;

/// Most mappings of one image in a process; each is checked for each site. A program has a few, and
/// as many again if it loads the same library once more.
const MAPPED_AT_MOST: usize = 64;
/// Longest instruction (x86-64: Intel SDM vol. 2, 2.3.11; aarch64: 4).
const LONGEST: usize = if cfg!(target_arch = "x86_64") { 15 } else { 4 };
/// Bytes that the kernel writes over a probed instruction: int3; BRK64_OPCODE_UPROBES
/// (arch/arm64/include/asm/debug-monitors.h).
pub(super) const BREAKPOINT: &[u8] =
    if cfg!(target_arch = "x86_64") { &[0xcc] } else { &[0xa0, 0x00, 0x20, 0xd4] };
/// Most bytes compared at a site: those that the entry slid over, and the instruction.
const WINDOW: usize = u8::MAX as usize + LONGEST;

/// The mappings of probed images in one process.
#[derive(Debug)]
pub(crate) struct Mappings {
    mapped: Vec<Mapping>,
    /// The kernel has single-stepped a probe of this process, or called a trampoline for one.
    probed: bool,
    /// Address ranges of its trampolines (Linux 6.18, arch/x86/kernel/uprobes.c).
    trampolines: Vec<(u64, u64)>,
}

impl Mappings {
    /// Reads /proc/PID/maps.
    pub(crate) fn of(target: &Target, images: &[ImageSites]) -> Result<Self, GuardError> {
        let mut found = Self { mapped: Vec::new(), probed: false, trampolines: Vec::new() };
        let mut maps = target.maps()?;
        while let Some(line) = target.next_mapping(&mut maps)? {
            let Some(mapping) = line else { continue };
            found.probed |= mapping.path.starts_with("[uprobes");
            if mapping.path == "[uprobes-trampoline]" {
                found.trampolines.push((mapping.start, mapping.end));
            }
            if images.iter().any(|image| image.key == mapping.file) {
                found.mapped.push(mapping);
            }
        }
        // A process about to end has no memory any more; that differs from code mapped elsewhere.
        if found.mapped.is_empty() && !target.has_memory() {
            return Err(GuardError::NoProcess { pid: target.pid });
        }
        for image in images {
            let times = found.mapped.iter().filter(|mapped| mapped.file == image.key).count();
            if times > MAPPED_AT_MOST {
                let what =
                    format_args!("probe an image that process {} has mapped {times} times", target.pid);
                let reason = text(format_args!("{MAPPED_AT_MOST} times are the most"));
                return Err(GuardError::Unsupported { what: text(what), reason });
            }
        }
        Ok(found)
    }

    /// Addresses of a site in the executable mappings.
    pub(super) fn addresses(&self, file: FileKey, offset: u64) -> impl Iterator<Item = u64> {
        let executable = self.mapped.iter().filter(|mapped| mapped.executable);
        executable.filter_map(move |mapped| mapped.address(file, offset))
    }

    /// Bytes that become private memory because of probes at these sites.
    pub(crate) fn bytes(&self, images: &[ImageSites]) -> u64 {
        (self.pages(images) + EXTRA_PAGES) * page_size()
    }

    /// Pages with such sites, in every mapping that takes probes.
    fn pages(&self, images: &[ImageSites]) -> u64 {
        let page = page_size();
        let mut pages = Vec::new();
        for mapped in self.mapped.iter().filter(|mapped| mapped.takes_probes()) {
            for image in images.iter().filter(|image| image.key == mapped.file) {
                let addresses = image.sites().filter_map(|site| mapped.address(image.key, site.offset));
                pages.extend(addresses.map(|address| address / page));
            }
        }
        pages.sort_unstable();
        pages.dedup();
        pages.len() as u64
    }

    /// Returns the functions that must not be probed in this process, each once, and why.
    pub(crate) fn unfit(&self, target: &Target, images: &[ImageSites]) -> Result<Vec<Unsound>, GuardError> {
        let mut memory = Memory::of(target);
        // Without a SIGTRAP handler, a breakpoint not of the kernel would have ended the process.
        let own_breakpoints = !self.probed && target.handles_traps();
        let shadow_stack =
            images.iter().any(|image| image.sites().any(|site| site.unshadowed)) && target.has_shadow_stack();
        let mut unfit: Vec<Unsound> = Vec::new();
        for image in images {
            for site in image.sites() {
                let why = match shadow_stack && site.unshadowed {
                    true => Ok(Some(Unfit::ShadowStack)),
                    false => self.look(&mut memory, image, site, own_breakpoints),
                };
                // A process that ends meanwhile has nothing mapped, and its memory cannot be read.
                if !matches!(why, Ok(None)) && !target.has_memory() {
                    return Err(GuardError::NoProcess { pid: target.pid });
                }
                let why = why?;
                let function = (site.cookie & SITE_FUNCTION_MASK) as u32;
                unfit.extend(why.map(|why| Unsound { function, why }));
            }
        }
        unfit.sort_unstable_by_key(|unfit| unfit.function);
        unfit.dedup_by_key(|unfit| unfit.function);
        Ok(unfit)
    }

    fn look(
        &self,
        memory: &mut Memory,
        image: &ImageSites,
        site: &Site,
        own_breakpoints: bool,
    ) -> Result<Option<Unfit>, GuardError> {
        let mut seen = false;
        for mapped in self.mapped.iter().filter(|mapped| mapped.executable) {
            let Some(address) = mapped.address(image.key, site.offset) else { continue };
            seen = true;
            if !mapped.takes_probes() {
                return Ok(Some(Unfit::Writable));
            }
            let before = u64::from(site.before).min(address - mapped.start).min(site.offset);
            let first = address - before;
            if !memory.was_written(first, WINDOW as u64)? {
                continue;
            }
            let mut stored = [0; WINDOW];
            let length = image.bytes.read_at(&mut stored[..before as usize + LONGEST], site.offset - before);
            let length = length.unwrap_or(0).min((mapped.end - first) as usize);
            let end = length.min(before as usize + length_of(&stored[before as usize..]));
            let mut found = [0; WINDOW];
            if !memory.read(first, &mut found[..end])? {
                // Unmapped meanwhile: nothing is probed here.
                continue;
            }
            match compare(&stored[..end], &found[..end], first, &self.trampolines) {
                Bytes::Equal => {}
                Bytes::Probed if !own_breakpoints => {}
                Bytes::Probed => return Ok(Some(Unfit::Breakpoint)),
                Bytes::Patched => return Ok(Some(Unfit::Patched)),
            }
        }
        Ok((!seen).then_some(Unfit::Unmapped))
    }

    /// Returns the first function with an attached probe that is not in memory, and the number of
    /// such probes.
    pub(crate) fn not_armed(
        &self,
        target: &Target,
        images: &[ImageSites],
    ) -> Result<Option<(u32, u32)>, GuardError> {
        let missing = self.missing(&mut Memory::of(target), images);
        match missing {
            Ok(None) => Ok(None),
            _ if !target.has_memory() => Err(GuardError::NoProcess { pid: target.pid }),
            missing => missing,
        }
    }

    fn missing(&self, memory: &mut Memory, images: &[ImageSites]) -> Result<Option<(u32, u32)>, GuardError> {
        let mut missing = None;
        let mut count = 0;
        for image in images {
            for site in image.sites() {
                for address in self.addresses(image.key, site.offset) {
                    if !memory.has_probe(address, &image.bytes, site.offset)? {
                        missing.get_or_insert((site.cookie & SITE_FUNCTION_MASK) as u32);
                        count += 1;
                    }
                }
            }
        }
        Ok(missing.map(|function| (function, count)))
    }
}

/// Result of comparing memory with the file.
#[derive(Debug, PartialEq, Eq)]
enum Bytes {
    Equal,
    /// Equal except for breakpoints, or calls into the kernel's trampolines.
    Probed,
    Patched,
}

/// Compares code that begins at `address`.
fn compare(stored: &[u8], found: &[u8], address: u64, trampolines: &[(u64, u64)]) -> Bytes {
    if stored == found {
        return Bytes::Equal;
    }
    let mut at = 0;
    while at < found.len() {
        let here = at..(at + BREAKPOINT.len()).min(found.len());
        at += match calls_trampoline(&found[at..], address + at as u64, trampolines) {
            Some(length) => length,
            None if found[here.clone()] == stored[here.clone()] || found[here] == *BREAKPOINT => {
                BREAKPOINT.len()
            }
            None => return Bytes::Patched,
        };
    }
    Bytes::Probed
}

/// Length of a call into one of the kernel's trampolines, which replaces a probed nop: from 6.18 on
/// a `call`, later with a `lea -0x80(%rsp), %rsp` before it.
fn calls_trampoline(code: &[u8], address: u64, trampolines: &[(u64, u64)]) -> Option<usize> {
    const LEA: &[u8] = &[0x48, 0x8d, 0x64, 0x24, 0x80];
    let before = if code.starts_with(LEA) { LEA.len() } else { 0 };
    let (&opcode, rest) = code.get(before..)?.split_first()?;
    let distance = i32::from_le_bytes(*rest.first_chunk()?);
    let length = before + 5;
    let to = address.wrapping_add(length as u64).wrapping_add_signed(distance.into());
    let known = trampolines.iter().any(|(start, end)| (*start..*end).contains(&to));
    (cfg!(target_arch = "x86_64") && opcode == 0xe8 && known).then_some(length)
}

/// Length of an instruction as far as its opcode shows (Intel SDM vol. 2), so that the bytes of its
/// neighbour are not compared. If the opcode does not show it, the longest length.
fn length_of(code: &[u8]) -> usize {
    if !cfg!(target_arch = "x86_64") {
        return LONGEST;
    }
    match code {
        [0x50..=0x57 | 0x90 | 0xc3, ..] => 1,
        [0xf3, 0xc3, ..] | [0x41, 0x50..=0x57, ..] | [0xeb | 0x70..=0x7f, ..] => 2,
        [0xc2, ..] => 3,
        [0xf3, 0x0f, 0x1e, 0xfa, ..] => 4,
        [0xe8 | 0xe9, ..] | [0x0f, 0x1f, 0x44, 0x00, 0x00, ..] => 5,
        [0x0f, 0x80..=0x8f, ..] => 6,
        _ => LONGEST,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::rc::Rc;

    use super::*;
    use crate::protocol::TargetId;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn breakpoints_and_trampolines_of_the_kernel_are_no_patches() {
        let stored = [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55];
        let with = |at: usize, bytes: &[u8]| {
            let mut found = stored;
            found[at..at + bytes.len()].copy_from_slice(bytes);
            compare(&stored, &found, 0x1000, &[(0x3000, 0x4000)])
        };
        assert_eq!(with(0, &[]), Bytes::Equal);
        assert_eq!(with(9, &[0xcc]), Bytes::Probed);
        assert_eq!(with(0, &[0xe9, 1, 2, 3, 4]), Bytes::Patched);
        assert_eq!(with(1, &[0x90]), Bytes::Patched);
        // 0x1009 + 0x2000 is in the kernel's page, 0x1009 + 0x100 is not.
        assert_eq!(with(4, &[0xe8, 0x00, 0x20, 0x00, 0x00]), Bytes::Probed);
        assert_eq!(with(4, &[0xe8, 0x00, 0x01, 0x00, 0x00]), Bytes::Patched);
        // With the red zone skipped, as later kernels do.
        let stored = [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        let found = [0x48, 0x8d, 0x64, 0x24, 0x80, 0xe8, 0x00, 0x20, 0x00, 0x00];
        assert_eq!(compare(&stored, &found, 0x1000, &[(0x3000, 0x4000)]), Bytes::Probed);
        assert_eq!(compare(&stored, &found, 0x1000, &[]), Bytes::Patched);
    }

    /// The start-up code of this program, without a probe in it.
    fn start() -> (Target, Vec<ImageSites>) {
        let own = Target::unchecked(TargetId(0), std::process::id() as i32).unwrap();
        let code = start as *const () as u64;
        let mapping = own.mappings(|mapping| (mapping.start..mapping.end).contains(&code)).unwrap().remove(0);
        let file = Rc::new(File::open("/proc/self/exe").unwrap());
        let site =
            Site { offset: code - mapping.start + mapping.offset, cookie: 7, before: 0, unshadowed: false };
        let (entries, exits) = (vec![site], Vec::new());
        (own, vec![ImageSites { bytes: Rc::clone(&file), file, key: mapping.file, entries, exits, mark: 0 }])
    }

    #[test]
    fn a_probe_that_is_not_in_memory_is_missed() {
        let (own, images) = start();
        let mapped = Mappings::of(&own, &images).unwrap();
        assert_eq!(mapped.unfit(&own, &images).unwrap(), []);
        assert_eq!(mapped.not_armed(&own, &images).unwrap(), Some((7, 1)));
        assert_eq!(mapped.bytes(&images), (1 + EXTRA_PAGES) * page_size());
    }

    #[test]
    fn a_site_outside_of_all_mappings_is_told() {
        let (own, mut images) = start();
        images[0].entries[0].offset = 1 << 40;
        let mapped = Mappings::of(&own, &images).unwrap();
        assert_eq!(mapped.unfit(&own, &images).unwrap(), [Unsound { function: 7, why: Unfit::Unmapped }]);
    }
}
