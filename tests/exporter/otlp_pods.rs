//! `--otlp-endpoint`: whose child is whose, where both ends of an exchange are pods of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{
            ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
            trace_service_server::TraceServiceServer,
        },
    },
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tonic::{
    Code, Request,
    transport::{Endpoint, Server, server::TcpIncoming},
};

use super::{
    http,
    node::{Agent, Node, eventually, run},
    otlp_receiver::{self, Attributes, Received},
    plumbed::Plumbed,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What pods know as a service: an address of nobody's, which the node rewrites.
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));

fn receiver() -> SocketAddr {
    ([127, 0, 0, 1], 4317).into()
}

/// Two pods, and an agent that the kernel tells of their requests.
fn pods(name: &str, arguments: &[&str]) -> (Node, Plumbed, Plumbed, Agent) {
    let node = Node::new(name);
    // Requests from outside come from an address that the pods have a way back to.
    run("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]);
    let [shop, cart] = ["shop", "cart"].map(|pod| Plumbed::new(&node, "mall", pod, pod));
    let state = node.path("state").display().to_string();
    let named = ["--otlp-endpoint", "http://127.0.0.1:4317", "--state-dir", &state];
    let mut agent = node.start_agent(&[&named, arguments].concat());
    agent.wait_for("reading the maps");
    thread::sleep(Duration::from_millis(1_500));
    (node, shop, cart, agent)
}

/// Asks for these paths on one connection, all at once.
fn ask(to: IpAddr, paths: &[&str]) {
    let mut stream = http::connect(SocketAddr::new(to, 80));
    let head = |path: &&str| {
        format!("GET {path} HTTP/1.1\r\nHost: cart.mall\r\ntraceparent: {TRACEPARENT}\r\n\r\n")
    };
    stream.write_all(paths.iter().map(head).collect::<String>().as_bytes()).unwrap();
    super::traffic::answers(&mut stream, paths.len());
}

/// Asks, and goes away without an answer.
fn ask_in_vain(to: IpAddr, path: &str) {
    let mut stream = http::connect(SocketAddr::new(to, 81));
    write!(stream, "GET {path} HTTP/1.1\r\ntraceparent: {TRACEPARENT}\r\n\r\n").unwrap();
    let mut word = String::new();
    BufReader::new(&stream).read_line(&mut word).unwrap();
    assert_eq!(word, "HTTP/1.1 100 Continue\r\n");
}

/// Reads a request, says that its answer will come, and waits for the client to go.
fn keep_waiting(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    line.clear();
    assert_eq!(reader.read_line(&mut line).unwrap(), 0);
}

type Told = (Attributes, Attributes, Span);

/// The spans of one kind, which are of one pod, by an attribute.
fn by<'a>(spans: &'a [Told], kind: SpanKind, attribute: &str) -> BTreeMap<&'a str, &'a Span> {
    let pod = if kind == SpanKind::Client { "shop" } else { "cart" };
    let of_kind = spans.iter().filter(|(.., span)| span.kind() == kind);
    of_kind
        .map(|(of, has, span)| {
            assert_eq!((of["k8s.pod.name"].as_str(), hex(&span.trace_id).as_str()), (pod, TRACE));
            (has[attribute].as_str(), span)
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for so many, and for what would be sent besides.
fn all(received: &Received, count: usize) -> Vec<Told> {
    eventually("all spans", || received.spans().len() >= count);
    thread::sleep(Duration::from_millis(1_500));
    let spans = received.spans();
    assert_eq!(spans.len(), count, "{spans:#?}");
    let ids: BTreeSet<_> = spans.iter().map(|(.., span)| span.span_id.clone()).collect();
    assert_eq!(ids.len(), count);
    spans
}

#[test]
fn a_servers_span_is_the_child_of_the_client_that_asked_and_of_no_other() {
    let (_node, shop, cart, _agent) = pods("otlp-pods-http", &["--otlp-protocol", "http"]);
    let received = otlp_receiver::http(receiver(), |_| 200);
    cart.serve();
    let at = SocketAddr::new(cart.address, 81);
    let listener = cart.run(move || TcpListener::bind(at).unwrap()).join().unwrap();
    thread::spawn(move || keep_waiting(listener.accept().unwrap().0));
    let dnat = format!("ip daddr {SERVICE} dnat to {}", cart.address);
    run(
        "nft",
        &[
            "add table ip services; add chain ip services in { type nat hook prerouting priority -100; }",
        ],
    );
    run("nft", &[&format!("add rule ip services in {dnat}")]);

    // All of one trace and of one caller, as of an application that only hands its header on.
    let to = cart.address;
    let asking = shop.run(move || {
        thread::scope(|scope| {
            scope.spawn(|| ask(to, &["/1/200", "/2/404", "/3/200", "/3/200", "/4/503"]));
            scope.spawn(|| ask(to, &["/slow/5/200", "/6/200"]));
            scope.spawn(|| ask(SERVICE, &["/7/200", "/8/200"]));
            scope.spawn(|| ask_in_vain(to, "/9/none"));
        });
    });
    ask(to, &["/outside/200"]);
    asking.join().unwrap();

    let spans = all(&received, 2 * 10 + 1);
    let (clients, servers) =
        (by(&spans, SpanKind::Client, "url.path"), by(&spans, SpanKind::Server, "url.path"));
    assert_eq!((clients.len(), servers.len()), (9, 10));
    for (path, client) in &clients {
        assert_eq!(client.parent_span_id, PARENT, "{path}");
        if *path != "/3/200" {
            assert_eq!(servers[path].parent_span_id, client.span_id, "{path}");
        }
        let server = servers[path];
        assert!(client.start_time_unix_nano <= server.start_time_unix_nano + 1_000_000, "{path}");
    }
    assert_eq!(servers["/outside/200"].parent_span_id, PARENT);
    // The same was asked for twice: each has its own.
    let twice = |kind: SpanKind, id: fn(&Span) -> &Vec<u8>| {
        let of = spans
            .iter()
            .filter(|(_, has, span)| span.kind() == kind && has["url.path"] == "/3/200");
        of.map(|(.., span)| id(span).clone()).collect::<BTreeSet<_>>()
    };
    let (asked, served) = (
        twice(SpanKind::Client, |span| &span.span_id),
        twice(SpanKind::Server, |span| &span.parent_span_id),
    );
    assert_eq!((asked.len(), &asked), (2, &served));
}

#[test]
fn a_call_between_pods_is_a_clients_span_and_a_servers_below_it() {
    let (_node, shop, cart, _agent) = pods("otlp-pods-grpc", &[]);
    let received = otlp_receiver::grpc(receiver());
    let at = SocketAddr::new(cart.address, 50_051);
    let listener = cart.run(move || TcpListener::bind(at).unwrap()).join().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    thread::spawn(move || {
        runtime().block_on(async {
            listener.set_nonblocking(true).unwrap();
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            // One of the two services that the client knows.
            let served = TraceServiceServer::new(Received::default());
            Server::builder().add_service(served).serve_with_incoming(incoming).await.unwrap();
        });
    });
    let calling = shop.run(move || {
        runtime().block_on(async {
            let channel =
                Endpoint::from_shared(format!("http://{at}")).unwrap().connect().await.unwrap();
            let mut traces = TraceServiceClient::new(channel.clone());
            let mut metrics = MetricsServiceClient::new(channel);
            // Both at once on one connection, in one trace.
            let (done, refused) = tokio::join!(
                traces.export(traced(ExportTraceServiceRequest::default())),
                metrics.export(traced(ExportMetricsServiceRequest::default())),
            );
            done.unwrap();
            assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
        });
    });
    calling.join().unwrap();

    let spans = all(&received, 4);
    let (clients, servers) =
        (by(&spans, SpanKind::Client, "rpc.method"), by(&spans, SpanKind::Server, "rpc.method"));
    let service = "opentelemetry.proto.collector";
    for (method, status, failed) in [
        (format!("{service}.trace.v1.TraceService/Export"), "OK", false),
        (format!("{service}.metrics.v1.MetricsService/Export"), "UNIMPLEMENTED", true),
    ] {
        let (client, server) = (clients[method.as_str()], servers[method.as_str()]);
        assert_eq!((client.name.as_str(), server.name.as_str()), (&*method, &*method));
        assert_eq!(client.parent_span_id, PARENT);
        assert_eq!(server.parent_span_id, client.span_id);
        for span in [client, server] {
            let has = otlp_receiver::attributes(&span.attributes);
            assert_eq!(has["rpc.system.name"], "grpc");
            assert_eq!(has["rpc.response.status_code"], status);
            assert_eq!(has.get("error.type").map(String::as_str), failed.then_some(status));
            assert_eq!(has["server.address"], cart.address.to_string());
            assert_eq!(has["server.port"], "50051");
            let code = span.status.as_ref().map(|status| status.code());
            assert_eq!(code, failed.then_some(StatusCode::Error));
        }
        let peer = |span: &Span| {
            otlp_receiver::attributes(&span.attributes)["network.peer.address"].clone()
        };
        assert_eq!(
            (peer(client), peer(server)),
            (cart.address.to_string(), shop.address.to_string())
        );
    }
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    request
}

#[test]
fn what_waits_for_its_other_end_is_sent_when_the_agent_is_told_to_stop() {
    let (_node, _shop, cart, agent) = pods("otlp-pods-stop", &["--otlp-protocol", "http"]);
    let received = otlp_receiver::http(receiver(), |_| 200);
    cart.serve();
    ask(cart.address, &["/outside/200"]);
    // Until it has left the ring, and no longer.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(received.spans().len(), 0);
    let (status, log) = agent.into_inner().stop(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(status, Some(0), "{log:#?}");
    assert_eq!(received.spans().len(), 1);
}
