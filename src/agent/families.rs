//! The metric families: one table that says what each is called, means and is filled from.
//!
//! Names, types and labels are a contract with dashboards and alerts; `docs/metrics.md` is printed
//! from this table. Nothing in here touches a map or a socket.

use super::{
    family::{Family, Kind, Label, Source, Start, Unit, Values, values},
    labels::{self, Value},
};
use crate::telemetry::wire::{CounterKey, CounterKind, HistogramKind, Stat};

const ROLE: Label = Label { name: "role", values: labels::ROLES };
const METHOD: Label = Label { name: "method", values: labels::HTTP_METHODS };
const PROTOCOL: Label = Label { name: "protocol", values: labels::HTTP_VERSIONS };
const STATUS: Label = Label { name: "status", values: &[] };
const HTTP_ERROR: Label = Label { name: "error", values: labels::HTTP_ERRORS };
const QTYPE: Label = Label { name: "qtype", values: labels::DNS_QTYPES };
const RCODE: Label = Label { name: "rcode", values: labels::DNS_RCODES };
const TRANSPORT: Label = Label { name: "transport", values: labels::TRANSPORTS };
const TCP_RESULT: Label = Label { name: "result", values: labels::TCP_RESULTS };
const DIRECTION: Label = Label { name: "direction", values: labels::DIRECTIONS };
const IP_FAMILY: Label = Label { name: "family", values: labels::IP_FAMILIES };
const L7_PROTOCOL: Label = Label { name: "protocol", values: labels::L7_PROTOCOLS };
const HOOK: Label = Label { name: "hook", values: &["clsact", "tcx", "none"] };
const MAP: Label = Label { name: "map", values: &[] };

/// A pod's counter without a unit that starts with its first event; the table changes what differs.
const POD: Family = Family {
    name: "",
    kind: Kind::Counter,
    unit: Unit::None,
    help: "",
    labels: &[ROLE],
    fold: None,
    start: Start::FirstEvent,
    source: Source::ActiveConnections,
};

/// A pod's counter whose series are few enough to start at 0 with the pod.
const POD_FROM_ZERO: Family = Family { start: Start::Zero, ..POD };

/// A gauge of the node.
const NODE: Family = Family { kind: Kind::Gauge, labels: &[], ..POD };

fn role(key: &CounterKey) -> Values {
    values([labels::role(key.role.into())])
}

