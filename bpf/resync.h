/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way back after a gap, for the protocols that keep nothing from one exchange to the next: a
 * pooled connection may live for days. It is taken up with a segment of the client's that begins as
 * only a request does, at a moment when both have all that the other said and the server has
 * answered since. What waited is counted as what a gap leaves at a connection's end.
 */
#ifndef WEIR_RESYNC_H
#define WEIR_RESYNC_H

#include "tcp.h"

/* So long may the name of a request's first header line be to be known as such. */
#define HEADER_NAME_MAX 64

/* Whether a header line begins at window[at], or the head ends there. */
static __always_inline int is_header(const struct cursor *c, __u32 at)
{
	__u32 i;

	for (i = 0; i < HEADER_NAME_MAX; i++) {
		__u8 byte = c->window[(at + i) & WINDOW_MASK];

		if (at + i >= c->filled)
			return 0;
		if (!is_tchar(byte))
			return i ? byte == ':' : byte == '\r' || byte == '\n';
	}
	return 0;
}

/* A request line, and behind it what a head goes on with. */
static __always_inline int http1_restarts(struct cursor *c)
{
	int end = find_newline(c, 0, c->filled);
	__u64 tail;

	if (end < 0 || known_method(word_at(c->window)) == HTTP_METHOD_OTHER)
		return 0;
	tail = line_tail(c, 0, end, 0);
	return (tail == __builtin_bswap64(word("HTTP/1.1", 8)) ||
		tail == __builtin_bswap64(word("HTTP/1.0", 8))) &&
	       is_header(c, end + 1);
}

/* An array of at most 99 strings. */
static __always_inline int redis_restarts(const struct cursor *c)
{
	const __u8 *b = c->window;
	__u64 then = b[2] == '\r' ? word_at(b + 2) : word_at(b + 3);

	return b[0] == '*' && b[1] >= '1' && b[1] <= '9' &&
	       (b[2] == '\r' || (b[2] >= '0' && b[2] <= '9')) && begins(then, "\r\n$", 3);
}

static __always_inline int pg_is_request(__u8 type)
{
	return type == 'Q' || type == 'P' || type == 'B';
}

/* A whole message, and behind it nothing or another; of a Query the text ends with it. */
static __always_inline int pg_restarts(struct __sk_buff *skb, const struct cursor *c)
{
	__u32 n = be32(c->window + 1), payload = c->end - c->at;
	__u8 around[2] = {};

	if (!pg_is_request(c->window[0]) || n < 5 || n >= payload)
		return 0;
	if (bpf_skb_load_bytes(skb, c->at + n, around, n + 1 < payload ? 2 : 1))
		return 0;
	if (c->window[0] == 'Q')
		return n + 1 == payload && !around[0];
	return around[1] == 'B' || around[1] == 'D' || around[1] == 'E' || around[1] == 'S' ||
	       around[1] == 'H';
}

/*
 * One command that is the whole of the segment, of those that a client can't do without. A file
 * that is loaded into a table has such packets too: their number is 0 again after 256.
 */
static __always_inline int my_restarts(const struct cursor *c, const struct half *requests)
{
	const __u8 *command = c->window + MY_HEADER;
	__u32 n = le32(c->window), text = 1;

	/* With a number of 0 the head is a length. */
	if (n != c->end - c->at - MY_HEADER)
		return 0;
	switch (command[0]) {
	case 0x0e: /* COM_PING */
	case 0x1f: /* COM_RESET_CONNECTION */
		return n == 1;
	case 0x17: /* COM_STMT_EXECUTE, once */
		return n >= 10 && le32(command + 6) == 1;
	case 0x03: /* COM_QUERY */
		/* One set of no attributes, or of some, which come before the text. */
		if (requests->db.number & MY_CLIENT_QUERY_ATTRIBUTES) {
			if (command[2] != 1)
				return 0;
			text = 3;
		}
		break;
	case 0x02: /* COM_INIT_DB */
	case 0x16: /* COM_STMT_PREPARE */
		break;
	default:
		return 0;
	}
	if (n <= text)
		return 0;
	return (text == 3 && command[1]) ||
	       (command[text] > ' '
			? command[text] != 0x7f
			: command[text] == ' ' || (command[text] >= '\t' && command[text] <= '\r'));
}

static __always_inline int restarts(struct __sk_buff *skb, struct cursor *c,
				    const struct half *requests, __u8 protocol)
{
	if (refill(skb, c) || c->filled < 5)
		return 0;
	switch (protocol) {
	case L7_HTTP1:
		return http1_restarts(c);
	case L7_REDIS:
		return redis_restarts(c);
	case L7_POSTGRESQL:
		return pg_restarts(skb, c);
	case L7_MYSQL:
		return my_restarts(c, requests);
	default:
		return 0;
	}
}

/* Before a message, and without a memory of the last one. */
static __always_inline void half_restart(struct half *h, __u8 protocol, int responses)
{
	h->state = HALF_START;
	h->line_len = 0;
	h->remain = 0;
	h->then = 0;
	h->upgrade = UPGRADE_NONE;
	if (protocol == L7_MYSQL) {
		/* What both can was agreed on at the start. */
		h->db.flags &= MY_PROGRESS | MY_CACHE;
		h->db.stage = MY_PACKET;
		h->db.left = 0;
		return;
	}
	__builtin_memset(&h->db, 0, sizeof(h->db));
	h->head_len = 0;
	if (protocol == L7_POSTGRESQL) {
		h->db.stage = PG_MESSAGE;
		h->db.flags = responses ? PG_READY : 0;
		h->db.operation = DB_UNKNOWN;
	}
}

/*
 * A segment of a connection whose thread was lost; its payload is [cursor.at, cursor.end). Sets
 * cursor.restarts if the client's bytes are to be read again from this one on.
 */
__noinline int look_for_start(struct __sk_buff *skb, struct conn *conn, __u32 dir, __u32 seq,
			      __u32 ack)
{
	struct cursor *c = cursor();
	const struct half *requests, *responses;

	if (!conn || !c)
		return 0;
	dir &= 1;
	if (dir != requests_direction(conn)) {
		conn->lost_acked = ack;
		if (c->at < c->end)
			conn->lost_answered = 1;
		return 0;
	}
	requests = &conn->half[dir];
	responses = &conn->half[!dir];
	if (c->at < c->end && conn->decided && conn->lost_answered && conn->lost_acked == seq &&
	    requests->next == seq && responses->next == ack && !requests->held && !responses->held)
		c->restarts = restarts(skb, c, requests, conn->protocol);
	return 0;
}

/* Takes the thread up; called owning the requests' direction, before its bytes are read. */
__noinline int resync(struct conn *conn, __u32 dir)
{
	struct half *requests, *responses;

	if (!conn)
		return 0;
	requests = &conn->half[dir & 1];
	responses = &conn->half[!(dir & 1)];
	if (half_take(responses))
		return 0;
	conn_unanswered(conn, HTTP_ERROR_MALFORMED, bpf_ktime_get_ns(), 0);
	half_restart(requests, conn->protocol, 0);
	half_restart(responses, conn->protocol, 1);
	conn->lost_answered = 0;
	conn->opaque = OPAQUE_NOT;
	half_release(responses);
	return 0;
}

#endif
