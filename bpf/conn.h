/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is remembered of a TCP connection between two packets. It lives in a pinned map, so the
 * parsers go on in mid-message when the programs are replaced. User space never reads it.
 */
#ifndef WEIR_CONN_H
#define WEIR_CONN_H

#include "wire.h"

/* The pod's side is known from the hook, so no sorting of the ends is needed. */
struct conn_key {
	__u32 ifindex;
	__u32 family; /* enum family */
	__u8 pod_addr[16];
	__u8 peer_addr[16];
	__u16 pod_port;	 /* network byte order, as the addresses */
	__u16 peer_port; /* likewise */
};
_Static_assert(sizeof(struct conn_key) == 44, "conn_key is hashed as bytes");

/*
 * What ended a connection that the sweep is to remove after some time: another CPU was busy with
 * it, or it may go on.
 */
enum dying {
	DYING_NOT = 0,
	DYING_CLOSED,	 /* the server closed it */
	DYING_LEFT,	 /* the client closed it before the server had answered */
	DYING_ABORTED,	 /* the client reset it */
	DYING_REFUSED,	 /* the server reset it */
	DYING_UNCERTAIN, /* by a reset that the pod may have refused: it goes on if the pod does */
};

enum tcp_state {
	TCP_SYN_SENT = 0,
	TCP_SYN_ACKED,
	TCP_ESTABLISHED,
	TCP_ENDED, /* it is being taken out */
};

/* Where in its byte stream a direction is. The line states come first. */
enum half_state {
	HALF_START = 0, /* before a request or status line */
	HALF_HEAD,	/* in the header lines */
	HALF_CHUNK_SIZE,
	HALF_CHUNK_END, /* the line end behind a chunk's data */
	HALF_TRAILER,
	HALF_HELLO,	/* TLS: in what a ServerHello has before its session id */
	HALF_CIPHER,	/* … behind it */
	HALF_EXTENSION, /* in an extension's type and length */
	HALF_VERSION,	/* in the extension that tells the version */
	HALF_MESSAGE,	/* DNS: in a message's length and header */
	HALF_LABEL,	/* before a label of the question */
	HALF_QUESTION,	/* in the question's type and class */
	HALF_PREFACE,	/* HTTP/2: the client's first bytes */
	HALF_FRAME,	/* in a frame's header */
	HALF_PAD,	/* before the byte that says how long the padding is */
	HALF_BLOCK,	/* in a header block */
	HALF_BODY,	/* `remain` bytes that are never looked at */
	HALF_CHUNK_DATA,
	HALF_DATA,   /* HTTP/2: a DATA frame's */
	HALF_SKIP,   /* bytes that are no body either */
	HALF_TUNNEL, /* behind a CONNECT's head: passed over until the response decides */
};

/* HTTP/1's way to HTTP/2 on the same connection (RFC 7540, 3.2), each direction in its turn. */
enum upgrade {
	UPGRADE_NONE = 0,
	UPGRADE_TOLD, /* the head of a 101 says so */
	UPGRADE_DONE, /* what follows in this direction is HTTP/2 */
};

#define LINE_PREFIX 64
/* A body that the end of the connection ends. */
#define UNTIL_CLOSE (1ULL << 62)

/* Where a direction of a database's protocol is, between two tokens; each uses it in its way. */
struct db_half {
	__u64 left;   /* Redis: elements that still come */
	__u32 number; /* Redis: of the argument under way */
	__u8 stage;
	__u8 flags;
	__u8 operation; /* enum db_operation, of the current request */
	__u8 outcome;	/* enum db_outcome, of the current response */
};

/* One direction. Only the CPU that holds `owner` may touch the rest, but for `held` and `kept`. */
struct half {
	__u32 owner; /* 0: free, 1: taken, by compare-and-swap */
	__u32 next;  /* sequence number of the next byte */
	__u64 remain;
	__u64 started;	 /* monotonic ns of the first byte of the current message */
	__u32 hole_from; /* the last stretch of a body that was skipped unseen */
	__u32 hole_to;
	union {
		struct {		/* HTTP/1, and what is not decided yet */
			__u64 tail;	/* the last 8 characters of the unfinished line, white space
					   left out */
			__u32 head_len; /* bytes of the current head, to bound it */
			__u16 status;	/* of the current response */
			__u8 chunked;
			__u8 has_length;
		};
		struct db_half db;
	};
	__u16 line_len; /* bytes of the unfinished line or token, saturating */
	__u8 state;	/* enum half_state */
	__u8 fin;
	__u8 method;  /* of the current request */
	__u8 then;    /* the state behind what is skipped */
	__u8 upgrade; /* enum upgrade */
	__u8 lines;   /* it began with an empty line, so that only lines can follow */
	__u32 held;   /* places that this direction has in the map held; atomic, owner or not */
	__u32 kept;   /* segments that ever went there; likewise, and it only grows */
	__u8 line[LINE_PREFIX]; /* what an unfinished line or token began with */
};

