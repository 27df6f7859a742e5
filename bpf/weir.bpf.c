/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs. Those that count only count: every path returns TC_ACT_UNSPEC (as tcx: TCX_NEXT),
 * so whatever is attached behind them decides about the packet as if they were not there. The two
 * that limit are attached to pods with a limit alone.
 */
#include "limit.h"
#include "merge.h"
#include "sweep.h"

#define NEXT -1
#define DROP 2 /* TC_ACT_SHOT */

/* The skeleton emits only types that a map or a global reaches. */
struct {
	enum direction direction;
	enum family family;
	enum role role;
	enum transport transport;
	enum http_method http_method;
	enum http_version http_version;
	enum http_status http_status;
	enum http_error http_error;
	enum tcp_result tcp_result;
	enum l7_protocol l7_protocol;
	enum tls_version tls_version;
	enum db_operation db_operation;
	enum db_outcome db_outcome;
	enum counter_kind counter_kind;
	enum histogram_kind histogram_kind;
	enum attach_mode attach_mode;
	enum stat stat;
	enum record_kind record_kind;
	enum head_part head_part;
	enum merge_kind merge_kind;
	enum share_table share_table;
	struct merge_entry merge_entry;
	struct record_data record_data;
} wire_btf;

/* Returns as tcp() does. */
static __noinline struct conn *count(struct __sk_buff *skb, struct cursor *c, __u32 dir)
{
	__u32 ifindex = skb->ifindex;
	struct pod_traffic *traffic = bpf_map_lookup_elem(&pods, &ifindex);
	struct packet *p = &c->packet;
	int protocol;

	/* Clang 16 knows both callers and leaves masks out, whose value the verifier then needs. */
	asm volatile("" : "+r"(dir));
	dir &= 1;
	c->more = 0;
	c->dir = dir;
	c->search.found = 0;
	c->restarts = 0;
	c->whole = 1;
	if (!traffic) {
		stat_add(STAT_UNKNOWN_INTERFACE, 1);
		return NULL;
	}
	protocol = parse_ip(skb, dir == DIRECTION_TX, p);
	if (protocol < 0)
		return NULL;
	traffic_add(traffic, dir, p->key.family, skb->len, segments(skb), 0);
	if (protocol == IPPROTO_TCP)
		return tcp(skb, c, traffic->pod, dir);
	if (protocol == IPPROTO_UDP)
		udp(skb, p, traffic->pod, dir);
	else if (protocol == PROTOCOL_FRAGMENT)
		stat_add(STAT_GAP_FRAGMENT, 1);
	return NULL;
}

/* From here and not from read_stream(), because of 6.1's 512 bytes of stack. */
static __always_inline void read_bytes(struct __sk_buff *skb, const struct cursor *c,
				       struct conn *conn, __u32 dir)
{
	if (conn->protocol < L7_REDIS) {
		read_stream(skb, c, conn, dir);
		if (conn->protocol < L7_REDIS)
			return;
	}
	if (conn->protocol == L7_REDIS) {
		read_redis(skb, conn, dir);
	} else if (conn->protocol == L7_POSTGRESQL) {
		read_postgresql(skb, conn, dir);
	} else if (conn->protocol == L7_MYSQL) {
		read_mysql(skb, conn, dir);
		/* The client asked for TLS, and may begin with it at once. */
		if (conn->protocol == L7_UNDECIDED)
			read_stream(skb, c, conn, dir);
	} else {
		read_kafka(skb, conn, dir);
	}
}

static __always_inline void packet(struct __sk_buff *skb, const __u32 dir)
{
	struct cursor *c = cursor();
	struct conn *conn;
	__u32 i;

	if (!c)
		return;
	conn = count(skb, c, dir);
	if (conn && c->restarts)
		resync(conn, dir);
	/* Each further round reads a held segment, or sees that none has its turn. */
	for (i = 0; i <= 2 * HOLD_MAX; i++) {
		if (conn) {
			read_bytes(skb, c, conn, c->dir);
			segment_end(conn, c->dir);
		}
		/* Behind the last round nobody would give back what next_held() takes. What is
		 * still held then is read with the next packet, or told of as a gap at the end. */
		if (!c->more || i == 2 * HOLD_MAX)
			break;
		conn = next_held(c, c->dir & 1);
	}
	c->whole = 0;
	if (c->forgotten_conn)
		half_open_forget();
	if (room_wanted)
		make_room();
}

/* On the host's side of the veth: ingress. */
SEC("tc")
int weir_from_pod(struct __sk_buff *skb)
{
	packet(skb, DIRECTION_TX);
	return NEXT;
}

/* On the host's side of the veth: egress. */
SEC("tc")
int weir_to_pod(struct __sk_buff *skb)
{
	packet(skb, DIRECTION_RX);
	return NEXT;
}

SEC("tc")
int weir_limit_from(struct __sk_buff *skb)
{
	return is_over_limit(skb, DIRECTION_TX) ? DROP : NEXT;
}

SEC("tc")
int weir_limit_to(struct __sk_buff *skb)
{
	return is_over_limit(skb, DIRECTION_RX) ? DROP : NEXT;
}

/*
 * Run by BPF_PROG_TEST_RUN, which on 6.1 lets softirqs in, and with them packets on the same CPU:
 * whatever it adds to it adds to in one instruction, and what else it touches other CPUs may have
 * at the same time anyway. Only a live record may be overwritten there before it is sent.
 */
SEC("tc")
int weir_sweep(struct __sk_buff *skb)
{
	sweep();
	return 0;
}

/* Likewise; 0: all of it was added. */
SEC("tc")
int weir_merge(struct __sk_buff *skb)
{
	return merge(skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
