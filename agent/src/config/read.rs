//! All keys, their valid values and their defaults.

use std::{ops::RangeInclusive, time::Duration};

use edgelat_guard::placement::{CollectorCpu, Sched, TargetsOn};
use edgelat_guard::quarantine::EXPIRY;
use edgelat_image::Glob;
use edgelat_image::limits::PATTERN_BYTES;

#[cfg(feature = "upload")]
use super::UploadConfig;
use super::document::{Table, Value};
use super::error::{Errors, Problem};
use super::keys::{Keys, alternatives, text, whole};
use super::{AgentConfig, Config, Level, LogTo, RUN_DIR, Select, SpoolConfig, TARGETS, TargetConfig};
use crate::selection::Selection;
use crate::values::{
    self, COLLECTOR_CPUS, CPUS, FRAMES, LISTEN_WANTED, MAP_BYTES, METRICS_LISTEN, ON_SIGNAL, PIDS, RETURNS,
    ROUTES, SCHEDS, TARGETS_ON,
};

const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Times in quarantine.
const QUARANTINES: RangeInclusive<Duration> = Duration::from_secs(3_600)..=Duration::from_secs(8_760 * 3_600);
const SCANS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// Sizes of a spool, of its segments, and of the bytes written per day.
const SPOOLS: RangeInclusive<u64> = 256 << 10..=1 << 30;
const SEGMENTS: RangeInclusive<u64> = 16 << 10..=4 << 20;
const DAYS: RangeInclusive<u64> = 64 << 10..=1 << 30;
const SYNCS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const PATIENCES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// Timeouts of a request with its response.
#[cfg(feature = "upload")]
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// Compression methods of requests.
#[cfg(feature = "upload")]
const COMPRESSIONS: [(&str, bool); 2] = [("gzip", true), ("none", false)];

/// Percent of one CPU: below 0.01 is not measurable, and more than ten CPUs are no budget.
const COSTS: RangeInclusive<f64> = 0.01..=1000.0;

/// Longest target name in bytes, as for a DNS label.
const NAME_BYTES: usize = 63;

/// Longest command name in bytes: TASK_COMM_LEN of include/linux/sched.h is 16 with the final 0.
const COMMAND_BYTES: usize = 15;

/// Longest unit name in bytes: UNIT_NAME_MAX of systemd is 256 with the final 0.
const UNIT_BYTES: usize = 255;

/// Unit types that have processes of their own.
const UNIT_KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Longest user name in bytes: LOGIN_NAME_MAX is 256 with the final 0.
const USER_BYTES: usize = 255;

/// Mount point of the control groups, the same with systemd and OpenRC.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

const LOGS: [(&str, LogTo); 2] = [("stderr", LogTo::Stderr), ("syslog", LogTo::Syslog)];
const LEVELS: [(&str, Level); 4] =
    [("error", Level::Error), ("warning", Level::Warning), ("info", Level::Info), ("debug", Level::Debug)];

/// The keys that select processes.
const SELECTORS: [&str; 5] = ["pid", "exe", "command", "unit", "cgroup"];

