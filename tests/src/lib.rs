//! End-to-end tests of edgelat on real programs.
//!
//! The idea: **the target is the judge**. Each program under `tests/targets` counts the calls of its own
//! functions, knows how each call ended, times them with its own clock, checks the results of its own
//! work, and tells all of that as one JSON line. A test starts a target, lets edgelat watch it, and
//! compares what edgelat reported with what the target knows. It reads like a session at a shell:
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
//! - `agent`: what every running edgelat has: its output, signals and its end;
//! - [`session`]: runs edgelat, waits until it is armed, reads its reports;
//! - [`service`]: runs `edgelat run` with a configuration of its own, reads its lines, and looks what it left;
//! - [`report`]: the report and the oracle as types, the identity that must always hold, and the comparison;
//! - [`records`]: a spool without a service, with any clock;
//! - [`otlp`], [`receiver`]: what an upload sends, and somebody who takes it, or not;
//! - [`remote_write`]: what Prometheus makes of OTLP, for one that was built without that;
//! - [`soundness`]: functions with an instruction each that edgelat may put a site on;
//! - [`machine`]: what the kernel says about the target and about what is left behind.
//!
//! All tests need root and say so; none skips itself. The binary under test is `EDGELAT_BIN`, or the one
//! that cargo built in the same target directory. A helper that meets something unexpected panics: that
//! is how a test fails.

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

/// Whether the long run was asked for: the same tests with the counts they are meant for.
pub fn soaking() -> bool {
    std::env::var_os("EDGELAT_SOAK").is_some_and(|v| v == "1")
}

/// How many times slower than others this machine is, by `EDGELAT_SLOWER`: an emulated one is asked for less and waited for
/// longer.
fn slower() -> u64 {
    std::env::var("EDGELAT_SLOWER").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A count: `usual` in every run, `soak` in the long one.
pub fn amount(usual: u64, soak: u64) -> u64 {
    if soaking() { soak } else { (usual / slower()).max(1) }
}

/// How long anything may take before a test gives up on it. Far above what is expected: the machine may
/// be busy with other tests.
pub fn patience() -> Duration {
    Duration::from_secs(if soaking() { 1800 } else { 120 * slower() })
}
