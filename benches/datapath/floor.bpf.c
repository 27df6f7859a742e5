// What a run can't do without: each of these programs does some of what Weir's do with every
// segment, by their own functions and maps, and reads no byte of payload.
#include "count.h"
#include "cursor.h"
#include "parse.h"

const struct pod_traffic no_traffic;
const struct conn no_conn;

// The pod's counters, by its interface.
static __always_inline int pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct pod_traffic *traffic = bpf_map_lookup_elem(&pods, &ifindex);

	if (!traffic) {
		bpf_map_update_elem(&pods, &ifindex, &no_traffic, BPF_ANY);
		return -1;
	}
	traffic_add(traffic, 0, 0, skb->len, segments(skb), 0);
	return 0;
}

// And the connection, by its addresses and ports.
static __always_inline struct conn *connection(struct __sk_buff *skb)
{
	struct cursor *c = cursor();
	struct conn *conn;
	struct tcphdr t;

	if (!c || pod(skb) || parse_ip(skb, 0, &c->packet) != IPPROTO_TCP ||
	    load(skb, c->packet.l4, &t, sizeof(t)))
		return 0;
	set_ports(&c->packet, 0, t.source, t.dest);
	conn = bpf_map_lookup_elem(&conns, &c->packet.key);
	if (!conn)
		bpf_map_update_elem(&conns, &c->packet.key, &no_conn, BPF_ANY);
	return conn;
}

SEC("tc")
int floor_nothing(struct __sk_buff *skb)
{
	return -1;
}

SEC("tc")
int floor_pod(struct __sk_buff *skb)
{
	pod(skb);
	return -1;
}

SEC("tc")
int floor_conn(struct __sk_buff *skb)
{
	struct conn *conn = connection(skb);

	if (conn)
		conn->seen_ns = bpf_ktime_get_coarse_ns();
	return -1;
}

// What counting without reading comes to: the pod's bytes, and each connection from its SYN to its
// FIN.
SEC("tc")
int floor_layer4(struct __sk_buff *skb)
{
	struct cursor *c = cursor();
	struct conn *conn;
	struct tcphdr t;

	if (!c || pod(skb) || parse_ip(skb, 0, &c->packet) != IPPROTO_TCP ||
	    load(skb, c->packet.l4, &t, sizeof(t)))
		return -1;
	set_ports(&c->packet, 0, t.source, t.dest);
	if (t.syn) {
		bpf_map_update_elem(&conns, &c->packet.key, &no_conn, BPF_ANY);
	} else if (t.fin || t.rst) {
		bpf_map_delete_elem(&conns, &c->packet.key);
	} else {
		conn = bpf_map_lookup_elem(&conns, &c->packet.key);
		if (conn)
			conn->seen_ns = bpf_ktime_get_coarse_ns();
	}
	return -1;
}

// A request's first 460 bytes, and when it came.
SEC("tc")
int floor_request(struct __sk_buff *skb)
{
	struct conn *conn = connection(skb);
	struct cursor *c = cursor();

	if (!conn || !c)
		return -1;
	conn->seen_ns = bpf_ktime_get_ns();
	bpf_skb_load_bytes(skb, c->packet.l4 + 32, c->window, 460);
	return -1;
}

// An exchange's end: its counter and its histogram.
SEC("tc")
int floor_response(struct __sk_buff *skb)
{
	struct conn *conn = connection(skb);
	struct cursor *c = cursor();

	if (!conn || !c)
		return -1;
	conn->seen_ns = bpf_ktime_get_ns();
	bpf_skb_load_bytes(skb, c->packet.l4 + 32, c->window, 120);
	counter_add(1, fields(COUNTER_HTTP_REQUESTS, ROLE_SERVER, HTTP_METHOD_GET, 2), 200, 1);
	histogram_add(1, fields(HISTOGRAM_HTTP_REQUEST, ROLE_SERVER, HTTP_METHOD_GET, 0),
		      conn->seen_ns & 0xffff);
	return -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
