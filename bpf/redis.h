/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Redis (RESP2 and RESP3): one step is one line, with the string that it announces. An array may
 * hold arrays; all that has to be known of them is how many elements still come.
 *
 * A reply answers the oldest request, but for pushes, which answer none, and for the commands from
 * which on the server speaks unasked (SUBSCRIBE, MONITOR, PSYNC): their connection is not read
 * further.
 */
#ifndef WEIR_REDIS_H
#define WEIR_REDIS_H

#include "redis_command.h"

/* More than Redis takes: 2^31 arguments, strings of 512 MB unless configured. */
#define REDIS_NUMBER_MAX (1LL << 40)
#define REDIS_NO_NUMBER (-(1LL << 62))
#define REDIS_DIGITS 14
/* Redis' own limit to a request in one line. */
#define REDIS_INLINE_MAX 65534

enum redis_stage {
	REDIS_LINE = 0,
	REDIS_FIRST, /* the connection's first line is in half.line */
	REDIS_WORD,  /* in an argument that says what is asked: half.remain bytes with their CRLF */
};

/* inflight.version. */
enum redis_answer {
	REDIS_LOST = 0, /* the request found no place */
	REDIS_REPLY,
	REDIS_STREAM, /* of which the first, unless it is an error, is followed by no end of them */
};

/* db_half.flags: the requests' … */
#define REDIS_MUTED 0x01 /* CLIENT REPLY OFF */
#define REDIS_SKIPS 0x02 /* CLIENT REPLY SKIP: the next has no answer */
#define REDIS_STREAMS 0x04
#define REDIS_SETS 0x08 /* CLIENT REPLY, … */
#define REDIS_OFF 0x10
#define REDIS_SKIP 0x20
#define REDIS_ON 0x40
/* … and the responses': in a push or in attributes, which answer nothing. */
#define REDIS_ASIDE 0x01

/* The number in half.line[1, len), which a CR ends; REDIS_NO_NUMBER: there is none. */
__noinline long redis_number(struct half *h, __u32 len)
{
	__u32 i, at = 1;
	__s64 value = 0;
	int negative;

	if (!h)
		return REDIS_NO_NUMBER;
	negative = h->line[1] == '-';
	at += negative;
	for (i = 0; i < REDIS_DIGITS; i++) {
		__u8 byte = h->line[at & (LINE_PREFIX - 1)];

		if (byte == '\r' && i && at + 1 == len)
			return negative ? -value : value;
		if (byte < '0' || byte > '9' || at >= len)
			break;
		value = value * 10 + (byte - '0');
		at++;
	}
	return REDIS_NO_NUMBER;
}

/* The length of the first word of half.line. */
static __always_inline __u32 redis_first_word(const struct half *h, __u32 len)
{
	__u32 n;

	for (n = 0; n <= REDIS_NAME_MAX; n++)
		if (n >= len || h->line[n] <= ' ')
			break;
	return n;
}

static __always_inline void redis_named(struct half *h, __u32 len)
{
	struct db_half *d = &h->db;
	int command = redis_command(h, len);

	d->operation = command;
	d->flags &= REDIS_MUTED | REDIS_SKIPS;
	if (command & REDIS_COMMAND_STREAMS)
		d->flags |= REDIS_STREAMS;
}

/* All of a request's arguments are through. */
static __always_inline int redis_request_end(struct step *s)
{
	struct db_half *d = &s->half->db;
	__u8 f = d->flags;
	int silent = f & (REDIS_MUTED | REDIS_SKIPS);

	/* As networking.c's resetClient() and clientCommand() do it. */
	f &= ~REDIS_SKIPS;
	if (f & REDIS_OFF) {
		f |= REDIS_MUTED;
		silent = 1;
	} else if (f & REDIS_SKIP && !(f & REDIS_MUTED)) {
		f |= REDIS_SKIPS;
		silent = 1;
	} else if (f & REDIS_ON) {
		f &= ~REDIS_MUTED;
		silent = 0;
	}
	d->flags = f & (REDIS_MUTED | REDIS_SKIPS);
	if (!silent)
		exchange_begin(s->conn, d->operation,
			       f & REDIS_STREAMS ? REDIS_STREAM : REDIS_REPLY, 0, s->half->started);
	else if (s->conn->decided)
		db_count(s->conn, d->operation, DB_UNTOLD, NO_DURATION);
	return 0;
}

