//! An image that was opened for the collector, and the guard's own checks before it is probed.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use edgelat_bpf::layout::{
    SITE_ABOVE_SHIFT, SITE_ANY_CPU, SITE_CONDITIONAL, SITE_FUNCTION_MASK, SITE_GOROUTINE, SITE_PLACE_SHIFT,
    SITE_PROCESS_SHIFT, SITE_PYTHON, SITE_RETURN, SITE_SHARED, SITE_UNWOUND,
};
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::attach::{ImageSites, Site};
use crate::elf::Executable;
use crate::error::{GuardError, text};
use crate::maps::FileKey;
use crate::protocol::{ImageId, PlanOptions, PlanSite, Returns, TargetId};

/// A file that a target maps, held open.
pub(crate) struct OpenImage {
    pub(crate) id: ImageId,
    pub(crate) target: TargetId,
    /// Descriptor for the kernel. For a foreign file it is only a name, and cannot be read.
    pub(crate) file: Rc<File>,
    /// Contents at the opening, for a file on a file system that may not answer.
    pub(crate) copy: Option<Rc<File>>,
    pub(crate) executable: Executable,
    pub(crate) key: FileKey,
    pub(crate) identity: Identity,
}

impl OpenImage {
    /// File whose bytes can be read without waiting for a server.
    pub(crate) fn bytes(&self) -> &Rc<File> {
        self.copy.as_ref().unwrap_or(&self.file)
    }
}

/// Attributes that change if a file is written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    device: (u32, u32),
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Identity {
    /// As the kernel knows it, without a request to the file's server.
    pub(crate) fn of(file: &File) -> Result<Self, GuardError> {
        let found = stat_quietly(file.as_raw_fd(), c"");
        let found = found.map_err(|errno| GuardError::Proc { file: text("the image"), os: errno.into() })?;
        let time = |time: libc::statx_timestamp| (time.tv_sec, i64::from(time.tv_nsec));
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
        })
    }

    /// Equal except for attributes that a new name, a lost name or other rights change as well. A
    /// writer can set the time of writing back, so the relevant bytes must be checked again.
    pub(crate) fn may_be(&self, other: &Self) -> bool {
        *self == Self { ctime: self.ctime, ..*other }
    }
}

/// Attributes of a file as the kernel knows them: of `folder` itself or of `name` in it, links
/// followed. Asks no server, as of a network file system (statx(2), AT_STATX_DONT_SYNC).
pub(crate) fn stat_quietly(folder: RawFd, name: &CStr) -> Result<libc::statx, Errno> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_EMPTY_PATH;
    let what = libc::STATX_BASIC_STATS;
    // By its number: musl has a function for it only from 1.2.5 on. SAFETY: the name ends with a
    // zero, and the kernel writes one such structure, for which there is room.
    let result =
        unsafe { libc::syscall(libc::SYS_statx, folder, name.as_ptr(), flags, what, found.as_mut_ptr()) };
    // SAFETY: it is made of integers, and every byte of it was set before the call.
    Errno::result(result).map(|_| unsafe { found.assume_init() })
}

/// Bytes that are read at a site: as many as [`becomes_call`] checks, one more than a plan brings.
const CODE: usize = 5;

/// The bytes at a site, fewer at the end of the file.
fn bytes_at(file: &File, offset: u64) -> ([u8; CODE], usize) {
    let mut bytes = [0; CODE];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) | Err(_) => break,
            Ok(more) => read += more,
        }
    }
    (bytes, read)
}

