//! `edgelat metrics`, and a Prometheus of Debian that scrapes it: both compute the same figures.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use edgelat_tests::machine::{TempDir, Turn, eventually};
use edgelat_tests::report::bucket_of_ns;
use edgelat_tests::service::{Place, STRANGER, measure};
use edgelat_tests::{Function, patience};
use serde_json::Value;

use crate::servers::{Server, debian_prometheus, get, project, tool_chain};
use crate::service::{exe, start};

/// `edgelat metrics` on a port that the kernel chooses, as a user without rights.
fn metrics_of(place: &Place) -> Server {
    let mut command = Command::new(place.copy());
    command
        .args(["metrics", "--listen", "127.0.0.1:0", "-c"])
        .arg(place.config())
        .uid(STRANGER)
        .gid(STRANGER);
    Server::that_says(command, |line| {
        let address = line.strip_prefix("edgelat: metrics on http://127.0.0.1:")?;
        address.strip_suffix("/metrics")?.parse().ok()
    })
}

/// A Prometheus that scrapes it in each of the formats.
fn prometheus(version: &str, folder: &Path, of: u16) -> Server {
    let job = |name: &str, more: &str| {
        format!("- job_name: {name}\n  static_configs: [{{targets: ['127.0.0.1:{of}']}}]\n{more}")
    };
    // The option for the classic buckets of a native histogram had another name before 3.0.
    let both = if version.starts_with('2') { "scrape" } else { "always_scrape" };
    let config = [
        "global: {scrape_interval: 1s}\nscrape_configs:\n".to_owned(),
        job("text", "  scrape_protocols: [PrometheusText0.0.4]\n"),
        job("openmetrics", "  scrape_protocols: [OpenMetricsText1.0.0]\n"),
        job(
            "protobuf",
            &format!("  scrape_protocols: [PrometheusProto]\n  {both}_classic_histograms: true\n"),
        ),
    ];
    let options = ["--enable-feature=native-histograms"];
    Server::prometheus(&debian_prometheus(version), folder, &config.concat(), &options)
}

/// The metrics as text.
fn text_of(port: u16) -> String {
    let (status, body) = get(port, "/metrics", "text/plain").unwrap();
    assert_eq!(status, 200);
    String::from_utf8(body).unwrap()
}

