//! The metrics of Cilium's Hubble that can be filled truthfully, under its names and labels.
//!
//! Hubble's labels of the other side (`source`, `destination`) and the addresses in an answer
//! (`ips_returned`) are not counted by; flows, drops and TCP flags are not what the kernel side counts.

use super::{POD, client};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, values},
        labels::{self, Value},
    },
    telemetry::wire::{CounterKind, HistogramKind, HttpVersion},
};

const METHOD: Label = Label { name: "method", values: labels::HTTP_METHODS };
const PROTOCOL: Label = Label { name: "protocol", values: &["HTTP/1.0", "HTTP/1.1", "HTTP/2"] };
const STATUS: Label = Label { name: "status", values: &[] };
const REPORTER: Label = Label { name: "reporter", values: labels::ROLES };
const QTYPES: Label = Label { name: "qtypes", values: labels::DNS_QTYPES };
const RCODE: Label = Label { name: "rcode", values: RCODES };

/// Names by number, as Hubble writes them; the last one is for all that have none here.
const RCODES: &[&str] = &[
    "No Error",
    "Format Error",
    "Server Failure",
    "Non-Existent Domain",
    "Not Implemented",
    "Query Refused",
    "other",
];

fn rcode(code: u8) -> Value {
    let other = RCODES.len() - 1;
    Value::Name(RCODES[usize::from(code).min(other)])
}

fn protocol(version: u8) -> Value {
    let version = u32::from(version);
    Value::Name(if version == HttpVersion::HTTP_VERSION_1_0.0 {
        "HTTP/1.0"
    } else if version == HttpVersion::HTTP_VERSION_1_1.0 {
        "HTTP/1.1"
    } else if version == HttpVersion::HTTP_VERSION_2.0 {
        "HTTP/2"
    } else {
        "unknown"
    })
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "hubble_http_requests",
        help: "Count of HTTP requests by methods (status 0: no response was seen)",
        labels: &[METHOD, PROTOCOL, STATUS, REPORTER],
        fold: Some(2),
        source: Source::Counters(CounterKind::COUNTER_HTTP_REQUESTS, |key| {
            [
                labels::http_method(key.a.into()),
                protocol(key.b),
                labels::http_status(key.c),
                labels::role(key.role.into()),
            ]
        }),
        ..POD
    },
    Family {
        name: "hubble_http_request_duration_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Quantiles of HTTP request duration in seconds",
        labels: &[METHOD, REPORTER],
        fold: Some(0),
        source: Source::Histograms(HistogramKind::HISTOGRAM_HTTP_REQUEST, |key| {
            values([labels::http_method(key.a.into()), labels::role(key.role.into())])
        }),
        ..POD
    },
    Family {
        name: "hubble_dns_queries",
        help: "Number of DNS queries that a pod sent",
        labels: &[QTYPES],
        fold: Some(0),
        only: client,
        source: Source::Counters(CounterKind::COUNTER_DNS_QUERIES, |key| {
            values([labels::dns_qtype(key.c.into())])
        }),
        ..POD
    },
    Family {
        name: "hubble_dns_responses",
        help: "Number of DNS responses that a pod got",
        labels: &[RCODE, QTYPES],
        fold: Some(1),
        only: client,
        source: Source::Counters(CounterKind::COUNTER_DNS_RESPONSES, |key| {
            values([rcode(key.a), labels::dns_qtype(key.c.into())])
        }),
        ..POD
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_hubbles_names() {
        let names = [0, 3, 5, 6, 255].map(rcode);
        let expected = ["No Error", "Non-Existent Domain", "Query Refused", "other", "other"];
        assert_eq!(names, expected.map(Value::Name));
    }
}
