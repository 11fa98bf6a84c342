//! Children that a target has when its probes come.
//!
//! The kernel reports only those born from then on. A server that is named by its first process has
//! had its workers for days.

use std::io::Read as _;
use std::time::{Duration, Instant};

use super::GuardError;
use crate::guard::Guard;
use crate::load::FAMILY;
use crate::outside;
use crate::protocol::{Event, TargetId};
use crate::target::{Target, parent_of};

/// Bytes of a list of children that are read: more than a plan can follow.
const LIST_BYTES: u64 = 64 << 10;

/// Time that others wait for children that are covered at once; the next children come after them.
const SLICE: Duration = Duration::from_millis(200);

impl Guard {
    /// Covers the children of the processes of a plan, and their children, as if they were born
    /// now: the first ones at once, the others soon.
    pub(crate) fn cover_existing(&mut self, index: usize) {
        let plan = &mut self.plans[index];
        if plan.options.follow_forks {
            let children = plan.processes.iter().flat_map(|covered| children_of(covered.target.pid));
            plan.existing = children.take(FAMILY).collect();
            self.go_on_with_existing(index, Instant::now() + SLICE);
        }
    }

    /// Covers children that wait for it.
    pub(crate) fn cover_waiting(&mut self) {
        let end = Instant::now() + SLICE;
        (0..self.plans.len()).for_each(|index| self.go_on_with_existing(index, end));
    }

    fn go_on_with_existing(&mut self, index: usize, end: Instant) {
        while Instant::now() < end
            && let Some(child) = self.plans[index].existing.pop()
        {
            let plan = &self.plans[index];
            if plan.faulted() || plan.off {
                self.plans[index].existing.clear();
            } else if !self.is_of_another(index, child) && self.cover_existing_child(index, child) {
                // Searched after it has been covered: its forks from there on are reported.
                let existing = &mut self.plans[index].existing;
                let room = FAMILY.saturating_sub(existing.len());
                existing.extend(children_of(child).into_iter().take(room));
            }
        }
    }

    fn cover_existing_child(&mut self, index: usize, pid: i32) -> bool {
        // Its number may be another process's by now, which was not requested.
        let parent = parent_of(pid);
        let mut processes = self.plans[index].processes.iter();
        if !processes.any(|covered| Some(covered.target.pid) == parent) {
            return false;
        }
        let allow_ptrace =
            self.plans[index].processes.first().is_some_and(|first| first.target.tracer.is_some());
        let open = || Target::open(TargetId(0), pid, allow_ptrace);
        match self.cover_relative(index, pid, None, open) {
            Ok(covered) => return covered,
            // It has ended meanwhile.
            Err(GuardError::NoProcess { .. }) => {}
            Err(error) => self.tell(index, Event::NotCovered { pid, error }),
        }
        self.forget(index, pid);
        false
    }

    /// True if it is measured already by itself, or as the child of another target.
    fn is_of_another(&self, index: usize, pid: i32) -> bool {
        let own = self.plans[index].target;
        let mut others = self.plans.iter().filter(|plan| plan.target != own && !plan.off);
        others.any(|plan| plan.processes.iter().any(|covered| covered.target.pid == pid))
    }
}

/// Live processes that a process forked. Not every kernel lists them (CONFIG_PROC_CHILDREN).
fn children_of(pid: i32) -> Vec<i32> {
    let threads = outside::names(format!("/proc/{pid}/task")).unwrap_or_default();
    let lists: Option<Vec<String>> = threads.iter().map(|thread| list_of(pid, thread)).collect();
    match lists {
        Some(lists) => numbers(lists.iter().flat_map(|list| list.split_ascii_whitespace())),
        None => {
            let all = outside::names("/proc").unwrap_or_default();
            let mut all = numbers(all.iter().map(String::as_str));
            all.retain(|process| parent_of(*process) == Some(pid));
            all
        }
    }
}

/// Children of one thread; `None` if the kernel does not list them, or the thread has ended.
fn list_of(pid: i32, thread: &str) -> Option<String> {
    let mut list = String::new();
    let file = outside::open(format!("/proc/{pid}/task/{thread}/children")).ok()?;
    file.take(LIST_BYTES).read_to_string(&mut list).ok()?;
    Some(list)
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Vec<i32> {
    words.filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn children_are_found_by_their_parent() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let (own, pid) = (std::process::id() as i32, child.id() as i32);
        assert!(children_of(own).contains(&pid));
        assert_eq!(parent_of(pid), Some(own));
        assert!(!children_of(pid).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children_of(own).contains(&pid));
    }
}
