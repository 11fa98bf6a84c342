//! `edgelat run`: the service.

use super::{exit::Exit, failure::Failure, parse::RunOptions};
use crate::config::Config;

/// Measures what the configuration file names until it is told to end.
///
/// # Errors
/// When the file is wrong.
pub fn run(options: RunOptions) -> Result<Exit, Failure> {
    let config = Config::load(&options.config)?;
    Err(Failure {
        exit: Exit::Failed,
        message: format!(
            "{}: {} targets; not built yet; use edgelat watch",
            options.config.display(),
            config.targets.len()
        ),
    })
}
