//! `edgelat quarantine`: what is not probed any more after a crash.

use edgelat_guard::quarantine::{Record, Store};
use edgelat_spool::record::hexadecimal;
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::output::{say, to_stdout};
use super::parse::{QuarantineAction, QuarantineOptions};
use crate::config::Config;

/// A record for another program to read.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    build_id: String,
    image: &'a str,
    target: &'a str,
    signal: i32,
    code: i32,
    pid: i32,
    time: u64,
    times: u32,
}

impl<'a> Shown<'a> {
    fn of(record: &'a Record) -> Self {
        Self {
            build_id: hexadecimal(&record.key.build_id),
            image: &record.path,
            target: &record.target,
            signal: record.signal,
            code: record.code,
            pid: record.pid,
            time: record.time,
            times: record.times,
        }
    }
}

/// Shows or clears what is held back.
///
/// # Errors
/// When the configuration file is wrong or there can be no quarantine.
pub fn run(options: &QuarantineOptions) -> Result<Exit, Failure> {
    let config = Config::load(&options.config)?;
    let store = Store::open(&config.agent.state_dir)?;
    match &options.action {
        QuarantineAction::Clear(build_id) => {
            let gone = store.clear(build_id.as_deref());
            let left = store.list().0.len();
            say(format_args!("{gone} entries cleared, {left} left"));
            Ok(Exit::Ok)
        }
        QuarantineAction::List => {
            let (records, damaged) = store.list();
            if damaged > 0 {
                say(format_args!("{damaged} slots of the file are damaged and left out"));
            }
            to_stdout(Exit::Ok, |out| {
                for record in &records {
                    let shown = Shown::of(record);
                    if options.json {
                        serde_json::to_writer(&mut *out, &shown).map_err(std::io::Error::from)?;
                        out.write_all(b"\n")?;
                    } else {
                        writeln!(
                            out,
                            "{}  {}  {}  signal {}  {} times",
                            shown.build_id, shown.target, shown.image, shown.signal, shown.times
                        )?;
                    }
                }
                Ok(Exit::Ok)
            })
        }
    }
}
