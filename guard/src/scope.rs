//! The permitted targets and limits of this run, settled before there is a collector.
//!
//! The collector reads bytes that targets control, so a compromised collector may send anything. It
//! can name no process outside this list, read no file of one, and raise no bound: the guard
//! compares each request with this list, which comes only from the command line or the
//! configuration file.
//!
//! | question | answer |
//! | --- | --- |
//! | which processes? | [`Which`]: a process, or a word that the guard itself reads in /proc |
//! | what may be done with them? | [`Limits`] of plans; without them a process is only looked at |
//! | how much at once? | [`OPEN_TARGETS`], plans by [`Limits::plans`], memory by [`memory_bound`] |

use crate::error::{GuardError, text};
use crate::find::word_of;
use crate::guard::order;
use crate::placement::TargetsOn;
use crate::protocol::{OnSignal, PlanOptions, Returns, Route, TargetId, Word};
use crate::target::Target;

/// Targets open at once: as many processes as a service measures, and some that are only examined.
pub(crate) const OPEN_TARGETS: usize = 4096;
/// Times that one process is open at once: measured, searched again, examined.
const OPEN_ONCE: usize = 4;
/// Processes that may be measured or examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The processes.
    pub which: Which,
    /// Bounds of their plans; without them nothing is attached to these processes.
    pub limits: Option<Limits>,
}

/// Selector of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The process with this number and start time, in clock ticks since boot; none if unknown.
    Process {
        /// Process id.
        pid: i32,
        /// Start time.
        start: Option<u64>,
    },
    /// Any process with this number.
    Pid(i32),
    /// Processes whose word is `begins`, or begins with it unless it is the `whole` word. The
    /// collector compares the rest of a glob.
    Word {
        /// The word of /proc.
        word: Word,
        /// Its beginning.
        begins: String,
        /// `begins` is the whole word.
        whole: bool,
    },
    /// Processes in or below a control group of this name, at any depth.
    Unit(String),
    /// Processes in or below this control group; without a slash at either end.
    Cgroup(String),
}

/// Bounds of the plans for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most plans at once: libraries that come later have plans of their own.
    pub plans: u32,
    /// Most frames of the frame table.
    pub frames: u32,
    /// Most bytes for the arrays of a plan.
    pub max_map_bytes: u64,
    /// Method of observing returns.
    pub returns: Returns,
    /// The route, if it was named.
    pub route: Option<Route>,
    /// Children may be attached as well.
    pub follow_forks: bool,
    /// Signals that remove the probes; `None`: the default for the functions' language.
    pub on_signal: Option<OnSignal>,
    /// CPUs on which a call must begin to be measured.
    pub targets_on: TargetsOn,
    /// Budget of a plan's probes, in millionths of one CPU's time.
    pub max_cost_ppm: Option<u64>,
    /// Plans that cost more are measured in windows.
    pub sample: bool,
    /// Functions of Python may be measured.
    pub python: bool,
    /// Rows and frames are shown below /sys/fs/bpf.
    pub pin: bool,
    /// A process that a debugger traces may be measured.
    pub allow_ptrace: bool,
}

impl Asked {
    /// The process that has a number now, with the bounds of its plans or only to be examined.
    #[must_use]
    pub fn process(pid: i32, limits: Option<Limits>) -> Self {
        let start = Target::unchecked(TargetId(0), pid).ok().map(|target| target.start);
        Self { which: Which::Process { pid, start }, limits }
    }
}

impl Which {
    /// The word of /proc that is compared; none if a number is.
    #[must_use]
    pub fn word(&self) -> Option<Word> {
        match self {
            Self::Process { .. } | Self::Pid(_) => None,
            Self::Word { word, .. } => Some(*word),
            Self::Unit(_) | Self::Cgroup(_) => Some(Word::ControlGroup),
        }
    }

