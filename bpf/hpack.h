/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Header compression (RFC 7541), followed byte by byte so far as to know the method, the status,
 * the content type and the grpc-status of every block: a field that is none of these is passed over
 * by its length, and leaves only its place in the dynamic table.
 */
#ifndef WEIR_HPACK_H
#define WEIR_HPACK_H

#include "http1_line.h"
#include "step.h"

/* Appendix A. */
#define HPACK_STATIC 61
/* Integers of more than four further bytes are no header's. */
#define HPACK_SHIFT_MAX 28

static __always_inline __u16 hpack_entry(__u8 name, __u16 value)
{
	return name << 12 | (value & 0xfff);
}

/* The entry at an index of the static and the dynamic table. */
static __always_inline __u16 hpack_at(const struct hpack *p, __u32 index)
{
	__u32 age = index - HPACK_STATIC - 1;

	if (index > HPACK_STATIC) {
		if (age >= HPACK_ENTRIES)
			return hpack_entry(HPACK_UNKNOWN, 0);
		return p->entries[(p->inserted - 1 - age) & (HPACK_ENTRIES - 1)];
	}
	switch (index) {
	case 2:
		return hpack_entry(HPACK_METHOD, HTTP_METHOD_GET);
	case 3:
		return hpack_entry(HPACK_METHOD, HTTP_METHOD_POST);
	case 8:
		return hpack_entry(HPACK_STATUS, 200);
	case 9:
		return hpack_entry(HPACK_STATUS, 204);
	case 10:
		return hpack_entry(HPACK_STATUS, 206);
	case 11:
		return hpack_entry(HPACK_STATUS, 304);
	case 12:
		return hpack_entry(HPACK_STATUS, 400);
	case 13:
		return hpack_entry(HPACK_STATUS, 404);
	case 14:
		return hpack_entry(HPACK_STATUS, 500);
	case 31:
		return hpack_entry(HPACK_CONTENT_TYPE, 0);
	default:
		return 0;
	}
}

/* Which name the string in carry is; the Huffman forms are fixed (RFC 7541, appendix B). */
static __always_inline __u8 hpack_name(const struct hpack *p)
{
	__u64 first = word_at(p->carry), second = word_at(p->carry + 8);

	if (p->huffman) {
		if (p->length == 5 && begins(first, "\xb9\x49\x53\x39\xe4", 5))
			return HPACK_METHOD;
		if (p->length == 5 && begins(first, "\xb8\x84\x8d\x36\xa3", 5))
			return HPACK_STATUS;
		if (p->length == 8 && begins(first, "\x9a\xca\xc8\xb2\x12\x34\xda\x8f", 8))
			return HPACK_GRPC_STATUS;
		if (p->length == 9 && begins(first, "\x21\xea\x49\x6a\x4a\xc9\xf5\x59", 8) &&
		    begins(second, "\x7f", 1))
			return HPACK_CONTENT_TYPE;
		return HPACK_OTHER;
	}
	if (p->length == 7 && begins(first, ":method", 7))
		return HPACK_METHOD;
	if (p->length == 7 && begins(first, ":status", 7))
		return HPACK_STATUS;
	if (p->length == 11 && begins(first, "grpc-sta", 8) && begins(second, "tus", 3))
		return HPACK_GRPC_STATUS;
	if (p->length == 12 && begins(first, "content-", 8) && begins(second, "type", 4))
		return HPACK_CONTENT_TYPE;
	return HPACK_OTHER;
}

static __always_inline __u8 huffman_method(__u64 first, __u64 length)
{
	if (length == 3 && begins(first, "\xc5\x83\x7f", 3))
		return HTTP_METHOD_GET;
	if (length == 4 && begins(first, "\xd7\xab\x76\xff", 4))
		return HTTP_METHOD_POST;
	if (length == 3 && begins(first, "\xd7\xc3\x7f", 3))
		return HTTP_METHOD_PUT;
	if (length == 4 && begins(first, "\xc7\x82\x1b\xff", 4))
		return HTTP_METHOD_HEAD;
	if (length == 6 && begins(first, "\xbf\x83\x3e\x0d\xf8\x3f", 6))
		return HTTP_METHOD_DELETE;
	if (length == 5 && begins(first, "\xd7\x0e\xfb\xd8\xff", 5))
		return HTTP_METHOD_PATCH;
	if (length == 7 && begins(first, "\xd5\xaf\x7e\x4d\x5a\x77\x7f", 7))
		return HTTP_METHOD_OPTIONS;
	if (length == 7 && begins(first, "\xbd\xab\x4e\x9c\x17\xb7\xff", 7))
		return HTTP_METHOD_CONNECT;
	if (length == 5 && begins(first, "\xdf\xb6\x1b\xd8\x3f", 5))
		return HTTP_METHOD_TRACE;
	if (length == 5 && begins(first, "\xd9\xc3\x06\xde\x7f", 5))
		return HTTP_METHOD_QUERY;
	return HTTP_METHOD_OTHER;
}

