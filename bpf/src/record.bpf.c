// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * For tests only: the way from a duration to a bucket, as the exit programs have it, behind a program that can
 * be run without a probe.
 */
#include "latency.bpf.c"

/* Does the CPU that this runs on count? */
SEC("raw_tp")
int count_here(__u64 *args)
{
	__u32 first = 0;
	struct row *row = bpf_map_lookup_elem(&rows, &first);

	if (row && counts_here(args[0]))
		count(row->entries, 1);
	return 0;
}

SEC("raw_tp")
int record_one(__u64 *args)
{
	__u32 first = 0;
	struct row *row = bpf_map_lookup_elem(&rows, &first);

	if (row)
		record(row, args[0], 0);
	return 0;
}
