//! Rust: panics that unwind through probed frames, with destructors on the way, caught by
//! `catch_unwind`; and ordinary calls of generic and trait functions. The protocol and the counters
//! are those of oracle.c.

use std::ffi::{CString, c_char, c_int};
use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The beginning of `struct oracle_function`.
#[repr(C)]
struct OracleFunction {
    name: *const c_char,
    calls: u64,
    returned: u64,
    unwound: u64,
}

unsafe extern "C" {
    fn oracle_make(name: *const c_char) -> *mut OracleFunction;
    fn oracle_next(turns: u64) -> c_int;
    fn oracle_now() -> u64;
    fn oracle_record(function: *mut OracleFunction, ns: u64);
    fn oracle_option(name: *const c_char, otherwise: u64) -> u64;
    fn oracle_wrong(what: *const c_char, expected: u64, found: u64);
    fn oracle_main(argc: c_int, argv: *mut *mut c_char, work: extern "C" fn(c_int)) -> c_int;
}

/// One function of this target, shared by all threads.
#[derive(Clone, Copy)]
struct Counters(*mut OracleFunction);

// SAFETY: the pointee is never freed and changed by atomic additions only.
unsafe impl Send for Counters {}
// SAFETY: as above.
unsafe impl Sync for Counters {}

impl Counters {
    fn new(name: &str) -> Self {
        let name = CString::new(name).expect("a name without zero bytes");
        // SAFETY: the name lives forever.
        Self(unsafe { oracle_make(name.into_raw()) })
    }
    fn enter(self) {
        // SAFETY: a word of a registered function, which lives forever and is only added to.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.0).calls) }.fetch_add(1, Ordering::Relaxed);
    }
    fn leave(self) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.0).returned) }.fetch_add(1, Ordering::Relaxed);
    }
    fn unwound(self) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.0).unwound) }.fetch_add(1, Ordering::Relaxed);
    }
}

/// Nanoseconds on the monotonic clock.
fn now() -> u64 {
    // SAFETY: no condition.
    unsafe { oracle_now() }
}

/// Computes until `ns` nanoseconds have passed since `start`.
fn spin_until(start: u64, ns: u64) {
    while now() - start < ns {}
}

/// Computes for a while longer on drop, and reports the total time.
struct Timer {
    start: u64,
    ns: u64,
}

impl Drop for Timer {
    fn drop(&mut self) {
        spin_until(self.start, self.ns);
        // SAFETY: a registered function, which lives forever.
        unsafe { oracle_record(all().takes.0, now() - self.start) }
    }
}

struct All {
    takes: Counters,
    panics: Counters,
    passes: Counters,
    catches: Counters,
    measure: Counters,
}

static ALL: OnceLock<All> = OnceLock::new();

fn all() -> &'static All {
    ALL.get().expect("set in main")
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

struct Guard<'a>(&'a mut u64);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        *self.0 += 1;
    }
}

/// Panics when x is odd.
#[inline(never)]
fn panics(x: u64) -> u64 {
    all().panics.enter();
    if x & 1 == 1 {
        all().panics.unwound();
        panic::panic_any(x);
    }
    let y = mix(x);
    all().panics.leave();
    y
}

/// Has a destructor to run while the panic passes.
#[inline(never)]
fn passes(x: u64, dropped: &mut u64) -> u64 {
    all().passes.enter();
    let guard = Guard(dropped);
    if x & 1 == 1 {
        all().passes.unwound();
    }
    let y = panics(x).wrapping_add(1);
    drop(guard);
    all().passes.leave();
    y
}

/// Takes a given time, with or without a panic.
#[inline(never)]
fn takes(ns: u64, x: u64) -> u64 {
    let timer = Timer { start: now(), ns };
    all().takes.enter();
    spin_until(timer.start, ns - ns / 4);
    if x & 1 == 1 {
        all().takes.unwound();
    }
    let y = panics(x);
    drop(timer);
    all().takes.leave();
    y
}

/// Always returns.
#[inline(never)]
fn catches(x: u64, dropped: &mut u64) -> u64 {
    all().catches.enter();
    let y = match panic::catch_unwind(AssertUnwindSafe(|| passes(x, dropped))) {
        Ok(y) => y,
        Err(payload) => *payload.downcast::<u64>().expect("our own panic"),
    };
    all().catches.leave();
    y
}

/// A trait method on a generic type, called through a table.
trait Measure {
    fn measure(&self, x: u64) -> u64;
}

struct Scaled<T>(T);

impl Measure for Scaled<u64> {
    #[inline(never)]
    fn measure(&self, x: u64) -> u64 {
        all().measure.enter();
        let y = x.wrapping_mul(self.0);
        all().measure.leave();
        y
    }
}

fn expect(what: &'static std::ffi::CStr, expected: u64, found: u64) {
    if expected != found {
        // SAFETY: a C string that lives forever.
        unsafe { oracle_wrong(what.as_ptr(), expected, found) }
    }
}

extern "C" fn work(thread: c_int) {
    let measure: &dyn Measure = std::hint::black_box(&Scaled(3u64));
    let mut dropped = 0;
    let mut turn = 0;
    // SAFETY: a C string that lives forever.
    let longest = unsafe { oracle_option(c"takes".as_ptr(), 0) };
    // SAFETY: no condition.
    while unsafe { oracle_next(turn) } != 0 {
        let x = turn.wrapping_mul(3).wrapping_add(thread as u64);
        let expected = if x & 1 == 1 { x } else { mix(x).wrapping_add(1) };
        expect(c"catches", expected, catches(x, &mut dropped));
        if longest > 0 {
            let ns = 100_000 + mix(turn) % longest;
            let taken = panic::catch_unwind(|| takes(ns, x)).unwrap_or_else(|payload| {
                *payload.downcast::<u64>().expect("our own panic")
            });
            expect(c"takes", if x & 1 == 1 { x } else { mix(x) }, taken);
        }
        expect(c"measure", x.wrapping_mul(3), measure.measure(x));
        turn += 1;
    }
    expect(c"destructors", turn, dropped);
}

fn main() {
    panic::set_hook(Box::new(|_| {}));
    let made = All {
        takes: Counters::new("unwinds::takes"),
        panics: Counters::new("unwinds::panics"),
        passes: Counters::new("unwinds::passes"),
        catches: Counters::new("unwinds::catches"),
        measure: Counters::new("<unwinds::Scaled<u64> as unwinds::Measure>::measure"),
    };
    assert!(ALL.set(made).is_ok());
    let arguments: Vec<CString> = std::env::args().map(|a| CString::new(a).expect("no zero bytes")).collect();
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
    let count = pointers.len() as c_int;
    pointers.push(std::ptr::null_mut());
    // SAFETY: argc and argv as main gets them, alive until the end.
    let status = unsafe { oracle_main(count, pointers.as_mut_ptr(), work) };
    std::process::exit(status);
}
