//! Plans: from the sites that a collector names to probes and back.
//!
//! A plan comes in pieces, and each is checked: numbers are bounded, each site is compared with the
//! file, and an invalid piece is refused with the reason. Loading, calibrating, attaching and
//! arming are steps of their own, in this order.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Instant;

use edgelat_bpf::Rows;
use edgelat_bpf::layout::SITE_STEPPED;
use edgelat_bpf::object::map;

use crate::attach::{self, Attached, ImageSites, Site, Way};
use crate::budget::{Budget, Total};
use crate::calibrate;
use crate::confirm;
use crate::costs::mark_prices;
use crate::cpus::CpuSet;
use crate::error::{GuardError, text};
use crate::family::sweep::Sweep;
use crate::family::{Covered, watch};
use crate::features;
use crate::guard::{Guard, elapsed, order};
use crate::image::{OpenImage, check_places, check_site, mark_of};
use crate::load::{Loaded, Shape};
use crate::pins::Pins;
use crate::placement::{self, TargetsOn};
use crate::prices::KindsOfRows;
use crate::protocol::{
    BUILD_ID_BYTES, ImageId, OnSignal, PlanId, PlanOptions, PlanSite, Reply, Returns, Route, TargetId,
    Unsound,
};
use crate::python;
use crate::scope::memory_bound;
use crate::target::Target;
use crate::windows::Sampling;

/// Functions of one plan.
const MAX_FUNCTIONS: u32 = 65_536;
/// Sites of one plan: a large function has dozens of exits.
const MAX_SITES: usize = 1 << 19;
/// Rows after those of a plan's functions: the calibration's, and one for hits at unknown
/// addresses.
const EXTRA_ROWS: u32 = calibrate::FUNCTIONS + 1;
/// Frames of one plan.
const MAX_FRAMES: u32 = 1 << 20;

pub(crate) struct Plan {
    pub(crate) id: PlanId,
    pub(crate) target: TargetId,
    /// The target's process.
    pub(crate) pid: i32,
    pub(crate) options: PlanOptions,
    pub(crate) images: Vec<(ImageId, ImageSites)>,
    pub(crate) sites: usize,
    pub(crate) kinds: KindsOfRows,
    pub(crate) budget: Option<Budget>,
    /// Payments outside of the programs so far, in nanoseconds.
    pub(crate) charged_ns: u64,
    pub(crate) pins: Option<Pins>,
    pub(crate) loaded: Option<(Way, Loaded)>,
    /// Kernel memory of its arrays in bytes.
    pub(crate) bytes: u64,
    pub(crate) processes: Vec<Covered>,
    /// Findings in its target's memory to be reported, and the memory that its probes take.
    pub(crate) examined: Option<(Vec<Unsound>, u64)>,
    /// Its children that are not covered.
    pub(crate) sweep: Sweep,
    /// Children that existed before its probes, and are not covered yet.
    pub(crate) existing: Vec<i32>,
    /// Children that had ended when they were examined, until their end is reported.
    pub(crate) not_seen: Vec<i32>,
    /// Time of the last search for a debugger.
    pub(crate) looked_for_tracers: Option<Instant>,
    /// Position of the search for tracers in its processes.
    pub(crate) looked_at_tracers: usize,
    /// Device and inode of its first process' executable at the attach.
    pub(crate) executable: Option<(u64, u64)>,
    /// The calibration's probes. They stay until the plan is detached: those functions are never
    /// called again, and closing them alone would wait for the kernel while target events are
    /// pending.
    pub(crate) calibration: Vec<Attached>,
    /// Plans with probes on the same instructions.
    pub(crate) related: Vec<PlanId>,
    pub(crate) armed: bool,
    /// Duration of the removal of its probes.
    pub(crate) detach_ns: u64,
    /// Its probes were removed, and no new ones are attached.
    pub(crate) off: bool,
    /// Its probes are off because the agent is stopped, or because of their cost, and come back.
    pub(crate) stopped: bool,
    /// State of sampling; `None` if the cost never exceeded the bound.
    pub(crate) sampling: Option<Sampling>,
    /// A fault was reported.
    pub(crate) fault_told: bool,
}

impl Plan {
    /// Adds costs of this plan that no program counts, in nanoseconds: such as of a child that is
    /// not covered, at inherited breakpoints. From the next look on they are part of the shown,
    /// bounded cost.
    pub(crate) fn charge(&mut self, ns: u64) {
        self.charged_ns = self.charged_ns.saturating_add(ns);
    }

