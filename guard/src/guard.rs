//! The state machine: one method for each request.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use edgelat_bpf::Rows;
use edgelat_bpf::layout::POOL_ROWS;
use edgelat_bpf::object::{Programs, PythonConstants, map};
use nix::errno::Errno;
use nix::sys::epoll::Epoll;

use crate::attach::tracefs::Tracefs;
use crate::attach::{self, Attached, ImageSites, Site, Way};
use crate::budget::{self, Bound, Budget, KindsOfRows, Meter, Ppm};
use crate::calibrate::{self, Costs};
use crate::command::Command;
use crate::cpus::CpuSet;
use crate::elf::Executable;
use crate::error::{GuardError, text};
use crate::family::{Covered, watch};
use crate::features;
use crate::find::Search;
use crate::image::{Identity, OpenImage, check_site, mark_of};
use crate::load::{Loaded, Shape};
use crate::lock::RunLock;
use crate::notify::Notify;
use crate::pins::{self, Pins};
use crate::placement::{self, TargetsOn};
use crate::protocol::{
    Attaching, BUILD_ID_BYTES, Event, IMAGES, ImageId, MappedImage, OnSignal, PATH_BYTES, Path, PlanId,
    PlanOptions, PlanSite, PythonPlan, Reply, Request, Returns, Route, TargetFile, TargetId, Told,
};
use crate::sandbox;
use crate::sandbox::guard::Tasks;
use crate::target::{Mapping, Target};
use crate::user::User;

/// Functions of one plan.
const MAX_FUNCTIONS: u32 = 65_536;
/// Sites of one plan: a large function has dozens of exits.
const MAX_SITES: usize = 1 << 19;
/// Rows behind those of a plan's functions: the calibration's, and one for hits at unknown addresses.
const EXTRA_ROWS: u32 = calibrate::FUNCTIONS + 1;
/// Time between two looks at the probed files.
const LOOK_AT_IMAGES: Duration = Duration::from_secs(1);
/// Frames of one plan.
const MAX_FRAMES: u32 = 1 << 20;

/// The privileged half.
#[derive(Default)]
pub struct Guard {
    targets: Vec<Target>,
    images: Vec<OpenImage>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) tracefs: Option<Tracefs>,
    pub(crate) epoll: Option<Epoll>,
    pub(crate) events: std::collections::VecDeque<Told>,
    /// What `watch` was told to start.
    command: Option<Command>,
    /// The process without rights.
    collector: Option<i32>,
    /// What a call costs, by the programs that were calibrated.
    costs: Vec<(Programs, Returns, Costs)>,
    /// What all plans together may cost.
    total: Option<Bound>,
    search: Option<Search>,
    /// What a service has besides.
    pub(crate) service: Option<Service>,
    heard: Option<Instant>,
    /// When the probed files were last looked at.
    looked_at_images: Option<Instant>,
    issued: u32,
}

/// What a service has that a single measurement has not.
#[derive(Debug)]
pub struct Service {
    /// The configuration file, which the collector may want to read again.
    pub config: PathBuf,
    /// What all plans together may cost, in millionths of one CPU's time.
    pub total_ppm: u64,
    /// How long the collector may ask for nothing before it is given up.
    pub watchdog: Duration,
    /// Whom the collector becomes.
    pub user: Option<User>,
    /// The right to be the agent of this box.
    pub lock: Option<RunLock>,
    /// Who supervises it.
    pub notify: Option<Notify>,
}

pub(crate) struct Plan {
    pub(crate) id: PlanId,
    pub(crate) target: TargetId,
    pub(crate) options: PlanOptions,
    pub(crate) images: Vec<(ImageId, ImageSites)>,
    pub(crate) sites: usize,
    kinds: KindsOfRows,
    budget: Option<Budget>,
    pins: Option<Pins>,
    pub(crate) loaded: Option<(Way, Loaded)>,
    pub(crate) processes: Vec<Covered>,
    /// The calibration's probes. They stay until the plan is detached: nobody calls those functions any more, and
    /// closing them alone would wait for the kernel while events of the target wait for us.
    pub(crate) calibration: Option<Attached>,
    pub(crate) armed: bool,
    /// What taking the probes off took.
    detach_ns: u64,
    /// Its probes were taken off, and none is put anywhere again.
    pub(crate) off: bool,
    /// A fault has been told.
    pub(crate) fault_told: bool,
}