static __always_inline int redis_argument_end(struct step *s)
{
	struct db_half *d = &s->half->db;

	if (!s->responses)
		d->number++;
	return --d->left ? 0 : redis_request_end(s);
}

/* Behind an array's head or a string: `n` characters come, which may say what is asked. */
static __always_inline int redis_argument(struct step *s, __u64 n)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u8 client = d->operation == DB_CLIENT && d->number <= 2 && n <= 5;

	h->remain = n + 2;
	if (client || (!d->number && n <= REDIS_NAME_MAX))
		d->stage = REDIS_WORD;
	else
		h->state = HALF_SKIP;
	return 0;
}

/* A word that was waited for is in half.line. */
static __always_inline int redis_word(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u32 len = h->remain;
	__u64 w;

	gather(s->cur, h, len);
	if (h->line_len < len)
		return 0;
	h->line_len = 0;
	d->stage = REDIS_LINE;
	len -= 2;
	w = upper_word(word_at(h->line), len);
	if (!d->number)
		redis_named(h, len);
	else if (d->number == 1 && w == word("REPLY", 5))
		d->flags |= REDIS_SETS;
	else if (d->number == 2 && d->flags & REDIS_SETS)
		d->flags |= w == word("OFF", 3)	   ? REDIS_OFF
			    : w == word("SKIP", 4) ? REDIS_SKIP
			    : w == word("ON", 2)   ? REDIS_ON
						   : 0;
	return redis_argument_end(s);
}

/* A request without an array's form: the first word of the line is its command. */
static __always_inline int redis_inline(struct step *s, __u32 len)
{
	struct half *h = s->half;

	redis_named(h, redis_first_word(h, len));
	/* It is not worth to be followed in this form. */
	if (h->db.operation == DB_CLIENT && upper_word(word_at(h->line + 7), 5) == word("REPLY", 5))
		return refuted(s);
	return redis_request_end(s);
}

/* A line of a request is in half.line. */
static __always_inline int redis_request(struct step *s, __u32 len)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__s64 n;

	if (d->left) {
		n = redis_number(h, len);
		if (h->line[0] != '$' || n < 0)
			return refuted(s);
		return redis_argument(s, n);
	}
	if (!len || (len == 1 && h->line[0] == '\r'))
		return 0;
	if (h->line[0] != '*')
		return len > REDIS_INLINE_MAX ? refuted(s) : redis_inline(s, len);
	n = redis_number(h, len);
	if (n == REDIS_NO_NUMBER)
		return refuted(s);
	/* One without arguments has no answer. */
	if (n > 0) {
		d->left = n;
		d->number = 0;
		d->operation = DB_OTHER;
	}
	return 0;
}

static __always_inline int redis_stream_waits(struct conn *conn)
{
	return exchange_waits(conn) && exchange_front(conn).version == REDIS_STREAM;
}

/* The answer to the oldest request is complete. */
static __always_inline int redis_reply_end(struct step *s)
{
	db_answer(s->conn, s->half, s->half->db.outcome, s->cur->now);
	return 0;
}

/* A part of what the server says is complete: of a reply, or of what is beside it. */
static __always_inline int redis_part_end(struct step *s)
{
	struct db_half *d = &s->half->db;

	if (d->left)
		return 0;
	if (!(d->flags & REDIS_ASIDE))
		return redis_reply_end(s);
	d->flags = 0;
	return 0;
}

/* How often the number behind this type counts, as elements or (0) not at all; -1: no type. */
static __always_inline int redis_weight(__u8 type)
{
	switch (type) {
	case '+':
	case '-':
	case ':':
	case '_':
	case '#':
	case ',':
	case '(':
	case '$':
	case '!':
	case '=':
		return 0;
	case '*':
	case '~':
	case '>':
		return 1;
	case '%':
	case '|':
		return 2;
	default:
		return -1;
	}
}

static __always_inline int redis_is_string(__u8 type)
{
	return type == '$' || type == '!' || type == '=';
}

