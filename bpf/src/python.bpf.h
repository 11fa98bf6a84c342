/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Python functions, observed where a call enters the evaluation loop. A part of latency.bpf.c.
 *
 * The frame that is passed to the loop names a code object, and the code object names the function.
 * Each function (a name, a file and a line) has a slot in a hash table, in however many processes
 * it runs and however often its code object is made. The slot has the collector's decision: a row,
 * or not requested. A function gets a row at its first call, from a pool that the collector fills,
 * so that no call is missed while the collector matches name and file with the request.
 *
 * Reading the names at each call would be slow, so a cache keeps the decision under process and
 * code object. An entry may be replaced at any time: it can be computed again. So ended processes
 * need no care, and a child finds the decisions about functions of its parent or a sibling. Objects
 * die and their addresses are used again, so the key has a fingerprint of the object.
 *
 * The object lives as long as the call, so a read is consistent. If a page is absent, the call
 * cannot be attributed to a function, and is counted as such.
 */

static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	/* 64-bit finalizer of MurmurHash3 (public domain), once a word. */
	hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
	return hash ^ hash >> 33;
}

/* Length and cached hash are adjacent in every string. */
#define STRING_LENGTH 16
#define STRING_STATE 32
/* A bit of the state: one byte a character, and the shorter header. */
#define STRING_ASCII 0x40

/*
 * Distinguishes code objects at one address: line, strings, their lengths, and their cached hashes.
 * The function's own name is always interned, so its hash is there. 0: unreadable.
 */
static __noinline __u64 python_fingerprint(__u64 code)
{
	__u64 words[2], hash, name;

	if (bpf_probe_read_user(words, sizeof(words), (void *)(code + constants.python_code_file)))
		return 0;
	hash = mix(words[0], words[1]);
	name = words[1];
	words[0] = 0;
	if (bpf_probe_read_user(words, sizeof(__u32), (void *)(code + constants.python_code_line)))
		return 0;
	hash = mix(hash, words[0]);
	if (bpf_probe_read_user(words, sizeof(words), (void *)(name + STRING_LENGTH)))
		return 0;
	hash = mix(mix(hash, words[0]), words[1]);
	if (bpf_probe_read_user(words, sizeof(words[0]), (void *)(code + constants.python_code_name)))
		return 0;
	if (bpf_probe_read_user(words, sizeof(words), (void *)(words[0] + STRING_LENGTH)))
		return 0;
	return mix(mix(hash, words[0]), words[1]) | 1;
}

/* Copies a string as it is; the collector can read it. Returns length and state. */
static __noinline __u64 python_string(__u64 object, __u64 *into)
{
	__u64 length = 0, state = 0;
	__u32 bytes;

	if (bpf_probe_read_user(&length, sizeof(length), (void *)(object + STRING_LENGTH)) ||
	    bpf_probe_read_user(&state, sizeof(__u32), (void *)(object + STRING_STATE)))
		return 0;
	if (length > 0xffffffff)
		length = 0xffffffff;
	/* Characters have up to four bytes, after a longer header; or one, at the end of memory. */
	bytes = length > 64 ? TEXT_WORDS * 8 : length * 4 + 32;
	if (bytes > TEXT_WORDS * 8)
		bytes = TEXT_WORDS * 8;
	if (bpf_probe_read_user(into, bytes, (void *)(object + constants.python_text))) {
		bytes = length > TEXT_WORDS * 8 ? TEXT_WORDS * 8 : length;
		if (bpf_probe_read_user(into, bytes, (void *)(object + constants.python_text)))
			return 0;
	}
	return state << 32 | length;
}

