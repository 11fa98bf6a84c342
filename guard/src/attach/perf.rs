//! perf events, to which both older routes attach their programs.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use caps::Capability;
use libbpf_rs::libbpf_sys::{self, perf_event_attr};
use nix::errno::Errno;

use crate::error::{GuardError, Os, text};
use crate::protocol::Route;
use crate::rights;

/// PERF_TYPE_TRACEPOINT, include/uapi/linux/perf_event.h.
const TRACEPOINT: u32 = 2;
/// PERF_FLAG_FD_CLOEXEC, same file.
const CLOEXEC: u64 = 8;

// include/uapi/linux/perf_event.h: _IO('$', 0), _IOW('$', 8, __u32).
nix::ioctl_none!(enable_event, b'$', 0);
nix::ioctl_write_int!(set_program, b'$', 8);

/// A perf event with a program on it.
#[derive(Debug)]
pub(super) struct Event {
    /// The link of a program with a cookie; it must go before the event.
    _link: Option<OwnedFd>,
    event: OwnedFd,
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> c_int {
        self.event.as_raw_fd()
    }
}

/// Type number of the kernel's uprobe events, which is assigned at boot.
pub(crate) fn uprobe_type() -> Result<u32, GuardError> {
    let path = "/sys/bus/event_source/devices/uprobe/type";
    let lacking = |reason: String| GuardError::Route { route: Route::Single, reason: text(reason) };
    let number = std::fs::read_to_string(path)
        .map_err(|error| lacking(format!("{path}: {error} (CONFIG_UPROBE_EVENTS)")))?;
    number.trim().parse().map_err(|_| lacking(format!("{path} holds no number")))
}

/// Returns the error for a caller that the kernel does not let open uprobe events. Before July
/// 2025's kernels CAP_PERFMON was enough, without which no program would have been loaded.
pub(super) fn refused(os: Os) -> GuardError {
    rights::refused("open perf uprobe events", os, &[Capability::CAP_SYS_ADMIN])
}

/// Checks that this process may open uprobe events. The call uses an empty path: the kernel checks
/// the rights first (kernel/events/core.c, perf_uprobe_event_init), so nothing is probed.
pub(crate) fn may_open_uprobes() -> Result<(), GuardError> {
    let kind = uprobe_type()?;
    match open_uprobe(kind, 0, c"", 0, std::process::id() as i32) {
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(refused(errno.into())),
        _ => Ok(()),
    }
}

/// Checks that this process may open trace events, with an event that does not exist: the kernel
/// checks the rights first here too.
pub(crate) fn may_open_tracepoints() -> Result<(), GuardError> {
    match open_tracepoint(u64::MAX, std::process::id() as i32) {
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(tracepoints_refused(errno.into())),
        _ => Ok(()),
    }
}

/// Returns the error for a caller that the kernel does not let open trace events. From level 3 of
/// the sysctl on, an addition of some distributions, some kernels do not accept CAP_PERFMON.
pub(super) fn tracepoints_refused(os: Os) -> GuardError {
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let action = format!("open trace events while kernel.perf_event_paranoid is {}", level.trim());
    rights::refused(action, os, &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN])
}

/// Returns true if the kernel is locked down for confidentiality; `None` if that is unknown. The
/// kernel shows its mode only if securityfs is mounted, so this tries an event that only this mode
/// refuses: one that samples registers. Its process does not exist, which the kernel notices later
/// (kernel/events/core.c, perf_event_open).
pub(crate) fn confidentiality() -> Option<bool> {
    /// PERF_TYPE_SOFTWARE with PERF_COUNT_SW_DUMMY and PERF_SAMPLE_REGS_INTR,
    /// include/uapi/linux/perf_event.h.
    const SOFTWARE: u32 = 1;
    const DUMMY: u64 = 9;
    const REGISTERS: u64 = 1 << 18;
    let answer = |sample_type| {
        let mut attr = attributes(SOFTWARE);
        attr.config = DUMMY;
        attr.sample_type = sample_type;
        attr.sample_regs_intr = 1;
        attr.set_exclude_kernel(1);
        // SAFETY: the attributes name no memory besides themselves.
        unsafe { open(&attr, i32::MAX) }.err()
    };
    match (answer(REGISTERS), answer(0)) {
        (Some(Errno::ESRCH), _) => Some(false),
        // Without registers the event is not refused, so perf as such is not forbidden here.
        (Some(Errno::EPERM), Some(Errno::ESRCH)) => Some(true),
        _ => None,
    }
}

