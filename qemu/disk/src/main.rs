//! Cuts the power of a machine again and again, and looks at what its disk has then; `qemu/powercut` calls it. See README.md of
//! the folder above.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgelat_disk::console::Heard;
use edgelat_disk::cut::{Fates, cut};
use edgelat_disk::guest::{GuestError, Machine};
use edgelat_disk::judge::{Records, Wrong};
use edgelat_disk::log::{self, Act, Log};
use edgelat_disk::random::Random;
use edgelat_disk::server::{self, Disk};
use edgelat_disk::spool::{Extractor, SpoolError, write_sparse};

const USAGE: &str = "usage:
  powercut cuts FOLDER=DIR BASE=FILE AGENT=FILE SPOOL=/PLACE CUTS=N IMAGES=N SEED=N SECONDS=N DISK=honest|lying
        -- EMULATOR...
      boots the machine and cuts its power N times, judges what is left each time and in N more ways, goes on with it.
      Where FOLDER has the state of an interrupted one, it goes on with that. Its disk is on the socket FOLDER/disk; one that
      lies forgets also what was flushed last
  powercut flash FOLDER=DIR CUTS=N SEED=N SECONDS=N DIES=yes|no -- EMULATOR...
      the same with a machine that tells its records before it goes on: one whose flash outlives it, or that cuts by itself
  powercut serve SOCKET FILE LOG      a disk that holds FILE, for one client; what is done to it goes to LOG
  powercut rebuild FILE LOG OUT SEED [ENTRIES]
      OUT is FILE after what is in LOG, all of it or the first ENTRIES, and a cut";

/// Reasons for an early end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("boot {boot}: {error}; {}", at(folder))]
    Guest { boot: u64, folder: PathBuf, error: GuestError },
    #[error("boot {boot}, a cut behind entry {entries} with the seed {seed}: {error}; {}", at(folder))]
    Image { boot: u64, entries: usize, seed: u64, folder: PathBuf, error: SpoolError },
    #[error("boot {boot}, a cut behind entry {entries} with the seed {seed}: {wrong}; {}", at(folder))]
    Records { boot: u64, entries: usize, seed: u64, folder: PathBuf, wrong: Wrong },
}

fn at(folder: &Path) -> String {
    format!("in {} are console.log, and base.img and disk.log for `powercut rebuild`", folder.display())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["cuts", ref rest @ ..] => cuts(rest),
        ["flash", ref rest @ ..] => flash(rest),
        ["serve", socket, file, log] => serve(socket.as_ref(), file.as_ref(), log.as_ref()),
        ["rebuild", file, log, out, seed, ref entries @ ..] => {
            rebuild(file.as_ref(), log.as_ref(), out.as_ref(), seed, entries.first())
        }
        _ => Err(Failure::Usage(USAGE.to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            _ = writeln!(io::stderr(), "powercut: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(socket: &Path, file: &Path, log: &Path) -> Result<(), Failure> {
    let bytes = fs::read(file).map_err(failed(file))?;
    let written = File::create(log).map_err(failed(log))?;
    let listener = UnixListener::bind(socket).map_err(failed(socket))?;
    let (client, _) = listener.accept().map_err(failed(socket))?;
    let disk = Mutex::new(Disk::new(bytes, Log::new(Instant::now(), Some(written))));
    server::serve(client, &disk).map_err(failed(socket))
}

fn rebuild(file: &Path, log: &Path, out: &Path, seed: &str, entries: Option<&&str>) -> Result<(), Failure> {
    let mut bytes = fs::read(file).map_err(failed(file))?;
    let all = log::read(io::BufReader::new(File::open(log).map_err(failed(log))?)).map_err(failed(log))?;
    let seed = number("SEED", seed)?;
    let entries = entries.map_or(Ok(all.len() as u64), |entries| number("ENTRIES", entries))?;
    let fates = cut(&mut bytes, &all[..all.len().min(entries as usize)], seed);
    write_sparse(out, &bytes).map_err(failed(out))?;
    say(format_args!("of {} entries: {}", all.len(), in_words(&fates)));
    Ok(())
}

fn say(text: std::fmt::Arguments<'_>) {
    _ = writeln!(io::stdout(), "{text}");
}

fn in_words(fates: &Fates) -> String {
    let Fates { durable, kept, torn, lost } = fates;
    format!("{durable} writes durable, of the others {kept} kept, {torn} torn, {lost} lost")
}

fn number(name: &str, text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure::Usage(format!("{name}={text}: no number")))
}

/// Words `NAME=VALUE`, and behind `--` the emulator.
struct Settings<'w> {
    words: &'w [&'w str],
    command: &'w [&'w str],
}

