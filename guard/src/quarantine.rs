//! Images and functions that must not be probed again.
//!
//! A target that died by a fault while it was probed may have died of the probes. Its supervisor
//! starts it again; without a memory that outlives target and agent, every restart would be probed
//! to death. So the build-id and the set of functions are kept until a command releases them, or
//! for [a time](EXPIRY).
//!
//! The starter of a program can have it crash at will. So faults of a user's processes count for
//! that user only, and one fault keeps a build alone for [a moment](MOMENT): only a second fault
//! before the first was forgotten lasts.
//!
//! SIGKILL soon after probes came is kept here too: their memory may have made the OOM killer run,
//! and a restarted agent must not do that to the next process. Such an entry (signal 9) is kept
//! beside that of a fault and holds for [minutes](pause), each time twice as long; a process that
//! lives with probes ends it.
//!
//! # The file
//!
//! `quarantine` in the state directory has 64 slots of 256 bytes each and never grows. The guard
//! opens it before there is a collector, which may open no file for writing; later it is read and
//! written by that descriptor with pread, pwrite and fdatasync. A slot of zeros is free. All
//! numbers are little-endian:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 4 | `EDQR` |
//! | 4 | 1 | version, 2; 1 has no user, and holds for all |
//! | 5 | 3 | lengths of build-id, path and name |
//! | 8 | 8 | sequence: the newest record has the highest |
//! | 16 | 8 | [hash of the function names](functions_hash) |
//! | 24 | 8 | time, seconds since 1970 |
//! | 32 | 12 | signal, its code, process |
//! | 44 | 4 | number of times |
//! | 48 | 16 | boot id, zeros if it was not known |
//! | 64 | 32 | build-id |
//! | 96 | 112 | path of the image; of version 1, 120 |
//! | 208 | 4 | real user id, 4294967295 for all |
//! | 212 | 4 | zeros |
//! | 216 | 36 | name of the target |
//! | 252 | 4 | CRC-32C of all before |
//!
//! # Power cuts
//!
//! A record never overwrites a valid record: one slot is always free, the new record goes there and
//! to the disk, and only then its predecessor's slot, or the oldest if no other is free, becomes
//! zeros. A write torn by a power cut is not a record, and its slot is free again. A slot lies
//! inside one disk sector.
//!
//! # Without write access
//!
//! The [`Store`] remembers unwritten records as long as it lives, and writes them with the next.

mod age;
mod record;
mod slot;

use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

use crate::error::{GuardError, Os, text};
use crate::lock::{self, Want};
use crate::protocol::Fault;
use slot::{Slot, encode};

pub use age::{EXPIRY, MOMENT, expires, lasts, pause};
pub use record::Record;

/// The file in the state directory.
const FILE: &str = "quarantine";
/// Bytes of a slot. A divisor of 512, so that no slot lies in two sectors.
const SLOT_BYTES: usize = 256;
/// Slots of the file.
const SLOTS: usize = 64;
/// Records that can be kept: one slot is always free for the next write.
pub const RECORDS: usize = SLOTS - 1;
/// Bytes of the file.
const FILE_BYTES: usize = SLOTS * SLOT_BYTES;

/// Longest build-id that is compared, without the rest of longer ones. Linkers make 8 to 20 bytes.
pub const BUILD_ID_BYTES: usize = 32;
/// Longest path that is kept.
pub const PATH_BYTES: usize = 112;
/// Longest name of a target that is kept.
pub const TARGET_BYTES: usize = 36;
/// Bytes of a boot id.
pub const BOOT_ID_BYTES: usize = 16;

/// Number of attempts to lock the file, and their interval: another command holds it for the time
/// of two writes. A longer wait has no use, because the other command may have been stopped.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Shortest prefix of a build-id, in hexadecimal digits, that identifies it.
const PREFIX_DIGITS: usize = 8;

/// An image and functions that must not be probed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The image. Without a build-id, a hash of device, inode, size and time of its last change.
    pub build_id: heapless::Vec<u8, BUILD_ID_BYTES>,
    /// The set of functions: [`functions_hash`].
    pub functions: u64,
    /// The real user of its processes, or [`ANY_USER`].
    pub user: u32,
}

/// Stands for all users: no user has this number (include/linux/uidgid.h, INVALID_UID).
pub const ANY_USER: u32 = u32::MAX;

impl Key {
    /// Key of an image and a set of functions, for all users.
    #[must_use]
    pub fn new(build_id: &[u8], functions: u64) -> Self {
        let build_id = build_id.iter().copied().take(BUILD_ID_BYTES).collect();
        Self { build_id, functions, user: ANY_USER }
    }

