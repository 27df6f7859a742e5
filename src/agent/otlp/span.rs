//! A request as a span, by OpenTelemetry's semantic conventions for HTTP and RPC.
//!
//! The span that a request's `traceparent` names made the request: a client's is its child, and so is a
//! server's, unless the client's end of the same request was seen on this node: then the server's is the
//! child of that.

use std::{
    collections::BTreeMap,
    hash::BuildHasher,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use super::{
    message::{KeyValue, ResourceSpans, ScopeSpans, Span, SpanKind, Status, TraceRequest},
    queue::{Number, Traced},
    resource::{SCHEMA, integer, of_pod, scope, text},
};
use crate::agent::{families::rpc_status, flows::flow::Flow};

/// `SpanFlags`: sampled; the parent is of another process, and that is known.
const FLAGS: u32 = 0x01 | 0x100 | 0x200;

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// The spans of some requests, by pod. `ids` makes their ids; a random one is right.
pub fn request(batch: &[Traced], ids: &impl BuildHasher) -> TraceRequest {
    let mut pods = BTreeMap::<(&str, &str), Vec<Span>>::new();
    for traced in batch {
        let pod = (traced.flow.namespace.as_str(), traced.flow.pod.as_str());
        pods.entry(pod).or_default().extend(span(traced, ids));
    }
    let resource_spans = pods.into_iter().map(|((namespace, pod), spans)| ResourceSpans {
        resource: Some(of_pod(namespace, pod)),
        scope_spans: vec![ScopeSpans { scope: Some(scope()), spans }],
        schema_url: SCHEMA.into(),
    });
    TraceRequest { resource_spans: resource_spans.collect() }
}

fn span(traced: &Traced, ids: &impl BuildHasher) -> Option<Span> {
    let Traced { flow, end, duration, number, caller } = traced;
    let server = flow.role == "server";
    let (name, mut attributes, failed) = match flow.grpc_status {
        Some(_) => call(flow, server),
        None => exchange(flow, server),
    };
    endpoints(flow, server, &mut attributes);
    let status = failed.then_some(Status { code: ERROR });
    let parent_span_id = match caller {
        Some(caller) => id(flow, false, *caller, ids),
        None => bytes(flow.parent_id.as_ref()?)?,
    };
    Some(Span {
        trace_id: bytes(flow.trace_id.as_ref()?)?,
        span_id: id(flow, server, *number, ids),
        parent_span_id,
        name,
        kind: if server { SpanKind::Server } else { SpanKind::Client }.into(),
        start_time_unix_nano: nanoseconds(*end).saturating_sub(whole(*duration)),
        end_time_unix_nano: nanoseconds(*end),
        attributes,
        status,
        flags: FLAGS,
    })
}

/// The id of the span of one end of a request; both ends have the trace and its parent in common.
fn id(flow: &Flow, server: bool, number: Number, ids: &impl BuildHasher) -> Vec<u8> {
    // An id of zeros is none.
    let id = ids.hash_one((&flow.trace_id, &flow.parent_id, server, number)).max(1);
    id.to_be_bytes().to_vec()
}

/// Name, attributes and failure of an HTTP request.
fn exchange(flow: &Flow, server: bool) -> (String, Vec<KeyValue>, bool) {
    let method = flow.method.as_deref().unwrap_or("_OTHER");
    let name = if method == "_OTHER" { "HTTP" } else { method };
    let mut attributes = vec![text("http.request.method", method), text("url.scheme", "http")];
    if let Some(path) = &flow.path {
        attributes.push(text("url.path", path));
        // Of CONNECT and of `OPTIONS *` there is no URL.
        if let (Some(host), false, true) = (&flow.host, server, path.starts_with('/')) {
            attributes.push(text("url.full", format!("http://{host}{path}")));
        }
    }
    if let Some(version) = &flow.version {
        attributes.push(text("network.protocol.version", version.as_ref()));
    }
    let mut failure = flow.error.as_deref().map(str::to_owned);
    if let Some(status) = flow.status {
        attributes.push(integer("http.response.status_code", status));
        if status >= if server { 500 } else { 400 } {
            failure.get_or_insert_with(|| status.to_string());
        }
    }
    let failed = failure.is_some();
    attributes.extend(failure.map(|failure| text("error.type", failure)));
    (name.into(), attributes, failed)
}

/// Name, attributes and failure of a gRPC call.
fn call(flow: &Flow, server: bool) -> (String, Vec<KeyValue>, bool) {
    let method = flow.path.as_deref().map(|path| path.trim_start_matches('/'));
    let mut attributes = vec![text("rpc.system.name", "grpc")];
    attributes.extend(method.map(|method| text("rpc.method", method)));
    let code = flow.grpc_status.as_deref().and_then(|code| code.parse().ok());
    let status = code.and_then(rpc_status);
    attributes.extend(status.map(|status| text("rpc.response.status_code", status)));
    // The conventions blame a server for these alone.
    let of_server =
        ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];
    let failure = match status {
        Some("OK") => None,
        Some(status) => (!server || of_server.contains(&status)).then_some(status),
        None => Some(flow.error.as_deref().unwrap_or("_OTHER")),
    };
    let failed = failure.is_some();
    attributes.extend(failure.map(|failure| text("error.type", failure)));
    (method.unwrap_or("grpc").into(), attributes, failed)
}

