//! `edgelat metrics`: its parsed command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use edgelat_export::Bounds;

use super::{INTERVALS, Matches};
use crate::cli::{options::Id, usage::UsageError};
use crate::values::{HOST_WANTED, LISTEN_WANTED, host_name};

/// Parsed options of `edgelat metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The configuration file, which names the runtime directory.
    pub config: PathBuf,
    /// Address to listen on; `None`: the address from the configuration.
    pub listen: Option<SocketAddr>,
    /// Host names accepted in requests, besides those of the configuration.
    pub hosts: Vec<String>,
    /// Write this file instead.
    pub textfile: Option<PathBuf>,
    /// Time between two writes of the file.
    pub interval: Option<Duration>,
    /// Bounds of classic histograms.
    pub bounds: Bounds,
}

impl MetricsOptions {
    pub(super) fn from_matches(matches: &Matches) -> Result<Self, UsageError> {
        let listen = matches.value(Id::Listen, || LISTEN_WANTED.to_owned(), |text| text.parse().ok())?;
        let command = matches.command.name;
        let host = |given| match matches.text(given)? {
            name if host_name(name) => Ok(name.to_owned()),
            name => Err(UsageError::BadValue {
                command,
                option: "--host".to_owned(),
                given: name.to_owned(),
                wanted: HOST_WANTED.to_owned(),
            }),
        };
        let hosts: Vec<String> =
            matches.values(Id::Host).map(|given| host(given)).collect::<Result<_, _>>()?;
        let textfile = matches.paths(Id::Textfile).pop();
        let interval = matches.time(Id::Interval, INTERVALS)?;
        if textfile.is_some() && !hosts.is_empty() {
            return Err(UsageError::OnlyFor { command, options: "--host", action: "answering" });
        }
        match (&textfile, listen, interval) {
            (Some(_), Some(_), _) => {
                return Err(UsageError::OnlyFor { command, options: "--listen", action: "answering" });
            }
            (None, _, Some(_)) => {
                return Err(UsageError::OnlyFor { command, options: "--interval", action: "--textfile" });
            }
            _ => {}
        }
        let bounds = matches
            .value(Id::BucketsPerOctave, String::new, |word| Bounds::per_octave(word.parse().ok()?))?;
        let config = matches.config();
        Ok(Self { config, listen, hosts, textfile, interval, bounds: bounds.unwrap_or_default() })
    }
}
