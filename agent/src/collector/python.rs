//! Functions of Python: which there are is learnt while they are called.
//!
//! A code object that is called for the first time has a row at once, from a pool of free ones, and its name and file
//! wait in an array. They are matched here with what was asked for. A function that nobody asked for gives its row back;
//! one that is known already under this name, because its code object was made anew, keeps the row that it has, and what
//! was counted in the new one until then is added. Nothing is ever cleared in the kernel: a row that is used again
//! counts on, and what it had at that time is taken off.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use edgelat_bpf::codes::{Answer, Code, Text};
use edgelat_bpf::layout::{POOL_ROWS, Row};
use edgelat_bpf::{Codes, RowTotals, Rows};
use edgelat_image::PythonPattern;
use edgelat_image::python::Layout;

/// Most and fewest rows for functions of Python in one plan, the first of which counts all calls.
const ROWS: std::ops::RangeInclusive<u64> = 64..=512;
/// Slots for code objects: a service of a hundred thousand lines has some ten thousand functions.
pub const SLOTS: u32 = 1 << 14;
/// A program that read the old answer has counted by then.
const SETTLING: Duration = Duration::from_millis(20);
/// CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR (Include/cpython/code.h, 3.8 to 3.15).
const RESUMABLE: u32 = 0x20 | 0x80 | 0x200;

/// A function with a name, a file and a line. Many code objects may be one function.
#[derive(Debug)]
pub struct Label {
    /// Name with those around it, or its own name where the interpreter knows no other.
    pub name: String,
    /// File, as the interpreter was given it.
    pub file: String,
    /// First line.
    pub line: u32,
    /// Its calls are resumes: it is a generator or a coroutine.
    pub resumes: bool,
    row: Option<u32>,
    /// What was counted in rows that it has no more.
    counted: RowTotals,
    /// Calls before it had a row.
    unresolved: u64,
}

#[derive(Debug, Clone)]
enum Use {
    /// Ours to give.
    Reserve,
    /// In the pool, or taken by a program whose description is on its way.
    Given,
    /// Of a function.
    Label(usize),
    /// Given back, as soon as the calls that are inside have returned; what it counted is that of the function, if any.
    Leaving { label: Option<usize>, since: Instant },
}

#[derive(Debug)]
struct RowUse {
    of: Use,
    /// What it had counted before.
    before: RowTotals,
}

/// The functions of Python that a plan measures.
#[derive(Debug)]
pub struct Python {
    codes: Codes,
    layout: Layout,
    /// Names are qualified.
    qualified: bool,
    patterns: Vec<PythonPattern>,
    first_row: u32,
    rows: Vec<RowUse>,
    labels: Vec<Label>,
    known: HashMap<(String, String, u32), usize>,
    /// Code objects that found no row, with their functions.
    waiting: Vec<Waiting>,
}

/// A code object that found no row.
#[derive(Debug)]
struct Waiting {
    code: Code,
    /// Its function.
    label: usize,
    /// Its calls, as they were last seen: another object that takes its place takes their counter as well.
    seen: u64,
}

impl Waiting {
    fn calls(&mut self, codes: &Codes) -> u64 {
        self.seen = self.seen.max(codes.waiting(&self.code));
        self.seen
    }
}

/// How many rows there is room for in half of `bytes`, as far as the number of CPUs can be read.
pub fn rows_for(bytes: u64) -> u32 {
    let possible =
        edgelat_guard::outside::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last =
        possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u64>().ok()).unwrap_or(0);
    (bytes / 2 / (last + 1) / size_of::<Row>() as u64).clamp(*ROWS.start(), *ROWS.end()) as u32
}

