//! Tests of the judges: without any probe, every target is right about itself, and the checks of
//! these tests detect the errors they are meant for.

use std::panic::catch_unwind;

use edgelat_tests::machine::{Turn, changed_text};
use edgelat_tests::report::bucket_of_ns;
use edgelat_tests::{Report, Target};
use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

#[test]
fn every_target_is_right_about_itself() {
    let _turn = Turn::shared();
    let threads: &[&str] = &["--calls", "2000", "--threads", "2"];
    let plain: &[&str] = &["--calls", "300"];
    let targets = [
        ("plain", threads),
        ("plain-O0", threads),
        ("plain-stripped", threads),
        ("plain-debugdata", threads),
        ("plain-bare", threads),
        ("plain-nosections", threads),
        ("tight", threads),
        ("timed", &["--calls", "20", "--room", "100"]),
        ("recurse", &["--calls", "20", "--depth", "5000"]),
        ("jumps", threads),
        ("unwound", threads),
        ("unwound-static", threads),
        ("vanish", &["--calls", "20", "--crowd", "8"]),
        ("coroutines", threads),
        ("signals", plain),
        ("forks", plain),
        ("spawns", threads),
        ("sandboxed", plain),
        ("host", &["--calls", "300", "--reopen", "50", "--twin", "1"]),
        ("plain-static", threads),
        ("plain-static-pie", threads),
        ("many", plain),
        ("throws", threads),
        ("throws-nopie", threads),
        ("throws-clang", threads),
        ("leaves", &["--calls", "20", "--room", "100"]),
        ("unwinds", threads),
        ("shapes", plain),
        ("shapes-nopie", plain),
        ("shapes-clang", plain),
    ];
    for (name, arguments) in targets {
        let mut target = Target::start(name, arguments);
        target.go();
        let oracle = target.end();
        for function in &oracle.functions {
            assert_eq!(function.in_flight, 0, "{name}: {function:?}");
            assert_eq!(function.calls, function.completed + function.unwound, "{name}: {function:?}");
        }
        assert!(oracle.functions.iter().any(|f| f.calls > 0), "{name}");
    }
}

/// One changed byte of text is detected, and no longer once it is restored.
#[test]
fn a_changed_byte_of_text_is_noticed() {
    let _turn = Turn::shared();
    let target = Target::start("plain-gcc-nopie-cf", &[]);
    let pid = Pid::from_raw(target.pid());
    assert!(changed_text(target.pid()).is_empty());
    ptrace::attach(pid).unwrap();
    waitpid(pid, None).unwrap();
    // Linked to a fixed address, where the first page of text is.
    let address = 0x401000 as ptrace::AddressType;
    let word = ptrace::read(pid, address).unwrap();
    ptrace::write(pid, address, word ^ 0xff).unwrap();
    assert_eq!(changed_text(target.pid()).len(), 1);
    ptrace::write(pid, address, word).unwrap();
    assert!(changed_text(target.pid()).is_empty());
    ptrace::detach(pid, None).unwrap();
}

fn report(entries: u64, exits: u64, in_flight: u64, abandoned: u64, bucket: u64) -> Report {
    let text = format!(
        r#"{{"schema":"edgelat.watch/1","seq":1,"elapsed_ns":5,"final":true,"ended":"target","target":{{"pid":1}},
        "route":"uprobe_multi","returns":"ret","processes":[{{"pid":1,"covered_since_ns":0}}],"unattributed_hits":0,
        "functions":[{{"name":"f","image":"/f","entries":{entries},"exits":{exits},"exceptions":null,"in_flight":{in_flight},
        "lost":{{"abandoned":{abandoned},"evicted":0}},"unmatched_exits":0,"count":{exits},"sum_ns":9,"probes_inside_ns":0,"mean_without_probes_ns":null,
        "rate_per_s":1.0,"min_ns":1,"p50_ns":2,"p90_ns":3,"p99_ns":3,"p999_ns":3,"max_ns":4,"scale":3,
        "zero_count":0,"buckets":[[-100,{bucket}]],"bias_ns":null,"until_tail_call":false,"inlined_copies":null,"unsettled":false}}]}}"#
    );
    Report::parse(&text.replace('\n', " ")).unwrap()
}

#[test]
fn books_that_do_not_add_up_are_noticed() {
    report(10, 7, 2, 1, 7).assert_identity();
    for wrong in
        [report(11, 7, 2, 1, 7), report(10, 7, 3, 1, 7), report(10, 7, 2, 0, 7), report(10, 7, 2, 1, 6)]
    {
        assert!(catch_unwind(|| wrong.assert_identity()).is_err(), "{wrong:#?}");
    }
}

#[test]
fn buckets_of_the_comparison_are_those_of_scale_three() {
    // Index i holds (2^(i/8), 2^((i+1)/8)] seconds.
    assert_eq!(bucket_of_ns(1e9), -1);
    assert_eq!(bucket_of_ns(1.0001e9), 0);
    assert_eq!(bucket_of_ns(0.5e9), -9);
    assert_eq!(bucket_of_ns(1e6), -80);
}