/* Extends a hash by the kept characters of a string. 0: unreadable. */
__noinline __u64 python_text_hash(__u64 object, __u64 hash)
{
	__u64 words[2] = {}, at;
	__u32 bytes;

	if (bpf_probe_read_user(words, sizeof(words[0]), (void *)(object + STRING_LENGTH)) ||
	    bpf_probe_read_user(words + 1, sizeof(__u32), (void *)(object + STRING_STATE)))
		return 0;
	hash = mix(hash, words[0]);
	at = object + (words[1] & STRING_ASCII ? constants.python_text : constants.python_wide_text);
	bytes = words[0] < TEXT_WORDS * 8 ? words[0] : TEXT_WORDS * 8;
	/* Bytes of a character: 1, 2 or 4. */
	bytes *= words[1] >> 2 & 7;
	if (bytes > TEXT_WORDS * 8)
		bytes = TEXT_WORDS * 8;
	for (__u32 pair = 0; pair < TEXT_WORDS / 2 && pair < bytes / sizeof(words); pair++) {
		if (bpf_probe_read_user(words, sizeof(words), (void *)at))
			return 0;
		hash = mix(mix(hash, words[0]), words[1]);
		at += sizeof(words);
	}
	/* By a mask: Linux 6.1 sees no bound if clang compares a copy. */
	bytes &= sizeof(words) - 1;
	words[0] = words[1] = 0;
	if (bpf_probe_read_user(words, bytes, (void *)at))
		return 0;
	return mix(mix(hash, words[0]), words[1]);
}

/* Distinguishes a function from all others, in any process. 0: unreadable. */
static __noinline __u64 python_content(__u64 code)
{
	__u64 word = 0, hash;

	if (bpf_probe_read_user(&word, sizeof(__u32), (void *)(code + constants.python_code_flags)))
		return 0;
	hash = mix(1, word & CODE_RESUMABLE_FLAGS);
	if (bpf_probe_read_user(&word, sizeof(__u32), (void *)(code + constants.python_code_line)))
		return 0;
	hash = mix(hash, word);
	if (bpf_probe_read_user(&word, sizeof(word), (void *)(code + constants.python_code_file)))
		return 0;
	hash = python_text_hash(word, hash);
	if (!hash || bpf_probe_read_user(&word, sizeof(word), (void *)(code + constants.python_code_name)))
		return 0;
	hash = python_text_hash(word, hash);
	return hash ? hash | 2 : 0;
}

/* Takes a row from the pool, with its use in the upper half, or returns CODE_WAITING. */
static __always_inline __u64 python_take_row(struct python_pool *pool)
{
#pragma unroll
	for (__u32 attempt = 0; attempt < 4; attempt++) {
		__u64 head = load(&pool->head), row;

		if (head == load(&pool->tail))
			break;
		row = load(&pool->rows[head & (POOL_ROWS - 1)]);
		if (__sync_val_compare_and_swap(&pool->head, head, head + 1) == head)
			return row;
	}
	return CODE_WAITING;
}

#include "await.bpf.h"

#define NO_TEXT ~0ULL

/* Takes the place of the next text; NO_TEXT if the collector is too far behind. */
static __always_inline __u64 python_take_text(struct python_pool *pool)
{
#pragma unroll
	for (__u32 attempt = 0; attempt < 4; attempt++) {
		__u64 head = load(&pool->texts_head);

		if (head - load(&pool->texts_tail) > constants.code_text_mask)
			break;
		if (__sync_val_compare_and_swap(&pool->texts_head, head, head + 1) == head)
			return head;
	}
	count(pool->untold, 1);
	return NO_TEXT;
}

static __noinline void python_describe(struct code_text *text, __u64 code)
{
	__u64 word = 0;

	if (bpf_probe_read_user(&word, sizeof(word), (void *)(code + constants.python_code_file)))
		word = 0;
	text->file_length = python_string(word, text->file);
	if (bpf_probe_read_user(&word, sizeof(word), (void *)(code + constants.python_code_name)))
		word = 0;
	text->name_length = python_string(word, text->name);
	word = 0;
	bpf_probe_read_user(&word, sizeof(__u32), (void *)(code + constants.python_code_flags));
	text->line = word << 32;
	word = 0;
	bpf_probe_read_user(&word, sizeof(__u32), (void *)(code + constants.python_code_line));
	text->line |= word & 0xffffffff;
}

