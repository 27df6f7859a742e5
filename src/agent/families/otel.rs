//! OpenTelemetry's names for what is counted (semantic conventions 1.45), as Prometheus writes them.
//!
//! The conventions have histograms where the kernel has counters by status too: those counters are
//! named after their histogram, with the attributes' names as labels. What the conventions have no name
//! for keeps Weir's. A family with a server's name in it has the pods that are servers, and so on.

use super::{POD, POD_FROM_ZERO, ROLE, client, server};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, Values, values},
        labels::{self, Value},
    },
    telemetry::wire::{
        CounterKey, CounterKind, Direction, Family as IpFamily, HistogramKey, HistogramKind,
        L7Protocol,
    },
};

/// Weir's families that are not on this page under their own name, or only for one role.
pub(super) const RENAMED: &[&str] = &[
    "weir_http_requests",
    "weir_http_request_duration_seconds",
    "weir_grpc_requests",
    "weir_grpc_request_duration_seconds",
    "weir_dns_lookup_duration_seconds",
    "weir_db_requests",
    "weir_db_request_duration_seconds",
    "weir_network_bytes",
];

const METHOD: Label = Label { name: "http_request_method", values: labels::HTTP_METHODS };
const VERSION: Label = Label { name: "network_protocol_version", values: labels::HTTP_VERSIONS };
const STATUS: Label = Label { name: "http_response_status_code", values: &[] };
const RPC_SYSTEM: Label = Label { name: "rpc_system_name", values: &["grpc"] };
const RPC_STATUS: Label = Label { name: "rpc_response_status_code", values: RPC_STATUSES };
const DB_SYSTEM: Label =
    Label { name: "db_system_name", values: &["redis", "postgresql", "mysql"] };
const DB_OPERATION: Label = Label { name: "db_operation_name", values: &[] };
const MESSAGING_SYSTEM: Label = Label { name: "messaging_system", values: &["kafka"] };
const MESSAGING_OPERATION: Label = Label { name: "messaging_operation_name", values: &[] };
const SYSTEM: Label = Label { name: "system", values: labels::DB_SYSTEMS };
const OPERATION: Label = Label { name: "operation", values: &[] };
const OUTCOME: Label = Label { name: "outcome", values: labels::DB_OUTCOMES };
const DIRECTION: Label = Label { name: "network_io_direction", values: &["receive", "transmit"] };
const NETWORK_TYPE: Label = Label { name: "network_type", values: &["ipv4", "ipv6"] };

/// The names of gRPC's codes, in order; empty where a call ended without one.
const RPC_STATUSES: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a gRPC code, by [`labels::grpc_status`]'s text or number; `None` if it is none.
pub fn rpc_status(code: usize) -> Option<&'static str> {
    RPC_STATUSES.get(code).copied()
}

/// A status; empty, as an absent attribute is, where no response was seen or it could not be told.
fn status(code: u16) -> Value {
    if code < 100 { Value::Name("") } else { Value::Number(code) }
}

fn requests(key: &CounterKey) -> Values {
    values([labels::http_method(key.a.into()), labels::http_version(key.b.into()), status(key.c)])
}

fn http_duration(key: &HistogramKey) -> Values {
    values([labels::http_method(key.a.into())])
}

fn calls(key: &CounterKey) -> Values {
    let status = rpc_status(key.a.into()).unwrap_or_default();
    values([Value::Name("grpc"), Value::Name(status)])
}

fn call_duration(_: &HistogramKey) -> Values {
    values([Value::Name("grpc")])
}

fn operations(key: &CounterKey) -> Values {
    values([
        labels::db_system(key.a.into()),
        labels::db_operation(key.b.into()),
        labels::db_outcome(key.c.into()),
    ])
}

fn operation_duration(key: &HistogramKey) -> Values {
    values([labels::db_system(key.a.into())])
}

fn kafka(protocol: u8) -> bool {
    u32::from(protocol) == L7Protocol::L7_KAFKA.0
}

fn database_client(role: u8, protocol: u8) -> bool {
    client(role, protocol) && !kafka(protocol)
}

fn kafka_client(role: u8, protocol: u8) -> bool {
    client(role, protocol) && kafka(protocol)
}

const REQUESTS: Family = Family {
    labels: &[METHOD, VERSION, STATUS],
    fold: Some(2),
    source: Source::Counters(CounterKind::COUNTER_HTTP_REQUESTS, requests),
    ..POD
};

const DURATION: Family = Family { kind: Kind::Histogram, unit: Unit::Seconds, ..POD };

const HTTP_DURATION: Family = Family {
    labels: &[METHOD],
    fold: Some(0),
    source: Source::Histograms(HistogramKind::HISTOGRAM_HTTP_REQUEST, http_duration),
    ..DURATION
};

const CALLS: Family = Family {
    labels: &[RPC_SYSTEM, RPC_STATUS],
    fold: Some(1),
    source: Source::Counters(CounterKind::COUNTER_GRPC_REQUESTS, calls),
    ..POD
};

