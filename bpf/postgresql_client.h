/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* PostgreSQL: what the client says, and what waits for an answer then. */
#ifndef WEIR_POSTGRESQL_CLIENT_H
#define WEIR_POSTGRESQL_CLIENT_H

#include "sql.h"

#define PG_SSL_REQUEST 80877103
#define PG_GSS_REQUEST 80877104
#define PG_CANCEL_REQUEST 80877102
/* The server's own limits to a first message, and to any. */
#define PG_STARTUP_MAX 10000
#define PG_MESSAGE_MAX 0x3fffffff
/* As much as is looked at of a statement. */
#define PG_TEXT 64

enum pg_stage {
	PG_FIRST = 0, /* the client's first message, which has no type, and all that comes before it
		       */
	PG_MESSAGE,
	PG_STATEMENT, /* in a Query or a Parse */
	PG_COMPLETE,  /* in the tag of a CommandComplete */
	PG_DISCARDED, /* to take out what the server discarded up to a Sync */
	PG_COPIED,    /* to take out what it passed over while it waited for data */
};

/* inflight.version; the last three are no requests. */
enum pg_request {
	PG_LOST = 0, /* the request found no place */
	PG_QUERY,
	PG_EXECUTE,
	PG_SYNC = EXCHANGE_ASIDE,
	PG_COPY,    /* the end of a client's data */
	PG_ENCRYPT, /* a request for TLS or GSSAPI */
};

/* db_half.flags: the requests' … */
#define PG_PARSED 0x01 /* a Parse, Bind or the like came since the last Execute or Sync */
#define PG_NAMED 0x02  /* the statement under way has a name before it */
/* … and the responses'. */
#define PG_READY 0x01	 /* the server was ready once */
#define PG_PENDING 0x02	 /* a request is answered and not counted yet */
#define PG_FAILED 0x04	 /* the server discards all up to the next Sync */
#define PG_COPYING 0x08	 /* it waits for data */
#define PG_ANSWERED 0x10 /* a statement of the query under way is answered */

/* Passes over the rest of a message. */
static __always_inline int pg_skip(struct step *s, __u32 n)
{
	struct half *h = s->half;

	h->remain = n;
	h->state = HALF_SKIP;
	if (pass(s))
		h->state = HALF_START;
	return 0;
}

/* Where in half.line[0, len) what follows a name begins. */
__noinline int pg_behind_name(struct half *h, __u32 len)
{
	__u32 i;

	if (!h)
		return 0;
	for (i = 0; i < PG_TEXT; i++)
		if (i >= len || !h->line[i])
			break;
	return i + 1;
}

/* Whether a first message's code is a request instead of a version. */
static __always_inline int pg_asks(__u32 code)
{
	return code == PG_SSL_REQUEST || code == PG_GSS_REQUEST || code == PG_CANCEL_REQUEST;
}

/* The client's first message: half.line has its length and code, `taken` bytes of it in all. */
static __always_inline int pg_first(struct step *s, __u32 taken)
{
	struct half *h = s->half;
	__u32 len = be32(h->line), code = be32(h->line + 4);

	if ((code == PG_SSL_REQUEST || code == PG_GSS_REQUEST) && len == 8) {
		exchange_begin(s->conn, DB_UNKNOWN, PG_ENCRYPT, 0, s->cur->now);
		return 0;
	}
	if (code == PG_CANCEL_REQUEST ? len != 16
				      : code >> 16 != 3 || len <= taken || len > PG_STARTUP_MAX)
		return refuted(s);
	h->db.stage = PG_MESSAGE;
	h->db.operation = DB_UNKNOWN;
	return pg_skip(s, len - taken);
}

static __always_inline void pg_begin(struct step *s, __u8 kind, __u8 operation)
{
	exchange_begin(s->conn, operation, kind, 0, s->half->started);
	s->half->db.flags = 0;
	s->half->db.operation = DB_UNKNOWN;
}

/* A client's message begins: its type and length are in half.line. */
static __always_inline int pg_request(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u32 n = be32(h->line + 1) - 4;

	if (n > PG_MESSAGE_MAX)
		return refuted(s);
	switch (h->line[0]) {
	case 'Q':
	case 'P':
		if (!n)
			return refuted(s);
		d->flags = PG_PARSED | (h->line[0] == 'P' ? PG_NAMED : 0);
		d->stage = PG_STATEMENT;
		h->remain = n;
		return 0;
	case 'B':
	case 'C':
	case 'D':
		d->flags |= PG_PARSED;
		break;
	case 'E':
		pg_begin(s, PG_EXECUTE, d->operation);
		break;
	case 'F':
		pg_begin(s, PG_QUERY, DB_OTHER);
		break;
	case 'S':
		pg_begin(s, PG_SYNC, DB_UNKNOWN);
		break;
	case 'c':
	case 'f':
		exchange_begin(s->conn, DB_UNKNOWN, PG_COPY, 0, h->started);
		break;
	case 'H':
	case 'X':
	case 'd':
	case 'p':
		break;
	default:
		return refuted(s);
	}
	return pg_skip(s, n);
}

/* The start of a statement is in half.line; half.remain is the length of the whole. */
static __always_inline int pg_statement(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u32 want = h->remain < PG_TEXT ? h->remain : PG_TEXT, from = 0;
	__u32 rest = h->remain - want;

	if (!take(s->cur, h, want))
		return 0;
	if (d->flags & PG_NAMED)
		from = pg_behind_name(h, want);
	d->operation = sql_operation(h, from, want, rest > 0);
	d->stage = PG_MESSAGE;
	if (!(d->flags & PG_NAMED))
		pg_begin(s, PG_QUERY, d->operation);
	d->flags &= ~PG_NAMED;
	return pg_skip(s, rest);
}

/* What the client says. */
static __always_inline int pg_client(struct step *s)
{
	struct half *h = s->half;

	switch (h->db.stage) {
	case PG_FIRST:
		return take(s->cur, h, 8) ? pg_first(s, 8) : 0;
	case PG_STATEMENT:
		return pg_statement(s);
	default:
		if (!h->line_len && !(h->db.flags & PG_PARSED))
			h->started = s->cur->now;
		return take(s->cur, h, 5) ? pg_request(s) : 0;
	}
}

#endif
