//! A configuration that is refused at the start is refused at HUP, for the same reason.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use edgelat_tests::machine::{Turn, assert_text_probed, eventually};
use edgelat_tests::service::measure;
use edgelat_tests::{Place, patience, session};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::service::{exe, start};

/// A change of an otherwise valid file, and the message about it.
type Wrong = (&'static str, fn(&Place), &'static str);

const WRONG: [Wrong; 5] = [
    ("mode 666", |place| mode(place, 0o666), "may be written by others than root (mode 666)"),
    (
        "a group that may write",
        |place| {
            chown(place.config(), None, Some(1)).unwrap();
            mode(place, 0o664);
        },
        "may be written by others than root (mode 664)",
    ),
    ("another owner", |place| chown(place.config(), Some(1), None).unwrap(), "belongs to user 1,"),
    (
        "too large, with a first part that is right",
        |place| {
            let mut text = fs::read(place.config()).unwrap();
            text.resize(1 << 20, b'\n');
            text.extend(b"[[target]]\nno such key = 1\n");
            fs::write(place.config(), text).unwrap();
        },
        "has more than the 1048576 bytes",
    ),
    (
        "a pipe without a writer",
        |place| {
            fs::remove_file(place.config()).unwrap();
            mkfifo(&place.config(), Mode::S_IRWXU).unwrap();
        },
        "is not a regular file",
    ),
];

fn mode(place: &Place, mode: u32) {
    fs::set_permissions(place.config(), PermissionsExt::from_mode(mode)).unwrap();
}

/// A file without targets, so that the process would be released if the file were taken.
fn without_targets(place: &Place) {
    _ = fs::remove_file(place.config());
    place.configure("", &[]);
    mode(place, 0o644);
}

#[test]
fn hup_refuses_a_file_that_the_start_and_check_refuse() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add"], "")]);
    let mut target = start(&program, &["--calls", "0"]);
    let service = place.start();
    target.go();
    service.counts(target.pid());
    for (number, (what, spoil, said)) in WRONG.iter().enumerate() {
        without_targets(&place);
        spoil(&place);
        service.signal(Signal::SIGHUP);
        let refused = || service.times("nothing changes") == number + 1;
        assert!(eventually(patience(), refused), "{what}: {}", service.log());
        service.says(said);
        assert_text_probed(target.pid());
        place.edgelat(&["check"]).refused(2, &[said]);
    }
    // The right file is still taken.
    without_targets(&place);
    service.signal(Signal::SIGHUP);
    service.says("read again, 0 targets");
    service.end();
    target.stop();
}

#[test]
fn every_command_refuses_a_file_that_others_may_write() {
    let place = Place::new();
    place.configure("", &[]);
    mode(&place, 0o646);
    session::run(place.command()).refused(2, &["(mode 646)"]);
    for command in ["metrics", "upload", "spool ls", "quarantine list", "check", "watch -p 1 main"] {
        let words: Vec<&str> = command.split(' ').collect();
        place.edgelat(&words).refused(2, &["(mode 646)"]);
    }
}

/// Each would remove the other's files.
#[test]
fn a_second_agent_with_a_run_dir_of_its_own_is_kept_off_the_records_of_the_first() {
    let _turn = Turn::shared();
    let (first, second) = (Place::new(), Place::new());
    let records = format!("[spool]\ndir = \"{}\"\n", first.path().join("records").display());
    first.configure("", std::slice::from_ref(&records));
    second.configure("", std::slice::from_ref(&records));
    let service = first.start();
    let outcome = session::run(second.command());
    outcome.refused(10, &[&format!("process {}", service.pid()), "records/lock"]);
    service.kill();
    second.start().end();
}
