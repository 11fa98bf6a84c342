//! A separate process confirms sites: it has no rights and no files, gets code and the claimed
//! place of a site in it, and answers with the kind of instruction there. So no reader of symbols
//! or tables can have the middle of an instruction probed.
//!
//! The guard forks it, sends a window of the image for each site, and gets one byte back. The agent
//! supplies the function that this process runs: this crate decodes nothing.
//!
//! Of a site's marks it confirms the price alone. The marks of a condition, an optional frame or a
//! goroutine decide what a program counts, and a wrong mark makes the figures of its author wrong:
//! the kernel executes the instruction either way, and every hit is charged. Only the mark of a
//! plain return makes a program act, and `image.rs` compares the bytes of that return.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stdin};

use crate::elf::Executable;
use crate::error::{GuardError, text};
use crate::protocol::PlanSite;
use crate::sandbox;

/// Kind of the code at a place: 0 no instruction, 1 emulated by the kernel, 2 single-stepped.
pub type Confirm = fn(&[u8], usize) -> u8;

/// Bytes before and behind a site that the process gets.
const LEAD: u64 = 192;
const TAIL: u64 = 16;
/// Longest window, preceded by the site's place in it.
const WINDOW: usize = 1 + (LEAD + TAIL) as usize;
/// Milliseconds for one window, on a machine that is busy with other things.
const PATIENCE: u16 = 10_000;
/// Seconds of CPU time for all windows.
const CPU_SECONDS: u64 = 10;

/// Confirms that each of these sites holds the claimed kind of instruction.
pub(crate) fn confirm(
    by: Confirm,
    file: &File,
    executable: &Executable,
    sites: &[PlanSite],
) -> Result<(), GuardError> {
    let failed = |errno: Errno| GuardError::Split { step: text("have sites confirmed"), os: errno.into() };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
    // SAFETY: the arguments are flags and null pointers. The guard has one thread, so that the
    // child has all that it has. The call is made by its number, because a settled guard is refused
    // fork(2) but not threads.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    let pid = Errno::result(pid).map_err(failed)? as i32;
    if pid == 0 {
        drop(ours);
        let status = i32::from(serve(by, theirs).is_err());
        // SAFETY: ends the process at once; it runs nothing of the guard's.
        unsafe { libc::_exit(status) };
    }
    drop(theirs);
    let confirmed = sites.iter().try_for_each(|site| ask(&ours, file, executable, site));
    let child = Pid::from_raw(pid);
    _ = kill(child, Signal::SIGKILL);
    _ = waitpid(child, None);
    confirmed
}

/// Has one site confirmed.
fn ask(socket: &OwnedFd, file: &File, executable: &Executable, site: &PlanSite) -> Result<(), GuardError> {
    let bad =
        |what: &str| Err(GuardError::BadPlan { reason: text(format_args!("{what} at {:#x}", site.offset)) });
    let Some((start, end)) = executable.range_of(site.offset) else { return bad("no executable segment") };
    let from = site.offset.saturating_sub(LEAD).max(start);
    let to = site.offset.saturating_add(TAIL).min(end);
    let mut window = [0; WINDOW];
    // Both differences are within the window.
    window[0] = (site.offset - from) as u8;
    let length = 1 + (to - from) as usize;
    if file.read_exact_at(&mut window[1..length], from).is_err() {
        return bad("a file that ends");
    }
    let mut answer = [0];
    let sent = send(socket.as_raw_fd(), &window[..length], MsgFlags::MSG_NOSIGNAL);
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let answered = sent.and_then(|_| poll(&mut fds, PATIENCE)).is_ok_and(|ready| ready > 0)
        && recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()) == Ok(1);
    match answer[0] {
        _ if !answered => bad("nobody who says what stands"),
        1 => Ok(()),
        // An instruction that costs more than claimed would be charged too little.
        2 if site.stepped => Ok(()),
        2 => bad("an instruction that the kernel single-steps"),
        _ => bad("no instruction that can be probed"),
    }
}

/// Main function of the confirming process.
fn serve(by: Confirm, socket: OwnedFd) -> Result<(), GuardError> {
    let failed = |errno: Errno| GuardError::Split { step: text("confirm sites"), os: errno.into() };
    dup2_stdin(&socket).map_err(failed)?;
    // SAFETY: this process uses standard input only from here on; the call takes numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) }).map_err(failed)?;
    std::mem::forget(socket);
    for (resource, most) in [(Resource::RLIMIT_CPU, CPU_SECONDS), (Resource::RLIMIT_CORE, 0)] {
        setrlimit(resource, most, most).map_err(failed)?;
    }
    sandbox::enter_confirmer()?;
    let mut window = [0; WINDOW];
    loop {
        let length = nix::unistd::read(std::io::stdin(), &mut window).map_err(failed)?;
        let Some((at, code)) = window.get(..length).and_then(<[u8]>::split_first) else { return Ok(()) };
        let answer = [by(code, usize::from(*at))];
        // SAFETY: standard input is the socket, and stays open as long as this process lives.
        let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        nix::unistd::write(socket, &answer).map_err(failed)?;
    }
}
