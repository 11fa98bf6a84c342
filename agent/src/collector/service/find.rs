//! Which processes a target of the configuration is. The guard compares beginnings; globs are matched here, because what
//! they are matched with is chosen by whoever runs a program.

use edgelat_guard::protocol::{Found, Path, Reply, Request, Word};
use edgelat_guard::{GuardError, Line};
use edgelat_image::Glob;

use crate::collector::unexpected;
use crate::config::Select;

/// More processes of one target are not looked at: a service has hundreds at most.
const MOST: usize = 1024;

/// What is asked of the guard, and how its answers are narrowed down.
#[derive(Debug, PartialEq, Eq)]
struct Search<'a> {
    word: Word,
    begins: &'a str,
    whole: bool,
}

/// All processes of a target that run now.
///
/// # Errors
/// When the guard cannot look.
pub fn all(line: &mut Line, select: &Select) -> Result<Vec<Found>, GuardError> {
    let search = match select {
        Select::Pid(pid) => return Ok(one(line, *pid)?.into_iter().collect()),
        Select::Exe(path) => Search::of(Word::Executable, path),
        Select::Command(name) => Search::of(Word::Command, name),
        // Units are control groups by their last part, wherever their slice is.
        Select::Unit(_) | Select::Cgroup(_) => Search { word: Word::ControlGroup, begins: "/", whole: false },
    };
    let begins = Path::try_from(search.begins).map_err(|_| GuardError::Message)?;
    let mut reply = line.call(&Request::FindProcesses { word: search.word, begins, whole: search.whole })?.0;
    let mut all = Vec::new();
    loop {
        let Reply::Processes { processes, more } = reply else { return Err(unexpected()) };
        all.extend(processes.into_iter().filter(|found| fits(select, &found.word)));
        if !more || all.len() >= MOST {
            return Ok(all);
        }
        reply = line.call(&Request::FindMore)?.0;
    }
}

/// A process that is named by its number, if it runs.
fn one(line: &mut Line, pid: i32) -> Result<Option<Found>, GuardError> {
    match line.call(&Request::OpenTarget { pid, allow_ptrace: true }) {
        Ok((Reply::Target { target, start }, _)) => {
            line.call(&Request::ForgetTarget { target })?;
            Ok(Some(Found { pid, start, word: Path::new() }))
        }
        Ok(_) => Err(unexpected()),
        Err(GuardError::NoProcess { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl<'a> Search<'a> {
    fn of(word: Word, wanted: &'a str) -> Self {
        match Glob::is_glob(wanted) {
            true => Self { word, begins: literal(wanted), whole: false },
            false => Self { word, begins: wanted, whole: true },
        }
    }
}

/// What stands before the first special character of a glob.
fn literal(glob: &str) -> &str {
    glob.split(['*', '?', '[', '\\']).next().unwrap_or_default()
}

fn fits(select: &Select, word: &str) -> bool {
    match select {
        Select::Pid(_) => true,
        Select::Exe(wanted) | Select::Command(wanted) => {
            wanted == word || Glob::is_glob(wanted) && Glob::new(wanted).matches(word.chars())
        }
        // A unit's processes may be in groups of their own below it.
        Select::Unit(unit) => word.split('/').any(|part| part == unit),
        Select::Cgroup(group) => {
            let word = word.trim_start_matches('/');
            word.strip_prefix(group.trim_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_gets_what_is_certain_of_a_glob() {
        assert_eq!(literal("/usr/sbin/nginx*"), "/usr/sbin/nginx");
        assert_eq!(literal("/opt/[ab]/x"), "/opt/");
        assert!(Search::of(Word::Executable, "/usr/sbin/nginx").whole);
        assert!(!Search::of(Word::Executable, "/usr/sbin/*").whole);
    }

    #[test]
    fn processes_fit_by_path_name_unit_and_group() {
        let exe = |wanted: &str, word| fits(&Select::Exe(wanted.to_owned()), word);
        assert!(exe("/usr/bin/a", "/usr/bin/a") && !exe("/usr/bin/a", "/usr/bin/ab"));
        assert!(exe("/usr/*/a", "/usr/bin/a") && !exe("/usr/*/a", "/usr/bin/b"));
        let unit = |word| fits(&Select::Unit("nginx.service".to_owned()), word);
        assert!(unit("/system.slice/nginx.service") && unit("/system.slice/nginx.service/worker"));
        assert!(!unit("/system.slice/my-nginx.service"));
        let group = |word| fits(&Select::Cgroup("vnf/a".to_owned()), word);
        assert!(group("/vnf/a") && group("/vnf/a/b") && !group("/vnf/ab") && !group("/x/vnf/a"));
    }
}
