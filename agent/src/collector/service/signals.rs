//! What signals ask of the service: INT and TERM its end, HUP to read the configuration again, USR1 a report now.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The end.
    End,
    /// The configuration, read again.
    Reload,
    /// A report.
    Report,
}

/// Signals as bytes of a socket, and which of them came.
#[derive(Debug)]
pub struct Signals {
    wake: UnixStream,
    wishes: [(Wish, Arc<AtomicBool>); 3],
}

/// Holds back what asks for something and would end a process that has not come to answer it, in this process and those that
/// it forks, until [`Signals::catch`]. An end is an end at any time.
///
/// # Errors
/// What the system refuses.
pub fn hold_back() -> io::Result<()> {
    Ok(wishes_to_live().thread_block()?)
}

fn wishes_to_live() -> SigSet {
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1])
}

impl Signals {
    /// What was held back is told now. From here on they do nothing but to be told.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn catch() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        let wishes = [Wish::End, Wish::Reload, Wish::Report].map(|wish| (wish, Arc::default()));
        let signals = [(SIGINT, 0), (SIGTERM, 0), (SIGHUP, 1), (SIGUSR1, 2)];
        for (signal, wish) in signals {
            // The flag before the byte, so that whoever is woken finds it.
            signal_hook::flag::register(signal, Arc::clone(&wishes[wish].1))?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        wishes_to_live().thread_unblock()?;
        Ok(Self { wake, wishes })
    }

    /// Readable when one has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// What is wanted most; the end before all else.
    pub fn taken(&self) -> Option<Wish> {
        // The flags tell; the bytes only woke us.
        while self.is_readable() && (&self.wake).read(&mut [0; 16]).is_ok() {}
        self.wishes.iter().find(|(_, came)| came.swap(false, Ordering::SeqCst)).map(|(wish, _)| *wish)
    }
}
