//! Probes: from the sites of a plan to the kernel and back.
//!
//! Three routes exist. They differ in the kernel version, in the privilege they need and above all
//! in the time that removing a thousand probes takes:
//!
//! | route | kernel | needs | a thousand functions off |
//! | --- | --- | --- | --- |
//! | [`multi`] | 6.6 | CAP_BPF, CAP_PERFMON | one grace period a link |
//! | [`tracefs`] | 5.11 | write access to uprobe_events, CAP_PERFMON | one grace period an event of many probes |
//! | [`single`] | 5.11 | CAP_SYS_ADMIN since July 2025 | one grace period a probe |
//!
//! Every probe is bound to one process. A probe on the file as such would run in every process that
//! executes the file, and overwriting the file in place under such a probe makes the next program
//! run wrong.
//!
//! A target's memory is checked before (`text.rs`, [`crate::memory`]) and after: a probe that the
//! kernel did not place is an error, never a function without calls.
//!
//! Exit sites are attached before entry sites, and all sites while the switch is off, so that each
//! call whose entry is seen also has its exit seen.

pub(crate) mod copies;
mod janitor;
mod multi;
mod owner;
pub(crate) mod pages;
pub(crate) mod perf;
mod single;
pub(crate) mod text;
pub(crate) mod tracefs;
mod trial;

use std::collections::HashSet;
use std::fs::File;
use std::rc::Rc;

use edgelat_bpf::layout::{SITE_EXITS, SITE_GOROUTINE, SITE_PYTHON, SITE_TWIN};
use edgelat_bpf::object::Programs;
use nix::errno::Errno;

use crate::error::{GuardError, Kind, Os, Text, text};
use crate::features;
use crate::image::mark_of;
use crate::load::{Loaded, SiteAt, load_refused};
use crate::maps::FileKey;
use crate::memory::{self, Groups};
use crate::protocol::{Returns, Route, Unfit, Unsound};
use crate::target::Target;
use text::Mappings;
use tracefs::Tracefs;

/// Most sites for which single events are used. The kernel schedules all of them in and out at
/// every switch to or from the target's main thread (Linux 6.18, kernel/events/core.c,
/// `ctx_sched_in`, `ctx_sched_out`): with hundreds, a program whose threads wake each other runs
/// several times slower, and no hit shows it.
pub(crate) const HANDFUL: usize = 64;

/// Sites attached at once, if there are more. The kernel takes the lock of the target's mappings
/// repeatedly meanwhile, and a thread that maps memory waits for all of them.
const SLICE: usize = 256;
/// Most slices of one image and program: each takes a descriptor in each process.
const SLICES: usize = 32;

/// Length of the slices of this many sites.
fn slice(sites: usize) -> usize {
    sites.div_ceil(SLICES).max(SLICE)
}

/// Lets threads of the target map memory between two slices.
fn pause() {
    std::thread::sleep(std::time::Duration::from_micros(500));
}

/// The sites of one image, checked.
#[derive(Debug, Clone)]
pub(crate) struct ImageSites {
    pub(crate) file: Rc<File>,
    /// File from which its bytes are read; differs from `file` if the image is a foreign file.
    pub(crate) bytes: Rc<File>,
    /// Key that finds the image among the mappings of a process.
    pub(crate) key: FileKey,
    pub(crate) entries: Vec<Site>,
    pub(crate) exits: Vec<Site>,
    /// Mark of the code at all sites when they were checked.
    pub(crate) mark: u64,
}

impl ImageSites {
    /// All sites, entries first.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.entries.iter().chain(&self.exits)
    }

    /// Returns true if a site is in Go code, where the program reads the target's memory.
    pub(crate) fn has_goroutines(&self) -> bool {
        self.sites().any(|site| site.cookie & SITE_GOROUTINE != 0)
    }

    /// Returns all sites in the order of programs that know only the address, each with its number
    /// among the sites at that address. A site marked as having a successor comes before it, and
    /// Python's comes first.
    pub(crate) fn numbered(&self) -> Vec<(&Site, u32)> {
        let lists = [(&self.entries, 0), (&self.exits, SITE_EXITS)];
        let mut all: Vec<_> =
            lists.iter().flat_map(|(sites, first)| sites.iter().map(|site| (site, *first))).collect();
        let place = |(site, first): &(&Site, u32)| (*first, site.offset);
        all.sort_by_key(|at| (place(at), at.0.cookie & SITE_PYTHON == 0, at.0.cookie & SITE_TWIN == 0));
        for same in all.chunk_by_mut(|one, other| place(one) == place(other)) {
            same.iter_mut().zip(0..).for_each(|(at, nth)| at.1 += nth);
        }
        all
    }

    /// Returns true if the code at the sites is the same now.
    pub(crate) fn are_as_checked(&self, file: &File) -> bool {
        let marks = self.sites().map(|site| mark_of(file, site.offset));
        marks.fold(0, u64::wrapping_add) == self.mark
    }
}

