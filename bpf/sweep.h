/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ends what no packet will end: user space runs it now and then, and a full table. It is the same
 * code that ends a connection on a packet, so that what is counted does not depend on who noticed.
 */
#ifndef WEIR_SWEEP_H
#define WEIR_SWEEP_H

#include "segment.h"

/* Seconds after which the sweep gives up. */
#define DNS_TIMEOUT_S 5
#define SYN_TIMEOUT_S 135  /* Linux retries a SYN for 127 s by default */
#define CLOSE_TIMEOUT_S 60 /* a connection whose end was seen but not finished */
/* Beyond the 7,200 s and nine probes of 75 s after which Linux gives up on a silent peer. */
#define IDLE_TIMEOUT_S 8000

/*
 * Elements looked at in one run, which has softirqs off: the rest are only stepped over, and come
 * in the next runs. The order of a hash map is stable enough for that.
 */
#define SWEEP_SLICE 8192

/*
 * In map memory, where the verifier expects any value: on the stack it would follow the count from
 * element to element. Two sweeps at once only share a slice.
 */
struct {
	__u64 now;
	__u32 at;	  /* elements passed */
	__u32 from;	  /* the slice's first */
	__u32 next_conn;  /* where the next run's slice begins */
	__u32 next_query; /* likewise */
	__u32 next_stream;
	__u32 zero;
	__u64 full_ns; /* when a full table last asked for a run */
} sweeping;

/* Whether an element is in this run's slice; -1 behind it. */
static __always_inline int in_slice(void)
{
	__u32 at = sweeping.at++;

	return at < sweeping.from ? 0 : at < sweeping.from + SWEEP_SLICE ? 1 : -1;
}

/* Begins a slice. */
static __always_inline void slice_begin(__u32 from)
{
	sweeping.at = 0;
	sweeping.from = from;
}

/* Where the next slice begins: behind this one, or at the first again. */
static __always_inline __u32 slice_end(void)
{
	__u32 next = sweeping.from + SWEEP_SLICE;

	return sweeping.at > next ? next : 0;
}

enum pod_state { POD_LIVES, POD_ENDED, POD_FORGOTTEN };

static __always_inline enum pod_state pod_state(__u32 pod)
{
	struct attachment *a = bpf_map_lookup_elem(&attachments, &pod);

	return !a ? POD_FORGOTTEN : a->deleted_ns ? POD_ENDED : POD_LIVES;
}

static long sweep_conn(void *map, struct conn_key *key, struct conn *conn, void *nothing)
{
	int slice = in_slice();
	int closing = conn->dying || (conn->half[DIRECTION_RX].fin && conn->half[DIRECTION_TX].fin);
	__u64 patience = closing			  ? CLOSE_TIMEOUT_S
			 : conn->state != TCP_ESTABLISHED ? SYN_TIMEOUT_S
							  : IDLE_TIMEOUT_S;

	enum pod_state pod;

	if (slice <= 0)
		return slice < 0;
	pod = pod_state(conn->pod);
	/* Signed: another CPU may have seen it after this walk began. */
	if ((__s64)(sweeping.now - conn->seen_ns) < (__s64)(patience * SECOND) && pod == POD_LIVES)
		return 0;
	if (conn_take(conn, key_check(key)))
		return 0;
	if (pod == POD_FORGOTTEN) {
		/* Nobody would read, or remove, what were counted now. */
		if (conn->http2)
			http2_end(conn, HTTP_ERROR_NO_RESPONSE);
		conn->decided = 0;
		exchange_drain(conn, HTTP_ERROR_NONE, sweeping.now);
		conn_remove(key, conn, 0);
		return 0;
	}
	if (conn->dying >= DYING_ABORTED)
		tcp_result(conn, conn->state != TCP_ESTABLISHED && conn->dying == DYING_REFUSED
					 ? TCP_RESULT_REFUSED
					 : TCP_RESULT_RESET);
	else if (conn->state != TCP_ESTABLISHED)
		tcp_result(conn, TCP_RESULT_TIMEOUT);
	conn_unanswered(conn, dying_error(conn), sweeping.now, 1);
	conn_remove(key, conn, 1);
	return 0;
}

static long sweep_dns(void *map, struct dns_key *key, struct dns_query *query, void *nothing)
{
	int slice = in_slice();
	__u32 pod = query->pod;
	__u8 role = query->role, transport = query->transport;
	enum pod_state state;

	if (slice <= 0)
		return slice < 0;
	state = pod_state(pod);
	if ((__s64)(sweeping.now - query->asked_ns) < (__s64)(DNS_TIMEOUT_S * SECOND) &&
	    state == POD_LIVES)
		return 0;
	if (!bpf_map_delete_elem(&dns_pending, key)) {
		stat_add(STAT_DNS_REMOVED, 1);
		share_give_dns(pod, role);
		if (state == POD_FORGOTTEN)
			return 0;
		counter_add(pod, fields(COUNTER_DNS_TIMEOUTS, role, 0, transport), 0, 1);
	}
	return 0;
}

