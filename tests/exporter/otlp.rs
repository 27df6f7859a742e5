//! `--otlp-endpoint`: spans of real traffic, and metrics, at real receivers.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    metrics::v1::{metric::Data, number_data_point::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

use super::{
    bounds::resident_kib,
    http::get,
    node::{Agent, Node, eventually},
    otlp_receiver::{self, attributes},
    traffic::{self, SERVER, Served, inside, request},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];

fn receiver() -> SocketAddr {
    ([127, 0, 0, 1], 4317).into()
}

fn agent(node: &Node, arguments: &[&str]) -> Agent {
    let named = ["--otlp-endpoint", "http://localhost:4317", "--otlp-interval", "1s"];
    let mut agent = node.start_agent(&[&named, arguments].concat());
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    agent
}

/// Waits until the kernel has been told that somebody listens.
fn until_told(stream: &mut TcpStream) {
    let start = |page: &str| page.contains("\nweir_otlp_spans_total{result=\"sent\"} ");
    eventually("spans are counted", || start(&get("/metrics").body));
    thread::sleep(Duration::from_millis(1_500));
    stream.set_nodelay(true).unwrap();
}

/// A head with a `traceparent` of these flags.
fn traced(path: &str, flags: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: web.shop\r\nTraceparent: 00-{TRACE}-b7ad6b7169203331-{flags}\r\n\r\n"
    )
}

fn count(name: &str) -> u64 {
    let page = get("/metrics").body;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[test]
fn a_request_between_two_pods_is_two_spans_of_its_callers_trace() {
    let node = Node::new("otlp-grpc");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let web = Served::new(&node, "web");
    let received = otlp_receiver::grpc(receiver());
    let _agent = agent(&node, &[]);
    let (_shop, client) = inside(&node, "shop", "198.51.101", || {
        let mut stream = traffic::connect();
        // The agent is in another namespace: it has asked for records within a second of its start.
        thread::sleep(Duration::from_secs(3));
        for head in [
            traced("/a/503?secret", "01"),
            traced("/unsampled/200", "00"),
            traced("/invalid/200", "1"),
            "GET /untraced/200 HTTP/1.1\r\n\r\n".to_owned(),
        ] {
            request(&mut stream, head.as_bytes());
        }
    });
    web.answer_statuses();
    client.join().unwrap();
    eventually("both spans", || received.spans().len() >= 2);
    let get_requests = |role: &str| {
        let page = get("/metrics").body;
        let lines = page
            .lines()
            .filter(|line| line.starts_with("weir_http_requests_total{") && line.contains(role));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    eventually("all are counted", || get_requests("server") == 4 && get_requests("client") == 4);
    // What would have been sent besides has been by now.
    thread::sleep(Duration::from_millis(1_500));
    let spans = received.spans();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let of = |kind: SpanKind| spans.iter().find(|(.., span)| span.kind() == kind).unwrap();
    let ((server_of, server_has, server), (client_of, client_has, client)) =
        (of(SpanKind::Server), of(SpanKind::Client));
    assert_eq!(
        (server_of["k8s.pod.name"].as_str(), client_of["k8s.pod.name"].as_str()),
        ("web", "shop")
    );
    for span in [server, client] {
        let trace: String = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((trace.as_str(), span.parent_span_id.as_slice()), (TRACE, &PARENT[..]));
        assert_eq!((span.name.as_str(), span.flags & 1), ("GET", 1));
        assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Error);
    }
    assert_ne!(server.span_id, client.span_id);
    // Both ends were seen on one machine, the server's within the client's.
    assert!(client.start_time_unix_nano <= server.start_time_unix_nano + 1_000_000);
    assert!(server.end_time_unix_nano <= client.end_time_unix_nano + 1_000_000);
    for has in [server_has, client_has] {
        assert_eq!(has["url.path"], "/a/503");
        assert_eq!(
            (has["http.response.status_code"].as_str(), has["error.type"].as_str()),
            ("503", "503")
        );
        assert_eq!(has["server.address"], "web.shop");
    }
    assert_eq!(client_has["url.full"], "http://web.shop/a/503");
    assert_eq!(
        (client_has["network.peer.address"].as_str(), server_has["client.address"].as_str()),
        (SERVER, "198.51.101.2")
    );
    assert_eq!(count("weir_otlp_spans_total{result=\"sent\"}"), 2);

    let requests = "http.client.requests";
    eventually("the metrics", || received.metric("shop", requests).is_some());
    let Some(Data::Sum(sum)) = received.metric("shop", requests).unwrap().data else { panic!() };
    assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
    let failed = sum.data_points.iter().find(|point| {
        attributes(&point.attributes).get("http.response.status_code").is_some_and(|it| it == "503")
    });
    let failed = failed.unwrap();
    assert_eq!(failed.value, Some(Value::AsInt(1)));
    assert!(failed.start_time_unix_nano > 0 && failed.start_time_unix_nano < failed.time_unix_nano);
    let duration = received.metric("web", "http.server.request.duration").unwrap();
    assert_eq!(duration.unit, "s");
    let Some(Data::Histogram(histogram)) = duration.data else { panic!() };
    assert_eq!(histogram.data_points[0].bucket_counts.iter().sum::<u64>(), 4);
}

#[test]
fn over_http_what_is_put_off_is_sent_again_and_once() {
    let node = Node::new("otlp-http");
    let web = Served::new(&node, "web");
    let received = otlp_receiver::http(receiver(), otlp_receiver::first(vec![503, 429]));
    let agent = agent(&node, &["--otlp-protocol", "http"]);
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        until_told(&mut stream);
        for number in 0..20 {
            request(&mut stream, traced(&format!("/{number}/200"), "01").as_bytes());
        }
    });
    eventually("all of them", || received.spans().len() >= 20);
    let paths: BTreeSet<_> =
        received.spans().iter().map(|(_, has, _)| has["url.path"].clone()).collect();
    let ids: BTreeSet<_> = received.spans().iter().map(|(.., span)| span.span_id.clone()).collect();
    assert_eq!((received.spans().len(), paths.len(), ids.len()), (20, 20, 20));
    eventually("they are counted", || count("weir_otlp_spans_total{result=\"sent\"}") == 20);
    eventually("metrics", || received.metric("weir", "weir.pods").is_some());
    let node = nix::sys::utsname::uname().unwrap().nodename().to_str().unwrap().to_owned();
    let named = |key: &str, name: &str| (key.to_owned(), name.to_owned());
    let agent_of_node = [
        named("service.name", "weir"),
        named("service.instance.id", &node),
        named("host.name", &node),
    ];
    assert_eq!(received.resources("weir"), [agent_of_node.into()].into());
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("can't send to"), said("sending to")), (1, 1), "{log:#?}");
}