/// File offset of an instruction and the cookie of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) offset: u64,
    pub(crate) cookie: u64,
    /// Bytes of the function before the site that are also compared with memory.
    pub(crate) before: u8,
    /// Some kernels leave the shadow stack wrong here: at a call, which they emulate, or a return
    /// probe.
    pub(crate) unshadowed: bool,
}

/// Sites that get a probe if programs know only the address: one probe serves all sites at a place.
fn once(sites: &[Site]) -> Vec<Site> {
    let mut seen = HashSet::new();
    sites.iter().filter(|site| seen.insert(site.offset)).copied().collect()
}

/// Probes of one process. Dropping the value in any way removes them.
#[expect(dead_code, reason = "held for their drop")]
enum Probes {
    Multi(multi::Probes),
    Tracefs(tracefs::Probes),
    Single(single::Probes),
}

/// Everything attached to one process.
pub(crate) struct Attached {
    _probes: Probes,
    /// Sites entered for programs without cookies.
    addresses: Vec<SiteAt>,
    /// Number of processes that the OOM killer had ended before.
    kills: u64,
}

impl Attached {
    /// Returns true if the OOM killer has ended any process since.
    pub(crate) fn out_of_memory(&self) -> bool {
        memory::kills() > self.kills
    }

    /// Enters the addresses that are new, after the process has mapped an image elsewhere as well.
    pub(crate) fn renew(
        &mut self,
        loaded: &Loaded,
        target: &Target,
        images: &[ImageSites],
    ) -> Result<(), GuardError> {
        let known = std::mem::take(&mut self.addresses);
        self.addresses = enter_addresses(loaded, target, &Mappings::of(target, images)?, images)?;
        let here: HashSet<&SiteAt> = self.addresses.iter().collect();
        let gone = known.iter().filter(|address| !here.contains(address));
        gone.for_each(|address| loaded.remove_site(target.pid, *address));
        Ok(())
    }

    /// Removes the addresses of a process that has ended: they mean nothing any more.
    pub(crate) fn forget(&self, loaded: &Loaded, pid: i32) {
        self.addresses.iter().for_each(|address| loaded.remove_site(pid, *address));
    }
}

/// Route and programs of a future attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) route: Route,
    pub(crate) programs: Programs,
}

/// Reason why nothing is measured under lockdown=confidentiality.
pub(crate) const LOCKED_DOWN: &str = "it is locked down for confidentiality, so BPF programs may not read its memory \
     and tracing is off; boot with lockdown=integrity or without lockdown";

/// Chooses the way with the fewest needs among those that work here, or returns why none does.
pub(crate) fn choose(
    wanted: Option<Route>,
    returns: Returns,
    sites: usize,
    tracefs: &Result<&Tracefs, Errno>,
) -> Result<Way, GuardError> {
    // No route works without programs; one error is better than one per route.
    if let Err(errno @ (Errno::EPERM | Errno::EACCES)) = features::programs() {
        return Err(load_refused(errno.into()));
    }
    if perf::confidentiality() == Some(true) {
        return Err(GuardError::Unsupported { what: text("measure"), reason: text(LOCKED_DOWN) });
    }
    let routes: &[Route] = match &wanted {
        Some(route) => std::slice::from_ref(route),
        None => &[Route::UprobeMulti, Route::Tracefs, Route::Single],
    };
    let mut reasons = String::new();
    let mut denied = false;
    for &route in routes {
        let fits = can_use(route, returns, tracefs).and_then(|programs| {
            let one_by_one = match (route, tracefs) {
                (Route::Tracefs, Ok(tracefs)) => tracefs.probes_per_event()? == 1,
                (route, _) => route == Route::Single,
            };
            if one_by_one && (wanted.is_none() || route == Route::Single) && sites > HANDFUL {
                let only_one = match route {
                    Route::Tracefs => "this kernel arms only the first probe of a trace event, and ",
                    _ => "",
                };
                let reason = text(format_args!(
                    "{only_one}{sites} probes are too many for an event each: at every switch between threads the kernel goes \
                     through all of them, and removing them takes seconds; measure functions of up to {HANDFUL} probes, or by \
                     another route"
                ));
                return Err(GuardError::Route { route, reason });
            }
            Ok(programs)
        });
        match fits {
            Ok(programs) => return Ok(Way { route, programs }),
            Err(error) if wanted.is_some() => return Err(error),
            Err(error) => {
                denied |= error.kind() == Kind::Permission;
                reasons.push_str(&format!("{}: {}; ", route.name(), reason(&error)));
            }
        }
    }
    Err(GuardError::NoRoute { reasons: text(reasons.trim_end_matches("; ")), denied })
}

