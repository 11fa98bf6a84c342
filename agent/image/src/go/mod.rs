//! Traces of the Go tool chain in a program, stripped or not.
//!
//! The Go runtime needs every function's name and range, for stack traces and for the garbage
//! collector, so even stripped programs have them: [`pclntab`] reads that table. [`buildinfo`]
//! reads the tool chain version. [`inline_tree`] finds the callers of inlined functions.
//! [`relative`] looks up words of the dynamic linker, which are zero in the file of a
//! position-independent program.
//!
//! # Differences of a Go function
//!
//! - It keeps its goroutine in a register (R14 on x86-64 from Go 1.17 on, X28 on aarch64). Its
//!   stack moves when it grows, and a goroutine that waits may continue in another thread. So a
//!   frame is identified by goroutine and by its distance from the upper end of the stack, which a
//!   move keeps ([`Site::goroutine`](edgelat_sites::Site)).
//! - It begins with a stack check, and begins *again* if there was no space. The entry is the
//!   branch of that check, and a hit counts if the branch is not taken ([`go`](edgelat_sites::go)).
//! - One name may stand for several ranges: the compiler makes a wrapper for calls between assembly
//!   and Go, and an instance of a generic function for each shape of its types. A wrapper calls the
//!   function that it wraps, so only the wrapped function is taken.

pub(crate) mod buildinfo;
pub(crate) mod inline_tree;
pub(crate) mod pclntab;
pub(crate) mod relative;

use std::fmt;

use crate::elf::Elf;
use crate::{ImageError, ReadAt};

/// Facts about a Go program as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Go {
    /// Version of the tool chain, such as `go1.24.4`; `None` if the program does not state it.
    pub version: Option<String>,
}

impl Go {
    /// Looks for traces of the Go tool chain. `noted` is true if its linker left a note.
    pub(crate) fn find(elf: &Elf<dyn ReadAt + '_>, noted: bool) -> Result<Option<Self>, ImageError> {
        let version = buildinfo::version(elf)?;
        let sections = pclntab::SECTIONS.iter().chain(&[".go.buildinfo", ".note.go.buildid"]);
        let traces =
            noted || version.is_some() || sections.clone().any(|name| elf.section_named(name).is_some());
        Ok(traces.then_some(Self { version }))
    }

    /// Returns the minor version, 24 for `go1.24.4`.
    pub(crate) fn minor(&self) -> Option<u32> {
        let version = self.version.as_deref()?.strip_prefix("go1.")?;
        let digits = version.bytes().take_while(u8::is_ascii_digit).count();
        version.get(..digits)?.parse().ok()
    }
}

impl fmt::Display for Go {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "Go ({version})"),
            None => f.write_str("Go (of an unknown version)"),
        }
    }
}
