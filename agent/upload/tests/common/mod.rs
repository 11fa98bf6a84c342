//! A receiver without a network, and a comparison of its data with the records.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use edgelat_spool::{Clock, Directory, LOSSES, Trust};
use edgelat_tests::TempDir;
use edgelat_tests::otlp::{Books, Figure, points};
use edgelat_tests::records::{Records, SECOND};
use edgelat_upload::otlp::Partial;
use edgelat_upload::{Answer, Cursor, Host, Limits, Post, Sent, Told, pass};

/// 2026-01-01.
pub const REAL: u64 = 1_767_225_600 * SECOND;

pub const BOOT: [u8; 16] = [1; 16];

/// The clock at this time after boot, set or not.
pub fn clock(boot_ns: u64, trust: Trust) -> Clock {
    let real_ns = if trust == Trust::Unset { boot_ns } else { REAL + boot_ns };
    Clock { boot_ns, real_ns, trust }
}

/// A receiver.
#[derive(Debug, Default)]
pub struct Fake {
    pub replies: VecDeque<Answer>,
    pub books: Books,
    /// Bytes and points of each request.
    pub requests: Vec<(Vec<u8>, usize)>,
    /// Largest request that it accepts.
    pub most: Option<usize>,
}

pub fn later() -> Answer {
    Answer::Later { reason: "gone".to_owned(), after: None }
}

pub fn refused() -> Answer {
    Answer::Refused { status: 400, message: "too old".to_owned() }
}

impl Post for Fake {
    fn post(&mut self, request: &[u8]) -> Answer {
        if self.most.is_some_and(|most| request.len() > most) {
            return Answer::TooLarge;
        }
        let points = points(request);
        self.requests.push((request.to_vec(), points.len()));
        let answer = self.replies.pop_front().unwrap_or(Answer::Taken(Partial::default()));
        if matches!(answer, Answer::Taken(_)) {
            self.books.take(&points);
        }
        answer
    }
}

/// A box that uploads: a spool, and the progress of the receiver.
pub struct Appliance {
    folder: TempDir,
    /// Opened once: it stays open to the end of the process.
    store: Option<(PathBuf, Directory)>,
    pub cursor: Cursor,
    pub saved: Cursor,
    pub sent: Sent,
    pub fake: Fake,
    pub limits: Limits,
    /// The current boot.
    pub boot: Option<[u8; 16]>,
}

impl Appliance {
    pub fn new() -> Self {
        Self {
            folder: TempDir::new(),
            store: None,
            cursor: Cursor::default(),
            saved: Cursor::default(),
            sent: Sent::default(),
            fake: Fake::default(),
            limits: Limits { bytes: 16 << 10 },
            boot: Some(BOOT),
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// Replaces the folder with another one.
    pub fn anew(&mut self) {
        std::fs::remove_dir_all(self.dir()).unwrap();
        self.store = None;
    }

    /// Restarts the command: it has only what it wrote.
    pub fn restart(&mut self) {
        self.cursor = self.saved.clone();
        self.sent = Sent::default();
    }

    pub fn pass(&mut self) -> Told {
        self.pass_of(&self.dir())
    }

    pub fn host(&self) -> Host {
        Host { instance: "it".to_owned(), name: "it".to_owned(), kernel: "6.1.0".to_owned(), boot: self.boot }
    }

    pub fn pass_of(&mut self, dir: &Path) -> Told {
        let host = self.host();
        let store = match &self.store {
            Some((path, store)) if path == dir => *store,
            _ => Directory::open(dir).unwrap(),
        };
        self.store = Some((dir.to_owned(), store));
        let saved = &mut self.saved;
        pass(&store, &mut self.cursor, &mut self.sent, &host, self.limits, &mut self.fake, &mut |cursor| {
            saved.clone_from(cursor);
            Ok(())
        })
        .unwrap()
    }
}

fn number(books: &Books, run: &str, metric: &str, function: &str, reason: &str, time_ns: u64) -> Option<i64> {
    match books.at(run, metric, function, reason, time_ns)? {
        Figure::Number(number) => Some(*number as i64),
        figure => panic!("{figure:?}"),
    }
}

/// Compares a receiver's data of a run with the counts, at the end of each of `intervals`, which
/// were at `epoch_ns` plus their time since boot.
#[track_caller]
pub fn holds(books: &Books, records: &Records, intervals: std::ops::Range<usize>, epoch_ns: u64) {
    let run = &records.run;
    for (boot_ns, totals) in &records.history[intervals] {
        let time_ns = epoch_ns + boot_ns;
        for (function, counts) in totals {
            let found = books.at(run, "edgelat_function_duration", function, "", time_ns);
            let expected = Figure::Histogram {
                count: counts.exits(),
                sum: counts.sum_ns as f64 / 1e9,
                zero: counts.zero,
                buckets: counts.buckets.clone(),
            };
            assert_eq!(found, Some(&expected), "{function} at {boot_ns}");
            let of = |metric, reason| number(books, run, metric, function, reason, time_ns);
            assert_eq!(of("edgelat_function_calls", ""), Some(counts.entries as i64), "{function}");
            let (inside, ended) = ("edgelat_function_inside_calls", "edgelat_function_ended_inside_calls");
            let mut others = of(inside, "").unwrap() + of(ended, "").unwrap();
            assert_eq!(of(ended, ""), Some(counts.lost[2]));
            for (reason, lost) in
                LOSSES.into_iter().zip(counts.lost).filter(|(reason, _)| *reason != "ended_inside")
            {
                assert_eq!(of("edgelat_function_lost_calls", reason), Some(lost), "{function}: {reason}");
                others += lost;
            }
            assert_eq!(of("edgelat_function_calls", ""), Some(counts.exits() as i64 + others), "the account");
        }
    }
}