/// `promtool` with an input; returns its output and true if it succeeds.
fn promtool(version: &str, arguments: &[&str], folder: &Path, input: &str) -> (bool, String) {
    let mut child = Command::new(tool_chain("prometheus", version).join("usr/bin/promtool"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Compares Prometheus's quantiles of all three formats with edgelat's.
fn quantiles_agree(prometheus: &Server, function: &Function) {
    let labels = format!("target=\"it\",function=\"{}\"", function.name);
    let name = "edgelat_function_duration_seconds";
    let count = Some(function.count as f64);
    for job in ["text", "openmetrics", "protobuf"] {
        let labels = format!("{{job=\"{job}\",{labels}}}");
        let all_there = || prometheus.number(&format!("{name}_count{labels}")) == count;
        assert!(
            eventually(patience(), all_there),
            "{:?}",
            prometheus.query(&format!("{name}_count{labels}"))
        );
        let sum = prometheus.number(&format!("{name}_sum{labels}")).unwrap();
        assert!((sum * 1e9 / function.sum_ns as f64 - 1.0).abs() < 1e-9, "{sum}");
        // The classic buckets add up to all counts.
        let last = prometheus.number(&format!("{name}_bucket{}", labels.replace('}', ",le=\"+Inf\"}")));
        assert_eq!(last, count);
    }
    let native = format!("{name}{{job=\"protobuf\",{labels}}}");
    assert_eq!(prometheus.number(&format!("histogram_count({native})")), count);
    let quantiles = function.quantiles.unwrap();
    for (q, ours) in [(0.5, quantiles.p50), (0.9, quantiles.p90), (0.99, quantiles.p99)] {
        let found = prometheus.number(&format!("histogram_quantile({q}, {native})")).unwrap() * 1e9;
        let off = (bucket_of_ns(found) - bucket_of_ns(ours as f64)).abs();
        assert!(off <= 1, "{q} of `{}`: {found} ns in native buckets, ours {ours} ns", function.name);
        for job in ["text", "openmetrics", "protobuf"] {
            let classic = format!("{name}_bucket{{job=\"{job}\",{labels}}}");
            let found = prometheus.number(&format!("histogram_quantile({q}, {classic})")).unwrap() * 1e9;
            // Prometheus's buckets are octaves: eight of edgelat's.
            let octave = |ns: f64| bucket_of_ns(ns).div_euclid(8);
            let off = (octave(found) - octave(ours as f64)).abs();
            assert!(
                off <= 1,
                "{q} of `{}`: {found} ns in classic buckets ({job}), ours {ours} ns",
                function.name
            );
        }
        println!("figure: {q} of {}: ours {ours} ns, native buckets {found:.0} ns", function.name);
    }
}

/// All queries of the dashboard's panels, with the values that Grafana inserts.
pub fn dashboard_queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(project().join("docs/prometheus/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
            let query = query.replace("$instance", ".*").replace("$target", ".*").replace("$function", ".*");
            assert!(!query.contains('$'), "{query}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    assert!(queries.len() > 10);
    queries
}

fn prometheus_computes_what_we_say(version: &str) {
    let _turn = Turn::alone();
    let place = Place::new();
    let program = place.program("timed", "timed");
    place.configure("", &[measure("it", &exe(&program), &["computes", "sleeps"], "")]);
    let mut target = start(&program, &["--calls", "400", "--room", "10000"]);
    let pid = target.pid();
    let service = place.start();
    let metrics = metrics_of(&place);
    let folder = TempDir::new();
    let prometheus = prometheus(version, folder.path(), metrics.port);
    target.go();
    let oracle = target.end();
    let told = service.ends(pid);
    let report = told.report();
    report.agrees_with(&oracle);
    for function in &report.functions {
        assert!(function.count > 100);
        quantiles_agree(&prometheus, function);
        let calls =
            format!("edgelat_function_calls_total{{job=\"protobuf\",function=\"{}\"}}", function.name);
        assert_eq!(prometheus.number(&calls), Some(function.entries as f64));
    }
    let up = prometheus.query("edgelat_up");
    assert!(up.len() == 3 && up.iter().all(|(_, value)| *value == 1.0), "{up:?}");

    for (panel, query) in dashboard_queries() {
        // A rate takes two scrapes.
        let answered = || !prometheus.query(&query).is_empty();
        assert!(eventually(patience(), answered), "{panel}: nothing comes of {query}");
    }
    let (content, said) = promtool(version, &["check", "metrics"], folder.path(), &text_of(metrics.port));
    assert!(content && said.is_empty(), "{said}");
    let rules = project().join("docs/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let (content, said) = promtool(version, &arguments, &rules, "");
        assert!(content, "{arguments:?}: {said}");
    }
    service.end();
}

#[test]
fn prometheus_2_computes_the_quantiles_that_we_say() {
    prometheus_computes_what_we_say("2.53");
}

#[test]
fn prometheus_3_computes_the_quantiles_that_we_say() {
    prometheus_computes_what_we_say("3");
}

#[test]
fn metrics_go_on_over_the_processes_of_a_target_and_say_when_the_service_does_not_run() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["work"], "")]);
    let metrics = metrics_of(&place);
    let sample = |name: &str| {
        let text = text_of(metrics.port);
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    assert_eq!(sample("edgelat_up"), Some(0.0), "before there is a service");
    assert_eq!(text_of(metrics.port).lines().filter(|line| !line.starts_with('#')).count(), 1);
    let service = place.start();
    let mut calls = 0;
    for round in 1..=2 {
        let mut target = start(&program, &["--calls", "300"]);
        let pid = target.pid();
        service.wait_for(|told| told.is(pid, "measured"));
        target.go();
        calls += target.end().function("work").calls;
        service.ends(pid);
        let counted = || sample("edgelat_function_calls_total{") == Some(calls as f64);
        assert!(eventually(patience(), counted), "round {round}: {calls} calls, {}", text_of(metrics.port));
    }
    assert_eq!(sample("edgelat_up"), Some(1.0));
    // Files for unprivileged readers, and none for writers.
    let mode = |name: &str| place.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("run"), mode("run/live")], [0o755, 0o644]);

    let file = place.path().join("edgelat.prom");
    let outcome = place.edgelat(&["metrics", "--textfile", file.to_str().unwrap()]);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(
        written.contains("edgelat_up 1\n") && written.contains("edgelat_function_calls_total{"),
        "{written}"
    );

    service.end();
    assert_eq!(sample("edgelat_up"), Some(0.0), "after its end, at once");
    assert_eq!(sample("edgelat_function_calls_total{"), None);
    let service = place.start();
    assert!(eventually(patience(), || sample("edgelat_up") == Some(1.0)), "after a start");
    service.kill();
    // Three intervals and five seconds without a snapshot.
    let patience = patience().max(Duration::from_secs(20));
    assert!(eventually(patience, || sample("edgelat_up") == Some(0.0)), "after a kill");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let place = Place::new();
    place.configure("", &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = place.edgelat(&["metrics", "--listen", &address]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    assert!(
        outcome.stderr.contains(&address) && outcome.stderr.contains("metrics_listen"),
        "{}",
        outcome.stderr
    );
}
