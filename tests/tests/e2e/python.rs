//! Programs written in Python, with interpreters of Debian packages (tests/toolchains.txt). The
//! long run also uses others from `EDGELAT_PYTHONS=/path/python3.8:/path/python3.10`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use edgelat_tests::machine::{TempDir, Turn, assert_text_restored, eventually};
use edgelat_tests::{Oracle, Report, Session, Target, amount, edgelat};

use crate::servers::{project, tool_chain};

/// Functions called from Python itself. Before 3.11 names are short and not unique.
const INSIDE: &[&str] = &[
    "py:calls.py:add",
    "py:calls.py:Server.handle",
    "py:calls.py:descend",
    "py:calls.py:outer.<locals>.inner",
    "py:calls.py:numbers",
    "py:calls.py:step",
    "py:calls.py:Once.__await__",
    "py:calls.py:raises",
    "py:calls.py:passes",
    "py:calls.py:größe_木_𝛼",
    "py:calls.py:waits",
    "py:short_*",
];

/// Functions called from C, and so seen in any version.
const FROM_C: &[&str] = &[
    "py:calls.py:keyed",
    "py:calls.py:drawn",
    "py:calls.py:work.<locals>.<lambda>",
    "py:script.py:<module>",
];

pub(crate) fn script(name: &str) -> PathBuf {
    project().join("tests/targets/python").join(name)
}

/// Runs a script under an interpreter of the packages.
pub(crate) fn under(version: &str, script: &Path) -> Command {
    let mut command = Command::new(project().join("tests/python"));
    command.arg(version).arg(script);
    command
}

/// Runs `calls.py` under such an interpreter.
fn packaged(version: &str) -> Command {
    under(version, &script("calls.py"))
}

/// The same with the just-in-time compiler, which the packages have from 3.14 on; 3.15 then
/// compiles loops after 64 turns.
fn compiling(version: &str) -> Command {
    let mut command = packaged(version);
    let soon =
        [("PYTHON_JIT_JUMP_BACKWARD_INITIAL_VALUE", "63"), ("PYTHON_JIT_JUMP_BACKWARD_INITIAL_BACKOFF", "6")];
    command.env("PYTHON_JIT", "1").envs(soon);
    command
}

/// True if a process runs code that no file holds.
fn has_compiled(pid: i32) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().any(|line| {
        line.contains(" r-xp ") && line.split_whitespace().nth(4) == Some("0") && !line.ends_with(']')
    })
}

/// Starts such a script, with or without perf support.
pub(crate) fn start(mut command: Command, perf: bool, arguments: &[&str]) -> Target {
    if perf {
        command.env("PYTHONPERFSUPPORT", "1");
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1").args(arguments);
    Target::start_command(command)
}

/// Every call of every function is counted exactly once.
#[track_caller]
fn exact(command: Command, perf: bool, functions: &[&str], options: &[&str]) -> (Report, Oracle) {
    exact_while(command, perf, functions, options, |_| ())
}

/// Does [`exact`], with a check during the run.
#[track_caller]
fn exact_while(
    command: Command,
    perf: bool,
    functions: &[&str],
    options: &[&str],
    look: impl FnOnce(i32),
) -> (Report, Oracle) {
    let _turn = Turn::shared();
    let mut target = start(command, perf, &["--calls", "200", "--threads", "3"]);
    let session = Session::with(&target, options, functions);
    target.go();
    look(target.pid());
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    assert_eq!(report.unattributed_hits, 0, "{report:#?}");
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!(function.all_lost() + function.in_flight, 0, "{function:#?} of {truth:#?}");
    }
    (report, oracle)
}

fn every_call(command: Command, perf: bool) -> Report {
    let functions = [INSIDE, FROM_C].concat();
    let (report, oracle) = exact(command, perf, &functions, &[]);
    // Ten of them are `short_N`.
    assert!(report.functions.len() >= functions.len() + 8, "{report:#?}");
    assert_eq!(report.value["python"]["every_call"], true);
    // The function times itself, and waits for the lock before its second reading of the clock.
    let (waits, truth) = (report.function("waits"), oracle.function("waits"));
    assert!((0.98..1.3).contains(&(waits.sum_ns as f64 / truth.sum_ns as f64)), "{waits:#?} of {truth:#?}");
    report
}