const CALL_DURATION: Family = Family {
    labels: &[RPC_SYSTEM],
    source: Source::Histograms(HistogramKind::HISTOGRAM_GRPC_REQUEST, call_duration),
    ..DURATION
};

const OPERATIONS: Family = Family {
    fold: Some(1),
    source: Source::Counters(CounterKind::COUNTER_DB_REQUESTS, operations),
    ..POD
};

const OPERATION_DURATION: Family = Family {
    source: Source::Histograms(HistogramKind::HISTOGRAM_DB_REQUEST, operation_duration),
    ..DURATION
};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "http_server_request_duration_seconds",
        help: "Duration of HTTP server requests",
        only: server,
        ..HTTP_DURATION
    },
    Family {
        name: "http_client_request_duration_seconds",
        help: "Duration of HTTP client requests",
        only: client,
        ..HTTP_DURATION
    },
    Family {
        name: "http_server_requests",
        help: "HTTP server requests, with those that had no response",
        only: server,
        ..REQUESTS
    },
    Family {
        name: "http_client_requests",
        help: "HTTP client requests, with those that had no response",
        only: client,
        ..REQUESTS
    },
    Family {
        name: "rpc_server_call_duration_seconds",
        help: "Duration of incoming remote procedure calls",
        only: server,
        ..CALL_DURATION
    },
    Family {
        name: "rpc_client_call_duration_seconds",
        help: "Duration of outgoing remote procedure calls",
        only: client,
        ..CALL_DURATION
    },
    Family {
        name: "rpc_server_calls",
        help: "Incoming remote procedure calls by status",
        only: server,
        ..CALLS
    },
    Family {
        name: "rpc_client_calls",
        help: "Outgoing remote procedure calls by status",
        only: client,
        ..CALLS
    },
    Family {
        name: "dns_lookup_duration_seconds",
        help: "Time that DNS lookups took",
        labels: &[],
        only: client,
        source: Source::Histograms(HistogramKind::HISTOGRAM_DNS_LOOKUP, |_| values([])),
        ..DURATION
    },
    Family {
        name: "weir_dns_lookup_duration_seconds",
        help: "Time from a DNS query to its response, where the pod is the server",
        labels: &[ROLE],
        only: server,
        source: Source::Histograms(HistogramKind::HISTOGRAM_DNS_LOOKUP, |key| {
            values([labels::role(key.role.into())])
        }),
        ..DURATION
    },
    Family {
        name: "db_client_operation_duration_seconds",
        help: "Duration of database client operations",
        labels: &[DB_SYSTEM],
        only: database_client,
        ..OPERATION_DURATION
    },
    Family {
        name: "db_client_operations",
        help: "Database client operations by how they were answered",
        labels: &[DB_SYSTEM, DB_OPERATION, OUTCOME],
        only: database_client,
        ..OPERATIONS
    },
    Family {
        name: "messaging_client_operation_duration_seconds",
        help: "Duration of messaging operations of a client",
        labels: &[MESSAGING_SYSTEM],
        only: kafka_client,
        ..OPERATION_DURATION
    },
    Family {
        name: "messaging_client_operations",
        help: "Messaging operations of a client by how they were answered",
        labels: &[MESSAGING_SYSTEM, MESSAGING_OPERATION, OUTCOME],
        only: kafka_client,
        ..OPERATIONS
    },
    Family {
        name: "weir_db_request_duration_seconds",
        help: "Duration of requests to a pod that is a database",
        labels: &[SYSTEM],
        only: server,
        ..OPERATION_DURATION
    },
    Family {
        name: "weir_db_requests",
        help: "Requests to a pod that is a database by how they were answered",
        labels: &[SYSTEM, OPERATION, OUTCOME],
        only: server,
        ..OPERATIONS
    },
    Family {
        name: "k8s_pod_network_io_bytes",
        unit: Unit::Bytes,
        help: "Network bytes of the pod",
        labels: &[DIRECTION, NETWORK_TYPE],
        source: Source::Network(
            |counter| counter.bytes,
            |direction, family| {
                let receive = direction == Direction::DIRECTION_RX.0;
                let ipv4 = family == IpFamily::FAMILY_IPV4.0;
                values([
                    Value::Name(if receive { "receive" } else { "transmit" }),
                    Value::Name(if ipv4 { "ipv4" } else { "ipv6" }),
                ])
            },
        ),
        ..POD_FROM_ZERO
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_calls_have_the_names_of_the_conventions() {
        assert_eq!((rpc_status(0), rpc_status(4)), (Some("OK"), Some("DEADLINE_EXCEEDED")));
        assert_eq!((rpc_status(16), rpc_status(17)), (Some("UNAUTHENTICATED"), None));
        assert_eq!(RPC_STATUSES.len() + 1, labels::GRPC_STATUSES.len());
    }

    #[test]
    fn a_request_without_a_response_has_no_status() {
        assert_eq!([0, 1, 404].map(status), [Value::Name(""), Value::Name(""), Value::Number(404)]);
    }
}
