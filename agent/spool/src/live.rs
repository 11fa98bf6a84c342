//! The live snapshot: everything counted so far, for readers without privileges.
//!
//! One file, `live` in the run directory, which the guard opens before there is a collector. The
//! collector may neither create nor rename files there, so it cannot write a snapshot beside the
//! old one and rename it. The file has two halves; each snapshot overwrites the older half through
//! the descriptor and leaves the newest intact. A reader detects a half-written half by its
//! checksum and takes the other one. It needs no lock, with which it could hold up the writer.
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
//! docs/LIVE.md describes the payload. The sparse file takes the memory of two snapshots in /run.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::counts::Counts;
use crate::record::{self, Clock, NAME_BYTES, STREAMS, Stream};
use crate::segment::checksum;
use edgelat_wire::postcard::{self, Bytes};

/// The file in the run directory.
pub const FILE: &str = "live";

/// Offset of the second half, and maximum size of a snapshot. [`Snapshot::left_out`] counts the
/// streams that do not fit.
pub const HALF_BYTES: usize = 4 << 20;

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 28;

/// Upper bound for the bytes of a row: four names and a count per bucket.
const ROW_BYTES: usize = 16 << 10;

/// Most targets in a snapshot, and most process states of one target.
const LIST: usize = 256;

const MAGIC: &[u8; 8] = b"EDGELIVE";
const VERSION: u16 = 4;
/// Offset of the checksum.
const CRC: usize = 24;

/// Tries of a reader. It is overtaken only if two snapshots are written while it reads one.
const TRIES: usize = 16;

/// Everything counted up to a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The agent's run, with its boot and kernel.
    pub agent: Agent,
    /// Time of the snapshot, by all clocks.
    pub now: Clock,
    /// CLOCK_REALTIME at boot, as in [`crate::Interval::epoch_ns`].
    pub epoch_ns: Option<u64>,
    /// Time to the next snapshot in nanoseconds.
    pub interval_ns: u64,
    /// True for the last snapshot: the service has ended.
    pub ended: bool,
    /// Resources that the agent itself uses.
    pub own: Own,
    /// State of the configured targets, in the order of the configuration.
    pub targets: Vec<Target>,
    /// Streams with their counts since [`Stream::since_ns`].
    pub rows: Vec<Row>,
    /// Streams that did not fit.
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
    /// Start of the run, in nanoseconds since boot.
    pub began_ns: u64,
}

/// Resources that the agent itself uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// CPU time of the collector in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of the collector in bytes.
    pub collector_bytes: Option<u64>,
    /// Resident memory of the guard in bytes.
    pub guard_bytes: Option<u64>,
    /// Builds in quarantine.
    pub quarantine: u64,
    /// Maximum cost of all probes together, in millionths of one CPU's time.
    pub limit_ppm: u64,
    /// The spool, if there is one.
    pub spool: Option<SpoolFigures>,
}

/// Figures of the spool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolFigures {
    /// Bytes of its segments.
    pub bytes: u64,
    /// Maximum size of the spool in bytes.
    pub max_bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Intervals that are in memory only.
    pub waiting: u64,
    /// Bytes written in this run.
    pub written: u64,
    /// Number of the error that prevents writing now.
    pub errno: Option<u64>,
}

/// A target of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Processes by reason for not being measured; the empty reason stands for measured ones.
    pub processes: Vec<(String, u64)>,
    /// Cost of its probes so far, in nanoseconds.
    pub cost_ns: u64,
    /// Their cost between the last two snapshots, in millionths of one CPU; `None` if not known.
    pub cost_ppm: Option<u64>,
    /// Maximum cost of its probes, in millionths.
    pub limit_ppm: u64,
    /// Requested functions that are refused.
    pub refused: u64,
    /// Probe hits that could not be attributed to a function.
    pub unattributed: u64,
    /// Children that ended before they could be covered.
    pub missed: u64,
    /// Lifetime of those, and of others until they were covered, in nanoseconds.
    pub children_ns: u64,
    /// Requested names of Python functions that no called function has.
    pub not_called: u64,
}

