//! Budget shared between a service and a measurement beside it.
//!
//! There is one service on a box, and `watch` may run beside it. Their total cost is held under the
//! budget of the service: at each look the service's guard writes its cost into a small file in its
//! run directory, and the guard of `watch` reads it and yields if the sum is too high. The file is
//! not trusted: it has one size, its figures have bounds, and it counts only while the lock beside
//! it is held.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;

use crate::budget::Ppm;
use crate::error::{GuardError, Os, text};
use crate::lock;

/// The file, in the run directory.
const FILE: &str = "cost";
/// Beginning of the file; another order of the figures would change it.
const MARK: [u8; 8] = *b"edgelat1";
/// Mark, bound and cost; both are little-endian words of 64 bits.
const BYTES: usize = 24;
/// The largest bound that can be set: ten CPUs.
const LARGEST: Ppm = 10_000_000;

/// Budget and cost of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Budget of all its probes.
    pub bound: Ppm,
    /// Their cost at its last look.
    pub cost: Ppm,
}

impl Share {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let words = [MARK, self.bound.to_le_bytes(), self.cost.to_le_bytes()];
        bytes.copy_from_slice(words.as_flattened());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let ([mark, bound, cost], []) = bytes.as_chunks::<8>() else { return None };
        let (bound, cost) = (u64::from_le_bytes(*bound), u64::from_le_bytes(*cost));
        (*mark == MARK && bound <= LARGEST).then_some(Self { bound, cost })
    }
}

/// A service's side.
#[derive(Debug)]
pub struct Offer {
    file: File,
    told: Share,
}

impl Offer {
    /// Publishes that a service may cost `bound`, and costs nothing yet. `run_dir` is that of the
    /// lock that it holds.
    ///
    /// # Errors
    /// [`GuardError::Share`] if the file cannot be written.
    pub fn make(run_dir: &Path, bound: Ppm) -> Result<Self, GuardError> {
        let path = run_dir.join(FILE);
        let failed =
            |error: std::io::Error| GuardError::Share { file: text(path.display()), os: Os::from(error) };
        // The process that measures beside the service may belong to another user.
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(O_NOFOLLOW)
            .clone();
        let file = options.open(&path).map_err(failed)?;
        let told = Share { bound, cost: 0 };
        file.set_len(BYTES as u64).and_then(|()| file.write_all_at(&told.to_bytes(), 0)).map_err(failed)?;
        Ok(Self { file, told })
    }

    /// Publishes the present cost.
    pub(crate) fn tell(&mut self, cost: Ppm) {
        let now = Share { cost, ..self.told };
        // A failed write is tried again at the next look.
        if now != self.told && self.file.write_all_at(&now.to_bytes(), 0).is_ok() {
            self.told = now;
        }
    }
}

/// The side of the measurement beside a service.
#[derive(Debug)]
pub struct Beside {
    run_dir: PathBuf,
}

impl Beside {
    /// Reads beside the service with this run directory, while there is one.
    #[must_use]
    pub fn new(run_dir: PathBuf) -> Self {
        Self { run_dir }
    }

    /// Budget and cost of the service; `None` if none runs, or its file is unreadable.
    #[must_use]
    pub fn share(&self) -> Option<Share> {
        if !lock::is_held(&self.run_dir) {
            return None;
        }
        let file = lock::open_to_look(&self.run_dir.join(FILE)).ok()?;
        let mut bytes = [0; BYTES + 1];
        let read = file.read_at(&mut bytes, 0).ok()?;
        Share::of_bytes(&bytes[..read])
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::lock::RunLock;
    use crate::testing::{Folder, eventually};

    #[test]
    fn what_a_service_costs_is_known_beside_it_as_long_as_it_runs() {
        let folder = Folder::new();
        let run_dir = folder.join("run");
        let beside = Beside::new(run_dir.clone());
        assert_eq!(beside.share(), None, "there was never one");
        let lock = RunLock::take(&run_dir).unwrap();
        assert_eq!(beside.share(), None, "it has said nothing yet");
        let mut offer = Offer::make(&run_dir, 50_000).unwrap();
        assert_eq!(beside.share(), Some(Share { bound: 50_000, cost: 0 }));
        for cost in [1, u64::MAX, 20_000] {
            offer.tell(cost);
            assert_eq!(beside.share(), Some(Share { bound: 50_000, cost }));
        }
        drop((offer, lock));
        assert!(run_dir.join(FILE).exists());
        eventually("it has ended, and its last figures stand there", || beside.share().is_none());
        // The next service does not begin with the cost of the last one.
        let _lock = RunLock::take(&run_dir).unwrap();
        let _offer = Offer::make(&run_dir, 7).unwrap();
        assert_eq!(beside.share(), Some(Share { bound: 7, cost: 0 }));
    }

    #[test]
    fn figures_that_no_service_would_write_are_none() {
        let folder = Folder::new();
        let _lock = RunLock::take(&folder).unwrap();
        let beside = Beside::new(folder.to_path_buf());
        let right = Share { bound: 10_000, cost: 5 }.to_bytes();
        let write = |bytes: &[u8]| std::fs::write(folder.join(FILE), bytes).unwrap();
        write(&right);
        assert!(beside.share().is_some());
        write(&[]);
        assert_eq!(beside.share(), None);
        write(&right[..BYTES - 1]);
        assert_eq!(beside.share(), None, "too short");
        write(&[&right[..], &[0; 8]].concat());
        assert_eq!(beside.share(), None, "too long");
        write(&[b"edgelat2", &right[8..]].concat());
        assert_eq!(beside.share(), None, "of another version");
        write(&Share { bound: LARGEST + 1, cost: 0 }.to_bytes());
        assert_eq!(beside.share(), None, "no bound of a service");
        // Opening a pipe would block, and a link leads anywhere.
        std::fs::remove_file(folder.join(FILE)).unwrap();
        nix::unistd::mkfifo(&folder.join(FILE), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(beside.share(), None);
        std::fs::remove_file(folder.join(FILE)).unwrap();
        std::fs::write(folder.join("other"), right).unwrap();
        std::os::unix::fs::symlink(folder.join("other"), folder.join(FILE)).unwrap();
        assert_eq!(beside.share(), None);
    }

    #[test]
    fn everybody_may_read_it_and_a_place_that_takes_no_file_is_named() {
        let folder = Folder::new();
        let _offer = Offer::make(&folder, 1).unwrap();
        let mode = folder.join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o444, 0o444);
        let error = Offer::make(&folder.join("missing"), 1).unwrap_err();
        assert!(error.to_string().contains("missing/cost"), "{error}");
    }
}