impl Python {
    /// Fills the pool with the rows from `first_row` on, of which the first stays out: it counts all calls.
    pub fn new(
        codes: Codes,
        layout: Layout,
        qualified: bool,
        patterns: Vec<PythonPattern>,
        first_row: u32,
        rows: u32,
    ) -> Self {
        let rows = (0..rows).map(|_| RowUse { of: Use::Reserve, before: RowTotals::NONE }).collect();
        let mut python = Self {
            codes,
            layout,
            qualified,
            patterns,
            first_row,
            rows,
            labels: Vec::new(),
            known: HashMap::new(),
            waiting: Vec::new(),
        };
        if let Some(all) = python.rows.first_mut() {
            all.of = Use::Given;
        }
        python.refill();
        python
    }

    /// The functions found so far, in the order of their first calls.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The function whose calls are counted in a row of the plan.
    pub fn label_of(&self, row: u32) -> Option<usize> {
        match self.rows.get(row.checked_sub(self.first_row)? as usize)?.of {
            Use::Label(label) | Use::Leaving { label: Some(label), .. } => Some(label),
            _ => None,
        }
    }

    /// Takes in what was called for the first time, and rows whose calls have all returned.
    pub fn attend(&mut self, rows: &Rows) {
        while let Some(code) = self.codes.next() {
            self.meet(code);
        }
        self.collect_leaving(rows);
        self.refill();
        for waiting in std::mem::take(&mut self.waiting) {
            self.assign(waiting);
        }
    }

    fn meet(&mut self, code: Code) {
        let (name, file) = (self.text(&code.name), self.text(&code.file));
        let wanted = self.patterns.iter().any(|pattern| pattern.matches(&file, &name, self.qualified));
        if !wanted {
            self.codes.answer(&code, Answer::Unwanted);
            if let Some(row) = code.row {
                self.leave(row, None);
            }
            return;
        }
        let key = (name, file, code.line);
        let label = match self.known.get(&key) {
            Some(&label) => label,
            None => {
                let label = self.labels.len();
                self.labels.push(Label {
                    name: key.0.clone(),
                    file: key.1.clone(),
                    line: code.line,
                    resumes: code.flags & RESUMABLE != 0,
                    row: None,
                    counted: RowTotals::NONE,
                    unresolved: 0,
                });
                self.known.insert(key, label);
                label
            }
        };
        self.assign(Waiting { code, label, seen: 0 });
    }

    /// Has the calls of a code object counted as those of a function.
    fn assign(&mut self, mut waiting: Waiting) {
        let Waiting { ref code, label, .. } = waiting;
        let own = self.labels[label].row;
        match (own, code.row) {
            (None, Some(row)) => self.own(label, row),
            (Some(own), Some(row)) => {
                self.codes.answer(code, Answer::Row(own));
                self.leave(row, Some(label));
            }
            (Some(own), None) => self.resolve(&mut waiting, own),
            (None, None) => match self.rows.iter().position(|row| matches!(row.of, Use::Reserve)) {
                Some(free) => {
                    let row = self.first_row + free as u32;
                    self.own(label, row);
                    self.resolve(&mut waiting, row);
                }
                None => self.waiting.push(waiting),
            },
        }
    }

    /// From here on its calls are counted in a row.
    fn resolve(&mut self, waiting: &mut Waiting, row: u32) {
        self.codes.answer(&waiting.code, Answer::Row(row));
        self.labels[waiting.label].unresolved += waiting.calls(&self.codes);
    }

    fn own(&mut self, label: usize, row: u32) {
        self.labels[label].row = Some(row);
        if let Some(used) = self.row(row) {
            used.of = Use::Label(label);
        }
    }

    fn leave(&mut self, row: u32, label: Option<usize>) {
        if let Some(used) = self.row(row) {
            used.of = Use::Leaving { label, since: Instant::now() };
        }
    }

    fn row(&mut self, row: u32) -> Option<&mut RowUse> {
        self.rows.get_mut(row.checked_sub(self.first_row)? as usize)
    }