#[test]
fn a_receiver_that_wants_to_be_left_alone_is() {
    let node = Node::new("otlp-later");
    let (told, asked) = std::sync::mpsc::channel();
    let mut first = otlp_receiver::first(vec![429]);
    let received = otlp_receiver::http(receiver(), move |path| {
        told.send(Instant::now()).unwrap();
        first(path)
    });
    // Metrics are due each second, and without the wish the next try of anything within two.
    let _agent = agent(&node, &["--otlp-protocol", "http"]);
    eventually("metrics", || received.metric("weir", "weir.pods").is_some());
    let (refused, next) = (asked.recv().unwrap(), asked.recv().unwrap());
    assert!(next - refused >= otlp_receiver::RETRY_AFTER, "{:?}", next - refused);
}

#[test]
fn a_receiver_that_refuses_is_said_once_and_what_it_refused_is_counted() {
    let node = Node::new("otlp-refused");
    let web = Served::new(&node, "web");
    let _received = otlp_receiver::http(receiver(), |_| 400);
    let agent = agent(&node, &["--otlp-protocol", "http"]);
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        until_told(&mut stream);
        request(&mut stream, traced("/200", "01").as_bytes());
    });
    eventually("it is counted", || count("weir_otlp_spans_total{result=\"refused\"}") == 1);
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("refuses spans: "), said("refuses metrics: ")), (1, 1), "{log:#?}");
}

#[test]
fn a_receiver_of_traces_alone_is_said_to_be_one_once() {
    let node = Node::new("otlp-traces");
    let web = Served::new(&node, "web");
    let status = |path: &str| if path == "/v1/traces" { 200 } else { 404 };
    let received = otlp_receiver::http(receiver(), status);
    let agent = agent(&node, &["--otlp-protocol", "http"]);
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        until_told(&mut stream);
        // Metrics are tried each second, between these.
        for number in 1..=4 {
            request(&mut stream, traced("/200", "01").as_bytes());
            eventually("it is sent", || received.spans().len() == number);
            thread::sleep(Duration::from_millis(1_100));
        }
    });
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(
        (said("sending to"), said("refuses metrics: "), said("again")),
        (1, 1, 0),
        "{log:#?}"
    );
}

