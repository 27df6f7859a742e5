/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a TCP connection, and the order of its bytes: repeats are dropped, overlaps trimmed,
 * gaps inside a body absorbed. The connection's first SYN is always seen, because the programs are
 * attached before the pod can send one.
 *
 * One direction of one connection can run on two CPUs at once, so a direction is owned while its
 * bytes are read; whoever ends a connection owns both. An element that was removed may be recycled
 * under the feet of another CPU, which conn.check tells.
 */
#ifndef WEIR_TCP_H
#define WEIR_TCP_H

#include "hold.h"
#include "parse.h"

/* Messages and lines per skb; a 64 kB skb of the shortest chunks has 22,000. */
#define STEPS_MAX 32768
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

/* The direction of the side that opened the connection: it carries the requests. */
static __always_inline __u32 requests_direction(const struct conn *conn)
{
	return conn->role == ROLE_CLIENT ? DIRECTION_TX : DIRECTION_RX;
}

/* Counts what waits as unanswered, a response that was under way with the status it had. */
static __always_inline void conn_unanswered(struct conn *conn, __u8 error, __u64 now)
{
	struct half *responses =
		conn->role == ROLE_CLIENT ? &conn->half[DIRECTION_RX] : &conn->half[DIRECTION_TX];

	if (conn->opaque == OPAQUE_NOT &&
	    (conn->half[DIRECTION_RX].held || conn->half[DIRECTION_TX].held)) {
		/* The hole before what is held was never filled. */
		conn->opaque = OPAQUE_GAP;
		stat_add(STAT_GAP_SEQUENCE, 1);
	}
	if (conn->protocol != L7_HTTP1)
		return;
	if (conn->opaque == OPAQUE_GAP)
		error = HTTP_ERROR_MALFORMED;
	if (responses->status && conn->opaque == OPAQUE_NOT) {
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
	exchange_drain(conn, error, now);
}

/*
 * Takes a connection out. Both directions are owned; they are given back with a check that no key
 * has, so that a CPU which still holds the element leaves it alone, and before the element can be
 * recycled, so that giving them back never frees what its next user owns.
 */
static __always_inline void conn_remove(const struct conn_key *key, struct conn *conn)
{
	if (conn->state == TCP_ESTABLISHED)
		role_count(conn, COUNTER_TCP_CLOSED, 0, 1);
	conn->check = ~conn->check;
	conn_release(conn);
	if (!bpf_map_delete_elem(&conns, key))
		stat_add(STAT_CONNS_REMOVED, 1);
}

/* Another CPU was busy with it: the sweep ends it. */
static __always_inline void conn_leave(const struct conn_key *key, struct conn *conn)
{
	if (conn->check == key_check(key))
		conn->dying = 1;
}

static __always_inline void tcp_result(struct conn *conn, __u8 result)
{
	role_count(conn, COUNTER_TCP_CONNECTIONS, result, 1);
}

static __always_inline void tcp_reset(const struct conn_key *key, struct conn *conn, __u32 dir,
				      __u32 seq)
{
	int by_server = dir != requests_direction(conn);
	__u32 ahead = seq - conn->half[dir].next + RESET_WINDOW;

	/* RFC 5961, 3: out of the window it ends nothing. The refusal of a SYN has number 0. */
	if (conn->state != TCP_SYN_SENT && ahead > 2 * RESET_WINDOW)
		return;
	if (conn_take(conn, key_check(key)))
		return conn_leave(key, conn);
	tcp_result(conn, conn->state != TCP_ESTABLISHED && by_server ? TCP_RESULT_REFUSED
								     : TCP_RESULT_RESET);
	conn_unanswered(conn, by_server ? HTTP_ERROR_RESET : HTTP_ERROR_CANCELLED,
			bpf_ktime_get_ns());
	conn_remove(key, conn);
}

/* A FIN in order was seen in one direction. */
static __always_inline void tcp_fin(const struct conn_key *key, struct conn *conn, __u32 dir)
{
	int by_server = dir != requests_direction(conn);
	int both = conn->half[DIRECTION_RX].fin && conn->half[DIRECTION_TX].fin;

	if (!by_server && !both)
		return; /* Half-closed: the server may still answer. */
	if (conn_take(conn, key_check(key)))
		return conn_leave(key, conn);
	/* A client that closed first and got nothing went away. */
	conn_unanswered(conn, both && by_server ? HTTP_ERROR_CANCELLED : HTTP_ERROR_NO_RESPONSE,
			bpf_ktime_get_ns());
	if (both)
		conn_remove(key, conn);
	else
		conn_release(conn);
}

/* Whether a gap is inside a body, or where nobody reads, so that its bytes are not missed. */
static __always_inline int gap_is_blind(struct step *s, __u32 gap)
{
	return s->conn->opaque || (s->half->state >= HALF_BODY && s->half->remain >= gap);
}

/* Bytes that will not be seen here in order. */
static __always_inline void skip_gap(struct step *s, __u32 gap)
{
	struct half *h = s->half;

	h->hole_from = h->next;
	h->hole_to = h->next + gap;
	if (s->conn->opaque)
		return;
	if (!gap_is_blind(s, gap)) {
		give_up(s, STAT_GAP_SEQUENCE);
		return;
	}
	h->remain -= gap;
	if (h->state != HALF_TUNNEL)
		s->cur->body += gap;
	if (!h->remain)
		body_end(s);
}

static __always_inline void count_body(struct step *s)
{
	if (s->cur->body)
		role_count(s->conn,
			   s->responses ? COUNTER_HTTP_RESPONSE_BODY : COUNTER_HTTP_REQUEST_BODY, 0,
			   s->cur->body);
}

/* Reads the new bytes of a segment: [at, end) of the source. */
static __always_inline void read_bytes(struct step *s, __u32 source, __u32 at, __u32 end)
{
	struct cursor *c = s->cur;
	struct half *h = s->half;

	c->source = source;
	c->at = at;
	c->end = end;
	c->from = 0;
	c->filled = 0;
	if (s->conn->protocol == L7_UNDECIDED && !http1_candidate(s))
		return;
	if (h->line_len)
		__builtin_memcpy(c->line, h->line, LINE_PREFIX);
	if (bpf_loop(STEPS_MAX, http1_step, s, 0) == STEPS_MAX && c->at < c->end)
		give_up(s, STAT_GAP_STEPS);
	if (h->line_len)
		__builtin_memcpy(h->line, c->line, LINE_PREFIX);
}

/* Not late but again. */
static __always_inline void count_again(struct step *s, __u32 dir)
{
	counter_add(s->conn->pod, fields(COUNTER_TCP_RETRANSMITS, ROLE_NONE, dir, 0), 0,
		    segments(s->skb));
}

/*
 * A segment with payload or FIN. Sets s.ended for the direction's first FIN in order; returns
 * whether held segments may have got their turn.
 */
static __always_inline int tcp_segment(struct step *s, const struct packet *p, __u32 dir, __u32 seq,
				       __u32 at, int fin)
{
	__u32 payload = p->end > at ? p->end - at : 0;
	struct half *h = s->half;
	__s32 seen;

	if (!s->cur)
		return 0;
	s->cur->now = bpf_ktime_get_ns();
	if (half_try(h)) {
		/*
		 * Another CPU reads this direction, maybe one that the host of this machine has
		 * stopped: waiting has no bound. It, or whoever comes first, reads this as well.
		 */
		if (hold(s, dir, seq, at, payload, fin) < 0)
			stat_add(STAT_GAP_CONTENDED, 1);
		return 1;
	}
	if (s->conn->check != key_check(&p->key))
		goto out;
	s->cur->body = 0;
	seen = h->next - seq;
	if (seen < 0) {
		if (!gap_is_blind(s, -seen)) {
			int kept = hold(s, dir, seq, at, payload, fin);

			if (kept > 0)
				count_again(s, dir);
			if (kept >= 0)
				goto out;
		}
		skip_gap(s, -seen);
		h->next = seq;
		seen = 0;
	}
	if ((__u32)seen < payload) {
		h->next = seq + payload;
		if (!s->conn->opaque)
			read_bytes(s, 0, at + seen, p->end);
	} else if (payload && seq - h->hole_from >= h->hole_to - h->hole_from) {
		count_again(s, dir);
	}
	count_body(s);
	if (fin && !h->fin && h->next == seq + payload) {
		h->fin = 1;
		h->next++;
		s->ended = 1;
	}
out:
	half_release(h);
	/* Read behind the release's barrier: what came while it was owned is not missed. */
	return *(volatile __u32 *)&h->held > 0;
}

/* A connection as its SYN makes it. Returns 0 if the table took it. */
static __always_inline int conn_create(const struct packet *p, __u32 pod, __u32 dir, __u32 isn,
				       __u64 syn_ns)
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
	fresh->half[dir].next = isn + 1;
	if (bpf_map_update_elem(&conns, &p->key, fresh, BPF_NOEXIST)) {
		stat_add(STAT_FULL_CONNS, 1);
		room_wanted = 1;
		return -1;
	}
	stat_add(STAT_CONNS_CREATED, 1);
	return 0;
}

