//! Names that no function has: the reasons, and the effect on other names.

use edgelat_guard::GuardError;
use edgelat_image::{FindError, ImageError, Pattern, PythonError};

use super::report::RefusedReport;
use super::resolve::{IMAGES_AT_ONCE, Resolved};

/// Reason code of names that no function has.
const NOT_FOUND: &str = "not-found";

/// Reason why names were not resolved to functions.
#[derive(Debug, thiserror::Error)]
#[expect(
    clippy::large_enum_variant,
    reason = "an error of the guard holds its text itself; it is rare and soon printed"
)]
pub enum ResolveError {
    /// The guard refused something.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// An image could not be read.
    #[error("{path}: {error}")]
    Image {
        /// Its path.
        path: String,
        /// Reason.
        error: ImageError,
    },
    /// No function fits.
    #[error("{path}: {error}{hint}")]
    Find {
        /// Image that was searched.
        path: String,
        /// Reason.
        error: FindError,
        /// Hint, such as the library that has the function.
        hint: String,
    },
    /// The process executes no code from a file.
    #[error(
        "process {pid} executes no code that stands in a file: it is packed (UPX) or made its code at run time; probes \
         need a file, so unpack the program (upx -d) and start it again"
    )]
    NoFile {
        /// The process.
        pid: i32,
    },
    /// A pattern fits too many files: the user who runs the process decides how many it maps.
    #[error(
        "'{pattern}' fits too many of the files that process {pid} maps: {found}, and {IMAGES_AT_ONCE} are looked into at most; \
         name the image more closely"
    )]
    TooManyImages {
        /// The process.
        pid: i32,
        /// Requested pattern.
        pattern: String,
        /// Number of files that fit any pattern.
        found: usize,
    },
    /// The process runs no Python.
    #[error(
        "process {pid} runs no CPython interpreter, so '{pattern}' names nothing; leave 'py:' out for machine code"
    )]
    NoPython {
        /// The process.
        pid: i32,
        /// Requested pattern.
        pattern: String,
    },
    /// Its interpreter cannot be measured.
    #[error("{path}: {error}")]
    Python {
        /// Path of the interpreter.
        path: String,
        /// Reason.
        error: PythonError,
    },
    /// Functions were found, but none can be probed.
    #[error("'{pattern}' cannot be probed in {path}: {reason}; `edgelat functions` shows what can")]
    Refused {
        /// Requested pattern.
        pattern: String,
        /// Image that was searched.
        path: String,
        /// The first reason.
        reason: String,
    },
}

/// State of a pattern.
pub enum Waiting {
    /// None of its images was mapped.
    NotMapped,
    /// Its images have no such function, or none that can be probed.
    Missed(Box<ResolveError>),
    /// It matched functions.
    Found,
}

impl Resolved {
    /// Records a pattern without functions. The other patterns are measured nevertheless.
    pub fn miss(&mut self, pattern: &Pattern, error: ResolveError) {
        if let ResolveError::Find { path, error, hint } = &error {
            self.refused.push(RefusedReport {
                name: pattern.to_string(),
                image: path.clone(),
                reason: NOT_FOUND.to_owned(),
                text: format!("{error}{hint}"),
            });
        }
        self.missed.get_or_insert(error);
    }
}
