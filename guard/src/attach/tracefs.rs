//! Events of the tracing file system that hold many probes each.
//!
//! This route needs the least privilege before 6.6, and closing one event removes all its probes
//! after one grace period. A definition outlives its maker: those of a killed agent are removed by
//! its janitor, and by any later command. The file system need not be mounted: it is opened through
//! a mount without a path.

use std::cell::{Cell, OnceCell};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};

use super::copies::Copies;
use super::owner::{Owner, PREFIX};
use super::perf::{self, Event};
use super::{ImageSites, Site, close_together, failed, janitor, once, pause, slice, trial};
use crate::error::{GuardError, Os, text};
use crate::load::Loaded;
use crate::protocol::{Route, TargetId};
use crate::rights;
use crate::target::{Target, in_first_pid_namespace, path_of};

/// TRACEFS_MAGIC, include/uapi/linux/magic.h.
const TRACEFS: FsType = FsType(0x7472_6163);
/// Probes in one event. The kernel compares a new probe with all before it, and opening an event
/// holds the target's mappings for all of them.
const PROBES_PER_EVENT: usize = 1000;
/// Size of the pieces that the kernel reads (WRITE_BUFSIZE, kernel/trace/trace_dynevent.c).
const WRITE_BYTES: usize = 4000;
/// Longest line of uprobe_events that the sweep reads.
const LINE_BYTES: u64 = 8192;
/// Most lines that the sweep reads.
const LINES: usize = 1 << 20;

/// The tracing file system, opened once; the same descriptors remove definitions without any right.
#[derive(Debug)]
pub(crate) struct Tracefs {
    root: Arc<OwnedFd>,
    /// `uprobe_events`, for writing.
    events_file: Arc<File>,
    owner: Owner,
    /// `uprobe_events`, for reading, and with the lock of the owner.
    held: File,
    /// Probes that an event can hold, once tried.
    per_event: OnceCell<usize>,
    /// A janitor removes the definitions if this process cannot.
    outlived: Cell<bool>,
}

impl Tracefs {
    /// Opens the file system and removes the events of agents that no longer run.
    pub(crate) fn open() -> Result<Self, Errno> {
        let root = match mounted() {
            Some(root) => root,
            // Booted with lockdown=confidentiality the kernel makes none of the files that keep the
            // file system alive, and panics when its only mount is closed (fs/tracefs/inode.c: the
            // root is no inode of tracefs' own).
            None if perf::confidentiality() != Some(false) => return Err(Errno::EPERM),
            None => detached_mount()?,
        };
        // Without uprobe_events the kernel has no such events; failing early is better.
        let events_file = open_file(&root, "uprobe_events", OFlag::O_WRONLY | OFlag::O_APPEND)?;
        let owner = Owner::own()?;
        let held = open_file(&root, "uprobe_events", OFlag::O_RDONLY)?;
        owner.hold(&held)?;
        let tracefs = Self {
            root: Arc::new(root),
            events_file: Arc::new(events_file),
            owner,
            held,
            per_event: OnceCell::new(),
            outlived: Cell::new(false),
        };
        // Events that a sweep misses keep a file system busy until the next one. In another PID
        // namespace every owner looks gone.
        if in_first_pid_namespace() {
            tracefs.sweep();
        }
        Ok(tracefs)
    }

    /// Probes that one event can hold: many, or one if the kernel arms only the first. Tried once.
    ///
    /// # Errors
    /// [`GuardError::Route`] if the trial failed or counted another number.
    pub(crate) fn probes_per_event(&self) -> Result<usize, GuardError> {
        if let Some(known) = self.per_event.get() {
            return Ok(*known);
        }
        let failed = |reason: String| GuardError::Route { route: Route::Tracefs, reason: text(reason) };
        let per_event = match trial::counted(self) {
            Ok(2) => PROBES_PER_EVENT,
            Ok(1) => 1,
            Ok(counted) => return Err(failed(format!("a trial counted {counted} of 2 hits"))),
            Err(errno) => return Err(failed(format!("a trial of two probes failed: {}", errno.desc()))),
        };
        Ok(*self.per_event.get_or_init(|| per_event))
    }

