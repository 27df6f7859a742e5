/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which protocol a connection speaks, by its first bytes and never by its port, and the reading of
 * a stretch of one direction in it. Each reader is a global function: the verifier looks at it
 * once, and its stack is not added to the others'.
 */
#ifndef WEIR_STREAM_H
#define WEIR_STREAM_H

#include "dns_tcp.h"
#include "http1.h"
#include "http2.h"
#include "kafka.h"
#include "mysql.h"
#include "postgresql.h"
#include "tls.h"

/* So many of a server's bytes tell what it is, if it speaks first. */
#define GREETING 5
/* As many records of a ClientHello's bytes in one skb. */
#define HELLO_PIECES 4

/* The server speaks first, or before the request's first line is whole. Returns whether to go on.
 */
static __always_inline int greeting(struct step *s)
{
	struct half *h = s->half;

	gather(s->cur, h, GREETING);
	if (h->line_len < GREETING)
		return 0;
	/* RFC 9113, 3.4: its SETTINGS may come before the client's preface, which decides. */
	if (!h->line[0] && h->line[3] == FRAME_SETTINGS && !h->line[4]) {
		s->conn->protocol = L7_HTTP2;
		return 1;
	}
	if (my_greets(h))
		my_greeted(s);
	else
		decide(s->conn, L7_UNKNOWN);
	return 0;
}

/* A client's first bytes, beginning with 0: PostgreSQL's first message, Kafka's, or neither. */
static __always_inline void database_opens(struct step *s)
{
	struct half *h = s->half;
	__u32 code;

	if (!h->line_len)
		h->started = s->cur->now;
	gather(s->cur, h, 8);
	if (h->line_len < 8)
		return;
	code = be32(h->line + 4);
	if (code >> 16 == 3)
		gather(s->cur, h, 9);
	/* The first parameter behind a version begins with a letter. */
	if (pg_asks(code) || (code >> 16 == 3 && h->line_len > 8 && upper_letter(h->line[8]))) {
		s->conn->protocol = L7_POSTGRESQL;
		pg_first(s, h->line_len);
		h->line_len = 0;
		return;
	}
	gather(s->cur, h, KAFKA_HEAD);
	if (h->line_len == KAFKA_HEAD && kafka_named(h))
		gather(s->cur, h, KAFKA_HEAD + 1);
	if (h->line_len < KAFKA_HEAD + kafka_named(h))
		return;
	if (!kafka_opens(h)) {
		decide(s->conn, L7_UNKNOWN);
		return;
	}
	s->conn->protocol = L7_KAFKA;
	kafka_request(s, h->line_len);
	h->line_len = 0;
}

/* What the first bytes of a connection already exclude. Returns whether to go on. */
static __always_inline int first_bytes(struct step *s)
{
	__u8 first;

	if (refill(s->skb, s->cur))
		return 0;
	if (s->responses)
		return greeting(s);
	if (s->half->lines)
		return 1;
	first = s->half->line_len ? s->half->line[0] : s->cur->window[0];
	if (first == TLS_HANDSHAKE) {
		tls_client(s);
		return s->conn->protocol == L7_TLS;
	}
	if (first < DNS_TCP_LONGEST && dns_port(&s->cur->packet.key)) {
		s->conn->protocol = L7_DNS;
		return 1;
	}
	if (!first) {
		database_opens(s);
		return 0;
	}
	if (s->half->line_len || is_tchar(first) || first == '\r' || first == '\n')
		return 1;
	decide(s->conn, L7_UNKNOWN);
	return 0;
}

/* What is read of: one direction of the connection; -1: nothing is. */
static __always_inline int step_begin(struct step *s, __u32 dir)
{
	if (!s->conn || !s->cur || s->conn->opaque)
		return -1;
	s->half = &s->conn->half[dir & 1];
	s->responses = (dir & 1) != requests_direction(s->conn);
	return 0;
}

