//! Folders with debug files that somebody named.
//!
//! They are opened while there are rights: a folder may stand in a home that is nobody else's to enter. What is in it is
//! read later and without any.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use edgelat_guard::outside;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// The folders, as far as they can be opened.
#[derive(Debug, Default)]
pub struct DebugDirs {
    opened: Vec<(PathBuf, Option<OwnedFd>)>,
    beside: Vec<(PathBuf, Option<OwnedFd>)>,
}

impl DebugDirs {
    /// Opens folders. One that cannot be opened is one that holds nothing, as a folder that is not there.
    pub fn open(paths: &[PathBuf]) -> Self {
        Self { opened: paths.iter().map(|path| folder(path)).collect(), beside: Vec::new() }
    }

    /// Opens the folder of an image too, which its link may lead to.
    pub fn beside(mut self, path: Option<&Path>) -> Self {
        self.beside.extend(path.map(folder));
        self
    }

    /// The folders, in the order in which they were named.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.opened.iter().map(|(path, _)| path.as_path())
    }

    /// Opens a file in one of them, or anywhere else where no right is needed. What is no regular file is refused: a pipe
    /// that somebody put in the place of a debug file would hold us for ever.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let inside = self
            .opened
            .iter()
            .chain(&self.beside)
            .find_map(|(folder, fd)| Some((fd.as_ref()?, path.strip_prefix(folder).ok()?)));
        let file: File = match inside {
            Some((folder, rest)) => {
                let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
                openat(folder, rest, flags, Mode::empty())?.into()
            }
            None => outside::open(path)?,
        };
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }
}

fn folder(path: &Path) -> (PathBuf, Option<OwnedFd>) {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    (path.to_owned(), open(path, flags, Mode::empty()).ok())
}
