/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Adds the totals of an older layout's maps to those that count by now: user space can't, because
 * an increment that it does not see between its reading and its writing would be lost.
 */
#ifndef WEIR_MERGE_H
#define WEIR_MERGE_H

#include "count.h"

struct merge {
	struct __sk_buff *skb;
	struct merge_entry entry;
};

static __always_inline void merge_traffic(const struct merge_entry *e)
{
	__u32 ifindex = e->pod;
	struct pod_traffic *traffic = bpf_map_lookup_elem(&pods, &ifindex);

	/* The interface's number may have been given to another pod since. */
	if (!traffic || traffic->pod != e->c)
		return;
	traffic_add(traffic, e->fields, e->fields >> 8, e->n, e->sum, 1);
}

static long merge_step(__u32 i, struct merge *m)
{
	struct merge_entry *e = &m->entry;

	if (bpf_skb_load_bytes(m->skb, ETH_HLEN + LAYOUT_LEN + i * sizeof(*e), e, sizeof(*e)))
		return 1;
	switch (e->kind) {
	case MERGE_COUNTER:
		counter_put(e->pod, e->fields, e->c, e->n, 1);
		break;
	case MERGE_HISTOGRAM:
		histogram_put(e->pod, e->fields, e->c, e->n, e->sum);
		break;
	case MERGE_CELLS:
		histogram_put(e->pod, e->fields, e->c, e->n, 0);
		/* Behind the last cell there is none, and nothing to add. */
		if (e->sum)
			histogram_put(e->pod, e->fields, e->c + 1, e->sum, 0);
		break;
	case MERGE_TRAFFIC:
		merge_traffic(e);
		break;
	case MERGE_STAT:
		stat_add(e->c, e->n);
		break;
	}
	return 0;
}

/*
 * The skb is a struct merge_run behind an Ethernet header, as BPF_PROG_TEST_RUN wants one. It is
 * kept in the same run that adds it up: whoever calls may be killed before and after that, but not
 * within, and the next knows what is to be taken out of the older maps and not to be added again.
 */
static __always_inline int merge(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct merge_run *run = bpf_map_lookup_elem(&merged, &zero);
	struct merge m = {.skb = skb};

	if (!run || bpf_skb_load_bytes(skb, ETH_HLEN, run, sizeof(*run)))
		return 1;
	bpf_loop(MERGE_ENTRIES, merge_step, &m, 0);
	return 0;
}

#endif
