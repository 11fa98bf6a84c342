//! edgelat measures how long functions of running programs take, without harm to them.
//!
//! This file only turns arguments into an exit status; the commands are in [`cli`].

#![cfg_attr(
    not(all(feature = "workstation", feature = "metrics", feature = "upload")),
    allow(dead_code, unused_imports, reason = "what only the commands use that are left out")
)]
#![allow(unreachable_pub, reason = "a binary has no outside; pub marks what a module offers to the others")]

mod cli;
mod collector;
mod config;
mod log;
mod selection;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os().skip(1)).into()
}
