//! Contents of the file, and the messages about its errors.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use super::*;

const FILE: &str = "/etc/edgelat.toml";

fn parse(text: &str) -> Result<Config, Errors> {
    Config::parse(Path::new(FILE), text.as_bytes())
}

#[track_caller]
fn parsed(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Returns the messages about a wrong text, without the name of the file.
#[track_caller]
fn wrong(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text).to_string();
    errors
        .lines()
        .map(|line| line.strip_prefix(FILE).unwrap_or_else(|| panic!("{line}")).to_owned())
        .collect()
}

/// A file with one target that also has these keys.
fn target(keys: &str) -> String {
    format!("[[target]]\nname = \"gateway\"\npid = 12\nfunctions = [\"f\"]\n{keys}\n")
}

/// A file with these keys in `[agent]`.
fn agent(keys: &str) -> String {
    format!("[agent]\n{keys}\n")
}

#[test]
fn an_empty_file_has_the_defaults_and_no_target() {
    let config = parsed("");
    assert_eq!(config.targets, []);
    let agent = config.agent;
    assert_eq!(agent.state_dir, PathBuf::from("/var/lib/edgelat"));
    assert_eq!(agent.run_dir, PathBuf::from("/run/edgelat"));
    assert_eq!((agent.interval, agent.scan), (Duration::from_secs(10), Duration::from_secs(2)));
    assert_eq!((agent.log, agent.log_level), (LogTo::Stderr, Level::Info));
    assert_eq!((agent.collector_cpu, agent.sched), (CollectorCpu::PreferIsolated, Sched::Other));
    assert_eq!((agent.collector_user, agent.max_cost, agent.reattach), (None, 1.0, true));
    assert!(agent.debug_dirs.is_empty() && agent.packs.is_empty() && agent.unprobed_images.is_empty());
    assert_eq!(parsed("# nothing\n\n[agent]\n"), parsed(""));
}

#[test]
fn a_target_has_the_defaults_of_watch() {
    let config = parsed(&target(""));
    let [target] = config.targets.as_slice() else { panic!("{config:?}") };
    assert_eq!((target.name.as_str(), &target.select), ("gateway", &Select::Pid(12)));
    assert_eq!(target.functions, [Pattern::parse("f").unwrap()]);
    assert_eq!(target.python, []);
    assert_eq!((target.returns, target.route, target.on_signal), (Returns::Ret, None, None));
    assert!(target.follow_forks && !target.pin && !target.allow_ptrace);
    assert_eq!((target.targets_on, target.frames), (TargetsOn::Any, 8_192));
    assert_eq!((target.max_map_bytes, target.max_cost), (4 << 20, 1.0));
}

#[test]
fn every_key_of_the_agent_is_taken() {
    let agent = parsed(
        r#"
        [agent]
        state_dir = "/data/edgelat"
        run_dir = '/run/e'
        interval = "1min"
        scan = "500ms"
        log = "syslog"
        log_level = "debug"
        collector_cpu = 3
        sched = "ext"
        collector_user = "edgelat"
        max_cost = 0.25
        quarantine_for = "24h"
        reattach = false
        debug_dirs = ["/a", "/b"]
        packs = [
            "/c.pack", # for the one
            "/d.pack",
        ]
        unprobed_images = ["/opt/vendor/*", "*/libcrypto.so*"]
        metrics_listen = "[::1]:80"
        metrics_hosts = ["box.lan", "box"]
        "#,
    )
    .agent;
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    let expected = AgentConfig {
        state_dir: "/data/edgelat".into(),
        run_dir: "/run/e".into(),
        interval: Duration::from_secs(60),
        scan: Duration::from_millis(500),
        log: LogTo::Syslog,
        log_level: Level::Debug,
        collector_cpu: CollectorCpu::Cpu(3),
        sched: Sched::Ext,
        collector_user: Some("edgelat".to_owned()),
        max_cost: 0.25,
        quarantine_for: Duration::from_secs(86_400),
        reattach: false,
        debug_dirs: paths(&["/a", "/b"]),
        packs: paths(&["/c.pack", "/d.pack"]),
        unprobed_images: vec!["/opt/vendor/*".to_owned(), "*/libcrypto.so*".to_owned()],
        metrics_listen: "[::1]:80".parse().unwrap(),
        metrics_hosts: vec!["box.lan".to_owned(), "box".to_owned()],
    };
    assert_eq!(agent, expected);
}

