//! HTTP client: requests and answers in bounded time and with bounded memory.
//!
//! It uses the crate ureq, with rustls for https. It follows no redirects: a request that has to go
//! elsewhere is a configuration mistake, and headers with passwords must not go to other hosts.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use ureq::Agent;
use ureq::http::Uri;

use crate::pass::Post;
use crate::retry::{Answer, judge};

/// Most bytes read of an answer. The answer to a request that was fully accepted is empty.
const ANSWER_BYTES: u64 = 64 << 10;

/// Maximum size of the headers file.
const HEADERS_BYTES: u64 = 64 << 10;

/// Maximum size of the certificate file. Debian's has a quarter of a megabyte.
#[cfg(feature = "tls")]
const CERTIFICATES_BYTES: u64 = 8 << 20;

/// Certificate bundles of Debian, OpenWrt, Buildroot, Yocto and Alpine; Fedora; SUSE; others.
#[cfg(feature = "tls")]
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Buffer sizes of a connection, in bytes. The crate's defaults are ten times as large.
const BUFFER_BYTES: usize = 16 << 10;

/// Default path of an OTLP/HTTP receiver, if its address has none (OTLP, *OTLP/HTTP Request*).
const PATH: &str = "/v1/metrics";

/// Reason why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address of the receiver is invalid.
    #[error("endpoint: '{given}' {reason}; write it like http://collector:4318/v1/metrics")]
    Endpoint {
        /// The given address.
        given: String,
        /// The error in it.
        reason: &'static str,
    },
    /// This build cannot send over TLS.
    #[error(
        "endpoint: this edgelat was built without TLS; send to a collector on this box, or take the full build"
    )]
    NoTls,
    /// The proxy address is invalid.
    #[error("proxy: '{given}' is no address of a proxy; write it like http://proxy:3128")]
    Proxy {
        /// The given address.
        given: String,
    },
    /// A file cannot be read.
    #[error("{key}: {}: {reason}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason, and a remedy.
        reason: String,
    },
    /// There are no certificates to trust.
    #[error(
        "ca_file: there is none of the files in which systems keep the certificates that they trust ({looked}); name one with ca_file"
    )]
    NoCertificates {
        /// Files that were tried.
        looked: String,
    },
}

/// Receiver and settings of a client.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Address of the receiver.
    pub endpoint: String,
    /// A file with more headers.
    pub headers_file: Option<PathBuf>,
    /// Certificates to trust, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// The proxy; `None` for the one from the environment.
    pub proxy: Option<String>,
    /// Timeout of a request with its answer.
    pub timeout: Duration,
    /// True if requests are compressed with gzip.
    pub gzip: bool,
    /// Name and version of this program.
    pub user_agent: String,
}

/// Sends requests to one receiver.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    headers: Vec<(String, String)>,
    gzip: bool,
    /// Bytes sent, after compression.
    pub sent: u64,
}

/// Completes the address of a receiver.
///
/// # Errors
/// If the address is invalid.
pub fn endpoint(given: &str) -> Result<String, ClientError> {
    let wrong = |reason| ClientError::Endpoint { given: given.to_owned(), reason };
    let uri: Uri = given.parse().map_err(|_| wrong("is no address"))?;
    match uri.scheme_str() {
        Some("https") if cfg!(feature = "tls") => {}
        Some("https") => return Err(ClientError::NoTls),
        Some("http") => {}
        _ => return Err(wrong("begins with neither http:// nor https://")),
    }
    let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("has a password in it, which would be seen in the log; put it into headers_file"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("names no host"));
    }
    match uri.path_and_query().map_or("/", |path| path.as_str()) {
        "/" => Ok(format!("{}{PATH}", given.trim_end_matches('/'))),
        _ => Ok(given.to_owned()),
    }
}

impl Client {
    /// Reads the files that the options name.
    ///
    /// # Errors
    /// An error in the options. The receiver is not contacted.
    pub fn new(options: &ClientOptions) -> Result<Self, ClientError> {
        let endpoint = endpoint(&options.endpoint)?;
        let headers = options.headers_file.as_deref().map(headers).transpose()?.unwrap_or_default();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(options.timeout))
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .user_agent(&*options.user_agent);
        let config = match &options.proxy {
            Some(given) => {
                let proxy =
                    ureq::Proxy::new(given).map_err(|_| ClientError::Proxy { given: given.clone() })?;
                config.proxy(Some(proxy))
            }
            None => config,
        };
        #[cfg(feature = "tls")]
        let config = match endpoint.starts_with("https:") {
            true => config.tls_config(tls(options.ca_file.as_deref())?),
            false => config,
        };
        let agent = Agent::new_with_config(config.build());
        Ok(Self { agent, endpoint, headers, gzip: options.gzip, sent: 0 })
    }

    /// Address that requests go to.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// TLS settings of ureq: the trusted certificates.
#[cfg(feature = "tls")]
fn tls(ca_file: Option<&Path>) -> Result<ureq::tls::TlsConfig, ClientError> {
    use std::sync::Arc;
    use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

    let bundle = BUNDLES.iter().map(Path::new).find(|path| path.exists());
    let path =
        ca_file.or(bundle).ok_or_else(|| ClientError::NoCertificates { looked: BUNDLES.join(", ") })?;
    let failed = |reason| ClientError::File { key: "ca_file", path: path.to_owned(), reason };
    let (_, bytes) = read(path, CERTIFICATES_BYTES).map_err(|error| failed(in_words(&error)))?;
    let certificates: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(failed("there is no certificate in it; it has to be a file of PEM".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .build())
}

/// Returns a file's metadata and content.
fn read(path: &Path, most: u64) -> io::Result<(std::fs::Metadata, Vec<u8>)> {
    // A pipe without a writer must not block.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("has more than {most} bytes"))),
        false => Ok((found, bytes)),
    }
}

