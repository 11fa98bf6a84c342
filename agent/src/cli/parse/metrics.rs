//! `edgelat metrics`: what its command line asks for.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use edgelat_export::Bounds;

use super::{INTERVALS, Matches};
use crate::cli::{options::Id, usage::UsageError};
use crate::values::{HOST_WANTED, LISTEN_WANTED, host_name};

/// What `edgelat metrics` is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The configuration file, which names the directory of what runs.
    pub config: PathBuf,
    /// Where to answer; `None`: as the configuration says.
    pub listen: Option<SocketAddr>,
    /// Names that requests may be sent to, besides those of the configuration.
    pub hosts: Vec<String>,
    /// Write this file instead.
    pub textfile: Option<PathBuf>,
    /// Write it again after this time.
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
