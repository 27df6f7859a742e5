//! How each source becomes series: counters by kind and pod, and what is derived from several.

use std::collections::BTreeMap;

use super::{
    exemplar::{Exemplar, Place},
    family::{Family, Kind, Source, Start, Values, values},
    labels::{self, Value},
    pods::Pods,
    reading::Reading,
    roster::Member,
    series::{Key, merge},
    server_names::Told,
};
use crate::telemetry::{
    Mode,
    reader::Snapshot,
    wire::{
        CounterKey, CounterKind, Histogram, HistogramKey, HistogramKind, NetCounter, TcpResult,
    },
};

/// The snapshot's counters and histograms by kind, so that each family looks at its own only.
pub struct Index<'a> {
    counters: BTreeMap<u8, Vec<&'a (CounterKey, u64)>>,
    histograms: BTreeMap<u8, Vec<&'a (HistogramKey, Histogram)>>,
}

impl<'a> Index<'a> {
    /// Sorts by kind.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let (mut counters, mut histograms) =
            (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for counter in &snapshot.counters {
            counters.entry(counter.0.kind).or_default().push(counter);
        }
        for histogram in &snapshot.histograms {
            histograms.entry(histogram.0.kind).or_default().push(histogram);
        }
        Self { counters, histograms }
    }

    fn counters(&self, kind: CounterKind) -> impl Iterator<Item = (&'a CounterKey, u64)> {
        let found = u8::try_from(kind.0).ok().and_then(|kind| self.counters.get(&kind));
        found.into_iter().flatten().map(|(key, value)| (key, *value))
    }

    fn histograms(
        &self,
        kind: HistogramKind,
    ) -> impl Iterator<Item = &'a (HistogramKey, Histogram)> {
        let found = u8::try_from(kind.0).ok().and_then(|kind| self.histograms.get(&kind));
        found.into_iter().flatten().copied()
    }
}

/// The series of any family but a histogram.
pub fn numbers(
    reading: &Reading<'_>,
    index: &Index<'_>,
    pods: &Pods<'_>,
    family: &Family,
) -> Vec<(Key, u64)> {
    let mut found = match family.source {
        Source::Counters(kind, label) => counters(index, pods, family, kind, label),
        Source::ActiveConnections => active_connections(index, pods),
        Source::Network(number, label) => network(reading.snapshot, pods, number, label),
        Source::Attachments => attachments(reading.members, pods),
        Source::Node(read) => read(reading)
            .into_iter()
            .map(|(values, value)| (Key { row: None, values }, value))
            .collect(),
        Source::ServerNames => server_names(&reading.own.server_names, pods),
        Source::Histograms(..) => Vec::new(),
    };
    if family.start == Start::Zero && family.kind != Kind::Histogram {
        let combinations = family.combinations();
        for row in 0..pods.counted().len() {
            found.extend(combinations.iter().map(|&values| (Key { row: Some(row), values }, 0)));
        }
    }
    merge(found)
}

/// Keys of an attachment without a row are left out: its pod is gone, or newer than this reading.
fn counters(
    index: &Index<'_>,
    pods: &Pods<'_>,
    family: &Family,
    kind: CounterKind,
    label: fn(&CounterKey) -> Values,
) -> Vec<(Key, u64)> {
    let own = index.counters(kind).filter(|(key, _)| (family.only)(key.role, key.a));
    let found = own.filter_map(|(key, value)| {
        Some((Key { row: Some(pods.row(key.pod)?), values: label(key) }, value))
    });
    found.collect()
}

/// The series of a histogram.
pub fn histograms(
    index: &Index<'_>,
    pods: &Pods<'_>,
    family: &Family,
    kind: HistogramKind,
    label: fn(&HistogramKey) -> Values,
) -> Vec<(Key, Histogram)> {
    let own = index.histograms(kind).filter(|(key, _)| (family.only)(key.role, key.a));
    let found = own.filter_map(|(key, value)| {
        Some((Key { row: Some(pods.row(key.pod)?), values: label(key) }, *value))
    });
    merge(found.collect())
}

