//! State of each process of a target.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgelat_guard::GuardError;
use edgelat_guard::protocol::{Fault, Found, PlanId};
use edgelat_guard::quarantine::{self, Key, Record, Store};
use nix::sys::signal::Signal;

use super::lines::State;
use super::recorder::boot_ns;
use crate::collector::family::Children;
use crate::collector::notes::Killed;
use crate::collector::report::{Ended, TargetReport};
use crate::collector::session::{Session, Wanted};
use crate::config::{AgentConfig, TargetConfig};
use crate::log::{Level, Log};

/// First pause after a failure that may be temporary; doubled each time.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A process that dies this soon after a handled fault died of it: its handler reported it and gave
/// up.
const DYING: Duration = Duration::from_secs(10);
/// Time between checks of quarantine, which a user may have ended.
const ASK_QUARANTINE: Duration = Duration::from_secs(10);

/// A target of the configuration with its processes.
#[derive(Debug)]
pub struct Group {
    /// Configuration of the target.
    pub config: TargetConfig,
    /// The configuration as a session takes it.
    pub wanted: Wanted,
    /// Its processes.
    pub watched: Vec<Watched>,
    /// Time since which it has no process, in nanoseconds since boot.
    pub absent_ns: Option<u64>,
    /// Totals of processes that are no longer measured.
    pub spent: Spent,
}

/// Totals of removed probes.
#[derive(Debug, Default)]
pub struct Spent {
    /// CPU time in nanoseconds.
    pub cost_ns: u64,
    /// Hits that could not be attributed to a function.
    pub unattributed: u64,
    /// Children that were not covered in time.
    pub children: Children,
}

/// A process.
#[derive(Debug)]
pub struct Watched {
    /// Process id.
    pub pid: i32,
    start: u64,
    /// Fate of the process.
    pub fate: Fate,
    /// Number of its pauses, which determines the length of the next.
    pub pauses: u32,
    /// Record that goes into quarantine if the process ends soon.
    pub if_it_dies: Option<(Instant, Record)>,
    /// Time since which it is not measured, in nanoseconds since boot.
    pub uncovered_ns: Option<u64>,
}

/// Fate of a process.
#[derive(Debug)]
pub enum Fate {
    /// It is measured.
    Measured(Box<Session>),
    /// It is tried again later.
    Paused {
        /// Time of the next attempt.
        until: Instant,
        /// Reason for the pause.
        why: &'static str,
    },
    /// It is left alone as long as it lives.
    Left {
        /// Reason.
        why: &'static str,
    },
}

impl Group {
    /// Creates a group without processes.
    pub fn new(config: &TargetConfig, agent: &AgentConfig) -> Self {
        let wanted = Wanted {
            functions: config.functions.clone(),
            python: config.python.clone(),
            plan: config.limits(agent),
            bounded: true,
            calibrated: true,
            unprobed: agent.unprobed_images.clone(),
            inlined: false,
        };
        Self {
            config: config.clone(),
            wanted,
            watched: Vec::new(),
            absent_ns: Some(boot_ns()),
            spent: Spent::default(),
        }
    }

    /// Returns the index of the process that a plan belongs to.
    pub fn owner(&self, plan: PlanId) -> Option<usize> {
        self.watched.iter().position(|process| process.session().is_some_and(|session| session.owns(plan)))
    }

    /// Returns true if the process is measured, by itself or as a child of another.
    pub fn covers(&self, pid: i32) -> bool {
        self.watched.iter().filter_map(Watched::session).any(|session| session.family.contains(pid))
    }
}

impl Watched {
    /// Creates the entry of a new process, of which only the existence is known.
    pub fn new(found: &Found) -> Self {
        let fate = Fate::Paused { until: Instant::now(), why: "new" };
        let uncovered_ns = Some(boot_ns());
        Self { pid: found.pid, start: found.start, fate, pauses: 0, if_it_dies: None, uncovered_ns }
    }

    /// Returns true if the process that was found is this process.
    pub fn is(&self, found: &Found) -> bool {
        (self.pid, self.start) == (found.pid, found.start)
    }

