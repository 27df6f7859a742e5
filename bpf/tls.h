/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TLS, as far as it is in the clear: a handshake is counted by the version that the ServerHello
 * chose (RFC 8446, 4.1.3; RFC 5246, 7.4.1.3), and then nothing more is looked at.
 */
#ifndef WEIR_TLS_H
#define WEIR_TLS_H

#include "step.h"

#define TLS_ALERT 21
/* Record header, level and description. */
#define TLS_ALERT_LEN 7
#define TLS_WARNING 1
#define TLS_HANDSHAKE 22
#define TLS_SERVER_HELLO 2
/* Record header, handshake header, version, random, and the length of the session id. */
#define TLS_HELLO 44
#define TLS_SUPPORTED_VERSIONS 43

/* Whether 3 bytes can begin a record of any version. */
static __always_inline int tls_record(const __u8 *b)
{
	return (b[0] == TLS_HANDSHAKE || b[0] == TLS_ALERT) && b[1] == 3 && b[2] <= 4;
}

static __always_inline __u8 tls_version(__u16 wire)
{
	return wire > 0x300 && wire <= 0x304 ? TLS_VERSION_1_0 + (wire - 0x301) : TLS_VERSION_OTHER;
}

static __always_inline int tls_end(struct step *s, __u16 version)
{
	struct inflight hello = {.number = 1};

	role_count(s->conn, COUNTER_TLS_HANDSHAKES, tls_version(version), 1);
	if (listening())
		record_exchange(s->conn, &hello, tls_version(version), 0, 0);
	s->conn->opaque = OPAQUE_PROTOCOL;
	return 1;
}

static __always_inline int tls_skip(struct half *h, __u32 n, __u8 then)
{
	h->state = n ? HALF_SKIP : then;
	h->remain = n;
	h->then = then;
	return 0;
}

/* half.head_len counts what is left of the ServerHello, half.status is the version in it. */
static __always_inline int tls_hello(struct step *s)
{
	struct half *h = s->half;
	__u8 *b = h->line;
	__u32 record = b[3] << 8 | b[4], hello = b[6] << 16 | b[7] << 8 | b[8];

	if (!tls_record(b)) {
		decide(s->conn, L7_UNKNOWN);
		return 1;
	}
	decide(s->conn, L7_TLS);
	h->status = b[9] << 8 | b[10];
	if (b[0] == TLS_ALERT || b[5] != TLS_SERVER_HELLO) {
		s->conn->opaque = OPAQUE_PROTOCOL; /* Refused: no handshake. */
		return 1;
	}
	/* A ServerHello in more than one record: its extensions are not looked for. */
	if (hello + 4 > record || hello < TLS_HELLO - 9 + b[43] + 3)
		return tls_end(s, 0);
	h->head_len = hello - (TLS_HELLO - 9) - b[43];
	return tls_skip(h, b[43], HALF_CIPHER);
}

static __always_inline int tls_extension(struct step *s)
{
	struct half *h = s->half;
	__u32 type = h->line[0] << 8 | h->line[1], len = h->line[2] << 8 | h->line[3];

	h->head_len = h->head_len > 4 + len ? h->head_len - 4 - len : 0;
	if (type == TLS_SUPPORTED_VERSIONS && len == 2) {
		h->state = HALF_VERSION;
		return 0;
	}
	return h->head_len ? tls_skip(h, len, HALF_EXTENSION) : tls_end(s, h->status);
}

static long tls_step(__u32 i, struct step *s)
{
	struct half *h = s->half;
	struct cursor *c = s->cur;
	__u32 want;

	if (c->at >= c->end)
		return 1;
	if (h->state == HALF_SKIP) {
		if (pass(s))
			h->state = h->then;
		return 0;
	}
	if (window_over(c) && refill(s->skb, c))
		return give_up(s, STAT_GAP_MALFORMED);
	switch (h->state) {
	case HALF_START:
		/* What refuses a handshake is shorter than a ServerHello; a warning refuses none.
		 */
		want = h->line_len >= 3 && h->line[0] == TLS_ALERT ? TLS_ALERT_LEN : 3;
		break;
	case HALF_HELLO:
		want = TLS_HELLO;
		break;
	case HALF_CIPHER:
		want = 5;
		break;
	case HALF_EXTENSION:
		want = 4;
		break;
	default:
		want = 2;
		break;
	}
	gather(c, h, want);
	if (h->line_len < want)
		return 0;
	if (h->state == HALF_START) {
		if (tls_record(h->line) && h->line[0] == TLS_HANDSHAKE) {
			h->state = HALF_HELLO;
			return 0;
		}
		if (tls_record(h->line) && h->line[0] == TLS_ALERT) {
			if (want == 3)
				return 0;
			/* RFC 8446, 6: of warnings only close_notify, which is 0, ends it. */
			if (be16(h->line + 3) == 2 && h->line[5] == TLS_WARNING && h->line[6]) {
				h->line_len = 0;
				return 0;
			}
		}
		decide(s->conn, tls_record(h->line) ? L7_TLS : L7_UNKNOWN);
		s->conn->opaque = OPAQUE_PROTOCOL; /* Refused: no handshake. */
		return 1;
	}
	h->line_len = 0;
	switch (h->state) {
	case HALF_HELLO:
		return tls_hello(s);
	case HALF_CIPHER:
		/* Cipher suite, compression, length of the extensions, which may be absent. */
		if (h->head_len <= 5)
			return tls_end(s, h->status);
		h->head_len -= 5;
		h->state = HALF_EXTENSION;
		return 0;
	case HALF_EXTENSION:
		return tls_extension(s);
	default:
		return tls_end(s, h->line[0] << 8 | h->line[1]);
	}
}

/*
 * What a client's first bytes, beginning with 0x16, are: a ClientHello (its record's header and its
 * own type), of which nothing needs to be read here. The server's answer decides.
 */
static __always_inline void tls_client(struct step *s)
{
	struct half *h = s->half;
	const __u32 want = 6;

	gather(s->cur, h, want);
	if (h->line_len < want)
		return;
	h->line_len = 0;
	if (!tls_record(h->line) || h->line[5] != 1) {
		decide(s->conn, L7_UNKNOWN);
		return;
	}
	s->conn->protocol = L7_TLS;
	/* For who listens: the hello may go on in further records. */
	h->status = h->line[3] << 8 | h->line[4];
	h->state = HALF_SKIP;
	h->remain = UNTIL_CLOSE;
}

#endif
