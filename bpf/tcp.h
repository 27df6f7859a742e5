/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a TCP connection. Its first SYN is always seen, because the programs are attached
 * before the pod can send one.
 *
 * One direction of one connection can run on two CPUs at once, so a direction is owned while its
 * bytes are read; whoever ends a connection owns both. An element that was removed may be recycled
 * under the feet of another CPU, which conn.check tells.
 */
#ifndef WEIR_TCP_H
#define WEIR_TCP_H

#include "half_open.h"
#include "hold.h"
#include "parse.h"
#include "stream.h"

/* Tries for a direction: some 50 us, the time of the longest honest skb. */
#define TAKE_MAX 4096
/* A reset's number may be so far from the next byte: the receiver's window is not followed. */
#define RESET_WINDOW (1U << 24)

static long take_step(__u32 i, struct half **h)
{
	return __sync_val_compare_and_swap(&(*h)->owner, 0, 1) == 0;
}

static __always_inline int half_try(struct half *h)
{
	return __sync_val_compare_and_swap(&h->owner, 0, 1);
}

static __always_inline int half_take(struct half *h)
{
	if (!half_try(h))
		return 0;
	if (bpf_loop(TAKE_MAX, take_step, &h, 0) < TAKE_MAX)
		return 0;
	stat_add(STAT_GAP_CONTENDED, 1);
	return -1;
}

static __always_inline void half_release(struct half *h)
{
	__sync_lock_test_and_set(&h->owner, 0);
}

static __always_inline __u64 key_check(const struct conn_key *key)
{
	const __u32 *pod = (const __u32 *)key->pod_addr, *peer = (const __u32 *)key->peer_addr;
	__u64 ports = (__u64)key->pod_port << 16 | key->peer_port;
	__u64 addresses = ((__u64)(pod[0] ^ pod[3]) << 32) | (peer[0] ^ peer[3]);

	return addresses ^ (ports * 0x9e3779b97f4a7c15ULL) ^ key->ifindex;
}

/* Owns both directions of what is still the same connection; 0 on success. */
static __always_inline int conn_take(struct conn *conn, __u64 check)
{
	if (half_take(&conn->half[DIRECTION_RX]))
		return -1;
	if (!half_take(&conn->half[DIRECTION_TX])) {
		if (conn->check == check)
			return 0;
		half_release(&conn->half[DIRECTION_TX]);
	}
	half_release(&conn->half[DIRECTION_RX]);
	return -1;
}

static __always_inline void conn_release(struct conn *conn)
{
	half_release(&conn->half[DIRECTION_TX]);
	half_release(&conn->half[DIRECTION_RX]);
}

/* Whether a byte of either side was read. */
static __always_inline int has_spoken(const struct conn *conn)
{
	const struct half *asks = &conn->half[requests_direction(conn) & 1];
	const struct half *answers = &conn->half[!requests_direction(conn)];

	return conn->state == TCP_ESTABLISHED && (asks->next - asks->fin != conn->isn + 1 ||
						  answers->next - answers->fin != conn->answer);
}

/* Counts what waits as unanswered, a response that was under way with the status it had. */
static __always_inline void conn_unanswered(struct conn *conn, __u8 error, __u64 now, int gone)
{
	struct half *responses =
		conn->role == ROLE_CLIENT ? &conn->half[DIRECTION_RX] : &conn->half[DIRECTION_TX];
	struct cursor *c = cursor();

	if (c && conn->opaque == OPAQUE_NOT && conn->state == TCP_ESTABLISHED &&
	    (loses(c, conn, DIRECTION_RX, gone) || loses(c, conn, DIRECTION_TX, gone))) {
		conn->opaque = OPAQUE_GAP;
		stat_add(STAT_GAP_SEQUENCE, 1);
	}
	/* One side alone has said something, or neither enough. */
	if (conn->opaque == OPAQUE_NOT && !conn->decided && has_spoken(conn))
		decide(conn, L7_UNKNOWN);
	if (conn->opaque == OPAQUE_GAP)
		error = HTTP_ERROR_MALFORMED;
	if (conn->http2) {
		http2_end(conn, error);
		/* What the client may still say asks for nothing. */
		conn->opaque = conn->opaque ?: OPAQUE_PROTOCOL;
	}
	/* An interim response is none. */
	if (conn->protocol == L7_HTTP1 && (responses->status >= 200 || responses->status == 101) &&
	    conn->opaque == OPAQUE_NOT) {
		if (responses->state == HALF_BODY && responses->remain >= UNTIL_CLOSE / 2 &&
		    responses->fin)
			exchange_end(conn, responses, now, HTTP_ERROR_NONE);
		else
			exchange_end(conn, responses, now,
				     error == HTTP_ERROR_NO_RESPONSE ? HTTP_ERROR_MALFORMED
								     : error);
		responses->status = 0;
		responses->state = HALF_START;
	}
	if (conn->protocol == L7_POSTGRESQL)
		pg_close(conn, responses);
	exchange_drain(conn, error, now);
}