/// Who spoke to whom: what the client asked for by name, and the addresses.
fn endpoints(flow: &Flow, server: bool, attributes: &mut Vec<KeyValue>) {
    let peer = flow.peer.as_ref().and_then(|peer| peer.parse::<SocketAddr>().ok());
    if let Some(host) = &flow.host {
        let (address, port) = split(host);
        attributes.push(text("server.address", address));
        // The conventions want a client's always, and a `Host` need not have it.
        let asked = peer.filter(|_| !server).map(|peer| peer.port());
        attributes.extend(port.or(asked).map(|port| integer("server.port", port)));
    }
    let Some(peer) = peer else { return };
    attributes.push(text("network.peer.address", peer.ip().to_string()));
    attributes.push(integer("network.peer.port", peer.port()));
    if server {
        attributes.push(text("client.address", peer.ip().to_string()));
    } else if flow.host.is_none() {
        attributes.push(text("server.address", peer.ip().to_string()));
        attributes.push(integer("server.port", peer.port()));
    }
}

/// The name and the port of a `Host`, whose address may be in brackets.
fn split(host: &str) -> (&str, Option<u16>) {
    let Some((address, port)) = host.rsplit_once(':') else { return (host, None) };
    match port.parse() {
        Ok(port) if !address.contains(':') || address.ends_with(']') => {
            (address.trim_start_matches('[').trim_end_matches(']'), Some(port))
        }
        _ => (host.trim_start_matches('[').trim_end_matches(']'), None),
    }
}

