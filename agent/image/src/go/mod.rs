//! What the Go tool chain leaves in a program, stripped or not.
//!
//! The Go runtime itself needs the name and the range of every function, for stack traces and for the garbage collector,
//! so they are in every program, whatever was stripped: [`pclntab`] reads that table. [`buildinfo`] reads the version of
//! the tool chain. [`inline_tree`] finds the callers of functions without code of their own. [`relative`] looks up words
//! that the dynamic linker fills in, which in a position-independent program are zero in the file.
//!
//! # How a Go function differs
//!
//! - It keeps its goroutine in a register (R14 on x86-64 from Go 1.17 on, X28 on aarch64). Its stack is moved when it
//!   grows, and a goroutine goes on in another thread when it waits. So a frame is known by goroutine and by its distance
//!   from the upper end of the stack, which a move keeps ([`Site::goroutine`](edgelat_sites::Site)).
//! - It begins with a check whether there is stack left, and begins *again* when there was not. The entry is the branch
//!   of that check, and a hit counts when the branch is not taken ([`go`](edgelat_sites::go)).
//! - One name may stand for several ranges: the compiler makes a wrapper where assembly and Go call each other, and an
//!   instance of a generic function for each shape of its types. A wrapper calls the function that it wraps, so only that
//!   one is taken.

pub(crate) mod buildinfo;
pub(crate) mod inline_tree;
pub(crate) mod pclntab;
pub(crate) mod relative;

use std::fmt;

use crate::elf::Elf;
use crate::{ImageError, ReadAt};

/// What is known of a Go program as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Go {
    /// As the tool chain calls itself, such as `go1.24.4`; `None` where the program does not say.
    pub version: Option<String>,
}

impl Go {
    /// Looks for traces of the Go tool chain. `noted` says that there is a note of its linker.
    pub(crate) fn find(elf: &Elf<dyn ReadAt + '_>, noted: bool) -> Result<Option<Self>, ImageError> {
        let version = buildinfo::version(elf)?;
        let sections = pclntab::SECTIONS.iter().chain(&[".go.buildinfo", ".note.go.buildid"]);
        let traces =
            noted || version.is_some() || sections.clone().any(|name| elf.section_named(name).is_some());
        Ok(traces.then_some(Self { version }))
    }

    /// The second part of the version, 24 of `go1.24.4`.
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
