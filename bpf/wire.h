/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every struct, enum and limit that crosses between the kernel's side and user
 * space. The skeleton turns them into Rust types; nothing is mirrored by hand.
 * A change in here changes the schema, so it changes where the maps are pinned. The totals are
 * carried over by `weir reload`, key by key: a number of an enumeration is never given to another
 * meaning, and new ones come at its end (before its _MAX).
 */
#ifndef WEIR_WIRE_H
#define WEIR_WIRE_H

#include <linux/types.h>

/* Where the layout that the feature other-layout makes differs from this one. */
#ifdef WEIR_OTHER_LAYOUT
#define WEIR_SPARE __u64 spare;
#else
#define WEIR_SPARE
#endif

/* As the pod sees it: RX is towards the pod, TX comes from it. */
enum direction { DIRECTION_RX = 0, DIRECTION_TX = 1, DIRECTION_MAX = 2 };

enum family { FAMILY_IPV4 = 0, FAMILY_IPV6 = 1, FAMILY_MAX = 2 };

/* The pod's role in an exchange: the server accepted the connection or got the query. */
enum role { ROLE_NONE = 0, ROLE_SERVER = 1, ROLE_CLIENT = 2 };

enum transport { TRANSPORT_UDP = 0, TRANSPORT_TCP = 1 };

/* The ten methods of OpenTelemetry's semantic conventions, and all others as one. */
enum http_method {
	HTTP_METHOD_OTHER = 0,
	HTTP_METHOD_GET,
	HTTP_METHOD_HEAD,
	HTTP_METHOD_POST,
	HTTP_METHOD_PUT,
	HTTP_METHOD_DELETE,
	HTTP_METHOD_CONNECT,
	HTTP_METHOD_OPTIONS,
	HTTP_METHOD_TRACE,
	HTTP_METHOD_PATCH,
	HTTP_METHOD_QUERY,
	HTTP_METHOD_MAX,
};

enum http_version { HTTP_VERSION_NONE = 0, HTTP_VERSION_1_0, HTTP_VERSION_1_1, HTTP_VERSION_2 };

/* Why an exchange has no complete response. */
enum http_error {
	HTTP_ERROR_NONE = 0,
	HTTP_ERROR_NO_RESPONSE, /* the server closed without one */
	HTTP_ERROR_RESET,	/* the server reset the connection */
	HTTP_ERROR_MALFORMED,	/* the bytes could not be followed */
	HTTP_ERROR_CANCELLED,	/* the client went away first */
};

enum tcp_result {
	TCP_RESULT_NONE = 0,
	TCP_RESULT_ESTABLISHED,
	TCP_RESULT_REFUSED,
	TCP_RESULT_TIMEOUT,
	TCP_RESULT_RESET,
};

/* What the bytes of a TCP connection turned out to be. */
enum l7_protocol {
	L7_UNDECIDED = 0,
	L7_UNKNOWN,
	L7_HTTP1,
	L7_HTTP2,
	L7_TLS,
	L7_DNS,
	L7_REDIS,
	L7_POSTGRESQL,
	L7_MYSQL,
	L7_KAFKA,
};

/* What a ServerHello chose (RFC 8446, 4.2.1). */
enum tls_version {
	TLS_VERSION_OTHER = 0,
	TLS_VERSION_1_0,
	TLS_VERSION_1_1,
	TLS_VERSION_1_2,
	TLS_VERSION_1_3,
};

/*
 * What a database is asked for. One list for all: what is called the same is the same number, and
 * what a pod can make up beyond it is DB_OTHER.
 */
