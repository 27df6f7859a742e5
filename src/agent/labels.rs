//! What the numbers on the wire are called in a label.
//!
//! The sets are closed on purpose: a pod can send any method, query type or return code, and none of
//! them may become a series of its own. A number that is not listed has one name for all of its kind.

use std::fmt;

use crate::telemetry::wire::{
    DbOperation, DbOutcome, Direction, Family, HttpError, HttpMethod, HttpStatus, HttpVersion,
    L7Protocol, Role, TcpResult, TlsVersion, Transport,
};

/// The value of one label; numbers are kept as numbers, so that a status costs no text of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A number as it is.
    Number(u16),
    /// One name of a closed set.
    Name(&'static str),
    /// One of the page's [`names`](super::series::Page::names), none of which needs escaping.
    Text(u32),
}

/// The value that a label over its budget is folded into.
pub const OTHER: &str = "__other__";

/// A number that this release has no name for: a newer kernel side, or nothing was to be known.
const UNKNOWN: &str = "unknown";

impl Value {
    /// What it is called, if it is a name; `names` are the page's.
    pub fn name<'a>(&self, names: &'a [String]) -> Option<&'a str> {
        match self {
            Self::Number(_) => None,
            Self::Name(name) => Some(name),
            Self::Text(at) => {
                Some(usize::try_from(*at).ok().and_then(|at| names.get(at)).map_or("", |it| it))
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
            Self::Text(at) => write!(f, "#{at}"),
        }
    }
}

/// A function from number to name, and the list of its names (with the one for all other numbers
/// where that is an answer and not a lack of one). Few enough to be looked through in order.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $all:ident $(+ $listed:literal)?, else $rest:expr, {
        $($code:expr => $text:literal,)+
    }) => {
        #[doc = concat!("Every name that [`", stringify!($name), "`] gives to what it knows.")]
        pub const $all: &[&str] = &[$($text,)+ $($listed)?];
        $(#[$doc])*
        pub fn $name(code: u32) -> Value {
            $(if code == $code { return Value::Name($text); })+
            Value::Name($rest)
        }
    };
}

names! {
    /// The pod's role in an exchange.
    role, ROLES, else UNKNOWN, {
        Role::ROLE_SERVER.0 => "server",
        Role::ROLE_CLIENT.0 => "client",
    }
}

names! {
    /// As the pod sees it.
    direction, DIRECTIONS, else UNKNOWN, {
        Direction::DIRECTION_RX.0 => "rx",
        Direction::DIRECTION_TX.0 => "tx",
    }
}

names! {
    /// The version of the Internet Protocol.
    family, IP_FAMILIES, else UNKNOWN, {
        Family::FAMILY_IPV4.0 => "4",
        Family::FAMILY_IPV6.0 => "6",
    }
}

names! {
    /// The ten methods of OpenTelemetry's semantic conventions; any other is `_OTHER`, as they ask.
    http_method, HTTP_METHODS, else "_OTHER", {
        HttpMethod::HTTP_METHOD_GET.0 => "GET",
        HttpMethod::HTTP_METHOD_HEAD.0 => "HEAD",
        HttpMethod::HTTP_METHOD_POST.0 => "POST",
        HttpMethod::HTTP_METHOD_PUT.0 => "PUT",
        HttpMethod::HTTP_METHOD_DELETE.0 => "DELETE",
        HttpMethod::HTTP_METHOD_CONNECT.0 => "CONNECT",
        HttpMethod::HTTP_METHOD_OPTIONS.0 => "OPTIONS",
        HttpMethod::HTTP_METHOD_TRACE.0 => "TRACE",
        HttpMethod::HTTP_METHOD_PATCH.0 => "PATCH",
        HttpMethod::HTTP_METHOD_QUERY.0 => "QUERY",
        HttpMethod::HTTP_METHOD_OTHER.0 => "_OTHER",
    }
}

names! {
    /// The version in the request line; `unknown` of one beyond the places for requests that wait.
    http_version, HTTP_VERSIONS + "unknown", else "unknown", {
        HttpVersion::HTTP_VERSION_1_0.0 => "1.0",
        HttpVersion::HTTP_VERSION_1_1.0 => "1.1",
        HttpVersion::HTTP_VERSION_2.0 => "2",
    }
}

