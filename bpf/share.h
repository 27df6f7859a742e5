/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A pod's share of the tables that all pods fill: as many times what is left as the table has. So
 * whatever a pod does, there is room for the others, and the less of it the more a pod must have
 * already; and while there is plenty, nobody is bounded.
 */
#ifndef WEIR_SHARE_H
#define WEIR_SHARE_H

#include "maps.h"

/* Set by whoever finds a table full; sweep.h answers behind the packet. */
__u32 room_wanted;

/* What a pod has of each table; too large for the stack of a chain of calls. */
const struct share share_zero;

/* How many elements a table has for all. */
static __always_inline __u32 share_size(enum share_table table)
{
	switch (table) {
	case SHARE_CONNS:
		return MAX_CONNS;
	case SHARE_HTTP2:
		return MAX_HTTP2;
	case SHARE_STREAMS:
		return MAX_HTTP2_STREAMS;
	case SHARE_SPILL:
		return MAX_INFLIGHT_SPILL;
	case SHARE_DNS:
		return MAX_DNS_PENDING;
	/* Anybody can send a query in anybody's name. */
	case SHARE_DNS_SERVED:
		return MAX_DNS_PENDING / 2;
	default:
		return MAX_COUNTERS;
	}
}

/*
 * The most that one may have while so many are left. Four times that leaves a fifth to others, so
 * that a gateway may have most of the connections. Counters stay as long as their pod, and an
 * honest pod has some hundred: an eighth of what is left.
 */
static __always_inline __u32 share_most(enum share_table table, __u32 left)
{
	return table == SHARE_COUNTERS ? left / 8 : left * 4;
}

static __always_inline struct share *share_all(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&taken, &first);
}

static __always_inline struct share *share_of(__u32 pod)
{
	return bpf_map_lookup_elem(&shares, &pod);
}

/* A pod's, made when it is first needed; NULL when nobody may have one more. */
static __always_inline struct share *share_begin(__u32 pod)
{
	struct share *own = share_of(pod);

	if (own)
		return own;
	/* EEXIST: another CPU was faster. */
	bpf_map_update_elem(&shares, &pod, &share_zero, BPF_NOEXIST);
	return share_of(pod);
}

/* Takes an element without a look at the share: it was one in an older layout. */
static __always_inline int share_carry(__u32 pod, enum share_table table)
{
	struct share *all = share_all(), *own = share_begin(pod);

	if (!all || !own)
		return -1;
	__sync_fetch_and_add(&all->of[table], 1);
	__sync_fetch_and_add(&own->of[table], 1);
	return 0;
}

/*
 * Takes an element of the pod's share, before it is made; 0 on success. Of CPUs that look at once
 * each may take one. Here: for who is called by so many that one more does not fit, since 6.1 nests
 * 8 calls at most.
 */
static __always_inline int share_take_here(__u32 pod, __u32 table)
{
	struct share *all = share_all(), *own = share_begin(pod);
	__u32 size = share_size(table), taken_by_all;

	if (!all || !own || table >= SHARE_MAX)
		return -1;
	/* Below zero, by two that counted one, is none: it must not look like a full table. */
	taken_by_all = (__s32)all->of[table] < 0 ? 0 : all->of[table];
	if (taken_by_all >= size ||
	    ((__s32)own->of[table] > 0 && own->of[table] >= share_most(table, size - taken_by_all)))
		return -1;
	__sync_fetch_and_add(&all->of[table], 1);
	__sync_fetch_and_add(&own->of[table], 1);
	return 0;
}

/* Gives back what was taken: the element is gone, or was never made. Here: likewise. */
static __always_inline void share_give_here(__u32 pod, __u32 table)
{
	struct share *all = share_all(), *own = share_of(pod);

	if (table >= SHARE_MAX)
		return;
	if (all)
		__sync_fetch_and_add(&all->of[table], -1);
	if (own)
		__sync_fetch_and_add(&own->of[table], -1);
}

/*
 * The same for all others. Global functions, which the verifier looks at once: of each look-up it
 * makes inline code, and moves all that is behind it, so that 600 of them were a third of a load.
 */
__noinline int share_take(__u32 pod, __u32 table)
{
	return share_take_here(pod, table);
}

__noinline int share_give(__u32 pod, __u32 table)
{
	share_give_here(pod, table);
	return 0;
}

/*
 * Takes a query's place. One that the pod is asked is of a smaller table as well: what the pod asks
 * by itself has the rest.
 */
static __always_inline int share_take_dns(__u32 pod, __u8 role)
{
	if (role == ROLE_SERVER && share_take(pod, SHARE_DNS_SERVED))
		return -1;
	if (!share_take(pod, SHARE_DNS))
		return 0;
	if (role == ROLE_SERVER)
		share_give(pod, SHARE_DNS_SERVED);
	return -1;
}

static __always_inline void share_give_dns(__u32 pod, __u8 role)
{
	share_give(pod, SHARE_DNS);
	if (role == ROLE_SERVER)
		share_give(pod, SHARE_DNS_SERVED);
}

/* The share of a pod that nobody knows any more, once it has nothing but its counters: they are
 * gone. */
static __always_inline void share_forget(__u32 pod, struct share *own)
{
	struct share *all = share_all();
	__u32 counters = own->of[SHARE_COUNTERS];

	if (own->of[SHARE_CONNS] || own->of[SHARE_HTTP2] || own->of[SHARE_STREAMS] ||
	    own->of[SHARE_SPILL] || own->of[SHARE_DNS])
		return;
	if (all && !bpf_map_delete_elem(&shares, &pod))
		__sync_fetch_and_add(&all->of[SHARE_COUNTERS], -counters);
}

#endif
