//! Python functions: questions of the programs and answers of the collector, in shared memory.

use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::layout::{
    AWAIT_USES, CODE_RESUMABLE_FLAGS, CODE_RESUMES, CODE_UNTOLD, CODE_UNWANTED, CODE_WAITING, CodeSlot,
    CodeText, POOL_ROWS, PythonPool, SITE_FUNCTION_MASK, TEXT_WORDS,
};
use crate::mapping::{MapError, Mapping};

const LOW: u64 = 0xffff_ffff;

/// The mapped arrays.
#[derive(Debug)]
pub struct Codes {
    slots: Mapping,
    slot_count: usize,
    pool: Mapping,
    texts: Mapping,
    text_count: usize,
}

/// A function that was called for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The row that counts its calls; `None` if no row was free.
    pub row: Option<u32>,
    /// First line of the function.
    pub line: u32,
    /// True for a generator or a coroutine.
    pub resumes: bool,
    /// Name of the file.
    pub file: Text,
    /// Name of the function.
    pub name: Text,
    /// Slot that counts the calls that found no row.
    pub slot: Slot,
}

/// Position of a function among the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    index: u32,
    content: u64,
    /// Mark by which the programs distinguish creations of generators from calls.
    marks: u64,
}

/// A string as it is in the interpreter's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Number of characters.
    pub length: u32,
    /// The interpreter's description of their storage.
    pub state: u32,
    /// Bytes at the text offset of an ASCII string; truncated.
    pub bytes: [u8; TEXT_WORDS * 8],
}

/// Treatment of the calls of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Counted in this row.
    Row(u32),
    /// Counted in its slot, as there is no row.
    Wait,
    /// Not requested.
    Unwanted,
}

impl Codes {
    /// Maps the three arrays with these numbers of slots and texts.
    ///
    /// # Errors
    /// [`MapError`] if a descriptor is not that array or memory is short.
    pub fn map(
        slots: (impl AsFd, usize),
        pool: impl AsFd,
        texts: (impl AsFd, usize),
    ) -> Result<Self, MapError> {
        Ok(Self {
            slots: Mapping::write(slots.0, slots.1, size_of::<CodeSlot>())?,
            slot_count: slots.1,
            pool: Mapping::write(pool, 1, size_of::<PythonPool>())?,
            texts: Mapping::read(texts.0, texts.1, size_of::<CodeText>())?,
            text_count: texts.1.max(1),
        })
    }

    /// Rows that programs can take.
    pub fn free_rows(&self) -> u64 {
        self.pool(offset_of!(PythonPool, tail)).wrapping_sub(self.pool(offset_of!(PythonPool, head)))
    }

    /// Gives programs a row to take, for its `nth` use.
    pub fn give_row(&self, row: u32, nth: u32) {
        let tail = self.pool(offset_of!(PythonPool, tail));
        let place = (tail % POOL_ROWS as u64) as usize * size_of::<u64>();
        self.store(&self.pool, offset_of!(PythonPool, rows) + place, u64::from(row) | u64::from(nth) << 32);
        self.store(&self.pool, offset_of!(PythonPool, tail), tail + 1);
    }

