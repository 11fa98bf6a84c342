//! A process to be measured, with its mapped images, as the guard shows it.

use std::fs::File;
use std::path::Path;

use edgelat_guard::GuardError;
use edgelat_guard::Line;
use edgelat_guard::error::text;
use edgelat_guard::protocol::{ImageId, MappedImage, Reply, Request, TargetId};

use super::unexpected;

/// A target that the guard has opened.
#[derive(Debug)]
pub struct Target {
    /// Process id.
    pub pid: i32,
    /// The guard's number for it.
    pub id: TargetId,
    /// Start time in clock ticks since boot; together with the process id, unique for good.
    pub start: u64,
    /// Its real user id.
    pub user: u32,
}

/// An image of a target, open for reading.
#[derive(Debug)]
pub struct OpenImage {
    /// The guard's number for it.
    pub id: ImageId,
    /// Path as the process sees it.
    pub path: String,
    /// The file itself, independent of the file that is at the path now.
    pub file: File,
}

impl Target {
    /// Opens a running process.
    ///
    /// # Errors
    /// Fails if the guard refuses the process.
    pub fn open(line: &mut Line, pid: i32, allow_ptrace: bool) -> Result<Self, GuardError> {
        match line.call(&Request::OpenTarget { pid, allow_ptrace })? {
            (Reply::Target { target, start, user }, _) => Ok(Self { pid, id: target, start, user }),
            _ => Err(unexpected()),
        }
    }

    /// Closes the process in the guard too. Its probes must be detached before.
    pub fn forget(&self, line: &mut Line) {
        // The guard may be gone: then there is nothing to forget.
        _ = line.call(&Request::ForgetTarget { target: self.id });
    }

    /// Returns the files that the process maps executable now.
    ///
    /// # Errors
    /// Fails if the process has ended or may not be read.
    pub fn images(&self, line: &mut Line) -> Result<Vec<MappedImage>, GuardError> {
        let mut all = Vec::new();
        let mut from = None;
        loop {
            match line.call(&Request::ListImages { target: self.id, from })? {
                (Reply::Images { images, more, left_out }, _) => {
                    all.extend(images);
                    from = Some(all.len() as u32);
                    if left_out {
                        // A requested image may be missing from the list.
                        let what = text(format_args!("list the files that process {} maps", self.pid));
                        let reason = text(format_args!("they are more than {}", all.len()));
                        return Err(GuardError::Unsupported { what, reason });
                    }
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// Opens one of these images.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or is no image.
    pub fn open_image(&self, line: &mut Line, image: &MappedImage) -> Result<OpenImage, GuardError> {
        match line.call(&Request::OpenImage { target: self.id, index: image.index })? {
            (Reply::Image { image: id }, mut descriptors) if descriptors.len() == 1 => {
                let file = File::from(descriptors.remove(0));
                Ok(OpenImage { id, path: image.path.to_string(), file })
            }
            _ => Err(unexpected()),
        }
    }
}

impl OpenImage {
    /// Path at which the file is or was.
    pub fn on_disk(&self) -> &str {
        self.path.trim_end_matches(" (deleted)")
    }
}

/// The last part of a path, for people.
pub fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}