/*
 * Takes a connection out. Both directions are owned; they are given back with a check that no key
 * has, so that a CPU which still holds the element leaves it alone, and before the element can be
 * recycled, so that giving them back never frees what its next user owns. Uncounted, nobody would
 * read that it closed.
 */
static __always_inline void conn_remove(const struct conn_key *key, struct conn *conn, int counted)
{
	/* In one step, since a handshake's end owns no direction. */
	__u32 was = __sync_lock_test_and_set(&conn->state, TCP_ENDED);
	__u32 pod = conn->pod;

	if (was != TCP_ESTABLISHED)
		half_open_end(conn->place, conn->id);
	else if (counted)
		role_count(conn, COUNTER_TCP_CLOSED, 0, 1);
	if (conn->half[DIRECTION_RX].held || conn->half[DIRECTION_TX].held)
		hold_drop(conn->id);
	conn->check = ~conn->check;
	conn_release(conn);
	if (bpf_map_delete_elem(&conns, key))
		return;
	stat_add(STAT_CONNS_REMOVED, 1);
	share_give(pod, SHARE_CONNS);
}

/* Another CPU was busy with it: the sweep ends it, as what came first. */
static __always_inline void conn_leave(const struct conn_key *key, struct conn *conn, __u8 dying)
{
	if (conn->check == key_check(key) &&
	    (conn->dying == DYING_NOT || conn->dying == DYING_UNCERTAIN))
		conn->dying = dying;
}

/* What requests that wait at such an end have become. */
static __always_inline __u8 dying_error(const struct conn *conn)
{
	switch (conn->dying) {
	case DYING_UNCERTAIN: /* To the pod. */
		return conn->role == ROLE_CLIENT ? HTTP_ERROR_RESET : HTTP_ERROR_CANCELLED;
	case DYING_REFUSED:
		return HTTP_ERROR_RESET;
	case DYING_ABORTED:
	case DYING_LEFT:
		return HTTP_ERROR_CANCELLED;
	default:
		return HTTP_ERROR_NO_RESPONSE;
	}
}

static __always_inline void tcp_result(struct conn *conn, __u8 result)
{
	role_count(conn, COUNTER_TCP_CONNECTIONS, result, 1);
}

/* Whether a reset is of the connection that a SYN without an answer opens (RFC 9293, 3.10.7.3): a
 * refusal has number 0, and acknowledges the SYN with some of its bytes. */
static __always_inline int is_reset_of_opening(const struct conn *conn, int by_server, __u32 seq,
					       __u32 acknowledged, int has_ack)
{
	__u32 behind = (by_server ? acknowledged : seq) - (conn->isn + 1);

	return behind <= (by_server ? conn->early : RESET_WINDOW) && (has_ack || !by_server);
}

static __always_inline void tcp_reset(const struct conn_key *key, struct conn *conn, __u32 dir,
				      __u32 seq, __u32 acknowledged, int has_ack)
{
	int by_server = dir != requests_direction(conn);
	__u32 off = seq - conn->half[dir & 1].next;

	/* RFC 5961, 3: out of the window it ends nothing. */
	if (conn->state == TCP_SYN_SENT
		    ? !is_reset_of_opening(conn, by_server, seq, acknowledged, has_ack)
		    : off + RESET_WINDOW > 2 * RESET_WINDOW)
		return;
	/*
	 * In it, only the next byte's number ends it at once (a FIN has one too); any other is
	 * answered, or it is right by what the pod has and what did not come in order here.
	 */
	if (conn->state == TCP_ESTABLISHED && dir == DIRECTION_RX && off &&
	    !(conn->half[DIRECTION_RX].fin && off == -1U)) {
		if (!conn->dying)
			conn->dying = DYING_UNCERTAIN;
		return;
	}
	if (conn_take(conn, key_check(key)))
		return conn_leave(key, conn, by_server ? DYING_REFUSED : DYING_ABORTED);
	tcp_result(conn, conn->state != TCP_ESTABLISHED && by_server ? TCP_RESULT_REFUSED
								     : TCP_RESULT_RESET);
	conn_unanswered(conn, by_server ? HTTP_ERROR_RESET : HTTP_ERROR_CANCELLED,
			bpf_ktime_get_ns(), 1);
	conn_remove(key, conn, 1);
}

