/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests that wait for their response, and the counting of an exchange: once, when its final
 * response is complete or its connection ends; counter and histogram together.
 */
#ifndef WEIR_EXCHANGE_H
#define WEIR_EXCHANGE_H

#include "record.h"

/* In inflight.version: it only waits between the requests, and is none. */
#define EXCHANGE_ASIDE 0x80
/* One connection's share of the spill: a 64 kB skb of the shortest requests holds 3,640. */
#define SPILL_PER_CONN 4096
/* More than can wait with their method known; what is beyond had no place and was told of then. */
#define DRAIN_MAX (4 * MAX_INFLIGHT_SPILL)

/* Whether a status tells of a failure: the server's own. */
static __always_inline int is_failure(__u16 status)
{
	return status >= 500 && status < 600;
}

static __always_inline void record_exchange(const struct conn *conn, const struct inflight *request,
					    __u16 status, __u8 error, __u64 ns)
{
	struct record *r = record_ended(conn->id, conn->pod, conn->role, conn->protocol, ns);

	if (!r)
		return;
	r->number = request->number;
	r->method = request->method;
	r->version = request->version;
	r->status = status;
	r->error = error;
	record_send();
}

__noinline int exchange_count(const struct conn *conn, const struct inflight *request, __u16 status,
			      __u8 error, __u64 ns)
{
	__u32 pod;
	__u8 role;

	if (!conn || !request)
		return 0;
	pod = conn->pod;
	role = conn->role;
	counter_add(pod, fields(COUNTER_HTTP_REQUESTS, role, request->method, request->version),
		    status, 1);
	histogram_add(pod, fields(HISTOGRAM_HTTP_REQUEST, role, request->method, 0), ns);
	if (error)
		counter_add(pod, fields(COUNTER_HTTP_ERRORS, role, error, is_failure(status)), 0,
			    1);
	if (listening())
		record_exchange(conn, request, status, error, ns);
	return 0;
}

static __always_inline void role_count(struct conn *conn, __u8 kind, __u8 a, __u64 n)
{
	counter_add(conn->pod, fields(kind, conn->role, a, 0), 0, n);
}

static __always_inline void record_db(const struct conn *conn, __u8 operation, __u8 outcome,
				      __u64 ns)
{
	struct record *r = record_ended(conn->id, conn->pod, conn->role, conn->protocol, ns);

	if (!r)
		return;
	r->method = operation;
	r->code = outcome;
	record_send();
}

/* A database's request. */
__noinline int db_count(const struct conn *conn, __u8 operation, __u8 outcome, __u64 ns)
{
	__u32 pod;
	__u8 role, system;

	if (!conn)
		return 0;
	pod = conn->pod;
	role = conn->role;
	system = conn->protocol;
	counter_add(pod, fields(COUNTER_DB_REQUESTS, role, system, operation), outcome, 1);
	if (ns != NO_DURATION)
		histogram_add(pod, fields(HISTOGRAM_DB_REQUEST, role, system, 0), ns);
	if (listening())
		record_db(conn, operation, outcome, ns);
	return 0;
}

static __always_inline int is_database(__u8 protocol)
{
	return protocol >= L7_REDIS && protocol <= L7_KAFKA;
}

/* Remembers a request. Only the requests' direction calls this, holding it. */
__noinline int exchange_begin(struct conn *conn, __u8 method, __u8 version, __u16 tag,
			      __u64 started)
{
	struct inflight request = {
		.started = started, .method = method, .version = version, .tag = tag};
	struct inflight *slot;
	__u32 number;

	if (!conn)
		return 0;
	number = conn->pushed;
	request.number = number + 1;
	slot = &conn->slots[number % INFLIGHT_SLOTS];
	if (!slot->number) {
		slot->started = started;
		slot->method = method;
		slot->version = version;
		slot->tag = tag;
		slot->number = number + 1;
	} else {
		struct spill_key key = {.conn = conn->id, .number = number};

		if (number - conn->popped > SPILL_PER_CONN || share_take(conn->pod, SHARE_SPILL)) {
			stat_add(STAT_GAP_INFLIGHT, 1);
		} else if (bpf_map_update_elem(&inflight_spill, &key, &request, BPF_NOEXIST)) {
			share_give(conn->pod, SHARE_SPILL);
			stat_add(STAT_GAP_INFLIGHT, 1);
		} else {
			stat_add(STAT_SPILL_CREATED, 1);
		}
	}
	/* A full barrier: whoever sees the number sees the slot. */
	__sync_fetch_and_add(&conn->pushed, 1);
	return 0;
}

