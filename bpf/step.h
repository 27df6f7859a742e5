/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a protocol's parser works on: one direction of a connection and the new bytes of a segment.
 * A parser is a bpf_loop callback that takes one step: a line, a frame's header, a header field, a
 * stretch of body. It keeps its state in the connection, so that a message may begin and end
 * anywhere in a segment and a segment may hold any number of them.
 */
#ifndef WEIR_STEP_H
#define WEIR_STEP_H

#include "exchange.h"

/* conn.opaque: nothing more is parsed, because … */
enum opaque {
	OPAQUE_NOT = 0,
	OPAQUE_PROTOCOL, /* it is no protocol we know, or an upgrade or a tunnel */
	OPAQUE_GAP,	 /* the thread was lost */
};

struct http2_half;

struct step {
	struct __sk_buff *skb;
	struct conn *conn;
	struct half *half;
	struct cursor *cur;
	int responses;		  /* this direction carries them */
	struct http2_half *http2; /* this direction's, if the connection has it */
};

/* The direction of the side that opened the connection: it carries the requests. */
static __always_inline __u32 requests_direction(const struct conn *conn)
{
	return conn->role == ROLE_CLIENT ? DIRECTION_TX : DIRECTION_RX;
}

static __always_inline int give_up(struct step *s, __u32 reason)
{
	s->conn->opaque = OPAQUE_GAP;
	stat_add(reason, 1);
	return 1;
}

static __always_inline void decide(struct conn *conn, __u8 protocol)
{
	conn->protocol = protocol;
	conn->decided = 1;
	if (protocol == L7_UNKNOWN)
		conn->opaque = OPAQUE_PROTOCOL;
	role_count(conn, COUNTER_L7_CONNECTIONS, protocol, 1);
}

/* Whether the window has no byte at the cursor. */
static __always_inline int window_over(const struct cursor *c)
{
	return c->at < c->from || c->at >= c->from + c->filled;
}

/* Collects in half.line what a token still lacks of `want` bytes, as far as the window reaches. */
__noinline int gather(struct cursor *c, struct half *h, __u32 want)
{
	__u32 i;

	if (!c || !h)
		return 0;
	for (i = 0; i < LINE_PREFIX; i++) {
		if (h->line_len >= want || c->at - c->from >= c->filled)
			break;
		h->line[h->line_len & (LINE_PREFIX - 1)] =
			c->window[(c->at - c->from) & WINDOW_MASK];
		h->line_len++;
		c->at++;
	}
	return 0;
}

/* Passes over bytes that are announced and never looked at; 1 when they are through. */
static __always_inline int pass(struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;
	__u64 n = c->end - c->at;

	if (n > h->remain)
		n = h->remain;
	c->at += n;
	if (h->state != HALF_SKIP)
		c->body += n;
	h->remain -= n;
	return !h->remain;
}

#endif
