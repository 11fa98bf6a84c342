//! Two BGP daemons of Debian with a session between them on the loopback device: gobgpd, in Go and
//! stripped, and exabgp, in Python. Both count their work, and an unserved session goes down.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgelat_tests::machine::{TempDir, Turn, assert_text_restored, eventually, need_root};
use edgelat_tests::{Session, amount, patience};

use crate::servers::{project, tool_chain};

/// Each run of the daemons uses the same ports.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const API: &str = "127.7.9.1:17951";
const PEER: &str = "127.7.9.2";

/// Calls of a gobgpd function for each route: at its announcement, and at its withdrawal.
const GOBGPD: &[(&str, u64, u64)] = &[
    ("github.com/osrg/gobgp/pkg/packet/bgp.(*BGPUpdate).DecodeFromBytes", 1, 1),
    ("github.com/osrg/gobgp/pkg/packet/bgp.(*BGPUpdate).IsEndOfRib", 1, 1),
    ("github.com/osrg/gobgp/pkg/packet/bgp.(*IPAddrPrefix).DecodeFromBytes", 1, 1),
    ("github.com/osrg/gobgp/pkg/packet/bgp.GetPathAttribute", 3, 0),
    ("github.com/osrg/gobgp/pkg/packet/bgp.(*PathAttributeAsPath).DecodeFromBytes", 1, 0),
    ("github.com/osrg/gobgp/pkg/packet/bgp.(*PathAttributeOrigin).DecodeFromBytes", 1, 0),
    ("github.com/osrg/gobgp/pkg/packet/bgp.(*PathAttributeNextHop).DecodeFromBytes", 1, 0),
    ("github.com/osrg/gobgp/pkg/server.(*BgpServer).handleFSMMessage", 1, 1),
    ("github.com/osrg/gobgp/pkg/server.(*BgpServer).propagateUpdate", 1, 1),
    ("github.com/osrg/gobgp/pkg/server.(*BgpServer).propagateUpdateToNeighbors", 1, 1),
    ("github.com/osrg/gobgp/pkg/server.(*peer).handleUpdate", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.ProcessMessage", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.(*AdjRib).Update", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.(*TableManager).Update", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Table).update", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Table).getOrCreateDest", 2, 2),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Table).setDestination", 2, 0),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Table).deleteDest", 0, 2),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Destination).Calculate", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Destination).computeKnownBestPath", 1, 1),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Destination).implicitWithdraw", 1, 0),
    ("github.com/osrg/gobgp/internal/pkg/table.(*Destination).explicitWithdraw", 0, 1),
];
/// Reads one message after the other; one call waits at any time.
const RECEIVE: &str = "github.com/osrg/gobgp/pkg/server.(*fsmHandler).recvMessageWithError";

/// The same for exabgp, without the prefix of patterns. A callback is resumed twice.
const EXABGP: &[(&str, u64, u64)] = &[
    ("announce_route", 1, 0),
    ("announce_route.<locals>.callback", 2, 0),
    ("withdraw_route", 0, 1),
    ("withdraw_route.<locals>.callback", 0, 2),
    ("OutgoingRIB.add_to_rib", 1, 1),
    ("Processes.answer_done", 1, 1),
    ("Processes._answer", 1, 1),
    ("Processes.write", 1, 1),
    ("Tokeniser.clear", 1, 1),
    ("Tokeniser.params", 1, 1),
    ("Tokeniser.set_api", 1, 1),
    ("Tokeniser.set_action", 1, 1),
    ("Tokeniser._set", 1, 1),
];

