//! Error numbers of the kernel.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// An error number of the kernel, by value so that it can travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Os(pub i32);

impl From<Errno> for Os {
    fn from(errno: Errno) -> Self {
        Self(errno as i32)
    }
}

impl From<std::io::Error> for Os {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(Errno::EIO as i32))
    }
}

impl Os {
    /// Returns true if it is a lack of permission.
    pub fn denied(self) -> bool {
        self.0 == Errno::EPERM as i32 || self.0 == Errno::EACCES as i32
    }
}

impl std::fmt::Display for Os {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Errno::from_raw(self.0).desc())
    }
}
