//! Reload of a changed configuration: its effect on measured and on new processes.

use edgelat_guard::GuardError;
use edgelat_guard::protocol::Request;

use super::watched::Group;
use super::{LOOK, Service, ServiceError};
use crate::collector::report::Ended;
use crate::config::Config;
use crate::log::Level;

impl Service {
    /// Reads the configuration again, with the start's checks. A file with errors changes nothing.
    pub(super) fn reload(&mut self) -> Result<(), ServiceError> {
        let read = match self.line.call(&Request::OpenConfig) {
            Err(GuardError::Gone) => return Err(GuardError::Gone.into()),
            Err(error) => Err(error.to_string()),
            Ok((_, mut files)) => match files.pop() {
                Some(file) => Config::from_file(&self.path, file.into()).map_err(|errors| errors.to_string()),
                None => Err(format!("{}: the guard sent no file", self.path.display())),
            },
        };
        let config = match read {
            Ok(config) => config,
            Err(reason) => {
                self.log.say(Level::Error, format_args!("{reason}; nothing changes"));
                return Ok(());
            }
        };
        if config.agent.needs_restart(&self.config.agent) {
            self.log.say(
                Level::Warning,
                format_args!("of [agent] only interval and scan change without a restart of edgelat"),
            );
        }
        if config.spool != self.config.spool {
            self.log
                .say(Level::Warning, format_args!("[spool] does not change without a restart of edgelat"));
        }
        self.config.agent.interval = config.agent.interval;
        self.config.agent.scan = config.agent.scan;
        let (mut before, mut changed) = (std::mem::take(&mut self.groups), false);
        for target in &config.targets {
            let same = before.iter().position(|group| group.config == *target);
            changed |= same.is_none();
            let group = same.map(|index| before.swap_remove(index));
            self.groups.push(group.unwrap_or_else(|| Group::new(target, &self.config.agent)));
        }
        // Targets that are no longer named end before new targets begin.
        let kept = self.groups.len();
        self.groups.extend(before);
        for group in kept..self.groups.len() {
            for index in 0..self.groups[group].watched.len() {
                let Group { config, watched, .. } = &self.groups[group];
                if watched[index].session().is_some() {
                    let (name, pid) = (&config.name, watched[index].pid);
                    let why = "the configuration does not name it any more, or in another way";
                    self.log
                        .say(Level::Info, format_args!("{name}: process {pid} is no longer measured: {why}"));
                }
                self.finish(group, index, Ended::Config, None)?;
            }
        }
        self.groups.truncate(kept);
        if self.closed && changed {
            self.log.say(
                Level::Warning,
                format_args!(
                    "reattach = false: what is new or was changed is measured after a restart of edgelat"
                ),
            );
        }
        self.config.targets = config.targets;
        self.log.say(Level::Info, format_args!("{}: read again, {kept} targets", self.path.display()));
        self.look_for_processes(Some(LOOK))?;
        Ok(())
    }
}
