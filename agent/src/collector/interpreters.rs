//! Visibility of calls in the Python interpreters of a target's processes: read from their state,
//! not taken from their settings.
//!
//! `python -I`, `-E` and frozen programs ignore a setting in the environment, a program can switch
//! it while it runs, and it holds for one interpreter of several. So the state of each interpreter
//! is read ([`edgelat_image::python::State`]): at the start, at each report, and at the first call
//! of a function, such as those of a new interpreter. Calls that an interpreter has hidden stay
//! hidden: from then on all figures cover a part.

use std::time::{Duration, Instant};

use edgelat_guard::Line;
use edgelat_guard::protocol::{HEAD, ImageId, List, Reply, Request, TargetId};
use edgelat_image::Interpreter;

/// Pause between two looks for new functions, once the visibility of calls is known.
const PAUSE: Duration = Duration::from_millis(10);
/// Processes that one look examines besides the target, in turn.
const OTHERS: usize = 4;
/// Time in which a new interpreter is in doubt: it may have made no call yet that counts, and the
/// code in it may still switch it to show every call.
const DOUBT: Duration = Duration::from_secs(1);
/// More interpreters than any process creates: such a number is invalid.
const MOST: u64 = 1 << 32;

/// Visible calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Not known yet: Python has not started.
    Unknown,
    /// Every call.
    Every,
    /// Only calls from C, in one interpreter or in all.
    Part,
}

/// Interpreters of a process at its last examination.
#[derive(Debug, Clone, Copy)]
struct Process {
    /// Process id.
    pid: i32,
    /// Number of interpreters.
    there: u64,
    /// Interpreters among these that show only calls from C.
    hiding: u64,
    /// Number of interpreters that the process has created in total.
    made: u64,
    /// Time since which it has such interpreters that may still be switched to show all.
    doubt: Option<Instant>,
}

/// State of the interpreters in a target's processes.
#[derive(Debug, Clone)]
pub struct Interpreters {
    /// Location of their states; `None` if it cannot be found or is not needed.
    list: Option<List>,
    seen: Seen,
    /// Method of which only a part of the calls is seen in any case.
    bypassing: Option<&'static str>,
    /// Running processes that were examined.
    processes: Vec<Process>,
    /// Number of their interpreters, and of those that show only calls from C.
    counted: Option<(u64, u64)>,
    /// True if the target was found before its Python had started.
    fresh: bool,
    looked: Option<Instant>,
    /// Counts the other processes that were examined.
    next: usize,
}

impl Interpreters {
    /// Creates the state of an interpreter in an image, before the first look.
    pub fn of(interpreter: &Interpreter, image: ImageId) -> Self {
        let list = interpreter.state.map(|state| List {
            image,
            begin: state.started,
            first: state.first,
            next: state.next,
            word: state.eval_frame,
        });
        let seen = match (interpreter.sees_every_call(), list) {
            (true, _) => Seen::Every,
            (false, Some(_)) => Seen::Unknown,
            (false, None) => Seen::Part,
        };
        let bypassing = interpreter.bypassing();
        let (processes, counted) = (Vec::new(), None);
        Self { list, seen, bypassing, processes, counted, fresh: false, looked: None, next: 0 }
    }

    /// Returns true if every call is seen, in all interpreters.
    pub fn every_call(&self) -> bool {
        self.seen == Seen::Every
    }

    /// Returns true if Python has started, as far as known.
    pub fn known(&self) -> bool {
        self.seen != Seen::Unknown
    }

    /// Returns true if only a part of the calls of a function with this name is seen.
    pub fn partial(&self, name: &str) -> bool {
        let class = self.bypassing.and_then(|method| name.strip_suffix(method));
        !self.every_call() || class.is_some_and(|class| class.is_empty() || class.ends_with('.'))
    }

