//! Search for processes. The guard compares one word of each with the wanted word, and shows those
//! that fit and that edgelat was started for.
//!
//! A word is one short text of /proc: the path of the executable, the name of the command, or the
//! control group. Everything is read into buffers of fixed size, and longer text is cut. The
//! collector matches globs; here only the beginning of a word counts.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use nix::dir::{Dir, OwningIter};
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::error::{GuardError, text};
use crate::protocol::{FOUND, Found, Path, Word};
use crate::scope::Scope;
use crate::target::start_of;

/// Most processes examined for one answer. There may be tens of thousands, and the work on targets
/// must not wait for all of them.
const AT_ONCE: usize = 256;
/// Most bytes read of /proc/PID/cgroup and comm.
const TEXT_BYTES: u64 = 4096;

/// A walk over all processes, in pieces.
pub(crate) struct Search {
    folder: OwningIter,
    word: Word,
    begins: Path,
    whole: bool,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search")
            .field("word", &self.word)
            .field("begins", &self.begins)
            .finish_non_exhaustive()
    }
}

impl Search {
    /// Begins a search for processes whose word is `begins`, or starts with it unless `whole`.
    pub(crate) fn begin(word: Word, begins: Path, whole: bool) -> Result<Self, GuardError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = Dir::open("/proc", flags, Mode::empty())
            .map_err(|errno| GuardError::Proc { file: text("/proc"), os: errno.into() })?;
        Ok(Self { folder: folder.into_iter(), word, begins, whole })
    }

    /// Returns the next processes that fit and are in scope, and whether there may be more.
    pub(crate) fn next(&mut self, scope: &Scope) -> (heapless::Vec<Found, FOUND>, bool) {
        let mut found = heapless::Vec::new();
        for _ in 0..AT_ONCE {
            if found.is_full() {
                break;
            }
            let Some(entry) = self.folder.next() else { return (found, false) };
            // A process that ends meanwhile is skipped.
            let pid = entry.ok().and_then(|entry| entry.file_name().to_str().ok()?.parse().ok());
            if let Some(process) = pid.and_then(|pid| self.look(pid, scope)) {
                // Not full: this cannot fail.
                _ = found.push(process);
            }
        }
        (found, true)
    }

    fn look(&self, pid: i32, scope: &Scope) -> Option<Found> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let process = nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).ok()?;
        let word = word_of(&process, self.word)?;
        let fits =
            if self.whole { word == self.begins.as_str() } else { word.starts_with(self.begins.as_str()) };
        if !fits || !scope.finds(self.word, &word) {
            return None;
        }
        Some(Found { pid, start: start_of(&process)?, word: Path::try_from(word.as_str()).ok()? })
    }
}

pub(crate) fn word_of(process: impl AsFd, word: Word) -> Option<String> {
    match word {
        Word::Executable => {
            let path = readlinkat(process, "exe").ok()?.to_string_lossy().into_owned();
            // The file was replaced since the start: the same program, of an older build.
            Some(path.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(path))
        }
        Word::Command => {
            has_program(&process)?;
            read(process, "comm").map(|name| name.trim_end_matches('\n').to_owned())
        }
        Word::ControlGroup => {
            has_program(&process)?;
            let groups = read(process, "cgroup")?;
            groups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
        }
    }
}

/// Kernel threads and zombies have names and groups as well, but no program.
fn has_program(process: impl AsFd) -> Option<()> {
    readlinkat(process, "exe").ok().map(|_| ())
}

fn read(process: impl AsFd, name: &str) -> Option<String> {
    let file = openat(process, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(TEXT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::{Asked, Which};

    fn all(word: Word, begins: &str, whole: bool) -> Vec<Found> {
        asked(word, begins, whole, Which::Word { word, begins: begins.to_owned(), whole })
    }

    fn asked(word: Word, begins: &str, whole: bool, which: Which) -> Vec<Found> {
        let scope = Scope::new(vec![Asked { which, limits: None }]);
        let mut search = Search::begin(word, Path::try_from(begins).unwrap(), whole).unwrap();
        let mut all = Vec::new();
        loop {
            let (some, more) = search.next(&scope);
            all.extend_from_slice(&some);
            if !more {
                return all;
            }
        }
    }

    fn finds_own(word: Word, begins: &str, whole: bool) -> bool {
        all(word, begins, whole).iter().any(|found| found.pid == std::process::id() as i32)
    }

    #[test]
    fn a_process_is_found_by_what_it_executes_and_by_its_name() {
        let exe = std::env::current_exe().unwrap();
        let exe = exe.to_str().unwrap();
        assert!(finds_own(Word::Executable, exe, true));
        assert!(finds_own(Word::Executable, &exe[..exe.len() - 3], false));
        assert!(!finds_own(Word::Executable, &exe[..exe.len() - 3], true));
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert!(finds_own(Word::Command, name.trim(), true));
        assert!(!finds_own(Word::Command, "no such program", true));
    }

    #[test]
    fn what_was_not_asked_for_is_not_shown() {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let all = |which| asked(Word::Command, "", false, which).len();
        assert_eq!(all(Which::Pid(std::process::id() as i32)), 0);
        assert_eq!(all(Which::Word { word: Word::Executable, begins: String::new(), whole: false }), 0);
        assert!(all(Which::Word { word: Word::Command, begins: name.trim().to_owned(), whole: true }) > 0);
    }

    #[test]
    fn a_process_is_found_by_its_control_group() {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
            // Without a unified hierarchy no process has such a group.
            assert!(all(Word::ControlGroup, "/", false).is_empty());
            return;
        };
        assert!(finds_own(Word::ControlGroup, own, true));
    }

    #[test]
    fn kernel_threads_are_no_processes_of_that_name() {
        assert!(all(Word::Command, "kthreadd", true).is_empty());
    }
}