    /// Removes every probe for good; returns the duration in nanoseconds, the first time.
    pub(crate) fn take_off(&mut self) -> u64 {
        self.off = true;
        self.close_probes()
    }

    /// Removes every probe; returns the duration of all removals so far in nanoseconds.
    pub(crate) fn close_probes(&mut self) -> u64 {
        let begin = Instant::now();
        if let Some((_, loaded)) = &self.loaded {
            loaded.switch.disarm();
        }
        let attached = self.processes.iter_mut().filter_map(|covered| covered.attached.take());
        let held: Vec<Attached> = attached.chain(self.calibration.drain(..)).collect();
        if !held.is_empty() {
            attach::close_together(held);
            self.detach_ns += elapsed(begin);
        }
        self.detach_ns
    }

    /// True if any of its processes has a probe.
    pub(crate) fn has_probes(&self) -> bool {
        self.processes.iter().any(|covered| covered.attached.is_some())
    }

    /// True if one of its processes got a signal after which it is left alone.
    pub(crate) fn faulted(&self) -> bool {
        self.loaded.as_ref().is_some_and(|(_, loaded)| loaded.switch.faulted())
    }
}

impl Guard {
    pub(crate) fn begin_plan(&mut self, target: TargetId, options: PlanOptions) -> Result<Reply, GuardError> {
        let pid = self.target(target)?.pid;
        if self.closed {
            return Err(order("no further plan was to come"));
        }
        self.scope.plan(target, &options, self.plans.iter().map(|plan| plan.target))?;
        let bad = |reason: String| Err(GuardError::BadPlan { reason: text(reason) });
        if options.functions == 0 || options.functions > MAX_FUNCTIONS {
            return bad(format!(
                "{} functions; 1 to {MAX_FUNCTIONS} can be measured at once",
                options.functions
            ));
        }
        if options.frames == 0 || options.frames > MAX_FRAMES {
            return bad(format!("{} frames; 1 to {MAX_FRAMES} are possible", options.frames));
        }
        if let Some(python) = &options.python {
            python::check(python, &options)?;
        }
        let id = PlanId(self.issue());
        self.plans.push(Plan {
            id,
            target,
            pid,
            options,
            images: Vec::new(),
            sites: 0,
            kinds: KindsOfRows::default(),
            budget: None,
            charged_ns: 0,
            pins: None,
            loaded: None,
            bytes: 0,
            processes: Vec::new(),
            examined: None,
            executable: None,
            calibration: Vec::new(),
            related: Vec::new(),
            sweep: Sweep::default(),
            existing: Vec::new(),
            not_seen: Vec::new(),
            looked_for_tracers: None,
            looked_at_tracers: 0,
            armed: false,
            detach_ns: 0,
            off: false,
            stopped: false,
            sampling: None,
            fault_told: false,
        });
        Ok(Reply::Plan { plan: id })
    }

    pub(crate) fn plan_index(&self, id: PlanId) -> Result<usize, GuardError> {
        self.plans.iter().position(|plan| plan.id == id).ok_or_else(|| order("no such plan"))
    }

    /// The image of a plan that has not been loaded yet.
    fn plan_image(&self, plan: PlanId, image: ImageId) -> Result<(usize, &OpenImage), GuardError> {
        let index = self.plan_index(plan)?;
        if self.plans[index].loaded.is_some() {
            return Err(order("the plan is loaded already"));
        }
        let found =
            self.images.iter().find(|open| open.id == image && open.target == self.plans[index].target);
        Ok((index, found.ok_or_else(|| order("no such image of the plan's target"))?))
    }

    pub(crate) fn plan_build_id(
        &mut self,
        plan: PlanId,
        image: ImageId,
        offset: u64,
        expected: &[u8],
    ) -> Result<Reply, GuardError> {
        let (_, open) = self.plan_image(plan, image)?;
        let mut found = [0; BUILD_ID_BYTES];
        let found = &mut found[..expected.len().min(BUILD_ID_BYTES)];
        let read = open.bytes().read_exact_at(found, offset);
        if read.is_err() || found != expected {
            return Err(GuardError::ImageChanged { what: text("its build-id is another one") });
        }
        Ok(Reply::Done)
    }

