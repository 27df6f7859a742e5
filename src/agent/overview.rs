//! `/api/pods`: every pod with its totals, and what it does at present.
//!
//! "At present" is the time since an earlier reading, at most ten seconds ago: who asks once a second
//! sees rates that neither jump nor lag. The first who asks for a while gets totals alone.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{pods::Pods, reading::Reading};
use crate::telemetry::{
    histogram::bounds_ns,
    reader::Network,
    wire::{
        CounterKey, CounterKind, DbOutcome, Direction, Histogram, HistogramKind, Role, TcpResult,
    },
};

/// Rates are over this much at most.
const SPAN: Duration = Duration::from_secs(10);

/// Readings closer together than this are not both kept.
const APART: Duration = Duration::from_millis(900);

/// What an agent answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// The time that rates and quantiles are of; none where there is only one reading yet.
    pub interval_seconds: Option<f64>,
    /// Sorted by namespace and name.
    pub pods: Vec<PodOverview>,
}

/// A pod; several attachments of it are added up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodOverview {
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name, or the container id.
    pub pod: String,
    /// Whether its traffic is counted.
    pub counted: bool,
    /// What others asked of it.
    pub server: Side,
    /// What it asked of others.
    pub client: Side,
    /// Bytes in and out.
    pub network: Traffic,
}

/// A pod in one role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// HTTP and gRPC. Errors are 5xx, exchanges without a complete response, and gRPC's codes 2, 4,
    /// 12, 13, 14 and 15, as OpenTelemetry counts a server's errors.
    pub http: Exchanges,
    /// DNS. Errors are timeouts and return codes other than NOERROR and NXDOMAIN.
    pub dns: Exchanges,
    /// Databases. Errors are error answers and those that never came.
    pub db: Exchanges,
    /// TCP connections that are open.
    pub connections: u64,
}

/// Requests of a kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exchanges {
    /// Since the pod began.
    pub total: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// A second, at present.
    pub rate: Option<f64>,
    /// Failures a second, at present.
    pub error_rate: Option<f64>,
    /// Half of them take no longer, at present.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 take no longer, at present.
    pub p99_seconds: Option<f64>,
}

/// Bytes, as the pod sees them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Received since the pod began.
    pub rx_bytes: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Received a second, at present.
    pub rx_rate: Option<f64>,
    /// Sent a second, at present.
    pub tx_rate: Option<f64>,
}

/// Times by cell, most of which are empty.
pub(super) type Cells = BTreeMap<u8, u64>;

#[derive(Debug, Clone, Default)]
struct Sum {
    total: u64,
    errors: u64,
    cells: Cells,
}

/// `[server, client][http, dns, db]`
type Sums = [[Sum; 3]; 2];

#[derive(Debug, Clone, Default)]
struct PodSums {
    counted: bool,
    /// Tells two pods of one name apart.
    created: Duration,
    sums: Sums,
    connections: [u64; 2],
    bytes: [u64; 2],
}

type Name = (String, String);

#[derive(Debug)]
struct Sample {
    at: Instant,
    pods: BTreeMap<Name, PodSums>,
}

/// The readings that rates are made of.
#[derive(Debug, Default)]
pub struct History(VecDeque<Sample>);

impl History {
    /// What there is to say of a reading, which is kept for those that follow.
    pub fn overview(&mut self, reading: &Reading<'_>, at: Instant, grace: Duration) -> Overview {
        let sample = Sample { at, pods: sums(reading, grace) };
        if !reading.own.maps_open {
            // Nothing was read: whoever is there afterwards did not begin at 0.
            self.0.clear();
            return present(None, &sample);
        }
        self.0.retain(|earlier| at.duration_since(earlier.at) <= SPAN);
        let overview = present(self.0.front(), &sample);
        if self.0.back().is_none_or(|last| at.duration_since(last.at) >= APART) {
            self.0.push_back(sample);
        }
        overview
    }
}

