//! Which functions of which image must not be probed again.
//!
//! A target that died by a fault while it was probed may have died of the probes. Its supervisor starts it again, and
//! without a memory that outlives both the target and the agent, every restart would be probed to death as the first was.
//! So the build-id of the image and the set of functions are kept until somebody says that they may be tried again, or for
//! [a time](EXPIRY).
//!
//! Who starts a program can have it crash at will. So what a user's processes do holds for those of that user only, and one
//! fault keeps a build alone for [a moment](MOMENT): the second one before the first was forgotten is what lasts.
//!
//! SIGKILL soon after probes came is kept here too: it may be the memory of the probes that had the
//! OOM killer run, and an agent that was started again must not do that to the next process. Such
//! an entry (signal 9) stands beside one of a fault and holds for [minutes](pause), each time twice
//! as long; a process that lives with probes ends it.
//!
//! # The file
//!
//! `quarantine` in the state directory has 64 slots of 256 bytes each and never grows. The guard opens it before
//! there is a collector, which may open no file for writing; from then on it is read and written through that descriptor
//! with pread, pwrite and fdatasync. A slot that is all zeros is free. All numbers are little-endian:
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
//! | 44 | 4 | how often |
//! | 48 | 16 | boot id, zeros where it was not known |
//! | 64 | 32 | build-id |
//! | 96 | 112 | path of the image; of version 1, 120 |
//! | 208 | 4 | real user id, 4294967295 for all |
//! | 212 | 4 | zeros |
//! | 216 | 36 | name of the target |
//! | 252 | 4 | CRC-32C of all before |
//!
//! # Power cuts
//!
//! A record is never written over one that counts: there is a free slot always, the new record goes there and to the disk,
//! and only then the slot of its predecessor, or of the oldest when no other is free, becomes zeros. Whatever a cut leaves
//! of a write is not a record, and a slot like that is free again for the next one. A slot lies inside one disk sector.
//!
//! # Where it cannot be written
//!
//! What cannot be written is remembered by the [`Store`] as long as it lives, and written with the next record.

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
/// Records that can be kept: one slot is free always, for the next write.
pub const RECORDS: usize = SLOTS - 1;
/// Bytes of the file.
const FILE_BYTES: usize = SLOTS * SLOT_BYTES;

/// Longest build-id that is compared; the rest of a longer one does not count. Linkers make 8 to 20 bytes.
pub const BUILD_ID_BYTES: usize = 32;
/// Longest path that is kept.
pub const PATH_BYTES: usize = 112;
/// Longest name of a target that is kept.
pub const TARGET_BYTES: usize = 36;
/// Bytes of a boot id.
pub const BOOT_ID_BYTES: usize = 16;

/// How often and how long apart it is tried to lock the file: another command holds it for the time of two writes. Nobody
/// waits longer, for the other may have been stopped.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Shortest part of a build-id, in hexadecimal digits, that stands for it.
const PREFIX_DIGITS: usize = 8;

/// What must not be probed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The image. One without a build-id goes by a hash of device, inode, size and time of its last change.
    pub build_id: heapless::Vec<u8, BUILD_ID_BYTES>,
    /// The set of functions: [`functions_hash`].
    pub functions: u64,
    /// The real user of its processes; [`ANY_USER`]: all of them.
    pub user: u32,
}

/// Stands for all users: no user has this number (include/linux/uidgid.h, INVALID_UID).
pub const ANY_USER: u32 = u32::MAX;

impl Key {
    /// Of an image and a set of functions, whoever executes it.
    #[must_use]
    pub fn new(build_id: &[u8], functions: u64) -> Self {
        let build_id = build_id.iter().copied().take(BUILD_ID_BYTES).collect();
        Self { build_id, functions, user: ANY_USER }
    }

    /// The same for processes of one user.
    #[must_use]
    pub fn of_user(self, user: u32) -> Self {
        Self { user, ..self }
    }

