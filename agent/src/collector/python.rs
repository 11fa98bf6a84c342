//! Python functions, discovered while they are called.
//!
//! A function takes a free row from a pool at its first call, and its name and file wait in an
//! array. They are matched here with the requested names. A function that is not requested gives
//! its row back. A known function, which two programs met at the same time, keeps its row, and the
//! counts of the other row are added. Nothing is ever cleared in the kernel: a reused row counts
//! on, and its earlier counts are subtracted.
//!
//! A generator or coroutine has a second row and function here for its whole awaits, from first
//! resume to return. Programs take that row from the pool too, when the first await begins.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use edgelat_bpf::codes::{Answer, Code, Slot, Text};
use edgelat_bpf::layout::{AWAIT_USES, CodeSet, CodeSlot, CodeText, FrameSet, POOL_ROWS, Row};
use edgelat_bpf::{Codes, Frame, RowTotals, Rows};
use edgelat_image::PythonPattern;
use edgelat_image::python::Layout;

/// Range of rows for Python functions in a plan, which has no more. The first row counts all calls.
const ROWS: std::ops::RangeInclusive<u64> = 64..=1 << 16;
/// Range of slots for functions, of sets of the cache, and of waiting descriptions. A service of a
/// hundred thousand lines has some ten thousand functions.
const ENTRIES: std::ops::RangeInclusive<u64> = 64..=1 << 20;
/// Time after which a program that read the old answer has counted.
const SETTLING: Duration = Duration::from_millis(20);

/// Division of a plan's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows for functions, one of which counts all calls.
    pub rows: u32,
    /// Slots for functions, requested or not.
    pub slots: u32,
    /// Sets of the cache of code objects.
    pub sets: u32,
    /// Waiting descriptions.
    pub texts: u32,
    /// Sets of the frame table for open awaits.
    pub awaits: u32,
}

impl Sizes {
    /// Divides this many bytes; half is for rows, if the number of CPUs can be read.
    pub fn within(bytes: u64) -> Self {
        let possible =
            edgelat_guard::outside::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
        let last = possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u64>().ok());
        Self::on(last.unwrap_or(0) + 1, bytes)
    }

    fn on(lanes: u64, bytes: u64) -> Self {
        let entries = |part: u64, size: usize| {
            let fit = (bytes / part / size as u64).clamp(*ENTRIES.start(), *ENTRIES.end());
            1 << fit.ilog2()
        };
        Self {
            rows: (bytes / 2 / lanes / size_of::<Row>() as u64).clamp(*ROWS.start(), *ROWS.end()) as u32,
            slots: entries(8, size_of::<CodeSlot>()),
            sets: entries(16, size_of::<CodeSet>()),
            texts: entries(8, size_of::<CodeText>()),
            awaits: entries(16, size_of::<FrameSet>()),
        }
    }
}

/// A function with a name, a file and a line.
#[derive(Debug)]
pub struct Label {
    /// Qualified name, or the plain name if the interpreter knows no other.
    pub name: String,
    /// File, as given to the interpreter.
    pub file: String,
    /// First line.
    pub line: u32,
    /// True for a generator or a coroutine, whose calls are resumes.
    pub resumes: bool,
    /// True for an entry that is no function, but the whole awaits of the function before it.
    pub whole: bool,
    row: Option<u32>,
    /// Slots that count its calls while it has no row.
    slots: Vec<Slot>,
    /// Counts of its former rows.
    counted: Option<Box<RowTotals>>,
}

#[derive(Debug, Clone, Copy)]
enum Use {
    /// In reserve for the pool and for functions.
    Reserve,
    /// In the pool, or taken by a program whose description is on its way.
    Given,
    /// In use for a function.
    Label(usize),
    /// Given back once the calls inside have returned; its counts belong to the function, if any.
    Leaving(Option<usize>),
}

#[derive(Debug)]
struct RowUse {
    of: Use,
    /// Counts of its earlier uses.
    before: Option<Box<RowTotals>>,
    /// True if it counts whole awaits.
    whole: bool,
    /// Number of its earlier uses.
    nth: u32,
}

impl RowUse {
    fn new(of: Use) -> Self {
        Self { of, before: None, whole: false, nth: 0 }
    }

    fn label(&self) -> Option<usize> {
        match self.of {
            Use::Label(label) | Use::Leaving(Some(label)) => Some(label),
            _ => None,
        }
    }

    fn counted(&self, now: RowTotals) -> RowTotals {
        match &self.before {
            Some(before) => now.since(before),
            None => now,
        }
    }
}