/* A stream whose connection is gone was not answered. */
static long sweep_stream(void *map, struct http2_stream_key *key, struct http2_stream *stream,
			 void *nothing)
{
	int slice = in_slice();
	__u64 id = key->conn;
	struct http2 *of;
	__u32 pod;

	if (slice <= 0)
		return slice < 0;
	of = bpf_map_lookup_elem(&http2, &id);
	if (of && !of->ended)
		return 0;
	if (pod_state(stream->pod) != POD_FORGOTTEN) {
		stream_remove(key, stream, of, of ? of->ended - 1 : HTTP_ERROR_NO_RESPONSE,
			      of ? of->ended_ns : sweeping.now);
		return 0;
	}
	pod = stream->pod;
	if (!bpf_map_delete_elem(&http2_streams, key)) {
		stat_add(STAT_STREAMS_REMOVED, 1);
		share_give(pod, SHARE_STREAMS);
		if (of)
			__sync_fetch_and_add(&of->open, -1);
	}
	return 0;
}

/*
 * Whether no connection is left that it could be of: its pod is forgotten, and has none. Pod 0: it
 * is being made.
 */
static __always_inline int is_ownerless(const struct http2 *of)
{
	struct share *own;

	if (!of->pod || pod_state(of->pod) != POD_FORGOTTEN)
		return 0;
	own = share_of(of->pod);
	return !own || !own->of[SHARE_CONNS];
}

static long sweep_http2(void *map, __u64 *id, struct http2 *of, void *nothing)
{
	if ((of->ended && !of->open) || is_ownerless(of))
		http2_forget(*id, of->pod);
	return 0;
}

static long sweep_share(void *map, __u32 *pod, struct share *own, void *nothing)
{
	if (pod_state(*pod) == POD_FORGOTTEN)
		share_forget(*pod, own);
	return 0;
}

/* Whether nobody comes back for what is in a place: its connection is gone, or has given up. */
static __always_inline int is_stale(const struct held *slot, const struct conn *conn)
{
	return !conn || conn->id != slot->conn ||
	       (__s64)(sweeping.now - slot->since_ns) > (__s64)(2 * HOLD_PATIENCE_S * SECOND);
}

static long sweep_held(__u32 i, void *nothing)
{
	struct held *slot = held_at(i);
	struct conn *conn;
	struct half *h;

	if (!slot)
		return 1;
	if (slot->state != HELD_FULL)
		return 0;
	conn = bpf_map_lookup_elem(&conns, &slot->key);
	if (!is_stale(slot, conn) ||
	    __sync_val_compare_and_swap(&slot->state, HELD_FULL, HELD_CLAIMED) != HELD_FULL)
		return 0;
	/* It may be another's by now; and a direction that somebody owns is not left alone. */
	conn = bpf_map_lookup_elem(&conns, &slot->key);
	h = conn ? &conn->half[slot->dir & 1] : NULL;
	if (!is_stale(slot, conn) || (h && half_try(h))) {
		__sync_lock_test_and_set(&slot->state, HELD_FULL);
		return 0;
	}
	if (h) {
		if (conn->id == slot->conn)
			__sync_fetch_and_add(&h->held, -1);
		half_release(h);
	}
	__sync_lock_test_and_set(&slot->state, HELD_FREE);
	return 0;
}

__noinline int sweep(void)
{
	__u32 nothing = 0;

	sweeping.now = bpf_ktime_get_ns();
	slice_begin(sweeping.next_conn);
	bpf_for_each_map_elem(&conns, sweep_conn, &nothing, 0);
	sweeping.next_conn = slice_end();
	slice_begin(sweeping.next_query);
	bpf_for_each_map_elem(&dns_pending, sweep_dns, &nothing, 0);
	sweeping.next_query = slice_end();
	slice_begin(sweeping.next_stream);
	bpf_for_each_map_elem(&http2_streams, sweep_stream, &nothing, 0);
	sweeping.next_stream = slice_end();
	bpf_for_each_map_elem(&http2, sweep_http2, &nothing, 0);
	bpf_for_each_map_elem(&shares, sweep_share, &nothing, 0);
	bpf_loop(HOLD_SLOTS, sweep_held, NULL, 0);
	return 0;
}

/*
 * A table was full: sweeps, at most once a second, what an agent would have swept by then, so that
 * none need ever run. It is behind the packet that found no place, not in the middle of it, because
 * of 6.1's 512 bytes of stack for a chain of calls.
 */
__noinline int make_room(void)
{
	__u64 now = bpf_ktime_get_ns();

	room_wanted = 0;
	if (now - sweeping.full_ns < SECOND)
		return 0;
	sweeping.full_ns = now;
	return sweep();
}

#endif
