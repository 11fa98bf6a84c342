//! The BPF object in the kernel: chosen programs, maps sized by a plan, constants, the switch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Mutex;

use caps::Capability;
use edgelat_bpf::Switch;
use edgelat_bpf::layout::{
    self, CodeSet, CodeSlot, CodeText, FRAME_WAYS, FrameSet, PythonPool, Row, SiteKey,
};
use edgelat_bpf::object::{CONSTANTS_BYTES, Programs, PythonConstants, constants, map, object};
use libbpf_rs::{
    ErrorKind, Map, MapCore, MapFlags, Object, ObjectBuilder, OpenObject, PrintLevel, ProgramMut,
};
use nix::errno::Errno;

use crate::cpus::CpuSet;
use crate::error::{GuardError, Os, text};
use crate::features;
use crate::prices::PRICES;
use crate::rights;
use crate::watchers::{FamilyEvent, Watchers};

/// Processes that a family may have at the same time.
pub(crate) const FAMILY: usize = 1024;

/// Processes of a family that fit in the map of sites by address, while the plan is small.
const SITE_PROCESSES: u32 = 64;
/// Entries of that map beyond which it has room for fewer processes.
const SITE_ENTRIES: u32 = 1 << 14;
/// Bytes of a hash bucket (`struct bucket`, kernel/bpf/hashtab.c).
const BUCKET_BYTES: u64 = 16;
/// Bytes of an element of that map: `struct htab_elem` with key and value, kernel/bpf/hashtab.c.
const SITE_BYTES: u64 = 48 + size_of::<SiteKey>() as u64 + size_of::<u64>() as u64;

/// A site of a process by its address, and its index there: see `SiteKey`.
pub(crate) type SiteAt = (u64, u32);

/// Required capacity of an object's maps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) programs: Programs,
    /// Rows, the calibration's included; the last one counts hits at unknown addresses.
    pub(crate) functions: u32,
    pub(crate) frames: u32,
    /// Sites of one process.
    pub(crate) sites: u32,
    pub(crate) follow_forks: bool,
    /// A signal that a process has a handler for is no fault.
    pub(crate) only_unhandled: bool,
    /// Calls that begin on other CPUs do not count.
    pub(crate) cpus: Option<CpuSet>,
    /// Functions of Python are measured.
    pub(crate) python: Option<PythonConstants>,
    /// Functions of Go are measured, for which the programs read memory of the target.
    pub(crate) goroutines: bool,
}

impl Shape {
    /// Entries of the map of sites by address: every process of a family has its own. The kernel makes all of
    /// them at once, so a large plan gets fewer processes, never fewer than two.
    fn site_entries(&self) -> u32 {
        let processes = if self.follow_forks { SITE_PROCESSES } else { 2 };
        let wanted = self.sites.saturating_mul(processes).min(SITE_ENTRIES);
        wanted.max(self.sites.saturating_mul(2))
    }

    /// True if the programs may wait for target memory that the kernel is moving. Those by address
    /// do if they can: kernels that check all callable functions, reached or not, need that (6.18
    /// does).
    fn may_sleep(&self) -> bool {
        (self.goroutines || self.programs.by_address()) && features::may_sleep().is_ok()
    }

    /// Sets of the frame table after those of calls.
    fn await_sets(&self) -> u32 {
        self.python.and_then(|python| python.awaits).map_or(0, |awaits| awaits.sets)
    }

    /// Bytes of kernel memory that the arrays and tables take, without the kernel's own book-keeping.
    pub(crate) fn bytes(&self, lanes: u32) -> u64 {
        let frames = u64::from(self.frames.div_ceil(FRAME_WAYS as u32).max(1).next_power_of_two());
        let sites =
            if self.programs.by_address() { u64::from(self.site_entries().next_power_of_two()) } else { 0 };
        u64::from(self.functions) * u64::from(lanes) * size_of::<Row>() as u64
            + (frames + u64::from(self.await_sets())) * size_of::<FrameSet>() as u64
            + sites * SITE_BYTES
            + sites.next_power_of_two() * BUCKET_BYTES
            + self.python.map_or(0, |python| {
                u64::from(python.slots) * size_of::<CodeSlot>() as u64
                    + u64::from(python.sets) * size_of::<CodeSet>() as u64
                    + u64::from(python.texts) * size_of::<CodeText>() as u64
                    + size_of::<PythonPool>() as u64
            })
    }
}

/// A loaded object. Dropping it removes programs and maps (probes hold their own references).
pub(crate) struct Loaded {
    pub(crate) object: Object,
    pub(crate) programs: Programs,
    pub(crate) lanes: u32,
    pub(crate) frame_sets: u32,
    pub(crate) switch: Switch,
    watchers: Rc<Watchers>,
    plan: u32,
    marks: u32,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.watchers.release(self.plan);
    }
}