    /// Removes events of agents that are gone.
    fn sweep(&self) {
        let stale =
            left_of(&self.held, |group| Owner::of(group).is_some_and(|owner| owner.is_gone(&self.held)));
        stale.iter().for_each(|event| _ = remove(&self.events_file, event));
    }

    /// Has definitions removed even if this process is killed.
    pub(crate) fn outlive(&self) {
        if self.outlived.replace(true) {
            return;
        }
        let started = open_file(&self.root, "uprobe_events", OFlag::O_RDONLY).and_then(|listing| {
            let own = Target::unchecked(TargetId(0), std::process::id() as i32).map_err(|_| Errno::ESRCH)?;
            let ended = own.pidfd().try_clone_to_owned().map_err(errno_of)?;
            janitor::start(&self.owner, listing, &self.events_file, ended)
        });
        // If the start failed, the next command sweeps.
        _ = started;
    }

    /// Returns a detector for copies of the events that are opened from now on.
    pub(super) fn copies(&self) -> Result<Copies, Errno> {
        Copies::new(&self.held)
    }

    /// Defines an event with a probe at each site. `copies` detects processes with it open.
    pub(super) fn define(
        &self,
        image: &ImageSites,
        sites: &[Site],
        copies: &Arc<Mutex<Copies>>,
    ) -> Result<Definition, Errno> {
        /// Events of this process, whose id is in the group. A second of one name would join the
        /// first, and be freed with it while hit (see `copies`): **ran** with a count per guard.
        static DEFINED: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}/e{}", self.owner.group(), DEFINED.fetch_add(1, Ordering::Relaxed));
        let (root, events_file) = (Arc::clone(&self.root), Arc::clone(&self.events_file));
        let definition = Definition { root, events_file, name, copies: Arc::clone(copies) };
        let mut file = &*self.events_file;
        let path = path_of(&*image.file);
        let mut text = String::with_capacity(WRITE_BYTES);
        for (index, site) in sites.iter().enumerate() {
            _ = writeln!(text, "p:{} {path}:{:#x}", definition.name, site.offset);
            if text.len() > WRITE_BYTES - 256 || index + 1 == sites.len() {
                file.write_all(text.as_bytes()).map_err(errno_of)?;
                text.clear();
            }
        }
        Ok(definition)
    }
}

/// An event defined by this process; removed when dropped, once no process can have it open.
#[derive(Debug)]
pub(super) struct Definition {
    root: Arc<OwnedFd>,
    events_file: Arc<File>,
    name: String,
    copies: Arc<Mutex<Copies>>,
}

impl Definition {
    /// Number that perf uses for the event.
    pub(super) fn id(&self) -> Result<u64, Errno> {
        let mut digits = String::new();
        let file = open_file(&self.root, &format!("events/{}/id", self.name), OFlag::O_RDONLY)?;
        file.take(32).read_to_string(&mut digits).map_err(errno_of)?;
        digits.trim().parse().map_err(|_| Errno::EBADMSG)
    }
}

impl Drop for Definition {
    fn drop(&mut self) {
        // If a process still has it open the definition stays, and the next command sweeps it.
        if self.copies.lock().is_ok_and(|mut copies| copies.gone()) {
            _ = remove(&self.events_file, &self.name);
        }
    }
}

/// Events of one process. Dropping them closes the events, then removes their definitions.
pub(crate) struct Probes {
    events: Vec<Event>,
    definitions: Vec<Definition>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        // An event that is open cannot be removed.
        close_together(std::mem::take(&mut self.events));
        self.definitions.clear();
    }
}

