// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Latency of functions by probes on their entry and exit sites.
 *
 * Path of a hit: site -> frame -> bucket of a row. An entry stores its time in a frame under the
 * exact key (process, function, stack pointer); an exit removes the frame and counts the
 * difference. The stack pointer is equal at both ends and unique among the live frames of an
 * address space, so threads, recursion, coroutines and signal stacks need no care. Only Go moves
 * stacks: its key has the goroutine and the distance from the upper end of its stack instead.
 *
 * These programs use little stack on purpose. From 6.13 on, the kernel gives a program of their
 * type that uses 64 bytes of stack or more, in itself or in a sub-program, a stack of its own *per
 * CPU* (BPF_PRIV_STACK_MIN_SIZE, kernel/bpf/verifier.c), because kprobes do not interrupt each
 * other on a CPU. Uprobes do: a thread that is preempted in a program would find its spilled
 * registers overwritten by the next thread's. A test limits every (sub-)program to 48 bytes; if
 * that is hard, a part becomes a sub-program.
 *
 * There is one program for each lookup of the function (cookie of a uprobe_multi link, or the
 * address) and for each kind of frame table (a mapped array with compare-and-exchange, a hash for
 * kernels before 5.12, or the cookie of a session). The loader picks. The kernel never sees the
 * other programs, so an old kernel need not verify what it does not know.
 *
 * Code with many paths and a single number as its result is a global function. The kernel verifies
 * it once, for all arguments, and assumes any number as its result; it would follow each path of a
 * static function to the program's end, which took half of the start time. Arguments are numbers,
 * as kernels before 5.13 require.
 */
typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_MMAPABLE = 1024,
};

#include "layout.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define EEXIST 17

/* The parts of kernel structures that are read; CO-RE finds their offsets on the running kernel. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r14;
	unsigned long si;
	unsigned long di;
	unsigned long flags;
	unsigned long sp;
	unsigned long ip;
};
#define user_regs struct pt_regs
#define REGS_SP(regs) ((regs)->sp)
#define REGS_IP(regs) ((regs)->ip)
#define REGS_FLAGS(regs) ((regs)->flags)
/* Register in which compiled Go keeps its goroutine: cmd/compile/abi-internal.md, since 1.17. */
#define REGS_G(regs) ((regs)->r14)
#define REGS_ARGUMENT(regs, n) ((n) ? (regs)->si : (regs)->di)
/* A return probe runs after the return address was removed from the stack. */
#define RETURN_SP(regs) ((regs)->sp - 8)
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};
#define user_regs struct user_pt_regs
#define REGS_SP(regs) ((regs)->sp)
#define REGS_IP(regs) ((regs)->pc)
#define REGS_FLAGS(regs) ((regs)->pstate)
#define REGS_G(regs) ((regs)->regs[28])
#define REGS_ARGUMENT(regs, n) ((n) ? (regs)->regs[1] : (regs)->regs[0])
#define RETURN_SP(regs) ((regs)->sp)
#endif

struct mm_struct;

struct thread_struct {
	unsigned long features;
};

typedef struct {
	int counter;
} atomic_t;

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

/* enum pid_type, include/linux/pid_types.h: PIDTYPE_PID is 0. */
#define PIDTYPE_TGID 1

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	struct pid *pids[2];
	__u64 sum_sched_runtime;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

struct sched_info {
	unsigned long long run_delay;
};

struct uprobe_task;

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct sched_entity se;
	struct sched_info sched_info;
	unsigned long nvcsw;
	__u64 start_time;
	struct uprobe_task *utask;
	struct thread_struct thread;
};

union __sifields {
	struct {
		int _pid;
	} _kill;
};

struct kernel_siginfo {
	int si_code;
	union __sifields _sifields;
};

struct sigaction {
	void *sa_handler;
};

struct k_sigaction {
	struct sigaction sa;
};
#pragma clang attribute pop

const volatile struct constants constants = {};

/* A section of its own, so that only the guard holds the map with the switches of all objects. */
volatile struct switches switches SEC(".data.control") = {};

/* Cost of hits; only the guard holds the map. */
volatile struct prices prices SEC(".data.prices") = {};

/* True if hits count. */
#define ARMED (switches.state[constants.plan & (PLANS - 1)] == CONTROL_ARMED)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct row);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct frame_set);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct frame_key);
	__type(value, struct frame_value);
} frame_hash SEC(".maps");

/* Shared by all plans: a call pays for the probes of each plan. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

/* Preallocated: kernels up to 6.0 warn about a tracing program with any other hash, or refuse it
 * with PREEMPT_RT. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct site_key);
	__type(value, __u64);
} sites SEC(".maps");

/*
 * The measured processes, with their plans. One set of programs serves all plans, so that the cost
 * of a signal or a fork to the machine does not grow with the plans. Preallocated: a fork must be
 * able to enter its child in any context.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct member);
	__type(value, __u32);
} family SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct code_slot);
} code_slots SEC(".maps");

/* Private to the programs. A slot is computed only if its object is missing here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct code_set);
} code_cache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct python_pool);
} python_pool SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct code_text);
} code_texts SEC(".maps");

/* Uprobe programs can preempt each other, so even a private lane needs an atomic add. The result is
 * unused: arm64 has only the plain add before 5.18. */
#define count(counter, n) ((void)__sync_fetch_and_add(&(counter), (n)))

/* Distinguishes a frame from others at the same stack pointer: process and function. */
static __always_inline __u64 current_tag(__u64 site)
{
	return (bpf_get_current_pid_tgid() & 0xffffffff00000000ULL) | (site & SITE_FUNCTION_MASK);
}

/* The same tag without a call, if the cookie of a link has the process that the link belongs to. */
static __always_inline __u64 cookie_tag(__u64 site)
{
	return (site >> SITE_PROCESS_SHIFT & SITE_PROCESS_MASK) << 32 | (site & SITE_FUNCTION_MASK);
}

