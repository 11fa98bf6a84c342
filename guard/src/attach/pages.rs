//! Memory of a process, read as little as possible.
//!
//! Pages that were never written to are the file's own, and /proc/PID/pagemap shows them; only the
//! other pages are read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

use super::text::BREAKPOINT;
use crate::error::GuardError;
use crate::target::Target;

/// Entries of pagemap read at once.
const ENTRIES: usize = 512;
/// Memory of a process, with the entries and the page read last.
pub(crate) struct Memory<'a> {
    target: &'a Target,
    /// `None` if the kernel has no pagemap (CONFIG_PROC_PAGE_MONITOR): then every page may be
    /// written.
    pagemap: Option<File>,
    mem: Option<File>,
    /// First page of the entries, and the entries.
    entries: (u64, Vec<u8>),
    /// The page read last.
    page: (u64, Vec<u8>),
}

impl<'a> Memory<'a> {
    pub(crate) fn of(target: &'a Target) -> Self {
        let pagemap = target.open_file("pagemap").ok();
        Self { target, pagemap, mem: None, entries: (0, Vec::new()), page: (u64::MAX, Vec::new()) }
    }

    /// Returns true if the bytes from `address` on may differ from those of the file.
    pub(crate) fn was_written(&mut self, address: u64, bytes: u64) -> Result<bool, GuardError> {
        let page = page_size();
        let pages = address / page..=(address + bytes - 1) / page;
        for page in pages {
            if self.is_private(page)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns true if the page is anonymous, in memory or swapped out.
    fn is_private(&mut self, page: u64) -> Result<bool, GuardError> {
        // Documentation/admin-guide/mm/pagemap.rst
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const OF_FILE: u64 = 1 << 61;
        let Some(pagemap) = &self.pagemap else { return Ok(true) };
        let known = page.checked_sub(self.entries.0).is_some_and(|at| at < self.entries.1.len() as u64 / 8);
        if !known {
            let mut bytes = vec![0; ENTRIES * 8];
            let read = pagemap.read_at(&mut bytes, page * 8);
            bytes.truncate(read.map_err(|error| self.target.unreadable("pagemap", error.into()))?);
            if bytes.len() < 8 {
                return Err(GuardError::NoProcess { pid: self.target.pid });
            }
            self.entries = (page, bytes);
        }
        let at = (page - self.entries.0) as usize * 8;
        let entry = self.entries.1[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0)
    }

    /// Reads memory; false if nothing is mapped.
    pub(crate) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<bool, GuardError> {
        if self.mem.is_none() {
            match self.target.open_file("mem") {
                Ok(mem) => self.mem = Some(mem),
                Err(error @ GuardError::NoProcess { .. }) => return Err(error),
                // The file is its user's; the call needs only CAP_SYS_PTRACE.
                Err(error) => {
                    return match copy(self.target.pid, address, bytes) {
                        Err(Errno::EPERM | Errno::ENOSYS) => Err(error),
                        read => Ok(read.is_ok()),
                    };
                }
            }
        }
        Ok(self.mem.as_ref().is_some_and(|mem| mem.read_exact_at(bytes, address).is_ok()))
    }

    /// Returns true if the memory there differs from the file's instruction.
    pub(super) fn has_probe(&mut self, address: u64, file: &File, offset: u64) -> Result<bool, GuardError> {
        const CODE: usize = BREAKPOINT.len();
        if self.pagemap.is_some() && !self.is_private(address / page_size())? {
            return Ok(false);
        }
        let page = address & !(page_size() - 1);
        if self.page.0 != page {
            let mut bytes = std::mem::take(&mut self.page.1);
            bytes.resize(page_size() as usize, 0);
            match self.read(page, &mut bytes) {
                Ok(true) => self.page = (page, bytes),
                // Unmapped meanwhile, with its probe.
                Ok(false) => return Ok(true),
                // The page may not be read. It is private, which shows that it holds a probe.
                Err(GuardError::NotPermitted { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        let at = (address - page) as usize;
        let mut stored = [0; CODE];
        let read = file.read_exact_at(&mut stored, offset);
        Ok(read.is_err() || self.page.1.get(at..at + CODE) != Some(&stored[..]))
    }
}

/// Reads the whole of `bytes` from a process's memory, without a file.
fn copy(pid: i32, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    let local = nix::libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = nix::libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: the kernel writes into `local` only, which is `bytes`; `remote` is an address of the
    // other process, which the kernel checks.
    let read = unsafe { nix::libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    match Errno::result(read)? as usize == bytes.len() {
        true => Ok(()),
        false => Err(Errno::EFAULT),
    }
}

/// Bytes of a page.
pub(crate) fn page_size() -> u64 {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |size| size as u64)
}