/// An HTTP status; 0 where no response was seen.
pub fn http_status(code: u16) -> Value {
    if u32::from(code) == HttpStatus::HTTP_STATUS_UNKNOWN.0 {
        Value::Name(UNKNOWN)
    } else {
        Value::Number(code)
    }
}

/// The 17 codes of gRPC, and `unknown` for a call that ended without one.
pub const GRPC_STATUSES: &[&str] = &[
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    UNKNOWN,
];

/// One of [`GRPC_STATUSES`].
pub fn grpc_status(code: u32) -> Value {
    let at = usize::try_from(code).unwrap_or(usize::MAX);
    Value::Name(GRPC_STATUSES.get(at).copied().unwrap_or(UNKNOWN))
}

names! {
    /// Why an exchange has no complete response.
    http_error, HTTP_ERRORS, else UNKNOWN, {
        HttpError::HTTP_ERROR_NO_RESPONSE.0 => "no_response",
        HttpError::HTTP_ERROR_RESET.0 => "reset",
        HttpError::HTTP_ERROR_MALFORMED.0 => "malformed",
        HttpError::HTTP_ERROR_CANCELLED.0 => "cancelled",
    }
}

names! {
    /// The version that a server chose.
    tls_version, TLS_VERSIONS + "other", else "other", {
        TlsVersion::TLS_VERSION_1_0.0 => "1.0",
        TlsVersion::TLS_VERSION_1_1.0 => "1.1",
        TlsVersion::TLS_VERSION_1_2.0 => "1.2",
        TlsVersion::TLS_VERSION_1_3.0 => "1.3",
    }
}

names! {
    /// What became of an attempt to connect.
    tcp_result, TCP_RESULTS, else UNKNOWN, {
        TcpResult::TCP_RESULT_ESTABLISHED.0 => "established",
        TcpResult::TCP_RESULT_REFUSED.0 => "refused",
        TcpResult::TCP_RESULT_TIMEOUT.0 => "timeout",
        TcpResult::TCP_RESULT_RESET.0 => "reset",
    }
}

names! {
    /// What the bytes of a connection turned out to be.
    l7_protocol, L7_PROTOCOLS, else UNKNOWN, {
        L7Protocol::L7_HTTP1.0 => "http1",
        L7Protocol::L7_HTTP2.0 => "http2",
        L7Protocol::L7_TLS.0 => "tls",
        L7Protocol::L7_DNS.0 => "dns",
        L7Protocol::L7_REDIS.0 => "redis",
        L7Protocol::L7_POSTGRESQL.0 => "postgresql",
        L7Protocol::L7_MYSQL.0 => "mysql",
        L7Protocol::L7_KAFKA.0 => "kafka",
        L7Protocol::L7_UNKNOWN.0 => "unknown",
    }
}

names! {
    /// The databases among [`l7_protocol`]'s.
    db_system, DB_SYSTEMS, else UNKNOWN, {
        L7Protocol::L7_REDIS.0 => "redis",
        L7Protocol::L7_POSTGRESQL.0 => "postgresql",
        L7Protocol::L7_MYSQL.0 => "mysql",
        L7Protocol::L7_KAFKA.0 => "kafka",
    }
}