#[test]
fn every_key_of_the_spool_is_taken() {
    let spool = parsed(
        r#"
        [spool]
        dir = "/data/records"
        max_bytes = "4MiB"
        segment_bytes = 65536
        sync = "1s"
        bytes_per_day = "64KiB"
        clock_patience = "60s"
        "#,
    )
    .spool;
    let expected = SpoolConfig {
        dir: "/data/records".into(),
        max_bytes: 4 << 20,
        segment_bytes: 64 << 10,
        sync: Duration::from_secs(1),
        bytes_per_day: Some(64 << 10),
        clock_patience: Duration::from_secs(60),
    };
    assert_eq!(spool, expected);
}

#[test]
fn a_spool_without_a_place_is_in_the_state_directory_wherever_that_is_named() {
    assert_eq!(parsed("").spool.dir, Path::new("/var/lib/edgelat/spool"));
    let text = "[spool]\nsync = \"1s\"\n[agent]\nstate_dir = \"/data\"\n";
    assert_eq!(parsed(text).spool.dir, Path::new("/data/spool"));
}

#[cfg(feature = "upload")]
#[test]
fn every_key_of_the_upload_is_taken() {
    let upload = parsed(
        r#"
        [upload]
        endpoint = "https://collector:4318"
        instance = "shop-17"
        interval = "5min"
        timeout = "10s"
        compression = "none"
        headers_file = "/etc/edgelat/headers"
        ca_file = "/etc/edgelat/ca.pem"
        proxy = "http://proxy:3128"
        "#,
    )
    .upload;
    let expected = UploadConfig {
        endpoint: Some("https://collector:4318".to_owned()),
        instance: Some("shop-17".to_owned()),
        interval: Duration::from_secs(300),
        timeout: Duration::from_secs(10),
        gzip: false,
        headers_file: Some("/etc/edgelat/headers".into()),
        ca_file: Some("/etc/edgelat/ca.pem".into()),
        proxy: Some("http://proxy:3128".to_owned()),
    };
    assert_eq!(upload, expected);
    let usual = parsed("").upload;
    assert_eq!((usual.endpoint, usual.gzip), (None, true));
    assert_eq!((usual.interval, usual.timeout), (Duration::from_secs(60), Duration::from_secs(30)));
    for (line, word) in [
        ("endpoint = \"collector:4318\"", "the address of a receiver"),
        ("instance = \"\"", "a name that no other box has"),
        ("compression = \"zstd\"", "\"gzip\" or \"none\""),
        ("headers_file = \"headers\"", "an absolute path"),
        ("proxy = \"socks5://proxy\"", "the address of a proxy"),
        ("endpont = \"http://a\"", "did you mean endpoint?"),
    ] {
        let said = wrong(&format!("[upload]\n{line}\n"));
        assert!(said.len() == 1 && said[0].contains(word), "{said:?}");
    }
    assert_eq!(wrong("[upload]\n[upload]\n").len(), 1);
}

#[test]
fn every_key_of_a_target_is_taken() {
    let config = parsed(
        r#"
        [[target]]
        name = "gateway"
        exe = "/usr/sbin/gateway*"
        functions = ["handle_*", "py:Server.*", "libssl.so:SSL_read"]
        returns = "uretprobe"
        route = "tracefs"
        on_signal = "fatal"
        follow_forks = false
        targets_on = "isolated"
        pin = true
        allow_ptrace = true
        frames = 1000
        max_map_bytes = "64KiB"
        max_cost = 5
        "#,
    );
    let expected = TargetConfig {
        name: "gateway".to_owned(),
        select: Select::Exe("/usr/sbin/gateway*".to_owned()),
        functions: ["handle_*", "libssl.so:SSL_read"].map(|text| Pattern::parse(text).unwrap()).to_vec(),
        python: vec![PythonPattern::parse("Server.*").unwrap()],
        returns: Returns::Uretprobe,
        route: Some(Route::Tracefs),
        on_signal: Some(OnSignal::Fatal),
        follow_forks: false,
        targets_on: TargetsOn::Isolated,
        pin: true,
        allow_ptrace: true,
        frames: 1_024,
        max_map_bytes: 65_536,
        max_cost: 5.0,
    };
    assert_eq!(config.targets, [expected]);
}

