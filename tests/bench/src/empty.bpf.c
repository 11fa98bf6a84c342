// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Programs that do nothing: what the kernel itself takes to get to a program and back. What edgelat's programs cost more
 * than these, on the same sites, is edgelat's own share.
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
	return 0; /* from the entry: the return is wanted as well */
}

SEC("uprobe") int empty_single(void *regs)
{
	(void)regs;
	return 0;
}

/*
 * The floor: two readings of the clock are what any measurement of a duration takes. A reading costs 20 to 60 ns by
 * machine, so that costs over these can be compared between machines where costs over the empty ones cannot.
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
