/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Live records: put together in the cursor, and sent only while somebody listens. */
#ifndef WEIR_RECORD_H
#define WEIR_RECORD_H

#include "cursor.h"

/* No offset. */
#define NOWHERE 0xffffffff

static __always_inline int listening(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&listeners, &zero);

	return until && *until && *until > bpf_ktime_get_coarse_ns();
}

/* A record with what is known of the packet at hand. */
static __always_inline struct record *record_begin(struct cursor *c, __u8 kind)
{
	struct record *r = &c->record;
	const struct conn_key *key = &c->packet.key;

	__builtin_memset(r, 0, sizeof(*r));
	r->kind = kind;
	r->at_ns = bpf_ktime_get_ns();
	if (c->whole) {
		r->family = key->family;
		r->pod_port = bpf_ntohs(key->pod_port);
		r->peer_port = bpf_ntohs(key->peer_port);
		__builtin_memcpy(r->peer_addr, key->peer_addr, sizeof(r->peer_addr));
	}
	return r;
}

/* A record of an exchange that ended, for its protocol to go on with; NULL never happens. */
static __always_inline struct record *record_ended(__u64 conn, __u32 pod, __u8 role, __u8 protocol,
						   __u64 ns)
{
	struct cursor *c = cursor();
	struct record *r;

	if (!c)
		return NULL;
	r = record_begin(c, RECORD_EXCHANGE);
	r->duration_ns = elapsed(ns);
	r->conn = conn;
	r->pod = pod;
	r->role = role;
	r->protocol = protocol;
	return r;
}

/* Sends the cursor's record. */
__noinline int record_send(void)
{
	struct cursor *c = cursor();
	struct record *to;

	if (!c)
		return 0;
	to = bpf_ringbuf_reserve(&records, sizeof(*to), 0);
	if (!to) {
		stat_put(STAT_FULL_RECORDS, 1);
		return 0;
	}
	*to = c->record;
	bpf_ringbuf_submit(to, BPF_RB_NO_WAKEUP);
	return 0;
}

/*
 * An exchange is a tenth of a head's piece, and what it says nobody else does: heads leave it an
 * eighth of the ring, or who is told too much would be told of heads alone.
 */
static __always_inline int has_room_for_heads(void)
{
	return bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) < RECORDS_BYTES / 8 * 7;
}

/* Sends the cursor's record with `n` bytes from an offset of the skb, or else from the window. */
__noinline int record_send_bytes(struct __sk_buff *skb, __u32 at, __u32 n)
{
	struct cursor *c = cursor();
	struct record_data *to = NULL;
	int is_head;
	__u32 i;

	if (!c || !n)
		return 0;
	is_head = c->record.kind == RECORD_HEAD;
	if (!is_head || has_room_for_heads())
		to = bpf_ringbuf_reserve(&records, sizeof(*to), 0);
	if (!to) {
		/* Exchanges that are missed are told by number; a head's piece is part of one. */
		stat_put(is_head ? STAT_FULL_HEADS : STAT_FULL_RECORDS, 1);
		return 0;
	}
	if (n > RECORD_DATA)
		n = RECORD_DATA;
	to->record = c->record;
	to->record.len = n;
	if (at == NOWHERE) {
		for (i = 0; i < WINDOW / 8; i++)
			*(__u64 *)(to->data + i * 8) = word_at(c->window + i * 8);
	} else {
		asm volatile("" : "+r"(n));
		n = ((n - 1) & (RECORD_DATA - 1)) + 1;
		if (bpf_skb_load_bytes(skb, at, to->data, n))
			to->record.len = 0;
	}
	bpf_ringbuf_submit(to, BPF_RB_NO_WAKEUP);
	return 0;
}

/*
 * Gives a listener the head's bytes from `at` on, up to `end`; what a held segment has is not told,
 * so that its request has no path in the record.
 */
static __always_inline void record_head(struct __sk_buff *skb, struct cursor *c,
					const struct conn *conn, __u32 number, __u32 at, __u32 end,
					__u8 part, __u64 before)
{
	struct record *r;

	if (c->source || at >= end || !listening())
		return;
	r = record_begin(c, RECORD_HEAD);
	r->conn = conn->id;
	r->pod = conn->pod;
	r->role = conn->role;
	r->protocol = conn->protocol;
	r->number = number;
	r->code = part;
	if (conn->protocol == L7_TLS)
		r->status = conn->half[requests_direction(conn)].status;
	r->duration_ns = before;
	record_send_bytes(skb, at, end - at);
}

#endif
