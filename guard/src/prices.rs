//! Cost of one hit of a probe, by the kind of its site.
//!
//! | hit | price |
//! | --- | --- |
//! | at an entry or an exit | of its instruction, which the kernel emulates or single-steps |
//! | at the entry of Python's evaluation loop | the same and its timed search for the function |
//! | at a plain return, by programs that write registers | of the return that the program did itself |
//! | at an instruction that another function of the plan shares | of the second program alone: one trap runs both |
//! | of a return probe | none: it is part of the entry's |
//! | at an unknown address | of the dearest kind in the plan |
//!
//! Each is measured by the calibration (`calibrate.rs`); the budget (`budget.rs`) multiplies.

use edgelat_bpf::Hits;
use edgelat_bpf::layout::{
    PRICE_PLAIN, PRICE_STEPPED, PRICE_TWIN, PRICE_WRITTEN, SITE_FUNCTION_MASK, SITE_PYTHON, SITE_RETURN,
};

use crate::protocol::{PlanSite, Returns};

/// Prices that the programs use: [`Prices::of_hits`].
pub(crate) const PRICES: usize = 8;
const _: () = assert!(size_of::<edgelat_bpf::layout::Prices>() == PRICES * size_of::<u32>());

/// Nanoseconds of a hit whose instruction the kernel emulates, or single-steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Halves {
    pub(crate) emulated: u64,
    pub(crate) stepped: u64,
}

/// Addition of the links of one more process on the same instructions, in picoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Added to the cost of a call, both of its hits together.
    pub(crate) call_ps: u64,
    /// Added to a reported duration.
    pub(crate) bias_ps: u64,
}

/// Cost of one hit on this machine, ns of CPU time. With return probes an entry pays for both ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Prices {
    pub(crate) entry: Halves,
    /// Of an entry that counts for nothing.
    pub(crate) idle_entry: u64,
    pub(crate) exit: Halves,
    /// Of a plain return, which some programs do themselves.
    pub(crate) written: u64,
    /// Of a hit whose trap another hit pays.
    pub(crate) twin: u64,
    /// `None` if it could not be measured.
    pub(crate) walk: Option<Walk>,
}

impl Prices {
    /// Prices of a hit for the programs, in nanoseconds by the PRICE_ constants of the layout, with
    /// links of `others` more processes on the same instructions.
    pub(crate) fn of_hits(&self, returns: Returns, others: u64) -> [u32; PRICES] {
        let walked = self.walk.map_or(0, |_| self.walk_ps(returns).saturating_mul(others) / 1000);
        let mut all = [0; PRICES];
        for (at, ns) in [
            (PRICE_PLAIN, self.entry.emulated + walked),
            (PRICE_PLAIN + 1, self.exit.emulated + walked),
            (PRICE_STEPPED, self.entry.stepped + walked),
            (PRICE_STEPPED + 1, self.exit.stepped + walked),
            (PRICE_TWIN, self.twin),
            (PRICE_WRITTEN, self.written + walked),
        ] {
            all[at as usize] = u32::try_from(ns).unwrap_or(u32::MAX);
        }
        all
    }

    /// Addition of one more process on the same instructions to a hit, in picoseconds.
    pub(crate) fn walk_ps(&self, returns: Returns) -> u64 {
        match (self.walk, returns) {
            (Some(walk), Returns::Ret) => walk.call_ps / 2,
            (Some(walk), Returns::Uretprobe) => walk.call_ps,
            // Not known: certainly less than a trap with everything.
            (None, _) => self.entry.emulated.saturating_mul(1000),
        }
    }
}

/// Properties of a row that set the price of its hits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    entry: bool,
    /// Its exits are plain returns.
    plain: bool,
    /// It is the row of Python's evaluation loop.
    python: bool,
}

/// The kinds of a plan's functions, as its sites come in.
#[derive(Debug, Default, Clone)]
pub(crate) struct KindsOfRows {
    rows: Vec<Kinds>,
    any_stepped: bool,
}

