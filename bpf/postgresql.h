/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * PostgreSQL's protocol 3 (PostgreSQL's manual, "Frontend/Backend Protocol"): one step is one
 * message. A request is what the server tells the end of: a statement of a simple query, or one
 * Execute of the extended protocol; its operation is the server's own word for it.
 *
 * It is complete when the server is ready again, since a statement that the next Sync commits takes
 * until then and can still fail; a further statement before that ends it as well. Therefore the
 * last one is kept until the next message tells.
 */
#ifndef WEIR_POSTGRESQL_H
#define WEIR_POSTGRESQL_H

#include "postgresql_client.h"

/* As much as is looked at of the tag of a statement's end. */
#define PG_TAG 24

/* Counts the request that was kept. */
static __always_inline void pg_flush(struct conn *conn, struct half *h, __u64 end)
{
	struct db_half *d = &h->db;

	if (!(d->flags & PG_PENDING))
		return;
	d->flags &= ~PG_PENDING;
	db_count(conn, d->operation, d->outcome, end - h->started);
}

/* A request is answered: keeps it. `left` is when that was. */
static __always_inline void pg_answer(struct step *s, __u8 operation, __u8 outcome, __u64 started)
{
	struct db_half *d = &s->half->db;

	pg_flush(s->conn, s->half, d->left);
	s->half->started = started;
	d->operation = operation;
	d->outcome = outcome;
	d->left = s->cur->now;
	d->flags |= PG_PENDING;
}

/* Takes out the end of a copy, which no answer of its own has. */
static __always_inline void pg_pass_copy(struct conn *conn)
{
	if (exchange_waits(conn) && exchange_front(conn).version == PG_COPY)
		exchange_pop(conn);
}

/* A statement or an Execute ended so. Without an operation it is what the client's text said. */
static __always_inline int pg_end(struct step *s, int operation, __u8 outcome)
{
	struct db_half *d = &s->half->db;
	struct inflight front;
	__u64 started;

	pg_pass_copy(s->conn);
	if (!exchange_waits(s->conn))
		return refuted(s);
	front = exchange_front(s->conn);
	started = front.started;
	if (front.version == PG_EXECUTE) {
		exchange_pop(s->conn);
		if (d->flags & PG_COPYING)
			d->stage = PG_COPIED;
	} else if (front.version != PG_QUERY) {
		return refuted(s);
	} else if (d->flags & PG_ANSWERED) {
		/* A further statement of the same text. */
		started = d->left;
		front.method = DB_UNKNOWN;
	} else {
		d->flags |= PG_ANSWERED;
	}
	d->flags &= ~PG_COPYING;
	pg_answer(s, operation < 0 ? front.method : operation, outcome, started);
	return 0;
}

static __always_inline int pg_error(struct step *s)
{
	struct db_half *d = &s->half->db;
	struct inflight front;

	pg_pass_copy(s->conn);
	/* Of the connection and not of a request, or a further one. */
	if (!exchange_waits(s->conn) || d->flags & PG_FAILED)
		return 0;
	front = exchange_front(s->conn);
	if (front.version == PG_QUERY)
		return pg_end(s, -1, DB_ERROR);
	d->flags |= PG_FAILED;
	if (front.version != PG_SYNC)
		return pg_end(s, -1, DB_ERROR);
	/* What the Sync was to commit, or a Parse that nothing was executed of. */
	if (d->flags & PG_PENDING)
		d->outcome = DB_ERROR;
	else
		pg_answer(s, DB_UNKNOWN, DB_ERROR, front.started);
	return 0;
}

/* The server waits for a request. */
static __always_inline void pg_ready(struct step *s)
{
	struct db_half *d = &s->half->db;

	pg_flush(s->conn, s->half, s->cur->now);
	if (d->flags & PG_READY)
		d->stage = PG_DISCARDED;
	d->flags |= PG_READY;
}

/* Takes out one of what waits, up to what the server's being ready answers. */
static __always_inline int pg_discard(struct step *s)
{
	struct db_half *d = &s->half->db;
	struct inflight front;

	if (!exchange_waits(s->conn))
		return refuted(s);
	front = exchange_front(s->conn);
	exchange_pop(s->conn);
	if (front.version == PG_COPY)
		return 0;
	if (front.version == PG_SYNC || (front.version == PG_QUERY && !(d->flags & PG_FAILED))) {
		if (front.version == PG_QUERY && !(d->flags & PG_ANSWERED))
			db_count(s->conn, front.method, DB_UNTOLD, s->cur->now - front.started);
		d->flags = PG_READY;
		d->stage = PG_MESSAGE;
		return 0;
	}
	if (!(d->flags & PG_FAILED))
		return refuted(s);
	db_count(s->conn, front.method, DB_ERROR, s->cur->now - front.started);
	return 0;
}

/*
 * Takes out one of what waits behind a COPY: while it waits for data the server passes over every
 * Sync that came with the Execute.
 */
static __always_inline int pg_copied(struct step *s)
{
	__u8 kind = exchange_waits(s->conn) ? exchange_front(s->conn).version : PG_LOST;

	if (kind == PG_SYNC || kind == PG_COPY)
		exchange_pop(s->conn);
	if (kind != PG_SYNC)
		s->half->db.stage = PG_MESSAGE;
	return 0;
}