#[test]
fn a_target_is_chosen_in_one_of_five_ways() {
    for (key, expected) in [
        ("pid = 1", Select::Pid(1)),
        ("exe = \"/usr/bin/a\"", Select::Exe("/usr/bin/a".to_owned())),
        ("exe = \"*/gateway\"", Select::Exe("*/gateway".to_owned())),
        ("command = \"gate*\"", Select::Command("gate*".to_owned())),
        ("unit = \"getty@tty1.service\"", Select::Unit("getty@tty1.service".to_owned())),
        ("cgroup = \"/system.slice/a.service/\"", Select::Cgroup("system.slice/a.service".to_owned())),
        ("cgroup = \"system.slice\"", Select::Cgroup("system.slice".to_owned())),
        ("cgroup = \"/sys/fs/cgroup/docker\"", Select::Cgroup("docker".to_owned())),
    ] {
        let config = parsed(&format!("[[target]]\nname = \"a\"\n{key}\nfunctions = [\"f\"]\n"));
        assert_eq!(config.targets[0].select, expected, "{key}");
    }
}

#[test]
fn a_target_needs_one_way_to_choose_processes_a_name_and_functions() {
    assert_eq!(
        wrong("[agent]\n[[target]]\n"),
        [
            ":2: target 1: name: is missing; write a name that is a label in every output, such as name = \"gateway\"",
            ":2: target 1: nothing says which processes are meant; write one of pid, exe, command, unit, cgroup",
            ":2: target 1: functions: is missing; write a list of functions, such as [\"handle_*\", \
             \"libssl.so:SSL_read\", \"py:Server.*\"]",
        ]
    );
    assert_eq!(
        wrong(&target("command = \"gw\"\nunit = \"x.service\"")),
        [
            ":5: target \"gateway\": command: cannot stand beside pid of line 3; leave one of them, or make two targets",
            ":6: target \"gateway\": unit: cannot stand beside pid of line 3; leave one of them, or make two targets",
        ]
    );
    let empty = wrong("[[target]]\nname = \"a\"\npid = 1\nfunctions = []\n");
    assert!(
        empty[0].starts_with(":4: target \"a\": functions: cannot be an empty list; write a list of"),
        "{empty:?}"
    );
}

