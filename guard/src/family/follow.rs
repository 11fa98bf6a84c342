//! The processes of a started command: selection of those measured from their first instruction.
//!
//! Until the first is found the collector decides, image by image. From then on each process that
//! executes the same image is measured.

use std::time::Duration;

use super::{Covered, executable_of, watch};
use crate::command::{Command, Step};
use crate::error::GuardError;
use crate::guard::{Guard, order};
use crate::protocol::{Event, Reply, TargetId, Told};
use crate::target::Target;

/// Longest time that one request waits for the command: signals and events have their turn then.
const PATIENCE: Duration = Duration::from_millis(50);
/// Images of a command that are handled at most before budgets are checked.
const AT_ONCE: usize = 16;

impl Guard {
    pub(crate) fn command(&mut self) -> Result<&mut Command, GuardError> {
        self.command.as_mut().ok_or_else(|| order("no command was started"))
    }

    pub(crate) fn step_command(&mut self) -> Result<Reply, GuardError> {
        Ok(match self.command()?.next(PATIENCE)? {
            Step::Executed(pid) => Reply::Stepped { pid, executed: true, more: true },
            Step::Mapped(pid) => Reply::Stepped { pid, executed: false, more: true },
            step => Reply::Stepped { pid: 0, executed: false, more: step != Step::Over },
        })
    }

    /// Lets a process of the command run, measured or not. Others that execute the same image are
    /// covered as they appear, if children are followed.
    pub(crate) fn release_command(&mut self, process: i32) -> Result<Reply, GuardError> {
        let follow = self.plans.iter().any(|plan| plan.options.follow_forks);
        let command = self.command()?;
        command.release(process);
        let pid = command.pid();
        if !follow {
            command.release_all();
        }
        let ready = match self.command.as_mut() {
            Some(command) => command.ready()?,
            None => return Ok(Reply::Done),
        };
        watch(&mut self.epoll, ready)?;
        // As long as the command runs, more processes may come of it.
        let Some(plan) = self.plans.first_mut() else { return Ok(Reply::Done) };
        if !plan.processes.iter().any(|covered| covered.target.pid == pid) {
            match Target::unchecked(TargetId(0), pid) {
                Ok(target) => {
                    watch(&mut self.epoll, target.pidfd())?;
                    plan.processes.push(Covered::bare(target));
                }
                Err(_) => {
                    let event = Event::Ended { pid, status: None, out_of_memory: false };
                    self.events.push_back(Told { plan: plan.id, event });
                }
            }
        }
        Ok(Reply::Done)
    }

    pub(crate) fn finish_command(&mut self, terminate: bool) -> Result<Reply, GuardError> {
        self.command()?.finish(terminate, PATIENCE)
    }

    /// Handles stopped processes of the command; the rest at the next turn.
    pub(crate) fn follow_command(&mut self) {
        // Until the wanted process is released the collector decides, and the process that it
        // examines is held.
        let found = self.command.as_ref().is_some_and(Command::found);
        if !found || self.plans.iter().all(|plan| plan.processes.is_empty()) {
            return;
        }
        for _ in 0..AT_ONCE {
            let Some(command) = &mut self.command else { return };
            match command.next(Duration::ZERO) {
                Ok(Step::Executed(pid)) => self.meet(pid),
                Ok(Step::Mapped(_)) => {}
                // A process that cannot be traced any more has ended, or is ending.
                Ok(Step::Nothing | Step::Over) | Err(_) => return,
            }
        }
    }

    /// A process of the command executes another image, of which nothing has run.
    fn meet(&mut self, pid: i32) {
        let Ok(target) = Target::unchecked(TargetId(0), pid) else { return };
        let executable = executable_of(&target);
        let mut measured = false;
        for index in 0..self.plans.len() {
            if executable.is_some() && self.plans[index].executable == executable {
                measured |= self.cover_child(index, pid, None);
            }
        }
        if let Some(command) = self.command.as_mut().filter(|_| measured) {
            command.release(pid);
        }
    }
}