/*
 * Distance of a stack pointer below the upper end of its goroutine's stack, plus one; 0 if it is no
 * goroutine or not its stack. The distance survives the copy of a growing stack. Go promises the
 * offsets of lo and hi to C: runtime2.go, "offset known to runtime/cgo". While the kernel moves
 * that memory (huge pages, compaction), neither the thread nor this can read it without a wait.
 */
static __noinline __u64 goroutine_depth(__u64 g, __u64 sp)
{
	__u64 stack[2];
	long failed = bpf_probe_read_user(stack, sizeof(stack), (void *)g);

	if (failed && constants.may_sleep)
		failed = bpf_copy_from_user(stack, sizeof(stack), (void *)g);
	if (failed || sp <= stack[0] || sp > stack[1])
		return 0;
	return stack[1] - sp + 1;
}

/*
 * The key of the frame at a site: by default the stack pointer with the tag that is already there.
 * For a goroutine the pair holds its address (45 bits, as it is aligned to eight), the depth in
 * words (31 bits: 16 GiB, more than a stack may have), process and function, so it is as exact.
 */
static __always_inline bool key_of(__u64 g, __u64 site, __u64 *sp, __u64 *tag)
{
	__u64 depth;

	if (!(site & SITE_GOROUTINE))
		/* No call is possible on such a stack; as a key it would pass for a frame state. */
		return *sp > FRAME_BUSY;
	depth = goroutine_depth(g, *sp);
	if (!depth)
		return false;
	*sp = g >> 3 << 19 | (depth >> 3 & 0x7ffff);
	*tag |= (depth >> 22 & 0xfff) << 20;
	return true;
}

/* True if an exception leaves at this exit. */
static __always_inline bool unwinds(__u64 site)
{
	return (site & (SITE_CONDITIONAL | SITE_UNWOUND)) == SITE_UNWOUND;
}

/* The stack pointer at the first instruction of the call. */
static __always_inline __u64 entry_sp(__u64 sp, __u64 site)
{
	return site & SITE_RETURN ? sp : sp + (site >> SITE_ABOVE_SHIFT & 0xfff) * sizeof(sp);
}

static __always_inline struct row *row_of(__u32 function)
{
	__u32 index = function * constants.lanes + bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rows, &index);
}

/* A hit that does not count costs as much as any other, and its cost is counted. */
__noinline __u32 idle_hit(__u32 function, __u32 exit)
{
	struct row *row = row_of(function);

	if (!row)
		return 0;
	if (exit)
		count(row->idle_exits, 1);
	else
		count(row->idle_entries, 1);
	return 1;
}

/* Most hits have the price of an emulated instruction; all others are counted here as well. */
__noinline __u32 special_hit(__u64 site, __u32 exit)
{
	struct row *row = row_of(site & SITE_FUNCTION_MASK);

	if (!row)
		return 0;
	if (site & SITE_TWIN)
		count(row->twins, 1);
	else if (exit)
		count(row->stepped_exits, 1);
	else
		count(row->stepped_entries, 1);
	return 1;
}

/* First action of every program. A return has the entry's cookie; the entry counted its hit. */
enum end { ENTRY, EXIT, RETURN };

static __always_inline void count_price(__u64 site, enum end end)
{
	if (end != RETURN && site & (SITE_STEPPED | SITE_TWIN))
		special_hit(site, end == EXIT);
}

static __always_inline __u64 load(const __u64 *word)
{
	return *(const volatile __u64 *)word;
}

/*
 * Probe time of this thread before this hit, which adds its price. No other thread writes here, but
 * one may take over the place; the sum leaps then, which marks the time of open calls as unknown.
 */
__noinline __u64 probes_before(__u64 owner, __u32 price)
{
	__u32 index = owner * 0x9e3779b97f4a7c15ULL >> 32 & (THREADS - 1);
	struct thread *thread = bpf_map_lookup_elem(&threads, &index);
	__u64 ns;

	if (!thread)
		return 0;
	ns = load(&thread->probes_ns);
	if (load(&thread->owner) != owner) {
		thread->owner = owner;
		ns += 1ULL << PROBES_UNKNOWN_SHIFT;
	}
	thread->probes_ns = ns + price;
	return ns;
}

/* Defined in python.bpf.h. */
static __always_inline __u32 python_work(void);

static __always_inline __u32 price_of(__u64 site, enum end end)
{
	__u32 price;

	if (end == RETURN)
		return 0;
	price = prices.ns[(site & SITE_STEPPED ? PRICE_STEPPED : PRICE_PLAIN) + (end == EXIT)];
	if (site & SITE_TWIN)
		price = prices.ns[PRICE_TWIN];
	if (constants.python_rows && end == ENTRY && site & SITE_PYTHON)
		price += python_work();
	return price;
}

/* The sum at either end of a call; it differs by the hits inside the call. */
static __always_inline __u64 probes_taken(__u64 g, __u64 site, enum end end, __u32 price)
{
	__u64 owner = site & SITE_GOROUTINE ? g : (__u32)bpf_get_current_pid_tgid();
	__u64 before = probes_before(owner, price);

	return end == ENTRY ? before + price : before;
}

