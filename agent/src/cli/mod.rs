//! The command line: from parsing its arguments to the exit status.
//!
//! | module | job |
//! | --- | --- |
//! | [`options`] | commands and options as data |
//! | [`parse`], [`usage`] | converts arguments to the options of a command, and reports errors |
//! | [`help`] | `--help` from the same data |
//! | `generate` | man page and shell completions from the same data |
//! | [`exit`], [`failure`] | exit statuses, and errors that know theirs |
//! | [`guarded`] | runs a command in a process without rights |
//! | [`output`] | standard output, colours, progress |
//! | `textfile` | replaces a file in an untrusted folder |
//! | [`functions`], [`check`], [`metrics`], [`pack`], [`quarantine`], [`mod@run`], [`spool`], [`upload`], [`watch`] | a command each |

pub mod check;
#[cfg(test)]
mod documents;
pub mod exit;
pub mod failure;
#[cfg(feature = "workstation")]
pub mod functions;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
mod guarded;
pub mod help;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod options;
pub mod output;
pub mod pack;
pub mod parse;
pub mod quarantine;
pub mod run;
pub mod spool;
#[cfg(feature = "metrics")]
mod textfile;
#[cfg(feature = "upload")]
pub mod upload;
pub mod usage;
pub mod watch;

use std::ffi::OsString;

use exit::Exit;
use failure::Failure;
use output::to_stdout;
use parse::Invocation;

/// Executes the arguments (without the name of the program), and reports failures on stderr.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    exit_of(parse::parse(arguments).map_err(Failure::from).and_then(dispatch))
}

/// Reports the failure of a command.
fn exit_of(outcome: Result<Exit, Failure>) -> Exit {
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            // A configuration file can have many errors, with a line for each.
            failure.message.lines().for_each(output::say);
            failure.exit
        }
    }
}

fn dispatch(invocation: Invocation) -> Result<Exit, Failure> {
    if sweeps(&invocation) {
        edgelat_guard::sweep();
    }
    match invocation {
        Invocation::Overview => print(&help::overview()),
        Invocation::Help(command, detail) => print(&help::of(command, detail)),
        Invocation::Version => print(concat!("edgelat ", env!("CARGO_PKG_VERSION"), "\n")),
        Invocation::Watch(options) => watch::run(options),
        Invocation::Run(options) => run::run(options),
        #[cfg(feature = "workstation")]
        Invocation::Functions(options) => functions::run(options),
        Invocation::Check(options) => check::run(&options),
        #[cfg(feature = "workstation")]
        Invocation::Pack(options) => pack::run(&options),
        Invocation::Spool(options) => spool::run(&options),
        Invocation::Quarantine(options) => quarantine::run(&options),
        #[cfg(feature = "metrics")]
        Invocation::Metrics(options) => metrics::run(&options),
        #[cfg(feature = "upload")]
        Invocation::Upload(options) => upload::run(&options),
        #[cfg(any(test, feature = "generate"))]
        Invocation::Completions(shell) => print(&generate::completions(&shell)),
        #[cfg(any(test, feature = "generate"))]
        Invocation::Man => print(&generate::man()),
    }
}

/// Returns true if a command removes remains of killed agents: all that may have the rights do.
fn sweeps(invocation: &Invocation) -> bool {
    match invocation {
        Invocation::Watch(_) | Invocation::Run(_) | Invocation::Check(_) | Invocation::Quarantine(_) => true,
        #[cfg(feature = "workstation")]
        Invocation::Functions(_) => true,
        _ => false,
    }
}

fn print(text: &str) -> Result<Exit, Failure> {
    to_stdout(Exit::Ok, |out| {
        out.write_all(text.as_bytes())?;
        Ok(Exit::Ok)
    })
}