enum db_operation {
	DB_OTHER = 0,
	DB_UNKNOWN, /* not told by what was seen */
	/* Redis: its commands. SELECT and SET are SQL's as well. */
	DB_AUTH,
	DB_CLIENT,
	DB_CONFIG,
	DB_DEL,
	DB_EVAL,
	DB_EVALSHA,
	DB_EXEC,
	DB_EXISTS,
	DB_EXPIRE,
	DB_GET,
	DB_HDEL,
	DB_HELLO,
	DB_HGET,
	DB_HGETALL,
	DB_HMGET,
	DB_HSET,
	DB_INCR,
	DB_INFO,
	DB_LPOP,
	DB_LPUSH,
	DB_LRANGE,
	DB_MGET,
	DB_MSET,
	DB_MULTI,
	DB_PING,
	DB_PUBLISH,
	DB_RPOP,
	DB_RPUSH,
	DB_SADD,
	DB_SCAN,
	DB_SELECT,
	DB_SET,
	DB_SMEMBERS,
	DB_SPOP,
	DB_SREM,
	DB_SUBSCRIBE,
	DB_TTL,
	DB_XADD,
	DB_XREADGROUP,
	DB_ZADD,
	DB_ZPOPMIN,
	DB_ZRANGE,
	/* PostgreSQL and MySQL: the first word of a statement. EXECUTE, FETCH, PING, PREPARE and
	 * USE are messages of their own as well. */
	DB_ALTER,
	DB_ANALYZE,
	DB_BEGIN, /* START TRANSACTION too */
	DB_CALL,
	DB_CLOSE,
	DB_COMMIT, /* END too */
	DB_COPY,
	DB_CREATE,
	DB_DEALLOCATE,
	DB_DECLARE,
	DB_DELETE,
	DB_DISCARD,
	DB_DO,
	DB_DROP,
	DB_EMPTY, /* no statement at all */
	DB_EXECUTE,
	DB_EXPLAIN,
	DB_FETCH,
	DB_GRANT,
	DB_INSERT,
	DB_LISTEN,
	DB_LOAD,
	DB_LOCK,
	DB_MERGE,
	DB_MOVE,
	DB_NOTIFY,
	DB_PREPARE,
	DB_RELEASE,
	DB_REPLACE,
	DB_ROLLBACK, /* ABORT too */
	DB_SAVEPOINT,
	DB_SHOW,
	DB_TRUNCATE,
	DB_UPDATE,
	DB_USE,
	DB_VACUUM,
	DB_WITH,
	/* Kafka: the names of its API keys. */
	DB_PRODUCE,
	DB_KAFKA_FETCH,
	DB_LIST_OFFSETS,
	DB_METADATA,
	DB_OFFSET_COMMIT,
	DB_OFFSET_FETCH,
	DB_FIND_COORDINATOR,
	DB_JOIN_GROUP,
	DB_HEARTBEAT,
	DB_LEAVE_GROUP,
	DB_SYNC_GROUP,
	DB_DESCRIBE_GROUPS,
	DB_LIST_GROUPS,
	DB_SASL_HANDSHAKE,
	DB_API_VERSIONS,
	DB_CREATE_TOPICS,
	DB_DELETE_TOPICS,
	DB_INIT_PRODUCER_ID,
	DB_ADD_PARTITIONS_TO_TXN,
	DB_ADD_OFFSETS_TO_TXN,
	DB_END_TXN,
	DB_TXN_OFFSET_COMMIT,
	DB_DESCRIBE_CONFIGS,
	DB_SASL_AUTHENTICATE,
	DB_CONSUMER_GROUP_HEARTBEAT,
	DB_OPERATION_MAX,
};

enum db_outcome {
	DB_NO_RESPONSE = 0, /* the connection ended before the answer did */
	DB_OK,
	DB_ERROR,
	DB_UNTOLD, /* there is no answer to it, or none that could be read */
};

/*
 * The families that counter_key.kind names; in brackets what its a, b and c hold.
 * An unused field is 0.
 */
enum counter_kind {
	COUNTER_NONE = 0,
	COUNTER_HTTP_REQUESTS, /* a http_method, b http_version, c status (0: none seen; 1: unknown)
				*/
	COUNTER_HTTP_ERRORS,   /* a http_error, b 1 where the status tells of a failure already */
	COUNTER_HTTP_REQUEST_BODY,  /* bytes */
	COUNTER_HTTP_RESPONSE_BODY, /* bytes */
	COUNTER_HTTP_UNMATCHED,	    /* responses that no request asked for */
	COUNTER_DNS_QUERIES,	    /* b transport, c qtype as on the wire */
	COUNTER_DNS_RESPONSES,	    /* a rcode, b transport, c qtype as on the wire */
	COUNTER_DNS_TIMEOUTS,	    /* b transport */
	COUNTER_DNS_UNMATCHED,	    /* b transport: responses without a pending query */
	COUNTER_DNS_MALFORMED,	    /* b transport */
	COUNTER_TCP_CONNECTIONS,    /* a tcp_result */
	COUNTER_TCP_CLOSED,	    /* connections that were established and ended, however */
	COUNTER_TCP_RETRANSMITS,    /* a direction, role 0: segments */
	COUNTER_L7_CONNECTIONS,	    /* a l7_protocol */
	COUNTER_GRPC_REQUESTS,	    /* a grpc-status, or GRPC_STATUS_UNKNOWN; c 1 where status
				     * or error tell of a failure already */
	COUNTER_TLS_HANDSHAKES,	    /* a tls_version */
	COUNTER_DB_REQUESTS,	    /* a l7_protocol, b db_operation, c db_outcome */
	COUNTER_KIND_MAX,
};

