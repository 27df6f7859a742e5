/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * As wire.h: what crosses between user space and weir_merge. A map holds the last of it, which
 * other versions read and clear: a number is never given to another meaning, and struct merge_run
 * keeps its size.
 */
#ifndef WEIR_WIRE_MERGE_H
#define WEIR_WIRE_MERGE_H

#include <linux/types.h>

/* What weir_merge adds up. */
enum merge_kind {
	MERGE_NONE = 0,
	MERGE_COUNTER,	 /* n */
	MERGE_HISTOGRAM, /* n to cell c, and to the sum */
	MERGE_TRAFFIC,	 /* bytes n, packets sum; pod is the interface */
	MERGE_STAT,	 /* n to stat c */
	MERGE_CELLS,	 /* as MERGE_HISTOGRAM before it: n to cell c, sum to the one behind */
};

struct merge_entry {
	__u32 kind;   /* enum merge_kind */
	__u32 pod;    /* of traffic the interface */
	__u32 fields; /* counter_key's or histogram_key's bytes behind pod; direction, family << 8
		       */
	__u32 c;      /* of traffic the pod */
	__u64 n;
	__u64 sum;
};
_Static_assert(sizeof(struct merge_entry) == 32, "merge_entry is passed as bytes");

/* As many as a test run takes. */
#define MERGE_ENTRIES 100
#define LAYOUT_LEN 32

/* What one run adds, and which layout's directory it is from: an entry without a kind is none. */
struct merge_run {
	char from[LAYOUT_LEN];
	struct merge_entry entries[MERGE_ENTRIES];
};

#endif
