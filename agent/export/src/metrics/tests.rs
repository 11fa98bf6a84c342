#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::{Bounds, Format};
use edgelat_spool::live::{Agent, Own, SpoolFigures};
use edgelat_spool::{Clock, Stream, Trust};

const SECOND: u64 = 1_000_000_000;
/// 2026-01-01.
const EPOCH: u64 = 1_767_225_600 * SECOND;

fn row(function: &str, line: u32) -> Row {
    let stream = Stream {
        id: 1,
        target: "gateway".to_owned(),
        function: function.to_owned(),
        image: "/usr/sbin/gateway".to_owned(),
        build_id: vec![0xab, 0x0c],
        line,
        bias_ns: Some(650),
        since_ns: 40 * SECOND,
        ..Stream::default()
    };
    // 1 s, twice 1.1 s, and one at 59 ns: buckets -1 (up to 1 s) and 1 (up to 2^(2/8) s).
    let counts = Counts {
        entries: 9,
        in_flight: 1,
        lost: [1, 0, 2, 0, 0, 0, 1],
        unmatched: 3,
        sum_ns: 3_200_000_059,
        probes_inside_ns: Some(2_000),
        exceptions: 4,
        suspended_ns: Some(1_500_000_000),
        zero: 1,
        buckets: vec![(-1, 1), (1, 2)],
    };
    Row { stream, read_ns: 100 * SECOND, counts }
}

fn snapshot(rows: Vec<Row>) -> Snapshot {
    Snapshot {
        agent: Agent {
            version: "0.1.0".to_owned(),
            kernel: "6.1.0".to_owned(),
            boot: [7; 16],
            pid: 42,
            began_ns: 30 * SECOND,
        },
        now: Clock { boot_ns: 100 * SECOND, real_ns: EPOCH + 100 * SECOND, trust: Trust::Synchronised },
        epoch_ns: Some(EPOCH),
        interval_ns: 10 * SECOND,
        own: Own {
            cpu_ns: 1_500_000,
            collector_bytes: Some(1 << 20),
            limit_ppm: 10_000,
            quarantine: 2,
            spool: Some(SpoolFigures { bytes: 4096, errno: Some(28), ..SpoolFigures::default() }),
            ..Own::default()
        },
        targets: vec![Target {
            name: "gateway".to_owned(),
            processes: vec![(String::new(), 3), ("budget".to_owned(), 1), ("fault".to_owned(), 1)],
            cost_ns: 2_500_000_000,
            cost_ppm: Some(1_234),
            limit_ppm: 10_000,
            refused: 1,
            unattributed: 0,
            not_called: 2,
            missed: 17,
            children_ns: 8_500_000,
        }],
        rows,
        ..Snapshot::default()
    }
}

const NOW: Now = Now { boot: [7; 16], boot_ns: 101_500_000_000 };

fn text(snapshot: Option<&Snapshot>, now: Now, format: Format) -> String {
    String::from_utf8(format.write(&of(snapshot, now), Bounds::default())).unwrap()
}

/// The lines of a family, with its samples.
fn lines<'t>(text: &'t str, family: &str) -> Vec<&'t str> {
    let of = |line: &&str| {
        let name =
            line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").trim_start_matches("# UNIT ");
        name.starts_with(family)
    };
    text.lines().filter(of).collect()
}

