/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Increments. Every one either lands in its map or is told of in stats: none is lost in silence.
 *
 * Those that are called from many places are global functions, which the verifier looks at once
 * and not at every call (530,000 instructions else). They take numbers, not a key: on 6.1 a global
 * function's pointer argument is no map key, and the stack of a call chain is 512 bytes in all.
 */
#ifndef WEIR_COUNT_H
#define WEIR_COUNT_H

#include "share.h"

/* Set by user space before loading: the one table of bounds. */
const volatile __u64 histogram_bounds[HISTOGRAM_BOUNDS];
/* What a new histogram starts from; too large for the stack. */
const struct histogram histogram_zero;

/* Set likewise: whether there are more CPUs than lines of struct pod_traffic. */
const volatile __u32 lines_are_shared;

/* Adds to what an interface has had, on this CPU's line; beside others if there may be any. */
static __always_inline void traffic_add(struct pod_traffic *traffic, __u32 dir, __u32 family,
					__u64 bytes, __u64 packets, int beside)
{
	struct net_line *line = &traffic->lines[bpf_get_smp_processor_id() % TRAFFIC_LINES];
	struct net_counter *net = &line->net[dir & 1][family & 1];

	if (beside || lines_are_shared) {
		__sync_fetch_and_add(&net->bytes, bytes);
		__sync_fetch_and_add(&net->packets, packets);
		return;
	}
	/* With softirqs off nobody else adds here meanwhile. */
	net->bytes += bytes;
	net->packets += packets;
}

/* As with counters: stat_add() is one function for all, but for those that it would not fit below.
 */
static __always_inline void stat_put(__u32 index, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&stats, &index);

	/* Per CPU, but 6.1 lets a softirq's packet into the midst of a test run: see weir_sweep. */
	if (value)
		__sync_fetch_and_add(value, n);
}

__noinline int stat_add(__u32 index, __u64 n)
{
	stat_put(index, n);
	return 0;
}

/* The one-byte fields of a key as one argument. */
static __always_inline __u32 fields(__u8 kind, __u8 role, __u8 a, __u8 b)
{
	return kind | (__u32)role << 8 | (__u32)a << 16 | (__u32)b << 24;
}

/* Adds to the counter whose key has these fields; one that is carried over is not bounded. */
static __always_inline void counter_put(__u32 pod, __u32 fields, __u16 c, __u64 n, int carried)
{
	struct counter_key key = {.pod = pod,
				  .kind = fields,
				  .role = fields >> 8,
				  .a = fields >> 16,
				  .b = fields >> 24,
				  .c = c};
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (!value &&
	    !(carried ? share_carry(pod, SHARE_COUNTERS) : share_take_here(pod, SHARE_COUNTERS))) {
		__u64 zero = 0;

		/* EEXIST: another CPU was faster, and its element is as good. */
		if (bpf_map_update_elem(&counters, &key, &zero, BPF_NOEXIST))
			share_give_here(pod, SHARE_COUNTERS);
		value = bpf_map_lookup_elem(&counters, &key);
	}
	if (value) {
		__sync_fetch_and_add(value, n);
		return;
	}
	stat_put(STAT_FULL_COUNTERS, n);
	/* The shares of pods that are forgotten go with a sweep. */
	room_wanted = 1;
}

/* Adds to the counter whose key has these fields. */
__noinline int counter_add(__u32 pod, __u32 fields, __u16 c, __u64 n)
{
	counter_put(pod, fields, c, n, 0);
	return 0;
}

/* The cell of the first bound that is not below the value: 7 halvings of 115 bounds. */
static __always_inline __u32 histogram_cell(__u64 ns)
{
	__u32 low = 0, high = HISTOGRAM_BOUNDS;
	int i;

	for (i = 0; i < 7; i++) {
		__u32 middle = (low + high) / 2;

		if (low >= high || middle >= HISTOGRAM_BOUNDS)
			break;
		if (histogram_bounds[middle] < ns)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Adds to one cell, and to the sum, of the histogram whose key has these fields. */
static __always_inline void histogram_put(__u32 pod, __u32 fields, __u32 cell, __u64 n, __u64 sum)
{
	struct histogram_key key = {
		.pod = pod, .kind = fields, .role = fields >> 8, .a = fields >> 16};
	struct histogram *value = bpf_map_lookup_elem(&histograms, &key);

	if (!value) {
		bpf_map_update_elem(&histograms, &key, &histogram_zero, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&histograms, &key);
	}
	if (!value || cell >= HISTOGRAM_CELLS) {
		stat_put(STAT_FULL_HISTOGRAMS, n);
		return;
	}
	__sync_fetch_and_add(&value->cells[cell], n);
	__sync_fetch_and_add(&value->sum_ns, sum);
}

/* Nanoseconds between two moments that two CPUs may have taken the other way round. */
static __always_inline __u64 elapsed(__u64 ns)
{
	return (__s64)ns < 0 ? 0 : ns;
}

/* Adds an observation to the histogram whose key has these fields. */
__noinline int histogram_add(__u32 pod, __u32 fields, __u64 ns)
{
	ns = elapsed(ns);
	histogram_put(pod, fields, histogram_cell(ns), 1, ns);
	return 0;
}

#endif
