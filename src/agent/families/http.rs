//! HTTP and gRPC.

use super::{POD, POD_FROM_ZERO, ROLE, role};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, values},
        labels::{self},
    },
    telemetry::wire::{CounterKind, HistogramKind},
};

const METHOD: Label = Label { name: "method", values: labels::HTTP_METHODS };
const PROTOCOL: Label = Label { name: "protocol", values: labels::HTTP_VERSIONS };
const STATUS: Label = Label { name: "status", values: &[] };
const HTTP_ERROR: Label = Label { name: "error", values: labels::HTTP_ERRORS };
const GRPC_STATUS: Label = Label { name: "grpc_status", values: labels::GRPC_STATUSES };

pub(super) const FAMILIES: &[Family] = &[
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
                labels::http_status(key.c),
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
        name: "weir_grpc_requests",
        help: "gRPC calls by status (unknown: the call ended without one)",
        labels: &[ROLE, GRPC_STATUS],
        fold: Some(1),
        source: Source::Counters(CounterKind::COUNTER_GRPC_REQUESTS, |key| {
            values([labels::role(key.role.into()), labels::grpc_status(key.a.into())])
        }),
        ..POD
    },
    Family {
        name: "weir_grpc_request_duration_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from the first byte of a gRPC call to the last byte of its trailers",
        labels: &[ROLE],
        source: Source::Histograms(HistogramKind::HISTOGRAM_GRPC_REQUEST, |key| {
            values([labels::role(key.role.into())])
        }),
        ..POD
    },
];