#[test]
fn every_value_that_a_key_cannot_have_is_answered_with_what_it_can_be() {
    for (keys, part) in [
        (
            "interval = \"0s\"",
            "interval: cannot be \"0s\"; write a time from \"1s\" to \"1h\", such as \"10s\"",
        ),
        ("interval = 10", "interval: cannot be 10; write a time from"),
        ("interval = \"61min\"", "interval: cannot be \"61min\"; write"),
        (
            "scan = \"99ms\"",
            "scan: cannot be \"99ms\"; write a time from \"100ms\" to \"1min\", such as \"2s\"",
        ),
        ("log = \"file\"", "log: cannot be \"file\"; write \"stderr\" or \"syslog\""),
        ("log = [\"stderr\"]", "log: cannot be a list; write \"stderr\" or \"syslog\""),
        ("log_level = \"warn\"", "write \"error\", \"warning\", \"info\" or \"debug\""),
        (
            "collector_cpu = \"3\"",
            "collector_cpu: cannot be \"3\"; write \"prefer-isolated\", \"isolated\" or \"any\", or the number of a CPU \
             without quotes",
        ),
        ("collector_cpu = -1", "collector_cpu: cannot be -1; write"),
        ("collector_cpu = 8192", "collector_cpu: cannot be 8192; write"),
        ("sched = \"fifo\"", "sched: cannot be \"fifo\"; write \"other\" or \"ext\""),
        ("collector_user = \"\"", "collector_user: cannot be \"\"; write the name or the number of a user"),
        ("collector_user = \"a b\"", "collector_user: cannot be"),
        ("collector_user = 4294967295", "collector_user: cannot be 4294967295"),
        ("max_cost = 0", "max_cost: cannot be 0; write percent of one CPU from 0.01 to 1000, such as 1.0"),
        ("max_cost = -1.0", "max_cost: cannot be -1.0"),
        ("max_cost = 1e1", "max_cost: cannot be 1e1"),
        ("max_cost = nan", "max_cost: cannot be nan"),
        ("max_cost = inf", "max_cost: cannot be inf"),
        ("max_cost = 1000.01", "max_cost: cannot be 1000.01"),
        ("max_cost = \"1\"", "max_cost: cannot be \"1\""),
        ("reattach = yes", "reattach: cannot be yes; write true or false"),
        ("scan = 1s", "scan: cannot be 1s; write a time from"),
        ("max_cost = 01", "max_cost: cannot be 01"),
        ("reattach = \"no\"", "reattach: cannot be \"no\"; write true or false"),
        ("reattach = 1979-05-27", "reattach: cannot be 1979-05-27; write true or false"),
        (
            "state_dir = \"var\"",
            "state_dir: cannot be \"var\"; write an absolute path, such as \"/var/lib/edgelat\"",
        ),
        ("run_dir = \"/a\\u0000b\"", "run_dir: cannot be \"/a\\u0000b\"; write an absolute path"),
        (
            "packs = \"/a\"",
            "packs: cannot be \"/a\"; write a list of absolute paths, such as [\"/etc/edgelat/",
        ),
        ("debug_dirs = [\"/a\", 1]", "debug_dirs: cannot be 1; write a list"),
        ("debug_dirs = [[\"/a\"]]", "debug_dirs: cannot be [; write a list"),
        ("debug_dirs = { a = 1 }", "debug_dirs: cannot be {; write a list"),
        (
            "unprobed_images = [\"libfoo.so\"]",
            "unprobed_images: cannot be \"libfoo.so\"; write a list of absolute",
        ),
    ] {
        let said = wrong(&agent(keys));
        assert_eq!(said.len(), 1, "{keys}: {said:?}");
        assert!(said[0].starts_with(":2: agent: ") && said[0].contains(part), "{keys}: {said:?}");
    }
    for (keys, part) in [
        ("returns = \"both\"", "returns: cannot be \"both\"; write \"ret\" or \"uretprobe\""),
        ("route = \"fast\"", "write \"auto\", \"uprobe_multi\", \"tracefs\" or \"single\""),
        ("on_signal = \"none\"", "on_signal: cannot be \"none\"; write \"auto\", \"any\" or \"fatal\""),
        ("targets_on = 1", "targets_on: cannot be 1; write \"any\" or \"isolated\""),
        ("pin = 1", "pin: cannot be 1; write true or false"),
        ("frames = 8", "frames: cannot be 8; write a whole number from 16 to 1048576"),
        ("frames = 1.5", "frames: cannot be 1.5"),
        ("frames = 99999999999999999999", "frames: cannot be 99999999999999999999"),
        (
            "max_map_bytes = \"4GiB\"",
            "max_map_bytes: cannot be \"4GiB\"; write bytes from \"4KiB\" to \"1024MiB\"",
        ),
        ("max_map_bytes = 4095", "max_map_bytes: cannot be 4095"),
    ] {
        let said = wrong(&target(keys));
        assert_eq!(said.len(), 1, "{keys}: {said:?}");
        assert!(
            said[0].starts_with(":5: target \"gateway\": ") && said[0].contains(part),
            "{keys}: {said:?}"
        );
    }
}

#[test]
fn a_selector_that_can_match_nothing_is_refused() {
    for (key, part) in [
        ("pid = 0", "pid: cannot be 0; write a process id from 1 to 4194304"),
        ("pid = \"1\"", "pid: cannot be \"1\""),
        ("exe = \"gateway\"", "exe: cannot be \"gateway\"; write an absolute path"),
        ("command = \"\"", "command: cannot be \"\"; write at most 15 bytes"),
        ("command = \"sixteen-letters-\"", "command: cannot be \"sixteen-letters-\"; write at most 15 bytes"),
        (
            "unit = \"nginx\"",
            "unit: cannot be \"nginx\"; write a unit of systemd with its kind, such as \"nginx.service\"",
        ),
        ("unit = \".service\"", "unit: cannot be"),
        ("unit = \"a/b.service\"", "unit: cannot be"),
        ("unit = \"a.timer\"", "unit: cannot be"),
        ("cgroup = \"/\"", "cgroup: cannot be \"/\"; write a path below /sys/fs/cgroup"),
        ("cgroup = \"/sys/fs/cgroup\"", "cgroup: cannot be"),
        ("cgroup = \"a/../b\"", "cgroup: cannot be"),
        ("cgroup = \"a//b\"", "cgroup: cannot be"),
    ] {
        let said = wrong(&format!("[[target]]\nname = \"a\"\n{key}\nfunctions = [\"f\"]\n"));
        assert_eq!(said.len(), 1, "{key}: {said:?}");
        assert!(said[0].starts_with(":3: target \"a\": ") && said[0].contains(part), "{key}: {said:?}");
    }
}

