/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The order of a connection's bytes: repeats are dropped, overlaps trimmed, gaps inside a body
 * absorbed, early segments held until their turn.
 *
 * A segment is handled in three calls from the program itself, because of 6.1's 512 bytes of stack
 * for a chain of calls: tcp() or next_held() takes the direction and sets the cursor on the bytes
 * to read, read_stream() reads them, segment_end() gives the direction back.
 */
#ifndef WEIR_SEGMENT_H
#define WEIR_SEGMENT_H

#include "handshake.h"
#include "resync.h"

#define RTT_PAUSE (SECOND / 10)

/* Sets the cursor on what read_stream() is to read: [at, end) of the source. */
static __always_inline void set_bytes(struct cursor *c, __u32 source, __u32 at, __u32 end)
{
	c->source = source;
	c->at = at;
	c->end = end;
	c->from = 0;
	c->filled = 0;
	c->told = 0;
}

/* Whether a gap is inside a body, or where nobody reads, so that its bytes are not missed. */
static __always_inline int gap_is_blind(const struct step *s, __u32 gap)
{
	if (s->conn->opaque)
		return 1;
	/* Where the tunnel was refused, a request comes next. */
	if (s->half->state == HALF_TUNNEL && !exchange_waits(s->conn))
		return 0;
	return s->half->state >= HALF_BODY && s->half->remain >= gap;
}

/*
 * Whether a segment to the pod begins so far ahead that no receiver takes it: anybody who guesses
 * its ends can send such. What passes here is all that the pod can get: if it did get what is
 * before, by another way, its acknowledgement tells. What comes from the pod is its own word.
 */
static __always_inline int is_out_of_reach(const struct conn *conn, __u32 dir, __u32 seq)
{
	__u32 next = *(const volatile __u32 *)&conn->half[DIRECTION_RX].next;

	return dir == DIRECTION_RX && conn->state == TCP_ESTABLISHED &&
	       (__s32)(seq - next) > HOLD_REACH;
}

static __always_inline void body_count(struct conn *conn, __u32 dir, __u64 n)
{
	__u8 kind = dir == requests_direction(conn) ? COUNTER_HTTP_REQUEST_BODY
						    : COUNTER_HTTP_RESPONSE_BODY;

	role_count(conn, kind, 0, n);
}

/* The pod has acknowledged much that never passed here. */
__noinline int pod_has(struct conn *conn, __u32 acknowledged)
{
	struct step s = {.conn = conn, .cur = cursor()};
	struct half *h;
	__u32 gap;

	if (!conn || !s.cur)
		return 0;
	h = s.half = &conn->half[DIRECTION_RX];
	/* Who owns it now may come to it; if not, the next acknowledgement tells. */
	if (half_try(h))
		return 0;
	gap = acknowledged - h->next;
	if (conn->check == key_check(&s.cur->packet.key) && (__s32)gap > HOLD_REACH) {
		h->hole_from = h->next;
		h->hole_to = acknowledged;
		h->next = acknowledged;
		if (conn->opaque) {
			/* Nobody reads. */
		} else if (gap_is_blind(&s, gap) && h->remain > gap) {
			h->remain -= gap;
			if (h->state != HALF_TUNNEL && h->state != HALF_SKIP)
				body_count(conn, DIRECTION_RX, gap);
		} else {
			give_up(&s, STAT_GAP_SEQUENCE);
		}
	}
	half_release(h);
	return 0;
}

/* Bytes that will not be seen here in order. */
static __always_inline void skip_gap(struct step *s, __u32 gap)
{
	struct half *h = s->half;

	h->hole_from = h->next;
	h->hole_to = h->next + gap;
	h->next += gap;
	if (s->conn->opaque)
		return;
	if (gap_is_blind(s, gap))
		s->cur->gap = gap;
	else
		give_up(s, STAT_GAP_SEQUENCE);
}

/*
 * The round trip of the pod's segments, from here to the peer's acknowledgement: one at a time, and
 * at most ten a second of a connection. Races between CPUs cost a sample at worst.
 */
