/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * DNS over TCP (RFC 7766): messages one after the other, each behind its length (RFC 1035, 4.2.2).
 * The question's name is walked label by label and not kept; what follows it is passed over.
 */
#ifndef WEIR_DNS_TCP_H
#define WEIR_DNS_TCP_H

#include "dns.h"
#include "step.h"

/* A message's length, and its header. */
#define DNS_TCP_HEADER (2 + DNS_HEADER)
/* No query is so long (in units of 256): what begins so is not DNS, whatever its port. */
#define DNS_TCP_LONGEST 16

/* Whether the connection is to or from the port of DNS. */
static __always_inline int dns_port(const struct conn_key *key)
{
	return key->pod_port == bpf_htons(DNS_PORT) || key->peer_port == bpf_htons(DNS_PORT);
}

/* Passes over the rest of the message; half.head_len is what is left of it. */
static __always_inline void dns_rest(struct half *h)
{
	h->remain = h->head_len;
	h->state = h->remain ? HALF_SKIP : HALF_MESSAGE;
	h->then = HALF_MESSAGE;
}

static __always_inline int dns_malformed(struct step *s)
{
	if (!s->conn->decided)
		decide(s->conn, L7_UNKNOWN);
	else
		give_up(s, STAT_GAP_MALFORMED);
	return 1;
}

/* All of a message that is looked at was seen. */
static __always_inline int dns_take(struct step *s, int qtype)
{
	struct half *h = s->half;
	__u32 what = fields(h->status & DNS_RCODE, s->conn->role, TRANSPORT_TCP, s->responses);

	dns_rest(h);
	dns_message(s->skb, s->conn->pod, what, h->tail, qtype);
	return 0;
}

/* half.status keeps the flags, half.tail the id, half.remain how much of the name there was. */
static __always_inline int dns_header_step(struct step *s)
{
	struct half *h = s->half;
	__u8 *b = h->line;
	__u16 flags = b[4] << 8 | b[5];

	h->head_len = b[0] << 8 | b[1];
	if (h->head_len < DNS_HEADER || !(flags & DNS_RESPONSE) != !s->responses)
		return dns_malformed(s);
	h->head_len -= DNS_HEADER;
	if (flags & DNS_OPCODE) {
		dns_rest(h); /* Updates and notifications are no look-ups. */
		return 0;
	}
	h->status = flags;
	h->tail = b[2] | b[3] << 8; /* In network byte order, as the key has it. */
	if (s->responses && s->conn->decided && !b[6] && !b[7])
		return dns_take(s, -1);
	if (b[6] || b[7] != 1)
		return dns_malformed(s);
	h->started = 0;
	h->state = HALF_LABEL;
	return 0;
}

static __always_inline int dns_label_step(struct step *s)
{
	struct half *h = s->half;
	__u8 label = h->line[0];

	h->started += 1 + label;
	if (label > DNS_LABEL_MAX || h->started > DNS_NAME_MAX || h->head_len < 1 + label + 4)
		return dns_malformed(s);
	h->head_len -= 1 + label;
	h->state = label ? HALF_SKIP : HALF_QUESTION;
	h->remain = label;
	h->then = HALF_LABEL;
	return 0;
}

static __always_inline int dns_question_step(struct step *s)
{
	struct half *h = s->half;

	if (!s->conn->decided)
		decide(s->conn, L7_DNS);
	h->head_len -= 4;
	return dns_take(s, h->line[0] << 8 | h->line[1]);
}

static long dns_step(__u32 i, struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;
	__u32 want;

	if (c->at >= c->end)
		return 1;
	if (h->state == HALF_SKIP) {
		if (pass(s))
			h->state = h->then;
		return 0;
	}
	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	if (h->state == HALF_START)
		h->state = HALF_MESSAGE;
	want = h->state == HALF_MESSAGE ? DNS_TCP_HEADER : h->state == HALF_LABEL ? 1 : 4;
	gather(c, h, want);
	if (h->line_len < want)
		return 0;
	h->line_len = 0;
	switch (h->state) {
	case HALF_MESSAGE:
		return dns_header_step(s);
	case HALF_LABEL:
		return dns_label_step(s);
	default:
		return dns_question_step(s);
	}
}

#endif
