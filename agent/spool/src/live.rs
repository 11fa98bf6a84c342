//! The live snapshot: all that the service has counted so far, for readers that need no right.
//!
//! One file, `live` in the directory of what runs, which the guard opens before there is a collector. The collector may make
//! and rename no file there, so a snapshot is not written beside the one before and renamed; the file has two halves, and
//! each snapshot is written over the older one of the two, through the descriptor. The newest is never touched. A reader that
//! finds the older half half-written sees that by its checksum, takes the other one, and needs no lock that would let it
//! hold up the writer.
//!
//! A half begins at 0 or at [`HALF_BYTES`]. All numbers of its header are little-endian:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 8 | `EDGELIVE` |
//! | 8 | 2 | version, 4 |
//! | 10 | 2 | flags, 0 |
//! | 12 | 4 | length of the payload |
//! | 16 | 8 | sequence: the newest has the highest |
//! | 24 | 4 | CRC-32C of the 24 bytes before and the payload |
//! | 28 | | payload |
//!
//! The payload is docs/LIVE.md's to tell. The file is sparse: it takes up twice what a snapshot has, in the memory of /run.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::counts::Counts;
use crate::record::{self, Clock, NAME_BYTES, STREAMS, Stream};
use crate::segment::checksum;
use edgelat_wire::postcard::{self, Bytes};

/// The file in the directory of what runs.
pub const FILE: &str = "live";

/// Where the second half begins, and most that a snapshot has. Streams for which there is no room are counted in
/// [`Snapshot::left_out`].
pub const HALF_BYTES: usize = 4 << 20;

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 28;

/// More than a row has: four names, and a count of each bucket.
const ROW_BYTES: usize = 16 << 10;

/// Most targets, and most states of the processes of one.
const LIST: usize = 256;

const MAGIC: &[u8; 8] = b"EDGELIVE";
const VERSION: u16 = 4;
/// Where the checksum stands.
const CRC: usize = 24;

/// A reader is overtaken only where two snapshots are written while it reads one; it tries again this often.
const TRIES: usize = 16;

/// All that was counted until a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Which run of the agent, in which boot, on what.
    pub agent: Agent,
    /// When this was, by all clocks.
    pub now: Clock,
    /// What CLOCK_REALTIME showed at boot, as in [`crate::Interval::epoch_ns`].
    pub epoch_ns: Option<u64>,
    /// Time to the next snapshot in nanoseconds.
    pub interval_ns: u64,
    /// It is the last one: the service has ended.
    pub ended: bool,
    /// What the agent itself takes.
    pub own: Own,
    /// How it is with the targets of the configuration, in its order.
    pub targets: Vec<Target>,
    /// Streams with what each has counted since its beginning, [`Stream::since_ns`].
    pub rows: Vec<Row>,
    /// Streams for which there was no room.
    pub left_out: u64,
}

/// A run of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// Boot id of the kernel.
    pub boot: [u8; 16],
    /// Process id of the collector.
    pub pid: u32,
    /// When the run began, in nanoseconds since boot.
    pub began_ns: u64,
}

/// What the agent itself takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// Time on CPUs of the collector, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of the collector in bytes.
    pub collector_bytes: Option<u64>,
    /// Resident memory of the guard in bytes.
    pub guard_bytes: Option<u64>,
    /// Builds in quarantine.
    pub quarantine: u64,
    /// Most that all probes together may cost, in millionths of one CPU's time.
    pub limit_ppm: u64,
    /// The spool, where there is one.
    pub spool: Option<SpoolFigures>,
}

/// How the spool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolFigures {
    /// Bytes of its segments.
    pub bytes: u64,
    /// Most bytes that it may have.
    pub max_bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Intervals that are in memory only.
    pub waiting: u64,
    /// Bytes written in this run.
    pub written: u64,
    /// Number of the error for which nothing can be written now.
    pub errno: Option<u64>,
}