static __always_inline void rtt_begin(struct conn *conn, __u32 acknowledges, __u64 now)
{
	if (conn->rtt_ns || conn->rtt_next > now)
		return;
	conn->rtt_seq = acknowledges;
	conn->rtt_next = now + RTT_PAUSE;
	conn->rtt_ns = now;
}

static __always_inline void rtt_end(struct conn *conn, __u32 acknowledged)
{
	__u64 since = conn->rtt_ns;

	if (!since || (__s32)(acknowledged - conn->rtt_seq) < 0)
		return;
	conn->rtt_ns = 0;
	histogram_add(conn->pod, fields(HISTOGRAM_TCP_RTT, conn->role, 0, 0),
		      bpf_ktime_get_ns() - since);
}

/* Not late but again. */
static __always_inline void count_again(struct step *s, __u32 dir)
{
	/* Which of the two is acknowledged can't be told (RFC 6298, 3). */
	if (dir == DIRECTION_TX)
		s->conn->rtt_ns = 0;
	counter_add(s->conn->pod, fields(COUNTER_TCP_RETRANSMITS, ROLE_NONE, dir, 0), 0,
		    segments(s->skb));
}

/* Segments of a direction that are not read yet. */
static __always_inline __u32 unread(const struct half *h)
{
	return *(const volatile __u32 *)&h->held;
}

/*
 * Whether what the server says may answer what is not read yet, since another CPU was handed it and
 * the server was not kept waiting.
 */
static __always_inline int may_answer_unread(const struct conn *conn, __u32 dir)
{
	return dir != requests_direction(conn) && !conn->opaque && unread(&conn->half[!dir]);
}

/* Whether it is that CPU's turn, which looks at what the server said when it is done. */
static __always_inline int requests_are_read(const struct conn *conn, __u32 dir)
{
	return may_answer_unread(conn, dir) && *(const volatile __u32 *)&conn->half[!dir].owner;
}

/* Where to look for held segments first: what was asked comes before what was answered. */
static __always_inline void look_on(struct cursor *c, const struct conn *conn, __u32 dir)
{
	__u32 requests = requests_direction(conn);

	c->dir = unread(&conn->half[requests & 1]) ? requests : dir;
	c->more = 1;
}

/*
 * Another CPU reads this direction, maybe one that the host of this machine has stopped: waiting
 * has no bound. It, or whoever comes first, reads this as well.
 */
static __always_inline void hand_over(struct step *s, __u32 dir, __u32 seq, __u32 at, __u32 payload,
				      int fin)
{
	struct half *h = s->half;
	/* It only grows, so that what is behind it stays so. */
	__u32 next = *(volatile __u32 *)&h->next;
	int kept;

	if (is_out_of_reach(s->conn, dir, seq))
		return;
	if (!fin && (__s32)(next - (seq + payload)) >= 0) {
		if (seq - h->hole_from >= h->hole_to - h->hole_from)
			count_again(s, dir);
		return;
	}
	kept = hold(s, dir, seq, at, payload, fin);
	if (kept > 0)
		count_again(s, dir);
	if (kept < 0)
		stat_add(STAT_GAP_CONTENDED, 1);
	look_on(s->cur, s->conn, dir);
}

/*
 * A segment with payload or FIN. Returns whether it has its turn; the direction is owned then. None
 * has before the handshake is through.
 */
