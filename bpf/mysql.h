/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * MySQL's and MariaDB's protocol (MySQL's source documentation, "Client/Server Protocol"; MariaDB's
 * for what is its own): one step is one packet. The server speaks first. A request is a command,
 * whose operation is its first word if it is a text; of an answer is read what tells where it ends.
 */
#ifndef WEIR_MYSQL_H
#define WEIR_MYSQL_H

#include "mysql_client.h"

/* So many bytes of a greeting tell that it is one: a header and the protocol's version. */
#define MY_GREETED 5
#define MY_GREETING_MAX 1024
/* Behind its version's end: up to the last of the capabilities. */
#define MY_OFFERED 31
/* As much as is looked at of a packet: an OK up to its status. */
#define MY_HEAD 21
/* An EOF is shorter; a row that begins with the same byte is not. */
#define MY_EOF_MAX 9

#define MY_OK 0x00
#define MY_LOCAL_FILE 0xfb
#define MY_EOF 0xfe
#define MY_ERR 0xff
#define MY_ERR_PROGRESS 0xffff

#define MY_MORE_RESULTS 0x0008
#define MY_CURSOR_EXISTS 0x0040

/* Whether half.line begins as a server's greeting: its number is 0, the protocol's version 10. */
static __always_inline int my_greets(const struct half *h)
{
	__u32 n = le32(h->line);

	return n > MY_OFFERED && n < MY_GREETING_MAX && h->line[4] == 10;
}

/* Goes on behind that. */
static __always_inline void my_greeted(struct step *s)
{
	struct half *h = s->half;

	__builtin_memset(&h->db, 0, sizeof(h->db));
	h->remain = le32(h->line) - 1;
	h->line_len = 0;
	s->conn->protocol = L7_MYSQL;
}

/* The server's version, and its capabilities behind it. */
static __always_inline int my_greeting(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;

	if (d->stage == MY_GREETING) {
		if (!take(s->cur, h, 1))
			return 0;
		if (!h->line[0])
			d->stage = MY_OFFER;
		return --h->remain < MY_OFFERED ? refuted(s) : 0;
	}
	if (!take(s->cur, h, MY_OFFERED))
		return 0;
	d->number = h->line[13] | h->line[14] << 8 | h->line[18] << 16 | (__u32)h->line[19] << 24;
	if (!(d->number & MY_CLIENT_MYSQL))
		d->flags = my_mariadb(le32(h->line + 27));
	d->stage = MY_PACKET;
	return my_skip(s, h->remain - MY_OFFERED);
}

/* The length of a length-encoded integer by its first byte. */
static __always_inline __u32 my_integer_length(__u8 first)
{
	return first < 0xfb ? 1 : first == 0xfc ? 3 : first == 0xfd ? 4 : 9;
}

/* The status in an OK or, if it is short, an EOF in half.line. */
static __always_inline __u16 my_status(const struct half *h, int eof)
{
	__u32 at = 3;

	if (!eof) {
		at = 1 + my_integer_length(h->line[1]);
		at += my_integer_length(h->line[at & 31]);
	}
	asm volatile("" : "+r"(at));
	return h->line[at & 31] | h->line[(at + 1) & 31] << 8;
}

/* The answer to the oldest command is complete. */
static __always_inline int my_end(struct step *s, __u8 outcome)
{
	s->half->db.stage = MY_PACKET;
	if (exchange_waits(s->conn) && exchange_front(s->conn).version == MY_HANDSHAKE)
		exchange_pop(s->conn);
	else
		db_answer(s->conn, s->half, outcome, s->cur->now);
	return 0;
}

/* One of its results is. */
static __always_inline int my_result_end(struct step *s, __u16 status)
{
	if (!(status & MY_MORE_RESULTS))
		return my_end(s, DB_OK);
	s->half->db.stage = MY_PACKET;
	return 0;
}

/* Definitions come, if any. */
static __always_inline void my_define(struct step *s, __u32 n, int told, const struct db_half *can)
{
	struct db_half *d = &s->half->db;
	int ends = !(can->number & MY_CLIENT_DEPRECATE_EOF);

	d->left = told ? n : 0;
	d->stage = d->left ? MY_DEFINITIONS : ends ? MY_DEFINED : MY_ROWS;
}

/* The first packet of a result, of `n` bytes. */
static __always_inline int my_result(struct step *s, __u32 n, const struct db_half *can)
{
	struct half *h = s->half;
	__u8 *b = h->line;
	__u32 columns = b[0], size = my_integer_length(b[0]);
	int flagged = can->number & MY_CLIENT_OPTIONAL_METADATA || can->flags & MY_CACHE;

	if (b[0] == MY_OK)
		return my_result_end(s, my_status(h, 0));
	if (b[0] == MY_LOCAL_FILE) {
		h->db.stage = MY_FILE;
		return 0;
	}
	if (size > 3 || n < size)
		return refuted(s);
	if (size == 3)
		columns = b[1] | b[2] << 8;
	my_define(s, columns, !flagged || n <= size || b[size], can);
	return 0;
}

