//! Signals that ask a command to end.

use std::io;
use std::os::unix::net::UnixStream;

/// Makes INT, TERM and HUP readable on a socket, so that they do not kill us with probes attached.
/// Signals that our parent made us ignore stay ignored: `nohup edgelat watch ... &` is to outlive
/// its terminal.
pub(in crate::cli) fn catch() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    for signal in [nix::libc::SIGINT, nix::libc::SIGTERM, nix::libc::SIGHUP] {
        if ignored & 1 << (signal - 1) == 0 {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
    }
    Ok(read)
}

/// The mask of ignored signals in /proc/PID/status (proc(5)): bit n - 1 is signal n.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tedgelat\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        let ignored = ignored_signals(status);
        assert_eq!(ignored, 1 << (nix::libc::SIGHUP - 1) | 1 << (nix::libc::SIGPIPE - 1));
        assert_eq!(ignored_signals("SigIgn: none"), 0);
        assert_eq!(ignored_signals(""), 0);
    }
}
