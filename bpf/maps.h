/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps that outlive every process. All that a packet adds to are preallocated: it never waits
 * for memory. */
#ifndef WEIR_MAPS_H
#define WEIR_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "conn.h"
#include "wire.h"
#include "wire_merge.h"

/* Host-side ifindex to the pod behind it and its L3 counters: one look-up per packet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, struct pod_traffic);
} pods SEC(".maps");

/* Attachment id to its names; the packet path never reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, struct attachment);
} attachments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_COUNTERS);
	__type(key, struct counter_key);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HISTOGRAMS);
	__type(key, struct histogram_key);
	__type(value, struct histogram);
} histograms SEC(".maps");

/* Emptied by FIN, RST and the sweep; full, L3 counting goes on and STAT_FULL_CONNS tells. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CONNS);
	__type(key, struct conn_key);
	__type(value, struct conn);
} conns SEC(".maps");

/* The handshakes of them that others began with pods and did not end. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_HALF_OPEN);
	__type(key, __u32);
	__type(value, struct half_open);
} half_open SEC(".maps");

/* Pipelined requests beyond a connection's own slots. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_INFLIGHT_SPILL);
	__type(key, struct spill_key);
	__type(value, struct inflight);
} inflight_spill SEC(".maps");

/* What HTTP/2 needs beside the connection, by its id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HTTP2);
	__type(key, __u64);
	__type(value, struct http2);
} http2 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HTTP2_STREAMS);
	__type(key, struct http2_stream_key);
	__type(value, struct http2_stream);
} http2_streams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HOLD_SLOTS);
	__type(key, __u32);
	__type(value, struct held);
} held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DNS_PENDING);
	__type(key, struct dns_key);
	__type(value, struct dns_query);
} dns_pending SEC(".maps");

/* Attachment id to what it has of the tables above; twice the pods, for those of the dead stay
 * until the sweep. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_PODS);
	__type(key, __u32);
	__type(value, struct share);
} shares SEC(".maps");

/* What all pods have of them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct share);
} taken SEC(".maps");

/* What passes the interfaces of pods with a limit, by direction. No packet adds an element. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_LIMITS);
	__type(key, struct limit_key);
	__type(value, struct limit);
} limits SEC(".maps");

/* Live records, swept by the agent on its own clock: a wake-up costs more than the record. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RECORDS_BYTES);
} records SEC(".maps");

/*
 * Until when (monotonic ns) somebody listens: a time, so that a listener who was killed ends by
 * himself.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

/* Per CPU, so that counting a failure never contends. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

/* What weir_merge has added last, until it is taken out of the maps that it came from. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct merge_run);
} merged SEC(".maps");

#endif
