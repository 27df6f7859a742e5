/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * DNS (RFC 1035) over UDP, and what it has in common with DNS over TCP: a query waits in a map
 * until its response, or the sweep, takes it out.
 */
#ifndef WEIR_DNS_H
#define WEIR_DNS_H

#include "record.h"
#include "parse.h"

#define DNS_PORT 53
#define DNS_HEADER 12
#define DNS_NAME_MAX 255
#define DNS_LABEL_MAX 63
/* The longest name, and type and class behind it. */
#define DNS_QUESTION_MAX (DNS_NAME_MAX + 4)
#define DNS_RESPONSE 0x8000
#define DNS_OPCODE 0x7800
#define DNS_RCODE 0x000f

struct dns_header {
	__u16 id;
	__u16 flags;
	__u16 questions;
	__u16 answers;
	__u16 authorities;
	__u16 additionals;
};

/* The type in the question that the window's first `len` bytes hold, or -1. */
__noinline int dns_qtype(struct cursor *c, __u32 len)
{
	__u32 at = 0, i;

	if (!c)
		return -1;
	for (i = 0; i < DNS_NAME_MAX / 2 + 1; i++) {
		__u8 label = c->window[at & WINDOW_MASK];

		if (at + 5 > len || label > DNS_LABEL_MAX)
			return -1;
		if (!label)
			return c->window[(at + 1) & WINDOW_MASK] << 8 |
			       c->window[(at + 2) & WINDOW_MASK];
		at += label + 1;
		if (at >= DNS_NAME_MAX)
			return -1;
	}
	return -1;
}

/*
 * The types that are told apart, as the agent does; all others are 0 in the counters, or 65,536 of
 * them from one pod would fill the table for all.
 */
static __always_inline __u16 dns_counted_type(__u16 qtype)
{
	switch (qtype) {
	case 1:	  /* A */
	case 2:	  /* NS */
	case 5:	  /* CNAME */
	case 6:	  /* SOA */
	case 12:  /* PTR */
	case 15:  /* MX */
	case 16:  /* TXT */
	case 28:  /* AAAA */
	case 33:  /* SRV */
	case 65:  /* HTTPS */
	case 255: /* ANY */
		return qtype;
	default:
		return 0;
	}
}

/* Whose message it is, and how it came. */
struct dns_side {
	__u32 pod;
	__u8 role;
	__u8 transport;
	__u16 zero;
};

static __always_inline void dns_count(const struct dns_side *side, __u8 kind, __u8 rcode,
				      __u16 qtype)
{
	counter_add(side->pod, fields(kind, side->role, rcode, side->transport),
		    dns_counted_type(qtype), 1);
}

/* One of two queries, of which the other was refused by a response that did not say which. No type
 * has this number (RFC 6895, 3.1). */
#define DNS_EITHER 0xffff

/* Whether it asked for this, or may have; whatever it asked for if -1. */
static __always_inline int dns_asks(const struct dns_query *query, int qtype)
{
	return query && (qtype < 0 || query->qtype == qtype || query->qtype == DNS_EITHER);
}

/* The pending query of these ends and this id that asked for this. */
static __always_inline struct dns_query *dns_find(struct dns_key *key, int qtype)
{
	struct dns_query *found = bpf_map_lookup_elem(&dns_pending, key);

	if (dns_asks(found, qtype))
		return found;
	key->place |= 1;
	found = bpf_map_lookup_elem(&dns_pending, key);
	return dns_asks(found, qtype) ? found : NULL;
}

/* The other one of these ends and this id. */
static __always_inline struct dns_query *dns_beside(struct dns_key *key)
{
	struct dns_query *other;

	key->place ^= 1;
	other = bpf_map_lookup_elem(&dns_pending, key);
	key->place ^= 1;
	return other;
}

static __always_inline void dns_asked(struct cursor *c, const struct dns_side *side, __u16 qtype)
{
	struct dns_key *key = &c->dns;
	const struct dns_query *first = bpf_map_lookup_elem(&dns_pending, key), *second;

	dns_count(side, COUNTER_DNS_QUERIES, 0, qtype);
	key->place |= 1;
	second = bpf_map_lookup_elem(&dns_pending, key);
	/* The same query again: its time runs from the first. */
	if (dns_asks(first, qtype) || dns_asks(second, qtype))
		return;
	key->place &= first ? ~0 : ~1;
	c->query.asked_ns = bpf_ktime_get_ns();
	c->query.pod = side->pod;
	c->query.role = side->role;
	c->query.transport = side->transport;
	c->query.qtype = qtype;
	if (!share_take_dns(side->pod, side->role)) {
		if (!bpf_map_update_elem(&dns_pending, key, &c->query, BPF_NOEXIST)) {
			stat_add(STAT_DNS_CREATED, 1);
			return;
		}
		share_give_dns(side->pod, side->role);
		/* Another CPU had the same. */
		first = bpf_map_lookup_elem(&dns_pending, key);
		if (first && first->qtype == qtype)
			return;
	}
	stat_add(STAT_FULL_DNS, 1);
	room_wanted = 1;
}

