//! Malicious targets: files that change while they are read or probed, images that are bombs,
//! thousands of processes. Each is refused or survived, and all reports stay true.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edgelat_tests::machine::{Turn, assert_text_probed, assert_text_restored, eventually};
use edgelat_tests::service::{Told, measure};
use edgelat_tests::session::run;
use edgelat_tests::{Oracle, Place, Service, Target, amount, patience, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn exe(program: &Path) -> String {
    format!("exe = \"{}\"", program.display())
}

fn start(program: &Path, arguments: &[&str]) -> Target {
    let mut command = Command::new(program);
    command.args(arguments);
    Target::start_command(command)
}

/// A figure of /proc/PID/status in KiB.
fn memory(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name}: {status}"))
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory of guard and collector in KiB.
fn resident(service: &Service) -> [u64; 2] {
    [service.pid(), service.collector().unwrap()].map(|pid| memory(pid, "VmRSS"))
}

/// Fails if either grew by more than `bound` KiB.
#[track_caller]
fn assert_flat(before: [u64; 2], after: [u64; 2], bound: u64) {
    for (before, after) in before.into_iter().zip(after) {
        assert!(after <= before + bound, "guard and collector grew: {before} KiB, then {after} KiB");
    }
}

/// Fails if the lines of a process report more than the program's own counts.
fn not_more_than(lines: &[Told], pid: i32, oracle: &Oracle) -> BTreeMap<String, u64> {
    let mut entries: BTreeMap<String, u64> = BTreeMap::new();
    for told in lines.iter().filter(|told| told.is(pid, "ended")) {
        told.report().assert_identity();
        for function in &told.report().functions {
            *entries.entry(function.name.clone()).or_default() += function.entries;
        }
    }
    for (name, entries) in &entries {
        let truth = oracle.function(name);
        assert!(*entries <= truth.calls, "{name}: {entries} entries, {truth:#?}");
    }
    entries
}

/// A program with its libraries, in a folder of its own.
pub(crate) fn host(place: &Place) -> (PathBuf, PathBuf) {
    place.program("libshared.so", "libshared.so");
    let plugin = place.program("plugin.so", "plugin.so");
    (place.program("host", "host"), plugin)
}

/// End in the file of the loaded part of an image.
fn loaded_bytes(image: &[u8]) -> usize {
    let word =
        |at: usize| usize::try_from(u64::from_le_bytes(image[at..at + 8].try_into().unwrap())).unwrap();
    let count = usize::from(u16::from_le_bytes(image[56..58].try_into().unwrap()));
    let headers = (0..count).map(|index| word(32) + index * 56);
    // PT_LOAD: p_offset and p_filesz.
    headers.filter(|at| image[*at] == 1).map(|at| word(at + 8) + word(at + 32)).max().unwrap()
}

/// Changes a mapped library in every way that spares the program, and restores it at the end.
fn change_again_and_again(library: &Path, over: &AtomicBool) -> u64 {
    let right = std::fs::read(library).unwrap();
    let loaded = loaded_bytes(&right);
    let file = OpenOptions::new().write(true).open(library).unwrap();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut changes = 0;
    while !over.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = loaded + (random >> 8) as usize % (right.len() - loaded);
        match random % 4 {
            // Symbols, strings and section headers with other content.
            0 | 1 => file.write_all_at(&random.to_le_bytes(), at as u64).unwrap(),
            2 => file.set_len(at as u64).unwrap(),
            _ => file.write_all_at(&right[loaded..], loaded as u64).unwrap(),
        }
        changes += 1;
        // Now and then it pauses until it can be read and probed, and changes under the probes.
        let still = if changes % 500 == 0 {
            file.write_all_at(&right[loaded..], loaded as u64).unwrap();
            Duration::from_millis(1500)
        } else {
            Duration::from_micros(random >> 40 & 0x3ff)
        };
        std::thread::sleep(still);
    }
    file.write_all_at(&right[loaded..], loaded as u64).unwrap();
    file.set_len(right.len() as u64).unwrap();
    changes
}

