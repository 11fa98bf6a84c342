//! An image that was opened for the collector, and what the guard itself makes sure of before it is probed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::rc::Rc;

use edgelat_bpf::layout::{SITE_ANY_CPU, SITE_FUNCTION_MASK, SITE_RETURN};

use crate::elf::Executable;
use crate::error::{GuardError, text};
use crate::protocol::{ImageId, PlanSite, TargetId};
use crate::target::FileKey;

/// A file that a target maps, held open.
pub(crate) struct OpenImage {
    pub(crate) id: ImageId,
    pub(crate) target: TargetId,
    pub(crate) file: Rc<File>,
    pub(crate) executable: Executable,
    pub(crate) key: FileKey,
    pub(crate) identity: Identity,
}

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Identity {
    pub(crate) fn of(file: &File) -> Result<Self, GuardError> {
        let meta = file
            .metadata()
            .map_err(|error| GuardError::Proc { file: text("the image"), os: error.into() })?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// The same but for what a new name, a lost name or other rights change as well. Who writes can set the time of
    /// writing back, so the bytes that count have to be looked at again.
    pub(crate) fn may_be(&self, other: &Self) -> bool {
        *self == Self { ctime: self.ctime, ..*other }
    }
}

/// The bytes at a site, fewer at the end of the file.
fn bytes_at(file: &File, offset: u64) -> ([u8; 4], usize) {
    let mut bytes = [0; 4];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) | Err(_) => break,
            Ok(more) => read += more,
        }
    }
    (bytes, read)
}

/// What stands at a site, to be added up over all sites of an image in any order.
pub(crate) fn mark_of(file: &File, offset: u64) -> u64 {
    let (bytes, read) = bytes_at(file, offset);
    let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ u64::from(u32::from_le_bytes(bytes))
        ^ (read as u64) << 32;
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// What the guard must know to be true of a site, whoever names it.
pub(crate) fn check_site(open: &OpenImage, site: &PlanSite, functions: u32) -> Result<(), GuardError> {
    let bad = |reason: &str| {
        Err(GuardError::BadPlan { reason: text(format_args!("{reason} at {:#x}", site.offset)) })
    };
    if !open.executable.contains(site.offset) {
        return bad("no executable segment");
    }
    if site.cookie & SITE_FUNCTION_MASK >= u64::from(functions) {
        return bad("a function that the plan does not have");
    }
    if site.cookie & SITE_ANY_CPU != 0 {
        return bad("a mark that is the guard's own");
    }
    // The program will do what a return does: it must be one.
    if site.cookie & SITE_RETURN != 0 && !is_return(&site.code, site.exit) {
        return bad("no plain return");
    }
    let Some(expected) = site.code.get(..usize::from(site.code_len)).filter(|code| !code.is_empty()) else {
        return bad("no bytes to compare");
    };
    // Reading also brings the page in, so that the kernel need not wait for the disk while it attaches.
    let (found, read) = bytes_at(&open.file, site.offset);
    if read < expected.len() || found[..expected.len()] != *expected {
        let what = text(format_args!("the instruction at {:#x}", site.offset));
        return Err(GuardError::ImageChanged { what });
    }
    Ok(())
}

/// `ret` or `rep ret` of x86-64 (Intel SDM vol. 2, RET: C3), at an exit site.
fn is_return(code: &[u8; 4], exit: bool) -> bool {
    cfg!(target_arch = "x86_64") && exit && matches!(code, [0xc3, ..] | [0xf3, 0xc3, ..])
}
