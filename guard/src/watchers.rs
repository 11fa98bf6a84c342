//! The programs that see events of the processes of all plans: forks, new images, fault signals,
//! ends.
//!
//! They are on four tracepoints of the whole machine, so every process that sends a signal or forks
//! pays for them. So one set serves all plans, loaded with the first and gone with the last. A hash
//! maps a process to its plans; each plan has a number, which indexes its switch. One array holds
//! the switches of all objects, so a fatal signal turns off its plans in the tracepoint.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use edgelat_bpf::layout::{self, MEMBER_PLANS, Member, PLANS};
use edgelat_bpf::object::{END_PROGRAMS, FAMILY_PROGRAMS, map, object};
use edgelat_bpf::{Switch, Switches};
use libbpf_rs::{
    Error, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, RingBuffer,
    RingBufferBuilder,
};

use crate::error::{GuardError, text};
use crate::load::{Messages, map_fd, program};
use crate::protocol::Fault;

/// Kernel event of a plan's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FamilyEvent {
    /// With the lower half of the time in microseconds on the monotonic clock.
    Fork {
        child: i32,
        at_us: u32,
    },
    Exec(Exec),
    /// A child ended after this CPU time in nanoseconds, in which it may have hit breakpoints.
    Paid {
        pid: i32,
        ns: u64,
    },
    UnknownSite {
        pid: i32,
    },
    NewCode,
    Fault {
        pid: i32,
        fault: Fault,
    },
    /// With the status as wait(2) returns it, and the lifetime.
    Exit {
        pid: i32,
        status: u32,
        lived_us: u32,
    },
}

/// A process executes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exec {
    pub(crate) pid: i32,
    /// Time on the monotonic clock in nanoseconds.
    pub(crate) time_ns: u64,
    /// Another thread than the main one executed: the kernel replaced the thread bound to probes.
    pub(crate) by_thread: bool,
}

type Queues = HashMap<u32, VecDeque<FamilyEvent>>;

/// The loaded programs with the maps they share with those of the plans. Dropping it removes them.
pub(crate) struct Watchers {
    object: Object,
    family: MapHandle,
    switches: Switches,
    ring: RingBuffer<'static>,
    /// Events not fetched yet, by plan.
    queues: Rc<RefCell<Queues>>,
    /// Plan numbers in use.
    taken: RefCell<Vec<u32>>,
    _links: Vec<Link>,
}

impl Watchers {
    /// Loads the programs, for `processes` at the same time in all plans, and attaches them.
    pub(crate) fn new(processes: u32) -> Result<Self, GuardError> {
        let messages = Messages::record();
        let object = Self::open(processes).and_then(OpenObject::load);
        let object = object.map_err(|error| messages.explain(&error))?;
        drop(messages);
        let unmapped = |error: &dyn std::fmt::Display| GuardError::Map { reason: text(error) };
        let control = map_fd(&object, |name| name.ends_with(map::CONTROL_SUFFIX))?;
        let switches = Switches::map(control).map_err(|error| unmapped(&error))?;
        let handle = |name: &str| {
            let found = object.maps().find(|found| found.name() == name);
            let found =
                found.ok_or_else(|| GuardError::Map { reason: text(format_args!("no map {name}")) })?;
            MapHandle::try_from(&found).map_err(|error| unmapped(&error))
        };
        let (family, events) = (handle(map::FAMILY)?, handle(map::EVENTS)?);
        let queues: Rc<RefCell<Queues>> = Rc::default();
        let sink = Rc::clone(&queues);
        let mut builder = RingBufferBuilder::new();
        let built = builder.add(&events, move |bytes| {
            if let Some((plan, event)) = parse_event(bytes) {
                sink.borrow_mut().entry(plan).or_default().push_back(event);
            }
            0
        });
        built.map_err(|error| refused("ring buffer", &error))?;
        let ring = builder.build().map_err(|error| refused("ring buffer", &error))?;
        let mut links = Vec::new();
        for name in END_PROGRAMS.into_iter().chain(FAMILY_PROGRAMS) {
            links.push(program(&object, name)?.attach().map_err(|error| refused(name, &error))?);
        }
        Ok(Self { object, family, switches, ring, queues, taken: RefCell::default(), _links: links })
    }

