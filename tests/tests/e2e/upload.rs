//! `edgelat upload`: the spool reaches real receivers, which compute the same figures, and
//! receivers that refuse, hang up or ask for time.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use edgelat_spool::{Clock, Counts, Trust};
use edgelat_tests::lines::Lines;
use edgelat_tests::machine::eventually;
use edgelat_tests::otlp::{Books, Figure};
use edgelat_tests::receiver::{Proxy, Receiver, Reply, between};
use edgelat_tests::records::{Records, SECOND};
use edgelat_tests::report::bucket_of_ns;
use edgelat_tests::service::STRANGER;
use edgelat_tests::{Outcome, Place, TempDir, patience};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::servers::{Server, debian_prometheus, free_port, tool_chain};

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// A correct clock, this long ago.
fn ago(ns: u64) -> Clock {
    Clock { boot_ns: 100 * SECOND, real_ns: now_ns() - ns, trust: Trust::Synchronised }
}

fn spool(place: &Place) -> PathBuf {
    place.path().join("state/spool")
}

/// A spool with this many intervals, of which the last ends now.
pub fn recorded(place: &Place, intervals: u64) -> Records {
    let mut records = Records::begin(&spool(place), 1, [1; 16], ago(intervals * 10 * SECOND));
    (0..intervals).for_each(|_| records.interval(3, 200));
    records
}

/// Number of one-minute intervals in the 26 hours until now.
const DAY: u64 = 26 * 60;

fn recorded_day(place: &Place) -> Records {
    let mut records = Records::begin(&spool(place), 1, [1; 16], ago(DAY * 60 * SECOND));
    records.interval_ns = 60 * SECOND;
    (0..DAY).for_each(|_| records.interval(3, 10));
    records
}

pub fn upload(place: &Place, url: &str) -> Outcome {
    place.edgelat(&["upload", "--once", "--endpoint", url])
}

#[track_caller]
pub fn sent(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    words.iter().for_each(|word| assert!(outcome.stderr.contains(word), "{word}: {outcome:#?}"));
}

/// A receiver has the final counts of each function.
#[track_caller]
fn has_all(books: &Books, records: &Records) {
    for (function, counts) in &records.totals {
        let found = books.at(&records.run, "edgelat_function_duration", function, "", u64::MAX);
        let Some(Figure::Histogram { count, buckets, .. }) = found else { panic!("{function}: {found:?}") };
        assert_eq!((*count, buckets), (counts.exits(), &counts.buckets), "{function}");
        let calls = books.at(&records.run, "edgelat_function_calls", function, "", u64::MAX);
        assert_eq!(calls, Some(&Figure::Number(counts.entries as f64)));
    }
}

/// Each interval of a function is present once.
#[track_caller]
pub fn has_each_once(books: &Books, records: &Records) {
    has_all(books, records);
    assert_eq!(books.again, 0, "nothing came twice");
    for ((run, metric, _), series) in &books.series {
        if *run == records.run && metric == "edgelat_function_duration" {
            assert_eq!(series.len(), records.history.len());
        }
    }
}

/// Starts a Prometheus with a configuration, and returns the URL for its uploads.
pub type Start<'a> = &'a dyn Fn(&TempDir, &str) -> (Server, String);

/// A Prometheus of Debian behind a converter from OTLP.
pub fn written_to(version: &str, folder: &TempDir, config: &str) -> (Server, String) {
    let options = ["--enable-feature=native-histograms", "--web.enable-remote-write-receiver"];
    let server = Server::prometheus(&debian_prometheus(version), folder.path(), config, &options);
    let receiver = Receiver::start(&[]);
    receiver.always(Reply::PassOn(server.port));
    (server, receiver.url())
}

/// A receiver's figures of a histogram equal edgelat's, within a bucket.
#[track_caller]
fn quantiles_agree(of: &dyn Fn(f64) -> Option<f64>, counts: &Counts, function: &str) {
    let histogram = counts.histogram();
    for q in [0.5, 0.9, 0.99] {
        let ours = histogram.quantile(q).unwrap() as f64;
        let found = of(q).unwrap_or_else(|| panic!("no {q} of {function}")) * 1e9;
        let off = (bucket_of_ns(found) - bucket_of_ns(ours)).abs();
        assert!(off <= 1, "{q} of {function}: {found} ns there, ours {ours} ns");
        println!("figure: {q} of {function}: ours {ours} ns, there {found:.0} ns");
    }
}

