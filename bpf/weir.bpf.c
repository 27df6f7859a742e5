/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "maps.h"

const volatile __u64 histogram_bounds[HISTOGRAM_BOUNDS];

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

SEC("tc")
int weir_from_pod(struct __sk_buff *skb)
{
	return -1;
}

SEC("tc")
int weir_to_pod(struct __sk_buff *skb)
{
	return -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
