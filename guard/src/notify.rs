//! Notification of systemd, if it started this process: ready, alive, about to end.
//!
//! A supervisor that only sees a process cannot distinguish a measuring agent from a hung agent.
//! With `Type=notify` and `WatchdogSec=` in the unit, systemd waits for readiness and replaces a
//! hung agent. Without systemd, or with a supervisor that does not want notifications, nothing is
//! sent.
//!
//! systemd listens to the process that it started, which is the guard (`NotifyAccess=main`). The
//! socket is opened before the guard gives up creating sockets.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Longest text of `STATUS=`, in bytes.
const STATUS_BYTES: usize = 200;

/// The line to the supervisor.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    /// Half of systemd's watchdog timeout.
    interval: Option<Duration>,
    /// Time of the last sign of life.
    told: Option<Instant>,
}

impl Notify {
    /// Opens the line if the environment names a listener: `NOTIFY_SOCKET`, `WATCHDOG_USEC`,
    /// `WATCHDOG_PID` (sd_notify(3), sd_watchdog_enabled(3)).
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET")?;
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        // Without a number it is for any process that reads it.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self::open(&socket, number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0))
    }

    /// `@` before an abstract name, or a path. Other families that systemd knows need a network.
    fn open(name: &OsStr, watchdog_usec: Option<u64>) -> Option<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => return None,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect_addr(&address.ok()?).ok()?;
        // A supervisor that does not read must not block the guard.
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, interval: watchdog_usec.map(|usec| Duration::from_micros(usec / 2)), told: None })
    }

    /// Everything is in place.
    pub fn ready(&self) {
        self.send(b"READY=1");
    }

    /// Text for `systemctl status`; one line, cut to 200 bytes.
    pub fn status(&self, status: &str) {
        let line = status.split(char::is_control).next().unwrap_or_default();
        let end = (0..=line.len().min(STATUS_BYTES)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        self.send(format!("STATUS={}", &line[..end]).as_bytes());
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send(b"STOPPING=1");
    }

    /// Interval between calls of [`alive`](Self::alive): half of systemd's timeout for a hung
    /// process. `None` if it does not watch.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Sends a sign of life if it is due. Only for a caller that knows the collector is alive, too.
    pub fn alive(&mut self, now: Instant) {
        let Some(interval) = self.interval else { return };
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= interval) {
            self.told = Some(now);
            self.send(b"WATCHDOG=1");
        }
    }

    fn send(&self, state: &[u8]) {
        // The supervisor is gone or busy: the next message says more than this one.
        _ = self.socket.send(state);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing::Folder;

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    /// A supervisor's end.
    fn listening(folder: &Folder) -> UnixDatagram {
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    #[test]
    fn a_supervisor_hears_that_we_are_ready_and_about_to_end() {
        let folder = Folder::new();
        let supervisor = listening(&folder);
        let notify = Notify::open(folder.join("notify").as_os_str(), None).unwrap();
        notify.ready();
        notify.status("3 targets\nWATCHDOG=trigger");
        notify.status(&"ä".repeat(150));
        notify.stopping();
        assert_eq!(received(&supervisor).as_deref(), Some("READY=1"));
        assert_eq!(received(&supervisor).as_deref(), Some("STATUS=3 targets"));
        assert_eq!(received(&supervisor), Some(format!("STATUS={}", "ä".repeat(100))));
        assert_eq!(received(&supervisor).as_deref(), Some("STOPPING=1"));
        assert_eq!(received(&supervisor), None);
    }

    #[test]
    fn it_is_told_that_we_are_alive_twice_in_the_time_that_it_waits() {
        let folder = Folder::new();
        let supervisor = listening(&folder);
        let mut notify = Notify::open(folder.join("notify").as_os_str(), Some(10_000_000)).unwrap();
        assert_eq!(notify.interval(), Some(Duration::from_secs(5)));
        let begin = Instant::now();
        let mut told = |seconds| {
            notify.alive(begin + Duration::from_secs(seconds));
            received(&supervisor).is_some_and(|state| state == "WATCHDOG=1")
        };
        assert_eq!([0, 1, 4, 5, 6, 11, 15].map(&mut told), [true, false, false, true, false, true, false]);
    }

    #[test]
    fn where_nobody_watches_nobody_is_told() {
        let folder = Folder::new();
        let supervisor = listening(&folder);
        let mut notify = Notify::open(folder.join("notify").as_os_str(), None).unwrap();
        assert_eq!(notify.interval(), None);
        notify.alive(Instant::now());
        assert_eq!(received(&supervisor), None);
    }

    #[test]
    fn an_abstract_socket_is_as_good() {
        let name = format!("edgelat-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let supervisor = UnixDatagram::bind_addr(&address).unwrap();
        Notify::open(OsStr::new(&format!("@{name}")), None).unwrap().ready();
        assert_eq!(received(&supervisor).as_deref(), Some("READY=1"));
    }

    #[test]
    fn what_is_no_socket_is_no_supervisor() {
        let folder = Folder::new();
        for name in ["", "vsock:2:1234", "relative", "/nowhere", folder.to_str().unwrap()] {
            assert!(Notify::open(OsStr::new(name), None).is_none(), "{name}");
        }
    }

    #[test]
    fn a_supervisor_that_does_not_read_or_is_gone_holds_nobody_up() {
        let folder = Folder::new();
        let supervisor = listening(&folder);
        let notify = Notify::open(folder.join("notify").as_os_str(), None).unwrap();
        // More than its queue takes (net.unix.max_dgram_qlen, 10 to some hundred).
        (0..5000).for_each(|_| notify.ready());
        drop(supervisor);
        notify.ready();
    }

    /// Not a test: the next test starts it.
    #[test]
    #[ignore = "started by another"]
    fn the_process_that_notifies() {
        if let Some(notify) = Notify::from_env() {
            notify.status(&format!("{:?}", notify.interval()));
        }
    }

    #[test]
    fn the_environment_says_who_listens_and_for_whom() {
        let folder = Folder::new();
        let supervisor = listening(&folder);
        let told = |environment: &[(&str, &str)]| {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "notify::tests::the_process_that_notifies", "--ignored"])
                .env_remove("NOTIFY_SOCKET")
                .envs(environment.iter().copied())
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            received(&supervisor)
        };
        let path = folder.join("notify");
        let socket = ("NOTIFY_SOCKET", path.to_str().unwrap());
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[socket]).as_deref(), Some("STATUS=None"));
        let watched = ("WATCHDOG_USEC", "3000000");
        assert_eq!(told(&[socket, watched]).as_deref(), Some("STATUS=Some(1.5s)"));
        // Meant for another process, from which the environment comes.
        assert_eq!(told(&[socket, watched, ("WATCHDOG_PID", "1")]).as_deref(), Some("STATUS=None"));
        assert_eq!(told(&[socket, ("WATCHDOG_USEC", "soon")]).as_deref(), Some("STATUS=None"));
    }
}