/* Ends what a new connection of the same ends takes the place of; 0 on success. */
static __always_inline int conn_replace(const struct packet *p, struct conn *conn)
{
	if (conn_take(conn, key_check(&p->key)))
		return -1;
	if (conn->state != TCP_ESTABLISHED)
		tcp_result(conn, TCP_RESULT_TIMEOUT);
	conn_unanswered(conn, HTTP_ERROR_NO_RESPONSE, bpf_ktime_get_ns());
	conn_remove(&p->key, conn);
	return 0;
}

/*
 * A SYN. Returns whether the connection in the table is the one that it opens.
 *
 * One for an established connection opens nothing by itself: the receiver answers it with an ACK
 * (RFC 5961, 4), and only one that has forgotten the old connection with a SYN of its own.
 */
static __always_inline int tcp_open(const struct packet *p, __u32 pod, __u32 dir, __u32 isn)
{
	struct conn *conn = bpf_map_lookup_elem(&conns, &p->key);
	__u64 now = bpf_ktime_get_ns();

	if (conn) {
		if (conn->isn == isn && dir == requests_direction(conn))
			return 1; /* The SYN again. */
		if (conn->state == TCP_ESTABLISHED && !conn->dying &&
		    !conn->half[DIRECTION_RX].fin && !conn->half[DIRECTION_TX].fin) {
			conn->again_ns = now;
			conn->again_isn = isn;
			conn->again = 1 + dir;
			return 0;
		}
		if (conn_replace(p, conn))
			return 0;
	}
	return !conn_create(p, pod, dir, isn, now);
}

