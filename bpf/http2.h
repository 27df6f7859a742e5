/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/2 (RFC 9113): the frames of a direction, one after the other, and the exchange of a stream,
 * which is counted when the server's END_STREAM, or a RST_STREAM, or the end of the connection was
 * seen. Only headers are read; DATA is passed over.
 */
#ifndef WEIR_HTTP2_H
#define WEIR_HTTP2_H

#include "http2_stream.h"

#define FRAME_HEADER 9
#define PREFACE 24

enum frame_type {
	FRAME_DATA = 0,
	FRAME_HEADERS = 1,
	FRAME_RST_STREAM = 3,
	FRAME_SETTINGS = 4,
	FRAME_PUSH_PROMISE = 5,
	FRAME_CONTINUATION = 9,
};

#define FLAG_END_STREAM 0x1
#define FLAG_END_HEADERS 0x4
#define FLAG_PADDED 0x8
#define FLAG_PRIORITY 0x20

static __always_inline void block_end(struct step *s)
{
	struct http2_half *x = s->http2;
	__u8 promise = x->block == FRAME_PUSH_PROMISE;

	x->block = 0;
	if (promise)
		return;
	if (!s->responses) {
		stream_open(s);
		return;
	}
	stream_answer(s);
	if (x->ends)
		stream_end(s, HTTP_ERROR_NONE);
}

/* Behind a frame's payload, padding aside; -1 for a block that ends in mid-field. */
static __always_inline int fragment_end(struct step *s)
{
	struct http2_half *x = s->http2;
	struct half *h = s->half;
	int data = h->state == HALF_DATA;

	h->state = HALF_FRAME;
	if (x->pad) {
		h->state = HALF_SKIP;
		h->remain = x->pad;
		x->pad = 0;
	}
	if (data) {
		if (s->responses && x->flags & FLAG_END_STREAM)
			stream_end(s, HTTP_ERROR_NONE);
		return 0;
	}
	if (!(x->flags & FLAG_END_HEADERS))
		return 0;
	if (x->hpack.stage != HPACK_FIELD || x->hpack.shift)
		return -1;
	block_end(s);
	return 0;
}

/* A frame's payload begins, padding taken off; x->left is its length. */
static __always_inline int fragment_begin(struct step *s)
{
	struct http2_half *x = s->http2;
	struct half *h = s->half;

	if (x->type == FRAME_DATA) {
		h->state = HALF_DATA;
		h->remain = x->left;
	} else {
		if (x->left < x->skip)
			return -1;
		h->state = HALF_BLOCK;
		x->blocks += x->left - x->skip;
	}
	return x->left ? 0 : fragment_end(s);
}

static __always_inline void block_begin(struct step *s, __u8 skip)
{
	struct http2_half *x = s->http2;

	x->block = x->type;
	x->told = 0;
	x->ends = x->flags & FLAG_END_STREAM;
	x->skip = skip;
	x->method = HTTP_METHOD_OTHER;
	x->status = 0;
	x->grpc = 0;
	x->grpc_status = GRPC_STATUS_UNKNOWN;
	x->started = s->cur->now;
}

/* The nine bytes of half.line; -1: they are no frame's that may come here. */
static __always_inline int frame_header(struct step *s)
{
	struct http2_half *x = s->http2;
	struct half *h = s->half;
	__u8 *b = h->line;
	__u32 stream = (b[5] & 0x7f) << 24 | b[6] << 16 | b[7] << 8 | b[8];

	x->left = b[0] << 16 | b[1] << 8 | b[2];
	x->type = b[3];
	x->flags = b[4];
	x->pad = 0;
	if (!x->begun && x->type != FRAME_SETTINGS)
		return -1;
	x->begun = 1;
	/* Before the client's preface a server has nothing to say of a stream (3.4). */
	if (stream && !s->conn->decided)
		return -1;
	/* A block's frames follow each other (6.10). */
	if (!x->block != (x->type != FRAME_CONTINUATION) || (x->block && x->stream != stream))
		return -1;
	x->stream = stream;
	switch (x->type) {
	case FRAME_HEADERS:
		block_begin(s, x->flags & FLAG_PRIORITY ? 5 : 0);
		break;
	case FRAME_PUSH_PROMISE:
		block_begin(s, 4);
		break;
	case FRAME_CONTINUATION:
		x->flags &= ~FLAG_PADDED;
		break;
	case FRAME_DATA:
		break;
	case FRAME_RST_STREAM:
		stream_end(s, s->responses ? HTTP_ERROR_RESET : HTTP_ERROR_CANCELLED);
		/* fall through */
	default:
		h->state = x->left ? HALF_SKIP : HALF_FRAME;
		h->remain = x->left;
		return x->type == FRAME_SETTINGS && x->stream ? -1 : 0;
	}
	if (!x->stream)
		return -1;
	if (x->flags & FLAG_PADDED) {
		h->state = HALF_PAD;
		return x->left ? 0 : -1;
	}
	return fragment_begin(s);
}