/// The exemplars of a histogram, sorted by series and bucket.
pub fn exemplars(
    known: &[(Place, Exemplar)],
    pods: &Pods<'_>,
    family: &Family,
    kind: HistogramKind,
    label: fn(&HistogramKey) -> Values,
) -> Vec<((Key, usize), Exemplar)> {
    let own = known
        .iter()
        .filter(|(place, _)| u32::from(place.kind) == kind.0 && (family.only)(place.role, place.a));
    let found = own.filter_map(|(place, exemplar)| {
        let key = Key { row: Some(pods.row(place.pod)?), values: label(&place.key()) };
        Some(((key, place.bucket), exemplar.clone()))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|(a, older), (b, newer)| a.cmp(b).then(newer.at.cmp(&older.at)));
    found.dedup_by_key(|(place, _)| *place);
    found
}

fn network(
    snapshot: &Snapshot,
    pods: &Pods<'_>,
    number: fn(&NetCounter) -> u64,
    label: fn(u32, u32) -> Values,
) -> Vec<(Key, u64)> {
    let mut found = Vec::new();
    for (id, pod) in &snapshot.pods {
        let Some(row) = pods.row(*id) else { continue };
        for (direction, families) in (0u32..).zip(&pod.network) {
            for (family, counter) in (0u32..).zip(families) {
                let values = label(direction, family);
                found.push((Key { row: Some(row), values }, number(counter)));
            }
        }
    }
    found
}

/// 0 if any attachment of a pod by that hook is not counted.
fn attachments(members: &[Member], pods: &Pods<'_>) -> Vec<(Key, u64)> {
    let mut found = BTreeMap::<Key, u64>::new();
    for member in members {
        let row = pods.named(&member.namespace, &member.pod);
        let (Some(row), Some(counted)) = (row, member.state.counted()) else { continue };
        let hook = match member.hook {
            Some(Mode::Clsact) => "clsact",
            Some(Mode::Tcx) => "tcx",
            None => "none",
        };
        let key = Key { row: Some(row), values: values([Value::Name(hook)]) };
        let counted = u64::from(counted);
        found.entry(key).and_modify(|status| *status = (*status).min(counted)).or_insert(counted);
    }
    found.into_iter().collect()
}

fn server_names(told: &Told, pods: &Pods<'_>) -> Vec<(Key, u64)> {
    let found = told.counts.iter().filter_map(|(pod, role, name, count)| {
        let name = name.map_or(Value::Name(labels::OTHER), Value::Text);
        let values = values([labels::role((*role).into()), name]);
        Some((Key { row: Some(pods.row(*pod)?), values }, *count))
    });
    found.collect()
}

/// Established minus ended, by pod and role. The map is read entry by entry while the kernel counts,
/// so the ends may be ahead by what ended in between: never below 0.
fn active_connections(index: &Index<'_>, pods: &Pods<'_>) -> Vec<(Key, u64)> {
    let role = |key: &CounterKey| values([labels::role(key.role.into())]);
    let attempts = index.counters(CounterKind::COUNTER_TCP_CONNECTIONS);
    let established = attempts
        .filter(|(key, _)| u32::from(key.a) == TcpResult::TCP_RESULT_ESTABLISHED.0)
        .filter_map(|(key, value)| {
            Some((Key { row: Some(pods.row(key.pod)?), values: role(key) }, value))
        });
    let ended = index.counters(CounterKind::COUNTER_TCP_CLOSED).filter_map(|(key, value)| {
        Some((Key { row: Some(pods.row(key.pod)?), values: role(key) }, value))
    });
    let ended = merge(ended.collect());
    let mut active = merge(established.collect());
    for (key, value) in &mut active {
        if let Ok(at) = ended.binary_search_by_key(key, |(key, _)| *key) {
            *value = value.saturating_sub(ended[at].1);
        }
    }
    active
}