/// All families, in the order of the page. The overflow counter is last: it counts the others.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "weir_http_requests",
        help: "HTTP requests by method, protocol and response status (0: no response was seen)",
        labels: &[ROLE, METHOD, PROTOCOL, STATUS],
        fold: Some(3),
        source: Source::Counters(CounterKind::COUNTER_HTTP_REQUESTS, |key| {
            [
                labels::role(key.role.into()),
                labels::http_method(key.a.into()),
                labels::http_version(key.b.into()),
                Value::Number(key.c),
            ]
        }),
        ..POD
    },
    Family {
        name: "weir_http_request_duration_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from the first byte of an HTTP request to the last byte of its response",
        labels: &[ROLE, METHOD],
        fold: Some(1),
        source: Source::Histograms(HistogramKind::HISTOGRAM_HTTP_REQUEST, |key| {
            values([labels::role(key.role.into()), labels::http_method(key.a.into())])
        }),
        ..POD
    },
    Family {
        name: "weir_http_request_body_bytes",
        unit: Unit::Bytes,
        help: "Bytes of HTTP request bodies",
        source: Source::Counters(CounterKind::COUNTER_HTTP_REQUEST_BODY, role),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_http_response_body_bytes",
        unit: Unit::Bytes,
        help: "Bytes of HTTP response bodies",
        source: Source::Counters(CounterKind::COUNTER_HTTP_RESPONSE_BODY, role),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_http_errors",
        help: "HTTP exchanges that ended without a complete response, by cause",
        labels: &[ROLE, HTTP_ERROR],
        source: Source::Counters(CounterKind::COUNTER_HTTP_ERRORS, |key| {
            values([labels::role(key.role.into()), labels::http_error(key.a.into())])
        }),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_http_unmatched_responses",
        help: "HTTP responses that no request had asked for",
        source: Source::Counters(CounterKind::COUNTER_HTTP_UNMATCHED, role),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_dns_queries",
        help: "DNS queries by type and transport",
        labels: &[ROLE, QTYPE, TRANSPORT],
        fold: Some(1),
        source: Source::Counters(CounterKind::COUNTER_DNS_QUERIES, |key| {
            values([
                labels::role(key.role.into()),
                labels::dns_qtype(key.c.into()),
                labels::transport(key.b.into()),
            ])
        }),
        ..POD
    },
    Family {
        name: "weir_dns_responses",
        help: "DNS responses by type and return code",
        labels: &[ROLE, QTYPE, RCODE],
        fold: Some(1),
        source: Source::Counters(CounterKind::COUNTER_DNS_RESPONSES, |key| {
            values([
                labels::role(key.role.into()),
                labels::dns_qtype(key.c.into()),
                labels::dns_rcode(key.a.into()),
            ])
        }),
        ..POD
    },
    Family {
        name: "weir_dns_lookup_duration_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from a DNS query to its response",
        source: Source::Histograms(HistogramKind::HISTOGRAM_DNS_LOOKUP, |key| {
            values([labels::role(key.role.into())])
        }),
        ..POD
    },
    Family {
        name: "weir_dns_timeouts",
        help: "DNS queries that had no response for 5 seconds",
        source: Source::Counters(CounterKind::COUNTER_DNS_TIMEOUTS, role),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_dns_unmatched_responses",
        help: "DNS responses without a pending query",
        source: Source::Counters(CounterKind::COUNTER_DNS_UNMATCHED, role),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_dns_malformed",
        help: "Messages on the DNS port that are not DNS",
        source: Source::Counters(CounterKind::COUNTER_DNS_MALFORMED, role),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_tcp_connections",
        help: "TCP connections by what became of the attempt",
        labels: &[ROLE, TCP_RESULT],
        source: Source::Counters(CounterKind::COUNTER_TCP_CONNECTIONS, |key| {
            values([labels::role(key.role.into()), labels::tcp_result(key.a.into())])
        }),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_tcp_active_connections",
        kind: Kind::Gauge,
        help: "TCP connections that are established now",
        source: Source::ActiveConnections,
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_tcp_retransmits",
        help: "TCP segments that were sent again, by direction as the pod sees it",
        labels: &[DIRECTION],
        source: Source::Counters(CounterKind::COUNTER_TCP_RETRANSMITS, |key| {
            values([labels::direction(key.a.into())])
        }),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_tcp_connect_duration_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from SYN to SYN-ACK",
        source: Source::Histograms(HistogramKind::HISTOGRAM_TCP_CONNECT, |key| {
            values([labels::role(key.role.into())])
        }),
        ..POD
    },
    Family {
        name: "weir_network_bytes",
        unit: Unit::Bytes,
        help: "Bytes as ip -s link counts them on the pod's interface, by direction as the pod sees it",
        labels: &[DIRECTION, IP_FAMILY],
        source: Source::Network(|counter| counter.bytes),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_network_packets",
        help: "Packets (GSO segments), by direction as the pod sees it",
        labels: &[DIRECTION, IP_FAMILY],
        source: Source::Network(|counter| counter.packets),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_l7_connections",
        help: "TCP connections by what their bytes turned out to be",
        labels: &[ROLE, L7_PROTOCOL],
        source: Source::Counters(CounterKind::COUNTER_L7_CONNECTIONS, |key| {
            values([labels::role(key.role.into()), labels::l7_protocol(key.a.into())])
        }),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_attach_status",
        kind: Kind::Gauge,
        help: "1 for a living pod whose traffic is counted by that hook, 0 for one whose traffic is not counted",
        labels: &[HOOK],
        source: Source::Attachments,
        ..POD
    },
    Family {
        name: "weir_pods",
        help: "Living attachments on this node, counted or not",
        source: Source::Node(|reading| vec![(values([]), reading.living())]),
        ..NODE
    },
    Family {
        name: "weir_build",
        kind: Kind::Info,
        help: "Version of this agent and schema of the maps that it reads",
        labels: &[Label { name: "version", values: &[] }, Label { name: "schema", values: &[] }],
        source: Source::Node(|_| {
            let version = Value::Name(env!("CARGO_PKG_VERSION"));
            vec![(values([version, Value::Name(env!("WEIR_SCHEMA"))]), 1)]
        }),
        ..NODE
    },
    Family {
        name: "weir_maps_open",
        help: "1 while the pinned maps can be read, 0 while there are none or they can't",
        source: Source::Node(|reading| vec![(values([]), reading.own.maps_open.into())]),
        ..NODE
    },
    Family {
        name: "weir_events_lost",
        kind: Kind::Counter,
        help: "What happened and is not counted above because the table for it was full",
        labels: &[Label {
            name: "source",
            values: &["connections", "counters", "histograms", "dns"],
        }],
        source: Source::Node(|reading| {
            reading.stats(&[
                ("connections", Stat::STAT_FULL_CONNS),
                ("counters", Stat::STAT_FULL_COUNTERS),
                ("histograms", Stat::STAT_FULL_HISTOGRAMS),
                ("dns", Stat::STAT_FULL_DNS),
            ])
        }),
        ..NODE
    },
    Family {
        name: "weir_parse_gaps",
        kind: Kind::Counter,
        help: "Times that a stream could not be followed, or only in part, by reason",
        labels: &[Label {
            name: "reason",
            values: &["sequence", "contended", "malformed", "steps", "inflight", "fragment"],
        }],
        source: Source::Node(|reading| {
            reading.stats(&[
                ("sequence", Stat::STAT_GAP_SEQUENCE),
                ("contended", Stat::STAT_GAP_CONTENDED),
                ("malformed", Stat::STAT_GAP_MALFORMED),
                ("steps", Stat::STAT_GAP_STEPS),
                ("inflight", Stat::STAT_GAP_INFLIGHT),
                ("fragment", Stat::STAT_GAP_FRAGMENT),
            ])
        }),
        ..NODE
    },
    Family {
        name: "weir_unknown_interface_packets",
        kind: Kind::Counter,
        help: "Packets that a hook saw on an interface that is no pod's",
        source: Source::Node(|reading| {
            vec![(values([]), reading.stat(Stat::STAT_UNKNOWN_INTERFACE))]
        }),
        ..NODE
    },
    Family {
        name: "weir_map_entries",
        help: "Elements in use of each BPF map",
        labels: &[MAP],
        source: Source::Node(|reading| reading.maps(|map| map.entries)),
        ..NODE
    },
    Family {
        name: "weir_map_capacity",
        help: "Elements that each BPF map can hold",
        labels: &[MAP],
        source: Source::Node(|reading| reading.maps(|map| map.capacity)),
        ..NODE
    },
    Family {
        name: "weir_map_bytes",
        unit: Unit::Bytes,
        help: "Kernel memory of each BPF map",
        labels: &[MAP],
        source: Source::Node(|reading| reading.maps(|map| map.bytes)),
        ..NODE
    },
    Family {
        name: "weir_scrape_duration_seconds",
        unit: Unit::Seconds,
        help: "Time that reading the maps for this page took",
        source: Source::Node(|reading| vec![(values([]), reading.own.read_ns)]),
        ..NODE
    },
    Family {
        name: "weir_cardinality_overflow",
        kind: Kind::Counter,
        help: "Label sets folded into __other__ by a family over its budget, added up over readings",
        labels: &[Label { name: "metric", values: &[] }],
        source: Source::Node(|reading| {
            let overflow = reading.own.overflow.iter();
            overflow.map(|(family, folded)| (values([Value::Name(family)]), *folded)).collect()
        }),
        ..NODE
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for family in FAMILIES {
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            assert!(family.name.starts_with("weir_"), "{}", family.name);
            let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(family.name.chars().all(valid), "{}", family.name);
            for reserved in ["_total", "_info", "_bucket", "_sum", "_count", "_created"] {
                assert!(!family.name.ends_with(reserved), "{}", family.name);
            }
            match family.unit {
                Unit::None => {}
                Unit::Seconds => assert!(family.name.ends_with("_seconds"), "{}", family.name),
                Unit::Bytes => assert!(family.name.ends_with("_bytes"), "{}", family.name),
            }
        }
    }

    #[test]
    fn help_needs_no_escaping_in_either_text_form() {
        for Family { name, help, .. } in FAMILIES {
            assert!(!help.is_empty() && !help.contains(['\\', '"', '\n']), "{name}: {help}");
            assert!(!help.ends_with('.'), "{name}: {help}");
        }
    }

    #[test]
    fn series_that_start_at_0_have_only_listed_labels() {
        for family in FAMILIES.iter().filter(|family| family.start == Start::Zero) {
            assert!(family.labels.iter().all(|label| !label.values.is_empty()), "{}", family.name);
        }
    }

    #[test]
    fn every_kind_of_counter_and_histogram_of_the_wire_is_shown() {
        let counters: BTreeSet<u32> = FAMILIES
            .iter()
            .filter_map(|family| match family.source {
                Source::Counters(kind, _) => Some(kind.0),
                Source::ActiveConnections => Some(CounterKind::COUNTER_TCP_CLOSED.0),
                _ => None,
            })
            .collect();
        assert_eq!(counters, (1..CounterKind::COUNTER_KIND_MAX.0).collect());
        let histograms: BTreeSet<u32> = FAMILIES
            .iter()
            .filter_map(|family| match family.source {
                Source::Histograms(kind, _) => Some(kind.0),
                _ => None,
            })
            .collect();
        assert_eq!(histograms, (1..HistogramKind::HISTOGRAM_KIND_MAX.0).collect());
    }

    #[test]
    fn the_overflow_counter_comes_after_what_it_counts() {
        let last = FAMILIES.last().map(|family| family.name);
        assert_eq!(last, Some("weir_cardinality_overflow"));
    }
}
