//! `edgelat run`: the service.

use std::time::Duration;

use edgelat_guard::cpus::CpuSet;
use edgelat_guard::lock::RunLock;
use edgelat_guard::notify::Notify;
use edgelat_guard::quarantine::Store;
use edgelat_guard::user::User;
use edgelat_guard::{Guard, GuardError, Offer};

use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::guarded::guarded_away_from;
use super::parse::RunOptions;
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::service::lines::Output;
use crate::collector::service::{Parts, Service, ServiceError, signals};
use crate::collector::session::{Sources, ppm};
use crate::config::Config;
use crate::log::{Level, Log};

/// The collector asks for something each time it looks for processes, once a minute at the least.
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

/// Measures what the configuration file names until it is told to end.
///
/// # Errors
/// When the file is wrong, another agent runs, or the service cannot go on.
pub fn run(options: RunOptions) -> Result<Exit, Failure> {
    edgelat_guard::sandbox::close_inherited();
    signals::hold_back().map_err(ServiceError::Signals)?;
    // All that only who called us may do is done here: the collector has no rights.
    let config = Config::load(&options.config)?;
    let agent = &config.agent;
    let log = Log::open(agent.log, agent.log_level)?;
    let user = agent.collector_user.as_deref().map(User::find).transpose()?;
    let lock = RunLock::take(&agent.run_dir)?;
    let packs = super::pack::read_all(&agent.packs)?;
    let debug_dirs = DebugDirs::open(&agent.debug_dirs);
    let quarantine = Store::open(&agent.state_dir).unwrap_or_else(|error| {
        log.say(Level::Warning, format_args!("{error}; quarantine ends with this process"));
        Store::in_memory()
    });
    let offer = Offer::make(&agent.run_dir, ppm(agent.max_cost))
        .map_err(|error| log.say(Level::Warning, format_args!("{error}")))
        .ok();
    let guard = Guard::of_service(edgelat_guard::Service {
        config: options.config.clone(),
        total_ppm: ppm(agent.max_cost),
        watchdog: agent.scan + SILENCE,
        user,
        lock: Some(lock),
        offer,
        notify: Notify::from_env(),
    });
    let wanted = config.place();
    guarded_away_from(guard, &wanted, &CpuSet::default(), |line, placement| {
        let sources = Sources { debug_dirs, packs: super::pack::understand_all(&packs)? };
        let output = if options.json { Output::Json } else { Output::None };
        let path = options.config.clone();
        let parts = Parts { line, path, config, sources, log, quarantine, placement, output };
        Service::new(parts).run()?;
        Ok(Exit::Ok)
    })
}