/// A Prometheus that received a spool of sixty intervals.
pub struct Uploaded {
    pub prometheus: Server,
    pub url: String,
    pub place: Place,
    pub records: Records,
    _folder: TempDir,
}

impl Uploaded {
    pub fn to(start: Start<'_>) -> Self {
        let place = Place::new();
        place.configure("", &[]);
        let records = recorded(&place, 60);
        let folder = TempDir::new();
        let (prometheus, url) = start(&folder, "");
        sent(&upload(&place, &url), &["sent 60 intervals"]);
        Self { prometheus, url, place, records, _folder: folder }
    }
}

pub fn prometheus_computes_what_we_say(start: Start<'_>) {
    let Uploaded { prometheus, url, place, records, .. } = &Uploaded::to(start);
    for (function, counts) in &records.totals {
        let labels =
            format!("{{job=\"edgelat\",target=\"gateway\",function=\"{function}\",language=\"native\"}}");
        let native = format!("edgelat_function_duration_seconds{labels}");
        let number = |query: String| prometheus.number(&query);
        assert_eq!(number(format!("histogram_count({native})")), Some(counts.exits() as f64));
        let sum = number(format!("histogram_sum({native})")).unwrap();
        assert!((sum * 1e9 / counts.sum_ns as f64 - 1.0).abs() < 1e-9, "{sum}");
        quantiles_agree(&|q| number(format!("histogram_quantile({q}, {native})")), counts, function);
        // The names and the account of docs/METRICS.md.
        let account = format!(
            "edgelat_function_calls_total{labels} - on (function) histogram_count({native}) \
             - on (function) edgelat_function_inside_calls{labels} - on (function) edgelat_function_ended_inside_calls{labels} \
             - on (function) sum by (function) (edgelat_function_lost_calls_total{labels})"
        );
        assert_eq!(number(account), Some(0.0), "the account of {function}");
        assert_eq!(number(format!("edgelat_function_calls_total{labels}")), Some(counts.entries as f64));
        assert_eq!(number(format!("edgelat_function_bias_seconds{labels}")), Some(650e-9));
        assert_eq!(number(format!("edgelat_function_unmatched_exits_total{labels}")), Some(0.0));
        let probes = number(format!("edgelat_function_probes_inside_seconds_total{labels}")).unwrap();
        let told = counts.probes_inside_ns.unwrap() as f64;
        assert!((probes * 1e9 / told - 1.0).abs() < 1e-9, "{probes}");
    }
    // At the end of the last interval, however long ago.
    let end = records.now.real_ns as f64 / 1e9;
    let rate = format!("sum(rate(edgelat_function_calls_total[5m] @ {end:.3}))");
    let rate = prometheus.number(&rate).unwrap();
    assert!((rate - 3.0 * 20.1).abs() < 1.0, "{rate} calls a second");
    // A second upload sends nothing.
    sent(&upload(place, url), &["sent 0 intervals"]);
}

#[test]
fn prometheus_2_computes_of_an_upload_what_we_say() {
    prometheus_computes_what_we_say(&|folder, config| written_to("2.53", folder, config));
}

#[test]
fn prometheus_3_computes_of_an_upload_what_we_say() {
    prometheus_computes_what_we_say(&|folder, config| written_to("3", folder, config));
}

#[test]
fn victoria_metrics_computes_of_an_upload_what_we_say() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 60);
    let folder = TempDir::new();
    let port = free_port();
    let mut command = Command::new(tool_chain("victoria-metrics", "1").join("usr/bin/victoria-metrics"));
    command
        .args(["-storageDataPath=data", "-opentelemetry.usePrometheusNaming"])
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
        .current_dir(folder.path());
    let victoria = Server::on(command, port, "/health");
    let url = format!("http://127.0.0.1:{port}/opentelemetry/v1/metrics");
    sent(&upload(&place, &url), &["sent 60 intervals"]);
    for (function, counts) in &records.totals {
        let labels = format!("{{target=\"gateway\",function=\"{function}\"}}");
        let calls = format!("last_over_time(edgelat_function_calls_total{labels}[10m])");
        let there = || victoria.number(&calls) == Some(counts.entries as f64);
        assert!(eventually(patience(), there), "{:?}", victoria.query(&calls));
        let name = "edgelat_function_duration_seconds";
        let count = victoria.number(&format!("last_over_time({name}_count{labels}[10m])"));
        assert_eq!(count, Some(counts.exits() as f64));
        let buckets = format!("sum by (vmrange) (last_over_time({name}_bucket{labels}[10m]))");
        let of = |q: f64| victoria.number(&format!("histogram_quantile({q}, {buckets})"));
        quantiles_agree(&of, counts, function);
    }
}

