//! Examination of the target's memory for a plan, before any of the plan is loaded.

use crate::attach::ImageSites;
use crate::attach::text::Mappings;
use crate::error::{GuardError, Text};
use crate::guard::Guard;
use crate::memory::{Groups, Room};
use crate::protocol::{PlanId, Reply, UNSOUND, Unsound};

impl Guard {
    /// Examines the target's memory for a plan. The first page of the answer, which begins with
    /// function 0, does the work; later pages continue with the functions from number `from` on.
    pub(crate) fn examine(&mut self, id: PlanId, from: u32) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let before = self.plans[index].examined.take().filter(|_| from > 0);
        let plan = &self.plans[index];
        let target = self.target(plan.target)?;
        let (unfit, bytes) = match before {
            Some(before) => before,
            None => {
                let images: Vec<ImageSites> = plan.images.iter().map(|(_, sites)| sites.clone()).collect();
                let mapped = Mappings::of(target, &images)?;
                (mapped.unfit(target, &images)?, mapped.bytes(&images))
            }
        };
        let mut found = unfit.iter().filter(|unfit| unfit.function >= from);
        let unsound: heapless::Vec<Unsound, UNSOUND> = found.by_ref().take(UNSOUND).copied().collect();
        let more = found.next().is_some();
        let room = Groups::of(target).room();
        self.plans[index].examined = more.then_some((unfit, bytes));
        Ok(Reply::Examined {
            more,
            unsound,
            bytes,
            allowed: room.as_ref().map_or(u64::MAX, Room::allowed),
            room: room.as_ref().map_or(u64::MAX, |room| room.bytes),
            of: room.map_or_else(Text::new, |room| room.of),
        })
    }
}