/* True if the conditional jump at this site will be taken. A sub-program: few sites need it. */
static __noinline int condition_holds(__u64 flags, __u32 code)
{
	int holds;
#if defined(__TARGET_ARCH_x86)
	/* Intel SDM vol. 2, appendix B.1.4: conditions by the low nibble of the opcode; odd ones negate. */
	int cf = flags & 1, pf = flags >> 2 & 1, zf = flags >> 6 & 1, sf = flags >> 7 & 1, of = flags >> 11 & 1;

	switch (code >> 1 & 7) {
	case 0: holds = of; break;
	case 1: holds = cf; break;
	case 2: holds = zf; break;
	case 3: holds = cf | zf; break;
	case 4: holds = sf; break;
	case 5: holds = pf; break;
	case 6: holds = sf ^ of; break;
	default: holds = zf | (sf ^ of); break;
	}
#else
	/* Arm ARM, C1.2.4: condition codes; odd ones negate, except 15, which is always as well. */
	int n = flags >> 31 & 1, z = flags >> 30 & 1, c = flags >> 29 & 1, v = flags >> 28 & 1;

	switch (code >> 1 & 7) {
	case 0: holds = z; break;
	case 1: holds = c; break;
	case 2: holds = n; break;
	case 3: holds = v; break;
	case 4: holds = c & !z; break;
	case 5: holds = n == v; break;
	case 6: holds = !z & (n == v); break;
	default: return 1;
	}
#endif
	return holds ^ (code & 1);
}

/* First test of every program: true if this hit counts. */
static __always_inline bool counts(__u64 flags, __u64 site)
{
	return !(site & SITE_CONDITIONAL) || condition_holds(flags, site >> SITE_CONDITION_SHIFT & 15);
}

/* True if a call that begins on this CPU counts. A target may be limited to calls on some CPUs. */
static __always_inline bool counts_here(__u64 site)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (!constants.cpus_limited || site & SITE_ANY_CPU)
		return true;
	return cpu < CPUS && constants.cpus[cpu / 64 & (CPUS / 64 - 1)] >> (cpu & 63) & 1;
}

static __always_inline __u32 log2_of(__u64 v)
{
	__u32 log = 0;

	if (v >> 32) { log += 32; v >>= 32; }
	if (v >> 16) { log += 16; v >>= 16; }
	if (v >> 8) { log += 8; v >>= 8; }
	if (v >> 4) { log += 4; v >>= 4; }
	if (v >> 2) { log += 2; v >>= 2; }
	return log + (v >> 1);
}

/* Number of thresholds of its octave that the mantissa passed: 0 to 8. */
static __always_inline __u32 thresholds_passed(__u64 mantissa)
{
	__u32 n = mantissa > constants.thresholds[3] ? 4 : 0;

	n += mantissa > constants.thresholds[n + 1] ? 2 : 0;
	n += mantissa > constants.thresholds[n] ? 1 : 0;
	if (n == 7)
		n += mantissa > constants.thresholds[7];
	return n;
}

/* Accepts 0 as well, which is below all buckets. */
__noinline __u32 biased_bucket_of(__u64 ns)
{
	__u32 log = log2_of(ns);

	return (log << SCALE) + thresholds_passed(ns << (63 - log));
}

/* Counts a call of `ns`, with `probes_ns` of probes inside. False: too long to be measured. */
static __always_inline bool record(struct row *row, __u64 ns, __u64 probes_ns)
{
	__u32 bucket = biased_bucket_of(ns);

	if (bucket < BUCKET_BIAS) {
		count(row->zero, 1);
	} else if (bucket - BUCKET_BIAS >= ROW_BUCKETS) {
		/* Not measured, so not in the sum. */
		count(row->over_range, 1);
		return false;
	} else {
		/* The mask repeats the test above for the verifier. */
		count(row->buckets[(bucket - BUCKET_BIAS) & (ROW_BUCKETS - 1)], 1);
	}
	count(row->sum_ns, ns);
	if (probes_ns >> PROBES_UNKNOWN_SHIFT)
		count(row->probes_unknown, 1);
	else if (probes_ns)
		count(row->probes_inside_ns, probes_ns);
	return true;
}

/* ---- reports to the guard ---- */

static __noinline void tell(__u32 plan, __u32 kind, __u32 tgid, __u32 value, __u32 detail)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		__sync_fetch_and_add(&switches.lost_events[plan & (PLANS - 1)], 1);
		return;
	}
	event->kind = kind;
	event->plan = plan & (PLANS - 1);
	event->tgid = tgid;
	event->value = value;
	event->detail = detail;
	bpf_ringbuf_submit(event, 0);
}

/* ---- frames in a mapped array: 5.12 on x86-64, 5.18 on arm64 ---- */

/*
 * All changes of a frame go through its sp word: FREE -> BUSY and SP -> BUSY by
 * compare-and-exchange, so one program wins; BUSY -> FREE and BUSY -> SP by the winner. tag and
 * start change only in BUSY, so a program that sees its own SP *and* tag sees its own frame. No
 * program waits for a holder: it continues its search.
 */
static __always_inline bool frame_take(struct frame_set *set, __u32 way, __u64 state)
{
	return __sync_val_compare_and_swap(&set->sp[way & (FRAME_WAYS - 1)], state, FRAME_BUSY) == state;
}

static __always_inline void frame_give(struct frame_set *set, __u32 way, __u64 state)
{
#if defined(__TARGET_ARCH_x86)
	/* Stores are seen in order; only the compiler must not reorder them. */
	barrier();
	*(volatile __u64 *)&set->sp[way & (FRAME_WAYS - 1)] = state;
#else
	__sync_lock_test_and_set(&set->sp[way & (FRAME_WAYS - 1)], state);
#endif
}

static __always_inline __u32 hash_of(__u64 sp, __u64 tag)
{
	/* Fibonacci hashing: the golden ratio spreads stack pointers, which differ in few low bits. */
	return (sp ^ tag * 0x9e3779b97f4a7c15ULL) * 0x9e3779b97f4a7c15ULL >> 32;
}

static __always_inline __u32 set_of(__u64 sp, __u64 tag)
{
	return hash_of(sp, tag) & constants.frame_set_mask;
}

static __always_inline struct frame_set *set_at(__u32 index)
{
	return bpf_map_lookup_elem(&frames, &index);
}