/// Calls that are counted for no function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// There was no room for the function.
    pub no_room: u64,
    /// The code object could not be read.
    pub unreadable: u64,
    /// The function's name was not read: too many functions were called for the first time.
    pub unnamed: u64,
}

impl Lost {
    /// Returns the sum of all reasons.
    pub fn sum(self) -> u64 {
        self.no_room + self.unreadable + self.unnamed
    }
}

/// The Python functions that a plan measures.
#[derive(Debug)]
pub struct Python {
    codes: Codes,
    layout: Layout,
    /// True if names are qualified.
    qualified: bool,
    /// Requested patterns, with true if a called function matched.
    patterns: Vec<(PythonPattern, bool)>,
    first_row: u32,
    rows: Vec<RowUse>,
    /// Rows in reserve, and rows that are on their way back to it, each with the start of the wait.
    reserve: VecDeque<u32>,
    leaving: Vec<(u32, Instant)>,
    labels: Vec<Label>,
    known: HashMap<(String, String, u32), usize>,
    /// Functions that found no row.
    waiting: VecDeque<usize>,
    /// True if whole awaits are measured.
    awaits: bool,
}

impl Python {
    /// Fills the pool with the rows from `first_row` on, except the first, which counts all calls.
    pub fn new(
        codes: Codes,
        layout: Layout,
        qualified: bool,
        patterns: Vec<PythonPattern>,
        (first_row, rows): (u32, u32),
        awaits: bool,
    ) -> Self {
        let of = |row| if row == 0 { Use::Given } else { Use::Reserve };
        let mut python = Self {
            codes,
            layout,
            qualified,
            patterns: patterns.into_iter().map(|pattern| (pattern, false)).collect(),
            first_row,
            rows: (0..rows).map(|row| RowUse::new(of(row))).collect(),
            reserve: (first_row + 1..first_row + rows).collect(),
            leaving: Vec::new(),
            labels: Vec::new(),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            awaits,
        };
        python.refill();
        python
    }

    /// The functions found so far, in the order of their first calls.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// Requested patterns that match no called function.
    pub fn not_called(&self) -> impl Iterator<Item = &PythonPattern> {
        self.patterns.iter().filter(|(_, met)| !met).map(|(pattern, _)| pattern)
    }

    /// The function that a frame belongs to. Also `None` for an await of an earlier use of its row.
    pub fn label_of(&self, frame: &Frame) -> Option<usize> {
        let row = self.rows.get(frame.function.checked_sub(self.first_row)? as usize)?;
        row.label().filter(|_| frame.await_use == row.whole.then_some(row.nth & AWAIT_USES))
    }

    /// Takes in functions called for the first time, and rows whose calls have all returned.
    pub fn attend(&mut self, rows: &Rows) {
        while let Some(code) = self.codes.next() {
            self.meet(&code);
        }
        for label in 0..self.labels.len() {
            if let Some(row) = self.labels[label].row.filter(|_| self.awaits && self.labels[label].resumes) {
                self.own_whole(label, row);
            }
        }
        self.collect_leaving(rows);
        while let Some(&label) = self.waiting.front() {
            if self.labels[label].row.is_none() {
                let Some(row) = self.reserve.pop_front() else { break };
                self.own(label, row);
            }
            self.waiting.pop_front();
        }
        self.refill();
    }

    fn meet(&mut self, code: &Code) {
        let (name, file) = (self.text(&code.name), self.text(&code.file));
        let mut wanted = false;
        for (pattern, met) in &mut self.patterns {
            let fits = pattern.matches(&file, &name, self.qualified);
            *met |= fits;
            wanted |= fits;
        }
        if !wanted {
            self.codes.answer(code.slot, Answer::Unwanted);
            if let Some(row) = code.row {
                self.leave(row, None);
            }
            return;
        }
        let label = self.label(name, file, code);
        self.labels[label].slots.push(code.slot);
        match (self.labels[label].row, code.row) {
            (None, Some(row)) => self.own(label, row),
            (None, None) => {
                self.codes.answer(code.slot, Answer::Wait);
                self.waiting.push_back(label);
            }
            (Some(own), other) => {
                self.codes.answer(code.slot, Answer::Row(own));
                if let Some(row) = other {
                    self.leave(row, Some(label));
                }
            }
        }
    }

    fn label(&mut self, name: String, file: String, code: &Code) -> usize {
        let key = (name, file, code.line);
        if let Some(&label) = self.known.get(&key) {
            return label;
        }
        let label = |name, whole: bool| Label {
            name,
            file: key.1.clone(),
            line: code.line,
            resumes: code.resumes && !whole,
            whole,
            row: None,
            slots: Vec::new(),
            counted: None,
        };
        let at = self.labels.len();
        self.labels.push(label(key.0.clone(), false));
        if code.resumes && self.awaits {
            self.labels.push(label(format!("await {}", key.0), true));
        }
        self.known.insert(key, at);
        at
    }