#[test]
fn a_library_that_is_changed_while_it_is_read_harms_nobody() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (program, plugin) = host(&place);
    let functions = ["plugin.so:plugin_work", "plugin.so:plugin_more"];
    place.configure("", &[measure("it", &exe(&program), &functions, "")]);
    let over = AtomicBool::new(false);
    let lives = amount(12, 300);
    let mut oracles = Vec::new();
    let (service, changes) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| change_again_and_again(&plugin, &over));
        let service = place.start();
        for _ in 0..lives {
            // A new process each time: a refused one is left alone for a while.
            let mut target = start(&program, &["--calls", "0"]);
            target.go();
            std::thread::sleep(Duration::from_millis(1000));
            let pid = target.pid();
            let oracle = target.stop();
            oracle.assert_right();
            oracles.push((pid, oracle));
        }
        over.store(true, Ordering::Relaxed);
        (service, writer.join().unwrap())
    });
    // Once the file is stable, everything works as usual.
    let mut target = start(&program, &["--calls", "500"]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured") && !told.report().functions.is_empty());
    target.go();
    let oracle = target.end();
    service.ends(pid).report().agrees_with(&oracle);
    let lines = service.end();
    let measured =
        oracles.iter().filter(|(pid, oracle)| !not_more_than(&lines, *pid, oracle).is_empty()).count();
    let taken_off = lines
        .iter()
        .filter_map(|told| told.report.as_ref()?.ended.as_deref())
        .filter(|ended| *ended == "image_changed");
    println!(
        "figure: {lives} processes whose library was changed {changes} times while it was read: all results right; {measured} \
         measured for a while, {} times probes came off again",
        taken_off.count()
    );
}

#[test]
fn a_library_that_is_written_over_loses_its_probes_and_is_looked_at_again() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (program, plugin) = host(&place);
    place.configure("", &[measure("it", &exe(&program), &["plugin.so:plugin_work"], "")]);
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    let service = place.start();
    assert_text_probed(pid);
    target.go();
    service.counts(pid);
    let first = target.rest();
    let bytes = std::fs::read(&plugin).unwrap();
    // As `cp` does, but without truncation, which would remove the text from under the program.
    let write = || OpenOptions::new().write(true).open(&plugin).unwrap().write_all_at(&bytes, 0).unwrap();
    write();
    let told = service.ends(pid);
    assert_eq!(told.report().ended.as_deref(), Some("image_changed"), "{told:#?}");
    let [function] = &told.report().functions[..] else { panic!("{told:#?}") };
    assert_eq!(function.entries, first.function("plugin_work").calls);
    assert_eq!(function.exits, first.function("plugin_work").completed);
    // The present content was examined, and is measured again.
    let from = service.count();
    service.wait_after(from, |told| told.is(pid, "measured"));
    target.go();
    service.wait_after(from, |told| told.is(pid, "measured") && told.entries() > 0);
    let second = target.rest();
    // A file that is written repeatedly is not.
    write();
    let ended = service.wait_after(from, |told| told.is(pid, "ended"));
    let calls = second.function("plugin_work").calls - first.function("plugin_work").calls;
    assert_eq!(ended.entries(), calls, "{ended:#?}");
    let paused = service.wait_after(from, |told| told.is(pid, "paused"));
    assert_eq!(paused.reason.as_deref(), Some("image_changed"));
    assert_text_restored(pid);
    target.stop().assert_right();
    service.end();
}

/// File offset of the section header with a given name.
fn section(image: &[u8], wanted: &str) -> usize {
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(image[at..at + 2].try_into().unwrap()));
    let header = |index: usize| word(40) + index * 64;
    let names = word(header(half(62)) + 24);
    (0..half(60))
        .map(header)
        .find(|at| {
            let name = names + u32::from_le_bytes(image[*at..*at + 4].try_into().unwrap()) as usize;
            image[name..].starts_with(format!("{wanted}\0").as_bytes())
        })
        .unwrap_or_else(|| panic!("no section {wanted}"))
}

