/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/1.0 and 1.1 (RFC 9112) as a byte stream: one step is one line or one stretch of body, so a
 * message may begin and end anywhere in a segment and a segment may hold any number of them. Of a
 * line only its first 64 and last 8 characters are kept; of a body, nothing is read.
 */
#ifndef WEIR_HTTP1_H
#define WEIR_HTTP1_H

#include "http1_line.h"
#include "http2_stream.h"
#include "redis.h"
#include "step.h"

/* Eight times what most servers accept; a head beyond it is not followed. */
#define HEAD_MAX 65536
/* So long may a first line be that has not shown yet what it is. */
#define UNDECIDED_MAX 8192

/* What ends with the last byte of a message. */
static __always_inline void message_end(struct step *s)
{
	struct half *h = s->half;

	if (s->responses) {
		exchange_end(s->conn, h, s->cur->now, HTTP_ERROR_NONE);
		h->status = 0;
	}
	h->state = HALF_START;
	h->head_len = 0;
	h->chunked = 0;
	h->has_length = 0;
	h->remain = 0;
}

/* What HTTP/2's preface begins with (RFC 9113, 3.4), taken for a request line. */
static __always_inline int is_preface(const struct step *s)
{
	return begins(word_at(s->cur->line), "PRI * HT", 8) &&
	       s->half->tail == __builtin_bswap64(word("HTTP/2.0", 8));
}

/* Behind that line: the rest of the preface is "\r\nSM\r\n\r\n". */
static __always_inline int preface_line(struct half *h)
{
	h->state = HALF_SKIP;
	h->remain = 8;
	return 1;
}

/* The client's side of an upgrade, once the server has agreed; what it says is a request else. */
static __always_inline int upgraded(struct step *s)
{
	struct conn *conn = s->conn;
	const struct half *responses = &conn->half[!requests_direction(conn)];

	if (!is_preface(s) || *(volatile __u8 *)&responses->upgrade != UPGRADE_DONE)
		return 0;
	s->half->upgrade = UPGRADE_DONE;
	conn->protocol = L7_HTTP2;
	return 1;
}

static __always_inline int request_line(struct step *s, __u32 len)
{
	struct half *h = s->half;
	int method = request_method(s->cur, len);
	__u8 version;

	/* `tail` has its last character lowest. */
	if (h->tail == __builtin_bswap64(word("HTTP/1.1", 8)))
		version = HTTP_VERSION_1_1;
	else if (h->tail == __builtin_bswap64(word("HTTP/1.0", 8)))
		version = HTTP_VERSION_1_0;
	else
		version = HTTP_VERSION_NONE;
	/* Another CPU may just have seen an HTTP/2 server's greeting: the client's word decides. */
	if (!s->conn->decided) {
		if (method >= 0 && version) {
			decide(s->conn, L7_HTTP1);
		} else {
			int http2 = is_preface(s);

			if (!http2 && redis_opens(s, len))
				return 1;
			decide(s->conn, http2 ? L7_HTTP2 : L7_UNKNOWN);
			return http2 ? preface_line(h) : 1;
		}
	}
	if (method < 0 || !version)
		return upgraded(s) ? preface_line(h) : give_up(s, STAT_GAP_MALFORMED);
	if (s->cur->head != NOWHERE)
		record_head(s->skb, s->cur, s->conn, s->conn->pushed + 1, s->cur->head, s->cur->end,
			    HEAD_FIRST, 0);
	exchange_begin(s->conn, method, version, 0, h->started);
	h->method = method;
	h->state = HALF_HEAD;
	return 0;
}

static __always_inline int status_line(struct step *s, __u32 len)
{
	int status = response_status(s->cur, len);

	if (status < 0)
		return give_up(s, STAT_GAP_MALFORMED);
	s->half->status = status;
	s->half->state = HALF_HEAD;
	return 0;
}

