//! End-to-end tests of edgelat on real programs.
//!
//! The principle: **the target is the judge**. Each program under `tests/targets` counts the calls
//! of its own functions, knows how each call ended, times them with its own clock, checks the
//! results of its own work, and reports all of that as one JSON line. A test starts a target, lets
//! edgelat watch it, and compares edgelat's report with the target's. It reads like a session at a
//! shell:
//!
//! ```no_run
//! use edgelat_tests::{Session, Target};
//!
//! let mut target = Target::start("plain", &["--calls", "1000", "--threads", "2"]);
//! let session = Session::on(&target, &["add", "work"]);
//! target.go();
//! let oracle = target.end();
//! session.end().agrees_with(&oracle);
//! ```
//!
//! Map of the modules:
//! - [`target`]: starts the programs and speaks their protocol (`tests/targets/oracle.h`);
//! - `agent`: common parts of every running edgelat: its output, signals and its end;
//! - [`session`]: runs edgelat, waits until it is armed, reads its reports;
//! - [`service`]: runs `edgelat run` with its own configuration, reads lines, checks its remains;
//! - [`report`]: the report and the oracle as types, their identity, and the comparison;
//! - [`records`]: a spool without a service, with any clock;
//! - [`otlp`], [`receiver`]: the content of uploads, and a receiver that takes or refuses them;
//! - [`remote_write`]: Prometheus's translation of OTLP, for a Prometheus built without it;
//! - [`soundness`]: functions with one instruction each that edgelat may put a site on;
//! - [`machine`]: the kernel's view of the target and of any remains.
//!
//! All tests need root and say so; none skips itself. The binary under test is `EDGELAT_BIN`, or
//! the binary that cargo built in the same target directory. A helper panics on anything
//! unexpected, which fails the test.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test helper fails its test by panicking")]

use std::time::Duration;

mod agent;
pub mod lines;
pub mod machine;
pub mod otlp;
pub mod receiver;
pub mod records;
pub mod remote_write;
pub mod report;
pub mod service;
pub mod session;
pub mod soundness;
pub mod target;

pub use agent::Outcome;
pub use machine::{TempDir, need_root};
pub use report::{Function, Oracle, Report};
pub use service::{Place, Service};
pub use session::{Session, edgelat};
pub use target::{Target, target};

/// True if the long run was requested: the same tests with their full counts.
pub fn soaking() -> bool {
    std::env::var_os("EDGELAT_SOAK").is_some_and(|v| v == "1")
}

/// Slowdown of this machine relative to others, from `EDGELAT_SLOWER`: an emulated machine gets
/// less work and more time.
fn slower() -> u64 {
    std::env::var("EDGELAT_SLOWER").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A count: `usual` in every run, `soak` in the long one.
pub fn amount(usual: u64, soak: u64) -> u64 {
    if soaking() { soak } else { (usual / slower()).max(1) }
}

/// Time after which a test gives up on anything. Far above the expected time, as the machine may be
/// busy with other tests.
pub fn patience() -> Duration {
    Duration::from_secs(if soaking() { 1800 } else { 120 * slower() })
}
