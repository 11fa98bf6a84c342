//! Flash wear: a limit on the bytes written per day.
//!
//! Data over the limit waits and is merged with later data, so that intervals get wider until they
//! fit. Unused bytes are saved up for an hour.

/// Nanoseconds of a day.
const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// Time for which unused bytes are saved up.
const SAVED_NS: u64 = DAY_NS / 24;

/// A budget of bytes a day.
#[derive(Debug)]
pub struct Budget {
    per_day: u64,
    /// Bytes that may be written, times [`DAY_NS`]; negative after writes that could not wait.
    left: i128,
    at_ns: u64,
}

impl Budget {
    /// `per_day` bytes from a moment on, of which one hour's share may be written at once.
    pub fn new(per_day: u64, now_ns: u64) -> Self {
        Self { per_day, left: i128::from(per_day) * i128::from(SAVED_NS), at_ns: now_ns }
    }

    /// True if this many bytes may be written now.
    pub fn allows(&mut self, bytes: u64, now_ns: u64) -> bool {
        let passed = now_ns.saturating_sub(self.at_ns);
        self.at_ns = now_ns;
        let most = i128::from(self.per_day) * i128::from(SAVED_NS);
        self.left = (self.left + i128::from(self.per_day) * i128::from(passed)).min(most);
        self.left >= (i128::from(bytes) * i128::from(DAY_NS)).min(most)
    }

    /// Subtracts bytes that were written.
    pub fn spend(&mut self, bytes: u64) {
        self.left -= i128::from(bytes) * i128::from(DAY_NS);
    }
}