    pub(crate) fn plan_sites(
        &mut self,
        plan: PlanId,
        image: ImageId,
        sites: &[PlanSite],
    ) -> Result<Reply, GuardError> {
        let (index, open) = self.plan_image(plan, image)?;
        let (file, bytes) = (Rc::clone(&open.file), Rc::clone(open.bytes()));
        let key = open.key;
        let options = self.plans[index].options;
        let mut mark = 0u64;
        let mut unshadowed = Vec::with_capacity(sites.len());
        for site in sites {
            let call = check_site(open, site, &options)?;
            unshadowed.push(call || !site.exit && options.returns == Returns::Uretprobe);
            mark = mark.wrapping_add(mark_of(open.bytes(), site.offset));
        }
        if let Some(by) = self.confirm {
            confirm::confirm(by, open.bytes(), &open.executable, sites)?;
        }
        let plan = &mut self.plans[index];
        plan.sites += sites.len();
        if plan.sites > MAX_SITES {
            let reason = text(format_args!("more than {MAX_SITES} sites; choose fewer functions"));
            return Err(GuardError::BadPlan { reason });
        }
        let known = plan.images.iter().position(|(id, _)| *id == image);
        let known = known.unwrap_or_else(|| {
            let (entries, exits) = (Vec::new(), Vec::new());
            plan.images.push((image, ImageSites { file, bytes, key, entries, exits, mark: 0 }));
            plan.images.len() - 1
        });
        let known = &mut plan.images[known].1;
        known.mark = known.mark.wrapping_add(mark);
        for (site, unshadowed) in sites.iter().zip(unshadowed) {
            plan.kinds.add(site);
            let list = if site.exit { &mut known.exits } else { &mut known.entries };
            let stepped = if site.stepped { SITE_STEPPED } else { 0 };
            let (offset, before) = (site.offset, site.before);
            list.push(Site { offset, cookie: site.cookie | stepped, before, unshadowed });
        }
        Ok(Reply::Done)
    }