/* The question is in the window; over TCP it is not kept. */
static __always_inline void record_lookup(struct __sk_buff *skb, const struct dns_key *key,
					  const struct dns_side *side, __u8 rcode, __u16 qtype,
					  __u64 ns)
{
	struct cursor *c = cursor();
	struct record *r;

	if (!c)
		return;
	r = record_begin(c, RECORD_EXCHANGE);
	r->duration_ns = ns;
	r->number = bpf_ntohs(key->id);
	r->pod = side->pod;
	r->role = side->role;
	r->protocol = L7_DNS;
	r->method = side->transport;
	r->status = qtype;
	r->code = rcode;
	if (side->transport == TRANSPORT_UDP && c->filled)
		record_send_bytes(skb, NOWHERE, c->filled);
	else
		record_send();
}

/*
 * A response: who refuses a query need not repeat its question (RFC 9619, 3; qtype is -1 then), so
 * that its ends and its id alone tell which it answers.
 */
static __always_inline void dns_answered(struct __sk_buff *skb, struct cursor *c,
					 const struct dns_side *side, __u8 rcode, int qtype)
{
	struct dns_query *found = dns_find(&c->dns, qtype), *query = &c->query;
	struct dns_query *other = found && qtype < 0 ? dns_beside(&c->dns) : NULL;

	/* Who has it in the table, though the interface is another pod's by now. */
	if (found)
		*query = *found;
	/* Of two responses at once, the one that removes the query answered it. */
	if (!found || bpf_map_delete_elem(&dns_pending, &c->dns)) {
		dns_count(side, COUNTER_DNS_UNMATCHED, 0, 0);
		return;
	}
	stat_add(STAT_DNS_REMOVED, 1);
	share_give_dns(query->pod, query->role);
	/* Which of two is refused nobody can tell: that is told as another type, and so is the
	 * second if it doesn't say either. */
	if (query->qtype == DNS_EITHER)
		query->qtype = qtype < 0 ? 0 : qtype;
	if (other) {
		other->qtype = DNS_EITHER;
		query->qtype = 0;
	}
	dns_count(side, COUNTER_DNS_RESPONSES, rcode, query->qtype);
	query->asked_ns = bpf_ktime_get_ns() - query->asked_ns;
	histogram_add(side->pod, fields(HISTOGRAM_DNS_LOOKUP, side->role, 0, 0), query->asked_ns);
	if (listening())
		record_lookup(skb, &c->dns, side, rcode, query->qtype, query->asked_ns);
}

/*
 * A message whose question asks for this, of the packet at hand; in `what` rcode, role, transport
 * and whether it is a response. The id is in network byte order.
 */
__noinline int dns_message(struct __sk_buff *skb, __u32 pod, __u32 what, __u32 id, int qtype)
{
	struct dns_side side = {.pod = pod, .role = what >> 8, .transport = what >> 16};
	struct cursor *c = cursor();

	if (!c)
		return 0;
	/* Here and not on the stack, of which 6.1 gives a chain of calls 512 bytes. */
	__builtin_memcpy(&c->dns, &c->packet.key, sizeof(c->packet.key));
	c->dns.id = id;
	c->dns.place = side.role << 1 | side.transport << 3;
	if (what >> 24)
		dns_answered(skb, c, &side, what, qtype);
	else
		dns_asked(c, &side, qtype);
	return 0;
}

static __noinline void dns(struct __sk_buff *skb, const struct packet *p, __u32 pod, __u32 dir)
{
	struct dns_header header;
	struct cursor *c = cursor();
	__u32 at = p->l4 + sizeof(struct udphdr);
	int tx = dir == DIRECTION_TX, qtype = -1;
	/* Port 53 is the server's: on the pod's side, or on the peer's. */
	int serves = p->key.pod_port == bpf_htons(DNS_PORT);
	struct dns_side side = {
		.pod = pod, .role = serves ? ROLE_SERVER : ROLE_CLIENT, .transport = TRANSPORT_UDP};
	int response = serves == tx;
	__u16 flags;

	if (!c)
		return;
	/* A held segment may have been the last that was read. */
	c->source = 0;
	c->at = at + DNS_HEADER;
	c->end = p->end < c->at + DNS_QUESTION_MAX ? p->end : c->at + DNS_QUESTION_MAX;
	c->filled = 0;
	if (p->end < c->at || load(skb, at, &header, sizeof(header)))
		goto malformed;
	flags = bpf_ntohs(header.flags);
	/* Between two servers the message alone says who asks. */
	if (p->key.pod_port == p->key.peer_port) {
		response = !!(flags & DNS_RESPONSE);
		side.role = response == tx ? ROLE_SERVER : ROLE_CLIENT;
	}
	if (flags & DNS_OPCODE)
		return; /* Updates and notifications are no look-ups. */
	if (!!(flags & DNS_RESPONSE) != response)
		goto malformed;
	if (header.questions || !response) {
		if (header.questions != bpf_htons(1) || refill(skb, c))
			goto malformed;
		qtype = dns_qtype(c, c->filled);
		if (qtype < 0)
			goto malformed;
	}
	dns_message(skb, pod, fields(flags & DNS_RCODE, side.role, TRANSPORT_UDP, response),
		    header.id, qtype);
	return;
malformed:
	dns_count(&side, COUNTER_DNS_MALFORMED, 0, 0);
}

static __always_inline void udp(struct __sk_buff *skb, struct packet *p, __u32 pod, __u32 dir)
{
	struct udphdr u;

	if (load(skb, p->l4, &u, sizeof(u)))
		return;
	set_ports(p, dir == DIRECTION_TX, u.source, u.dest);
	if (u.source == bpf_htons(DNS_PORT) || u.dest == bpf_htons(DNS_PORT))
		dns(skb, p, pod, dir);
}

#endif
