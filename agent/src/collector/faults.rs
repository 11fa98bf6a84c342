//! Signals that report a fault of a process.

use edgelat_bpf::layout::FATAL_SIGNALS;
use edgelat_guard::protocol::Fault;
use nix::sys::signal::Signal;

/// Returns true if a wait(2) status reports an end by a fault.
pub fn ended(status: u32) -> bool {
    is_fault((status & 0x7f) as i32)
}

/// Returns true if the signal reports a fault of a process.
pub fn is_fault(signal: i32) -> bool {
    (1..32).contains(&signal) && FATAL_SIGNALS >> signal & 1 != 0
}

/// Text about a fault after which the probes were removed, for people.
pub fn in_words(pid: i32, fault: Fault, sites: u32, took_ns: u64) -> String {
    let signal = match Signal::try_from(fault.signal) {
        Ok(signal) => signal.as_str(),
        Err(_) => "a signal",
    };
    let handled = match fault.handled {
        true => ", which it handles (--on-signal fatal goes on then)",
        false => "",
    };
    format!(
        "process {pid} got {signal}{handled}: counting stopped at once, and its {sites} probes were gone {:.1} ms later",
        took_ns as f64 / 1e6
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_of_a_fault() {
        let died = |signal: Signal| ended(signal as u32) && ended(signal as u32 | 0x80);
        assert!(died(Signal::SIGSEGV) && died(Signal::SIGABRT) && died(Signal::SIGTRAP));
        assert!(!died(Signal::SIGKILL) && !died(Signal::SIGTERM));
        assert!(!ended(0) && !ended(11 << 8), "those ended by themselves");
    }
}
