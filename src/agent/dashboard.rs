//! `examples/grafana-dashboard.json`, printed from a list of panels; every name in it is checked
//! against the table of families here, and every query against a Prometheus in `tests/exporter`.
//!
//! `WEIR_WRITE_DOCS=1 cargo test --lib agent::dashboard` writes it anew.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::families;

/// Which series: those of the pods and of the role that are chosen above the panels.
const OF: &str = r#"namespace=~"$namespace",pod=~"$pod",instance=~"$instance""#;

/// The time that rates are over.
const OVER: &str = "[$__rate_interval]";

const WIDTH: u64 = 24;

/// How a panel draws.
#[derive(Clone, Copy)]
enum Form {
    Number,
    Lines,
    /// One on top of the other.
    Area,
    /// Pods from the greatest on.
    Ranking,
}

/// A panel: title, what it is good for, Grafana's name of the unit, and legend and query of each part.
/// `OF` and `OVER` in a query stand for the text of those constants.
struct Panel(
    Form,
    u64,
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const PODS: &str = "{{namespace}}/{{pod}}";

#[rustfmt::skip]
const ROWS: &[(&str, &[Panel])] = &[
    ("At a glance", &[
        Panel(Form::Number, 4, "Pods", "Attachments on the nodes that are chosen, counted or not", "short",
            &[("pods", r#"sum(weir_pods{instance=~"$instance"})"#)]),
        Panel(Form::Number, 4, "Not counted", "Pods that have their network, but no counting: `weir doctor` says why", "short",
            &[("pods", "sum(1 - weir_attach_status{OF}) or vector(0)")]),
        Panel(Form::Number, 4, "HTTP requests", "Requests a second in the role that is chosen", "reqps",
            &[("requests", r#"sum(rate(weir_http_requests_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Number, 4, "Failed", "Share of 5xx and of requests without a response", "percentunit",
            &[("failed", r#"sum(rate(weir_http_requests_total{OF,role="$role",status=~"5..|0"}OVER)) / sum(rate(weir_http_requests_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Number, 4, "HTTP p99", "99 of 100 requests take no longer", "s",
            &[("p99", r#"histogram_quantile(0.99, sum by (le) (rate(weir_http_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#)]),
        Panel(Form::Number, 4, "Network", "Bytes a second, in and out", "Bps",
            &[("bytes", "sum(rate(weir_network_bytes_total{OF}OVER))")]),
        Panel(Form::Ranking, 6, "Busiest pods", "By HTTP requests a second", "reqps",
            &[(PODS, r#"topk(10, sum by (namespace, pod) (rate(weir_http_requests_total{OF,role="$role"}OVER)))"#)]),
        Panel(Form::Ranking, 6, "Failing pods", "By failed HTTP requests a second", "reqps",
            &[(PODS, r#"topk(10, sum by (namespace, pod) (rate(weir_http_requests_total{OF,role="$role",status=~"5..|0"}OVER)) > 0)"#)]),
        Panel(Form::Ranking, 6, "Slowest pods", "By the 99th percentile of HTTP", "s",
            &[(PODS, r#"topk(10, histogram_quantile(0.99, sum by (namespace, pod, le) (rate(weir_http_request_duration_seconds_bucket{OF,role="$role"}OVER))) > 0)"#)]),
        Panel(Form::Ranking, 6, "Heaviest pods", "By bytes a second, both directions", "Bps",
            &[(PODS, "topk(10, sum by (namespace, pod) (rate(weir_network_bytes_total{OF}OVER)))")]),
    ]),
    ("HTTP", &[
        Panel(Form::Area, 8, "Requests by status", "0: no response was seen", "reqps",
            &[("{{status}}", r#"sum by (status) (rate(weir_http_requests_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Lines, 8, "Duration", "From the first byte of the request to the last of the response", "s", &[
            ("p50", r#"histogram_quantile(0.5, sum by (le) (rate(weir_http_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
            ("p90", r#"histogram_quantile(0.9, sum by (le) (rate(weir_http_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
            ("p99", r#"histogram_quantile(0.99, sum by (le) (rate(weir_http_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
        ]),
        Panel(Form::Area, 8, "Requests without a complete response", "By cause", "reqps",
            &[("{{error}}", r#"sum by (error) (rate(weir_http_errors_total{OF,role="$role"}OVER))"#)]),
    ]),
    ("gRPC", &[
        Panel(Form::Area, 12, "Calls by status", "0 is OK; unknown: the call ended without one", "reqps",
            &[("{{grpc_status}}", r#"sum by (grpc_status) (rate(weir_grpc_requests_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Lines, 12, "Duration", "From the first byte of the call to the last of its trailers", "s", &[
            ("p50", r#"histogram_quantile(0.5, sum by (le) (rate(weir_grpc_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
            ("p99", r#"histogram_quantile(0.99, sum by (le) (rate(weir_grpc_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
        ]),
    ]),
    ("DNS", &[
        Panel(Form::Area, 8, "Answers by code", "NXDOMAIN without end is often a search list", "reqps",
            &[("{{rcode}}", r#"sum by (rcode) (rate(weir_dns_responses_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Lines, 8, "Duration", "From a query to its response", "s", &[
            ("p50", r#"histogram_quantile(0.5, sum by (le) (rate(weir_dns_lookup_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
            ("p99", r#"histogram_quantile(0.99, sum by (le) (rate(weir_dns_lookup_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
        ]),
        Panel(Form::Lines, 8, "Queries, and those without an answer", "A query counts as unanswered after 5 s", "reqps", &[
            ("queries", r#"sum(rate(weir_dns_queries_total{OF,role="$role"}OVER))"#),
            ("no answer", r#"sum(rate(weir_dns_timeouts_total{OF,role="$role"}OVER))"#),
        ]),
    ]),
    ("Databases", &[
        Panel(Form::Area, 8, "Requests by system", "Redis, PostgreSQL, MySQL and Kafka, on whatever port", "reqps",
            &[("{{system}}", r#"sum by (system) (rate(weir_db_requests_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Lines, 8, "Failed by operation", "Error answers and those that never came", "reqps",
            &[("{{system}} {{operation}}", r#"sum by (system, operation) (rate(weir_db_requests_total{OF,role="$role",outcome=~"error|no_response"}OVER))"#)]),
        Panel(Form::Lines, 8, "p99 by system", "99 of 100 requests take no longer", "s",
            &[("{{system}}", r#"histogram_quantile(0.99, sum by (system, le) (rate(weir_db_request_duration_seconds_bucket{OF,role="$role"}OVER)))"#)]),
    ]),
    ("TCP, TLS and bytes", &[
        Panel(Form::Area, 6, "Connections by result", "What became of attempts", "cps",
            &[("{{result}}", r#"sum by (result) (rate(weir_tcp_connections_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Lines, 6, "Open connections", "Established now", "short",
            &[("open", r#"sum(weir_tcp_active_connections{OF,role="$role"})"#)]),
        Panel(Form::Lines, 6, "Round trip and connect, p99", "Of the network alone, without the server's work", "s", &[
            ("round trip", r#"histogram_quantile(0.99, sum by (le) (rate(weir_tcp_rtt_seconds_bucket{OF,role="$role"}OVER)))"#),
            ("connect", r#"histogram_quantile(0.99, sum by (le) (rate(weir_tcp_connect_duration_seconds_bucket{OF,role="$role"}OVER)))"#),
        ]),
        Panel(Form::Lines, 6, "Retransmits", "As the pod sees it: rx towards it", "pps",
            &[("{{direction}}", "sum by (direction) (rate(weir_tcp_retransmits_total{OF}OVER))")]),
        Panel(Form::Area, 8, "TLS handshakes by version", "The version that the server chose", "ops",
            &[("{{version}}", r#"sum by (version) (rate(weir_tls_handshakes_total{OF,role="$role"}OVER))"#)]),
        Panel(Form::Lines, 8, "Bytes", "As the pod sees it: rx towards it", "Bps",
            &[("{{direction}}", "sum by (direction) (rate(weir_network_bytes_total{OF}OVER))")]),
        Panel(Form::Lines, 8, "Packets", "GSO segments, as the pod sees it", "pps",
            &[("{{direction}}", "sum by (direction) (rate(weir_network_packets_total{OF}OVER))")]),
    ]),
    ("Weir itself", &[
        Panel(Form::Lines, 6, "Not counted for want of room", "Anything but 0 means that the numbers above are too low", "ops",
            &[("{{source}}", r#"sum by (source) (rate(weir_events_lost_total{instance=~"$instance"}OVER))"#)]),
        Panel(Form::Lines, 6, "Streams that could not be followed", "Exchanges behind such a gap are not counted", "ops",
            &[("{{reason}}", r#"sum by (reason) (rate(weir_parse_gaps_total{instance=~"$instance"}OVER))"#)]),
        Panel(Form::Lines, 6, "Fullest maps", "Share of the room that is taken", "percentunit",
            &[("{{map}}", r#"topk(5, max by (map) (weir_map_entries{instance=~"$instance"} / weir_map_capacity))"#)]),
        Panel(Form::Lines, 6, "Time to read the maps", "For one page", "s",
            &[("{{instance}}", r#"weir_scrape_duration_seconds{instance=~"$instance"}"#)]),
    ]),
];

fn query(text: &str) -> String {
    text.replace("{OF", &format!("{{{OF}")).replace("OVER", OVER)
}

fn panel(Panel(form, width, title, what, unit, parts): &Panel, id: u64, x: u64, y: u64) -> Value {
    let instant = matches!(form, Form::Ranking);
    let kind = match form {
        Form::Number => "stat",
        Form::Lines | Form::Area => "timeseries",
        Form::Ranking => "bargauge",
    };
    let options = match form {
        Form::Number => {
            json!({ "graphMode": "area", "reduceOptions": { "calcs": ["lastNotNull"] } })
        }
        Form::Ranking => json!({
            "displayMode": "basic", "orientation": "horizontal", "showUnfilled": false,
            "reduceOptions": { "calcs": ["lastNotNull"] },
        }),
        Form::Lines | Form::Area => json!({
            "legend": { "displayMode": "list", "placement": "bottom" },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
    };
    let custom = match form {
        Form::Area => {
            json!({ "fillOpacity": 30, "lineWidth": 1, "stacking": { "mode": "normal" } })
        }
        _ => json!({ "fillOpacity": 5, "lineWidth": 1 }),
    };
    let targets = ('A'..).zip(*parts).map(|(name, (legend, text))| {
        json!({ "refId": name.to_string(), "expr": query(text), "legendFormat": legend, "instant": instant, "range": !instant })
    });
    json!({
        "id": id, "type": kind, "title": title, "description": what,
        "datasource": { "type": "prometheus", "uid": "${datasource}" },
        "gridPos": { "x": x, "y": y, "w": width, "h": height(*form) },
        "fieldConfig": { "defaults": { "unit": unit, "min": 0, "custom": custom }, "overrides": [] },
        "options": options,
        "targets": targets.collect::<Vec<_>>(),
    })
}

fn height(form: Form) -> u64 {
    if matches!(form, Form::Number) { 4 } else { 8 }
}

fn variable(name: &str, of: &str) -> Value {
    json!({
        "name": name, "type": "query", "query": { "query": of, "refId": name },
        "datasource": { "type": "prometheus", "uid": "${datasource}" },
        "includeAll": true, "allValue": ".*", "multi": true, "refresh": 2, "sort": 1,
        "current": { "text": ["All"], "value": ["$__all"] },
    })
}

fn dashboard() -> Value {
    let (mut panels, mut id, mut y) = (Vec::new(), 0, 0);
    for (title, row) in ROWS {
        id += 1;
        panels.push(json!({ "id": id, "type": "row", "title": title, "collapsed": false, "panels": [], "gridPos": { "x": 0, "y": y, "w": WIDTH, "h": 1 } }));
        let (mut x, mut tallest) = (0, 0);
        y += 1;
        for one in *row {
            if x + one.1 > WIDTH {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            id += 1;
            panels.push(panel(one, id, x, y));
            (x, tallest) = (x + one.1, height(one.0).max(tallest));
        }
        y += tallest;
    }
    let roles = json!([
        { "text": "server", "value": "server", "selected": true },
        { "text": "client", "value": "client", "selected": false },
    ]);
    json!({
        "title": "Weir: pods", "uid": "weir-pods", "tags": ["weir", "kubernetes", "network"],
        "description": "What pods serve and ask, as Weir counts it in the kernel",
        "schemaVersion": 39, "editable": true, "refresh": "30s", "graphTooltip": 1,
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus" },
            variable("instance", "label_values(weir_pods, instance)"),
            variable("namespace", r#"label_values(weir_network_bytes_total{instance=~"$instance"}, namespace)"#),
            variable("pod", r#"label_values(weir_network_bytes_total{instance=~"$instance",namespace=~"$namespace"}, pod)"#),
            { "name": "role", "type": "custom", "query": "server,client", "options": roles,
              "current": { "text": "server", "value": "server" } },
        ] },
        "panels": panels,
    })
}

#[test]
fn the_dashboard_is_what_the_panels_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/grafana-dashboard.json");
    let printed = format!("{:#}\n", dashboard());
    if std::env::var_os("WEIR_WRITE_DOCS").is_some() {
        std::fs::write(path, &printed).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == printed,
        "{path} is stale: WEIR_WRITE_DOCS=1 cargo test --lib agent::dashboard"
    );
}

#[test]
fn every_name_on_the_dashboard_is_a_familys_and_most_families_of_pods_are_there() {
    let suffixes = ["", "_total", "_bucket"];
    let known: BTreeSet<String> = families::all()
        .flat_map(|family| suffixes.map(|suffix| format!("{}{suffix}", family.name)))
        .collect();
    let queries = ROWS.iter().flat_map(|(_, row)| *row).flat_map(|panel| panel.5);
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let named: BTreeSet<&str> = queries
        .flat_map(|(_, query)| query.split(word))
        .filter(|word| word.starts_with("weir_"))
        .collect();
    let unknown: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty() && named.len() >= 20, "{unknown:?} of {named:?}");
}