    /// Takes in the row that counts the whole awaits of a function with this row, if there is one.
    fn own_whole(&mut self, label: usize, row: u32) {
        let (whole, Some(row)) = (label + 1, self.codes.whole(row - self.first_row)) else { return };
        if self.labels[whole].row == Some(row) {
            return;
        }
        if self.labels[whole].row.is_none() {
            self.labels[whole].row = Some(row);
            self.use_whole(row, Use::Label(whole));
        } else {
            self.leave_whole(row, Some(whole));
        }
    }

    fn use_whole(&mut self, row: u32, of: Use) {
        if let Some(used) = self.row(row) {
            (used.of, used.whole) = (of, true);
        }
    }

    fn leave_whole(&mut self, row: u32, label: Option<usize>) {
        self.use_whole(row, Use::Leaving(label));
        self.leaving.push((row, Instant::now()));
    }

    /// Assigns a row to a function, whose calls count there from here on.
    fn own(&mut self, label: usize, row: u32) {
        self.labels[label].row = Some(row);
        if let Some(used) = self.row(row) {
            used.of = Use::Label(label);
        }
        self.labels[label].slots.iter().for_each(|slot| self.codes.answer(*slot, Answer::Row(row)));
    }

    fn leave(&mut self, row: u32, label: Option<usize>) {
        if let Some(used) = self.row(row) {
            used.of = Use::Leaving(label);
            self.leaving.push((row, Instant::now()));
        }
    }

    fn row(&mut self, row: u32) -> Option<&mut RowUse> {
        self.rows.get_mut(row.checked_sub(self.first_row)? as usize)
    }

    /// Takes back rows that no program counts in any more.
    fn collect_leaving(&mut self, rows: &Rows) {
        for (row, since) in std::mem::take(&mut self.leaving) {
            if since.elapsed() < SETTLING || !self.take_back(row, rows.read(row as usize)) {
                self.leaving.push((row, since));
            }
        }
    }

    /// Takes back a row with the counts `now`, if no call is inside.
    fn take_back(&mut self, row: u32, now: RowTotals) -> bool {
        let Some(used) = self.row(row) else { return true };
        let counted = used.counted(now.clone());
        let (whole, nth) = (used.whole, used.nth + 1);
        let label = match used.of {
            Use::Leaving(label) => label,
            _ => None,
        };
        // An await of an unwanted function may stay open as long as the process lives.
        let unwanted = whole && label.is_none();
        if counted.entries != counted.exits() + counted.lost() && !unwanted {
            return false;
        }
        *used = RowUse { of: Use::Reserve, before: Some(Box::new(now)), whole: false, nth };
        self.reserve.push_back(row);
        let number = row - self.first_row;
        if let Some(row) = self.codes.whole(number).filter(|_| !whole) {
            self.leave_whole(row, label.map(|label| label + 1));
        }
        self.codes.free_whole(number, nth);
        if let Some(label) = label.and_then(|label| self.labels.get_mut(label)) {
            label.counted = Some(Box::new(match &label.counted {
                Some(before) => before.and(&counted),
                None => counted,
            }));
        }
        true
    }

    /// Fills the pool with most rows: programs take them between two looks, which may be far apart
    /// on a busy machine. Some stay for functions that found no row.
    fn refill(&mut self) {
        let spare = (self.rows.len() - self.rows.len() / 8).min(POOL_ROWS) as u64;
        for _ in self.codes.free_rows()..spare {
            let Some(row) = self.reserve.pop_front() else { break };
            let Some(used) = self.row(row) else { break };
            used.of = Use::Given;
            let nth = used.nth;
            self.codes.give_row(row, nth);
        }
    }

    /// All calls of each function so far, and the number of those made while it had no row.
    pub fn totals(&self, rows: &Rows) -> impl Iterator<Item = (RowTotals, u64)> {
        // Whole awaits follow their function, whose row has the number of awaits without a row.
        let mut awaits_unresolved = 0;
        self.labels.iter().enumerate().map(move |(label, function)| {
            let mut total = self.counted(label, function, rows);
            let unresolved = match function.whole {
                true => awaits_unresolved,
                false => function.slots.iter().map(|slot| self.codes.waited(*slot)).sum(),
            };
            awaits_unresolved = total.awaits_unresolved;
            total.entries += unresolved;
            (total, unresolved)
        })
    }

