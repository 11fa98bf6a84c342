//! Folders with debug files, as named by the user.
//!
//! They are opened while the process has privileges: a folder may be in a home directory that only
//! its owner can enter. The files are read later, without privileges.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use edgelat_guard::outside;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// The folders, opened as far as possible.
#[derive(Debug, Default)]
pub struct DebugDirs {
    opened: Vec<(PathBuf, Option<OwnedFd>)>,
    beside: Vec<(PathBuf, Option<OwnedFd>)>,
}

impl DebugDirs {
    /// Opens folders. A folder that cannot be opened counts as empty, like a missing folder.
    pub fn open(paths: &[PathBuf]) -> Self {
        Self { opened: paths.iter().map(|path| folder(path)).collect(), beside: Vec::new() }
    }

    /// Opens the folder of an image too, because its debug link may lead there.
    pub fn beside(mut self, path: Option<&Path>) -> Self {
        self.beside.extend(path.map(folder));
        self
    }

    /// The folders, in the order in which they were named.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.opened.iter().map(|(path, _)| path.as_path())
    }

    /// Opens a file in one of the folders, or anywhere else if no privilege is needed. Refuses all
    /// but regular files: a pipe in the place of a debug file would block the agent for ever.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or is not a regular file.
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