/// What hexadecimal digits say.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = (0..digits.len()).step_by(2).map(|at| digits.get(at..at + 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map(whole).unwrap_or_default()
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::agent::otlp::message::{Any, AnyValue};

    fn flow() -> Flow {
        Flow {
            namespace: "shop".into(),
            pod: "web".into(),
            role: "server".into(),
            protocol: "http".into(),
            version: Some("1.1".into()),
            method: Some("GET".into()),
            path: Some("/a".into()),
            host: Some("web.shop:8080".into()),
            status: Some(200),
            peer: Some("10.88.0.9:4711".into()),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
            parent_id: Some("b7ad6b7169203331".into()),
            sampled: true,
            ..Flow::default()
        }
    }

    fn of(flow: Flow) -> Span {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let duration = Duration::from_millis(5);
        let flow = flow.into();
        let traced = Traced { flow, end, duration, number: (1, 2, 3), caller: None };
        span(&traced, &RandomState::new()).unwrap()
    }

    fn attributes(span: &Span) -> BTreeMap<&str, String> {
        let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|it| it.value.as_ref())
        {
            Some(Any::Text(text)) => text.clone(),
            Some(Any::Integer(number)) => number.to_string(),
            None => String::new(),
        };
        span.attributes.iter().map(|it| (it.key.as_str(), text(&it.value))).collect()
    }

    #[test]
    fn a_servers_span_is_the_child_of_the_caller_and_has_its_times() {
        let span = of(flow());
        assert_eq!(span.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!(span.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert_eq!((span.span_id.len(), span.kind()), (8, SpanKind::Server));
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 5_000_000);
        assert_eq!((span.name.as_str(), span.status.clone()), ("GET", None));
        let expected = [
            ("client.address", "10.88.0.9"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("network.peer.address", "10.88.0.9"),
            ("network.peer.port", "4711"),
            ("network.protocol.version", "1.1"),
            ("server.address", "web.shop"),
            ("server.port", "8080"),
            ("url.path", "/a"),
            ("url.scheme", "http"),
        ];
        assert_eq!(attributes(&span), expected.map(|(key, value)| (key, value.into())).into());
    }

    #[test]
    fn a_client_always_says_which_port_it_asked() {
        for (role, host, port) in [
            ("client", Some("web.shop"), Some("4711")),
            ("client", Some("web.shop:8080"), Some("8080")),
            ("client", None, Some("4711")),
            ("server", Some("web.shop"), None),
        ] {
            let host_of = host.map(str::to_owned);
            let span = of(Flow { role: role.into(), host: host_of, ..flow() });
            let told = attributes(&span);
            assert_eq!(told.get("server.port").map(String::as_str), port, "{role} {host:?}");
            let ports = span.attributes.iter().filter(|it| it.key == "server.port").count();
            assert_eq!(ports, usize::from(port.is_some()), "{role} {host:?}");
        }
    }

    #[test]
    fn a_target_without_a_path_has_no_url() {
        let url = |path: &str| {
            let flow = Flow { role: "client".into(), path: Some(path.into()), ..flow() };
            attributes(&of(flow)).get("url.full").cloned()
        };
        assert_eq!(url("/a").as_deref(), Some("http://web.shop:8080/a"));
        for path in ["a.example:443", "*", "…"] {
            assert_eq!(url(path), None);
        }
    }

    #[test]
    fn what_is_an_error_depends_on_the_side() {
        for (role, status, error) in [
            ("server", 404, None),
            ("server", 503, Some("503")),
            ("client", 404, Some("404")),
            ("client", 302, None),
        ] {
            let span = of(Flow { role: role.into(), status: Some(status), ..flow() });
            assert_eq!(span.status.is_some(), error.is_some(), "{role} {status}");
            assert_eq!(attributes(&span).get("error.type").map(String::as_str), error);
        }
        let reset = of(Flow { status: None, error: Some("reset".into()), ..flow() });
        assert_eq!(
            (attributes(&reset)["error.type"].as_str(), reset.status.is_some()),
            ("reset", true)
        );
    }

    #[test]
    fn a_call_is_named_by_its_method() {
        let call = Flow {
            protocol: "grpc".into(),
            role: "client".into(),
            path: Some("/shop.Cart/Add".into()),
            grpc_status: Some("5".into()),
            ..flow()
        };
        let span = of(call.clone());
        assert_eq!((span.name.as_str(), span.kind()), ("shop.Cart/Add", SpanKind::Client));
        let told = attributes(&span);
        assert_eq!(told["rpc.response.status_code"], "NOT_FOUND");
        assert_eq!((told["rpc.system.name"].as_str(), span.status.is_some()), ("grpc", true));
        let span = of(Flow { role: "server".into(), ..call });
        assert_eq!(span.status, None);
    }

    #[test]
    fn hosts_are_split_at_their_port() {
        for (host, expected) in [
            ("a.example", ("a.example", None)),
            ("a.example:80", ("a.example", Some(80))),
            ("[fd00::1]:80", ("fd00::1", Some(80))),
            ("[fd00::1]", ("fd00::1", None)),
            ("fd00::1", ("fd00::1", None)),
            ("a:99999", ("a:99999", None)),
        ] {
            assert_eq!(split(host), expected);
        }
    }

    #[test]
    fn requests_of_one_trace_have_ids_of_their_own_and_pods_their_resource() {
        let end = SystemTime::UNIX_EPOCH;
        let traced = |number, pod: &str| Traced {
            flow: Flow { pod: pod.into(), ..flow() }.into(),
            end,
            duration: Duration::ZERO,
            number: (1, number, 0),
            caller: None,
        };
        let batch = [traced(1, "a"), traced(2, "a"), traced(3, "b")];
        let sent = request(&batch, &RandomState::new()).resource_spans;
        let spans = |at: usize| &sent[at].scope_spans[0].spans;
        assert_eq!((sent.len(), spans(0).len(), spans(1).len()), (2, 2, 1));
        assert_ne!(spans(0)[0].span_id, spans(0)[1].span_id);
    }
    #[test]
    fn a_server_of_a_client_that_is_told_of_is_its_child() {
        let (end, duration) = (SystemTime::UNIX_EPOCH, Duration::ZERO);
        let traced = |role: &'static str, pod, caller| {
            let flow = Flow { role: role.into(), pod: format!("{pod}"), ..flow() };
            Traced { flow: flow.into(), end, duration, number: (1, 2, pod), caller }
        };
        // Their batches may be two.
        let ids = RandomState::new();
        let sent =
            |traced| request(&[traced], &ids).resource_spans[0].scope_spans[0].spans[0].clone();
        let client = sent(traced("client", 7, None));
        let server = sent(traced("server", 8, Some((1, 2, 7))));
        assert_eq!((&server.parent_span_id, &server.trace_id), (&client.span_id, &client.trace_id));
        assert_eq!(client.parent_span_id, bytes("b7ad6b7169203331").unwrap());
        assert_ne!(server.span_id, client.span_id);
    }
}