/// Returns why a route cannot be used, for a list that names the routes itself.
pub(crate) fn reason(error: &GuardError) -> String {
    match error {
        GuardError::Route { reason, .. } => reason.to_string(),
        other => other.to_string(),
    }
}

/// Returns the programs for a route on this kernel, or why it cannot be used.
pub(crate) fn can_use(
    route: Route,
    returns: Returns,
    tracefs: &Result<&Tracefs, Errno>,
) -> Result<Programs, GuardError> {
    let lacking = |reason: &str| GuardError::Route { route, reason: text(reason) };
    let by_address = || match features::compare_exchange() {
        Ok(()) => Programs::Address,
        Err(_) => Programs::AddressHash,
    };
    match (route, returns) {
        (Route::UprobeMulti, _) => {
            features::uprobe_multi().map_err(|_| {
                lacking("it needs uprobe_multi links that filter by process (Linux 6.6.32 or 6.9)")
            })?;
            Ok(match returns {
                Returns::Ret if features::write_registers().is_ok() => Programs::MultiWriting,
                Returns::Ret => Programs::Multi,
                Returns::Uretprobe if features::session().is_ok() => Programs::Session,
                Returns::Uretprobe => Programs::MultiReturn,
            })
        }
        (Route::Tracefs, Returns::Uretprobe) => {
            Err(lacking("a return probe of a trace event does not know its function; use --route single"))
        }
        (Route::Tracefs, Returns::Ret) => match tracefs {
            Ok(tracefs) => {
                perf::may_open_tracepoints()?;
                tracefs.probes_per_event().map(|_| by_address())
            }
            Err(errno) => Err(tracefs::cannot_open(*errno)),
        },
        (Route::Single, Returns::Ret) => perf::may_open_uprobes().map(|()| by_address()),
        (Route::Single, Returns::Uretprobe) => {
            perf::may_open_uprobes()?;
            match (features::attach_cookie(), features::compare_exchange()) {
                (Ok(()), Ok(())) => Ok(Programs::AddressReturn),
                _ => Err(lacking("return probes need attach cookies (Linux 5.15)")),
            }
        }
    }
}

/// Attaches the sites of `images` to a process whose memory allows it, and checks their presence.
///
/// # Errors
/// [`GuardError::Unfit`], [`GuardError::NoHeadroom`] before anything is attached;
/// [`GuardError::OutOfMemory`], [`GuardError::NotArmed`] and any kernel error while attaching;
/// [`GuardError::Traced`] before and after. Nothing is attached then.
pub(crate) fn cover(
    route: Route,
    loaded: &Loaded,
    target: &Target,
    images: &[ImageSites],
    tracefs: Option<&Tracefs>,
) -> Result<Attached, GuardError> {
    let pid = target.pid;
    let mapped = Mappings::of(target, images)?;
    // A child may have unmapped a library that its parent still has.
    let unfit = mapped.unfit(target, images)?.into_iter().find(|unfit| unfit.why != Unfit::Unmapped);
    if let Some(Unsound { function, why }) = unfit {
        return Err(GuardError::Unfit { pid, function, name: numbered(function), why });
    }
    Groups::of(target).allow(pid, mapped.bytes(images))?;
    target.is_left_to_us()?;
    let kills = memory::kills();
    let attached = attach_mapped(route, loaded, target, &mapped, images, tracefs).map_err(|error| {
        let out_of_memory = match &error {
            GuardError::Attach { os, .. } => os.0 == Errno::ENOMEM as i32,
            GuardError::NoProcess { .. } => memory::kills() > kills,
            _ => false,
        };
        if out_of_memory { GuardError::OutOfMemory { pid, sites: number_of(images) } } else { error }
    })?;
    let missing = match mapped.not_armed(target, images) {
        // Mapped elsewhere meanwhile, as by an exec: the current mappings count.
        Ok(Some(_)) => Mappings::of(target, images).and_then(|mapped| mapped.not_armed(target, images)),
        seen => seen,
    };
    let missing = missing.and_then(|missing| target.is_left_to_us().map(|()| missing));
    let error = match missing {
        Ok(None) => return Ok(attached),
        Ok(Some((function, missing))) => {
            let (name, sites) = (numbered(function), number_of(images));
            GuardError::NotArmed { pid, function, name, missing, sites, route }
        }
        Err(error) => error,
    };
    attached.forget(loaded, pid);
    Err(error)
}

