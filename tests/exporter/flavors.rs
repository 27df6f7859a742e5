//! OpenTelemetry's and Hubble's names, as Debian's Prometheus has them: every label set and value.

use std::collections::BTreeMap;

use weir::telemetry::wire::{
    CounterKind, DbOperation, DbOutcome, HistogramKind, HttpMethod, HttpVersion, L7Protocol, Role,
};

use super::{
    fill::Pod,
    node::{Node, eventually},
    prometheus::Prometheus,
};

/// What the pod has counted: as a server always less than as a client, so that neither passes for the other.
fn counted(node: &Node) -> Pod {
    let web = Pod::new(node, "web");
    let get = (HttpMethod::HTTP_METHOD_GET.0, HttpVersion::HTTP_VERSION_1_1.0, 200);
    let post = (HttpMethod::HTTP_METHOD_POST.0, HttpVersion::HTTP_VERSION_2.0, 0);
    let (redis, kafka) = (L7Protocol::L7_REDIS.0, L7Protocol::L7_KAFKA.0);
    let read = (redis, DbOperation::DB_GET.0, DbOutcome::DB_OK.0.try_into().unwrap());
    let fetch = (kafka, DbOperation::DB_OTHER.0, DbOutcome::DB_ERROR.0.try_into().unwrap());
    for (role, more) in [(Role::ROLE_SERVER, 0), (Role::ROLE_CLIENT, 100)] {
        for (kind, key, value) in [
            (CounterKind::COUNTER_HTTP_REQUESTS, get, 7),
            (CounterKind::COUNTER_HTTP_REQUESTS, post, 3),
            (CounterKind::COUNTER_GRPC_REQUESTS, (5, 0, 0), 11),
            (CounterKind::COUNTER_DNS_QUERIES, (0, 0, 28), 13),
            (CounterKind::COUNTER_DNS_RESPONSES, (3, 0, 28), 12),
            (CounterKind::COUNTER_DB_REQUESTS, read, 17),
            (CounterKind::COUNTER_DB_REQUESTS, fetch, 19),
        ] {
            web.count_as(role, kind, key, value + more);
        }
        for (kind, a, value) in [
            (HistogramKind::HISTOGRAM_HTTP_REQUEST, get.0, 7),
            (HistogramKind::HISTOGRAM_GRPC_REQUEST, 0, 11),
            (HistogramKind::HISTOGRAM_DNS_LOOKUP, 0, 12),
            (HistogramKind::HISTOGRAM_DB_REQUEST, redis, 17),
            (HistogramKind::HISTOGRAM_DB_REQUEST, kafka, 19),
            (HistogramKind::HISTOGRAM_TCP_CONNECT, 0, 23),
            (HistogramKind::HISTOGRAM_TCP_RTT, 0, 29),
        ] {
            web.observe_as(role, kind, a, &[(20_000_000, value + more)]);
        }
    }
    web
}

/// A query, the labels that are its own beside the pod's, and the value.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