    /// The object with these programs, not yet shown to the kernel.
    pub(crate) fn open(processes: u32) -> libbpf_rs::Result<OpenObject> {
        let mut open = ObjectBuilder::default().name("edgelat_all")?.open_memory(&object())?;
        for mut program in open.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let wanted = [FAMILY_PROGRAMS, END_PROGRAMS].concat().contains(&name.as_str());
            program.set_autoload(wanted);
        }
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            match name.as_str() {
                map::FAMILY => map.set_max_entries(processes)?,
                name if name.ends_with(map::PRICES_SUFFIX) => map.set_autocreate(false)?,
                name if [map::EVENTS, map::THREADS].contains(&name) || name.contains('.') => {}
                _ => map.set_autocreate(false)?,
            }
        }
        Ok(open)
    }

    /// Reserves a number for a plan, with its switch.
    pub(crate) fn take(&self) -> Result<(u32, Switch), GuardError> {
        let mut taken = self.taken.borrow_mut();
        let free = (0..PLANS).find(|number| !taken.contains(number));
        let free = free.ok_or_else(|| GuardError::Unsupported {
            what: text(format_args!("measure by more than {PLANS} plans")),
            reason: text("all switches are in use; measure fewer processes"),
        })?;
        taken.push(free);
        Ok((free, self.switches.begin(free)))
    }

    /// Releases a plan, with all that was known of it.
    pub(crate) fn release(&self, plan: u32) {
        let here: Vec<(i32, u32)> = self.family.keys().filter_map(|key| member_of(&key)).collect();
        let pids: std::collections::BTreeSet<i32> = here.into_iter().map(|(pid, _)| pid).collect();
        pids.into_iter().for_each(|pid| self.remove(pid, plan));
        // Events until now belong to this plan and not to the next plan with its number.
        _ = self.events_of(plan);
        self.taken.borrow_mut().retain(|taken| *taken != plan);
    }

    /// A map that all objects share.
    pub(crate) fn shared(&self, name: &str) -> libbpf_rs::Result<BorrowedFd<'_>> {
        map_fd(&self.object, |found| {
            found == name || name.contains('.') && found.ends_with(map::CONTROL_SUFFIX)
        })
        .map_err(|error| Error::from(std::io::Error::other(error.to_string())))
    }

    /// The plans of a process, each with its marks.
    fn plans_of(&self, pid: i32) -> Vec<u32> {
        let value = |nth: u32| {
            let found = self.family.lookup(&member(pid, nth), MapFlags::ANY).ok()??;
            Some(u32::from_ne_bytes(found.try_into().ok()?))
        };
        (0..MEMBER_PLANS).map_while(value).collect()
    }

    fn put(&self, pid: i32, nth: u32, plan: u32) -> Result<(), GuardError> {
        self.family
            .update(&member(pid, nth), &plan.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| GuardError::Map { reason: text(format_args!("family: {error}")) })
    }

    /// Watches a process for a plan with its marks.
    pub(crate) fn add(&self, pid: i32, plan: u32, marks: u32) -> Result<(), GuardError> {
        let plans = self.plans_of(pid);
        let place = plans.iter().position(|known| is(*known, plan));
        let place = place.unwrap_or(plans.len()) as u32;
        if place >= MEMBER_PLANS {
            let what = text(format_args!("measure process {pid} by more than {MEMBER_PLANS} plans"));
            return Err(GuardError::Unsupported { what, reason: text("its place in the table is full") });
        }
        self.put(pid, place, plan | marks)
    }

    /// Stops watching a process for a plan.
    pub(crate) fn remove(&self, pid: i32, plan: u32) {
        let plans = self.plans_of(pid);
        let Some(at) = plans.iter().position(|known| is(*known, plan)) else { return };
        let last = plans.len() - 1;
        // Without a gap, and never without another plan that is there.
        if at != last && self.put(pid, at as u32, plans[last]).is_err() {
            return;
        }
        // The process may have ended, and its places with it.
        _ = self.family.delete(&member(pid, last as u32));
    }

    /// Events of a plan's processes since the last call.
    pub(crate) fn events_of(&self, plan: u32) -> Vec<FamilyEvent> {
        // An interrupted poll loses nothing: the ring keeps what was not consumed.
        _ = self.ring.poll(Duration::ZERO);
        self.queues.borrow_mut().remove(&plan).unwrap_or_default().into()
    }

    /// Readable if there are events.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring buffer owns its epoll descriptor and lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }
}

fn refused(what: &str, error: &Error) -> GuardError {
    GuardError::Unsupported {
        what: text("watch the processes that are measured"),
        reason: text(format_args!("{what}: {error}")),
    }
}

/// True if `known`, with its marks, is that plan.
fn is(known: u32, plan: u32) -> bool {
    known & (PLANS - 1) == plan
}

