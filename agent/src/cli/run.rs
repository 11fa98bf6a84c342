//! `edgelat run`: the service.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use edgelat_guard::cpus::CpuSet;
use edgelat_guard::lock::RunLock;
use edgelat_guard::notify::Notify;
use edgelat_guard::quarantine::Store;
use edgelat_guard::user::User;
use edgelat_guard::{Asked, Guard, GuardError, Offer};
use edgelat_spool::Directory;
use edgelat_spool::segment::{Name, UNFINISHED};

use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::guarded::guarded_away_from;
use super::output::reason;
use super::parse::RunOptions;
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::service::lines::Output;
use crate::collector::service::live::Live;
use crate::collector::service::recorder::Recorder;
use crate::collector::service::{Parts, Service, ServiceError, signals};
use crate::collector::session::Sources;
use crate::config::Config;
use crate::log::{Level, Log};
use crate::values::ppm;

/// Margin of the watchdog: the collector sends a request at each scan, at least once a minute.
const SILENCE: Duration = Duration::from_secs(30);

impl Fails for ServiceError {
    fn exit(&self) -> Exit {
        match self {
            Self::Guard(GuardError::Gone) => Exit::Watchdog,
            Self::Guard(error) => error.exit(),
            Self::Signals(_) | Self::Wait(_) => Exit::Failed,
        }
    }
}

/// Measures the targets of the configuration file until a signal requests the end.
///
/// # Errors
/// If the file is wrong, another agent runs, or the service cannot continue.
pub fn run(options: RunOptions) -> Result<Exit, Failure> {
    edgelat_guard::sandbox::close_inherited();
    signals::hold_back().map_err(ServiceError::Signals)?;
    // Everything that needs the caller's rights is done here: the collector has no rights.
    let config = Config::load(&options.config)?;
    let agent = &config.agent;
    let log = Log::open(agent.log, agent.log_level)?;
    let user = agent.collector_user.as_deref().map(User::find).transpose()?;
    let mut lock = RunLock::take(&agent.run_dir)?;
    let packs = super::pack::read_all(&agent.packs)?;
    let debug_dirs = DebugDirs::open(&agent.debug_dirs);
    let quarantine = Store::open(&agent.state_dir).unwrap_or_else(|error| {
        log.say(Level::Warning, format_args!("{error}; quarantine ends with this process"));
        Store::in_memory()
    });
    let quarantine = quarantine.expiring(agent.quarantine_for);
    let offer = Offer::make(&agent.run_dir, ppm(agent.max_cost))
        .map_err(|error| log.say(Level::Warning, format_args!("{error}")))
        .ok();
    let folder = records(&config.spool.dir, &mut lock, &log)?;
    let user = match folder {
        Some(folder) => owner(user, folder, &log),
        None => user.or_else(|| User::usual().ok()),
    };
    let live = live(&agent.run_dir).inspect_err(|error| {
        let place = agent.run_dir.join(edgelat_spool::live::FILE);
        log.say(
            Level::Error,
            format_args!("{}: {}; there is no live snapshot", place.display(), reason(error)),
        );
    });
    let guard = Guard::of_service(edgelat_guard::Service {
        config: options.config.clone(),
        understand,
        asked: config.asked(false),
        reattach: agent.reattach,
        total_ppm: ppm(agent.max_cost),
        watchdog: agent.scan + SILENCE,
        user,
        folder: folder.map(|folder| folder.fd()),
        lock: Some(lock),
        offer,
        notify: Notify::from_env(),
    });
    let wanted = config.place();
    guarded_away_from(guard, &wanted, &CpuSet::default(), |line, placement| {
        let sources = Sources { debug_dirs, packs: super::pack::understand_all(&packs)? };
        let output = if options.json { Output::Json } else { Output::None };
        let path = options.config.clone();
        let live = Live::new(live.ok(), &config.agent);
        let recorder = Recorder::open(folder, live, &config.spool, &log);
        let parts = Parts { line, path, config, sources, log, quarantine, placement, output, recorder };
        Service::new(parts).run()?;
        Ok(Exit::Ok)
    })
}

/// Returns the requests to the guard for a changed configuration.
fn understand(path: &Path, bytes: &[u8]) -> Option<Vec<Asked>> {
    Config::parse(path, bytes).ok().map(|config| config.asked(false))
}

/// Opens and locks the folder of the spool; `None` if it is unusable, which is logged.
fn records(path: &Path, lock: &mut RunLock, log: &Log) -> Result<Option<Directory>, Failure> {
    let place = path.display();
    let opened = match folder(path) {
        Ok(opened) => opened,
        Err(reason) => {
            log.say(
                Level::Error,
                format_args!(
                    "{place}: {reason}; nothing is kept of what is measured until edgelat is started again"
                ),
            );
            return Ok(None);
        }
    };
    match lock.also(path) {
        Err(error @ GuardError::AlreadyRuns { .. }) => Err(error.into()),
        Err(error) => {
            log.say(
                Level::Warning,
                format_args!("{error}; see to it that no other agent keeps its records there"),
            );
            Ok(Some(opened))
        }
        Ok(()) => Ok(Some(opened)),
    }
}

/// Opens the folder of the spool, and creates it if missing.
fn folder(path: &Path) -> Result<Directory, String> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    Directory::open(path).map_err(|errno| match made {
        // The reason that it could not be created is more informative than its absence.
        Err(error) => reason(&error),
        Ok(()) => errno.desc().to_owned(),
    })
}

/// Returns true for a file of a spool.
fn is_segment(file: &str) -> bool {
    file == UNFINISHED || Name::parse(file).is_some()
}

/// Returns the user that the collector becomes, named or default, and gives the folder to it.
fn owner(named: Option<User>, folder: Directory, log: &Log) -> Option<User> {
    if let Some(user) = named {
        // On a read-only file system, this fails too; the collector reports that when it writes.
        _ = user.give(folder.fd(), is_segment);
        return Some(user);
    }
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    // A collector that keeps its user can still write.
    User::usual()
        .and_then(|user| user.give(folder.fd(), is_segment).map(|()| user))
        .map_err(|error| {
            log.say(
                Level::Warning,
                format_args!("{error}; the collector stays the user that edgelat runs as"),
            );
        })
        .ok()
}

/// Creates the file of the live snapshot, readable by every user.
///
/// An existing file is truncated: the previous agent may have been a different version.
fn live(run_dir: &Path) -> std::io::Result<File> {
    let path = run_dir.join(edgelat_spool::live::FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}