/* Fills the text of a function, as the only program that reports it, and gives it a row. */
static __noinline void python_publish(struct python_pool *pool, __u64 place, __u32 slot_index, struct code_slot *slot,
				      __u64 code)
{
	__u32 index = place & constants.code_text_mask;
	struct code_text *text = bpf_map_lookup_elem(&code_texts, &index);
	__u64 word;

	if (!text)
		return;
	python_describe(text, code);
	word = (load(&slot->row) & ~CODE_WAITING) | (__u32)python_take_row(pool);
	text->content = slot->content;
	text->slot = slot_index;
	text->row = word;
	/* Exchanged, not stored: earlier writes must be visible first. */
	__sync_lock_test_and_set(&slot->row, word);
	__sync_lock_test_and_set(&text->sequence, place + 1);
	/* If others wait before it, their events follow, and this text is read with them. */
	if (place == load(&pool->texts_tail))
		tell(constants.plan, EVENT_NEW_CODE, bpf_get_current_pid_tgid() >> 32, 0, 0);
}

/* Reports a function to the collector as soon as there is a place for its text. */
static __noinline void python_tell(__u32 index, __u64 code)
{
	struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);
	__u32 zero = 0;
	struct python_pool *pool = bpf_map_lookup_elem(&python_pool, &zero);
	__u64 word, place;

	if (!slot || !pool)
		return;
	word = load(&slot->row);
	/* One program reports; for others the function has no row meanwhile. */
	if (!(word & CODE_UNTOLD) ||
	    __sync_val_compare_and_swap(&slot->row, word, word & ~CODE_UNTOLD) != word)
		return;
	place = python_take_text(pool);
	if (place == NO_TEXT)
		__sync_lock_test_and_set(&slot->row, word);
	else
		python_publish(pool, place, index, slot, code);
}

#define NO_SLOT ~0U

/* Returns the slot of a function, or a slot that it may take, or NO_SLOT. */
__noinline __u32 python_find(__u64 content)
{
	__u32 first = content >> 32, place = NO_SLOT;

	for (__u32 way = 0; way < CODE_WAYS; way++) {
		__u32 index = (first + way) & constants.code_slot_mask;
		struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);
		__u64 found;

		if (!slot)
			break;
		found = load(&slot->content);
		if (found == content || found == CODE_FREE)
			return index;
		/* A function that was not requested may be decided about again. */
		if (found != CODE_BUSY && load(&slot->row) == CODE_UNWANTED)
			place = index;
	}
	return place;
}

/* Assigns a slot to that function; false if another program was faster. */
static __always_inline bool python_take_slot(struct code_slot *slot, __u64 content, __u64 code)
{
	__u64 found = load(&slot->content), row = CODE_WAITING | CODE_OPEN | CODE_UNTOLD, flags = 0;

	if (found == CODE_BUSY || (found != CODE_FREE && load(&slot->row) != CODE_UNWANTED) ||
	    __sync_val_compare_and_swap(&slot->content, found, CODE_BUSY) != found)
		return false;
	bpf_probe_read_user(&flags, sizeof(__u32), (void *)(code + constants.python_code_flags));
	if (flags & CODE_RESUMABLE_FLAGS)
		row |= CODE_RESUMES;
	slot->row = row;
	slot->waiting = 0;
	__sync_lock_test_and_set(&slot->content, content);
	return true;
}

/* Finds or makes the slot of a function, or NO_SLOT. Two programs may make one each: harmless. */
static __noinline __u32 python_slot(__u64 content, __u64 code)
{
	for (__u32 attempt = 0; attempt < 4; attempt++) {
		__u32 index = python_find(content);
		struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);

		if (!slot)
			break;
		if (load(&slot->content) == content || python_take_slot(slot, content, code))
			return index;
	}
	return NO_SLOT;
}

/* Finds the word of a function (lower half) and its slot (upper half), by its names. */
static __noinline __u64 python_function(__u64 code)
{
	__u64 content = python_content(code), word;
	struct code_slot *slot;
	__u32 index;

	if (!content)
		return CODE_UNREAD;
	index = python_slot(content, code);
	slot = bpf_map_lookup_elem(&code_slots, &index);
	if (!slot)
		return CODE_LOST;
	if (load(&slot->row) & CODE_UNTOLD)
		python_tell(index, code);
	/* An atomic read, so that the next read comes later. */
	word = __sync_fetch_and_add(&slot->row, 0);
	if (load(&slot->content) != content)
		word = CODE_UNWANTED; /* Only an unwanted function is replaced. */
	return (__u64)index << 32 | word;
}

