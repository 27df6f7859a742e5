//! DNS.

use super::{POD, POD_FROM_ZERO, ROLE, role};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, values},
        labels::{self},
    },
    telemetry::wire::{CounterKind, HistogramKind},
};

const QTYPE: Label = Label { name: "qtype", values: labels::DNS_QTYPES };
const RCODE: Label = Label { name: "rcode", values: labels::DNS_RCODES };
const TRANSPORT: Label = Label { name: "transport", values: labels::TRANSPORTS };

pub(super) const FAMILIES: &[Family] = &[
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
];