static __always_inline int header_line(struct step *s, __u32 len)
{
	struct half *h = s->half;
	__u64 first = word_at(s->cur->line) | LOWERCASE;
	__u64 second = word_at(s->cur->line + 8) | LOWERCASE;

	if (h->status == 101) {
		/* Another protocol is nobody's here. */
		if (begins(first, "upgrade:", 8) &&
		    (__u32)(h->tail | LOWERCASE) == __builtin_bswap64(word(":h2c", 4)) >> 32)
			h->upgrade = UPGRADE_TOLD;
	} else if (first == word("content-", 8) && begins(second, "length:", 7)) {
		long length = -1;

		if (s->cur->line[15] == ' ' && len < LINE_PREFIX)
			length = short_number(s->cur, 16, len);
		if (length < 0)
			length = line_number(s->cur, 15, len, 10);
		/* RFC 9112, 6.3: repeats must agree. */
		if (length < 0 || (h->has_length && !h->chunked && h->remain != (__u64)length))
			return give_up(s, STAT_GAP_MALFORMED);
		h->has_length = 1;
		h->remain = length;
	} else if (first == word("transfer", 8) && second == word("-encodin", 8) &&
		   (s->cur->line[16] | 0x20) == 'g' && s->cur->line[17] == ':') {
		__u64 last = (h->tail | LOWERCASE) & ((1ULL << 56) - 1);

		/* Only the final coding frames the body. */
		h->chunked = last == __builtin_bswap64(word("chunked", 7)) >> 8;
	}
	return 0;
}

/* Behind a response's empty line: what kind of body follows (RFC 9112, 6.3)? */
static __always_inline int response_head_end(struct step *s)
{
	struct half *h = s->half;
	__u8 method = HTTP_METHOD_OTHER;

	if (h->status < 200 && h->status != 101) {
		/* An interim response: the request goes on waiting. */
		h->status = 0;
		h->state = HALF_START;
		h->chunked = 0;
		h->has_length = 0;
		h->remain = 0;
		h->head_len = 0;
		return 0;
	}
	if (h->upgrade == UPGRADE_TOLD && !stream_upgrade(s->conn)) {
		/* Not the end of the exchange: its response comes on stream 1. */
		h->upgrade = UPGRADE_DONE;
		h->status = 0;
		h->state = HALF_FRAME;
		return 1;
	}
	if (exchange_waits(s->conn))
		method = exchange_front(s->conn).method;
	if (h->status == 101 || (method == HTTP_METHOD_CONNECT && h->status < 300)) {
		message_end(s);
		s->conn->opaque = OPAQUE_PROTOCOL;
		return 1;
	}
	if (method == HTTP_METHOD_HEAD || h->status == 204 || h->status == 304) {
		message_end(s);
	} else if (h->chunked) {
		h->state = HALF_CHUNK_SIZE;
	} else if (!h->has_length) {
		h->state = HALF_BODY;
		h->remain = UNTIL_CLOSE;
	} else if (h->remain) {
		h->state = HALF_BODY;
	} else {
		message_end(s);
	}
	return 0;
}

static __always_inline int head_end(struct step *s)
{
	struct half *h = s->half;

	if (s->responses)
		return response_head_end(s);
	if (h->method == HTTP_METHOD_CONNECT) {
		/* RFC 9110, 9.3.6: what follows is the tunnel's, if the response opens one. */
		h->state = HALF_TUNNEL;
		h->remain = UNTIL_CLOSE;
		h->head_len = 0;
	} else if (h->chunked)
		h->state = HALF_CHUNK_SIZE;
	else if (h->has_length && h->remain)
		h->state = HALF_BODY;
	else
		message_end(s);
	return 0;
}

static __always_inline int chunk_size_line(struct step *s, __u32 len)
{
	long size = line_number(s->cur, 0, len, 16);

	if (size < 0)
		return give_up(s, STAT_GAP_MALFORMED);
	s->half->remain = size;
	s->half->state = size ? HALF_CHUNK_DATA : HALF_TRAILER;
	return 0;
}

/* A whole line of `len` characters without its newline; cur->line holds its start. */
static __always_inline int line_end(struct step *s, __u32 len)
{
	struct half *h = s->half;
	int empty = !len || (len == 1 && s->cur->line[0] == '\r');

	switch (h->state) {
	case HALF_START:
		/* RFC 9112, 2.2: an empty line before a message is ignored. */
		if (empty) {
			h->lines = 1;
			h->head_len = 0;
			return 0;
		}
		return s->responses ? status_line(s, len) : request_line(s, len);
	case HALF_HEAD:
		return empty ? head_end(s) : header_line(s, len);
	case HALF_CHUNK_SIZE:
		h->head_len = 0;
		return chunk_size_line(s, len);
	case HALF_CHUNK_END:
		if (!empty)
			return give_up(s, STAT_GAP_MALFORMED);
		h->state = HALF_CHUNK_SIZE;
		return 0;
	default:
		if (empty)
			message_end(s);
		return 0;
	}
}