impl Loaded {
    /// Loads the programs that `shape` names.
    pub(crate) fn new(shape: &Shape, watchers: &Rc<Watchers>) -> Result<Self, GuardError> {
        let lanes = libbpf_rs::num_possible_cpus()
            .map_err(|error| GuardError::Map { reason: text(format_args!("number of CPUs: {error}")) })?
            as u32;
        let ways = FRAME_WAYS as u32;
        let frame_sets = shape.frames.div_ceil(ways).max(1).next_power_of_two();
        let messages = Messages::record();
        let (plan, switch) = watchers.take()?;
        let object = Self::open(shape, watchers, plan, lanes, frame_sets).and_then(OpenObject::load);
        let object = object.map_err(|error| {
            watchers.release(plan);
            messages.explain(&error)
        })?;
        drop(messages);
        let marks = if shape.only_unhandled { layout::MEMBER_UNHANDLED } else { 0 };
        let watchers = Rc::clone(watchers);
        let frame_sets = frame_sets + shape.await_sets();
        Ok(Self { object, programs: shape.programs, lanes, frame_sets, switch, watchers, plan, marks })
    }

    /// The object of `shape`, not yet shown to the kernel.
    fn open(
        shape: &Shape,
        watchers: &Watchers,
        plan: u32,
        lanes: u32,
        frame_sets: u32,
    ) -> libbpf_rs::Result<OpenObject> {
        let mut open = ObjectBuilder::default().name("edgelat")?.open_memory(&object())?;
        let may_sleep = shape.may_sleep();
        for mut program in open.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let chosen = name == shape.programs.entry() || Some(name.as_str()) == shape.programs.exit();
            program.set_autoload(chosen);
            if chosen && may_sleep {
                program.set_flags(libbpf_rs::libbpf_sys::BPF_F_SLEEPABLE);
            }
        }
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            // A map that no chosen program uses is not made at all.
            let size = match name.as_str() {
                map::ROWS => Some(shape.functions * lanes),
                map::FRAMES => shape.programs.maps_frames().then_some(frame_sets + shape.await_sets()),
                map::FRAME_HASH => {
                    (shape.programs == Programs::AddressHash).then_some(frame_sets * FRAME_WAYS as u32)
                }
                map::SITES => shape.programs.by_address().then(|| shape.site_entries()),
                map::CODE_SLOTS | map::CODE_CACHE | map::PYTHON_POOL | map::CODE_TEXTS
                    if !shape.programs.refers_to_python() =>
                {
                    None
                }
                map::CODE_SLOTS => Some(shape.python.map_or(1, |python| python.slots)),
                map::CODE_CACHE => Some(shape.python.map_or(1, |python| python.sets)),
                map::PYTHON_POOL => Some(1),
                map::CODE_TEXTS => Some(shape.python.map_or(1, |python| python.texts)),
                // The watchers' object has it.
                map::FAMILY => None,
                name if [map::EVENTS, map::THREADS].contains(&name)
                    || name.ends_with(map::CONTROL_SUFFIX) =>
                {
                    map.reuse_fd(watchers.shared(name)?)?;
                    continue;
                }
                name if name.ends_with(map::CONSTANTS_SUFFIX) => {
                    if let Some(bytes) =
                        map.initial_value_mut().filter(|bytes| bytes.len() == CONSTANTS_BYTES)
                    {
                        bytes.copy_from_slice(&constants(
                            lanes,
                            frame_sets,
                            shape.functions - 1,
                            plan,
                            shape.cpus.as_ref().map(CpuSet::words),
                            shape.python.as_ref(),
                            may_sleep,
                        ));
                    }
                    continue;
                }
                _ => continue,
            };
            match size {
                Some(entries) => map.set_max_entries(entries.max(1))?,
                None => map.set_autocreate(false)?,
            }
        }
        Ok(open)
    }

    /// A program by name.
    pub(crate) fn program(&self, name: &str) -> Result<ProgramMut<'_>, GuardError> {
        program(&self.object, name)
    }

    /// A copy of a map's descriptor for the collector.
    pub(crate) fn descriptor(&self, name: &str) -> Result<OwnedFd, GuardError> {
        map_fd(&self.object, |found| found == name)?
            .try_clone_to_owned()
            .map_err(|error| GuardError::Map { reason: text(error) })
    }

    /// Makes a site known by its address in a process.
    pub(crate) fn add_site(&self, pid: i32, at: SiteAt, cookie: u64) -> Result<(), GuardError> {
        self.update(map::SITES, &site_key(pid, at), &cookie.to_ne_bytes())
    }

    /// Forgets a site of a process that has ended.
    pub(crate) fn remove_site(&self, pid: i32, at: SiteAt) {
        if let Some(sites) = self.object.maps().find(|m| m.name() == map::SITES) {
            // Absent only if entering it failed.
            _ = sites.delete(&site_key(pid, at));
        }
    }

    /// Watches a process: its forks, faults and end are reported from now on.
    pub(crate) fn add_family(&self, pid: i32) -> Result<(), GuardError> {
        self.watchers.add(pid, self.plan, self.marks)
    }

    /// Forgets a process.
    pub(crate) fn remove_family(&self, pid: i32) {
        self.watchers.remove(pid, self.plan);
    }

    fn update(&self, name: &str, key: &[u8], value: &[u8]) -> Result<(), GuardError> {
        let found = self.object.maps().find(|m| m.name() == name);
        let found = found.ok_or_else(|| GuardError::Map { reason: text(format_args!("no map {name}")) })?;
        found
            .update(key, value, MapFlags::ANY)
            .map_err(|error| GuardError::Map { reason: text(format_args!("{name}: {error}")) })
    }

    /// Sets the price of a hit from now on, in nanoseconds by the PRICE_ constants.
    pub(crate) fn set_prices(&self, ns: &[u32; PRICES]) -> Result<(), GuardError> {
        let name = |map: &Map<'_>| map.name().to_string_lossy().into_owned();
        let found = self.object.maps().map(|map| name(&map)).find(|name| name.ends_with(map::PRICES_SUFFIX));
        let bytes: Vec<u8> = ns.iter().flat_map(|price| price.to_ne_bytes()).collect();
        self.update(&found.unwrap_or_default(), &0u32.to_ne_bytes(), &bytes)
    }

    /// Events of the family since the last call.
    pub(crate) fn family_events(&self) -> Vec<FamilyEvent> {
        self.watchers.events_of(self.plan)
    }

    /// Readable if there are events of any plan.
    pub(crate) fn family_fd(&self) -> BorrowedFd<'_> {
        self.watchers.fd()
    }
}

