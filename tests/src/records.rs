//! A spool without a service: the records it would have written, with any clock.

use std::collections::BTreeMap;
use std::path::Path;

use edgelat_spool::{Clock, Counts, Directory, Identity, Options, Spool, Stream};

/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// A run of a service that never existed.
pub struct Records {
    spool: Spool,
    random: u64,
    /// The clock. It advances with each interval.
    pub now: Clock,
    /// Target of the functions.
    pub target: String,
    /// Duration of an interval.
    pub interval_ns: u64,
    /// Identifier of the run.
    pub run: String,
    /// Counts of each function so far.
    pub totals: BTreeMap<String, Counts>,
    /// Counts at the end of each interval, with its end since boot.
    pub history: Vec<(u64, BTreeMap<String, Counts>)>,
}

/// Options with room for all records of a test.
pub const ROOMY: Options = Options {
    max_bytes: 64 << 20,
    segment_bytes: 256 << 10,
    sync_ns: 3_600 * SECOND,
    bytes_per_day: None,
    patience_ns: 3_600 * SECOND,
};

impl Records {
    /// Begins a run in a folder, which it creates.
    #[track_caller]
    pub fn begin(dir: &Path, number: u8, boot: [u8; 16], now: Clock) -> Self {
        Self::with(dir, number, boot, now, ROOMY)
    }

    /// Begins a run with its own options.
    #[track_caller]
    pub fn with(dir: &Path, number: u8, boot: [u8; 16], now: Clock, options: Options) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let identity = Identity { run: [number; 16], boot, agent: "0.1.0".to_owned() };
        let store = Box::new(Directory::open(dir).expect("the folder"));
        let spool = Spool::open(store, options, identity, now).expect("a spool");
        Self {
            spool,
            random: number.into(),
            now,
            target: "gateway".to_owned(),
            interval_ns: 10 * SECOND,
            run: format!("{number:02x}").repeat(16),
            totals: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    /// Adds an interval with `calls` calls of each function, over two octaves of durations, and
    /// some losses.
    pub fn interval(&mut self, functions: u64, calls: u64) {
        for number in 0..functions {
            let name = format!("function_{number}");
            let counts = self.calls(-90 + 3 * (number as i32 % 20), calls);
            let id = self.spool.stream(Stream {
                target: self.target.clone(),
                function: name.clone(),
                image: "/usr/sbin/gateway".to_owned(),
                build_id: vec![0xab; 20],
                language: "native".to_owned(),
                bias_ns: Some(650),
                since_ns: self.now.boot_ns,
                ..Stream::default()
            });
            self.spool.add(id, &counts);
            self.totals.entry(name).or_default().add(&counts);
        }
        self.now.boot_ns += self.interval_ns;
        self.now.real_ns += self.interval_ns;
        self.spool.close(self.now, false);
        self.history.push((self.now.boot_ns, self.totals.clone()));
    }

    fn calls(&mut self, middle: i32, calls: u64) -> Counts {
        let mut counts = Counts { entries: calls + 1, ..Counts::default() };
        // Occasionally a call is lost.
        let lost = self.below(counts.lost.len() as u64) as usize;
        counts.lost[lost] = 1;
        let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
        for _ in 0..calls {
            // The sum of four is bell-shaped.
            let index = middle - 8 + (0..4).map(|_| self.below(5)).sum::<u64>() as i32;
            *buckets.entry(index).or_default() += 1;
            counts.sum_ns += edgelat_histogram::upper_bound_ns(index) - self.below(100);
        }
        counts.buckets = buckets.into_iter().collect();
        counts.probes_inside_ns = Some(counts.sum_ns / 4);
        counts
    }

    /// Adds time in which a target was not measured.
    pub fn uncovered(&mut self, target: &str, reason: &str, time_ns: u64) {
        self.spool.uncovered(target, reason, time_ns, 0);
    }

    /// Writes everything to the disk.
    pub fn sync(&mut self) {
        assert_eq!(self.spool.flush(self.now.boot_ns, true), None);
    }
}