/// Returns the configuration as far as it is readable; useful only if `errors` stays empty.
pub(super) fn config(tables: &[Table<'_>], errors: &mut Errors) -> Config {
    let (root, tables) = tables.split_first().map_or((None, tables), |(root, rest)| (Some(root), rest));
    for entry in root.into_iter().flat_map(|root| &root.entries) {
        errors.add_at(entry.line, "", &entry.key, Problem::NoTable);
    }
    let mut agent = None;
    let mut spool: Option<&Table<'_>> = None;
    let mut upload: Option<&Table<'_>> = None;
    let mut targets: Vec<(u32, TargetConfig)> = Vec::new();
    let mut elements = 0;
    for table in tables {
        match (table.name.as_deref(), table.element) {
            (Some("agent"), false) => match agent {
                Some((first, _)) => errors.add_at(table.line, "agent", "", Problem::TableTwice { first }),
                None => {
                    let keys = Keys::new(table.line, &table.entries, "agent".to_owned(), errors);
                    agent = Some((table.line, agent_of(keys)));
                }
            },
            (Some(name @ ("spool" | "upload")), false) => {
                let place = if name == "spool" { &mut spool } else { &mut upload };
                match place {
                    Some(first) => {
                        let problem = Problem::TableTwice { first: first.line };
                        errors.add_at(table.line, name, "", problem);
                    }
                    None => *place = Some(table),
                }
            }
            (Some("target"), true) => {
                elements += 1;
                if elements == TARGETS + 1 {
                    let place = format!("target {elements}");
                    errors.add_at(table.line, &place, "", Problem::TooManyTargets { most: TARGETS });
                }
                if elements <= TARGETS {
                    targets.extend(target_of(table, elements, &targets, errors));
                }
            }
            (Some(name), element) => errors.add(table.line, unknown_table(name, element)),
            // The header is invalid TOML, which has been reported.
            (None, _) => {}
        }
    }
    let agent = match agent {
        Some((_, agent)) => agent,
        None => agent_of(Keys::new(1, &[], "agent".to_owned(), errors)),
    };
    // Last, because its directory depends on [agent], which may follow it in the file.
    let (line, entries) = spool.map_or((1, &[][..]), |table| (table.line, &table.entries));
    let spool = spool_of(Keys::new(line, entries, "spool".to_owned(), errors), &agent);
    // A build without upload ignores the table, which is for the build that has it.
    #[cfg(feature = "upload")]
    let upload = {
        let (line, entries) = upload.map_or((1, &[][..]), |table| (table.line, &table.entries));
        upload_of(Keys::new(line, entries, "upload".to_owned(), errors))
    };
    Config {
        agent,
        spool,
        #[cfg(feature = "upload")]
        upload,
        targets: targets.into_iter().map(|(_, target)| target).collect(),
    }
}

fn unknown_table(name: &str, element: bool) -> Problem {
    let given = if element { format!("[[{name}]]") } else { format!("[{name}]") };
    let wanted = match edgelat_image::nearest(name, ["agent", "spool", "target", "upload"]).as_deref() {
        Some("agent") => "[agent]",
        Some("spool") => "[spool]",
        Some("upload") => "[upload]",
        Some("target") => "[[target]]",
        _ => "[agent], [spool], [upload] or [[target]]",
    };
    Problem::UnknownTable { given, wanted }
}

fn agent_of(mut keys: Keys<'_, '_>) -> AgentConfig {
    let agent = AgentConfig {
        state_dir: keys.path("state_dir", "/var/lib/edgelat"),
        run_dir: keys.path("run_dir", RUN_DIR),
        interval: keys.duration("interval", INTERVALS, Duration::from_secs(10)),
        scan: keys.duration("scan", SCANS, Duration::from_secs(2)),
        log: keys.word("log", &LOGS).unwrap_or(LogTo::Stderr),
        log_level: keys.word("log_level", &LEVELS).unwrap_or(Level::Info),
        collector_cpu: collector_cpu(&mut keys).unwrap_or(CollectorCpu::PreferIsolated),
        sched: keys.word("sched", &SCHEDS).unwrap_or(Sched::Other),
        collector_user: collector_user(&mut keys),
        max_cost: keys.percent("max_cost", COSTS, 1.0),
        quarantine_for: keys.duration("quarantine_for", QUARANTINES, EXPIRY),
        reattach: keys.flag("reattach", true),
        debug_dirs: keys.paths("debug_dirs", "/usr/lib/debug"),
        packs: keys.paths("packs", "/etc/edgelat/program.pack"),
        unprobed_images: keys.list(
            "unprobed_images",
            "a list of absolute paths or globs of such, such as [\"/opt/vendor/*\"]",
            |text| path_glob(text).then(|| text.to_owned()),
        ),
        metrics_listen: keys
            .get("metrics_listen", LISTEN_WANTED, |value| text(value)?.parse().ok())
            .unwrap_or(METRICS_LISTEN),
        metrics_hosts: keys.list(
            "metrics_hosts",
            "a list of names of hosts, such as [\"box.lan\"]",
            |text| values::host_name(text).then(|| text.to_owned()),
        ),
    };
    keys.finish();
    agent
}

fn spool_of(mut keys: Keys<'_, '_>, agent: &AgentConfig) -> SpoolConfig {
    let dir = keys.path_if("dir", "/var/lib/edgelat/spool");
    let spool = SpoolConfig {
        dir: dir.unwrap_or_else(|| agent.state_dir.join("spool")),
        max_bytes: keys.bytes("max_bytes", SPOOLS, "16MiB").unwrap_or(16 << 20),
        segment_bytes: keys.bytes("segment_bytes", SEGMENTS, "256KiB").unwrap_or(256 << 10),
        sync: keys.duration("sync", SYNCS, Duration::from_secs(60)),
        bytes_per_day: keys.bytes("bytes_per_day", DAYS, "8MiB"),
        clock_patience: keys.duration("clock_patience", PATIENCES, Duration::from_secs(3_600)),
    };
    keys.finish();
    spool
}

#[cfg(feature = "upload")]
fn upload_of(mut keys: Keys<'_, '_>) -> UploadConfig {
    const ENDPOINT: &str = "the address of a receiver, such as \"http://collector:4318/v1/metrics\"";
    const INSTANCE: &str = "a name that no other box has, such as \"shop-17\"";
    let address = |text: &str| ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    let upload = UploadConfig {
        endpoint: keys
            .get("endpoint", ENDPOINT, |value| text(value).filter(|text| address(text)).map(str::to_owned)),
        instance: keys.get("instance", INSTANCE, |value| {
            text(value).filter(|text| !text.is_empty()).map(str::to_owned)
        }),
        interval: keys.duration("interval", INTERVALS, Duration::from_secs(60)),
        timeout: keys.duration("timeout", TIMEOUTS, Duration::from_secs(30)),
        gzip: keys.word("compression", &COMPRESSIONS).unwrap_or(COMPRESSIONS[0].1),
        headers_file: keys.path_if("headers_file", "/etc/edgelat/headers"),
        ca_file: keys.path_if("ca_file", "/etc/edgelat/ca.pem"),
        proxy: keys.get("proxy", "the address of a proxy, such as \"http://proxy:3128\"", |value| {
            text(value).filter(|text| address(text)).map(str::to_owned)
        }),
    };
    keys.finish();
    upload
}

fn collector_cpu(keys: &mut Keys<'_, '_>) -> Option<CollectorCpu> {
    let words = COLLECTOR_CPUS.iter().map(|(word, _)| *word);
    let wanted = format!("{}, or the number of a CPU without quotes", alternatives(words));
    keys.get("collector_cpu", &wanted, |value| match text(value) {
        Some(word) => values::meaning(&COLLECTOR_CPUS, word),
        None => whole(value).filter(|cpu| CPUS.contains(cpu)).map(|cpu| CollectorCpu::Cpu(cpu as u32)),
    })
}

fn collector_user(keys: &mut Keys<'_, '_>) -> Option<String> {
    let named = |name: &str| {
        let fits = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@'));
        fits && (1..=USER_BYTES).contains(&name.len())
    };
    keys.get("collector_user", "the name or the number of a user, such as \"edgelat\"", |value| {
        match whole(value) {
            // The largest number means "no user": include/linux/uidgid.h, INVALID_UID.
            Some(number) => (number < u64::from(u32::MAX)).then(|| number.to_string()),
            None => text(value).filter(|name| named(name)).map(str::to_owned),
        }
    })
}

fn target_of(
    table: &Table<'_>,
    number: usize,
    others: &[(u32, TargetConfig)],
    errors: &mut Errors,
) -> Option<(u32, TargetConfig)> {
    let named = table.entries.iter().find(|entry| entry.key == "name").and_then(|entry| entry.item.as_ref());
    let place = match named.and_then(|item| text(&item.value)) {
        Some(name) => format!("target {name:?}"),
        None => format!("target {number}"),
    };
    let mut keys = Keys::new(table.line, &table.entries, place, errors);
    let name = name(&mut keys, others);
    let select = select(&mut keys);
    let selection = selection(&mut keys);
    let returns = keys.word("returns", &RETURNS);
    let route = keys.word("route", &ROUTES);
    let on_signal = keys.word("on_signal", &ON_SIGNAL);
    let follow_forks = keys.flag("follow_forks", true);
    let targets_on = keys.word("targets_on", &TARGETS_ON);
    let pin = keys.flag("pin", false);
    let allow_ptrace = keys.flag("allow_ptrace", false);
    let frames = format!("a whole number from {} to {}", FRAMES.start(), FRAMES.end());
    let frames = keys.number("frames", &frames, FRAMES);
    let max_map_bytes = keys.bytes("max_map_bytes", MAP_BYTES, "4MiB");
    let max_cost = keys.percent("max_cost", COSTS, 1.0);
    keys.finish();
    let target = TargetConfig {
        name: name?,
        select: select?,
        functions: selection.functions,
        python: selection.python,
        returns: returns.unwrap_or(RETURNS[0].1),
        route: route.flatten(),
        on_signal: on_signal.flatten(),
        follow_forks,
        targets_on: targets_on.unwrap_or(TargetsOn::Any),
        pin,
        allow_ptrace,
        frames: frames.unwrap_or(8_192).next_power_of_two() as u32,
        max_map_bytes: max_map_bytes.unwrap_or(4 << 20),
        max_cost,
    };
    Some((table.line, target))
}

fn name(keys: &mut Keys<'_, '_>, others: &[(u32, TargetConfig)]) -> Option<String> {
    const WANTED: &str =
        "1 to 63 of a-z, 0-9, _, . and -, beginning with a letter or digit, such as \"gateway\"";
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = |name: &&str| {
        (1..=NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| plain(byte) || b"_.-".contains(&byte))
            && name.bytes().next().is_some_and(plain)
    };
    let Some(line) = keys.line_of("name") else {
        keys.missing(
            "name",
            Problem::Missing { wanted: "a name that is a label in every output, such as name = \"gateway\"" },
        );
        return None;
    };
    let name = keys.get("name", WANTED, |value| text(value).filter(fits).map(str::to_owned))?;
    match others.iter().find(|(_, other)| other.name == name) {
        Some((first, _)) => {
            keys.wrong(line, "name", Problem::NameTwice { first: *first });
            None
        }
        None => Some(name),
    }
}

fn select(keys: &mut Keys<'_, '_>) -> Option<Select> {
    let given: Vec<_> = SELECTORS.iter().filter_map(|key| Some((*key, keys.line_of(key)?))).collect();
    match given.split_first() {
        Some(((other, line), more)) => {
            for (key, at) in more {
                keys.wrong(*at, key, Problem::TwoSelectors { other, line: *line });
            }
        }
        None => keys.missing("", Problem::NoSelector { choice: SELECTORS.join(", ") }),
    }
    // Every selector is read, so that a wrong value is reported too.
    let pid = format!("a process id from {} to {}", PIDS.start(), PIDS.end());
    let pid = keys.number("pid", &pid, PIDS).map(|pid| Select::Pid(pid as i32));
    let mut of =
        |key, wanted, read: fn(&str) -> Option<Select>| keys.get(key, wanted, |value| read(text(value)?));
    let exe = of("exe", "an absolute path or a glob of such, such as \"/usr/sbin/nginx\"", |text| {
        path_glob(text).then(|| Select::Exe(text.to_owned()))
    });
    let command = of(
        "command",
        "at most 15 bytes, which are all that the kernel keeps of a name, or a glob of such, such as \"nginx\"",
        |text| (1..=COMMAND_BYTES).contains(&text.len()).then(|| Select::Command(text.to_owned())),
    );
    let unit = of("unit", "a unit of systemd with its kind, such as \"nginx.service\"", |text| {
        unit(text).then(|| Select::Unit(text.to_owned()))
    });
    let cgroup =
        of("cgroup", "a path below /sys/fs/cgroup, such as \"system.slice/nginx.service\"", |text| {
            cgroup(text).map(Select::Cgroup)
        });
    pid.or(exe).or(command).or(unit).or(cgroup)
}

/// Returns true if the text can be compared with the path of an image.
fn path_glob(text: &str) -> bool {
    text.len() <= PATTERN_BYTES
        && (text.starts_with('/') || Glob::is_glob(text) && text.starts_with(['*', '?', '[']))
}

/// Returns true for a unit name as in systemd: src/basic/unit-name.c, VALID_CHARS_WITH_AT.
fn unit(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let kind = UNIT_KINDS.iter().find_map(|kind| text.strip_suffix(kind));
    text.len() <= UNIT_BYTES && text.bytes().all(valid) && kind.is_some_and(|name| !name.is_empty())
}

/// Returns the path without mount point and outer slashes; the root, every process, is refused.
fn cgroup(text: &str) -> Option<String> {
    let below = text.strip_prefix(CGROUP_ROOT).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let below = below.unwrap_or(text).trim_matches('/');
    let fits = !below.is_empty() && below.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (fits && text.len() <= PATTERN_BYTES).then(|| below.to_owned())
}

fn selection(keys: &mut Keys<'_, '_>) -> Selection {
    const WANTED: &str =
        "a list of functions, such as [\"handle_*\", \"libssl.so:SSL_read\", \"py:Server.*\"]";
    let mut selection = Selection::default();
    if keys.line_of("functions").is_none() {
        keys.missing("functions", Problem::Missing { wanted: WANTED });
        return selection;
    }
    let empty = |value: &Value<'_>| matches!(value, Value::List(items) if items.is_empty());
    keys.get("functions", WANTED, |value| (!empty(value)).then_some(()));
    for item in keys.items("functions", WANTED) {
        match text(&item.value).map(|text| selection.add(text)) {
            Some(Ok(())) => {}
            Some(Err(reason)) => keys.wrong(item.line, "functions", reason.into()),
            None => keys.cannot_be("functions", item, WANTED),
        }
    }
    selection
}
