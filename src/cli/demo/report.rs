//! The kernel's counts beside those of the traffic's own ends.
//!
//! The kernel's come by the same reading and the same table of families as the agent's /metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{
    node::BPF_DIR,
    seen::{Counts, REQUESTS, RESPONSES, Seen},
};
use crate::{
    agent::{
        families,
        family::{self, Family},
        pods::Pods,
        reading::{Own, Reading},
        series::{self, Key, Page, Samples},
    },
    cli::table,
    error::{Context, Kind, Result},
    telemetry::{histogram, reader::Maps, wire::Histogram},
};

/// Totals of a deleted pod stay readable for as long as the agent shows them.
const GRACE: Duration = Duration::from_secs(60);

/// One series of a counter or gauge.
#[derive(Debug)]
struct Row {
    pod: String,
    /// In the order of the family's labels.
    values: Vec<String>,
    counted: u64,
    /// What the end in that pod says, for the families that it can speak of.
    really: Option<u64>,
}

/// A family with its series other than 0.
#[derive(Debug)]
struct Table {
    family: &'static Family,
    rows: Vec<Row>,
}

/// A family of durations of one pod, all its labels together.
#[derive(Debug)]
struct Durations {
    family: &'static Family,
    pod: String,
    count: u64,
    p50: Duration,
    p99: Duration,
}

/// The families that say what is missing in the others.
const LOSSES: [&str; 2] = ["weir_parse_gaps", "weir_events_lost"];

/// Everything that was counted.
#[derive(Debug)]
pub struct Report {
    tables: Vec<Table>,
    durations: Vec<Durations>,
    /// What the programs could not follow or had no place for, if there was anything.
    losses: Vec<String>,
}

/// Reads the maps and sets what `seen` says beside them.
///
/// # Errors
/// [`Kind::Telemetry`] when the maps can't be read.
pub fn read(seen: &Seen) -> Result<Report> {
    let snapshot = Maps::open(Path::new(BPF_DIR))?.snapshot()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.context(Kind::Environment, || "the clock is before 1970".into())?;
    let mut reading = Reading { snapshot: &snapshot, members: &[], now, own: Own::default() };
    Ok(Report::new(&series::collect(&mut reading, GRACE), seen))
}

impl Report {
    fn new(page: &Page<'_>, seen: &Seen) -> Self {
        let (mut tables, mut durations, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for family in families::all() {
            let found = page.families.iter().find(|found| found.family.name == family.name);
            match found.map(|found| &found.samples) {
                Some(Samples::Histograms(series)) => {
                    durations.extend(Durations::of_pods(family, &page.pods, series));
                }
                Some(Samples::Numbers(series)) if LOSSES.contains(&family.name) => {
                    losses.extend(series.iter().filter(|(_, count)| *count > 0).map(
                        |(key, count)| format!("{} {}: {count}", sample(family), key.values[0]),
                    ));
                }
                Some(Samples::Numbers(series)) => {
                    tables.push(Table::new(family, counts(family, &page.pods, series), seen));
                }
                None => tables.push(Table::new(family, Counts::new(), seen)),
            }
        }
        tables.retain(|table| !table.rows.is_empty());
        Self { tables, durations, losses }
    }

    /// Whether every count that can be compared is what really happened.
    pub fn exact(&self) -> bool {
        self.compared().all(|(_, row)| row.really == Some(row.counted)) && self.totals().1 > 0
    }

    /// Exchanges that the serving end speaks of: how many of them were counted as what they were,
    /// and how many there really were.
    fn totals(&self) -> (u64, u64) {
        let served = self.compared().filter(|(family, row)| {
            [REQUESTS, RESPONSES].contains(&family.name) && row.values[0] == "server"
        });
        served.fold((0, 0), |(counted, all), (_, row)| {
            let really = row.really.unwrap_or(0);
            (counted + row.counted.min(really), all + really)
        })
    }

    fn compared(&self) -> impl Iterator<Item = (&'static Family, &Row)> {
        let rows = self.tables.iter().flat_map(|t| t.rows.iter().map(|row| (t.family, row)));
        rows.filter(|(_, row)| row.really.is_some())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{}\n{}", sample(table.family), table.text());
        }
        for (family, rows) in self.by_family() {
            let _ = writeln!(text, "{family}\n{}", indent(&table::render(&rows)));
        }
        for (family, row) in self.compared().filter(|(_, row)| row.really != Some(row.counted)) {
            let Row { pod, values, counted, really } = row;
            let (name, values) = (sample(family), values.join(" "));
            let really = really.unwrap_or(0);
            let _ =
                writeln!(text, "differs: {name} of {pod}, {values}: {counted}, really {really}");
        }
        for loss in &self.losses {
            let _ = writeln!(text, "lost: {loss}");
        }
        let (counted, all) = self.totals();
        let _ = writeln!(text, "counted {counted} of {all}");
        text
    }