/* Whether a request waits. Who took the direction has a barrier behind him: a load is enough. */
static __always_inline int exchange_waits(struct conn *conn)
{
	return *(volatile __u32 *)&conn->pushed != conn->popped;
}

/* The oldest waiting request; one that found no place has started 0. Call if exchange_waits(). */
static __always_inline struct inflight exchange_front(struct conn *conn)
{
	struct inflight *slot = &conn->slots[conn->popped % INFLIGHT_SLOTS];
	struct inflight none = {.method = HTTP_METHOD_OTHER};
	struct spill_key key = {.conn = conn->id, .number = conn->popped};

	if (slot->number == conn->popped + 1)
		return *slot;
	slot = bpf_map_lookup_elem(&inflight_spill, &key);
	return slot ? *slot : none;
}

/* Forgets the oldest waiting request. Only the responses' direction calls this, holding it. */
static __always_inline void exchange_pop(struct conn *conn)
{
	struct inflight *slot = &conn->slots[conn->popped % INFLIGHT_SLOTS];
	struct spill_key key = {.conn = conn->id, .number = conn->popped};

	if (slot->number == conn->popped + 1)
		slot->number = 0;
	else if (!bpf_map_delete_elem(&inflight_spill, &key)) {
		stat_add(STAT_SPILL_REMOVED, 1);
		share_give(conn->pod, SHARE_SPILL);
	}
	conn->popped++;
}

/* Counts the oldest waiting request as answered by the response that just ended. */
__noinline int exchange_end(struct conn *conn, struct half *responses, __u64 now, __u8 error)
{
	struct inflight request;

	if (!conn || !responses)
		return 0;
	if (!exchange_waits(conn)) {
		role_count(conn, COUNTER_HTTP_UNMATCHED, 0, 1);
		return 0;
	}
	request = exchange_front(conn);
	exchange_pop(conn);
	return exchange_count(conn, &request, responses->status, error,
			      now - (request.started ?: responses->started));
}

/* The same for a database's request, which was answered so. */
__noinline int db_answer(struct conn *conn, struct half *responses, __u8 outcome, __u64 now)
{
	struct inflight request;

	if (!conn || !responses || !exchange_waits(conn))
		return 0;
	request = exchange_front(conn);
	exchange_pop(conn);
	return db_count(conn, request.method, outcome,
			now - (request.started ?: responses->started));
}

struct drain {
	struct conn *conn;
	__u64 now;
	__u32 error;
};

static long drain_step(__u32 i, struct drain *d)
{
	struct inflight request;
	__u64 ns;

	if (!exchange_waits(d->conn))
		return 1;
	request = exchange_front(d->conn);
	exchange_pop(d->conn);
	/* The other side never said that it is what the requests looked like. */
	if (!d->conn->decided)
		return 0;
	ns = request.started ? d->now - request.started : 0;
	/* As HTTP/2: what was pipelined behind an upgrade. */
	if (d->conn->protocol == L7_HTTP1 || d->conn->protocol == L7_HTTP2)
		exchange_count(d->conn, &request, 0, d->error, ns);
	else if (is_database(d->conn->protocol) && !(request.version & EXCHANGE_ASIDE))
		db_count(d->conn, request.method, d->conn->opaque ? DB_UNTOLD : DB_NO_RESPONSE, ns);
	return 0;
}

/* The connection ended: all that still wait were never answered. Call holding both directions. */
__noinline int exchange_drain(struct conn *conn, __u8 error, __u64 now)
{
	struct drain d = {.conn = conn, .now = now, .error = error};

	if (conn && exchange_waits(conn))
		bpf_loop(DRAIN_MAX, drain_step, &d, 0);
	return 0;
}

#endif
