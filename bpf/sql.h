/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a statement, or the tag that tells of its end, begins with. */
#ifndef WEIR_SQL_H
#define WEIR_SQL_H

#include "step.h"

/* The longest word that we know, and one more. */
#define SQL_WORD_MAX 11

/* A letter in upper case, or 0. */
static __always_inline __u8 upper_letter(__u8 byte)
{
	byte &= ~0x20;
	return byte >= 'A' && byte <= 'Z' ? byte : 0;
}

/* Of the first 8 letters of a word. */
static __always_inline __u8 sql_known(__u64 w, __u32 len)
{
	if (len == 9)
		return w == word("SAVEPOIN", 8) ? DB_SAVEPOINT : DB_OTHER;
	if (len == 10)
		return w == word("DEALLOCA", 8) ? DB_DEALLOCATE : DB_OTHER;
	if (len > 8)
		return DB_OTHER;
#define SQL_IS(name, value)                                                                        \
	if (w == word(name, sizeof(name) - 1))                                                     \
	return value
	SQL_IS("SELECT", DB_SELECT);
	SQL_IS("INSERT", DB_INSERT);
	SQL_IS("UPDATE", DB_UPDATE);
	SQL_IS("DELETE", DB_DELETE);
	SQL_IS("BEGIN", DB_BEGIN);
	SQL_IS("COMMIT", DB_COMMIT);
	SQL_IS("END", DB_COMMIT);
	SQL_IS("ROLLBACK", DB_ROLLBACK);
	SQL_IS("ABORT", DB_ROLLBACK);
	SQL_IS("SET", DB_SET);
	SQL_IS("WITH", DB_WITH);
	SQL_IS("CALL", DB_CALL);
	SQL_IS("SHOW", DB_SHOW);
	SQL_IS("USE", DB_USE);
	SQL_IS("MERGE", DB_MERGE);
	SQL_IS("REPLACE", DB_REPLACE);
	SQL_IS("COPY", DB_COPY);
	SQL_IS("LOAD", DB_LOAD);
	SQL_IS("FETCH", DB_FETCH);
	SQL_IS("MOVE", DB_MOVE);
	SQL_IS("CLOSE", DB_CLOSE);
	SQL_IS("DECLARE", DB_DECLARE);
	SQL_IS("PREPARE", DB_PREPARE);
	SQL_IS("EXECUTE", DB_EXECUTE);
	SQL_IS("EXPLAIN", DB_EXPLAIN);
	SQL_IS("CREATE", DB_CREATE);
	SQL_IS("ALTER", DB_ALTER);
	SQL_IS("DROP", DB_DROP);
	SQL_IS("TRUNCATE", DB_TRUNCATE);
	SQL_IS("ANALYZE", DB_ANALYZE);
	SQL_IS("VACUUM", DB_VACUUM);
	SQL_IS("LISTEN", DB_LISTEN);
	SQL_IS("NOTIFY", DB_NOTIFY);
	SQL_IS("DISCARD", DB_DISCARD);
	SQL_IS("RELEASE", DB_RELEASE);
	SQL_IS("GRANT", DB_GRANT);
	SQL_IS("LOCK", DB_LOCK);
	SQL_IS("DO", DB_DO);
#undef SQL_IS
	return DB_OTHER;
}

enum sql_place { SQL_BETWEEN = 0, SQL_BLOCK_COMMENT, SQL_LINE_COMMENT };

/* The search for the first word. */
struct sql_scan {
	struct half *half;
	__u32 at;
	__u32 to;
	__u32 place; /* enum sql_place */
	__u32 last;  /* the character before */
};

static long sql_step(__u32 i, struct sql_scan *scan)
{
	__u8 byte = scan->half->line[scan->at & (LINE_PREFIX - 1)], last = scan->last;

	if (scan->at >= scan->to || (scan->place == SQL_BETWEEN && upper_letter(byte)))
		return 1;
	scan->at++;
	scan->last = byte;
	if (scan->place == SQL_BLOCK_COMMENT) {
		if (last == '*' && byte == '/')
			scan->place = SQL_BETWEEN;
	} else if (scan->place == SQL_LINE_COMMENT) {
		if (byte == '\n')
			scan->place = SQL_BETWEEN;
	} else if (last == '/' && byte == '*') {
		scan->place = SQL_BLOCK_COMMENT;
		scan->last = 0;
	} else if ((last == '-' && byte == '-') || byte == '#') {
		scan->place = SQL_LINE_COMMENT;
	}
	return 0;
}

/*
 * The operation of the text in half.line[from, to), of which there is more if `cut`: enum
 * db_operation. Spaces, brackets and comments may come before it.
 */
__noinline int sql_operation(struct half *h, __u32 from, __u32 to, __u32 cut)
{
	struct sql_scan scan = {.half = h, .at = from, .to = to};
	__u64 w = 0;
	__u32 i;

	if (!h)
		return DB_UNKNOWN;
	if (!upper_letter(h->line[from & (LINE_PREFIX - 1)]))
		bpf_loop(LINE_PREFIX, sql_step, &scan, 0);
	from = scan.at;
	if (from >= to)
		return cut ? DB_UNKNOWN : DB_OTHER;
	for (i = 0; i < SQL_WORD_MAX; i++) {
		__u8 letter = upper_letter(h->line[(from + i) & (LINE_PREFIX - 1)]);

		if (from + i >= to || !letter)
			break;
		if (i < 8)
			w |= (__u64)letter << (i * 8);
	}
	if (from + i >= to && cut)
		return DB_UNKNOWN;
	if (i == 5 && w == word("START", 5))
		return upper_letter(h->line[(from + 6) & (LINE_PREFIX - 1)]) == 'T' ? DB_BEGIN
										    : DB_OTHER;
	return sql_known(w, i);
}

#endif
