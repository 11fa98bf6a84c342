//! Reason of a kernel's refusal: a capability that the caller lacks, or a rule that holds for all
//! processes.

use caps::{CapSet, Capability};

use crate::error::{GuardError, Os, text};

/// True if the caller holds a capability itself.
pub(crate) fn held(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// True in the first user namespace. In others capabilities mean nothing to bpf() and perf events.
pub(crate) fn in_first_user_namespace(uid_map: &str) -> bool {
    let fields: Vec<&str> = uid_map.split_ascii_whitespace().collect();
    fields.is_empty() || fields == ["0", "0", "4294967295"]
}

/// The error for an action that the kernel refused, and that needs the capabilities `wanted`.
pub(crate) fn refused(action: impl std::fmt::Display, os: Os, wanted: &[Capability]) -> GuardError {
    let uid_map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    explain(action, os, wanted, in_first_user_namespace(&uid_map), held)
}

fn explain(
    action: impl std::fmt::Display,
    os: Os,
    wanted: &[Capability],
    first_namespace: bool,
    held: impl Fn(Capability) -> bool,
) -> GuardError {
    // Everywhere in the kernel CAP_SYS_ADMIN includes the capabilities that were split off from it.
    let split_off = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_CHECKPOINT_RESTORE];
    let stands_for = |capability| split_off.contains(&capability) && held(Capability::CAP_SYS_ADMIN);
    let lacks = |capability: &Capability| !(held(*capability) || stands_for(*capability));
    let names = |list: Vec<String>| list.join(" and ");
    let lacking: Vec<_> =
        wanted.iter().filter(|capability| lacks(capability)).map(ToString::to_string).collect();
    let action = text(action);
    if !lacking.is_empty() {
        return GuardError::NotPermitted { action, os, need: text(names(lacking)) };
    }
    let wanted = names(wanted.iter().map(ToString::to_string).collect());
    if !first_namespace {
        let need =
            text(format_args!("{wanted} outside of the container: in its user namespace they mean nothing"));
        return GuardError::NotPermitted { action, os, need };
    }
    let reason = text(format_args!(
        "{os}, although {wanted} is held; lockdown, a security module or a seccomp filter forbids it to everybody"
    ));
    GuardError::Unsupported { what: action, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
    use nix::errno::Errno;

    fn told(first_namespace: bool, held: &[Capability]) -> String {
        let wanted = [CAP_BPF, CAP_PERFMON];
        explain("do it", Errno::EPERM.into(), &wanted, first_namespace, |c| held.contains(&c)).to_string()
    }

    #[test]
    fn a_refusal_names_what_is_lacking_and_nothing_else() {
        assert!(told(true, &[]).ends_with("give edgelat CAP_BPF and CAP_PERFMON"));
        assert!(told(true, &[CAP_BPF]).ends_with("give edgelat CAP_PERFMON"));
        let everything = told(true, &[CAP_SYS_ADMIN]);
        assert!(everything.contains("to everybody") && !everything.contains("give edgelat"), "{everything}");
    }

    #[test]
    fn capabilities_of_a_container_do_not_count() {
        assert!(told(false, &[CAP_BPF, CAP_PERFMON]).contains("outside of the container"));
        assert!(in_first_user_namespace("         0          0 4294967295\n"));
        assert!(!in_first_user_namespace("0 100000 65536\n"));
    }
}