pub(crate) fn program<'o>(object: &'o Object, name: &str) -> Result<ProgramMut<'o>, GuardError> {
    let found = object.progs_mut().find(|program| program.name() == name);
    found.ok_or_else(|| GuardError::Map { reason: text(format_args!("the object has no program {name}")) })
}

pub(crate) fn map_fd(object: &Object, wanted: impl Fn(&str) -> bool) -> Result<BorrowedFd<'_>, GuardError> {
    let found = object.maps().find(|m| m.name().to_str().is_some_and(&wanted));
    let found = found.ok_or_else(|| GuardError::Map { reason: text("a map is not in the object") })?;
    let fd = found.as_fd();
    // SAFETY: the object owns the descriptor and the result borrows the object; `Map` is only a view of it.
    Ok(unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&fd)) })
}

fn site_key(pid: i32, (address, nth): SiteAt) -> [u8; size_of::<SiteKey>()] {
    let mut key = [0; size_of::<SiteKey>()];
    key[std::mem::offset_of!(SiteKey, ip)..][..8].copy_from_slice(&address.to_ne_bytes());
    key[std::mem::offset_of!(SiteKey, tgid)..][..4].copy_from_slice(&pid.to_ne_bytes());
    key[std::mem::offset_of!(SiteKey, nth)..][..4].copy_from_slice(&nth.to_ne_bytes());
    key
}

/// Error number behind an error of libbpf-rs, which keeps it in its text only.
pub(crate) fn os_error(error: &libbpf_rs::Error) -> Os {
    let text = format!("{error:#}");
    let number = text.rsplit_once("(os error ").and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
    match (number, error.kind()) {
        (Some(number), _) => Os(number),
        (None, ErrorKind::PermissionDenied) => Errno::EPERM.into(),
        (None, _) => Errno::EIO.into(),
    }
}

/// The error if the kernel accepts no program from this caller.
pub(crate) fn load_refused(os: Os) -> GuardError {
    rights::refused("load BPF programs", os, &[Capability::CAP_BPF, Capability::CAP_PERFMON])
}

/// Messages of libbpf, kept for the error message instead of going to stderr.
pub(crate) struct Messages;

static MESSAGES: Mutex<String> = Mutex::new(String::new());
/// Bytes of messages that are kept: the end of a verifier log states the reason.
const MESSAGES_BYTES: usize = 8192;

impl Messages {
    pub(crate) fn record() -> Self {
        with_messages(String::clear);
        libbpf_rs::set_print(Some((PrintLevel::Warn, |_, line| {
            with_messages(|all| {
                all.push_str(&line);
                let excess = all.len().saturating_sub(MESSAGES_BYTES);
                let cut = (excess..all.len()).find(|at| all.is_char_boundary(*at)).unwrap_or(0);
                all.drain(..cut);
            });
        })));
        Self
    }

    pub(crate) fn explain(&self, error: &libbpf_rs::Error) -> GuardError {
        let os = os_error(error);
        // The end of a long log is kept, and has these words as well.
        if os.denied() && with_messages(|all| !all.contains("verif") && !all.contains("PROG LOAD LOG")) {
            // Before 5.11 maps count to the limit of locked memory, which libbpf then raises.
            if with_messages(|all| all.contains("failed to create")) {
                return rights::refused(
                    "make BPF maps",
                    os,
                    &[Capability::CAP_BPF, Capability::CAP_SYS_RESOURCE],
                );
            }
            return load_refused(os);
        }
        // The verifier's reason is in its last lines.
        let log = with_messages(|all| {
            let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
            lines[lines.len().saturating_sub(6)..].join("; ")
        });
        GuardError::Load { os, log: text(log) }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        libbpf_rs::set_print(None);
    }
}

fn with_messages<T>(f: impl FnOnce(&mut String) -> T) -> T {
    f(&mut MESSAGES.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

#[cfg(test)]
mod tests;