/* A number of one to three digits, or -1. '0' to '2' have 5 bits, 00000 on; the rest 6, 011001 on.
 */
static __always_inline int hpack_digits(const struct hpack *p)
{
	__u32 bits = p->carry[0] << 16 | p->carry[1] << 8 | p->carry[2];
	int have = p->have * 8, value = 0, digits = 0, i;

	if (p->length < 1 || p->length > 3)
		return -1;
	for (i = 0; i < 3; i++) {
		__u32 digit;

		if (p->huffman) {
			__u32 five = (bits >> 19) & 31, six = (bits >> 18) & 63;

			if (have >= 5 && five <= 2) {
				digit = five;
				bits <<= 5;
				have -= 5;
			} else if (have >= 6 && six >= 25 && six <= 31) {
				digit = six - 22;
				bits <<= 6;
				have -= 6;
			} else {
				break;
			}
		} else {
			if (i >= p->have)
				break;
			digit = p->carry[i] - '0';
			if (digit > 9)
				return -1;
		}
		value = value * 10 + digit;
		digits++;
	}
	return digits ? value : -1;
}

/* "application/grpc", but not gRPC-Web's, whose status is in its body. */
static __always_inline int hpack_is_grpc(const struct hpack *p)
{
	__u64 first = word_at(p->carry), second = word_at(p->carry + 8);

	if (p->huffman)
		return p->length >= 11 && begins(first, "\x1d\x75\xd0\x62\x0d\x26\x3d\x4c", 8) &&
		       begins(second, "\x4d\x65\x64", 3) &&
		       (p->length == 11 || p->carry[11] >> 2 != 0x16);
	return p->length >= 16 && begins(first, "applicat", 8) && begins(second, "ion/grpc", 8) &&
	       (p->length == 16 || p->carry[16] != '-');
}

/* What the value in carry is to the field's name. */
__noinline int hpack_value(struct hpack *p)
{
	__u64 first;
	int number;

	if (!p)
		return 0;
	first = word_at(p->carry);
	switch (p->name) {
	case HPACK_METHOD:
		if (p->huffman)
			return huffman_method(first, p->length);
		if (p->length > 7)
			return HTTP_METHOD_OTHER;
		/* As it stands in a request line. */
		first &= (1ULL << (p->length * 8)) - 1;
		return known_method(first | (__u64)' ' << (p->length * 8));
	case HPACK_STATUS:
		number = hpack_digits(p);
		return number >= 100 && number < 600 ? number : 0;
	case HPACK_CONTENT_TYPE:
		return hpack_is_grpc(p);
	case HPACK_GRPC_STATUS:
		number = hpack_digits(p);
		return number >= 0 && number <= 16 ? number : GRPC_STATUS_UNKNOWN;
	default:
		return 0;
	}
}

/* A field is complete: `entry` is what it says. */
static __always_inline void hpack_field(struct http2_half *x, __u16 entry)
{
	__u16 value = entry & 0xfff;

	switch (entry >> 12) {
	case HPACK_METHOD:
		x->method = value;
		break;
	case HPACK_STATUS:
		x->status = value;
		break;
	case HPACK_CONTENT_TYPE:
		x->grpc = value;
		break;
	case HPACK_GRPC_STATUS:
		x->grpc_status = value;
		break;
	case HPACK_UNKNOWN:
		/* A response's status comes before its other fields (RFC 9113, 8.3). */
		if (!x->status)
			x->status = HTTP_STATUS_UNKNOWN;
		break;
	}
}

/* A literal field's name and value are known. */
static __always_inline void hpack_literal(struct http2_half *x, __u16 value)
{
	struct hpack *p = &x->hpack;
	__u16 entry = hpack_entry(p->name, value);

	if (p->insert) {
		p->entries[p->inserted & (HPACK_ENTRIES - 1)] = entry;
		p->inserted++;
	}
	hpack_field(x, entry);
	p->stage = HPACK_FIELD;
}

