//! HTTP/1.1 as far as a scraper needs it: GET and HEAD of two pages, over persistent connections.
//!
//! Anyone who can reach the port can send anything, so everything is bounded: bytes and time of a
//! request, time of an answer, connections at once. A request over a bound gets an error and the
//! connection is closed. If all places are taken, the connection that has been silent for longest
//! makes room (`places`), so idle connections keep no client out.
//!
//! A web page can point a name of its own at this address (DNS rebinding) and read the answers. So
//! a request must name an address, `localhost`, or an allowed name ([`Hosts`]).

mod hosts;
mod places;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use hosts::Hosts;
use places::{Place, Places};

/// Maximum size of a request in bytes. Prometheus' own has less than 500.
pub const REQUEST_BYTES: usize = 8 << 10;

/// Connections at once; a scraper needs one.
pub const CONNECTIONS: usize = 8;

/// Time for a request from first to last byte (the first one: from connecting), and for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time that a connection may be silent between requests: longer than usual scrape intervals.
const IDLE: Duration = Duration::from_secs(120);

/// Stack size of a thread; an answer is on the heap.
const STACK_BYTES: usize = 128 << 10;

/// A parsed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The path, without a query.
    pub path: String,
    /// Only the header of the answer is requested.
    pub head: bool,
    /// Values of all `Accept` headers, joined.
    pub accept: Option<String>,
    /// Host that the request names, with the port.
    pub host: Option<String>,
    /// Another request may follow on this connection.
    pub keep_alive: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its type.
    pub content_type: &'static str,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// A line of text.
    pub fn plain(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n").into_bytes() }
    }
}

/// Parse result of the received bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// The request is incomplete.
    Incomplete,
    /// A request, and its length.
    Request(Request, usize),
    /// A request that is not answered, with the status for the reason.
    Bad(u16),
}

/// Parses a request (RFC 9112).
pub fn parse(bytes: &[u8]) -> Parsed {
    // Empty lines before a request are allowed (2.2).
    let begin = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    let Some(length) = bytes[begin..].windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() >= REQUEST_BYTES { Parsed::Bad(431) } else { Parsed::Incomplete };
    };
    let end = begin + length;
    if end + 4 > REQUEST_BYTES {
        return Parsed::Bad(431);
    }
    match understand(&bytes[begin..end]) {
        Ok(request) => Parsed::Request(request, end + 4),
        Err(status) => Parsed::Bad(status),
    }
}

fn understand(bytes: &[u8]) -> Result<Request, u16> {
    let text = std::str::from_utf8(bytes).map_err(|_| 400u16)?;
    let mut lines = text.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = first.as_slice() else { return Err(400) };
    let minor = version.strip_prefix("HTTP/1.").ok_or(505u16)?;
    let head = match *method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(405),
    };
    if !target.starts_with('/') {
        return Err(400);
    }
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut request = Request { path, head, accept: None, host: None, keep_alive: minor != "0" };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(400u16)?;
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "accept" => match &mut request.accept {
                Some(accept) => {
                    accept.push(',');
                    accept.push_str(value);
                }
                None => request.accept = Some(value.to_owned()),
            },
            // RFC 9112, 3.2: a second Host field makes the host ambiguous.
            "host" if request.host.is_some() => return Err(400),
            "host" => request.host = Some(value.to_owned()),
            "connection" => {
                let said = |word: &str| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(word));
                request.keep_alive = !said("close") && (request.keep_alive || said("keep-alive"));
            }
            // No request has a body here, and an unread one would be taken for the next request.
            "content-length" if value != "0" => return Err(413),
            "transfer-encoding" => return Err(413),
            name if name.is_empty() || name.contains([' ', '\t']) => return Err(400),
            _ => {}
        }
    }
    Ok(request)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        505 => "HTTP Version Not Supported",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

/// Answers requests on a socket that name one of `hosts`, forever.
///
/// # Errors
/// If the socket takes no more connections.
pub fn serve(
    listener: &TcpListener,
    hosts: Hosts,
    answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
) -> io::Result<()> {
    let answer = Arc::new(move |request: &Request| match hosts.has(request.host.as_deref()) {
        true => answer(request),
        false => {
            Response::plain(421, "this name is not allowed; metrics_hosts in the configuration allows it")
        }
    });
    let places = Places::new(CONNECTIONS);
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            // The connection is gone again, or too many files are open; the next one may work.
            Err(error) if is_passing(&error) => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(place) = places.take(&stream) else {
            let full = Response::plain(503, "too many connections");
            _ = stream.set_nonblocking(true);
            _ = send(&stream, &full, false, false);
            continue;
        };
        let answer = Arc::clone(&answer);
        // The place is freed even if no thread can be started.
        _ = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            _ = converse(&stream, &place, &*answer);
            _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn is_passing(error: &io::Error) -> bool {
    // accept(2): errors of the connection, not of the socket; EMFILE and ENFILE have no ErrorKind.
    matches!(error.raw_os_error(), Some(23 | 24))
        || matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory
        )
}

fn converse(stream: &TcpStream, place: &Place, answer: &dyn Fn(&Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut bytes, mut silence) = (Vec::new(), PATIENCE);
    loop {
        let (request, length) = match receive(stream, &mut bytes, silence)? {
            Parsed::Request(request, length) => (request, length),
            Parsed::Bad(status) => {
                return send(stream, &Response::plain(status, reason(status)), false, false);
            }
            Parsed::Incomplete => return Ok(()),
        };
        bytes.drain(..length);
        place.answers();
        send(stream, &answer(&request), request.head, request.keep_alive)?;
        if !request.keep_alive {
            return Ok(());
        }
        place.waits();
        silence = IDLE;
    }
}

/// Receives the next request, begun within `silence`; incomplete at the end of the connection.
fn receive(mut stream: &TcpStream, bytes: &mut Vec<u8>, silence: Duration) -> io::Result<Parsed> {
    let mut deadline = Instant::now() + if bytes.is_empty() { silence } else { PATIENCE };
    loop {
        match parse(bytes) {
            Parsed::Incomplete => {}
            parsed => return Ok(parsed),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(if bytes.is_empty() { Parsed::Incomplete } else { Parsed::Bad(408) });
        }
        stream.set_read_timeout(Some(left))?;
        let mut more = [0; 1024];
        match stream.read(&mut more) {
            Ok(0) => return Ok(Parsed::Incomplete),
            Ok(length) => {
                if bytes.is_empty() {
                    deadline = Instant::now() + PATIENCE;
                }
                bytes.extend_from_slice(&more[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

fn send(mut stream: &TcpStream, response: &Response, head: bool, keep_alive: bool) -> io::Result<()> {
    let Response { status, content_type, body } = response;
    let mut bytes = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nVary: Accept\r\n{}Connection: {}\r\n\r\n",
        reason(*status),
        body.len(),
        if *status == 405 { "Allow: GET, HEAD\r\n" } else { "" },
        if keep_alive { "keep-alive" } else { "close" },
    )
    .into_bytes();
    if !head {
        bytes.extend_from_slice(body);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        // A reader of one byte a second would hold the place forever.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