#[test]
fn names_are_labels_and_each_is_one_target() {
    for name in ["", "Gateway", "a b", "-a", ".", "..", "é", &"a".repeat(64)] {
        let said = wrong(&format!("[[target]]\nname = \"{name}\"\npid = 1\nfunctions = [\"f\"]\n"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("name: cannot be ") && said[0].contains("write 1 to 63 of a-z"), "{said:?}");
    }
    let longest = "a".repeat(63);
    assert_eq!(parsed(&target("").replace("gateway", &longest)).targets[0].name, longest);
    assert_eq!(
        wrong(&[target(""), target("")].concat()),
        [":7: target \"gateway\": name: is the name of the target in line 1 too; give each its own"]
    );
}

#[test]
fn a_function_that_is_none_is_told_with_its_own_line() {
    let said = wrong(
        "[[target]]\nname = \"a\"\npid = 1\nfunctions = [\n  \"f\",\n  \"libc.so:\",\n  7,\n  \"py:\",\n]\n",
    );
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].starts_with(":6: target \"a\": functions: 'libc.so:' has no function after its colon; write")
    );
    assert!(said[1].starts_with(":7: target \"a\": functions: cannot be 7; write a list of functions"));
    assert!(said[2].starts_with(":8: target \"a\": functions: 'py:' has no function"), "{said:?}");
}

#[test]
fn what_nobody_knows_is_answered_with_the_nearest() {
    assert_eq!(
        wrong(&agent("intervall = \"1s\"")),
        [":2: agent: intervall: there is no such key; did you mean interval?"]
    );
    assert_eq!(
        wrong(&target("onsignal = \"any\"")),
        [":5: target \"gateway\": onsignal: there is no such key; did you mean on_signal?"]
    );
    let all = wrong(&target("colour = 1"));
    assert!(all[0].contains("colour: there is no such key; the keys are name, pid, exe, "), "{all:?}");
    assert_eq!(wrong("[agnet]\n"), [":1: there is no table [agnet]; write [agent]"]);
    assert_eq!(wrong("[target]\n"), [":1: there is no table [target]; write [[target]]"]);
    assert_eq!(wrong("[[agent]]\n"), [":1: there is no table [[agent]]; write [agent]"]);
    assert_eq!(wrong("[[spool]]\n"), [":1: there is no table [[spool]]; write [spool]"]);
    assert_eq!(
        wrong("[downlink]\n"),
        [":1: there is no table [downlink]; write [agent], [spool], [upload] or [[target]]"]
    );
    assert_eq!(
        wrong("[\"\"]\n"),
        [":1: there is no table []; write [agent], [spool], [upload] or [[target]]"]
    );
    assert_eq!(
        wrong("interval = \"1s\"\n"),
        [
            ":1: interval: stands before the first table; write it below [agent], [spool], [upload] or [[target]]"
        ]
    );
    assert_eq!(
        wrong("agent.interval = \"1s\"\n"),
        [
            ":1: agent.interval: stands before the first table; write it below [agent], [spool], [upload] or [[target]]"
        ]
    );
}

#[test]
fn nothing_can_be_said_twice() {
    assert_eq!(
        wrong(&agent("scan = \"1s\"\nlog = \"stderr\"\nscan = \"2s\"")),
        [":4: agent: scan: is set in line 2 already; leave one of them"]
    );
    assert_eq!(
        wrong("[agent]\n\n[agent]\nscan = \"2s\"\n"),
        [":3: agent: is there already, in line 1; write its keys there"]
    );
}

#[test]
fn all_errors_are_told_at_once_by_line_and_a_flood_is_bounded() {
    let said = wrong(&[agent("scan = 1\ncolour = 1\nscan = 2"), target("pin = 1"), agent("")].concat());
    let lines: Vec<&str> = said.iter().filter_map(|line| line.split(':').nth(1)).collect();
    assert_eq!(lines, ["2", "3", "4", "9", "10"], "{said:?}");

    let flood = (0..100).map(|number| format!("key{number} = 1\n")).collect::<String>();
    let said = wrong(&agent(&flood));
    assert_eq!(said.len(), 21);
    assert!(
        said[0].starts_with(":2: agent: key0: ") && said[19].starts_with(":21: agent: key19: "),
        "{said:?}"
    );
    assert_eq!(said[20], ": 80 more; correct these first");
}

