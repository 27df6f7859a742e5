//! The Grafana dashboard of the examples: each of its queries has data in a Prometheus that scrapes a
//! busy agent.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use weir::telemetry::wire::{CounterKind, HistogramKind};

use super::{
    fill::Pod,
    node::{Node, PATIENCE},
    prometheus::Prometheus,
};

/// Kind, and the three labels of a counter.
const COUNTED: [(CounterKind, u32, u32, u16); 11] = [
    (CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200),
    (CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 503),
    (CounterKind::COUNTER_HTTP_ERRORS, 1, 0, 0),
    (CounterKind::COUNTER_GRPC_REQUESTS, 14, 0, 0),
    (CounterKind::COUNTER_DNS_QUERIES, 1, 1, 0),
    (CounterKind::COUNTER_DNS_RESPONSES, 3, 1, 0),
    (CounterKind::COUNTER_DNS_TIMEOUTS, 0, 0, 0),
    (CounterKind::COUNTER_DB_REQUESTS, 1, 1, 1),
    (CounterKind::COUNTER_DB_REQUESTS, 1, 1, 2),
    (CounterKind::COUNTER_TCP_CONNECTIONS, 1, 0, 0),
    (CounterKind::COUNTER_TLS_HANDSHAKES, 3, 0, 0),
];

const TIMED: [HistogramKind; 6] = [
    HistogramKind::HISTOGRAM_HTTP_REQUEST,
    HistogramKind::HISTOGRAM_GRPC_REQUEST,
    HistogramKind::HISTOGRAM_DNS_LOOKUP,
    HistogramKind::HISTOGRAM_DB_REQUEST,
    HistogramKind::HISTOGRAM_TCP_RTT,
    HistogramKind::HISTOGRAM_TCP_CONNECT,
];

/// More of everything.
fn grow(web: &Pod, step: u64) {
    for (kind, a, b, c) in COUNTED {
        web.count(kind, a, b, c, step * 10);
    }
    for kind in TIMED {
        web.observe(kind, 1, &[(20_000_000, step * 9), (200_000_000, step)]);
    }
}

/// As Grafana puts in what is chosen: all of everything, in the role that the test's pods have.
fn filled_in(query: &str) -> String {
    let all = ["$namespace", "$pod", "$instance"];
    let query = all.iter().fold(query.to_owned(), |query, name| query.replace(name, ".*"));
    let query = query.replace("$role", "server").replace("$__rate_interval", "10s");
    assert!(!query.contains('$'), "{query}");
    query
}

#[test]
fn every_query_of_the_dashboard_has_data() {
    let node = Node::new("dashboard");
    let web = Pod::new(&node, "web");
    grow(&web, 1);
    let _agent = node.agent();
    let prometheus = Prometheus::with(&node, 9_090, &[]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut waiting: Vec<String> =
        targets.map(|target| filled_in(target["expr"].as_str().unwrap())).collect();
    assert!(waiting.len() > 35, "{}", waiting.len());
    let end = Instant::now() + PATIENCE;
    for step in 2.. {
        grow(&web, step);
        thread::sleep(Duration::from_secs(1));
        waiting.retain(|query| !has_data(&prometheus, query));
        if waiting.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "no data: {waiting:#?}");
    }
    // And the data is right: of what grew, a half failed.
    let failed = filled_in(panel_query(panels, "Failed"));
    assert_eq!(prometheus.value(&failed), Some(0.5));
    for name in ["namespace", "pod", "instance"] {
        let list = dashboard["templating"]["list"].as_array().unwrap().iter();
        let variable = list.clone().find(|one| one["name"] == name).unwrap();
        let of = variable["query"]["query"].as_str().unwrap();
        let series = of.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap().0;
        assert!(has_data(&prometheus, &filled_in(series)), "{of}");
    }
}

/// Numbers, of which one at least is one.
fn has_data(prometheus: &Prometheus, query: &str) -> bool {
    let data = prometheus.ask("query?", query);
    let mut samples = data["result"].as_array().unwrap().iter();
    samples.any(|sample| sample["value"][1].as_str().unwrap() != "NaN")
}

fn panel_query<'a>(panels: &'a [Value], title: &str) -> &'a str {
    let panel = panels.iter().find(|panel| panel["title"] == title).unwrap();
    panel["targets"][0]["expr"].as_str().unwrap()
}