/// Fingerprint of the bytes at a site, to be added up over all sites of an image in any order.
pub(crate) fn mark_of(file: &File, offset: u64) -> u64 {
    let ([a, b, c, d, e], read) = bytes_at(file, offset);
    let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
        ^ (read as u64) << 40;
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Checks all that must be true of a site, whatever its source. Returns true for a call, which the
/// kernel emulates.
pub(crate) fn check_site(
    open: &OpenImage,
    site: &PlanSite,
    options: &PlanOptions,
) -> Result<bool, GuardError> {
    let bad = |reason: &str| {
        Err(GuardError::BadPlan { reason: text(format_args!("{reason} at {:#x}", site.offset)) })
    };
    if !open.executable.contains(site.offset) {
        return bad("no executable segment");
    }
    // Segments are mapped by pages, so a file offset is aligned as its address is.
    if cfg!(target_arch = "aarch64") && !site.offset.is_multiple_of(4) {
        return bad("no instruction");
    }
    if site.cookie & SITE_FUNCTION_MASK >= u64::from(options.functions) {
        return bad("a function that the plan does not have");
    }
    // A return has no room for the stack pointer's place, and needs none.
    let places = if site.cookie & SITE_RETURN == 0 { SITE_PROCESS_SHIFT } else { SITE_PLACE_SHIFT };
    if site.cookie & SITE_ANY_CPU != 0 || site.cookie >> places != 0 {
        return bad("a mark that is the guard's own");
    }
    if unwinds(site.cookie) && (!site.exit || site.cookie & (SITE_RETURN | SITE_GOROUTINE | SITE_PYTHON) != 0)
    {
        return bad("no exit by an exception");
    }
    // The kernel replaces the word at the stack pointer: it must be the return address.
    if options.returns == Returns::Uretprobe && !site.exit && site.cookie >> SITE_ABOVE_SHIFT != 0 {
        return bad("a return probe where the stack pointer has moved");
    }
    // The program will act as a return does: the site must be one.
    if site.cookie & SITE_RETURN != 0 && !is_return(&site.code, site.exit) {
        return bad("no plain return");
    }
    let Some(expected) = site.code.get(..usize::from(site.code_len)).filter(|code| !code.is_empty()) else {
        return bad("no bytes to compare");
    };
    // Reading also brings the page in, so that the kernel need not wait for the disk while it attaches.
    let (found, read) = bytes_at(open.bytes(), site.offset);
    if read < expected.len() || found[..expected.len()] != *expected {
        let what = text(format_args!("the instruction at {:#x}", site.offset));
        return Err(GuardError::ImageChanged { what });
    }
    if cfg!(target_arch = "x86_64") && becomes_call(&found, site.exit) {
        return bad("a nop that the kernel may overwrite with a call");
    }
    Ok(cfg!(target_arch = "x86_64") && matches!(behind_prefixes(&found), [0xe8, ..] | []))
}

fn is_prefix(byte: &u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3)
}

/// x86-64 code from its opcode on.
fn behind_prefixes(code: &[u8; CODE]) -> &[u8] {
    &code[code.iter().take_while(|byte| is_prefix(byte)).count()..]
}

/// True if some kernel may overwrite the instruction with a call, which writes its return address
/// below the stack pointer, where the program may keep data: x86-64 instructions of five bytes that
/// do nothing (`can_optimize` of arch/x86/kernel/uprobes.c, Linux 6.18 to 7.1; `insn_is_nop` of
/// arch/x86/lib/insn-eval.c), and the beginning of the nop of ten bytes that later kernels
/// overwrite. The collector puts no site there; nothing else depends on its word.
fn becomes_call(code: &[u8; CODE], exit: bool) -> bool {
    let behind = behind_prefixes(code);
    match behind {
        // nopl, jmp to the next instruction, mov of a register to itself.
        [0x0f, 0x1f, ..] | [0xeb, 0] | [0x89, 0xc0..=0xff] => true,
        // A tail call leaves nothing below the stack pointer.
        [0xe9, 0, 0, 0, 0] => !exit,
        [0x90, ..] => behind.len() < CODE,
        // lea of a register and a displacement of 0 in one byte, without and with an index byte.
        [0x8d, modrm, 0] => modrm >> 6 == 1 && modrm & 7 != 4,
        [0x8d, modrm, _, 0] => modrm >> 6 == 1 && modrm & 7 == 4,
        _ => false,
    }
}

