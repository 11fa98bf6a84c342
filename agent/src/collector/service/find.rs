//! Search for the processes of a configured target. The guard compares beginnings; globs are
//! matched here, because the user who runs a program chooses the text that they are matched with.

use edgelat_guard::protocol::{Found, Path, Reply, Request, Word};
use edgelat_guard::{GuardError, Line, Which};
use edgelat_image::Glob;

use crate::collector::unexpected;
use crate::config::Select;

/// Maximum number of processes of one target: a service has hundreds at most.
const MOST: usize = 1024;

/// Returns all processes of a target that run now.
///
/// # Errors
/// Fails if the guard cannot search.
pub fn all(line: &mut Line, select: &Select) -> Result<Vec<Found>, GuardError> {
    let (word, begins, whole) = match (select, select.which()) {
        (Select::Pid(pid), _) => return Ok(one(line, *pid)?.into_iter().collect()),
        (_, Which::Word { word, begins, whole }) => (word, begins, whole),
        // Units are control groups, identified by the last part of their path in any slice.
        _ => (Word::ControlGroup, "/".to_owned(), false),
    };
    let begins = Path::try_from(begins.as_str()).map_err(|_| GuardError::Message)?;
    let mut reply = line.call(&Request::FindProcesses { word, begins, whole })?.0;
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

/// Returns the process with this number, if it runs.
fn one(line: &mut Line, pid: i32) -> Result<Option<Found>, GuardError> {
    match line.call(&Request::OpenTarget { pid, allow_ptrace: true }) {
        Ok((Reply::Target { target, start, .. }, _)) => {
            line.call(&Request::ForgetTarget { target })?;
            Ok(Some(Found { pid, start, word: Path::new() }))
        }
        Ok(_) => Err(unexpected()),
        Err(GuardError::NoProcess { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Matches globs; for all else, the comparison of the guard is enough.
fn fits(select: &Select, word: &str) -> bool {
    match select {
        Select::Exe(glob) | Select::Command(glob) if Glob::is_glob(glob) => {
            Glob::new(glob).matches(word.chars())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_matched_to_their_end() {
        let exe = |wanted: &str, word| fits(&Select::Exe(wanted.to_owned()), word);
        assert!(exe("/usr/*/a", "/usr/bin/a") && !exe("/usr/*/a", "/usr/bin/b"));
    }
}