impl Plan {
    /// Removes every probe; gives the time that it took in nanoseconds, the first time.
    pub(crate) fn take_off(&mut self) -> u64 {
        let begin = Instant::now();
        self.off = true;
        if let Some((_, loaded)) = &self.loaded {
            loaded.switch.disarm();
        }
        let attached = self.processes.iter_mut().filter_map(|covered| covered.attached.take());
        let held: Vec<Attached> = attached.chain(self.calibration.take()).collect();
        if !held.is_empty() {
            attach::close_together(held);
            self.detach_ns += elapsed(begin);
        }
        self.detach_ns
    }

    /// Has one of its processes got a signal after which it is left alone?
    pub(crate) fn faulted(&self) -> bool {
        self.loaded.as_ref().is_some_and(|(_, loaded)| loaded.switch.faulted())
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("targets", &self.targets.len())
            .field("plans", &self.plans.len())
            .finish()
    }
}

impl Guard {
    /// A guard that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A guard that has started a command.
    #[must_use]
    pub fn of_command(command: Command) -> Self {
        Self { command: Some(command), ..Self::default() }
    }

    /// A guard for a service. Maps that one which was killed left pinned are removed.
    #[must_use]
    pub fn of_service(service: Service) -> Self {
        pins::sweep();
        let total = Some(Bound::new(service.total_ppm));
        Self { total, service: Some(service), ..Self::default() }
    }

    /// Is the collector still there, and does it do its work?
    ///
    /// # Errors
    /// When it has been silent for too long.
    pub(crate) fn check_collector(&mut self, now: Instant) -> Result<(), GuardError> {
        let heard = *self.heard.get_or_insert(now);
        match self.service.as_ref().map(|service| service.watchdog) {
            Some(bound) if now.saturating_duration_since(heard) > bound => {
                Err(GuardError::Silent { seconds: bound.as_secs() as u32 })
            }
            _ => Ok(()),
        }
    }

    /// The process that must not be measured either.
    pub(crate) fn set_collector(&mut self, pid: i32) {
        self.collector = Some(pid);
    }

    /// Is there anything to tell?
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Answers one request. Descriptors of the answer come beside it.
    pub fn handle(&mut self, request: Request) -> (Reply, Vec<OwnedFd>) {
        let mut descriptors = Vec::new();
        let reply = match request {
            Request::OpenTarget { pid, allow_ptrace } => self.open_target(pid, allow_ptrace),
            Request::ListImages { target, from } => self.list_images(target, from),
            Request::OpenImage { target, index } => self.open_image(target, index, &mut descriptors),
            Request::BeginPlan { target, options } => self.begin_plan(target, options),
            Request::PlanBuildId { plan, image, offset, bytes } => {
                self.plan_build_id(plan, image, offset, &bytes)
            }
            Request::PlanSites { plan, image, sites } => self.plan_sites(plan, image, &sites),
            Request::Load { plan } => self.load(plan, &mut descriptors),
            Request::Calibrate { plan } => self.calibrate(plan),
            Request::Attach { plan } => self.attach(plan),
            Request::Arm { plan } => self.switch(plan, true),
            Request::Disarm { plan } => self.switch(plan, false),
            Request::Detach { plan } => self.detach(plan),
            Request::Events => Ok(self.tell_events()),
            Request::OpenFile { target, file } => self.open_file(target, file, &mut descriptors),
            Request::StepCommand => {
                self.command().and_then(|command| Ok(Reply::Stepped { more: command.step()? }))
            }
            Request::ReleaseCommand => self.command().map(|command| {
                command.release();
                Reply::Done
            }),
            Request::FindProcesses { word, begins, whole } => {
                Search::begin(word, begins, whole).map(|search| self.found(search))
            }
            Request::FindMore => match self.search.take() {
                Some(search) => Ok(self.found(search)),
                None => Err(order("no search goes on")),
            },
            Request::ForgetTarget { target } => self.forget_target(target),
            Request::OpenConfig => self.open_config(&mut descriptors),
            Request::Settle { attach } => self.settle(attach),
            Request::Status { ready, text } => Ok(self.tell_supervisor(ready, &text)),
            Request::FinishCommand { terminate } => {
                self.command().map(|command| Reply::Finished { badly: command.finish(terminate) })
            }
        };
        // From here on it is the collector's turn: the time that we took ourselves is none that it was silent.
        self.heard = Some(Instant::now());
        (reply.unwrap_or_else(Reply::Refused), descriptors)
    }

