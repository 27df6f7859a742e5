/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The handshakes that others begin with pods. Anybody can send SYNs in anybody's name, so these
 * have places of their own, and who sends many more than are answered hides none of those that are.
 *
 * A handshake that is through, or gone, gives its place back, so that there are free ones but in a
 * flood. Then some are looked at, at random, and of the pod that has most of these the oldest gives
 * its place up: a flood on one pod takes places of that pod, and hardly ever that of a handshake
 * which is young. How one ended that had to is not known: it is told of as a connection without a
 * place, and begins anew with its next SYN.
 */
#ifndef WEIR_HALF_OPEN_H
#define WEIR_HALF_OPEN_H

#include "cursor.h"

/* In half_open.conn, beside a connection's id. */
enum half_open_state { HALF_OPEN_FREE = 0, HALF_OPEN_CLAIMED };

static __always_inline struct half_open *half_open_at(__u32 index)
{
	return bpf_map_lookup_elem(&half_open, &index);
}

/* Claims a place at random, or remembers who has it. */
static long half_open_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	struct candidate *candidate = &c->claim.of[i % HALF_OPEN_TRIES];
	__u32 index = bpf_get_prandom_u32() % MAX_HALF_OPEN;
	struct half_open *place = half_open_at(index);

	if (!place)
		return 1;
	if (!__sync_val_compare_and_swap(&place->conn, HALF_OPEN_FREE, HALF_OPEN_CLAIMED)) {
		c->claim.found = index + 1;
		return 1;
	}
	candidate->place = index + 1;
	candidate->ifindex = place->key.ifindex;
	candidate->age = c->claim.since - place->since;
	/* Of a CPU whose clock is a tick ahead. */
	if ((__s32)candidate->age < 0)
		candidate->age = 0;
	return 0;
}

/*
 * Whether its pod has most of them and not that of what was chosen before, or it is older. Two of
 * eight say nothing: where many pods are flooded, the busiest of the others has them.
 */
static long half_open_judge(__u32 i, struct cursor **cur)
{
	struct claim *claim = &(*cur)->claim;
	const struct candidate *it = &claim->of[i % HALF_OPEN_TRIES];
	__u32 likes = 0, k;

	for (k = 0; k < HALF_OPEN_TRIES; k++)
		likes += claim->of[k].ifindex == it->ifindex;
	likes = likes > HALF_OPEN_TRIES / 2;
	if (likes > claim->most || (likes == claim->most && it->age > claim->age)) {
		claim->most = likes;
		claim->age = it->age;
		claim->victim = it->place;
	}
	return 0;
}

/* Claims the place of a handshake that is forgotten behind this packet. */
static __always_inline void half_open_evict(struct cursor *c)
{
	struct half_open *place;
	__u64 who;

	c->claim.most = 0;
	c->claim.age = 0;
	c->claim.victim = c->claim.of[0].place;
	bpf_loop(HALF_OPEN_TRIES, half_open_judge, &c, 0);
	place = half_open_at(c->claim.victim - 1);
	if (!place)
		return;
	who = *(volatile __u64 *)&place->conn;
	c->forgotten = place->key;
	/* Whose key it is if it is still his. Else another CPU was faster: then this one has none.
	 */
	if (who <= HALF_OPEN_CLAIMED ||
	    __sync_val_compare_and_swap(&place->conn, who, HALF_OPEN_CLAIMED) != who)
		return;
	c->forgotten_conn = who;
	c->claim.found = c->claim.victim;
}

/* A place for the handshake that the packet begins: its number, from 1; 0: there is none. */
__noinline int half_open_begin(__u64 conn)
{
	struct cursor *c = cursor();
	struct half_open *place;

	if (!c)
		return 0;
	c->claim.found = 0;
	c->claim.since = bpf_ktime_get_coarse_ns() >> 20;
	bpf_loop(HALF_OPEN_TRIES, half_open_step, &c, 0);
	if (!c->claim.found)
		half_open_evict(c);
	place = half_open_at(c->claim.found - 1);
	if (!place)
		return 0;
	place->key = c->packet.key;
	place->since = c->claim.since;
	/* A full barrier: whoever sees whose it is sees the key. */
	__sync_lock_test_and_set(&place->conn, conn);
	return c->claim.found;
}

/* Gives the place back, if it has it still. */
static __always_inline void half_open_end(__u32 number, __u64 conn)
{
	struct half_open *place = half_open_at(number - 1);

	if (number && place)
		__sync_val_compare_and_swap(&place->conn, conn, HALF_OPEN_FREE);
}

#endif