/// Both daemons with an established session. They end with this value.
struct Peers {
    gobgpd: Child,
    exabgp: Child,
    folder: TempDir,
    client: PathBuf,
    _turn: (Turn, MutexGuard<'static, ()>),
}

impl Peers {
    fn start() -> Self {
        need_root();
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (Turn::shared(), alone);
        let folder = TempDir::new();
        for name in ["gobgpd.toml", "exabgp.conf", "exabgp.py", "routes.py"] {
            folder.copy(&project().join("tests/targets/bgp").join(name), name);
        }
        let package = tool_chain("exabgp", "4.2").join("usr/lib/python3/dist-packages");
        let output = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        run(Command::new("cp").arg("-r").arg(package).arg(folder.path().join("package")));
        run(Command::new("mkfifo").arg(folder.path().join("orders")));

        let programs = tool_chain("gobgpd", "3.36").join("usr/bin");
        let gobgpd = Command::new(programs.join("gobgpd"))
            .args(["--config-type", "toml", "--pprof-disable", "--api-hosts", API, "--config-file"])
            .arg(folder.path().join("gobgpd.toml"))
            .stdin(Stdio::null())
            .stdout(output("gobgpd.log"))
            .stderr(output("gobgpd.err"))
            .spawn()
            .unwrap();
        let exabgp = Command::new(project().join("tests/python"))
            .args(["3.13".as_ref(), folder.path().join("exabgp.py").as_os_str(), "/mnt/exabgp.conf".as_ref()])
            .envs([
                ("exabgp_daemon_drop", "false"),
                ("exabgp_daemon_user", "root"),
                ("exabgp_log_destination", "stdout"),
            ])
            .envs([("PYTHONPERFSUPPORT", "1"), ("PYTHONDONTWRITEBYTECODE", "1")])
            .stdin(Stdio::null())
            .stdout(output("exabgp.log"))
            .stderr(output("exabgp.err"))
            .spawn()
            .unwrap();
        let peers = Self { gobgpd, exabgp, client: programs.join("gobgp"), folder, _turn: turn };
        assert!(eventually(patience(), || peers.session().is_some()), "no session: {}", peers.logs());
        peers
    }

