//! A box that measures: the records it wrote, and the content of its spool.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

pub mod disk;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use disk::Disk;
use edgelat_spool::{Clock, Counts, Identity, Notice, Options, Seen, Spool, Store, Stream, Trust, reader};

pub const SECOND: u64 = 1_000_000_000;

/// 2026-01-01.
pub const REAL: u64 = 1_767_225_600 * SECOND;

/// A reproducible generator.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Counts of functions, by name.
pub type Did = BTreeMap<String, Counts>;

pub fn add(did: &mut Did, function: &str, counts: &Counts) {
    if !counts.is_empty() {
        did.entry(function.to_owned()).or_default().add(counts);
    }
}

/// Calls with durations spread around a bucket like those of real functions: within two octaves.
pub fn busy(random: &mut Random, middle: i32, calls: u64) -> Counts {
    let mut counts = Counts { entries: calls, ..Counts::default() };
    let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
    for _ in 0..calls {
        // The sum of four is bell-shaped.
        let index = middle - 8 + (0..4).map(|_| random.below(5)).sum::<u64>() as i32;
        *buckets.entry(index).or_default() += 1;
        counts.sum_ns += edgelat_histogram::upper_bound_ns(index) - random.below(100);
    }
    counts.buckets = buckets.into_iter().collect();
    counts
}

pub fn stream(function: &str) -> Stream {
    Stream {
        target: "gateway".to_owned(),
        function: function.to_owned(),
        image: "/usr/sbin/gateway".to_owned(),
        build_id: vec![0xab; 20],
        language: "native".to_owned(),
        ..Stream::default()
    }
}

/// A run of the agent.
pub struct Run {
    pub spool: Spool,
    pub random: Random,
    pub now: Clock,
    pub id: [u8; 16],
    /// The measurements of each interval.
    pub truth: Vec<Did>,
    pub interval_ns: u64,
}

pub const SMALL: Options = Options {
    max_bytes: 1 << 20,
    segment_bytes: 64 << 10,
    sync_ns: 0,
    bytes_per_day: None,
    patience_ns: 3_600 * SECOND,
};

pub fn identity(number: u8) -> Identity {
    Identity { run: [number; 16], boot: [1; 16], agent: "0.1.0".to_owned() }
}

impl Run {
    pub fn new(store: Box<dyn Store>, options: Options, number: u8) -> Self {
        let boot_ns = 1_000 * SECOND * u64::from(number);
        let now = Clock { boot_ns, real_ns: REAL + boot_ns, trust: Trust::Synchronised };
        let spool = Spool::open(store, options, identity(number), now).unwrap();
        let random = Random(number.into());
        Self { spool, random, now, id: [number; 16], truth: Vec::new(), interval_ns: 10 * SECOND }
    }

    pub fn pass(&mut self, ns: u64) {
        self.now.boot_ns += ns;
        self.now.real_ns += ns;
    }

    /// Measures `functions` and closes the interval.
    pub fn interval(&mut self, functions: u64, calls: u64, sync: bool) -> Option<Notice> {
        let mut did = Did::new();
        for number in 0..functions {
            let name = format!("function_{number}");
            let counts = busy(&mut self.random, -90 + 3 * number as i32 % 60, calls);
            let id = self.spool.stream(stream(&name));
            self.spool.add(id, &counts);
            add(&mut did, &name, &counts);
        }
        self.truth.push(did);
        self.pass(self.interval_ns);
        self.spool.close(self.now, sync)
    }
}

/// Four of [`short_run`] fill a segment, and eight do not fit into one, however they are shortened.
pub const CROWDED: Options = Options { max_bytes: 128 << 10, segment_bytes: 16 << 10, ..SMALL };

/// A run of four intervals.
pub fn short_run(disk: &Disk, number: u8) -> Run {
    let mut run = Run::new(disk.store(), CROWDED, number);
    for _ in 0..4 {
        assert_eq!(run.interval(12, 12, true), None);
    }
    run
}

/// Content of a spool.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Has {
    /// Intervals by run: first, last, and the counts of functions.
    pub runs: BTreeMap<[u8; 16], Vec<(u64, u64, Did)>>,
    /// The totals after the last record of each run.
    pub totals: BTreeMap<[u8; 16], Did>,
    pub damaged: usize,
    pub orphans: usize,
    pub unknown: usize,
    pub dropped: u64,
    pub gaps: Vec<edgelat_spool::Gap>,
    pub ids: Vec<u64>,
}

pub fn read(store: &dyn Store) -> Has {
    let mut has = Has::default();
    reader::read_all(store, &mut |place, seen, state| {
        let name = |id: u32| {
            let stream = state.streams.iter().find(|stream| stream.id == id);
            stream.map_or_else(|| format!("? {id}"), |stream| stream.function.clone())
        };
        let named = |rows: &[(u32, Counts)]| {
            let mut did = Did::new();
            rows.iter().for_each(|(id, counts)| add(&mut did, &name(*id), counts));
            did
        };
        has.dropped = has.dropped.max(state.dropped);
        match seen {
            Seen::Interval(interval) => {
                has.gaps.extend(interval.gap);
                has.runs.entry(state.run).or_default().push((
                    interval.first,
                    interval.last,
                    named(&interval.rows),
                ));
            }
            Seen::Damaged => has.damaged += 1,
            Seen::Unknown => has.unknown += 1,
            Seen::Orphan(_) => has.orphans += 1,
            Seen::Checkpoint | Seen::Replaced => {}
        }
        if !matches!(seen, Seen::Damaged) {
            has.ids.push(place.id);
        }
        if state.run != [0; 16] {
            has.totals.insert(state.run, named(&state.rows));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    has
}

pub fn read_disk(disk: &Disk) -> Has {
    read(disk)
}

/// Compares a spool's data of a run with the measurements: the intervals are consecutive from
/// `from`, each has exactly the counts of its time, and none is missing up to `synced`.
pub fn check(has: &Has, id: [u8; 16], truth: &[Did], from: u64, synced: u64) {
    let empty = Vec::new();
    let intervals = has.runs.get(&id).unwrap_or(&empty);
    let mut next = from;
    for (first, last, did) in intervals {
        assert_eq!(*first, next, "intervals follow one another");
        assert!(*last < truth.len() as u64, "interval {last} was never measured");
        let mut sum = Did::new();
        for part in &truth[*first as usize..=*last as usize] {
            part.iter().for_each(|(function, counts)| add(&mut sum, function, counts));
        }
        assert_eq!(*did, sum, "intervals {first} to {last}");
        next = last + 1;
    }
    assert!(next >= synced, "synced up to {synced}, and read up to {next}");
    let mut total = Did::new();
    for part in &truth[..next as usize] {
        part.iter().for_each(|(function, counts)| add(&mut total, function, counts));
    }
    if let Some(totals) = has.totals.get(&id) {
        assert_eq!(*totals, total, "cumulative up to {next}");
    }
}
