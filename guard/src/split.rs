//! Two processes: the guard, which has privilege, and the collector, which has none.
//!
//! The process that was started becomes the guard, so stopping or killing it stops the privileged
//! one. Its child gives up every right before it looks at a byte that a target could have written.
//! Each ends with the other: the collector sees the line hung up, the guard removes all probes.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::cpus::CpuSet;
use crate::deadline::{Deadline, TURN, WORK};
use crate::error::{GuardError, text};
use crate::guard::Guard;
use crate::line::{self, Line, Served};
use crate::placement::{Placement, Wanted, place};
use crate::sandbox;
use crate::stop::STOPS;

/// Signals that make a request, above all to end. The collector answers them and has output then.
const PASSED_ON: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1];

/// Runs `collector` in a process without rights and serves it here. Returns its exit status. If the
/// rights could not be given up, the collector gets the reason and no line.
///
/// # Errors
/// If there could be no second process, or if it did not end by itself.
pub fn split(guard: Guard, collector: impl FnOnce(Result<Line, GuardError>) -> u8) -> Result<u8, GuardError> {
    split_after(guard, &mut || Ok(None), Box::new(|ready| collector(ready.map(|(line, _)| line))))
}

/// As [`split`], with a collector on its `wanted` CPU, away from the CPUs of `targets`.
///
/// # Errors
/// As [`split`]; if the collector could not be placed, it gets the reason and no line.
pub fn split_and_place(
    guard: Guard,
    wanted: &Wanted,
    targets: &CpuSet,
    collector: impl FnOnce(Result<(Line, Placement), GuardError>) -> u8,
) -> Result<u8, GuardError> {
    let placed = |(line, placement): (Line, Option<Placement>)| match placement {
        Some(placement) => Ok((line, placement)),
        None => Err(GuardError::Message),
    };
    let collector = Box::new(|ready: Ready| collector(ready.and_then(placed)));
    split_after(guard, &mut || place(wanted, targets).map(Some), collector)
}

/// Initial state of a collector.
type Ready = Result<(Line, Option<Placement>), GuardError>;

/// `prepare` runs in the collector while it has its rights. Behind pointers, for a single copy.
fn split_after(
    mut guard: Guard,
    prepare: &mut dyn FnMut() -> Result<Option<Placement>, GuardError>,
    collector: Box<dyn FnOnce(Ready) -> u8 + '_>,
) -> Result<u8, GuardError> {
    let failed =
        |step: &'static str| move |errno: Errno| GuardError::Split { step: text(step), os: errno.into() };
    let (line, served) = line::pair()?;
    if threads() != Some(1) {
        return Err(failed("count the threads")(Errno::EBUSY));
    }
    // From before the fork, so that no signal comes in between and ends one of the two.
    let asked = SigSet::from_iter(PASSED_ON.into_iter().chain(heeded_stops()));
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&asked), Some(&mut before))
        .map_err(failed("hold signals back"))?;
    // SAFETY: there is one thread, so the child has all that the parent has, and no lock is
    // orphaned.
    match unsafe { fork() }.map_err(failed("start a second process"))? {
        ForkResult::Child => {
            drop(served);
            // Only the process that measures the cost publishes it.
            drop(guard.total.take());
            let (user, folder) = guard.service.as_mut().map_or((None, None), |service| {
                // This process must not hold objects that the other one releases by its end.
                drop((service.lock.take(), service.notify.take()));
                (service.user.take(), service.folder)
            });
            // The other process ends the guard's objects; here they are only forgotten.
            std::mem::forget(guard);
            let prepared = prepare();
            let ready = sandbox::enter_collector(folder, user).and_then(|missing| {
                let mut placement = prepared?;
                placement.iter_mut().for_each(|placement| placement.notes.extend_from_slice(&missing));
                Ok((line, placement))
            });
            _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
            std::process::exit(collector(ready).into())
        }
        ForkResult::Parent { child } => {
            drop(line);
            raise_descriptors();
            let served = attend(guard, served, &asked, child);
            match (waitpid(child, None), served) {
                // The reason for ending it here says more than its status.
                (_, Err(error)) => Err(error),
                (Ok(WaitStatus::Exited(_, code)), Ok(())) => Ok(code as u8),
                (Ok(WaitStatus::Signaled(_, signal, _)), Ok(())) => {
                    if PASSED_ON.contains(&signal) {
                        // It came before the collector had final output, and ends this process as
                        // well.
                        _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
                        _ = raise(signal);
                    }
                    Err(GuardError::CollectorKilled { signal: text(signal) })
                }
                (Err(errno), Ok(())) => Err(failed("wait for the second process")(errno)),
                (Ok(_), Ok(())) => Err(failed("wait for the second process")(Errno::ECHILD)),
            }
        }
    }
}