    /// Does what is known of this key hold for the other one?
    fn covers(&self, other: &Self) -> bool {
        (self.user == ANY_USER || self.user == other.user)
            && (&self.build_id, self.functions) == (&other.build_id, other.functions)
    }
}

/// Stands for a set of functions, whatever their order and however often each is named: FNV-1a with 64 bits over the names
/// in the order of their bytes, a zero byte after each. It is in files, so it never changes.
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

/// Is it a fault that the probes could have to do with: one that the kernel raised, or the process' own abort? A signal
/// that another process sent takes the probes off, and says nothing of them. One of which nothing is known counts as the
/// worse.
///
/// Whether the process died of it is another question: some programs handle faults and go on.
#[must_use]
pub fn deserves(fault: &Fault) -> bool {
    // include/uapi/asm-generic/siginfo.h: what users send is 0 or less, what the kernel raises is more (SI_KERNEL is 0x80).
    // abort(3) sends itself SIGABRT by tgkill.
    *fault == Fault::UNTOLD
        || fault.code > 0
        || (fault.signal == libc::SIGABRT && fault.code == libc::SI_TKILL && !fault.sent)
}

/// Cuts a text to what a record holds. A program chooses its own path, so nothing stays in it that a terminal would obey.
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

/// A slot and what it becomes.
type Write = (usize, [u8; SLOT_BYTES]);
const ZEROS: [u8; SLOT_BYTES] = [0; SLOT_BYTES];

fn slots(bytes: &[u8]) -> Vec<Slot> {
    bytes.chunks_exact(SLOT_BYTES).map(Slot::read).collect()
}

/// What is written, in this order, so that a record is there besides the others. Each must have reached the disk before the
/// next one is begun.
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
    // What was forgotten is not counted.
    let known = same.last().filter(|((_, known), _)| !age::is_over(known, record.time, expiry));
    let before = known.map_or(0, |((_, known), _)| known.times);
    let merged = record.after(before);
    let next = slots.iter().filter_map(Slot::sequence).max().map_or(1, |highest| highest.saturating_add(1));

    let unused = |slot: &Slot| slot.sequence().is_none();
    let free = numbered().find(|(_, slot)| unused(slot)).map(|(index, _)| index);
    // Full only where a cut came before the last write.
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

/// The newest of each key, the oldest first, and the number of damaged slots.
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
    /// What could not be written, the oldest first, at most [`RECORDS`].
    held: RefCell<Vec<Record>>,
    expiry: Duration,
}

