/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* MySQL: what the client says, and what kind of answer that waits for. */
#ifndef WEIR_MYSQL_CLIENT_H
#define WEIR_MYSQL_CLIENT_H

#include "sql.h"

/* A packet's length, of 3 bytes, and its number in the exchange. */
#define MY_HEADER 4
/* A packet of this length is followed by one that goes on with it. */
#define MY_LONGEST 0xffffff
/* As much as is looked at of a command. */
#define MY_TEXT 64
/* The fixed part of a handshake response: capabilities, sizes, and MariaDB's further ones. */
#define MY_RESPONSE 32

#define MY_CLIENT_MYSQL (1U << 0) /* not set: MariaDB's further capabilities are told */
#define MY_CLIENT_COMPRESS (1U << 5)
#define MY_CLIENT_PROTOCOL_41 (1U << 9)
#define MY_CLIENT_SSL (1U << 11)
#define MY_CLIENT_DEPRECATE_EOF (1U << 24)
#define MY_CLIENT_OPTIONAL_METADATA (1U << 25)
#define MY_CLIENT_ZSTD (1U << 26)
#define MY_CLIENT_QUERY_ATTRIBUTES (1U << 27)
/* MariaDB's, of which the first is bit 32 in all. */
#define MY_MARIADB_PROGRESS (1U << 0)
#define MY_MARIADB_CACHE_METADATA (1U << 4)

enum my_stage {
	MY_GREETING = 0, /* the server: in its version; the client: before its first packet */
	MY_OFFER,	 /* the server's capabilities */
	MY_PACKET,	 /* before a packet's header; of the server's, the first of an answer */
	MY_COMMAND,	 /* in a command */
	MY_DEFINITIONS,	 /* before one of `left` definitions of a result's columns */
	MY_DEFINED,	 /* before the EOF behind them */
	MY_PREPARED,	 /* before one of `left` packets that describe a statement */
	MY_ROWS,
	MY_FILE, /* the client sends a file */
};

/* inflight.version: which answer a command has. */
enum my_answer {
	MY_LOST = 0, /* it found no place */
	MY_DONE,     /* OK, EOF, ERR, or any other single packet */
	MY_RESULT,   /* that or a result */
	MY_LIST,     /* rows or definitions without a head */
	MY_PREPARE,  /* the description of a prepared statement */
	MY_LOGIN,    /* what ends with OK or ERR */
	MY_STREAM,   /* what has no end */
	MY_HANDSHAKE = EXCHANGE_ASIDE,
};

/* db_half.flags of both directions; db_half.number has the other capabilities. */
#define MY_CONTINUED 0x01 /* the next packet goes on with the one before */
#define MY_INSIDE 0x02	  /* the header of a packet is read, of which half.remain bytes come */
#define MY_PROGRESS 0x04  /* MariaDB's capabilities */
#define MY_CACHE 0x08

static __always_inline __u32 le32(const __u8 *bytes)
{
	return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (__u32)bytes[3] << 24;
}

static __always_inline __u8 my_mariadb(__u32 capabilities)
{
	return (capabilities & MY_MARIADB_PROGRESS ? MY_PROGRESS : 0) |
	       (capabilities & MY_MARIADB_CACHE_METADATA ? MY_CACHE : 0);
}

/* Passes over the rest of a packet. */
static __always_inline int my_skip(struct step *s, __u32 n)
{
	struct half *h = s->half;

	h->db.flags &= ~MY_INSIDE;
	h->remain = n;
	h->state = HALF_SKIP;
	if (pass(s))
		h->state = HALF_START;
	return 0;
}

static __always_inline const struct half *my_other(const struct step *s)
{
	__u32 requests = requests_direction(s->conn);

	return &s->conn->half[(s->responses ? requests : !requests) & 1];
}

/* What both sides can is in half.line, the answer to the greeting, of half.remain bytes. */
static __always_inline int my_handshake(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	const struct db_half *server = &my_other(s)->db;
	__u32 theirs = le32(h->line), rest = h->remain - MY_RESPONSE;

	if (!(theirs & MY_CLIENT_PROTOCOL_41) || server->stage != MY_PACKET)
		return refuted(s);
	if (theirs & MY_CLIENT_SSL) {
		/* What comes is a connection of its own. */
		if (rest)
			return refuted(s);
		__builtin_memset(d, 0, sizeof(*d));
		h->state = HALF_START;
		s->conn->protocol = L7_UNDECIDED;
		return 1;
	}
	decide(s->conn, L7_MYSQL);
	d->number = theirs & server->number;
	d->flags = theirs & MY_CLIENT_MYSQL ? 0 : my_mariadb(le32(h->line + 28)) & server->flags;
	if (d->number & (MY_CLIENT_COMPRESS | MY_CLIENT_ZSTD)) {
		/* It stays so: there is no start to look for, as behind other gaps. */
		stat_add(STAT_GAP_ENCODED, 1);
		s->conn->opaque = OPAQUE_PROTOCOL;
		return 1;
	}
	d->stage = MY_PACKET;
	exchange_begin(s->conn, DB_OTHER, MY_HANDSHAKE, 0, s->cur->now);
	return my_skip(s, rest);
}