/// Signals of a terminal that were not ignored at the start.
fn heeded_stops() -> impl Iterator<Item = Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    STOPS.into_iter().filter(move |signal| ignored & 1 << (*signal as i32 - 1) == 0)
}

/// Raises the limit of descriptors: each target needs some, and so do its images and links. Takes
/// as many as permitted, within reason. The limit of open images follows from it.
fn raise_descriptors() {
    const MOST: u64 = 1 << 16;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(MOST)
    {
        // If the limit stays, fewer targets can be open at once.
        _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(MOST), hard);
    }
}

fn threads() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
}

/// Serves until the collector has ended; then no probe is left.
fn attend(mut guard: Guard, mut served: Served, asked: &SigSet, child: Pid) -> Result<(), GuardError> {
    let failed = |errno: Errno| GuardError::Split { step: text("wait for requests"), os: errno.into() };
    let signals =
        SignalFd::with_flags(asked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
    guard.set_collector(child.as_raw());
    guard.signals = signals.as_fd().try_clone_to_owned().ok();
    guard.deadline = Some(Deadline::new()?);
    let ended = serve(&mut guard, &mut served, &signals, child).map_err(|error| match error {
        // The collector ended during the answer.
        GuardError::Gone => None,
        error => Some(error),
    });
    drop(guard);
    match ended {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(error)) => {
            // A collector that sends invalid requests must not continue.
            _ = kill(child, Signal::SIGKILL);
            Err(error)
        }
    }
}

fn serve(guard: &mut Guard, served: &mut Served, signals: &SignalFd, child: Pid) -> Result<(), GuardError> {
    let failed = |errno: Errno| GuardError::Split { step: text("wait for requests"), os: errno.into() };
    loop {
        let now = Instant::now();
        guard.be_back_in(WORK);
        guard.look(now);
        guard.check_collector(now)?;
        guard.tell_alive(now);
        if guard.has_events() {
            served.wake();
        }
        guard.be_back_in(TURN);
        let [asked, signalled, happened] = {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let (asked, signalled) = (readable(served.socket()), readable(signals.as_fd()));
            // Before anything is attached, no event can happen.
            let mut fds = [asked, signalled, readable(guard.events().unwrap_or(signals.as_fd()))];
            let patience = guard.patience().and_then(|time| PollTimeout::try_from(time).ok());
            match poll(&mut fds, patience.unwrap_or(PollTimeout::NONE)) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
        };
        guard.be_back_in(WORK);
        while signalled && let Ok(Some(signal)) = signals.read_signal() {
            if let Ok(signal) = Signal::try_from(signal.ssi_signo as i32) {
                if STOPS.contains(&signal) {
                    guard.stop(child, signal);
                    continue;
                }
                if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
                    guard.tell_stopping();
                }
                // If it has ended already, the socket reports that.
                _ = kill(child, signal);
            }
        }
        if happened {
            guard.collect_events();
        }
        if asked {
            let Some(request) = served.request()? else { return Ok(()) };
            let (reply, descriptors) = guard.handle(request);
            served.reply(&reply, &descriptors)?;
        }
    }
}