/// Bit of `config` that makes a return probe, from `format/retprobe` ("config:N").
pub(super) fn return_bit() -> u32 {
    std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/format/retprobe")
        .ok()
        .and_then(|text| text.trim().strip_prefix("config:")?.parse().ok())
        .unwrap_or(0)
}

/// Opens a trace event for the address space of a process.
pub(super) fn open_tracepoint(id: u64, pid: i32) -> Result<OwnedFd, Errno> {
    let mut attr = attributes(TRACEPOINT);
    attr.config = id;
    // SAFETY: the attributes name no memory besides themselves.
    unsafe { open(&attr, pid) }
}

/// Opens a probe at a file offset for the address space of a process.
pub(super) fn open_uprobe(
    kind: u32,
    config: u64,
    path: &std::ffi::CStr,
    offset: u64,
    pid: i32,
) -> Result<OwnedFd, Errno> {
    let mut attr = attributes(kind);
    attr.config = config;
    attr.__bindgen_anon_3.uprobe_path = path.as_ptr() as u64;
    attr.__bindgen_anon_4.probe_offset = offset;
    // SAFETY: the only pointer in the attributes is `path`, a C string that outlives the call.
    unsafe { open(&attr, pid) }
}

fn attributes(kind: u32) -> perf_event_attr {
    let size = size_of::<perf_event_attr>() as u32;
    let mut attr = perf_event_attr { type_: kind, size, ..Default::default() };
    // Each hit counts; the kernel never writes a sample, because no buffer is mapped.
    attr.__bindgen_anon_1.sample_period = 1;
    attr.__bindgen_anon_2.wakeup_events = 1;
    attr
}

/// # Safety
/// Pointers in `attr` must be valid for the call.
unsafe fn open(attr: &perf_event_attr, pid: i32) -> Result<OwnedFd, Errno> {
    const ANY_CPU: c_int = -1;
    const NO_GROUP: c_int = -1;
    // SAFETY: `attr` is initialised and says its own size; the caller vouches for its pointers.
    let fd = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            pid,
            ANY_CPU,
            NO_GROUP,
            CLOEXEC,
        )
    };
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the call succeeded, so this is a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program on an event. With a cookie this needs Linux 5.15.
pub(super) fn set(event: OwnedFd, program: BorrowedFd<'_>, cookie: Option<u64>) -> Result<Event, Errno> {
    let link = match cookie {
        None => {
            // SAFETY: both descriptors are open, and the argument of this request is a descriptor.
            unsafe { set_program(event.as_raw_fd(), program.as_raw_fd() as u64) }?;
            None
        }
        Some(cookie) => {
            let mut options = libbpf_sys::bpf_link_create_opts {
                sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
                ..Default::default()
            };
            options.__bindgen_anon_1.perf_event.bpf_cookie = cookie;
            // SAFETY: both descriptors are open; the options are initialised, say their size and
            // are not kept.
            let fd = unsafe {
                libbpf_sys::bpf_link_create(
                    program.as_raw_fd(),
                    event.as_raw_fd(),
                    libbpf_sys::BPF_PERF_EVENT,
                    &options,
                )
            };
            if fd < 0 {
                return Err(Errno::from_raw(-fd));
            }
            // SAFETY: a new descriptor without another owner.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        }
    };
    // SAFETY: the descriptor is an open perf event; the request has no argument.
    unsafe { enable_event(event.as_raw_fd()) }?;
    Ok(Event { _link: link, event })
}