#[test]
fn more_targets_or_values_than_there_may_be_are_refused() {
    let targets = |count: usize| {
        let one = |number: usize| target("").replace("gateway", &format!("t{number}"));
        (0..count).map(one).collect::<String>()
    };
    assert_eq!(parsed(&targets(TARGETS)).targets.len(), TARGETS);
    let said = wrong(&targets(TARGETS + 3));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with(":321: target 65: is one more than the 64 targets that there may be; "),
        "{said:?}"
    );

    let list = |count: usize| agent(&format!("packs = [{}]", "\"/p\",".repeat(count)));
    assert_eq!(parsed(&list(1_024)).agent.packs.len(), 1_024);
    assert_eq!(
        wrong(&list(1_025)),
        [":2: agent: packs: has more than 1024 values; leave out some, or use globs"]
    );
}

#[test]
fn what_is_no_toml_is_told_once_for_each_mistake_with_its_line() {
    for (text, line, part) in [
        (agent("scan = \"1s"), 2, "the text has no end; write the quote"),
        (agent("scan \"1s\""), 2, "key with no value; expected `=`"),
        (agent("scan = "), 2, "the value is missing; write one after the ="),
        (agent("= 1"), 2, "the key is missing; write one before the ="),
        (
            agent("scan = \"1s\" log = \"stderr\""),
            2,
            "unexpected key or value; expected the end of the line or `#`",
        ),
        (agent("scan = \"\\q\""), 2, "\\ in double quotes begins an escape; write \\\\ for itself"),
        (agent("scan = \"1s\\\""), 2, "the text has no end; write"),
        (agent("log = \"\"\"\nstderr\"\"\""), 2, "a text over several lines is not taken; write it in one"),
        ("[agent\nscan = \"1s\"\n".to_owned(), 1, "unclosed table; expected `]`"),
        ("[[target]\nname = \"a\"\n".to_owned(), 1, "unclosed array table; expected `]`"),
        (
            agent("packs = [\"/a\",\n\"/b\"\nscan = true\nframes = 32"),
            2,
            "the list that begins here has no end; write ]",
        ),
    ] {
        let said = wrong(&text);
        let at = format!(":{line}: ");
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].starts_with(&at) && said[0].contains(part), "{text}: {said:?}");
    }
}

#[test]
fn a_mistake_hides_no_other_and_makes_no_other() {
    let said = wrong("[[target]]\nname = \"a\npid = 1\nfunctions = [\"f\"]\npin = 2\n[agent]\nscan = 3\n");
    let lines: Vec<&str> = said.iter().filter_map(|line| line.split(':').nth(1)).collect();
    assert_eq!(lines, ["2", "5", "7"], "{said:?}");
}

