/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which protocol a connection speaks, by its first bytes and never by its port, and the reading of
 * a stretch of one direction in it.
 */
#ifndef WEIR_STREAM_H
#define WEIR_STREAM_H

#include "dns_tcp.h"
#include "http1.h"
#include "http2.h"
#include "tls.h"

/* Messages and lines per skb; a 64 kB skb of the shortest chunks has 22,000. */
#define STEPS_MAX 32768
/* So many of a server's bytes tell what it is, if it speaks first. */
#define GREETING 5

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
	decide(s->conn, L7_UNKNOWN);
	return 0;
}

/* What the first bytes of a connection already exclude. Returns whether to go on. */
static __always_inline int first_bytes(struct step *s)
{
	__u8 first;

	if (refill(s->skb, s->cur))
		return 0;
	if (s->responses)
		return greeting(s);
	first = s->half->line_len ? s->half->line[0] : s->cur->window[0];
	if (first == TLS_HANDSHAKE) {
		tls_client(s);
		return s->conn->protocol == L7_TLS;
	}
	if (first < DNS_TCP_LONGEST && dns_port(&s->cur->packet.key)) {
		s->conn->protocol = L7_DNS;
		return 1;
	}
	if (s->half->line_len || is_tchar(first) || first == '\r' || first == '\n')
		return 1;
	decide(s->conn, L7_UNKNOWN);
	return 0;
}

static __always_inline void http1_read(struct step *s)
{
	struct cursor *c = s->cur;
	struct half *h = s->half;

	if (h->line_len)
		__builtin_memcpy(c->line, h->line, LINE_PREFIX);
	if (bpf_loop(STEPS_MAX, http1_step, s, 0) == STEPS_MAX && c->at < c->end)
		give_up(s, STAT_GAP_STEPS);
	if (h->line_len)
		__builtin_memcpy(h->line, c->line, LINE_PREFIX);
}

static __always_inline void http2_read(struct step *s, __u32 dir)
{
	if (http2_select(s, dir))
		return;
	if (bpf_loop(STEPS_MAX, http2_step, s, 0) == STEPS_MAX && s->cur->at < s->cur->end)
		give_up(s, STAT_GAP_STEPS);
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
	if (s->conn->protocol == L7_HTTP2) {
		if (!http2_select(s, dir))
			http2_passed(s);
	} else if (s->conn->protocol == L7_HTTP1) {
		http1_body_end(s);
	} else {
		h->state = h->then;
	}
}

/*
 * Reads what the cursor was set to. A global function: the verifier looks at the parsers once, not
 * at every place from which bytes are read.
 */
__noinline int read_stream(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (!conn || !s.cur || conn->opaque)
		return 0;
	s.half = &conn->half[dir & 1];
	s.responses = (dir & 1) != requests_direction(conn);
	if (s.cur->gap)
		pass_gap(&s, dir);
	if (s.cur->at >= s.cur->end)
		return 0;
	if (conn->protocol == L7_UNDECIDED && !first_bytes(&s))
		return 0;
	if (conn->protocol <= L7_HTTP1)
		http1_read(&s);
	if (conn->opaque)
		return 0;
	if (conn->protocol == L7_HTTP2)
		http2_read(&s, dir);
	else if (conn->protocol == L7_TLS)
		bpf_loop(STEPS_MAX, tls_step, &s, 0);
	else if (conn->protocol == L7_DNS)
		bpf_loop(STEPS_MAX, dns_step, &s, 0);
	return 0;
}

#endif
