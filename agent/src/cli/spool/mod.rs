//! `edgelat spool`: the records of the service.

mod print;
mod utc;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use edgelat_spool::segment::Name;
use edgelat_spool::{Checkpoint, Directory, ReadError, Seen, Times, reader};
use nix::errno::Errno;

use super::exit::Exit;
use super::failure::{Fails, Failure};
use super::output::to_stdout;
use super::parse::{SpoolAction, SpoolOf, SpoolOptions};
use crate::config::Config;
pub use utc::utc;

/// Reasons that records cannot be shown.
#[derive(Debug, thiserror::Error)]
enum SpoolError {
    /// The folder cannot be opened.
    #[error("{}: {}; --dir names another folder", path.display(), errno.desc())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Cause of the failure.
        errno: Errno,
    },
    /// The records cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Cause of the failure.
        reason: ReadError,
    },
}

impl Fails for SpoolError {
    fn exit(&self) -> Exit {
        match self {
            Self::Open { errno: Errno::EACCES | Errno::EPERM, .. } => Exit::NotPermitted,
            _ => Exit::Failed,
        }
    }
}

/// Contents of one segment, or of all segments.
#[derive(Debug, Default)]
struct Summary {
    segment: String,
    bytes: u64,
    checkpoints: u64,
    /// Records, each of which can stand for several intervals.
    records: u64,
    intervals: u64,
    /// Records that were written again elsewhere.
    replaced: u64,
    damaged: u64,
    unknown: u64,
    orphans: u64,
    /// Intervals for which there was no room, not even merged.
    dropped: u64,
    /// First begin and last end, in nanoseconds since 1970, as far as known.
    begin_ns: Option<u64>,
    end_ns: Option<u64>,
}

impl Summary {
    fn of(segment: String, bytes: u64) -> Self {
        Self { segment, bytes, ..Self::default() }
    }

    /// Adds one item.
    fn take(&mut self, seen: &Seen<'_>, state: &Checkpoint, times: &Times) {
        match seen {
            Seen::Checkpoint => {
                self.checkpoints += 1;
                self.dropped = self.dropped.max(state.dropped);
            }
            Seen::Interval(interval) => {
                self.records += 1;
                self.intervals += interval.covers();
                let time = |boot_ns| times.of(&state.boot, boot_ns).map(|(ns, _)| ns);
                self.begin_ns = self.begin_ns.or_else(|| time(interval.begin_ns));
                self.end_ns = time(interval.end.boot_ns).or(self.end_ns);
            }
            Seen::Orphan(_) => self.orphans += 1,
            Seen::Replaced => self.replaced += 1,
            Seen::Unknown => self.unknown += 1,
            Seen::Damaged => self.damaged += 1,
        }
    }

    fn print(&self, json: bool, out: &mut dyn Write) -> std::io::Result<()> {
        if json {
            let moment = |ns: Option<u64>| ns.map_or_else(|| "null".to_owned(), |ns| ns.to_string());
            write!(
                out,
                "{{\"segment\":\"{}\",\"begin_ns\":{},\"end_ns\":{}",
                self.segment,
                moment(self.begin_ns),
                moment(self.end_ns)
            )?;
            for (name, count) in [
                ("bytes", self.bytes),
                ("checkpoints", self.checkpoints),
                ("records", self.records),
                ("intervals", self.intervals),
                ("replaced", self.replaced),
                ("damaged", self.damaged),
                ("unknown", self.unknown),
                ("orphans", self.orphans),
                ("dropped", self.dropped),
            ] {
                write!(out, ",\"{name}\":{count}")?;
            }
            return out.write_all(b"}\n");
        }
        let moment = |ns: Option<u64>| ns.map_or_else(|| "time unknown".to_owned(), utc);
        write!(
            out,
            "{:<21}  {:>9} bytes  {:>6} records of {:>7} intervals  {} to {}",
            self.segment,
            self.bytes,
            self.records,
            self.intervals,
            moment(self.begin_ns),
            moment(self.end_ns)
        )?;
        for (count, what) in [
            (self.damaged, "damaged"),
            (self.unknown, "of an unknown kind"),
            (self.orphans, "without a checkpoint"),
            (self.replaced, "written again"),
            (self.dropped, "intervals dropped"),
        ] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        out.write_all(b"\n")
    }

    fn is_sound(&self) -> bool {
        self.damaged + self.unknown + self.orphans + self.dropped == 0
    }
}

/// Describes the damage, if any.
fn damage(seen: &Seen<'_>) -> Option<&'static str> {
    match seen {
        Seen::Damaged => Some("damaged"),
        Seen::Unknown => Some("a record of an unknown kind"),
        Seen::Orphan(_) => Some("an interval without a checkpoint"),
        Seen::Checkpoint | Seen::Interval(_) | Seen::Replaced => None,
    }
}

/// Shows records, or reports their damage.
///
/// # Errors
/// If the configuration file is wrong or the records cannot be read.
pub fn run(options: &SpoolOptions) -> Result<Exit, Failure> {
    let path = match &options.of {
        SpoolOf::Dir(dir) => dir.clone(),
        SpoolOf::Config(file) => Config::load(file)?.spool.dir,
    };
    let store = Directory::open(&path).map_err(|errno| SpoolError::Open { path: path.clone(), errno })?;
    let failed = |reason| Failure::from(SpoolError::Read { path: path.clone(), reason });
    // Times are known only at the end: the clock may have been set after an interval.
    let mut times = Times::new();
    reader::read_all(&store, &mut |_, seen, state| {
        if let Seen::Interval(interval) = seen {
            times.learn(&state.boot, &interval.end);
        }
        ControlFlow::Continue(())
    })
    .map_err(failed)?;
    let names = reader::segments(&store).map_err(failed)?;
    let listed: Vec<Name> = names.iter().map(|(name, _)| *name).collect();
    let mut whole = Summary::of("all".to_owned(), names.iter().map(|(_, bytes)| bytes).sum());
    let mut parts: Vec<Summary> =
        names.iter().map(|(name, bytes)| Summary::of(name.file(), *bytes)).collect();
    to_stdout(Exit::Ok, |out| {
        let mut broken = Ok(());
        if options.action == SpoolAction::Csv {
            print::csv_header(out)?;
        }
        let read = reader::read(&store, &listed, true, &mut |place, seen, state| {
            broken = match options.action {
                SpoolAction::List(_) => {
                    let index = listed.iter().position(|name| *name == place.segment);
                    if let Some(part) = index.and_then(|index| parts.get_mut(index)) {
                        part.take(&seen, state, &times);
                    }
                    Ok(())
                }
                SpoolAction::Verify(json) => {
                    whole.take(&seen, state, &times);
                    match damage(&seen).filter(|_| !json) {
                        Some(what) => {
                            writeln!(out, "{}: {what} at byte {}", place.segment.file(), place.offset)
                        }
                        None => Ok(()),
                    }
                }
                SpoolAction::Dump => print::text(out, &seen, state, &times),
                SpoolAction::Json => print::json(out, &seen, state, &times),
                SpoolAction::Csv => print::csv(out, &seen, state, &times),
            };
            if broken.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        broken?;
        read.map_err(failed)?;
        match options.action {
            SpoolAction::List(json) => parts.iter().try_for_each(|part| part.print(json, out))?,
            SpoolAction::Verify(json) => {
                whole.print(json, out)?;
                if !whole.is_sound() {
                    return Ok(Exit::Damaged);
                }
            }
            _ => {}
        }
        Ok(Exit::Ok)
    })
}
