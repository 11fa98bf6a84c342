//! The user that the collector becomes, so that nobody who takes it over is root.

use std::os::fd::AsFd;

use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};

use crate::error::{GuardError, text};

/// Bytes of /etc/passwd that are read.
const PASSWD_BYTES: u64 = 1 << 20;

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    uid: Uid,
    gid: Gid,
}

impl User {
    /// By name or number, from /etc/passwd. A number that is not there has a group of the same number.
    ///
    /// # Errors
    /// When there is no such user, or it is root.
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

    /// Gives that user a folder, so that it can make files in it.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn give(self, folder: impl AsFd) -> Result<(), GuardError> {
        fchown(folder, Some(self.uid), Some(self.gid)).map_err(|errno| GuardError::User {
            user: text(self.uid),
            reason: text(format_args!("its folder cannot be given to it: {}", errno.desc())),
        })
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
