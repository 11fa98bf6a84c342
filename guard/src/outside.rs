//! Files of the box by their paths, also for a collector whose root is its folder: it reads them
//! through a descriptor of its earlier root. Its filter of system calls lets it write only through
//! another descriptor, from which no path leads here.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, fchdir};

static ROOT: OnceLock<OwnedFd> = OnceLock::new();

/// Makes a folder the root of this process, which keeps its earlier root for reading.
pub(crate) fn leave_for(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open("/", flags, Mode::empty())?;
    let here = nix::fcntl::open(".", flags, Mode::empty())?;
    fchdir(folder)?;
    if let Err(errno) = chroot(".") {
        return fchdir(here).and(Err(errno));
    }
    // There is one collector in a process, so this is the first time.
    _ = ROOT.set(root);
    Ok(())
}

/// The descriptor that a path begins at, and the path from there.
fn from_root(path: &Path) -> (BorrowedFd<'_>, &Path) {
    match ROOT.get() {
        Some(root) => (root.as_fd(), path.strip_prefix("/").unwrap_or(path)),
        None => (AT_FDCWD, path),
    }
}

/// Opens a file for reading, without waiting for the writer of a pipe.
///
/// # Errors
/// The system's refusal.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let (root, path) = from_root(path.as_ref());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(openat(root, path, flags, Mode::empty())?.into())
}

/// The text of a file.
///
/// # Errors
/// The system's refusal, and text that is not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Names of a folder's entries.
///
/// # Errors
/// The system's refusal.
pub(crate) fn names(path: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let (root, path) = from_root(path.as_ref());
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = Dir::openat(root, path, flags, Mode::empty())?;
    // An unreadable folder fails for ever.
    let names = folder.into_iter().map_while(Result::ok).filter_map(|entry| {
        let name = entry.file_name().to_str().ok()?;
        (name != "." && name != "..").then(|| name.to_owned())
    });
    Ok(names.collect())
}