#[test]
fn while_the_receiver_is_away_memory_is_bounded_and_each_span_is_sent_or_counted_as_lost() {
    let node = Node::new("otlp-away");
    let web = Served::new(&node, "web");
    let agent = agent(&node, &[]);
    let overrun = "weir_otlp_spans_total{result=\"overrun\"}";
    // Five times what there is room for.
    let requests = 20_000;
    let head = traced("/200", "01");
    let mut filled = 0;
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        until_told(&mut stream);
        for asked in (0..requests).step_by(20) {
            // Slower than the ring fills on a busy machine.
            thread::sleep(Duration::from_millis(6));
            if asked == requests / 2 {
                eventually("some are given up", || count(overrun) > 0);
                filled = resident_kib(&agent);
            }
            stream.write_all(head.repeat(20).as_bytes()).unwrap();
            traffic::answers(&mut stream, 20);
        }
    });
    let resident = resident_kib(&agent);
    assert!(resident < filled + 2 * 1024 && resident < 48 * 1024, "{filled} KiB, {resident} KiB");
    let served = r#"weir_http_requests_total{namespace="shop",pod="web",role="server",method="GET",protocol="1.1",status="200"}"#;
    // A reading that was taken while they came is kept for a second.
    eventually("all are counted", || count(served) == requests);
    let received = otlp_receiver::grpc(receiver());
    let back = Instant::now();
    let sent = "weir_otlp_spans_total{result=\"sent\"}";
    eventually("the rest", || {
        let (sent, lost) =
            (count(sent), count(overrun) + count("weir_events_lost_total{source=\"records\"}"));
        sent > 0 && sent + lost >= requests
    });
    assert!(back.elapsed() < Duration::from_secs(20));
    assert_eq!(received.spans().len() as u64, count(sent));
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("can't send to"), said("sending to")), (1, 1), "{log:#?}");
}

#[test]
fn a_receiver_that_never_answers_does_not_hold_up_the_end() {
    let node = Node::new("otlp-silent");
    // The kernel takes the connections, and nobody reads them.
    let _silent = std::net::TcpListener::bind(receiver()).unwrap();
    let agent = agent(&node, &[]);
    thread::sleep(Duration::from_secs(2));
    let told = Instant::now();
    let (status, log) = agent.into_inner().stop(Signal::SIGTERM);
    assert_eq!(status, Some(0), "{log:#?}");
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
}

#[test]
fn a_call_is_a_span_of_its_method() {
    let node = Node::new("otlp-call");
    let web = Served::new(&node, "web");
    let received = otlp_receiver::grpc(receiver());
    let _agent = agent(&node, &[]);
    let address = web.tcp.local_addr().unwrap();
    thread::sleep(Duration::from_secs(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        web.tcp.set_nonblocking(true).unwrap();
        let server = tokio::net::TcpListener::from_std(web.tcp.try_clone().unwrap()).unwrap();
        tokio::spawn(async move {
            let mut connection =
                h2::server::handshake(server.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let head = http::Response::builder().header("content-type", "application/grpc");
                let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                let trailers = [("grpc-status", "5")].map(|(name, value)| {
                    (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
                });
                body.send_trailers(trailers.into_iter().collect()).unwrap();
            }
        });
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let request = http::Request::post("http://web.shop/shop.Cart/Add")
            .header("content-type", "application/grpc")
            .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        while body.data().await.is_some() {}
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "5");
    });
    eventually("the span", || !received.spans().is_empty());
    let (_, has, span): (_, _, Span) = received.spans().remove(0);
    assert_eq!((span.name.as_str(), span.kind()), ("shop.Cart/Add", SpanKind::Server));
    assert_eq!(has["rpc.response.status_code"], "NOT_FOUND");
    assert_eq!(
        (has["rpc.system.name"].as_str(), has["rpc.method"].as_str()),
        ("grpc", "shop.Cart/Add")
    );
    assert_eq!(span.status, None, "that nothing was found is no failure of the server");
}
