//! `edgelat upload`: sends the service's records to an OpenTelemetry receiver.

mod unsent;

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgelat_spool::{Directory, ReadError};
use edgelat_upload::pass::PassError;
use edgelat_upload::{
    Answer, Backoff, Client, ClientError, ClientOptions, Cursor, CursorFile, End, Found, Host, Limits, Post,
    Sent, Told, client, pass,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::output::reason;
use super::parse::{UploadMode, UploadOptions};
use super::watch::signals;
use crate::collector::service::recorder::boot_id;
use crate::config::Config;
use crate::log::{Level, Log};

/// First and longest wait for a receiver that accepts nothing.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Number of attempts with `--once` if the receiver accepts nothing.
const TRIES: u32 = 5;

/// Longest wait with `--once` for a receiver that requests more time.
const ONCE_WAIT: Duration = Duration::from_secs(60);

/// Reasons that nothing is sent.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    /// No receiver is named.
    #[error("{}: upload: endpoint: nothing says where to send; write endpoint = \"http://collector:4318\", or give --endpoint", .0.display())]
    NoEndpoint(PathBuf),
    /// An error in the receiver's address, or in the requirements of the connection.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The folder cannot be opened.
    #[error("{}: {}; `edgelat run` records there, and [spool] dir names another folder", path.display(), errno.desc())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Cause of the failure.
        errno: Errno,
    },
    /// The records cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Cause of the failure.
        reason: ReadError,
    },
    /// The cursor, the receiver's progress, cannot be stored.
    #[error("{}: {}; this user has to be able to write there", path.display(), reason(.error))]
    Cursor {
        /// The file.
        path: PathBuf,
        /// Cause of the failure.
        error: io::Error,
    },
    /// The receiver accepts nothing.
    #[error("{endpoint}: {reason}; what was not sent stays in the spool")]
    Receiver {
        /// Its address.
        endpoint: String,
        /// The reason.
        reason: String,
    },
    /// Signals cannot be caught.
    #[error("cannot wait for signals: {}", reason(.0))]
    Signals(io::Error),
}

impl Fails for UploadError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoEndpoint(_) | Self::Client(_) => Exit::Usage,
            Self::Open { errno: Errno::EACCES | Errno::EPERM, .. } => Exit::NotPermitted,
            Self::Cursor { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            _ => Exit::Failed,
        }
    }
}

/// Sends the records, once or continuously.
///
/// # Errors
/// If the configuration is wrong, the records cannot be read or the cursor cannot be stored. A
/// receiver that accepts nothing is waited for, and is an error with `--once` only.
pub fn run(options: &UploadOptions) -> Result<Exit, Failure> {
    let config = Config::load(&options.config)?;
    let upload = &config.upload;
    let endpoint = options.endpoint.clone().or_else(|| upload.endpoint.clone());
    let log = Log::open(config.agent.log, config.agent.log_level)?;
    let host = host(upload.instance.as_deref());
    let spool = config.spool.dir.clone();
    let folder = config.agent.state_dir.join("upload");
    if options.mode == UploadMode::Print {
        // Everything is printed if no receiver is named that may already have a part.
        let endpoint = endpoint.as_deref().map(client::endpoint).transpose().map_err(UploadError::Client)?;
        let has = endpoint.map(|endpoint| cursor(&CursorFile::of(&folder, &endpoint), &log)).transpose()?;
        return unsent::print(&spool, has.unwrap_or_default(), &host);
    }
    let endpoint = endpoint.ok_or_else(|| UploadError::NoEndpoint(options.config.clone()))?;
    let client = Client::new(&ClientOptions {
        endpoint,
        headers_file: upload.headers_file.clone(),
        ca_file: upload.ca_file.clone(),
        proxy: upload.proxy.clone(),
        timeout: upload.timeout,
        gzip: upload.gzip,
        user_agent: concat!("edgelat/", env!("CARGO_PKG_VERSION")).to_owned(),
    })
    .map_err(UploadError::Client)?;
    let file = CursorFile::of(&folder, client.endpoint());
    let cursor = cursor(&file, &log)?;
    if options.mode == UploadMode::DryRun {
        return unsent::count(&spool, cursor, &host, upload.gzip, client.endpoint());
    }
    let busy = Arc::new(AtomicBool::new(false));
    let signals = catch(&busy).map_err(UploadError::Signals)?;
    let uploader = Uploader {
        once: options.mode == UploadMode::Once,
        interval: upload.interval,
        client: Interruptible { client, busy },
        file,
        cursor,
        host,
        spool,
        log,
        signals,
        mood: None,
        refusal: String::new(),
        sums: [0; 3],
    };
    Ok(uploader.run()?)
}

