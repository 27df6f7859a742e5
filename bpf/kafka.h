/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kafka (kafka.apache.org/protocol): every message is behind its length, a response repeats the
 * correlation id of its request, and a broker answers a connection's requests in their order. The
 * operation is the request's API key. How it went is told where it has one error code at a fixed
 * place, and unknown where each of its topics and partitions has its own.
 */
#ifndef WEIR_KAFKA_H
#define WEIR_KAFKA_H

#include "step.h"

/* Length, key, version, correlation id, and the length of the client's name. */
#define KAFKA_HEAD 14
/* Of that, what the length counts. */
#define KAFKA_COUNTED 10
/* Length and correlation id. */
#define KAFKA_ANSWER 8
/* A broker takes 100 MB unless configured. */
#define KAFKA_LONGEST (1U << 30)
#define KAFKA_FIRST_LONGEST (1U << 20)
#define KAFKA_KEY_MAX 127
#define KAFKA_VERSION_MAX 63
#define KAFKA_PRODUCE 0
#define KAFKA_API_VERSIONS 18

enum kafka_stage {
	KAFKA_MESSAGE = 0,
	KAFKA_CLIENT,	   /* behind a client's name, … */
	KAFKA_TRANSACTION, /* … before the name of a transaction, … */
	KAFKA_COMPACT,	   /* … or that in its newer form behind tagged fields, … */
	KAFKA_ACKS,	   /* … before what says whether the request has an answer at all */
	KAFKA_ERROR,	   /* before a response's error code */
	KAFKA_BODY,
};

/* db_half.number is a request's correlation id and of a response the place of its error code,
 * db_half.flags a request's version. */

/* inflight.version: where the error code of the response is. */
enum kafka_answer {
	KAFKA_LOST = 0, /* the request found no place */
	KAFKA_UNTOLD,
	KAFKA_TOLD, /* at this many bytes more */
};

static __always_inline __u8 kafka_operation(__u16 key)
{
	switch (key) {
	case 0:
		return DB_PRODUCE;
	case 1:
		return DB_KAFKA_FETCH;
	case 2:
		return DB_LIST_OFFSETS;
	case 3:
		return DB_METADATA;
	case 8:
		return DB_OFFSET_COMMIT;
	case 9:
		return DB_OFFSET_FETCH;
	case 10:
		return DB_FIND_COORDINATOR;
	case 11:
		return DB_JOIN_GROUP;
	case 12:
		return DB_HEARTBEAT;
	case 13:
		return DB_LEAVE_GROUP;
	case 14:
		return DB_SYNC_GROUP;
	case 15:
		return DB_DESCRIBE_GROUPS;
	case 16:
		return DB_LIST_GROUPS;
	case 17:
		return DB_SASL_HANDSHAKE;
	case 18:
		return DB_API_VERSIONS;
	case 19:
		return DB_CREATE_TOPICS;
	case 20:
		return DB_DELETE_TOPICS;
	case 22:
		return DB_INIT_PRODUCER_ID;
	case 24:
		return DB_ADD_PARTITIONS_TO_TXN;
	case 25:
		return DB_ADD_OFFSETS_TO_TXN;
	case 26:
		return DB_END_TXN;
	case 28:
		return DB_TXN_OFFSET_COMMIT;
	case 32:
		return DB_DESCRIBE_CONFIGS;
	case 36:
		return DB_SASL_AUTHENTICATE;
	case 68:
		return DB_CONSUMER_GROUP_HEARTBEAT;
	default:
		return DB_OTHER;
	}
}

/* The error code's place from the versions that put a throttle time and tagged fields before it. */
static __always_inline __u8 kafka_behind(__u16 version, __u16 throttled, __u16 flexible)
{
	return KAFKA_TOLD + (version >= throttled ? 4 : 0) + (version >= flexible ? 1 : 0);
}