static __always_inline struct code_set *cache_set(__u64 key)
{
	__u32 index = key & constants.code_set_mask;

	return bpf_map_lookup_elem(&code_cache, &index);
}

/* The decision about an object of a process, or CODE_LOST. There are fewer sets than the bits below
 * the compared ones distinguish. */
__noinline __u64 python_cached(__u64 key)
{
	struct code_set *set = cache_set(key);

	if (!set)
		return CODE_LOST;
#pragma unroll
	for (__u32 way = 0; way < CACHE_WAYS; way++) {
		__u64 entry = load(&set->ways[way]);

		if (entry >> CODE_KEPT == key >> CODE_KEPT)
			return entry & ((1 << CODE_KEPT) - 1);
	}
	return CODE_LOST;
}

/* Keeps the decision, in place of any other entry if none is free. */
__noinline __u32 python_keep(__u64 key, __u64 word)
{
	struct code_set *set = cache_set(key);
	__u32 place = bpf_get_prandom_u32();

	if (!set)
		return false;
#pragma unroll
	for (__u32 way = 0; way < CACHE_WAYS; way++)
		if (!load(&set->ways[way]))
			place = way;
	*(volatile __u64 *)&set->ways[place & (CACHE_WAYS - 1)] = (key >> CODE_KEPT << CODE_KEPT) | word;
	return true;
}

/* As python_function() if nothing is decided; otherwise the function's word alone. */
static __noinline __u64 python_row(__u64 code, __u64 tgid)
{
	__u64 print = python_fingerprint(code), key, word;

	if (!print)
		return CODE_UNREAD;
	key = mix(mix(print, code), tgid);
	word = python_cached(key);
	if (word != CODE_LOST)
		return word;
	word = python_function(code);
	if (!((__u32)word >> CODE_KEPT))
		python_keep(key, (__u32)word);
	return word;
}

#define FRAME_OWNED_BY_THREAD 0 /* Include/internal/pycore_frame.h; from 3.14 on pycore_interpframe_structs.h */

/*
 * True if this entry only creates a generator or coroutine. An instruction of the function
 * (RETURN_GENERATOR, from 3.11 on) moves its frame into the new object; the thread owns it before.
 */
static __always_inline bool python_makes(__u64 frame)
{
	__u64 owner = 0;

	return constants.python_frame_owner &&
	       !bpf_probe_read_user(&owner, 1, (void *)(frame + constants.python_frame_owner)) &&
	       owner == FRAME_OWNED_BY_THREAD;
}

/* Counts a call of a function without a row: in its slot, or in the first row if it has none. */
static __noinline void python_missed(__u64 word)
{
	struct row *row = row_of(constants.python_first_row);
	__u32 index = word >> 32;
	struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);

	if (word & CODE_WAITING && slot)
		count(slot->waiting, 1);
	else if (row && word & CODE_UNREAD)
		count(row->unkeyed, 1);
	else if (row)
		count(row->table_full, 1);
}

/* Frames of the loop are found by stack pointer and process only. */
static __always_inline __u64 python_key(__u64 tgid)
{
	return tgid << 32 | SITE_FUNCTION_MASK;
}