    /// Its session, while it is measured.
    pub fn session(&self) -> Option<&Session> {
        match &self.fate {
            Fate::Measured(session) => Some(session),
            _ => None,
        }
    }

    /// Its session, while it is measured.
    pub fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.fate {
            Fate::Measured(session) => Some(session),
            _ => None,
        }
    }

    /// Takes its session; the caller must set the fate next.
    pub fn take_session(&mut self) -> Option<Box<Session>> {
        match std::mem::replace(&mut self.fate, Fate::Left { why: "ended" }) {
            Fate::Measured(session) => Some(session),
            fate => {
                self.fate = fate;
                None
            }
        }
    }

    /// Returns the record of the fault under probes that the ended process died of, if any.
    pub fn died_of(&mut self) -> Option<Record> {
        self.if_it_dies.take().filter(|(when, _)| when.elapsed() < DYING).map(|(_, record)| record)
    }
}

impl Fate {
    /// Returns the fate after a session that ended for a reason.
    pub fn after(ended: Ended, now: Instant, pauses: &mut u32) -> Self {
        match ended {
            Ended::Budget => Self::pause(now, pauses, "budget"),
            Ended::Overrun => Self::pause(now, pauses, "overrun"),
            Ended::Traced => Self::pause(now, pauses, "traced"),
            // It executes something else, or the same from another file.
            Ended::Replaced => Self::Paused { until: now, why: "replaced" },
            // A file is usually written once; a file written repeatedly is not worth a probe each
            // time.
            Ended::ImageChanged if *pauses == 0 => {
                *pauses += 1;
                Self::Paused { until: now, why: "image_changed" }
            }
            Ended::ImageChanged => Self::pause(now, pauses, "image_changed"),
            Ended::Fault => Self::Left { why: "fault" },
            _ => Self::Left { why: "ended" },
        }
    }

    /// Returns the fate of a process that could not be measured.
    pub fn failed(now: Instant, pauses: &mut u32) -> Self {
        Self::pause(now, pauses, "failed")
    }

    /// Returns the fate of a process held for a time, or until quarantine is ended.
    pub fn held(now: Instant, record: &Record) -> Self {
        let why = if record.is_kill() { "killed" } else { "quarantine" };
        Self::Paused { until: now + ASK_QUARANTINE, why }
    }

    fn pause(now: Instant, pauses: &mut u32, why: &'static str) -> Self {
        let pause = PAUSE.saturating_mul(1 << (*pauses).min(16)).min(LONGEST_PAUSE);
        *pauses += 1;
        Self::Paused { until: now + pause, why }
    }

    /// Returns true if the next attempt is due.
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self, Self::Paused { until, .. } if now >= *until)
    }

    /// Returns the state to report, and the reason.
    pub fn in_words(&self) -> (State, Option<&'static str>) {
        match self {
            Self::Measured(_) => (State::Measured, None),
            Self::Paused { why, .. } => (State::Paused, Some(why)),
            Self::Left { why } => (State::Left, Some(why)),
        }
    }
}

/// Takes in the end of a process of a build, and logs the consequence. If the OOM killer ran, one
/// kill is enough for the build to be left alone in any process that executes it next; otherwise a
/// single kill may have been sent by hand.
pub fn note_killing(store: &Store, killing: Record, killed: Option<Killed>, lived: bool, log: &Log) {
    if lived {
        store.lived(&killing.key);
    }
    let Some(killed) = killed else { return };
    let (key, target) = (killing.key.clone(), killing.target.clone());
    let times = if killed == Killed::OutOfMemory { 2 } else { 1 };
    let written = store.add(Record { times, ..killing });
    if let Ok(Some(held)) = store.contains(&key)
        && let Some(pause) = quarantine::pause(&held)
    {
        log.say(
            Level::Warning,
            format_args!(
                "{target}: this build and its functions are left alone for {} min, because a process was killed soon after \
                 its probes came",
                pause.as_secs() / 60
            ),
        );
    }
    say_unwritten(written, log);
}

fn say_unwritten(written: Result<(), GuardError>, log: &Log) {
    if let Err(error) = written {
        log.say(Level::Error, format_args!("{error}; it holds until edgelat ends"));
    }
}

