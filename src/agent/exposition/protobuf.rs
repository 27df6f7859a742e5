//! A page in Prometheus' protocol buffers: each family a message with its length before it.
//!
//! Histograms are classic and native at once; the scraper takes what it is configured for. Prometheus
//! asks for this form where native histograms or creation times are enabled.

use std::time::Duration;

use prost::{Message, bytes::Bytes};

use super::{
    buckets::{Buckets, Native, zero_threshold},
    message::{
        Bucket, BucketSpan, Counter, Exemplar, Gauge, Histogram, LabelPair, Metric, MetricFamily,
        MetricType, Timestamp,
    },
};
use crate::{
    agent::{
        exemplar,
        family::{Family, Kind, Unit},
        labels::Value,
        series::{Collected, Key, Page, Samples, float, seconds},
    },
    telemetry::{
        histogram::{CLASSIC_NS, NATIVE_SCHEMA},
        reader::Began,
        wire,
    },
};

/// Writes the page.
pub fn write(page: &Page<'_>) -> Vec<u8> {
    let rows = page.pods.rows().iter();
    let writer = Writer {
        pods: rows
            .map(|row| Pod {
                names: [
                    pair("namespace", Bytes::copy_from_slice(row.namespace.as_bytes())),
                    pair("pod", Bytes::copy_from_slice(row.pod.as_bytes())),
                ],
                began: row.began,
            })
            .collect(),
        names: &page.names,
        buckets: Buckets::new(),
    };
    let mut out = Vec::with_capacity(256 * 1024);
    // A family at a time: the messages of all would take many times what is written.
    for collected in &page.families {
        // A Vec has room for anything.
        let _ = writer.family(collected).encode_length_delimited(&mut out);
    }
    out
}

struct Pod {
    names: [LabelPair; 2],
    began: Began,
}

struct Writer<'a> {
    pods: Vec<Pod>,
    /// As [`Page::names`].
    names: &'a [String],
    buckets: Buckets,
}

impl Writer<'_> {
    fn family(&self, collected: &Collected) -> MetricFamily {
        let family = collected.family;
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge | Kind::Info => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let metric = match &collected.samples {
            Samples::Numbers(series) => {
                series.iter().map(|(key, value)| self.number(family, key, *value)).collect()
            }
            Samples::Histograms(series) => series
                .iter()
                .map(|(key, histogram)| Metric {
                    label: self.labels(family, key),
                    histogram: Some(self.histogram(collected, key, histogram)),
                    ..Metric::default()
                })
                .collect(),
        };
        MetricFamily {
            name: Bytes::from([family.name, family.suffix()].concat()),
            help: Bytes::from_static(family.help.as_bytes()),
            kind: kind.into(),
            metric,
            unit: Bytes::from_static(family.unit.name().unwrap_or_default().as_bytes()),
        }
    }

    fn number(&self, family: &Family, key: &Key, value: u64) -> Metric {
        let value = match family.unit {
            Unit::Seconds => seconds(value),
            Unit::None | Unit::Bytes => float(value),
        };
        let label = self.labels(family, key);
        let created_timestamp = self.created(family, key);
        if family.kind == Kind::Counter {
            let counter = Some(Counter { value, created_timestamp });
            Metric { label, counter, ..Metric::default() }
        } else {
            Metric { label, gauge: Some(Gauge { value }), ..Metric::default() }
        }
    }

    fn labels(&self, family: &Family, key: &Key) -> Vec<LabelPair> {
        let own = family.labels.iter().zip(&key.values).map(|(label, value)| {
            let value = match value {
                Value::Name(name) => Bytes::from_static(name.as_bytes()),
                Value::Text(_) => {
                    let name = value.name(self.names).unwrap_or_default();
                    Bytes::copy_from_slice(name.as_bytes())
                }
                Value::Number(number) => Bytes::from(number.to_string()),
            };
            pair(label.name, value)
        });
        let pod = key.row.and_then(|row| self.pods.get(row));
        let names = pod.into_iter().flat_map(|pod| pod.names.iter().cloned());
        names.chain(own).collect()
    }

    fn histogram(&self, collected: &Collected, key: &Key, cells: &wire::Histogram) -> Histogram {
        let counts = self.buckets.classic(cells);
        let bounds = CLASSIC_NS.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let mut below = 0;
        let classic = bounds.zip(counts).enumerate().map(|(bucket, (upper_bound, count))| {
            below += count;
            let exemplar = collected.exemplar(key, bucket).map(exemplar);
            Bucket { cumulative_count: below, upper_bound, exemplar }
        });
        let bucket = classic.collect();
        let Native { zero, spans, counts } = self.buckets.native(cells);
        let mut before = 0;
        let deltas = counts.iter().map(|count| {
            let delta = count.wrapping_sub(before).cast_signed();
            before = *count;
            delta
        });
        Histogram {
            sample_count: below,
            sample_sum: seconds(cells.sum_ns),
            bucket,
            schema: NATIVE_SCHEMA,
            zero_threshold: zero_threshold(),
            zero_count: zero,
            positive_span: spans
                .into_iter()
                .map(|(offset, length)| BucketSpan { offset, length })
                .collect(),
            positive_delta: deltas.collect(),
            created_timestamp: self.created(collected.family, key),
        }
    }

    fn created(&self, family: &Family, key: &Key) -> Option<Timestamp> {
        let pod = self.pods.get(key.row?)?;
        family.began(&pod.began).map(timestamp)
    }
}