/// Another machine sends its present figures, so that the receiver can tell the delay of others.
fn live(url: &str) {
    let place = Place::new();
    place.configure("", &[]);
    let mut records = Records::begin(&spool(&place), 9, [1; 16], ago(20 * SECOND));
    records.target = "other".to_owned();
    (0..2).for_each(|_| records.interval(1, 1));
    sent(&upload(&place, url), &["sent 2 intervals"]);
}

pub fn a_day_is_refused_as_far_as_it_is_old(start: Start<'_>) {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded_day(&place);
    let folder = TempDir::new();
    let (prometheus, url) = start(&folder, "");
    live(&url);
    let outcome = upload(&place, &url);
    sent(
        &outcome,
        &["sent 1560 intervals", "refused", "out of bounds", "later ones have what was counted in them"],
    );
    for (function, counts) in &records.totals {
        let labels = format!("{{target=\"gateway\",function=\"{function}\"}}");
        let native = format!("edgelat_function_duration_seconds{labels}");
        let count = prometheus.number(&format!("histogram_count({native})"));
        assert_eq!(count, Some(counts.exits() as f64), "{function}");
        // Points younger than an hour have their time, except in a request that was half older.
        let points = prometheus.number(&format!("count_over_time({native}[50m])")).unwrap();
        assert!(points >= 20.0, "{points}");
        let older = prometheus.number(&format!("count_over_time({native}[26h])")).unwrap();
        assert!(older < 70.0, "{older}");
        println!("figure: {function}: {older} of 1560 intervals of 26 hours taken, all calls counted");
    }
}

#[test]
fn a_day_offline_is_refused_by_a_live_prometheus_as_far_as_it_is_old_and_the_newest_figures_arrive() {
    a_day_is_refused_as_far_as_it_is_old(&|folder, config| written_to("2.53", folder, config));
}

/// Configuration of a Prometheus that accepts day-old points.
pub const TAKES_A_DAY: &str = "storage: {tsdb: {out_of_order_time_window: 30h}}\n";

pub fn a_day_arrives_as_a_whole(start: Start<'_>) {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded_day(&place);
    let folder = TempDir::new();
    let (prometheus, url) = start(&folder, TAKES_A_DAY);
    live(&url);
    let outcome = upload(&place, &url);
    sent(&outcome, &["sent 1560 intervals"]);
    assert!(!outcome.stderr.contains("refused"), "{outcome:#?}");
    let native = "edgelat_function_duration_seconds{target=\"gateway\",function=\"function_1\"}";
    assert_eq!(prometheus.number(&format!("count_over_time({native}[27h])")), Some(1560.0));
    // The count of twenty hours ago.
    let (boot_ns, totals) = &records.history[6 * 60];
    let time = (records.now.real_ns - (records.now.boot_ns - boot_ns)) as f64 / 1e9;
    let then = prometheus.number(&format!("histogram_count({native} @ {time:.3})"));
    assert_eq!(then, Some(totals["function_1"].exits() as f64));
}

#[test]
fn a_day_offline_arrives_as_a_whole_where_a_prometheus_takes_what_is_a_day_old() {
    a_day_arrives_as_a_whole(&|folder, config| written_to("3", folder, config));
}

#[test]
fn a_receiver_that_takes_nothing_for_a_while_gets_everything_once() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 40);
    let replies = [
        Reply::Status(503, None),
        Reply::HangUp,
        Reply::Status(429, Some("2")),
        Reply::Status(502, None),
        Reply::Take,
    ];
    let receiver = Receiver::start(&replies);
    sent(&upload(&place, &receiver.url()), &["sent 40 intervals", "status 503"]);
    has_each_once(&receiver.books(), &records);
    let log = receiver.log();
    assert_eq!(log[..5].iter().map(|(_, reply)| reply.clone()).collect::<Vec<_>>(), replies);
    assert!(between(&log, 2) >= Duration::from_secs(2), "it was asked for two seconds: {log:?}");
    let head = &receiver.headers()[0].to_ascii_lowercase();
    for line in [
        "post /v1/metrics ",
        "content-type: application/x-protobuf",
        "content-encoding: gzip",
        "user-agent: edgelat/",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
}

