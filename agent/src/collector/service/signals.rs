//! Signals to the service: INT and TERM end it, HUP reloads the configuration, USR1 reports now.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

/// Request that a signal makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The end.
    End,
    /// The configuration, read again.
    Reload,
    /// A report.
    Report,
}

/// Signals as bytes of a socket, and a flag for each request that came.
#[derive(Debug)]
pub struct Signals {
    wake: UnixStream,
    wishes: [(Wish, Arc<AtomicBool>); 3],
}

/// Holds back the signals that make a request and would end a process that does not handle them
/// yet, in this process and its forks, until [`Signals::catch`]. A request to end is effective at
/// any time.
///
/// # Errors
/// Fails if the system refuses.
pub fn hold_back() -> io::Result<()> {
    Ok(wishes_to_live().thread_block()?)
}

fn wishes_to_live() -> SigSet {
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1])
}

impl Signals {
    /// Catches the signals, and takes in those that were held back. From here on a signal only
    /// makes its request.
    ///
    /// # Errors
    /// Fails if the system refuses.
    pub fn catch() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        let wishes = [Wish::End, Wish::Reload, Wish::Report].map(|wish| (wish, Arc::default()));
        let signals = [(SIGINT, 0), (SIGTERM, 0), (SIGHUP, 1), (SIGUSR1, 2)];
        for (signal, wish) in signals {
            // The flag precedes the byte, so that the reader of the byte finds it.
            signal_hook::flag::register(signal, Arc::clone(&wishes[wish].1))?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        wishes_to_live().thread_unblock()?;
        Ok(Self { wake, wishes })
    }

    /// Returns a descriptor that is readable once a signal has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Returns the most urgent request; the end precedes all others.
    pub fn taken(&self) -> Option<Wish> {
        // The flags hold the requests; the bytes only wake the service.
        while self.is_readable() && (&self.wake).read(&mut [0; 16]).is_ok() {}
        self.wishes.iter().find(|(_, came)| came.swap(false, Ordering::SeqCst)).map(|(wish, _)| *wish)
    }
}
