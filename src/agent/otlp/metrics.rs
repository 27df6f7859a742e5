//! A page of OpenTelemetry's flavor as OTLP: cumulative sums, gauges and histograms, each pod a resource.

use std::time::Duration;

use prost::Message;

use super::{
    message::{
        CUMULATIVE, Data, Gauge, Histogram, HistogramPoint, KeyValue, Metric, MetricsRequest,
        Number, NumberPoint, ResourceMetrics, ScopeMetrics, Sum,
    },
    resource::{SCHEMA, integer, of_agent, of_pod, scope, text},
};
use crate::{
    agent::{
        exposition::Buckets,
        family::{Family, Kind, Unit},
        labels::Value,
        series::{Collected, Key, Page, Samples, float, seconds},
    },
    telemetry::{histogram::CLASSIC_NS, wire},
};

/// Data points of one request: some 300 kB, well below the 4 MB that gRPC receivers take.
const POINTS: usize = 2_000;

/// The page of the node of that name as requests, each with its length before it (a varint).
pub fn write(page: &Page<'_>, now: Duration, node: &str) -> Vec<u8> {
    let writer = Writer { page, now: nanoseconds(now), node, buckets: Buckets::new() };
    let mut out = Vec::new();
    let mut request = MetricsRequest::default();
    let mut points = 0;
    let rows = (0..page.pods.rows().len()).map(Some).chain([None]);
    for row in rows {
        let (of_row, count) = writer.row(row);
        request.resource_metrics.extend(of_row);
        points += count;
        if points >= POINTS || row.is_none() {
            // A Vec has room for anything.
            let _ = std::mem::take(&mut request).encode_length_delimited(&mut out);
            points = 0;
        }
    }
    out
}

struct Writer<'a> {
    page: &'a Page<'a>,
    now: u64,
    node: &'a str,
    buckets: Buckets,
}

impl Writer<'_> {
    /// All of a pod or of the node, and how many data points that is.
    fn row(&self, row: Option<usize>) -> (Option<ResourceMetrics>, usize) {
        let pod = row.and_then(|row| self.page.pods.rows().get(row));
        let mut count = 0;
        let metrics = self.page.families.iter().filter_map(|collected| {
            let began = pod.and_then(|pod| collected.family.began(&pod.began));
            // 0 says that it is not known.
            let start = began.map_or(0, nanoseconds);
            let (metric, points) = self.metric(collected, row, start)?;
            count += points;
            Some(metric)
        });
        let metrics: Vec<_> = metrics.collect();
        if metrics.is_empty() {
            return (None, 0);
        }
        // What was folded is of no pod, but of this node's all the same.
        let node = || of_agent(self.node);
        let of_row = ResourceMetrics {
            resource: Some(pod.map_or_else(node, |pod| of_pod(pod.namespace, pod.pod))),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics }],
            schema_url: SCHEMA.into(),
        };
        (Some(of_row), count)
    }

    fn metric(
        &self,
        Collected { family, samples, .. }: &Collected,
        row: Option<usize>,
        start: u64,
    ) -> Option<(Metric, usize)> {
        let (data, count) = match samples {
            Samples::Numbers(series) => {
                let own = of_row(series, row);
                let points = own.iter().map(|(key, value)| self.number(family, key, *value, start));
                let data_points: Vec<_> = points.collect();
                let data = match family.kind {
                    Kind::Counter => {
                        let aggregation_temporality = CUMULATIVE;
                        Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
                    }
                    _ => Data::Gauge(Gauge { data_points }),
                };
                (data, own.len())
            }
            Samples::Histograms(series) => {
                let own = of_row(series, row);
                let points =
                    own.iter().map(|(key, cells)| self.histogram(family, key, cells, start));
                let aggregation_temporality = CUMULATIVE;
                let data_points = points.collect();
                (Data::Histogram(Histogram { data_points, aggregation_temporality }), own.len())
            }
        };
        let unit = match (family.unit, family.kind) {
            (Unit::Seconds, _) => "s",
            (Unit::Bytes, _) => "By",
            (Unit::None, _) => "1",
        };
        let (name, description) = (instrument(family), family.help.into());
        let metric = Metric { name, description, unit: unit.into(), data: Some(data) };
        (count > 0).then_some((metric, count))
    }

    fn number(&self, family: &Family, key: &Key, value: u64, start: u64) -> NumberPoint {
        let value = match (family.unit, i64::try_from(value)) {
            (Unit::Seconds, _) => Number::Double(seconds(value)),
            (_, Ok(value)) => Number::Integer(value),
            (_, Err(_)) => Number::Double(float(value)),
        };
        let start = if family.kind == Kind::Counter { start } else { 0 };
        NumberPoint {
            start_time_unix_nano: start,
            time_unix_nano: self.now,
            value: Some(value),
            attributes: attributes(family, key, &self.page.names),
        }
    }

    fn histogram(
        &self,
        family: &Family,
        key: &Key,
        cells: &wire::Histogram,
        start: u64,
    ) -> HistogramPoint {
        let counts = self.buckets.classic(cells);
        HistogramPoint {
            start_time_unix_nano: start,
            time_unix_nano: self.now,
            count: counts.iter().sum(),
            sum: Some(seconds(cells.sum_ns)),
            bucket_counts: counts.to_vec(),
            explicit_bounds: CLASSIC_NS.iter().map(|bound| seconds(*bound)).collect(),
            attributes: attributes(family, key, &self.page.names),
        }
    }
}

