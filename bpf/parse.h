/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a frame to its addresses, ports and payload. Each parser returns what follows, or -1.
 *
 * Headers are read by direct access where they are linear, else by bpf_skb_load_bytes: a veth's
 * skbs have their headers linear and their TCP payload not (5,409 of 5,409 on Linux 6.18), but
 * nothing promises it. The packet is never pulled: that writes, and costs 7.7 us at 64 kB.
 */
#ifndef WEIR_PARSE_H
#define WEIR_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "conn.h"

/* The tag of a frame whose device did not take it off (IEEE 802.1Q). */
#define VLAN_HLEN 4

#define IP_OFFSET_MASK 0x1fff
#define IP_MORE 0x2000
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_MORE 0x1
#define IPV6_EXTENSIONS_MAX 8
/* No offset in a frame's headers is beyond: Ethernet, the longest IPv6 chain, TCP. */
#define HEADERS_MAX 0x3fff

struct vlan_tag {
	__u16 control;
	__u16 protocol; /* of what is behind it */
};

struct packet {
	struct conn_key key; /* ports are 0 but for TCP and UDP */
	__u32 l4;	     /* offset of the L4 header */
	__u32 end;	     /* offset behind the IP payload, without link padding */
	__u8 protocol;	     /* IPPROTO_*, or 0xff: a part of a packet */
};

#define PROTOCOL_FRAGMENT 0xff

/* Copies `len` (a constant) header bytes; 0 on success. */
static __always_inline int load(struct __sk_buff *skb, __u32 off, void *to, const __u32 len)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;

	if (off > HEADERS_MAX)
		return -1;
	if (data + off + len <= data_end) {
		__builtin_memcpy(to, data + off, len);
		return 0;
	}
	return bpf_skb_load_bytes(skb, off, to, len);
}

/* Where the packet that IP describes ends: the frame may be padded, a BIG TCP length is 0. */
static __always_inline __u32 ip_end(struct __sk_buff *skb, __u32 described)
{
	return described && described < skb->len ? described : skb->len;
}

/*
 * Whether a fragment is only a part, of which nothing above IP can be told. A datagram's first has
 * what is read of it: a DNS message's header and its question.
 */
static __always_inline int is_part(__u8 protocol, __u16 field, __u16 offset, __u16 more)
{
	return field & bpf_htons(offset) || (field & bpf_htons(more) && protocol != IPPROTO_UDP);
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 l3, int tx, struct packet *p)
{
	struct iphdr ip;
	__u32 header;

	if (load(skb, l3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	header = ip.ihl * 4;
	p->key.family = FAMILY_IPV4;
	__builtin_memcpy(p->key.pod_addr, tx ? &ip.saddr : &ip.daddr, 4);
	__builtin_memcpy(p->key.peer_addr, tx ? &ip.daddr : &ip.saddr, 4);
	p->l4 = l3 + header;
	p->end = ip_end(skb, ip.tot_len ? l3 + bpf_ntohs(ip.tot_len) : 0);
	p->protocol = is_part(ip.protocol, ip.frag_off, IP_OFFSET_MASK, IP_MORE) ? PROTOCOL_FRAGMENT
										 : ip.protocol;
	return p->protocol;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 l3, int tx, struct packet *p)
{
	struct ipv6hdr ip;
	struct {
		__u8 next;
		__u8 len;
		__u16 fragment; /* of a fragment header: offset and more-fragments */
	} extension;
	__u32 off = l3 + sizeof(ip);
	__u8 next;
	int i;

	if (load(skb, l3, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	p->key.family = FAMILY_IPV6;
	__builtin_memcpy(p->key.pod_addr, tx ? &ip.saddr : &ip.daddr, 16);
	__builtin_memcpy(p->key.peer_addr, tx ? &ip.daddr : &ip.saddr, 16);
	p->end = ip_end(skb, ip.payload_len ? off + bpf_ntohs(ip.payload_len) : 0);
	next = ip.nexthdr;
	for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (next == IPPROTO_TCP || next == IPPROTO_UDP)
			break;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			break;
		if (load(skb, off, &extension, sizeof(extension)))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			/* A whole packet may have the header as well (RFC 6946). */
			next = is_part(extension.next, extension.fragment, IPV6_OFFSET_MASK,
				       IPV6_MORE)
				       ? PROTOCOL_FRAGMENT
				       : extension.next;
			off += 8;
			continue;
		}
		next = extension.next;
		off += (extension.len + 1) *
		       8; /* RFC 8200, 4.3: in units of 8 octets less the first */
	}
	p->l4 = off;
	p->protocol = next;
	return next;
}

/* Fills `p` and returns the L4 protocol; -1 for what is no IP. `tx`: the pod is the source. */
static __always_inline int parse_ip(struct __sk_buff *skb, int tx, struct packet *p)
{
	__u32 protocol = skb->protocol, l3 = ETH_HLEN;
	struct vlan_tag tag;

	__builtin_memset(p, 0, sizeof(*p));
	p->key.ifindex = skb->ifindex;
	if (protocol == bpf_htons(ETH_P_8021Q)) {
		if (load(skb, ETH_HLEN, &tag, sizeof(tag)))
			return -1;
		protocol = tag.protocol;
		l3 += VLAN_HLEN;
	}
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, l3, tx, p);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, l3, tx, p);
	return -1;
}

/* TCP and UDP begin with the same two ports. */
static __always_inline void set_ports(struct packet *p, int tx, __u16 source, __u16 dest)
{
	p->key.pod_port = tx ? source : dest;
	p->key.peer_port = tx ? dest : source;
}

/* Segments on the wire: what GSO will make of this skb. */
static __always_inline __u32 segments(struct __sk_buff *skb)
{
	return skb->gso_segs > 1 ? skb->gso_segs : 1;
}

#endif