fn sums(reading: &Reading<'_>, grace: Duration) -> BTreeMap<Name, PodSums> {
    let pods = Pods::new(&reading.snapshot.pods, reading.members, reading.now, grace);
    let mut rows: Vec<PodSums> = pods
        .rows()
        .iter()
        .map(|row| PodSums { created: row.created, ..PodSums::default() })
        .collect();
    let counted = pods.counted().len();
    rows.iter_mut().take(counted).for_each(|row| row.counted = true);
    for (id, pod) in &reading.snapshot.pods {
        if let Some(row) = pods.row(*id).and_then(|at| rows.get_mut(at)) {
            add_bytes(&mut row.bytes, &pod.network);
        }
    }
    for (key, value) in &reading.snapshot.counters {
        if let Some(row) = pods.row(key.pod).and_then(|at| rows.get_mut(at)) {
            count(row, key, *value);
        }
    }
    for (key, histogram) in &reading.snapshot.histograms {
        let sum = match HistogramKind(key.kind.into()) {
            HistogramKind::HISTOGRAM_HTTP_REQUEST => HTTP,
            HistogramKind::HISTOGRAM_DNS_LOOKUP => DNS,
            HistogramKind::HISTOGRAM_DB_REQUEST => DB,
            _ => continue,
        };
        if let Some(row) = pods.row(key.pod).and_then(|at| rows.get_mut(at)) {
            add_cells(&mut row.sums[side(key.role)][sum].cells, histogram);
        }
    }
    let names = pods.rows().iter().map(|row| (row.namespace.to_owned(), row.pod.to_owned()));
    names.zip(rows).collect()
}

const HTTP: usize = 0;
const DNS: usize = 1;
const DB: usize = 2;

fn side(role: u8) -> usize {
    usize::from(u32::from(role) != Role::ROLE_SERVER.0)
}

fn count(row: &mut PodSums, key: &CounterKey, value: u64) {
    let side = side(key.role);
    let [http, dns, db] = &mut row.sums[side];
    let a = u32::from(key.a);
    match CounterKind(key.kind.into()) {
        CounterKind::COUNTER_HTTP_REQUESTS => {
            http.total += value;
            http.errors += if (500..600).contains(&key.c) { value } else { 0 };
        }
        // Once, in however many ways it failed.
        CounterKind::COUNTER_HTTP_ERRORS if key.b == 0 => http.errors += value,
        CounterKind::COUNTER_GRPC_REQUESTS if key.c == 0 && matches!(a, 2 | 4 | 12..=15) => {
            http.errors += value;
        }
        CounterKind::COUNTER_DNS_QUERIES => dns.total += value,
        CounterKind::COUNTER_DNS_RESPONSES if !matches!(a, 0 | 3) => dns.errors += value,
        CounterKind::COUNTER_DNS_TIMEOUTS => dns.errors += value,
        CounterKind::COUNTER_DB_REQUESTS => {
            db.total += value;
            let failed = [DbOutcome::DB_ERROR.0, DbOutcome::DB_NO_RESPONSE.0];
            db.errors += if failed.contains(&key.c.into()) { value } else { 0 };
        }
        CounterKind::COUNTER_TCP_CONNECTIONS if a == TcpResult::TCP_RESULT_ESTABLISHED.0 => {
            row.connections[side] = row.connections[side].saturating_add(value);
        }
        // Both are read at one moment, but not at the same.
        CounterKind::COUNTER_TCP_CLOSED => {
            row.connections[side] = row.connections[side].saturating_sub(value);
        }
        _ => {}
    }
}

fn add_bytes(bytes: &mut [u64; 2], network: &Network) {
    for direction in [Direction::DIRECTION_RX, Direction::DIRECTION_TX] {
        let at = direction.0 as usize;
        bytes[at] += network[at].iter().map(|family| family.bytes).sum::<u64>();
    }
}

fn add_cells(cells: &mut Cells, histogram: &Histogram) {
    for (at, &times) in (0..).zip(&histogram.cells).filter(|(_, times)| **times > 0) {
        *cells.entry(at).or_default() += times;
    }
}

