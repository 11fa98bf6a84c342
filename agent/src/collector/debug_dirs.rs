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
}

impl DebugDirs {
    /// Opens folders. One that cannot be opened is one that holds nothing, as a folder that is not there.
    pub fn open(paths: &[PathBuf]) -> Self {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = |path: &PathBuf| (path.clone(), open(path, flags, Mode::empty()).ok());
        Self { opened: paths.iter().map(open).collect() }
    }

    /// The folders, in the order in which they were named.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.opened.iter().map(|(path, _)| path.as_path())
    }

    /// Opens a file in one of them, or anywhere else where no right is needed.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let inside =
            self.opened.iter().find_map(|(folder, fd)| Some((fd.as_ref()?, path.strip_prefix(folder).ok()?)));
        match inside {
            Some((folder, rest)) => {
                Ok(openat(folder, rest, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
            }
            None => outside::open(path),
        }
    }
}