static __always_inline int frame_pad(struct step *s)
{
	struct http2_half *x = s->http2;

	x->pad = s->half->line[0];
	x->left--;
	if (x->pad > x->left)
		return -1;
	x->left -= x->pad;
	return fragment_begin(s);
}

static __always_inline int preface(struct step *s)
{
	struct half *h = s->half;

	if (!begins(word_at(h->line), "PRI * HT", 8) ||
	    !begins(word_at(h->line + 8), "TP/2.0\r\n", 8) ||
	    !begins(word_at(h->line + 16), "\r\nSM\r\n\r\n", 8))
		return -1;
	h->state = HALF_FRAME;
	if (!s->conn->decided)
		decide(s->conn, L7_HTTP2);
	return 0;
}

/* Collects the bytes of what is no block, and takes it; -1: it is no HTTP/2. */
static __always_inline int frame_step(struct step *s)
{
	struct half *h = s->half;
	__u8 state = h->state;
	__u32 want = state == HALF_PREFACE ? PREFACE : state == HALF_FRAME ? FRAME_HEADER : 1;

	gather(s->cur, h, want);
	if (h->line_len < want)
		return 0;
	h->line_len = 0;
	if (state == HALF_FRAME)
		return frame_header(s);
	return state == HALF_PREFACE ? preface(s) : frame_pad(s);
}

/* Gives a listener the bytes of a request's block. */
static __always_inline void block_tell(struct step *s)
{
	struct http2_half *x = s->http2;
	struct cursor *c = s->cur;
	__u32 n = c->end - c->at;
	__u8 part = 0;

	if (s->responses || c->at < c->told)
		return;
	if (n > x->left)
		n = x->left;
	if (n > RECORD_DATA)
		n = RECORD_DATA;
	if (n == x->left && x->flags & FLAG_END_HEADERS)
		part |= HEAD_LAST;
	if (!x->told)
		part |= HEAD_FIRST;
	x->told = 1;
	c->told = c->at + n;
	record_head(s->skb, c, s->conn, x->stream, c->at, c->told, part, x->blocks - x->left);
}

static __always_inline int block_step(struct step *s)
{
	struct http2_half *x = s->http2;
	struct cursor *c = s->cur;

	if (!x->skip)
		block_tell(s);

	if (x->skip) {
		__u32 n = c->end - c->at < x->skip ? c->end - c->at : x->skip;

		c->at += n;
		x->skip -= n;
		x->left -= n;
	} else if (!hpack_passes(&x->hpack) && window_over(c) && refill(s->skb, c)) {
		return -1;
	} else if (hpack_step(c, x)) {
		return -1;
	}
	return x->left ? 0 : fragment_end(s);
}

static __always_inline void http2_passed(struct step *s)
{
	if (s->half->state == HALF_DATA)
		fragment_end(s);
	else
		s->half->state = HALF_FRAME;
}

/* The connection ended; the sweep counts what it left open. */
static __always_inline void http2_end(struct conn *conn, __u8 error)
{
	struct http2 *of = http2_of(conn);

	/* What ended it first is how it ended. */
	if (!of || of->ended)
		return;
	/* A full barrier: whoever sees that it ended sees when. */
	__sync_lock_test_and_set(&of->ended_ns, bpf_ktime_get_ns());
	of->ended = 1 + error;
	if (!of->open)
		http2_forget(conn->id, conn->pod);
}

static long http2_step(__u32 i, struct step *s)
{
	struct cursor *c = s->cur;
	int bad = 0;

	if (c->at >= c->end)
		return 1;
	if (s->half->state >= HALF_BODY) {
		if (pass(s))
			http2_passed(s);
		return 0;
	}
	if (s->half->state == HALF_BLOCK)
		bad = block_step(s);
	else if (window_over(c) && refill(s->skb, c))
		bad = -1;
	else
		bad = frame_step(s);
	/* Its state goes with the connection: the other direction may be read in it just now. */
	return bad ? refuted(s) : 0;
}

/* Finds this direction's state; -1: the map is full, and nothing more is parsed. */
static __always_inline int http2_select(struct step *s, __u32 dir)
{
	struct http2 *of = http2_begin(s->conn);

	if (!of) {
		s->conn->opaque = OPAQUE_PROTOCOL;
		return -1;
	}
	s->http2 = &of->half[dir & 1];
	if (s->half->state == HALF_START)
		s->half->state = s->responses ? HALF_FRAME : HALF_PREFACE;
	return 0;
}

#endif
