/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whole awaits of Python: from the first resume of a generator or coroutine to its return. A part
 * of latency.bpf.c.
 *
 * An open await is a frame of the frame table, in sets of its own. Its key is the address of the
 * interpreter's frame object, which does not move while it lives, and its tag names the row of the
 * whole await. So the rules for calls hold here too: replacement, named losses, and the calls
 * inside.
 *
 * Addresses are used again. So a first resume replaces any frame under its key, which the
 * interpreter has discarded without another resume. A resume is the first if the frame's position
 * is before the first instruction that a resume executes; at every later resume it is behind a
 * yield. This is sound only if each resume is seen, so the collector requests it only then:
 * otherwise a frame could be discarded and made anew unseen.
 *
 * By the time the interpreter leaves its loop, it has recorded whether a resume ends with a yield
 * or with the return.
 *
 * A function that is no longer requested may have open awaits for the lifetime of its process,
 * while other functions need its row. So a tag has the use of the row, and awaits of an earlier use
 * do not count.
 */

/* True if the open await of this tag belongs to the present use of its row. */
__noinline __u32 await_counts(__u64 tag)
{
	__u32 index = (tag & SITE_FUNCTION_MASK) - constants.python_first_row;
	struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);

	return slot && load(&slot->whole) >> 32 == (tag >> AWAIT_ROW_BITS & AWAIT_USES);
}

/* Sets of open awaits follow the sets of calls. */
static __always_inline __u32 await_set(__u64 frame, __u64 tgid)
{
	return constants.frame_set_mask + 1 + (hash_of(frame, tgid) & (constants.await_sets - 1));
}

enum resume { RESUME_LATER, RESUME_FIRST, RESUME_UNREADABLE };

__noinline __u32 await_resume(__u64 frame)
{
	__u64 words[2] = {};
	__u32 first = 0;

	if (!constants.python_code_first) {
		if (bpf_probe_read_user(&first, sizeof(first), (void *)(frame + constants.python_frame_position)))
			return RESUME_UNREADABLE;
		return (__s32)first < 0 ? RESUME_FIRST : RESUME_LATER;
	}
	if (bpf_probe_read_user(words, sizeof(words[0]), (void *)(frame + constants.python_frame_code)) ||
	    bpf_probe_read_user(words + 1, sizeof(words[1]), (void *)(frame + constants.python_frame_position)))
		return RESUME_UNREADABLE;
	words[0] = (words[0] & ~(__u64)constants.python_code_marks) + constants.python_code_first;
	if (bpf_probe_read_user(&first, sizeof(first), (void *)words[0]))
		return RESUME_UNREADABLE;
	/* An instruction has two bytes. */
	return words[1] - (words[0] + 16) < (__u64)first * 2 ? RESUME_FIRST : RESUME_LATER;
}

/* True if the frame has returned. If it cannot be read, the await stays open. */
__noinline __u32 await_ended(__u64 frame)
{
	__u64 at = frame + (__s32)constants.python_frame_state, word = 1;
	__s8 state = 0;

	if (constants.python_ended == AWAIT_ENDED_WORD)
		return !bpf_probe_read_user(&word, sizeof(word), (void *)at) && !word;
	return !bpf_probe_read_user(&state, sizeof(state), (void *)at) && state >= (__s8)constants.python_ended;
}

/* The row of a function's awaits as in their tags; 0 if all rows are in use. */
__noinline __u64 await_row(__u64 function)
{
	__u32 index = function - constants.python_first_row, zero = 0;
	struct code_slot *slot = bpf_map_lookup_elem(&code_slots, &index);
	struct python_pool *pool = bpf_map_lookup_elem(&python_pool, &zero);
	__u64 word, row;

	if (!slot || !pool)
		return 0;
	word = load(&slot->whole);
	if (word & SITE_FUNCTION_MASK)
		return (__u32)word;
	/* One program takes a row; others see none meanwhile. */
	if (word & AWAIT_MARK ||
	    __sync_val_compare_and_swap(&slot->whole, word, word | AWAIT_MARK) != word)
		return 0;
	row = python_take_row(pool);
	if (row & CODE_WAITING) {
		__sync_lock_test_and_set(&slot->whole, word);
		return 0;
	}
	row = (row & SITE_FUNCTION_MASK) | row >> 32 << AWAIT_ROW_BITS | AWAIT_MARK;
	__sync_lock_test_and_set(&slot->whole, word | row);
	return row;
}

/* Effect of the end of a resume on the open await. */
enum await_end { AWAIT_AS_IT_SAYS, AWAIT_DROPPED };

static __always_inline void await_record(struct row *row, __u64 whole, __u64 ran_before, __u64 ran)
{
	/* A call that was never suspended lacks only the time between two readings of the clock. */
	if (record(row, whole, 0) && ran_before && whole > ran_before + ran)
		count(row->suspended_ns, whole - ran_before - ran);
}

/* Ends a resume after `ran`, or drops the open await. False: none is open. */
__noinline __u32 await_leave(__u64 frame, __u64 tgid, __u64 now, __u64 ran, __u32 end)
{
	__u32 index = await_set(frame, tgid), way = frame_find(index, frame, tgid << 32, true);
	struct frame_set *set = set_at(index);
	__u64 tag, start, before;
	struct row *row;

	if (!set || way >= FRAME_WAYS || !frame_take(set, way, frame))
		return false;
	way &= FRAME_WAYS - 1;
	tag = load(&set->tag[way]);
	start = load(&set->start[way]);
	before = load(&set->probes_ns[way]);
	if (!is_python(tag, tgid << 32)) {
		/* Between search and take, an await of another process replaced it. */
		frame_give(set, way, frame);
		return false;
	}
	if (end == AWAIT_AS_IT_SAYS && !await_ended(frame)) {
		set->probes_ns[way] = before + ran;
		frame_give(set, way, frame);
		return true;
	}
	frame_give(set, way, FRAME_FREE);
	if (end == AWAIT_DROPPED) {
		frame_lost(tag, true);
		return true;
	}
	row = row_of(tag & SITE_FUNCTION_MASK);
	if (row && await_counts(tag))
		await_record(row, now - start, before, ran);
	return true;
}

/* Begins a resume of `function`, or of a function without a row (0). */
static __noinline void await_enter(__u64 frame, __u64 tgid, __u64 function)
{
	__u32 resume = await_resume(frame);
	__u64 tag = 0;
	struct row *row;

	if (resume == RESUME_LATER)
		return;
	if (function && resume == RESUME_FIRST)
		tag = await_row(function);
	row = row_of((tag ? tag : function) & SITE_FUNCTION_MASK);
	if (!tag) {
		/* A frame under this key belongs, or may belong, to another frame object. */
		await_leave(frame, tgid, 0, 0, AWAIT_DROPPED);
		if (row && function && resume == RESUME_FIRST)
			count(row->awaits_unresolved, 1);
		return;
	}
	if (!row)
		return;
	count(row->entries, 1);
	frame_enter(row, await_set(frame, tgid), frame, tgid << 32 | tag, 0, 0);
}

/* Ends a resume. */
static __noinline void await_exit(__u64 frame, __u64 tag, __u64 now, __u64 ran)
{
	struct row *row;

	if (await_leave(frame, tag >> 32, now, ran, AWAIT_AS_IT_SAYS) || !await_ended(frame))
		return;
	tag = await_row(tag & SITE_FUNCTION_MASK);
	row = row_of(tag & SITE_FUNCTION_MASK);
	if (row && tag)
		count(row->unmatched, 1);
}
