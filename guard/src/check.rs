//! Abilities of this machine for measuring, and what it lacks: each finding with its remedy.
//!
//! Two kinds of findings: [`surroundings`] reads files and makes calls that change nothing; trials
//! load programs of two instructions and try the routes without a target. The trials decide: a
//! vendor's kernel may have what its version number denies. The surroundings explain failed trials.

mod routes;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use caps::Capability;
use edgelat_bpf::object::OBJECT_SHA256;
use nix::errno::Errno;

use crate::attach::perf::confidentiality;
use crate::features;
use crate::placement;
use crate::rights::{held, in_first_user_namespace};
use crate::target::in_first_pid_namespace;

/// Effect of a finding on measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Ok,
    /// Measuring works, but not as well, or not everywhere.
    Warn,
    /// Measuring fails for want of a right.
    NotPermitted,
    /// Measuring fails because the kernel lacks something.
    Missing,
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable short word.
    pub name: &'static str,
    /// Effect on measuring.
    pub state: State,
    /// Text of the result.
    pub detail: String,
    /// Remedy, if there is one.
    pub next: Option<String>,
}

impl Finding {
    /// A finding without trouble.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), next: None }
    }

    /// A finding with trouble; `next` is the remedy.
    pub fn not_ok(
        name: &'static str,
        state: State,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { name, state, detail: detail.into(), next: Some(next.into()) }
    }
}

/// The oldest kernel that edgelat supports: from 5.11 on, memory of BPF maps counts to the control
/// group and needs no RLIMIT_MEMLOCK.
const OLDEST_KERNEL: (u32, u32) = (5, 11);

/// Returns all findings: the surroundings, the programs in edgelat, then the trials.
pub fn check() -> Vec<Finding> {
    let mut findings = surroundings();
    findings.push(Finding::ok("object", format!("latency.bpf.o, sha256 {OBJECT_SHA256}")));
    let programs = programs(features::programs());
    let loads = programs.state;
    findings.push(programs);
    let forbidden = findings.iter().any(|finding| finding.state == State::NotPermitted);
    findings.extend(routes::findings(loads, forbidden));
    findings.push(Finding::ok("collector", placement::describe(&placement::Wanted::default())));
    findings
}

fn programs(loaded: Result<(), Errno>) -> Finding {
    const NAME: &str = "programs";
    match loaded {
        Ok(()) => Finding::ok(NAME, "the kernel takes BPF programs on uprobes"),
        Err(Errno::EPERM | Errno::EACCES) => Finding::not_ok(
            NAME,
            State::NotPermitted,
            "the kernel takes no BPF program from this caller",
            "run edgelat as root, or grant it CAP_BPF and CAP_PERFMON",
        ),
        Err(Errno::ENOSYS) => Finding::not_ok(
            NAME,
            State::Missing,
            "there is no bpf() system call here: the kernel lacks it, or an emulator stands between",
            "use a kernel built with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y, not emulated",
        ),
        Err(errno) => Finding::not_ok(
            NAME,
            State::Missing,
            format!("the kernel takes no BPF program on uprobes: {}", errno.desc()),
            "use a kernel built with CONFIG_BPF_EVENTS=y",
        ),
    }
}