/* The tag of a CommandComplete is in half.line; half.remain is its length. */
static __always_inline int pg_complete(struct step *s)
{
	struct half *h = s->half;
	__u32 want = h->remain < PG_TAG ? h->remain : PG_TAG;
	__u32 rest = h->remain - want;

	if (!take(s->cur, h, want))
		return 0;
	h->db.stage = PG_MESSAGE;
	return pg_end(s, sql_operation(h, 0, want, rest > 0), DB_OK) ?: pg_skip(s, rest);
}

/*
 * Whether a server may begin so: with a small number, or with an error, whose first field is its
 * severity.
 */
static __always_inline int pg_opens(__u8 type, __u8 first, __u32 n)
{
	if (n < 4 || n > PG_STARTUP_MAX)
		return 0;
	return type == 'E' ? first == 'S' : (type == 'R' || type == 'v') && !first;
}

/* A server's message begins: its type and length are in half.line, and of the first a byte more. */
static __always_inline int pg_response(struct step *s)
{
	struct half *h = s->half;
	__u8 type = h->line[0];
	__u32 n = be32(h->line + 1) - 4;
	int end = 0;

	if (n > PG_MESSAGE_MAX)
		return refuted(s);
	if (!s->conn->decided) {
		if (!pg_opens(type, h->line[5], n))
			return refuted(s);
		decide(s->conn, L7_POSTGRESQL);
		n--;
	}
	switch (type) {
	case 'D':
	case 'd':
		break;
	case 'C':
		h->remain = n;
		h->db.stage = PG_COMPLETE;
		return n ? 0 : refuted(s);
	case 'I':
		end = pg_end(s, DB_EMPTY, DB_OK);
		break;
	case 's':
	case 'V':
		end = pg_end(s, -1, DB_OK);
		break;
	case 'E':
		end = pg_error(s);
		break;
	case 'G':
		h->db.flags |= PG_COPYING;
		break;
	case 'Z':
		pg_ready(s);
		break;
	case '1':
	case '2':
	case '3':
	case 'A':
	case 'H':
	case 'K':
	case 'N':
	case 'R':
	case 'S':
	case 'T':
	case 'W':
	case 'c':
	case 'n':
	case 't':
	case 'v':
		break;
	default:
		return refuted(s);
	}
	return end ?: pg_skip(s, n);
}

/* The server's answer to a request for encryption is one byte. */
static __always_inline int pg_encrypts(struct step *s)
{
	struct half *h = s->half;

	if (!exchange_waits(s->conn) || exchange_front(s->conn).version != PG_ENCRYPT) {
		h->db.stage = PG_MESSAGE;
		return 0;
	}
	if (!take(s->cur, h, 1))
		return 0;
	exchange_pop(s->conn);
	switch (h->line[0]) {
	case 'N':
		return 0;
	case 'E':
		h->line_len = 1;
		h->db.stage = PG_MESSAGE;
		return 0;
	case 'S':
		/* A connection of its own, whose client begins. */
		if (s->cur->at < s->cur->end)
			return refuted(s);
		s->conn->protocol = L7_UNDECIDED;
		return 1;
	case 'G':
		decide(s->conn, L7_POSTGRESQL);
		s->conn->opaque = OPAQUE_PROTOCOL;
		return 1;
	default:
		return refuted(s);
	}
}

/* What the server says. */
static __always_inline int pg_server(struct step *s)
{
	struct half *h = s->half;

	switch (h->db.stage) {
	case PG_FIRST:
		return pg_encrypts(s);
	case PG_COMPLETE:
		return pg_complete(s);
	default:
		return take(s->cur, h, s->conn->decided ? 5 : 6) ? pg_response(s) : 0;
	}
}

static long pg_step(__u32 i, struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;

	if (h->state != HALF_SKIP && h->db.stage == PG_DISCARDED)
		return pg_discard(s);
	if (h->state != HALF_SKIP && h->db.stage == PG_COPIED)
		return pg_copied(s);
	if (c->at >= c->end && (h->state != HALF_SKIP || h->remain))
		return 1;
	if (h->state == HALF_SKIP)
		return pg_skip(s, h->remain);
	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	return s->responses ? pg_server(s) : pg_client(s);
}

/* The connection ended: the request that was kept ended with its answer. */
static __always_inline void pg_close(struct conn *conn, struct half *responses)
{
	__u8 answered = responses->db.flags & PG_ANSWERED;

	pg_flush(conn, responses, responses->db.left);
	responses->db.flags = 0;
	if (answered && exchange_waits(conn) && exchange_front(conn).version == PG_QUERY)
		exchange_pop(conn);
}

/* Reads what the cursor was set to. */
__noinline int read_postgresql(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (database_begin(&s, dir))
		return 0;
	if (bpf_loop(STEPS_MAX, pg_step, &s, 0) == STEPS_MAX && s.cur->at < s.cur->end)
		give_up(&s, STAT_GAP_STEPS);
	return 0;
}

#endif
