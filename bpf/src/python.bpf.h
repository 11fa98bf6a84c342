/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Functions of Python, seen where a call enters the evaluation loop. A part of latency.bpf.c.
 *
 * The frame that is passed to the loop names a code object, and that names the function. Each code object of a process
 * has a slot in a hash table of ours; what the collector decided about it stands there: a row, or that nobody asked for
 * it. An object that is seen for the first time gets a row at once, from a pool that the collector keeps filled, so that
 * no call is missed while the collector reads name and file from the array of texts and matches them with what was asked
 * for. Objects die and their addresses are used again, so a slot is believed only while its fingerprint still holds.
 *
 * The object lives as long as the call, so what is read here is whole; a page that is not there now makes the call one
 * that cannot be told to any function, which is counted.
 */

static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	/* 64-bit finalizer of MurmurHash3 (public domain), once a word. */
	hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
	return hash ^ hash >> 33;
}

/* Length and cached hash stand one behind the other in every string. */
#define STRING_LENGTH 16
#define STRING_STATE 32

/*
 * What tells a code object from another one at the same address: its line, its strings, their lengths, and the hashes
 * that the interpreter caches in them. The function's own name is always interned, so its hash is there. 0: unreadable.
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

/* Copies a string as it stands; the collector knows how to read it. Returns length and state. */
static __noinline __u64 python_string(__u64 object, __u64 *into)
{
	__u64 length = 0, state = 0;
	__u32 bytes;

	if (bpf_probe_read_user(&length, sizeof(length), (void *)(object + STRING_LENGTH)) ||
	    bpf_probe_read_user(&state, sizeof(__u32), (void *)(object + STRING_STATE)))
		return 0;
	if (length > 0xffffffff)
		length = 0xffffffff;
	/* Characters have up to four bytes, and behind a longer header; or, at the end of memory, one. */
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

/* The place of the next text, or one of CODE_LOST where the collector is too far behind. */
static __always_inline __u64 python_take_text(struct python_pool *pool)
{
#pragma unroll
	for (__u32 attempt = 0; attempt < 4; attempt++) {
		__u64 head = load(&pool->texts_head);

		if (head - load(&pool->texts_tail) >= CODE_TEXTS)
			break;
		if (__sync_val_compare_and_swap(&pool->texts_head, head, head + 1) == head)
			return head;
	}
	return CODE_LOST;
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

/* Fills a slot that we hold, and tells the collector. Returns the row. */
static __noinline __u64 python_new(struct code_slot *slot, __u64 place, __u64 code, __u64 print)
{
	__u32 zero = 0, index;
	struct python_pool *pool = bpf_map_lookup_elem(&python_pool, &zero);
	struct code_text *text;
	__u64 count, row;

	if (!pool)
		return CODE_LOST;
	count = python_take_text(pool);
	index = count & (CODE_TEXTS - 1);
	text = bpf_map_lookup_elem(&code_texts, &index);
	if (count == CODE_LOST || !text) {
		*(volatile __u64 *)&slot->code = CODE_FREE;
		return CODE_LOST;
	}
	row = python_take_row(pool);
	text->code = code;
	text->fingerprint = print;
	text->slot = place;
	text->row = row;
	python_describe(text, code);
	slot->owner = (place & 0xffffffff00000000ULL) | row;
	slot->fingerprint = print;
	slot->waiting = row == CODE_WAITING;
	/* Exchanged, not stored: what was written before must be seen before. */
	__sync_lock_test_and_set(&slot->code, code);
	__sync_lock_test_and_set(&text->sequence, count + 1);
	tell(constants.plan, EVENT_NEW_CODE, place >> 32, 0, 0);
	return row;
}

/* The slot of a code object, or the one that it will have: index, or CODE_LOST. Found if its word is the object. */
static __always_inline __u64 python_find(__u64 code, __u64 tgid)
{
	__u32 first = (code ^ tgid << 40) * 0x9e3779b97f4a7c15ULL >> 40;

	for (__u32 way = 0; way < CODE_WAYS; way++) {
		__u32 index = (first + way) & constants.code_slot_mask;
		struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);
		__u64 found;

		if (!slot)
			break;
		found = load(&slot->code);
		if (found == CODE_FREE || (found == code && load(&slot->owner) >> 32 == tgid))
			return index;
	}
	return CODE_LOST;
}

/* The row of a code object of a process, CODE_UNWANTED, CODE_WAITING or CODE_LOST. */
static __noinline __u64 python_row(__u64 code, __u64 tgid)
{
	__u64 print = python_fingerprint(code), found;
	__u32 index = python_find(code, tgid);
	struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);

	if (!print || code <= CODE_BUSY || !slot)
		return CODE_LOST;
	found = load(&slot->code);
	if (found == code && load(&slot->fingerprint) == print) {
		__u32 row = load(&slot->owner);

		if (row == CODE_WAITING)
			count(slot->waiting, 1);
		return row;
	}
	/* It is free, or another function lives at this address now. */
	if (found == CODE_BUSY || __sync_val_compare_and_swap(&slot->code, found, CODE_BUSY) != found)
		return CODE_LOST;
	return python_new(slot, tgid << 32 | index, code, print);
}

