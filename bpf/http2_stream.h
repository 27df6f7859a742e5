/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The streams of an HTTP/2 connection: a request waits in a map for the end of its response. */
#ifndef WEIR_HTTP2_STREAM_H
#define WEIR_HTTP2_STREAM_H

#include "hpack.h"

/* Streams that one connection may have open here. Most servers allow 100 to 1,000; some set no
 * bound, and what is beyond this is told of as having found no place. */
#define STREAMS_PER_CONN 2048

/* What a new connection's state starts from; too large for the stack. */
const struct http2 http2_zero;

static __always_inline struct http2 *http2_of(const struct conn *conn)
{
	__u64 id = conn->id;

	return bpf_map_lookup_elem(&http2, &id);
}

/* The state beside the connection, made when it is first needed; NULL when the map is full. */
static __always_inline struct http2 *http2_begin(struct conn *conn)
{
	struct http2 *found = http2_of(conn);
	__u64 id = conn->id;

	if (found)
		return found;
	/* Before it is there: whoever ends the connection owns both directions, and sees it. */
	conn->http2 = 1;
	if (!share_take(conn->pod, SHARE_HTTP2)) {
		/* EEXIST: the other direction was faster. */
		if (!bpf_map_update_elem(&http2, &id, &http2_zero, BPF_NOEXIST))
			stat_add(STAT_HTTP2_CREATED, 1);
		else
			share_give(conn->pod, SHARE_HTTP2);
	}
	found = http2_of(conn);
	if (found)
		found->pod = conn->pod;
	if (!found) {
		stat_add(STAT_FULL_HTTP2, 1);
		room_wanted = 1;
	}
	return found;
}

static __always_inline void http2_forget(__u64 id, __u32 pod)
{
	if (bpf_map_delete_elem(&http2, &id))
		return;
	stat_add(STAT_HTTP2_REMOVED, 1);
	share_give(pod, SHARE_HTTP2);
}

/* A stream's exchange, as it ended. */
__noinline int stream_count(const struct http2_stream *got, __u8 error, __u64 ns)
{
	__u32 pod;
	__u8 role;

	if (!got)
		return 0;
	pod = got->pod;
	role = got->role;
	counter_add(pod, fields(COUNTER_HTTP_REQUESTS, role, got->method, got->version),
		    got->status, 1);
	histogram_add(pod, fields(HISTOGRAM_HTTP_REQUEST, role, got->method, 0), ns);
	if (error)
		counter_add(pod, fields(COUNTER_HTTP_ERRORS, role, error, is_failure(got->status)),
			    0, 1);
	if (!got->grpc)
		return 0;
	counter_add(pod, fields(COUNTER_GRPC_REQUESTS, role, got->grpc_status, 0),
		    error || is_failure(got->status), 1);
	histogram_add(pod, fields(HISTOGRAM_GRPC_REQUEST, role, 0, 0), ns);
	return 0;
}

static __always_inline void record_stream(const struct http2_stream_key *key,
					  const struct http2_stream *got, __u8 error, __u64 ns)
{
	struct record *r = record_ended(key->conn, got->pod, got->role, L7_HTTP2, ns);

	if (!r)
		return;
	r->number = key->stream;
	r->method = got->method;
	r->version = got->version;
	r->status = got->status;
	r->error = error;
	r->code = got->grpc ? got->grpc_status : 0;
	record_send();
}

/* Takes a stream out and counts it. Of two ends at once, the one that removes it counts. */
static __always_inline void stream_remove(const struct http2_stream_key *key,
					  const struct http2_stream *found, struct http2 *of,
					  __u8 error, __u64 now)
{
	struct http2_stream got = *found;

	/* It ended as if it were answered, and was not. */
	if (!error && !got.status)
		error = HTTP_ERROR_MALFORMED;
	if (bpf_map_delete_elem(&http2_streams, key))
		return;
	stat_add(STAT_STREAMS_REMOVED, 1);
	share_give(got.pod, SHARE_STREAMS);
	if (of)
		__sync_fetch_and_add(&of->open, -1);
	stream_count(&got, error, now - got.started);
	if (listening())
		record_stream(key, &got, error, now - got.started);
}