    /// The same key for processes of one user.
    #[must_use]
    pub fn of_user(self, user: u32) -> Self {
        Self { user, ..self }
    }

    /// True if an entry of this key holds for the other key.
    fn covers(&self, other: &Self) -> bool {
        (self.user == ANY_USER || self.user == other.user)
            && (&self.build_id, self.functions) == (&other.build_id, other.functions)
    }
}

/// Identifies a set of functions, regardless of order and repetition: FNV-1a with 64 bits over the
/// names in the order of their bytes, a zero byte after each. It is in files, so it never changes.
pub fn functions_hash<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    // http://www.isthe.com/chongo/tech/comp/fnv/
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// True for a fault that the probes may have caused: raised by the kernel, or the process' own
/// abort. A signal of another process removes the probes without blame. An unknown signal is the
/// worse case. Its death is another question: some programs handle faults and continue.
#[must_use]
pub fn deserves(fault: &Fault) -> bool {
    // include/uapi/asm-generic/siginfo.h: 0 or less if sent by users, more if raised by the kernel
    // (SI_KERNEL is 0x80). abort(3) sends itself SIGABRT by tgkill.
    *fault == Fault::UNTOLD
        || fault.code > 0
        || (fault.signal == libc::SIGABRT && fault.code == libc::SI_TKILL && !fault.sent)
}

/// Cuts a text to a record's capacity. Replaces control characters: programs choose their paths.
#[must_use]
pub fn cut<const N: usize>(text: &str) -> heapless::String<N> {
    let mut cut = heapless::String::new();
    for c in text.chars() {
        if cut.push(if c.is_control() { '?' } else { c }).is_err() {
            break;
        }
    }
    cut
}

/// A slot and its new content.
type Write = (usize, [u8; SLOT_BYTES]);
const ZEROS: [u8; SLOT_BYTES] = [0; SLOT_BYTES];

fn slots(bytes: &[u8]) -> Vec<Slot> {
    bytes.chunks_exact(SLOT_BYTES).map(Slot::read).collect()
}

/// Writes, in this order, that add a record to the others. Each must have reached the disk before
/// the next begins.
fn writes(slots: &[Slot], record: &Record, expiry: Duration) -> Vec<Write> {
    let numbered = || slots.iter().enumerate();
    let oldest = |but: Option<usize>| {
        let taken = numbered().filter_map(|(index, slot)| Some((slot.sequence()?, index)));
        taken.filter(|(_, index)| Some(*index) != but).min().map(|(_, index)| index)
    };
    // A cut between the writes leaves two of one key: the newer counts.
    let same = numbered().filter_map(|(index, slot)| slot.like(record).map(|found| (found, index)));
    let mut same: Vec<((u64, &Record), usize)> = same.collect();
    same.sort_unstable_by_key(|((sequence, _), _)| *sequence);
    // A forgotten entry is not counted.
    let known = same.last().filter(|((_, known), _)| !age::is_over(known, record.time, expiry));
    let before = known.map_or(0, |((_, known), _)| known.times);
    let merged = record.after(before);
    let next = slots.iter().filter_map(Slot::sequence).max().map_or(1, |highest| highest.saturating_add(1));

    let unused = |slot: &Slot| slot.sequence().is_none();
    let free = numbered().find(|(_, slot)| unused(slot)).map(|(index, _)| index);
    // Full only if a cut came before the last write.
    let Some(place) = free.or_else(|| oldest(same.last().map(|(_, index)| *index))) else {
        return Vec::new();
    };
    let mut writes = vec![(place, encode(next, &merged))];
    writes.extend(same.iter().map(|(_, index)| (*index, ZEROS)).filter(|(index, _)| *index != place));
    let left = numbered().filter(|(index, slot)| *index != place && unused(slot)).count();
    if left + writes.len() - 1 == 0
        && let Some(oldest) = oldest(Some(place))
    {
        writes.push((oldest, ZEROS));
    }
    writes
}

/// The newest record of each key, the oldest first, and the number of damaged slots.
fn newest(slots: Vec<Slot>) -> (Vec<Record>, usize) {
    let damaged = slots.iter().filter(|slot| **slot == Slot::Damaged).count();
    let mut taken: Vec<(u64, Record)> = slots
        .into_iter()
        .filter_map(|slot| match slot {
            Slot::Taken { sequence, record } => Some((sequence, record)),
            _ => None,
        })
        .collect();
    taken.sort_unstable_by_key(|(sequence, _)| *sequence);
    let mut records: Vec<Record> = Vec::with_capacity(taken.len());
    for (_, record) in taken {
        records.retain(|older| !older.is_like(&record));
        records.push(record);
    }
    (records, damaged)
}

