//! A stalled file system under the image of a target blocks only operations that need the file.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edgelat_tests::machine::{TempDir, Turn, assert_text_probed, assert_text_restored, eventually, state_of};
use edgelat_tests::service::measure;
use edgelat_tests::session::binary;
use edgelat_tests::{Place, Session, Target, edgelat, patience, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::service::{exe, start};

/// Far above a user's patience at Ctrl-C on an idle machine; earlier versions never ended.
const SOON: Duration = Duration::from_secs(6);

/// A file system with a copy of a target, and the program that serves it.
struct Served {
    server: Child,
    folder: TempDir,
}

impl Served {
    fn new(name: &str) -> Self {
        let folder = TempDir::new();
        let mut server = Command::new(target("serves"));
        server.arg(target(name)).arg(folder.path()).stdout(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self { server, folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.server.id() as i32), signal).unwrap();
    }

    /// Stops answering from here on.
    fn stall(&self) {
        self.signal(Signal::SIGSTOP);
        assert!(eventually(patience(), || state_of(self.server.id() as i32) == Some('T')));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After the last descriptor of the device is closed, waiting processes get an error.
        _ = self.server.kill();
        _ = self.server.wait();
        _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn endless(program: &Path) -> Target {
    start(program, &["--calls", "0", "--threads", "2"])
}

#[test]
fn ctrl_c_ends_a_watch_whose_image_does_not_answer_any_more() {
    let _turn = Turn::shared();
    let served = Served::new("plain");
    let mut target = endless(&served.image());
    let session = Session::with(&target, &["--interval", "0.1"], &["add", "work"]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 100);
    assert_text_probed(target.pid());
    served.stall();
    // Longer than the interval between two looks at the file: the reports continue.
    let before = session.reports().len();
    std::thread::sleep(Duration::from_secs(8));
    assert!(session.reports().len() > before + 5, "{} reports", session.reports().len() - before);
    let begun = Instant::now();
    let report = session.interrupt();
    assert!(begun.elapsed() < SOON, "{:?} from Ctrl-C to the end", begun.elapsed());
    assert_eq!(report.ended.as_deref(), Some("signal"));
    served.signal(Signal::SIGCONT);
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn a_budget_holds_while_the_image_does_not_answer() {
    let _turn = Turn::shared();
    let served = Served::new("tight");
    let mut target = start(&served.image(), &["--calls", "0"]);
    let session = Session::with(&target, &["--max-cost", "2", "--over-budget", "end"], &["tick"]);
    served.stall();
    std::thread::sleep(Duration::from_secs(6));
    target.go();
    let begun = Instant::now();
    let outcome = session.ended();
    assert!(begun.elapsed() < 2 * SOON, "{:?} over budget", begun.elapsed());
    assert_eq!(outcome.status.code(), Some(8), "{outcome:#?}");
    served.signal(Signal::SIGCONT);
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn an_image_that_does_not_answer_is_refused_by_name() {
    let _turn = Turn::shared();
    let served = Served::new("plain");
    let mut target = endless(&served.image());
    let pid = target.pid().to_string();
    served.stall();
    edgelat(&["watch", "-p", &pid, "add"]).refused(5, &["does not answer", "image"]);
    // Ctrl-C takes effect earlier than that.
    let mut watch = Command::new(binary());
    let mut watch = watch.args(["watch", "-p", &pid, "add"]).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    kill(Pid::from_raw(watch.id() as i32), Signal::SIGINT).unwrap();
    watch.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} from Ctrl-C to the end", begun.elapsed());
    assert!(target.is_alive());
    served.signal(Signal::SIGCONT);
    target.go();
    target.stop();
}

#[test]
fn other_targets_go_on_beside_an_image_that_does_not_answer() {
    let _turn = Turn::shared();
    let (place, served) = (Place::new(), Served::new("plain"));
    let plain = place.program("plain", "plain");
    let stalled = measure("stalled", &exe(&served.image()), &["add"], "");
    place.configure("", &[stalled, measure("it", &exe(&plain), &["add"], "")]);
    let mut other = endless(&plain);
    other.go();
    let service = place.start();
    service.counts(other.pid());
    let mut target = endless(&served.image());
    served.stall();
    let (begun, mut seen) = (Instant::now(), service.count());
    while begun.elapsed() < 2 * SOON {
        let asked = Instant::now();
        service.wait_after(seen, |told| told.is(other.pid(), "measured"));
        assert!(asked.elapsed() < SOON + SOON / 2, "no report for {:?}", asked.elapsed());
        seen = service.count();
    }
    service.says("does not answer");
    let begun = Instant::now();
    service.end_by(Signal::SIGTERM);
    assert!(begun.elapsed() < SOON, "it ends after {:?}", begun.elapsed());
    served.signal(Signal::SIGCONT);
    target.go();
    target.stop();
    other.stop();
}
