//! A directory of files, with the operations that a spool needs.
//!
//! A trait, because the promises of a spool depend on the behaviour of disks at a power cut, and
//! only a test disk (`tests/common/disk.rs`) fails at every byte.

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
    /// Creates or empties a file, and reserves room for `bytes` without writing, if supported.
    ///
    /// # Errors
    /// The system's error.
    fn create(&mut self, file: &str, bytes: u64) -> Result<(), Errno>;

    /// Writes all of `bytes` at `offset`. After a failure some of them may be there.
    ///
    /// # Errors
    /// The system's error.
    fn write(&mut self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Syncs the content of a file to the disk.
    ///
    /// # Errors
    /// Written data may be lost, even if a second try succeeds.
    fn sync(&mut self, file: &str) -> Result<(), Errno>;

    /// Syncs the names of the files to the disk.
    ///
    /// # Errors
    /// The system's error.
    fn sync_names(&mut self) -> Result<(), Errno>;

    /// Cuts a file off, and gives back room that was reserved behind.
    ///
    /// # Errors
    /// The system's error.
    fn truncate(&mut self, file: &str, length: u64) -> Result<(), Errno>;

    /// Renames a file, and replaces any file of that name.
    ///
    /// # Errors
    /// The system's error.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's error.
    fn remove(&mut self, file: &str) -> Result<(), Errno>;

    /// All files with their lengths, in any order.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self) -> Result<Vec<(String, u64)>, Errno>;

    /// Content of a file, up to `most` bytes.
    ///
    /// # Errors
    /// The system's error.
    fn read(&self, file: &str, most: usize) -> Result<Vec<u8>, Errno>;
}

/// A directory of a file system. All access goes through its descriptor and no file stays open: the
/// file system can be made read-only or repaired between two records, and a confined process can be
/// allowed this alone.
#[derive(Debug, Clone, Copy)]
pub struct Directory(BorrowedFd<'static>);

impl Directory {
    /// Opens it until the end of the process: permissions can be bound to the descriptor's number.
    ///
    /// # Errors
    /// If it does not exist or is no directory.
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
        // Reading a spool needs no privilege.
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        openat(self.0, file, flags, mode).map(File::from)
    }
}

fn errno(error: &io::Error) -> Errno {
    // Nothing written and no error: the disk is full.
    error.raw_os_error().map_or(Errno::ENOSPC, Errno::from_raw)
}

impl Store for Directory {
    fn create(&mut self, file: &str, bytes: u64) -> Result<(), Errno> {
        let file = self.file(file, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)?;
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes as libc::off_t) {
            Err(Errno::ENOSPC) => Err(Errno::ENOSPC),
            // A file system that cannot (JFFS2, and UBIFS, which compresses) reserves nothing.
            // Writing zeros instead would wear the flash.
            _ => Ok(()),
        }
    }

    fn write(&mut self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.file(file, OFlag::O_WRONLY)?.write_all_at(bytes, offset).map_err(|error| errno(&error))
    }

    fn sync(&mut self, file: &str) -> Result<(), Errno> {
        // An error while the file was closed goes to the next opener (errseq_sample, lib/errseq.c).
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
        // A descriptor with its own position in the directory.
        let mut directory = Dir::openat(self.0, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut files = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match fstatat(self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(found) if found.st_mode & libc::S_IFMT == libc::S_IFREG => {
                    files.push((name.to_owned(), found.st_size as u64));
                }
                // It is no regular file, or gone again.
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
