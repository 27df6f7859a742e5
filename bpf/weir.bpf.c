/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs. They only count: every path returns TC_ACT_UNSPEC (as tcx: TCX_NEXT), so whatever
 * is attached behind them decides about the packet as if they were not there.
 */
#include "dns.h"
#include "sweep.h"

#define NEXT -1

/* The skeleton emits only types that a map or a global reaches. */
struct {
	enum direction direction;
	enum family family;
	enum role role;
	enum transport transport;
	enum http_method http_method;
	enum http_version http_version;
	enum http_error http_error;
	enum tcp_result tcp_result;
	enum l7_protocol l7_protocol;
	enum counter_kind counter_kind;
	enum histogram_kind histogram_kind;
	enum attach_mode attach_mode;
	enum stat stat;
} wire_btf;

/* Returns whether held segments of the packet's connection may have got their turn. */
static __noinline int count(struct __sk_buff *skb, __u32 dir)
{
	__u32 ifindex = skb->ifindex;
	struct pod_traffic *traffic = bpf_map_lookup_elem(&pods, &ifindex);
	struct cursor *c = cursor();
	struct net_counter *net;
	struct packet *p;
	int protocol;

	if (!c)
		return 0;
	if (!traffic) {
		stat_add(STAT_UNKNOWN_INTERFACE, 1);
		return 0;
	}
	p = &c->packet;
	protocol = parse_ip(skb, dir == DIRECTION_TX, p);
	if (protocol < 0)
		return 0;
	/* Per CPU with softirqs off: nobody else adds here meanwhile. */
	net = &traffic->net[dir][p->key.family & 1];
	net->bytes += skb->len;
	net->packets += segments(skb);
	if (protocol == IPPROTO_TCP)
		return tcp(skb, p, traffic->pod, dir);
	if (protocol == IPPROTO_UDP)
		udp(skb, p, traffic->pod, dir);
	else if (protocol == PROTOCOL_FRAGMENT)
		stat_add(STAT_GAP_FRAGMENT, 1);
	return 0;
}

/* Each round but the last reads at least one held segment or sees that one came. */
static __always_inline void go_on(struct __sk_buff *skb, __u32 dir)
{
	int i;

	for (i = 0; i < HOLD_MAX; i++)
		if (!resume(skb, dir))
			break;
}

/* On the host's side of the veth: ingress. */
SEC("tc")
int weir_from_pod(struct __sk_buff *skb)
{
	if (count(skb, DIRECTION_TX))
		go_on(skb, DIRECTION_TX);
	if (room_wanted)
		make_room();
	return NEXT;
}

/* On the host's side of the veth: egress. */
SEC("tc")
int weir_to_pod(struct __sk_buff *skb)
{
	if (count(skb, DIRECTION_RX))
		go_on(skb, DIRECTION_RX);
	if (room_wanted)
		make_room();
	return NEXT;
}

/* Run by BPF_PROG_TEST_RUN, which keeps softirqs off as the packet path does. */
SEC("tc")
int weir_sweep(struct __sk_buff *skb)
{
	sweep();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