/// A target of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Processes that are measured, and those that are not by reason: an empty reason is for measured ones.
    pub processes: Vec<(String, u64)>,
    /// What its probes have cost so far, in nanoseconds.
    pub cost_ns: u64,
    /// What they cost between the last two snapshots, in millionths of one CPU's time; `None` where that is not known.
    pub cost_ppm: Option<u64>,
    /// Most that they may cost, in millionths.
    pub limit_ppm: u64,
    /// Functions that were asked for and are refused.
    pub refused: u64,
    /// Hits of probes that could not be told to any function.
    pub unattributed: u64,
    /// Children that ended before they could be covered.
    pub missed: u64,
    /// How long those lived, and others before they were covered, in nanoseconds.
    pub children_ns: u64,
    /// Names of functions of Python that were asked for, and no function has which was called.
    pub not_called: u64,
}

/// A stream and what it has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The stream.
    pub stream: Stream,
    /// When it was read last, in nanoseconds since boot. Later nothing was measured there.
    pub read_ns: u64,
    /// What it has counted.
    pub counts: Counts,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// There is no file.
    #[error("{file} is not there: `edgelat run` does not run, or with another run_dir")]
    NotThere {
        /// The file.
        file: String,
    },
    /// It cannot be read.
    #[error("{file} cannot be read: {reason}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        reason: io::Error,
    },
    /// There is none in it.
    #[error("there is no snapshot in {file} yet, or it is damaged; `edgelat run` writes one every interval")]
    None {
        /// The file.
        file: String,
    },
    /// Another version of edgelat wrote it.
    #[error(
        "{file} has version {version}, and this edgelat reads version {VERSION}: use the one that runs as the service"
    )]
    Version {
        /// The file.
        file: String,
        /// What it has.
        version: u16,
    },
}

/// Writes snapshots into the file.
#[derive(Debug)]
pub struct Writer {
    file: File,
    /// Has the room of the longest from the beginning: what is not used takes no memory.
    bytes: Vec<u8>,
    sequence: u64,
}

impl Writer {
    /// Into an open file, which must be empty.
    pub fn new(file: File) -> Self {
        Self { file, bytes: Vec::with_capacity(HALF_BYTES + ROW_BYTES), sequence: 0 }
    }

    /// Writes one over the older of the two that are there.
    ///
    /// # Errors
    /// What the system refuses. The newest that was there stays.
    pub fn write(&mut self, head: &Snapshot, rows: &[Row]) -> io::Result<()> {
        let sequence = self.sequence + 1;
        encode(head, rows, sequence, &mut self.bytes);
        let half = (sequence % 2) * HALF_BYTES as u64;
        self.file.write_all_at(&self.bytes, half)?;
        // One that failed half-way is written over by the next.
        self.sequence = sequence;
        Ok(())
    }
}

/// A snapshot as it stands in a half of the file: `head`, whose own rows do not matter, with `rows`.
pub fn encode(head: &Snapshot, rows: &[Row], sequence: u64, bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.resize(HEADER_BYTES, 0);
    head.encode_head(bytes);
    let mut left_out = head.left_out;
    for row in rows {
        let before = bytes.len();
        bytes.push(1);
        row.encode(bytes);
        // Room for what comes behind the rows.
        if bytes.len() + 16 > HALF_BYTES {
            bytes.truncate(before);
            left_out += 1;
        }
    }
    bytes.push(0);
    postcard::put(bytes, left_out);
    let length = (bytes.len() - HEADER_BYTES) as u32;
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    bytes[16..CRC].copy_from_slice(&sequence.to_le_bytes());
    let crc = checksum(&bytes[..CRC], &bytes[HEADER_BYTES..]);
    bytes[CRC..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// What one half of the file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Half {
    /// A snapshot, with its sequence.
    Snapshot(u64, Box<Snapshot>),
    /// One of another version, with its sequence.
    Version(u64, u16),
    /// None, or one that is being written.
    None,
}

impl Half {
    /// 0 where there is none.
    fn sequence(&self) -> u64 {
        match self {
            Self::Snapshot(sequence, _) | Self::Version(sequence, _) => *sequence,
            Self::None => 0,
        }
    }
}

/// Understands the bytes of a half, and whatever stands behind them.
pub fn decode(bytes: &[u8]) -> Half {
    whole(bytes).unwrap_or(Half::None)
}

fn whole(bytes: &[u8]) -> Option<Half> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let length = u32::from_le_bytes(header.get(12..16)?.try_into().ok()?);
    let payload = rest.get(..length as usize)?;
    let crc = u32::from_le_bytes(header.get(CRC..)?.try_into().ok()?);
    if !header.starts_with(MAGIC) || crc != checksum(&header[..CRC], payload) {
        return None;
    }
    let sequence = u64::from_le_bytes(header.get(16..CRC)?.try_into().ok()?);
    match u16::from_le_bytes([header[8], header[9]]) {
        VERSION => {
            let mut bytes = Bytes(payload);
            let snapshot = Snapshot::decode(&mut bytes).filter(|_| bytes.0.is_empty())?;
            Some(Half::Snapshot(sequence, Box::new(snapshot)))
        }
        version => Some(Half::Version(sequence, version)),
    }
}

