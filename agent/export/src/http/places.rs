//! Places for connections: a bounded number, of which the one that has been silent for longest is given to whoever comes.
//!
//! A connection that waits for a request makes room once it has had [`GRACE`] to send one, and one that takes its time to read
//! an answer after [`SLOW`]. So a new one has a place after [`GRACE`] at the latest unless all the others are being answered,
//! and keeps it for as long whatever else comes.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time in which a connection keeps its place whatever comes: its request is most often there already.
const GRACE: Duration = Duration::from_millis(50);

/// An answer that was not read by then makes room too.
const SLOW: Duration = Duration::from_secs(1);

/// A connection that has a place.
#[derive(Debug)]
struct Taken {
    number: u64,
    stream: Arc<TcpStream>,
    /// Since when it waits or is answered.
    since: Instant,
    answered: bool,
}

#[derive(Debug, Default)]
struct State {
    taken: Vec<Taken>,
    /// Connections so far.
    count: u64,
}

/// All places.
#[derive(Debug, Clone)]
pub(super) struct Places {
    most: usize,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    places: Places,
}

impl Places {
    /// So many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while it is held, and each change is one step.
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection; `None` where all others are being answered.
    pub(super) fn take(&self, stream: &Arc<TcpStream>) -> Option<Place> {
        let mut state = self.state();
        while state.taken.len() >= self.most {
            let room = |taken: &Taken| taken.since + if taken.answered { SLOW } else { GRACE };
            let first = state.taken.iter().enumerate().min_by_key(|(_, taken)| (room(taken), taken.number));
            let (index, at) = first.map(|(index, taken)| (index, room(taken)))?;
            let wait = at.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                // Its thread sees that it has ended.
                _ = state.taken.swap_remove(index).stream.shutdown(Shutdown::Both);
            } else if wait <= GRACE {
                let waited = self.state.1.wait_timeout(state, wait);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                return None;
            }
        }
        state.count += 1;
        let (number, stream) = (state.count, Arc::clone(stream));
        state.taken.push(Taken { number, stream, since: Instant::now(), answered: false });
        Some(Place { number, places: self.clone() })
    }
}

impl Place {
    /// A request has come.
    pub(super) fn answers(&self) {
        self.is(true);
    }

    /// The answer is gone, and the next request may come.
    pub(super) fn waits(&self) {
        self.is(false);
    }

    fn is(&self, answered: bool) {
        let mut state = self.places.state();
        // One that made room has none any more.
        if let Some(taken) = state.taken.iter_mut().find(|taken| taken.number == self.number) {
            (taken.since, taken.answered) = (Instant::now(), answered);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().taken.retain(|taken| taken.number != self.number);
        self.places.state.1.notify_one();
    }
}