/// Attaches the sites of `images` to one process.
pub(crate) fn attach(
    route: Route,
    loaded: &Loaded,
    target: &Target,
    images: &[ImageSites],
    tracefs: Option<&Tracefs>,
) -> Result<Attached, GuardError> {
    attach_mapped(route, loaded, target, &Mappings::of(target, images)?, images, tracefs)
}

fn attach_mapped(
    route: Route,
    loaded: &Loaded,
    target: &Target,
    mapped: &Mappings,
    images: &[ImageSites],
    tracefs: Option<&Tracefs>,
) -> Result<Attached, GuardError> {
    let kills = memory::kills();
    let addresses = match loaded.programs.by_address() {
        true => enter_addresses(loaded, target, mapped, images)?,
        false => Vec::new(),
    };
    let probes = match route {
        Route::UprobeMulti => multi::attach(loaded, target, images).map(Probes::Multi),
        Route::Tracefs => {
            let tracefs = tracefs.ok_or_else(|| GuardError::Route {
                route,
                reason: text("the tracing file system cannot be opened"),
            })?;
            tracefs::attach(loaded, target, images, tracefs).map(Probes::Tracefs)
        }
        Route::Single => single::attach(loaded, target, images).map(Probes::Single),
    };
    match probes {
        Ok(probes) => Ok(Attached { _probes: probes, addresses, kills }),
        Err(error) => {
            addresses.iter().for_each(|address| loaded.remove_site(target.pid, *address));
            Err(error)
        }
    }
}

/// Enters the address of each site in the process, for programs without cookies.
fn enter_addresses(
    loaded: &Loaded,
    target: &Target,
    mapped: &Mappings,
    images: &[ImageSites],
) -> Result<Vec<SiteAt>, GuardError> {
    let mut addresses = Vec::new();
    for image in images {
        for (site, nth) in image.numbered() {
            for address in mapped.addresses(image.key, site.offset) {
                loaded.add_site(target.pid, (address, nth), site.cookie)?;
                addresses.push((address, nth));
            }
        }
    }
    Ok(addresses)
}

/// Names a function by its number in the plan.
fn numbered(function: u32) -> Text {
    text(format_args!("function {function} of the plan"))
}

/// Number of probes of one process.
fn number_of(images: &[ImageSites]) -> u32 {
    images.iter().map(|image| image.sites().count()).sum::<usize>() as u32
}

/// Closes the holders of probes. Each close waits for a grace period of the kernel; waiting
/// together takes as long as one.
pub(crate) fn close_together<T: Send>(mut held: Vec<T>) {
    const CLOSERS: usize = 64;
    let share = held.len().div_ceil(CLOSERS).max(1);
    std::thread::scope(|scope| {
        while held.len() > share {
            let rest = held.split_off(held.len() - share);
            // If no thread can be created, the share is closed here: later, but closed.
            let builder = std::thread::Builder::new().stack_size(64 * 1024);
            _ = builder.spawn_scoped(scope, move || drop(rest));
        }
        drop(held);
    });
}

/// Returns the error of a failed attach.
fn failed(route: Route, target: &Target, images: &[ImageSites], os: Os, hint: &str) -> GuardError {
    if os.0 == Errno::ESRCH as i32 {
        return GuardError::NoProcess { pid: target.pid };
    }
    let sites = number_of(images);
    GuardError::Attach { pid: target.pid, sites, route, os, hint: text(hint) }
}
