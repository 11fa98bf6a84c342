//! The instruction sets that edgelat can probe.

use std::fmt;

/// The instruction set of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// x86-64, ELF machine 62 (`EM_X86_64`).
    X86_64,
    /// AArch64, ELF machine 183 (`EM_AARCH64`).
    Aarch64,
}

impl Arch {
    /// Returns the architecture that this program was built for, if edgelat can probe it.
    #[must_use]
    pub const fn host() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}