/// A stream and its counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The stream.
    pub stream: Stream,
    /// Time of the last read, in nanoseconds since boot. Nothing was measured there after it.
    pub read_ns: u64,
    /// Its counts.
    pub counts: Counts,
}

/// Reason for a missing snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The file does not exist.
    #[error("{file} is not there: `edgelat run` does not run, or with another run_dir")]
    NotThere {
        /// The file.
        file: String,
    },
    /// The file cannot be read.
    #[error("{file} cannot be read: {reason}")]
    Read {
        /// The file.
        file: String,
        /// The system's error.
        reason: io::Error,
    },
    /// The file holds no snapshot.
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
        /// Version of the file.
        version: u16,
    },
}

/// Writes snapshots into the file.
#[derive(Debug)]
pub struct Writer {
    file: File,
    /// Has room for the longest snapshot from the start: unused capacity takes no memory.
    bytes: Vec<u8>,
    sequence: u64,
}

impl Writer {
    /// Writes into an open file, which must be empty.
    pub fn new(file: File) -> Self {
        Self { file, bytes: Vec::with_capacity(HALF_BYTES + ROW_BYTES), sequence: 0 }
    }

    /// Writes a snapshot over the older of the two in the file.
    ///
    /// # Errors
    /// The system's error. The newest snapshot in the file stays.
    pub fn write(&mut self, head: &Snapshot, rows: &[Row]) -> io::Result<()> {
        let sequence = self.sequence + 1;
        encode(head, rows, sequence, &mut self.bytes);
        let half = (sequence % 2) * HALF_BYTES as u64;
        self.file.write_all_at(&self.bytes, half)?;
        // The next snapshot overwrites one that failed half-way.
        self.sequence = sequence;
        Ok(())
    }
}

/// Encodes a half: a snapshot of `head`, except its own rows, with `rows`.
pub fn encode(head: &Snapshot, rows: &[Row], sequence: u64, bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.resize(HEADER_BYTES, 0);
    head.encode_head(bytes);
    let mut left_out = head.left_out;
    for row in rows {
        let before = bytes.len();
        bytes.push(1);
        row.encode(bytes);
        // Room for the fields behind the rows.
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

/// Content of one half of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Half {
    /// A snapshot, with its sequence.
    Snapshot(u64, Box<Snapshot>),
    /// A snapshot of another version, with its sequence.
    Version(u64, u16),
    /// No snapshot, or one that is being written.
    None,
}

impl Half {
    /// 0 if there is no snapshot.
    fn sequence(&self) -> u64 {
        match self {
            Self::Snapshot(sequence, _) | Self::Version(sequence, _) => *sequence,
            Self::None => 0,
        }
    }
}

/// Decodes the bytes of a half, and ignores any bytes behind the snapshot.
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

/// Reads the newest snapshot in a run directory.
///
/// # Errors
/// The reason why there is no snapshot.
pub fn read(run_dir: &Path) -> Result<Snapshot, LiveError> {
    let path = run_dir.join(FILE);
    let name = || path.display().to_string();
    for _ in 0..TRIES {
        // Opened anew: a restarted agent writes another file.
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
        // If this half was overwritten, the other may have been newer when it was found torn.
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

/// Reads no more of a half than its header says and the file has.
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
    /// True if its service still runs, by the kernel's boot id and the time since boot.
    pub fn is_current(&self, boot: &[u8; 16], boot_ns: u64) -> bool {
        // Three intervals and some slack: a busy box is late.
        let patience = self.interval_ns.saturating_mul(3).saturating_add(5_000_000_000);
        !self.ended && self.agent.boot == *boot && self.age_ns(boot_ns) <= patience
    }

    /// Age of the snapshot in nanoseconds.
    pub fn age_ns(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_sub(self.now.boot_ns)
    }

    /// Converts nanoseconds since boot into nanoseconds since 1970. `None` until the clock can be
    /// believed; after that the result never changes, whatever the clock does.
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
