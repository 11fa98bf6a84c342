//! The state machine: one method for each request.

use std::fs::File;
use std::io::Seek as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use edgelat_bpf::object::Programs;
use nix::errno::Errno;
use nix::sys::epoll::Epoll;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

use crate::attach;
use crate::attach::tracefs::Tracefs;
use crate::budget::{Ppm, Total};
use crate::calibrate::Costs;
use crate::command::Command;
use crate::config_file::{self, ConfigFileError};
use crate::confirm::Confirm;
use crate::deadline::Deadline;
use crate::elf::Executable;
use crate::error::{GuardError, text};
use crate::find::Search;
use crate::image::{Identity, OpenImage};
use crate::listing::Listing;
use crate::load::FAMILY;
use crate::lock::RunLock;
use crate::notify::Notify;
use crate::pins;
use crate::plan::Plan;
use crate::protocol::{ImageId, Reply, Request, Returns, TargetId, Told};
use crate::repricing::Repriced;
use crate::sandbox;
use crate::sandbox::guard::Tasks;
use crate::scope::{Asked, Limits, Scope};
use crate::share::{Beside, Offer};
use crate::target::Target;
use crate::user::User;
use crate::watchers::Watchers;

/// Images of one target that are open at the same time.
const IMAGES_OPEN: usize = 512;

/// The privileged process.
#[derive(Default)]
pub struct Guard {
    /// Confirmation of sites.
    pub(crate) confirm: Option<Confirm>,
    pub(crate) scope: Scope,
    pub(crate) targets: Vec<Target>,
    pub(crate) images: Vec<OpenImage>,
    pub(crate) plans: Vec<Plan>,
    /// Alive while any plan is loaded.
    pub(crate) watchers: Weak<Watchers>,
    pub(crate) tracefs: Option<Tracefs>,
    pub(crate) epoll: Option<Epoll>,
    pub(crate) events: std::collections::VecDeque<Told>,
    /// The command that `watch` starts.
    pub(crate) command: Option<Command>,
    /// The unprivileged process.
    pub(crate) collector: Option<i32>,
    /// Cost of a call, by the programs that were calibrated.
    pub(crate) costs: Vec<(Programs, Returns, Costs)>,
    /// Present cost of a hit, by programs.
    pub(crate) repriced: Vec<Repriced>,
    pub(crate) repriced_at: Option<Instant>,
    /// Budget of all plans together.
    pub(crate) total: Option<Total>,
    pub(crate) search: Option<Search>,
    /// The images of the target that was listed last.
    pub(crate) listing: Option<Listing>,
    /// Additional state of a service.
    pub(crate) service: Option<Service>,
    pub(crate) heard: Option<Instant>,
    /// Readable when a signal waits.
    pub(crate) signals: Option<OwnedFd>,
    /// Children that the kernel could not end yet.
    pub(crate) left_behind: Vec<Pid>,
    /// File systems that did not answer, with the time.
    pub(crate) stalled: Vec<((u32, u32), Instant)>,
    /// Ends this process if it hangs.
    pub(crate) deadline: Option<Deadline>,
    /// The rights for anything new are given up.
    pub(crate) closed: bool,
    /// Time of the last check of the probed files.
    pub(crate) looked_at_images: Option<Instant>,
    /// Time of the last check of those on foreign file systems.
    pub(crate) looked_at_foreign: Option<Instant>,
    pub(crate) issued: u32,
}

/// State that a service has and a single measurement does not.
#[derive(Debug)]
pub struct Service {
    /// The configuration file, which the collector may request again.
    pub config: PathBuf,
    /// Parser of the configuration.
    pub understand: Understand,
    /// Present measurements by its text.
    pub asked: Vec<Asked>,
    /// Later processes are attached too.
    pub reattach: bool,
    /// Budget of all plans together, in millionths of one CPU's time.
    pub total_ppm: Ppm,
    /// Longest silence of the collector before it is given up.
    pub watchdog: Duration,
    /// User of the collector.
    pub user: Option<User>,
    /// Folder in which the collector may create, write and remove files.
    pub folder: Option<BorrowedFd<'static>>,
    /// The right to be the agent of this box.
    pub lock: Option<RunLock>,
    /// Place where others read its cost.
    pub offer: Option<Offer>,
    /// Its supervisor.
    pub notify: Option<Notify>,
}

/// Measurements in the bytes of a configuration file; none if it has mistakes.
pub type Understand = fn(&Path, &[u8]) -> Option<Vec<Asked>>;

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("targets", &self.targets.len())
            .field("plans", &self.plans.len())
            .finish()
    }
}

impl Guard {
    /// A guard for the measurements in `asked`, and nothing else.
    #[must_use]
    pub fn new(asked: Vec<Asked>) -> Self {
        Self { scope: Scope::new(asked), ..Self::default() }
    }

    /// Sites are `confirmed` before any is probed.
    #[must_use]
    pub fn confirmed_by(self, confirm: Confirm) -> Self {
        Self { confirm: Some(confirm), ..self }
    }

