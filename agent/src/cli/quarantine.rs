//! `edgelat quarantine`: builds that are not probed any more after a crash.

use std::time::Duration;

use edgelat_guard::quarantine::{self, ANY_USER, Record, Store};
use edgelat_spool::record::hexadecimal;
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::output::{say, to_stdout};
use super::parse::{QuarantineAction, QuarantineOptions};
use super::spool::utc;
use crate::config::Config;

/// A record for another program.
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
    /// Real user id of its processes; null: all users.
    user: Option<u32>,
    /// Expiry in seconds since 1970, as `time`; null: it happened once, and is held only briefly.
    expires: Option<u64>,
}

impl<'a> Shown<'a> {
    fn of(record: &'a Record, expiry: Duration) -> Self {
        let user = record.key.user;
        Self {
            build_id: hexadecimal(&record.key.build_id),
            image: &record.path,
            target: &record.target,
            signal: record.signal,
            code: record.code,
            pid: record.pid,
            time: record.time,
            times: record.times,
            user: (user != ANY_USER).then_some(user),
            expires: quarantine::lasts(record).then(|| quarantine::expires(record, expiry)),
        }
    }
}

/// Shows or clears the quarantine.
///
/// # Errors
/// If the configuration file is wrong or no quarantine is possible.
pub fn run(options: &QuarantineOptions) -> Result<Exit, Failure> {
    let config = Config::load(&options.config)?;
    let expiry = config.agent.quarantine_for;
    let store = Store::open(&config.agent.state_dir)?.expiring(expiry);
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
                    let shown = Shown::of(record, expiry);
                    if options.json {
                        serde_json::to_writer(&mut *out, &shown).map_err(std::io::Error::from)?;
                        out.write_all(b"\n")?;
                    } else {
                        let user = shown.user.map_or("all users".to_owned(), |user| format!("user {user}"));
                        let until = shown.expires.map_or("not held yet".to_owned(), |seconds| {
                            format!("until {}", utc(seconds.saturating_mul(1_000_000_000)))
                        });
                        writeln!(
                            out,
                            "{}  {}  {}  signal {}  {} times  {user}  {until}",
                            shown.build_id, shown.target, shown.image, shown.signal, shown.times
                        )?;
                    }
                }
                Ok(Exit::Ok)
            })
        }
    }
}
