//! The attachments, the node, the maps and the agent itself.

use super::{NODE, POD};
use crate::{
    agent::{
        family::{Family, Kind, Label, Source, Unit, values},
        labels::Value,
        roster::State,
    },
    telemetry::wire::Stat,
};

const HOOK: Label = Label { name: "hook", values: &["clsact", "tcx", "none"] };
const MAP: Label = Label { name: "map", values: &[] };

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "weir_attach_status",
        kind: Kind::Gauge,
        help: "1 for a living pod whose traffic is counted by that hook, and shown here, 0 for one whose traffic is not",
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
        name: "weir_attachments",
        help: "Attachments by what weir pods says of their counting; lost, detached, disconnected and other-version ask for something",
        labels: &[Label { name: "telemetry", values: State::WORDS }],
        source: Source::Node(|reading| {
            let count = |word: &str| {
                reading.members.iter().filter(|member| member.state.word() == word).count() as u64
            };
            let words = State::WORDS.iter();
            words.map(|word| (values([Value::Name(word)]), count(word))).collect()
        }),
        ..NODE
    },
    Family {
        name: "weir_attachment_events",
        kind: Kind::Counter,
        help: "Attachments that came and went since the agent's start, counted or not",
        labels: &[Label { name: "event", values: &["added", "removed"] }],
        source: Source::Node(|reading| {
            let seen = reading.own.seen;
            let counts = [("added", seen.added), ("removed", seen.removed)];
            counts.map(|(name, count)| (values([Value::Name(name)]), count)).into()
        }),
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
        help: "What happened and is not counted above because the table for it was full, or its pod had its share of it; of `records` and `heads`, what is counted and was not told live; of `reload`, connections that a layout of another version left behind, of which only bytes and packets are counted further",
        labels: &[Label {
            name: "source",
            values: &[
                "connections",
                "counters",
                "histograms",
                "dns",
                "records",
                "heads",
                "http2",
                "http2_streams",
                "reload",
            ],
        }],
        source: Source::Node(|reading| {
            reading.stats(&[
                ("connections", Stat::STAT_FULL_CONNS),
                ("counters", Stat::STAT_FULL_COUNTERS),
                ("histograms", Stat::STAT_FULL_HISTOGRAMS),
                ("dns", Stat::STAT_FULL_DNS),
                ("records", Stat::STAT_FULL_RECORDS),
                ("heads", Stat::STAT_FULL_HEADS),
                ("http2", Stat::STAT_FULL_HTTP2),
                ("http2_streams", Stat::STAT_FULL_STREAMS),
                ("reload", Stat::STAT_LEFT_CONNS),
            ])
        }),
        ..NODE
    },
    Family {
        name: "weir_otlp_spans",
        kind: Kind::Counter,
        help: "Spans for the receiver of --otlp-endpoint: sent, given up as it was away, refused by it",
        labels: &[Label { name: "result", values: &["sent", "overrun", "refused"] }],
        source: Source::Node(|reading| {
            let counts = reading.own.spans.into_iter().flat_map(|counts| {
                [("sent", counts.sent), ("overrun", counts.overrun), ("refused", counts.refused)]
            });
            counts.map(|(name, count)| (values([Value::Name(name)]), count)).collect()
        }),
        ..NODE
    },
    Family {
        name: "weir_parse_gaps",
        kind: Kind::Counter,
        help: "Times that a stream could not be followed, or only in part, by reason",
        labels: &[Label {
            name: "reason",
            values: &[
                "sequence",
                "contended",
                "malformed",
                "steps",
                "inflight",
                "encoded",
                "fragment",
            ],
        }],
        source: Source::Node(|reading| {
            reading.stats(&[
                ("sequence", Stat::STAT_GAP_SEQUENCE),
                ("contended", Stat::STAT_GAP_CONTENDED),
                ("malformed", Stat::STAT_GAP_MALFORMED),
                ("steps", Stat::STAT_GAP_STEPS),
                ("inflight", Stat::STAT_GAP_INFLIGHT),
                ("encoded", Stat::STAT_GAP_ENCODED),
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
        source: Source::Node(|reading| reading.memory()),
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
            let of_pods = reading.own.flavor.families();
            let of_pods = of_pods.filter(|it| !matches!(it.source, Source::Node(_)));
            let folded = |name| reading.own.overflow.get(name).copied().unwrap_or_default();
            of_pods.map(|it| (values([Value::Name(it.name)]), folded(it.name))).collect()
        }),
        ..NODE
    },
];