fn present(before: Option<&Sample>, now: &Sample) -> Overview {
    let interval = before.map(|before| now.at.duration_since(before.at).as_secs_f64());
    let interval = interval.filter(|seconds| *seconds > 0.0);
    let bounds = bounds_ns();
    let pods = now.pods.iter().map(|((namespace, pod), sums)| {
        let then = before.and_then(|before| {
            let then = before.pods.get(&(namespace.clone(), pod.clone()))?;
            (then.created == sums.created).then_some(then)
        });
        // A pod that came since began at 0.
        let zero = PodSums::default();
        let then = interval.map(|seconds| (then.unwrap_or(&zero), seconds));
        let side = |at: usize| Side {
            http: exchanges(&bounds, sums, then, at, HTTP),
            dns: exchanges(&bounds, sums, then, at, DNS),
            db: exchanges(&bounds, sums, then, at, DB),
            connections: sums.connections[at],
        };
        let rate = |at: usize| then.map(|(then, s)| per_second(sums.bytes[at], then.bytes[at], s));
        let (rx, tx) = (Direction::DIRECTION_RX.0 as usize, Direction::DIRECTION_TX.0 as usize);
        PodOverview {
            namespace: namespace.clone(),
            pod: pod.clone(),
            counted: sums.counted,
            server: side(0),
            client: side(1),
            network: Traffic {
                rx_bytes: sums.bytes[rx],
                tx_bytes: sums.bytes[tx],
                rx_rate: rate(rx),
                tx_rate: rate(tx),
            },
        }
    });
    Overview { interval_seconds: interval, pods: pods.collect() }
}

fn exchanges(
    bounds: &[u64],
    now: &PodSums,
    then: Option<(&PodSums, f64)>,
    side: usize,
    kind: usize,
) -> Exchanges {
    let sum = &now.sums[side][kind];
    let then = then.map(|(then, seconds)| (&then.sums[side][kind], seconds));
    let recent: Cells = then.map_or_else(Cells::new, |(then, _)| {
        let before = |at| then.cells.get(at).copied().unwrap_or_default();
        sum.cells.iter().map(|(at, times)| (*at, times.saturating_sub(before(at)))).collect()
    });
    Exchanges {
        total: sum.total,
        errors: sum.errors,
        rate: then.map(|(then, seconds)| per_second(sum.total, then.total, seconds)),
        error_rate: then.map(|(then, seconds)| per_second(sum.errors, then.errors, seconds)),
        p50_seconds: quantile(bounds, &recent, 50),
        p99_seconds: quantile(bounds, &recent, 99),
    }
}

#[allow(clippy::cast_precision_loss)] // Of a difference of counts in some seconds.
fn per_second(now: u64, then: u64, seconds: f64) -> f64 {
    now.saturating_sub(then) as f64 / seconds
}

