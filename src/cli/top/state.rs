//! What `weir top` shows, apart from how: the rows and their order, and what keys do to them.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
};

use crate::agent::{
    flows::filter::called,
    overview::{Exchanges, Overview, PodOverview},
};

/// Readings in a trend.
pub const TREND: usize = 60;

/// Exchanges that are shown of one pod.
const LINES: usize = 200;

/// What the rows are sorted by; the largest is first, and names go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Requests a second.
    Rate,
    /// Failures a second.
    Errors,
    /// The 99th percentile of their durations.
    Slow,
    /// Bytes a second, both ways.
    Bytes,
    /// Namespace and name.
    Name,
}

impl Sort {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::Slow => "p99",
            Self::Bytes => "bytes",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Errors,
            Self::Errors => Self::Slow,
            Self::Slow => Self::Bytes,
            Self::Bytes => Self::Name,
            Self::Name => Self::Rate,
        }
    }
}

/// A key, as far as it does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Up one row.
    Up,
    /// Down one row.
    Down,
    /// Into a pod, or the end of typing.
    Enter,
    /// Back, or out.
    Escape,
    /// The last character away.
    Backspace,
    /// Out, from anywhere.
    Interrupt,
}

/// A pod's name.
pub type Name = (String, String);

/// A pod that is looked at.
#[derive(Debug, Default)]
pub struct Detail {
    /// Which.
    pub name: Name,
    /// Its exchanges as lines, the last ones.
    pub lines: VecDeque<String>,
    /// Records that are missing among them.
    pub lost: u64,
    /// Why none come.
    pub trouble: Option<String>,
}

/// News of the pod that is looked at.
#[derive(Debug)]
pub enum Heard {
    /// An exchange, as a line.
    Line(String),
    /// So many records are missing.
    Lost(u64),
    /// The agent tells of exchanges, or why it doesn't.
    Listening(Result<(), String>),
}

/// All that is shown.
#[derive(Debug)]
pub struct State {
    /// The last answer.
    pub overview: Overview,
    /// Why there is no newer one.
    pub trouble: Option<String>,
    /// The order of the rows.
    pub sort: Sort,
    /// What names have to contain.
    pub filter: String,
    /// Whether keys go into the filter.
    pub typing: bool,
    /// The pod that is looked at.
    pub detail: Option<Detail>,
    selected: Option<Name>,
    trends: HashMap<Name, VecDeque<f64>>,
}

impl State {
    /// Nothing yet.
    pub fn new(sort: Sort, filter: String) -> Self {
        Self {
            overview: Overview::default(),
            trouble: Some("asking the agent".to_owned()),
            sort,
            filter,
            typing: false,
            detail: None,
            selected: None,
            trends: HashMap::new(),
        }
    }

