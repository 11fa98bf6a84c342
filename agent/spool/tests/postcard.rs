//! Record bytes equal those of the postcard crate: the format is postcard's, for all readers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use edgelat_spool::record::{Record, cut};
use edgelat_spool::segment::{Found, Frames, HEADER_BYTES, Payload, frame};
use edgelat_spool::{Checkpoint, Clock, Counts, Gap, Interval, Stream, Trust, Uncovered};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct RowOf {
    step: u32,
    figures: Vec<i64>,
    buckets: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct StreamOf {
    id: u32,
    target: String,
    function: String,
    image: String,
    build_id: Vec<u8>,
    language: String,
    line: u32,
    until_tail_call: bool,
    marks: u8,
    bias_ns: Option<u64>,
    since_ns: u64,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct CheckpointOf {
    run: [u8; 16],
    boot: [u8; 16],
    agent: String,
    began_ns: u64,
    epoch_ns: Option<u64>,
    next: u64,
    dropped: u64,
    streams: Vec<StreamOf>,
    rows: Vec<RowOf>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct GapOf {
    errno: u32,
    since_ns: u64,
    intervals: u64,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct IntervalOf {
    run: u32,
    first: u64,
    more: u64,
    begin_ns: u64,
    length_ns: u64,
    real_ns: u64,
    trust: u8,
    epoch_ns: Option<u64>,
    streams: Vec<StreamOf>,
    uncovered: Vec<(String, String, u64, u64)>,
    gap: Option<GapOf>,
    rows: Vec<RowOf>,
}

fn stream(id: u32) -> Stream {
    Stream {
        id,
        target: "gateway".to_owned(),
        function: "ns::Größe::handle".to_owned(),
        image: "/usr/sbin/gateway".to_owned(),
        build_id: (0..20).collect(),
        language: "native".to_owned(),
        line: 300,
        until_tail_call: true,
        resumes: false,
        partial: true,
        bias_ns: Some(512),
        since_ns: 1 << 40,
    }
}

fn stream_of(id: u32) -> StreamOf {
    let of = stream(id);
    StreamOf {
        id,
        target: of.target,
        function: of.function,
        image: of.image,
        build_id: of.build_id,
        language: of.language,
        line: 300,
        until_tail_call: true,
        marks: 2,
        bias_ns: Some(512),
        since_ns: 1 << 40,
    }
}

fn counts() -> Counts {
    Counts {
        entries: 1_000_000,
        in_flight: -3,
        lost: [0, -1, 0, 5, 0, 0, 0],
        unmatched: 2,
        exceptions: 11,
        sum_ns: u64::MAX / 2,
        probes_inside_ns: Some(41),
        suspended_ns: Some(17),
        zero: 7,
        buckets: vec![(-192, 1), (-191, 300), (-100, u64::from(u32::MAX)), (63, 2)],
    }
}

/// The same by hand: sum, probes inside plus one, inside, off, zero, unmatched, the losses, the
/// exceptions, suspended plus one, and the buckets.
fn row_of(step: u32) -> RowOf {
    let counts = counts();
    let off = 1_000_000 - (7 + 1 + 300 + i64::from(u32::MAX) + 2) + 3 - 4;
    RowOf {
        step,
        figures: vec![(u64::MAX / 2) as i64, 42, -3, off, 7, 2, 0, -1, 0, 5, 0, 0, 0, 11, 18],
        // `buckets.rs` tests their content itself.
        buckets: edgelat_spool::buckets::pack(&counts.buckets),
    }
}

fn interval() -> Interval {
    Interval {
        run: 0xdead_beef,
        first: 128,
        last: 131,
        begin_ns: 5_000_000_000,
        end: Clock { boot_ns: 45_000_000_000, real_ns: 1_767_225_600_000_000_000, trust: Trust::Plausible },
        epoch_ns: Some(1_767_225_555_000_000_000),
        streams: vec![stream(9)],
        uncovered: vec![Uncovered {
            target: "a".to_owned(),
            reason: "children".to_owned(),
            time_ns: 1 << 33,
            processes: 70_000,
        }],
        gap: Some(Gap { errno: 28, since_ns: 1, intervals: 40 }),
        rows: vec![(0, Counts::default()), (3, counts()), (9, counts())],
    }
}

fn payload(of: Payload<'_>) -> Vec<u8> {
    frame(1, of)[HEADER_BYTES..].to_vec()
}

fn postcard<T: Serialize>(value: &T) -> Vec<u8> {
    let mut buffer = [0; 4096];
    postcard::to_slice(value, &mut buffer).unwrap().to_vec()
}

#[test]
fn an_interval_is_what_postcard_makes_of_it() {
    let expected = IntervalOf {
        run: 0xdead_beef,
        first: 128,
        more: 3,
        begin_ns: 5_000_000_000,
        length_ns: 40_000_000_000,
        real_ns: 1_767_225_600_000_000_000,
        trust: 1,
        epoch_ns: Some(1_767_225_555_000_000_000),
        streams: vec![stream_of(9)],
        uncovered: vec![("a".to_owned(), "children".to_owned(), 1 << 33, 70_000)],
        gap: Some(GapOf { errno: 28, since_ns: 1, intervals: 40 }),
        rows: vec![RowOf { step: 0, figures: vec![], buckets: vec![] }, row_of(3), row_of(6)],
    };
    let bytes = payload(Payload::Interval(&interval()));
    assert_eq!(bytes, postcard(&expected));
    assert_eq!(postcard::from_bytes::<IntervalOf>(&bytes).unwrap(), expected);
    assert_eq!(Record::decode(3, 2, &bytes), Some(Record::Interval(interval())));
}

#[test]
fn a_checkpoint_is_what_postcard_makes_of_it() {
    let checkpoint = Checkpoint {
        run: [7; 16],
        boot: [8; 16],
        agent: "0.1.0".to_owned(),
        began_ns: 12,
        epoch_ns: None,
        next: 1 << 20,
        dropped: 3,
        streams: vec![stream(1), stream(4096)],
        rows: vec![(1, counts())],
    };
    let expected = CheckpointOf {
        run: [7; 16],
        boot: [8; 16],
        agent: "0.1.0".to_owned(),
        began_ns: 12,
        epoch_ns: None,
        next: 1 << 20,
        dropped: 3,
        streams: vec![stream_of(1), stream_of(4096)],
        rows: vec![row_of(1)],
    };
    let bytes = payload(Payload::Checkpoint(&checkpoint));
    assert_eq!(bytes, postcard(&expected));
    assert_eq!(Record::decode(3, 1, &bytes), Some(Record::Checkpoint(checkpoint)));
}

/// A checkpoint with one row of these figures.
fn checkpoint_with(figures: Vec<i64>) -> Vec<u8> {
    postcard(&CheckpointOf {
        run: [7; 16],
        boot: [8; 16],
        agent: "0.1.0".to_owned(),
        began_ns: 12,
        epoch_ns: None,
        next: 1,
        dropped: 0,
        streams: vec![],
        rows: vec![RowOf { step: 3, figures, buckets: row_of(3).buckets }],
    })
}

/// The rows of that checkpoint, as a record of a version.
fn rows(version: u8, figures: Vec<i64>) -> Vec<(u32, Counts)> {
    match Record::decode(version, 1, &checkpoint_with(figures)) {
        Some(Record::Checkpoint(checkpoint)) => checkpoint.rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_of_the_first_version_is_read_and_does_not_know_what_probes_took() {
    let mut figures = row_of(3).figures;
    figures.remove(1);
    figures.truncate(figures.len() - 2);
    assert_eq!(
        rows(1, figures),
        [(3, Counts { probes_inside_ns: None, exceptions: 0, suspended_ns: None, ..counts() })]
    );
    assert_eq!(rows(1, vec![5])[0].1.sum_ns, 5);
    assert_eq!(rows(1, vec![])[0].1.sum_ns, 0);
    assert_eq!(rows(1, (1..=12).collect())[0].1.lost, [6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(Record::decode(1, 1, &checkpoint_with(vec![1; 13])), None, "more than it has");
    assert_eq!(Record::decode(0, 1, &checkpoint_with(vec![])), None);
}

#[test]
fn a_record_of_the_second_version_is_read_and_knows_no_exceptions_and_no_processes() {
    let mut figures = row_of(3).figures;
    figures.truncate(figures.len() - 2);
    assert_eq!(rows(2, figures), [(3, Counts { exceptions: 0, suspended_ns: None, ..counts() })]);
    assert_eq!(Record::decode(2, 1, &checkpoint_with(vec![1; 14])), None, "more than it has");
    let mut old = interval();
    old.rows.clear();
    old.streams.clear();
    old.uncovered[0].processes = 0;
    let mut bytes = payload(Payload::Interval(&old));
    // The additional number, behind the time.
    let time = bytes.windows(5).position(|bytes| bytes == [0x80, 0x80, 0x80, 0x80, 0x20]).unwrap();
    assert_eq!(bytes.remove(time + 5), 0);
    assert_eq!(Record::decode(2, 2, &bytes), Some(Record::Interval(old)));
    assert_eq!(Record::decode(4, 2, &bytes), None);
}

#[test]
fn what_is_resumed_and_what_is_seen_in_part_share_a_byte() {
    let decoded = |marks: u8| {
        let streams = vec![StreamOf { marks, ..stream_of(1) }];
        let empty = || CheckpointOf {
            run: [7; 16],
            boot: [8; 16],
            agent: String::new(),
            began_ns: 0,
            epoch_ns: None,
            next: 0,
            dropped: 0,
            streams: vec![],
            rows: vec![],
        };
        match Record::decode(3, 1, &postcard(&CheckpointOf { streams, ..empty() })) {
            Some(Record::Checkpoint(checkpoint)) => checkpoint.streams.first().cloned(),
            _ => None,
        }
    };
    for marks in 0..4 {
        let expected = Stream { resumes: marks & 1 != 0, partial: marks & 2 != 0, ..stream(1) };
        assert_eq!(decoded(marks), Some(expected), "{marks}");
    }
    assert_eq!(decoded(4), None);
}

#[test]
fn a_frame_is_as_the_page_says() {
    let bytes = frame(0x0102_0304_0506_0708, Payload::Interval(&Interval::default()));
    let length = bytes.len() - HEADER_BYTES;
    assert_eq!(bytes[..4], (length as u32).to_le_bytes());
    assert_eq!(bytes[4..8], (!(length as u32)).to_le_bytes());
    assert_eq!(bytes[8..12], [2, 3, 0, 0]);
    assert_eq!(bytes[12..20], [8, 7, 6, 5, 4, 3, 2, 1]);
    // CRC-32C by its definition: the polynomial 0x1edc6f41, reflected.
    let mut crc = !0u32;
    for byte in bytes[..20].iter().chain(&bytes[24..]) {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()));
    }
    assert_eq!(bytes[20..24], (!crc).to_le_bytes());
}

#[test]
fn a_record_of_another_version_is_told_from_damage() {
    let mut bytes = frame(5, Payload::Interval(&Interval::default()));
    bytes[9] = 4;
    let mut crc = !0u32;
    for byte in bytes[..20].iter().chain(&bytes[24..]) {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()));
    }
    bytes[20..24].copy_from_slice(&(!crc).to_le_bytes());
    assert_eq!(Frames::new(&bytes, true).collect::<Vec<_>>(), [Found::Unknown(5)]);
}

#[test]
fn names_are_cut_between_characters() {
    assert_eq!(cut("short"), "short");
    assert_eq!(cut(&"x".repeat(2000)).len(), 1024);
    assert_eq!(cut(&format!("x{}", "ö".repeat(1000))).len(), 1023);
}

#[test]
fn numbers_that_are_none_are_no_record() {
    let bytes = payload(Payload::Interval(&interval()));
    for end in 0..bytes.len() {
        assert_eq!(Record::decode(2, 2, &bytes[..end]), None, "cut at {end}");
    }
    assert_eq!(Record::decode(2, 2, &[&bytes[..], &[0]].concat()), None, "something behind it");
    assert_eq!(Record::decode(2, 3, &bytes), None);
    // An eleven-byte number, and more than 64 bits in ten bytes.
    for long in
        [[0x80; 11].as_slice(), &[0xff; 9], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
    {
        assert_eq!(edgelat_wire::postcard::Bytes(long).number(), None);
    }
    // A list of more elements than there are bytes.
    assert_eq!(edgelat_wire::postcard::Bytes(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).length(), None);
}