#[test]
fn a_histogram_in_text_is_exactly_this() {
    let snapshot = snapshot(vec![row("handle", 0)]);
    let labels = r#"target="gateway",function="handle",image="/usr/sbin/gateway",build_id="ab0c""#;
    let name = "edgelat_function_duration_seconds";
    let mut bounds: Vec<String> = vec![
        "5.960464477539063e-08",
        "1.1920928955078125e-07",
        "2.384185791015625e-07",
        "4.76837158203125e-07",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    bounds.extend((-20..=8).map(|power: i32| crate::bounds::in_go(f64::from(power).exp2(), false)));
    for (format, open) in [(Format::Classic, false), (Format::OpenMetrics, true)] {
        let mut expected = vec![
            format!("# HELP {name} How long calls of a function took, what the probes add included."),
            format!("# TYPE {name} histogram"),
        ];
        expected.extend(open.then(|| format!("# UNIT {name} seconds")));
        for bound in &bounds {
            let seconds: f64 = bound.parse().unwrap();
            let count = if seconds < 1.0 {
                1
            } else if seconds < 2.0 {
                2
            } else {
                4
            };
            let dot = if open && seconds >= 1.0 { ".0" } else { "" };
            expected.push(format!("{name}_bucket{{{labels},le=\"{bound}{dot}\"}} {count}"));
        }
        expected.push(format!("{name}_bucket{{{labels},le=\"+Inf\"}} 4"));
        expected.push(format!("{name}_sum{{{labels}}} 3.200000059"));
        expected.push(format!("{name}_count{{{labels}}} 4"));
        expected.extend(open.then(|| format!("{name}_created{{{labels}}} 1767225640")));
        let text = text(Some(&snapshot), NOW, format);
        assert_eq!(lines(&text, name), expected);
        assert_eq!(text.ends_with("\n# EOF\n"), open);
    }
}

#[test]
fn the_account_is_in_the_metrics_and_adds_up() {
    let text = text(Some(&snapshot(vec![row("handle", 0)])), NOW, Format::Classic);
    let labels = r#"{target="gateway",function="handle",image="/usr/sbin/gateway",build_id="ab0c""#;
    assert_eq!(
        lines(&text, "edgelat_function_calls"),
        [
            "# HELP edgelat_function_calls_total Calls that began.",
            "# TYPE edgelat_function_calls_total counter",
            &format!("edgelat_function_calls_total{labels}}} 9"),
        ]
    );
    assert_eq!(
        lines(&text, "edgelat_function_exceptions")[2],
        format!("edgelat_function_exceptions_total{labels}}} 4")
    );
    let value = |name: &str| -> u64 {
        lines(&text, name)
            .iter()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    };
    let parts = [
        "edgelat_function_inside_calls",
        "edgelat_function_ended_inside_calls",
        "edgelat_function_lost_calls",
        "edgelat_function_duration_seconds_count",
    ];
    assert_eq!(parts.map(value), [1, 2, 2, 4]);
    assert_eq!(value("edgelat_function_calls"), parts.map(value).iter().sum::<u64>());
    for (at, reason) in LOSSES.iter().enumerate() {
        let line = format!("edgelat_function_lost_calls_total{labels},reason=\"{reason}\"}}");
        assert_eq!(text.contains(&line), at != ENDED_INSIDE, "{reason}");
    }
    assert_eq!(LOSSES[ENDED_INSIDE], "ended_inside");
}

#[test]
fn what_is_told_of_targets_and_of_the_agent_is_exactly_this() {
    let text = text(Some(&snapshot(Vec::new())), NOW, Format::OpenMetrics);
    assert!(!text.contains("edgelat_function_"), "what has no sample is left out: {text}");
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        samples,
        [
            "edgelat_up 1",
            "edgelat_snapshot_age_seconds 1.5",
            r#"edgelat_target_processes{target="gateway",state="budget"} 1"#,
            r#"edgelat_target_processes{target="gateway",state="failed"} 0"#,
            r#"edgelat_target_processes{target="gateway",state="fault"} 1"#,
            r#"edgelat_target_processes{target="gateway",state="measured"} 3"#,
            r#"edgelat_target_processes{target="gateway",state="quarantine"} 0"#,
            r#"edgelat_target_refused_functions{target="gateway"} 1"#,
            r#"edgelat_target_uncalled_names{target="gateway"} 2"#,
            r#"edgelat_target_unattributed_hits_total{target="gateway"} 0"#,
            r#"edgelat_target_unattributed_hits_created{target="gateway"} 1767225630"#,
            r#"edgelat_target_missed_children_total{target="gateway"} 17"#,
            r#"edgelat_target_missed_children_created{target="gateway"} 1767225630"#,
            r#"edgelat_target_uncovered_children_seconds_total{target="gateway"} 0.0085"#,
            r#"edgelat_target_uncovered_children_seconds_created{target="gateway"} 1767225630"#,
            r#"edgelat_target_cost_seconds_total{target="gateway"} 2.5"#,
            r#"edgelat_target_cost_seconds_created{target="gateway"} 1767225630"#,
            r#"edgelat_target_cost_ratio{target="gateway"} 0.001234"#,
            r#"edgelat_target_cost_limit_ratio{target="gateway"} 0.01"#,
            r#"edgelat_build_info{version="0.1.0",kernel="6.1.0"} 1"#,
            r#"edgelat_agent_resident_bytes{process="collector"} 1048576"#,
            "edgelat_agent_start_time_seconds 1767225630",
            "edgelat_agent_interval_seconds 10",
            "edgelat_agent_cpu_seconds_total 0.0015",
            "edgelat_agent_cpu_seconds_created 1767225630",
            "edgelat_agent_cost_limit_ratio 0.01",
            "edgelat_agent_left_out_functions 0",
            "edgelat_quarantined_builds 2",
            "edgelat_spool_bytes 4096",
            "edgelat_spool_limit_bytes 0",
            "edgelat_spool_segments 0",
            "edgelat_spool_waiting_intervals 0",
            "edgelat_spool_written_bytes_total 0",
            "edgelat_spool_written_bytes_created 1767225630",
            "edgelat_spool_failing 1",
        ]
    );
}