    /// The next processes of a search.
    fn found(&mut self, mut search: Search) -> Reply {
        let (processes, more) = search.next();
        self.search = more.then_some(search);
        Reply::Processes { processes, more }
    }

    fn forget_target(&mut self, id: TargetId) -> Result<Reply, GuardError> {
        self.target(id)?;
        // A plan that came to nothing would hold images and programs for ever.
        self.plans.extract_if(.., |plan| plan.target == id).for_each(|mut plan| _ = plan.take_off());
        self.targets.retain(|target| target.id != id);
        self.images.retain(|image| image.target != id);
        Ok(Reply::Done)
    }

    fn open_config(&self, descriptors: &mut Vec<OwnedFd>) -> Result<Reply, GuardError> {
        let service = self.service.as_ref().ok_or_else(|| order("there is no configuration file"))?;
        let path = &service.config;
        let file = File::open(path)
            .map_err(|error| GuardError::Proc { file: text(path.display()), os: error.into() })?;
        descriptors.push(file.into());
        Ok(Reply::File)
    }

    /// Readable when [`Request::Events`] has something to tell. `None` before anything is attached.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    fn issue(&mut self) -> u32 {
        self.issued += 1;
        self.issued
    }

    fn command(&mut self) -> Result<&mut Command, GuardError> {
        self.command.as_mut().ok_or_else(|| order("no command was started"))
    }

    /// From here on only children of plans that follow them are attached, and new targets by the routes in `attach`.
    fn settle(&mut self, attach: Option<Attaching>) -> Result<Reply, GuardError> {
        let following = self.plans.iter().filter(|plan| plan.options.follow_forks);
        let routes = following.filter_map(|plan| plan.loaded.as_ref()).map(|(way, _)| way.route);
        let foreign = self.service.as_ref().is_some_and(|service| service.user.is_some());
        let none = Tasks {
            command: self.command.is_some(),
            pins: self.plans.iter().any(|plan| plan.options.pin) || attach.is_some_and(|attach| attach.pin),
            targets: attach.is_some(),
            collector: foreign,
            ..Tasks::NONE
        };
        let mut tasks = routes.fold(none, Tasks::and);
        if let Some(attach) = attach {
            let tracefs = self.open_tracefs();
            let usual = attach::choose(None, Returns::Ret, 1, &tracefs).map(|way| way.route);
            let named = [Route::UprobeMulti, Route::Tracefs, Route::Single].into_iter();
            let named = named.filter(|route| attach.routes & Attaching::route(*route) != 0);
            tasks = usual.into_iter().chain(named).fold(tasks, Tasks::and);
        }
        sandbox::settle_guard(tasks)?;
        Ok(Reply::Done)
    }

    /// The tracing file system is opened once, while there are the rights.
    fn open_tracefs(&mut self) -> Result<(), Errno> {
        match &self.tracefs {
            Some(_) => Ok(()),
            None => Tracefs::open().map(|opened| self.tracefs = Some(opened)),
        }
    }

    fn tell_supervisor(&mut self, ready: bool, text: &str) -> Reply {
        if let Some(notify) = self.service.as_ref().and_then(|service| service.notify.as_ref()) {
            if ready {
                notify.ready();
            }
            notify.status(text);
        }
        Reply::Done
    }

    /// Tells whoever supervises a service that guard and collector are alive.
    pub(crate) fn tell_alive(&mut self, now: Instant) {
        if let Some(notify) = self.service.as_mut().and_then(|service| service.notify.as_mut()) {
            notify.alive(now);
        }
    }

    /// Tells whoever supervises a service that the end has begun.
    pub(crate) fn tell_stopping(&self) {
        if let Some(notify) = self.service.as_ref().and_then(|service| service.notify.as_ref()) {
            notify.stopping();
        }
    }

    fn open_file(
        &self,
        target: TargetId,
        file: TargetFile,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<Reply, GuardError> {
        descriptors.extend(self.target(target)?.open_told(file));
        Ok(Reply::File)
    }

    fn open_target(&mut self, pid: i32, allow_ptrace: bool) -> Result<Reply, GuardError> {
        if self.collector == Some(pid) {
            return Err(GuardError::OwnProcess { pid });
        }
        // A command of our own is under our own ptrace until its probes are in place.
        let own = self.command.as_ref().is_some_and(|command| command.pid() == pid);
        let allow_ptrace = allow_ptrace || own;
        let id = TargetId(self.issue());
        let target = Target::open(id, pid, allow_ptrace)?;
        let start = target.start;
        self.targets.push(target);
        Ok(Reply::Target { target: id, start })
    }

    fn target(&self, id: TargetId) -> Result<&Target, GuardError> {
        self.targets.iter().find(|target| target.id == id).ok_or_else(|| order("no such target"))
    }

    /// The distinct files among the mappings, in address order: a stable numbering for one listing.
    fn mapped(target: &Target) -> Result<Vec<Mapping>, GuardError> {
        let mut distinct: Vec<Mapping> = Vec::new();
        for mapping in target.mappings()? {
            if !distinct.iter().any(|seen| seen.file == mapping.file && seen.path == mapping.path) {
                distinct.push(mapping);
            }
        }
        Ok(distinct)
    }

    fn list_images(&self, target: TargetId, from: u32) -> Result<Reply, GuardError> {
        let target = self.target(target)?;
        let executable = target.executable();
        let mapped = Self::mapped(target)?;
        if mapped.is_empty() && !target.has_memory() {
            return Err(GuardError::NoProcess { pid: target.pid });
        }
        let mut images = heapless::Vec::<MappedImage, IMAGES>::new();
        let rest = mapped.iter().enumerate().skip(from as usize);
        for (index, mapping) in rest.take(IMAGES) {
            let (path, cut) = bounded(&mapping.path);
            let image = MappedImage {
                index: index as u32,
                path,
                cut,
                deleted: mapping.deleted,
                executable: executable.as_ref() == Some(&mapping.path),
            };
            // `take` keeps the number within the capacity.
            _ = images.push(image);
        }
        let more = from as usize + images.len() < mapped.len();
        Ok(Reply::Images { images, more })
    }

    fn open_image(
        &mut self,
        target: TargetId,
        index: u32,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<Reply, GuardError> {
        let id = ImageId(self.issue());
        let holder = self.target(target)?;
        let mapped = Self::mapped(holder)?;
        let mapping = mapped.get(index as usize).ok_or(GuardError::NoMapping { pid: holder.pid, index })?;
        let file = holder.open_mapped(mapping)?;
        let executable = Executable::read(&file).map_err(|reason| GuardError::BadPlan {
            reason: text(format_args!("{} cannot be probed: {reason}", mapping.path)),
        })?;
        let identity = Identity::of(&file)?;
        let key = mapping.file;
        descriptors.push(
            file.try_clone()
                .map_err(|error| GuardError::OpenImage {
                    pid: holder.pid,
                    path: text(&mapping.path),
                    os: error.into(),
                })?
                .into(),
        );
        self.images.push(OpenImage { id, target, file: Rc::new(file), executable, key, identity });
        Ok(Reply::Image { image: id })
    }

    fn begin_plan(&mut self, target: TargetId, options: PlanOptions) -> Result<Reply, GuardError> {
        self.target(target)?;
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
            check_python(python, &options)?;
        }
        let id = PlanId(self.issue());
        self.plans.push(Plan {
            id,
            target,
            options,
            images: Vec::new(),
            sites: 0,
            kinds: KindsOfRows::default(),
            budget: None,
            pins: None,
            loaded: None,
            processes: Vec::new(),
            calibration: None,
            armed: false,
            detach_ns: 0,
            off: false,
            fault_told: false,
        });
        Ok(Reply::Plan { plan: id })
    }

    fn plan_index(&self, id: PlanId) -> Result<usize, GuardError> {
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

    fn plan_build_id(
        &mut self,
        plan: PlanId,
        image: ImageId,
        offset: u64,
        expected: &[u8],
    ) -> Result<Reply, GuardError> {
        let (_, open) = self.plan_image(plan, image)?;
        let mut found = [0; BUILD_ID_BYTES];
        let found = &mut found[..expected.len().min(BUILD_ID_BYTES)];
        let read = open.file.read_exact_at(found, offset);
        if read.is_err() || found != expected {
            return Err(GuardError::ImageChanged { what: text("its build-id is another one") });
        }
        Ok(Reply::Done)
    }

    fn plan_sites(&mut self, plan: PlanId, image: ImageId, sites: &[PlanSite]) -> Result<Reply, GuardError> {
        let (index, open) = self.plan_image(plan, image)?;
        let file = Rc::clone(&open.file);
        let key = open.key;
        for site in sites {
            check_site(open, site, self.plans[index].options.functions)?;
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
            plan.images.push((image, ImageSites { file, key, entries, exits, mark: 0 }));
            plan.images.len() - 1
        });
        let known = &mut plan.images[known].1;
        for site in sites {
            plan.kinds.add(site);
            known.mark = known.mark.wrapping_add(mark_of(&known.file, site.offset));
            let list = if site.exit { &mut known.exits } else { &mut known.entries };
            list.push(Site { offset: site.offset, cookie: site.cookie });
        }
        Ok(Reply::Done)
    }

    fn load(&mut self, id: PlanId, descriptors: &mut Vec<OwnedFd>) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &self.plans[index];
        if plan.loaded.is_some() || plan.sites == 0 {
            return Err(order("load comes once, after the sites"));
        }
        if !features::btf() {
            return Err(GuardError::NoBtf);
        }
        let options = plan.options;
        if options.returns == Returns::Ret && plan.images.iter().any(|(_, sites)| sites.exits.is_empty()) {
            return Err(GuardError::BadPlan { reason: text("an image has entry sites but no exit sites") });
        }
        // Events of a killed agent are swept whichever route is taken.
        let sites = plan.sites;
        let tracefs = self.open_tracefs();
        let way = attach::choose(options.route, options.returns, sites, &tracefs)?;
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
            python: options.python.as_ref().map(|python| python_constants(python, options.functions)),
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
        let loaded = Loaded::new(&shape)?;
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
        self.plans[index].loaded = Some((way, loaded));
        Ok(reply)
    }

    /// On which CPUs calls count; all where that is `None`. Refuses a target that may run on others.
    fn cpus_of(&self, plan: &Plan) -> Result<Option<CpuSet>, GuardError> {
        match plan.options.targets_on {
            TargetsOn::Any => Ok(None),
            TargetsOn::Isolated => {
                placement::stays_on_isolated(self.target(plan.target)?.pid)?;
                placement::isolated_cpus().map(Some)
            }
        }
    }

    fn calibrate(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &self.plans[index];
        let (way, loaded) = plan.loaded.as_ref().ok_or_else(|| order("calibrate comes after load"))?;
        let (programs, returns) = (way.programs, plan.options.returns);
        let known = self.costs.iter().find(|(known, by, _)| (*known, *by) == (programs, returns));
        if let Some((_, _, costs)) = known {
            let costs = *costs;
            return self.know_costs(index, costs);
        }
        let rows = rows_of(plan, loaded)?;
        let own = Target::unchecked(TargetId(0), std::process::id() as i32)?;
        let images = calibrate::images(&own, plan.options.functions, returns)?;
        let probes = attach::attach(way.route, loaded, &own, &images, self.tracefs.as_mut())?;
        loaded.switch.arm();
        let costs = calibrate::run(&rows, plan.options.functions);
        // The switch is the plan's as well; where that counts already, it goes on.
        if !plan.armed {
            loaded.switch.disarm();
        }
        self.plans[index].calibration = Some(probes);
        self.costs.push((programs, returns, costs));
        self.know_costs(index, costs)
    }

    /// From here on a plan's costs can be told, and held under its bound.
    fn know_costs(&mut self, index: usize, Costs { bias, cost }: Costs) -> Result<Reply, GuardError> {
        let plan = &self.plans[index];
        let bound = plan.options.max_cost_ppm.map(Bound::new);
        if let (Some(bound), Some((_, loaded))) = (bound, &plan.loaded) {
            let costs = plan.kinds.costs(&cost, plan.options.returns);
            let meter = Meter::new(rows_of(plan, loaded)?, costs, Instant::now());
            self.plans[index].budget = Some(Budget { meter, bound });
        }
        Ok(Reply::Calibrated { bias, cost })
    }

    /// How long the guard may sleep at most.
    pub fn patience(&self) -> Option<Duration> {
        let busy = |plan: &Plan| plan.loaded.is_some() && plan.budget.is_some() && plan.armed;
        if self.plans.iter().any(busy) {
            return Some(budget::LOOK);
        }
        (!self.plans.is_empty() || self.service.is_some()).then_some(LOOK_AT_IMAGES)
    }

    /// What has to be looked at again and again: what the probes cost, and whether the probed files are what they were.
    pub fn look(&mut self, now: Instant) {
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            let lost = plan.loaded.as_ref().map_or(0, |(_, loaded)| loaded.switch.lost_events());
            if lost > 0 {
                self.take_off(index, Event::Overrun { lost });
                continue;
            }
            let plan = &mut self.plans[index];
            if let Some(ppm) = plan.budget.as_mut().and_then(|budget| budget.look(now)) {
                self.take_off(index, Event::OverBudget { ppm, total: false });
            }
        }
        let costs: Vec<Ppm> = self
            .plans
            .iter()
            .map(|plan| plan.budget.as_ref().map_or(0, |budget| budget.meter.last()))
            .collect();
        if let Some((index, ppm)) = self.total.as_mut().and_then(|bound| budget::dearest(&costs, bound)) {
            self.take_off(index, Event::OverBudget { ppm, total: true });
        }
        if self.looked_at_images.is_none_or(|last| now.saturating_duration_since(last) >= LOOK_AT_IMAGES) {
            self.looked_at_images = Some(now);
            for index in 0..self.plans.len() {
                if self.images_unchanged(index).is_err() {
                    self.take_off(index, Event::ImageChanged);
                }
            }
        }
    }

    /// Removes a plan's probes for a reason that is told once.
    pub(crate) fn take_off(&mut self, index: usize, reason: Event) {
        let plan = &mut self.plans[index];
        plan.budget = None;
        if plan.off || plan.processes.iter().all(|covered| covered.attached.is_none()) {
            return;
        }
        plan.take_off();
        let plan = plan.id;
        self.events.push_back(Told { plan, event: reason });
    }

    fn attach(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &self.plans[index];
        if plan.loaded.is_none() || !plan.processes.is_empty() {
            return Err(order("attach comes once, after load"));
        }
        let target = self.target(plan.target)?;
        let target = Target::unchecked(target.id, target.pid).and_then(|again| {
            // The number may have been given to another process meanwhile.
            if again.start == target.start {
                Ok(again)
            } else {
                Err(GuardError::NoProcess { pid: target.pid })
            }
        })?;
        let begin = Instant::now();
        self.cover(index, target)?;
        if let Err(error) = self.images_unchanged(index) {
            // Written to while the kernel attached: what was probed may not be what was checked.
            self.plans[index].take_off();
            return Err(error);
        }
        let sites = self.plans[index].sites as u32;
        if let Some((_, loaded)) = &self.plans[index].loaded {
            watch(&mut self.epoll, loaded.family_fd())?;
        }
        Ok(Reply::Attached { sites, took_ns: elapsed(begin) })
    }

    /// The files of a plan are still those whose sites were checked.
    pub(crate) fn images_unchanged(&mut self, index: usize) -> Result<(), GuardError> {
        (0..self.plans[index].images.len()).try_for_each(|at| self.unchanged(self.plans[index].images[at].0))
    }

    /// The file is still the one whose sites were checked. An upgrade takes it its name, while processes go on with it.
    fn unchanged(&mut self, image: ImageId) -> Result<(), GuardError> {
        let open = self.images.iter_mut().find(|open| open.id == image);
        let open = open.ok_or_else(|| order("no such image"))?;
        let now = Identity::of(&open.file)?;
        if now == open.identity {
            return Ok(());
        }
        let of_image = self.plans.iter().flat_map(|plan| &plan.images).filter(|(id, _)| *id == image);
        if !now.may_be(&open.identity)
            || of_image.map(|(_, sites)| sites).any(|sites| !sites.are_as_checked())
        {
            return Err(GuardError::ImageChanged { what: text("size, time or place of the file") });
        }
        open.identity = now;
        Ok(())
    }

    fn switch(&mut self, id: PlanId, arm: bool) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &mut self.plans[index];
        let (_, loaded) = plan.loaded.as_ref().ok_or_else(|| order("arm comes after attach"))?;
        if arm {
            // After a fault it stays off; an event tells of that.
            loaded.switch.arm();
        } else {
            loaded.switch.disarm();
        }
        plan.armed = arm;
        Ok(Reply::Done)
    }

    fn detach(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let mut plan = self.plans.swap_remove(index);
        let took_ns = plan.take_off();
        Ok(Reply::Detached { took_ns })
    }

    fn tell_events(&mut self) -> Reply {
        self.collect_events();
        let mut events = heapless::Vec::new();
        while !events.is_full()
            && let Some(event) = self.events.pop_front()
        {
            // Not full: this cannot fail.
            _ = events.push(event);
        }
        Reply::Events { events, more: !self.events.is_empty() }
    }
}