/// The upper bound, in seconds, of the cell that so many hundredths of all times lie up to; of the
/// last cell, which has none, its lower one.
#[allow(clippy::cast_precision_loss)] // Bounds are below 2^53 ns, which is 104 days.
pub(super) fn quantile(bounds: &[u64], cells: &Cells, hundredths: u64) -> Option<f64> {
    let total: u64 = cells.values().sum();
    let rank = (u128::from(total) * u128::from(hundredths)).div_ceil(100);
    let mut below = 0;
    for (&at, &times) in cells.iter().filter(|(_, times)| **times > 0) {
        below += u128::from(times);
        if below >= rank {
            let bound = bounds.get(usize::from(at)).or(bounds.last())?;
            return Some(*bound as f64 / 1e9);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{
            fixture::{self, NOW},
            reading::Own,
        },
        telemetry::reader::Snapshot,
    };

    const GRACE: Duration = Duration::from_secs(60);

    fn snapshot(requests: u64, durations: &[u64]) -> Snapshot {
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        let counter = |kind, a, c| fixture::counter(1, kind, a, 0, c);
        snapshot.counters = vec![
            (counter(CounterKind::COUNTER_HTTP_REQUESTS, 1, 200), requests),
            (counter(CounterKind::COUNTER_HTTP_REQUESTS, 1, 503), 4),
            (counter(CounterKind::COUNTER_HTTP_ERRORS, 2, 0), 1),
            (fixture::counter(1, CounterKind::COUNTER_HTTP_ERRORS, 2, 1, 0), 4),
            (counter(CounterKind::COUNTER_GRPC_REQUESTS, 14, 0), 2),
            (counter(CounterKind::COUNTER_GRPC_REQUESTS, 14, 1), 3),
            (counter(CounterKind::COUNTER_GRPC_REQUESTS, 5, 0), 8),
            (counter(CounterKind::COUNTER_DNS_RESPONSES, 3, 1), 16),
            (counter(CounterKind::COUNTER_DNS_RESPONSES, 2, 1), 32),
        ];
        let key = fixture::histogram_key(1, HistogramKind::HISTOGRAM_HTTP_REQUEST, 1);
        snapshot.histograms = vec![(key, fixture::histogram(durations))];
        snapshot
    }

    fn look(history: &mut History, snapshot: &Snapshot, at: Instant) -> Overview {
        let own = Own { maps_open: true, ..Own::default() };
        let reading = Reading { snapshot, members: &[], now: NOW, own };
        history.overview(&reading, at, GRACE)
    }

    #[test]
    fn the_first_reading_has_totals_and_the_next_one_rates() {
        let (mut history, begun) = (History::default(), Instant::now());
        let first = look(&mut history, &snapshot(100, &[1_000_000]), begun);
        let http = &first.pods[0].server.http;
        assert_eq!((http.total, http.errors, http.rate), (104, 7, None));
        assert_eq!(first.pods[0].server.dns.errors, 32);
        assert_eq!((first.interval_seconds, http.p99_seconds), (None, None));
        let durations: Vec<u64> = [1_000_000]
            .into_iter()
            .chain((0..99).map(|_| 5_000_000))
            .chain([9_000_000_000])
            .collect();
        let later = begun + Duration::from_secs(2);
        let second = look(&mut history, &snapshot(160, &durations), later);
        let http = &second.pods[0].server.http;
        assert_eq!((http.rate, http.error_rate), (Some(30.0), Some(0.0)));
        assert_eq!((http.p50_seconds, http.p99_seconds), (Some(0.005), Some(0.005)));
        assert_eq!(second.pods[0].network.rx_rate, Some(0.0));
    }

    #[test]
    fn rates_are_of_the_last_ten_seconds_however_often_one_asks() {
        let (mut history, begun) = (History::default(), Instant::now());
        for tenths in 0..300 {
            let at = begun + Duration::from_millis(tenths * 100);
            let overview = look(&mut history, &snapshot(tenths * 7, &[]), at);
            assert!(history.0.len() <= 12, "{}", history.0.len());
            if tenths > 0 {
                let rate = overview.pods[0].server.http.rate.unwrap();
                assert!((rate - 70.0).abs() < 1e-6, "{rate}");
            }
            assert!(overview.interval_seconds.is_none_or(|seconds| seconds <= 10.0));
        }
        let long_after = begun + Duration::from_secs(100);
        assert_eq!(look(&mut history, &snapshot(0, &[]), long_after).interval_seconds, None);
    }

    #[test]
    fn a_pod_that_is_new_under_its_name_began_at_0() {
        let (mut history, begun) = (History::default(), Instant::now());
        look(&mut history, &snapshot(1_000, &[]), begun);
        let mut anew = snapshot(6, &[]);
        anew.pods.values_mut().for_each(|pod| pod.created += Duration::from_secs(1));
        let overview = look(&mut history, &anew, begun + Duration::from_secs(5));
        assert_eq!(overview.pods[0].server.http.rate, Some(2.0));
    }
}