names! {
    /// What a database was asked for; `unknown` where nothing that was seen tells it.
    db_operation, DB_OPERATIONS + "other", else "other", {
        DbOperation::DB_UNKNOWN.0 => "unknown",
        DbOperation::DB_AUTH.0 => "AUTH",
        DbOperation::DB_CLIENT.0 => "CLIENT",
        DbOperation::DB_CONFIG.0 => "CONFIG",
        DbOperation::DB_DEL.0 => "DEL",
        DbOperation::DB_EVAL.0 => "EVAL",
        DbOperation::DB_EVALSHA.0 => "EVALSHA",
        DbOperation::DB_EXEC.0 => "EXEC",
        DbOperation::DB_EXISTS.0 => "EXISTS",
        DbOperation::DB_EXPIRE.0 => "EXPIRE",
        DbOperation::DB_GET.0 => "GET",
        DbOperation::DB_HDEL.0 => "HDEL",
        DbOperation::DB_HELLO.0 => "HELLO",
        DbOperation::DB_HGET.0 => "HGET",
        DbOperation::DB_HGETALL.0 => "HGETALL",
        DbOperation::DB_HMGET.0 => "HMGET",
        DbOperation::DB_HSET.0 => "HSET",
        DbOperation::DB_INCR.0 => "INCR",
        DbOperation::DB_INFO.0 => "INFO",
        DbOperation::DB_LPOP.0 => "LPOP",
        DbOperation::DB_LPUSH.0 => "LPUSH",
        DbOperation::DB_LRANGE.0 => "LRANGE",
        DbOperation::DB_MGET.0 => "MGET",
        DbOperation::DB_MSET.0 => "MSET",
        DbOperation::DB_MULTI.0 => "MULTI",
        DbOperation::DB_PING.0 => "PING",
        DbOperation::DB_PUBLISH.0 => "PUBLISH",
        DbOperation::DB_RPOP.0 => "RPOP",
        DbOperation::DB_RPUSH.0 => "RPUSH",
        DbOperation::DB_SADD.0 => "SADD",
        DbOperation::DB_SCAN.0 => "SCAN",
        DbOperation::DB_SELECT.0 => "SELECT",
        DbOperation::DB_SET.0 => "SET",
        DbOperation::DB_SMEMBERS.0 => "SMEMBERS",
        DbOperation::DB_SPOP.0 => "SPOP",
        DbOperation::DB_SREM.0 => "SREM",
        DbOperation::DB_SUBSCRIBE.0 => "SUBSCRIBE",
        DbOperation::DB_TTL.0 => "TTL",
        DbOperation::DB_XADD.0 => "XADD",
        DbOperation::DB_XREADGROUP.0 => "XREADGROUP",
        DbOperation::DB_ZADD.0 => "ZADD",
        DbOperation::DB_ZPOPMIN.0 => "ZPOPMIN",
        DbOperation::DB_ZRANGE.0 => "ZRANGE",
        DbOperation::DB_ALTER.0 => "ALTER",
        DbOperation::DB_ANALYZE.0 => "ANALYZE",
        DbOperation::DB_BEGIN.0 => "BEGIN",
        DbOperation::DB_CALL.0 => "CALL",
        DbOperation::DB_CLOSE.0 => "CLOSE",
        DbOperation::DB_COMMIT.0 => "COMMIT",
        DbOperation::DB_COPY.0 => "COPY",
        DbOperation::DB_CREATE.0 => "CREATE",
        DbOperation::DB_DEALLOCATE.0 => "DEALLOCATE",
        DbOperation::DB_DECLARE.0 => "DECLARE",
        DbOperation::DB_DELETE.0 => "DELETE",
        DbOperation::DB_DISCARD.0 => "DISCARD",
        DbOperation::DB_DO.0 => "DO",
        DbOperation::DB_DROP.0 => "DROP",
        DbOperation::DB_EMPTY.0 => "EMPTY",
        DbOperation::DB_EXECUTE.0 => "EXECUTE",
        DbOperation::DB_EXPLAIN.0 => "EXPLAIN",
        DbOperation::DB_FETCH.0 => "FETCH",
        DbOperation::DB_GRANT.0 => "GRANT",
        DbOperation::DB_INSERT.0 => "INSERT",
        DbOperation::DB_LISTEN.0 => "LISTEN",
        DbOperation::DB_LOAD.0 => "LOAD",
        DbOperation::DB_LOCK.0 => "LOCK",
        DbOperation::DB_MERGE.0 => "MERGE",
        DbOperation::DB_MOVE.0 => "MOVE",
        DbOperation::DB_NOTIFY.0 => "NOTIFY",
        DbOperation::DB_PREPARE.0 => "PREPARE",
        DbOperation::DB_RELEASE.0 => "RELEASE",
        DbOperation::DB_REPLACE.0 => "REPLACE",
        DbOperation::DB_ROLLBACK.0 => "ROLLBACK",
        DbOperation::DB_SAVEPOINT.0 => "SAVEPOINT",
        DbOperation::DB_SHOW.0 => "SHOW",
        DbOperation::DB_TRUNCATE.0 => "TRUNCATE",
        DbOperation::DB_UPDATE.0 => "UPDATE",
        DbOperation::DB_USE.0 => "USE",
        DbOperation::DB_VACUUM.0 => "VACUUM",
        DbOperation::DB_WITH.0 => "WITH",
        DbOperation::DB_PRODUCE.0 => "Produce",
        DbOperation::DB_KAFKA_FETCH.0 => "Fetch",
        DbOperation::DB_LIST_OFFSETS.0 => "ListOffsets",
        DbOperation::DB_METADATA.0 => "Metadata",
        DbOperation::DB_OFFSET_COMMIT.0 => "OffsetCommit",
        DbOperation::DB_OFFSET_FETCH.0 => "OffsetFetch",
        DbOperation::DB_FIND_COORDINATOR.0 => "FindCoordinator",
        DbOperation::DB_JOIN_GROUP.0 => "JoinGroup",
        DbOperation::DB_HEARTBEAT.0 => "Heartbeat",
        DbOperation::DB_LEAVE_GROUP.0 => "LeaveGroup",
        DbOperation::DB_SYNC_GROUP.0 => "SyncGroup",
        DbOperation::DB_DESCRIBE_GROUPS.0 => "DescribeGroups",
        DbOperation::DB_LIST_GROUPS.0 => "ListGroups",
        DbOperation::DB_SASL_HANDSHAKE.0 => "SaslHandshake",
        DbOperation::DB_API_VERSIONS.0 => "ApiVersions",
        DbOperation::DB_CREATE_TOPICS.0 => "CreateTopics",
        DbOperation::DB_DELETE_TOPICS.0 => "DeleteTopics",
        DbOperation::DB_INIT_PRODUCER_ID.0 => "InitProducerId",
        DbOperation::DB_ADD_PARTITIONS_TO_TXN.0 => "AddPartitionsToTxn",
        DbOperation::DB_ADD_OFFSETS_TO_TXN.0 => "AddOffsetsToTxn",
        DbOperation::DB_END_TXN.0 => "EndTxn",
        DbOperation::DB_TXN_OFFSET_COMMIT.0 => "TxnOffsetCommit",
        DbOperation::DB_DESCRIBE_CONFIGS.0 => "DescribeConfigs",
        DbOperation::DB_SASL_AUTHENTICATE.0 => "SaslAuthenticate",
        DbOperation::DB_CONSUMER_GROUP_HEARTBEAT.0 => "ConsumerGroupHeartbeat",
    }
}

