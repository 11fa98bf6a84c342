// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Programs that do nothing: the kernel's own time to reach a program and return. Additional cost of
 * edgelat's programs on the same sites is edgelat's own share.
 */
#define SEC(name) __attribute__((section(name), used))

/* Serves entry sites, exit sites and returns. */
SEC("uprobe.multi") int empty_multi(void *regs)
{
	(void)regs;
	return 0;
}

SEC("uprobe.session") int empty_session(void *regs)
{
	(void)regs;
	return 0; /* from the entry: the return is needed as well */
}

SEC("uprobe") int empty_single(void *regs)
{
	(void)regs;
	return 0;
}

/*
 * The floor: any measurement of a duration takes two readings of the clock. A reading costs 20 to
 * 60 ns depending on the machine, so costs above these are comparable between machines, unlike
 * costs above the empty programs.
 */
static unsigned long long (*const bpf_ktime_get_ns)(void) = (void *)5; /* BPF_FUNC_ktime_get_ns, uapi/linux/bpf.h */

SEC("uprobe.multi") int clock_multi(void *regs)
{
	(void)regs;
	return bpf_ktime_get_ns() == 0; /* a use, or the call would be dropped; the clock is never 0 */
}

SEC("uprobe.session") int clock_session(void *regs)
{
	(void)regs;
	return bpf_ktime_get_ns() == 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