#[test]
fn what_was_taken_without_an_answer_is_sent_again_and_counts_once() {
    for reply in [Reply::TakeAndHangUp, Reply::TakeAndStammer] {
        let place = Place::new();
        place.configure("", &[]);
        let records = recorded(&place, 40);
        let receiver = Receiver::start(&[reply]);
        sent(&upload(&place, &receiver.url()), &["sent 40 intervals"]);
        let books = receiver.books();
        assert!(books.again > 0);
        has_all(&books, &records);
    }
}

#[test]
fn what_a_receiver_refuses_is_said_and_counted_and_not_sent_again() {
    let place = Place::new();
    place.configure("", &[]);
    recorded(&place, 10);
    let receiver = Receiver::start(&[Reply::Partly(3, "out of bounds"), Reply::Take]);
    sent(&upload(&place, &receiver.url()), &["refused 3 points (out of bounds)", "sent 10 intervals"]);
    sent(&upload(&place, &receiver.url()), &["sent 0 intervals"]);
    assert_eq!(receiver.log().len(), 1);

    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 10);
    let receiver = Receiver::start(&[Reply::Status(400, None)]);
    sent(&upload(&place, &receiver.url()), &["status 400: as the test wants it", "later ones"]);
    // The newest figures were sent separately.
    has_all(&receiver.books(), &records);
    assert_eq!(receiver.log().len(), 2);
}

#[test]
fn a_receiver_that_is_not_there_or_lets_nobody_in_is_an_error_and_nothing_is_lost() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 10);
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    upload(&place, &nobody).refused(1, &["refused", "what was not sent stays in the spool"]);
    let receiver =
        Receiver::start(&[Reply::Status(401, None), Reply::Status(404, None), Reply::Status(302, None)]);
    upload(&place, &receiver.url()).refused(1, &["status 401", "headers_file"]);
    upload(&place, &receiver.url()).refused(1, &["status 404", "endpoint"]);
    upload(&place, &receiver.url()).refused(1, &["status 302", "endpoint"]);
    sent(&upload(&place, &receiver.url()), &["sent 10 intervals"]);
    has_each_once(&receiver.books(), &records);
    // It asks for more time than a single invocation has.
    Records::begin(&spool(&place), 2, [1; 16], ago(10 * SECOND)).interval(1, 1);
    receiver.always(Reply::Status(429, Some("3600")));
    upload(&place, &receiver.url()).refused(1, &["429"]);
}

/// A running `edgelat upload`.
struct Uploading {
    child: Child,
    lines: Lines,
}

impl Uploading {
    fn start(place: &Place, url: &str) -> Self {
        let mut command = Command::new(place.copy());
        let folder = place.path().join("state/upload");
        std::fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(STRANGER), Some(STRANGER)).unwrap();
        // An unprivileged user: it needs no rights.
        command.args(["upload", "--endpoint", url, "-c"]).arg(place.config()).uid(STRANGER).gid(STRANGER);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = Lines::of(child.stderr.take().unwrap());
        Self { child, lines }
    }

    #[track_caller]
    fn says(&self, words: &str) {
        let said = self.lines.wait(0, patience(), |line| line.contains(words).then_some(()));
        assert!(said.is_some(), "`{words}` was not said, only:\n{}", self.lines.text());
    }

    #[track_caller]
    fn end(mut self, signal: Signal) -> String {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let mut status = None;
        let ended = || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        };
        assert!(eventually(patience(), ended), "it does not end");
        assert_eq!(status.unwrap().code(), Some(0), "{}", self.lines.text());
        self.lines.text()
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_service_without_rights_sends_what_comes_and_waits_for_a_receiver_that_is_down() {
    let place = Place::new();
    place.configure("", &[]);
    let config = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), format!("{config}[upload]\ninterval = \"1s\"\n")).unwrap();
    let port = free_port();
    let uploading = Uploading::start(&place, &format!("http://127.0.0.1:{port}"));
    uploading.says("`edgelat run` records there");
    let mut records = Records::begin(&spool(&place), 1, [1; 16], ago(3_600 * SECOND));
    (0..10).for_each(|_| records.interval(3, 20));
    uploading.says("Connection refused");
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let receiver = Receiver::on(listener, &[]);
    let sent = |count: usize| {
        let books = receiver.books();
        let series = books.series.iter().find(|((_, metric, _), _)| metric == "edgelat_function_duration");
        series.is_some_and(|(_, series)| series.len() == count)
    };
    assert!(eventually(patience(), || sent(10)), "{}", uploading.lines.text());
    uploading.says("has everything up to now");
    (0..5).for_each(|_| records.interval(3, 20));
    assert!(eventually(patience(), || sent(15)), "{}", uploading.lines.text());
    has_each_once(&receiver.books(), &records);
    let said = uploading.end(Signal::SIGTERM);
    assert_eq!(said.matches("Connection refused").count(), 1, "it says what changes: {said}");
    // Another upload continues at that position.
    records.interval(3, 20);
    let uploading = Uploading::start(&place, &receiver.url());
    assert!(eventually(patience(), || sent(16)), "{}", uploading.lines.text());
    // Points that the first upload had sent may have come again, with the same values.
    has_all(&receiver.books(), &records);
    uploading.end(Signal::SIGINT);
}