    fn pids(&self) -> [i32; 2] {
        [&self.gobgpd, &self.exabgp].map(|child| child.id() as i32)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn logs(&self) -> String {
        ["gobgpd.log", "gobgpd.err", "exabgp.log", "exabgp.err"].map(|name| self.text(name)).join("\n")
    }

    /// Start of the session, and the updates and messages that gobgpd has received in it; `None`
    /// while it is down.
    fn session(&self) -> Option<(String, u64, u64)> {
        let (host, port) = API.split_once(':').unwrap();
        let output = Command::new(&self.client)
            .args(["--host", host, "--port", port, "--json", "neighbor", PEER])
            .output()
            .unwrap();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let received = &value["state"]["messages"]["received"];
        let established = value["state"]["session_state"] == 6;
        established.then(|| {
            let since = value["timers"]["state"]["uptime"].to_string();
            (since, received["update"].as_u64().unwrap_or(0), received["total"].as_u64().unwrap_or(0))
        })
    }

    fn order(&self, order: &str) {
        let mut pipe =
            std::fs::OpenOptions::new().write(true).open(self.folder.path().join("orders")).unwrap();
        writeln!(pipe, "{order}").unwrap();
    }

    /// Waits for the completion of an order: exabgp has answered each of its commands.
    fn carried_out(&self, order: &str) {
        let wanted = format!("done {order}\n");
        assert!(eventually(patience(), || self.text("done").contains(&wanted)), "{order}: {}", self.logs());
    }

    /// Waits until gobgpd has received `updates` more updates.
    fn received(&self, before: u64, updates: u64) {
        let received = || self.session().is_some_and(|(_, now, _)| now == before + updates);
        assert!(eventually(patience(), received), "{:?} after {before}", self.session());
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for child in [&mut self.exabgp, &mut self.gobgpd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn watch(pid: i32, functions: &[String]) -> Session {
    let pid = pid.to_string();
    let mut arguments = vec!["-p", &pid, "--no-bias", "--interval", "0.2"];
    arguments.extend(functions.iter().map(String::as_str));
    Session::watch(&arguments)
}

fn functions_of_gobgpd() -> Vec<String> {
    GOBGPD.iter().map(|(name, ..)| *name).chain([RECEIVE]).map(str::to_owned).collect()
}

fn functions_of_exabgp() -> Vec<String> {
    EXABGP.iter().map(|(name, ..)| format!("py:{name}")).collect()
}

#[test]
fn functions_of_two_daemons_are_counted_as_they_count_themselves() {
    let peers = Peers::start();
    let [gobgpd, exabgp] = peers.pids();
    let sessions = [watch(gobgpd, &functions_of_gobgpd()), watch(exabgp, &functions_of_exabgp())];
    let routes = amount(400, 5000);
    let withdrawn = routes / 2;
    let (since, updates, messages) = peers.session().unwrap();
    let orders = [format!("announce 0 {routes}"), format!("withdraw 0 {withdrawn}")];
    for order in &orders {
        peers.order(order);
        peers.carried_out(order);
    }
    // exabgp sends each route by itself, since it waits for the next command in between.
    peers.received(updates, routes + withdrawn);
    sessions.iter().for_each(|session| drop(session.at_rest()));
    let (still, _, messages_after) = peers.session().unwrap();
    assert_eq!(since, still);
    let [of_gobgpd, of_exabgp] = sessions.map(Session::interrupt);

    for (report, wanted) in [(&of_gobgpd, GOBGPD), (&of_exabgp, EXABGP)] {
        for (name, announced, dropped) in wanted {
            let function = report.function(name);
            let calls = announced * routes + dropped * withdrawn;
            let seen = (function.entries, function.exits, function.all_lost(), function.unmatched_exits);
            assert_eq!(seen, (calls, calls, 0, 0), "{name}");
        }
    }
    // The call that waited when the probes came is not measured. Keepalives come at their own
    // times, also before the first reading and after the last one.
    let received = of_gobgpd.function(RECEIVE);
    let (returned, between) = (received.exits + received.unmatched_exits, messages_after - messages);
    assert!((between..=between + 4).contains(&returned), "{received:#?}, gobgpd counted {between}");
    // exabgp's log has a line for each route.
    let log = peers.text("exabgp.log");
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count() as u64;
    assert_eq!((lines("route added to"), lines("route removed from")), (routes, withdrawn));
    println!(
        "figure: {} functions of gobgpd and {} of exabgp at once, {routes} routes announced and {withdrawn} withdrawn",
        of_gobgpd.functions.len(),
        of_exabgp.functions.len(),
    );
}

#[test]
fn a_session_lives_through_agents_that_come_and_go_and_are_killed() {
    let peers = Peers::start();
    let pids = peers.pids();
    let (since, mut updates, _) = peers.session().unwrap();
    let first = updates;
    peers.order("flap 100 50");
    let cycles = amount(6, 50);
    for cycle in 0..cycles {
        let sessions = [watch(pids[0], &functions_of_gobgpd()), watch(pids[1], &functions_of_exabgp())];
        for session in &sessions {
            session.wait_for(|report| report.functions.iter().any(|function| function.exits > 20));
        }
        for session in sessions {
            if cycle % 2 == 0 {
                session.kill();
            } else {
                session.interrupt();
            }
        }
        pids.into_iter().for_each(assert_text_restored);
        let (still, now, _) = peers.session().expect("the session is up");
        assert_eq!(still, since, "cycle {cycle}: it went down in between");
        assert!(now > updates, "cycle {cycle}: no update came");
        updates = now;
    }
    std::fs::write(peers.folder.path().join("stop"), "").unwrap();
    peers.carried_out("flap 100 50");
    std::thread::sleep(Duration::from_millis(300));
    let (still, updates, _) = peers.session().expect("the session is up");
    assert_eq!(still, since);
    let log = peers.text("gobgpd.log");
    assert_eq!(log.matches("Peer Up").count(), 1, "{log}");
    assert!(!log.contains("Peer Down"), "{log}");
    println!(
        "figure: {cycles} agents on each daemon, half of them killed, {} updates meanwhile",
        updates - first
    );
}
