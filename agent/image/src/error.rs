//! Errors of a file as a whole.

use std::io;

use thiserror::Error;

/// Reasons why an image cannot be read. The message states the error and the next step; the caller
/// puts the file name before it.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The system returned an error instead of the bytes.
    #[error("cannot read the {what}: {source}; name an executable or shared object that can be read")]
    Read {
        /// The part of the file.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("the file is empty; name an executable or shared object")]
    Empty,
    /// The file does not begin with the ELF magic.
    #[error("not an ELF file (it begins with {found}); name the program itself, not a script that starts it")]
    NotElf {
        /// The first bytes, as text if they are text.
        found: String,
    },
    /// An ELF file of class 1.
    #[error("a 32-bit ELF file; edgelat measures 64-bit programs, x86_64 and aarch64")]
    Class32,
    /// An ELF file with data encoding 2.
    #[error("a big-endian ELF file; edgelat measures little-endian programs, x86_64 and aarch64")]
    BigEndian,
    /// A byte of the ELF identification that has no meaning.
    #[error("the ELF identification is damaged ({what} is {value}); get an undamaged copy of the file")]
    Identification {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// An instruction set other than the two.
    #[error("a program for ELF machine {machine}; edgelat measures x86_64 (62) and aarch64 (183)")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// An ELF file that is not an executable or shared object.
    #[error("{what}, which no process runs; name an executable or shared object")]
    FileType {
        /// Its actual type.
        what: String,
    },
    /// The file ends before a part that it announces.
    #[error(
        "the file is truncated: its {what} should end at byte {end}, but it has {size} bytes; copy it again"
    )]
    Truncated {
        /// The part of the file.
        what: &'static str,
        /// End of the part according to the file, in bytes from its start.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// A count or length above a cap of [`crate::limits`].
    #[error(
        "the {what} has a size of {size}, more than the {limit} that edgelat reads; \
         if the file is not damaged, use the address form +0xADDRESS@BUILDID on a stripped copy"
    )]
    TooLarge {
        /// The part of the file.
        what: &'static str,
        /// Size that the file states.
        size: u64,
        /// The cap.
        limit: u64,
    },
    /// A value that contradicts the format.
    #[error("the {what} is damaged: {reason}; get an undamaged copy of the file")]
    Malformed {
        /// The part of the file.
        what: &'static str,
        /// The contradiction.
        reason: &'static str,
    },
    /// A Go table that is intact but unsupported, or garbled on purpose.
    #[error("the table of functions of Go cannot be used: {reason}")]
    GoTable {
        /// The reason and the next step.
        reason: &'static str,
    },
    /// `.gnu_debugdata` cannot be decompressed.
    #[error(".gnu_debugdata cannot be decompressed: {reason}; install the debug file of this build instead")]
    Debugdata {
        /// Message of the decoder.
        reason: String,
    },
    /// A pack for this build does not match its code.
    #[error(
        "the pack does not fit the code of '{name}', although the build-id is the same; make it from this very file"
    )]
    PackDiffers {
        /// A function whose code differs.
        name: String,
    },
    /// A debug file belongs to another build.
    #[error("the debug file has build-id {found}, not {wanted}; install the debug file of this build")]
    DebugFileDiffers {
        /// Build-id of the debug file, `none` if it has no build-id.
        found: String,
        /// Build-id of the image.
        wanted: String,
    },
    /// A debug file does not match the link that names it.
    #[error(
        "the debug file has checksum {found:08x}, not {wanted:08x} as its link says; install the debug file of this build"
    )]
    DebugFileChecksum {
        /// CRC-32 of the debug file.
        found: u32,
        /// CRC-32 in the link.
        wanted: u32,
    },
}