    /// Method of which only a part of the calls is seen in any case.
    pub fn bypassing(&self) -> Option<&'static str> {
        self.bypassing
    }

    /// Number of interpreters at the last look, and of those that show only calls from C.
    pub fn counted(&self) -> Option<(u64, u64)> {
        self.counted
    }

    /// Ends the examination: interpreters that are still in doubt count as hiding calls.
    pub fn conclude(&mut self) {
        if self.processes.iter().any(|process| process.doubt.is_some()) {
            self.seen = Seen::Part;
        }
    }

    /// Examines the target, the first of `pids`, and some of the others. Returns true if this look
    /// is the first to find hidden calls. Between two reports (`!anyway`) the frequency of looks is
    /// limited.
    pub fn look(&mut self, line: &mut Line, target: TargetId, pids: &[i32], anyway: bool) -> bool {
        let soon = self.looked.is_some_and(|looked| looked.elapsed() < PAUSE);
        let Some(list) = self.list.filter(|_| anyway || !soon || !self.known()) else { return false };
        self.looked = Some(Instant::now());
        let before = self.seen;
        let seen = &mut self.seen;
        self.processes.retain(|process| {
            let runs = pids.contains(&process.pid);
            if !runs && process.doubt.is_some() {
                *seen = Seen::Part;
            }
            runs
        });
        // The target, and the other processes whose turn it is.
        for turn in 0..pids.len().min(1 + OTHERS) {
            let place = if turn == 0 { 0 } else { 1 + self.next % (pids.len() - 1) };
            self.next = self.next.wrapping_add(usize::from(turn > 0));
            let pid = pids[place];
            // A process that cannot be examined is usually ending or not started: its state stays.
            let Ok((Reply::List { words, whole }, _)) = line.call(&Request::ReadList { target, pid, list })
            else {
                continue;
            };
            match words.split_at_checked(HEAD) {
                Some((head, words)) if whole => self.take(pid, head, words, Instant::now()),
                // The interpreters beyond the list are unknown.
                _ if words.is_full() => self.seen = Seen::Part,
                _ => {}
            }
        }
        let mut sum = (0, 0);
        for process in &self.processes {
            sum = (sum.0 + process.there, sum.1 + process.hiding);
        }
        if sum.0 > 0 {
            self.counted = Some(sum);
        }
        before != Seen::Part && self.seen == Seen::Part
    }

    /// Takes in the interpreter list of a process.
    fn take(&mut self, pid: i32, head: &[u64], words: &[u64], now: Instant) {
        let made = self.list.and_then(|list| head.get(usize::from(list.first) + 2)).copied().unwrap_or(0);
        // Before its start, Python runs only its own modules and has not applied its settings yet.
        let started = head.first().is_some_and(|started| started & u64::from(u32::MAX) != 0);
        if !started || words.is_empty() {
            self.fresh = true;
            return;
        }
        let (there, hiding) = (words.len() as u64, words.iter().filter(|word| **word == 0).count() as u64);
        let made = if (there..MOST).contains(&made) { made } else { there };
        let place = self.processes.iter().position(|process| process.pid == pid);
        let before = place.map(|place| self.processes[place]);
        // A process that runs another program by now has begun anew.
        let came = before.map_or(0, |before| made.saturating_sub(before.made));
        let went = before.is_some_and(|before| there < before.there + came);
        let doubted = before.and_then(|before| before.doubt);
        let doubt = (hiding > 0).then(|| doubted.unwrap_or(now));
        let over = doubt.is_some_and(|since| now.duration_since(since) >= DOUBT);
        let as_it_was = hiding > 0 && before.is_none() && !self.fresh;
        // The interpreter that went may have come unseen, or its state may have been in doubt.
        let part = as_it_was || over || went && (came > 0 || doubted.is_some());
        let now = Process { pid, there, hiding, made, doubt: doubt.filter(|_| !part) };
        match place {
            Some(place) => self.processes[place] = now,
            None => self.processes.push(now),
        }
        self.seen = match self.seen {
            Seen::Part => Seen::Part,
            _ if part => Seen::Part,
            Seen::Unknown if hiding > 0 => Seen::Unknown,
            _ => Seen::Every,
        };
    }
}

#[cfg(test)]
mod tests {
    use edgelat_image::python::State;

    use super::*;

    fn interpreters(minor: u8, state: bool) -> Interpreters {
        let state = state.then_some(State { started: 0, first: 3, next: 0, eval_frame: 8 });
        let list = state.map(|_| List { image: ImageId(1), begin: 0, first: 3, next: 0, word: 8 });
        let bypassing = (minor == 13).then_some("__init__");
        let seen = if state.is_some() { Seen::Unknown } else { Seen::Part };
        let (processes, counted) = (Vec::new(), None);
        Interpreters { list, seen, bypassing, processes, counted, fresh: false, looked: None, next: 0 }
    }