pub(super) fn attach(
    loaded: &Loaded,
    target: &Target,
    images: &[ImageSites],
    tracefs: &Tracefs,
) -> Result<Probes, GuardError> {
    let per_event = tracefs.probes_per_event()?;
    let mut probes = Probes { events: Vec::new(), definitions: Vec::new() };
    let copies =
        tracefs.copies().map_err(|errno| refused(target, images, errno, perf::tracepoints_refused))?;
    let copies = Arc::new(Mutex::new(copies));
    for image in images {
        let exit = loaded.programs.exit().map(|exit| (exit, &image.exits));
        for (program, sites) in exit.into_iter().chain([(loaded.programs.entry(), &image.entries)]) {
            let program = loaded.program(program)?;
            let sites = once(sites);
            let at_once = per_event.min(slice(sites.len()));
            for (index, sites) in sites.chunks(at_once).enumerate() {
                if index > 0 {
                    pause();
                }
                let definition = tracefs.define(image, sites, &copies).map_err(|errno| {
                    refused(target, images, errno, |os| {
                        rights::refused("write uprobe_events", os, &[Capability::CAP_DAC_OVERRIDE])
                    })
                })?;
                let event = definition
                    .id()
                    .and_then(|id| perf::open_tracepoint(id, target.pid))
                    .and_then(|event| cover(&copies, event))
                    .and_then(|event| perf::set(event, program.as_fd(), None))
                    .map_err(|errno| refused(target, images, errno, perf::tracepoints_refused));
                probes.definitions.push(definition);
                probes.events.push(event?);
            }
        }
    }
    Ok(probes)
}

/// Registers an opened event, of which no copy may exist when its definition is removed.
pub(super) fn cover(copies: &Mutex<Copies>, event: OwnedFd) -> Result<OwnedFd, Errno> {
    copies.lock().map_err(|_| Errno::EINVAL)?.cover(event)
}

/// Returns the error for a failed [`Tracefs::open`].
pub(super) fn cannot_open(errno: Errno) -> GuardError {
    match errno {
        // It is mounted, and its files are closed to users other than root.
        Errno::EACCES => {
            rights::refused("open the tracing file system", errno.into(), &[Capability::CAP_DAC_OVERRIDE])
        }
        Errno::EPERM => {
            let action = "mount the tracing file system, which `mount -t tracefs tracefs /sys/kernel/tracing` would do";
            rights::refused(action, errno.into(), &[Capability::CAP_SYS_ADMIN])
        }
        _ => {
            let reason = format_args!(
                "no tracing file system with uprobe_events: {} (CONFIG_UPROBE_EVENTS)",
                errno.desc()
            );
            GuardError::Route { route: Route::Tracefs, reason: text(reason) }
        }
    }
}

fn refused(
    target: &Target,
    images: &[ImageSites],
    errno: Errno,
    denied: impl Fn(Os) -> GuardError,
) -> GuardError {
    let os = Os::from(errno);
    if os.denied() {
        return denied(os);
    }
    failed(Route::Tracefs, target, images, os, "the file error_log of the tracing file system says more")
}

pub(super) fn remove(mut events_file: &File, event: &str) -> Result<(), Errno> {
    events_file.write_all(format!("-:{event}\n").as_bytes()).map_err(errno_of)
}

/// Events in `uprobe_events` whose groups are `wanted`, each once.
pub(super) fn left_of(listing: &File, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut listing = listing;
    if listing.seek(SeekFrom::Start(0)).is_err() {
        return Vec::new();
    }
    let mut reader = BufReader::new(listing);
    let mut line = Vec::new();
    let mut found: Vec<String> = Vec::new();
    // A group has up to thousands of lines; the result for a group is kept.
    let mut judged: Option<(String, bool)> = None;
    for _ in 0..LINES {
        line.clear();
        match reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let Some((event, group)) = event_of(&line) else { continue };
        if judged.as_ref().is_none_or(|(judged, _)| judged != group) {
            judged = Some((group.to_owned(), wanted(group)));
        }
        if judged.as_ref().is_some_and(|(_, wanted)| *wanted) && found.last().is_none_or(|last| last != event)
        {
            found.push(event.to_owned());
        }
    }
    found
}

