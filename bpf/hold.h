/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Segments that came before their turn and begin outside a body: kept until the hole before them
 * is filled, since their bytes do not come again. Two CPUs that handle one sender's packets are
 * enough for it: 1.4 to 2.3 % of the skbs of large POSTs arrived out of order on two.
 */
#ifndef WEIR_HOLD_H
#define WEIR_HOLD_H

#include "http1.h"

/* One direction's share. */
#define HOLD_MAX 8
/* A hole that stays so long is not waited for any more (seconds); twice that frees a place. */
#define HOLD_PATIENCE_S 10
/* A jump beyond any receiver's window is no reordering. */
#define HOLD_REACH (1U << 20)

static __always_inline struct held *held_at(__u32 index)
{
	return bpf_map_lookup_elem(&held, &index);
}

/* Looks for a place, and for what the direction holds already. */
static long place_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	struct held *slot = held_at(i);

	if (!slot)
		return 1;
	if (!slot->used) {
		c->search.place = i + 1;
	} else if (slot->conn == c->search.conn && slot->dir == c->search.dir) {
		if (slot->seq == c->search.seq)
			c->search.found = i + 1;
		if (slot->since_ns < c->search.since_ns)
			c->search.since_ns = slot->since_ns;
	}
	return 0;
}

/* Keeps skb[at, at + payload) for its turn. 0: kept; 1: it is there already; -1: it can't be. */
static __always_inline int hold(struct step *s, __u32 dir, __u32 seq, __u32 at, __u32 payload,
				int fin)
{
	struct cursor *c = s->cur;
	struct held *slot;
	__u32 n = payload;

	if (seq - s->half->next > HOLD_REACH || payload > HOLD_BYTES || s->half->held >= HOLD_MAX)
		return -1;
	c->search.conn = s->conn->id;
	c->search.dir = dir;
	c->search.seq = seq;
	c->search.since_ns = c->now;
	c->search.found = 0;
	c->search.place = 0;
	bpf_loop(HOLD_SLOTS, place_step, &c, 0);
	if (c->search.found)
		return 1;
	if (!c->search.place) {
		room_wanted = 1;
		return -1;
	}
	if (c->now - c->search.since_ns > HOLD_PATIENCE_S * SECOND)
		return -1;
	slot = held_at(c->search.place - 1);
	if (!slot || __sync_val_compare_and_swap(&slot->used, 0, 1))
		return -1;
	slot->conn = s->conn->id;
	slot->since_ns = c->now;
	slot->dir = dir;
	slot->seq = seq;
	slot->len = payload;
	slot->fin = fin;
	if (n) {
		asm volatile("" : "+r"(n));
		n = ((n - 1) & (HOLD_BYTES - 1)) + 1;
		if (bpf_skb_load_bytes(s->skb, at, slot->data, n)) {
			slot->used = 0;
			return -1;
		}
	}
	s->half->held++;
	return 0;
}

/* Frees what nobody came back for: its connection ended, or gave up waiting. */
static long stale_step(__u32 i, __u64 *now)
{
	struct held *slot = held_at(i);

	if (!slot)
		return 1;
	if (slot->used && (__s64)(*now - slot->since_ns) > (__s64)(2 * HOLD_PATIENCE_S * SECOND))
		slot->used = 0;
	return 0;
}

static __always_inline void hold_sweep(__u64 now)
{
	bpf_loop(HOLD_SLOTS, stale_step, &now, 0);
}

#endif