/* What is no status: of an exchange that saw none, and of one that could not be told. */
enum http_status { HTTP_STATUS_NONE = 0, HTTP_STATUS_UNKNOWN = 1 };
/* A call that ended without a grpc-status, or with none of the 17. */
#define GRPC_STATUS_UNKNOWN 255

struct counter_key {
	__u32 pod; /* attachment id, never 0 */
	__u8 kind; /* enum counter_kind */
	__u8 role; /* enum role */
	__u8 a;
	__u8 b;
	__u16 c;
	__u16 zero;
};
_Static_assert(sizeof(struct counter_key) == 12, "counter_key is hashed as bytes");

enum histogram_kind {
	HISTOGRAM_NONE = 0,
	HISTOGRAM_HTTP_REQUEST, /* a http_method */
	HISTOGRAM_DNS_LOOKUP,
	HISTOGRAM_TCP_CONNECT,
	HISTOGRAM_GRPC_REQUEST,
	HISTOGRAM_DB_REQUEST, /* a l7_protocol */
	HISTOGRAM_TCP_RTT,
	HISTOGRAM_KIND_MAX,
};

struct histogram_key {
	__u32 pod;
	__u8 kind; /* enum histogram_kind */
	__u8 role;
	__u8 a;
	__u8 zero;
};
_Static_assert(sizeof(struct histogram_key) == 8, "histogram_key is hashed as bytes");

/*
 * Upper bounds (inclusive, nanoseconds) of the cells: the union of OpenTelemetry's 14 for
 * http.server.request.duration and of 2^(k/4) seconds from 1 us to 64 s, so that a classic
 * and a native (schema 2) histogram are both exact sums of cells. The last cell is +Inf.
 * User space computes them once and hands them over in .rodata.
 */
#define HISTOGRAM_BOUNDS 115
#define HISTOGRAM_CELLS (HISTOGRAM_BOUNDS + 1)

struct histogram {
	__u64 sum_ns;
	__u64 cells[HISTOGRAM_CELLS];
};

struct net_counter {
	__u64 bytes;   /* frames with their Ethernet header, as ip -s link counts */
	__u64 packets; /* GSO segments */
};

/* A line of the processor's cache each, for so many CPUs: with more of them, some share one. */
#define TRAFFIC_LINES 8
struct net_line {
	struct net_counter net[DIRECTION_MAX][FAMILY_MAX];
};

/*
 * One per host-side interface; what it has had is the sum of its lines. This and struct attachment
 * may grow at their end: weir reload carries what two layouts have in common, and 0 for the rest.
 */
struct pod_traffic {
	__u32 pod; /* attachment id */
	__u32 zero;
	struct net_line lines[TRAFFIC_LINES];
	WEIR_SPARE
};

#define NAMESPACE_LEN 64
#define POD_NAME_LEN 256
#define UID_LEN 64
#define CONTAINER_ID_LEN 256
#define IFNAME_LEN 16

/* Who an attachment id is. Texts end with NUL and are cut, never refused. */
struct attachment {
	__u64 created_ns; /* Unix time */
	__u64 deleted_ns; /* Unix time; 0 while the pod lives */
	__u32 ifindex;	  /* of the host side */
	__u32 mode;	  /* enum attach_mode */
	char pod_namespace[NAMESPACE_LEN];
	char pod_name[POD_NAME_LEN];
	char pod_uid[UID_LEN];
	char container_id[CONTAINER_ID_LEN];
	char ifname[IFNAME_LEN];
	/* What had passed its interface whenever that became another attachment's. */
	struct net_counter net[DIRECTION_MAX][FAMILY_MAX];
	/* Unix time since when these count from 0, as their map was lost; 0: created_ns. */
	__u64 counters_ns;
	__u64 histograms_ns;
	__u64 network_ns;
	WEIR_SPARE
};

/* A limit on what passes an interface in one direction. */
struct limit_key {
	__u32 ifindex;
	__u32 direction;
};

struct limit {
	__u64 rate;	/* bits a second; 0 is none */
	__u64 ahead_ns; /* how far what passes may be ahead of the rate */
	__u64 next_ns;	/* the kernel's: when what has passed would be through */
};

enum attach_mode { ATTACH_NONE = 0, ATTACH_CLSACT = 1, ATTACH_TCX = 2 };

