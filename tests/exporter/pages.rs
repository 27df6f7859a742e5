//! What a page says of totals that the test put into the maps, or the kernel counted.

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    time::{Duration, Instant},
};

use serde_json::Value;
use weir::telemetry::wire::{
    CounterKind, Direction, HistogramKind, HttpError, HttpMethod, HttpVersion, TcpResult, Transport,
};

use super::{
    fill::Pod,
    http::{get, get_openmetrics},
    node::{Node, eventually, run},
};

/// Waits until the page has the line, for a page may be a second old.
fn page_with(line: &str) -> String {
    let mut page = String::new();
    eventually(line, || {
        page = get("/metrics").body;
        page.lines().any(|found| found == line)
    });
    page
}

#[test]
fn every_family_of_a_pod_is_on_both_pages() {
    let node = Node::new("families");
    let web = Pod::new(&node, "web");
    let (get_method, v1_1) = (HttpMethod::HTTP_METHOD_GET.0, HttpVersion::HTTP_VERSION_1_1.0);
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, get_method, v1_1, 200, 7);
    web.count(CounterKind::COUNTER_HTTP_ERRORS, HttpError::HTTP_ERROR_RESET.0, 0, 0, 2);
    web.count(CounterKind::COUNTER_HTTP_REQUEST_BODY, 0, 0, 0, 1_000);
    web.count(CounterKind::COUNTER_HTTP_RESPONSE_BODY, 0, 0, 0, u64::MAX);
    web.count(CounterKind::COUNTER_DNS_QUERIES, 0, Transport::TRANSPORT_UDP.0, 28, 3);
    web.count(CounterKind::COUNTER_DNS_QUERIES, 0, Transport::TRANSPORT_UDP.0, 999, 4);
    web.count(CounterKind::COUNTER_DNS_QUERIES, 0, Transport::TRANSPORT_UDP.0, 998, 5);
    web.count(CounterKind::COUNTER_DNS_RESPONSES, 3, Transport::TRANSPORT_UDP.0, 28, 3);
    let established = TcpResult::TCP_RESULT_ESTABLISHED.0;
    web.count(CounterKind::COUNTER_TCP_CONNECTIONS, established, 0, 0, 9);
    web.count(CounterKind::COUNTER_TCP_CLOSED, 0, 0, 0, 4);
    web.count(CounterKind::COUNTER_TCP_RETRANSMITS, Direction::DIRECTION_TX.0, 0, 0, 6);
    let durations = [(5_000_000, 2), (5_000_001, 1), (60_000_000_000, 1)];
    web.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, get_method, &durations);
    web.observe(HistogramKind::HISTOGRAM_DNS_LOOKUP, 0, &[(1_500_000, 3)]);
    let _agent = node.agent();
    let page = page_with("weir_pods 1");
    let om = get_openmetrics().body;
    let shop = r#"namespace="shop",pod="web""#;
    for line in [
        r#"weir_http_requests_total{L,role="server",method="GET",protocol="1.1",status="200"} 7"#,
        r#"weir_http_errors_total{L,role="server",error="reset"} 2"#,
        r#"weir_http_errors_total{L,role="client",error="reset"} 0"#,
        r#"weir_http_request_body_bytes_total{L,role="server"} 1000"#,
        r#"weir_http_response_body_bytes_total{L,role="server"} 18446744073709551615"#,
        r#"weir_http_unmatched_responses_total{L,role="server"} 0"#,
        r#"weir_http_request_duration_seconds_bucket{L,role="server",method="GET",le="0.005"} 2"#,
        r#"weir_http_request_duration_seconds_bucket{L,role="server",method="GET",le="0.01"} 3"#,
        r#"weir_http_request_duration_seconds_bucket{L,role="server",method="GET",le="+Inf"} 4"#,
        r#"weir_http_request_duration_seconds_sum{L,role="server",method="GET"} 60.015000001"#,
        r#"weir_http_request_duration_seconds_count{L,role="server",method="GET"} 4"#,
        r#"weir_dns_queries_total{L,role="server",qtype="AAAA",transport="udp"} 3"#,
        r#"weir_dns_queries_total{L,role="server",qtype="other",transport="udp"} 9"#,
        r#"weir_dns_responses_total{L,role="server",qtype="AAAA",rcode="NXDOMAIN"} 3"#,
        r#"weir_dns_lookup_duration_seconds_sum{L,role="server"} 0.0045"#,
        r#"weir_dns_timeouts_total{L,role="client"} 0"#,
        r#"weir_tcp_connections_total{L,role="server",result="established"} 9"#,
        r#"weir_tcp_active_connections{L,role="server"} 5"#,
        r#"weir_tcp_retransmits_total{L,direction="tx"} 6"#,
        r#"weir_network_packets_total{L,direction="tx",family="4"} 0"#,
        r#"weir_l7_connections_total{L,role="server",protocol="tls"} 0"#,
        r#"weir_attach_status{L,hook="clsact"} 1"#,
        "weir_maps_open 1",
    ] {
        let line = line.replace("{L,", &format!("{{{shop},"));
        assert!(page.lines().any(|found| found == line), "no {line} in {page}");
        assert!(om.lines().any(|found| found == line), "no {line} in {om}");
    }
    assert!(page.contains(r#"weir_map_entries{map="counters"} 11"#), "{page}");
}

#[test]
fn bytes_and_packets_are_those_of_ip_s_link() {
    let node = Node::new("network");
    let web = Pod::new(&node, "web");
    run("ip", &["address", "add", "198.51.100.1/24", "dev", "web"]);
    // The end that comes up first can send only when a worker of the kernel has seen its carrier; what
    // it would send until then is counted by the programs and never reaches the interface.
    run("ip", &["link", "set", "web.pod", "up"]);
    run("ip", &["link", "set", "web", "up"]);
    let neighbour = ["neighbour", "add", "198.51.100.2", "lladdr", "02:00:00:00:00:02"];
    run("ip", &[neighbour.as_slice(), &["dev", "web"]].concat());
    let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
    for size in [0, 1, 512, 1_400] {
        socket.send_to(&vec![0; size], "198.51.100.2:9").unwrap();
    }
    let _agent = node.agent();
    let ours =
        r#"weir_network_packets_total{namespace="shop",pod="web",direction="rx",family="4"}"#;
    page_with(&format!("{ours} 4"));
    let value = |page: &str, name: &str, family: &str| -> u64 {
        let series =
            format!(r#"{name}{{namespace="shop",pod="web",direction="rx",family="{family}"}} "#);
        page.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    };
    // The kernel's own IPv6 multicast listener reports go out, too: both are read until they agree.
    eventually("the same as ip -s link", || {
        let link: Value =
            serde_json::from_str(&run("ip", &["-j", "-s", "link", "show", "web"])).unwrap();
        let sent = &link[0]["stats64"]["tx"];
        let page = get("/metrics").body;
        let both = |name| value(&page, name, "4") + value(&page, name, "6");
        assert_eq!(value(&page, "weir_network_bytes_total", "4"), 4 * (14 + 20 + 8) + 1_913);
        sent["bytes"] == both("weir_network_bytes_total")
            && sent["packets"] == both("weir_network_packets_total")
    });
    assert_ne!(web.id, 0);
}

#[test]
fn a_pod_over_its_budget_is_folded_and_counted_and_the_sum_stays_right() {
    let node = Node::new("budget");
    let (hostile, web) = (Pod::new(&node, "hostile"), Pod::new(&node, "web"));
    for status in 100..400 {
        hostile.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, status, 2);
    }
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 5);
    let _agent = node.agent();
    let labels = r#"role="server",method="GET",protocol="1.1""#;
    let page = page_with(&format!(
        r#"weir_http_requests_total{{namespace="shop",pod="hostile",{labels},status="__other__"}} 600"#
    ));
    let web = format!(
        r#"weir_http_requests_total{{namespace="shop",pod="web",{labels},status="200"}} 5"#
    );
    assert!(page.lines().any(|line| line == web), "{page}");
    assert_eq!(page.matches("\nweir_http_requests_total{").count(), 2);
    let folded = |family: &str| -> u64 {
        let sample = format!(r#"weir_cardinality_overflow_total{{metric="{family}"}} "#);
        page.lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
    };
    let requests = folded("weir_http_requests");
    assert!(requests >= 300 && requests.is_multiple_of(300), "{requests}");
    // An alert on its increase needs a sample from before it.
    assert_eq!(folded("weir_dns_queries"), 0);
}

#[test]
fn many_scrapes_read_the_maps_once_a_second() {
    let node = Node::new("cache");
    let _web = Pod::new(&node, "web");
    let _agent = node.agent();
    page_with("weir_pods 1");
    let begun = Instant::now();
    let mut readings = BTreeSet::new();
    while begun.elapsed() < Duration::from_millis(1_500) {
        let page = get("/metrics").body;
        let line = page.lines().find(|line| line.starts_with("weir_scrape_duration_seconds "));
        readings.insert(line.unwrap().to_owned());
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(readings.len() >= 2 && readings.len() <= seconds + 2, "{readings:?}");
}

#[test]
fn the_pods_are_told_with_their_totals_and_what_they_do_at_present() {
    let node = Node::new("overview");
    let web = Pod::new(&node, "web");
    let ok = |count| web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, count);
    ok(1_000);
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 503, 7);
    let _agent = node.agent();
    let pods = || serde_json::from_str::<Value>(&get("/api/pods").body).unwrap();
    let mut first = Value::Null;
    eventually("the totals", || {
        first = pods();
        first["pods"][0]["server"]["http"]["total"] == 1_007
    });
    assert_eq!(first["pods"][0]["pod"], "web");
    assert_eq!(first["pods"][0]["server"]["http"]["errors"], 7);
    ok(1_500);
    let mut second = Value::Null;
    eventually("the rates", || {
        second = pods();
        second["pods"][0]["server"]["http"]["total"] == 1_507
    });
    let rate = second["pods"][0]["server"]["http"]["rate"].as_f64().unwrap();
    let interval = second["interval_seconds"].as_f64().unwrap();
    assert!((rate * interval - 500.0).abs() < 1e-3, "{rate} in {interval}");
    assert_eq!(second["pods"][0]["server"]["http"]["error_rate"], 0.0);
}