/* True if `old` is the tag of a frame of Python's evaluation loop in the process of `tag`. */
static __always_inline bool is_python(__u64 old, __u64 tag)
{
	return old >> 32 == tag >> 32 &&
	       (old & SITE_FUNCTION_MASK) - constants.python_first_row < constants.python_rows;
}

/*
 * The frame with exactly this key, or FRAME_WAYS. A call that leaves Python's evaluation loop no
 * longer knows its function: there, the function is no part of the key.
 */
static __always_inline __u32 find_in(struct frame_set *set, __u64 sp, __u64 tag, bool python)
{
#pragma unroll
	for (__u32 way = 0; way < FRAME_WAYS; way++)
		if (load(&set->sp[way]) == sp) {
			__u64 old = load(&set->tag[way]);

			if (python ? is_python(old, tag) : old == tag)
				return way;
		}
	return FRAME_WAYS;
}

__noinline __u32 frame_find(__u32 index, __u64 sp, __u64 tag, __u32 python)
{
	struct frame_set *set = set_at(index);

	return set ? find_in(set, sp, tag, python) : FRAME_WAYS;
}

static __always_inline __u32 find_free_in(struct frame_set *set)
{
#pragma unroll
	for (__u32 way = 0; way < FRAME_WAYS; way++)
		if (load(&set->sp[way]) == FRAME_FREE)
			return way;
	return FRAME_WAYS;
}

/* In a full set the oldest frame is replaced. It is the least likely to return. */
static __noinline __u32 find_oldest_in(struct frame_set *set)
{
	__u64 oldest = ~0ULL;
	__u32 found = FRAME_WAYS;

#pragma unroll
	for (__u32 way = 0; way < FRAME_WAYS; way++) {
		__u64 start = load(&set->start[way]);

		if (load(&set->sp[way]) != FRAME_BUSY && start < oldest) {
			oldest = start;
			found = way;
		}
	}
	return found;
}

/* Kinds of place for an entry: below PLACE_FREE, a frame with that key already exists. */
#define PLACE_FREE FRAME_WAYS
#define PLACE_OLDEST (2 * FRAME_WAYS)
#define PLACE_NONE (3 * FRAME_WAYS)

__noinline __u32 frame_place(__u32 index, __u64 sp, __u64 tag, __u32 python)
{
	struct frame_set *set = set_at(index);
	__u32 way;

	if (!set)
		return PLACE_NONE;
	way = find_in(set, sp, tag, python);
	if (way < FRAME_WAYS)
		return way;
	way = find_free_in(set);
	if (way < FRAME_WAYS)
		return way | PLACE_FREE;
	way = find_oldest_in(set);
	return way < FRAME_WAYS ? way | PLACE_OLDEST : PLACE_NONE;
}

/* See await.bpf.h. */
__u32 await_counts(__u64 tag);

/* The frame of `old` is replaced by a call under its own key, or by another. */
static __noinline bool frame_lost(__u64 old, bool same)
{
	struct row *row = row_of(old & SITE_FUNCTION_MASK);

	if (!row)
		return false;
	if (constants.await_sets && old & AWAIT_MARK && is_python(old, old) && !await_counts(old))
		return true;
	if (same)
		count(row->abandoned, 1);
	else
		count(row->evicted, 1);
	return true;
}

/* False if another program was faster. */
__noinline __u32 frame_try(__u32 index, __u64 sp, __u64 tag, __u64 probes_ns, __u64 object)
{
	bool python = is_python(tag, tag);
	__u32 place = frame_place(index, sp, tag, python), way = place & (FRAME_WAYS - 1);
	struct frame_set *set = set_at(index);
	__u64 state = sp;

	if (!set || place >= PLACE_NONE)
		return false;
	if (place >= PLACE_OLDEST)
		state = load(&set->sp[way]);
	else if (place >= PLACE_FREE)
		state = FRAME_FREE;
	if (state == FRAME_BUSY || !frame_take(set, way, state))
		return false;
	if (state != FRAME_FREE) {
		/* Only now can no other program change the frame, so its owner is known. */
		__u64 old = load(&set->tag[way]);

		if (!frame_lost(old, state == sp && (python ? is_python(old, tag) : old == tag)))
			return false;
	}
	set->tag[way] = tag;
	set->probes_ns[way] = probes_ns;
	if (python)
		set->object[way] = object;
	set->start[way] = bpf_ktime_get_ns();
	frame_give(set, way, sp);
	return true;
}

static __always_inline void frame_enter(struct row *row, __u32 index, __u64 sp, __u64 tag, __u64 probes_ns,
					__u64 object)
{
#pragma unroll
	for (__u32 attempt = 0; attempt < FRAME_ATTEMPTS; attempt++)
		if (frame_try(index, sp, tag, probes_ns, object))
			return;
	count(row->table_full, 1);
}

static __noinline void record_call(__u32 function, __u64 ns, __u64 probes_ns, bool unwound)
{
	struct row *row = row_of(function);

	if (!row)
		return;
	record(row, ns, probes_ns);
	if (unwound)
		count(row->unwound, 1);
}

/* An exit without a known call. */
__noinline __u32 exit_without_frame(__u64 site)
{
	struct row *row = row_of(site & SITE_FUNCTION_MASK);

	if (!row)
		return 0;
	if (site & SITE_MAYBE)
		count(row->idle_exits, 1);
	else
		count(row->unmatched, 1);
	return 1;
}

/*
 * A call ends, or (`again`) begins again on a CPU that does not count. In the latter case any frame
 * under its key was left by another way, and the end of this call must not pass for its end.
 */