    impl Interpreters {
        /// Takes in a list read `at.1` ms after a moment: start flag, number created, words of
        /// those present.
        fn hear(&mut self, pid: i32, at: (Instant, u64), started: u64, made: u64, words: &[u64]) {
            let head = [started, 0, 0, 0x7000, 0x7000, made, 0, 0];
            self.take(pid, &head, words, at.0 + Duration::from_millis(at.1));
        }
    }

    #[test]
    fn what_one_interpreter_hides_is_a_part_for_good() {
        let (mut seen, begin) = (interpreters(14, true), Instant::now());
        seen.hear(1, (begin, 0), 1, 1, &[0x400]);
        assert!(seen.every_call() && !seen.partial("f") && !seen.partial("C.__init__"));
        seen.hear(1, (begin, 100), 1, 2, &[0, 0x400]);
        assert!(seen.every_call(), "it may still be asked to");
        seen.hear(1, (begin, 1100), 1, 2, &[0, 0x400]);
        assert!(!seen.every_call() && seen.partial("f"));
        seen.hear(1, (begin, 1200), 1, 2, &[0x400, 0x400]);
        assert!(!seen.every_call());
        // An interpreter that was found running has no time left to be switched.
        let mut seen = interpreters(14, true);
        seen.hear(1, (begin, 0), 1, 1, &[0]);
        assert!(seen.known() && !seen.every_call());
    }

    #[test]
    fn an_interpreter_may_begin_with_calls_from_c_only() {
        let (mut seen, begin) = (interpreters(14, true), Instant::now());
        // The flag, with other data behind it in the word.
        seen.hear(1, (begin, 0), 7 << 32, 1, &[0]);
        assert!(!seen.known() && seen.partial("f"), "it has not started");
        seen.hear(1, (begin, 10), 1, 1, &[0]);
        assert!(!seen.known());
        seen.hear(1, (begin, 20), 1, 1, &[0x400]);
        assert!(seen.every_call());
        seen.hear(1, (begin, 30), 1, 2, &[0, 0x400]);
        seen.hear(1, (begin, 40), 1, 2, &[0x400, 0x400]);
        seen.conclude();
        assert!(seen.every_call());
        seen.hear(1, (begin, 50), 1, 3, &[0, 0x400, 0x400]);
        seen.conclude();
        assert!(!seen.every_call(), "nobody saw what became of it");
    }

    #[test]
    fn an_interpreter_that_came_and_went_unseen_is_not_taken_for_one_that_shows_all() {
        let (mut seen, begin) = (interpreters(14, true), Instant::now());
        seen.hear(1, (begin, 0), 1, 3, &[1, 1]);
        seen.hear(1, (begin, 1), 1, 4, &[1, 1, 1]);
        seen.hear(1, (begin, 2), 1, 4, &[1, 1]);
        assert!(seen.every_call(), "the one that came and went was seen");
        // Another process, and an invalid number.
        seen.hear(2, (begin, 3), 1, 9, &[1]);
        seen.hear(1, (begin, 4), 1, u64::MAX, &[1, 1]);
        assert!(seen.every_call());
        let mut other = seen.clone();
        seen.hear(2, (begin, 5), 1, 10, &[1]);
        assert!(!seen.every_call());
        other.hear(2, (begin, 5), 1, 10, &[0, 1]);
        other.hear(2, (begin, 6), 1, 10, &[1]);
        assert!(!other.every_call(), "it went before anybody knew");
    }

    #[test]
    fn methods_that_go_around_the_loop_are_a_part_where_all_else_is_seen() {
        let mut seen = interpreters(13, true);
        seen.hear(1, (Instant::now(), 0), 1, 1, &[1]);
        assert!(seen.every_call() && seen.partial("__init__") && seen.partial("f.<locals>.C.__init__"));
        assert!(!seen.partial("C.__init__.<locals>.f") && !seen.partial("my__init__"));
        // A build whose state cannot be found.
        assert!(interpreters(14, false).partial("f"));
    }
}
