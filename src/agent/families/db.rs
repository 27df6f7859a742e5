//! Databases: Redis, PostgreSQL, MySQL and Kafka.

use super::{POD, ROLE};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, values},
        labels::{self},
    },
    telemetry::wire::{CounterKind, HistogramKind},
};

const SYSTEM: Label = Label { name: "system", values: labels::DB_SYSTEMS };
const OPERATION: Label = Label { name: "operation", values: labels::DB_OPERATIONS };
const OUTCOME: Label = Label { name: "outcome", values: labels::DB_OUTCOMES };

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "weir_db_requests",
        help: "Requests to databases by operation and how they were answered",
        labels: &[ROLE, SYSTEM, OPERATION, OUTCOME],
        fold: Some(2),
        source: Source::Counters(CounterKind::COUNTER_DB_REQUESTS, |key| {
            [
                labels::role(key.role.into()),
                labels::db_system(key.a.into()),
                labels::db_operation(key.b.into()),
                labels::db_outcome(key.c.into()),
            ]
        }),
        ..POD
    },
    Family {
        name: "weir_db_request_duration_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from the first byte of a request to a database to the last byte of its answer",
        labels: &[ROLE, SYSTEM],
        source: Source::Histograms(HistogramKind::HISTOGRAM_DB_REQUEST, |key| {
            values([labels::role(key.role.into()), labels::db_system(key.a.into())])
        }),
        ..POD
    },
];