impl KindsOfRows {
    pub(crate) fn add(&mut self, site: &PlanSite) {
        let row = (site.cookie & SITE_FUNCTION_MASK) as usize;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Kinds::default());
        }
        let kinds = &mut self.rows[row];
        kinds.python |= site.cookie & SITE_PYTHON != 0;
        kinds.entry |= !site.exit;
        kinds.plain |= site.exit && site.cookie & SITE_RETURN != 0;
        self.any_stepped |= site.stepped;
    }

    /// True if a call of one of the functions may have calls of others inside.
    pub(crate) fn may_nest(&self) -> bool {
        // This runs often, for plans with thousands of rows.
        let mut entered = self.rows.iter().filter(|kinds| kinds.entry);
        entered.next().is_some_and(|first| first.python || entered.next().is_some())
    }

    /// Number of the last row with a site, plus one.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The kinds of a row whose function has an entry site.
    pub(crate) fn of(&self, row: usize) -> Option<Kinds> {
        self.rows.get(row).copied().filter(|kinds| kinds.entry)
    }

    /// The price of the dearest possible hit: at an unknown address the kind is unknown too.
    pub(crate) fn dearest(&self, prices: &Prices) -> u64 {
        let of = |halves: Halves| if self.any_stepped { halves.stepped } else { halves.emulated };
        of(prices.entry).max(of(prices.exit))
    }
}

/// Method of observing the ends of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) returns: Returns,
    /// The programs do plain returns themselves.
    pub(crate) writes: bool,
}

