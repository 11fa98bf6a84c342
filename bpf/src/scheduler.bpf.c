// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * For tests only: the smallest possible sched_ext scheduler. It decides nothing, so that the
 * kernel's defaults hold: one queue for all CPUs, first come, first served.
 */
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))

/* The fields that are set (kernel/sched/ext_internal.h); libbpf matches them by name. */
struct sched_ext_ops {
	__u64 flags;
	char name[128];
};

/* Tasks with the policy SCHED_EXT and no others: enum scx_ops_flags. */
#define SCX_OPS_SWITCH_PARTIAL (1ULL << 3)

SEC(".struct_ops.link")
struct sched_ext_ops scheduler = {
	.flags = SCX_OPS_SWITCH_PARTIAL,
	.name = "edgelat_test",
};

char LICENSE[] SEC("license") = "Dual BSD/GPL";
