//! `edgelat metrics`: the measurements of the service, for Prometheus.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use edgelat_export::http::{self, Hosts, Request, Response};
use edgelat_export::metrics::{self, Now};
use edgelat_export::{Bounds, Format};
use edgelat_spool::live::{self, LiveError};

use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::output::{reason, say};
use super::parse::MetricsOptions;
use super::textfile;
use crate::collector::service::recorder::{boot_id, boot_ns};
use crate::config::Config;

/// Reasons that no metrics are shown.
#[derive(Debug, thiserror::Error)]
enum MetricsError {
    /// The address is unavailable.
    #[error("cannot answer on {address}: {}; --listen names another address, or metrics_listen", reason(.error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause of the failure.
        error: io::Error,
    },
    /// The socket accepts no more connections.
    #[error("cannot answer any more: {}", reason(.0))]
    Accept(io::Error),
    /// The file cannot be written.
    #[error("{}: {}; it has to be a file in a folder that this user may write to", path.display(), reason(.error))]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause of the failure.
        error: io::Error,
    },
}

impl Fails for MetricsError {
    fn exit(&self) -> Exit {
        match self {
            Self::Listen { error, .. } | Self::Write { error, .. }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::NotPermitted
            }
            _ => Exit::Failed,
        }
    }
}

/// Answers scrapers for ever, or writes a file.
///
/// # Errors
/// If the configuration is wrong, the address is taken or the file cannot be written. A service
/// that does not run is not an error: the metrics show it.
pub fn run(options: &MetricsOptions) -> Result<Exit, Failure> {
    let config = Config::load(&options.config)?;
    let run_dir = config.agent.run_dir;
    let bounds = options.bounds;
    let Some(path) = &options.textfile else {
        let address = options.listen.unwrap_or(config.agent.metrics_listen);
        let failed = |error| MetricsError::Listen { address, error };
        let listener = TcpListener::bind(address).map_err(failed)?;
        // Reports the port that the kernel chose, if it was to choose.
        say(format_args!("metrics on http://{}/metrics", listener.local_addr().map_err(failed)?));
        let hosts = Hosts::new([config.agent.metrics_hosts, options.hosts.clone()].concat());
        http::serve(&listener, hosts, move |request| answer(request, &run_dir, bounds))
            .map_err(MetricsError::Accept)?;
        return Ok(Exit::Ok);
    };
    loop {
        let (body, missing) = exposition(&run_dir, Format::Classic, bounds);
        _ = missing.map(say);
        textfile::write(path, &body).map_err(|error| MetricsError::Write { path: path.clone(), error })?;
        let Some(interval) = options.interval else { return Ok(Exit::Ok) };
        std::thread::sleep(interval);
    }
}

fn answer(request: &Request, run_dir: &Path, bounds: Bounds) -> Response {
    match request.path.as_str() {
        "/metrics" => {
            let format = Format::wanted(request.accept.as_deref());
            let (body, _) = exposition(run_dir, format, bounds);
            Response { status: 200, content_type: format.content_type(), body }
        }
        "/" => Response::plain(200, "edgelat: metrics are on /metrics"),
        _ => Response::plain(404, "metrics are on /metrics"),
    }
}

/// Returns the current metrics, and the reason for a missing snapshot.
fn exposition(run_dir: &Path, format: Format, bounds: Bounds) -> (Vec<u8>, Option<LiveError>) {
    let (snapshot, missing) = match live::read(run_dir) {
        Ok(snapshot) => (Some(snapshot), None),
        Err(error) => (None, Some(error)),
    };
    let now = Now { boot: boot_id(), boot_ns: boot_ns() };
    (format.write(&metrics::of(snapshot.as_ref(), now), bounds), missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, accept: Option<&str>) -> Response {
        let accept = accept.map(str::to_owned);
        let request = Request { path: path.to_owned(), head: false, accept, host: None, keep_alive: true };
        answer(&request, Path::new("/nowhere"), Bounds::default())
    }

    #[test]
    fn without_a_service_the_answer_says_so_and_is_one() {
        let response = ask("/metrics", None);
        let text = String::from_utf8(response.body).unwrap();
        assert_eq!((response.status, text.lines().last()), (200, Some("edgelat_up 0")));
        assert_eq!(response.content_type, Format::Classic.content_type());
        let open = ask("/metrics", Some("application/openmetrics-text; version=1.0.0"));
        assert!(open.body.ends_with(b"edgelat_up 0\n# EOF\n"));
        assert_eq!(open.content_type, Format::OpenMetrics.content_type());
    }

    #[test]
    fn other_pages_say_where_the_metrics_are() {
        for (path, status) in [("/", 200), ("/metric", 404), ("/metrics/", 404)] {
            let response = ask(path, None);
            assert_eq!(response.status, status, "{path}");
            assert!(String::from_utf8(response.body).unwrap().contains("/metrics"), "{path}");
        }
    }
}