/// Cost of the hits of a row, and the number of walks over the links that the kernel made for them.
pub(crate) fn priced(kinds: Kinds, hits: &Hits, prices: &Prices, ways: Ways) -> (u64, u64) {
    let dearer = |halves: Halves| halves.stepped.saturating_sub(halves.emulated);
    let exit = Halves {
        emulated: if ways.writes && kinds.plain { prices.written } else { prices.exit.emulated },
        ..prices.exit
    };
    // Python's functions share one row for the hits of the loop.
    let exits = match (ways.returns, kinds.python) {
        (Returns::Uretprobe, _) => 0,
        (Returns::Ret, true) => hits.idle_exits,
        (Returns::Ret, false) => hits.exits,
    };
    let counted = hits.entries.saturating_sub(hits.idle_entries);
    let parts = [
        (counted, prices.entry.emulated.saturating_add(hits.work_ns)),
        (hits.idle_entries, prices.idle_entry),
        (hits.stepped_entries, dearer(prices.entry)),
        (exits, exit.emulated),
        (hits.stepped_exits, dearer(exit)),
    ];
    let whole = parts.iter().fold(0u64, |sum, (hits, price)| sum.saturating_add(hits.saturating_mul(*price)));
    let saved =
        hits.twins.saturating_mul(prices.entry.emulated.min(exit.emulated).saturating_sub(prices.twin));
    let traps = hits.entries.saturating_add(exits).saturating_sub(hits.twins);
    (whole.saturating_sub(saved), traps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices {
        entry: Halves { emulated: 300, stepped: 10_000 },
        idle_entry: 290,
        exit: Halves { emulated: 400, stepped: 20_000 },
        written: 450,
        twin: 100,
        walk: Some(Walk { call_ps: 80_000, bias_ps: 40_000 }),
    };
    const RET: Ways = Ways { returns: Returns::Ret, writes: false };

    fn kinds(sites: &[(u64, bool, bool)]) -> KindsOfRows {
        let mut kinds = KindsOfRows::default();
        for &(cookie, exit, stepped) in sites {
            kinds.add(&PlanSite { offset: 0, cookie, exit, stepped, code: [0; 4], code_len: 4, before: 0 });
        }
        kinds
    }

    #[test]
    fn a_hit_has_the_price_of_its_own_site_and_not_of_the_dearest_one_of_its_function() {
        let of = kinds(&[(0, false, false), (0, true, true), (0, true, false)]).of(0).unwrap();
        let hits = Hits { entries: 1000, exits: 1000, stepped_exits: 10, ..Hits::default() };
        assert_eq!(priced(of, &hits, &PRICES, RET), (1000 * 300 + 990 * 400 + 10 * 20_000, 2000));
    }

    #[test]
    fn hits_that_count_for_nothing_cost_as_much() {
        let of = kinds(&[(0, false, false), (0, true, false)]).of(0).unwrap();
        let hits = Hits { entries: 1, exits: 2001, idle_exits: 2000, ..Hits::default() };
        assert_eq!(priced(of, &hits, &PRICES, RET), (300 + 2001 * 400, 2002));
        let hits = Hits { entries: 10, idle_entries: 9, exits: 1, ..Hits::default() };
        assert_eq!(priced(of, &hits, &PRICES, RET), (300 + 9 * 290 + 400, 11));
    }

    #[test]
    fn a_return_probe_is_paid_by_its_entry_and_a_twin_pays_no_trap() {
        let of = kinds(&[(0, false, false)]).of(0).unwrap();
        let hits = Hits { entries: 10, exits: 10, ..Hits::default() };
        let returns = Ways { returns: Returns::Uretprobe, writes: false };
        assert_eq!(priced(of, &hits, &PRICES, returns), (3000, 10));
        let hits = Hits { entries: 10, exits: 10, twins: 10, ..Hits::default() };
        assert_eq!(priced(of, &hits, &PRICES, RET), (7000 - 10 * 200, 10));
    }

    #[test]
    fn returns_that_the_programs_do_and_the_loop_of_python_have_prices_of_their_own() {
        let of = kinds(&[(0, false, false), (SITE_RETURN, true, true)]).of(0).unwrap();
        let hits = Hits { entries: 10, exits: 10, ..Hits::default() };
        let writing = Ways { returns: Returns::Ret, writes: true };
        assert_eq!(priced(of, &hits, &PRICES, writing), (10 * (300 + 450), 20));
        // Its exits are counted apart: those that have a frame are in the rows of the functions.
        let of = kinds(&[(SITE_PYTHON, false, false), (SITE_PYTHON, true, false)]).of(0).unwrap();
        let hits = Hits { entries: 10, exits: 19, idle_exits: 9, ..Hits::default() };
        assert_eq!(priced(of, &hits, &PRICES, RET), (3000 + 9 * 400, 19));
        let slow = Hits { work_ns: 700, ..hits };
        assert_eq!(priced(of, &slow, &PRICES, RET), (10 * 1000 + 9 * 400, 19));
    }

    #[test]
    fn the_programs_find_each_price_at_its_place() {
        assert_eq!(PRICES.of_hits(Returns::Ret, 0), [300, 400, 10_000, 20_000, 100, 450, 0, 0]);
        let ten_more = PRICES.of_hits(Returns::Ret, 10);
        assert_eq!(ten_more, [700, 800, 10_400, 20_400, 100, 850, 0, 0], "a twin walks with the first");
        assert_eq!(PRICES.of_hits(Returns::Uretprobe, 10)[0], 1_100);
        assert_eq!(Prices { walk: None, ..PRICES }.of_hits(Returns::Ret, 10)[0], 300, "not known");
    }

    #[test]
    fn one_more_process_adds_to_each_hit() {
        assert_eq!(PRICES.walk_ps(Returns::Ret), 40_000);
        assert_eq!(PRICES.walk_ps(Returns::Uretprobe), 80_000);
        // At worst a whole hit.
        assert_eq!(Prices { walk: None, ..PRICES }.walk_ps(Returns::Ret), 300_000);
        let plan = kinds(&[(0, false, false), (0, true, true)]);
        assert_eq!(plan.dearest(&PRICES), 20_000);
        assert_eq!(plan.of(1), None);
    }
}
