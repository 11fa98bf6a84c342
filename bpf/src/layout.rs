//! The one description of everything that the BPF programs and Rust both touch.
//!
//! This file is compiled twice: as a module of the crate, where the macro below makes `#[repr(C)]` types
//! and constants of it, and inside `build.rs`, which walks [`STRUCTS`] and [`CONSTANTS`] and writes
//! `layout.h` for `latency.bpf.c`. The header carries a `_Static_assert` for every size and offset that
//! Rust computed, so a compiler that disagrees stops the build; `object.rs` has the test that looks the
//! same offsets up in the BTF of the finished object.
//!
//! Only `u32`, `u64`, `i64`, arrays of those, and no implicit padding: then C and Rust agree on every
//! architecture that Linux and BPF support.

/// A field of a shared structure, as `build.rs` prints it.
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

/// A shared structure, as `build.rs` prints it.
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
        /// Buckets of a row; must be the histogram's number (asserted in `rows.rs`).
        ROW_BUCKETS: usize = 256;
        /// OTLP index of the first bucket of a row, counted from the smallest threshold's index so that it is
        /// not negative: bucket = ((log2 << SCALE) + thresholds passed) - BUCKET_BIAS.
        BUCKET_BIAS: u32 = 48;
        /// log2 of the buckets per octave.
        SCALE: u32 = 3;
        /// Thresholds of one octave: 2^SCALE.
        THRESHOLDS: usize = 8;

        /// Frames of one set of the frame table. Eight stack pointers fill one cache line, so a search touches
        /// one line until it hits.
        FRAME_WAYS: usize = 8;
        /// `FrameSet::sp` of a frame that nobody uses.
        FRAME_FREE: u64 = 0;
        /// `FrameSet::sp` of a frame that one program holds while it changes the other two words. No stack
        /// pointer of user space is 1.
        FRAME_BUSY: u64 = 1;
        /// CPUs that calls can be limited to; a power of two. On those beyond none begins.
        CPUS: u32 = 1024;

        /// How often a program searches its set again after another one took the frame it wanted.
        FRAME_ATTEMPTS: u32 = 4;

        /// Bits of a site's cookie that hold the function's number (its row).
        SITE_FUNCTION_MASK: u64 = 0x3_ffff;
        /// The site is in the evaluation loop of Python: which function is called, its argument tells.
        SITE_PYTHON: u64 = 0x4_0000;
        /// The hit counts on every CPU, also where others count on some only: those of the calibration, which runs where
        /// the guard does. Set by the guard.
        SITE_ANY_CPU: u64 = 0x8_0000;
        /// First bit of the four that hold a condition code (x86-64: low nibble of the Jcc opcode; aarch64: cond field).
        SITE_CONDITION_SHIFT: u32 = 20;
        /// The hit counts only when the condition code holds: a conditional jump out of the function.
        SITE_CONDITIONAL: u64 = 0x100_0000;
        /// Of an exit that is not conditional: an exception leaves there, with the frame still standing.
        SITE_UNWOUND: u64 = 0x10_0000;
        /// An exit site that may also be passed inside the function: no frame there is no loss.
        SITE_MAYBE: u64 = 0x200_0000;
        /// The instruction is a plain near return of x86-64 (`c3`, `f3 c3`): a program that may write registers does
        /// it, so that the kernel need not single-step it.
        SITE_RETURN: u64 = 0x400_0000;
        /// The site is in code of Go that keeps its goroutine in a register: the frame's key is goroutine and depth,
        /// because the stack moves when it grows and goroutines change threads.
        SITE_GOROUTINE: u64 = 0x800_0000;
        /// First bit of the twelve that hold, of a SITE_RETURN, the instruction's place in its page of 4 KiB. Set by the guard.
        SITE_PLACE_SHIFT: u32 = 28;
        /// The same bits of all other sites: by how many words the stack pointer at the function's first instruction was above
        /// that at the site.
        SITE_ABOVE_SHIFT: u32 = 28;
        /// First bit of the process, in cookies of links, which belong to one process. Process numbers are below
        /// 2^22 (PID_MAX_LIMIT, include/linux/threads.h). Set by the guard.
        SITE_PROCESS_SHIFT: u32 = 40;
        /// Bits of the process, once they are shifted down.
        SITE_PROCESS_MASK: u64 = 0x3f_ffff;
        /// The kernel single-steps the instruction, so that a hit has the price of that. Set by the guard.
        SITE_STEPPED: u64 = 0x4000_0000_0000_0000;
        /// Another site of the plan is the same instruction: one trap serves both, and the other one's hit has its price. In
        /// the map of sites by address that one comes next. Set by the guard.
        SITE_TWIN: u64 = 0x8000_0000_0000_0000;
        /// `Event::kind`: a process of the family has a new child process.
        EVENT_FORK: u32 = 1;
        /// `Event::kind`: a process of the family, or a child that shared its memory until now, executes an image.
        EVENT_EXEC: u32 = 2;
        /// `Event::kind`: a probe was hit at an address that is not in the map of sites.
        EVENT_UNKNOWN_SITE: u32 = 3;
        /// `Event::kind`: a Python function was called for the first time; its description waits in the array of texts.
        EVENT_NEW_CODE: u32 = 4;
        /// `Event::kind`: a process of the family got a signal for which everything was switched off.
        EVENT_FAULT: u32 = 5;
        /// `Event::kind`: the last thread of a process of the family ends.
        EVENT_EXIT: u32 = 6;
        /// `Event::kind`: a child ends that may have hit breakpoints which it inherited.
        EVENT_PAID: u32 = 7;

        /// `Switches::state`: nothing counts.
        CONTROL_OFF: u32 = 0;
        /// `Switches::state`: everything counts.
        CONTROL_ARMED: u32 = 1;
        /// `Switches::state`: a process of the plan got a fatal signal, and nothing counts ever again.
        CONTROL_FAULTED: u32 = 2;
        /// Plans at the same time; a power of two.
        PLANS: u32 = 1024;

        /// Plans that one process may be measured by.
        MEMBER_PLANS: u32 = 32;
        /// Beside a plan's number: only a signal that ends the process switches off, not one that it handles.
        MEMBER_UNHANDLED: u32 = 0x4000_0000;

        /// Signals for which everything is switched off, a bit each: ILL 4, TRAP 5, ABRT 6, BUS 7, FPE 8, SEGV 11, SYS 31
        /// (asm-generic/signal.h, the same on both architectures). The kernel delivers each by itself, unlike signals that
        /// only end a process, which it turns into KILL (`complete_signal`, kernel/signal.c).
        FATAL_SIGNALS: u64 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 31;
        /// In `Event::value` of a fault: the process has a handler for the signal.
        FAULT_HANDLED: u32 = 0x100;
        /// And another process sent it.
        FAULT_SENT: u32 = 0x200;
        /// In `Event::detail` of a new image: a thread that was not the main one executed it, and is the main one now.
        EXEC_BY_THREAD: u32 = 0x8000_0000;

        /// `CodeSlot::content` of a slot that no function has.
        CODE_FREE: u64 = 0;
        /// `CodeSlot::content` of a slot that one program holds while it changes the other words.
        CODE_BUSY: u64 = 1;
        /// Slots that are searched for a function, from the one that its content leads to.
        CODE_WAYS: u32 = 16;
        /// Mark of a function without a row of its own because nobody asked for it. The marks stand beside the number of a
        /// row (`SITE_FUNCTION_MASK`) in `CodeSlot::row`.
        CODE_UNWANTED: u64 = 0x4_0000;
        /// Mark of a generator or coroutine: a call may be no more than its making.
        CODE_RESUMES: u64 = 0x8_0000;
        /// Lowest bits of a function's word, which an entry of the cache has as well.
        CODE_KEPT: u32 = 20;
        /// Mark of a function without a row because all are in use.
        CODE_WAITING: u64 = 0x10_0000;
        /// Mark of a function about which the collector has not decided.
        CODE_OPEN: u64 = 0x20_0000;
        /// Mark of a function whose description found no place.
        CODE_UNTOLD: u64 = 0x40_0000;
        /// No function's word: there was no slot for it.
        CODE_LOST: u64 = 0x80_0000;
        /// No function's word: its code object could not be read.
        CODE_UNREAD: u64 = 0x100_0000;
        /// CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR (Include/cpython/code.h, 3.8 to 3.15).
        CODE_RESUMABLE_FLAGS: u32 = 0x20 | 0x80 | 0x200;
        /// Entries of one set of the cache: a cache line.
        CACHE_WAYS: usize = 8;
        /// Mark of an open await among the tags of frames. Below it stand the row of the whole and, from AWAIT_ROW_BITS on, which
        /// use of that row it is.
        AWAIT_MARK: u32 = 0x8000_0000;
        /// Bits of the row in an open await's tag.
        AWAIT_ROW_BITS: u32 = 18;
        /// Uses of a row that are told apart, once they are shifted down.
        AWAIT_USES: u32 = 0x1fff;
        /// `Constants::python_ended` where a whole word of the frame is 0 once it has returned, up to 3.9.
        AWAIT_ENDED_WORD: u32 = 0x100;
        /// Rows that wait to be taken, at most; a power of two.
        POOL_ROWS: usize = 1024;
        /// Words of a text that are kept.
        TEXT_WORDS: usize = 24;

        /// `SiteKey::nth` of the first exit at an address.
        SITE_EXITS: u32 = 0x100;
        /// Functions that may have a site in common, such as the return of a symbol that stands within another's range.
        SITE_SHARED: u32 = 16;

        /// Threads (in Go: goroutines) that what our probes take is told apart for; a power of two. Others share a place, and
        /// take turns.
        THREADS: u32 = 4096;
        /// `Thread::probes_ns` grows by so much when another one takes the place: no probes take five hours within a call, so
        /// that a difference of so much says that it is not known.
        PROBES_UNKNOWN_SHIFT: u32 = 44;
        /// `Prices::ns` of a hit of an entry; of an exit one more.
        PRICE_PLAIN: u32 = 0;
        /// The same where the kernel single-steps the instruction.
        PRICE_STEPPED: u32 = 2;
        /// Of so many calls of Python functions one is timed; `Row::python_work` is as many times the mean.
        WORK_EVERY: u32 = 16;
        /// Where another program has paid the trap.
        PRICE_TWIN: u32 = 4;
        /// Of a plain return that the program does itself.
        PRICE_WRITTEN: u32 = 5;

        /// Value in the map of sites of an address that was told and is not known yet.
        SITE_UNKNOWN: u64 = 0xffff_ffff_ffff_ffff;
    }

    structures {
        /// The guard's switches, one a plan, in an array of their own that only the guard maps. All loaded objects share it.
        Switches as "switches" {
            /// One of the CONTROL_ constants. Nothing is counted unless this is CONTROL_ARMED; every program tests it first.
            state: [u32; 1024],
            /// Events that the ring buffer had no room for.
            lost_events: [u32; 1024],
        }

        /// What a hit costs at present, in nanoseconds; all 0 before that is measured. Written by the guard.
        Prices as "prices" {
            /// By the PRICE_ constants.
            ns: [u32; 8],
        }

        /// What the hits of all probes have taken so far in one thread.
        Thread as "thread" {
            /// The thread, or the address of its goroutine.
            owner: u64,
            /// Nanoseconds, by [`Prices`], with what PROBES_UNKNOWN_SHIFT says. It only grows: differences count.
            probes_ns: u64,
        }

        /// A process that is measured, as often as it is by a plan: counted from 0 on without a gap.
        Member as "member" {
            /// The process.
            tgid: u32,
            /// Which of its plans.
            nth: u32,
        }

        /// What is known when the object is loaded and never changes: the verifier folds it into the programs.
        Constants as "constants" {
            /// Lanes of a function: possible CPUs.
            lanes: u32,
            /// Sets of the frame table less one; their number is a power of two.
            frame_set_mask: u32,
            /// The row whose `entries` are hits at unknown addresses.
            unknown_row: u32,
            /// Rows of Python functions; 0 where none are measured.
            python_rows: u32,
            /// The first of them.
            python_first_row: u32,
            /// Slots for functions less one; their number is a power of two.
            code_slot_mask: u32,
            /// Sets of the cache less one; their number is a power of two.
            code_set_mask: u32,
            /// Places for descriptions less one; their number is a power of two.
            code_text_mask: u32,
            /// Which argument of the evaluation loop is the frame, from 0.
            python_frame_argument: u32,
            /// Offset in a frame of its code object.
            python_frame_code: u32,
            /// Low bits of that pointer that are marks.
            python_code_marks: u32,
            /// Offset in a frame of the byte that says who owns it; 0 where making a generator is no entry.
            python_frame_owner: u32,
            /// Offset in a code object of the name of its file; the function's own name follows.
            python_code_file: u32,
            /// Offset in a code object of the name that is told.
            python_code_name: u32,
            /// Offset in a code object of its flags.
            python_code_flags: u32,
            /// Offset in a code object of its first line.
            python_code_line: u32,
            /// Offset of the text in a string of ASCII.
            python_text: u32,
            /// The same in any other string.
            python_wide_text: u32,
            /// Not 0: frames cannot be told apart, so that calls are counted and not timed.
            python_counts_only: u32,
            /// The plan's number: its switch.
            plan: u32,
            /// Not 0: only calls that begin on one of `cpus` count.
            cpus_limited: u32,
            /// Not 0: the programs may sleep (BPF_F_SLEEPABLE), so that a read may wait for its page.
            may_sleep: u32,
            /// Sets of the frame table behind the others, for open awaits; a power of two, or 0 where they are not measured.
            await_sets: u32,
            /// Offset in a frame of Python of where it stands: up to 3.10 a number, later an address.
            python_frame_position: u32,
            /// Offset in a code object of the number of its first instruction that a resume executes; the code follows 16 bytes
            /// behind. 0 where the position of a frame that was not resumed yet is negative.
            python_code_first: u32,
            /// Distance from a frame of the byte that says whether it has returned; below the frame where it is negative.
            python_frame_state: u32,
            /// The lowest of its values that says so, or AWAIT_ENDED_WORD.
            python_ended: u32,
            /// Keeps what follows aligned.
            reserved: u32,
            /// CPUs, 64 a word from the lowest bit of the first on.
            cpus: [u64; 16],
            /// Bucket bounds of one octave of nanoseconds, from the histogram crate.
            thresholds: [u64; 8],
        }

        /// What one function did on one CPU: the histogram and the account of its entries.
        ///
        /// Counters only grow and are never cleared. The first eight, a cache line, are all that a price depends on as a rule. Over all lanes of a function,
        /// `entries = zero + sum(buckets) + over_range + abandoned + cut + evicted + table_full + unkeyed + frames in the
        /// table`.
        Row as "row" {
            /// Hits of the entry site, on CPUs that count.
            entries: u64,
            /// Hits of an exit site that found no frame: the call was entered before arming, or on a CPU that does not count.
            unmatched: u64,
            /// Frames whose exact key was entered again, on whichever CPU: the earlier call never returned.
            abandoned: u64,
            /// Hits of an entry site that count for nothing, but cost: its condition does not hold, or the CPU does not count.
            idle_entries: u64,
            /// Hits of an exit site that count for nothing, but cost: its condition does not hold, no goroutine can be told, or
            /// no frame is no loss there. In the first row of Python: all hits of the evaluation loop's exits.
            idle_exits: u64,
            /// Of all hits of an entry site, those that the kernel single-steps.
            stepped_entries: u64,
            /// Of all hits of an exit site, those that the kernel single-steps.
            stepped_exits: u64,
            /// Of all hits, those whose trap was another one's as well.
            twins: u64,
            /// Sum of all durations in the histogram in nanoseconds.
            sum_ns: u64,
            /// Durations below the first bucket.
            zero: u64,
            /// Durations above the last bucket.
            over_range: u64,
            /// Frames that gave way to a younger one because their set was full.
            evicted: u64,
            /// Entries that found no frame to use.
            table_full: u64,
            /// Entries whose frame has no key: the register holds no goroutine that the stack pointer is on.
            unkeyed: u64,
            /// Calls that are inside now; kept by the programs whose frames stand in a hash, which cannot be mapped.
            inside: i64,
            /// Of `sum_ns`, what probes took that were hit inside of the calls.
            probes_inside_ns: u64,
            /// Calls in the histogram of which that is not known.
            probes_unknown: u64,
            /// Calls that were left by an exception and whose end was seen: in the histogram, or over range.
            unwound: u64,
            /// Of whole awaits: of `sum_ns`, when they were suspended.
            suspended_ns: u64,
            /// In the row of the resumes: awaits that began while there was no row for them as a whole.
            awaits_unresolved: u64,
            /// In the first row of Python: nanoseconds that it takes to find the function of a call, WORK_EVERY times the mean of
            /// late. Not a counter.
            python_work: u64,
            /// Frames of calls that were open when the guard took the probes off for a while, because of their cost.
            cut: u64,
            /// Keeps a row a multiple of a cache line, so that what a hit costs is told by the first one.
            reserved: [u64; 2],
            /// Durations by exponential bucket.
            buckets: [u64; 256],
        }

        /// One set of the frame table. `sp` is state and lock of a frame: FRAME_FREE, FRAME_BUSY, or the stack
        /// pointer of the call that stands there (in Go: goroutine and depth), which together with `tag` is its exact key.
        FrameSet as "frame_set" {
            /// Stack pointers at entry, or FRAME_FREE, or FRAME_BUSY.
            sp: [u64; 8],
            /// Process (upper half), function (lower 20 bits) and, for a goroutine, the depth from 4 MiB on (the 12 bits
            /// between).
            tag: [u64; 8],
            /// Time of entry, CLOCK_MONOTONIC nanoseconds.
            start: [u64; 8],
            /// `Thread::probes_ns` at entry, its own hit included. Of an open await, how long it ran until now.
            probes_ns: [u64; 8],
            /// Of a resume of a generator or coroutine of Python its frame object, else 0; only calls of Python have it.
            object: [u64; 8],
        }

        /// Key of a probed instruction where the probe carries no cookie.
        SiteKey as "site_key" {
            /// Address in the process.
            ip: u64,
            /// Process.
            tgid: u32,
            /// Which of the sites that functions have there: entries are counted from 0 on, exits from SITE_EXITS on.
            nth: u32,
        }

        /// Exact key of a frame in the hash variant.
        FrameKey as "frame_key" {
            /// Stack pointer at entry.
            sp: u64,
            /// Process (upper half) and function (lower half).
            tag: u64,
        }

        /// What stands under that key.
        FrameValue as "frame_value" {
            /// Time of entry, CLOCK_MONOTONIC nanoseconds.
            start: u64,
            /// `Thread::probes_ns` at entry, its own hit included.
            probes_ns: u64,
        }

        /// What is known of one function of Python, in all processes. `content` is state and lock, as `FrameSet::sp` is.
        CodeSlot as "code_slot" {
            /// Hash of name, file, line and kind; or CODE_FREE, or CODE_BUSY.
            content: u64,
            /// Its row with the CODE_ marks; the collector answers here.
            row: u64,
            /// Calls while it had no row.
            waiting: u64,
            /// Not of this function: of the row that has the slot's number, counted from the first one. The lower half is what
            /// an open await of the row's function has in its tag, or 0; the upper half which use of the row this is, where
            /// it counts whole awaits.
            whole: u64,
        }

        /// One set of the cache of code objects. An entry has a hash of process and object in its upper bits, and below
        /// CODE_KEPT what was decided about the function. It is one word, so that it is never seen in part.
        CodeSet as "code_set" {
            /// Entries, or 0.
            ways: [u64; 8],
        }

        /// Rows that are free, and how far the array of texts is written and read.
        PythonPool as "python_pool" {
            /// Rows taken by programs so far.
            head: u64,
            /// Rows given by the collector so far.
            tail: u64,
            /// Texts written by programs so far.
            texts_head: u64,
            /// Texts read by the collector so far.
            texts_tail: u64,
            /// How often a text found no place.
            untold: u64,
            /// The row numbers between head and tail, each at its count modulo POOL_ROWS. The upper half is which use of the row
            /// this is.
            rows: [u64; 1024],
        }

        /// The description of a function that was called for the first time.
        CodeText as "code_text" {
            /// One more than its count among the texts, once it is whole.
            sequence: u64,
            /// Hash of what is described, as in the slot.
            content: u64,
            /// Its slot.
            slot: u64,
            /// Its row or CODE_WAITING.
            row: u64,
            /// First line (lower half) and flags (upper half).
            line: u64,
            /// Characters of the file's name (lower half) and state of that string (upper half).
            file_length: u64,
            /// The same of the name.
            name_length: u64,
            /// What stands where a string of ASCII has its text.
            file: [u64; 24],
            /// The same of the name.
            name: [u64; 24],
        }

        /// What the kernel tells the guard about a family.
        Event as "event" {
            /// One of the EVENT_ constants.
            kind: u32,
            /// The plan's number.
            plan: u32,
            /// The process that it happened to.
            tgid: u32,
            /// Of a fork, the child process; of a fault, the signal, perhaps with FAULT_*; of an exit, the status as
            /// wait(2) tells it; of a new image, the lower half of the time on the monotonic clock;
            /// of a child that may have hit breakpoints, its CPU time in microseconds.
            value: u32,
            /// Of a fault, the signal's `si_code`; of a new image, the upper half of the time, perhaps with EXEC_BY_THREAD; of
            /// a fork, the lower half of the time in microseconds; of an exit, for how many microseconds the process lived.
            detail: u32,
        }
    }
}
