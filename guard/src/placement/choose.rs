//! Choice of the collector's CPUs from the known state of the machine. Makes no system call.

use super::CollectorCpu;
use super::machine::Machine;
use crate::cpus::CpuSet;
use crate::error::{GuardError, text};

/// CPUs to try, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Wanted CPUs, the best first; the kernel accepts or refuses each.
    pub(super) wanted: Vec<u32>,
    /// The collector must not run without one of these.
    pub(super) only: bool,
    /// A CPU that no target uses, if none of `wanted` is available.
    pub(super) instead: Option<u32>,
    /// Reason why `wanted` has less than a user may expect.
    pub(super) reason: Option<String>,
}

/// Chooses for `wanted`, if targets may run on `targets`.
pub(super) fn choose(
    wanted: CollectorCpu,
    machine: &Machine,
    targets: &CpuSet,
) -> Result<Choice, GuardError> {
    match wanted {
        CollectorCpu::Any => Ok(Choice { wanted: Vec::new(), only: false, instead: None, reason: None }),
        CollectorCpu::Cpu(cpu) if !machine.online.contains(cpu) => Err(GuardError::CollectorCpu {
            cpu,
            reason: text(format_args!("it is not online; these are: {}", machine.online)),
        }),
        CollectorCpu::Cpu(cpu) => {
            let shared =
                || format!("targets may run on CPU {cpu} as well: the collector takes time from them");
            let reason = targets.contains(cpu).then(shared);
            Ok(Choice { wanted: vec![cpu], only: true, instead: None, reason })
        }
        CollectorCpu::Isolated => {
            let (quiet, busy, reason) = isolated(machine, targets);
            let wanted: Vec<u32> = quiet.iter().chain(busy.iter()).collect();
            match reason {
                Some(reason) if wanted.is_empty() => Err(GuardError::NoIsolatedCpu { reason: text(reason) }),
                // An explicit `isolated` gets a busy CPU rather than none.
                reason => Ok(Choice { wanted, only: true, instead: None, reason }),
            }
        }
        CollectorCpu::PreferIsolated => {
            let (quiet, _, reason) = isolated(machine, targets);
            // The last one, because interrupts come to the first.
            let outside = machine.allowed.shared_with(&machine.online).without(targets);
            let instead = outside.without(&machine.isolated).iter().next_back();
            // Without a known target no CPU is left out: the kernel knows better where there is
            // room.
            let instead = instead.filter(|_| !targets.is_empty());
            Ok(Choice { wanted: quiet.iter().collect(), only: false, instead, reason })
        }
    }
}

/// Isolated CPUs without targets: idle ones, busy ones, and the reason if there are no idle ones.
fn isolated(machine: &Machine, targets: &CpuSet) -> (CpuSet, CpuSet, Option<String>) {
    let isolated = machine.isolated.shared_with(&machine.online);
    let free = isolated.without(targets);
    let quiet = free.without(&machine.busy);
    let reason = if isolated.is_empty() {
        Some("no CPU is isolated here".to_owned())
    } else if free.is_empty() {
        Some(format!("targets may run on every isolated CPU ({isolated})"))
    } else if quiet.is_empty() {
        Some(format!("somebody else keeps every isolated CPU without a target ({free}) busy"))
    } else {
        None
    };
    (quiet, free.shared_with(&machine.busy), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> CpuSet {
        CpuSet::parse(list).unwrap()
    }

    /// A box with CPUs 0 to 3, of which some are isolated and some of those busy.
    fn machine(isolated: &str, busy: &str) -> Machine {
        let online = set("0-3");
        let isolated = set(isolated);
        Machine { online, isolated, busy: set(busy), allowed: online.without(&isolated) }
    }

    fn prefer(machine: &Machine, targets: &str) -> Choice {
        choose(CollectorCpu::PreferIsolated, machine, &set(targets)).unwrap()
    }

    #[test]
    fn an_isolated_cpu_that_no_target_may_use_is_taken() {
        for wanted in [CollectorCpu::PreferIsolated, CollectorCpu::Isolated] {
            let choice = choose(wanted, &machine("2-3", ""), &set("0-2")).unwrap();
            assert_eq!((choice.wanted, choice.reason), (vec![3], None));
        }
        // An offline CPU is not chosen.
        assert_eq!(prefer(&machine("3,9", ""), "").wanted, [3]);
    }

    #[test]
    fn without_an_isolated_cpu_isolated_refuses_and_prefer_isolated_says_so_and_takes_another() {
        let machine = machine("", "");
        let refused = choose(CollectorCpu::Isolated, &machine, &set("0")).unwrap_err().to_string();
        assert!(
            refused.contains("no CPU is isolated here") && refused.contains("prefer-isolated"),
            "{refused}"
        );
        let choice = prefer(&machine, "0-1");
        assert_eq!((choice.wanted, choice.instead), (vec![], Some(3)));
        assert_eq!(choice.reason.unwrap(), "no CPU is isolated here");
        // Any CPU will do if targets use all of them, or if their CPUs are unknown.
        assert_eq!(prefer(&machine, "0-3").instead, None);
        assert_eq!(prefer(&machine, "").instead, None);
    }

    #[test]
    fn isolated_cpus_that_targets_use_are_left_to_them() {
        let machine = machine("3", "");
        assert!(matches!(
            choose(CollectorCpu::Isolated, &machine, &set("2-3")),
            Err(GuardError::NoIsolatedCpu { .. })
        ));
        let choice = prefer(&machine, "2-3");
        assert_eq!((choice.wanted, choice.instead), (vec![], Some(1)));
        assert_eq!(choice.reason.unwrap(), "targets may run on every isolated CPU (3)");
    }

    #[test]
    fn an_isolated_cpu_that_somebody_else_keeps_busy_is_no_place_unless_there_is_no_other_and_it_must_be_one()
    {
        let some = machine("1-3", "2");
        assert_eq!(prefer(&some, "0").wanted, [1, 3]);
        assert_eq!(choose(CollectorCpu::Isolated, &some, &set("0")).unwrap().wanted, [1, 3, 2]);
        let all = machine("1-3", "1-3");
        assert!(prefer(&all, "0").wanted.is_empty());
        // Not as a replacement either.
        assert_eq!(prefer(&all, "0").instead, None);
        let choice = choose(CollectorCpu::Isolated, &all, &set("0-1")).unwrap();
        assert_eq!(choice.wanted, [2, 3]);
        assert!(choice.reason.unwrap().contains("busy"));
    }

    #[test]
    fn a_named_cpu_must_be_online_and_is_taken_even_from_a_target() {
        let machine = machine("", "");
        let refused = choose(CollectorCpu::Cpu(7), &machine, &set("")).unwrap_err().to_string();
        assert!(refused.contains("CPU 7") && refused.contains("these are: 0-3"), "{refused}");
        let choice = choose(CollectorCpu::Cpu(2), &machine, &set("2")).unwrap();
        assert!(choice.only && choice.reason.is_some());
        assert_eq!(choice.wanted, [2]);
        assert_eq!(choose(CollectorCpu::Cpu(2), &machine, &set("0")).unwrap().reason, None);
    }
}
