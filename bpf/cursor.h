/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A reader of a TCP payload: a window that bpf_skb_load_bytes fills, searched by 8-byte words.
 *
 * The state is in map memory and the searches are global functions, so that the verifier looks at
 * each of them once, whatever the number of steps around it: that is what 6.1 can load.
 */
#ifndef WEIR_CURSOR_H
#define WEIR_CURSOR_H

#include "count.h"
#include "parse.h"

/* 512 was measured best: 128 is slower and 64 too few to find most lines whole. */
#define WINDOW 512
#define WINDOW_MASK (WINDOW - 1)

#define SECOND 1000000000ULL

#define ONES 0x0101010101010101ULL
#define HIGHS 0x8080808080808080ULL
#define LOWERCASE 0x2020202020202020ULL

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "byte positions in words are little-endian");

/* A number that is being read from a line, character by character. */
struct number {
	__u64 value;
	__u32 at;
	__u32 end;
	__u32 base;
	__u32 digits;
	__u32 invalid;
	__u32 zero;
};

/* What is looked for among the held segments. */
struct search {
	__u64 conn;
	__u64 since_ns; /* the longest that the direction has waited */
	__u32 dir;
	__u32 seq;
	__u32 found; /* index + 1; 0: none */
	__u32 place; /* where to begin */
	__u32 len;   /* of the segment that looks for its like */
	__u32 fin;   /* likewise */
	__u32 tail;  /* index + 1 of what it goes on from; 0: none */
	__u32 pod;
	__u32 taken; /* places that the pod has */
	__u32 free;  /* places that nobody has */
	__u32 left;  /* what is held at an end */
};

/*
 * Places for handshakes that are looked at before one has to give its own up: with a quarter of all
 * taken, 1 handshake of 65,536 finds none of them free, with a tenth 1 of 100 million.
 */
#define HALF_OPEN_TRIES 8

/* The search for one. */
struct claim {
	__u32 found;  /* number, from 1; 0: none */
	__u32 victim; /* likewise, of the place to be given up */
	__u32 most;   /* places that its pod has of those that were looked at */
	__u32 age;    /* in units of 2^20 ns */
	__u32 since;  /* now, likewise */
	__u32 zero;
	struct candidate {
		__u32 place;
		__u32 ifindex; /* of the pod */
		__u32 age;
	} of[HALF_OPEN_TRIES];
};

/* Per CPU; a program runs with softirqs off, so nothing else uses it meanwhile. */
struct cursor {
	__u32 source;	/* what offsets are into: 0 the skb, else a held segment's index + 1 */
	__u32 at;	/* offset of the next byte */
	__u32 end;	/* offset behind the new bytes */
	__u32 from;	/* offset of window[0] */
	__u32 filled;	/* bytes in the window */
	__u32 gap;	/* body bytes before these that never came */
	__u32 fin;	/* the direction's first FIN in order comes behind them */
	__u32 more;	/* held segments may have got their turn, … */
	__u32 dir;	/* … in this direction */
	__u32 head;	/* offset where a request's head began in these bytes */
	__u32 told;	/* offset up to which a listener was given the bytes */
	__u32 restarts; /* these bytes begin a request, after a gap */
	__u32 whole;	/* the packet below is the one that is being handled */
	__u64 forgotten_conn;		   /* id of a handshake that gives its place up; 0: none */
	__u64 now;			   /* monotonic ns, once a segment */
	__u64 body;			   /* body bytes passed in this segment */
	__u8 line[2 * LINE_PREFIX];	   /* the start of the current line; twice, for bounds */
	__u8 window[WINDOW + LINE_PREFIX]; /* the surplus is read, never meant */
	struct number number;
	struct search search;
	struct packet packet; /* here and not on the stack, of which 6.1 gives a chain of calls 512
				 bytes */
	struct tcphdr tcp;    /* its header, likewise */
	struct dns_key dns;   /* a message's, likewise */
	struct dns_query query;	   /* and what is put into the table for it, or was taken out */
	struct conn_key forgotten; /* of the handshake that gives its place up */
	struct claim claim;	   /* and how it was chosen */
	struct conn fresh;	   /* where a new connection is put together */
	struct record record;	   /* and a record */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cursor);
} cursors SEC(".maps");

static __always_inline struct cursor *cursor(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cursors, &zero);
}

static __always_inline __u64 word_at(const __u8 *bytes)
{
	return *(const __u64 *)bytes;
}

/* The first `len` characters of `text` as a word. */
static __always_inline __u64 word(const char *text, const int len)
{
	__u64 value = 0;
	int i;

	for (i = len - 1; i >= 0; i--)
		value = value << 8 | (__u8)text[i];
	return value;
}

static __always_inline int begins(__u64 bytes, const char *text, const int len)
{
	return len == 8 ? bytes == word(text, 8)
			: (bytes & ((1ULL << (len * 8)) - 1)) == word(text, len);
}

