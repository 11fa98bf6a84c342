//! Stops of a traced thread, and ways to continue it (ptrace(2), for seized tracees).
//!
//! Signals are numbers here: real-time signals, which the C library uses itself, have no name in
//! `nix`.

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// PTRACE_EVENT_STOP, include/uapi/linux/ptrace.h.
const EVENT_STOP: i32 = 128;
/// Mark of a stop at a system call if PTRACE_O_TRACESYSGOOD is set.
const SYSTEM_CALL: i32 = 0x80;
/// PTRACE_GET_SYSCALL_INFO (Linux 5.3), include/uapi/linux/ptrace.h.
const GET_SYSCALL_INFO: u32 = 0x420e;
/// PTRACE_SYSCALL_INFO_ENTRY, same file.
const AT_ENTRY: u8 = 1;

/// Reason of a thread's stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It made a thread or a process, which is traced from its first instruction on.
    Made(i32),
    /// It executes another image, of which nothing has run.
    Executed,
    /// A system call begins or ends.
    SystemCall,
    /// A signal is about to reach it.
    Signal(i32),
    /// It is stopped with all its process, as by Ctrl-Z, until SIGCONT.
    Group,
    /// A stop without consequences.
    Nothing,
    /// It has ended, with the status as in wait(2).
    Gone(i32),
}

/// Way in which a thread continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onward {
    /// Up to the next event.
    Freely,
    /// Up to the next system call.
    ToSystemCall,
    /// It stays stopped, and the end of that stop is reported.
    Listening,
    /// No longer traced.
    Untraced,
}

/// Returns the last change of a thread or child of ours; `None` while it runs.
pub(super) fn wait(pid: i32) -> Result<Option<Stop>, Errno> {
    let mut status = 0;
    // SAFETY: the status is a valid place for an int.
    match Errno::result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) }) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        // Another thread of its process has executed an image: this one is gone, unreported.
        Err(Errno::ECHILD) => return Ok(Some(Stop::Gone(0))),
        Err(errno) => return Err(errno),
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(Stop::Gone(status)));
    }
    let signal = libc::WSTOPSIG(status);
    Ok(Some(match status >> 16 {
        0 if signal == libc::SIGTRAP | SYSTEM_CALL => Stop::SystemCall,
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
            ptrace::getevent(Pid::from_raw(pid)).map_or(Stop::Nothing, |made| Stop::Made(made as i32))
        }
        libc::PTRACE_EVENT_EXEC => Stop::Executed,
        EVENT_STOP if signal != libc::SIGTRAP => Stop::Group,
        _ => Stop::Nothing,
    }))
}

/// Continues a stopped thread, with a signal unless `signal` is 0.
pub(super) fn go_on(pid: i32, onward: Onward, signal: i32) -> Result<(), Errno> {
    let request = match onward {
        Onward::Freely => libc::PTRACE_CONT,
        Onward::ToSystemCall => libc::PTRACE_SYSCALL,
        Onward::Listening => libc::PTRACE_LISTEN,
        Onward::Untraced => libc::PTRACE_DETACH,
    };
    // SAFETY: these requests read no memory: their arguments are an ignored and a signal number.
    Errno::result(unsafe { libc::ptrace(request as _, pid, 0usize, signal as usize) }).map(drop)
}

/// Stops a running thread.
pub(super) fn interrupt(pid: i32) -> Result<(), Errno> {
    // SAFETY: this request ignores both arguments.
    Errno::result(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT as _, pid, 0usize, 0usize) }).map(drop)
}

/// Returns true if the system call at whose entry the thread stopped maps an image or is unknown.
pub(super) fn maps(pid: i32) -> bool {
    // The start of `struct ptrace_syscall_info`: its kind, then three addresses, then the call's
    // number.
    let mut info = [0u64; 4];
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes, which is the size of `info`.
    let told = unsafe { libc::ptrace(GET_SYSCALL_INFO as _, pid, size, info.as_mut_ptr()) };
    let number = info[3] as libc::c_long;
    told < size as libc::c_long
        || info[0].to_ne_bytes()[0] != AT_ENTRY
        || number == libc::SYS_mmap
        || number == libc::SYS_mprotect
}
