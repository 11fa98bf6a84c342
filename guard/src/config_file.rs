//! The configuration file, from a path to its bytes.
//!
//! Every command reads it through this module, and so does a service that reads it again: the guard
//! [opens](open) the file with all checks, and the holder of the descriptor takes [all of it or
//! nothing](bytes). The checks apply to the opened file, not to the path, so that no other file can
//! replace it in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::error::Os;

/// Largest file in bytes.
pub const FILE_BYTES: u64 = 1 << 20;

/// Write permissions of the group and of all users.
const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;

/// Reason for refusing the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file does not exist, or may not be read.
    #[error("cannot be read: {}; name a file with -c FILE", in_words(error))]
    Read {
        /// The error of the system.
        error: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("is not a regular file; name a file with -c FILE")]
    NotAFile,
    /// Larger than the bound.
    #[error("has more than the {FILE_BYTES} bytes that are read; leave out what is no configuration")]
    TooLarge,
    /// Another user could change root's actions.
    #[error(
        "may be written by others than root (mode {mode:03o}), who could then have any process measured; run chmod go-w on it"
    )]
    Writable {
        /// Its permissions.
        mode: u32,
    },
    /// Another user owns the file, and with it may change its mode.
    #[error("belongs to user {owner}, who could then have any process measured; run chown root on it")]
    Foreign {
        /// User id of its owner.
        owner: u32,
    },
}

impl ConfigFileError {
    /// Returns true if the file exists and the caller may not read it.
    #[must_use]
    pub fn not_permitted(&self) -> bool {
        matches!(self, Self::Read { error } if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

fn in_words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Os(number).to_string())
}

/// Opens the file for reading.
///
/// # Errors
/// If it cannot be opened, is no regular file, has more than [`FILE_BYTES`], or, for root, if
/// others could use it to direct root.
pub fn open(path: &Path) -> Result<File, ConfigFileError> {
    let failed = |error| ConfigFileError::Read { error };
    // A pipe without a writer must not block the call.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(ConfigFileError::NotAFile);
    }
    let (mode, owner, group) = (found.mode(), found.uid(), found.gid());
    if geteuid().is_root() {
        // On most machines a member of root's group is as good as root, and some install files so.
        if mode & ALL_WRITE != 0 || mode & GROUP_WRITES != 0 && group != 0 {
            return Err(ConfigFileError::Writable { mode: mode & 0o777 });
        }
        if owner != 0 {
            return Err(ConfigFileError::Foreign { owner });
        }
    }
    match found.len() > FILE_BYTES {
        true => Err(ConfigFileError::TooLarge),
        false => Ok(file),
    }
}

/// Returns all bytes of a file from [`open`].
///
/// # Errors
/// If they cannot be read, or have become more than [`FILE_BYTES`].
pub fn bytes(file: File) -> Result<Vec<u8>, ConfigFileError> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| ConfigFileError::Read { error })?;
    match bytes.len() as u64 > FILE_BYTES {
        true => Err(ConfigFileError::TooLarge),
        false => Ok(bytes),
    }
}

/// [`open`] and [`bytes`].
///
/// # Errors
/// Those of both.
pub fn read(path: &Path) -> Result<Vec<u8>, ConfigFileError> {
    open(path).and_then(bytes)
}
