//! `edgelat upload --via stdout-json`: the spool of a machine without a link, carried to a
//! receiver.

use std::fs::File;
use std::process::Command;

use edgelat_tests::otlp::{Books, Point, points_of_json};
use edgelat_tests::receiver::Receiver;
use edgelat_tests::{Place, session};

use crate::upload::{has_each_once, recorded, sent, upload};

/// The printed points, and the messages about them.
fn printed(place: &Place, arguments: &[&str]) -> (Vec<Point>, String) {
    let outcome = place.edgelat(&[&["upload", "--via", "stdout-json"], arguments].concat());
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    (outcome.stdout.lines().flat_map(points_of_json).collect(), outcome.stderr)
}

#[test]
fn what_is_printed_is_what_would_be_sent_and_nothing_counts_as_sent() {
    let place = Place::new();
    place.configure("", &[]);
    let mut records = recorded(&place, 300);
    records.uncovered("gateway", "budget", 3_000_000_000);
    records.interval(3, 200);
    // Without a list of points that a receiver has.
    let (points, said) = printed(&place, &[]);
    let mut books = Books::default();
    books.take(&points);
    has_each_once(&books, &records);
    assert!(
        said.contains(&format!("301 intervals of {}", place.path().join("state/spool").display())),
        "{said}"
    );
    assert!(said.contains(&format!("{} points in ", points.len())), "{said}");
    assert!(!place.path().join("state/upload").exists());

    let receiver = Receiver::start(&[]);
    sent(&upload(&place, &receiver.url()), &["sent 301 intervals"]);
    assert_eq!(receiver.books().series, books.series);
    // Points that this receiver lacks.
    records.interval(3, 200);
    for _ in 0..2 {
        let (points, said) = printed(&place, &["--endpoint", &receiver.url()]);
        assert!(said.contains("edgelat: 1 intervals of "), "{said}");
        books.take(&points);
    }
    sent(&upload(&place, &receiver.url()), &["sent 1 intervals"]);
    has_each_once(&receiver.books(), &records);
    assert_eq!(receiver.books().series, books.series);
}

#[test]
fn what_cannot_be_printed_is_told() {
    let place = Place::new();
    place.configure("", &[]);
    let print = ["upload", "--via", "stdout-json"];
    place.edgelat(&print).refused(1, &["state/spool", "No such file"]);
    place
        .edgelat(&[&print[..], &["--endpoint", "nowhere"]].concat())
        .refused(2, &["neither http:// nor https://"]);
    place.edgelat(&["upload", "--via", "textfile"]).refused(2, &["--via", "http, stdout-json"]);
    place.edgelat(&[&print[..], &["--once"]].concat()).refused(2, &["only sending takes --once"]);
    // More than a pipe holds.
    let _records = recorded(&place, 300);
    let onto = |file: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$0\" upload --via stdout-json -c \"$1\" {file}")]);
        command.arg(place.copy()).arg(place.config());
        session::run(command)
    };
    File::open("/dev/full").unwrap();
    onto(">/dev/full").refused(1, &["cannot write to standard output", "No space left"]);
    // A reader that stops early gets the beginning it wanted.
    let outcome = onto("| head -c 1");
    assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:#?}");
}
