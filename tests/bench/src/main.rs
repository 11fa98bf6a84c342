//! One interleaved run: the cost of edgelat, of empty programs on the same sites, and of other
//! tools.
//!
//! | file | question |
//! | --- | --- |
//! | `cost.rs` | what do probes add to a call? |
//! | `attach.rs` | how long do attaching and detaching take, and how much memory is held? |
//! | `snapshot.rs` | what does it cost to look at a thousand functions? |
//! | `service.rs` | what does the service hold, and how fast does it let go of a target that dies? |
//! | `size.rs` | what are the bytes of the binary for? |
//! | `target.rs`, `tools.rs`, `empty.rs`, `sites.rs` | the programs that are measured, those that measure, empty ones, and where they sit |
//! | `stats.rs`, `machine.rs`, `report.rs` | medians, the machine, the page |
//!
//! `tests/bench/run` builds everything, sets up the peers and their mount namespace, and calls
//! this.

mod attach;
mod cost;
mod empty;
mod error;
mod machine;
mod report;
mod service;
mod sites;
mod size;
mod snapshot;
mod stats;
mod target;
mod tools;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{Error, file};
use crate::report::Results;
use crate::tools::Installed;

const USAGE: &str = "usage: edgelat-bench --edgelat BINARY --unstripped BINARY [--archives DIR]... --targets DIR --work DIR \
                     --output FILE [--peers ROOT] [--quick] [--only cost|attach|service|snapshot|size]...";

/// The command line.
#[derive(Debug, Default)]
struct Options {
    edgelat: PathBuf,
    unstripped: PathBuf,
    archives: Vec<PathBuf>,
    targets: PathBuf,
    work: PathBuf,
    output: PathBuf,
    peers: Option<PathBuf>,
    quick: bool,
    only: Vec<String>,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("edgelat") => options.edgelat = parser.value()?.into(),
            Long("unstripped") => options.unstripped = parser.value()?.into(),
            Long("archives") => options.archives.push(parser.value()?.into()),
            Long("targets") => options.targets = parser.value()?.into(),
            Long("work") => options.work = parser.value()?.into(),
            Long("output") => options.output = parser.value()?.into(),
            Long("peers") => options.peers = Some(parser.value()?.into()),
            Long("quick") => options.quick = true,
            Long("only") => options.only.push(parser.value()?.string()?),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    // A shell makes its background jobs ignore Ctrl-C, which the tools would inherit.
    // SAFETY: the default action is no handler, so there is no code to run that could be unsafe.
    _ = unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGINT, nix::sys::signal::SigHandler::SigDfl)
    };
    let result = match options() {
        Ok(options) => run(&options),
        Err(error) => {
            say(&format!("{error}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Progress messages for the user.
fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}");
}

fn run(options: &Options) -> Result<(), Error> {
    let started = Instant::now();
    let machine = machine::Machine::describe();
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|only| only == part);
    let cpu = leave_the_last_cpu();
    let installed = Installed { edgelat: options.edgelat.clone(), peers: options.peers.clone() };
    let versions = options.peers.as_ref().map(|root| root.join(".versions"));
    let peers = versions.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    say("bench: compiling the targets");
    let programs = target::Programs::compile(&options.targets, &options.work)?;

    let effort = if options.quick {
        cost::Effort { generations: 1, rounds: 20, batch: Duration::from_millis(5) }
    } else {
        cost::Effort { generations: 3, rounds: 40, batch: Duration::from_millis(10) }
    };
    let mut cost = Vec::new();
    for subject in cost::SUBJECTS.into_iter().filter(|_| wanted("cost")) {
        say(&format!("bench: cost of a call: {}", subject.title));
        cost.push(cost::measure(subject, &programs, &installed, &options.work, cpu, effort)?);
    }
    let mut attach = Vec::new();
    if wanted("attach") {
        let effort = if options.quick {
            attach::Effort { rounds: 1, limit: Duration::from_secs(10) }
        } else {
            attach::Effort { rounds: 5, limit: Duration::from_secs(60) }
        };
        let mut progress = |text: String| say(&format!("bench: attach and detach: {text}"));
        attach = attach::measure(&programs, &installed, &options.work, cpu, effort, &mut progress)?;
    }
    let snapshot = part(wanted("snapshot"), || {
        say("bench: snapshot");
        let seconds = if options.quick { 3 } else { 10 };
        snapshot::measure(&programs, &installed, &options.work, cpu, seconds)
    });
    let service = part(wanted("service"), || {
        say("bench: the service");
        let rounds = if options.quick { 2 } else { 10 };
        service::measure(&programs, &installed, &options.work, cpu, rounds)
    });
    let size =
        part(wanted("size"), || size::measure(&options.edgelat, &options.unstripped, &options.archives));
    let page = report::page(&Results {
        machine,
        peers: peers.lines().map(str::to_owned).collect(),
        quick: options.quick,
        minutes: started.elapsed().as_secs_f64() / 60.0,
        cost,
        attach,
        snapshot,
        service,
        size,
    });
    fs::write(&options.output, &page).map_err(file("write", &options.output))?;
    _ = std::io::stdout().write_all(page.as_bytes());
    Ok(())
}

/// A part of the page, or the reason that it is missing: the others are useful without it.
fn part<T>(wanted: bool, measure: impl FnOnce() -> Result<T, Error>) -> Result<T, String> {
    match wanted {
        true => measure().map_err(|error| error.to_string()),
        false => Err("left out of this run".into()),
    }
}

/// Keeps this process and its children off the last CPU, which the targets use; returns its number.
fn leave_the_last_cpu() -> usize {
    let here = Pid::from_raw(0);
    let mut allowed: CpuSet = match sched_getaffinity(here) {
        Ok(set) => set,
        Err(_) => return 0,
    };
    let last = (0..CpuSet::count()).rev().find(|&cpu| allowed.is_set(cpu) == Ok(true)).unwrap_or(0);
    // With a single CPU there is no other; the figures then include the sharing.
    if last > 0 && allowed.unset(last).is_ok() {
        _ = sched_setaffinity(here, &allowed);
    }
    last
}
