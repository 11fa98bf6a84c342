// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * For tests only: the computation of a bucket from a duration, as in the exit programs, behind a
 * program that can run without a probe.
 */
#include "latency.bpf.c"

/* True if the CPU that runs this counts. */
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
