//! TCP, the layers below it, and what is in it.

use super::{POD, POD_FROM_ZERO, ROLE};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, Values, values},
        labels::{self},
    },
    telemetry::wire::{CounterKind, HistogramKind},
};

const TLS_VERSION: Label = Label { name: "version", values: labels::TLS_VERSIONS };
const SERVER_NAME: Label = Label { name: "server_name", values: &[] };
const TCP_RESULT: Label = Label { name: "result", values: labels::TCP_RESULTS };
const DIRECTION: Label = Label { name: "direction", values: labels::DIRECTIONS };
const IP_FAMILY: Label = Label { name: "family", values: labels::IP_FAMILIES };
const L7_PROTOCOL: Label = Label { name: "protocol", values: labels::L7_PROTOCOLS };

fn direction_and_family(direction: u32, family: u32) -> Values {
    values([labels::direction(direction), labels::family(family)])
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "weir_tls_handshakes",
        help: "TLS handshakes by the version that the server chose",
        labels: &[ROLE, TLS_VERSION],
        source: Source::Counters(CounterKind::COUNTER_TLS_HANDSHAKES, |key| {
            values([labels::role(key.role.into()), labels::tls_version(key.a.into())])
        }),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_tls_server_names",
        help: "With --tls-sni-top: TLS handshakes by the name that the client asked for, since the agent's start, without those in weir_events_lost_total of sources records and heads",
        labels: &[ROLE, SERVER_NAME],
        fold: Some(1),
        source: Source::ServerNames,
        ..POD
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
        name: "weir_tcp_rtt_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from a segment of the pod to its acknowledgement, at most ten a second of a connection",
        labels: &[ROLE],
        source: Source::Histograms(HistogramKind::HISTOGRAM_TCP_RTT, |key| {
            values([labels::role(key.role.into())])
        }),
        ..POD
    },
    Family {
        name: "weir_network_bytes",
        unit: Unit::Bytes,
        help: "Bytes as ip -s link counts them on the pod's interface, by direction as the pod sees it",
        labels: &[DIRECTION, IP_FAMILY],
        source: Source::Network(|counter| counter.bytes, direction_and_family),
        ..POD_FROM_ZERO
    },
    Family {
        name: "weir_network_packets",
        help: "Packets (GSO segments), by direction as the pod sees it",
        labels: &[DIRECTION, IP_FAMILY],
        source: Source::Network(|counter| counter.packets, direction_and_family),
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
];