fn put(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Symbols that all begin at the first text section, with one long name.
fn symbols(image: &mut Vec<u8>, count: u64, name_bytes: usize) {
    let (table, strings) = (section(image, ".symtab"), section(image, ".strtab"));
    let text = section(image, ".text");
    let address = image[text + 16..text + 24].to_vec();
    let names = image.len() as u64;
    image.push(0);
    image.extend(std::iter::repeat_n(b'x', name_bytes));
    image.push(0);
    put(image, strings + 24, names);
    put(image, strings + 32, name_bytes as u64 + 2);
    image.resize(image.len().next_multiple_of(8), 0);
    let begin = image.len() as u64;
    for index in 0..count {
        // st_name, st_info (a global function), st_other, st_shndx, st_value, st_size
        image.extend(((index % name_bytes as u64) as u32 + 1).to_le_bytes());
        image.extend([0x12, 0, 12, 0]);
        image.extend(&address);
        image.extend(1u64.to_le_bytes());
    }
    put(image, table + 24, begin);
    put(image, table + 32, count * 24);
}

/// Images that a program can map, and that are hard to read.
fn bombs(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let plain = std::fs::read(target("plugin.so")).unwrap();
    let of = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = plain.clone();
        change(&mut image);
        image
    };
    let zeros = folder.join("zeros");
    std::fs::File::create(&zeros).unwrap().set_len(200 << 20).unwrap();
    let mut xz = Command::new("xz");
    xz.args(["-0", "--stdout"]).arg(&zeros);
    let compressed = xz.output().unwrap();
    assert!(compressed.status.success());
    std::fs::remove_file(&zeros).unwrap();
    std::fs::write(folder.join("bomb.xz"), &compressed.stdout).unwrap();
    let added = folder.join("added.so");
    let mut objcopy = Command::new("objcopy");
    objcopy.arg("--strip-all").arg("--add-section");
    objcopy.arg(format!(".gnu_debugdata={}", folder.join("bomb.xz").display()));
    objcopy.arg(target("plugin.so")).arg(&added);
    assert!(run(objcopy).status.success());
    let count = amount(400_000, 1_900_000);
    vec![
        ("symbols", of(&|image| symbols(image, count, 40))),
        ("long-names", of(&|image| symbols(image, count, 16_000))),
        (
            "too-many-symbols",
            of(&|image| {
                let table = section(image, ".symtab");
                put(image, table + 32, 24 << 40);
            }),
        ),
        ("too-many-functions", of(&|image| symbols(image, 2_100_000, 40))),
        (
            "absurd-strings",
            of(&|image| {
                let strings = section(image, ".strtab");
                put(image, strings + 24, u64::MAX - 7);
                put(image, strings + 32, u64::MAX);
            }),
        ),
        ("sections-nowhere", of(&|image| put(image, 40, u64::MAX - 63))),
        ("debugdata", std::fs::read(added).unwrap()),
    ]
}

#[test]
fn images_that_are_bombs_are_refused_or_read_in_bounded_memory() {
    let _turn = Turn::shared();
    let place = Place::new();
    let bombs = bombs(place.path());
    let mut running = Vec::new();
    let mut targets = Vec::new();
    for (name, image) in &bombs {
        let folder = place.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for file in ["host", "libshared.so"] {
            std::fs::copy(target(file), folder.join(file)).unwrap();
        }
        std::fs::write(folder.join("plugin.so"), image).unwrap();
        let program = folder.join("host");
        targets.push(measure(name, &exe(&program), &["plugin.so:plugin_work"], ""));
        running.push(start(&program, &["--calls", "300"]));
    }
    // A regular target, after all the others.
    let (program, _) = host(&place);
    targets.push(measure("good", &exe(&program), &["plugin.so:plugin_work"], ""));
    let mut good = start(&program, &["--calls", "300"]);
    place.configure("", &targets);
    let begun = Instant::now();
    let service = place.start();
    let took = begun.elapsed();
    let peaks = [service.pid(), service.collector().unwrap()].map(|pid| memory(pid, "VmHWM"));
    println!(
        "figure: {} bombs read in {:.1} s; at the peak the guard had {:.1} MiB and the collector {:.1} MiB",
        bombs.len(),
        took.as_secs_f64(),
        peaks[0] as f64 / 1024.0,
        peaks[1] as f64 / 1024.0
    );
    service.says("the list of functions has a size of 2000001, more than the 2000000 that edgelat reads");
    good.go();
    let oracle = good.end();
    service.wait_for(|told| told.name == "good" && told.state == "ended").report().agrees_with(&oracle);
    for mut target in running {
        target.go();
        target.end().assert_right();
    }
    // All caps of agent/image/src/limits.rs bound the collector; the guard reads program headers.
    assert!(peaks[0] < 24 << 10 && peaks[1] < 256 << 10, "{peaks:?} KiB");
    service.end();
}

