//! `edgelat quarantine`: what is not probed any more after a crash.

use super::{exit::Exit, failure::Failure, parse::QuarantineOptions};
use crate::config::Config;

/// Shows or clears what is held back.
///
/// # Errors
/// When the configuration file is wrong.
pub fn run(options: &QuarantineOptions) -> Result<Exit, Failure> {
    let config = Config::load(&options.config)?;
    Err(Failure {
        exit: Exit::Failed,
        message: format!("{}: not built yet; nothing is held back", config.agent.state_dir.display()),
    })
}