names! {
    /// How a database answered.
    db_outcome, DB_OUTCOMES, else UNKNOWN, {
        DbOutcome::DB_OK.0 => "ok",
        DbOutcome::DB_ERROR.0 => "error",
        DbOutcome::DB_NO_RESPONSE.0 => "no_response",
        DbOutcome::DB_UNTOLD.0 => "unknown",
    }
}

names! {
    /// What carried a DNS message.
    transport, TRANSPORTS, else UNKNOWN, {
        Transport::TRANSPORT_UDP.0 => "udp",
        Transport::TRANSPORT_TCP.0 => "tcp",
    }
}

names! {
    /// Query types by their IANA numbers (RFC 1035, 2782, 3596, 9460).
    dns_qtype, DNS_QTYPES + "other", else "other", {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        65 => "HTTPS",
        255 => "ANY",
    }
}

names! {
    /// Return codes of the header (RFC 1035, section 4.1.1).
    dns_rcode, DNS_RCODES + "other", else "other", {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_wire_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            (0..HttpMethod::HTTP_METHOD_MAX.0).map(http_method).collect();
        assert_eq!(names.len(), HttpMethod::HTTP_METHOD_MAX.0 as usize);
        assert_eq!(http_method(HttpMethod::HTTP_METHOD_MAX.0), Value::Name("_OTHER"));
    }

    #[test]
    fn every_operation_of_the_wire_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            (0..DbOperation::DB_OPERATION_MAX.0).map(db_operation).collect();
        assert_eq!(names.len(), DbOperation::DB_OPERATION_MAX.0 as usize);
    }

    #[test]
    fn a_number_without_a_name_does_not_become_a_series_of_its_own() {
        for (name, all) in [
            (dns_qtype as fn(u32) -> Value, DNS_QTYPES),
            (dns_rcode, DNS_RCODES),
            (http_method, HTTP_METHODS),
            (db_operation, DB_OPERATIONS),
        ] {
            let names: std::collections::BTreeSet<_> =
                (0..=u32::from(u16::MAX)).map(name).collect();
            assert_eq!(names.len(), all.len());
            assert!(
                names.iter().all(|name| matches!(name, Value::Name(name) if all.contains(name)))
            );
        }
    }
}
