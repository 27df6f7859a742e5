/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Segments that can't be read yet, since their bytes do not come again: those that begin outside a
 * body and came before their turn, until the hole before them is filled; and those that found their
 * direction owned by another CPU, until that is done. Two CPUs that handle one sender's packets are
 * enough for both: 1.4 to 2.3 % of the skbs of large POSTs arrived out of order on two.
 */
#ifndef WEIR_HOLD_H
#define WEIR_HOLD_H

#include "step.h"

/*
 * One direction's share of the places: what a sender gets out while a CPU stands still. A pod's is
 * as many as are left to all others: one that fills it with holes, half of them, blinds nobody
 * else.
 */
#define HOLD_MAX 32
/* So far apart begin the CPUs to look for a free place. */
#define HOLD_STRIDE 8
/* A longer segment gets a place of its own. */
#define HOLD_APPEND 16384
/* A place with so many bytes takes no more segments. */
#define HOLD_FULL_AT (HOLD_BYTES / 2)
/* A hole that stays so long is not waited for any more (seconds); twice that frees a place. */
#define HOLD_PATIENCE_S 10
/* Places for the bytes of those whose handshake is not through: anybody can send these. */
#define HOLD_EARLY 8
/* A jump beyond any receiver's window is no reordering. */
#define HOLD_REACH (HOLD_MAX * HOLD_BYTES)

static __always_inline struct held *held_at(__u32 index)
{
	return bpf_map_lookup_elem(&held, &index);
}

/*
 * Looks for what the direction holds already, and for what ends where the segment begins; counts
 * what its pod has, and what is left.
 */
static long own_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	struct held *slot = held_at(i);
	__u32 at;

	if (!slot)
		return 1;
	if (slot->state == HELD_FREE) {
		c->search.free++;
		return 0;
	}
	c->search.taken += slot->pod == c->search.pod;
	if (slot->state != HELD_FULL || slot->conn != c->search.conn || slot->dir != c->search.dir)
		return 0;
	at = c->search.seq - slot->seq;
	if (at == slot->len && at)
		c->search.tail = i + 1;
	else if (at <= slot->len && c->search.len <= slot->len - at && slot->fin >= c->search.fin)
		c->search.found = i + 1;
	if (slot->since_ns < c->search.since_ns)
		c->search.since_ns = slot->since_ns;
	return 0;
}

/* Claims the first free place from one on that differs by CPU. */
static long claim_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	__u32 index = (c->search.place + i) % HOLD_SLOTS;
	struct held *slot = held_at(index);

	if (!slot ||
	    __sync_val_compare_and_swap(&slot->state, HELD_FREE, HELD_CLAIMED) != HELD_FREE)
		return 0;
	c->search.found = index + 1;
	return 1;
}

/*
 * Adds skb[at, at + n) to what it goes on from, so that a hole may have more segments behind it
 * than places. The place is claimed meanwhile, since its turn may come on another CPU. 0: it is
 * there now.
 */
static __always_inline int append(struct step *s, __u32 at, __u32 n, int fin)
{
	struct cursor *c = s->cur;
	struct held *slot = held_at(c->search.tail - 1);
	int added = 0;
	__u32 len;

	if (!slot || n > HOLD_APPEND ||
	    __sync_val_compare_and_swap(&slot->state, HELD_FULL, HELD_CLAIMED) != HELD_FULL)
		return -1;
	len = slot->len;
	/* It may be another's by now. */
	if (slot->conn == c->search.conn && slot->dir == c->search.dir &&
	    slot->seq + len == c->search.seq && !slot->fin && len < HOLD_FULL_AT) {
		added = 1;
		if (n) {
			/* As in refill(). */
			asm volatile("" : "+r"(n), "+r"(len));
			n = ((n - 1) & (HOLD_APPEND - 1)) + 1;
			len &= HOLD_FULL_AT - 1;
			added = !bpf_skb_load_bytes(s->skb, at, slot->data + len, n);
		}
		if (added) {
			slot->len = len + n;
			slot->fin = fin;
		}
	}
	__sync_lock_test_and_set(&slot->state, HELD_FULL);
	return added - 1;
}

