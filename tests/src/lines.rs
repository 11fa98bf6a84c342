//! Lines that a child process prints, collected by a thread so that no pipe ever fills up.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    lines: Vec<String>,
    closed: bool,
}

/// All lines that a stream has produced so far. Clones share the stream.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<State>, Condvar)>);

impl Lines {
    /// Starts collecting the lines of `stream`.
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let ours = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let (state, news) = &*ours.0;
                state.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
                news.notify_all();
            }
            let (state, news) = &*ours.0;
            state.lock().unwrap().closed = true;
            news.notify_all();
        });
        lines
    }

    /// Waits for the first line from number `from` on for which `wanted` returns a value; returns
    /// the value and the line's number. `None`: the stream ended, or the time was up.
    pub fn wait<T>(
        &self,
        from: usize,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<(usize, T)> {
        let (state, news) = &*self.0;
        let deadline = Instant::now() + patience;
        let mut at = from;
        let mut state = state.lock().unwrap();
        loop {
            while at < state.lines.len() {
                if let Some(found) = wanted(&state.lines[at]) {
                    return Some((at, found));
                }
                at += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            state = news.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for the end of the stream and returns all its lines; `false` if the time was up first.
    pub fn to_the_end(&self, patience: Duration) -> (Vec<String>, bool) {
        self.wait::<()>(0, patience, |_| None);
        let state = self.0.0.lock().unwrap();
        (state.lines.clone(), state.closed)
    }

    /// Number of lines so far.
    pub fn count(&self) -> usize {
        self.0.0.lock().unwrap().lines.len()
    }

    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }
}