/* Per-CPU self-statistics; the index into the stats map. */
enum stat {
	STAT_GAP_SEQUENCE = 0, /* bytes outside a body never passed here in order */
	STAT_GAP_CONTENDED,    /* another CPU held the direction for too long */
	STAT_GAP_MALFORMED,    /* bytes that are no message */
	STAT_GAP_STEPS,	       /* more messages in one skb than the cap */
	STAT_GAP_INFLIGHT,     /* a pipelined request found no place; its method is _OTHER */
	STAT_GAP_ENCODED,      /* what follows is compressed */
	STAT_GAP_FRAGMENT,     /* IP fragments: nothing above L3 is counted */
	STAT_CONNS_CREATED,
	STAT_CONNS_REMOVED,
	STAT_DNS_CREATED,
	STAT_DNS_REMOVED,
	STAT_SPILL_CREATED,
	STAT_SPILL_REMOVED,
	STAT_FULL_CONNS, /* connections that found the table full */
	STAT_FULL_COUNTERS,
	STAT_FULL_HISTOGRAMS,
	STAT_FULL_DNS,
	STAT_HTTP2_CREATED,
	STAT_HTTP2_REMOVED,
	STAT_STREAMS_CREATED,
	STAT_STREAMS_REMOVED,
	STAT_FULL_HTTP2,	/* HTTP/2 connections that found no place */
	STAT_FULL_STREAMS,	/* their requests, likewise */
	STAT_FULL_RECORDS,	/* live records that the ring had no room for */
	STAT_UNKNOWN_INTERFACE, /* packets of an interface without a pod */
	STAT_FULL_HEADS,	/* pieces of heads that it had no room for either */
	STAT_LEFT_CONNS,	/* connections that stayed behind with maps of another layout */
	STAT_MAX,
};

/*
 * Live records: what an exchange was, told while somebody listens. They refine nothing that is
 * counted, and a lost one is told of in stats.
 */
enum record_kind {
	RECORD_NONE = 0,
	RECORD_EXCHANGE, /* an exchange ended */
	RECORD_HEAD,	 /* some bytes of a request's head, before it ends */
};

/* Of RECORD_HEAD, in `code`: */
enum head_part {
	HEAD_FIRST = 1, /* its first bytes */
	HEAD_LAST = 2,	/* an HTTP/2 header block ends with these */
};

struct record {
	__u64 at_ns;	   /* monotonic */
	__u64 duration_ns; /* RECORD_HEAD: the bytes before these: of an HTTP/1 head; of all HTTP/2
			      header blocks on the connection; of a ClientHello behind its type;
			      NO_DURATION: nobody can tell */
	__u64 conn;	   /* joins the records of a connection; 0: UDP */
	__u32 number;	   /* of the request on its connection, from 1; a stream; a DNS id */
	__u32 pod;	   /* attachment id */
	__u8 kind;	   /* enum record_kind */
	__u8 role;	   /* enum role */
	__u8 protocol;	   /* enum l7_protocol */
	__u8 method;	   /* enum http_method, db_operation; DNS: enum transport */
	__u16 status;	 /* HTTP's; a DNS type; enum tls_version; RECORD_HEAD of a ClientHello: the
			    length of the TLS record that it begins in */
	__u8 error;	 /* enum http_error */
	__u8 code;	 /* grpc-status, DNS rcode, enum db_outcome, enum head_part */
	__u16 pod_port;	 /* host byte order, as all below but the address */
	__u16 peer_port; /* 0 with a peer_addr of 0: not known any more */
	__u8 family;	 /* enum family */
	__u8 version;	 /* enum http_version */
	__u16 len;	 /* bytes of record_data.data */
	__u8 peer_addr[16];
};
_Static_assert(sizeof(struct record) == 64, "record is read as bytes");

#define RECORD_DATA 1024
#define NO_DURATION (~0ULL)

/* A record that has bytes of the stream, or a DNS question, behind it. */
struct record_data {
	struct record record;
	__u8 data[RECORD_DATA];
};

#define RECORDS_BYTES (1 << 20)

#define MAX_PODS 1024
#define MAX_LIMITS (2 * MAX_PODS)
#define MAX_CONNS 32768
#define MAX_HALF_OPEN 4096
#define MAX_COUNTERS 32768
#define MAX_HISTOGRAMS 4096
#define MAX_DNS_PENDING 16384
#define MAX_INFLIGHT_SPILL 8192
#define MAX_HTTP2 5120
#define MAX_HTTP2_STREAMS 16384

#endif