/// Reads headers, one `Name: value` per line. Empty lines and lines that begin with # are ignored.
fn headers(path: &Path) -> Result<Vec<(String, String)>, ClientError> {
    /// Permissions of everybody.
    const ALL: u32 = 0o006;
    let failed = |reason| ClientError::File { key: "headers_file", path: path.to_owned(), reason };
    let (found, bytes) = read(path, HEADERS_BYTES).map_err(|error| failed(in_words(&error)))?;
    if found.mode() & ALL != 0 {
        let mode = found.mode() & 0o777;
        return Err(failed(format!(
            "everybody may read it or write to it (mode {mode:03o}), and there are passwords in it; run chmod o-rw on it"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("is not UTF-8 text".to_owned()))?;
    let mut headers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line itself is not shown: it may contain a password.
        let wrong = || failed(format!("line {} is no header; write Name: value", number + 1));
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let (name, value) = (name.trim(), value.trim());
        let fits = ureq::http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && ureq::http::HeaderValue::from_str(value).is_ok();
        if !fits {
            return Err(wrong());
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    Ok(headers)
}

/// The system's error message, without the number that Rust adds.
fn in_words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

/// Compresses a request with gzip, as it goes over the wire.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::default());
    // Writing to memory does not fail.
    _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

impl Post for Client {
    fn post(&mut self, request: &[u8]) -> Answer {
        let mut post = self.agent.post(&self.endpoint).content_type("application/x-protobuf");
        for (name, value) in &self.headers {
            post = post.header(name, value);
        }
        let packed;
        let body = match self.gzip {
            true => {
                packed = gzip(request);
                post = post.header("Content-Encoding", "gzip");
                &packed[..]
            }
            false => request,
        };
        self.sent += body.len() as u64;
        let later = |reason: String| Answer::Later { reason, after: None };
        let mut response = match post.send(body) {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) => return later(in_words(&error)),
            Err(error) => return later(error.to_string()),
        };
        let mut answer = Vec::new();
        // A truncated answer is not reliable.
        if let Err(error) = response.body_mut().as_reader().take(ANSWER_BYTES).read_to_end(&mut answer) {
            return later(format!("the answer was cut off: {}", in_words(&error)));
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (content_type, retry_after) = (header("content-type"), header("retry-after"));
        judge(response.status().as_u16(), content_type, retry_after, &answer, SystemTime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_address_without_a_path_gets_that_of_the_protocol() {
        for (given, expected) in [
            ("http://box:4318", "http://box:4318/v1/metrics"),
            ("http://box:4318/", "http://box:4318/v1/metrics"),
            ("http://[::1]:9090/api/v1/otlp/v1/metrics", "http://[::1]:9090/api/v1/otlp/v1/metrics"),
            ("http://box/?a=b", "http://box/?a=b"),
        ] {
            assert_eq!(endpoint(given).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_what_one_looks_like() {
        for (given, reason) in [
            ("", "no address"),
            ("box:4318", "neither http:// nor https://"),
            ("grpc://box:4317", "neither http:// nor https://"),
            ("/v1/metrics", "neither http:// nor https://"),
            ("http://", "no address"),
            ("http://me:secret@box/", "headers_file"),
            ("http://box/a b", "no address"),
        ] {
            let error = endpoint(given).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("collector:4318"), "{given}: {error}");
        }
        #[cfg(not(feature = "tls"))]
        assert!(endpoint("https://box/").unwrap_err().to_string().contains("without TLS"));
    }

    fn file(name: &str, text: &[u8], mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("edgelat-upload-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn headers_are_read_from_a_file_that_is_nobody_elses() {
        let text = b"# of the collector\n\nAuthorization: Bearer a:b\nX-Scope-OrgID:12\n";
        let path = file("headers", text, 0o640);
        let expected = [("Authorization", "Bearer a:b"), ("X-Scope-OrgID", "12")];
        assert_eq!(
            headers(&path).unwrap(),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        std::fs::remove_file(&path).unwrap();
        for (text, mode, reason) in [
            (&text[..], 0o644, "everybody may read it or write to it (mode 644)"),
            (text, 0o602, "chmod o-rw"),
            (b"a: b\nsecret\n", 0o600, "line 2 is no header"),
            (b"a b: c\n", 0o600, "line 1 is no header"),
            (b"\xff", 0o600, "not UTF-8"),
        ] {
            let path = file("wrong", text, mode);
            let error = headers(&path).unwrap_err().to_string();
            assert!(error.contains(reason) && error.starts_with("headers_file: "), "{error}");
            assert!(!error.contains("secret"), "{error}");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(headers(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }

    /// Opening a pipe without a writer blocks.
    #[test]
    fn a_file_that_is_none_holds_nobody() {
        let path = file("pipe", b"", 0o600);
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        let pipe = path.clone();
        std::thread::spawn(move || done.send(headers(&pipe).map_err(|error| error.to_string())));
        let said = wait.recv_timeout(Duration::from_secs(20)).expect("an answer").unwrap_err();
        assert!(said.contains("not a regular file") && said.starts_with("headers_file: "), "{said}");
        std::fs::remove_file(path).unwrap();
    }

    #[cfg(feature = "tls")]
    #[test]
    fn certificates_are_those_of_a_file_or_of_the_system() {
        let options = |ca_file| ClientOptions {
            endpoint: "https://box/".to_owned(),
            ca_file,
            timeout: Duration::from_secs(1),
            ..ClientOptions::default()
        };
        let path = file("certificates", b"-----BEGIN NOTHING-----\n", 0o644);
        let error = Client::new(&options(Some(path.clone()))).unwrap_err().to_string();
        assert!(error.contains("no certificate") && error.starts_with("ca_file: "), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