#[test]
fn texts_and_numbers_are_taken_in_every_spelling_that_a_key_can_use() {
    for (text, expected) in [
        (r#"state_dir = "/a\\b\"c\u00e9\x41\U0001F600""#, "/a\\b\"c\u{e9}A\u{1f600}"),
        (r"state_dir = '/a\b'", r"/a\b"),
        (r#""state_dir" = "/q""#, "/q"),
        (r"'state_dir' = '/q'", "/q"),
    ] {
        assert_eq!(parsed(&agent(text)).agent.state_dir, PathBuf::from(expected), "{text}");
    }
    for text in [r#""\ud800""#, r#""\u12""#, r#""\u+123""#, r#""\é""#, r#""\xé""#] {
        let said = wrong(&agent(&format!("state_dir = {text}")));
        assert!(said.len() == 1 && said[0].contains("begins an escape"), "{text}: {said:?}");
    }
    assert_eq!(parsed(&target("max_map_bytes = 1_048_576")).targets[0].max_map_bytes, 1 << 20);
    assert_eq!(parsed(&target("max_cost = 0.5")).targets[0].max_cost, 0.5);
}

#[test]
fn depth_costs_no_stack_and_no_time() {
    for (open, close) in [("[", "]"), ("{ a = ", "}"), ("[{ a = ", "}]")] {
        for close in [close, ""] {
            let text = agent(&format!("packs = {}{}", open.repeat(100_000), close.repeat(100_000)));
            assert!(!wrong(&text).is_empty());
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_line() {
    let errors = Config::parse(Path::new(FILE), b"[agent]\n# \xff\n").unwrap_err();
    assert_eq!(errors.to_string(), "/etc/edgelat.toml:2: is not UTF-8 text; save it as such");
    let marked = Config::parse(Path::new(FILE), b"\xef\xbb\xbf[agent]\nscan = \"1s\"\r\n").unwrap();
    assert_eq!(marked.agent.scan, Duration::from_secs(1));
}

/// A folder for the files of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgelat-config-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_that_cannot_be_taken_is_named_with_the_reason() {
    let folder = Folder::new("taken");
    let error = |path: &Path| {
        let text = Config::load(path).unwrap_err().to_string();
        text.strip_prefix(&format!("{}: ", path.display())).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(
        error(&folder.0.join("none")),
        "cannot be read: No such file or directory; name a file with -c FILE"
    );
    assert_eq!(error(&folder.0), "is not a regular file; name a file with -c FILE");
    let pipe = folder.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(error(&pipe), "is not a regular file; name a file with -c FILE");
    let mut large = b"[agent]\n".to_vec();
    large.resize(1 << 20, b'\n');
    assert!(Config::load(&folder.file("large", &large, 0o600)).is_ok());
    large.push(b'\n');
    assert!(
        error(&folder.file("larger", &large, 0o600))
            .starts_with("has more than the 1048576 bytes that are read; ")
    );
}

#[test]
fn a_file_that_others_may_write_is_not_for_root() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = Folder::new("others");
    for mode in [0o666, 0o602, 0o646] {
        let text = Config::load(&folder.file("open", b"", mode)).unwrap_err().to_string();
        assert!(text.contains(&format!("may be written by others than root (mode {mode:o})")), "{text}");
        assert!(text.ends_with("; run chmod go-w on it"), "{text}");
    }
    assert!(Config::load(&folder.file("closed", b"", 0o644)).is_ok());
    // Group 0 is root's own.
    let group = folder.file("group", b"", 0o664);
    assert!(Config::load(&group).is_ok());
    std::os::unix::fs::chown(&group, None, Some(1)).unwrap();
    assert!(Config::load(&group).unwrap_err().to_string().contains("(mode 664)"));
    // An owner may change the mode.
    let foreign = folder.file("foreign", b"", 0o444);
    std::os::unix::fs::chown(&foreign, Some(1), None).unwrap();
    let text = Config::load(&foreign).unwrap_err().to_string();
    assert!(text.contains("belongs to user 1, ") && text.ends_with("; run chown root on it"), "{text}");
}

/// A repeatable generator, so that a failure can be reproduced.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}

#[test]
fn damaged_files_never_panic_and_are_taken_or_told_why_not() {
    const PIECES: [&[u8]; 14] =
        [b"[", b"]", b"[[", b"]]", b"\"", b"'''", b"\"\"\"", b"=", b".", b",", b"{", b"\n", b"\0", b"\xc3"];
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../rootfs/etc/edgelat.toml");
    let installed = fs::read_to_string(installed).unwrap();
    // Keys follow the comment sign at once, comments after a space.
    let keys =
        installed.lines().filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')));
    let whole = keys.map(|line| format!("{line}\n")).collect::<String>().replace("\"gateway\"", "\"other\"");
    let whole = [whole.as_bytes(), target("max_cost = 0.5").as_bytes()].concat();
    let mut random = Random(1);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..3_000 {
        let mut text = whole.clone();
        // Sometimes a fragment, so that files broken from the first byte are covered too.
        if random.below(4) == 0 {
            text = whole[random.below(whole.len())..].to_vec();
        }
        for _ in 0..random.below(4) {
            let at = random.below(text.len());
            match random.below(8) {
                0 => text.truncate(at + 1),
                1..3 => drop(text.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
                3..5 => drop(text.splice(at..at + 1, PIECES[random.below(PIECES.len())].iter().copied())),
                _ => text[at] ^= 1 << random.below(8),
            }
        }
        match Config::parse(Path::new(FILE), &text) {
            Ok(_) => taken += 1,
            Err(errors) => {
                refused += 1;
                let said = errors.to_string();
                let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
                for line in said.lines() {
                    assert!(line.contains("; ") || line.ends_with('?'), "{line}");
                    let rest = line.strip_prefix(FILE).unwrap_or_else(|| panic!("{line}"));
                    let number = rest.split(':').nth(1).and_then(|number| number.parse().ok());
                    assert!(number.is_none_or(|number| (1..=lines).contains(&number)), "{line}: of {lines}");
                }
            }
        }
    }
    assert!(taken > 30 && refused > 1_000, "{taken} taken, {refused} refused");
}
