//! From a path to the text of the file.

use std::{
    fs::OpenOptions,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{fcntl::OFlag, unistd::geteuid};

use super::error::Problem;

/// Largest file in bytes.
pub(super) const FILE_BYTES: u64 = 1 << 20;

/// Permissions that let the group and everybody write.
const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;

/// Reads the file.
///
/// # Errors
/// When it cannot be read, is no file, is too large, or others could use it to have root do what they want.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let failed = |error| Problem::Read { error };
    // A pipe without a writer must not hold us.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(Problem::NotAFile);
    }
    let (mode, group) = (found.mode(), found.gid());
    // Whoever is in the group of root is as good as root on most boxes, and some install files so.
    if geteuid().is_root() && (mode & ALL_WRITE != 0 || mode & GROUP_WRITES != 0 && group != 0) {
        return Err(Problem::Writable { mode: mode & 0o777 });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(Problem::TooLarge { most: FILE_BYTES });
    }
    Ok(bytes)
}