    /// Takes a newer answer, or why there is none.
    pub fn take(&mut self, answer: Result<Overview, String>) {
        let overview = match answer {
            Ok(overview) => overview,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return;
            }
        };
        let mut trends = HashMap::with_capacity(overview.pods.len());
        for pod in &overview.pods {
            let mut trend = self.trends.remove(&name(pod)).unwrap_or_default();
            trend.extend(requests(pod).1.rate);
            let surplus = trend.len().saturating_sub(TREND);
            trend.drain(..surplus);
            trends.insert(name(pod), trend);
        }
        self.trends = trends;
        self.overview = overview;
        self.trouble = None;
    }

    /// Takes news of a pod, if it is the one that is looked at.
    pub fn hear(&mut self, of: &Name, heard: Heard) {
        let Some(detail) = self.detail.as_mut().filter(|detail| detail.name == *of) else { return };
        match heard {
            Heard::Line(line) => {
                detail.lines.push_back(line);
                let surplus = detail.lines.len().saturating_sub(LINES);
                detail.lines.drain(..surplus);
            }
            Heard::Lost(records) => detail.lost = detail.lost.saturating_add(records),
            Heard::Listening(listening) => detail.trouble = listening.err(),
        }
    }

    /// Does what a key asks for; false to end.
    pub fn press(&mut self, key: Key) -> bool {
        match key {
            Key::Interrupt => return false,
            Key::Enter | Key::Escape if self.typing => {
                self.typing = false;
                if key == Key::Escape {
                    self.filter.clear();
                }
            }
            Key::Backspace if self.typing => drop(self.filter.pop()),
            Key::Char(c) if self.typing => {
                if !c.is_control() && self.filter.len() < 256 {
                    self.filter.push(c);
                }
            }
            Key::Char('q') => return false,
            Key::Escape | Key::Backspace if self.detail.is_some() => self.detail = None,
            Key::Escape => return false,
            Key::Char('/') => {
                self.detail = None;
                self.typing = true;
            }
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Up | Key::Char('k') => self.step(|at| at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.step(|at| at + 1),
            Key::Enter => {
                let rows = self.rows();
                let chosen = self.at(&rows).and_then(|at| rows.get(at)).map(|pod| name(pod));
                self.detail = chosen.map(|name| Detail { name, ..Detail::default() });
            }
            Key::Char(_) | Key::Backspace => {}
        }
        true
    }

    fn step(&mut self, to: impl FnOnce(usize) -> usize) {
        let rows = self.rows();
        let at = self.at(&rows).map(to).unwrap_or_default().min(rows.len().saturating_sub(1));
        self.selected = rows.get(at).map(|pod| name(pod));
    }

    /// The pods that the filter lets through, in order.
    pub fn rows(&self) -> Vec<&PodOverview> {
        let filter = self.filter.to_lowercase();
        let wanted = |pod: &&PodOverview| title(&name(pod)).to_lowercase().contains(&filter);
        let mut rows: Vec<_> = self.overview.pods.iter().filter(wanted).collect();
        // Stable: what is equal stays in the order of the names.
        rows.sort_by(|a, b| self.order(a, b));
        rows
    }

    fn order(&self, a: &PodOverview, b: &PodOverview) -> Ordering {
        let of = |pod: &PodOverview| {
            let (_, requests) = requests(pod);
            let measure = match self.sort {
                Sort::Rate => requests.rate,
                Sort::Errors => requests.error_rate,
                Sort::Slow => requests.p99_seconds,
                Sort::Bytes => Some(
                    pod.network.rx_rate.unwrap_or_default()
                        + pod.network.tx_rate.unwrap_or_default(),
                ),
                Sort::Name => None,
            };
            measure.unwrap_or_default()
        };
        of(b).total_cmp(&of(a))
    }

    /// Where the selection is among these rows: on its pod, wherever that went, or on the first.
    pub fn at(&self, rows: &[&PodOverview]) -> Option<usize> {
        let selected = self.selected.as_ref();
        let found = selected.and_then(|wanted| rows.iter().position(|pod| name(pod) == *wanted));
        found.or((!rows.is_empty()).then_some(0))
    }

    /// The last rates of a pod, oldest first.
    pub fn trend(&self, of: &Name) -> Vec<f64> {
        self.trends.get(of).into_iter().flatten().copied().collect()
    }

    /// A pod of the last answer.
    pub fn pod(&self, of: &Name) -> Option<&PodOverview> {
        self.overview.pods.iter().find(|pod| name(pod) == *of)
    }
}

/// A pod's name.
pub fn name(pod: &PodOverview) -> Name {
    (pod.namespace.clone(), pod.pod.clone())
}

/// The name as it is written.
pub fn title((namespace, pod): &Name) -> String {
    called(namespace, pod)
}