static __always_inline int segment(struct step *s, const struct packet *p, __u32 dir, __u32 seq,
				   __u32 at, int fin)
{
	int early = s->conn->state != TCP_ESTABLISHED;
	__u32 payload = p->end > at ? p->end - at : 0;
	struct cursor *c = s->cur;
	struct half *h = s->half;
	__s32 seen;

	c->now = bpf_ktime_get_ns();
	if (half_try(h)) {
		hand_over(s, dir, seq, at, payload, fin);
		return 0;
	}
	if (s->conn->check != key_check(&p->key) || is_out_of_reach(s->conn, dir, seq))
		goto out;
	c->body = 0;
	c->gap = 0;
	seen = h->next - seq;
	if (early || (seen < 0 ? !gap_is_blind(s, -seen)
			       : (__u32)seen < payload + fin && may_answer_unread(s->conn, dir))) {
		int kept = hold(s, dir, seq, at, payload, fin);

		if (kept > 0)
			count_again(s, dir);
		if (kept >= 0 || early)
			goto out;
	}
	if (seen < 0) {
		skip_gap(s, -seen);
		seen = 0;
	}
	set_bytes(c, 0, at, at);
	if ((__u32)seen < payload) {
		h->next = seq + payload;
		if (dir == DIRECTION_TX)
			rtt_begin(s->conn, h->next, c->now);
		set_bytes(c, 0, at + seen, p->end);
	} else if (payload && seq - h->hole_from >= h->hole_to - h->hole_from) {
		count_again(s, dir);
	}
	c->fin = fin && !h->fin && h->next == seq + payload;
	return 1;
out:
	half_release(h);
	if (unread(h))
		look_on(c, s->conn, dir);
	return 0;
}

/* Returns the connection of which read_stream() and segment_end() are to be called, or NULL. */
static __always_inline struct conn *tcp(struct __sk_buff *skb, struct cursor *c, __u32 pod,
					__u32 dir)
{
	struct packet *p = &c->packet;
	struct tcphdr *t = &c->tcp;
	struct conn *conn;
	__u32 at, seq, ack, state;
	int has_bytes;
	__u64 now;

	if (load(skb, p->l4, t, sizeof(*t)) || t->doff < 5)
		return NULL;
	at = p->l4 + t->doff * 4;
	seq = bpf_ntohl(t->seq);
	ack = bpf_ntohl(t->ack_seq);
	has_bytes = p->end > at || t->fin;
	set_ports(p, dir == DIRECTION_TX, t->source, t->dest);
	if (t->syn && !t->ack) {
		if (!tcp_open(p, pod, dir, seq, p->end > at ? p->end - at : 0) || p->end <= at)
			return NULL;
		seq++; /* TCP Fast Open: the payload follows the SYN's own number. */
	}
	conn = bpf_map_lookup_elem(&conns, &p->key);
	if (!conn)
		return NULL;
	if (t->syn && t->ack) {
		conn = tcp_reopen(p, conn, dir, ack);
		if (conn)
			tcp_answered(conn, dir, seq, ack);
		return NULL;
	}
	if (t->rst) {
		tcp_reset(&p->key, conn, dir, seq, ack, t->ack);
		return NULL;
	}
	/* Read once: another CPU may establish it meanwhile. */
	state = *(volatile __u32 *)&conn->state;
	if (state != TCP_ESTABLISHED) {
		if (t->ack && is_through(conn, state, dir, seq, ack, has_bytes)) {
			/* What came early has its turn, also behind a segment without bytes. */
			if (unread(&conn->half[DIRECTION_RX]) || unread(&conn->half[DIRECTION_TX]))
				look_on(c, conn, dir);
		} else if (!has_bytes) {
			return NULL;
		} else if (!is_early(conn, state, dir, t)) {
			if (dir == DIRECTION_TX && t->ack && is_of_opening(conn, dir, seq, ack))
				handshake_unseen(conn, state);
			return NULL;
		}
	}
	now = bpf_ktime_get_coarse_ns();
	/* The sweep thinks in tens of seconds, and a line that nobody writes stays in both caches.
	 */
	if (now - conn->seen_ns > SECOND / 4)
		conn->seen_ns = now;
	if (dir == DIRECTION_RX && t->ack)
		rtt_end(conn, ack);
	if (dir == DIRECTION_TX) {
		if (conn->dying == DYING_UNCERTAIN)
			conn->dying = DYING_NOT;
		if (t->ack && is_out_of_reach(conn, DIRECTION_RX, ack))
			pod_has(conn, ack);
	}
	if (conn->opaque == OPAQUE_GAP && t->ack) {
		set_bytes(c, 0, at, p->end);
		look_for_start(skb, conn, dir, seq, ack);
	}
	if (has_bytes) {
		struct step s = {.skb = skb, .conn = conn, .half = &conn->half[dir & 1], .cur = c};

		if (segment(&s, p, dir, seq, at, t->fin)) {
			/* Not that of what came early, which waits for the packet's own bytes. */
			c->dir = dir;
			return conn;
		}
	}
	return NULL;
}