/// Quarantine key of a target: the build of its program, its user, and the requested functions.
pub fn key(description: &TargetReport, config: &TargetConfig) -> Key {
    let functions = config.functions.iter().map(ToString::to_string);
    let names: Vec<String> = functions.chain(config.python.iter().map(ToString::to_string)).collect();
    let functions = quarantine::functions_hash(names.iter().map(String::as_str));
    let build_id = description.build_id.as_deref().map(bytes).unwrap_or_else(|| {
        // A program without a build-id is identified by its path.
        quarantine::functions_hash([description.exe.as_str()]).to_le_bytes().to_vec()
    });
    Key::new(&build_id, functions).of_user(description.user)
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pairs = hexadecimal.as_bytes().as_chunks::<2>().0;
    let byte =
        |pair: &[u8; 2]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    pairs.iter().filter_map(byte).collect()
}

/// Creates the record of a fault.
pub fn record(key: Key, fault: &Fault, description: &TargetReport, config: &TargetConfig) -> Record {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Record {
        key,
        signal: fault.signal,
        code: fault.code,
        pid: description.pid,
        time,
        boot_id: [0; 16],
        path: quarantine::cut(&description.exe),
        target: quarantine::cut(&config.name),
        times: 1,
    }
}

/// Creates the record of a SIGKILL.
pub fn killing(description: &TargetReport, config: &TargetConfig) -> Record {
    let fault = Fault { signal: Signal::SIGKILL as i32, code: 0, handled: false, sent: true };
    record(key(description, config), &fault, description, config)
}

/// Puts a record into quarantine, and logs it.
pub fn put(store: &Store, record: Record, log: &Log) {
    let key = record.key.clone();
    let died = format!(
        "{}: this build of {} died of signal {} while it was probed",
        record.target, record.path, record.signal
    );
    let written = store.add(record);
    match store.contains(&key) {
        Ok(Some(held)) if !quarantine::lasts(&held) => log.say(
            Level::Warning,
            format_args!(
                "{died}: it is left alone for {} s, and goes into quarantine if that happens again",
                quarantine::MOMENT.as_secs()
            ),
        ),
        _ => log.say(
            Level::Error,
            format_args!(
                "{died} again: it and its functions are in quarantine for user {}; `edgelat quarantine clear` ends that",
                key.user
            ),
        ),
    }
    say_unwritten(written, log);
}

/// Reason why a process is left alone, in words.
pub fn held(record: &Record) -> String {
    let signal = record.signal;
    match quarantine::lasts(record) {
        _ if record.is_kill() => "was killed soon after its probes came".to_owned(),
        true => format!(
            "is in quarantine since a fault (signal {signal}) while it was probed; `edgelat quarantine clear` ends that"
        ),
        false => format!("made a fault (signal {signal}) while it was probed, a moment ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let (now, mut pauses) = (Instant::now(), 0);
        let mut lengths = Vec::new();
        for _ in 0..9 {
            let Fate::Paused { until, .. } = Fate::failed(now, &mut pauses) else { panic!("a pause") };
            lengths.push((until - now).as_secs());
        }
        assert_eq!(lengths, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    }

    #[test]
    fn a_process_is_tried_again_when_it_may_help() {
        let (now, mut pauses) = (Instant::now(), 0);
        assert!(Fate::after(Ended::Replaced, now, &mut pauses).is_due(now));
        assert!(Fate::after(Ended::ImageChanged, now, &mut pauses).is_due(now));
        assert!(!Fate::after(Ended::ImageChanged, now, &mut pauses).is_due(now));
        assert!(!Fate::after(Ended::Budget, now, &mut pauses).is_due(now));
        assert!(Fate::after(Ended::Budget, now, &mut pauses).is_due(now + LONGEST_PAUSE));
        assert!(!Fate::after(Ended::Fault, now, &mut pauses).is_due(now + LONGEST_PAUSE));
    }

    #[test]
    fn build_ids_are_bytes() {
        assert_eq!(bytes("00ff7A"), [0, 255, 122]);
        assert!(bytes("").is_empty());
    }
}