    fn by_family(&self) -> BTreeMap<&'static str, Vec<Vec<String>>> {
        let mut tables = BTreeMap::<_, Vec<Vec<String>>>::new();
        for Durations { family, pod, count, p50, p99 } in &self.durations {
            let header = || vec![["pod", "count", "p50", "p99"].map(String::from).to_vec()];
            let row =
                vec![pod.clone(), count.to_string(), format!("{p50:.1?}"), format!("{p99:.1?}")];
            tables.entry(family.name).or_insert_with(header).push(row);
        }
        tables
    }

    /// For programs: the replies to the ADDs, every series, and the totals.
    pub fn json(&self, replies: &[&Value]) -> String {
        let series: Vec<Value> = self.tables.iter().flat_map(Table::json).collect();
        let durations = self.durations.iter().map(|found| {
            let Durations { family, pod, count, p50, p99 } = found;
            json!({ "name": family.name, "pod": pod, "count": count,
                    "p50": p50.as_secs_f64(), "p99": p99.as_secs_f64() })
        });
        let durations: Vec<Value> = durations.collect();
        let (counted, served) = self.totals();
        let all = json!({ "replies": replies, "series": series, "durations": durations,
                          "counted": counted, "served": served, "exact": self.exact() });
        format!("{all:#}\n")
    }
}

impl Table {
    fn new(family: &'static Family, counted: Counts, seen: &Seen) -> Self {
        let really = seen.of(family.name);
        let mut keys: BTreeSet<_> = counted.keys().collect();
        keys.extend(really.iter().flat_map(BTreeMap::keys));
        let rows = keys.into_iter().map(|key| Row {
            pod: key.0.clone(),
            values: key.1.clone(),
            counted: counted.get(key).copied().unwrap_or(0),
            really: really.as_ref().map(|really| really.get(key).copied().unwrap_or(0)),
        });
        let rows =
            rows.filter(|row| row.counted > 0 || row.really.is_some_and(|really| really > 0));
        Self { family, rows: rows.collect() }
    }

    /// A column for each pod: the same exchange is one row, seen by both.
    fn text(&self) -> String {
        let labels = self.family.labels.iter().map(|label| label.name);
        // The role follows from the pod.
        let shown: Vec<(usize, &str)> =
            labels.enumerate().filter(|(_, name)| *name != "role").collect();
        let pods: BTreeSet<&str> = self.rows.iter().map(|row| row.pod.as_str()).collect();
        let mut lines = BTreeMap::<Vec<&str>, Vec<&Row>>::new();
        for row in &self.rows {
            let key = shown.iter().map(|(at, _)| row.values[*at].as_str()).collect();
            lines.entry(key).or_default().push(row);
        }
        let compared = self.rows.iter().any(|row| row.really.is_some());
        let mut header: Vec<String> = shown.iter().map(|(_, name)| (*name).to_owned()).collect();
        for pod in &pods {
            header.push((*pod).to_owned());
            header.extend(compared.then(|| "really".to_owned()));
        }
        let mut rendered = vec![header];
        for (key, found) in lines {
            let mut line: Vec<String> = key.into_iter().map(str::to_owned).collect();
            for pod in &pods {
                let row = found.iter().find(|row| row.pod == *pod);
                line.push(row.map_or(0, |row| row.counted).to_string());
                if compared {
                    line.push(row.and_then(|row| row.really).unwrap_or(0).to_string());
                }
            }
            rendered.push(line);
        }
        indent(&table::render(&rendered))
    }

    fn json(&self) -> Vec<Value> {
        let names: Vec<&str> = self.family.labels.iter().map(|label| label.name).collect();
        let rows = self.rows.iter().map(|row| {
            let mut labels: serde_json::Map<String, Value> = names
                .iter()
                .map(ToString::to_string)
                .zip(row.values.iter().map(|v| json!(v)))
                .collect();
            labels.insert("pod".into(), json!(row.pod));
            json!({ "name": sample(self.family), "labels": labels, "value": row.counted,
                    "really": row.really })
        });
        rows.collect()
    }
}

impl Durations {
    fn of_pods(
        family: &'static Family,
        pods: &Pods<'_>,
        series: &[(Key, Histogram)],
    ) -> impl Iterator<Item = Self> {
        let mut of_pod = BTreeMap::<String, Vec<&Histogram>>::new();
        for (key, histogram) in series {
            of_pod.entry(pod(pods, key).unwrap_or_default()).or_default().push(histogram);
        }
        of_pod.into_iter().map(move |(pod, all)| Self::new(family, pod, &all))
    }

