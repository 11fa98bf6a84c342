//! What has become of each process of a target.

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

/// First pause after something that may be better later, doubled each time.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A process that dies so soon after a fault that it handled died of it: its handler told of it and let go.
const DYING: Duration = Duration::from_secs(10);
/// How often quarantine is asked again: somebody may have ended it.
const ASK_QUARANTINE: Duration = Duration::from_secs(10);

/// A target of the configuration with its processes.
#[derive(Debug)]
pub struct Group {
    /// What the file says.
    pub config: TargetConfig,
    /// The same as a session wants it.
    pub wanted: Wanted,
    /// Its processes.
    pub watched: Vec<Watched>,
    /// Since when it has none, in nanoseconds since boot.
    pub absent_ns: Option<u64>,
    /// What those took that are not measured any more.
    pub spent: Spent,
}

/// What probes took that are gone.
#[derive(Debug, Default)]
pub struct Spent {
    /// CPU time in nanoseconds.
    pub cost_ns: u64,
    /// Hits that could not be told to any function.
    pub unattributed: u64,
    /// Children that were not covered in time.
    pub children: Children,
}

/// A process.
#[derive(Debug)]
pub struct Watched {
    /// Its number.
    pub pid: i32,
    start: u64,
    /// What becomes of it.
    pub fate: Fate,
    /// Pauses that it had, for the length of the next.
    pub pauses: u32,
    /// What goes into quarantine if it ends soon.
    pub if_it_dies: Option<(Instant, Record)>,
    /// Since when it is not measured, in nanoseconds since boot.
    pub uncovered_ns: Option<u64>,
}

/// What becomes of a process.
#[derive(Debug)]
pub enum Fate {
    /// It is measured.
    Measured(Box<Session>),
    /// It is tried again then.
    Paused {
        /// When.
        until: Instant,
        /// Why not now.
        why: &'static str,
    },
    /// It is left alone as long as it lives.
    Left {
        /// Why.
        why: &'static str,
    },
}

impl Group {
    /// Without processes.
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

    /// The process that a plan is of.
    pub fn owner(&self, plan: PlanId) -> Option<usize> {
        self.watched.iter().position(|process| process.session().is_some_and(|session| session.owns(plan)))
    }

    /// Is this process measured, by itself or as the child of another?
    pub fn covers(&self, pid: i32) -> bool {
        self.watched.iter().filter_map(Watched::session).any(|session| session.family.contains(pid))
    }
}

impl Watched {
    /// One of which nothing is known but that it is there.
    pub fn new(found: &Found) -> Self {
        let fate = Fate::Paused { until: Instant::now(), why: "new" };
        let uncovered_ns = Some(boot_ns());
        Self { pid: found.pid, start: found.start, fate, pauses: 0, if_it_dies: None, uncovered_ns }
    }

    /// Is it this one?
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

    /// Takes its session; what becomes of it must be said next.
    pub fn take_session(&mut self) -> Option<Box<Session>> {
        match std::mem::replace(&mut self.fate, Fate::Left { why: "ended" }) {
            Fate::Measured(session) => Some(session),
            fate => {
                self.fate = fate;
                None
            }
        }
    }

    /// It is gone: what it died of, if that was a fault under probes.
    pub fn died_of(&mut self) -> Option<Record> {
        self.if_it_dies.take().filter(|(when, _)| when.elapsed() < DYING).map(|(_, record)| record)
    }
}

impl Fate {
    /// After a session that ended for a reason.
    pub fn after(ended: Ended, now: Instant, pauses: &mut u32) -> Self {
        match ended {
            Ended::Budget => Self::pause(now, pauses, "budget"),
            Ended::Overrun => Self::pause(now, pauses, "overrun"),
            Ended::Traced => Self::pause(now, pauses, "traced"),
            // It executes something else, or the same from another file.
            Ended::Replaced => Self::Paused { until: now, why: "replaced" },
            // A file is written once as a rule; one that is written again and again is not worth a probe each time.
            Ended::ImageChanged if *pauses == 0 => {
                *pauses += 1;
                Self::Paused { until: now, why: "image_changed" }
            }
            Ended::ImageChanged => Self::pause(now, pauses, "image_changed"),
            Ended::Fault => Self::Left { why: "fault" },
            _ => Self::Left { why: "ended" },
        }
    }

    /// Could not be measured.
    pub fn failed(now: Instant, pauses: &mut u32) -> Self {
        Self::pause(now, pauses, "failed")
    }

    /// Must not be measured until somebody says otherwise, or for a time.
    pub fn held(now: Instant, record: &Record) -> Self {
        let why = if record.is_kill() { "killed" } else { "quarantine" };
        Self::Paused { until: now + ASK_QUARANTINE, why }
    }

    fn pause(now: Instant, pauses: &mut u32, why: &'static str) -> Self {
        let pause = PAUSE.saturating_mul(1 << (*pauses).min(16)).min(LONGEST_PAUSE);
        *pauses += 1;
        Self::Paused { until: now + pause, why }
    }

    /// Is it time to try?
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self, Self::Paused { until, .. } if now >= *until)
    }

    /// What is told of it.
    pub fn in_words(&self) -> (State, Option<&'static str>) {
        match self {
            Self::Measured(_) => (State::Measured, None),
            Self::Paused { why, .. } => (State::Paused, Some(why)),
            Self::Left { why } => (State::Left, Some(why)),
        }
    }
}

/// Takes in how a process of a build ended, and says what comes of it. Where the OOM killer ran,
/// once is enough for the build to be left alone, whichever process executes it next; somebody may
/// also have ended a process by hand, once.
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

/// What quarantine knows a target by: the build of its program, its user, and the functions that were asked for.
pub fn key(description: &TargetReport, config: &TargetConfig) -> Key {
    let functions = config.functions.iter().map(ToString::to_string);
    let names: Vec<String> = functions.chain(config.python.iter().map(ToString::to_string)).collect();
    let functions = quarantine::functions_hash(names.iter().map(String::as_str));
    let build_id = description.build_id.as_deref().map(bytes).unwrap_or_else(|| {
        // A program without one goes by its path.
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

/// What is kept of a fault.
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

/// What is kept of SIGKILL.
pub fn killing(description: &TargetReport, config: &TargetConfig) -> Record {
    let fault = Fault { signal: Signal::SIGKILL as i32, code: 0, handled: false, sent: true };
    record(key(description, config), &fault, description, config)
}

/// Puts it there, and says so.
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

/// Why a process is left alone.
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
