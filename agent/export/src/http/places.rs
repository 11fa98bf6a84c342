//! Places for connections: a bounded number; a new one replaces the connection silent for longest.
//!
//! A connection that waits for a request makes room once it has had [`GRACE`] to send one; a slow
//! reader of an answer makes room after [`SLOW`]. So a new connection gets a place within [`GRACE`]
//! unless all others are being answered, and keeps it for as long regardless of newer ones.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time for which a connection always keeps its place: its request has usually arrived by then.
const GRACE: Duration = Duration::from_millis(50);

/// Time after which a connection with an unread answer makes room too.
const SLOW: Duration = Duration::from_secs(1);

/// A connection that has a place.
#[derive(Debug)]
struct Taken {
    number: u64,
    stream: Arc<TcpStream>,
    /// Start of its wait or answer.
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

/// A taken place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    places: Places,
}

impl Places {
    /// This many places.
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics with the lock held, and each change is one step.
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection; `None` if all others are being answered.
    pub(super) fn take(&self, stream: &Arc<TcpStream>) -> Option<Place> {
        let mut state = self.state();
        while state.taken.len() >= self.most {
            let room = |taken: &Taken| taken.since + if taken.answered { SLOW } else { GRACE };
            let first = state.taken.iter().enumerate().min_by_key(|(_, taken)| (room(taken), taken.number));
            let (index, at) = first.map(|(index, taken)| (index, room(taken)))?;
            let wait = at.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                // The thread of that connection sees the end.
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
    /// Marks the arrival of a request.
    pub(super) fn answers(&self) {
        self.is(true);
    }

    /// Marks the end of the answer: the next request may come.
    pub(super) fn waits(&self) {
        self.is(false);
    }

    fn is(&self, answered: bool) {
        let mut state = self.places.state();
        // A connection that made room has no place any more.
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
