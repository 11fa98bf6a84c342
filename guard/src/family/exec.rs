//! Processes that execute an image: the same again, another, or at last the measured one.

use super::executable_of;
use crate::attach::{self, ImageSites};
use crate::error::GuardError;
use crate::guard::{Guard, order};
use crate::protocol::{Event, TargetId};
use crate::target::Target;
use crate::watchers::Exec;

impl Guard {
    pub(super) fn notice_exec(&mut self, index: usize, exec: Exec) {
        self.plans[index].not_seen.retain(|child| *child != exec.pid);
        let plan = &self.plans[index];
        let Some(known) = plan.processes.iter().position(|covered| covered.target.pid == exec.pid) else {
            // The child of a vfork has memory of its own now. Only a child that executes the same
            // image again is in the family; the commands that a service calls are not.
            let child = Target::unchecked(TargetId(0), exec.pid);
            if plan.options.follow_forks && child.is_ok_and(|child| executable_of(&child) == plan.executable)
            {
                self.cover_child(index, exec.pid, None);
            }
            return;
        };
        if plan.off || plan.faulted() {
            return;
        }
        let covered = &plan.processes[known];
        match (executable_of(&covered.target) == plan.executable, covered.elsewhere) {
            (true, false) => self.begin_anew(index, known, exec),
            // It has come back to the measured image.
            (true, true) => _ = self.cover_child(index, exec.pid, None),
            (false, false) => self.replaced(index, known),
            (false, true) => {}
        }
    }

    /// The same image again. Probes hold the main thread: after its replacement they see nothing.
    fn begin_anew(&mut self, index: usize, known: usize, Exec { pid, time_ns, by_thread }: Exec) {
        // A stopped plan is attached when it continues.
        match by_thread && !self.plans[index].stopped {
            true => match self.attach_anew(index, known) {
                Ok(()) => {}
                Err(GuardError::NoProcess { .. }) => return,
                Err(error) => {
                    self.replaced(index, known);
                    return self.tell(index, Event::NotCovered { pid, error });
                }
            },
            // If sites are known by their addresses, those have changed.
            false => self.renew(index, pid),
        }
        self.tell(index, Event::Executed { pid, time_ns, gap: by_thread });
    }

    fn attach_anew(&mut self, index: usize, known: usize) -> Result<(), GuardError> {
        self.images_unchanged(index)?;
        let plan = &mut self.plans[index];
        let (way, loaded) = plan.loaded.as_ref().ok_or_else(|| order("attach comes after load"))?;
        let covered = &mut plan.processes[known];
        let images: Vec<ImageSites> = plan.images.iter().map(|(_, sites)| sites.clone()).collect();
        // The old addresses go first, because some of the new ones may be the same.
        covered.attached.iter().for_each(|attached| attached.forget(loaded, covered.target.pid));
        let attached = attach::cover(way.route, loaded, &covered.target, &images, self.tracefs.as_ref())?;
        covered.attached = Some(attached);
        Ok(())
    }

    /// Another image. Its libraries may be probed as well, and those calls are not the old image's.
    fn replaced(&mut self, index: usize, known: usize) {
        let plan = &mut self.plans[index];
        let pid = plan.processes[known].target.pid;
        let Some((_, loaded)) = &plan.loaded else { return };
        if pid == plan.pid {
            // The target itself may come back to the measured image, so it stays in the family.
            let covered = &mut plan.processes[known];
            covered.elsewhere = true;
            let held = covered.attached.take();
            held.iter().for_each(|attached| attached.forget(loaded, pid));
        } else {
            plan.processes.remove(known).forgotten_by(loaded);
        }
        self.tell(index, Event::Replaced { pid });
    }
}