/// The newest snapshot in a directory of what runs.
///
/// # Errors
/// Why there is none.
pub fn read(run_dir: &Path) -> Result<Snapshot, LiveError> {
    let path = run_dir.join(FILE);
    let name = || path.display().to_string();
    for _ in 0..TRIES {
        // Opened anew: an agent that was started again writes another file.
        let file = File::open(&path).map_err(|reason| match reason.kind() {
            io::ErrorKind::NotFound => LiveError::NotThere { file: name() },
            _ => LiveError::Read { file: name(), reason },
        })?;
        let read = |reason| LiveError::Read { file: name(), reason };
        let mut newest: Option<(u64, Half, Vec<u8>)> = None;
        for at in [0, HALF_BYTES as u64] {
            let mut bytes = read_half(&file, at).map_err(read)?;
            let half = decode(&bytes);
            bytes.truncate(HEADER_BYTES);
            if newest.as_ref().is_none_or(|(_, other, _)| other.sequence() < half.sequence()) {
                newest = Some((at, half, bytes));
            }
        }
        let Some((at, half, header)) = newest else { continue };
        // Where it was written over meanwhile, the other half may have been newer than this when it was found torn.
        let mut now = [0; HEADER_BYTES];
        if read_up_to(&file, &mut now, at).map_err(read)? < HEADER_BYTES || now[..] != header[..] {
            continue;
        }
        match half {
            Half::Snapshot(_, snapshot) => return Ok(*snapshot),
            Half::Version(_, version) => return Err(LiveError::Version { file: name(), version }),
            Half::None => {}
        }
    }
    Err(LiveError::None { file: name() })
}

/// No more of a half than its header says, and than there is.
fn read_half(file: &File, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    let had = read_up_to(file, &mut bytes, at)?;
    if had < HEADER_BYTES {
        return Ok(Vec::new());
    }
    let length = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
    if !bytes.starts_with(MAGIC) || length > HALF_BYTES - HEADER_BYTES {
        return Ok(Vec::new());
    }
    bytes.resize(HEADER_BYTES + length, 0);
    let had = read_up_to(file, &mut bytes[HEADER_BYTES..], at + HEADER_BYTES as u64)?;
    bytes.truncate(HEADER_BYTES + had);
    Ok(bytes)
}

fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut had = 0;
    while had < bytes.len() {
        match file.read_at(&mut bytes[had..], at + had as u64) {
            Ok(0) => break,
            Ok(more) => had += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(had)
}

impl Snapshot {
    /// Is it of a service that still runs? `boot` is the boot id of the kernel and `boot_ns` the time since boot.
    pub fn is_current(&self, boot: &[u8; 16], boot_ns: u64) -> bool {
        // Three intervals, and a little: a busy box comes late.
        let patience = self.interval_ns.saturating_mul(3).saturating_add(5_000_000_000);
        !self.ended && self.agent.boot == *boot && self.age_ns(boot_ns) <= patience
    }

    /// How old it is.
    pub fn age_ns(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_sub(self.now.boot_ns)
    }

    /// When something was that happened so many nanoseconds after boot, in nanoseconds since 1970, once the clock could be
    /// believed. It does not change any more then, whatever the clock does.
    pub fn real_ns(&self, boot_ns: u64) -> Option<u64> {
        self.epoch_ns?.checked_add(boot_ns)
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        postcard::put_bytes(out, self.agent.version.as_bytes());
        postcard::put_bytes(out, self.agent.kernel.as_bytes());
        out.extend(self.agent.boot);
        postcard::put(out, self.agent.pid.into());
        postcard::put(out, self.agent.began_ns);
        postcard::put(out, self.now.boot_ns);
        self.now.encode(out);
        postcard::put_option(out, self.epoch_ns);
        postcard::put(out, self.interval_ns);
        out.push(self.ended.into());
        self.own.encode(out);
        postcard::put(out, self.targets.len().min(LIST) as u64);
        self.targets.iter().take(LIST).for_each(|target| target.encode(out));
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let agent = Agent {
            version: bytes.text(NAME_BYTES)?,
            kernel: bytes.text(NAME_BYTES)?,
            boot: bytes.id()?,
            pid: bytes.small()?,
            began_ns: bytes.number()?,
        };
        let boot_ns = bytes.number()?;
        let mut snapshot = Self {
            agent,
            now: Clock::decode(boot_ns, bytes)?,
            epoch_ns: bytes.option()?,
            interval_ns: bytes.number()?,
            ended: bytes.flag()?,
            own: Own::decode(bytes)?,
            ..Self::default()
        };
        for _ in 0..bytes.length().filter(|length| *length <= LIST)? {
            snapshot.targets.push(Target::decode(bytes)?);
        }
        while bytes.flag()? {
            if snapshot.rows.len() > STREAMS {
                return None;
            }
            snapshot.rows.push(Row::decode(bytes)?);
        }
        snapshot.left_out = bytes.number()?;
        Some(snapshot)
    }
}

impl Own {
    fn encode(&self, out: &mut Vec<u8>) {
        postcard::put(out, self.cpu_ns);
        postcard::put_option(out, self.collector_bytes);
        postcard::put_option(out, self.guard_bytes);
        postcard::put(out, self.quarantine);
        postcard::put(out, self.limit_ppm);
        out.push(self.spool.is_some().into());
        if let Some(spool) = &self.spool {
            for figure in [spool.bytes, spool.max_bytes, spool.segments, spool.waiting, spool.written] {
                postcard::put(out, figure);
            }
            postcard::put_option(out, spool.errno);
        }
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let mut own = Self {
            cpu_ns: bytes.number()?,
            collector_bytes: bytes.option()?,
            guard_bytes: bytes.option()?,
            quarantine: bytes.number()?,
            limit_ppm: bytes.number()?,
            spool: None,
        };
        if bytes.flag()? {
            own.spool = Some(SpoolFigures {
                bytes: bytes.number()?,
                max_bytes: bytes.number()?,
                segments: bytes.number()?,
                waiting: bytes.number()?,
                written: bytes.number()?,
                errno: bytes.option()?,
            });
        }
        Some(own)
    }
}

impl Target {
    fn encode(&self, out: &mut Vec<u8>) {
        postcard::put_bytes(out, self.name.as_bytes());
        postcard::put(out, self.processes.len().min(LIST) as u64);
        for (reason, count) in self.processes.iter().take(LIST) {
            postcard::put_bytes(out, reason.as_bytes());
            postcard::put(out, *count);
        }
        postcard::put(out, self.cost_ns);
        postcard::put_option(out, self.cost_ppm);
        postcard::put(out, self.limit_ppm);
        postcard::put(out, self.refused);
        postcard::put(out, self.unattributed);
        postcard::put(out, self.missed);
        postcard::put(out, self.children_ns);
        postcard::put(out, self.not_called);
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let mut target = Self { name: bytes.text(NAME_BYTES)?, ..Self::default() };
        for _ in 0..bytes.length().filter(|length| *length <= LIST)? {
            target.processes.push((bytes.text(NAME_BYTES)?, bytes.number()?));
        }
        target.cost_ns = bytes.number()?;
        target.cost_ppm = bytes.option()?;
        target.limit_ppm = bytes.number()?;
        target.refused = bytes.number()?;
        target.unattributed = bytes.number()?;
        target.missed = bytes.number()?;
        target.children_ns = bytes.number()?;
        target.not_called = bytes.number()?;
        Some(target)
    }
}

impl Row {
    fn encode(&self, out: &mut Vec<u8>) {
        self.stream.encode(out);
        postcard::put(out, self.read_ns);
        self.counts.encode(out);
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            stream: Stream::decode(bytes)?,
            read_ns: bytes.number()?,
            counts: Counts::decode(bytes, record::VERSION)?,
        })
    }
}
