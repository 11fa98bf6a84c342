//! Shared layout of the BPF programs and Rust.
//!
//! This file is compiled twice: as a module of the crate, where the macro below turns it into
//! `#[repr(C)]` types and constants, and inside `build.rs`, which walks [`STRUCTS`] and
//! [`CONSTANTS`] and writes `layout.h` for `latency.bpf.c`. The header carries a `_Static_assert`
//! for every size and offset that Rust computed, so a compiler that disagrees stops the build. A
//! test in `object.rs` compares the same offsets with the BTF of the finished object.
//!
//! Only `u32`, `u64`, `i64`, arrays of those, and no implicit padding: then C and Rust agree on every
//! architecture that Linux and BPF support.

/// Field of a shared structure, as `build.rs` prints it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Name, the same in C and Rust.
    pub name: &'static str,
    /// Rust's name of the element type: `u32`, `u64` or `i64`.
    pub element: &'static str,
    /// Number of elements; 0 for a plain field.
    pub count: usize,
    /// Offset from the start of the structure in bytes.
    pub offset: usize,
}

/// Shared structure, as `build.rs` prints it.
#[derive(Debug, Clone, Copy)]
pub struct Struct {
    /// Name in C.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Fields in order.
    pub fields: &'static [Field],
}

macro_rules! layout {
    (
        constants { $( $(#[$cdoc:meta])* $const:ident: $cty:ident = $value:expr; )* }
        structures { $( $(#[$sdoc:meta])* $name:ident as $cname:literal {
            $( $(#[$fdoc:meta])* $field:ident: $fty:tt, )*
        } )* }
    ) => {
        $( $(#[$cdoc])* pub const $const: $cty = $value; )*

        $(
            $(#[$sdoc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy)]
            pub struct $name { $( $(#[$fdoc])* pub $field: $fty, )* }
        )*

        /// Every shared constant with its value, for the header.
        pub const CONSTANTS: &[(&str, u64)] = &[ $( (stringify!($const), $const as u64), )* ];

        /// Every shared structure, for the header.
        pub const STRUCTS: &[Struct] = &[ $( Struct {
            name: $cname,
            size: size_of::<$name>(),
            fields: &[ $( Field {
                name: stringify!($field),
                element: layout!(@element $fty),
                count: layout!(@count $fty),
                offset: std::mem::offset_of!($name, $field),
            }, )* ],
        }, )* ];
    };
    (@element [$ty:ident; $n:expr]) => { stringify!($ty) };
    (@element $ty:ident) => { stringify!($ty) };
    (@count [$ty:ident; $n:expr]) => { $n };
    (@count $ty:ident) => { 0 };
}

layout! {
    constants {
        /// Buckets of a row; equal to the histogram's number (asserted in `rows.rs`).
        ROW_BUCKETS: usize = 256;
        /// OTLP index of the first bucket of a row, relative to the smallest threshold's index so
        /// that it is not negative: bucket = ((log2 << SCALE) + thresholds passed) - BUCKET_BIAS.
        BUCKET_BIAS: u32 = 48;
        /// log2 of the buckets per octave.
        SCALE: u32 = 3;
        /// Thresholds of one octave: 2^SCALE.
        THRESHOLDS: usize = 8;

        /// Frames of one set of the frame table. Eight stack pointers fill one cache line, so a
        /// search reads one line until it hits.
        FRAME_WAYS: usize = 8;
        /// `FrameSet::sp` of a free frame.
        FRAME_FREE: u64 = 0;
        /// `FrameSet::sp` of a frame that a program holds while it changes the other two words. No
        /// stack pointer of user space is 1.
        FRAME_BUSY: u64 = 1;
        /// CPUs that calls can be limited to; a power of two. No call begins on a CPU beyond them.
        CPUS: u32 = 1024;

        /// Searches of a set after another program took the wanted frame.
        FRAME_ATTEMPTS: u32 = 4;

        /// Bits of a site's cookie that hold the function's row number.
        SITE_FUNCTION_MASK: u64 = 0x3_ffff;
        /// The site is in Python's evaluation loop, whose argument identifies the function.
        SITE_PYTHON: u64 = 0x4_0000;
        /// The hit counts on every CPU, even if others are limited to some: for the calibration,
        /// which runs on the guard's CPU. Set by the guard.
        SITE_ANY_CPU: u64 = 0x8_0000;
        /// First of four bits of a condition code (x86-64: low nibble of Jcc; aarch64: cond field).
        SITE_CONDITION_SHIFT: u32 = 20;
        /// The hit counts only if the condition code holds: a conditional jump out of the function.
        SITE_CONDITIONAL: u64 = 0x100_0000;
        /// On an unconditional exit: an exception leaves there, and the frame still exists.
        SITE_UNWOUND: u64 = 0x10_0000;
        /// An exit site that may also be passed inside the function: no frame there is no loss.
        SITE_MAYBE: u64 = 0x200_0000;
        /// The instruction is a plain near return of x86-64 (`c3`, `f3 c3`). A program that may
        /// write registers executes it, so that the kernel need not single-step it.
        SITE_RETURN: u64 = 0x400_0000;
        /// The site is in Go code that keeps its goroutine in a register. Goroutine and depth are
        /// the frame's key, because the stack moves when it grows and goroutines change threads.
        SITE_GOROUTINE: u64 = 0x800_0000;
        /// First of twelve bits with a SITE_RETURN's offset in its 4 KiB page. Set by the guard.
        SITE_PLACE_SHIFT: u32 = 28;
        /// The same bits of all other sites: distance in words of the stack pointer at the site
        /// from the higher one at the function's first instruction.
        SITE_ABOVE_SHIFT: u32 = 28;
        /// First bit of the process in cookies of links, which belong to one process. Process
        /// numbers are below 2^22 (PID_MAX_LIMIT, include/linux/threads.h). Set by the guard.
        SITE_PROCESS_SHIFT: u32 = 40;
        /// Bits of the process after the shift.
        SITE_PROCESS_MASK: u64 = 0x3f_ffff;
        /// The kernel single-steps the instruction, and a hit costs accordingly. Set by the guard.
        SITE_STEPPED: u64 = 0x4000_0000_0000_0000;
        /// Another site of the plan is the same instruction and trap: its hit carries the price. In
        /// the map of sites by address that site comes next. Set by the guard.
        SITE_TWIN: u64 = 0x8000_0000_0000_0000;
        /// `Event::kind`: a process of the family has a new child process.
        EVENT_FORK: u32 = 1;
        /// `Event::kind`: a family process, or a child that shared its memory, executes an image.
        EVENT_EXEC: u32 = 2;
        /// `Event::kind`: a probe was hit at an address that is not in the map of sites.
        EVENT_UNKNOWN_SITE: u32 = 3;
        /// `Event::kind`: first call of a Python function; its description is among the texts.
        EVENT_NEW_CODE: u32 = 4;
        /// `Event::kind`: a process of the family received a signal that switched everything off.
        EVENT_FAULT: u32 = 5;
        /// `Event::kind`: the last thread of a process of the family ends.
        EVENT_EXIT: u32 = 6;
        /// `Event::kind`: a child ends that may have hit inherited breakpoints.
        EVENT_PAID: u32 = 7;

        /// `Switches::state`: nothing counts.
        CONTROL_OFF: u32 = 0;
        /// `Switches::state`: everything counts.
        CONTROL_ARMED: u32 = 1;
        /// `Switches::state`: a process of the plan got a fatal signal; counting never resumes.
        CONTROL_FAULTED: u32 = 2;
        /// Concurrent plans; a power of two.
        PLANS: u32 = 1024;

        /// Maximum number of plans that measure one process.
        MEMBER_PLANS: u32 = 32;
        /// Beside a plan's number: a signal that the process handles does not switch off.
        MEMBER_UNHANDLED: u32 = 0x4000_0000;

        /// Signals that switch everything off, a bit each: ILL 4, TRAP 5, ABRT 6, BUS 7, FPE 8,
        /// SEGV 11, SYS 31 (asm-generic/signal.h, equal on both architectures). The kernel turns
        /// other deadly signals into KILL, not these (`complete_signal`, kernel/signal.c).
        FATAL_SIGNALS: u64 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 31;
        /// In `Event::value` of a fault: the process has a handler for the signal.
        FAULT_HANDLED: u32 = 0x100;
        /// In `Event::value` of a fault: another process sent it.
        FAULT_SENT: u32 = 0x200;
        /// In `Event::detail` of a new image: the thread that executed it was not the main one.
        EXEC_BY_THREAD: u32 = 0x8000_0000;

        /// `CodeSlot::content` of a free slot.
        CODE_FREE: u64 = 0;
        /// `CodeSlot::content` of a slot that a program holds while it changes the other words.
        CODE_BUSY: u64 = 1;
        /// Slots that are searched for a function, from the slot that its content selects.
        CODE_WAYS: u32 = 16;
        /// Mark of a function without a row of its own because it was not requested. The marks are
        /// beside the row number (`SITE_FUNCTION_MASK`) in `CodeSlot::row`.
        CODE_UNWANTED: u64 = 0x4_0000;
        /// Mark of a generator or coroutine: a call may be only its creation.
        CODE_RESUMES: u64 = 0x8_0000;
        /// Lowest bits of a function's word that an entry of the cache also has.
        CODE_KEPT: u32 = 20;
        /// Mark of a function without a row because all are in use.
        CODE_WAITING: u64 = 0x10_0000;
        /// Mark of a function that the collector has not decided about.
        CODE_OPEN: u64 = 0x20_0000;
        /// Mark of a function whose description has not found a place.
        CODE_UNTOLD: u64 = 0x40_0000;
        /// Not a function's word: no slot was available for it.
        CODE_LOST: u64 = 0x80_0000;
        /// Not a function's word: its code object could not be read.
        CODE_UNREAD: u64 = 0x100_0000;
        /// CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR (Include/cpython/code.h, 3.8 to 3.15).
        CODE_RESUMABLE_FLAGS: u32 = 0x20 | 0x80 | 0x200;
        /// Entries of one set of the cache: a cache line.
        CACHE_WAYS: usize = 8;
        /// Mark of an open await among the tags of frames. Below it are the row of the whole await
        /// and, from AWAIT_ROW_BITS on, the use of that row.
        AWAIT_MARK: u32 = 0x8000_0000;
        /// Bits of the row in an open await's tag.
        AWAIT_ROW_BITS: u32 = 18;
        /// Uses of a row that are distinguished, after the shift.
        AWAIT_USES: u32 = 0x1fff;
        /// `Constants::python_ended` if a whole word of the frame is 0 after its return, up to 3.9.
        AWAIT_ENDED_WORD: u32 = 0x100;
        /// Maximum number of rows in the pool; a power of two.
        POOL_ROWS: usize = 1024;
        /// Words of a text that are kept.
        TEXT_WORDS: usize = 24;

        /// `SiteKey::nth` of the first exit at an address.
        SITE_EXITS: u32 = 0x100;
        /// Functions that may share a site, such as the return of a symbol inside another's range.
        SITE_SHARED: u32 = 16;

        /// Threads (in Go: goroutines) with their own sum of probe time; a power of two. Others
        /// share a place and take turns.
        THREADS: u32 = 4096;
        /// Bit that another thread's takeover adds to `Thread::probes_ns`: as probes never take
        /// five hours within a call, such a difference means an unknown time.
        PROBES_UNKNOWN_SHIFT: u32 = 44;
        /// Index in `Prices::ns` for a hit of an entry; an exit's index is one higher.
        PRICE_PLAIN: u32 = 0;
        /// Index if the kernel single-steps the instruction.
        PRICE_STEPPED: u32 = 2;
        /// One in this many Python calls is timed; `Row::python_work` is this many times the mean.
        WORK_EVERY: u32 = 16;
        /// Index if another program has paid for the trap.
        PRICE_TWIN: u32 = 4;
        /// Index for a plain return that the program executes itself.
        PRICE_WRITTEN: u32 = 5;

        /// Value in the map of sites of an address that was reported and is not known yet.
        SITE_UNKNOWN: u64 = 0xffff_ffff_ffff_ffff;
    }

    structures {
        /// Switches of the guard, one per plan, for all objects. Only the guard maps the array.
        Switches as "switches" {
            /// A CONTROL_ constant, tested first by every program: only CONTROL_ARMED counts hits.
            state: [u32; 1024],
            /// Events that the ring buffer had no room for.
            lost_events: [u32; 1024],
        }

        /// Current cost of a hit in nanoseconds; all 0 until it is measured. Written by the guard.
        Prices as "prices" {
            /// Indexed by the PRICE_ constants.
            ns: [u32; 8],
        }

        /// Total time that the hits of all probes have taken in one thread.
        Thread as "thread" {
            /// The thread, or the address of its goroutine.
            owner: u64,
            /// Nanoseconds by [`Prices`], with PROBES_UNKNOWN_SHIFT. Only differences matter.
            probes_ns: u64,
        }

        /// A measured process, once for each of its plans, numbered from 0 without a gap.
        Member as "member" {
            /// The process.
            tgid: u32,
            /// Number of the plan within the process.
            nth: u32,
        }

        /// Values known at load time that never change: the verifier folds them into the programs.
        Constants as "constants" {
            /// Lanes of a function: possible CPUs.
            lanes: u32,
            /// Sets of the frame table minus one; their number is a power of two.
            frame_set_mask: u32,
            /// The row whose `entries` are hits at unknown addresses.
            unknown_row: u32,
            /// Rows of Python functions; 0 if none is measured.
            python_rows: u32,
            /// Number of the first Python row.
            python_first_row: u32,
            /// Slots for functions minus one; their number is a power of two.
            code_slot_mask: u32,
            /// Sets of the cache minus one; their number is a power of two.
            code_set_mask: u32,
            /// Places for descriptions minus one; their number is a power of two.
            code_text_mask: u32,
            /// Index from 0 of the evaluation loop's argument that is the frame.
            python_frame_argument: u32,
            /// Offset in a frame of its code object.
            python_frame_code: u32,
            /// Low bits of that pointer that are marks.
            python_code_marks: u32,
            /// Offset in a frame of the owner byte; 0 if creating a generator is no entry.
            python_frame_owner: u32,
            /// Offset in a code object of its file name; the function's own name follows.
            python_code_file: u32,
            /// Offset in a code object of the reported name.
            python_code_name: u32,
            /// Offset in a code object of its flags.
            python_code_flags: u32,
            /// Offset in a code object of its first line.
            python_code_line: u32,
            /// Offset of the text in an ASCII string.
            python_text: u32,
            /// Offset of the text in any other string.
            python_wide_text: u32,
            /// Not 0: frames cannot be distinguished, so calls are counted and not timed.
            python_counts_only: u32,
            /// The plan's number: index of its switch.
            plan: u32,
            /// Not 0: only calls that begin on one of `cpus` count.
            cpus_limited: u32,
            /// Not 0: the programs may sleep (BPF_F_SLEEPABLE), so a read may wait for its page.
            may_sleep: u32,
            /// Sets for open awaits, behind the other frames; a power of two, or 0 if not measured.
            await_sets: u32,
            /// Offset in a Python frame of its position: up to 3.10 a number, later an address.
            python_frame_position: u32,
            /// Offset in a code object of the number of the first instruction that a resume
            /// executes; code follows 16 bytes later. 0 if the first position is negative.
            python_code_first: u32,
            /// Distance from a frame of the byte that marks its return; may be negative.
            python_frame_state: u32,
            /// Lowest value of that byte that means returned, or AWAIT_ENDED_WORD.
            python_ended: u32,
            /// Padding for alignment.
            reserved: u32,
            /// CPUs, 64 per word from the lowest bit of the first on.
            cpus: [u64; 16],
            /// Bucket bounds of one octave of nanoseconds, from the histogram crate.
            thresholds: [u64; 8],
        }

        /// Counters of one function on one CPU: the histogram and the account of its entries.
        ///
        /// Counters only grow and are never cleared. The first eight, a cache line, usually
        /// determine the price. Over all lanes of a function, `entries = zero + sum(buckets) +
        /// over_range + abandoned + cut + evicted + table_full + unkeyed + frames in the table`.
        Row as "row" {
            /// Hits of the entry site, on CPUs that count.
            entries: u64,
            /// Exit hits without a frame: the call began before arming, or on an ignored CPU.
            unmatched: u64,
            /// Frames whose exact key was entered again, on any CPU: the call never returned.
            abandoned: u64,
            /// Entry hits that cost but do not count: by their condition, or by their CPU.
            idle_entries: u64,
            /// Exit hits that cost but do not count: condition false, goroutine unknown, or no
            /// frame is no loss there. In the first Python row: all exits of the evaluation loop.
            idle_exits: u64,
            /// Entry hits that the kernel single-steps.
            stepped_entries: u64,
            /// Exit hits that the kernel single-steps.
            stepped_exits: u64,
            /// Hits that shared their trap with another hit.
            twins: u64,
            /// Sum of all durations in the histogram in nanoseconds.
            sum_ns: u64,
            /// Durations below the first bucket.
            zero: u64,
            /// Durations above the last bucket.
            over_range: u64,
            /// Frames that a younger one replaced because their set was full.
            evicted: u64,
            /// Entries that found no usable frame.
            table_full: u64,
            /// Entries whose frame has no key: the register holds no goroutine that the stack pointer is on.
            unkeyed: u64,
            /// Calls inside now; only for programs with frames in a hash, which cannot be mapped.
            inside: i64,
            /// Part of `sum_ns` that probes took inside the calls.
            probes_inside_ns: u64,
            /// Calls in the histogram for which that part is unknown.
            probes_unknown: u64,
            /// Calls left by an exception whose end was seen: in the histogram, or over range.
            unwound: u64,
            /// In a row of whole awaits: part of `sum_ns` in which they were suspended.
            suspended_ns: u64,
            /// In the row of the resumes: awaits that began without a row for the whole await.
            awaits_unresolved: u64,
            /// In the first Python row: recent mean time to find the function of a call, times
            /// WORK_EVERY, in nanoseconds. Not a counter.
            python_work: u64,
            /// Calls that were open when a sampling window ended.
            cut: u64,
            /// Padding of the row to cache lines; the first line has the counters for the price.
            reserved: [u64; 2],
            /// Durations by exponential bucket.
            buckets: [u64; 256],
        }

        /// One set of the frame table. `sp` is a frame's state and lock: FRAME_FREE, FRAME_BUSY, or
        /// the call's stack pointer (Go: goroutine and depth), its exact key together with `tag`.
        FrameSet as "frame_set" {
            /// Stack pointers at entry, or FRAME_FREE, or FRAME_BUSY.
            sp: [u64; 8],
            /// Process (upper half), function (lower 20 bits) and, for a goroutine, the depth from
            /// 4 MiB on (the 12 bits between).
            tag: [u64; 8],
            /// Time of entry, CLOCK_MONOTONIC nanoseconds.
            start: [u64; 8],
            /// `Thread::probes_ns` at entry, this hit included. Of an open await: run time so far.
            probes_ns: [u64; 8],
            /// Frame object if the call resumes a Python generator or coroutine, else 0.
            object: [u64; 8],
        }

        /// Key of a probed instruction if the probe carries no cookie.
        SiteKey as "site_key" {
            /// Address in the process.
            ip: u64,
            /// Process.
            tgid: u32,
            /// Number of the site at the address: entries from 0, exits from SITE_EXITS on.
            nth: u32,
        }

        /// Exact key of a frame in the hash variant.
        FrameKey as "frame_key" {
            /// Stack pointer at entry.
            sp: u64,
            /// Process (upper half) and function (lower half).
            tag: u64,
        }

        /// Value under that key.
        FrameValue as "frame_value" {
            /// Time of entry, CLOCK_MONOTONIC nanoseconds.
            start: u64,
            /// `Thread::probes_ns` at entry, its own hit included.
            probes_ns: u64,
        }

        /// State of one Python function in all processes. `content` is also the lock.
        CodeSlot as "code_slot" {
            /// Hash of name, file, line and kind; or CODE_FREE, or CODE_BUSY.
            content: u64,
            /// Its row with the CODE_ marks; the collector writes its answer here.
            row: u64,
            /// Calls while it had no row.
            waiting: u64,
            /// Not of this function: of the row with the slot's number, counted from the first
            /// Python row. Lower half: value that an open await of the row's function has in its
            /// tag, or 0. Upper half: the current use of the row, if it counts whole awaits.
            whole: u64,
        }

        /// One set of the cache of code objects. An entry has a hash of process and object in its
        /// upper bits, the decision below CODE_KEPT. It is one word, so that it is never torn.
        CodeSet as "code_set" {
            /// Entries, or 0.
            ways: [u64; 8],
        }

        /// Free rows, and the write and read positions of the array of texts.
        PythonPool as "python_pool" {
            /// Rows taken by programs so far.
            head: u64,
            /// Rows given by the collector so far.
            tail: u64,
            /// Texts written by programs so far.
            texts_head: u64,
            /// Texts read by the collector so far.
            texts_tail: u64,
            /// Texts that found no place.
            untold: u64,
            /// Row numbers between head and tail, each at its count modulo POOL_ROWS. The upper
            /// half is the number of the row's use.
            rows: [u64; 1024],
        }

        /// Description of a function after its first call.
        CodeText as "code_text" {
            /// Its count among the texts plus one, once it is complete.
            sequence: u64,
            /// Hash of the described function, as in the slot.
            content: u64,
            /// Its slot.
            slot: u64,
            /// Its row or CODE_WAITING.
            row: u64,
            /// First line (lower half) and flags (upper half).
            line: u64,
            /// Characters of the file's name (lower half) and state of that string (upper half).
            file_length: u64,
            /// Length and state of the name.
            name_length: u64,
            /// Bytes at the text offset of an ASCII string.
            file: [u64; 24],
            /// Bytes of the name.
            name: [u64; 24],
        }

        /// Kernel event about a family, for the guard.
        Event as "event" {
            /// One of the EVENT_ constants.
            kind: u32,
            /// The plan's number.
            plan: u32,
            /// Process of the event.
            tgid: u32,
            /// Fork: the child process. Fault: the signal, possibly with FAULT_*. Exit: the status
            /// as wait(2) returns it. New image: lower half of the monotonic time. Child that may
            /// have hit breakpoints: its CPU time in microseconds.
            value: u32,
            /// Fault: `si_code`. New image: upper half of the time, possibly with EXEC_BY_THREAD.
            /// Fork: lower half of the time in microseconds. Exit: lifetime in microseconds.
            detail: u32,
        }
    }
}