/// Functions that children of a storm call; their counts are added to the parent's at the end.
const STORM: [&str; 2] = ["step", "spawn"];

#[test]
fn a_storm_of_children_leaves_memory_flat_and_the_account_true() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("storm", "storm");
    place.configure("", &[measure("it", &exe(&program), &STORM, "")]);
    let service = place.start();
    let children = amount(3_000, 50_000);
    let mut target = start(&program, &["--calls", &children.to_string()]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured"));
    let begun = Instant::now();
    target.go();
    let third = reaches(&mut target, children / 3, &service);
    let last = reaches(&mut target, children - children / 20, &service);
    let oracle = target.end();
    let rate = children as f64 / begun.elapsed().as_secs_f64();
    service.ends(pid);
    assert_text_of_nobody_probed(&program);
    let lines = service.end();
    let entries = not_more_than(&lines, pid, &oracle);
    let overruns = lines
        .iter()
        .filter(|told| told.report.as_ref().is_some_and(|report| report.ended.as_deref() == Some("overrun")))
        .count();
    if overruns == 0 {
        // The parent was covered all the time.
        assert_eq!(entries["spawn"], oracle.function("spawn").calls);
    }
    println!(
        "figure: {children} children, {rate:.0} a second: guard {} KiB after a third and {} KiB at the end, collector {} and {} \
         KiB; {} of {} calls of parent and children covered, {overruns} overruns",
        third[0],
        last[0],
        third[1],
        last[1],
        entries["step"],
        oracle.function("step").calls
    );
    assert_flat(third, last, 1024);
}

/// Waits until this many children were made; returns the memory at that time.
fn reaches(target: &mut Target, children: u64, service: &Service) -> [u64; 2] {
    let reached = eventually(patience(), || {
        std::thread::sleep(Duration::from_millis(20));
        target.tell().function("spawn").calls >= children
    });
    assert!(reached, "the storm does not go on");
    resident(service)
}

/// No process of that program remains that could have a probe.
fn assert_text_of_nobody_probed(program: &Path) {
    let runs = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(Result::ok)
            .any(|entry| std::fs::read_link(entry.path().join("exe")).is_ok_and(|path| path == program))
    };
    assert!(eventually(patience(), || !runs()), "a child of the storm lives on");
}

#[test]
fn what_was_lost_while_the_guard_stood_still_is_told_and_tried_again() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("storm", "storm");
    place.configure("", &[measure("it", &exe(&program), &STORM, "")]);
    let service = place.start();
    let mut target = start(&program, &["--calls", "0", "--child-calls", "2"]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured"));
    target.go();
    service.signal(Signal::SIGSTOP);
    // Two events a child; the kernel has room for fewer than three thousand.
    let before = target.tell().function("spawn").calls;
    assert!(eventually(patience(), || {
        std::thread::sleep(Duration::from_millis(20));
        target.tell().function("spawn").calls >= before + 4_000
    }));
    service.signal(Signal::SIGCONT);
    let told = service.ends(pid);
    assert_eq!(told.report().ended.as_deref(), Some("overrun"), "{told:#?}");
    service.says("events lost");
    let paused = service.wait_for(|told| told.is(pid, "paused"));
    assert_eq!(paused.reason.as_deref(), Some("overrun"));
    target.rest();
    assert_text_restored(pid);
    // After a pause it is retried.
    let from = service.count();
    service.wait_after(from, |told| told.is(pid, "measured"));
    target.go();
    service.wait_after(from, |told| told.is(pid, "measured") && told.entries() > 0);
    let oracle = target.stop();
    service.wait_after(from, |told| told.is(pid, "ended"));
    not_more_than(&service.end(), pid, &oracle);
}