/* Where the response to a request has its one error code: enum kafka_answer. */
static __always_inline __u8 kafka_error_place(__u16 key, __u16 version)
{
	const __u16 never = 0xffff;

	switch (key) {
	case 10: /* FindCoordinator; of several in one from version 4 on */
		return version < 4 ? kafka_behind(version, 1, 3) : KAFKA_UNTOLD;
	case 11: /* JoinGroup */
		return kafka_behind(version, 2, 6);
	case 12: /* Heartbeat */
	case 13: /* LeaveGroup */
	case 14: /* SyncGroup */
		return kafka_behind(version, 1, 4);
	case 16: /* ListGroups */
		return kafka_behind(version, 1, 3);
	case 17: /* SaslHandshake */
	case KAFKA_API_VERSIONS:
		return kafka_behind(version, never, never);
	case 22: /* InitProducerId */
		return kafka_behind(version, 0, 2);
	case 25: /* AddOffsetsToTxn */
	case 26: /* EndTxn */
		return kafka_behind(version, 0, 3);
	case 36: /* SaslAuthenticate */
		return kafka_behind(version, never, 2);
	case 68: /* ConsumerGroupHeartbeat */
		return kafka_behind(version, 0, 0);
	default:
		return KAFKA_UNTOLD;
	}
}

/* What is kept of a correlation id: ids count up, and those of others differ in either half. */
static __always_inline __u16 kafka_tag(__u32 id)
{
	return id ^ id >> 16;
}

/* Passes over `n` bytes of the message, of which db_half.left are left; `then` is behind them. */
static __always_inline int kafka_skip(struct step *s, __u32 n, __u8 then)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;

	if (n > d->left)
		return refuted(s);
	d->left -= n;
	d->stage = then;
	h->remain = n;
	h->state = HALF_SKIP;
	return 0;
}

/* A request is whole, as far as it is looked at: whether it waits for an answer is known. */
static __always_inline int kafka_begin(struct step *s, int answered, __u8 place)
{
	struct db_half *d = &s->half->db;

	if (answered)
		exchange_begin(s->conn, d->operation, place, kafka_tag(d->number),
			       s->half->started);
	else if (s->conn->decided)
		db_count(s->conn, d->operation, DB_UNTOLD, NO_DURATION);
	return kafka_skip(s, d->left, KAFKA_MESSAGE);
}

/* The head of a request is in half.line, `taken` bytes of it. */
static __always_inline int kafka_request(struct step *s, __u32 taken)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u8 *b = h->line;
	__u32 length = be32(b), name = be16(b + 12);
	__u16 key = be16(b + 4), version = be16(b + 6);

	if (length < KAFKA_COUNTED || length > KAFKA_LONGEST || key > KAFKA_KEY_MAX ||
	    version > KAFKA_VERSION_MAX || length + 4 < taken)
		return refuted(s);
	d->left = length + 4 - taken;
	d->number = be32(b + 8);
	d->operation = kafka_operation(key);
	d->flags = version;
	if (key != KAFKA_PRODUCE)
		return kafka_begin(s, 1, kafka_error_place(key, version));
	/* -1: it has no name. */
	name = name == 0xffff ? 0 : name;
	if (name < taken - KAFKA_HEAD)
		return refuted(s);
	return kafka_skip(s, name - (taken - KAFKA_HEAD), KAFKA_CLIENT);
}

/* What the head of a Produce goes on with. */
static __always_inline int kafka_produce(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u16 n;

	if (d->left < 2)
		return refuted(s);
	if (!take(s->cur, h, 2))
		return 0;
	d->left -= 2;
	n = be16(h->line);
	switch (d->stage) {
	case KAFKA_TRANSACTION:
		return kafka_skip(s, n == 0xffff ? 0 : n, KAFKA_ACKS);
	case KAFKA_COMPACT:
		/* No tagged fields, as nobody has any, and a name's length in one byte. */
		if (h->line[0] || h->line[1] & 0x80)
			return refuted(s);
		return kafka_skip(s, h->line[1] ? h->line[1] - 1 : 0, KAFKA_ACKS);
	default:
		return kafka_begin(s, n != 0, KAFKA_UNTOLD);
	}
}