/* A SYN-ACK: of a connection that is new, or of one that takes an established one's place. */
static __always_inline struct conn *tcp_reopen(const struct packet *p, struct conn *conn, __u32 dir,
					       __u32 acknowledged)
{
	__u32 isn = conn->again_isn, opener = conn->again - 1, pod = conn->pod;
	__u64 syn_ns = conn->again_ns;

	if (!conn->again || opener == dir || acknowledged != isn + 1)
		return conn;
	if (conn_replace(p, conn) || conn_create(p, pod, opener & 1, isn, syn_ns))
		return 0;
	return bpf_map_lookup_elem(&conns, &p->key);
}

/* The server's answer to the SYN: the handshake's time as the pod saw it. */
static __always_inline void tcp_answered(struct conn *conn, __u32 dir, __u32 seq)
{
	if (dir == requests_direction(conn) ||
	    __sync_val_compare_and_swap(&conn->state, TCP_SYN_SENT, TCP_SYN_ACKED) != TCP_SYN_SENT)
		return;
	conn->half[dir].next = seq + 1;
	histogram_add(conn->pod, fields(HISTOGRAM_TCP_CONNECT, conn->role, 0, 0),
		      bpf_ktime_get_ns() - conn->syn_ns);
}

/* Returns whether held segments may have got their turn. */
static __always_inline int tcp(struct __sk_buff *skb, struct packet *p, __u32 pod, __u32 dir)
{
	struct tcphdr t;
	struct conn *conn;
	__u32 at, seq;
	int turn = 0;

	if (load(skb, p->l4, &t, sizeof(t)) || t.doff < 5)
		return 0;
	at = p->l4 + t.doff * 4;
	seq = bpf_ntohl(t.seq);
	set_ports(p, dir == DIRECTION_TX, t.source, t.dest);
	if (t.syn && !t.ack) {
		if (!tcp_open(p, pod, dir, seq) || p->end <= at)
			return 0;
		seq++; /* TCP Fast Open: the payload follows the SYN's own number. */
	}
	conn = bpf_map_lookup_elem(&conns, &p->key);
	if (!conn)
		return 0;
	conn->seen_ns = bpf_ktime_get_coarse_ns();
	if (t.syn && t.ack) {
		conn = tcp_reopen(p, conn, dir, bpf_ntohl(t.ack_seq));
		if (conn)
			tcp_answered(conn, dir, seq);
		return 0;
	}
	if (t.rst) {
		tcp_reset(&p->key, conn, dir, seq);
		return 0;
	}
	if (conn->state == TCP_SYN_ACKED && dir == requests_direction(conn) &&
	    __sync_val_compare_and_swap(&conn->state, TCP_SYN_ACKED, TCP_ESTABLISHED) ==
		    TCP_SYN_ACKED)
		tcp_result(conn, TCP_RESULT_ESTABLISHED);
	if (p->end > at || t.fin) {
		struct step s = {
			.skb = skb, .conn = conn, .half = &conn->half[dir], .cur = cursor()};

		s.responses = dir != requests_direction(conn);
		turn = tcp_segment(&s, p, dir, seq, at, t.fin);
		if (s.ended)
			tcp_fin(&p->key, conn, dir);
	}
	return turn;
}

#endif
