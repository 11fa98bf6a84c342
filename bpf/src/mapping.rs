//! Memory that is shared with BPF programs.
//!
//! A `BPF_MAP_TYPE_ARRAY` made with `BPF_F_MMAPABLE` can be mapped through its descriptor without any
//! capability and read without any system call (kernel/bpf/arraymap.c, `array_map_mmap`, since 5.5). The
//! programs write it while it is read, so every access here is an atomic load of one word.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// Reason that an array could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The sizes do not fit in memory.
    #[error("{elements} elements of {size} bytes do not fit in an address space")]
    TooLarge {
        /// Number of elements.
        elements: usize,
        /// Size of an element in bytes.
        size: usize,
    },
    /// The system does not report its page size.
    #[error("the page size cannot be read: {0}")]
    PageSize(nix::Error),
    /// The kernel refused the mapping.
    #[error("{bytes} bytes of a BPF array cannot be mapped: {errno}")]
    Mmap {
        /// Requested size.
        bytes: usize,
        /// The kernel's reason.
        errno: nix::Error,
    },
}

/// A shared mapping of an array of `elements` elements of `size` bytes, a multiple of eight.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    /// Bytes that the elements take; the mapping is rounded up to pages.
    used: usize,
    mapped: NonZeroUsize,
}

// SAFETY: the mapping is plain shared memory that does not move until drop, and every access is
// atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference gives atomic loads and stores only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps for reading.
    pub(crate) fn read(map: impl AsFd, elements: usize, size: usize) -> Result<Self, MapError> {
        Self::new(map.as_fd(), elements, size, ProtFlags::PROT_READ)
    }

    /// Maps for reading and writing.
    pub(crate) fn write(map: impl AsFd, elements: usize, size: usize) -> Result<Self, MapError> {
        Self::new(map.as_fd(), elements, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    fn new(map: BorrowedFd<'_>, elements: usize, size: usize, prot: ProtFlags) -> Result<Self, MapError> {
        debug_assert!(size.is_multiple_of(8), "array elements are padded to eight bytes by the kernel");
        let too_large = MapError::TooLarge { elements, size };
        // Never assumed as 4096: arm64 kernels also have pages of 16 and 64 KiB.
        let page = match sysconf(SysconfVar::PAGE_SIZE) {
            Ok(Some(page)) => page as usize,
            Ok(None) => return Err(MapError::PageSize(nix::Error::ENOSYS)),
            Err(errno) => return Err(MapError::PageSize(errno)),
        };
        let Some(used) = elements.checked_mul(size) else { return Err(too_large) };
        let Some(mapped) = used.checked_next_multiple_of(page).and_then(NonZeroUsize::new) else {
            return Err(too_large);
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory; length is
        // not zero; the descriptor is borrowed for the call and not needed afterwards.
        let start = unsafe { mmap(None, mapped, prot, MapFlags::MAP_SHARED, map, 0) }
            .map_err(|errno| MapError::Mmap { bytes: mapped.get(), errno })?;
        Ok(Self { start: start.cast(), used, mapped })
    }

    /// `count` 64-bit words from `offset` bytes on; none past the end or off the alignment. One
    /// test for many words, as a snapshot reads hundreds of thousands.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        let size = count.checked_mul(size_of::<AtomicU64>());
        let end = size.and_then(|size| offset.checked_add(size)).filter(|end| *end <= self.used);
        if end.is_none() || !offset.is_multiple_of(align_of::<AtomicU64>()) {
            return &[];
        }
        // SAFETY: the range was just checked to lie inside the mapping, which is page-aligned, so the words are
        // aligned; every bit pattern is an atomic integer; the memory lives as long as `self`, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.add(offset).cast::<AtomicU64>().as_ptr(), count) }
    }

    /// The 32-bit word at `offset` bytes; `None` past the end or if misaligned.
    pub(crate) fn half(&self, offset: usize) -> Option<&AtomicU32> {
        let fits = offset.checked_add(size_of::<AtomicU32>()).is_some_and(|end| end <= self.used);
        if !fits || !offset.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        // SAFETY: as in `words`.
        Some(unsafe { self.start.add(offset).cast::<AtomicU32>().as_ref() })
    }

    /// Loads the word at `offset`, 0 past the end.
    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.words(offset, 1).first().map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those that mmap returned, and no reference outlives `self`.
        let result = unsafe { munmap(self.start.cast(), self.mapped.get()) };
        debug_assert!(result.is_ok(), "munmap of an own mapping: {result:?}");
    }
}
