//! The agent's page: a counter that has begun never goes down, whoever killed the agent meanwhile, and
//! the requests of a pod are those that its ends have counted.

use std::collections::BTreeMap;

use crate::{http::Counts, pod::Pod};

/// A sample's name and labels, to its value.
pub struct Page(BTreeMap<(String, String), f64>);

impl Page {
    /// Reads OpenMetrics.
    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| line.starts_with("weir_"));
        let samples = samples.filter_map(|line| {
            // What follows a number sign is an exemplar.
            let sample = line.split(" # ").next()?;
            let (series, value) = sample.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}');
            Some(((name.to_owned(), labels.to_owned()), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// Every sample that only grows since a time that the page says: series, time and value.
    fn growing(&self) -> impl Iterator<Item = (&(String, String), f64, f64)> {
        self.0.iter().filter_map(|(series, &value)| {
            let (name, labels) = series;
            let family = ["_total", "_bucket", "_count", "_sum"]
                .iter()
                .find_map(|ending| name.strip_suffix(ending))?;
            let own = labels.split(',').filter(|label| !label.starts_with("le="));
            let own = own.collect::<Vec<_>>().join(",");
            let created = self.0.get(&(format!("{family}_created"), own))?;
            Some((series, *created, value))
        })
    }

    /// How many elements each map has, by its name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, f64)> {
        let found = self.0.iter().filter(|((sample, _), _)| sample == "weir_map_entries");
        found.map(|((_, labels), value)| (labels.as_str(), *value))
    }

    /// What else the page has of a pod, and of gaps, that may explain a count.
    pub fn besides(&self, pod: &Pod) -> Vec<String> {
        let (_, name) = pod.labels();
        let of_pod = format!("pod=\"{name}\"");
        let telling = |sample: &str, labels: &str| match sample {
            "weir_parse_gaps_total" | "weir_events_lost_total" => true,
            "weir_http_errors_total"
            | "weir_tcp_retransmits_total"
            | "weir_tcp_connections_total" => labels.contains(&of_pod),
            _ => false,
        };
        let found = self
            .0
            .iter()
            .filter(|((sample, labels), value)| **value > 0.0 && telling(sample, labels));
        found.map(|((sample, labels), value)| format!("{sample}{{{labels}}} {value}")).collect()
    }

    /// HTTP requests of a pod in a role, by method and status.
    pub fn requests(&self, pod: &Pod, role: &str) -> Counts {
        let (namespace, name) = pod.labels();
        let mut counts = Counts::new();
        for ((sample, labels), value) in &self.0 {
            let label = |key: &str| {
                let start = format!("{key}=\"");
                labels.split(',').find_map(|l| l.strip_prefix(&*start)?.strip_suffix('"'))
            };
            let own = sample == "weir_http_requests_total"
                && label("namespace") == Some(namespace)
                && label("pod") == Some(&name)
                && label("role") == Some(role);
            if own {
                let key = (label("method").unwrap().to_owned(), label("status").unwrap());
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let value = *value as u64;
                *counts.entry((key.0, key.1.parse().unwrap())).or_default() += value;
            }
        }
        counts.retain(|_, value| *value > 0);
        counts
    }
}

/// What was seen last of each series.
#[derive(Default)]
pub struct Watch {
    last: BTreeMap<(String, String), (f64, f64)>,
    pub pages: u64,
}

impl Watch {
    /// Fails where something went down that began no later.
    pub fn see(&mut self, page: &Page) {
        self.pages += 1;
        for (series, created, value) in page.growing() {
            let before = self.last.insert(series.clone(), (created, value));
            if let Some((since, least)) = before {
                let (name, labels) = series;
                let fell = since == created && value < least;
                assert!(!fell, "{name}{{{labels}}} went from {least} down to {value}");
            }
        }
        // The dead don't come back.
        self.last.retain(|series, _| page.0.contains_key(series));
    }
}

#[test]
fn what_goes_down_is_told_from_what_begins_anew() {
    let page = |created: u32, value: u32| {
        let text = format!(
            "weir_a_total{{pod=\"x\"}} {value} # {{}} 1\nweir_a_created{{pod=\"x\"}} {created}\n"
        );
        Page::read(&text)
    };
    let mut watch = Watch::default();
    watch.see(&page(1, 5));
    watch.see(&page(1, 5));
    watch.see(&page(2, 0));
    watch.see(&page(2, 7));
    let falls = std::panic::AssertUnwindSafe(|| watch.see(&page(2, 6)));
    assert!(std::panic::catch_unwind(falls).is_err());
}
