//! The two text forms of a page: OpenMetrics 1.0.0 and Prometheus' older text format 0.0.4.
//!
//! Why not the crate prometheus-client (0.25): it writes OpenMetrics only, not the older form that
//! every scraper and promtool still takes; it has no `_created`, which is what lets a pod's first
//! events count in `rate()`; and it asks for a value of its own types per series and scrape. What is
//! left to write by hand is small: names, escaping, and sums of cells.

use std::fmt::{self, Write};

use super::{Form, buckets::Buckets};
use crate::{
    agent::{
        exemplar::Exemplar,
        family::{Family, Kind, Unit},
        pods::Row,
        series::{Collected, Key, Page, Samples},
    },
    telemetry::{histogram::CLASSIC_NS, reader::Began, wire::Histogram},
};

/// Writes the page as OpenMetrics, or else in the older form.
pub fn write(page: &Page<'_>, form: Form) -> String {
    let mut writer = Writer {
        out: String::with_capacity(256 * 1024),
        form,
        pods: page.pods.rows().iter().map(pod_labels).collect(),
        names: &page.names,
        began: page.pods.rows().iter().map(|row| row.began).collect(),
        buckets: Buckets::new(),
        bounds: bounds(form),
        labels: String::new(),
    };
    for collected in &page.families {
        writer.family(collected);
    }
    if form == Form::OpenMetrics {
        writer.out.push_str("# EOF\n");
    }
    writer.out
}

struct Writer<'a> {
    out: String,
    form: Form,
    /// `namespace` and `pod` of each row, escaped once.
    pods: Vec<String>,
    /// As [`Page::names`].
    names: &'a [String],
    /// Of each row.
    began: Vec<Began>,
    buckets: Buckets,
    /// The label of each classic bucket.
    bounds: Vec<String>,
    /// Scratch: the labels of one series.
    labels: String,
}