    /// The next function that was called for the first time.
    pub fn next(&self) -> Option<Code> {
        let read = self.pool(offset_of!(PythonPool, texts_tail));
        let at = (read % self.text_count as u64) as usize * size_of::<CodeText>();
        let word = |field: usize| self.texts.words(at + field, 1).first();
        // Incomplete until its sequence matches: a program may be interrupted while it writes.
        if word(offset_of!(CodeText, sequence))?.load(Ordering::SeqCst) != read + 1 {
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
        let (row, line) = (load(offset_of!(CodeText, row)), load(offset_of!(CodeText, line)));
        let code = Code {
            row: (row & CODE_WAITING == 0).then_some((row & SITE_FUNCTION_MASK) as u32),
            line: (line & LOW) as u32,
            resumes: (line >> 32) as u32 & CODE_RESUMABLE_FLAGS != 0,
            file: text(offset_of!(CodeText, file_length), offset_of!(CodeText, file)),
            name: text(offset_of!(CodeText, name_length), offset_of!(CodeText, name)),
            slot: Slot {
                index: load(offset_of!(CodeText, slot)) as u32,
                content: load(offset_of!(CodeText, content)),
                marks: row & CODE_RESUMES,
            },
        };
        self.store(&self.pool, offset_of!(PythonPool, texts_tail), read + 1);
        Some(code)
    }

    /// Sets the treatment of a function's calls from now on.
    pub fn answer(&self, slot: Slot, answer: Answer) {
        let row = match answer {
            Answer::Row(row) => u64::from(row) | slot.marks,
            Answer::Wait => CODE_WAITING | slot.marks,
            Answer::Unwanted => CODE_UNWANTED,
        };
        let at = slot.index as usize * size_of::<CodeSlot>();
        // A slot changes its function only after the answer that this one was not requested.
        if self.slots.load(at + offset_of!(CodeSlot, content)) == slot.content {
            self.store(&self.slots, at + offset_of!(CodeSlot, row), row);
        }
    }

    /// The row for whole awaits of the function with this row number among those of Python; `None`
    /// if none has begun.
    pub fn whole(&self, row: u32) -> Option<u32> {
        let whole = self.slots.load(Self::whole_at(row)) & SITE_FUNCTION_MASK;
        (whole != 0).then_some(whole as u32)
    }

    /// Frees the row with this number: open awaits in it no longer count, and its next use is
    /// `nth`.
    pub fn free_whole(&self, row: u32, nth: u32) {
        self.store(&self.slots, Self::whole_at(row), u64::from(nth & AWAIT_USES) << 32);
    }

    fn whole_at(row: u32) -> usize {
        row as usize * size_of::<CodeSlot>() + offset_of!(CodeSlot, whole)
    }

    /// Calls of a requested function while it had no row.
    pub fn waited(&self, slot: Slot) -> u64 {
        self.slots.load(slot.index as usize * size_of::<CodeSlot>() + offset_of!(CodeSlot, waiting))
    }

    /// Calls of functions whose description found no place so far, so that their names are unknown.
    pub fn untold(&self) -> u64 {
        if self.pool(offset_of!(PythonPool, untold)) == 0 {
            return 0;
        }
        let slots = (0..self.slot_count).map(|index| index * size_of::<CodeSlot>());
        let untold = slots.filter(|at| self.slots.load(at + offset_of!(CodeSlot, row)) & CODE_UNTOLD != 0);
        untold.map(|at| self.slots.load(at + offset_of!(CodeSlot, waiting))).sum()
    }

    fn pool(&self, field: usize) -> u64 {
        self.pool.words(field, 1).first().map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Earlier writes are visible first, and before any later read: a program that finds the texts
    /// read up to its own reports its text, or that text is found here.
    fn store(&self, mapping: &Mapping, at: usize, value: u64) {
        let word: Option<&AtomicU64> = mapping.words(at, 1).first();
        if let Some(word) = word {
            word.store(value, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::layout;

    #[test]
    fn a_row_of_whole_awaits_is_found_and_is_of_another_use_once_it_is_free() {
        let path = std::env::temp_dir().join(format!("edgelat-codes-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(1 << 16).unwrap();
        let codes = Codes::map((&file, 4), &file, (&file, 1)).unwrap();
        assert_eq!((codes.whole(2), codes.whole(3)), (None, None));
        // As a program writes it: the third use of row 70.
        let word = 70u64 | 3 << layout::AWAIT_ROW_BITS | u64::from(layout::AWAIT_MARK);
        file.write_all_at(&word.to_ne_bytes(), Codes::whole_at(2) as u64).unwrap();
        assert_eq!((codes.whole(2), codes.whole(3)), (Some(70), None));
        codes.free_whole(2, AWAIT_USES + 2);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, Codes::whole_at(2) as u64).unwrap();
        assert_eq!(
            (codes.whole(2), u64::from_ne_bytes(bytes)),
            (None, 1 << 32),
            "it begins anew after the last"
        );
    }
}