/* What the client says. */
static __always_inline int kafka_client(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;

	if (d->stage == KAFKA_CLIENT)
		d->stage = d->flags < 3	  ? KAFKA_ACKS
			   : d->flags < 9 ? KAFKA_TRANSACTION
					  : KAFKA_COMPACT;
	if (d->stage != KAFKA_MESSAGE)
		return kafka_produce(s);
	if (!h->line_len)
		h->started = s->cur->now;
	return take(s->cur, h, KAFKA_HEAD) ? kafka_request(s, KAFKA_HEAD) : 0;
}

/* A response begins: its length and correlation id are in half.line. */
static __always_inline int kafka_response(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u32 length = be32(h->line), id = be32(h->line + 4);
	struct inflight front;

	if (length < 4 || length > KAFKA_LONGEST || !exchange_waits(s->conn))
		return refuted(s);
	front = exchange_front(s->conn);
	if (front.version == KAFKA_LOST || front.tag != kafka_tag(id))
		return refuted(s);
	if (!s->conn->decided)
		decide(s->conn, L7_KAFKA);
	h->started = s->cur->now;
	d->left = length - 4;
	d->outcome = DB_UNTOLD;
	d->number = front.version - KAFKA_TOLD;
	if (front.version < KAFKA_TOLD || d->left < d->number + 2)
		return kafka_skip(s, d->left, KAFKA_BODY);
	d->stage = KAFKA_ERROR;
	return 0;
}

/* A response's error code, `number` bytes behind its head. */
static __always_inline int kafka_error(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	__u32 at = d->number & 7;

	if (!take(s->cur, h, at + 2))
		return 0;
	d->left -= at + 2;
	/* Tagged fields would come before. */
	if (!(at & 1) || !h->line[0])
		d->outcome = h->line[at] | h->line[at + 1] ? DB_ERROR : DB_OK;
	return kafka_skip(s, d->left, KAFKA_BODY);
}

/* What the server says. */
static __always_inline int kafka_server(struct step *s)
{
	if (s->half->db.stage == KAFKA_ERROR)
		return kafka_error(s);
	return take(s->cur, s->half, KAFKA_ANSWER) ? kafka_response(s) : 0;
}

static long kafka_step(__u32 i, struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;

	if (c->at >= c->end && (h->state != HALF_SKIP || h->remain))
		return 1;
	if (h->state == HALF_SKIP) {
		if (!pass(s))
			return 0;
		h->state = HALF_START;
		if (h->db.stage == KAFKA_BODY) {
			h->db.stage = KAFKA_MESSAGE;
			db_answer(s->conn, h, h->db.outcome, c->now);
		}
		return 0;
	}
	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	return s->responses ? kafka_server(s) : kafka_client(s);
}

/* Whether the head of a request in half.line is followed by a client's name. */
static __always_inline int kafka_named(const struct half *h)
{
	__u16 name = be16(h->line + 12);

	return name && name != 0xffff;
}

/*
 * Whether a client's first bytes, of which half.line has the head of a request, are one that a
 * client begins with: it has a name, which begins in print, or none, or asks for the versions.
 */
static __always_inline int kafka_opens(const struct half *h)
{
	const __u8 *b = h->line;
	__u16 key = be16(b + 4), name = be16(b + 12);
	__u32 length = be32(b);

	if (length < KAFKA_COUNTED || length > KAFKA_FIRST_LONGEST || key > KAFKA_KEY_MAX ||
	    be16(b + 6) > KAFKA_VERSION_MAX)
		return 0;
	if (!kafka_named(h))
		return name || key == KAFKA_API_VERSIONS;
	return name <= 255 && name <= length - KAFKA_COUNTED && b[14] > ' ' && b[14] < 0x7f;
}

/* Reads what the cursor was set to. */
__noinline int read_kafka(struct __sk_buff *skb, struct conn *conn, __u32 dir)
{
	struct step s = {.skb = skb, .conn = conn, .cur = cursor()};

	if (database_begin(&s, dir))
		return 0;
	if (bpf_loop(STEPS_MAX, kafka_step, &s, 0) == STEPS_MAX && s.cur->at < s.cur->end)
		give_up(&s, STAT_GAP_STEPS);
	return 0;
}

#endif