/* Keeps skb[at, at + payload) for its turn. 0: kept; 1: it is there already; -1: it can't be. */
static __always_inline int hold(struct step *s, __u32 dir, __u32 seq, __u32 at, __u32 payload,
				int fin)
{
	struct cursor *c = s->cur;
	struct held *slot;
	__u32 n = payload;

	/* Less than none: it begins with bytes that are sent again. */
	if ((__s32)(seq - s->half->next) > HOLD_REACH || payload > HOLD_BYTES)
		return -1;
	c->search.conn = s->conn->id;
	c->search.dir = dir;
	c->search.seq = seq;
	c->search.len = payload;
	c->search.fin = fin;
	c->search.tail = 0;
	c->search.pod = s->conn->pod;
	c->search.taken = 0;
	c->search.free = 0;
	c->search.since_ns = c->now;
	c->search.found = 0;
	bpf_loop(HOLD_SLOTS, own_step, &c, 0);
	if (c->search.found)
		return 1;
	if (c->now - c->search.since_ns > HOLD_PATIENCE_S * SECOND)
		return -1;
	if (c->search.tail && !append(s, at, payload, fin)) {
		__sync_fetch_and_add(&s->half->kept, 1);
		return 0;
	}
	if (s->half->held >= HOLD_MAX)
		return -1;
	c->search.place = bpf_get_smp_processor_id() * HOLD_STRIDE;
	if (s->conn->state == TCP_ESTABLISHED ? c->search.taken < c->search.free
					      : c->search.free > HOLD_SLOTS - HOLD_EARLY)
		bpf_loop(HOLD_SLOTS, claim_step, &c, 0);
	if (!c->search.found) {
		room_wanted = 1;
		return -1;
	}
	slot = held_at(c->search.found - 1);
	if (!slot)
		return -1;
	slot->conn = s->conn->id;
	slot->since_ns = c->now;
	slot->pod = s->conn->pod;
	slot->key = c->packet.key;
	slot->dir = dir;
	slot->seq = seq;
	slot->len = payload;
	slot->fin = fin;
	if (n) {
		asm volatile("" : "+r"(n));
		n = ((n - 1) & (HOLD_BYTES - 1)) + 1;
		if (bpf_skb_load_bytes(s->skb, at, slot->data, n)) {
			slot->state = HELD_FREE;
			c->search.found = 0;
			return -1;
		}
	}
	/* Full barriers: whoever sees it full sees what is in it, and whoever sees `held` or `kept`
	 * sees it full. */
	__sync_lock_test_and_set(&slot->state, HELD_FULL);
	__sync_fetch_and_add(&s->half->held, 1);
	__sync_fetch_and_add(&s->half->kept, 1);
	return 0;
}

/* Looks for a held segment whose turn has come. */
static long turn_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	struct held *slot = held_at(i);

	if (!slot)
		return 1;
	if (slot->state != HELD_FULL || slot->conn != c->search.conn ||
	    slot->dir != c->search.dir || (__s32)(c->search.seq - slot->seq) < 0)
		return 0;
	c->search.found = i + 1;
	return 1;
}

/* The number, from 1, of the held segment whose turn it is; 0: none. */
static __always_inline __u32 find_turn(struct cursor *c, const struct conn *conn,
				       const struct half *h, __u32 dir)
{
	c->search.conn = conn->id;
	c->search.dir = dir;
	c->search.seq = h->next;
	c->search.found = 0;
	bpf_loop(HOLD_SLOTS, turn_step, &c, 0);
	return c->search.found;
}

/* What a direction holds at an end. */
#define LEFT_TURN 1   /* a segment that has its turn, or gets it just now */
#define LEFT_UNREAD 2 /* bytes that nobody has read */

static long left_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	struct held *slot = held_at(i);

	if (!slot)
		return 1;
	if (slot->state == HELD_FREE || slot->conn != c->search.conn || slot->dir != c->search.dir)
		return 0;
	if ((__s32)(c->search.seq - slot->seq) >= 0)
		c->search.left |= LEFT_TURN;
	if (slot->state == HELD_FULL && (__s32)(slot->seq + slot->len - c->search.seq) > 0)
		c->search.left |= LEFT_UNREAD;
	return 0;
}

/*
 * Whether bytes of a direction are lost at an end. Where the connection goes on for the other side,
 * what another CPU has handed over just now still gets its turn, and only a hole that nobody filled
 * is in the way; where it is gone, nothing does. Call owning the direction.
 */
static __always_inline int loses(struct cursor *c, const struct conn *conn, __u32 dir, int gone)
{
	const struct half *h = &conn->half[dir];

	if (!h->held)
		return 0;
	c->search.conn = conn->id;
	c->search.dir = dir;
	c->search.seq = h->next;
	c->search.left = 0;
	bpf_loop(HOLD_SLOTS, left_step, &c, 0);
	return gone ? c->search.left & LEFT_UNREAD : !(c->search.left & LEFT_TURN);
}

static long drop_step(__u32 i, __u64 *conn)
{
	struct held *slot = held_at(i);

	if (!slot)
		return 1;
	if (slot->conn == *conn)
		__sync_val_compare_and_swap(&slot->state, HELD_FULL, HELD_FREE);
	return 0;
}

/* Frees the places of a connection that ends. Call owning both directions. */
__noinline int hold_drop(__u64 conn)
{
	bpf_loop(HOLD_SLOTS, drop_step, &conn, 0);
	return 0;
}

#endif
