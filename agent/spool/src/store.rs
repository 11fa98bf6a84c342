//! A directory of files, as far as a spool needs one.
//!
//! A trait, because what a spool promises is about what a disk does when power fails, and only a disk that is made for it
//! (`tests/common/disk.rs`) fails at every byte.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

/// A directory of files.
pub trait Store: std::fmt::Debug {
    /// Makes a file, or makes it empty, and reserves room for `bytes` where the file system can, without writing anything.
    ///
    /// # Errors
    /// What the system refuses.
    fn create(&mut self, file: &str, bytes: u64) -> Result<(), Errno>;

    /// Writes all of `bytes` at `offset`. Where it fails some of them may be there.
    ///
    /// # Errors
    /// What the system refuses.
    fn write(&mut self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Has what is in a file on the disk.
    ///
    /// # Errors
    /// What was written may be lost, even where a second try succeeds.
    fn sync(&mut self, file: &str) -> Result<(), Errno>;

    /// Has the names of the files on the disk.
    ///
    /// # Errors
    /// What the system refuses.
    fn sync_names(&mut self) -> Result<(), Errno>;

    /// Cuts a file off, and gives room back that was reserved behind.
    ///
    /// # Errors
    /// What the system refuses.
    fn truncate(&mut self, file: &str, length: u64) -> Result<(), Errno>;

    /// Gives a file another name; what had that name is gone.
    ///
    /// # Errors
    /// What the system refuses.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system refuses.
    fn remove(&mut self, file: &str) -> Result<(), Errno>;

    /// All files with the length of each, in any order.
    ///
    /// # Errors
    /// What the system refuses.
    fn list(&self) -> Result<Vec<(String, u64)>, Errno>;

    /// What is in a file, up to `most` bytes.
    ///
    /// # Errors
    /// What the system refuses.
    fn read(&self, file: &str, most: usize) -> Result<Vec<u8>, Errno>;
}

/// A directory of a file system. Everything goes through its descriptor, and no file stays open: a file system can be made
/// read-only or be repaired between two records, and a process that may do nothing else can be let do just this.
#[derive(Debug, Clone, Copy)]
pub struct Directory(BorrowedFd<'static>);

impl Directory {
    /// Opens it, to the end of this process: what the process may do can be bound to the number of the descriptor.
    ///
    /// # Errors
    /// When it is not there, or no directory.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory: &'static OwnedFd = Box::leak(Box::new(nix::fcntl::open(path, flags, Mode::empty())?));
        Ok(Self(directory.as_fd()))
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'static> {
        self.0
    }

    fn file(&self, file: &str, flags: OFlag) -> Result<File, Errno> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        // Whoever reads a spool needs no right.
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        openat(self.0, file, flags, mode).map(File::from)
    }
}

fn errno(error: &io::Error) -> Errno {
    // Nothing written and no error: there is no room.
    error.raw_os_error().map_or(Errno::ENOSPC, Errno::from_raw)
}

impl Store for Directory {
    fn create(&mut self, file: &str, bytes: u64) -> Result<(), Errno> {
        let file = self.file(file, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)?;
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes as libc::off_t) {
            Err(Errno::ENOSPC) => Err(Errno::ENOSPC),
            // A file system that cannot (JFFS2, and UBIFS, which compresses) has no room reserved. Writing zeros instead would
            // wear the flash.
            _ => Ok(()),
        }
    }

    fn write(&mut self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.file(file, OFlag::O_WRONLY)?.write_all_at(bytes, offset).map_err(|error| errno(&error))
    }

    fn sync(&mut self, file: &str) -> Result<(), Errno> {
        // An error that came up while the file was closed is told to whoever opens it next (errseq_sample, lib/errseq.c).
        self.file(file, OFlag::O_WRONLY)?.sync_data().map_err(|error| errno(&error))
    }

    fn sync_names(&mut self) -> Result<(), Errno> {
        fsync(self.0)
    }

    fn truncate(&mut self, file: &str, length: u64) -> Result<(), Errno> {
        self.file(file, OFlag::O_WRONLY)?.set_len(length).map_err(|error| errno(&error))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        renameat(self.0, from, self.0, to)
    }

    fn remove(&mut self, file: &str) -> Result<(), Errno> {
        unlinkat(self.0, file, UnlinkatFlags::NoRemoveDir)
    }

    fn list(&self) -> Result<Vec<(String, u64)>, Errno> {
        // A descriptor of its own, with a place in the directory of its own.
        let mut directory = Dir::openat(self.0, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut files = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match fstatat(self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(found) if found.st_mode & libc::S_IFMT == libc::S_IFREG => {
                    files.push((name.to_owned(), found.st_size as u64));
                }
                // It is none, or gone again.
                _ => {}
            }
        }
        Ok(files)
    }

    fn read(&self, file: &str, most: usize) -> Result<Vec<u8>, Errno> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let file = self.file(file, OFlag::O_RDONLY)?;
        file.take(most as u64).read_to_end(&mut bytes).map_err(|error| errno(&error))?;
        Ok(bytes)
    }
}
