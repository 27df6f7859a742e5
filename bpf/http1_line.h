/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What one line of an HTTP/1 head says, from its first 64 characters in cursor.line. */
#ifndef WEIR_HTTP1_LINE_H
#define WEIR_HTTP1_LINE_H

#include "cursor.h"

/* A longer token in front is taken for no HTTP. */
#define METHOD_MAX 32
#define SIZE_MAX (1ULL << 60)

/* RFC 9110, 5.6.2. */
static __always_inline int is_tchar(__u8 c)
{
	const __u64 low = 0x3ff6cfa00000000ULL, high = 0x57ffffffc7fffffeULL;

	return c < 128 && ((c < 64 ? low >> c : high >> (c - 64)) & 1);
}

static __always_inline __u8 known_method(__u64 w)
{
	if (begins(w, "GET ", 4))
		return HTTP_METHOD_GET;
	if (begins(w, "POST ", 5))
		return HTTP_METHOD_POST;
	if (begins(w, "PUT ", 4))
		return HTTP_METHOD_PUT;
	if (begins(w, "HEAD ", 5))
		return HTTP_METHOD_HEAD;
	if (begins(w, "DELETE ", 7))
		return HTTP_METHOD_DELETE;
	if (begins(w, "PATCH ", 6))
		return HTTP_METHOD_PATCH;
	if (begins(w, "OPTIONS ", 8))
		return HTTP_METHOD_OPTIONS;
	if (begins(w, "CONNECT ", 8))
		return HTTP_METHOD_CONNECT;
	if (begins(w, "TRACE ", 6))
		return HTTP_METHOD_TRACE;
	if (begins(w, "QUERY ", 6))
		return HTTP_METHOD_QUERY;
	return HTTP_METHOD_OTHER;
}

/* A method, a space and a target; returns the method, or -1. */
__noinline int request_method(struct cursor *c, __u32 len)
{
	__u32 i;
	__u8 method;

	if (!c)
		return -1;
	method = known_method(word_at(c->line));
	if (method != HTTP_METHOD_OTHER)
		return method;
	for (i = 0; i < METHOD_MAX; i++) {
		__u8 byte = c->line[i];

		if (i >= len)
			return -1;
		if (byte == ' ')
			return i ? HTTP_METHOD_OTHER : -1;
		if (!is_tchar(byte))
			return -1;
	}
	return -1;
}

/* "HTTP/1.x nnn"; returns the status, or -1. */
static __always_inline int response_status(struct cursor *c, __u32 len)
{
	__u32 hundreds = c->line[9] - '0', tens = c->line[10] - '0', ones = c->line[11] - '0';

	if (len < 12 || !begins(word_at(c->line), "HTTP/1.", 7) || c->line[8] != ' ')
		return -1;
	/* RFC 9110, 15: five classes. What else a pod may send must not become keys of the table.
	 */
	if (hundreds > 5 || tens > 9 || ones > 9 || hundreds < 1)
		return -1;
	return hundreds * 100 + tens * 10 + ones;
}

static long number_step(__u32 i, struct cursor **cur)
{
	struct cursor *c = *cur;
	struct number *n = &c->number;
	__u8 byte = c->line[n->at & (LINE_PREFIX - 1)];
	__u32 digit = 16;

	if (n->at >= n->end)
		return 1;
	n->at++;
	if (!n->digits && (byte == ' ' || byte == '\t'))
		return 0;
	if (byte >= '0' && byte <= '9')
		digit = byte - '0';
	else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f')
		digit = (byte | 0x20) - 'a' + 10;
	if (digit >= n->base) {
		/* What may follow: the line's end, white space, a chunk extension. */
		n->invalid = byte != '\r' && byte != ' ' && byte != '\t' &&
			     !(n->base == 16 && byte == ';');
		return 1;
	}
	n->value = n->value * n->base + digit;
	n->digits++;
	n->invalid = n->value >= SIZE_MAX;
	return n->invalid;
}

/*
 * The decimal number of one to eight digits that is the whole of line[at, end), most lengths being
 * such; -1: it is not so simple.
 */
static __always_inline long short_number(struct cursor *c, __u32 at, __u32 end)
{
	__u64 digits;
	__u32 n;

	end -= c->line[(end - 1) & (LINE_PREFIX - 1)] == '\r';
	n = end - at;
	if (n - 1 >= 8)
		return -1;
	/* The last digit highest, zeros before the first. */
	digits = word_at(c->line + at);
	if (n < 8)
		digits = digits << (64 - 8 * n) | (ONES * '0') >> (8 * n);
	if (((digits + ONES * 'F') | (digits - ONES * '0')) & HIGHS)
		return -1;
	/* Pairs, then fours, then all: each step adds ten, a hundred, ten thousand times the lower.
	 */
	digits -= ONES * '0';
	digits = (digits * 10 + (digits >> 8)) & 0x00ff00ff00ff00ffULL;
	digits = (digits * 100 + (digits >> 16)) & 0x0000ffff0000ffffULL;
	return (digits * 10000 + (digits >> 32)) & 0xffffffff;
}

/*
 * The number behind `skip` characters of the line; -1 where there is none or it is too large.
 * A callback over state in map memory: as a loop over registers its states exhaust the verifier.
 */
static __always_inline long line_number(struct cursor *c, __u32 skip, __u32 len, __u32 base)
{
	struct number *n = &c->number;

	__builtin_memset(n, 0, sizeof(*n));
	n->at = skip;
	n->end = len < LINE_PREFIX ? len : LINE_PREFIX;
	n->base = base;
	bpf_loop(LINE_PREFIX, number_step, &c, 0);
	if (!n->digits || n->invalid || n->at >= LINE_PREFIX)
		return -1;
	return n->value;
}

#endif
