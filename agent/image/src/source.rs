//! Positioned reads.
//!
//! All parsing goes through [`ReadAt`], which needs no cursor, so one open descriptor can be shared
//! and the parsed descriptor is the probed one. Files are not mapped: a mapped file that another
//! process truncates ends its reader with SIGBUS; a read is only short.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ImageError;

/// Bytes with positions: an open file, or bytes in memory.
pub trait ReadAt {
    /// Reads into `buffer` from `offset` bytes after the start and returns how many bytes were read, 0 at the end.
    ///
    /// # Errors
    /// The error of the system.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Returns the size in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] without a size (a directory, a pipe), or the system's error.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        Err(io::Error::new(io::ErrorKind::InvalidInput, kind))
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.as_slice().read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        self.as_slice().size()
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
}

impl<S: ReadAt + ?Sized> ReadAt for Box<S> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
}

/// Boxes a source of any kind as the type that [`DebugFiles`](crate::DebugFiles) uses.
pub fn boxed<S: ReadAt + 'static>(source: S) -> Box<dyn ReadAt> {
    Box::new(source)
}

/// Fills `buffer` from `offset`. `what` names the part of the file for the error.
pub(crate) fn read_exact(
    source: &dyn ReadAt,
    what: &'static str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), ImageError> {
    let end = offset.saturating_add(buffer.len() as u64);
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(offset.saturating_add(filled as u64), &mut buffer[filled..]) {
            Ok(0) => {
                return Err(ImageError::Truncated { what, end, size: source.size().unwrap_or_default() });
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ImageError::Read { what, source: error }),
        }
    }
    Ok(())
}

/// Reads `size` bytes from `offset` after checking them against `limit` and the size of the source,
/// in that order: nothing is allocated for missing bytes.
pub(crate) fn read_range(
    source: &dyn ReadAt,
    what: &'static str,
    offset: u64,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, ImageError> {
    check_range(source, what, offset, size)?;
    if size > limit {
        return Err(ImageError::TooLarge { what, size, limit });
    }
    let length = usize::try_from(size).map_err(|_| ImageError::TooLarge { what, size, limit })?;
    let mut bytes = vec![0; length];
    read_exact(source, what, offset, &mut bytes)?;
    Ok(bytes)
}

/// Refuses a range that does not lie within the source.
pub(crate) fn check_range(
    source: &dyn ReadAt,
    what: &'static str,
    offset: u64,
    size: u64,
) -> Result<(), ImageError> {
    let file_size = source.size().map_err(|source| ImageError::Read { what, source })?;
    let end = offset.saturating_add(size);
    if end > file_size {
        return Err(ImageError::Truncated { what, end, size: file_size });
    }
    Ok(())
}

/// Calls `each` with consecutive records of `N` bytes, read through a fixed-size buffer, until
/// `count` records or an error. The range must have been checked.
pub(crate) fn for_each_record<const N: usize>(
    source: &dyn ReadAt,
    what: &'static str,
    offset: u64,
    count: u64,
    mut each: impl FnMut(u64, &[u8; N]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    // A table of 100,000 symbols needs some 40 system calls, and the size goes unnoticed.
    const BUFFER: usize = 60 << 10;
    let per_buffer = (BUFFER / N) as u64;
    let mut buffer = vec![0; BUFFER / N * N];
    let mut done = 0;
    while done < count {
        let records = per_buffer.min(count - done) as usize;
        let filled = &mut buffer[..records * N];
        read_exact(source, what, offset.saturating_add(done * N as u64), filled)?;
        for record in filled.as_chunks::<N>().0 {
            each(done, record)?;
            done += 1;
        }
    }
    Ok(())
}