fn assert_has(prometheus: &Prometheus, expected: &[Expected<'_>]) {
    let mut by_name: BTreeMap<&str, BTreeMap<BTreeMap<String, String>, String>> = BTreeMap::new();
    for (name, own, value) in expected {
        let pods = [("__name__", *name), ("namespace", "shop"), ("pod", "web")];
        let target = [("instance", "127.0.0.1:9920"), ("job", "weir")];
        let labels = [&pods[..], &target, own].concat().into_iter();
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        by_name.entry(*name).or_default().insert(labels, (*value).to_owned());
    }
    for (name, expected) in by_name {
        assert_eq!(prometheus.query(name), expected, "{name}");
    }
}

fn scraped(node: &Node, flavor: &str) -> Prometheus {
    let prometheus = Prometheus::of(node, 9090, flavor, &[]);
    eventually("a scrape", || prometheus.value("up") == Some(1.0));
    prometheus
}

#[test]
fn opentelemetrys_names_have_each_role_and_every_label() {
    let node = Node::new("flavor-otel");
    let _web = counted(&node);
    let _agent = node.agent();
    let get = [
        ("http_request_method", "GET"),
        ("network_protocol_version", "1.1"),
        ("http_response_status_code", "200"),
    ];
    // Prometheus drops an empty label: no response was seen.
    let post = [("http_request_method", "POST"), ("network_protocol_version", "2")];
    let call = [("rpc_system_name", "grpc"), ("rpc_response_status_code", "NOT_FOUND")];
    let redis = [("db_system_name", "redis"), ("db_operation_name", "GET"), ("outcome", "ok")];
    let kafka = [
        ("messaging_system", "kafka"),
        ("messaging_operation_name", "other"),
        ("outcome", "error"),
    ];
    let prometheus = scraped(&node, "otel");
    assert_documented(&prometheus, &["As OpenTelemetry calls them"]);
    assert_has(
        &prometheus,
        &[
            ("http_server_requests_total", &get, "7"),
            ("http_server_requests_total", &post, "3"),
            ("http_client_requests_total", &get, "107"),
            ("http_client_requests_total", &post, "103"),
            ("http_server_request_duration_seconds_count", &get[..1], "7"),
            ("http_client_request_duration_seconds_count", &get[..1], "107"),
            ("rpc_server_calls_total", &call, "11"),
            ("rpc_client_calls_total", &call, "111"),
            ("rpc_server_call_duration_seconds_count", &call[..1], "11"),
            ("rpc_client_call_duration_seconds_count", &call[..1], "111"),
            ("dns_lookup_duration_seconds_count", &[], "112"),
            ("weir_dns_lookup_duration_seconds_count", &[("role", "server")], "12"),
            ("db_client_operations_total", &redis, "117"),
            ("db_client_operation_duration_seconds_count", &redis[..1], "117"),
            ("messaging_client_operations_total", &kafka, "119"),
            ("messaging_client_operation_duration_seconds_count", &kafka[..1], "119"),
            (
                "weir_db_requests_total",
                &[("system", "redis"), ("operation", "GET"), ("outcome", "ok")],
                "17",
            ),
            (
                "weir_db_requests_total",
                &[("system", "kafka"), ("operation", "other"), ("outcome", "error")],
                "19",
            ),
        ],
    );
}

#[test]
fn hubbles_names_have_each_reporter_and_every_label() {
    let node = Node::new("flavor-hubble");
    let _web = counted(&node);
    let _agent = node.agent();
    let get = |reporter| {
        [("method", "GET"), ("protocol", "HTTP/1.1"), ("status", "200"), ("reporter", reporter)]
    };
    let post = |reporter| {
        [("method", "POST"), ("protocol", "HTTP/2"), ("status", "0"), ("reporter", reporter)]
    };
    let prometheus = scraped(&node, "hubble");
    assert_documented(&prometheus, &["As Hubble"]);
    assert_has(
        &prometheus,
        &[
            ("hubble_http_requests_total", &get("server"), "7"),
            ("hubble_http_requests_total", &post("server"), "3"),
            ("hubble_http_requests_total", &get("client"), "107"),
            ("hubble_http_requests_total", &post("client"), "103"),
            (
                "hubble_http_request_duration_seconds_count",
                &[("method", "GET"), ("reporter", "server")],
                "7",
            ),
            (
                "hubble_http_request_duration_seconds_count",
                &[("method", "GET"), ("reporter", "client")],
                "107",
            ),
            ("hubble_dns_queries_total", &[("qtypes", "AAAA")], "113"),
            (
                "hubble_dns_responses_total",
                &[("qtypes", "AAAA"), ("rcode", "Non-Existent Domain")],
                "112",
            ),
        ],
    );
    // Nothing but Hubble's own.
    assert!(prometheus.query("{__name__=~\"weir_.*\"}").is_empty());
}

/// The rows of docs/metrics.md under a heading: name, type and help.
fn documented(heading: &str) -> Vec<[String; 3]> {
    let text = include_str!("../../docs/metrics.md");
    let mut sections = text.split("\n## ").filter(|section| section.starts_with(heading));
    let section = sections.next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>());
    let rows = rows.map(|row| {
        let help = row[3].trim_end_matches(" (from 0)");
        [row[0].trim_matches('`'), row[1], help].map(str::to_owned)
    });
    rows.collect()
}

/// That Prometheus knows type, help and unit of every family that is documented under these headings.
fn assert_documented(prometheus: &Prometheus, headings: &[&str]) {
    let metadata = prometheus.metadata();
    let documented: Vec<_> = headings.iter().flat_map(|it| documented(it)).collect();
    assert!(documented.len() >= 4, "{documented:?}");
    let mut absent = Vec::new();
    for [name, kind, help] in &documented {
        // OpenMetrics names families without the suffixes of their samples.
        let family = name.trim_end_matches("_total").trim_end_matches("_info");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| family.ends_with(unit));
        let expected = [kind.clone(), help.clone(), unit.unwrap_or_default().to_owned()];
        match metadata.get(family) {
            Some(told) => assert_eq!(told, &expected, "{name}"),
            None => absent.push(name.as_str()),
        }
    }
    // Only with an option of the agent's.
    let optional = ["weir_tls_server_names_total", "weir_otlp_spans_total"];
    assert!(absent.iter().all(|name| optional.contains(name)), "{absent:?}");
}

#[test]
fn prometheus_knows_the_type_the_help_and_the_unit_of_every_documented_family() {
    let node = Node::new("metadata");
    let _web = counted(&node);
    let _agent = node.agent();
    assert_documented(&scraped(&node, "weir"), &["Of a pod", "Of the node"]);
}
