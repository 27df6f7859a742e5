//! One reading of the maps, turned into the series of every family. Pure: no map, socket or clock.

use std::time::Duration;

use super::{
    budget,
    exemplar::Exemplar,
    family::{Family, Source, Values},
    fill::{self, Index},
    pods::Pods,
    reading::Reading,
};
use crate::telemetry::wire::Histogram;

/// What tells one series of a family from another. The pod comes first, so that sorting groups by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Index into [`Pods::rows`]; `None` for the node's series.
    pub row: Option<usize>,
    /// The family's own labels.
    pub values: Values,
}

/// The sorted series of a family; no key is there twice.
#[derive(Debug)]
pub enum Samples {
    /// Of a counter, gauge or info.
    Numbers(Vec<(Key, u64)>),
    /// Of a histogram.
    Histograms(Vec<(Key, Histogram)>),
}

/// A family with its series.
#[derive(Debug)]
pub struct Collected {
    /// What these are.
    pub family: &'static Family,
    /// The series.
    pub samples: Samples,
    /// Of a histogram: one request of some buckets, sorted by series and bucket.
    exemplars: Vec<((Key, usize), Exemplar)>,
}

impl Collected {
    /// The exemplar of a classic bucket.
    pub fn exemplar(&self, key: &Key, bucket: usize) -> Option<&Exemplar> {
        let found = self.exemplars.binary_search_by_key(&(*key, bucket), |(place, _)| *place);
        found.ok().map(|at| &self.exemplars[at].1)
    }
}

/// All series of one reading.
#[derive(Debug)]
pub struct Page<'a> {
    /// The pods that keys refer to.
    pub pods: Pods<'a>,
    /// In the order of the table; families without a series are left out.
    pub families: Vec<Collected>,
    /// Names that pods have sent, to which [`Value::Text`](super::labels::Value) refers.
    pub names: Vec<String>,
}

/// Turns a reading into the series of its flavor; adds what had to be folded to `reading.own.overflow`.
///
/// A pod whose DEL is longer ago than `grace` is not shown any more.
pub fn collect<'a>(reading: &mut Reading<'a>, grace: Duration) -> Page<'a> {
    let mut pods = Pods::new(&reading.snapshot.pods, reading.members, reading.now, grace);
    let index = Index::new(reading.snapshot);
    let mut families = Vec::new();
    for family in reading.own.flavor.families() {
        let mut exemplars = Vec::new();
        let (samples, folded) = match family.source {
            Source::Histograms(kind, label) => {
                exemplars = fill::exemplars(&reading.own.exemplars, &pods, family, kind, label);
                let found = fill::histograms(&index, &pods, family, kind, label);
                let (fitting, folded) = budget::fit(found, family, &mut pods);
                (Samples::Histograms(fitting), folded)
            }
            _ => {
                let found = fill::numbers(reading, &index, &pods, family);
                let (fitting, folded) = budget::fit(found, family, &mut pods);
                (Samples::Numbers(fitting), folded)
            }
        };
        if folded > 0 {
            *reading.own.overflow.entry(family.name).or_default() += folded;
        }
        if !samples.is_empty() {
            families.push(Collected { family, samples, exemplars });
        }
    }
    Page { pods, families, names: reading.own.server_names.names.clone() }
}

impl Samples {
    fn is_empty(&self) -> bool {
        match self {
            Self::Numbers(series) => series.is_empty(),
            Self::Histograms(series) => series.is_empty(),
        }
    }
}

/// What can be added up when several keys of the wire are one series.
pub trait Sum {
    /// Adds `other`; saturates, for a total must never wrap to a small number.
    fn add(&mut self, other: &Self);
}