fn calls_from_c(command: Command) -> Report {
    let (report, _) = exact(command, false, FROM_C, &[]);
    assert_eq!(report.functions.len(), FROM_C.len(), "{report:#?}");
    assert_eq!(report.value["python"]["every_call"], false);
    report
}

#[test]
fn every_call_is_counted_in_python_3_9() {
    every_call(packaged("3.9"), false);
}

#[test]
fn every_call_from_c_is_counted_in_python_3_11() {
    calls_from_c(packaged("3.11"));
}

#[test]
fn every_call_from_c_is_counted_in_python_3_13() {
    calls_from_c(packaged("3.13"));
}

#[test]
fn every_call_is_counted_in_python_3_13_with_perf_support() {
    let report = every_call(packaged("3.13"), true);
    let of = |name: &str| {
        report.value["functions"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap()
    };
    assert_eq!(of("numbers")["resumes"], true);
    assert_eq!(of("step")["resumes"], true);
    assert_eq!(of("descend")["resumes"], false);
    assert_eq!(of("descend")["language"], "python");
    assert!(of("descend")["image"].as_str().unwrap().ends_with("/calls.py"));
    let line = std::fs::read_to_string(script("calls.py")).unwrap();
    let line = line.lines().position(|line| line.starts_with("def descend")).unwrap() + 1;
    assert_eq!(of("descend")["line"], line);
}

#[test]
fn every_call_from_c_is_counted_in_python_3_14() {
    calls_from_c(packaged("3.14"));
}

#[test]
fn every_call_from_c_is_counted_in_python_3_15() {
    calls_from_c(packaged("3.15"));
}

#[test]
fn every_call_is_counted_in_python_3_14_with_perf_support() {
    every_call(packaged("3.14"), true);
}

#[test]
fn every_call_is_counted_in_python_3_15_with_perf_support() {
    every_call(packaged("3.15"), true);
}

/// The interpreter turns its compiler off if it supports perf. Compiled code would hide calls.
#[test]
fn every_call_is_counted_with_perf_support_where_python_was_asked_to_compile() {
    for version in ["3.14", "3.15"] {
        every_call(compiling(version), true);
    }
}

/// Compiled code runs below the evaluation loop, which is entered from C as before.
#[test]
fn every_call_from_c_is_counted_where_python_3_15_has_compiled_its_loops() {
    let compiled = |pid| assert!(eventually(Duration::from_secs(20), || has_compiled(pid)));
    let (report, _) = exact_while(compiling("3.15"), false, FROM_C, &[], compiled);
    assert_eq!(report.functions.len(), FROM_C.len(), "{report:#?}");
}

/// Maps all extension modules before it becomes calls.py: the interpreter's name is in their names.
const WITH_MODULES: &str = "\
import importlib, pathlib, runpy, sysconfig
for path in pathlib.Path(sysconfig.get_path('platstdlib'), 'lib-dynload').glob('*.so'):
    try:
        importlib.import_module(path.name.split('.')[0])
    except ImportError:
        pass
runpy.run_path('/mnt/calls.py', run_name='__main__')
";

/// Programs that embed Python, and many builds of Python, have the evaluation loop in a library.
#[test]
fn every_call_is_counted_where_the_interpreter_is_a_library() {
    let folder = TempDir::new();
    for name in ["calls.py", "oracle.py"] {
        folder.copy(&script(name), name);
    }
    std::fs::write(folder.path().join("with_modules.py"), WITH_MODULES).unwrap();
    folder.copy(&edgelat_tests::target::target("embeds"), "embeds");
    let library = format!("usr/lib/{}-linux-gnu/libpython3.13.so.1.0", std::env::consts::ARCH);
    folder.copy(&tool_chain("libpython", "3.13").join(library), "libpython3.13.so.1.0");
    let embedded = || {
        let mut command = under("3.13", &folder.path().join("with_modules.py"));
        command.env("PYTHON_PROGRAM", "/mnt/embeds");
        command
    };
    calls_from_c(embedded());
    every_call(embedded(), true);
}

/// Result of an expression in an interpreter of this machine.
fn asked(path: &str, expression: &str) -> String {
    let script = format!("import platform, sys, sysconfig; print({expression})");
    let output = Command::new(path).args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{path}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "set EDGELAT_PYTHONS to the paths of interpreters, with colons between them"]
fn every_call_is_counted_in_the_interpreters_that_are_named() {
    let paths = std::env::var("EDGELAT_PYTHONS").unwrap();
    for path in paths.split(':') {
        let command = || {
            let mut command = Command::new(path);
            command.arg(script("calls.py"));
            command
        };
        let version = asked(path, "platform.python_version()");
        if asked(path, "bool(sysconfig.get_config_var('Py_GIL_DISABLED'))") == "True" {
            let target = start(command(), false, &[]);
            let pid = target.pid().to_string();
            edgelat(&["watch", "-p", &pid, "py:add"]).refused(6, &["free-threaded Python 3."]);
            for arguments in [&["check", "-p", &pid][..], &["functions", &pid]] {
                let outcome = edgelat(arguments);
                assert!(outcome.stdout.contains("free-threaded Python 3."), "{outcome:#?}");
            }
            println!("figure: {version}, free-threaded: refused by name");
            continue;
        }
        let minor: u32 = asked(path, "sys.version_info[1]").parse().unwrap();
        let from_c = (minor > 10).then(|| calls_from_c(command()));
        let every = (minor != 11).then(|| every_call(command(), minor > 10));
        let told = [("from C", from_c), ("of all", every)].into_iter().filter_map(|(which, report)| {
            let report = report?;
            let calls: u64 = report.functions.iter().map(|function| function.exits).sum();
            Some(format!("{calls} calls {which} in {} functions", report.functions.len()))
        });
        let told = told.collect::<Vec<_>>().join(", ");
        let library = if asked(path, "sysconfig.get_config_var('Py_ENABLE_SHARED')") == "1" {
            " (a library)"
        } else {
            ""
        };
        println!("figure: {version}{library}: {told}, each counted once");
    }
}

#[test]
fn every_call_is_counted_in_python_by_tracefs() {
    let functions = [INSIDE, FROM_C].concat();
    assert_eq!(exact(packaged("3.13"), true, &functions, &["--route", "tracefs"]).0.route, "tracefs");
}

#[test]
fn every_call_is_counted_in_python_by_single_events() {
    let functions = [INSIDE, FROM_C].concat();
    assert_eq!(exact(packaged("3.9"), false, &functions, &["--route", "single"]).0.route, "single");
}

/// All functions of the interpreter's own library too: hundreds, most of them used at the start.
#[test]
fn all_functions_of_a_program_can_be_asked_for() {
    let _turn = Turn::shared();
    let mut target = start(packaged("3.9"), false, &["--calls", "100"]);
    let session = Session::with(&target, &["--max-map-bytes", "64M"], &["py:*"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    for name in ["descend", "handle", "short_3"] {
        assert_eq!(report.function(name).exits, oracle.function(name).calls, "{name}");
    }
    report.functions.iter().for_each(edgelat_tests::Function::assert_identity);
}

/// Functions `many_N`, each called a hundred times. With this memory, each call is in an account.
fn many(functions: usize, memory: &str) -> Vec<edgelat_tests::Function> {
    let _turn = Turn::shared();
    let number = functions.to_string();
    let mut target = start(packaged("3.9"), false, &["--calls", "100", "--many", &number]);
    let session = Session::with(&target, &["--max-map-bytes", memory], &["py:*"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.unattributed_hits, 0, "{:#?}", report.value["python"]);
    report.functions.iter().for_each(edgelat_tests::Function::assert_identity);
    let found = report.functions.into_iter().filter(|function| function.name.starts_with("many_"));
    let found: Vec<_> =
        found.inspect(|f| assert_eq!(f.entries, oracle.function(&f.name).calls, "{f:#?}")).collect();
    assert_eq!(found.len(), functions);
    found
}

/// More functions than rows: calls without a row are reported, calls with a row are exact.
#[test]
fn functions_that_find_no_row_are_accounted_for() {
    let lost = many(600, "4M").iter().map(|function| function.lost("unresolved")).sum::<u64>();
    assert!(lost > 0, "there were rows for all of them");
}

/// More functions even than slots: losses are reported, with their reason.
#[test]
fn calls_of_functions_without_a_slot_are_lost_and_told() {
    let _turn = Turn::shared();
    let mut target = start(packaged("3.9"), false, &["--calls", "10", "--many", "6000"]);
    let session = Session::with(&target, &["--max-map-bytes", "1M", "--frames", "1024"], &["py:many_*"]);
    target.go();
    let truth: u64 =
        target.end().functions.iter().filter(|f| f.name.starts_with("many_")).map(|f| f.calls).sum();
    let report = session.end();
    let python = &report.value["python"];
    let lost = ["no_room", "unreadable", "unnamed"].map(|reason| python[reason].as_u64().unwrap());
    assert!(lost[0] > 0 && lost[1] == 0, "{python:#?}");
    assert_eq!(report.unattributed_hits, lost.iter().sum::<u64>(), "{python:#?}");
    let counted: u64 = report.functions.iter().map(|function| function.entries).sum();
    // Some of the lost functions were not requested: which ones cannot be known.
    assert!(
        (counted..=counted + report.unattributed_hits).contains(&truth),
        "{truth}, {counted}: {python:#?}"
    );
}

#[test]
fn there_are_as_many_functions_as_the_memory_allows() {
    let functions = many(2000, "256M");
    assert!(functions.iter().all(|function| function.count > 0), "one has no row");
}

/// Workers come and go, with more functions than slots. Each uses earlier workers' decisions.
#[test]
fn workers_that_are_replaced_all_the_time_are_measured_to_the_last() {
    const WORKERS: usize = 8;
    let _turn = Turn::shared();
    let mut target = start(under("3.9", &script("workers.py")), false, &[]);
    let session = Session::on(&target, &["py:handle", "py:own"]);
    for round in 1..=3 {
        target.go();
        target.wait_for("forked");
        session.wait_for(|report| report.processes.len() == 1 + round * WORKERS);
        target.go();
        if round < 3 {
            target.wait_for("worked");
        }
    }
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.unattributed_hits, 0, "{report:#?}");
    assert_eq!(report.function("handle").entries, oracle.function("handle").calls, "{report:#?}");
    for file in ["one", "two"] {
        let own = report.functions.iter().find(|function| function.image == file).unwrap();
        assert_eq!(own.entries, oracle.function(file).calls, "{own:#?}");
    }
}

/// The interpreter of Debian 12 also runs outside of its own root, if its library is named.
#[test]
fn a_command_in_python_is_measured_from_its_first_call_on() {
    let _turn = Turn::shared();
    let folder = tool_chain("python", "3.11");
    let mut command = Command::new(edgelat_tests::session::binary());
    command.env("PYTHONHOME", folder.join("usr")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args(["watch", "--json", "py:<module>", "py:keyed", "--"]);
    command.arg(folder.join("usr/bin/python3.11")).arg(script("calls.py"));
    command.args(["--calls", "60", "--at-once"]);
    let (report, oracle) = Session::start(command).end_of_command();
    assert_eq!(report.function("keyed").exits, oracle.function("keyed").calls);
    // The program itself and its imported modules are scripts too; each is a function of its own.
    let scripts = report.functions.iter().filter(|function| function.name == "<module>");
    assert!(scripts.clone().any(|function| function.image.ends_with("/calls.py")), "{report:#?}");
    assert!(scripts.count() > 10, "{report:#?}");
}

#[test]
fn attaching_again_and_again_never_harms_python() {
    let _turn = Turn::shared();
    for (version, perf) in [("3.9", false), ("3.13", true), ("3.15", true)] {
        let mut target = start(packaged(version), perf, &["--calls", "50", "--threads", "2", "--stay"]);
        target.go();
        let cycles = amount(5, 200);
        for cycle in 0..cycles {
            let session = Session::with(&target, &["--interval", "0.1", "--no-bias"], INSIDE);
            session.wait_for(|report| report.functions.iter().any(|function| function.exits > 10));
            match cycle % 2 {
                0 => drop(session.kill()),
                _ => drop(session.interrupt()),
            }
            assert_text_restored(target.pid());
        }
        // It reports after each round, all results of which it has checked.
        let before = target.wait_for("told");
        let now = target.wait_for("told");
        now.assert_right();
        assert!(now.function("descend").calls > before.function("descend").calls);
        println!("figure: {cycles} cycles on Python {version}, half of them killed, 0 wrong");
        target.kill();
    }
}

/// The hottest function would slow down a process without a bound for the cost of its probes.
#[test]
fn too_high_a_cost_ends_the_measurement_and_loses_nothing() {
    let _turn = Turn::shared();
    let mut target = start(packaged("3.9"), false, &["--calls", "1000000"]);
    let pid = target.pid().to_string();
    target.go();
    let options = ["--max-cost", "0.1", "--over-budget", "end", "--duration", "60", "-p", &pid];
    let outcome = edgelat(&[&["watch", "--json"], &options[..], &["py:calls.py:add"]].concat());
    outcome.refused(8, &["% of one CPU", "--max-cost"]);
    let last = Report::parse(outcome.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last.ended.as_deref(), Some("budget"));
    assert!(last.is_final && last.function("add").exits > 0, "{last:#?}");
    assert!(last.value["cost_percent"].as_f64().unwrap() > 0.1, "{last:#?}");
    last.assert_identity();
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    assert_text_restored(target.pid());
    // Cheaper functions stay measured.
    let calm = edgelat(&["watch", "--max-cost", "1000", "--duration", "0.5", "-p", &pid, "py:calls.py:add"]);
    assert!(calm.status.success() && calm.stdout.contains("probes cost"), "{calm:#?}");
    target.kill();
}

#[test]
fn what_can_be_seen_of_python_is_said_before_anything_is_measured() {
    let _turn = Turn::shared();
    for (version, perf, word) in [
        ("3.9", false, "every call is seen"),
        ("3.11", false, "docs/PYTHON.md a way for 3.11"),
        ("3.13", false, "start it with PYTHONPERFSUPPORT=1 in its environment"),
        ("3.13", true, "/tmp/perf-PID.map, which grows"),
    ] {
        let target = start(packaged(version), perf, &[]);
        let pid = target.pid().to_string();
        for arguments in [&["check", "-p", &pid][..], &["functions", &pid]] {
            let outcome = edgelat(arguments);
            let shown = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(outcome.status.success() && shown.contains(word), "{version}: {outcome:#?}");
            assert!(shown.contains(&format!("Python {version}")) && shown.contains("waiting for"), "{shown}");
        }
    }
}

/// Coroutines of greenlet run on stacks that are copied away; the library's name reveals them.
#[test]
fn a_process_with_greenlets_has_its_calls_counted_and_not_timed() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    folder.copy(&script("calls.py"), "calls.py");
    folder.copy(&script("oracle.py"), "oracle.py");
    // A library of this name that the process maps like any other.
    let starter = "import ctypes, runpy\nctypes.CDLL('/mnt/_greenlet.so')\nrunpy.run_path('/mnt/calls.py', run_name='__main__')";
    std::fs::write(folder.path().join("with_greenlet.py"), starter).unwrap();
    folder.copy(&edgelat_tests::target::target("plugin.so"), "_greenlet.so");
    let greenlets = under("3.9", &folder.path().join("with_greenlet.py"));
    let mut target = start(greenlets, false, &["--calls", "100"]);
    let session = Session::on(&target, &["py:calls.py:add", "py:calls.py:descend"]);
    target.go();
    let oracle = target.end();
    let (report, told) = session.end_with_stderr();
    assert!(told.contains("greenlets"), "{told}");
    assert_eq!(report.value["python"]["counts_only"], true);
    for name in ["add", "descend"] {
        let function = report.function(name);
        assert_eq!(function.entries, oracle.function(name).calls, "{function:#?}");
        assert_eq!(function.count, 0, "{function:#?}");
    }
}

#[test]
fn what_is_no_python_is_said_to_be_none() {
    let _turn = Turn::shared();
    let target = Target::start("plain", &[]);
    let pid = target.pid().to_string();
    edgelat(&["watch", "-p", &pid, "py:work"]).refused(6, &["no CPython interpreter", "py:work"]);
    edgelat(&["watch", "-p", &pid, "py:"]).refused(2, &["no function after its colon"]);
}