impl<'w> Settings<'w> {
    fn of(words: &'w [&'w str]) -> Result<Self, Failure> {
        let end =
            words.iter().position(|word| *word == "--").ok_or_else(|| Failure::Usage(USAGE.to_owned()))?;
        Ok(Self { words: &words[..end], command: &words[end + 1..] })
    }

    fn text(&self, name: &str) -> Result<&'w str, Failure> {
        let found = self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.ok_or_else(|| Failure::Usage(format!("no {name}=\n{USAGE}")))
    }

    fn number(&self, name: &str) -> Result<u64, Failure> {
        number(name, self.text(name)?)
    }

    fn machine(&self, folder: &Path) -> Result<Machine, Failure> {
        let console = folder.join("console.log");
        let opened = OpenOptions::new().create(true).append(true).open(&console);
        Ok(Machine {
            command: self.command.iter().map(|word| (*word).to_owned()).collect(),
            socket: folder.join("disk"),
            console: opened.map_err(failed(&console))?,
            begun: Instant::now(),
            patience: Duration::from_secs(self.number("SECONDS")?),
        })
    }
}

/// Results so far; kept beside the image, so that an interrupted run can resume.
#[derive(Debug, Default)]
struct Seen(BTreeMap<&'static str, u64>);

const FIGURES: [&str; 12] = [
    "boots",
    "cuts",
    "images",
    "acknowledged",
    "records",
    "compared",
    "merged",
    "writes",
    "flushes",
    "kept",
    "torn",
    "lost",
];

impl Seen {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let figure = |name: &'static str| {
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            (name, value.unwrap_or(0))
        };
        Self(FIGURES.map(figure).into())
    }

    fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn add(&mut self, name: &'static str, more: u64) {
        *self.0.entry(name).or_default() += more;
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let text: String = self.0.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        let aside = path.with_extension("new");
        fs::write(&aside, text)?;
        fs::rename(aside, path)
    }
}

struct Cutter {
    folder: PathBuf,
    extractor: Extractor,
    heard: Mutex<Heard>,
    /// Records when the machine was last switched on.
    before: Records,
    /// Runs that were heard of by then.
    known: BTreeSet<String>,
    random: Random,
    images: u64,
    /// Flushes count.
    honest: bool,
    seen: Seen,
}