__noinline int read_http1(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};
	struct cursor *c = s.cur;
	struct half *h;

	if (step_begin(&s, dir))
		return 0;
	h = s.half;
	c->head = NOWHERE;
	if (!s.responses && (h->line_len || h->state == HALF_HEAD))
		record_head(skb, c, conn, conn->pushed + (h->state == HALF_START), c->at, c->end, 0,
			    h->head_len);
	if (h->line_len)
		__builtin_memcpy(c->line, h->line, LINE_PREFIX);
	if (bpf_loop(STEPS_MAX, http1_step, &s, 0) == STEPS_MAX && c->at < c->end)
		give_up(&s, STAT_GAP_STEPS);
	if (!h->line_len)
		return 0;
	__builtin_memcpy(h->line, c->line, LINE_PREFIX);
	if (!s.responses && conn->protocol <= L7_HTTP1 && h->state == HALF_START &&
	    c->head != NOWHERE)
		record_head(skb, c, conn, conn->pushed + 1, c->head, c->end, HEAD_FIRST, 0);
	return 0;
}

__noinline int read_http2(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (step_begin(&s, dir) || http2_select(&s, dir))
		return 0;
	if (bpf_loop(STEPS_MAX, http2_step, &s, 0) == STEPS_MAX && s.cur->at < s.cur->end)
		give_up(&s, STAT_GAP_STEPS);
	return 0;
}

__noinline int read_tls(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};
	struct cursor *c = s.cur;
	int i;

	if (step_begin(&s, dir))
		return 0;
	/* The ClientHello behind what tls_client() took, until the server answers. */
	for (i = 0; !s.responses && !conn->decided && i < HELLO_PIECES; i++) {
		__u64 before = UNTIL_CLOSE - s.half->remain + i * RECORD_DATA;

		record_head(skb, c, conn, 1, c->at + i * RECORD_DATA, c->end,
			    before ? 0 : HEAD_FIRST, before);
	}
	bpf_loop(STEPS_MAX, tls_step, &s, 0);
	return 0;
}

__noinline int read_dns(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (step_begin(&s, dir))
		return 0;
	if (bpf_loop(STEPS_MAX, dns_step, &s, 0) == STEPS_MAX && s.cur->at < s.cur->end)
		give_up(&s, STAT_GAP_STEPS);
	return 0;
}

/* What never came was inside a stretch that nobody looks at. */
static __always_inline void pass_gap(struct step *s, __u32 dir)
{
	struct half *h = s->half;
	__u32 gap = s->cur->gap;

	h->remain -= gap;
	if (h->state != HALF_TUNNEL && h->state != HALF_SKIP)
		s->cur->body += gap;
	if (h->remain)
		return;
	if (s->conn->protocol == L7_HTTP2 || h->upgrade == UPGRADE_DONE) {
		if (!http2_select(s, dir))
			http2_passed(s);
	} else if (s->conn->protocol == L7_HTTP1) {
		http1_body_end(s);
	} else {
		h->state = h->then;
	}
}

/* Before the bytes that the cursor was set to. Returns whether there is something to read. */
__noinline int stream_begin(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (step_begin(&s, dir))
		return 0;
	if (s.cur->gap)
		pass_gap(&s, dir);
	if (s.cur->at >= s.cur->end)
		return 0;
	return conn->protocol != L7_UNDECIDED || first_bytes(&s);
}

/* Reads what the cursor was set to. */
static __always_inline void read_stream(struct __sk_buff *skb, const struct cursor *c,
					struct conn *conn, __u32 dir)
{
	/* What most segments need not go through. */
	if (conn->opaque ||
	    ((c->gap || conn->protocol == L7_UNDECIDED) && !stream_begin(skb, conn, dir)))
		return;
	if (c->at >= c->end)
		return;
	if (conn->protocol <= L7_HTTP1 && conn->half[dir & 1].upgrade != UPGRADE_DONE)
		read_http1(skb, conn, dir);
	/* The line that begins with PRI made it HTTP/2, or an upgrade. */
	if (conn->protocol == L7_HTTP2 || conn->half[dir & 1].upgrade == UPGRADE_DONE)
		read_http2(skb, conn, dir);
	else if (conn->protocol == L7_TLS)
		read_tls(skb, conn, dir);
	else if (conn->protocol == L7_DNS)
		read_dns(skb, conn, dir);
}

#endif
