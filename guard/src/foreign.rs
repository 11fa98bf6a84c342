//! Images on file systems served by others: over a network, or by a program.
//!
//! The collector gets a copy of such an image, made at its opening, so that it never waits for a
//! page of it. The guard keeps the copy as long as the target is open, and checks sites against it.
//! Before any attach a child ([`aside`](crate::aside)) compares the sites with the file, which also
//! brings in the pages that the kernel will read. Once probes are on, a child checks the file
//! periodically. Probes stay on a file system that does not answer: nothing new can be mapped from
//! it either, removing them needs no answer, and the check is made up for once it answers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::fstatfs;

use crate::aside::{Outcome, Progress, REST};
use crate::attach::ImageSites;
use crate::error::{GuardError, text};
use crate::guard::{Guard, order};
use crate::image::Identity;
use crate::maps::Mapping;
use crate::protocol::{ImageId, TargetId};
use crate::target::path_of;

/// Time between two checks of the probed files on foreign file systems; each check takes a child.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// Largest image that is copied.
const COPY_BYTES: u64 = 128 << 20;
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// Magic numbers of file systems that this kernel serves from a medium or memory of this machine
/// (linux/magic.h, and the sources of those missing there). Overlay is included: its lower layers
/// are not known.
const OWN: [u32; 21] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x9584_58f6, // hugetlbfs
    0x794c_7630, // overlay
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x28cd_3d45, // cramfs
    0x0000_7275, // romfs
    0x2405_1905, // ubifs
    0x0000_72b6, // jffs2
    0x0000_9660, // iso9660
    0x1501_3346, // udf
    0x0000_4d44, // vfat
    0x2011_bab0, // exfat
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x0000_3434, // nilfs2
];

impl Guard {
    /// Opens a mapped file and, if it is a foreign file, copies it.
    pub(crate) fn open_aside(
        &mut self,
        target: TargetId,
        mapping: &Mapping,
    ) -> Result<(File, Option<File>), GuardError> {
        let at = self.targets.iter().position(|known| known.id == target);
        let holder = at.map(|at| self.targets.swap_remove(at)).ok_or_else(|| order("no such target"))?;
        let pid = holder.pid;
        let stalled = || GuardError::Stalled { path: text(&mapping.path), pid };
        let answer = match self.is_stalled(mapping.file.device) {
            true => Ok(None),
            false => self.aside(&[holder.folder()], |progress| match open(&holder, mapping, progress) {
                Ok(files) => (Ok(()), files),
                Err(error) => (Err(error), Vec::new()),
            }),
        };
        self.targets.push(holder);
        let Some(((), files)) = answer? else {
            self.note_stalled(mapping.file.device);
            return Err(stalled());
        };
        let mut files = files.into_iter().map(File::from);
        Ok((files.next().ok_or_else(stalled)?, files.next()))
    }

    /// Checks that a foreign file still has the checked bytes; without an answer, returns
    /// `otherwise`.
    pub(crate) fn foreign_unchanged(
        &mut self,
        image: ImageId,
        whole: bool,
        otherwise: Result<(), GuardError>,
    ) -> Result<(), GuardError> {
        let open = self.images.iter().find(|open| open.id == image);
        let open = open.ok_or_else(|| order("no such image"))?;
        let (file, key, identity) = (Rc::clone(&open.file), open.key, open.identity);
        if self.is_stalled(key.device) {
            return otherwise;
        }
        let of_image = self.plans.iter().flat_map(|plan| &plan.images).filter(|(id, _)| *id == image);
        let sites: Vec<ImageSites> = of_image.map(|(_, sites)| sites.clone()).collect();
        let look = |_: &Progress<'_>| -> Outcome<(Identity, bool)> {
            (look(&file, identity, whole, &sites), Vec::new())
        };
        let Some(((now, same), _)) = self.aside(&[file.as_fd()], look)? else {
            self.note_stalled(key.device);
            return otherwise;
        };
        if !same || !now.may_be(&identity) {
            return Err(GuardError::ImageChanged { what: text("size, time or place of the file") });
        }
        self.images.iter_mut().filter(|open| open.id == image).for_each(|open| open.identity = now);
        Ok(())
    }

    fn is_stalled(&mut self, device: (u32, u32)) -> bool {
        self.stalled.retain(|(_, since)| since.elapsed() < REST);
        self.stalled.iter().any(|(known, _)| *known == device)
    }

    fn note_stalled(&mut self, device: (u32, u32)) {
        if !self.is_stalled(device) {
            self.stalled.push((device, Instant::now()));
        }
    }
}

/// Opens the file, or a descriptor that only names it and a copy.
fn open(
    holder: &crate::target::Target,
    mapping: &Mapping,
    progress: &Progress<'_>,
) -> Result<Vec<OwnedFd>, GuardError> {
    let failed = |error: io::Error| GuardError::OpenImage {
        pid: holder.pid,
        path: text(&mapping.path),
        os: error.into(),
    };
    let named = holder.open_mapped(mapping, OFlag::O_PATH)?;
    let kind = fstatfs(&named).map_err(|errno| failed(errno.into()))?.filesystem_type();
    if OWN.contains(&(kind.0 as u32)) {
        return Ok(vec![holder.open_mapped(mapping, OFlag::O_RDONLY)?.into()]);
    }
    let mut file = File::open(path_of(&named)).map_err(failed)?;
    // Requests the attributes, so that those known without a request are current.
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > COPY_BYTES {
        return Err(GuardError::Unsupported {
            what: text(format_args!("read {}", mapping.path)),
            reason: text(format_args!(
                "it is larger than {} MiB and on a file system that another machine or program serves",
                COPY_BYTES >> 20
            )),
        });
    }
    let kind = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = memfd_create(c"image", kind).map_err(|errno| failed(errno.into()))?;
    let mut copy = File::from(copy);
    let mut piece = vec![0; PIECE];
    let mut left = COPY_BYTES as usize;
    loop {
        let read = file.read(&mut piece[..left.min(PIECE)]).map_err(failed)?;
        if read == 0 {
            // The collector also gets the copy, and the checked bytes must not change.
            let seals = SealFlag::F_SEAL_WRITE
                | SealFlag::F_SEAL_SHRINK
                | SealFlag::F_SEAL_GROW
                | SealFlag::F_SEAL_SEAL;
            fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| failed(errno.into()))?;
            return Ok(vec![named.into(), copy.into()]);
        }
        copy.write_all(&piece[..read]).map_err(failed)?;
        left -= read;
        progress.show();
    }
}

fn look(
    file: &File,
    before: Identity,
    whole: bool,
    sites: &[ImageSites],
) -> Result<(Identity, bool), GuardError> {
    let failed = |error: io::Error| GuardError::Proc { file: text("the image"), os: error.into() };
    let file = File::open(path_of(file)).map_err(failed)?;
    file.metadata().map_err(failed)?;
    let now = Identity::of(&file)?;
    let same = (now == before && !whole) || sites.iter().all(|sites| sites.are_as_checked(&file));
    Ok((now, same))
}