    pub(crate) fn load(&mut self, id: PlanId, descriptors: &mut Vec<OwnedFd>) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &self.plans[index];
        if plan.loaded.is_some() || plan.sites == 0 {
            return Err(order("load comes once, after the sites"));
        }
        if !features::btf() {
            return Err(GuardError::NoBtf);
        }
        let options = plan.options;
        if options.returns == Returns::Ret && plan.images.iter().all(|(_, sites)| sites.exits.is_empty()) {
            return Err(GuardError::BadPlan { reason: text("it has entry sites but no exit sites") });
        }
        check_places(&plan.images)?;
        // Events of a killed agent are swept on every route.
        let sites = plan.sites;
        let tracefs = self.open_tracefs();
        let way = attach::choose(options.route, options.returns, sites, &tracefs)?;
        if let Some(tracefs) = self.tracefs.as_ref().filter(|_| way.route == Route::Tracefs) {
            tracefs.outlive();
        }
        let plan = &self.plans[index];
        let functions = options.functions + EXTRA_ROWS;
        let shape = Shape {
            programs: way.programs,
            functions,
            frames: options.frames,
            sites: plan.sites as u32 + calibrate::SITES,
            follow_forks: options.follow_forks,
            only_unhandled: options.on_signal == OnSignal::Fatal,
            cpus: self.cpus_of(&self.plans[index])?,
            python: options.python.as_ref().map(|python| python::constants(python, options.functions)),
            goroutines: plan.images.iter().any(|(_, image)| image.has_goroutines()),
        };
        if shape.python.is_some() && !way.programs.knows_python() {
            return Err(GuardError::Unsupported {
                what: text("measure functions of Python"),
                reason: text(
                    "BPF programs need compare-and-exchange for it (Linux 5.12, on arm64 5.18), and returns by exit sites",
                ),
            });
        }
        let lanes = libbpf_rs::num_possible_cpus().unwrap_or(1) as u32;
        let bytes = shape.bytes(lanes);
        if bytes > options.max_map_bytes {
            let bound = options.max_map_bytes;
            let (functions, frames) = (options.functions, options.frames);
            return Err(GuardError::TooMuchMemory { functions, lanes, frames, bytes, bound });
        }
        self.memory_suffices(bytes)?;
        let loaded = Loaded::new(&shape, &self.watchers()?)?;
        descriptors.push(loaded.descriptor(map::ROWS)?);
        let maps_frames = way.programs.maps_frames();
        if maps_frames {
            descriptors.push(loaded.descriptor(map::FRAMES)?);
        }
        if shape.python.is_some() {
            for name in [map::CODE_SLOTS, map::PYTHON_POOL, map::CODE_TEXTS] {
                descriptors.push(loaded.descriptor(name)?);
            }
        }
        let reply = Reply::Loaded {
            lanes: loaded.lanes,
            rows: functions,
            frame_sets: loaded.frame_sets,
            maps_frames,
            route: way.route,
            session: way.programs.exit().is_none(),
            code_slots: shape.python.map_or(0, |python| python.slots),
        };
        if options.pin {
            let pid = self.target(self.plans[index].target)?.pid;
            // Of an earlier plan of the same process, such as for the image that it executed before.
            let before = self.plans.iter_mut().find_map(|plan| plan.pins.take_if(|pins| pins.is_of(pid)));
            self.plans[index].pins = Some(match before {
                Some(mut pins) => pins.rotate(&loaded.object).map(|()| pins)?,
                None => Pins::pin(pid, &loaded.object)?,
            });
        }
        let plan = &mut self.plans[index];
        plan.images.iter_mut().for_each(|(_, sites)| mark_prices(sites, way.programs));
        plan.bytes = bytes;
        plan.loaded = Some((way, loaded));
        self.relate(index);
        Ok(reply)
    }

    /// Checks that the arrays of one more plan fit beside those of the others.
    fn memory_suffices(&self, bytes: u64) -> Result<(), GuardError> {
        let all = self.plans.iter().map(|plan| plan.bytes).sum::<u64>() + bytes;
        let bound = memory_bound(&self.scope);
        if all <= bound {
            return Ok(());
        }
        let reason = text(format_args!(
            "all plans together would take {all} bytes of its memory, the bound is {bound}"
        ));
        Err(GuardError::Unsupported { what: text("measure one more process"), reason })
    }

    /// CPUs on which calls count; all if `None`. Refuses a target that may run on others.
    fn cpus_of(&self, plan: &Plan) -> Result<Option<CpuSet>, GuardError> {
        match plan.options.targets_on {
            TargetsOn::Any => Ok(None),
            TargetsOn::Isolated => {
                placement::stays_on_isolated(self.target(plan.target)?.pid)?;
                placement::isolated_cpus().map(Some)
            }
        }
    }

    pub(crate) fn attach(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &self.plans[index];
        if plan.loaded.is_none() || !plan.processes.is_empty() {
            return Err(order("attach comes once, after load"));
        }
        let target = self.target(plan.target)?;
        let mut again = Target::unchecked(target.id, target.pid)?;
        if again.start != target.start {
            // The number has been given to another process meanwhile.
            return Err(GuardError::NoProcess { pid: target.pid });
        }
        again.tracer = target.tracer;
        let begin = Instant::now();
        self.cover(index, again)?;
        if let Err(error) = self.images_unchanged(index) {
            // Written to during the attach: the probed file may differ from the checked one.
            self.plans[index].take_off();
            return Err(error);
        }
        let sites = self.plans[index].sites as u32;
        if let Some((_, loaded)) = &self.plans[index].loaded {
            watch(&mut self.epoll, loaded.family_fd())?;
        }
        Ok(Reply::Attached { sites, took_ns: elapsed(begin) })
    }

    pub(crate) fn switch(&mut self, id: PlanId, arm: bool) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let bounded =
            self.plans[index].options.max_cost_ppm.is_some() || self.total.as_ref().is_some_and(Total::holds);
        if arm && bounded && self.plans[index].budget.is_none() && !self.plans[index].off {
            // A bound holds from the first call on, even without a calibration by the collector.
            self.calibrate(id)?;
        }
        if arm {
            self.cover_existing(index);
        }
        let plan = &mut self.plans[index];
        let (_, loaded) = plan.loaded.as_ref().ok_or_else(|| order("arm comes after attach"))?;
        if arm {
            // After a fault it stays off; an event reports that.
            loaded.switch.arm();
        } else {
            loaded.switch.disarm();
        }
        plan.armed = arm;
        Ok(Reply::Done)
    }

    pub(crate) fn detach(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        self.take_in(index);
        let mut plan = self.plans.swap_remove(index);
        let took_ns = plan.take_off();
        Ok(Reply::Detached { took_ns, cost_ns: plan.cost_ns(0) })
    }
}

/// The rows of a loaded plan, for reading.
pub(crate) fn rows_of(plan: &Plan, loaded: &Loaded) -> Result<Rows, GuardError> {
    let functions = plan.options.functions + EXTRA_ROWS;
    Rows::map(loaded.descriptor(map::ROWS)?, functions as usize, loaded.lanes as usize)
        .map_err(|error| GuardError::Map { reason: text(error) })
}

/// The rows of a loaded plan, for [`Rows::give_up`].
pub(crate) fn rows_of_whole(plan: &Plan, loaded: &Loaded) -> Result<Rows, GuardError> {
    let functions = plan.options.functions + EXTRA_ROWS;
    Rows::map_to_give_up(loaded.descriptor(map::ROWS)?, functions as usize, loaded.lanes as usize)
        .map_err(|error| GuardError::Map { reason: text(error) })
}