/// Offsets in Python's objects are small.
const MAX_OFFSET: u16 = 1 << 12;
/// Slots for code objects of Python.
const MAX_CODE_SLOTS: u32 = 1 << 20;

/// What a plan says of a Python interpreter must be possible. The programs read the target's memory there and nowhere
/// else, so that the worst that wrong offsets can do is to name nothing.
fn check_python(python: &PythonPlan, options: &PlanOptions) -> Result<(), GuardError> {
    let offsets = [
        python.frame_code,
        python.code_file,
        python.code_name,
        python.code_flags,
        python.code_line,
        python.text,
    ];
    let possible = offsets.iter().all(|offset| *offset < MAX_OFFSET)
        && python.frame_argument < 2
        && python.code_marks < 8
        && (1..=POOL_ROWS as u32).contains(&python.rows)
        && python.rows <= options.functions
        && (1..=MAX_CODE_SLOTS).contains(&python.slots);
    if possible {
        Ok(())
    } else {
        Err(GuardError::BadPlan { reason: text("what it says of the Python interpreter is impossible") })
    }
}

/// The rows of a loaded plan, for reading.
fn rows_of(plan: &Plan, loaded: &Loaded) -> Result<Rows, GuardError> {
    let functions = plan.options.functions + EXTRA_ROWS;
    Rows::map(loaded.descriptor(map::ROWS)?, functions as usize, loaded.lanes as usize)
        .map_err(|error| GuardError::Map { reason: text(error) })
}

fn python_constants(python: &PythonPlan, functions: u32) -> PythonConstants {
    PythonConstants {
        rows: python.rows,
        first_row: functions - python.rows,
        slots: python.slots.next_power_of_two(),
        frame_argument: python.frame_argument.into(),
        frame_code: python.frame_code.into(),
        code_marks: python.code_marks.into(),
        code_file: python.code_file.into(),
        code_name: python.code_name.into(),
        code_flags: python.code_flags.into(),
        code_line: python.code_line.into(),
        text: python.text.into(),
        counts_only: python.counts_only,
    }
}

/// A request at the wrong time.
pub(crate) fn order(what: &str) -> GuardError {
    GuardError::Order { what: text(what) }
}

fn bounded(path: &str) -> (Path, bool) {
    let cut = (0..=path.len().min(PATH_BYTES)).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
    // `cut` is within the capacity.
    (Path::try_from(&path[..cut]).unwrap_or_default(), cut < path.len())
}

pub(crate) fn elapsed(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