/* Frames of the loop are found by stack pointer and process alone. */
static __always_inline __u64 python_key(__u64 tgid)
{
	return tgid << 32 | SITE_FUNCTION_MASK;
}

/* As table_leave_frame(). */
static __noinline void python_leave(__u64 sp, __u64 tag, bool again)
{
	__u64 now = bpf_ktime_get_ns(), start, old;
	__u32 index = set_of(sp, python_key(tag >> 32));
	struct frame_set *set = set_at(index);
	struct row *row;
	__u32 way;

	if (!set || sp <= FRAME_BUSY)
		return;
	way = frame_find(index, sp, tag, true);
	/* Most calls are of functions that nobody asked for. */
	if (way >= FRAME_WAYS || !frame_take(set, way, sp))
		return;
	old = load(&set->tag[way & (FRAME_WAYS - 1)]);
	start = load(&set->start[way & (FRAME_WAYS - 1)]);
	if (!is_python(old, tag)) {
		/* Between search and take it was evicted by a call with the same stack pointer elsewhere. */
		frame_give(set, way, sp);
		return;
	}
	frame_give(set, way, FRAME_FREE);
	row = row_of(old & SITE_FUNCTION_MASK);
	if (row && again)
		count(row->abandoned, 1);
	else if (row)
		record(row, now - start);
}

static __noinline void python_enter(user_regs *regs, __u64 tgid)
{
	__u64 sp = REGS_SP(regs), code = 0, found = CODE_LOST;
	__u64 first = REGS_ARGUMENT(regs, 0), second = REGS_ARGUMENT(regs, 1);
	__u64 frame = constants.python_frame_argument ? second : first;
	struct row *row = row_of(constants.python_first_row);

	/* Every call, wanted or not: what measuring costs goes by these. */
	if (row)
		count(row->entries, 1);
	if (!counts_here(0)) {
		python_leave(sp, tgid << 32, true);
		return;
	}
	if (!bpf_probe_read_user(&code, sizeof(code), (void *)(frame + constants.python_frame_code)))
		found = python_row(code & ~(__u64)constants.python_code_marks, tgid);
	if (found == CODE_UNWANTED || found == CODE_WAITING)
		return;
	row = row_of(found == CODE_LOST ? constants.unknown_row : found);
	if (!row)
		return;
	count(row->entries, 1);
	if (found == CODE_LOST)
		return;
	if (constants.python_counts_only || sp <= FRAME_BUSY) {
		count(row->unkeyed, 1);
		return;
	}
	frame_enter(row, set_of(sp, python_key(tgid)), sp, tgid << 32 | found, true);
}