static __noinline void table_leave_frame(__u64 sp, __u64 tag, __u64 site, __u64 probes_ns, bool again)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 way, index = set_of(sp, tag);
	struct frame_set *set = set_at(index);

	if (!set)
		return;
	way = frame_find(index, sp, tag, false);
	if (way < FRAME_WAYS && frame_take(set, way, sp)) {
		now -= load(&set->start[way & (FRAME_WAYS - 1)]);
		probes_ns -= load(&set->probes_ns[way & (FRAME_WAYS - 1)]);
		if (load(&set->tag[way & (FRAME_WAYS - 1)]) == tag) {
			frame_give(set, way, FRAME_FREE);
			if (again)
				frame_lost(tag, true);
			else
				record_call(tag & SITE_FUNCTION_MASK, now, probes_ns, unwinds(site));
			return;
		}
		/* Between search and take, a call with the same stack pointer evicted it. */
		frame_give(set, way, sp);
	}
	if (!again)
		exit_without_frame(site);
}

#include "python.bpf.h"

static __noinline void native_enter(__u64 sp, __u64 g, __u64 tag, __u64 site, __u64 probes_ns)
{
	struct row *row;

	sp = entry_sp(sp, site);
	if (!counts_here(site)) {
		idle_hit(site & SITE_FUNCTION_MASK, false);
		if (key_of(g, site, &sp, &tag))
			table_leave_frame(sp, tag, site, 0, true);
		return;
	}
	row = row_of(tag & SITE_FUNCTION_MASK);
	if (!row)
		return;
	count(row->entries, 1);
	if (!key_of(g, site, &sp, &tag)) {
		count(row->unkeyed, 1);
		return;
	}
	frame_enter(row, set_of(sp, tag), sp, tag, probes_ns, 0);
}

static __always_inline void native_exit(__u64 sp, __u64 g, __u64 tag, __u64 site, __u64 probes_ns)
{
	sp = entry_sp(sp, site);
	if (key_of(g, site, &sp, &tag))
		table_leave_frame(sp, tag, site, probes_ns, false);
	else
		idle_hit(site & SITE_FUNCTION_MASK, true);
}

static __always_inline void table_enter(user_regs *regs, __u64 tag, __u64 site, __u64 probes_ns)
{
	if (constants.python_rows && site & SITE_PYTHON)
		python_enter(regs, tag >> 32, site, probes_ns);
	else
		native_enter(REGS_SP(regs), REGS_G(regs), tag, site, probes_ns);
}

static __always_inline void table_exit(user_regs *regs, __u64 sp, __u64 tag, __u64 site, __u64 probes_ns)
{
	if (constants.python_rows && site & SITE_PYTHON) {
		idle_hit(constants.python_first_row, true);
		python_leave(entry_sp(sp, site), tag, probes_ns, false);
	} else {
		native_exit(sp, REGS_G(regs), tag, site, probes_ns);
	}
}

/* ---- frames in a hash: kernels without compare-and-exchange for BPF ---- */

static __noinline void hash_enter(__u64 sp, __u64 g, __u64 site, __u64 probes_ns)
{
	__u32 function = site & SITE_FUNCTION_MASK;
	struct frame_key key = { .sp = entry_sp(sp, site), .tag = current_tag(site) };
	struct row *row = row_of(function);
	struct frame_value value = { .probes_ns = probes_ns };
	/* Not long: before 6.4 the upper half of the result is not a sign extension. */
	int err;

	if (!row)
		return;
	if (!counts_here(site)) {
		count(row->idle_entries, 1);
		/* See table_leave_frame(). */
		if (key_of(g, site, &key.sp, &key.tag) && !(int)bpf_map_delete_elem(&frame_hash, &key)) {
			count(row->inside, -1);
			count(row->abandoned, 1);
		}
		return;
	}
	count(row->entries, 1);
	if (!key_of(g, site, &key.sp, &key.tag)) {
		count(row->unkeyed, 1);
		return;
	}
	value.start = bpf_ktime_get_ns();
	err = bpf_map_update_elem(&frame_hash, &key, &value, BPF_NOEXIST);
	if (!err) {
		count(row->inside, 1);
	} else if (err == -EEXIST) {
		/* A live stack frame cannot be entered twice: the earlier call left another way. */
		count(row->abandoned, 1);
		bpf_map_update_elem(&frame_hash, &key, &value, BPF_ANY);
	} else {
		count(row->table_full, 1);
	}
}

/* A part of hash_exit(), which would otherwise need too much stack. */
static __noinline void hash_done(__u64 site, __u64 ns, __u64 probes_ns)
{
	struct row *row = row_of(site & SITE_FUNCTION_MASK);

	if (!row)
		return;
	count(row->inside, -1);
	record(row, ns, probes_ns);
	if (unwinds(site))
		count(row->unwound, 1);
}

static __noinline void hash_exit(__u64 sp, __u64 g, __u64 site, __u64 probes_ns)
{
	__u64 now = bpf_ktime_get_ns();
	struct frame_key key = { .sp = entry_sp(sp, site), .tag = current_tag(site) };
	struct frame_value *found;

	if (!key_of(g, site, &key.sp, &key.tag)) {
		idle_hit(site & SITE_FUNCTION_MASK, true);
		return;
	}
	found = bpf_map_lookup_elem(&frame_hash, &key);
	if (!found) {
		exit_without_frame(site);
		return;
	}
	now -= found->start;
	probes_ns -= found->probes_ns;
	bpf_map_delete_elem(&frame_hash, &key);
	hash_done(site, now, probes_ns);
}

/* ---- the function: by cookie, or by address if a probe cannot carry a cookie ---- */

/* The cookie of a site at this address, or SITE_UNKNOWN. */
static __noinline __u64 site_at(__u64 ip, __u32 nth)
{
	struct site_key key = { .ip = ip, .tgid = bpf_get_current_pid_tgid() >> 32, .nth = nth };
	__u64 *found = bpf_map_lookup_elem(&sites, &key);

	return found ? *found : SITE_UNKNOWN;
}

