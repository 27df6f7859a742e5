/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * After the segment that filled a hole, or on behalf of a CPU that found the direction owned: reads
 * on in what is held. It is a second walk
 * behind the packet's own, because of 6.1's 512 bytes of stack for a chain of calls.
 */
#ifndef WEIR_RESUME_H
#define WEIR_RESUME_H

#include "tcp.h"

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

static long resume_step(__u32 i, struct step *s)
{
	struct cursor *c = s->cur;
	struct half *h = s->half;
	struct held *slot;
	__u32 seen;

	c->search.seq = h->next;
	c->search.found = 0;
	bpf_loop(HOLD_SLOTS, turn_step, &c, 0);
	if (!c->search.found)
		return 1;
	slot = held_at(c->search.found - 1);
	if (!slot)
		return 1;
	seen = h->next - slot->seq;
	if (seen < slot->len) {
		h->next = slot->seq + slot->len;
		if (!s->conn->opaque)
			read_bytes(s, c->search.found, seen, slot->len);
	}
	if (slot->fin && !h->fin && h->next == slot->seq + slot->len) {
		h->fin = 1;
		h->next++;
		s->ended = 1;
	}
	slot->state = HELD_FREE;
	__sync_fetch_and_add(&h->held, -1);
	return 0;
}

/*
 * The packet is still the cursor's: its connection is the one to go on with. Returns whether to
 * come again, because another CPU may have left a segment while the direction was owned here.
 */
__noinline int resume(struct __sk_buff *skb, __u32 dir)
{
	struct cursor *c = cursor();
	struct step s = {.skb = skb, .cur = c};
	const struct conn_key *key;
	struct conn *conn;
	__u32 before;

	dir &= 1;
	if (!c)
		return 0;
	key = &c->packet.key;
	conn = bpf_map_lookup_elem(&conns, key);
	/* Whoever owns the direction now will look at what is held when it is done. */
	if (!conn || half_try(&conn->half[dir]))
		return 0;
	s.conn = conn;
	s.half = &conn->half[dir];
	before = s.half->held;
	if (conn->check == key_check(key)) {
		s.responses = dir != requests_direction(conn);
		c->search.conn = conn->id;
		c->search.dir = dir;
		c->body = 0;
		bpf_loop(HOLD_MAX, resume_step, &s, 0);
		count_body(&s);
	}
	half_release(s.half);
	if (s.ended)
		tcp_fin(key, conn, dir);
	return before != *(volatile __u32 *)&s.half->held;
}

#endif