/// Findings from files and harmless calls, in the order of repair.
pub fn surroundings() -> Vec<Finding> {
    // The kernel's list of modes needs securityfs to be mounted.
    let modes = line("/sys/kernel/security/lockdown");
    let lockdown = lockdown(modes.as_deref(), confidentiality());
    let mut findings = vec![
        kernel(&nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned())),
        btf(&fs::File::open("/sys/kernel/btf/vmlinux").map(drop)),
        uprobes(Path::new("/sys/bus/event_source/devices/uprobe/type").exists()),
        perf_events(line("/proc/sys/kernel/perf_event_paranoid").as_deref(), held(Capability::CAP_PERFMON)),
        tracefs(&fs::read_to_string("/proc/self/mounts").unwrap_or_default(), lockdown.state),
        capabilities(held),
    ];
    findings.extend(user_namespace(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default()));
    findings.extend(process_namespace(in_first_pid_namespace()));
    findings.push(unprivileged_bpf(line("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()));
    findings.push(lockdown);
    findings.push(system_calls(Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()));
    findings.push(landlock(features::landlock()));
    let file = "/proc/sys/net/core/bpf_jit_enable";
    // Only root may read it; every process sees that it exists.
    findings.extend(jit(Path::new(file).exists(), line(file).as_deref()));
    findings.push(clock(line("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref()));
    findings
}

/// The first line of a small file, if it can be read.
fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_string())
}

fn kernel(release: &Result<String, Errno>) -> Finding {
    const NAME: &str = "kernel";
    let release = match release {
        Ok(release) => release,
        Err(errno) => {
            let detail = format!("its version is not told: {}", errno.desc());
            return Finding::not_ok(NAME, State::Warn, detail, "go by the other findings");
        }
    };
    match version(release) {
        Some(found) if found >= OLDEST_KERNEL => Finding::ok(NAME, release),
        Some(_) => {
            let (major, minor) = OLDEST_KERNEL;
            let detail = format!("{release} is older than {major}.{minor}");
            Finding::not_ok(NAME, State::Missing, detail, format!("update to Linux {major}.{minor} or later"))
        }
        None => {
            let detail = format!("'{release}' is no version that edgelat knows how to read");
            Finding::not_ok(NAME, State::Warn, detail, "go by the other findings")
        }
    }
}

/// Major and minor number of a kernel release such as `6.1.0-18-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn btf(opened: &std::io::Result<()>) -> Finding {
    const NAME: &str = "btf";
    let file = "/sys/kernel/btf/vmlinux";
    match opened {
        Ok(()) => Finding::ok(NAME, file),
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::not_ok(
            NAME,
            State::Missing,
            format!("there is no {file}: the kernel does not describe its types, or /sys is not mounted"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
        Err(error) => Finding::not_ok(
            NAME,
            State::NotPermitted,
            format!("{file} cannot be read: {error}"),
            "run edgelat as root, outside of a restricted container",
        ),
    }
}

fn uprobes(exist: bool) -> Finding {
    const NAME: &str = "uprobes";
    if exist {
        return Finding::ok(NAME, "the kernel has uprobe events");
    }
    Finding::not_ok(
        NAME,
        State::Missing,
        "there is no /sys/bus/event_source/devices/uprobe: no uprobe events, or /sys is not mounted",
        "use a kernel built with CONFIG_UPROBE_EVENTS=y",
    )
}

fn perf_events(paranoid: Option<&str>, perfmon: bool) -> Finding {
    const NAME: &str = "perf-events";
    match paranoid {
        None => Finding::not_ok(
            NAME,
            State::Missing,
            "there is no /proc/sys/kernel/perf_event_paranoid: the kernel has no perf events",
            "use a kernel built with CONFIG_PERF_EVENTS=y",
        ),
        // 3 is an addition of Debian and Android; binds all without CAP_PERFMON or CAP_SYS_ADMIN.
        Some(level) if level.parse().is_ok_and(|level: i32| level >= 3) && !perfmon => Finding::not_ok(
            NAME,
            State::Warn,
            format!("perf_event_paranoid is {level}: perf events are for the privileged"),
            "grant CAP_PERFMON, or set kernel.perf_event_paranoid to 2",
        ),
        Some(level) => Finding::ok(NAME, format!("perf_event_paranoid is {level}")),
    }
}

fn tracefs(mounts: &str, lockdown: State) -> Finding {
    const NAME: &str = "tracefs";
    if lockdown == State::Missing {
        let detail = "off: the kernel is locked down for confidentiality";
        return Finding::not_ok(NAME, State::Warn, detail, "see the finding lockdown");
    }
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "tracefs").then_some(point)
    });
    match mount {
        Some(point) => Finding::ok(NAME, format!("mounted at {point}")),
        None => Finding::not_ok(
            NAME,
            State::Warn,
            "not mounted here; edgelat needs it only for the tracefs route",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

fn capabilities(held: impl Fn(Capability) -> bool) -> Finding {
    const NAME: &str = "capabilities";
    // Uses, in the order of need. CAP_SYS_ADMIN stands for the first two everywhere in the kernel.
    let wanted = [
        (Capability::CAP_BPF, "load programs"),
        (Capability::CAP_PERFMON, "attach them"),
        (Capability::CAP_SYS_PTRACE, "open processes of other users"),
        (Capability::CAP_CHECKPOINT_RESTORE, "open libraries that were replaced on disk"),
    ];
    let admin = held(Capability::CAP_SYS_ADMIN);
    let names = |list: &[(Capability, &str)]| {
        list.iter().map(|(capability, _)| capability.to_string()).collect::<Vec<_>>().join(", ")
    };
    let have: Vec<_> = wanted.into_iter().filter(|(capability, _)| held(*capability)).collect();
    let mut detail = names(&have);
    if admin {
        detail =
            if detail.is_empty() { "CAP_SYS_ADMIN".to_string() } else { format!("{detail}, CAP_SYS_ADMIN") };
    }
    if detail.is_empty() {
        detail = "none".to_string();
    }
    let lacking: Vec<_> = wanted.into_iter().filter(|(capability, _)| !held(*capability)).collect();
    let needed = |capability| !admin && !held(capability);
    if needed(Capability::CAP_BPF) || needed(Capability::CAP_PERFMON) {
        let next = format!("run edgelat as root, or grant it {}", names(&lacking));
        return Finding::not_ok(NAME, State::NotPermitted, format!("held: {detail}"), next);
    }
    if !held(Capability::CAP_SYS_PTRACE) {
        let next = "grant CAP_SYS_PTRACE to measure processes of other users";
        return Finding::not_ok(NAME, State::Warn, format!("held: {detail}"), next);
    }
    Finding::ok(NAME, format!("held: {detail}"))
}

/// Capabilities count for bpf() and perf events in the first user namespace only.
fn user_namespace(uid_map: &str) -> Option<Finding> {
    if in_first_user_namespace(uid_map) {
        return None;
    }
    Some(Finding::not_ok(
        "user-namespace",
        State::NotPermitted,
        "this is not the first user namespace: its capabilities mean nothing to bpf() and perf events",
        "run edgelat outside of the container, or in one without a user namespace of its own",
    ))
}

/// Programs in the kernel see ids of the first PID namespace; elsewhere the guard refuses targets.
fn process_namespace(first: bool) -> Option<Finding> {
    if first {
        return None;
    }
    Some(Finding::not_ok(
        "process-namespace",
        State::Missing,
        "this is not the first PID namespace: the kernel's numbers of processes are not the ones seen here",
        "run edgelat outside of the container, or the container with the host's PID namespace (--pid=host, hostPID: true)",
    ))
}

fn unprivileged_bpf(setting: Option<&str>) -> Finding {
    // Measuring always needs capabilities; the value shows the rights of a process without them.
    let detail = match setting {
        Some("0") => "0: processes without capabilities may use a part of bpf()",
        Some("1") => "1: bpf() needs CAP_BPF until the next boot",
        Some("2") => "2: bpf() needs CAP_BPF",
        Some(_) => "a value that edgelat does not know",
        None => "not told; bpf() is taken to need CAP_BPF",
    };
    Finding::ok("unprivileged-bpf-disabled", detail)
}

/// The kernel's list of modes and the answer to a trial.
fn lockdown(modes: Option<&str>, confidentiality: Option<bool>) -> Finding {
    const NAME: &str = "lockdown";
    // The file lists all modes, the present one in brackets: `none [integrity] confidentiality`.
    let mode = modes.and_then(|modes| Some(modes.split_once('[')?.1.split_once(']')?.0));
    match (mode, confidentiality) {
        (Some("confidentiality"), _) | (None, Some(true)) => Finding::not_ok(
            NAME,
            State::Missing,
            "confidentiality: BPF programs may not read kernel memory, and tracing is off; no capability helps",
            "boot with lockdown=integrity or without lockdown",
        ),
        (Some(mode), _) => Finding::ok(NAME, mode),
        (None, Some(false)) => Finding::ok(NAME, "not for confidentiality"),
        (None, None) => Finding::ok(NAME, "not told: securityfs is not mounted here"),
    }
}

/// Filters of system calls. Processes that read the bytes of targets do not start without them.
fn system_calls(filters: bool) -> Finding {
    const NAME: &str = "seccomp";
    if filters {
        return Finding::ok(NAME, "the kernel has filters of system calls");
    }
    Finding::not_ok(
        NAME,
        State::Missing,
        "there is no /proc/sys/kernel/seccomp: no filters of system calls, or /proc is not mounted",
        "use a kernel built with CONFIG_SECCOMP_FILTER=y",
    )
}

/// The kernel's version of landlock, 1 and up.
fn landlock(version: Result<u32, Errno>) -> Finding {
    const NAME: &str = "landlock";
    let lacking = |detail: &str, next: &str| Finding::not_ok(NAME, State::Warn, detail, next);
    match version {
        Ok(version) => Finding::ok(NAME, format!("version {version}: the collector can write to no file")),
        Err(Errno::EOPNOTSUPP) => lacking(
            "off: only capabilities and file modes keep the collector from writing to files",
            "put landlock into lsm= on the kernel's command line, or into CONFIG_LSM",
        ),
        Err(_) => lacking(
            "none: only capabilities and file modes keep the collector from writing to files",
            "use a kernel of Linux 5.13 or later built with CONFIG_SECURITY_LANDLOCK=y",
        ),
    }
}

/// `None` if the setting exists and may not be read.
fn jit(exists: bool, setting: Option<&str>) -> Option<Finding> {
    const NAME: &str = "jit";
    let lacking = |detail: &str, next: &str| Finding::not_ok(NAME, State::Warn, detail, next);
    match setting {
        Some("0") => Some(lacking(
            "off: programs are interpreted, each probe costs several times as much",
            "set net.core.bpf_jit_enable to 1",
        )),
        Some(_) => Some(Finding::ok(NAME, "on")),
        None if exists => None,
        None => Some(lacking(
            "none: programs are interpreted, each probe costs several times as much",
            "use a kernel built with CONFIG_BPF_JIT=y",
        )),
    }
}

fn clock(source: Option<&str>) -> Finding {
    const NAME: &str = "clock";
    match source {
        // Read by a bus access of about a microsecond, or not finer than a timer tick.
        Some(slow @ ("acpi_pm" | "hpet" | "pit" | "jiffies" | "refined-jiffies")) => Finding::not_ok(
            NAME,
            State::Warn,
            format!("{slow}: slow to read or coarse, which shows in every duration"),
            "find out from the kernel's log why the processor's own counter is not used",
        ),
        Some(source) => Finding::ok(NAME, source),
        None => Finding::not_ok(
            NAME,
            State::Warn,
            "the clock source is not told",
            "mount /sys to learn which it is; measuring works without",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_kernel_is_judged_by_its_first_two_numbers() {
        for (release, state) in [
            ("5.10.0-28-amd64", State::Missing),
            ("5.11.0", State::Ok),
            ("6.1.0-18-cloud-amd64", State::Ok),
            ("4.19-vendor", State::Missing),
            ("5.4", State::Missing),
            ("7.3.0-rc1", State::Ok),
            ("vendor", State::Warn),
            ("", State::Warn),
        ] {
            assert_eq!(kernel(&Ok(release.to_string())).state, state, "{release}");
        }
        assert_eq!(kernel(&Err(Errno::ENOSYS)).state, State::Warn);
    }

    #[test]
    fn missing_btf_is_the_kernels_and_unreadable_btf_a_lack_of_rights() {
        assert_eq!(btf(&Ok(())).state, State::Ok);
        assert_eq!(btf(&Err(ErrorKind::NotFound.into())).state, State::Missing);
        assert_eq!(btf(&Err(ErrorKind::PermissionDenied.into())).state, State::NotPermitted);
    }

    #[test]
    fn perf_events_at_level_3_are_for_the_privileged() {
        assert_eq!(perf_events(None, true).state, State::Missing);
        assert_eq!(perf_events(Some("3"), false).state, State::Warn);
        assert_eq!(perf_events(Some("3"), true).state, State::Ok);
        assert_eq!(perf_events(Some("-1"), false).state, State::Ok);
    }

    #[test]
    fn tracefs_is_found_wherever_it_is_mounted() {
        let mounts = "proc /proc proc rw 0 0\ntracefs /sys/kernel/tracing tracefs rw,nosuid 0 0\n";
        assert_eq!(tracefs(mounts, State::Ok).detail, "mounted at /sys/kernel/tracing");
        assert_eq!(tracefs("tracefs /mnt/tracefs ext4 rw 0 0\n", State::Ok).state, State::Warn);
        assert_eq!(tracefs("", State::Ok).state, State::Warn);
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon() {
        let with =
            |list: &'static [Capability]| capabilities(move |capability| list.contains(&capability)).state;
        use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE};
        assert_eq!(with(&[]), State::NotPermitted);
        assert_eq!(with(&[CAP_BPF]), State::NotPermitted);
        assert_eq!(with(&[CAP_BPF, CAP_PERFMON]), State::Warn);
        assert_eq!(with(&[CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE]), State::Ok);
        assert_eq!(with(&[CAP_SYS_ADMIN, CAP_SYS_PTRACE]), State::Ok);
    }

    #[test]
    fn namespaces_of_a_container_are_told() {
        assert_eq!(user_namespace("         0          0 4294967295\n"), None);
        assert_eq!(user_namespace("0 100000 65536\n").map(|found| found.state), Some(State::NotPermitted));
        assert_eq!(process_namespace(true), None);
        assert_eq!(process_namespace(false).map(|found| found.state), Some(State::Missing));
    }

    #[test]
    fn the_mode_of_lockdown_is_the_one_in_brackets() {
        let told = |modes| lockdown(Some(modes), None);
        assert_eq!(told("none [integrity] confidentiality").detail, "integrity");
        assert_eq!(told("none integrity [confidentiality]").state, State::Missing);
        assert_eq!(told("[none] integrity confidentiality").state, State::Ok);
    }

    #[test]
    fn lockdown_is_found_out_where_it_is_not_told() {
        assert_eq!(lockdown(None, Some(true)).state, State::Missing);
        assert_eq!(lockdown(None, Some(false)).state, State::Ok);
        assert_eq!(lockdown(None, None).state, State::Ok);
    }

    #[test]
    fn nobody_is_told_to_mount_tracefs_under_lockdown() {
        let next = tracefs("", State::Missing).next;
        assert!(next.is_some_and(|next| !next.contains("mount")));
    }

    #[test]
    fn a_refused_program_is_a_lack_of_rights_and_an_absent_call_a_lack_of_the_kernel() {
        assert_eq!(programs(Ok(())).state, State::Ok);
        assert_eq!(programs(Err(Errno::EPERM)).state, State::NotPermitted);
        assert_eq!(programs(Err(Errno::ENOSYS)).state, State::Missing);
        assert_eq!(programs(Err(Errno::EINVAL)).state, State::Missing);
    }

    #[test]
    fn the_compiler_of_programs_may_be_off_or_missing_or_not_ones_business() {
        let state = |exists, setting| jit(exists, setting).map(|finding| finding.state);
        assert_eq!(state(true, Some("1")), Some(State::Ok));
        assert_eq!(state(true, Some("0")), Some(State::Warn));
        assert_eq!(state(false, None), Some(State::Warn));
        assert_eq!(state(true, None), None);
    }

    #[test]
    fn measuring_goes_on_without_landlock_and_not_without_filters_of_system_calls() {
        assert_eq!(system_calls(true).state, State::Ok);
        assert_eq!(system_calls(false).state, State::Missing);
        assert_eq!(landlock(Ok(4)).state, State::Ok);
        for errno in [Errno::ENOSYS, Errno::EOPNOTSUPP] {
            assert_eq!(landlock(Err(errno)).state, State::Warn);
        }
    }

    /// Options of the kernel in a text, with their prefix.
    fn options(text: &str) -> BTreeSet<&str> {
        let word = |start: &usize| {
            let rest = &text[*start..];
            let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            &rest[..end]
        };
        text.match_indices("CONFIG_").map(|(start, _)| start).collect::<Vec<_>>().iter().map(word).collect()
    }

    /// All options that this file can name, from the worst answers of any kernel.
    fn whatever_can_be_missing() -> String {
        let mut said = Vec::new();
        for errno in [Errno::ENOSYS, Errno::EINVAL, Errno::EOPNOTSUPP] {
            said.push(programs(Err(errno)));
            said.push(landlock(Err(errno)));
        }
        said.push(btf(&Err(ErrorKind::NotFound.into())));
        said.push(uprobes(false));
        said.push(perf_events(None, true));
        said.push(system_calls(false));
        said.extend(jit(false, None));
        said.into_iter().filter_map(|finding| finding.next).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn whatever_kernel_option_is_missing_is_named_and_stands_in_the_fragment_for_builders() {
        let fragment = include_str!("../../rootfs/kernel/edgelat.config");
        let (asked, granted) = fragment.split_once("\n## granted").unwrap();
        let said = whatever_can_be_missing();
        for option in options(&said) {
            let set = format!("\n{option}=y\n");
            // CONFIG_LSM is a list of names; the fragment can only say that it needs one more.
            assert!(asked.contains(&set) || option == "CONFIG_LSM" && asked.contains(option), "{option}");
        }
        // Options that a named option depends on.
        let implied = [
            "CONFIG_FTRACE",
            "CONFIG_DEBUG_KERNEL",
            "CONFIG_DEBUG_INFO",
            "CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT",
            "CONFIG_SECCOMP",
            "CONFIG_SECURITY",
        ];
        for line in asked.lines().filter_map(|line| line.strip_suffix("=y")) {
            assert!(options(&said).contains(line) != implied.contains(&line), "{line}");
        }
        assert!(options(granted).is_disjoint(&options(&said)));
    }

    #[test]
    fn whatever_is_not_well_says_what_to_do() {
        for finding in check() {
            assert_eq!(finding.state == State::Ok, finding.next.is_none(), "{finding:?}");
            assert!(!finding.detail.is_empty(), "{finding:?}");
        }
    }
}