fn open(path: &Path) -> Result<Directory, UploadError> {
    Directory::open(path).map_err(|errno| UploadError::Open { path: path.to_owned(), errno })
}

/// Returns the progress of the receiver.
fn cursor(file: &CursorFile, log: &Log) -> Result<Cursor, UploadError> {
    let path = || file.path().to_owned();
    match file.read().map_err(|error| UploadError::Cursor { path: path(), error })? {
        Found::Cursor(cursor) => Ok(cursor),
        Found::None => Ok(Cursor::default()),
        Found::Damaged => {
            let path = path();
            let text = "is damaged; everything in the spool is sent again, which counts nothing twice";
            log.say(Level::Warning, format_args!("{}: {text}", path.display()));
            Ok(Cursor::default())
        }
    }
}

/// Returns the known facts about this box.
fn host(instance: Option<&str>) -> Host {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let name = line("/proc/sys/kernel/hostname");
    Host {
        instance: instance.unwrap_or(&name).to_owned(),
        name,
        kernel: line("/proc/sys/kernel/osrelease"),
        boot: Some(boot_id()),
    }
}

/// Converts the error of a pass over the spool, and adds the file that caused it.
fn failed(error: PassError, spool: &Path, cursor: &Path) -> UploadError {
    match error {
        PassError::Read(reason) => UploadError::Read { path: spool.to_owned(), reason },
        PassError::Cursor(error) => UploadError::Cursor { path: cursor.to_owned(), error },
    }
}

/// Catches the signals that request the end: readable on a socket, or, during a request, ending the
/// process at once. Nothing is lost then: unacknowledged data is sent again.
fn catch(busy: &Arc<AtomicBool>) -> io::Result<UnixStream> {
    for signal in [nix::libc::SIGINT, nix::libc::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, Exit::Ok.status().into(), Arc::clone(busy))?;
    }
    signals::catch()
}

/// A client that lets the process be ended during a request.
struct Interruptible {
    client: Client,
    busy: Arc<AtomicBool>,
}

impl Post for Interruptible {
    fn post(&mut self, request: &[u8]) -> Answer {
        self.busy.store(true, Ordering::SeqCst);
        let answer = self.client.post(request);
        self.busy.store(false, Ordering::SeqCst);
        answer
    }
}

/// State of the upload, as far as a change is worth a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mood {
    Sending,
    Waiting,
    Failing(String),
}

struct Uploader {
    once: bool,
    interval: Duration,
    client: Interruptible,
    file: CursorFile,
    cursor: Cursor,
    host: Host,
    spool: PathBuf,
    log: Log,
    signals: UnixStream,
    /// Last state that was logged.
    mood: Option<Mood>,
    refusal: String,
    /// Numbers of intervals, points and requests that were sent.
    sums: [u64; 3],
}

impl Uploader {
    fn run(mut self) -> Result<Exit, UploadError> {
        let Some(store) = self.store()? else { return Ok(Exit::Ok) };
        let mut limits = Limits::default();
        let mut sent = Sent::default();
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut tries = 0;
        loop {
            let told = match self.pass(&store, &mut sent, limits) {
                Ok(told) => told,
                Err(error) if self.once => return Err(error),
                // A disk that is full or fails temporarily. The cursor is kept in memory.
                Err(error) => {
                    self.feels(Mood::Failing(error.to_string()));
                    match self.asked_to_end(self.interval) {
                        true => return Ok(Exit::Ok),
                        false => continue,
                    }
                }
            };
            self.refusals(&told);
            for (sum, more) in self.sums.iter_mut().zip([told.intervals, told.accepted, told.requests]) {
                *sum += more;
            }
            if told.requests > 0 {
                backoff.reset();
                tries = 0;
            }
            let wait = match told.end {
                End::Done | End::Waiting if self.once => return Ok(self.sum_up(&told)),
                End::Done => {
                    self.feels(Mood::Sending);
                    self.interval
                }
                End::Waiting => {
                    self.feels(Mood::Waiting);
                    self.interval
                }
                End::TooLarge => {
                    limits.halve();
                    continue;
                }
                End::Barred { status, message } => {
                    self.fails(format!("status {status}: {message}"), true)?;
                    LONGEST_WAIT
                }
                End::Later { reason, after } => {
                    tries += 1;
                    let wait = backoff.next(RandomState::new().build_hasher().finish(), after);
                    self.fails(reason, tries >= TRIES || wait > ONCE_WAIT)?;
                    wait
                }
            };
            if self.asked_to_end(wait) {
                return Ok(Exit::Ok);
            }
        }
    }