    fn new(family: &'static Family, pod: String, all: &[&Histogram]) -> Self {
        let bounds = histogram::bounds_ns();
        let cell = |at: usize| all.iter().map(|one| one.cells[at]).sum::<u64>();
        let count: u64 = (0..=bounds.len()).map(cell).sum();
        // The upper bound of the cell that holds the value; the last cell has none.
        let quantile = |percent: u64| {
            let mut left = (count * percent).div_ceil(100);
            let mut upper = bounds.iter().enumerate().filter(|(at, _)| {
                left = left.saturating_sub(cell(*at));
                left == 0
            });
            upper.next().map_or(Duration::MAX, |(_, bound)| Duration::from_nanos(*bound))
        };
        let (p50, p99) = (quantile(50), quantile(99));
        Self { family, pod, count, p50, p99 }
    }
}

/// A pod family's series by pod and label values. What has no pod is of the node or of the agent.
fn counts(family: &Family, pods: &Pods<'_>, series: &[(Key, u64)]) -> Counts {
    let of_pods = series.iter().filter_map(|(key, count)| {
        let values = key.values.iter().take(family.labels.len());
        Some(((pod(pods, key)?, values.map(ToString::to_string).collect()), *count))
    });
    of_pods.collect()
}

fn pod(pods: &Pods<'_>, key: &Key) -> Option<String> {
    pods.rows().get(key.row?).map(|row| row.pod.to_owned())
}

/// The name that carries the value on the agent's page.
fn sample(family: &Family) -> String {
    let suffix = if family.kind == family::Kind::Counter { "_total" } else { "" };
    format!("{}{suffix}", family.name)
}

fn indent(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::fixture::{NOW, counter, histogram, histogram_key, pod},
        telemetry::{
            reader::Snapshot,
            wire::{CounterKind, HistogramKind, HttpMethod, HttpVersion},
        },
    };

    /// The server's half alone: `counted` GETs of 200 and three A look-ups by the kernel's count.
    fn report(counted: u64, seen: &Seen) -> Report {
        let (get, v1_1) = (HttpMethod::HTTP_METHOD_GET.0, HttpVersion::HTTP_VERSION_1_1.0);
        let snapshot = Snapshot {
            pods: [(1, pod("web"))].into(),
            counters: vec![
                (counter(1, CounterKind::COUNTER_HTTP_REQUESTS, get, v1_1, 200), counted),
                (counter(1, CounterKind::COUNTER_DNS_QUERIES, 0, 0, 1), 3),
                (counter(1, CounterKind::COUNTER_DNS_RESPONSES, 0, 0, 1), 3),
            ],
            histograms: vec![(
                histogram_key(1, HistogramKind::HISTOGRAM_HTTP_REQUEST, get),
                histogram(&[900_000, 900_000, 900_000, 30_000_000]),
            )],
            ..Snapshot::default()
        };
        let mut reading =
            Reading { snapshot: &snapshot, members: &[], now: NOW, own: Own::default() };
        Report::new(&series::collect(&mut reading, GRACE), seen)
    }

    fn served(method: &str, status: u16, count: u64) -> Seen {
        Seen {
            http_served: [((method.to_owned(), "1.1", status), count)].into(),
            dns_served: [((1, 0), 3)].into(),
            ..Seen::default()
        }
    }

    #[test]
    fn the_same_counts_are_exact() {
        let report = report(7, &served("GET", 200, 7));
        assert!(report.exact());
        assert_eq!(report.totals(), (10, 10));
        let text = report.text();
        assert!(text.ends_with("\ncounted 10 of 10\n"), "{text}");
        assert!(!text.contains("differs"), "{text}");
    }

    #[test]
    fn one_too_few_or_too_many_is_told() {
        for (counted, totals) in [(6, (9, 10)), (8, (10, 10))] {
            let report = report(counted, &served("GET", 200, 7));
            assert!(!report.exact());
            assert_eq!(report.totals(), totals);
            let line = format!("of web, server GET 1.1 200: {counted}, really 7\n");
            assert!(report.text().contains(&line), "{}", report.text());
        }
    }

    #[test]
    fn the_right_number_of_the_wrong_kind_is_not_counted() {
        for seen in [served("GET", 404, 7), served("BREW", 200, 7)] {
            let report = report(7, &seen);
            assert!(!report.exact());
            assert_eq!(report.totals(), (3, 10));
        }
    }

    #[test]
    fn no_traffic_is_no_success() {
        let empty = Snapshot::default();
        let mut reading = Reading { snapshot: &empty, members: &[], now: NOW, own: Own::default() };
        let report = Report::new(&series::collect(&mut reading, GRACE), &Seen::default());
        assert!(!report.exact());
    }

    #[test]
    fn quantiles_are_bounds_of_the_cells_that_hold_them() {
        let report = report(4, &served("GET", 200, 4));
        let [durations] = &report.durations[..] else { panic!("{:?}", report.durations) };
        assert_eq!(durations.count, 4);
        assert!(durations.p50 >= Duration::from_micros(900));
        assert!(durations.p50 < Duration::from_micros(1100));
        assert!(durations.p99 >= Duration::from_millis(30));
    }
}
