//! HTTP/2 exchanges: those of a real implementation (the crate h2), recorded, and frames made by
//! hand for what it doesn't send.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use weir::telemetry::wire::{
    CounterKind, HistogramKind, HttpError, HttpMethod, HttpVersion, L7Protocol,
};

use crate::{exchange::Exchange, http2_end_cases, http2_identity_cases, stream::Side};

pub const V2: HttpVersion = HttpVersion::HTTP_VERSION_2;
pub const GET: HttpMethod = HttpMethod::HTTP_METHOD_GET;
pub const POST: HttpMethod = HttpMethod::HTTP_METHOD_POST;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

pub fn exchanges() -> Vec<Exchange> {
    let mut all = vec![settings_only(), frames(), split_block()];
    all.extend(http2_end_cases::exchanges());
    all.extend([upgraded(), upgraded_at_once(), upgraded_and_left(), not_upgraded()]);
    all.push(answered_in_vain());
    all.extend([recorded(1), recorded(10)]);
    all.extend(http2_identity_cases::exchanges());
    all
}

pub fn http2(name: &'static str, requests: Vec<u8>, responses: Vec<u8>) -> Exchange {
    Exchange::new(name, requests, responses, L7Protocol::L7_HTTP2)
}

trait Grpc {
    fn grpc(self, status: u32) -> Self;
}

impl Grpc for Exchange {
    fn grpc(self, status: u32) -> Self {
        self.count(CounterKind::COUNTER_GRPC_REQUESTS, status, 0, 0, 1)
            .observe(HistogramKind::HISTOGRAM_GRPC_REQUEST, 1)
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field with a literal name and no Huffman code; `form` 0x40 puts it into the table.
pub fn field(form: u8, name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[form, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The first bytes of a client, with these frames behind them.
pub fn client(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[]), frames.concat()].concat()
}

/// Likewise of a server.
pub fn server(frames: &[Vec<u8>]) -> Vec<u8> {
    [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), frames.concat()].concat()
}

/// A whole request on a stream.
pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82, 0x84])
}

/// Its whole answer.
pub fn ok(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])
}

/// Answers to a stream that the client has reset, and to one that nobody opened.
fn answered_in_vain() -> Exchange {
    let requests = client(&[get(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])]);
    http2("answers in vain", requests, server(&[ok(1), ok(7)]))
        .request(GET, V2, 0)
        .error(HttpError::HTTP_ERROR_CANCELLED)
        .count(CounterKind::COUNTER_HTTP_UNMATCHED, 0, 0, 0, 1)
}

fn settings_only() -> Exchange {
    http2("a connection without a request", client(&[]), server(&[frame(SETTINGS, 1, 0, &[])]))
}

/// Every kind of header field, padding, priority, trailers, an interim response, a push.
fn frames() -> Exchange {
    let both = END_HEADERS | END_STREAM;
    let padded = [&[3], &[0x80, 0, 0, 0, 9][..], &[0x82, 0x84], &[0; 3]].concat();
    let put = field(0x40, ":method", "PUT");
    let grpc = field(0x40, "content-type", "application/grpc+proto");
    let web = field(0, "content-type", "application/grpc-web");
    let long = field(0x10, "cookie", &"c".repeat(120));
    let requests = client(&[
        frame(HEADERS, both | PADDED | PRIORITY, 1, &padded),
        frame(HEADERS, END_HEADERS, 3, &[&put[..], &long].concat()),
        frame(DATA, PADDED, 3, &[&[4], &b"body"[..], &[0; 4]].concat()),
        frame(DATA, END_STREAM, 3, &[]),
        // PUT by its index, then gRPC with trailers of its own.
        frame(HEADERS, END_HEADERS, 5, &[&[0xbe][..], &grpc].concat()),
        frame(DATA, 0, 5, b"12345"),
        frame(HEADERS, both, 5, &field(0x40, "x", "y")),
        // The table is x, content-type, :method now.
        frame(HEADERS, both, 7, &[0x83, 0xbf]),
        frame(0xfe, 0xff, 9, b"of no known type"),
        frame(HEADERS, both, 9, &[&[0x3f, 0xe1, 0x1f][..], &[0x83], &web].concat()),
        frame(HEADERS, both, 11, &[&[0x42, 4], &b"HEAD"[..]].concat()),
    ]);
    let status = field(0x40, ":status", "418");
    let ok_grpc = [&[0x88][..], &field(0x40, "grpc-status", "0")].concat();
    let responses = server(&[
        frame(HEADERS, END_HEADERS, 1, &field(0, ":status", "103")),
        frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82, 0x84]),
        frame(HEADERS, END_HEADERS | PADDED, 1, &[1, 0x88, 0]),
        frame(DATA, END_STREAM | PADDED, 1, &[2, b'h', b'i', 0, 0]),
        frame(HEADERS, END_HEADERS, 3, &status),
        frame(DATA, 0, 3, b"no coffee"),
        frame(HEADERS, both, 3, &field(0, "trailer", "t")),
        frame(HEADERS, END_HEADERS, 5, &[0x88]),
        frame(DATA, 0, 5, b"reply"),
        frame(HEADERS, both, 5, &field(0x40, "grpc-status", "13")),
        // The same name by index, another value.
        frame(HEADERS, both, 7, &[0x88, 0x0f, 0x2f, 1, b'5']),
        frame(HEADERS, both, 9, &ok_grpc),
        // 418 by its index behind two others.
        frame(HEADERS, both, 11, &[0xc0]),
    ]);
    http2("fields and frames", requests, responses)
        .bodies(9, 16)
        .request(GET, V2, 200)
        .request(HttpMethod::HTTP_METHOD_PUT, V2, 418)
        .request(HttpMethod::HTTP_METHOD_PUT, V2, 200)
        .grpc(13)
        .request(POST, V2, 200)
        .grpc(5)
        .request(POST, V2, 200)
        .request(HttpMethod::HTTP_METHOD_HEAD, V2, 418)
}

