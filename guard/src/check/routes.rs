//! Trials of the routes to the kernel without a target: a finding each, then the number of probes
//! in an event of the tracing file system, and the guard's rights on the route to be taken.

use super::{Finding, State};
use crate::attach::{HANDFUL, can_use, perf::confidentiality, reason, tracefs::Tracefs};
use crate::protocol::{Returns, Route};
use crate::sandbox;

/// Returns the findings. `loads`: result of loading a program; `forbidden`: a right is missing.
pub(super) fn findings(loads: State, forbidden: bool) -> Vec<Finding> {
    let tracefs = Tracefs::open();
    let tracefs = tracefs.as_ref().map_err(|errno| *errno);
    let locked = confidentiality() == Some(true);
    let reason = |route| match loads {
        _ if locked => Some("the kernel is locked down for confidentiality".to_string()),
        State::Ok => can_use(route, Returns::Ret, &tracefs).err().map(|error| reason(&error)),
        _ => Some("no BPF program can be loaded".to_string()),
    };
    let tried = [Route::UprobeMulti, Route::Tracefs, Route::Single].map(|route| (route, reason(route)));
    let mut findings = routes(&tried, forbidden && loads != State::Missing);
    // Known if the route was usable; its trial is not repeated.
    if let (Ok(tracefs), (_, None)) = (tracefs, &tried[1]) {
        findings.extend(tracefs.probes_per_event().ok().map(trace_events));
    }
    // The first route that works will be taken.
    if let Some((route, _)) = tried.iter().find(|(_, reason)| reason.is_none()) {
        let root = nix::unistd::geteuid().is_root();
        let kept = sandbox::guard::in_words(*route, sandbox::perf_event_paranoid(), root);
        findings.push(Finding::ok("keeps", kept));
    }
    findings
}

/// One finding a route. A route that does not work is a warning as long as another does.
fn routes(tried: &[(Route, Option<String>)], forbidden: bool) -> Vec<Finding> {
    let state = match tried.iter().any(|(_, reason)| reason.is_none()) {
        true => State::Warn,
        false if forbidden => State::NotPermitted,
        false => State::Missing,
    };
    let name = |route| match route {
        Route::UprobeMulti => "route-uprobe-multi",
        Route::Tracefs => "route-tracefs",
        Route::Single => "route-single",
    };
    let finding = |(route, reason): &(Route, Option<String>)| match reason {
        None => Finding::ok(name(*route), "works"),
        Some(reason) if state == State::Warn => {
            Finding::not_ok(name(*route), state, reason, "nothing: another route works")
        }
        Some(reason) => Finding::not_ok(name(*route), state, reason, "see the findings above"),
    };
    tried.iter().map(finding).collect()
}

/// Finding on the trial of an event with two probes (`attach/trial.rs`): the probes of an event.
fn trace_events(per_event: usize) -> Finding {
    const NAME: &str = "trace-events";
    if per_event > 1 {
        return Finding::ok(
            NAME,
            format!("the kernel arms each probe of an event: up to {per_event} an event"),
        );
    }
    // The fix "tracing/uprobe: Fix uprobe_perf_open probes iteration": 5.16, 5.15.6, 5.10.83.
    Finding::not_ok(
        NAME,
        State::Warn,
        "the kernel arms only the first probe of an event: each probe is given an event of its own",
        format!(
            "update to Linux 5.16, or 5.15.6 or 5.10.83 of their series; until then measure functions of up to {HANDFUL} \
             probes at once, or ask for --route tracefs, whose probes then take seconds to remove"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_fails_is_grave_only_where_no_other_works() {
        let works = |route| (route, None);
        let fails = |route| (route, Some("it fails".to_string()));
        let states = |tried: &[_], forbidden| {
            routes(tried, forbidden).into_iter().map(|finding| finding.state).collect::<Vec<_>>()
        };
        assert_eq!(
            states(&[fails(Route::UprobeMulti), works(Route::Single)], false),
            [State::Warn, State::Ok]
        );
        assert_eq!(states(&[fails(Route::Tracefs)], false), [State::Missing]);
        assert_eq!(states(&[fails(Route::Tracefs)], true), [State::NotPermitted]);
    }

    #[test]
    fn events_that_take_one_probe_only_are_told_of_and_measured_with() {
        assert_eq!(trace_events(1000).state, State::Ok);
        let one = trace_events(1);
        assert_eq!(one.state, State::Warn);
        assert!(one.detail.contains("only the first"), "{one:?}");
        // The finding repeats the result of the trial on this machine, once.
        let told = findings(State::Ok, false);
        let told: Vec<_> = told.iter().filter(|finding| finding.name == "trace-events").collect();
        let per_event = Tracefs::open().unwrap().probes_per_event().unwrap();
        assert_eq!(told, [&trace_events(per_event)]);
    }
}