struct inflight {
	__u64 started;
	__u32 number; /* the request's number on its connection + 1; 0: free */
	__u8 method;  /* enum http_method, or enum db_operation */
	__u8 version; /* enum http_version, or what kind of answer a database's request waits for */
	__u16 tag;    /* what its answer will repeat */
};

/* Pipelined requests that wait for their response beside the connection; more go to a map. */
#define INFLIGHT_SLOTS 4

struct conn {
	WEIR_SPARE
	__u64 id;	 /* unique, to key the spill */
	__u64 check;	 /* of the key: tells a recycled element from the one that was looked up */
	__u64 syn_ns;	 /* monotonic */
	__u64 seen_ns;	 /* monotonic, coarse */
	__u32 pod;	 /* attachment id */
	__u32 state;	 /* enum tcp_state */
	__u32 pushed;	 /* requests begun; written by the requests' direction only */
	__u32 popped;	 /* requests answered; written by the responses' direction only */
	__u8 role;	 /* enum role */
	__u8 protocol;	 /* enum l7_protocol */
	__u8 opaque;	 /* nothing more is parsed here */
	__u8 dying;	 /* enum dying */
	__u32 isn;	 /* of the SYN that opened it */
	__u64 again_ns;	 /* monotonic: when a SYN came for a connection that is established */
	__u32 again_isn; /* its number */
	__u32 rtt_seq;	 /* what acknowledges the pod's segment that is being timed */
	__u64 rtt_ns;	 /* monotonic: when it passed; 0: none */
	__u64 rtt_next;	 /* coarse monotonic: no other is timed before */
	__u8 again;	 /* 1 + its direction; 0: none */
	__u8 decided;	 /* the protocol is sure, and counted */
	__u8 lost_answered; /* after a gap: the server has said something since */
	__u8 http2;	    /* it has, or had, a place in the map http2 */
	__u32 lost_acked;   /* what it acknowledged last, likewise */
	__u32 answer;	    /* the number behind the SYN of the side that was asked */
	__u16 early;	    /* bytes that the opener's SYN had, saturating */
	__u16 place;	    /* in the map half_open, from 1; 0: none */
	struct inflight slots[INFLIGHT_SLOTS];
	struct half half[DIRECTION_MAX];
};

/* The direction of the side that opened the connection: it carries the requests. */
static __always_inline __u32 requests_direction(const struct conn *conn)
{
	return conn->role == ROLE_CLIENT ? DIRECTION_TX : DIRECTION_RX;
}

/* A handshake that others began. While its place is claimed, nobody else reads whose it is. */
struct half_open {
	__u64 conn; /* conn.id, or enum half_open_state */
	struct conn_key key;
	__u32 since; /* coarse monotonic, in units of 2^20 ns */
};

/* A segment that came before its turn. */
#define HOLD_SLOTS 64
/* The longest skb without BIG TCP; a longer one is not held. */
#define HOLD_BYTES 65536
/* What a window's copy may read beyond. */
#define HOLD_SURPLUS 512

/*
 * A place is claimed by compare-and-swap: to be filled, to be added to, to be read when its turn
 * has come, or to be given back. Nobody else reads its bytes meanwhile. While the connection lives,
 * only who owns the direction takes what is in one.
 */
enum held_state { HELD_FREE = 0, HELD_CLAIMED, HELD_FULL };

struct held {
	__u64 conn;	/* conn.id */
	__u64 since_ns; /* monotonic */
	__u32 state;	/* enum held_state */
	__u32 dir;
	__u32 seq;
	__u32 len;
	__u32 fin;
	__u32 pod;	     /* attachment id */
	struct conn_key key; /* of the connection */
	__u32 zero;
	__u8 data[HOLD_BYTES + HOLD_SURPLUS];
};

/*
 * The dynamic table of a header compressor (RFC 7541, 2.3.2), of which only is kept what an entry
 * is to us: enum hpack_name in the upper 4 bits, its value in the lower 12. Its sizes need not be
 * followed: indices count from the newest entry, and an evicted one is never referred to. A table
 * of the default 4,096 bytes has at most 128 entries, since each counts as 32 and its texts.
 */