#[test]
fn an_upload_ends_at_once_while_a_receiver_does_not_answer() {
    let place = Place::new();
    place.configure("", &[]);
    recorded(&place, 3);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uploading = Uploading::start(&place, &format!("http://{}", silent.local_addr().unwrap()));
    let (_stream, _) = silent.accept().unwrap();
    let started = std::time::Instant::now();
    uploading.end(Signal::SIGTERM);
    assert!(started.elapsed() < Duration::from_secs(25), "before the time for a request was over");
}

#[test]
fn the_clock_of_a_box_that_has_none_is_waited_for() {
    let place = Place::new();
    place.configure("", &[]);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let digits: String = boot.trim().chars().filter(|digit| *digit != '-').collect();
    let boot =
        std::array::from_fn(|place| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).unwrap());
    // An interval recorded before the clock was ever set, and a boot with an unset clock.
    let unset = |boot_ns| Clock { boot_ns, real_ns: boot_ns, trust: Trust::Unset };
    let mut lost = Records::begin(&spool(&place), 1, [1; 16], unset(5 * SECOND));
    (0..7).for_each(|_| lost.interval(2, 5));
    let mut records = Records::begin(&spool(&place), 2, boot, unset(5 * SECOND));
    (0..360).for_each(|_| records.interval(2, 5));
    let receiver = Receiver::start(&[]);
    sent(&upload(&place, &receiver.url()), &["7 intervals are not sent", "wait for the clock"]);
    assert_eq!(receiver.log().len(), 0);
    let list = place.edgelat(&["spool", "ls"]);
    assert!(list.stdout.contains("time unknown"), "{list:#?}");
    let dry = place.edgelat(&["upload", "--dry-run", "--endpoint", &receiver.url()]);
    assert!(dry.stdout.contains("wait until the clock can be believed"), "{dry:#?}");
    records.now.real_ns = now_ns();
    records.now.trust = Trust::Synchronised;
    records.interval(2, 5);
    sent(&upload(&place, &receiver.url()), &["sent 361 intervals"]);
    has_each_once(&receiver.books(), &records);
}

#[test]
fn a_dry_run_says_what_would_be_sent_and_sends_nothing() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 12);
    let receiver = Receiver::start(&[]);
    let dry = || place.edgelat(&["upload", "--dry-run", "--endpoint", &receiver.url()]);
    for _ in 0..2 {
        let outcome = dry();
        assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
        assert!(
            outcome.stdout.starts_with("12 intervals of ") && outcome.stdout.contains(" with gzip"),
            "{outcome:#?}"
        );
    }
    assert_eq!(receiver.log().len(), 0);
    assert!(!place.path().join("state/upload").exists());
    sent(&upload(&place, &receiver.url()), &["sent 12 intervals"]);
    has_each_once(&receiver.books(), &records);
    assert!(dry().stdout.starts_with("0 intervals of "));
}

#[test]
fn a_damaged_cursor_sends_everything_again_and_says_so() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 5);
    let receiver = Receiver::start(&[]);
    sent(&upload(&place, &receiver.url()), &["sent 5 intervals"]);
    let folder = place.path().join("state/upload");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("last 4", "last 3")).unwrap();
    sent(&upload(&place, &receiver.url()), &["is damaged", "sent 5 intervals"]);
    has_all(&receiver.books(), &records);
}

