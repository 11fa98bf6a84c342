//! The user that the collector becomes, so that an attacker in it is not root.

use std::os::fd::AsFd;

use caps::Capability;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc::{S_IFMT, S_IFREG};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{Gid, Uid, fchown, fchownat, setgroups, setresgid, setresuid};

use crate::error::{GuardError, text};
use crate::rights::{held, in_first_user_namespace};

/// Bytes of /etc/passwd that are read.
const PASSWD_BYTES: u64 = 1 << 20;

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    uid: Uid,
    gid: Gid,
}

impl User {
    /// Finds a user by name or number in /etc/passwd. A number missing there has a group of that
    /// number.
    ///
    /// # Errors
    /// If there is no such user, or it is root.
    pub fn find(name: &str) -> Result<Self, GuardError> {
        use std::io::Read as _;
        let mut passwd = String::new();
        let read = std::fs::File::open("/etc/passwd")
            .and_then(|file| file.take(PASSWD_BYTES).read_to_string(&mut passwd));
        Self::among(if read.is_ok() { &passwd } else { "" }, name)
    }

    /// Lines of passwd(5): name, password, number, group, ...
    fn among(passwd: &str, name: &str) -> Result<Self, GuardError> {
        let known = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [known, _, uid, gid, ..] = fields.as_slice() else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            (*known == name || uid_of(name) == Some(uid)).then_some((uid, gid))
        });
        let refused = |reason: &str| Err(GuardError::User { user: text(name), reason: text(reason) });
        match known.or_else(|| uid_of(name).map(|number| (number, number))) {
            None => refused("there is no such user; make one, or give a number"),
            Some((0, _)) => refused(
                "that is root, which has rights without capabilities; name another, or leave the key out",
            ),
            Some((uid, gid)) => Ok(Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }),
        }
    }

    /// The default user of a collector: a number that no user has. Distributions assign numbers
    /// below 65536, and containers have theirs from 524288 on (systemd, UIDS-GIDS.md).
    ///
    /// # Errors
    /// The reason why this process cannot become another user.
    pub fn usual() -> Result<Self, GuardError> {
        const NUMBER: u32 = 465_441;
        let refused =
            |reason: std::fmt::Arguments<'_>| GuardError::User { user: text(NUMBER), reason: text(reason) };
        let taken =
            [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL, Capability::CAP_CHOWN];
        if let Some(lacking) = taken.into_iter().find(|capability| !held(*capability)) {
            return Err(refused(format_args!("edgelat lacks {lacking}")));
        }
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if !in_first_user_namespace(&map) {
            return Err(refused(format_args!("edgelat runs in a user namespace of its own")));
        }
        Ok(Self { uid: Uid::from_raw(NUMBER), gid: Gid::from_raw(NUMBER) })
    }

    /// Gives that user a folder, so that it can make files in it, and the files there that are
    /// `its`.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn give(self, folder: impl AsFd, its: impl Fn(&str) -> bool) -> Result<(), GuardError> {
        let failed = |errno: Errno| GuardError::User {
            user: text(self.uid),
            reason: text(format_args!("its folder cannot be given to it: {}", errno.desc())),
        };
        let (uid, gid) = (Some(self.uid), Some(self.gid));
        let listed = Dir::openat(&folder, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        for entry in listed.map_err(failed)?.into_iter().map_while(Result::ok) {
            let stat = fstatat(&folder, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW);
            // A user who could make files here may have linked others to it.
            let own = |stat: FileStat| stat.st_mode & S_IFMT == S_IFREG && stat.st_nlink == 1;
            if entry.file_name().to_str().is_ok_and(&its) && stat.is_ok_and(own) {
                fchownat(&folder, entry.file_name(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(failed)?;
            }
        }
        fchown(&folder, uid, gid).map_err(failed)
    }

    /// Makes this process that user's, for good, in no group but its own.
    pub(crate) fn become_it(self) -> Result<(), GuardError> {
        let done = setgroups(&[])
            .and_then(|()| setresgid(self.gid, self.gid, self.gid))
            .and_then(|()| setresuid(self.uid, self.uid, self.uid));
        done.map_err(|errno| GuardError::Rights {
            what: text(format_args!("user and groups for user {}", self.uid)),
            reason: text(errno.desc()),
        })
    }
}

fn uid_of(name: &str) -> Option<u32> {
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken line\nedgelat:x:990:980::/:/bin/false\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let edgelat = User { uid: Uid::from_raw(990), gid: Gid::from_raw(980) };
        assert_eq!(User::among(PASSWD, "edgelat"), Ok(edgelat));
        assert_eq!(User::among(PASSWD, "990"), Ok(edgelat));
        assert_eq!(
            User::among(PASSWD, "1234"),
            Ok(User { uid: Uid::from_raw(1234), gid: Gid::from_raw(1234) })
        );
    }

    #[test]
    fn root_and_nobody_at_all_are_refused() {
        for name in ["root", "0", "nobody-at-all", "99999999999"] {
            assert!(User::among(PASSWD, name).is_err(), "{name}");
        }
    }
}