/// The part of sorted series that is of one pod.
fn of_row<V>(series: &[(Key, V)], row: Option<usize>) -> &[(Key, V)] {
    let from = series.partition_point(|(key, _)| key.row < row);
    let to = series.partition_point(|(key, _)| key.row <= row);
    &series[from..to]
}

/// `http_server_request_duration_seconds` is `http.server.request.duration`; Weir's own keep their name.
fn instrument(family: &Family) -> String {
    let end = family.unit.name().map(|unit| format!("_{unit}")).unwrap_or_default();
    let bare = family.name.strip_suffix(&end).unwrap_or(family.name);
    match bare.strip_prefix("weir_") {
        Some(own) => format!("weir.{own}"),
        None => bare.replace('_', "."),
    }
}

/// An empty label is an attribute that is absent.
fn attributes(family: &Family, key: &Key, names: &[String]) -> Vec<KeyValue> {
    let labels = family.labels.iter().zip(&key.values);
    let named = labels.filter_map(|(label, value)| {
        let name = label.name.replace('_', ".").replace(".status.code", ".status_code");
        match value {
            Value::Number(number) => Some(integer(&name, *number)),
            value => value.name(names).filter(|it| !it.is_empty()).map(|it| text(&name, it)),
        }
    });
    named.collect()
}

fn nanoseconds(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{
            families::Flavor,
            fixture,
            reading::{Own, Reading},
            series::collect,
            totals::GRACE,
        },
        telemetry::{
            reader::Snapshot,
            wire::{CounterKind, HistogramKind},
        },
    };

    const NODE: &str = "node-1";

    fn requests(snapshot: &Snapshot) -> Vec<MetricsRequest> {
        requests_of(snapshot, NODE)
    }

    fn requests_of(snapshot: &Snapshot, node: &str) -> Vec<MetricsRequest> {
        let own = Own { flavor: Flavor::Otel, ..Own::default() };
        let mut reading = Reading { snapshot, members: &[], now: fixture::NOW, own };
        let written = write(&collect(&mut reading, GRACE), fixture::NOW, node);
        let mut rest = written.as_slice();
        let mut requests = Vec::new();
        while !rest.is_empty() {
            requests.push(MetricsRequest::decode_length_delimited(&mut rest).unwrap());
        }
        requests
    }

    fn metric(metrics: &ResourceMetrics, name: &str) -> Metric {
        let all = &metrics.scope_metrics[0].metrics;
        all.iter().find(|metric| metric.name == name).unwrap().clone()
    }

    #[test]
    fn a_pod_is_a_resource_and_its_series_have_the_names_of_the_conventions() {
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        let key = fixture::counter(1, CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 404);
        snapshot.counters = vec![(key, 7)];
        let key = fixture::histogram_key(1, HistogramKind::HISTOGRAM_HTTP_REQUEST, 1);
        snapshot.histograms = vec![(key, fixture::histogram(&[7_000_000, 20_000_000_000]))];
        let request = requests(&snapshot).remove(0);
        let pod = &request.resource_metrics[0];
        assert_eq!(pod.resource, Some(of_pod("shop", "web")));
        let counter = metric(pod, "http.server.requests");
        let Some(Data::Sum(sum)) = counter.data else { panic!("{counter:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == CUMULATIVE);
        let point = &sum.data_points[0];
        assert_eq!(
            (point.value, point.start_time_unix_nano),
            (Some(Number::Integer(7)), 1_000_500_000_000)
        );
        let expected = vec![
            text("http.request.method", "GET"),
            text("network.protocol.version", "1.1"),
            integer("http.response.status_code", 404),
        ];
        assert_eq!(point.attributes, expected);
        let duration = metric(pod, "http.server.request.duration");
        assert_eq!(duration.unit, "s");
        let Some(Data::Histogram(histogram)) = duration.data else { panic!("{duration:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (2, Some(20.007)));
        assert_eq!((point.bucket_counts[1], point.bucket_counts[14]), (1, 1));
        assert_eq!(point.explicit_bounds.len() + 1, point.bucket_counts.len());
        let agent = request.resource_metrics.last().unwrap();
        assert_eq!(agent.resource, Some(of_agent(NODE)));
        metric(agent, "weir.pods");
    }

    #[test]
    fn agents_of_two_nodes_are_two_resources() {
        let of = |node| {
            let snapshot = fixture::snapshot([fixture::pod("web")]);
            let last = requests_of(&snapshot, node).pop().unwrap().resource_metrics.pop().unwrap();
            last.resource.unwrap().attributes
        };
        assert_ne!(of("node-1"), of("node-2"));
        let named = |key| text(key, "node-1");
        let expected =
            [text("service.name", "weir"), named("service.instance.id"), named("host.name")];
        assert_eq!(of("node-1"), expected);
        assert_eq!(of(""), [text("service.name", "weir")]);
    }

    #[test]
    fn many_pods_are_several_requests_of_bounded_size() {
        let pods = (0..250).map(|at| fixture::pod(&format!("p{at:03}")));
        let requests = requests(&fixture::snapshot(pods));
        assert!(requests.len() > 2, "{}", requests.len());
        let sizes: Vec<_> = requests.iter().map(MetricsRequest::encoded_len).collect();
        assert!(sizes.iter().all(|size| *size < 1 << 20), "{sizes:?}");
        let resources: usize = requests.iter().map(|it| it.resource_metrics.len()).sum();
        assert_eq!(resources, 251);
    }
}
