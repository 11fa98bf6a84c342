//! An OTLP/HTTP receiver scripted by a test: takes a request, refuses it, asks for time, or hangs
//! up.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::otlp::{Books, points};
use crate::{patience, remote_write};

/// Reaction to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Takes the request.
    Take,
    /// Takes the request and hangs up before the answer.
    TakeAndHangUp,
    /// Takes the request and hangs up in the middle of the answer.
    TakeAndStammer,
    /// Hangs up after half of the request.
    HangUp,
    /// Answers with this status and this value of Retry-After.
    Status(u16, Option<&'static str>),
    /// Answers like a server that is no receiver: this status, this type, this body.
    Page(u16, &'static str, &'static str),
    /// Passes the request to a Prometheus on this port, and returns its answer.
    PassOn(u16),
    /// Takes the request and reports this number of refused points, with the reason.
    Partly(u64, &'static str),
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    usual: Option<Reply>,
    books: Books,
    /// Arrival time of each request, and the reaction.
    log: Vec<(Instant, Reply)>,
    headers: Vec<String>,
}

/// A running receiver. It ends with the test.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// Starts a receiver that reacts in these ways to the first requests, and takes all others.
    pub fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self::on(listener, replies)
    }

    /// Starts it on an existing socket.
    pub fn on(listener: TcpListener, replies: &[Reply]) -> Self {
        Self::behind(listener, replies, serve)
    }

    /// Starts a receiver behind TLS, with a certificate and its key.
    pub fn with_tls(certificate: &Path, key: &Path) -> Self {
        let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocols")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self::behind(listener, &[], move |stream, state| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
            serve(rustls::StreamOwned::new(connection, stream), state);
        })
    }

    fn behind(
        listener: TcpListener,
        replies: &[Reply],
        serve: impl Fn(TcpStream, &Mutex<State>) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let state =
            Arc::new(Mutex::new(State { replies: replies.iter().cloned().collect(), ..State::default() }));
        let shared = Arc::clone(&state);
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(patience())).expect("a timeout");
                let (state, serve) = (Arc::clone(&shared), Arc::clone(&serve));
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the reaction to all later requests.
    pub fn always(&self, reply: Reply) {
        self.state.lock().expect("state").usual = Some(reply);
    }

    /// Points received so far.
    pub fn books(&self) -> Books {
        self.state.lock().expect("state").books.clone()
    }

    /// Reactions and their times.
    pub fn log(&self) -> Vec<(Instant, Reply)> {
        self.state.lock().expect("state").log.clone()
    }

    /// The headers of each request.
    pub fn headers(&self) -> Vec<String> {
        self.state.lock().expect("state").headers.clone()
    }
}

fn serve(mut stream: impl Read + Write, state: &Mutex<State>) {
    let mut buffer = Vec::new();
    loop {
        let Some((head, length)) = head(&mut stream, &mut buffer) else { return };
        let reply = {
            let mut state = state.lock().expect("state");
            let usual = state.usual.clone().unwrap_or(Reply::Take);
            let reply = state.replies.pop_front().unwrap_or(usual);
            state.log.push((Instant::now(), reply.clone()));
            state.headers.push(head.clone());
            reply
        };
        let wanted = if reply == Reply::HangUp { length / 2 } else { length };
        while buffer.len() < wanted {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            }
        }
        if reply == Reply::HangUp {
            return;
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let points = points(&match head.to_ascii_lowercase().contains("content-encoding: gzip") {
            true => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).expect("gzip");
                plain
            }
            false => body,
        });
        if !matches!(reply, Reply::Status(..) | Reply::Page(..) | Reply::PassOn(_)) {
            state.lock().expect("state").books.take(&points);
        }
        let answer = match reply {
            Reply::Take => response(200, None, &[]),
            Reply::TakeAndHangUp | Reply::HangUp => return,
            Reply::TakeAndStammer => {
                _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nhal");
                return;
            }
            Reply::PassOn(port) => match remote_write::write(port, &points) {
                (200 | 204, _) => response(200, None, &[]),
                (status, said) => response(status, None, &said),
            },
            Reply::Status(status, after) => response(status, after, b"as the test wants it"),
            Reply::Page(status, kind, body) => format!(
                "HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
            Reply::Partly(rejected, message) => {
                let (mut partial, mut body) = (Vec::new(), Vec::new());
                edgelat_wire::protobuf::number(&mut partial, 1, rejected);
                edgelat_wire::protobuf::text(&mut partial, 2, message);
                edgelat_wire::protobuf::bytes(&mut body, 1, &partial);
                response(200, None, &body)
            }
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn response(status: u16, retry_after: Option<&str>, body: &[u8]) -> Vec<u8> {
    let after = retry_after.map_or_else(String::new, |after| format!("Retry-After: {after}\r\n"));
    let head = format!("HTTP/1.1 {status} Whatever\r\n{after}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Reads the head of a request; bytes read behind it stay in the buffer. Returns the head and the
/// length of the body.
fn head(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<(String, usize)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            let head = String::from_utf8(head).expect("text");
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            return Some((head, length.unwrap_or(0)));
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Time between two of its answers, of which the first has this number.
pub fn between(log: &[(Instant, Reply)], number: usize) -> Duration {
    log[number + 1].0 - log[number].0
}

/// A proxy that connects to any requested address (CONNECT, RFC 9110, 9.3.6).
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts the proxy.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || lead(&mut stream));
            }
        });
        Self { address, asked }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Number of requests.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn lead(stream: &mut TcpStream) -> Option<()> {
    let (head, _) = head(stream, &mut Vec::new())?;
    let to = head.strip_prefix("CONNECT ")?.split(' ').next()?;
    let mut there = TcpStream::connect(to).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut from, mut back) = (stream.try_clone().ok()?, there.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut there));
    std::io::copy(&mut back, stream).ok()?;
    Some(())
}
