//! HTTP/2 exchanges that tell which frames are one request's, and what a header block leaves unsaid.

use weir::telemetry::wire::{CounterKind, HistogramKind, HttpStatus, L7Protocol};

use crate::{
    exchange::Exchange,
    http2_cases::{
        DATA, END_HEADERS, END_STREAM, GET, HEADERS, POST, PUSH_PROMISE, V2, client, field, frame,
        get, http2, ok, server,
    },
    stream::Side,
};

/// The whole of a block.
const BOTH: u8 = END_HEADERS | END_STREAM;

pub fn exchanges() -> Vec<Exchange> {
    vec![trailers_behind_the_answer(), pushed(), forgotten_status(), untold_grpc_status()]
}

/// RFC 9113, 8.1: a server may answer before the request is whole.
fn trailers_behind_the_answer() -> Exchange {
    let begins = client(&[frame(HEADERS, END_HEADERS, 1, &[0x83, 0x84]), get(3)]);
    let rest =
        [frame(DATA, 0, 1, b"late"), frame(HEADERS, BOTH, 1, &field(0, "x-sum", "1")), get(5)];
    Exchange::of(
        "trailers of a request that is answered already",
        [
            (Side::Client, begins),
            (Side::Server, server(&[ok(1), ok(3)])),
            (Side::Client, rest.concat()),
            (Side::Server, ok(5)),
        ],
        L7Protocol::L7_HTTP2,
    )
    .bodies(4, 0)
    .request(POST, V2, 200)
    .request(GET, V2, 200)
    .request(GET, V2, 200)
}

/// Nobody asked for what is pushed, and that is right so.
fn pushed() -> Exchange {
    let responses = server(&[
        frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82, 0x84]),
        ok(1),
        frame(HEADERS, END_HEADERS, 2, &[0x88]),
        frame(DATA, END_STREAM, 2, b"pushed"),
        ok(4),
    ]);
    http2("pushed responses", client(&[get(1)]), responses).bodies(0, 6).request(GET, V2, 200)
}

/// Statuses that are told by an entry older than the newest 128: unknown, unless one was told before.
fn forgotten_status() -> Exchange {
    let status = field(0x40, ":status", "418");
    let others: Vec<u8> = (0..128).flat_map(|_| field(0x40, "x", "")).collect();
    let forgotten = [0xff, 190 - 0x7f];
    let responses = server(&[
        frame(HEADERS, BOTH, 1, &[&status[..], &others].concat()),
        frame(HEADERS, BOTH, 3, &forgotten),
        frame(HEADERS, END_HEADERS, 5, &[0x89]),
        frame(HEADERS, BOTH, 5, &forgotten),
    ]);
    let unknown = u16::try_from(HttpStatus::HTTP_STATUS_UNKNOWN.0).unwrap();
    http2("statuses by entries that are not kept", client(&[get(1), get(3), get(5)]), responses)
        .request(GET, V2, 418)
        .request(GET, V2, unknown)
        .request(GET, V2, 204)
}

/// gRPC's guide: a call ends with one of 17 statuses; what is none, or none at all, is told as unknown.
fn untold_grpc_status() -> Exchange {
    const UNKNOWN: u32 = 255;
    let call = |stream| {
        let fields = [&[0x83][..], &field(0, "content-type", "application/grpc")].concat();
        frame(HEADERS, BOTH, stream, &fields)
    };
    let statuses = ["17", "x", "", "0x"];
    let calls: Vec<_> = [1, 3, 5, 7, 9].map(call).into();
    let mut answers = vec![ok(1)];
    for (stream, status) in [3, 5, 7, 9].into_iter().zip(statuses) {
        let fields = [&[0x88][..], &field(0, "grpc-status", status)].concat();
        answers.push(frame(HEADERS, BOTH, stream, &fields));
    }
    let exchange = http2("calls without a status of gRPC's", client(&calls), server(&answers))
        .count(CounterKind::COUNTER_GRPC_REQUESTS, UNKNOWN, 0, 0, 5)
        .observe(HistogramKind::HISTOGRAM_GRPC_REQUEST, 5);
    calls.iter().fold(exchange, |exchange, _| exchange.request(POST, V2, 200))
}