impl Store {
    /// Opens the file in the state directory; both are made where they are missing (0755, 0600). A file that can only be read
    /// is a quarantine all the same: what is in it holds.
    ///
    /// # Errors
    /// [`GuardError::Quarantine`] where there can be no such file; [`Store::in_memory`] is left then.
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
            // Room while there is room, so that it is there when it is needed; where the file system cannot, writing
            // does. That the file is in its directory must reach the disk once.
            _ = fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES as libc::off_t);
            _ = file.sync_all();
            _ = File::open(state_dir).and_then(|directory| directory.sync_all());
        }
        Ok(Self::of(file))
    }

    /// On a file that is open.
    #[must_use]
    pub fn of(file: File) -> Self {
        Self { file: Some(file), held: RefCell::default(), expiry: EXPIRY }
    }

    /// One that ends with this process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, held: RefCell::default(), expiry: EXPIRY }
    }

    /// The same, that forgets after this time instead of [`EXPIRY`].
    #[must_use]
    pub fn expiring(self, expiry: Duration) -> Self {
        Self { expiry, ..self }
    }

    /// Does it outlive this process, as far as opening it tells?
    #[must_use]
    pub fn keeps(&self) -> bool {
        let flags = |file| nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).unwrap_or(libc::O_RDONLY);
        self.file.as_ref().is_some_and(|file| flags(file) & libc::O_ACCMODE == libc::O_RDWR)
    }

    /// Must these functions of this image be left alone? The file is read again each time: another command may have changed
    /// it.
    ///
    /// # Errors
    /// When the file cannot be read, and they are not in what is remembered here.
    pub fn contains(&self, key: &Key) -> Result<Option<Record>, GuardError> {
        let now = age::now();
        let holds = |record: &&Record| record.key.covers(key) && age::holds(record, now, self.expiry);
        let mut found = self.held.borrow().iter().find(holds).cloned();
        if found.is_none() {
            found = newest(self.read()?).0.iter().find(holds).cloned();
        }
        if let Some(record) = found.as_ref().filter(|record| age::is_undated(record, now)) {
            // Its time begins now. What cannot be written is dated by the next one who asks.
            _ = self.add(Record { time: now, times: 0, ..record.clone() });
        }
        Ok(found)
    }

    /// Puts something into quarantine, or counts it once more. When the quarantine is full its oldest entry goes.
    ///
    /// # Errors
    /// When it could not be written. It is in quarantine all the same, as long as this process runs, and written with the
    /// next one.
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

    /// All of it that was not forgotten yet, the oldest first, and the number of slots whose content is damaged: all of them where the file cannot be
    /// read.
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

    /// Ends the quarantine of an image, by its build-id in hexadecimal or at least eight digits of its beginning, or of all of
    /// them. How many entries are gone for good; what could not be written is still in [`list`](Self::list).
    pub fn clear(&self, build_id: Option<&str>) -> usize {
        let chosen = |record: &Record| build_id.is_none_or(|digits| begins(&record.key.build_id, digits));
        self.remove(&chosen, build_id.is_none())
    }

    /// One of its processes has lived with probes: what others were killed for does not count any
    /// more.
    pub fn lived(&self, key: &Key) {
        self.remove(&|record| record.is_kill() && record.key == *key, false);
    }

    /// Removes those that are `chosen`, and with them what is `damaged`. How many are gone for
    /// good.
    fn remove(&self, chosen: &dyn Fn(&Record) -> bool, damaged: bool) -> usize {
        let mut gone: Vec<(Key, bool)> = Vec::new();
        let mut note = |record: &Record| {
            let one = (record.key.clone(), record.is_kill());
            if !gone.contains(&one) {
                gone.push(one);
            }
        };
        // Without a lock somebody may be writing to a slot that is free as far as we know; zeros would be lost, or cut it.
        if let Some(file) = &self.file
            && let Ok(_locked) = Locked::new(file, Want::Write)
            && let Ok(bytes) = read(file)
        {
            let zero = |index| write(file, &[(index, ZEROS)]).is_ok();
            let mut slots: Vec<(usize, Slot)> = slots(&bytes).into_iter().enumerate().collect();
            // Older ones of a key first: a cut must not bring back what was counted before.
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
        // Between two writes of another process a record that is counted once more has moved, and could be missed. One
        // that holds the lock for long has been stopped and writes nothing either.
        let _locked = Locked::new(file, Want::Read);
        Ok(slots(&read(file).map_err(|error| failed("read", error.into()))?))
    }
}

fn failed(step: &str, os: Os) -> GuardError {
    GuardError::Quarantine { step: text(step), os }
}

/// What there is of the file, up to its bound; zeros for the rest.
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
        // Closing the file would do as well; there is nothing that could go wrong.
        _ = lock::set(self.0, Want::Nothing);
    }
}

/// Are these digits the bytes, or their beginning?
fn begins(bytes: &[u8], digits: &str) -> bool {
    let enough = digits.len() >= PREFIX_DIGITS || digits.len() == 2 * bytes.len();
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(u32::from);
    let mut wanted = digits.chars().map(|digit| digit.to_digit(16));
    enough && digits.len() <= 2 * bytes.len() && nibbles.zip(&mut wanted).all(|(n, wanted)| wanted == Some(n))
}

#[cfg(test)]
mod tests;