/// A place is probed once for a function, and for few functions: every hit pays for each.
pub(crate) fn check_places(images: &[(ImageId, ImageSites)]) -> Result<(), GuardError> {
    const SHARED: usize = SITE_SHARED as usize;
    let places = images.iter().flat_map(|(_, sites)| {
        // One file may have been opened twice.
        let of = |exit, site: &Site| (sites.key, exit, site.offset, site.cookie & SITE_FUNCTION_MASK);
        let entries = sites.entries.iter().map(move |site| of(false, site));
        entries.chain(sites.exits.iter().map(move |site| of(true, site)))
    });
    let mut places: Vec<(FileKey, bool, u64, u64)> = places.collect();
    places.sort_unstable();
    let bad = |at: u64, reason: &str| {
        Err(GuardError::BadPlan { reason: text(format_args!("the site at {at:#x} {reason}")) })
    };
    if let Some(place) = places.windows(2).find(|some| some[0] == some[1]) {
        return bad(place[0].2, "is named twice");
    }
    let same = |one: &(FileKey, bool, u64, u64), other: &(FileKey, bool, u64, u64)| {
        (one.0, one.1, one.2) == (other.0, other.1, other.2)
    };
    if let Some(place) = places.windows(SHARED + 1).find(|some| same(&some[0], &some[SHARED])) {
        return bad(place[0].2, "is named for too many functions");
    }
    Ok(())
}

/// True if an exception leaves at the site, by its marks.
fn unwinds(cookie: u64) -> bool {
    cookie & (SITE_CONDITIONAL | SITE_UNWOUND) == SITE_UNWOUND
}

/// `ret` or `rep ret` of x86-64 (Intel SDM vol. 2, RET: C3), at an exit site.
fn is_return(code: &[u8; 4], exit: bool) -> bool {
    cfg!(target_arch = "x86_64") && exit && matches!(code, [0xc3, ..] | [0xf3, 0xc3, ..])
}

#[cfg(test)]
mod tests {
    use super::becomes_call;

    #[test]
    fn what_does_nothing_in_five_bytes_is_known() {
        for code in [
            [0x0f, 0x1f, 0x44, 0, 0],       // nopl
            [0x0f, 0x1f, 0x44, 0, 8],       // clang's -fpatchable-function-entry=5
            [0x66, 0x0f, 0x1f, 0x40, 0],    // nopw
            [0x66, 0x2e, 0x0f, 0x1f, 0x84], // nopw of ten bytes
            [0x67, 0x67, 0x67, 0x67, 0x90], // nop
            [0xe9, 0, 0, 0, 0],             // jmp
            [0x67, 0x67, 0x67, 0xeb, 0],    // jmp, short
            [0x67, 0x67, 0x48, 0x89, 0xf6], // mov %rsi, %rsi
            [0x48, 0x8d, 0x74, 0x26, 0],    // lea 0(%rsi), %rsi
            [0x67, 0x48, 0x8d, 0x76, 0],    // lea 0(%esi), %rsi
        ] {
            assert!(becomes_call(&code, false), "{code:02x?}");
        }
        for code in [
            [0x90, 0x90, 0x90, 0x90, 0x90], // nop
            [0x55, 0x48, 0x89, 0xe5, 0x53], // push %rbp; mov %rsp, %rbp
            [0xe9, 0, 1, 0, 0],             // jmp
            [0xeb, 0, 0xc3, 0, 0],          // jmp of two bytes
            [0x48, 0x89, 0xf6, 0x90, 0x90], // mov of three bytes
            [0x48, 0x8d, 0x7c, 0x24, 8],    // lea 8(%rsp), %rdi
            [0x48, 0x8d, 0x76, 0, 0],       // lea of four bytes
            [0xf3, 0x0f, 0x1e, 0xfa, 0x0f], // endbr64
            [0xe8, 0, 0, 0, 0],             // call
            [0, 0, 0, 0, 0],
        ] {
            assert!(!becomes_call(&code, false), "{code:02x?}");
        }
        assert!(!becomes_call(&[0xe9, 0, 0, 0, 0], true), "a tail call");
        assert!(becomes_call(&[0x0f, 0x1f, 0x44, 0, 0], true), "no exit is a nop");
    }
}
