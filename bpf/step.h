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

/* Steps per skb; a 64 kB skb of the shortest chunks has 22,000. */
#define STEPS_MAX 32768

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

/* Sets up what reads a database's protocol; -1: nothing is read. */
static __always_inline int database_begin(struct step *s, __u32 dir)
{
	if (!s->conn || !s->cur || s->conn->opaque)
		return -1;
	s->half = &s->conn->half[dir & 1];
	s->responses = (dir & 1) != requests_direction(s->conn);
	/* What never came was inside a stretch that nobody looks at. */
	s->half->remain -= s->cur->gap;
	return 0;
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

/* What one side said is not in the protocol that the first bytes promised. */
static __always_inline int refuted(struct step *s)
{
	if (s->conn->decided)
		return give_up(s, STAT_GAP_MALFORMED);
	decide(s->conn, L7_UNKNOWN);
	return 1;
}

static __always_inline __u16 be16(const __u8 *bytes)
{
	return bytes[0] << 8 | bytes[1];
}

static __always_inline __u32 be32(const __u8 *bytes)
{
	return (__u32)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
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

/* The same; returns whether the token is whole, which the next one takes the place of. */
__noinline int take(struct cursor *c, struct half *h, __u32 want)
{
	__u32 from, i;

	if (!c || !h)
		return 0;
	from = c->at - c->from;
	if (!h->line_len && from + want <= c->filled) {
		/* Always 64 bytes, by words: what is behind the token is read, never meant. */
		for (i = 0; i < LINE_PREFIX / 8; i++)
			*(__u64 *)(h->line + i * 8) =
				word_at(c->window + (from & WINDOW_MASK) + i * 8);
		c->at += want;
		return 1;
	}
	gather(c, h, want);
	if (h->line_len < want)
		return 0;
	h->line_len = 0;
	return 1;
}

/*
 * Collects in half.line what an unfinished line begins with, as far as the window reaches. Returns
 * whether it is whole; half.line_len is its length then, without the newline and saturating.
 */
__noinline int gather_line(struct cursor *c, struct half *h)
{
	__u32 from, to, have, i;
	int newline;

	if (!c || !h)
		return 0;
	from = c->at - c->from;
	newline = find_newline(c, from, c->filled);
	to = newline < 0 ? c->filled : newline;
	have = h->line_len;
	if (!have) {
		/* Always 64 bytes, by words: what is behind the line is read, never meant. */
		for (i = 0; i < LINE_PREFIX / 8; i++)
			*(__u64 *)(h->line + i * 8) =
				word_at(c->window + (from & WINDOW_MASK) + i * 8);
	} else {
		for (i = 0; i < LINE_PREFIX; i++) {
			__u32 at = have + i;

			if (at >= LINE_PREFIX || from + i >= to)
				break;
			/* Else the mask is left out, which the verifier can't follow. */
			asm volatile("" : "+r"(at));
			h->line[at & (LINE_PREFIX - 1)] = c->window[(from + i) & WINDOW_MASK];
		}
	}
	have += to - from;
	h->line_len = have > 0xffff ? 0xffff : have;
	c->at += to - from + (newline >= 0);
	return newline >= 0;
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
