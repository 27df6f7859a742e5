/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which of Redis' commands a name is. */
#ifndef WEIR_REDIS_COMMAND_H
#define WEIR_REDIS_COMMAND_H

#include "step.h"

/* Names beyond are none that we know. */
#define REDIS_NAME_MAX 16
/* Set beside the operation: the server speaks unasked from this command on. */
#define REDIS_COMMAND_STREAMS 256

/* A word without the bytes from `len` on, its letters in upper case. */
static __always_inline __u64 upper_word(__u64 bytes, __u32 len)
{
	bytes &= ~LOWERCASE;
	return len >= 8 ? bytes : bytes & ((1ULL << (len * 8)) - 1);
}

/* Of a name of up to 8 characters. */
static __always_inline __u8 redis_short(__u64 w)
{
#define REDIS_IS(name, value)                                                                      \
	if (w == word(name, sizeof(name) - 1))                                                     \
	return value
	REDIS_IS("GET", DB_GET);
	REDIS_IS("SET", DB_SET);
	REDIS_IS("DEL", DB_DEL);
	REDIS_IS("TTL", DB_TTL);
	REDIS_IS("HGET", DB_HGET);
	REDIS_IS("HSET", DB_HSET);
	REDIS_IS("INCR", DB_INCR);
	REDIS_IS("MGET", DB_MGET);
	REDIS_IS("MSET", DB_MSET);
	REDIS_IS("PING", DB_PING);
	REDIS_IS("EXEC", DB_EXEC);
	REDIS_IS("EVAL", DB_EVAL);
	REDIS_IS("LPOP", DB_LPOP);
	REDIS_IS("RPOP", DB_RPOP);
	REDIS_IS("SADD", DB_SADD);
	REDIS_IS("SREM", DB_SREM);
	REDIS_IS("SPOP", DB_SPOP);
	REDIS_IS("SCAN", DB_SCAN);
	REDIS_IS("ZADD", DB_ZADD);
	REDIS_IS("XADD", DB_XADD);
	REDIS_IS("HDEL", DB_HDEL);
	REDIS_IS("AUTH", DB_AUTH);
	REDIS_IS("INFO", DB_INFO);
	REDIS_IS("HMGET", DB_HMGET);
	REDIS_IS("LPUSH", DB_LPUSH);
	REDIS_IS("RPUSH", DB_RPUSH);
	REDIS_IS("MULTI", DB_MULTI);
	REDIS_IS("HELLO", DB_HELLO);
	REDIS_IS("EXISTS", DB_EXISTS);
	REDIS_IS("EXPIRE", DB_EXPIRE);
	REDIS_IS("LRANGE", DB_LRANGE);
	REDIS_IS("ZRANGE", DB_ZRANGE);
	REDIS_IS("SELECT", DB_SELECT);
	REDIS_IS("CLIENT", DB_CLIENT);
	REDIS_IS("CONFIG", DB_CONFIG);
	REDIS_IS("HGETALL", DB_HGETALL);
	REDIS_IS("EVALSHA", DB_EVALSHA);
	REDIS_IS("PUBLISH", DB_PUBLISH);
	REDIS_IS("ZPOPMIN", DB_ZPOPMIN);
	REDIS_IS("SMEMBERS", DB_SMEMBERS);
#undef REDIS_IS
	return DB_OTHER;
}

/* Whether the server speaks unasked from this command on. */
static __always_inline int redis_streams(__u64 first, __u64 second, __u32 len)
{
	switch (len) {
	case 4:
		return first == word("SYNC", 4);
	case 5:
		return first == word("PSYNC", 5);
	case 7:
		return first == word("MONITOR", 7);
	case 9:
		return first == word("SUBSCRIB", 8) && second == 'E';
	case 10:
		return (first == word("PSUBSCRI", 8) || first == word("SSUBSCRI", 8)) &&
		       second == word("BE", 2);
	case 11:
		return first == word("UNSUBSCR", 8) && second == word("IBE", 3);
	case 12:
		return (first == word("PUNSUBSC", 8) || first == word("SUNSUBSC", 8)) &&
		       second == word("RIBE", 4);
	default:
		return 0;
	}
}

/* The command whose name half.line begins with: enum db_operation, and REDIS_COMMAND_STREAMS. */
__noinline int redis_command(struct half *h, __u32 len)
{
	__u64 first, second;

	if (!h || !len || len > REDIS_NAME_MAX)
		return DB_OTHER;
	first = upper_word(word_at(h->line), len);
	second = len > 8 ? upper_word(word_at(h->line + 8), len - 8) : 0;
	if (redis_streams(first, second, len))
		return REDIS_COMMAND_STREAMS | (len == 9 ? DB_SUBSCRIBE : DB_OTHER);
	if (len <= 8)
		return redis_short(first);
	if (len == 10 && first == word("XREADGRO", 8) && second == word("UP", 2))
		return DB_XREADGROUP;
	return DB_OTHER;
}

#endif
