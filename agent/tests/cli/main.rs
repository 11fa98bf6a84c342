//! The command line for its user: help, wrong usage, and the commands that attach nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(
    unreachable_pub,
    reason = "a test binary has no outside; pub marks what a module offers to the others"
)]

mod check;
mod config;
mod functions;
mod shell;
mod usage;
