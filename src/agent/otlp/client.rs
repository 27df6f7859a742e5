//! The way to the receiver: one connection, over which requests are posted as gRPC or as HTTP.
//!
//! Why not the client of the crate tonic: it brings load balancing, buffers and a code generator for
//! two calls that are a header, a length and a status; hyper, which serves our pages, does these.

use std::{fmt, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TE, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpStream, time::timeout};

use super::{Endpoint, Protocol, message};

/// For connecting, and for a request to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of an answer, which is a few bytes.
const ANSWER: usize = 64 << 10;

/// What is sent: each its service's method, and its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it, but for so many spans or data points.
    Taken(u64),
    /// It may go well later: why it didn't, and how long the receiver wants to be left alone.
    Later(String, Option<Duration>),
    /// It never will.
    Refused(String),
}

enum Connection {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
}

/// The receiver, and a connection to it if there is one.
pub struct Client {
    endpoint: Endpoint,
    connection: Option<Connection>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Client {
    /// Not connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: None }
    }

    /// Sends a request. The connection is used again, unless it went wrong.
    pub async fn send(&mut self, signal: Signal, body: Vec<u8>) -> Outcome {
        let outcome = match timeout(PATIENCE, self.exchange(signal, body)).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(err)) => Outcome::Later(said(&*err), None),
            Err(_) => Outcome::Later(format!("no answer in {} s", PATIENCE.as_secs()), None),
        };
        self.connection = None;
        outcome
    }

    async fn exchange(&mut self, signal: Signal, body: Vec<u8>) -> Result<Outcome, Failure> {
        let request = self.request(signal, body)?;
        let mut connection = match self.connection.take().filter(Connection::usable) {
            Some(connection) => connection,
            None => Connection::open(&self.endpoint).await?,
        };
        let answer = connection.send(request).await?;
        let outcome = match self.endpoint.protocol {
            Protocol::Http => http_outcome(answer).await?,
            Protocol::Grpc => grpc_outcome(answer).await?,
        };
        self.connection = Some(connection);
        Ok(outcome)
    }

    fn request(&self, signal: Signal, body: Vec<u8>) -> Result<Request<Full<Bytes>>, Failure> {
        let Endpoint { authority, path, protocol, .. } = &self.endpoint;
        let (target, kind, body) = match protocol {
            Protocol::Http => {
                let end = if signal == Signal::Traces { "traces" } else { "metrics" };
                (format!("{path}/v1/{end}"), "application/x-protobuf", body)
            }
            Protocol::Grpc => {
                let (package, service) = match signal {
                    Signal::Traces => ("trace", "TraceService"),
                    Signal::Metrics => ("metrics", "MetricsService"),
                };
                let path = format!("/opentelemetry.proto.collector.{package}.v1.{service}/Export");
                (format!("http://{authority}{path}"), "application/grpc", framed(&body)?)
            }
        };
        let mut request = Request::post(target.parse::<Uri>()?).body(Full::new(body.into()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let agent = concat!("weir/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if *protocol == Protocol::Grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.insert(HOST, HeaderValue::from_str(authority)?);
        }
        Ok(request)
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// hyper's errors name their cause apart.
fn said(err: &(dyn std::error::Error + 'static)) -> String {
    let mut said = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        said = format!("{said}: {err}");
        cause = err.source();
    }
    said
}

impl Connection {
    async fn open(endpoint: &Endpoint) -> Result<Self, Failure> {
        let io = TokioIo::new(TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?);
        // What goes wrong with a connection is what the request on it is told.
        Ok(match endpoint.protocol {
            Protocol::Http => {
                let (send, connection) = http1::handshake(io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Self::Http(send)
            }
            Protocol::Grpc => {
                let (send, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Self::Grpc(send)
            }
        })
    }

    fn usable(&self) -> bool {
        match self {
            Self::Http(send) => !send.is_closed(),
            Self::Grpc(send) => !send.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
            Self::Grpc(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
        }
    }
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn framed(message: &[u8]) -> Result<Vec<u8>, Failure> {
    let length = u32::try_from(message.len())?;
    Ok([&[0], length.to_be_bytes().as_slice(), message].concat())
}

/// By OTLP 1.x, section "OTLP/HTTP Response".
async fn http_outcome(answer: Response<Incoming>) -> Result<Outcome, Failure> {
    let status = answer.status();
    let after = retry_after(answer.headers());
    let body = Limited::new(answer.into_body(), ANSWER).collect().await?.to_bytes();
    Ok(match status {
        StatusCode::OK => Outcome::Taken(rejected(&body)),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Later(format!("it answers {status}"), after),
        _ => Outcome::Refused(format!("it answers {status}")),
    })
}

/// Whole seconds (RFC 9110, section 10.2.3). Its other form, a date, depends on two clocks and is passed over.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// By the gRPC protocol over HTTP/2, and OTLP 1.x, section "OTLP/gRPC Response".
async fn grpc_outcome(answer: Response<Incoming>) -> Result<Outcome, Failure> {
    let status = answer.status();
    if status != StatusCode::OK {
        return Ok(Outcome::Later(format!("it answers {status}, which is no gRPC"), None));
    }
    let head = answer.headers().clone();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await?;
    // An error may come without a body, its status among the headers.
    let code = body.trailers().and_then(code).or_else(|| code(&head));
    let message = body.to_bytes();
    Ok(match code {
        Some(0) => Outcome::Taken(rejected(message.get(5..).unwrap_or_default())),
        // Those that OTLP calls retryable.
        Some(code @ (1 | 4 | 8 | 10 | 11 | 14 | 15)) => {
            Outcome::Later(format!("it answers grpc-status {code}"), None)
        }
        Some(code) => Outcome::Refused(format!("it answers grpc-status {code}")),
        None => Outcome::Later("it answers without a grpc-status".into(), None),
    })
}

fn code(headers: &HeaderMap) -> Option<u32> {
    let name = HeaderName::from_static("grpc-status");
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// How much the receiver threw away. An answer that can't be read says nothing of that.
pub(crate) fn rejected(body: &[u8]) -> u64 {
    let answer = message::Response::decode(body).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected);
    u64::try_from(rejected).unwrap_or_default()
}
