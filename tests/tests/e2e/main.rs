//! End-to-end tests: real programs, real probes. Each is named after the property that it tests.
//!
//! They need root. `EDGELAT_BIN` names the binary under test; `EDGELAT_SOAK=1` runs the same tests
//! with the counts of `tests/soak`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod awaits;
mod bgp;
mod chaos;
mod checks;
mod children;
mod commands;
mod costs;
mod counts;
mod debuggers;
mod ends;
mod execs;
mod faults;
mod go;
mod go_images;
mod hostile;
mod images;
mod inside;
mod judges;
mod mapped;
mod memory;
mod metrics;
mod names;
mod packs;
mod processes;
mod programs;
mod prometheus_otlp;
mod python;
mod python_seen;
mod quantiles;
mod refusals;
mod rights;
mod sampling;
mod servers;
mod service;
mod service_budget;
mod service_config;
mod service_ends;
mod service_faults;
mod service_rights;
mod shapes;
mod soundness;
mod spool;
mod stacks;
mod stalls;
mod stops;
mod tails;
mod upgrades;
mod upload;
mod upload_by_hand;
mod upload_portal;
mod uretprobes;
mod within;
mod wrappers;