/* Keeps what the segment has of a line that it does not end. */
static __always_inline void keep_line(struct step *s, __u32 from, __u32 to)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;
	__u32 n = to - from, have = h->line_len, i;

	h->tail = line_tail(c, from, to, h->tail);
	if (have < LINE_PREFIX) {
		/* Always 64 bytes, by words: what follows in the line overwrites the surplus. */
		for (i = 0; i < LINE_PREFIX / 8; i++)
			*(__u64 *)(c->line + (have & (LINE_PREFIX - 1)) + i * 8) =
				word_at(c->window + (from & WINDOW_MASK) + i * 8);
	}
	n += h->line_len;
	h->line_len = n > 0xffff ? 0xffff : n;
}

static __always_inline void copy_line(struct cursor *c, __u32 from)
{
	int i;

	for (i = 0; i < LINE_PREFIX / 8; i++)
		*(__u64 *)(c->line + i * 8) = word_at(c->window + (from & WINDOW_MASK) + i * 8);
}

/*
 * Whether anybody asks how the line in cursor.line ends: a version, the last of the codings, the
 * protocol of an upgrade.
 */
static __always_inline int tail_matters(const struct step *s)
{
	__u8 first = s->cur->line[0] | 0x20;

	if (s->half->state == HALF_START)
		return !s->responses;
	return s->half->state == HALF_HEAD && (first == 't' || first == 'u');
}

/* The bytes that were announced are through. */
static __always_inline void http1_body_end(struct step *s)
{
	if (s->half->state == HALF_CHUNK_DATA)
		s->half->state = HALF_CHUNK_END;
	else
		message_end(s);
}

static __always_inline int body_step(struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;

	if (h->state == HALF_TUNNEL) {
		if (exchange_waits(s->conn)) {
			c->at = c->end;
			return 1;
		}
		/* Refused: the next bytes are a request again. */
		message_end(s);
		return 0;
	}
	if (pass(s))
		http1_body_end(s);
	return 0;
}

static __always_inline int line_step(struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;
	__u32 from, len;
	int newline, bare = 0;

	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	from = c->at - c->from;
	if (h->state == HALF_HEAD && !h->line_len && h->status != 101) {
		__u32 start = skip_plain_lines(c, from, c->filled);

		if (start > from && start <= WINDOW) {
			h->head_len += start - from;
			c->at += start - from;
			from = start;
			if (from >= c->filled)
				return 0;
		}
		bare = from + 2 <= c->filled &&
		       *(__u16 *)(c->window + (from & WINDOW_MASK)) == ('\n' << 8 | '\r');
	}
	if (h->state == HALF_START && !h->line_len) {
		h->started = c->now;
		c->head = c->at;
	}
	newline = bare ? (int)from + 1 : find_newline(c, from, c->filled);
	if (newline < 0) {
		/* The window may begin too early to show the whole line: look again from its start.
		 */
		if (from && c->from + c->filled < c->end) {
			c->filled = 0;
			return 0;
		}
		len = c->filled - from;
		keep_line(s, from, c->filled);
	} else {
		len = newline - from + 1;
		if (h->line_len) {
			keep_line(s, from, newline);
		} else {
			if (bare)
				c->line[0] = '\r';
			else
				copy_line(c, from);
			if (tail_matters(s))
				h->tail = line_tail(c, from, newline, 0);
			h->line_len = newline - from;
		}
	}
	c->at += len;
	h->head_len += len;
	if (h->head_len > HEAD_MAX)
		return give_up(s, STAT_GAP_MALFORMED);
	if (s->conn->protocol == L7_UNDECIDED && h->line_len > UNDECIDED_MAX) {
		decide(s->conn, L7_UNKNOWN);
		return 1;
	}
	if (newline < 0)
		return 0;
	len = h->line_len;
	h->line_len = 0;
	newline = line_end(s, len);
	h->tail = 0;
	return newline;
}

static long http1_step(__u32 i, struct step *s)
{
	if (s->cur->at >= s->cur->end)
		return 1;
	if (s->half->state >= HALF_BODY)
		return body_step(s);
	return line_step(s);
}

#endif