/* The cookie of the first site, which must exist. */
static __noinline __u64 site_by_address(__u64 ip, __u32 nth)
{
	struct site_key key = { .ip = ip, .tgid = bpf_get_current_pid_tgid() >> 32, .nth = nth };
	__u64 site = site_at(ip, nth), unknown = SITE_UNKNOWN;
	struct row *row;

	if (site != SITE_UNKNOWN)
		return site;
	/* A library was mapped again elsewhere: the kernel moved the probe. */
	row = row_of(constants.unknown_row);
	if (row)
		count(row->entries, 1);
	/* Reported once. */
	if (!(int)bpf_map_update_elem(&sites, &key, &unknown, BPF_NOEXIST))
		tell(constants.plan, EVENT_UNKNOWN_SITE, key.tgid, 0, 0);
	return SITE_UNKNOWN;
}

/* `probes_ns` is the probe time at the beginning of the call, or before its end. */
#define HIT(flags, g, end, statement)                                                                        \
	do {                                                                                                 \
		__u64 probes_ns = probes_taken(g, site, end, price_of(site, end));                           \
		count_price(site, end);                                                                      \
		if (counts(flags, site))                                                                     \
			statement;                                                                           \
		else                                                                                         \
			idle_hit(site & SITE_FUNCTION_MASK, (end) != ENTRY);                                 \
	} while (0)

/* Every program tests the armed flag first: whatever else is wrong, clearing that word ends it. */
#define BY_COOKIE(section, name, end, statement)                                                             \
	SEC(section) int name(user_regs *regs)                                                               \
	{                                                                                                    \
		__u64 site;                                                                                  \
		if (!ARMED)                                                                                  \
			return 0;                                                                            \
		site = bpf_get_attach_cookie(regs);                                                          \
		HIT(REGS_FLAGS(regs), REGS_G(regs), end, statement);                                         \
		return 0;                                                                                    \
	}

/*
 * One probe serves all functions that share an instruction: a trace event takes a place once, and a
 * second event would only repeat the same program, which knows only the address. Each site but the
 * last says that another follows. The first may be Python's, which needs the registers.
 */
#define BY_ADDRESS(name, end, first, statement, twin)                                                        \
	__noinline __u32 name##_twin(__u64 ip, __u32 nth, __u64 sp, __u64 flags, __u64 g)                    \
	{                                                                                                    \
		__u64 site = site_at(ip, nth);                                                               \
		if (site == SITE_UNKNOWN)                                                                    \
			return false;                                                                        \
		HIT(flags, g, end, twin);                                                                    \
		return site >> 63;                                                                           \
	}                                                                                                    \
	SEC("uprobe") int name(user_regs *regs)                                                              \
	{                                                                                                    \
		__u64 site;                                                                                  \
		__u32 more;                                                                                  \
		if (!ARMED)                                                                                  \
			return 0;                                                                            \
		site = site_by_address(REGS_IP(regs), first);                                                \
		if (site == SITE_UNKNOWN)                                                                    \
			return 0;                                                                            \
		HIT(REGS_FLAGS(regs), REGS_G(regs), end, statement);                                         \
		more = site >> 63;                                                                           \
		for (__u32 nth = 1; more && nth < SITE_SHARED; nth++)                                        \
			more = name##_twin(REGS_IP(regs), (first) + nth, REGS_SP(regs), REGS_FLAGS(regs),    \
					   REGS_G(regs));                                                    \
		return 0;                                                                                    \
	}
_Static_assert(SITE_TWIN == 1ULL << 63, "the highest bit");

BY_COOKIE("uprobe.multi", multi_entry, ENTRY, table_enter(regs, cookie_tag(site), site, probes_ns))
BY_COOKIE("uprobe.multi", multi_exit, EXIT, table_exit(regs, REGS_SP(regs), cookie_tag(site), site, probes_ns))

#if defined(__TARGET_ARCH_x86)
/*
 * The kernel emulates no `ret` on x86-64: it single-steps a copy, which costs many times all of the
 * rest. Since 6.19 a uprobe program may write registers, and if it changes the instruction pointer,
 * the probed instruction counts as done. So this program does what `ret` does. The kernel handles
 * all other cases: a stack page that cannot be read now, and threads with a shadow stack, whose
 * second return address only the processor may remove.
 */
#define ARCH_SHSTK_SHSTK 1 /* arch/x86/include/uapi/asm/prctl.h */

static __always_inline bool has_shadow_stack(void)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();

	return bpf_core_field_exists(task->thread.features) && (task->thread.features & ARCH_SHSTK_SHSTK);
}

/* Target of the return at `ip`, or 0 to leave it to the kernel. */
static __noinline __u64 return_target(__u64 sp, __u64 ip)
{
	__u64 word;

	if (has_shadow_stack())
		return 0;
	/*
	 * A completed return leaves its address right below the stack pointer. So may an earlier
	 * call: if it is unclear whether this return was done already, the kernel decides.
	 */
	if (bpf_probe_read_user(&word, sizeof(word), (void *)(sp - sizeof(word))) || word == ip)
		return 0;
	if (bpf_probe_read_user(&word, sizeof(word), (void *)sp))
		return 0;
	return word;
}