    /// A guard that has started a command, whose plans have these `limits`.
    #[must_use]
    pub fn of_command(command: Command, limits: Limits) -> Self {
        let asked = vec![Asked::process(command.pid(), Some(limits))];
        Self { command: Some(command), ..Self::new(asked) }
    }

    /// For a measurement beside a service, while there is one: all its plans together may cost
    /// `max_cost_ppm` if given, and together with the service the budget of the service.
    #[must_use]
    pub fn held_to(self, max_cost_ppm: Option<Ppm>, beside: Beside) -> Self {
        Self { total: Some(Total::beside(max_cost_ppm.unwrap_or(Ppm::MAX), beside)), ..self }
    }

    /// A guard for a service. Removes maps that a killed service left pinned.
    #[must_use]
    pub fn of_service(mut service: Service) -> Self {
        pins::sweep();
        let total = Some(Total::of_service(service.total_ppm, service.offer.take()));
        let asked = std::mem::take(&mut service.asked);
        Self { total, service: Some(service), ..Self::new(asked) }
    }

    /// The process that must not be measured either.
    pub(crate) fn set_collector(&mut self, pid: i32) {
        self.collector = Some(pid);
    }

    /// True if there are events.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Answers one request. Descriptors come beside the answer.
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
            Request::Examine { plan, from } => self.examine(plan, from),
            Request::Load { plan } => self.load(plan, &mut descriptors),
            Request::Calibrate { plan } => self.calibrate(plan),
            Request::Cost { plan } => self.cost(plan),
            Request::Attach { plan } => self.attach(plan),
            Request::Arm { plan } => self.switch(plan, true),
            Request::Disarm { plan } => self.switch(plan, false),
            Request::Detach { plan } => self.detach(plan),
            Request::Events => Ok(self.tell_events()),
            Request::ReadList { target, pid, list } => self.read_list(target, pid, list),
            Request::StepCommand => self.step_command(),
            Request::ReleaseCommand { pid } => self.release_command(pid),
            Request::FindProcesses { word, begins, whole } => {
                Search::begin(word, begins, whole).map(|search| self.found(search))
            }
            Request::FindMore => match self.search.take() {
                Some(search) => Ok(self.found(search)),
                None => Err(order("no search goes on")),
            },
            Request::ForgetTarget { target } => self.forget_target(target),
            Request::OpenConfig => self.open_config(&mut descriptors),
            Request::Settle => self.settle(),
            Request::Status { ready, text } => Ok(self.tell_supervisor(ready, &text)),
            Request::FinishCommand { terminate } => self.finish_command(terminate),
        };
        // From here on it is the collector's turn: the guard's own time is not its silence.
        self.heard = Some(Instant::now());
        (reply.unwrap_or_else(Reply::Refused), descriptors)
    }

    /// Returns the next processes of a search.
    fn found(&mut self, mut search: Search) -> Reply {
        let (processes, more) = search.next(&self.scope);
        self.search = more.then_some(search);
        Reply::Processes { processes, more }
    }

    fn forget_target(&mut self, id: TargetId) -> Result<Reply, GuardError> {
        self.target(id)?;
        // A failed plan would hold images and programs for ever.
        self.plans.extract_if(.., |plan| plan.target == id).for_each(|mut plan| _ = plan.take_off());
        self.targets.retain(|target| target.id != id);
        self.images.retain(|image| image.target != id);
        self.listing.take_if(|listing| listing.target == id);
        self.scope.forget(id);
        Ok(Reply::Done)
    }

    /// Reads the configuration again. The collector gets the same file; its requests are checked
    /// against the text read here.
    fn open_config(&mut self, descriptors: &mut Vec<OwnedFd>) -> Result<Reply, GuardError> {
        let service = self.service.as_ref().ok_or_else(|| order("there is no configuration file"))?;
        let path = &service.config;
        let refused = |error: ConfigFileError| GuardError::ConfigFile {
            file: text(path.display()),
            reason: text(error),
        };
        let mut file = config_file::open(path).map_err(refused)?;
        let same = file.try_clone().map_err(|error| refused(ConfigFileError::Read { error }))?;
        let bytes = config_file::bytes(same).map_err(refused)?;
        file.rewind().map_err(|error| refused(ConfigFileError::Read { error }))?;
        // The collector reports the mistakes in it.
        if let Some(asked) = (service.understand)(path, &bytes) {
            self.scope.replace(asked);
        }
        descriptors.push(file.into());
        Ok(Reply::File)
    }

    /// Readable if [`Request::Events`] has something to report. `None` before anything is attached.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    pub(crate) fn issue(&mut self) -> u32 {
        self.issued += 1;
        self.issued
    }

    /// From here on only children are attached, and new targets if a service attaches to later
    /// processes.
    fn settle(&mut self) -> Result<Reply, GuardError> {
        let later = self.service.as_ref().is_some_and(|service| service.reattach);
        self.closed = !later;
        // If children are not followed, the probes they inherited are still removed from them.
        let routes = self.plans.iter().filter_map(|plan| plan.loaded.as_ref()).map(|(way, _)| way.route);
        let foreign = self.service.as_ref().is_some_and(|service| service.user.is_some());
        let none = Tasks {
            command: self.command.is_some(),
            follows: self.command.as_ref().is_some_and(Command::follows),
            pins: self.plans.iter().any(|plan| plan.options.pin)
                || later && self.scope.limits().any(|limits| limits.pin),
            targets: later,
            collector: foreign,
            ..Tasks::NONE
        };
        let mut tasks = routes.fold(none, Tasks::and);
        if later {
            let tracefs = self.open_tracefs();
            let usual = attach::choose(None, Returns::Ret, 1, &tracefs).map(|way| way.route);
            let named = self.scope.limits().filter_map(|limits| limits.route);
            tasks = usual.into_iter().chain(named).fold(tasks, Tasks::and);
        }
        if let Some(tracefs) = self.tracefs.as_ref().filter(|_| tasks.tracefs) {
            tracefs.outlive();
        }
        sandbox::settle_guard(tasks)?;
        Ok(Reply::Done)
    }

    /// The programs that watch the processes of all plans; loaded with the first plan.
    pub(crate) fn watchers(&mut self) -> Result<Rc<Watchers>, GuardError> {
        if let Some(watchers) = self.watchers.upgrade() {
            return Ok(watchers);
        }
        let processes = if self.service.is_some() { 16 * FAMILY } else { 2 * FAMILY };
        let watchers = Rc::new(Watchers::new(processes as u32)?);
        self.watchers = Rc::downgrade(&watchers);
        Ok(watchers)
    }

    /// Opens the tracing file system once, while there are the rights.
    pub(crate) fn open_tracefs(&mut self) -> Result<&Tracefs, Errno> {
        match &mut self.tracefs {
            Some(opened) => Ok(opened),
            none => Tracefs::open().map(|opened| &*none.insert(opened)),
        }
    }

    fn open_target(&mut self, pid: i32, allow_ptrace: bool) -> Result<Reply, GuardError> {
        if self.collector == Some(pid) {
            return Err(GuardError::OwnProcess { pid });
        }
        // The guard's own command is under its own ptrace until its probes are in place.
        let own = self.command.as_ref().is_some_and(|command| command.traces(pid));
        let allow_ptrace = allow_ptrace || own;
        let id = TargetId(self.issue());
        let target = Target::open(id, pid, allow_ptrace)?;
        self.scope.open(&target, allow_ptrace && !own, own)?;
        let (start, user) = (target.start, target.user);
        self.targets.push(target);
        Ok(Reply::Target { target: id, start, user })
    }

    pub(crate) fn target(&self, id: TargetId) -> Result<&Target, GuardError> {
        self.targets.iter().find(|target| target.id == id).ok_or_else(|| order("no such target"))
    }

    fn open_image(
        &mut self,
        target: TargetId,
        index: u32,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<Reply, GuardError> {
        let id = ImageId(self.issue());
        let mapping = self.listed(target, index)?;
        let pid = self.target(target)?.pid;
        let (file, copy) = self.open_aside(target, &mapping)?;
        let bytes = copy.as_ref().unwrap_or(&file);
        let executable = Executable::read(bytes).map_err(|reason| GuardError::NoElf {
            pid,
            path: text(&mapping.path),
            reason: text(reason),
        })?;
        let identity = Identity::of(&file)?;
        let key = mapping.file;
        let known = |open: &&OpenImage| (open.target, open.key, open.identity) == (target, key, identity);
        let known = self.images.iter().find(known).map(|open| open.id);
        let of_target = self.images.iter().filter(|open| open.target == target).count();
        if known.is_none() && (of_target >= IMAGES_OPEN || self.images.len() >= descriptors_for_images()) {
            return Err(GuardError::Unsupported {
                what: text(format_args!("open more than {IMAGES_OPEN} images of process {pid}")),
                reason: text("each takes a descriptor; name the image (IMAGE:FUNCTION)"),
            });
        }
        let clone = |file: &File| {
            file.try_clone().map_err(|error| GuardError::OpenImage {
                pid,
                path: text(&mapping.path),
                os: error.into(),
            })
        };
        descriptors.push(clone(bytes)?.into());
        let copy = copy.map(Rc::new);
        if known.is_none() {
            let file = Rc::new(file);
            self.images.push(OpenImage { id, target, file, copy, executable, key, identity });
        }
        Ok(Reply::Image { image: known.unwrap_or(id) })
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

/// Error for a request at the wrong time.
pub(crate) fn order(what: &str) -> GuardError {
    GuardError::Order { what: text(what) }
}

/// Images that may be open at once: half of the descriptors that `split.rs` requests. Attached and
/// watched objects need others.
fn descriptors_for_images() -> usize {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(most / 2).unwrap_or(usize::MAX)
}

pub(crate) fn elapsed(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
