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
    let host = Some("box:9105".to_owned());
    let expected = Request { path: "/metrics".to_owned(), head: false, accept, host, keep_alive: true };
    assert_eq!(get, Ok(expected.clone()));
    let old = Request { accept: None, host: None, keep_alive: false, ..expected };
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
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nhost: evil.example\r\n\r\n", 400),
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

/// A server on its own port; it ends with the test process.
fn server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hosts = Hosts::new(vec!["Box.lan".to_owned()]);
    std::thread::spawn(move || serve(&listener, hosts, |request| Response::plain(200, &request.path)));
    address
}

/// Reads until the other side closes.
fn all(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    // A connection that is reset has delivered its answer before.
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

/// Answer to a scraper that connects now.
fn scraped(address: std::net::SocketAddr) -> String {
    let stream = TcpStream::connect(address).unwrap();
    _ = (&stream).write_all(b"GET /x HTTP/1.0\r\n\r\n");
    all(&stream)
}

#[test]
fn connections_that_ask_for_nothing_keep_nobody_out() {
    let address = server();
    let begun = Instant::now();
    // An idle connection that had an answer, and others that never send anything or all of it.
    let mut kept = TcpStream::connect(address).unwrap();
    kept.write_all(b"GET /kept HTTP/1.1\r\n\r\n").unwrap();
    assert!(kept.read(&mut [0; 1024]).unwrap() > 0);
    let silent: Vec<TcpStream> = (0..3 * CONNECTIONS)
        .map(|number| {
            let stream = TcpStream::connect(address).unwrap();
            if number % 2 == 0 {
                _ = (&stream).write_all(b"GET / HT");
            }
            stream
        })
        .collect();
    for _ in 0..5 {
        let text = scraped(address);
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(!all(&kept).contains("HTTP"), "the one that was silent for longest has made room");
    drop(silent);
}

#[test]
fn a_scraper_comes_through_while_others_connect_again_and_again() {
    let address = server();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let others: Vec<_> = (0..4)
        .map(|_| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                let mut held = std::collections::VecDeque::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    held.extend(TcpStream::connect(address));
                    if held.len() > 2 * CONNECTIONS {
                        held.pop_front();
                    }
                }
            })
        })
        .collect();
    // On a busy machine a connection may be replaced before its thread has run.
    let answered = (0..3).map(|_| scraped(address)).filter(|text| text.starts_with("HTTP/1.1 200 ")).count();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    assert!(answered >= 1, "{answered} of 3");
}

#[test]
fn a_name_that_was_not_allowed_is_not_answered() {
    let address = server();
    for (host, status) in [
        ("127.0.0.1:9105", 200),
        ("192.0.2.1", 200),
        ("[::1]:9105", 200),
        ("LocalHost:80", 200),
        ("localhost.", 200),
        ("box.LAN:9105", 200),
        ("evil.example", 421),
        ("evil.example:9105", 421),
        ("127.0.0.1.evil.example", 421),
        ("box.lan.evil.example", 421),
        ("localhost:evil", 421),
        ("[evil]:80", 421),
        ("", 421),
    ] {
        let stream = TcpStream::connect(address).unwrap();
        write!(&stream, "GET /secret HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let text = all(&stream);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {text}");
        assert_eq!(text.contains("/secret"), status == 200, "{host}: {text}");
    }
}