impl Sum for u64 {
    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

impl Sum for Histogram {
    fn add(&mut self, other: &Self) {
        self.sum_ns.add(&other.sum_ns);
        for (cell, more) in self.cells.iter_mut().zip(&other.cells) {
            cell.add(more);
        }
    }
}

/// Sorts, and adds up what has the same key.
pub fn merge<V: Sum>(mut series: Vec<(Key, V)>) -> Vec<(Key, V)> {
    series.sort_by_key(|(key, _)| *key);
    series.dedup_by(|(key, value), (kept_key, kept)| {
        let same = key == kept_key;
        if same {
            kept.add(value);
        }
        same
    });
    series
}

/// A count for a form that has floats only; above 2^53 the nearest one.
#[allow(clippy::cast_precision_loss)]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// Of whole nanoseconds.
pub fn seconds(nanoseconds: u64) -> f64 {
    float(nanoseconds) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{
        fixture,
        labels::Value,
        reading::Own,
        roster::{Member, State, join},
        totals::GRACE,
    };
    use crate::telemetry::{
        reader::Snapshot,
        wire::{CounterKind, HistogramKind, HttpMethod, Role, TcpResult, Transport},
    };

    /// Every series of a family as `value label,label,…`, the pod's name first.
    fn series(snapshot: &Snapshot, name: &str) -> Vec<String> {
        series_with(snapshot, &members(snapshot), name)
    }

    fn members(snapshot: &Snapshot) -> Vec<Member> {
        join(&[], Some(&fixture::census(snapshot)), &snapshot.pods)
    }

    fn series_with(snapshot: &Snapshot, members: &[Member], name: &str) -> Vec<String> {
        let now = fixture::NOW;
        let mut reading = Reading { snapshot, members, now, own: Own::default() };
        let page = collect(&mut reading, GRACE);
        let found = page.families.iter().find(|collected| collected.family.name == name);
        let Some(Collected { family, samples: Samples::Numbers(series), .. }) = found else {
            return Vec::new();
        };
        let line = |(key, value): &(Key, u64)| {
            let pod = key.row.map(|row| page.pods.rows()[row].pod.to_owned());
            let values = key.values[..family.labels.len()].iter().map(Value::to_string);
            format!("{value} {}", pod.into_iter().chain(values).collect::<Vec<_>>().join(","))
        };
        series.iter().map(line).collect()
    }

    #[test]
    fn a_new_pod_begins_at_0_in_every_closed_family_and_with_no_other_series() {
        let snapshot = fixture::snapshot([fixture::pod("web")]);
        assert_eq!(
            series(&snapshot, "weir_http_errors"),
            [
                "0 web,client,cancelled",
                "0 web,client,malformed",
                "0 web,client,no_response",
                "0 web,client,reset",
                "0 web,server,cancelled",
                "0 web,server,malformed",
                "0 web,server,no_response",
                "0 web,server,reset",
            ]
        );
        assert_eq!(series(&snapshot, "weir_dns_timeouts"), ["0 web,client", "0 web,server"]);
        assert_eq!(series(&snapshot, "weir_tcp_retransmits"), ["0 web,rx", "0 web,tx"]);
        assert!(series(&snapshot, "weir_http_requests").is_empty());
        assert!(series(&snapshot, "weir_http_request_duration_seconds").is_empty());
    }

    #[test]
    fn network_totals_are_told_apart_by_direction_and_family() {
        let snapshot = fixture::snapshot([fixture::pod("web")]);
        assert_eq!(
            series(&snapshot, "weir_network_bytes"),
            ["10 web,rx,4", "20 web,rx,6", "30 web,tx,4", "40 web,tx,6"]
        );
        assert_eq!(
            series(&snapshot, "weir_network_packets"),
            ["1 web,rx,4", "2 web,rx,6", "3 web,tx,4", "4 web,tx,6"]
        );
    }

    #[test]
    fn keys_of_the_wire_that_have_one_name_are_added_up() {
        let kind = CounterKind::COUNTER_DNS_QUERIES;
        let (udp, tcp) = (Transport::TRANSPORT_UDP.0, Transport::TRANSPORT_TCP.0);
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        snapshot.counters = vec![
            (fixture::counter(1, kind, 0, udp, 1), 5),
            (fixture::counter(1, kind, 0, udp, 40_000), 3),
            (fixture::counter(1, kind, 0, udp, 40_001), 4),
            (fixture::counter(1, kind, 0, tcp, 40_001), 1),
        ];
        assert_eq!(
            series(&snapshot, "weir_dns_queries"),
            ["5 web,server,A,udp", "1 web,server,other,tcp", "7 web,server,other,udp"]
        );
        let kind = CounterKind::COUNTER_DNS_TIMEOUTS;
        snapshot.counters = vec![
            (fixture::counter(1, kind, 0, udp, 0), 2),
            (fixture::counter(1, kind, 0, tcp, 0), 3),
        ];
        assert_eq!(series(&snapshot, "weir_dns_timeouts"), ["0 web,client", "5 web,server"]);
    }

    #[test]
    fn requests_have_all_four_labels_and_attachments_without_a_pod_are_left_out() {
        let kind = CounterKind::COUNTER_HTTP_REQUESTS;
        let post = HttpMethod::HTTP_METHOD_POST.0;
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        snapshot.counters = vec![
            (fixture::counter(1, kind, post, 2, 503), 7),
            (fixture::counter(1, kind, 99, 1, 0), 1),
            (fixture::counter(2, kind, post, 2, 200), 9),
        ];
        assert_eq!(
            series(&snapshot, "weir_http_requests"),
            ["7 web,server,POST,1.1,503", "1 web,server,_OTHER,1.0,0"]
        );
    }

    #[test]
    fn active_connections_are_those_that_have_not_ended_and_never_below_0() {
        let (attempts, ended) =
            (CounterKind::COUNTER_TCP_CONNECTIONS, CounterKind::COUNTER_TCP_CLOSED);
        let (established, refused) =
            (TcpResult::TCP_RESULT_ESTABLISHED.0, TcpResult::TCP_RESULT_REFUSED.0);
        let mut client = fixture::counter(1, ended, 0, 0, 0);
        client.role = u8::try_from(Role::ROLE_CLIENT.0).unwrap();
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        snapshot.counters = vec![
            (fixture::counter(1, attempts, established, 0, 0), 9),
            (fixture::counter(1, attempts, refused, 0, 0), 5),
            (fixture::counter(1, ended, 0, 0, 0), 2),
            (client, 1),
        ];
        assert_eq!(
            series(&snapshot, "weir_tcp_active_connections"),
            ["0 web,client", "7 web,server"]
        );
    }

    #[test]
    fn a_deleted_pod_keeps_its_totals_but_is_not_counted_as_living() {
        let mut gone = fixture::pod("gone");
        gone.deleted = Some(fixture::NOW - Duration::from_secs(1));
        let snapshot = fixture::snapshot([fixture::pod("web"), gone]);
        assert_eq!(series(&snapshot, "weir_pods"), ["1 "]);
        assert_eq!(series(&snapshot, "weir_attach_status"), ["1 web,clsact"]);
        assert!(series(&snapshot, "weir_network_bytes").contains(&"30 gone,tx,4".to_owned()));
    }

    #[test]
    fn a_pod_that_is_not_counted_is_shown_as_such_and_has_no_totals_at_0() {
        let snapshot = fixture::snapshot([fixture::pod("web")]);
        let mut members = members(&snapshot);
        let bare = Member { pod: "bare".into(), hook: None, ..members[0].clone() };
        members.push(Member { state: State::Uncounted, ..bare });
        let second = Member { ifname: "eth1".into(), ..members[0].clone() };
        members.push(Member { state: State::Lost, ..second });
        let status = series_with(&snapshot, &members, "weir_attach_status");
        assert_eq!(status, ["0 web,clsact", "0 bare,none"]);
        assert_eq!(series_with(&snapshot, &members, "weir_pods"), ["3 "]);
        assert_eq!(series_with(&snapshot, &members, "weir_network_bytes").len(), 4);
    }

    #[test]
    fn histograms_of_one_name_are_added_up_cell_by_cell() {
        let kind = HistogramKind::HISTOGRAM_HTTP_REQUEST;
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        snapshot.histograms = vec![
            (fixture::histogram_key(1, kind, 99), fixture::histogram(&[1, 1_000_000])),
            (fixture::histogram_key(1, kind, 98), fixture::histogram(&[u64::MAX / 2, 1_000_000])),
        ];
        let (members, now) = ([].as_slice(), fixture::NOW);
        let mut reading = Reading { snapshot: &snapshot, members, now, own: Own::default() };
        let page = collect(&mut reading, GRACE);
        let series = page.families.iter().find_map(|collected| match &collected.samples {
            Samples::Histograms(series) => Some(series),
            Samples::Numbers(_) => None,
        });
        let series = series.unwrap();
        assert_eq!(series.len(), 1);
        assert_eq!(series[0].1.cells.iter().sum::<u64>(), 4);
        assert_eq!(series[0].1.cells.last(), Some(&1));
        assert_eq!(series[0].1.sum_ns, u64::MAX / 2 + 2_000_001);
    }

    #[test]
    fn without_maps_there_are_still_the_agents_own_numbers() {
        let snapshot = Snapshot::default();
        assert_eq!(series(&snapshot, "weir_maps_open"), ["0 "]);
        assert_eq!(series(&snapshot, "weir_pods"), ["0 "]);
        assert!(series(&snapshot, "weir_network_bytes").is_empty());
        assert_eq!(series(&snapshot, "weir_build").len(), 1);
    }
}