/* A FIN in order was seen in one direction. */
static __always_inline void tcp_fin(const struct conn_key *key, struct conn *conn, __u32 dir)
{
	int by_server = dir != requests_direction(conn);
	int both = conn->half[DIRECTION_RX].fin && conn->half[DIRECTION_TX].fin;

	if (!by_server && !both)
		return; /* Half-closed: the server may still answer. */
	if (conn_take(conn, key_check(key)))
		return conn_leave(key, conn, both && by_server ? DYING_LEFT : DYING_CLOSED);
	/* A client that closed first and got nothing went away. */
	conn_unanswered(conn, both && by_server ? HTTP_ERROR_CANCELLED : HTTP_ERROR_NO_RESPONSE,
			bpf_ktime_get_ns(), both);
	if (both)
		conn_remove(key, conn, 1);
	else
		conn_release(conn);
}

/* A connection as its SYN makes it. Returns 0 if the table took it. */
static __always_inline int conn_create(const struct packet *p, __u32 pod, __u32 dir, __u32 isn,
				       __u32 early, __u64 syn_ns)
{
	struct cursor *c = cursor();
	struct conn *fresh;

	if (!c)
		return -1;
	fresh = &c->fresh;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->check = key_check(&p->key);
	fresh->id = bpf_ktime_get_ns() ^ fresh->check * 0x9e3779b97f4a7c15ULL;
	fresh->syn_ns = syn_ns;
	fresh->seen_ns = syn_ns;
	fresh->pod = pod;
	fresh->role = dir == DIRECTION_TX ? ROLE_CLIENT : ROLE_SERVER;
	fresh->isn = isn;
	fresh->early = early > 0xffff ? 0xffff : early;
	fresh->half[dir & 1].next = isn + 1;
	if (!share_take(pod, SHARE_CONNS)) {
		if (fresh->role == ROLE_SERVER)
			fresh->place = half_open_begin(fresh->id);
		if ((fresh->role != ROLE_SERVER || fresh->place) &&
		    !bpf_map_update_elem(&conns, &p->key, fresh, BPF_NOEXIST)) {
			stat_add(STAT_CONNS_CREATED, 1);
			return 0;
		}
		share_give(pod, SHARE_CONNS);
		half_open_end(fresh->place, fresh->id);
	}
	stat_add(STAT_FULL_CONNS, 1);
	room_wanted = 1;
	return -1;
}

/*
 * Ends what a new connection of the same ends takes the place of; 0 on success. SYNs that crossed
 * (RFC 9293, 3.5) are one connection, of which the second is counted as its opening.
 */
static __always_inline int conn_replace(const struct packet *p, struct conn *conn, int crossed)
{
	if (conn_take(conn, key_check(&p->key)))
		return -1;
	if (conn->state != TCP_ESTABLISHED && !crossed)
		tcp_result(conn, TCP_RESULT_TIMEOUT);
	conn_unanswered(conn, HTTP_ERROR_NO_RESPONSE, bpf_ktime_get_ns(), 1);
	conn_remove(&p->key, conn, 1);
	return 0;
}

/*
 * A SYN, with so many bytes. Returns whether the connection in the table is the one that it opens.
 *
 * One for a connection that has been answered opens nothing by itself: the receiver answers it with
 * an ACK (RFC 5961, 4), and only one that has forgotten the old connection with a SYN of its own.
 */
static __always_inline int tcp_open(const struct packet *p, __u32 pod, __u32 dir, __u32 isn,
				    __u32 early)
{
	struct conn *conn = bpf_map_lookup_elem(&conns, &p->key);
	__u64 now = bpf_ktime_get_ns();

	if (conn) {
		if (conn->isn == isn && dir == requests_direction(conn)) {
			/* The SYN again. */
			if (conn->early < early && early <= 0xffff)
				conn->early = early;
			return 1;
		}
		/* The pod's own word is enough behind an end. */
		if (conn->state != TCP_SYN_SENT &&
		    (conn->dying == DYING_NOT || conn->dying == DYING_UNCERTAIN) &&
		    (dir == DIRECTION_RX ||
		     (!conn->half[DIRECTION_RX].fin && !conn->half[DIRECTION_TX].fin))) {
			conn->again_ns = now;
			conn->again_isn = isn;
			conn->again = 1 + dir;
			return 0;
		}
		if (conn_replace(p, conn, dir != requests_direction(conn)))
			return 0;
	}
	return !conn_create(p, pod, dir, isn, early, now);
}

/* A SYN-ACK: of a connection that is new, or of one that takes an established one's place. */
static __always_inline struct conn *tcp_reopen(const struct packet *p, struct conn *conn, __u32 dir,
					       __u32 acknowledged)
{
	__u32 isn = conn->again_isn, opener = conn->again - 1, pod = conn->pod;
	__u64 syn_ns = conn->again_ns;

	if (!conn->again || opener == dir || acknowledged != isn + 1)
		return conn;
	if (conn_replace(p, conn, 0) || conn_create(p, pod, opener & 1, isn, 0, syn_ns))
		return 0;
	return bpf_map_lookup_elem(&conns, &p->key);
}

#endif