    /// Takes back rows that nobody counts in any more.
    fn collect_leaving(&mut self, rows: &Rows) {
        for (index, used) in self.rows.iter_mut().enumerate() {
            let Use::Leaving { label, since } = used.of else { continue };
            if since.elapsed() < SETTLING {
                continue;
            }
            let now = rows.read(self.first_row as usize + index);
            let counted = now.since(&used.before);
            if counted.entries != counted.exits() + counted.lost() {
                continue;
            }
            if let Some(label) = label.and_then(|label| self.labels.get_mut(label)) {
                label.counted = label.counted.and(&counted);
            }
            *used = RowUse { of: Use::Reserve, before: now };
        }
    }

    /// Most rows are for programs to take while we are not looking, which on a busy machine is a while. Some are kept for
    /// functions that found none.
    fn refill(&mut self) {
        let mut free = self.codes.free_rows();
        let spare = (self.rows.len() - self.rows.len() / 8).min(POOL_ROWS) as u64;
        for (index, used) in self.rows.iter_mut().enumerate() {
            if free >= spare {
                break;
            }
            if matches!(used.of, Use::Reserve) {
                used.of = Use::Given;
                self.codes.give_row(self.first_row + index as u32);
                free += 1;
            }
        }
    }

    /// All calls of each function so far, in the order of [`Self::labels`].
    pub fn totals(&self, rows: &Rows) -> Vec<RowTotals> {
        let mut totals: Vec<RowTotals> = self.labels.iter().map(|label| label.counted.clone()).collect();
        for (index, used) in self.rows.iter().enumerate() {
            if let Use::Label(label) | Use::Leaving { label: Some(label), .. } = used.of
                && let Some(total) = totals.get_mut(label)
            {
                let counted = rows.read(self.first_row as usize + index).since(&used.before);
                *total = total.and(&counted);
            }
        }
        totals
    }

    /// Calls of each function while it had no row.
    pub fn unresolved(&mut self) -> Vec<u64> {
        let mut unresolved: Vec<u64> = self.labels.iter().map(|label| label.unresolved).collect();
        for waiting in &mut self.waiting {
            if let Some(sum) = unresolved.get_mut(waiting.label) {
                *sum += waiting.calls(&self.codes);
            }
        }
        unresolved
    }

    /// Calls of Python functions that entered the evaluation loop, wanted or not.
    pub fn calls(&self, rows: &Rows) -> u64 {
        rows.entries(self.first_row as usize)
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

    use edgelat_bpf::layout::{CODE_TEXTS, CODE_WAITING, CodeSlot, CodeText, PythonPool};

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
    fn calls_without_a_row_stay_counted_when_another_object_takes_the_place() {
        let (object, fingerprint, tgid) = (0x1000, 7, 42u64 << 32);
        let slot = [
            (offset_of!(CodeSlot, code), object),
            (offset_of!(CodeSlot, owner), tgid | CODE_WAITING),
            (offset_of!(CodeSlot, fingerprint), fingerprint),
            (offset_of!(CodeSlot, waiting), 5),
        ];
        let text = [
            (offset_of!(CodeText, sequence), 1),
            (offset_of!(CodeText, code), object),
            (offset_of!(CodeText, fingerprint), fingerprint),
            (offset_of!(CodeText, slot), tgid),
            (offset_of!(CodeText, row), CODE_WAITING),
        ];
        let slots = array("slots", size_of::<CodeSlot>(), &slot);
        let pool = array("pool", size_of::<PythonPool>(), &[]);
        let texts = array("texts", CODE_TEXTS * size_of::<CodeText>(), &text);
        let codes = Codes::map(&slots, &pool, &texts, 1).unwrap();
        let mut waiting = Waiting { code: codes.next().unwrap(), label: 0, seen: 0 };
        assert_eq!(waiting.calls(&codes), 5);
        let other = [(offset_of!(CodeSlot, code), object), (offset_of!(CodeSlot, fingerprint), 8)];
        for (at, word) in other.into_iter().chain([(offset_of!(CodeSlot, waiting), 1)]) {
            slots.write_all_at(&word.to_ne_bytes(), at as u64).unwrap();
        }
        assert_eq!(codes.waiting(&waiting.code), 0, "it is another object's");
        assert_eq!(waiting.calls(&codes), 5, "counters only grow");
    }
}