/// A block in fragments of a byte, and empty ones.
fn split_block() -> Exchange {
    let fields = [
        &[0x83, 0x86][..],
        &field(0x40, "content-type", "application/grpc"),
        &field(0, "te", "trailers"),
    ]
    .concat();
    let fragments = |stream, fields: &[u8], flags| {
        let mut frames = vec![frame(HEADERS, flags, stream, &[])];
        frames.extend(fields.iter().map(|byte| frame(CONTINUATION, 0, stream, &[*byte])));
        frames.push(frame(CONTINUATION, END_HEADERS, stream, &[]));
        frames.concat()
    };
    let trailers = [&[0x8d][..], &field(0, "grpc-status", "16")].concat();
    http2(
        "a block in one-byte fragments",
        client(&[fragments(1, &fields, END_STREAM)]),
        server(&[fragments(1, &trailers, END_STREAM)]),
    )
    .request(POST, V2, 404)
    .grpc(16)
}

const ASKS: &str = "Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                    HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n";

/// A connection that begins with HTTP/1 (RFC 7540, 3.2).
fn upgrading(name: &'static str, turns: [(Side, Vec<u8>); 4]) -> Exchange {
    Exchange::of(name, turns, L7Protocol::L7_HTTP1)
}

/// A request that asks for HTTP/2, and the server's consent.
pub fn upgrade() -> (Vec<u8>, Vec<u8>) {
    let agreed = format!("{AGREED}Upgrade: h2c\r\n\r\n");
    (format!("GET / HTTP/1.1\r\n{ASKS}\r\n").into(), agreed.into())
}

/// One request in HTTP/1, then one with a body that asks for the upgrade, then two on it.
fn upgraded() -> Exchange {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let agreed = format!("{AGREED}Upgrade: h2c\r\n\r\n");
    let refused = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno";
    let both = END_HEADERS | END_STREAM;
    let requests = [frame(HEADERS, both, 3, &[0x82]), frame(HEADERS, both, 5, &[0x83])];
    let responses = [
        frame(SETTINGS, 1, 0, &[]),
        frame(HEADERS, both, 3, &[0x8e]),
        frame(HEADERS, END_HEADERS, 1, &[0x8d]),
        frame(DATA, END_STREAM, 1, b"absent"),
        frame(HEADERS, both, 5, &[0x89]),
    ];
    upgrading(
        "an upgrade of the second request",
        [
            (
                Side::Client,
                format!("{get}POST / HTTP/1.1\r\n{ASKS}Content-Length: 4\r\n\r\nbody").into(),
            ),
            (Side::Server, [refused.as_bytes(), agreed.as_bytes(), &server(&[])].concat()),
            (Side::Client, client(&requests)),
            (Side::Server, responses.concat()),
        ],
    )
    .bodies(4, 8)
    .request(GET, HttpVersion::HTTP_VERSION_1_1, 200)
    .request(POST, HttpVersion::HTTP_VERSION_1_1, 404)
    .request(GET, V2, 500)
    .request(POST, V2, 204)
}

/// The server answers before the client's first word in HTTP/2.
fn upgraded_at_once() -> Exchange {
    let agreed = "HTTP/1.1 101 Yes\r\nUPGRADE:H2C\r\nContent-Length: 9\r\n\r\n";
    let answer = [
        frame(HEADERS, END_HEADERS, 1, &[0x88]),
        frame(DATA, 0, 1, &[b'd'; 300]),
        frame(DATA, END_STREAM, 1, b""),
    ];
    upgrading(
        "an upgrade that is answered at once",
        [
            (Side::Client, format!("HEAD / HTTP/1.1\r\n{ASKS}\r\n").into()),
            (Side::Server, [agreed.as_bytes(), &server(&answer)].concat()),
            (Side::Client, client(&[frame(SETTINGS, 1, 0, &[])])),
            (Side::Server, frame(SETTINGS, 1, 0, &[])),
        ],
    )
    .bodies(0, 300)
    .request(HttpMethod::HTTP_METHOD_HEAD, HttpVersion::HTTP_VERSION_1_1, 200)
}