impl Writer<'_> {
    fn family(&mut self, collected: &Collected) {
        let Collected { family, samples, .. } = collected;
        self.descriptor(family);
        match samples {
            Samples::Numbers(series) => {
                let suffix = family.suffix();
                for (key, value) in series {
                    self.set_labels(family, key);
                    match family.unit {
                        Unit::Seconds => self.sample(family, suffix, "", Seconds((*value).into())),
                        Unit::None | Unit::Bytes => self.sample(family, suffix, "", value),
                    }
                    self.created(family, key);
                }
            }
            Samples::Histograms(series) => {
                for (key, histogram) in series {
                    self.set_labels(family, key);
                    self.histogram(collected, key, histogram);
                    self.created(family, key);
                }
            }
        }
    }

    /// The older form names a counter by its sample, and knows neither units nor infos.
    fn descriptor(&mut self, family: &Family) {
        let openmetrics = self.form == Form::OpenMetrics;
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info if openmetrics => "info",
            Kind::Gauge | Kind::Info => "gauge",
        };
        let suffix = if openmetrics { "" } else { family.suffix() };
        let unit = family.unit.name().filter(|_| openmetrics);
        let (name, help) = (family.name, family.help);
        self.line(format_args!("# HELP {name}{suffix} {help}"));
        self.line(format_args!("# TYPE {name}{suffix} {kind}"));
        if let Some(unit) = unit {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
    }

    fn set_labels(&mut self, family: &Family, key: &Key) {
        self.labels.clear();
        if let Some(names) = key.row.and_then(|row| self.pods.get(row)) {
            self.labels.push_str(names);
        }
        for (label, value) in family.labels.iter().zip(&key.values) {
            let comma = if self.labels.is_empty() { "" } else { "," };
            // Values come from closed sets or are host names: no escaping; a String takes all.
            let _ = match value.name(self.names) {
                Some(name) => write!(self.labels, "{comma}{}=\"{name}\"", label.name),
                None => write!(self.labels, "{comma}{}=\"{value}\"", label.name),
            };
        }
    }

    /// One line; `more` is a label of this sample alone.
    fn sample(&mut self, family: &Family, suffix: &str, more: &str, value: impl fmt::Display) {
        self.unended(family, suffix, more, value);
        self.out.push('\n');
    }

    fn unended(&mut self, family: &Family, suffix: &str, more: &str, value: impl fmt::Display) {
        self.out.push_str(family.name);
        self.out.push_str(suffix);
        let comma = if self.labels.is_empty() || more.is_empty() { "" } else { "," };
        if !self.labels.is_empty() || !more.is_empty() {
            for part in ["{", &self.labels, comma, more, "}"] {
                self.out.push_str(part);
            }
        }
        // Writing to a String can't fail.
        let _ = write!(self.out, " {value}");
    }

    fn histogram(&mut self, collected: &Collected, key: &Key, histogram: &Histogram) {
        let family = collected.family;
        let counts = self.buckets.classic(histogram);
        let bounds = std::mem::take(&mut self.bounds);
        let mut below = 0;
        for (bucket, (label, count)) in bounds.iter().zip(counts).enumerate() {
            below += count;
            self.unended(family, "_bucket", label, below);
            if let Some(exemplar) = collected.exemplar(key, bucket) {
                self.exemplar(exemplar);
            }
            self.out.push('\n');
        }
        self.bounds = bounds;
        self.sample(family, "_sum", "", Seconds(histogram.sum_ns.into()));
        self.sample(family, "_count", "", below);
    }

    /// Only OpenMetrics knows them; a trace id is hexadecimal digits and needs no escaping.
    fn exemplar(&mut self, Exemplar { trace_id, duration_ns, at }: &Exemplar) {
        if self.form == Form::OpenMetrics {
            let (value, at) = (Seconds((*duration_ns).into()), Seconds(at.as_nanos()));
            let _ = write!(self.out, " # {{trace_id=\"{trace_id}\"}} {value} {at}");
        }
    }

    /// When the series began; of the kernel's own statistics, and of what the agent counts, it isn't told.
    fn created(&mut self, family: &Family, key: &Key) {
        let gauge = matches!(family.kind, Kind::Gauge | Kind::Info);
        if self.form != Form::OpenMetrics || gauge {
            return;
        }
        let began = key.row.and_then(|row| self.began.get(row));
        if let Some(began) = began.and_then(|totals| family.began(totals)) {
            self.sample(family, "_created", "", Seconds(began.as_nanos()));
        }
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a String can't fail.
        let _ = writeln!(self.out, "{line}");
    }
}

/// The label of each classic bucket, `+Inf` included. OpenMetrics writes bounds as floats: `le` is text,
/// and 1 is not 1.0.
fn bounds(form: Form) -> Vec<String> {
    let finite = CLASSIC_NS.iter().map(|bound| {
        let text = Seconds((*bound).into()).to_string();
        let whole = form == Form::OpenMetrics && !text.contains('.');
        format!("le=\"{text}{}\"", if whole { ".0" } else { "" })
    });
    finite.chain(["le=\"+Inf\"".to_owned()]).collect()
}

/// Whole nanoseconds, shown as decimal seconds, exactly.
#[derive(Clone, Copy)]
struct Seconds(u128);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, mut rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let mut digits = 9;
        while rest.is_multiple_of(10) {
            rest /= 10;
            digits -= 1;
        }
        write!(f, "{whole}.{rest:0digits$}")
    }
}

fn pod_labels(row: &Row<'_>) -> String {
    format!("namespace=\"{}\",pod=\"{}\"", escape(row.namespace), escape(row.pod))
}

