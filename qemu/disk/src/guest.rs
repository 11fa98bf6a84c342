//! A machine whose data disk is ours: switched on, listened to, and cut from its power.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::console::Heard;
use crate::log::since;
use crate::server::{self, Disk};

/// Interval between two checks of the time.
const LOOK: Duration = Duration::from_millis(20);

/// Reasons why the power of a machine could not be cut.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The place of its disk cannot be made.
    #[error("{}: {error}", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// It cannot be started.
    #[error("{program}: {error}")]
    Start {
        /// The emulator.
        program: String,
        /// The reason.
        error: io::Error,
    },
    /// It ended before.
    #[error("the machine ended by itself ({0})")]
    Ended(ExitStatus),
    /// It never came so far.
    #[error("nothing that it was waited for in {} s", .0.as_secs())]
    Silent(Duration),
    /// Its disk could not be served.
    #[error("its disk: {0}")]
    Disk(io::Error),
}

/// A machine to switch on.
#[derive(Debug)]
pub struct Machine {
    /// The emulator and its arguments.
    pub command: Vec<String>,
    /// Socket of its disk.
    pub socket: PathBuf,
    /// File to which its serial console is appended.
    pub console: File,
    /// Times count from here.
    pub begun: Instant,
    /// Time limit until the power cut.
    pub patience: Duration,
}

impl Machine {
    /// Switches it on with `disk`, and cuts its power as soon as `now` says so; it is asked again and again with what was heard
    /// so far. Gives the disk with what was done to it.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn run(
        &mut self,
        disk: Disk,
        heard: &Mutex<Heard>,
        mut now: impl FnMut(&mut Heard) -> bool,
    ) -> Result<Disk, GuestError> {
        let socket = self.socket.clone();
        let failed = |error| GuestError::Socket { path: socket.clone(), error };
        _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        let console = self.console.try_clone().map_err(failed)?;
        let (program, arguments) =
            self.command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(console)
            .spawn()
            .map_err(|error| GuestError::Start { program: program.to_owned(), error })?;
        let (disk, begun, patience) = (Mutex::new(disk), self.begun, self.patience);
        let out = child.stdout.take();
        let console = &mut self.console;
        let ended = std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (client, _) = listener.accept()?;
                server::serve(client, &disk)
            });
            scope.spawn(move || {
                for line in out.into_iter().flat_map(|out| BufReader::new(out).split(b'\n')) {
                    let Ok(line) = line else { return };
                    let time_ns = since(begun);
                    let line = String::from_utf8_lossy(&line);
                    _ = writeln!(console, "{:.6} {}", time_ns as f64 / 1e9, line.trim_end_matches('\r'));
                    heard.lock().unwrap_or_else(PoisonError::into_inner).hear(&line, time_ns);
                }
            });
            let waited = Instant::now();
            let ended = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Err(GuestError::Ended(status)),
                    Ok(None) => {}
                    Err(error) => break Err(GuestError::Start { program: program.to_owned(), error }),
                }
                if now(&mut heard.lock().unwrap_or_else(PoisonError::into_inner)) {
                    break Ok(());
                }
                if waited.elapsed() > patience {
                    break Err(GuestError::Silent(patience));
                }
                std::thread::sleep(LOOK);
            };
            // Writing has ended, and the guest gets no chance to object.
            _ = child.kill();
            _ = child.wait();
            // One that never came to its disk leaves the server waiting.
            drop(UnixStream::connect(&socket));
            let served = server.join().unwrap_or_else(|_| Err(io::Error::other("the server panicked")));
            ended.and(served.map_err(GuestError::Disk))
        });
        _ = fs::remove_file(&self.socket);
        ended?;
        Ok(disk.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
