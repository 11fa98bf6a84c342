//! Code objects of Python: what the programs ask about them, and what we answer, in memory that both write.

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::layout::{
    CODE_TEXTS, CODE_UNWANTED, CODE_WAITING, CodeSlot, CodeText, POOL_ROWS, PythonPool, TEXT_WORDS,
};
use crate::mapping::{MapError, Mapping};

const LOW: u64 = 0xffff_ffff;

/// The mapped arrays.
#[derive(Debug)]
pub struct Codes {
    slots: Mapping,
    pool: Mapping,
    texts: Mapping,
}

/// A code object that was seen for the first time, at its address for its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The process.
    pub tgid: u32,
    /// The row that its calls are counted in; `None` where none was free.
    pub row: Option<u32>,
    /// First line of the function.
    pub line: u32,
    /// Flags of the code object.
    pub flags: u32,
    /// Name of the file.
    pub file: Text,
    /// Name of the function.
    pub name: Text,
    slot: u32,
    object: u64,
    fingerprint: u64,
}

/// A string as it stands in the interpreter's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Characters.
    pub length: u32,
    /// The interpreter's word on how they are stored.
    pub state: u32,
    /// What stands where a string of ASCII has its text; cut off.
    pub bytes: [u8; TEXT_WORDS * 8],
}

/// What becomes of the calls of a code object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// They are counted in this row.
    Row(u32),
    /// Nobody asked for them.
    Unwanted,
}

impl Codes {
    /// Maps the three arrays; `slots` is the number of slots.
    ///
    /// # Errors
    /// [`MapError`] when a descriptor is not that array or memory is short.
    pub fn map(slots: impl AsFd, pool: impl AsFd, texts: impl AsFd, count: usize) -> Result<Self, MapError> {
        Ok(Self {
            slots: Mapping::write(slots, count, size_of::<CodeSlot>())?,
            pool: Mapping::write(pool, 1, size_of::<PythonPool>())?,
            texts: Mapping::read(texts, CODE_TEXTS, size_of::<CodeText>())?,
        })
    }

    /// Rows that programs can take.
    pub fn free_rows(&self) -> u64 {
        self.pool(offset_of!(PythonPool, tail)).wrapping_sub(self.pool(offset_of!(PythonPool, head)))
    }

    /// Gives programs a row to take.
    pub fn give_row(&self, row: u32) {
        let tail = self.pool(offset_of!(PythonPool, tail));
        let place = (tail % POOL_ROWS as u64) as usize * size_of::<u64>();
        self.store(&self.pool, offset_of!(PythonPool, rows) + place, u64::from(row));
        self.store(&self.pool, offset_of!(PythonPool, tail), tail + 1);
    }

    /// The next code object that was seen for the first time.
    pub fn next(&self) -> Option<Code> {
        let read = self.pool(offset_of!(PythonPool, texts_tail));
        let at = (read % CODE_TEXTS as u64) as usize * size_of::<CodeText>();
        let word = |field: usize| self.texts.words(at + field, 1).first();
        // Not whole until it says so; a program may have been interrupted while it wrote.
        if word(offset_of!(CodeText, sequence))?.load(Ordering::Acquire) != read + 1 {
            return None;
        }
        let load = |field: usize| word(field).map_or(0, |word| word.load(Ordering::Relaxed));
        let text = |length: usize, field: usize| {
            let mut bytes = [0; TEXT_WORDS * 8];
            let words = self.texts.words(at + field, TEXT_WORDS);
            for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
                into.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            let length = load(length);
            Text { length: (length & LOW) as u32, state: (length >> 32) as u32, bytes }
        };
        let (slot, row, line) = (
            load(offset_of!(CodeText, slot)),
            load(offset_of!(CodeText, row)),
            load(offset_of!(CodeText, line)),
        );
        let code = Code {
            tgid: (slot >> 32) as u32,
            row: (row != CODE_WAITING).then_some(row as u32),
            line: (line & LOW) as u32,
            flags: (line >> 32) as u32,
            file: text(offset_of!(CodeText, file_length), offset_of!(CodeText, file)),
            name: text(offset_of!(CodeText, name_length), offset_of!(CodeText, name)),
            slot: (slot & LOW) as u32,
            object: load(offset_of!(CodeText, code)),
            fingerprint: load(offset_of!(CodeText, fingerprint)),
        };
        self.store(&self.pool, offset_of!(PythonPool, texts_tail), read + 1);
        Some(code)
    }

    /// Answers what becomes of the calls of a code object from now on, and returns how many there were while it had no
    /// row. Does nothing where another object has taken its place.
    pub fn answer(&self, code: &Code, answer: Answer) -> u64 {
        let Some(at) = self.slot_of(code) else { return 0 };
        let row = match answer {
            Answer::Row(row) => u64::from(row),
            Answer::Unwanted => CODE_UNWANTED,
        };
        self.store(&self.slots, at + offset_of!(CodeSlot, owner), u64::from(code.tgid) << 32 | row);
        self.waiting(code)
    }

    /// Calls of a code object while it had no row.
    pub fn waiting(&self, code: &Code) -> u64 {
        match (code.row, self.slot_of(code)) {
            (None, Some(at)) => self.slots.load(at + offset_of!(CodeSlot, waiting)),
            _ => 0,
        }
    }

    /// Where its slot is; `None` where another object has taken its place.
    fn slot_of(&self, code: &Code) -> Option<usize> {
        let at = code.slot as usize * size_of::<CodeSlot>();
        let load = |field: usize| self.slots.load(at + field);
        let same = load(offset_of!(CodeSlot, code)) == code.object
            && load(offset_of!(CodeSlot, fingerprint)) == code.fingerprint;
        same.then_some(at)
    }

    fn pool(&self, field: usize) -> u64 {
        self.pool.words(field, 1).first().map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// What was written before is seen before.
    fn store(&self, mapping: &Mapping, at: usize, value: u64) {
        let word: Option<&AtomicU64> = mapping.words(at, 1).first();
        if let Some(word) = word {
            word.store(value, Ordering::Release);
        }
    }
}