/// A label value between quotes, in either form: backslash, quote and newline are special.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{
        families, fixture,
        labels::Value,
        reading::{Own, Reading},
        series::collect,
        server_names::Told,
        totals::GRACE,
    };
    use crate::telemetry::{
        reader::Snapshot,
        wire::{CounterKind, HistogramKind, HttpMethod},
    };

    fn page(snapshot: &Snapshot, form: Form) -> String {
        let own = Own { maps_open: true, read_ns: 1_500_000, ..Own::default() };
        let mut reading = Reading { snapshot, members: &[], now: fixture::NOW, own };
        write(&collect(&mut reading, GRACE), form)
    }

    /// The lines of a page about one family, or about one sample name of it.
    fn about(page: &str, name: &str) -> String {
        let lines = page.lines().filter(|line| {
            let line = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
            line.trim_start_matches("# UNIT ").starts_with(name)
        });
        lines.map(|line| format!("{line}\n")).collect()
    }

    fn one_request() -> Snapshot {
        let get = HttpMethod::HTTP_METHOD_GET.0;
        let mut snapshot = fixture::snapshot([fixture::pod("web")]);
        let counter = fixture::counter(1, CounterKind::COUNTER_HTTP_REQUESTS, get, 2, 200);
        let key = fixture::histogram_key(1, HistogramKind::HISTOGRAM_HTTP_REQUEST, get);
        snapshot.counters = vec![(counter, 1)];
        snapshot.histograms =
            vec![(key, fixture::histogram(&[5_000_000, 5_000_001, 20_000_000_000]))];
        snapshot
    }

    #[test]
    fn a_counter_in_both_forms() {
        let snapshot = one_request();
        let labels = r#"{namespace="shop",pod="web",role="server",method="GET",protocol="1.1",status="200"}"#;
        assert_eq!(
            about(&page(&snapshot, Form::Classic), "weir_http_requests"),
            format!(
                "# HELP weir_http_requests_total HTTP requests by method, protocol and response \
                 status (0: no response was seen)\n\
                 # TYPE weir_http_requests_total counter\n\
                 weir_http_requests_total{labels} 1\n"
            )
        );
        assert_eq!(
            about(&page(&snapshot, Form::OpenMetrics), "weir_http_requests"),
            format!(
                "# HELP weir_http_requests HTTP requests by method, protocol and response \
                 status (0: no response was seen)\n\
                 # TYPE weir_http_requests counter\n\
                 weir_http_requests_total{labels} 1\n\
                 weir_http_requests_created{labels} 1000.5\n"
            )
        );
    }

    #[test]
    fn what_began_with_the_agent_is_not_said_to_have_begun_with_the_pod() {
        let snapshot = one_request();
        let counts = vec![(1, 1, Some(0), 3), (1, 1, None, 2)];
        let server_names = Told { names: vec!["a.test".into()], counts };
        let own = Own { maps_open: true, server_names, ..Own::default() };
        let mut reading = Reading { snapshot: &snapshot, members: &[], now: fixture::NOW, own };
        let page = write(&collect(&mut reading, GRACE), Form::OpenMetrics);
        let found = about(&page, "weir_tls_server_names_");
        let labels = r#"namespace="shop",pod="web",role="server",server_name="#;
        let mut lines: Vec<_> = found.lines().collect();
        lines.sort_unstable();
        let named = |name: &str, count| {
            format!("weir_tls_server_names_total{{{labels}\"{name}\"}} {count}")
        };
        assert_eq!(lines, [named("__other__", 2), named("a.test", 3)]);
        assert!(page.contains("weir_http_requests_created"));
    }

    #[test]
    fn classic_buckets_are_exact_sums_with_inclusive_bounds() {
        let page = page(&one_request(), Form::Classic);
        let counts: Vec<_> = about(&page, "weir_http_request_duration_seconds_")
            .lines()
            .map(|line| line.split_once("method=\"GET\"").unwrap().1.to_owned())
            .collect();
        let expected = [
            ",le=\"0.005\"} 1",
            ",le=\"0.01\"} 2",
            ",le=\"0.025\"} 2",
            ",le=\"0.05\"} 2",
            ",le=\"0.075\"} 2",
            ",le=\"0.1\"} 2",
            ",le=\"0.25\"} 2",
            ",le=\"0.5\"} 2",
            ",le=\"0.75\"} 2",
            ",le=\"1\"} 2",
            ",le=\"2.5\"} 2",
            ",le=\"5\"} 2",
            ",le=\"7.5\"} 2",
            ",le=\"10\"} 2",
            ",le=\"+Inf\"} 3",
            "} 20.010000001",
            "} 3",
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn an_exemplar_is_told_at_its_bucket_and_by_openmetrics_alone() {
        let (snapshot, place, exemplar) = (one_request(), fixture::PLACE, fixture::exemplar());
        let own = Own { exemplars: vec![(place, exemplar)], ..Own::default() };
        let mut reading = Reading { snapshot: &snapshot, members: &[], now: fixture::NOW, own };
        let page = collect(&mut reading, GRACE);
        let written = write(&page, Form::OpenMetrics);
        let marked: Vec<_> = written.lines().filter(|line| line.contains(" # ")).collect();
        assert_eq!(marked.len(), 1, "{marked:?}");
        let trace = "1".repeat(32);
        let expected = format!(r#"le="0.01"}} 2 # {{trace_id="{trace}"}} 0.007 1999.5"#);
        assert!(marked[0].ends_with(&expected), "{marked:?}");
        assert!(!write(&page, Form::Classic).contains(&trace));
    }

    #[test]
    fn openmetrics_names_units_and_writes_bounds_as_floats() {
        let page = page(&one_request(), Form::OpenMetrics);
        let histogram = about(&page, "weir_http_request_duration_seconds");
        assert!(histogram.contains("# UNIT weir_http_request_duration_seconds seconds\n"));
        assert!(histogram.contains("le=\"1.0\"} 2\n") && histogram.contains("le=\"10.0\"} 2\n"));
        assert!(histogram.contains("_created{") && histogram.contains(" 1000.5\n"));
        assert!(page.contains("# UNIT weir_network_bytes bytes\n"));
        assert!(page.contains("# TYPE weir_build info\nweir_build_info{version="));
        assert!(page.ends_with("\n# EOF\n"));
    }

    #[test]
    fn seconds_of_a_gauge_are_exact_and_gauges_have_no_creation_time() {
        let page = page(&one_request(), Form::OpenMetrics);
        assert!(page.contains("\nweir_scrape_duration_seconds 0.0015\n"));
        assert!(!page.contains("weir_tcp_active_connections_created"));
        assert!(!page.contains("weir_parse_gaps_created"));
    }

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        let mut pod = fixture::pod("a\"} 1\nweir_pods 99\n# EOF\\");
        pod.namespace = "\u{fffd}\u{202e}\r".into();
        let snapshot = fixture::snapshot([pod]);
        for form in [Form::Classic, Form::OpenMetrics] {
            let page = page(&snapshot, form);
            assert!(
                page.contains(
                    r#"pod="a\"} 1\nweir_pods 99\n# EOF\\",direction="rx",family="4"} 10"#
                )
            );
            assert!(!page.contains("\nweir_pods 99"));
            assert_eq!(page.matches("\n# EOF").count(), usize::from(form == Form::OpenMetrics));
        }
    }

    #[test]
    fn our_own_label_values_need_no_escaping() {
        for family in families::all() {
            for value in family.labels.iter().flat_map(|label| label.values) {
                assert_eq!(escape(value), **value);
            }
        }
        assert_eq!(Value::Number(404).to_string(), "404");
    }

    #[test]
    fn seconds_are_written_exactly() {
        for (nanoseconds, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_000_000_000, "1"),
            (10_500_000_000, "10.5"),
            (1_763_970_000_123_456_789, "1763970000.123456789"),
        ] {
            assert_eq!(Seconds(nanoseconds).to_string(), text);
        }
    }
}