/* A high bit in each byte that is '\n'; exact up to the lowest one. */
static __always_inline __u64 newlines(__u64 bytes)
{
	__u64 x = bytes ^ (ONES * '\n');

	return (x - ONES) & ~x & HIGHS;
}

/* The index of the lowest byte that newlines() marked. */
static __always_inline __u32 lowest(__u64 marks)
{
	return ((((marks & -marks) >> 7) - 1) & ONES) * ONES >> 56;
}

/* The window from a held segment, by words: what is beyond its end is read, never meant. */
__noinline int copy_held(struct cursor *c)
{
	__u32 index, i;
	struct held *slot;

	if (!c)
		return -1;
	index = c->source - 1;
	slot = bpf_map_lookup_elem(&held, &index);
	if (!slot)
		return -1;
	for (i = 0; i < WINDOW / 8; i++)
		*(__u64 *)(c->window + i * 8) =
			word_at(slot->data + (c->at & (HOLD_BYTES - 1)) + i * 8);
	return 0;
}

/* Fills the window from the next byte on. */
static __always_inline int refill(struct __sk_buff *skb, struct cursor *c)
{
	__u32 n = c->end - c->at;

	c->from = c->at;
	c->filled = 0;
	if (c->at >= c->end)
		return -1;
	if (n > WINDOW)
		n = WINDOW;
	/* The form in which every verifier sees 1 <= n <= WINDOW: 6.1 learns nothing from n != 0.
	 */
	asm volatile("" : "+r"(n));
	n = ((n - 1) & WINDOW_MASK) + 1;
	if (c->source ? copy_held(c) : bpf_skb_load_bytes(skb, c->at, c->window, n))
		return -1;
	c->filled = n;
	return 0;
}

/* The index of the first newline in window[from, to), or -1. */
__noinline int find_newline(struct cursor *c, __u32 from, __u32 to)
{
	__u32 i;

	if (!c)
		return -1;
	for (i = 0; i < WINDOW / 8 + 1; i++) {
		__u64 marks;

		if (from >= to)
			return -1;
		marks = newlines(word_at(c->window + (from & WINDOW_MASK)));
		if (marks) {
			from += lowest(marks);
			return from < to ? (int)from : -1;
		}
		from += 8;
	}
	return -1;
}

/*
 * Whether a header line that begins with these bytes, and `next` behind them, could say something
 * about framing: of all that begin with Content-, Content-Length alone.
 */
static __always_inline int may_matter(__u64 bytes, __u8 next, __u32 valid)
{
	__u8 first = bytes;

	if (first == '\r' || first == '\n')
		return 1;
	bytes |= LOWERCASE;
	if (valid < 9)
		return (__u8)bytes == 'c' || (__u8)bytes == 't';
	return (bytes == word("content-", 8) && (next | 0x20) == 'l') ||
	       bytes == word("transfer", 8);
}

/*
 * Passes over whole header lines that don't matter: window[at] is the start of a line, and so is
 * what is returned, unless it is `to`. A window of lines of 8 bytes takes all rounds; of shorter
 * ones some are left to who reads any line, or a third of what the verifier does were for them.
 */
__noinline int skip_plain_lines(struct cursor *c, __u32 at, __u32 to)
{
	__u32 start = at, i;
	int fresh = 1;

	if (!c)
		return -1;
	for (i = 0; i < WINDOW / 8; i++) {
		__u64 bytes, marks;

		if (at >= to)
			break;
		bytes = word_at(c->window + (at & WINDOW_MASK));
		if (fresh && may_matter(bytes, c->window[(at & WINDOW_MASK) + 8], to - at))
			break;
		fresh = 0;
		marks = newlines(bytes);
		if (!marks) {
			/* Two words a round inside of a line; the surplus is read, never meant. */
			at += 8;
			marks = newlines(word_at(c->window + (at & WINDOW_MASK)));
			if (!marks) {
				at += 8;
				continue;
			}
		}
		at += lowest(marks) + 1;
		if (at > to)
			break;
		start = at;
		fresh = 1;
	}
	return start;
}

/* The last 8 characters, white space left out, of `tail` and then window[from, to). */
__noinline __u64 line_tail(struct cursor *c, __u32 from, __u32 to, __u64 tail)
{
	__u32 at, i;

	if (!c || from >= to)
		return tail;
	/* Most lines end with 8 such characters, all below 128, or these and a carriage return. */
	at = to - (c->window[(to - 1) & WINDOW_MASK] == '\r');
	if (at - from >= 8) {
		__u64 bytes = word_at(c->window + ((at - 8) & WINDOW_MASK));

		if (!(((bytes - ONES * '!') | bytes) & HIGHS))
			return __builtin_bswap64(bytes);
	}
	/* All of it, so that a line is no other for the pieces that it came in. */
	at = from;
	for (i = 0; i < WINDOW; i++) {
		__u8 byte = c->window[at & WINDOW_MASK];

		if (at >= to)
			break;
		if (byte > ' ')
			tail = tail << 8 | byte;
		at++;
	}
	return tail;
}

#endif