/* Puts a stream into the table; 0 on success. */
static __always_inline int stream_create(const struct http2_stream_key *key,
					 const struct http2_stream *fresh, struct http2 *of)
{
	if (of->open < STREAMS_PER_CONN && !share_take(fresh->pod, SHARE_STREAMS)) {
		if (!bpf_map_update_elem(&http2_streams, key, fresh, BPF_NOEXIST)) {
			stat_add(STAT_STREAMS_CREATED, 1);
			__sync_fetch_and_add(&of->open, 1);
			return 0;
		}
		share_give(fresh->pod, SHARE_STREAMS);
	}
	stat_add(STAT_FULL_STREAMS, 1);
	room_wanted = 1;
	return -1;
}

/*
 * The server agreed to go on in HTTP/2: the request that asked for it becomes stream 1, half-closed
 * by the client (RFC 7540, 3.2). 0 on success.
 */
__noinline int stream_upgrade(struct conn *conn)
{
	struct http2_stream_key key = {.stream = 1};
	struct http2_stream fresh = {.grpc_status = GRPC_STATUS_UNKNOWN};
	struct inflight request;
	struct http2 *of;

	if (!conn || !exchange_waits(conn))
		return -1;
	request = exchange_front(conn);
	key.conn = conn->id;
	fresh.started = request.started;
	fresh.method = request.method;
	fresh.version = request.version;
	fresh.pod = conn->pod;
	fresh.role = conn->role;
	of = http2_begin(conn);
	if (!of)
		return -1;
	if (stream_create(&key, &fresh, of))
		return -1;
	exchange_pop(conn);
	return 0;
}

static __always_inline void stream_end(struct step *s, __u8 error)
{
	struct http2_stream_key key = {.conn = s->conn->id, .stream = s->http2->stream};
	struct http2_stream *found = bpf_map_lookup_elem(&http2_streams, &key);
	struct http2 *of = http2_of(s->conn);

	if (found)
		stream_remove(&key, found, of, error, s->cur->now);
	else if (!error && s->http2->stream & 1 && of &&
		 s->http2->stream > of->half[requests_direction(s->conn) & 1].newest)
		/* Nobody asks for what is pushed; and what was asked for is counted already, as
		 * reset, or found no place. */
		role_count(s->conn, COUNTER_HTTP_UNMATCHED, 0, 1);
}

/* A request's headers are complete. */
static __always_inline void stream_open(struct step *s)
{
	struct http2_half *x = s->http2;
	struct http2_stream_key key = {.conn = s->conn->id, .stream = x->stream};
	struct http2_stream fresh = {.started = x->started,
				     .pod = s->conn->pod,
				     .role = s->conn->role,
				     .method = x->method,
				     .grpc = x->grpc,
				     .version = HTTP_VERSION_2,
				     .grpc_status = GRPC_STATUS_UNKNOWN};
	struct http2 *of = http2_of(s->conn);

	/* RFC 9113, 5.1.1: a new stream's number is above all before. Else these are trailers,
	 * maybe of a request that is answered already. */
	if (!of || x->stream <= x->newest)
		return;
	x->newest = x->stream;
	if (bpf_map_lookup_elem(&http2_streams, &key))
		return; /* Of the request that asked for the upgrade. */
	stream_create(&key, &fresh, of);
}

/* A response's headers, interim or final, or its trailers are complete. */
static __always_inline void stream_answer(struct step *s)
{
	struct http2_half *x = s->http2;
	struct http2_stream_key key = {.conn = s->conn->id, .stream = x->stream};
	struct http2_stream *found = bpf_map_lookup_elem(&http2_streams, &key);

	if (!found)
		return;
	/* What trailers refer to may be forgotten: a status that was told stays. */
	if (x->status >= 200 || (x->status == HTTP_STATUS_UNKNOWN && !found->status))
		found->status = x->status;
	if (x->grpc_status != GRPC_STATUS_UNKNOWN)
		found->grpc_status = x->grpc_status;
}

#endif