/// The upgraded request is cancelled by the client.
fn upgraded_and_left() -> Exchange {
    let agreed = format!("{AGREED}Upgrade: h2c\r\n\r\n");
    upgrading(
        "an upgrade whose request is cancelled",
        [
            (Side::Client, format!("GET / HTTP/1.1\r\n{ASKS}\r\n").into()),
            (Side::Server, agreed.into()),
            (Side::Client, client(&[frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])])),
            (Side::Server, server(&[])),
        ],
    )
    .request(GET, HttpVersion::HTTP_VERSION_1_1, 0)
    .error(HttpError::HTTP_ERROR_CANCELLED)
}

/// The server goes on in HTTP/1, and then to something else.
fn not_upgraded() -> Exchange {
    let refused = "HTTP/1.1 404 No\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nno";
    let other = format!("{AGREED}Upgrade: websocket\r\nX: h2c\r\n\r\n");
    let asks = format!("GET / HTTP/1.1\r\n{ASKS}\r\n");
    upgrading(
        "an upgrade that the server does not want",
        [
            (Side::Client, asks.clone().into()),
            (Side::Server, refused.into()),
            (Side::Client, b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".into()),
            (Side::Server, [other.as_bytes(), &server(&[])].concat()),
        ],
    )
    .bodies(0, 2)
    .request(GET, HttpVersion::HTTP_VERSION_1_1, 404)
    .request(GET, HttpVersion::HTTP_VERSION_1_1, 101)
}

/// One end of a connection that writes down what it sends.
struct Recorder {
    inner: DuplexStream,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(n)) = result {
            self.sent.lock().unwrap().extend_from_slice(&bytes[..n]);
        }
        result
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// What the n-th request of a recorded connection is, and what it is answered with.
fn nth(n: usize) -> (Method, HttpMethod, StatusCode, Option<u32>) {
    let methods = [
        (Method::GET, GET),
        (Method::POST, POST),
        (Method::PUT, HttpMethod::HTTP_METHOD_PUT),
        (Method::DELETE, HttpMethod::HTTP_METHOD_DELETE),
        (Method::PATCH, HttpMethod::HTTP_METHOD_PATCH),
        (Method::OPTIONS, HttpMethod::HTTP_METHOD_OPTIONS),
        (Method::TRACE, HttpMethod::HTTP_METHOD_TRACE),
        (Method::from_bytes(b"QUERY").unwrap(), HttpMethod::HTTP_METHOD_QUERY),
        (Method::from_bytes(b"PROPFIND").unwrap(), HttpMethod::HTTP_METHOD_OTHER),
    ];
    let statuses = [200, 404, 503, 201, 399, 204, 418];
    let (method, wire) = methods[n % methods.len()].clone();
    let grpc = (n % 3 == 1).then(|| u32::try_from(n % 17).unwrap());
    (method, wire, StatusCode::from_u16(statuses[n % statuses.len()]).unwrap(), grpc)
}

/// `requests` exchanges of a client and a server of the crate h2, all at once on one connection.
fn recorded(requests: usize) -> Exchange {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (asked, answered) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<Vec<u8>>>::default());
    let near = Recorder { inner: near, sent: Arc::clone(&asked) };
    let far = Recorder { inner: far, sent: Arc::clone(&answered) };
    runtime.block_on(async {
        let serving = tokio::spawn(serve(far));
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        let driving = tokio::spawn(async move { connection.await.unwrap() });
        let mut responses = Vec::new();
        for n in 0..requests {
            let (method, _, _, grpc) = nth(n);
            let mut request = Request::builder().method(method).uri(format!("http://a/{n}"));
            if grpc.is_some() {
                request = request.header("content-type", "application/grpc");
            }
            let request = request.header("x-number", n).body(()).unwrap();
            sender = sender.ready().await.unwrap();
            let (response, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(Bytes::from(vec![b'q'; n]), true).unwrap();
            responses.push(response);
        }
        for response in responses {
            let mut body = response.await.unwrap().into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data.unwrap().len()).unwrap();
            }
        }
        drop(sender);
        driving.await.unwrap();
        serving.await.unwrap();
    });
    let bytes = |of: &Mutex<Vec<u8>>| of.lock().unwrap().clone();
    let bodies = u64::try_from((0..requests).sum::<usize>()).unwrap();
    let exchange = http2("recorded of h2", bytes(&asked), bytes(&answered))
        .bodies(bodies, 2 * u64::try_from(requests).unwrap());
    (0..requests).map(nth).fold(exchange, |exchange, (_, method, status, grpc)| {
        let exchange = exchange.request(method, V2, status.as_u16());
        grpc.into_iter().fold(exchange, Grpc::grpc)
    })
}

async fn serve(end: Recorder) {
    let mut connection = h2::server::handshake(end).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.unwrap();
        let n = request.headers()["x-number"].to_str().unwrap().parse().unwrap();
        let (_, _, status, grpc) = nth(n);
        let response =
            Response::builder().status(status).header("server", "test").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data(Bytes::from_static(b"ok"), grpc.is_none()).unwrap();
        if let Some(status) = grpc {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.into());
            body.send_trailers(trailers).unwrap();
        }
    }
}
