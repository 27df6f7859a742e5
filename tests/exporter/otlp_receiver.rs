//! Receivers of OTLP: tonic's server with the services of `opentelemetry-proto`, and one of HTTP.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{Metric, ResourceMetrics},
    trace::v1::Span,
};
use prost::Message;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// By key, as texts.
pub type Attributes = BTreeMap<String, String>;

/// What was received.
#[derive(Clone, Default)]
pub struct Received(Arc<Mutex<(Vec<ExportTraceServiceRequest>, Vec<ExportMetricsServiceRequest>)>>);

impl Received {
    /// Each span with its resource's attributes, and its own.
    pub fn spans(&self) -> Vec<(Attributes, Attributes, Span)> {
        let received = self.0.lock().unwrap();
        let resources = received.0.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|of| {
            let resource = attributes(&of.resource.as_ref().unwrap().attributes);
            let spans = of.scope_spans.iter().flat_map(|scope| scope.spans.clone());
            spans.map(move |span| (resource.clone(), attributes(&span.attributes), span))
        });
        spans.collect()
    }

    /// The attributes of each resource that metrics came from, by its service's name and theirs.
    pub fn resources(&self, service: &str) -> BTreeSet<Attributes> {
        let received = self.0.lock().unwrap();
        let resources = received.1.iter().flat_map(|request| &request.resource_metrics);
        resources
            .map(|of| attributes(&of.resource.as_ref().unwrap().attributes))
            .filter(|has| has["service.name"] == service)
            .collect()
    }

    /// The last of a pod's metrics of a name.
    pub fn metric(&self, pod: &str, name: &str) -> Option<Metric> {
        let received = self.0.lock().unwrap();
        let resources = received.1.iter().flat_map(|request| &request.resource_metrics);
        let of_pod = resources.filter(|of: &&ResourceMetrics| {
            attributes(&of.resource.as_ref().unwrap().attributes)["service.name"] == pod
        });
        let metrics = of_pod.flat_map(|of| of.scope_metrics.iter().flat_map(|it| &it.metrics));
        metrics.rev().find(|metric| metric.name == name).cloned()
    }
}

/// Reads attributes.
pub fn attributes(given: &[KeyValue]) -> Attributes {
    let text = |pair: &KeyValue| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    given.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().0.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.lock().unwrap().1.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Serves both services by gRPC, in the caller's network namespace, for as long as the test runs.
pub fn grpc(address: SocketAddr) -> Received {
    let received = Received::default();
    let services = received.clone();
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let server = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(services.clone()))
                .add_service(MetricsServiceServer::new(services));
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
    });
    received
}

/// For [`http`]: each of `statuses` is the answer to one request and 200 to those after.
pub fn first(mut statuses: Vec<u16>) -> impl FnMut(&str) -> u16 {
    statuses.reverse();
    move |_| statuses.pop().unwrap_or(200)
}

/// What [`http`] asks for with a 429.
pub const RETRY_AFTER: Duration = Duration::from_secs(6);

/// Serves both paths by HTTP/1.1, with the status that is said of a path. What is refused is not kept.
pub fn http(address: SocketAddr, mut status: impl FnMut(&str) -> u16 + Send + 'static) -> Received {
    let received = Received::default();
    let kept = received.clone();
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some((path, body)) = request(&mut reader) {
                let status = status(&path);
                if status == 200 {
                    kept.keep(&path, &body);
                }
                let wish = match status {
                    429 => format!("Retry-After: {}\r\n", RETRY_AFTER.as_secs()),
                    _ => String::new(),
                };
                let answer = format!("HTTP/1.1 {status} X\r\n{wish}Content-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    received
}

impl Received {
    fn keep(&self, path: &str, body: &[u8]) {
        let mut received = self.0.lock().unwrap();
        match path {
            "/v1/traces" => received.0.push(ExportTraceServiceRequest::decode(body).unwrap()),
            "/v1/metrics" => received.1.push(ExportMetricsServiceRequest::decode(body).unwrap()),
            other => panic!("{other}"),
        }
    }
}

/// The path and the body of the next request on a connection, if there is one.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_ascii_lowercase());
    }
    let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));
    assert_eq!(header("content-type: "), Some("application/x-protobuf"));
    let mut body = vec![0; header("content-length: ").unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Some((lines[0].split(' ').nth(1).unwrap().to_owned(), body))
}