static __always_inline void hpack_string(struct hpack *p, __u8 stage)
{
	p->stage = stage;
	p->length = p->number;
	p->have = 0;
}

/* An integer is complete. */
static __always_inline void hpack_number(struct http2_half *x)
{
	struct hpack *p = &x->hpack;

	p->shift = 0;
	switch (p->stage) {
	case HPACK_INDEX:
		if (p->indexed) {
			p->stage = HPACK_FIELD;
			hpack_field(x, hpack_at(p, p->number));
		} else if (p->number) {
			p->name = hpack_at(p, p->number) >> 12;
			p->stage = HPACK_VALUE_LENGTH;
		} else {
			p->stage = HPACK_NAME_LENGTH;
		}
		break;
	case HPACK_NAME_LENGTH:
		hpack_string(p, HPACK_NAME);
		if (!p->number) {
			p->name = HPACK_OTHER;
			p->stage = HPACK_VALUE_LENGTH;
		}
		break;
	case HPACK_VALUE_LENGTH:
		hpack_string(p, HPACK_VALUE);
		if (!p->number)
			hpack_literal(x, p->name == HPACK_GRPC_STATUS ? GRPC_STATUS_UNKNOWN : 0);
		break;
	default:
		/* The size of the table, which need not be followed. */
		p->stage = HPACK_FIELD;
		break;
	}
}

/* The first byte of a field (section 6): its kind, and its index begins. */
static __always_inline __u8 hpack_first(struct hpack *p, __u8 byte)
{
	p->indexed = byte >> 7;
	p->insert = byte >> 6 == 1;
	p->stage = HPACK_INDEX;
	if (p->indexed)
		return 0x7f;
	if (p->insert)
		return 0x3f;
	if (byte >> 5 == 1) {
		p->stage = HPACK_FIELD; /* A new size; hpack_number() passes over it. */
		return 0x1f;
	}
	return 0x0f;
}

/* One byte of an integer; -1 for one that is too long. */
static __always_inline int hpack_byte(struct http2_half *x, __u8 byte)
{
	struct hpack *p = &x->hpack;
	__u8 mask = 0x7f;

	if (p->shift) {
		if (p->shift > HPACK_SHIFT_MAX)
			return -1;
		p->number += (__u32)(byte & 0x7f) << (p->shift - 1);
		p->shift += 7;
		if (byte & 0x80)
			return 0;
	} else {
		if (p->stage == HPACK_FIELD)
			mask = hpack_first(p, byte);
		else
			p->huffman = byte >> 7;
		p->number = byte & mask;
		if (p->number == mask) {
			p->shift = 1;
			return 0;
		}
	}
	hpack_number(x);
	return 0;
}

/* Takes up to `n` bytes of a string from window[from] on; returns how many. */
__noinline int hpack_take(struct cursor *c, struct http2_half *x, __u32 from, __u32 n)
{
	struct hpack *p;
	__u32 i;

	if (!c || !x)
		return 0;
	p = &x->hpack;
	if (p->stage == HPACK_NAME || p->name) {
		for (i = 0; i < HPACK_CARRY; i++) {
			if (i >= n || p->have >= HPACK_CARRY)
				break;
			/* The mask is the verifier's. */
			p->carry[p->have & 31] = c->window[(from + i) & WINDOW_MASK];
			p->have++;
		}
	}
	p->number -= n;
	if (p->number)
		return n;
	if (p->stage == HPACK_NAME) {
		p->name = hpack_name(p);
		p->stage = HPACK_VALUE_LENGTH;
	} else {
		hpack_literal(x, hpack_value(p));
	}
	return n;
}

/* Whether the next bytes of a block are only passed over. */
static __always_inline int hpack_passes(const struct hpack *p)
{
	return p->stage == HPACK_VALUE && (!p->name || p->have >= HPACK_CARRY);
}

/* One step in a header block, of which the frame has x->left more bytes; -1: it is none. */
static __always_inline int hpack_step(struct cursor *c, struct http2_half *x)
{
	__u32 from = c->at - c->from, n = c->filled - from;
	struct hpack *p = &x->hpack;

	if (p->stage != HPACK_NAME && p->stage != HPACK_VALUE) {
		c->at++;
		x->left--;
		return hpack_byte(x, c->window[from & WINDOW_MASK]);
	}
	if (hpack_passes(p))
		n = c->end - c->at;
	if (n > x->left)
		n = x->left;
	if (n > p->number)
		n = p->number;
	hpack_take(c, x, from, n);
	c->at += n;
	x->left -= n;
	return 0;
}

#endif