#[test]
fn a_storm_of_other_programs_disturbs_neither_guard_nor_figures() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], "")]);
    let service = place.start();
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured"));
    target.go();
    let programs = amount(2_000, 50_000);
    let mut storm = Target::start("storm", &["--spawn", "1", "--calls", &programs.to_string()]);
    storm.go();
    let third = reaches(&mut storm, programs / 3, &service);
    let last = reaches(&mut storm, programs - programs / 20, &service);
    storm.end().assert_right();
    let oracle = target.stop();
    service.ends(pid).report().agrees_with(&oracle);
    println!(
        "figure: {programs} other programs started beside a target: guard {} KiB after a third and {} KiB at the end, collector \
         {} and {} KiB",
        third[0], last[0], third[1], last[1]
    );
    assert_flat(third, last, 512);
    service.end();
}

#[test]
fn processes_that_cannot_be_measured_leave_nothing_in_guard_and_collector() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["no_such_function"], "")]);
    let service = place.start();
    let processes = amount(12, 400);
    let mut before = None;
    for process in 0..processes {
        let target = start(&program, &["--calls", "1"]);
        let pid = target.pid();
        let tried = format!("process {pid}");
        assert!(eventually(patience(), || service.times(&tried) > 0
            || service.lines().iter().any(|told| told.pid == pid)));
        target.kill();
        if process == processes / 3 {
            before =
                Some((resident(&service), [service.pid(), service.collector().unwrap()].map(descriptors)));
        }
    }
    let (resident_before, open_before) = before.unwrap();
    assert_flat(resident_before, resident(&service), 512);
    let open = [service.pid(), service.collector().unwrap()].map(descriptors);
    assert!(open[0] <= open_before[0] + 2 && open[1] <= open_before[1] + 2, "{open_before:?}, then {open:?}");
    service.end();
}

#[test]
fn a_container_whose_first_process_is_killed_has_ended() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], "")]);
    let service = place.start();
    // A shell is the namespace's first process, the target its child with no background input.
    let mut command = Command::new("unshare");
    command.args([
        "--fork",
        "--pid",
        "--mount",
        "--mount-proc",
        "sh",
        "-c",
        "exec 3<&0; \"$0\" \"$@\" <&3 & wait",
    ]);
    command.arg(&program).args(["--calls", "0", "--threads", "2"]);
    let mut unshare = Target::start_in_pid_namespace(command);
    let init = unshare.pid();
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let pid: i32 = children.trim().parse().unwrap();
    service.wait_for(|told| told.is(pid, "measured"));
    unshare.go();
    service.counts(pid);
    kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
    let told = service.ends(pid);
    assert_eq!(told.report().ended.as_deref(), Some("target"), "{told:#?}");
    told.report().functions.iter().for_each(|function| assert_eq!(function.in_flight, 0, "{function:#?}"));
    service.end();
}

#[test]
fn threads_that_end_inside_under_the_service_are_accounted_for() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("vanish", "vanish");
    place.configure("", &[measure("it", &exe(&program), &["dies_inside", "lives_on"], "")]);
    let service = place.start();
    let mut target = start(&program, &["--calls", "200", "--crowd", "3"]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured"));
    target.go();
    let oracle = target.end();
    service.ends(pid).report().agrees_with(&oracle);
    service.end();
}

#[test]
fn a_process_that_executes_something_else_is_measured_no_longer() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (program, other) = (place.program("execs", "execs"), place.program("plain", "other"));
    place.configure("", &[measure("it", &exe(&program), &["before_exec", "replaces"], "")]);
    let service = place.start();
    let mut target = start(&program, &["--calls", "100", "--image", other.to_str().unwrap()]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured"));
    target.go();
    let oracle = target.wait_for("exec");
    assert_eq!(target.wait_for("ready").pid, pid);
    let told = service.ends(pid);
    assert_eq!(told.report().ended.as_deref(), Some("replaced"), "{told:#?}");
    let [before, replaces] = ["before_exec", "replaces"].map(|name| told.report().function(name).clone());
    assert_eq!(before.exits, oracle.function("before_exec").completed);
    assert_eq!(
        (replaces.entries, replaces.in_flight, replaces.lost("ended_inside")),
        (1, 0, 1),
        "{replaces:#?}"
    );
    assert_text_restored(pid);
    target.go();
    target.end().assert_right();
    let lines = service.end();
    let last = lines.iter().rposition(|told| told.pid == pid).unwrap();
    assert_eq!(lines[last].state, "ended", "it is not looked at any more: {:#?}", lines[last]);
}