fn member(pid: i32, nth: u32) -> [u8; size_of::<Member>()] {
    let mut key = [0; size_of::<Member>()];
    key[std::mem::offset_of!(Member, tgid)..][..4].copy_from_slice(&pid.to_ne_bytes());
    key[std::mem::offset_of!(Member, nth)..][..4].copy_from_slice(&nth.to_ne_bytes());
    key
}

fn member_of(key: &[u8]) -> Option<(i32, u32)> {
    let word = |at: usize| Some(u32::from_ne_bytes(key.get(at..at + 4)?.try_into().ok()?));
    Some((word(std::mem::offset_of!(Member, tgid))? as i32, word(std::mem::offset_of!(Member, nth))?))
}

/// The plan of an event, and the event.
fn parse_event(bytes: &[u8]) -> Option<(u32, FamilyEvent)> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let kind = word(std::mem::offset_of!(layout::Event, kind))?;
    let pid = word(std::mem::offset_of!(layout::Event, tgid))? as i32;
    let value = word(std::mem::offset_of!(layout::Event, value))?;
    let detail = word(std::mem::offset_of!(layout::Event, detail))?;
    let plan = word(std::mem::offset_of!(layout::Event, plan))?;
    let event = match kind {
        layout::EVENT_FORK => Some(FamilyEvent::Fork { child: value as i32, at_us: detail }),
        layout::EVENT_EXEC => Some(FamilyEvent::Exec(Exec {
            pid,
            time_ns: u64::from(detail & !layout::EXEC_BY_THREAD) << 32 | u64::from(value),
            by_thread: detail & layout::EXEC_BY_THREAD != 0,
        })),
        layout::EVENT_NEW_CODE => Some(FamilyEvent::NewCode),
        layout::EVENT_UNKNOWN_SITE => Some(FamilyEvent::UnknownSite { pid }),
        layout::EVENT_FAULT => {
            let is = |flag| value & flag != 0;
            let (handled, sent) = (is(layout::FAULT_HANDLED), is(layout::FAULT_SENT));
            let signal = (value & !(layout::FAULT_HANDLED | layout::FAULT_SENT)) as i32;
            Some(FamilyEvent::Fault { pid, fault: Fault { signal, code: detail as i32, handled, sent } })
        }
        layout::EVENT_PAID => Some(FamilyEvent::Paid { pid, ns: u64::from(value) * 1000 }),
        layout::EVENT_EXIT => Some(FamilyEvent::Exit { pid, status: value, lived_us: detail }),
        _ => None,
    };
    Some((plan, event?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use nix::sys::signal::{Signal, kill, raise, signal};
    use nix::unistd::Pid;

    use super::*;

    /// Lifetime of a process that ended with this status.
    fn ended(events: &[FamilyEvent], process: i32, with: u32) -> Option<u32> {
        events.iter().find_map(|event| match event {
            FamilyEvent::Exit { pid, status, lived_us } if (*pid, *status) == (process, with) => {
                Some(*lived_us)
            }
            _ => None,
        })
    }

    /// A shell that waits for a line and then runs `then`. It has started: its start raises no
    /// event.
    fn waiting(then: &str) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("echo; read _; {then}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        assert_eq!(shell.stdout.as_mut().unwrap().read(&mut [0]).unwrap(), 1);
        shell
    }

    /// Next events of a plan.
    fn next(watchers: &Watchers, plan: u32) -> Vec<FamilyEvent> {
        let begun = Instant::now();
        loop {
            let events = watchers.events_of(plan);
            if !events.is_empty() {
                return events;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is told");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_fault_turns_off_every_plan_of_the_process_and_no_other() {
        let watchers = Watchers::new(16).unwrap();
        let (mut one, mut other) = (waiting(""), waiting(""));
        let (pid, other_pid) = (one.id() as i32, other.id() as i32);
        let plans: Vec<(u32, Switch)> = (0..4).map(|_| watchers.take().unwrap()).collect();
        for (plan, marks) in [(0, 0), (1, 0), (2, layout::MEMBER_UNHANDLED)] {
            watchers.add(pid, plan, marks).unwrap();
            watchers.add(pid, plan, marks).unwrap();
        }
        watchers.add(other_pid, 3, 0).unwrap();
        assert_eq!(watchers.plans_of(pid).len(), 3, "each once");
        watchers.remove(pid, 0);
        assert!(plans.iter().all(|(_, switch)| switch.arm()));
        kill(Pid::from_raw(pid), Signal::SIGSEGV).unwrap();
        one.wait().unwrap();
        for plan in [1, 2] {
            let events = next(&watchers, plan);
            assert!(matches!(events[0], FamilyEvent::Fault { pid: told, .. } if told == pid), "{events:?}");
            assert!(plans[plan as usize].1.faulted());
        }
        assert!(!plans[0].1.faulted() && !plans[3].1.faulted());
        assert!(watchers.plans_of(pid).is_empty(), "an end forgets the process");
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(ended(&next(&watchers, 3), other_pid, Signal::SIGKILL as u32).is_some());
    }

    #[test]
    fn a_child_is_in_the_plans_of_its_parent() {
        let watchers = Watchers::new(16).unwrap();
        for plan in 0..2 {
            assert_eq!(watchers.take().unwrap().0, plan);
        }
        let mut shell = waiting("sh -c 'sleep 0.1; exit 3' & wait");
        let pid = shell.id() as i32;
        for plan in 0..2 {
            watchers.add(pid, plan, 0).unwrap();
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
        for plan in 0..2 {
            let events = next(&watchers, plan);
            let forked = |event: &FamilyEvent| match event {
                FamilyEvent::Fork { child, .. } => Some(*child),
                _ => None,
            };
            let child = events.iter().find_map(forked).unwrap();
            assert!(events.iter().any(|event| matches!(event, FamilyEvent::Exec(Exec { pid, by_thread: false, .. }) if *pid == child)), "{events:?}");
            let lived = ended(&events, child, 3 << 8).unwrap_or_else(|| panic!("{events:?}"));
            assert!((100_000..10_000_000).contains(&lived), "{lived} us");
        }
    }

    #[test]
    fn a_number_that_is_used_again_has_nothing_of_the_plan_before() {
        let watchers = Watchers::new(16).unwrap();
        let mut process = waiting("");
        let pid = process.id() as i32;
        let (plan, switch) = watchers.take().unwrap();
        let (other, _) = watchers.take().unwrap();
        watchers.add(pid, plan, 0).unwrap();
        watchers.add(pid, other, 0).unwrap();
        assert!(switch.arm());
        watchers.release(plan);
        let (again, switch) = watchers.take().unwrap();
        assert_eq!((again, watchers.plans_of(pid)), (plan, vec![other]));
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(ended(&next(&watchers, other), pid, Signal::SIGKILL as u32).is_some());
        assert!(watchers.events_of(again).is_empty() && switch.arm(), "it begins switched off, not faulted");
    }

    /// As many plans as fit, for every process on the machine at the price of one.
    #[test]
    fn a_signal_costs_the_same_with_one_plan_and_with_many() {
        let watchers = Watchers::new(16).unwrap();
        extern "C" fn nothing(_: nix::libc::c_int) {}
        // SAFETY: the handler does nothing.
        unsafe { signal(Signal::SIGUSR2, nix::sys::signal::SigHandler::Handler(nothing)) }.unwrap();
        let median = || {
            let mut took: Vec<Duration> = (0..999)
                .map(|_| {
                    let begun = Instant::now();
                    raise(Signal::SIGUSR2).unwrap();
                    begun.elapsed()
                })
                .collect();
            took.sort_unstable();
            took[took.len() / 2]
        };
        let _one = watchers.take().unwrap();
        let alone = median();
        let _many: Vec<_> = (0..500).map(|_| watchers.take().unwrap()).collect();
        assert_eq!(watchers._links.len(), END_PROGRAMS.len() + FAMILY_PROGRAMS.len());
        let among_many = median();
        assert!(among_many < 3 * alone, "{alone:?} and {among_many:?}");
    }

    #[test]
    fn events_that_are_cut_off_or_unknown_are_nothing() {
        let words = |words: [u32; 5]| words.map(u32::to_ne_bytes).as_flattened().to_vec();
        let fork = words([layout::EVENT_FORK, 7, 1, 77, 5]);
        assert_eq!(parse_event(&fork), Some((7, FamilyEvent::Fork { child: 77, at_us: 5 })));
        let signal = 11 | layout::FAULT_HANDLED;
        let told = words([layout::EVENT_FAULT, 9, 88, signal, -6i32 as u32]);
        let fault = Fault { signal: 11, code: -6, handled: true, sent: false };
        assert_eq!(parse_event(&told), Some((9, FamilyEvent::Fault { pid: 88, fault })));
        assert_eq!(parse_event(&told[..10]), None);
        assert_eq!(parse_event(&words([99, 0, 0, 0, 0])), None);
    }
}