fn cuts(words: &[&str]) -> Result<(), Failure> {
    let settings = Settings::of(words)?;
    let folder = PathBuf::from(settings.text("FOLDER")?);
    let base = PathBuf::from(settings.text("BASE")?);
    let (wanted, seed) = (settings.number("CUTS")?, settings.number("SEED")?);
    let progress = folder.join("progress");
    let seen = Seen::read(&progress);
    // One image for each number of cuts: which of two is the right one says the file beside it.
    let image = |cuts: u64| folder.join(format!("after-{cuts}.img"));
    let begin = seen.of("cuts");
    let file = if begin == 0 { base } else { image(begin) };
    let mut disk = fs::read(&file).map_err(failed(&file))?;
    let mut machine = settings.machine(&folder)?;
    let mut cutter = Cutter {
        extractor: Extractor {
            agent: PathBuf::from(settings.text("AGENT")?),
            place: settings.text("SPOOL")?.to_owned(),
            work: folder.clone(),
        },
        folder: folder.clone(),
        heard: Mutex::default(),
        before: Records::default(),
        known: BTreeSet::new(),
        random: Random::new(seed.wrapping_add(begin)),
        images: settings.number("IMAGES")?,
        honest: settings.text("DISK")? == "honest",
        seen,
    };
    cutter.before = cutter.records(&disk, (begin, 0, 0))?;
    for boot in begin + 1.. {
        let begun = Instant::now();
        let log_file = folder.join("disk.log");
        let base_file = folder.join("base.img");
        write_sparse(&base_file, &disk).map_err(failed(&base_file))?;
        let log = File::create(&log_file).map_err(failed(&log_file))?;
        let last = boot > wanted;
        // One in four as soon as the service measures, the others when records are on the disk.
        let mut ready = None;
        let first = u64::from(last || boot % 4 != 0);
        let wait = Duration::from_millis(if last { 0 } else { cutter.random.below(10_000) });
        let known = cutter.lock().runs().map(str::to_owned).collect();
        cutter.known = known;
        let log = machine
            .run(Disk::new(disk.clone(), Log::new(machine.begun, Some(log))), &cutter.heard, |heard| {
                let synced =
                    || heard.synced(u64::MAX).any(|(run, synced)| cutter.is_new(run) && synced >= first);
                if ready.is_none() && synced() {
                    ready = Some(Instant::now());
                }
                ready.is_some_and(|since| since.elapsed() >= wait)
            })
            .map_err(|error| Failure::Guest { boot, folder: folder.clone(), error })?
            .into_log();
        cutter.seen.add("boots", 1);
        if last {
            break;
        }
        disk = cutter.judge(boot, &disk, &log, begun)?;
        let after = image(boot);
        write_sparse(&after, &disk).map_err(failed(&after))?;
        cutter.seen.add("cuts", 1);
        cutter.seen.write(&progress).map_err(failed(&progress))?;
        _ = fs::remove_file(image(boot - 1));
    }
    let of = |name| cutter.seen.of(name);
    say(format_args!(
        "{} cuts of power: the agent recorded again by itself after each; {} intervals that were said to be on the disk were there, and \
         {} intervals of {} runs at the end with {} calls. {} images judged, one for each cut and others of moments before: {} records \
         compared with what the service said, {} intervals in merged ones, 0 wrong. {} writes and {} flushes; of what was not flushed \
         {} writes were kept, {} torn, {} lost",
        of("cuts"),
        of("acknowledged"),
        cutter.before.intervals(),
        cutter.before.runs(),
        cutter.before.entries(),
        of("images"),
        of("compared"),
        of("merged"),
        of("writes"),
        of("flushes"),
        of("kept"),
        of("torn"),
        of("lost"),
    ));
    Ok(())
}

impl Cutter {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Was a run not heard of before this boot?
    fn is_new(&self, run: &str) -> bool {
        !self.known.contains(run)
    }

    /// The records in an image after a cut in a boot, behind an entry of the log, with a seed.
    fn records(&self, image: &[u8], (boot, entries, seed): (u64, usize, u64)) -> Result<Records, Failure> {
        let folder = self.folder.clone();
        let export = self.extractor.export(image);
        let export =
            export.map_err(|error| Failure::Image { boot, entries, seed, folder: folder.clone(), error })?;
        Records::read(&export, &self.lock()).map_err(|wrong| Failure::Records {
            boot,
            entries,
            seed,
            folder,
            wrong,
        })
    }

    /// Makes an image of a cut and judges it.
    fn image(
        &mut self,
        boot: u64,
        base: &[u8],
        log: &Log,
        entries: usize,
    ) -> Result<(Vec<u8>, Records, Fates), Failure> {
        let seed = self.random.number();
        let mut image = base.to_vec();
        let mut done = log.entries()[..entries].to_vec();
        // The file system bears that one of its flushes is not done, and is as it was before; programs that were promised a sync do not.
        let last = done.iter().rposition(|entry| entry.act == Act::Flush);
        if let Some(last) = last.filter(|_| !self.honest) {
            done.remove(last);
        }
        let fates = cut(&mut image, &done, seed);
        let records = self.records(&image, (boot, entries, seed))?;
        // Whatever was heard before what came next was done to the disk.
        let time_ns = log.entries().get(entries).map_or(u64::MAX, |entry| entry.time_ns);
        let folder = self.folder.clone();
        let judged = records.judge(&self.before, &self.lock(), time_ns, 1);
        judged.map_err(|wrong| Failure::Records { boot, entries, seed, folder, wrong })?;
        for (name, more) in [
            ("images", 1),
            ("records", records.records),
            ("compared", records.compared),
            ("merged", records.merged),
            ("kept", fates.kept),
            ("torn", fates.torn),
            ("lost", fates.lost),
        ] {
            self.seen.add(name, more);
        }
        Ok((image, records, fates))
    }

