//! Uploads to Prometheus's own OTLP receiver, with nothing of edgelat between. Debian builds its
//! Prometheus without it, so these tests run for the binaries in
//! `EDGELAT_PROMETHEUS_OTLP=/path/to/prometheus`, separated by colons.
//! `tests/prometheus-otlp/build` makes one from Debian's sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use edgelat_tests::Place;
use edgelat_tests::machine::TempDir;
use edgelat_tests::records::Records;
use serde_json::Value;

use crate::metrics::dashboard_queries;
use crate::servers::{Server, post_json};
use crate::upload::{
    Start, TAKES_A_DAY, Uploaded, a_day_arrives_as_a_whole, a_day_is_refused_as_far_as_it_is_old,
    prometheus_computes_what_we_say, recorded, sent, upload, written_to,
};

/// Runs a test with each named binary, and with the first number of its version.
fn with_each(test: impl Fn(&str, Start<'_>)) {
    let programs = std::env::var("EDGELAT_PROMETHEUS_OTLP").unwrap();
    for program in programs.split(':') {
        let said = Command::new(program).arg("--version").output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let version = said.split(' ').nth(2).unwrap();
        // Version 2 has it behind a feature flag.
        let options: &[&str] = if version.starts_with("2.") {
            &["--enable-feature=native-histograms,otlp-write-receiver"]
        } else {
            &["--enable-feature=native-histograms", "--web.enable-otlp-receiver"]
        };
        println!("figure: the receiver of OTLP of Prometheus {version}");
        test(version, &|folder, config| {
            let server = Server::prometheus(Path::new(program), folder.path(), config, options);
            let url = format!("http://127.0.0.1:{}/api/v1/otlp/v1/metrics", server.port);
            (server, url)
        });
    }
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn a_prometheus_that_takes_otlp_computes_what_we_say() {
    with_each(|_, start| prometheus_computes_what_we_say(start));
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn a_prometheus_that_takes_otlp_refuses_of_a_day_offline_what_is_old_and_has_the_newest_figures() {
    with_each(|_, start| a_day_is_refused_as_far_as_it_is_old(start));
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn a_day_offline_arrives_as_a_whole_where_a_prometheus_takes_otlp_that_is_a_day_old() {
    with_each(|version, start| {
        if version.starts_with("2.") {
            // It takes no old histograms with any configuration.
            a_day_is_refused_as_far_as_it_is_old(&|folder, _| start(folder, TAKES_A_DAY));
        } else {
            a_day_arrives_as_a_whole(start);
        }
    });
}

/// All series of edgelat in a Prometheus at the end of the records: labels, and value or histogram.
fn series(prometheus: &Server, records: &Records) -> BTreeMap<String, String> {
    let end = records.now.real_ns as f64 / 1e9;
    let text = |sample: Value| {
        let value = if sample["histogram"].is_null() { &sample["value"] } else { &sample["histogram"] };
        (sample["metric"].to_string(), value[1].to_string())
    };
    prometheus.samples(&format!("{{__name__=~\"edgelat.+\"}} @ {end:.3}")).into_iter().map(text).collect()
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn the_series_of_otlp_are_those_of_what_stands_for_it_elsewhere() {
    with_each(|version, start| {
        let place = Place::new();
        place.configure("", &[]);
        let mut records = recorded(&place, 20);
        records.uncovered("gateway", "budget", 3_000_000_000);
        records.interval(3, 200);
        let (folder, other) = (TempDir::new(), TempDir::new());
        let (prometheus, url) = start(&folder, "");
        let (stand_in, stand_in_url) =
            written_to(if version.starts_with("2.") { "2.53" } else { "3" }, &other, "");
        sent(&upload(&place, &url), &["sent 21 intervals"]);
        sent(&upload(&place, &stand_in_url), &["sent 21 intervals"]);
        let found = series(&prometheus, &records);
        assert_eq!(found, series(&stand_in, &records));
        println!("figure: {} series, the same labels and values by OTLP as by remote write", found.len());
        // Facts about the machine and the run are labels of a separate series.
        let end = records.now.real_ns as f64 / 1e9;
        let info = prometheus.query(&format!("target_info{{job=\"edgelat\"}} @ {end:.3}"));
        let [(labels, _)] = info.as_slice() else { panic!("{info:?}") };
        let names: BTreeSet<&str> = labels.as_object().unwrap().keys().map(String::as_str).collect();
        let documented = [
            "__name__",
            "job",
            "instance",
            "host_name",
            "os_type",
            "service_version",
            "edgelat_boot_id",
            "edgelat_run_id",
        ];
        assert_eq!(names, documented.into());
    });
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn what_is_sent_once_more_to_a_prometheus_counts_once() {
    with_each(|_, start| {
        let Uploaded { prometheus, url, place, records, .. } = &Uploaded::to(start);
        let before = series(prometheus, records);
        std::fs::remove_dir_all(place.path().join("state/upload")).unwrap();
        sent(&upload(place, url), &["sent 60 intervals"]);
        assert_eq!(series(prometheus, records), before);
        let end = records.now.real_ns as f64 / 1e9;
        for (function, counts) in &records.totals {
            let labels = format!("{{target=\"gateway\",function=\"{function}\"}}");
            let points = format!("count_over_time(edgelat_function_duration_seconds{labels}[1h] @ {end:.3})");
            assert_eq!(prometheus.number(&points), Some(60.0));
            let count = format!("histogram_count(edgelat_function_duration_seconds{labels} @ {end:.3})");
            assert_eq!(prometheus.number(&count), Some(counts.exits() as f64));
            let resets = format!("resets(edgelat_function_duration_seconds{labels}[1h] @ {end:.3})");
            assert_eq!(prometheus.number(&resets), Some(0.0));
        }
    });
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn what_was_printed_and_carried_by_hand_is_as_if_it_had_been_sent() {
    with_each(|_, start| {
        let place = Place::new();
        place.configure("", &[]);
        let records = recorded(&place, 300);
        let (folder, other) = (TempDir::new(), TempDir::new());
        let ((by_link, url), (by_hand, _)) = (start(&folder, ""), start(&other, ""));
        let outcome = place.edgelat(&["upload", "--via", "stdout-json"]);
        for line in outcome.stdout.lines() {
            let answer = post_json(by_hand.port, "/api/v1/otlp/v1/metrics", line).unwrap();
            assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.1));
        }
        sent(&upload(&place, &url), &["sent 300 intervals"]);
        let found = series(&by_hand, &records);
        assert_eq!(found, series(&by_link, &records));
        println!(
            "figure: {} series of {} lines of JSON, the same as by protobuf",
            found.len(),
            outcome.stdout.lines().count()
        );
    });
}

#[test]
#[ignore = "set EDGELAT_PROMETHEUS_OTLP to what tests/prometheus-otlp/build prints"]
fn the_dashboard_shows_functions_that_came_by_otlp() {
    with_each(|_, start| {
        let Uploaded { prometheus, .. } = &Uploaded::to(start);
        let mut panels: BTreeMap<String, bool> = BTreeMap::new();
        for (panel, query) in dashboard_queries() {
            // Figures of the service itself are scraped, not sent.
            if query.contains("edgelat_function_") {
                // A panel may query classic and native histograms.
                *panels.entry(panel).or_default() |= !prometheus.query(&query).is_empty();
            }
        }
        assert!(panels.len() > 5 && panels.values().all(|answered| *answered), "{panels:#?}");
        println!("figure: {} panels of the dashboard on functions have something to show", panels.len());
    });
}