/* Sets the cursor on the held segment whose turn it is. Call owning the direction. */
static __always_inline int turn(struct cursor *c, struct conn *conn, struct half *h, __u32 dir)
{
	struct held *slot;
	__u32 seen;

	if (!find_turn(c, conn, h, dir))
		return 0;
	slot = held_at(c->search.found - 1);
	/* Else another CPU adds to it just now, and looks for its turn when that is done. */
	if (!slot ||
	    __sync_val_compare_and_swap(&slot->state, HELD_FULL, HELD_CLAIMED) != HELD_FULL)
		return 0;
	c->now = bpf_ktime_get_ns();
	c->body = 0;
	c->gap = 0;
	set_bytes(c, 0, 0, 0);
	seen = h->next - slot->seq;
	if (seen < slot->len) {
		h->next = slot->seq + slot->len;
		set_bytes(c, c->search.found, seen, slot->len);
	}
	c->fin = slot->fin && !h->fin && h->next == slot->seq + slot->len;
	return 1;
}

/* No request that is held has its turn: what the server said may. */
static __always_inline void look_at_answers(struct cursor *c, const struct conn *conn, __u32 dir)
{
	if (dir != requests_direction(conn) || !unread(&conn->half[!dir]))
		return;
	c->dir = !dir;
	c->more = 1;
}

/*
 * After the segment that filled a hole, or on behalf of a CPU that found the direction owned: the
 * next of what is held. The packet is still the cursor's. Returns as tcp() does.
 */
static __always_inline struct conn *next_held(struct cursor *c, __u32 dir)
{
	struct conn *conn = bpf_map_lookup_elem(&conns, &c->packet.key);
	struct half *h;
	__u32 kept;
	int early;

	c->more = 0;
	if (!conn || conn->state != TCP_ESTABLISHED)
		return NULL;
	h = &conn->half[dir & 1];
	/* Whoever owns the direction now will look at what is held when it is done. */
	if (half_try(h))
		return NULL;
	kept = *(volatile __u32 *)&h->kept;
	early = requests_are_read(conn, dir);
	if (!early && conn->check == key_check(&c->packet.key) && turn(c, conn, h, dir))
		return conn;
	half_release(h);
	/* What came during the search may have been missed by it, and counts on this CPU; so does
	 * the CPU that reads the requests, if it was done with them meanwhile. */
	c->more = *(volatile __u32 *)&h->kept != kept || (early && !requests_are_read(conn, dir));
	if (!c->more)
		look_at_answers(c, conn, dir);
	return NULL;
}

/* The bytes are read. Sets cursor.more where held segments may have got their turn. */
__noinline int segment_end(struct conn *conn, __u32 dir)
{
	struct cursor *c = cursor();
	struct held *slot;
	struct half *h;
	__u32 index;

	if (!conn || !c)
		return 0;
	h = &conn->half[dir & 1];
	if (c->body)
		body_count(conn, dir & 1, c->body);
	if (c->search.found) {
		index = c->search.found - 1;
		c->search.found = 0;
		slot = held_at(index);
		if (slot) {
			slot->state = HELD_FREE;
			__sync_fetch_and_add(&h->held, -1);
		}
	}
	if (c->fin) {
		h->fin = 1;
		h->next++;
	}
	half_release(h);
	/* Read behind the release's barrier: what came while it was owned is not missed. */
	c->more = unread(h) > 0;
	if (!c->more)
		look_at_answers(c, conn, dir & 1);
	if (c->fin)
		tcp_fin(&c->packet.key, conn, dir & 1);
	return 0;
}

#endif
