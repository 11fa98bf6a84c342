//! A file that replaces its previous version, in a folder that other users may write to.
//!
//! Root writes the file, and the folder may belong to another user or be world-writable. The code
//! therefore follows no link of another user, opens no existing file, and refers to files by
//! descriptor: it writes only to a file that it has created itself.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat, readlinkat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// Maximum number of symbolic links, as in the kernel (include/linux/namei.h, MAXSYMLINKS).
const LINKS: u32 = 40;

/// Replaces the file atomically: a reader finds either the previous or the new one.
///
/// # Errors
/// If the folder cannot be opened, leads through a link of another user, or accepts no file.
pub(super) fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let folder = folder(path.parent().unwrap_or(Path::new("")), geteuid().as_raw())?;
    // The name cannot be predicted. node_exporter ignores the file: it does not end in .prom.
    let mut beside = name.to_owned();
    beside.push(format!(".{:016x}", RandomState::new().build_hasher().finish()));
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&folder, beside.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    let written = file.write_all(body).and_then(|()| file.set_permissions(Permissions::from_mode(0o644)));
    let renamed = written.and_then(|()| Ok(renameat(&folder, beside.as_os_str(), &folder, name)?));
    if renamed.is_err() {
        _ = unlinkat(&folder, beside.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
    renamed
}

/// Opens a folder step by step. For root, which may write everywhere, all links must be root's.
fn folder(path: &Path, user: libc::uid_t) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let root = || open("/", flags, Mode::empty());
    let mut at = openat(AT_FDCWD, ".", flags, Mode::empty())?;
    let mut rest: VecDeque<OsString> = steps(path);
    let mut links = 0;
    while let Some(step) = rest.pop_front() {
        if step.as_bytes() == b"/" {
            at = root()?;
            continue;
        }
        let next = openat(&at, step.as_os_str(), flags, Mode::empty())?;
        let found = fstat(&next)?;
        match found.st_mode & libc::S_IFMT {
            libc::S_IFDIR => at = next,
            libc::S_IFLNK if user == 0 && found.st_uid != 0 => return Err(Errno::ELOOP),
            libc::S_IFLNK => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::ELOOP);
                }
                let mut target = steps(Path::new(&readlinkat(&next, "")?));
                target.append(&mut rest);
                rest = target;
            }
            _ => return Err(Errno::ENOTDIR),
        }
    }
    Ok(at)
}

/// Returns the steps of a path; an absolute path begins with the root.
fn steps(path: &Path) -> VecDeque<OsString> {
    path.components().map(Component::as_os_str).map(OsStr::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};
    use std::path::PathBuf;

    /// A folder for one test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("edgelat-textfile-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_text_file_takes_the_place_of_the_one_before() {
        let Folder(folder) = &Folder::new("before");
        let path = folder.join("edgelat.prom");
        for body in ["a longer one\n", "short\n"] {
            write(&path, body.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), body);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "nothing is left beside it");
        assert!(write(&folder.join("missing/edgelat.prom"), b"").is_err());
        assert!(write(Path::new("/"), b"").is_err());
        fs::create_dir(folder.join("x.prom")).unwrap();
        assert!(write(&folder.join("x.prom"), b"").is_err());
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_others_planted_is_replaced_and_never_written_to() {
        let Folder(folder) = &Folder::new("planted");
        let victim = folder.join("victim");
        fs::write(&victim, "precious").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let path = folder.join("edgelat.prom");
        let pid = format!("edgelat.prom.{}", std::process::id());
        for name in ["edgelat.prom", &pid] {
            let planted = folder.join(name);
            for plant in [
                |victim: &Path, planted: &Path| symlink(victim, planted),
                |victim: &Path, planted: &Path| fs::hard_link(victim, planted),
                |_: &Path, planted: &Path| Ok(nix::unistd::mkfifo(planted, Mode::S_IRWXU)?),
            ] {
                _ = fs::remove_file(&planted);
                plant(&victim, &planted).unwrap();
                write(&path, b"figures").unwrap();
                assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
                assert_eq!(victim.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                assert!(path.symlink_metadata().unwrap().is_file());
                assert_eq!(fs::read_to_string(&path).unwrap(), "figures");
            }
        }
    }

    #[test]
    fn a_folder_is_reached_by_links_of_roots_or_ones_own_only() {
        let Folder(folder) = &Folder::new("links");
        fs::create_dir_all(folder.join("a/b")).unwrap();
        symlink("a", folder.join("own")).unwrap();
        symlink(folder.join("own/b"), folder.join("absolute")).unwrap();
        symlink("loop", folder.join("loop")).unwrap();
        for way in ["own/b", "absolute", "a/../own/b"] {
            write(&folder.join(way).join("x.prom"), way.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(folder.join("a/b/x.prom")).unwrap(), way);
        }
        assert!(write(&folder.join("loop/x.prom"), b"").is_err());
        if geteuid().is_root() {
            lchown(folder.join("own"), Some(65_534), None).unwrap();
            for way in ["own/b", "absolute"] {
                let error = write(&folder.join(way).join("y.prom"), b"").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
            }
            assert!(!folder.join("a/b/y.prom").exists());
        }
    }
}
