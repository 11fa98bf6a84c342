use std::cell::Cell;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::*;

/// A log whose clock the test sets, and what it wrote.
struct Told {
    log: Log,
    reader: PipeReader,
    seconds: Rc<Cell<u64>>,
}

impl Told {
    fn new(level: Level, syslog: Option<UnixDatagram>) -> Self {
        let (reader, writer) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let seconds = Rc::new(Cell::new(0));
        let clock = Rc::clone(&seconds);
        let clock = Box::new(move || Duration::from_secs(clock.get()));
        let log = Log::with(OwnedFd::from(writer).into(), false, syslog, level, clock);
        Self { log, reader, seconds }
    }

    /// Returns the lines since the previous call.
    fn lines(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        assert_eq!(self.reader.read_to_end(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    fn flood(&self, lines: u32) {
        (0..lines).for_each(|number| self.log.say(Level::Error, format_args!("flood {number}")));
    }
}

/// The test's own syslog.
struct Syslog {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Syslog {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgelat-log-{name}-{}", std::process::id()));
        _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path }
    }

    fn next(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn what_is_important_enough_is_said() {
    let mut told = Told::new(Level::Warning, None);
    told.log.say(Level::Error, format_args!("one"));
    told.log.say(Level::Warning, format_args!("target {}: two", "redis"));
    told.log.say(Level::Info, format_args!("three"));
    assert_eq!(told.lines(), ["edgelat: error: one", "edgelat: warning: target redis: two"]);
    let mut told = Told::new(Level::Debug, None);
    told.log.say(Level::Info, format_args!("three"));
    told.log.say(Level::Debug, format_args!("four"));
    assert_eq!(told.lines(), ["edgelat: info: three", "edgelat: debug: four"]);
}

#[test]
fn a_flood_is_held_back_counted_and_told_with_the_next_line() {
    let mut told = Told::new(Level::Info, None);
    told.flood(1000);
    let lines = told.lines();
    assert_eq!((lines.len(), lines[9].as_str()), (10, "edgelat: error: flood 9"));
    told.seconds.set(9);
    told.flood(1);
    assert!(told.lines().is_empty());
    told.seconds.set(10);
    told.flood(2);
    let first = "edgelat: error: 991 more like this were left out: flood 9";
    assert_eq!(told.lines(), [first, "edgelat: error: flood 0"]);
    // An hour later the limit is the same as at the beginning.
    told.seconds.set(3610);
    told.flood(100);
    assert_eq!(told.lines().len(), 11);
}

#[test]
fn what_was_left_out_is_told_when_the_flow_calms() {
    let mut told = Told::new(Level::Info, None);
    told.flood(12);
    told.lines();
    told.log.calm();
    told.seconds.set(9);
    told.log.calm();
    assert!(told.lines().is_empty(), "it may go on");
    told.seconds.set(10);
    told.log.calm();
    assert_eq!(told.lines(), ["edgelat: error: 2 more like this were left out: flood 9"]);
    told.seconds.set(1000);
    told.log.calm();
    assert!(told.lines().is_empty(), "that was all");
}

#[test]
fn one_place_that_says_too_much_leaves_the_others_their_say() {
    let mut told = Told::new(Level::Info, None);
    told.flood(100);
    told.lines();
    told.log.say(Level::Info, format_args!("elsewhere"));
    assert_eq!(told.lines(), ["edgelat: info: elsewhere"]);
}

#[test]
fn more_places_than_are_told_apart_lose_no_count() {
    let mut told = Told::new(Level::Info, None);
    told.flood(13);
    told.lines();
    told.seconds.set(1);
    // Each call has its own call site.
    #[track_caller]
    fn p(log: &Log) {
        log.say(Level::Info, format_args!("place"));
    }
    let l = &told.log;
    #[rustfmt::skip]
    let places = [
        p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l),
        p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l), p(l),
    ];
    assert_eq!((places.len(), told.lines().len()), (PLACES - 1, PLACES - 1));
    p(&told.log);
    let made_room = "edgelat: error: 3 more like this were left out: flood 9";
    assert_eq!(told.lines(), [made_room, "edgelat: info: place"]);
}

#[test]
fn a_reader_that_stopped_holds_nobody_up_and_learns_what_it_missed() {
    let mut told = Told::new(Level::Info, None);
    let say = |told: &Told, number: u64| {
        // A call site that may always log.
        told.seconds.set(number * 1000);
        told.log.say(Level::Info, format_args!("{number} {}", "x".repeat(900)));
    };
    // A pipe holds 64 KiB (pipe(7)); further lines would wait for ever.
    (1..=200).for_each(|number| say(&told, number));
    let before = told.lines();
    assert!((40..100).contains(&before.len()), "{}", before.len());
    say(&told, 201);
    let after = told.lines();
    assert_eq!(
        after[0],
        format!("edgelat: warning: {} lines were lost: nobody took them", 200 - before.len())
    );
    assert!(after[1].starts_with("edgelat: info: 201 x") && after.len() == 2);
}

#[test]
fn a_reader_that_is_gone_ends_nothing() {
    let Told { log, reader, .. } = Told::new(Level::Info, None);
    drop(reader);
    log.say(Level::Error, format_args!("nobody hears this"));
    assert_eq!(log.state.borrow().lost, 1);
}

#[test]
fn no_name_forges_a_line_or_speaks_to_a_terminal() {
    let mut told = Told::new(Level::Info, None);
    told.log.say(Level::Info, format_args!("target {}", "a\nedgelat: error: \u{1b}[2J\u{9b}b"));
    assert_eq!(told.lines(), ["edgelat: info: target a edgelat: error:  [2J b"]);
}

#[test]
fn a_long_line_is_cut_between_characters() {
    for length in 970..1010 {
        let text = "ä".repeat(length / 2);
        let line = line(Level::Error, true, format_args!("{text}"));
        assert!(line.len() <= LINE_BYTES && line.ends_with('\n'), "{length}");
        let whole = format!("<3>edgelat: error: {text}\n");
        assert!(*line == *whole || line.ends_with("ä...\n"), "{length}");
        assert_eq!(*line == *whole, whole.len() <= LINE_BYTES - CUT.len(), "{length}");
    }
}

#[test]
fn the_journal_gets_a_level_before_each_line() {
    assert_eq!(line(Level::Warning, true, format_args!("x")), "<4>edgelat: warning: x\n");
    let file = File::open("/dev/null").unwrap();
    let found = file.metadata().unwrap();
    assert!(is_stream(&file, &format!("{}:{}", found.dev(), found.ino())));
    // Standard error was redirected, or the name is invalid.
    for other in [format!("{}:{}", found.dev(), found.ino() + 1), String::new(), "8".into(), ":".into()] {
        assert!(!is_stream(&file, &other), "{other}");
    }
}

#[test]
fn syslog_gets_packets_in_its_form() {
    let packet = packet(Level::Error, 4711, format_args!("it {}", "broke\n"));
    assert_eq!(packet, "<27>edgelat[4711]: error: it broke ");

    let syslog = Syslog::new("form");
    let mut told = Told::new(Level::Info, Some(connect(&syslog.path).unwrap()));
    told.log.say(Level::Info, format_args!("hello"));
    let packet = syslog.next().unwrap();
    assert_eq!(packet, format!("<30>edgelat[{}]: info: hello", std::process::id()));
    assert!(told.lines().is_empty());
}

#[test]
fn when_syslog_ends_the_rest_goes_to_standard_error_and_that_is_said_once() {
    let syslog = Syslog::new("gone");
    let mut told = Told::new(Level::Info, Some(connect(&syslog.path).unwrap()));
    drop(syslog);
    told.log.say(Level::Info, format_args!("one"));
    told.log.say(Level::Info, format_args!("two"));
    let lines = told.lines();
    assert!(lines[0].starts_with("edgelat: warning: syslog is gone (Connection refused)"), "{lines:?}");
    assert_eq!(lines[1..], ["edgelat: info: one", "edgelat: info: two"]);
}

#[test]
fn a_syslog_that_does_not_read_holds_nobody_up_and_learns_what_it_missed() {
    let syslog = Syslog::new("busy");
    let mut told = Told::new(Level::Info, Some(connect(&syslog.path).unwrap()));
    let say = |told: &Told, number: u64| {
        told.seconds.set(number * 1000);
        told.log.say(Level::Info, format_args!("{number}"));
    };
    // More than its queue holds (net.unix.max_dgram_qlen, 10 to some hundred).
    (1..=5000).for_each(|number| say(&told, number));
    let taken = std::iter::from_fn(|| syslog.next()).count();
    assert!((1..5000).contains(&taken), "{taken}");
    say(&told, 5001);
    let lost = format!("warning: {} lines were lost: nobody took them", 5000 - taken);
    assert!(syslog.next().unwrap().ends_with(&lost));
    assert!(syslog.next().unwrap().ends_with("info: 5001"));
    assert!(told.lines().is_empty());
}

#[test]
fn a_syslog_that_is_not_there_is_an_error_with_a_next_step() {
    let error = connect(Path::new("/nowhere/log")).unwrap_err();
    let told = LogError::Syslog { path: SYSLOG, error }.to_string();
    assert!(told.contains("/dev/log: No such file or directory; start it before edgelat"), "{told}");
}

#[test]
fn standard_error_is_there_and_a_syslog_that_is_not_is_named() {
    for to in [LogTo::Stderr, LogTo::Syslog] {
        match Log::open(to, Level::Error) {
            Ok(log) => assert_eq!(log.state.borrow().syslog.is_some(), to == LogTo::Syslog),
            Err(error) => assert!(to == LogTo::Syslog && error.to_string().contains(SYSLOG), "{error}"),
        }
    }
}

#[test]
fn a_collector_that_has_given_up_its_rights_says_as_much() {
    let syslog = Syslog::new("rights");
    let path = syslog.path.clone();
    let meet = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        // Restricts only this thread; a forbidden call kills the whole process.
        let without_rights = scope.spawn(|| {
            let mut told = Told::new(Level::Info, Some(connect(&path).unwrap()));
            edgelat_guard::sandbox::enter_collector(None, None).unwrap();
            told.flood(1000);
            told.seconds.set(100);
            told.log.calm();
            meet.wait();
            meet.wait();
            told.log.say(Level::Info, format_args!("here"));
            told.lines()
        });
        meet.wait();
        let packets = std::iter::from_fn(|| syslog.next()).count();
        drop(syslog);
        meet.wait();
        assert_eq!(packets, 11);
        let lines = without_rights.join().unwrap();
        assert!(lines[0].contains("syslog is gone") && lines[1..] == ["edgelat: info: here"], "{lines:?}");
    });
}