#define HPACK_ENTRIES 128
/* As much of a name or a value as can tell what it is. */
#define HPACK_CARRY 24

enum hpack_stage {
	HPACK_FIELD = 0, /* before a field's first byte */
	HPACK_INDEX,	 /* in the further bytes of its index */
	HPACK_NAME_LENGTH,
	HPACK_NAME,
	HPACK_VALUE_LENGTH,
	HPACK_VALUE,
};

enum hpack_name {
	HPACK_OTHER = 0,
	HPACK_METHOD,	    /* enum http_method */
	HPACK_STATUS,	    /* 100 to 599; 0: no status */
	HPACK_CONTENT_TYPE, /* 1: gRPC's */
	HPACK_GRPC_STATUS,  /* 0 to 16, or GRPC_STATUS_UNKNOWN */
	HPACK_UNKNOWN,	    /* older than the newest 128 */
};

struct hpack {
	__u32 number;	/* the integer or the rest of the string under way */
	__u32 inserted; /* entries ever added */
	__u8 stage;	/* enum hpack_stage */
	__u8 shift;	/* of the integer's next byte; 0: at its first */
	__u8 insert;	/* the field goes into the table */
	__u8 indexed;	/* the whole field is in the table */
	__u8 huffman;
	__u8 name; /* enum hpack_name */
	__u8 have; /* bytes in carry */
	__u8 zero;
	__u64 length;		     /* of the string, as sent */
	__u8 carry[2 * HPACK_CARRY]; /* twice, for bounds */
	__u16 entries[HPACK_ENTRIES];
};

/* One direction of an HTTP/2 connection: the frame under way, and its header block. */
struct http2_half {
	__u32 stream;
	__u32 left;  /* bytes of the frame's fragment */
	__u8 type;   /* of the frame */
	__u8 flags;  /* of the frame */
	__u8 pad;    /* bytes behind the fragment */
	__u8 skip;   /* bytes before the block: a priority, a promised stream */
	__u8 begun;  /* a SETTINGS frame was seen */
	__u8 block;  /* type of the frame that began the block; 0: none is open */
	__u8 ends;   /* it had END_STREAM */
	__u8 method; /* what the block said, as the entries' values */
	__u16 status;
	__u8 grpc;
	__u8 grpc_status;
	__u8 told; /* a listener was given the block's first bytes */
	__u8 zero[3];
	__u32 newest;  /* the client's: the last stream that it opened */
	__u32 blocks;  /* bytes of header blocks up to the end of this fragment */
	__u64 started; /* monotonic ns of the block's first frame */
	struct hpack hpack;
};

struct http2 {
	__u32 open;  /* its streams in the map; atomic */
	__u16 ended; /* the connection is gone: 1 + enum http_error for those */
	__u16 zero;
	__u32 pod; /* attachment id */
	__u32 more_zero;
	__u64 ended_ns; /* when, monotonic */
	struct http2_half half[DIRECTION_MAX];
};

struct http2_stream_key {
	__u64 conn;
	__u32 stream;
	__u32 zero;
};

/* A request that waits for the end of its response. */
struct http2_stream {
	__u64 started; /* monotonic ns */
	__u32 pod;
	__u16 status;
	__u8 role;
	__u8 method;
	__u8 grpc;
	__u8 grpc_status;
	__u8 version; /* enum http_version, that of the request */
	__u8 zero[5];
};

struct spill_key {
	__u64 conn;
	__u32 number;
	__u32 zero;
};

struct dns_key {
	__u32 ifindex;
	__u32 family;
	__u8 pod_addr[16];
	__u8 peer_addr[16];
	__u16 pod_port;
	__u16 peer_port;
	__u16 id;
	__u16 place; /* bit 0: another question's query has the same id; above it enum role and
		      * enum transport, since two servers may ask each other from port 53 */
};
_Static_assert(sizeof(struct dns_key) == 48, "dns_key is hashed as bytes");

struct dns_query {
	__u64 asked_ns; /* monotonic */
	__u32 pod;
	__u8 role;
	__u8 transport;
	__u16 qtype; /* host byte order */
};

/* The tables whose elements packets make, for all pods. */
enum share_table {
	SHARE_CONNS = 0,
	SHARE_HTTP2,
	SHARE_STREAMS,
	SHARE_SPILL,
	SHARE_DNS,
	SHARE_DNS_SERVED, /* of those, queries that the pod was asked */
	SHARE_COUNTERS,
	SHARE_MAX,
};

/* Elements that a pod has of each table, or all pods; atomic. */
struct share {
	__u32 of[SHARE_MAX];
};

#endif
