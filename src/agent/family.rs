//! What a metric family is: its name, type, unit, labels, and where its samples come from.

use std::time::Duration;

use super::{labels::Value, reading::Reading};
use crate::telemetry::{
    reader::Began,
    wire::{CounterKey, CounterKind, HistogramKey, HistogramKind, NetCounter},
};

/// The type of a family, as OpenMetrics defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; sampled as `<name>_total`.
    Counter,
    /// A value now.
    Gauge,
    /// Cells of durations; sampled as `_bucket`, `_sum` and `_count`.
    Histogram,
    /// A constant 1 whose labels say something; sampled as `<name>_info`.
    Info,
}

/// The unit, which is also the end of the family's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// No unit: a count.
    None,
    /// Held as whole nanoseconds, written as decimal seconds.
    Seconds,
    /// Whole bytes.
    Bytes,
}

impl Unit {
    /// What it is called.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Seconds => Some("seconds"),
            Self::Bytes => Some("bytes"),
        }
    }
}

/// When a pod's series come into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At 0 with the pod, for every combination of the labels' values: `rate()` sees the first event.
    Zero,
    /// With the first event: there are too many combinations, most of which never happen.
    FirstEvent,
}

/// A label of a family.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its usual values; empty if they can't be listed.
    pub values: &'static [&'static str],
}

/// At most this many labels besides `namespace` and `pod`.
pub const MAX_LABELS: usize = 4;

/// The values of a family's own labels, in the order of [`Family::labels`]; the rest is padding.
pub type Values = [Value; MAX_LABELS];

/// Where the samples come from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// The counters of one kind; keys that give the same values are added up.
    Counters(CounterKind, fn(&CounterKey) -> Values),
    /// TCP connections that were established and have not ended.
    ActiveConnections,
    /// The layer 3 totals, labelled by direction and family.
    Network(fn(&NetCounter) -> u64, fn(u32, u32) -> Values),
    /// The histograms of one kind.
    Histograms(HistogramKind, fn(&HistogramKey) -> Values),
    /// 1 for each living attachment, by its hook.
    Attachments,
    /// TLS handshakes by the name that the client asked for, of live records.
    ServerNames,
    /// Anything of the node, the maps or the agent.
    Node(fn(&Reading<'_>) -> Vec<(Values, u64)>),
}

/// A metric family.
#[derive(Debug)]
pub struct Family {
    /// Without the suffix that its type adds to samples.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// What it counts, in a sentence without a full stop, quotes or backslashes.
    pub help: &'static str,
    /// Its own labels; a pod's series have `namespace` and `pod` before them.
    pub labels: &'static [Label],
    /// Which of the source's keys it has, by role and by [`CounterKey::a`] or [`HistogramKey::a`].
    pub only: fn(u8, u8) -> bool,
    /// Which of `labels` becomes `__other__` first when there are too many series.
    pub fold: Option<usize>,
    /// When series begin.
    pub start: Start,
    /// What fills it.
    pub source: Source,
}

impl Family {
    /// What the sample that carries the value has after the family's name.
    pub fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    /// When a pod's series began, by when its totals did. What the agent counts by itself began with the agent.
    pub fn began(&self, totals: &Began) -> Option<Duration> {
        match self.source {
            Source::ServerNames => None,
            Source::Histograms(..) => Some(totals.histograms),
            Source::Network(..) => Some(totals.network),
            _ => Some(totals.counters),
        }
    }

    /// Every combination of the listed values, for series that start at 0.
    pub fn combinations(&self) -> Vec<Values> {
        let mut all = vec![values([])];
        for (at, label) in self.labels.iter().enumerate() {
            all = all
                .iter()
                .flat_map(|one| {
                    label.values.iter().map(move |value| {
                        let mut one = *one;
                        one[at] = Value::Name(value);
                        one
                    })
                })
                .collect();
        }
        all
    }
}

/// Pads a family's label values to the common length.
pub fn values<const N: usize>(given: [Value; N]) -> Values {
    let mut values = [Value::Number(0); MAX_LABELS];
    for (to, from) in values.iter_mut().zip(given) {
        *to = from;
    }
    values
}