/* Operation and kind of answer (times 256) of a command. */
static __always_inline int my_command_kind(__u8 command)
{
	switch (command) {
	case 0x02: /* COM_INIT_DB */
		return DB_USE | MY_DONE << 8;
	case 0x04: /* COM_FIELD_LIST */
		return DB_OTHER | MY_LIST << 8;
	case 0x0a: /* COM_PROCESS_INFO */
		return DB_OTHER | MY_RESULT << 8;
	case 0x0e: /* COM_PING */
		return DB_PING | MY_DONE << 8;
	case 0x11: /* COM_CHANGE_USER */
		return DB_OTHER | MY_LOGIN << 8;
	case 0x12: /* COM_BINLOG_DUMP */
	case 0x13: /* COM_TABLE_DUMP */
	case 0x1e: /* COM_BINLOG_DUMP_GTID */
	case 0x20: /* COM_CLONE */
	case 0x21: /* COM_SUBSCRIBE_GROUP_REPLICATION_STREAM */
		return DB_OTHER | MY_STREAM << 8;
	case 0x16: /* COM_STMT_PREPARE */
		return DB_PREPARE | MY_PREPARE << 8;
	case 0x17: /* COM_STMT_EXECUTE */
	case 0xfa: /* COM_STMT_BULK_EXECUTE */
		return DB_EXECUTE | MY_RESULT << 8;
	case 0x1c: /* COM_STMT_FETCH */
		return DB_FETCH | MY_LIST << 8;
	case 0x01: /* COM_QUIT, … */
	case 0x18: /* COM_STMT_SEND_LONG_DATA, … */
	case 0x19: /* COM_STMT_CLOSE have no answer. */
		return 0;
	default:
		return DB_OTHER | MY_DONE << 8;
	}
}

/* The operation of a COM_QUERY, whose first `len` bytes are in half.line. */
static __always_inline int my_query(struct half *h, __u32 len, __u32 cut)
{
	__u32 from = 1;

	if (h->db.number & MY_CLIENT_QUERY_ATTRIBUTES) {
		/* Numbers of attributes and of sets of them, which come before the text. */
		if (h->line[1])
			return DB_UNKNOWN;
		from = 3;
	}
	return sql_operation(h, from, len, cut);
}

/* The start of a command is in half.line; half.remain is the length of the whole. */
static __always_inline int my_command(struct step *s)
{
	struct half *h = s->half;
	__u32 want = h->remain < MY_TEXT ? h->remain : MY_TEXT, rest = h->remain - want;
	int kind;

	if (!take(s->cur, h, want))
		return 0;
	h->db.stage = MY_PACKET;
	if (h->line[0] == 0x03)
		kind = my_query(h, want, rest > 0) | MY_RESULT << 8;
	else
		kind = my_command_kind(h->line[0]);
	if (kind)
		exchange_begin(s->conn, kind, kind >> 8, 0, h->started);
	return my_skip(s, rest);
}

/* A header is in half.line. Returns its packet's length, which goes on with the last if -1. */
static __always_inline int my_length(struct half *h)
{
	__u32 n = le32(h->line) & MY_LONGEST;
	__u8 continued = h->db.flags & MY_CONTINUED;

	h->db.flags &= ~MY_CONTINUED;
	if (n == MY_LONGEST)
		h->db.flags |= MY_CONTINUED;
	h->remain = n;
	return continued ? -1 : (int)n;
}

/* What the client says. */
static __always_inline int my_client(struct step *s)
{
	struct half *h = s->half;
	struct db_half *d = &h->db;
	int n;

	if (d->stage == MY_COMMAND)
		return my_command(s);
	if (d->flags & MY_INSIDE)
		return take(s->cur, h, MY_RESPONSE) ? my_handshake(s) : 0;
	if (!h->line_len)
		h->started = s->cur->now;
	if (!take(s->cur, h, MY_HEADER))
		return 0;
	n = my_length(h);
	if (d->stage == MY_GREETING) {
		d->flags |= MY_INSIDE;
		return h->line[3] != 1 || n < MY_RESPONSE || n > 0xffff ? refuted(s) : 0;
	}
	/* Commands begin an exchange; what goes on with one is an answer, or a file. */
	if (n < 0 || h->line[3] || my_other(s)->db.stage == MY_FILE)
		return my_skip(s, h->remain);
	d->stage = MY_COMMAND;
	return n ? 0 : refuted(s);
}

#endif