    /// Judges a boot that was cut; gives the disk that it left.
    fn judge(&mut self, boot: u64, base: &[u8], log: &Log, begun: Instant) -> Result<Vec<u8>, Failure> {
        let took = begun.elapsed();
        let all = log.entries().len();
        for _ in 0..self.images {
            let entries = self.random.below(all as u64) as usize + 1;
            self.image(boot, base, log, entries.min(all))?;
        }
        let (disk, records, fates) = self.image(boot, base, log, all)?;
        let flushes = log.entries().iter().filter(|entry| entry.act == Act::Flush).count();
        let heard = self.lock();
        let new = heard.synced(u64::MAX).filter(|(run, _)| self.is_new(run));
        let acknowledged: u64 = new.map(|(_, synced)| synced).sum();
        drop(heard);
        say(format_args!(
            "cut {boot}: {:.0} s, {all} entries with {flushes} flushes, {}; {acknowledged} intervals acknowledged, {} recorded; {} runs, \
             {} intervals in {} records",
            took.as_secs_f64(),
            in_words(&fates),
            records.intervals() - self.before.intervals(),
            records.runs(),
            records.intervals(),
            records.records,
        ));
        for (name, more) in
            [("acknowledged", acknowledged), ("writes", (all - flushes) as u64), ("flushes", flushes as u64)]
        {
            self.seen.add(name, more);
        }
        self.before = records;
        Ok(disk)
    }
}

/// A machine that tells the records on its flash, and goes on. It is killed again and again and its flash outlives it, or it takes
/// the power of its flash away by itself.
fn flash(words: &[&str]) -> Result<(), Failure> {
    let settings = Settings::of(words)?;
    let folder = PathBuf::from(settings.text("FOLDER")?);
    let (wanted, killed) = (settings.number("CUTS")?, settings.text("DIES")? == "yes");
    let mut random = Random::new(settings.number("SEED")?);
    let mut machine = settings.machine(&folder)?;
    let heard = Mutex::new(Heard::default());
    let (mut before, mut told, mut compared) = (Records::default(), 0, 0);
    while told <= wanted {
        let wait = Duration::from_millis(random.below(10_000));
        let mut known = None;
        let mut ready = None;
        let mut wrong = None;
        let nothing = Disk::new(Vec::new(), Log::new(machine.begun, None));
        let run = machine.run(nothing, &heard, |heard| {
            if std::mem::take(&mut heard.exported) {
                let export = std::mem::take(&mut heard.export);
                let judged = Records::read(&export, heard).and_then(|records| {
                    records.judge(&before, heard, u64::MAX, 1)?;
                    Ok(records)
                });
                match judged {
                    Ok(records) => {
                        told += 1;
                        compared += records.compared;
                        before = records;
                    }
                    Err(found) => wrong = Some(found),
                }
                known = Some(heard.runs().map(str::to_owned).collect::<BTreeSet<String>>());
            }
            let is_new = |run: &str| known.as_ref().is_some_and(|known| !known.contains(run));
            if ready.is_none() && heard.synced(u64::MAX).any(|(run, synced)| synced > 0 && is_new(run)) {
                ready = Some(Instant::now());
            }
            wrong.is_some() || told > wanted || killed && ready.is_some_and(|since| since.elapsed() >= wait)
        });
        if let Some(wrong) = wrong {
            return Err(Failure::Records { boot: told, entries: 0, seed: 0, folder, wrong });
        }
        run.map_err(|error| Failure::Guest { boot: told, folder: folder.clone(), error })?;
    }
    say(format_args!(
        "{wanted} cuts of power: all intervals that were said to be on the flash were there, {} of {} runs at the end with {} calls; \
         {compared} records compared with what the service said, 0 wrong",
        before.intervals(),
        before.runs(),
        before.entries()
    ));
    Ok(())
}