    /// True if the word of a process matches.
    #[must_use]
    pub fn fits(&self, found: &str) -> bool {
        match self {
            Self::Process { .. } | Self::Pid(_) => false,
            Self::Word { begins, whole: true, .. } => found == begins,
            Self::Word { begins, whole: false, .. } => found.starts_with(begins.as_str()),
            // A unit's processes may be in groups of their own below it.
            Self::Unit(unit) => found.split('/').any(|part| part == unit),
            Self::Cgroup(group) => found
                .trim_start_matches('/')
                .strip_prefix(group.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    fn is(&self, target: &Target) -> bool {
        match self {
            Self::Process { pid, start } => (target.pid, Some(target.start)) == (*pid, *start),
            Self::Pid(pid) => target.pid == *pid,
            _ => self
                .word()
                .and_then(|word| word_of(target.folder(), word))
                .is_some_and(|found| self.fits(&found)),
        }
    }
}

impl Limits {
    fn permit(&self, options: &PlanOptions) -> bool {
        options.frames <= self.frames
            && options.max_map_bytes <= self.max_map_bytes
            && options.returns == self.returns
            && options.route == self.route
            && (self.follow_forks || !options.follow_forks)
            && self.on_signal.is_none_or(|on_signal| on_signal == options.on_signal)
            && options.targets_on == self.targets_on
            && options.max_cost_ppm == self.max_cost_ppm
            && options.sample == self.sample
            && (self.python || options.python.is_none())
            && (self.pin || !options.pin)
    }
}

/// The requested processes, and the open ones of them.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    asked: Vec<Asked>,
    opened: Vec<Opened>,
}

#[derive(Debug)]
struct Opened {
    target: TargetId,
    process: (i32, u64),
    /// All requests for this process.
    asked: Vec<Asked>,
    /// It was opened although a debugger may trace it.
    traced: bool,
}

impl Scope {
    pub(crate) fn new(asked: Vec<Asked>) -> Self {
        Self { asked, opened: Vec::new() }
    }

    /// Takes over a configuration that was read again. Entries missing from it get no new plan.
    pub(crate) fn replace(&mut self, asked: Vec<Asked>) {
        for opened in &mut self.opened {
            opened.asked.retain(|before| asked.contains(before));
        }
        self.asked = asked;
    }

    /// Bounds of all plans that may come.
    pub(crate) fn limits(&self) -> impl Iterator<Item = &Limits> {
        self.asked.iter().filter_map(|asked| asked.limits.as_ref())
    }

    /// True if the collector may see this process, by a searched word.
    pub(crate) fn finds(&self, word: Word, found: &str) -> bool {
        self.asked.iter().any(|asked| asked.which.word() == Some(word) && asked.which.fits(found))
    }

    /// Admits a target if it was requested; all processes of the started command are.
    pub(crate) fn open(&mut self, target: &Target, traced: bool, of_command: bool) -> Result<(), GuardError> {
        let process = (target.pid, target.start);
        let named = self.asked.iter().filter(|asked| of_command || asked.which.is(target));
        let asked: Vec<Asked> = named.cloned().collect();
        if asked.is_empty() {
            // As for an ended process: it may have executed another program since it was found.
            return Err(GuardError::NoProcess { pid: target.pid });
        }
        let same = self.opened.iter().filter(|opened| opened.process == process).count();
        if same >= OPEN_ONCE || self.opened.len() >= OPEN_TARGETS {
            return Err(order("too many targets are open"));
        }
        self.opened.push(Opened { target: target.id, process, asked, traced });
        Ok(())
    }

    pub(crate) fn forget(&mut self, target: TargetId) {
        self.opened.retain(|opened| opened.target != target);
    }

    fn opened(&self, target: TargetId) -> Result<&Opened, GuardError> {
        self.opened.iter().find(|opened| opened.target == target).ok_or_else(|| order("no such target"))
    }

    /// Admits a plan for a target that has those in `plans` already.
    pub(crate) fn plan(
        &self,
        target: TargetId,
        options: &PlanOptions,
        plans: impl Iterator<Item = TargetId>,
    ) -> Result<(), GuardError> {
        let bad = |reason: &str| Err(GuardError::BadPlan { reason: text(reason) });
        let opened = self.opened(target)?;
        let limits = opened.asked.iter().filter_map(|asked| asked.limits.as_ref());
        let mut permitting =
            limits.filter(|limits| limits.permit(options) && (limits.allow_ptrace || !opened.traced));
        let Some(limits) = permitting.next() else {
            return bad("it asks for more than edgelat was started for");
        };
        let same = |other: TargetId| self.opened(other).is_ok_and(|other| other.process == opened.process);
        if plans.filter(|other| same(*other)).count() >= limits.plans as usize {
            return bad("its process has as many as it may");
        }
        Ok(())
    }

    /// Permits reads of a target's memory, if Python is to be measured: they show the way its
    /// interpreter treats calls. Nothing else needs them.
    pub(crate) fn memory(&self, target: TargetId) -> Result<(), GuardError> {
        let needed = |asked: &Asked| asked.limits.is_none_or(|limits| limits.python);
        match self.opened(target)?.asked.iter().any(needed) {
            true => Ok(()),
            false => Err(order("nothing of Python is to be measured")),
        }
    }
}

/// Most bytes of kernel memory for the arrays of all plans: a quarter of the machine's, and at
/// least the bound of one plan.
pub(crate) fn memory_bound(scope: &Scope) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let all = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let quarter = all.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib * 1024 / 4);
    scope.limits().map(|limits| limits.max_map_bytes).fold(quarter, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_fit_by_path_name_unit_and_group() {
        let exe = |begins: &str, whole, found| {
            Which::Word { word: Word::Executable, begins: begins.to_owned(), whole }.fits(found)
        };
        assert!(exe("/usr/bin/a", true, "/usr/bin/a") && !exe("/usr/bin/a", true, "/usr/bin/ab"));
        assert!(exe("/usr/", false, "/usr/bin/a") && !exe("/usr/", false, "/opt/usr/bin/a"));
        let unit = |found| Which::Unit("nginx.service".to_owned()).fits(found);
        assert!(unit("/system.slice/nginx.service") && unit("/system.slice/nginx.service/worker"));
        assert!(!unit("/system.slice/my-nginx.service"));
        let group = |found| Which::Cgroup("vnf/a".to_owned()).fits(found);
        assert!(group("/vnf/a") && group("/vnf/a/b") && !group("/vnf/ab") && !group("/x/vnf/a"));
        assert!(!Which::Pid(1).fits("/sbin/init"));
    }

    #[test]
    fn a_number_that_was_given_away_again_is_another_process() {
        let pid = std::process::id() as i32;
        let own = Target::unchecked(TargetId(1), pid).unwrap();
        let open = |which| Scope::new(vec![Asked { which, limits: None }]).open(&own, false, false);
        assert_eq!(open(Asked::process(pid, None).which), Ok(()));
        for start in [None, Some(own.start + 1)] {
            assert_eq!(open(Which::Process { pid, start }), Err(GuardError::NoProcess { pid }));
        }
    }
}