/// The requests that a row shows: those that the pod serves, or else makes; and an arrow for which.
pub fn requests(pod: &PodOverview) -> (&'static str, &Exchanges) {
    let (server, client) = (&pod.server, &pod.client);
    [
        ("<-", &server.http),
        ("<-", &server.db),
        ("<-", &server.dns),
        ("->", &client.http),
        ("->", &client.db),
        ("->", &client.dns),
    ]
    .into_iter()
    .find(|(_, exchanges)| exchanges.total > 0)
    .unwrap_or(("", &server.http))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::overview::{Side, Traffic};

    fn pod(name: &str, rate: f64, error_rate: f64, p99: f64, bytes: f64) -> PodOverview {
        let http = Exchanges {
            total: 1,
            rate: Some(rate),
            error_rate: Some(error_rate),
            p99_seconds: Some(p99),
            ..Exchanges::default()
        };
        PodOverview {
            namespace: "shop".into(),
            pod: name.into(),
            server: Side { http, ..Side::default() },
            network: Traffic { rx_rate: Some(bytes), ..Traffic::default() },
            ..PodOverview::default()
        }
    }

    fn state() -> State {
        let mut state = State::new(Sort::Rate, String::new());
        let pods = vec![
            pod("api", 1.0, 3.0, 0.1, 20.0),
            pod("db", 3.0, 2.0, 0.2, 30.0),
            pod("web", 2.0, 1.0, 0.3, 10.0),
        ];
        state.take(Ok(Overview { interval_seconds: Some(1.0), pods }));
        state
    }

    fn shown(state: &State) -> Vec<&str> {
        state.rows().iter().map(|pod| pod.pod.as_str()).collect()
    }

    #[test]
    fn each_order_has_its_own_first() {
        let mut state = state();
        for (sort, rows) in [
            (Sort::Rate, ["db", "web", "api"]),
            (Sort::Errors, ["api", "db", "web"]),
            (Sort::Slow, ["web", "db", "api"]),
            (Sort::Bytes, ["db", "api", "web"]),
            (Sort::Name, ["api", "db", "web"]),
        ] {
            assert_eq!((state.sort, shown(&state)), (sort, rows.to_vec()));
            state.press(Key::Char('s'));
        }
        assert_eq!(state.sort, Sort::Rate);
    }

    #[test]
    fn the_selection_stays_on_its_pod_when_the_order_changes() {
        let mut state = state();
        state.press(Key::Down);
        assert_eq!(state.at(&state.rows()), Some(1));
        state.press(Key::Char('s'));
        assert_eq!(state.at(&state.rows()), Some(2), "web is last by errors");
        for _ in 0..9 {
            state.press(Key::Char('j'));
        }
        assert_eq!(state.at(&state.rows()), Some(2));
        state.press(Key::Enter);
        assert_eq!(state.detail.as_ref().unwrap().name.1, "web");
        assert!(state.press(Key::Escape) && state.detail.is_none());
        assert!(!state.press(Key::Escape));
    }

    #[test]
    fn a_filter_is_typed_until_enter_and_dropped_by_escape() {
        let mut state = state();
        for key in [Key::Char('/'), Key::Char('q'), Key::Backspace, Key::Char('W'), Key::Enter] {
            assert!(state.press(key));
        }
        assert_eq!(shown(&state), ["web"]);
        assert!(!state.press(Key::Char('q')), "q is a key again");
        state.press(Key::Char('/'));
        state.press(Key::Escape);
        assert_eq!(shown(&state).len(), 3);
    }

    #[test]
    fn trends_are_bounded_and_end_with_their_pod() {
        let mut state = state();
        for _ in 0..TREND * 2 {
            state.take(Ok(state.overview.clone()));
        }
        let web = ("shop".to_owned(), "web".to_owned());
        assert_eq!(state.trend(&web).len(), TREND);
        state.take(Err("gone".into()));
        assert_eq!((state.rows().len(), state.trouble.as_deref()), (3, Some("gone")));
        state.take(Ok(Overview::default()));
        assert!(state.trends.is_empty() && state.trend(&web).is_empty());
        assert!(state.press(Key::Enter) && state.detail.is_none());
    }
}