fn exemplar(exemplar: &exemplar::Exemplar) -> Exemplar {
    let trace_id = Bytes::copy_from_slice(exemplar.trace_id.as_bytes());
    Exemplar {
        label: vec![pair("trace_id", trace_id)],
        value: seconds(exemplar.duration_ns),
        timestamp: Some(timestamp(exemplar.at)),
    }
}

fn pair(name: &'static str, value: Bytes) -> LabelPair {
    LabelPair { name: Bytes::from_static(name.as_bytes()), value }
}

fn timestamp(since_epoch: Duration) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: since_epoch.subsec_nanos().cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{
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

    /// The families of a page, read back.
    fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
        let own = Own { exemplars: vec![(fixture::PLACE, fixture::exemplar())], ..Own::default() };
        let mut reading = Reading { snapshot, members: &[], now: fixture::NOW, own };
        let page = write(&collect(&mut reading, GRACE));
        let mut rest = page.as_slice();
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
        }
        families
    }

    fn family(snapshot: &Snapshot, name: &str) -> MetricFamily {
        families(snapshot).into_iter().find(|family| family.name == name).unwrap()
    }

    #[test]
    fn a_counter_has_its_labels_and_when_it_began() {
        let mut snapshot = fixture::snapshot([fixture::pod("a\"\n")]);
        let key = fixture::counter(1, CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 404);
        snapshot.counters = vec![(key, 7)];
        let family = family(&snapshot, "weir_http_requests_total");
        assert_eq!((family.kind(), family.metric.len()), (MetricType::Counter, 1));
        let metric = &family.metric[0];
        let labels: Vec<_> = metric.label.iter().map(|it| (&it.name[..], &it.value[..])).collect();
        let expected: [(&[u8], &[u8]); 6] = [
            (b"namespace", b"shop"),
            (b"pod", b"a\"\n"),
            (b"role", b"server"),
            (b"method", b"GET"),
            (b"protocol", b"1.1"),
            (b"status", b"404"),
        ];
        assert_eq!(labels, expected);
        let created_timestamp = Some(Timestamp { seconds: 1_000, nanos: 500_000_000 });
        assert_eq!(metric.counter, Some(Counter { value: 7.0, created_timestamp }));
    }

    #[test]
    fn a_histogram_is_classic_and_native_at_once() {
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        let key = fixture::histogram_key(1, HistogramKind::HISTOGRAM_HTTP_REQUEST, 1);
        let durations = [900, 7_000_000, 7_000_000, 1_000_000_000, 80_000_000_000];
        snapshot.histograms = vec![(key, fixture::histogram(&durations))];
        let family = family(&snapshot, "weir_http_request_duration_seconds");
        assert_eq!((family.kind(), &family.unit[..]), (MetricType::Histogram, &b"seconds"[..]));
        let histogram = family.metric[0].histogram.as_ref().unwrap();
        let classic: Vec<_> = histogram.bucket.iter().map(|it| it.cumulative_count).collect();
        assert_eq!(classic, [1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5]);
        assert_eq!(histogram.bucket[14].upper_bound, f64::INFINITY);
        assert_eq!((histogram.sample_count, histogram.sample_sum), (5, 81.0140009));
        assert_eq!((histogram.schema, histogram.zero_count), (2, 1));
        assert_eq!(histogram.positive_delta, [2, -1, 0]);
        let spans: Vec<_> =
            histogram.positive_span.iter().map(|span| (span.offset, span.length)).collect();
        // 7 ms is from 2^(-29/4) to 2^(-28/4) s, 1 s ends bucket 0, above 64 s begins bucket 25.
        assert_eq!(spans, [(-28, 1), (27, 1), (24, 1)]);
        let exemplar = histogram.bucket[1].exemplar.as_ref().unwrap();
        assert_eq!((exemplar.value, &exemplar.label[0].name[..]), (0.007, &b"trace_id"[..]));
    }
}
