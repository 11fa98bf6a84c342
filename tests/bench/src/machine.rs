//! The machine that the figures hold for.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Properties of a machine that determine the cost of a probe.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) virtualised: bool,
    /// Mitigations that make calls and returns in the kernel more expensive.
    pub(crate) mitigations: Vec<String>,
    /// Runnable tasks in the last minute before the run: other load of the machine.
    pub(crate) load: String,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpuinfo = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: f64 = memory.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let release = read("/proc/sys/kernel/osrelease");
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".into()),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: kib / f64::from(1 << 20),
            // The suffix of a distribution or host after the number is unrelated to cost.
            kernel: release.trim().split(['-', '+']).next().unwrap_or_default().to_owned(),
            virtualised: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
            mitigations: ["spectre_v2", "spec_rstack_overflow", "retbleed", "meltdown"]
                .into_iter()
                .filter_map(|name| {
                    let state = read(&format!("/sys/devices/system/cpu/vulnerabilities/{name}"));
                    let state = state.trim();
                    (!state.is_empty() && state != "Not affected").then(|| format!("{name}: {state}"))
                })
                .collect(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            date: date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400)),
        }
    }
}

/// Day of the proleptic Gregorian calendar, in years that begin in March so that the leap day is their last.
fn date(days_since_1970: u64) -> String {
    let days = days_since_1970 + 719_468; // since 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_455), "2026-01-02");
    }
}
