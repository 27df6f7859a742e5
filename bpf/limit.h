/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The token bucket of a pod's bandwidth limit. Only an interface with a limit has these programs.
 *
 * To the pod it stands before the counting, and drops what the queue behind that (tbf) would have
 * no room for: so what is counted is what the pod gets. From the pod it stands behind the counting,
 * a little above the rate to which the pod's own queue holds it, and matters only where the pod
 * takes that queue away.
 *
 * As time: next_ns is when all that has passed would be through at the rate. A packet passes as
 * long as that is not further ahead than allowed.
 */
#ifndef WEIR_LIMIT_H
#define WEIR_LIMIT_H

#include "cursor.h"

/* Every loss to another CPU means that one passed there. */
#define LIMIT_TRIES 8

static __always_inline int is_over_limit(struct __sk_buff *skb, __u32 direction)
{
	struct limit_key key = {.ifindex = skb->ifindex, .direction = direction};
	struct limit *limit = bpf_map_lookup_elem(&limits, &key);
	__u64 now, takes;
	int i;

	if (!limit || !limit->rate)
		return 0;
	now = bpf_ktime_get_ns();
	/* A packet of many segments with all their headers, as the queue counts it. */
	takes = (__u64)skb->wire_len * 8 * SECOND / limit->rate;
	for (i = 0; i < LIMIT_TRIES; i++) {
		__u64 seen = *(volatile __u64 *)&limit->next_ns;
		__u64 from = seen > now ? seen : now;

		if (from - now > limit->ahead_ns)
			return 1;
		if (__sync_val_compare_and_swap(&limit->next_ns, seen, from + takes) == seen)
			break;
	}
	return 0;
}

#endif
