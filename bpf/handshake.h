/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What proves that a connection is established: each side has acknowledged the other's SYN, whose
 * number only who got it knows. Anybody can send the rest in anybody's name. Until then nothing is
 * read, and what came early (RFC 7413) is kept with the segments that wait for their turn.
 */
#ifndef WEIR_HANDSHAKE_H
#define WEIR_HANDSHAKE_H

#include "tcp.h"

/* The handshake is through. */
static __always_inline void tcp_established(struct conn *conn)
{
	/* Read before: afterwards another CPU may end it, and its element be another's. */
	__u32 place = *(volatile __u16 *)&conn->place;
	__u64 id = *(volatile __u64 *)&conn->id;

	if (__sync_val_compare_and_swap(&conn->state, TCP_SYN_ACKED, TCP_ESTABLISHED) !=
	    TCP_SYN_ACKED)
		return;
	half_open_end(place, id);
	tcp_result(conn, TCP_RESULT_ESTABLISHED);
}

/* Whether a segment is of the connection that the SYN opened, and not of one before it. */
static __always_inline int is_of_opening(const struct conn *conn, __u32 dir, __u32 seq,
					 __u32 acknowledged)
{
	__u32 number = dir == requests_direction(conn) ? seq : acknowledged;

	return number - (conn->isn + 1) <= HOLD_REACH;
}

/* Whether the opener has got the other side's SYN. */
static __always_inline int is_answer_known(const struct conn *conn, __u32 state, __u32 dir,
					   __u32 acknowledged)
{
	__u32 behind = acknowledged - conn->answer;

	if (state != TCP_SYN_ACKED || dir != requests_direction(conn))
		return 0;
	/* A server that sends more shows by that what it has got. Of a pod that opens, it is the
	 * pod's own word, and may acknowledge what is kept already. */
	return dir == DIRECTION_TX ? behind <= HOLD_REACH : !behind;
}

/*
 * A segment, neither SYN nor reset, of a connection that is not established. Returns whether it is
 * by now. A pod that was asked sends bytes only to who acknowledged its SYN or has its cookie
 * (RFC 7413).
 */
static __always_inline int is_through(struct conn *conn, __u32 state, __u32 dir, __u32 seq,
				      __u32 acknowledged, int has_bytes)
{
	if (!is_answer_known(conn, state, dir, acknowledged) &&
	    (state != TCP_SYN_ACKED || dir != DIRECTION_TX || !has_bytes ||
	     dir == requests_direction(conn) || seq - conn->answer > HOLD_REACH ||
	     !is_of_opening(conn, dir, 0, acknowledged)))
		return 0;
	tcp_established(conn);
	return 1;
}

/* Whether it may have bytes that are to be kept until the handshake is through: the SYN's own, and
 * what the server of a pod sends behind its SYN, before the pod has acknowledged that. */
static __always_inline int is_early(const struct conn *conn, __u32 state, __u32 dir,
				    const struct tcphdr *t)
{
	if (t->syn)
		return !t->fin;
	return state == TCP_SYN_ACKED && dir == DIRECTION_RX && dir != requests_direction(conn);
}

/*
 * The pod sends bytes on a connection of which the other side's SYN never passed here, or another
 * than the one that counts: nobody knows where its bytes begin, nor what became of it. It is not
 * followed.
 */
__noinline int handshake_unseen(struct conn *conn, __u32 state)
{
	struct cursor *c = cursor();

	if (!conn || !c)
		return 0;
	if (conn_take(conn, key_check(&c->packet.key)))
		return 0;
	if (conn->state != state) {
		conn_release(conn);
		return 0;
	}
	stat_add(STAT_GAP_SEQUENCE, 1);
	conn_remove(&c->packet.key, conn, 0);
	return 0;
}

/* Takes out the handshake that gave its place up, if it is not through by now. */
__noinline int half_open_forget(void)
{
	struct cursor *c = cursor();
	struct conn *conn;
	__u64 who;

	if (!c)
		return 0;
	who = c->forgotten_conn;
	c->forgotten_conn = 0;
	conn = bpf_map_lookup_elem(&conns, &c->forgotten);
	if (!conn || conn->id != who || conn_take(conn, key_check(&c->forgotten)))
		return 0;
	if (conn->id != who || conn->state == TCP_ESTABLISHED) {
		conn_release(conn);
		return 0;
	}
	stat_add(STAT_FULL_CONNS, 1);
	conn_remove(&c->forgotten, conn, 1);
	return 0;
}

/*
 * A SYN-ACK. The server's answers the opener's SYN, with some or all of its bytes or none; the time
 * between the two is the handshake's as the pod saw it. The opener's own is that of SYNs that
 * crossed.
 */
static __always_inline void tcp_answered(struct conn *conn, __u32 dir, __u32 seq,
					 __u32 acknowledged)
{
	__u32 taken = acknowledged - (conn->isn + 1);
	struct half *answers = &conn->half[dir & 1];

	if (dir == requests_direction(conn)) {
		if (seq == conn->isn && is_answer_known(conn, conn->state, dir, acknowledged))
			tcp_established(conn);
		return;
	}
	/* A server that has forgotten its first answer gives another. */
	if (conn->state >= TCP_ESTABLISHED || taken > conn->early ||
	    (conn->state == TCP_SYN_ACKED && conn->answer == seq + 1))
		return;
	answers->next = seq + 1;
	conn->answer = seq + 1;
	if (__sync_val_compare_and_swap(&conn->state, TCP_SYN_SENT, TCP_SYN_ACKED) != TCP_SYN_SENT)
		return;
	histogram_add(conn->pod, fields(HISTOGRAM_TCP_CONNECT, conn->role, 0, 0),
		      bpf_ktime_get_ns() - conn->syn_ns);
	/* They do not come again, and had no place. */
	if (taken && !conn->half[!(dir & 1)].held) {
		conn->opaque = OPAQUE_GAP;
		stat_add(STAT_GAP_SEQUENCE, 1);
	}
}

#endif