/* The description of a prepared statement: how many packets go on with it. */
static __always_inline int my_prepared(struct step *s, __u32 n, const struct db_half *can)
{
	struct half *h = s->half;
	__u8 *b = h->line;
	__u32 columns = b[5] | b[6] << 8, parameters = b[7] | b[8] << 8;

	h->db.left = columns + parameters;
	if (can->number & MY_CLIENT_OPTIONAL_METADATA && n > 12 && !b[12])
		h->db.left = 0;
	else if (!(can->number & MY_CLIENT_DEPRECATE_EOF))
		h->db.left += !!columns + !!parameters;
	h->db.stage = MY_PREPARED;
	return h->db.left ? 0 : my_end(s, DB_OK);
}

/* The first packet of an answer is in half.line, `n` bytes in all. */
static __always_inline int my_first(struct step *s, __u32 n, const struct db_half *can)
{
	struct half *h = s->half;
	__u8 type = h->line[0], kind;

	if (!exchange_waits(s->conn)) /* Of the connection: it ends. */
		return type == MY_ERR ? 0 : refuted(s);
	kind = exchange_front(s->conn).version;
	if (kind == MY_STREAM) {
		my_end(s, DB_UNTOLD);
		s->conn->opaque = OPAQUE_PROTOCOL;
		return 1;
	}
	if (type == MY_ERR)
		return my_end(s, DB_ERROR);
	switch (kind) {
	case MY_RESULT:
		return my_result(s, n, can);
	case MY_PREPARE:
		return my_prepared(s, n, can);
	case MY_HANDSHAKE:
	case MY_LOGIN:
		return type == MY_OK ? my_end(s, DB_OK) : 0;
	case MY_DONE:
		return my_end(s, DB_OK);
	default:
		return refuted(s);
	}
}

/* The head of a packet is in half.line; half.remain is the length of the whole. */
static __always_inline int my_packet(struct step *s, const struct db_half *can)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u32 n = h->remain;
	int eof = n < MY_EOF_MAX;

	if (h->line[0] == MY_ERR && n > 2 && can->flags & MY_PROGRESS &&
	    (h->line[1] | h->line[2] << 8) == MY_ERR_PROGRESS)
		return 0;
	switch (d->stage) {
	case MY_DEFINED:
		if (h->line[0] == MY_ERR)
			return my_end(s, DB_ERROR);
		if (h->line[0] != MY_EOF || !eof)
			return refuted(s);
		d->stage = MY_ROWS;
		/* The rows are asked for later. */
		return my_status(h, 1) & MY_CURSOR_EXISTS ? my_end(s, DB_OK) : 0;
	case MY_ROWS:
		if (h->line[0] == MY_ERR)
			return my_end(s, DB_ERROR);
		return my_result_end(s, my_status(h, eof));
	default:
		return my_first(s, n, can);
	}
}

/* Whether a packet that begins so ends rows, or may do so: only an OK in an EOF's place is longer.
 */
static __always_inline int my_ends_rows(__u8 first, __u32 n, const struct db_half *can)
{
	if (first == MY_EOF)
		return can->number & MY_CLIENT_DEPRECATE_EOF ? n < MY_LONGEST : n < MY_EOF_MAX;
	return first == MY_ERR;
}

/* A header is in half.line: what of its packet is to be looked at? */
static __always_inline int my_header(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	int n = my_length(h);

	if (n < 0)
		return my_skip(s, h->remain);
	switch (d->stage) {
	case MY_DEFINITIONS:
		if (!--d->left)
			d->stage = my_other(s)->db.number & MY_CLIENT_DEPRECATE_EOF ? MY_ROWS
										    : MY_DEFINED;
		return my_skip(s, n);
	case MY_PREPARED:
		if (!--d->left)
			my_end(s, DB_OK);
		return my_skip(s, n);
	case MY_PACKET:
		if (exchange_waits(s->conn) && exchange_front(s->conn).version == MY_LIST)
			d->stage = MY_ROWS;
		break;
	default:
		break;
	}
	d->flags |= MY_INSIDE;
	/* Nothing that the server says is empty; what a login method says may be. */
	return n ? 0 : my_skip(s, 0);
}

/* What the server says. */
static __always_inline int my_server(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	struct cursor *c = s->cur;
	const struct db_half *can = &my_other(s)->db;
	__u32 want;

	if (d->stage < MY_PACKET)
		return my_greeting(s);
	if (!(d->flags & MY_INSIDE))
		return take(c, h, MY_HEADER) ? my_header(s) : 0;
	if (d->stage == MY_ROWS && !h->line_len &&
	    !my_ends_rows(c->window[(c->at - c->from) & WINDOW_MASK], h->remain, can))
		return my_skip(s, h->remain);
	want = h->remain < MY_HEAD ? h->remain : MY_HEAD;
	if (!take(c, h, want))
		return 0;
	return my_packet(s, can) ?: my_skip(s, h->remain - want);
}

static long my_step(__u32 i, struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;

	if (c->at >= c->end && (h->state != HALF_SKIP || h->remain))
		return 1;
	if (h->state == HALF_SKIP)
		return my_skip(s, h->remain);
	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	return s->responses ? my_server(s) : my_client(s);
}

/* Reads what the cursor was set to. */
__noinline int read_mysql(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (database_begin(&s, dir))
		return 0;
	if (bpf_loop(STEPS_MAX, my_step, &s, 0) == STEPS_MAX && s.cur->at < s.cur->end)
		give_up(&s, STAT_GAP_STEPS);
	return 0;
}

#endif
