#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn request(text: &str) -> Result<Request, Parsed> {
    match parse(text.as_bytes()) {
        Parsed::Request(request, length) => {
            assert_eq!(length, text.len(), "{text}");
            Ok(request)
        }
        other => Err(other),
    }
}

#[test]
fn requests_of_scrapers_are_understood() {
    let get =
        request("GET /metrics?name[]=x HTTP/1.1\r\nHost: box:9105\r\nAccept: a;q=0.5\r\naccept:\tb\r\n\r\n");
    let accept = Some("a;q=0.5,b".to_owned());
    let expected = Request { path: "/metrics".to_owned(), head: false, accept, keep_alive: true };
    assert_eq!(get, Ok(expected.clone()));
    let old = Request { accept: None, keep_alive: false, ..expected };
    assert_eq!(request("\r\nGET /metrics HTTP/1.0\r\n\r\n"), Ok(old.clone()));
    assert_eq!(request("GET /metrics HTTP/1.1\r\nConnection: TE, Close\r\n\r\n"), Ok(old.clone()));
    let kept = Request { keep_alive: true, head: true, ..old };
    assert_eq!(request("HEAD /metrics HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), Ok(kept));
}

#[test]
fn what_is_no_request_for_a_page_is_refused_with_the_reason() {
    for (text, status) in [
        ("POST /metrics HTTP/1.1\r\n\r\n", 405),
        ("GET /metrics HTTP/2.0\r\n\r\n", 505),
        ("GET /metrics\r\n\r\n", 400),
        ("GET  /metrics HTTP/1.1\r\n\r\n", 400),
        ("GET http://box/metrics HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
    ] {
        assert_eq!(request(text), Err(Parsed::Bad(status)), "{text}");
    }
    assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n\r\n"), Parsed::Bad(400));
}

#[test]
fn a_request_has_a_bound_whether_it_ends_or_not() {
    let begin = "GET / HTTP/1.1\r\nA: ";
    assert_eq!(parse(begin.as_bytes()), Parsed::Incomplete);
    let long = format!("{begin}{}", "x".repeat(REQUEST_BYTES));
    assert_eq!(parse(long.as_bytes()), Parsed::Bad(431));
    assert_eq!(parse(format!("{long}\r\n\r\n").as_bytes()), Parsed::Bad(431));
}

#[test]
fn two_requests_at_once_are_two() {
    let one = "GET /a HTTP/1.1\r\n\r\n";
    let Parsed::Request(first, length) = parse(format!("{one}GET /b HTTP/1.1\r\n\r\n").as_bytes()) else {
        panic!("a request");
    };
    assert_eq!((first.path.as_str(), length), ("/a", one.len()));
}

/// A server on a port of its own, which the test process ends.
fn server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(&listener, |request| Response::plain(200, &request.path)));
    address
}

/// What comes until the other side closes.
fn all(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    // A connection that is reset told what it had to before.
    _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn a_connection_answers_one_request_after_the_other_until_it_is_to_close() {
    let stream = TcpStream::connect(server()).unwrap();
    (&stream)
        .write_all(
            b"GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    let text = all(&stream);
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text}");
    assert_eq!(text.matches("Content-Length: 3\r\n").count(), 3, "{text}");
    assert!(
        text.contains("\r\n\r\n/a\nHTTP") && !text.contains("/b") && text.ends_with("\r\n\r\n/c\n"),
        "{text}"
    );
}

#[test]
fn whoever_sends_nonsense_is_told_and_closed() {
    let stream = TcpStream::connect(server()).unwrap();
    (&stream).write_all(b"DELETE /metrics HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n").unwrap();
    let text = all(&stream);
    assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("\r\nAllow: GET, HEAD\r\n"), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
}

#[test]
fn silent_connections_do_not_keep_more_than_their_places_and_give_them_back() {
    let address = server();
    let silent: Vec<TcpStream> = (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let more = TcpStream::connect(address).unwrap();
    let told = all(&more);
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    drop(silent);
    // Their threads see that in their own time.
    let answered = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let stream = TcpStream::connect(address).unwrap();
        _ = (&stream).write_all(b"GET /x HTTP/1.0\r\n\r\n");
        all(&stream).starts_with("HTTP/1.1 200 ")
    });
    assert!(answered, "no place became free");
}