/// The quarantine of this box.
#[derive(Debug)]
pub struct Store {
    file: Option<File>,
    /// Records that could not be written, the oldest first, at most [`RECORDS`].
    held: RefCell<Vec<Record>>,
    expiry: Duration,
}

impl Store {
    /// Opens the file in the state directory; both are created if missing (0755, 0600). A read-only
    /// file is a quarantine as well: its entries hold.
    ///
    /// # Errors
    /// [`GuardError::Quarantine`] if no such file is possible; [`Store::in_memory`] is left then.
    pub fn open(state_dir: &Path) -> Result<Self, GuardError> {
        let path = state_dir.join(FILE);
        let failed = |os: Os| failed(&format!("open {}", path.display()), os);
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let made = DirBuilder::new().recursive(true).mode(0o755).create(state_dir);
        let opened = made.and_then(|()| options.clone().write(true).create(true).open(&path));
        let file = match opened {
            Ok(file) => file,
            Err(error) => options.open(&path).map_err(|_| failed(error.into()))?,
        };
        let metadata = file.metadata().map_err(|error| failed(error.into()))?;
        if !metadata.is_file() {
            return Err(failed(Errno::EEXIST.into()));
        }
        if metadata.len() < FILE_BYTES as u64 {
            // Reserves room early, so that it is there when needed; if the file system cannot,
            // writing does. The file's entry in its directory must reach the disk once.
            _ = fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES as libc::off_t);
            _ = file.sync_all();
            _ = File::open(state_dir).and_then(|directory| directory.sync_all());
        }
        Ok(Self::of(file))
    }

    /// A quarantine on an open file.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self { file: Some(file), held: RefCell::default(), expiry: EXPIRY }
    }

    /// A quarantine that ends with this process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, held: RefCell::default(), expiry: EXPIRY }
    }

    /// The same quarantine, with this expiry instead of [`EXPIRY`].
    #[must_use]
    pub fn expiring(self, expiry: Duration) -> Self {
        Self { expiry, ..self }
    }

    /// True if it outlives this process, as far as opening it shows.
    #[must_use]
    pub fn keeps(&self) -> bool {
        let flags = |file| nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(libc::O_RDONLY);
        self.file.as_ref().is_some_and(|file| flags(file) & libc::O_ACCMODE == libc::O_RDWR)
    }

    /// Returns the entry if these functions of this image must be left alone. The file is read
    /// again each time: another command may have changed it.
    ///
    /// # Errors
    /// If the file cannot be read, and they are not in what is remembered here.
    pub fn contains(&self, key: &Key) -> Result<Option<Record>, GuardError> {
        let now = age::now();
        let holds = |record: &&Record| record.key.covers(key) && age::holds(record, now, self.expiry);
        let mut found = self.held.borrow().iter().find(holds).cloned();
        if found.is_none() {
            found = newest(self.read()?).0.iter().find(holds).cloned();
        }
        if let Some(record) = found.as_ref().filter(|record| age::is_undated(record, now)) {
            // Its time begins now. If it cannot be written, the next caller dates it.
            _ = self.add(Record { time: now, times: 0, ..record.clone() });
        }
        Ok(found)
    }

    /// Puts a record into quarantine, or counts it once more. A full quarantine drops its oldest
    /// entry.
    ///
    /// # Errors
    /// If it could not be written. It still holds while this process runs, and is written with the
    /// next.
    pub fn add(&self, record: Record) -> Result<(), GuardError> {
        let mut held = self.held.borrow_mut();
        let before = held.iter().position(|held| held.is_like(&record)).map(|index| held.remove(index));
        if held.len() == RECORDS {
            held.remove(0);
        }
        held.push(record.after(before.map_or(0, |before| before.times)));
        let Some(file) = &self.file else { return Ok(()) };
        let _locked = Locked::new(file, Want::Write).map_err(|os| failed("lock its file", os))?;
        while let Some(record) = held.first() {
            let slots = slots(&read(file).map_err(|error| failed("read", error.into()))?);
            write(file, &writes(&slots, record, self.expiry))
                .map_err(|error| failed("write", error.into()))?;
            held.remove(0);
        }
        Ok(())
    }

    /// All entries that are not forgotten yet, the oldest first, and the number of damaged slots:
    /// all of them if the file cannot be read.
    pub fn list(&self) -> (Vec<Record>, usize) {
        let (mut records, damaged) = self.read().map_or((Vec::new(), SLOTS), newest);
        for held in self.held.borrow().iter() {
            records.retain(|record| !record.is_like(held));
            records.push(held.clone());
        }
        let now = age::now();
        records.retain(|record| match record.is_kill() {
            true => age::holds(record, now, self.expiry),
            false => !age::is_over(record, now, self.expiry),
        });
        (records, damaged)
    }

    /// Ends the quarantine of an image, by at least eight hexadecimal digits of its build-id, or of
    /// all. Returns the number gone for good; unwritten removals are still in [`list`](Self::list).
    pub fn clear(&self, build_id: Option<&str>) -> usize {
        let chosen = |record: &Record| build_id.is_none_or(|digits| begins(&record.key.build_id, digits));
        self.remove(&chosen, build_id.is_none())
    }

    /// A process with this key has lived with probes: kills of others do not count any more.
    pub fn lived(&self, key: &Key) {
        self.remove(&|record| record.is_kill() && record.key == *key, false);
    }

    /// Removes the `chosen` records, and `damaged` slots. Returns the number gone for good.
    fn remove(&self, chosen: &dyn Fn(&Record) -> bool, damaged: bool) -> usize {
        let mut gone: Vec<(Key, bool)> = Vec::new();
        let mut note = |record: &Record| {
            let one = (record.key.clone(), record.is_kill());
            if !gone.contains(&one) {
                gone.push(one);
            }
        };
        // Without a lock, a seemingly free slot may be in writing: zeros would be lost, or cut it.
        if let Some(file) = &self.file
            && let Ok(_locked) = Locked::new(file, Want::Write)
            && let Ok(bytes) = read(file)
        {
            let zero = |index| write(file, &[(index, ZEROS)]).is_ok();
            let mut slots: Vec<(usize, Slot)> = slots(&bytes).into_iter().enumerate().collect();
            // Older ones of a key first: a cut must not bring back an old count.
            slots.sort_unstable_by_key(|(_, slot)| slot.sequence());
            for (index, slot) in slots {
                match slot {
                    Slot::Taken { record, .. } if chosen(&record) && zero(index) => note(&record),
                    Slot::Damaged if damaged => _ = zero(index),
                    _ => {}
                }
            }
        }
        self.held.borrow_mut().retain(|record| {
            let stays = !chosen(record);
            if !stays {
                note(record);
            }
            stays
        });
        gone.len()
    }

    fn read(&self) -> Result<Vec<Slot>, GuardError> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        // Between two writes of another process a recounted record has moved, and could be missed.
        // A process that holds the lock for long has been stopped and writes nothing either.
        let _locked = Locked::new(file, Want::Read);
        Ok(slots(&read(file).map_err(|error| failed("read", error.into()))?))
    }
}