/* The first line of a reply. Returns 1 where nothing more is read. */
static __always_inline int redis_reply_begin(struct step *s, __u8 type)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;

	if (!exchange_waits(s->conn))
		return refuted(s);
	if (!s->conn->decided)
		decide(s->conn, L7_REDIS);
	h->started = s->cur->now;
	d->outcome = type == '-' || type == '!' ? DB_ERROR : DB_OK;
	d->left = 1;
	if (d->outcome == DB_ERROR || !redis_stream_waits(s->conn))
		return 0;
	redis_reply_end(s);
	s->conn->opaque = OPAQUE_PROTOCOL;
	return 1;
}

/* Whether a line ends as it has to; of one that is too long nobody knows. */
static __always_inline int redis_ends(const struct half *h, __u32 len)
{
	return len > LINE_PREFIX || (len > 1 && h->line[(len - 1) & (LINE_PREFIX - 1)] == '\r');
}

/* A line of what the server says is in half.line. */
static __always_inline int redis_response(struct step *s, __u32 len)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u8 type = h->line[0];
	int weight = redis_weight(type), string = redis_is_string(type);
	__s64 n = 0;

	/* What PSYNC begins with need not be a reply. */
	if (!d->left && s->conn->decided && type != '-' && redis_stream_waits(s->conn))
		return redis_reply_begin(s, type);
	if (weight < 0 || !redis_ends(h, len))
		return refuted(s);
	if (weight || string) {
		n = redis_number(h, len);
		if (n < -1 || n > REDIS_NUMBER_MAX || d->left > REDIS_NUMBER_MAX)
			return refuted(s);
	}
	if (!d->left && (type == '>' || type == '|'))
		d->flags = REDIS_ASIDE;
	else if (!d->left && redis_reply_begin(s, type))
		return 1;
	else if (type != '|')
		d->left--;
	if (n > 0)
		d->left += n * weight;
	if (!string || n < 0)
		return redis_part_end(s);
	h->remain = n + 2;
	h->state = HALF_SKIP;
	return 0;
}

/* The first line was read before it could be told what it is. */
static __always_inline int redis_first(struct step *s)
{
	__u32 len = s->half->line_len;

	s->half->line_len = 0;
	s->half->db.stage = REDIS_LINE;
	return redis_request(s, len);
}

static __always_inline int redis_pass(struct step *s)
{
	struct half *h = s->half;

	if (s->cur->at >= s->cur->end && h->remain)
		return 1;
	if (!pass(s))
		return 0;
	h->state = HALF_START;
	return s->responses ? redis_part_end(s) : redis_argument_end(s);
}

static long redis_step(__u32 i, struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;
	__u32 len;

	if (h->state == HALF_SKIP)
		return redis_pass(s);
	if (h->db.stage == REDIS_FIRST)
		return redis_first(s);
	if (c->at >= c->end)
		return 1;
	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	if (h->db.stage == REDIS_WORD)
		return redis_word(s);
	if (!s->responses && !h->db.left && !h->line_len)
		h->started = c->now;
	if (!gather_line(c, h))
		return 0;
	len = h->line_len;
	h->line_len = 0;
	return s->responses ? redis_response(s, len) : redis_request(s, len);
}

/* Whether a client's first line, in cursor.line, may be a command; takes it then. */
static __always_inline int redis_opens(struct step *s, __u32 len)
{
	struct half *h = s->half;

	__builtin_memcpy(h->line, s->cur->line, LINE_PREFIX);
	if (h->line[0] == '*' ? redis_number(h, len) <= 0
			      : redis_command(h, redis_first_word(h, len)) == DB_OTHER)
		return 0;
	__builtin_memset(&h->db, 0, sizeof(h->db));
	h->db.stage = REDIS_FIRST;
	h->line_len = len;
	s->conn->protocol = L7_REDIS;
	return 1;
}

/* Reads what the cursor was set to. */
__noinline int read_redis(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (database_begin(&s, dir))
		return 0;
	if (bpf_loop(STEPS_MAX, redis_step, &s, 0) == STEPS_MAX && s.cur->at < s.cur->end)
		give_up(&s, STAT_GAP_STEPS);
	return 0;
}

#endif