/* As table_leave_frame(). */
static __noinline void python_leave(__u64 sp, __u64 tag, __u64 probes_ns, bool again)
{
	__u64 now = bpf_ktime_get_ns(), start, old, object;
	__u32 index = set_of(sp, python_key(tag >> 32));
	struct frame_set *set = set_at(index);
	struct row *row;
	__u32 way;

	if (!set || sp <= FRAME_BUSY)
		return;
	way = frame_find(index, sp, tag, true);
	/* Most calls are of functions that were not requested. */
	if (way >= FRAME_WAYS || !frame_take(set, way, sp))
		return;
	old = load(&set->tag[way & (FRAME_WAYS - 1)]);
	start = load(&set->start[way & (FRAME_WAYS - 1)]);
	probes_ns -= load(&set->probes_ns[way & (FRAME_WAYS - 1)]);
	object = load(&set->object[way & (FRAME_WAYS - 1)]);
	if (!is_python(old, tag)) {
		/* Between search and take, a call with the same stack pointer evicted it. */
		frame_give(set, way, sp);
		return;
	}
	frame_give(set, way, FRAME_FREE);
	row = row_of(old & SITE_FUNCTION_MASK);
	if (row && again)
		count(row->abandoned, 1);
	else if (row)
		record(row, now - start, probes_ns);
	if (constants.await_sets && object)
		await_exit(object, old, now, now - start);
}

/* The row of the function that a frame executes, as python_row(). */
static __always_inline __u64 python_row_of_frame(__u64 frame, __u64 tgid)
{
	__u64 code = 0;

	if (bpf_probe_read_user(&code, sizeof(code), (void *)(frame + constants.python_frame_code)))
		return CODE_UNREAD;
	return python_row(code & ~(__u64)constants.python_code_marks, tgid);
}

/* A call that takes this many times the mean had an interrupt in it. */
#define WORK_MUCH 8
#define WORK_AT_MOST_NS 100000

/*
 * Nanoseconds that finding a Python function takes in addition to the cost of a hit, which is
 * measured with native functions. It depends on the program: on its objects and on the caches.
 */
static __always_inline __u32 python_work(void)
{
	struct row *row = row_of(constants.python_first_row);

	return row ? load(&row->python_work) / WORK_EVERY : 0;
}

/* Adds a time to the mean, less that of a clock call, for which the clock was read twice before. */
static __noinline void python_worked(struct row *row, __u64 before, __u64 begin)
{
	__u64 ns = bpf_ktime_get_ns() - begin, clock = begin - before, old;

	if (!row)
		return;
	old = load(&row->python_work);
	ns = ns > clock ? ns - clock : 0;
	if (ns > WORK_AT_MOST_NS || (old && ns > old * WORK_MUCH / WORK_EVERY))
		return;
	row->python_work = old ? old - old / WORK_EVERY + ns : ns * WORK_EVERY;
}

static __noinline void python_enter(user_regs *regs, __u64 tgid, __u64 site, __u64 probes_ns)
{
	__u64 sp = entry_sp(REGS_SP(regs), site), found;
	__u64 first = REGS_ARGUMENT(regs, 0), second = REGS_ARGUMENT(regs, 1);
	__u64 frame = constants.python_frame_argument ? second : first;
	struct row *row = row_of(constants.python_first_row);
	__u64 before = 0, begin = 0;

	/* Every call, wanted or not: the cost of measuring is computed from these. */
	if (row) {
		count(row->entries, 1);
		if (!(load(&row->entries) % WORK_EVERY)) {
			before = bpf_ktime_get_ns();
			begin = bpf_ktime_get_ns();
		}
	}
	if (!counts_here(0)) {
		python_leave(sp, tgid << 32, 0, true);
		return;
	}
	found = python_row_of_frame(frame, tgid);
	if (begin)
		python_worked(row, before, begin);
	if (found & CODE_UNWANTED || (found & CODE_RESUMES && python_makes(frame)))
		return;
	if (found & (CODE_WAITING | CODE_LOST | CODE_UNREAD)) {
		python_missed(found);
		if (constants.await_sets)
			await_enter(frame, tgid, 0);
		return;
	}
	if (!constants.await_sets || !(found & CODE_RESUMES))
		frame = 0;
	found &= SITE_FUNCTION_MASK;
	row = row_of(found);
	if (!row)
		return;
	if (frame)
		await_enter(frame, tgid, found);
	count(row->entries, 1);
	if (constants.python_counts_only || sp <= FRAME_BUSY) {
		count(row->unkeyed, 1);
		return;
	}
	frame_enter(row, set_of(sp, python_key(tgid)), sp, tgid << 32 | found, probes_ns, frame);
}