fn failed(step: &str, os: Os) -> GuardError {
    GuardError::Quarantine { step: text(step), os }
}

/// Contents of the file, up to its bound; zeros for the rest.
fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FILE_BYTES];
    let mut read = 0;
    while read < FILE_BYTES {
        match file.read_at(&mut bytes[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn write(file: &File, writes: &[Write]) -> io::Result<()> {
    for (index, bytes) in writes {
        file.write_all_at(bytes, (index * SLOT_BYTES) as u64)?;
        file.sync_data()?;
    }
    Ok(())
}

/// The file is locked as long as this lives.
struct Locked<'f>(&'f File);

impl<'f> Locked<'f> {
    fn new(file: &'f File, want: Want) -> Result<Self, Os> {
        for _ in 0..LOCK_TRIES {
            match lock::set(file, want) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::EAGAIN) => std::thread::sleep(LOCK_PAUSE),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EAGAIN.into())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing the file would unlock it as well; this cannot fail.
        _ = lock::set(self.0, Want::Nothing);
    }
}

/// True if these digits are the bytes, or their beginning.
fn begins(bytes: &[u8], digits: &str) -> bool {
    let enough = digits.len() >= PREFIX_DIGITS || digits.len() == 2 * bytes.len();
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(u32::from);
    let mut wanted = digits.chars().map(|digit| digit.to_digit(16));
    enough && digits.len() <= 2 * bytes.len() && nibbles.zip(&mut wanted).all(|(n, wanted)| wanted == Some(n))
}

#[cfg(test)]
mod tests;
