// One record of 64 bytes, handed to user space in each of the ways that are compared.
//
// A tc program that the bench runs by BPF_PROG_TEST_RUN, once a record: kprobes and the like, which
// benches of ring buffers are usually hung on, are not what Weir has.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct record {
	__u64 time; // CLOCK_MONOTONIC, nanoseconds
	__u8 rest[56];
};

// 16,384 records, some 30 ms at 500,000 a second.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

// A wake-up in so many nanoseconds, at most.
#define PAUSE 100000

static __u64 last_wake;

static __always_inline void put(__u64 flags, __u64 now)
{
	struct record *to = bpf_ringbuf_reserve(&ring, sizeof(*to), 0);

	if (!to)
		return;
	to->time = now;
	bpf_ringbuf_submit(to, flags);
}

// The kernel wakes the reader whenever that has read all there was.
SEC("tc")
int ring_default(struct __sk_buff *skb)
{
	put(0, bpf_ktime_get_ns());
	return 0;
}

// The reader comes by itself.
SEC("tc")
int ring_batched(struct __sk_buff *skb)
{
	put(BPF_RB_NO_WAKEUP, bpf_ktime_get_ns());
	return 0;
}

// The reader is woken, but not by each record.
SEC("tc")
int ring_adaptive(struct __sk_buff *skb)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (now - last_wake > PAUSE) {
		last_wake = now;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	put(flags, now);
	return 0;
}

SEC("tc")
int perf(struct __sk_buff *skb)
{
	struct record record = {.time = bpf_ktime_get_ns()};

	bpf_perf_event_output(skb, &events, BPF_F_CURRENT_CPU, &record, sizeof(record));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