    /// Opens the folder of the records, which the service may create later. `None` if ended.
    fn store(&mut self) -> Result<Option<Directory>, UploadError> {
        loop {
            match open(&self.spool) {
                Err(error @ UploadError::Open { errno: Errno::ENOENT, .. }) if !self.once => {
                    self.feels(Mood::Failing(error.to_string()));
                }
                opened => return opened.map(Some),
            }
            if self.asked_to_end(self.interval.min(Duration::from_secs(10))) {
                return Ok(None);
            }
        }
    }

    fn pass(&mut self, store: &Directory, sent: &mut Sent, limits: Limits) -> Result<Told, UploadError> {
        let file = &self.file;
        let save = &mut |cursor: &Cursor| file.write(cursor);
        pass(store, &mut self.cursor, sent, &self.host, limits, &mut self.client, save)
            .map_err(|error| failed(error, &self.spool, file.path()))
    }

    /// Reports the points that the receiver refuses, whenever this changes.
    fn refusals(&mut self, told: &Told) {
        let endpoint = self.client.client.endpoint();
        if told.refused > 0 && (self.once || told.refusal != self.refusal) {
            self.refusal.clone_from(&told.refusal);
            self.log.say(
                Level::Warning,
                format_args!(
                    "{endpoint} refused {} points ({}); later ones have what was counted in them",
                    told.refused, told.refusal
                ),
            );
        }
        if told.undated > 0 {
            self.log.say(
                Level::Warning,
                format_args!(
                    "{} intervals are not sent: nobody knows when they were, as the clock was not set before their boot was over; `edgelat spool dump` shows them",
                    told.undated
                ),
            );
        }
    }

    fn sum_up(&self, told: &Told) -> Exit {
        let endpoint = self.client.client.endpoint();
        let [intervals, accepted, requests] = self.sums;
        let sent = self.client.client.sent;
        self.log.say(
            Level::Info,
            format_args!(
                "sent {intervals} intervals to {endpoint}: {accepted} points in {requests} requests, {sent} bytes"
            ),
        );
        if told.end == End::Waiting {
            self.log
                .say(Level::Info, format_args!("the others wait for the clock: it cannot be believed yet"));
        }
        Exit::Ok
    }

    /// Handles a receiver that accepts nothing. With `--once` this is an error if it is the `last`.
    fn fails(&mut self, reason: String, last: bool) -> Result<(), UploadError> {
        let endpoint = self.client.client.endpoint().to_owned();
        if self.once && last {
            return Err(UploadError::Receiver { endpoint, reason });
        }
        self.feels(Mood::Failing(format!("{endpoint}: {reason}; what is not sent stays in the spool")));
        Ok(())
    }

    /// Reports the state when it changes.
    fn feels(&mut self, mood: Mood) {
        if self.mood.as_ref() == Some(&mood) {
            return;
        }
        match &mood {
            Mood::Sending => {
                let endpoint = self.client.client.endpoint();
                self.log.say(Level::Info, format_args!("{endpoint} has everything up to now"));
            }
            Mood::Waiting => {
                self.log.say(Level::Info, format_args!("waiting for the clock: it cannot be believed yet"));
            }
            Mood::Failing(reason) => self.log.say(Level::Warning, format_args!("{reason}")),
        }
        self.mood = Some(mood);
    }

    /// Waits; returns true if a signal came.
    fn asked_to_end(&self, time: Duration) -> bool {
        let mut ready = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut ready, time) {
                // A signal without meaning here.
                Err(Errno::EINTR) => {}
                polled => return polled.is_ok_and(|ready| ready > 0),
            }
        }
    }
}