SEC("uprobe.multi") int multi_exit_writing(user_regs *regs)
{
	__u64 site, sp, g, target, probes_ns;
	bool at_site;

	if (!ARMED)
		return 0;
	site = bpf_get_attach_cookie(regs);
	sp = REGS_SP(regs);
	g = REGS_G(regs);
	/* Read before the choice between prices: the verifier takes no context plus offset. */
	asm volatile("" : "+r"(g));
	/*
	 * A second agent's program on this site may have done the return already. Then the
	 * instruction pointer is elsewhere and the call's stack pointer is one word lower.
	 */
	at_site = !(site & SITE_RETURN) || (REGS_IP(regs) & 0xfff) == (site >> SITE_PLACE_SHIFT & 0xfff);
	probes_ns = probes_taken(g, site, EXIT,
				 site & SITE_RETURN ? prices.ns[PRICE_WRITTEN] : price_of(site, EXIT));
	count_price(site, EXIT);
	if (counts(REGS_FLAGS(regs), site))
		table_exit(regs, at_site ? sp : sp - sizeof(sp), cookie_tag(site), site, probes_ns);
	else
		idle_hit(site & SITE_FUNCTION_MASK, true);
	if (!(site & SITE_RETURN) || !at_site)
		return 0;
	target = return_target(sp, REGS_IP(regs));
	if (target) {
		regs->sp = sp + sizeof(sp);
		regs->ip = target;
	} else if (!(site & SITE_TWIN)) {
		/* The kernel does it, at its price. */
		special_hit(site, true);
	}
	return 0;
}
#endif

BY_COOKIE("uprobe.multi", multi_return, RETURN, table_exit(regs, RETURN_SP(regs), cookie_tag(site), site, probes_ns))
BY_COOKIE("uprobe", single_return, RETURN, table_exit(regs, RETURN_SP(regs), current_tag(site), site, probes_ns))
BY_ADDRESS(table_entry, ENTRY, 0, table_enter(regs, current_tag(site), site, probes_ns),
	   native_enter(sp, g, current_tag(site), site, probes_ns))
BY_ADDRESS(table_leave, EXIT, SITE_EXITS, table_exit(regs, REGS_SP(regs), current_tag(site), site, probes_ns),
	   native_exit(sp, g, current_tag(site), site, probes_ns))
BY_ADDRESS(hash_entry, ENTRY, 0, hash_enter(REGS_SP(regs), REGS_G(regs), site, probes_ns),
	   hash_enter(sp, g, site, probes_ns))
BY_ADDRESS(hash_leave, EXIT, SITE_EXITS, hash_exit(REGS_SP(regs), REGS_G(regs), site, probes_ns),
	   hash_exit(sp, g, site, probes_ns))

/* ---- sessions: the kernel keeps the frame (6.13) ---- */

/* The kernel functions take no argument up to 6.19, the context from 7.0 on; one flavor exists. */
extern bool bpf_session_is_return(void) __ksym __weak;
extern __u64 *bpf_session_cookie(void) __ksym __weak;
extern bool bpf_session_is_return___context(void *context) __ksym __weak;
extern __u64 *bpf_session_cookie___context(void *context) __ksym __weak;

SEC("uprobe.session")
int session(user_regs *regs)
{
	__u64 now, site, *start;
	struct row *row;
	bool leaving;

	if (!ARMED)
		return 1; /* from the entry: no return probe for this call */
	if (bpf_ksym_exists(bpf_session_is_return___context)) {
		leaving = bpf_session_is_return___context(regs);
		start = bpf_session_cookie___context(regs);
	} else {
		leaving = bpf_session_is_return();
		start = bpf_session_cookie();
	}
	/* The clock is the most expensive call here: one call at each end. */
	now = leaving ? bpf_ktime_get_ns() : 0;
	site = bpf_get_attach_cookie(regs);
	row = row_of(site & SITE_FUNCTION_MASK);
	if (!row)
		return 1;
	count_price(site, leaving ? RETURN : ENTRY);
	if (!leaving && !counts_here(site)) {
		count(row->idle_entries, 1);
		return 1;
	}
	if (leaving) {
		/* The kernel keeps only one word, so the hits inside the call are unknown. */
		record(row, now - *start, 0);
		return 0;
	}
	count(row->entries, 1);
	*start = bpf_ktime_get_ns();
	return 0;
}

/* ---- the processes of all plans: forks, new images, signals and ends ---- */

/* The plan of a process at a given place among its plans, with its marks. */
static __always_inline __u32 *plan_of(__u32 tgid, __u32 nth)
{
	struct member key = { .tgid = tgid, .nth = nth };

	return bpf_map_lookup_elem(&family, &key);
}

/* A child joins the plans of its parent, at the same places. */
static __noinline int adopt(__u32 parent, __u32 child, __u32 nth, __u32 plan)
{
	struct member key = { .tgid = child, .nth = nth };

	/* Immediately: a grandchild born before the guard wakes up would be missed otherwise. */
	bpf_map_update_elem(&family, &key, &plan, BPF_ANY);
	tell(plan, EVENT_FORK, parent, child, bpf_ktime_get_ns() / 1000);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int family_fork(__u64 *args)
{
	struct task_struct *parent = (void *)args[0], *child = (void *)args[1];
	__u32 tgid = BPF_CORE_READ(parent, tgid), child_tgid = BPF_CORE_READ(child, tgid);

	/*
	 * A new thread is in the same address space, and so is the child of a vfork until it
	 * executes: a second set of probes would count its parent's calls twice.
	 */
	if (BPF_CORE_READ(parent, mm) == BPF_CORE_READ(child, mm))
		return 0;
	for (__u32 nth = 0; nth < MEMBER_PLANS; nth++) {
		__u32 *plan = plan_of(tgid, nth);

		if (!plan)
			break;
		adopt(tgid, child_tgid, nth, *plan);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int family_exec(__u64 *args)
{
	struct task_struct *task = (void *)args[0];
	__u32 tgid = BPF_CORE_READ(task, tgid), known = tgid, detail;
	__u64 now;

	if (!plan_of(tgid, 0))
		known = BPF_CORE_READ(task, real_parent, tgid);
	if (!plan_of(known, 0))
		return 0;
	now = bpf_ktime_get_ns();
	/* The second argument is the thread's number before it took that of its process. */
	detail = now >> 32 | ((__u32)args[1] != tgid ? EXEC_BY_THREAD : 0);
	for (__u32 nth = 0; nth < MEMBER_PLANS; nth++) {
		__u32 *plan = plan_of(known, nth);

		if (!plan)
			break;
		tell(*plan, EVENT_EXEC, tgid, now, detail);
	}
	return 0;
}

/* ---- the end of a process, as early as the kernel knows it ---- */

#define SIG_DFL 0 /* include/uapi/asm-generic/signal-defs.h */
#define SIG_IGN 1

/*
 * True if another process sent the signal that this task is about to receive. A signal that a
 * process sends itself, as abort(3) does, has the process number of its own PID namespace
 * (prepare_kill_siginfo and do_tkill of kernel/signal.c), and no process may forge the code of
 * tkill for another process (do_rt_tgsigqueueinfo).
 */
static __noinline bool sent_by_another(struct kernel_siginfo *info)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pid *own = BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID]);
	__u64 number = (__u64)BPF_CORE_READ(own, level) * bpf_core_type_size(struct upid);
	struct upid *last = (void *)own + bpf_core_field_offset(struct pid, numbers) + number;

	if (BPF_CORE_READ(info, si_code) > 0)
		return false; /* The kernel raised it. */
	return BPF_CORE_READ(info, _sifields._kill._pid) != BPF_CORE_READ(last, nr);
}