    /// Counts of the rows that a function has or had.
    fn counted(&self, label: usize, function: &Label, rows: &Rows) -> RowTotals {
        let mut total = function.counted.as_deref().cloned().unwrap_or(RowTotals::NONE);
        for row in self.leaving.iter().map(|(row, _)| *row).chain(function.row) {
            let used = self.rows.get((row - self.first_row) as usize);
            if let Some(used) = used.filter(|used| used.label() == Some(label)) {
                total = total.and(&used.counted(rows.read(row as usize)));
            }
        }
        total
    }

    /// Calls of Python functions that entered the evaluation loop, wanted or not.
    pub fn calls(&self, rows: &Rows) -> u64 {
        rows.entries(self.first_row as usize)
    }

    /// Calls among these that are in no function's account.
    pub fn lost(&self, rows: &Rows) -> Lost {
        let all = rows.read(self.first_row as usize);
        Lost { no_room: all.table_full, unreadable: all.unkeyed, unnamed: self.codes.untold() }
    }

    fn text(&self, text: &Text) -> String {
        self.layout.text_of(text.length, text.state, &text.bytes).unwrap_or_else(|| "?".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::mem::offset_of;
    use std::os::unix::fs::FileExt;

    use edgelat_bpf::layout::{CODE_OPEN, CODE_UNTOLD, CODE_WAITING, CodeSlot, CodeText, PythonPool};

    use super::*;

    /// An array of the programs, in a file.
    fn array(name: &str, bytes: usize, words: &[(usize, u64)]) -> File {
        let path = std::env::temp_dir().join(format!("edgelat-{name}-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(bytes.next_multiple_of(1 << 16) as u64).unwrap();
        words.iter().for_each(|(at, word)| file.write_all_at(&word.to_ne_bytes(), *at as u64).unwrap());
        file
    }

    #[test]
    fn calls_without_a_row_and_without_a_name_are_counted_each_in_its_place() {
        let slot = |index: usize, content: u64, row: u64, waiting: u64| {
            let at = index * size_of::<CodeSlot>();
            [
                (at + offset_of!(CodeSlot, content), content),
                (at + offset_of!(CodeSlot, row), row),
                (at + offset_of!(CodeSlot, waiting), waiting),
            ]
        };
        let slots = [
            slot(0, 70, CODE_WAITING | CODE_OPEN, 5),
            slot(1, 71, CODE_WAITING | CODE_OPEN | CODE_UNTOLD, 3),
        ]
        .concat();
        let text = [
            (offset_of!(CodeText, sequence), 1),
            (offset_of!(CodeText, content), 70),
            (offset_of!(CodeText, row), CODE_WAITING | CODE_OPEN),
        ];
        let slots = array("slots", size_of::<CodeSlot>() * 2, &slots);
        let pool = array("pool", size_of::<PythonPool>(), &[(offset_of!(PythonPool, untold), 1)]);
        let texts = array("texts", size_of::<CodeText>(), &text);
        let codes = Codes::map((&slots, 2), &pool, (&texts, 1)).unwrap();
        let code = codes.next().unwrap();
        assert_eq!((code.row, codes.waited(code.slot), codes.untold()), (None, 5, 3));
        codes.answer(code.slot, Answer::Row(9));
        let mut row = [0; 8];
        slots.read_exact_at(&mut row, offset_of!(CodeSlot, row) as u64).unwrap();
        assert_eq!((u64::from_ne_bytes(row), codes.waited(code.slot)), (9, 5), "counters only grow");
    }

    #[test]
    fn the_memory_of_a_plan_is_shared_out() {
        let usual = Sizes::on(2, 4 << 20);
        assert_eq!(usual, Sizes { rows: 468, slots: 1 << 14, sets: 1 << 12, texts: 1 << 10, awaits: 1 << 9 });
        assert_eq!(Sizes::on(2, 64 << 20).rows, 7489);
        assert_eq!(
            Sizes::on(64, 1 << 20),
            Sizes { rows: 64, slots: 1 << 12, sets: 1 << 10, texts: 1 << 8, awaits: 1 << 7 }
        );
        for (lanes, bytes) in [(1, 4 << 20), (2, 64 << 20), (8, 1 << 30)] {
            let sizes = Sizes::on(lanes, bytes);
            let all = u64::from(sizes.rows) * lanes * size_of::<Row>() as u64
                + u64::from(sizes.slots) * size_of::<CodeSlot>() as u64
                + u64::from(sizes.sets) * size_of::<CodeSet>() as u64
                + u64::from(sizes.texts) * size_of::<CodeText>() as u64
                + u64::from(sizes.awaits) * size_of::<FrameSet>() as u64;
            assert!(all <= bytes - bytes / 8, "{sizes:?} takes {all} of {bytes}");
        }
    }
}
