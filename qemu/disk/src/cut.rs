//! Content of a disk after a power cut.
//!
//! All that was answered before a flush began is there once it was answered, and what was written with FUA. Of what came
//! later each write may be there or not, whatever its place in the order, and of some only a part: a disk writes sectors
//! whole, and nothing larger.

use crate::log::{Act, Entry};
use crate::random::Random;

/// Unit that a disk writes as a whole, in bytes: the smallest of real disks.
pub const SECTOR: usize = 512;

/// Fates of the writes that were not flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fates {
    /// Those before the last flush, and with FUA.
    pub durable: u64,
    /// Not flushed, and there all the same.
    pub kept: u64,
    /// In part.
    pub torn: u64,
    /// Not there.
    pub lost: u64,
}

/// Makes of `disk`, as it was when the log began, what it is after a cut behind the last of `entries`. The same `seed` has the
/// same writes survive.
pub fn cut(disk: &mut [u8], entries: &[Entry], seed: u64) -> Fates {
    let mut random = Random::new(seed);
    // Some cuts take all, some nothing, most a part.
    let keep = match random.below(8) {
        0 => 0,
        1 => 1000,
        2 => 500,
        _ => random.below(1001),
    };
    let tear = [0, 100, 300][random.below(3) as usize];
    let flushed = entries.iter().rposition(|entry| entry.act == Act::Flush).unwrap_or(0);
    let mut fates = Fates::default();
    for (at, entry) in entries.iter().enumerate() {
        let (offset, length, bytes, durable) = match &entry.act {
            Act::Write { offset, bytes, durable } => (*offset, bytes.len(), Some(&bytes[..]), *durable),
            Act::Zero { offset, length, durable, .. } => (*offset, *length as usize, None, *durable),
            Act::Flush => continue,
        };
        let offset = offset as usize;
        let place = &mut disk[offset..offset + length];
        let mut put = |from: usize, to: usize| match bytes {
            Some(bytes) => place[from..to].copy_from_slice(&bytes[from..to]),
            None => place[from..to].fill(0),
        };
        if at < flushed || durable {
            put(0, length);
            fates.durable += 1;
        } else if !random.chance(keep) {
            fates.lost += 1;
        } else if length > SECTOR && random.chance(tear) {
            fates.torn += 1;
            // From its beginning, to its end, or sector by sector.
            let sectors = length.div_ceil(SECTOR) as u64;
            let (way, edge) = (random.below(3), 1 + random.below(sectors - 1) as usize);
            for sector in 0..sectors as usize {
                let there = match way {
                    0 => sector < edge,
                    1 => sector >= edge,
                    _ => random.chance(500),
                };
                if there {
                    put(sector * SECTOR, length.min((sector + 1) * SECTOR));
                }
            }
        } else {
            fates.kept += 1;
            put(0, length);
        }
    }
    fates
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: usize = 64;

    fn write(sector: usize, sectors: usize, value: u8) -> Entry {
        let act = Act::Write {
            offset: (sector * SECTOR) as u64,
            bytes: vec![value; sectors * SECTOR],
            durable: false,
        };
        Entry { time_ns: 0, act }
    }

    const FLUSH: Entry = Entry { time_ns: 0, act: Act::Flush };

    fn after(entries: &[Entry], seed: u64) -> (Vec<u8>, Fates) {
        let mut disk = vec![0; SECTORS * SECTOR];
        let fates = cut(&mut disk, entries, seed);
        assert!(
            disk.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])),
            "half a sector"
        );
        (disk.chunks(SECTOR).map(|sector| sector[0]).collect(), fates)
    }

    #[test]
    fn what_was_flushed_or_written_with_fua_survives_every_cut() {
        let mut with_fua = write(40, 4, 9);
        let Act::Write { durable, .. } = &mut with_fua.act else { panic!() };
        *durable = true;
        let entries = [write(0, 8, 1), write(4, 8, 2), FLUSH, write(20, 8, 3), with_fua, write(30, 1, 4)];
        for seed in 0..500 {
            let (disk, fates) = after(&entries, seed);
            assert_eq!(disk[..12], [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2], "{seed}");
            assert_eq!(disk[40..44], [9; 4], "{seed}");
            assert_eq!(fates.durable, 3);
            assert_eq!(fates.kept + fates.torn + fates.lost, 2);
        }
    }

    #[test]
    fn what_was_not_flushed_survives_wholly_in_parts_or_not_at_all_in_any_order() {
        let entries = [FLUSH, write(0, 4, 1), write(8, 4, 2), write(0, 4, 3)];
        let disks: Vec<Vec<u8>> = (0..2000).map(|seed| after(&entries, seed).0).collect();
        for wanted in [[0; 4], [1; 4], [3; 4]] {
            for later in [[0; 4], [2; 4]] {
                assert!(
                    disks.iter().any(|disk| disk[..4] == wanted && disk[8..12] == later),
                    "{wanted:?} {later:?}"
                );
            }
        }
        let torn = |disk: &&Vec<u8>| disk[8..12].contains(&0) && disk[8..12].contains(&2);
        assert!(disks.iter().filter(torn).count() > 50);
        assert!(
            disks.iter().any(|disk| disk[8..12] == [2, 0, 0, 0])
                && disks.iter().any(|disk| disk[8..12] == [0, 0, 0, 2])
        );
        // Nothing comes from anywhere else.
        assert!(disks.iter().all(|disk| disk[4..8] == [0; 4] && disk[12..].iter().all(|byte| *byte == 0)));
    }

    #[test]
    fn a_range_that_was_made_zeros_is_old_or_zeros() {
        let zero = Act::Zero { offset: 0, length: (8 * SECTOR) as u64, durable: false, trim: true };
        let entries = [write(0, 8, 5), FLUSH, Entry { time_ns: 0, act: zero }];
        let disks: Vec<Vec<u8>> = (0..500).map(|seed| after(&entries, seed).0).collect();
        assert!(disks.iter().any(|disk| disk[..8] == [5; 8]) && disks.iter().any(|disk| disk[..8] == [0; 8]));
        assert!(disks.iter().all(|disk| disk[..8].iter().all(|value| [0, 5].contains(value))));
    }

    #[test]
    fn a_seed_makes_the_same_cut_again() {
        let entries: Vec<Entry> = (0..60).map(|at| write(at, 3, at as u8)).collect();
        assert_eq!(after(&entries, 7), after(&entries, 7));
        assert_ne!(after(&entries, 7), after(&entries, 8));
    }
}