/// Event and group of a line of uprobe_events (`p:GROUP/EVENT PATH:OFFSET`), if an agent made it.
fn event_of(line: &str) -> Option<(&str, &str)> {
    let event = line.split_once(':')?.1.split_ascii_whitespace().next()?;
    Some((event, event.split_once('/')?.0)).filter(|(_, group)| group.starts_with(PREFIX))
}

fn open_file(root: &OwnedFd, name: &str, flags: OFlag) -> Result<File, Errno> {
    openat(root, name, flags | OFlag::O_CLOEXEC, Mode::empty()).map(File::from)
}

pub(super) fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_raw(Os::from(error).0)
}

/// Opens the file system at its usual mount points.
fn mounted() -> Option<OwnedFd> {
    ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].into_iter().find_map(|path| {
        // O_PATH: without access to the folder, opening a file in it fails instead.
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty()).ok()?;
        (fstatfs(&root).ok()?.filesystem_type() == TRACEFS).then_some(root)
    })
}

/// Mounts it without a path (Linux 5.2), so that nothing on the machine changes.
fn detached_mount() -> Result<OwnedFd, Errno> {
    // include/uapi/linux/mount.h
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const FSMOUNT_CLOEXEC: u32 = 1;
    let owned = |result: i64| -> Result<OwnedFd, Errno> {
        let fd = Errno::result(result)? as i32;
        // SAFETY: only called with the result of a call that returns a new, unowned descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let none = std::ptr::null::<std::ffi::c_char>();
    // SAFETY: the name is a C string that outlives the call.
    let context =
        owned(unsafe { nix::libc::syscall(nix::libc::SYS_fsopen, c"tracefs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let fd = AsRawFd::as_raw_fd(&context);
    // SAFETY: this command takes neither key nor value.
    Errno::result(unsafe {
        nix::libc::syscall(nix::libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0)
    })?;
    // SAFETY: three integers.
    owned(unsafe { nix::libc::syscall(nix::libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0) })
}

/// Removes definitions of agents that no longer run, if the caller may.
pub(crate) fn sweep() {
    drop(Tracefs::open());
}

#[cfg(test)]
mod tests {
    use edgelat_bpf::layout::SITE_TWIN;
    use edgelat_bpf::object::Programs;

    use super::*;
    use crate::attach::text::Mappings;
    use crate::calibrate;
    use crate::load::Shape;
    use crate::protocol::Returns;

    #[test]
    fn the_trial_decides_how_many_probes_an_event_is_given_and_leaves_nothing() {
        let tracefs = Tracefs::open().unwrap();
        let counted = trial::counted(&tracefs).unwrap();
        assert!(counted == 2 || counted == 1, "{counted}");
        let per_event = if counted == 2 { PROBES_PER_EVENT } else { 1 };
        assert_eq!(tracefs.probes_per_event().unwrap(), per_event);
        let events = open_file(&tracefs.root, "uprobe_events", OFlag::O_RDONLY).unwrap();
        let own = tracefs.owner.group();
        // Other tests may have some meanwhile.
        crate::testing::eventually("it is left", || left_of(&events, |group| group == own).is_empty());
    }

    #[test]
    fn guards_of_one_process_have_events_of_their_own() {
        let copies = Arc::new(Mutex::new(Tracefs::open().unwrap().copies().unwrap()));
        let own = Target::unchecked(TargetId(0), std::process::id() as i32).unwrap();
        let images = calibrate::images(&own, 3, Returns::Ret, |_| true).unwrap();
        let sites: Vec<Site> = images[0].sites().copied().take(1).collect();
        let define = || Tracefs::open().unwrap().define(&images[0], &sites, &copies).unwrap();
        let (first, second) = (define(), define());
        assert_ne!(first.name, second.name);
        assert_ne!(first.id(), second.id());
    }

    #[test]
    fn what_an_agent_left_is_removed_once_nobody_can_have_it_open() {
        let tracefs = Tracefs::open().unwrap();
        // The first process has another start: without an owner, and unique to this test process.
        let group = format!("{PREFIX}1_{}", u64::MAX - u64::from(std::process::id()));
        let owner = Owner::of(&group).unwrap();
        let listing = || open_file(&tracefs.root, "uprobe_events", OFlag::O_RDONLY).unwrap();
        let left = || left_of(&listing(), |other| other == group).len();
        let held = listing();
        owner.hold(&held).unwrap();
        let exe = std::env::current_exe().unwrap();
        (&*tracefs.events_file)
            .write_all(format!("p:{group}/e0 {}:0x1000\n", exe.display()).as_bytes())
            .unwrap();
        tracefs.sweep();
        assert_eq!(left(), 1, "a child of its maker may have it open");
        drop(held);
        crate::testing::eventually("nobody has it open, and it stays", || {
            tracefs.sweep();
            left() == 0
        });
    }

    /// As on a kernel that arms only the first probe of an event.
    #[test]
    fn where_only_the_first_is_armed_each_probe_has_an_event_and_a_missing_one_is_seen() {
        let tracefs = Tracefs::open().unwrap();
        tracefs.per_event.set(1).unwrap();
        let own = Target::unchecked(TargetId(0), std::process::id() as i32).unwrap();
        let images = calibrate::images(&own, 3, Returns::Ret, |_| true).unwrap();
        let sites = images[0].sites().count();
        let shape = Shape {
            programs: Programs::AddressHash,
            functions: 16,
            frames: 100,
            sites: sites as u32,
            follow_forks: false,
            only_unhandled: false,
            cpus: None,
            python: None,
            goroutines: false,
        };
        let watchers = std::rc::Rc::new(crate::watchers::Watchers::new(8).unwrap());
        let loaded = Loaded::new(&shape, &watchers).unwrap();
        let probes = attach(&loaded, &own, &images, &tracefs).unwrap();
        let twins = images[0].sites().filter(|site| site.cookie & SITE_TWIN != 0).count();
        assert_eq!((twins, probes.definitions.len()), (2, sites - twins));
        let missing = |images: &[ImageSites]| {
            Mappings::of(&own, images).unwrap().not_armed(&own, images).unwrap().map(|(_, missing)| missing)
        };
        assert_eq!(missing(&images), None);
        drop(probes);
        assert_eq!(missing(&images), Some(sites as u32));
        // Only the first of each, as on such a kernel.
        let mut first = images.clone();
        first[0].entries.truncate(1);
        first[0].exits.truncate(1);
        let probes = attach(&loaded, &own, &first, &tracefs).unwrap();
        assert_eq!((missing(&first), missing(&images)), (None, Some(sites as u32 - 2)));
        drop(probes);
        // The trial shows whether this is such a kernel.
        let together = Tracefs::open().unwrap();
        together.per_event.set(PROBES_PER_EVENT).unwrap();
        let probes = attach(&loaded, &own, &images, &together).unwrap();
        assert_eq!(probes.definitions.len(), 2);
        let first_only = trial::counted(&together).unwrap() == 1;
        assert_eq!(missing(&images), first_only.then_some(sites as u32 - 2));
        drop(probes);
    }

    #[test]
    fn an_event_of_an_agent_is_known_by_its_group() {
        assert_eq!(
            event_of("p:edgelat_8_100/e0 /proc/self/fd/9:0x10"),
            Some(("edgelat_8_100/e0", "edgelat_8_100"))
        );
        assert_eq!(event_of("p:uprobes/e0 /x:0x10"), None);
        assert_eq!(event_of(""), None);
    }
}