/*
 * Before the signal acts, every program of the plan is switched off: later hits do not count. The
 * guard then removes the probes. That is not this program's task, but now they only cost.
 */
static __noinline int fault(__u32 plan, __u32 tgid, __u32 signal, __u32 code)
{
	if (plan & MEMBER_UNHANDLED && signal & FAULT_HANDLED)
		return 0;
	if (switches.state[plan & (PLANS - 1)] == CONTROL_FAULTED)
		return 0; /* The first one is the reason; threads that end with it add nothing. */
	switches.state[plan & (PLANS - 1)] = CONTROL_FAULTED;
	tell(plan, EVENT_FAULT, tgid, signal, code);
	return 0;
}

SEC("tp_btf/signal_deliver")
int family_signal(__u64 *args)
{
	__u32 signal = args[0], tgid = bpf_get_current_pid_tgid() >> 32, code;
	struct kernel_siginfo *info = (void *)args[1];
	struct k_sigaction *action = (void *)args[2];
	__u64 handler;

	if (signal > 31 || !(FATAL_SIGNALS >> signal & 1) || !plan_of(tgid, 0))
		return 0;
	handler = (__u64)BPF_CORE_READ(action, sa.sa_handler);
	if (handler == SIG_IGN)
		return 0;
	if (handler != SIG_DFL)
		signal |= FAULT_HANDLED;
	if (sent_by_another(info))
		signal |= FAULT_SENT;
	code = BPF_CORE_READ(info, si_code);
	for (__u32 nth = 0; nth < MEMBER_PLANS; nth++) {
		__u32 *plan = plan_of(tgid, nth);

		if (!plan)
			break;
		fault(*plan, tgid, signal, code);
	}
	return 0;
}

/* Children that come and go faster than the guard can inspect them leave it no work. */
static __noinline int leave_plan(__u32 tgid, __u32 nth, __u32 plan, __u32 status, __u32 lived)
{
	struct member key = { .tgid = tgid, .nth = nth };

	tell(plan, EVENT_EXIT, tgid, status, lived);
	bpf_map_delete_elem(&family, &key);
	return 0;
}

/* Lifetime of a process in microseconds, at most the 32-bit maximum (over an hour). */
static __noinline __u32 lived(struct task_struct *task)
{
	__u64 us = (bpf_ktime_get_ns() - BPF_CORE_READ(task, group_leader, start_time)) / 1000;

	return us >> 32 ? ~0U : us;
}

/*
 * CPU time of a thread. The scheduler's value is as of the last tick or sleep, and a child may live
 * less than a tick: a thread that never slept ran all the time that it did not wait for a CPU.
 */
static __noinline __u64 cpu_time(struct task_struct *task)
{
	__u64 life;

	if (BPF_CORE_READ(task, nvcsw))
		return BPF_CORE_READ(task, se.sum_exec_runtime);
	life = bpf_ktime_get_ns() - BPF_CORE_READ(task, start_time);
	if (bpf_core_field_exists(task->sched_info.run_delay))
		life -= BPF_CORE_READ(task, sched_info.run_delay);
	return life;
}

/*
 * An uncovered child, or one not covered yet, pays for inherited breakpoints uncounted. It has a
 * utask after its first hit; up to 6.15 that is gone with its memory when this program runs.
 */
static __noinline int tell_paid(struct task_struct *task, __u32 tgid)
{
	__u32 parent = BPF_CORE_READ(task, real_parent, tgid), spent;

	if ((BPF_CORE_READ(task, mm) && !BPF_CORE_READ(task, utask)) || !plan_of(parent, 0))
		return 0;
	spent = (cpu_time(task) + BPF_CORE_READ(task, signal, sum_sched_runtime)) / 1000;
	for (__u32 nth = 0; nth < MEMBER_PLANS; nth++) {
		__u32 *plan = plan_of(parent, nth);

		if (!plan)
			break;
		tell(*plan, EVENT_PAID, tgid, spent, 0);
	}
	return 0;
}

SEC("tp_btf/sched_process_exit")
int family_exit(__u64 *args)
{
	struct task_struct *task = (void *)args[0];
	__u32 tgid = BPF_CORE_READ(task, tgid), status, us;

	if (BPF_CORE_READ(task, signal, live.counter))
		return 0;
	tell_paid(task, tgid);
	if (!plan_of(tgid, 0))
		return 0;
	status = BPF_CORE_READ(task, signal, group_exit_code);
	if (!status)
		status = BPF_CORE_READ(task, exit_code);
	us = lived(task);
	for (__u32 nth = 0; nth < MEMBER_PLANS; nth++) {
		__u32 *plan = plan_of(tgid, nth);

		if (!plan)
			break;
		leave_plan(tgid, nth, *plan, status, us);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