/// A self-signed certificate for `localhost` and its key.
const CERTIFICATE: &str = "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n\
    [name]\nCN = localhost\n[extensions]\nsubjectAltName = DNS:localhost\nbasicConstraints = CA:FALSE\n";

#[test]
fn a_receiver_behind_tls_gets_a_password_from_a_file_if_its_certificate_is_trusted() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 6);
    let folder = TempDir::new();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("request"), CERTIFICATE).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-config", "request", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let receiver = Receiver::with_tls(&file("cert.pem"), &file("key.pem"));
    let url = receiver.url().replace("http://127.0.0.1", "https://localhost");
    let config = std::fs::read_to_string(place.config()).unwrap();
    let headers = file("headers");
    std::fs::write(&headers, "Authorization: Basic Ym94OnNlY3JldA==\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&headers, std::fs::Permissions::from_mode(mode)).unwrap();
    let with = |ca_file: &str| {
        let more = format!("[upload]\n{ca_file}\nheaders_file = {headers:?}\n");
        std::fs::write(place.config(), format!("{config}{more}")).unwrap();
    };
    mode(0o644);
    with(&format!("ca_file = {:?}", file("cert.pem")));
    upload(&place, &url).refused(2, &["headers_file", "everybody may read it", "chmod"]);
    mode(0o600);
    with("");
    upload(&place, &url).refused(1, &["certificate"]);
    assert_eq!(receiver.log().len(), 0, "nothing was sent to somebody who is not trusted");
    with(&format!("ca_file = {:?}", file("cert.pem")));
    sent(&upload(&place, &url), &["sent 6 intervals"]);
    assert!(receiver.headers()[0].contains("Basic Ym94OnNlY3JldA=="));
    has_each_once(&receiver.books(), &records);
}

#[test]
fn a_proxy_is_asked_where_there_is_one() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 6);
    let receiver = Receiver::start(&[]);
    let proxy = Proxy::start();
    let arguments = ["upload", "--once", "--endpoint", &receiver.url()];
    let with = |variables: &[(&str, &str)]| {
        let mut command = Command::new(place.copy());
        command.args(arguments).arg("-c").arg(place.config());
        edgelat_tests::session::run({
            command.envs(variables.iter().copied());
            command
        })
    };
    let url = proxy.url();
    sent(&with(&[("http_proxy", &url), ("no_proxy", "127.0.0.1")]), &["sent 6 intervals"]);
    assert_eq!(proxy.asked(), 0);
    drop(records);
    let mut records = Records::begin(&spool(&place), 2, [1; 16], ago(50 * SECOND));
    records.interval(2, 5);
    sent(&with(&[("http_proxy", &url)]), &["sent 1 intervals"]);
    assert_eq!(proxy.asked(), 1);
    has_all(&receiver.books(), &records);
    records.interval(2, 5);
    let config = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), format!("{config}[upload]\nproxy = {url:?}\n")).unwrap();
    sent(&with(&[]), &["sent 1 intervals"]);
    assert_eq!(proxy.asked(), 2);
}

#[test]
fn what_cannot_be_sent_is_told_with_what_to_do() {
    let place = Place::new();
    place.configure("", &[]);
    place.edgelat(&["upload", "--once"]).refused(2, &["endpoint", "nothing says where to send"]);
    upload(&place, "collector:4318").refused(2, &["neither http:// nor https://"]);
    upload(&place, "http://me:secret@collector/").refused(2, &["headers_file"]);
    upload(&place, "http://127.0.0.1:1/").refused(1, &["state/spool", "No such file"]);
    place.edgelat(&["upload", "--once", "--dry-run"]).refused(2, &["--once"]);
    let config = std::fs::read_to_string(place.config()).unwrap();
    let with = |more: &str| std::fs::write(place.config(), format!("{config}[upload]\n{more}\n")).unwrap();
    with("headers_file = \"/nowhere\"");
    upload(&place, "http://127.0.0.1:1/").refused(2, &["headers_file", "/nowhere", "No such file"]);
    with("ca_file = \"/dev/null\"");
    upload(&place, "https://127.0.0.1:1/").refused(2, &["ca_file", "/dev/null", "is not a regular file"]);
    let empty = place.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    with(&format!("ca_file = {empty:?}"));
    upload(&place, "https://127.0.0.1:1/").refused(2, &["ca_file", "no certificate"]);
    with("endpoint = \"nowhere\"");
    place.edgelat(&["upload", "--once"]).refused(2, &["upload: endpoint", "the address of a receiver"]);
}