#[test]
fn without_a_snapshot_of_a_service_that_runs_nothing_is_shown_but_that() {
    let rows = vec![row("handle", 0)];
    let living = snapshot(rows);
    let samples = |snapshot: Option<&Snapshot>, now: Now| {
        let text = text(snapshot, now, Format::Classic);
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(samples(None, NOW), ["edgelat_up 0"]);
    // From another boot, whose times mean nothing now.
    assert_eq!(samples(Some(&living), Now { boot: [8; 16], ..NOW }), ["edgelat_up 0"]);
    let ended = Snapshot { ended: true, ..living.clone() };
    assert_eq!(samples(Some(&ended), NOW), ["edgelat_up 0", "edgelat_snapshot_age_seconds 1.5"]);
    let late = |seconds: u64| Now { boot_ns: (100 + seconds) * SECOND, ..NOW };
    assert!(samples(Some(&living), late(35)).contains(&"edgelat_up 1".to_owned()));
    assert_eq!(samples(Some(&living), late(36)), ["edgelat_up 0", "edgelat_snapshot_age_seconds 36"]);
}

#[test]
fn a_function_that_nobody_measures_any_more_is_forgotten() {
    let mut old = snapshot(vec![row("handle", 0), row("gone", 0)]);
    old.now.boot_ns = 100 * SECOND + FORGOTTEN_NS + 1;
    old.rows[0].read_ns = old.now.boot_ns;
    let now = Now { boot_ns: old.now.boot_ns, ..NOW };
    let text = text(Some(&old), now, Format::Classic);
    assert!(text.contains("function=\"handle\"") && !text.contains("gone"), "{text}");
}

#[test]
fn no_time_of_creation_is_made_up_where_the_clock_is_not_known() {
    let unknown = Snapshot { epoch_ns: None, ..snapshot(vec![row("handle", 0)]) };
    let text = text(Some(&unknown), NOW, Format::OpenMetrics);
    assert!(!text.contains("_created") && !text.contains("start_time"), "{text}");
}

#[test]
fn functions_that_differ_in_their_line_only_are_one() {
    let text = text(Some(&snapshot(vec![row("handle", 1), row("handle", 9)])), NOW, Format::Classic);
    let calls = lines(&text, "edgelat_function_calls_total{");
    assert_eq!(calls.len(), 1, "{text}");
    assert!(calls[0].ends_with(" 18"), "{calls:?}");
}

#[test]
fn names_of_strangers_are_written_so_that_they_can_be_read_again() {
    let name = "operator\"\"_\\n\n{le=\"1\"} 5\0\u{1f980}\u{85}";
    let text = text(Some(&snapshot(vec![row(name, 0)])), NOW, Format::OpenMetrics);
    let escaped = "function=\"operator\\\"\\\"_\\\\n\\n{le=\\\"1\\\"} 5\u{fffd}\u{1f980}\u{85}\"";
    assert!(text.contains(escaped), "{text}");
}

/// Fields by number, as a decoder that knows only the encoding finds them.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Varint(u64),
    Double(f64),
    Bytes(Vec<u8>),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for place in 0.. {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    number
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut bytes)),
            1 => {
                let (number, rest) = bytes.split_at(8);
                bytes = rest;
                Field::Double(f64::from_le_bytes(number.try_into().unwrap()))
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(value.to_vec())
            }
            kind => panic!("no such kind: {kind}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

fn sub(message: &[(u64, Field)], field: u64) -> Vec<Vec<(u64, Field)>> {
    let of = |(number, value): &(u64, Field)| match value {
        Field::Bytes(bytes) if *number == field => Some(fields(bytes)),
        _ => None,
    };
    message.iter().filter_map(of).collect()
}

#[test]
fn a_native_histogram_has_our_buckets_one_index_higher() {
    let bytes = Format::Protobuf.write(&of(Some(&snapshot(vec![row("handle", 0)])), NOW), Bounds::default());
    let mut rest = bytes.as_slice();
    let mut families = Vec::new();
    while !rest.is_empty() {
        let length = varint(&mut rest) as usize;
        let (message, behind) = rest.split_at(length);
        families.push(fields(message));
        rest = behind;
    }
    let name = Field::Bytes(b"edgelat_function_duration_seconds".to_vec());
    let family = families.iter().find(|family| family[0] == (1, name.clone())).unwrap();
    assert!(family.contains(&(3, Field::Varint(4))), "a histogram");
    let metric = &sub(family, 4)[0];
    let labels = sub(metric, 1);
    assert_eq!(labels[1], [(1, Field::Bytes(b"function".to_vec())), (2, Field::Bytes(b"handle".to_vec()))]);
    let histogram = &sub(metric, 7)[0];
    let simple: Vec<_> =
        histogram.iter().filter(|(number, _)| [1, 2, 5, 6, 7].contains(number)).cloned().collect();
    let zigzag = |number: i64| ((number << 1) ^ (number >> 63)) as u64;
    assert_eq!(
        simple,
        [
            (1, Field::Varint(4)),
            (2, Field::Double(3.200000059)),
            (5, Field::Varint(zigzag(3))),
            (6, Field::Double(1.0 / f64::from(1 << 24))),
            (7, Field::Varint(1)),
        ]
    );
    // Indices -1 and 1 become 0 and 2: two spans of one bucket, with one between them.
    assert_eq!(
        sub(histogram, 12),
        [
            vec![(1, Field::Varint(zigzag(0))), (2, Field::Varint(1))],
            vec![(1, Field::Varint(zigzag(1))), (2, Field::Varint(1))],
        ]
    );
    assert!(histogram.contains(&(13, Field::Bytes(vec![zigzag(1) as u8, zigzag(1) as u8]))), "{histogram:?}");
    let classic = sub(histogram, 3);
    assert_eq!(classic.len(), 34);
    assert_eq!(classic[33], [(1, Field::Varint(4)), (2, Field::Double(f64::INFINITY))]);
    assert_eq!(sub(histogram, 15), [vec![(1, Field::Varint(1_767_225_640)), (2, Field::Varint(0))]]);
    let counter = Field::Bytes(b"edgelat_function_calls_total".to_vec());
    let counter = families.iter().find(|family| family[0] == (1, counter.clone())).unwrap();
    assert_eq!(sub(&sub(counter, 4)[0], 3)[0][0], (1, Field::Double(9.0)));
}

#[test]
fn every_metric_is_documented_with_its_kind_and_unit_and_no_other() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `edgelat_"));
    let documented: Vec<[&str; 3]> = rows
        .map(|row| {
            let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            [columns[0].trim_matches('`'), columns[1], columns[2]]
        })
        .collect();
    let mut jumps = row("handle", 0);
    (jumps.stream.until_tail_call, jumps.stream.partial) = (true, true);
    let mut snapshot = snapshot(vec![jumps]);
    snapshot.own.guard_bytes = Some(1);
    let families = of(Some(&snapshot), NOW);
    assert_eq!(documented.len(), families.len());
    for family in &families {
        let name = format!("{}{}", family.name, family.suffix());
        let found = documented.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(found[1], format!("{:?}", family.kind).to_lowercase(), "{name}");
        let named = ["seconds", "bytes", "ratio"].contains(&found[2]);
        assert_eq!(if named { found[2] } else { "" }, family.unit, "{name}");
        // OpenMetrics requires the unit at the end of the name.
        assert!(family.name.ends_with(family.unit), "{name}");
        assert!(!family.help.ends_with('.') && !family.metrics.is_empty(), "{name}");
    }
    for reason in LOSSES.iter().filter(|reason| **reason != LOSSES[ENDED_INSIDE]) {
        assert!(page.contains(&format!("\n| {reason} | ")), "{reason}");
    }
}
