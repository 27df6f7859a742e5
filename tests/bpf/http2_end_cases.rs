//! Streams of HTTP/2 that end without an answer, or with half of one.

use weir::telemetry::wire::{HttpError, L7Protocol};

use crate::{
    exchange::Exchange,
    http2_cases::{
        DATA, END_HEADERS, END_STREAM, GET, HEADERS, POST, RST_STREAM, V2, client, frame, http2,
        ok, server,
    },
    stream::Side,
};

const GOAWAY: u8 = 7;

pub fn exchanges() -> Vec<Exchange> {
    vec![ended_by_resets(), unanswered(), without_a_status(), going_away()]
}

fn ended_by_resets() -> Exchange {
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82]);
    let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    http2(
        "streams that are reset",
        client(&[get(1), get(3), reset(3), get(5)]),
        server(&[
            frame(HEADERS, END_HEADERS, 1, &[0x8e]),
            reset(1),
            reset(3),
            frame(HEADERS, END_HEADERS | END_STREAM, 5, &[0x89]),
        ]),
    )
    .request(GET, V2, 500)
    .error_beside_status(HttpError::HTTP_ERROR_RESET)
    .request(GET, V2, 0)
    .error(HttpError::HTTP_ERROR_CANCELLED)
    .request(GET, V2, 204)
}

fn unanswered() -> Exchange {
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82]);
    http2("streams that the end leaves open", client(&[get(1), get(3)]), server(&[]))
        .left_open()
        .request(GET, V2, 0)
        .request(GET, V2, 0)
        .error(HttpError::HTTP_ERROR_CANCELLED)
        .error(HttpError::HTTP_ERROR_CANCELLED)
}

/// A server that ends its side of a stream and has not answered: by a body alone, by an interim status (which
/// RFC 9113, 8.1, forbids), by fields without a status.
fn without_a_status() -> Exchange {
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82]);
    let malformed = HttpError::HTTP_ERROR_MALFORMED;
    http2(
        "streams that end as if they were answered",
        client(&[get(1), get(3), get(5)]),
        server(&[
            frame(DATA, END_STREAM, 1, b"x"),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x08\x03103"),
            frame(HEADERS, END_HEADERS | END_STREAM, 5, &[0x90]),
        ]),
    )
    .bodies(0, 1)
    .request(GET, V2, 0)
    .request(GET, V2, 0)
    .request(GET, V2, 0)
    .error(malformed)
    .error(malformed)
    .error(malformed)
}

/// RFC 9113, 6.8: what is above the last stream that the server names it has not looked at, and nobody
/// says so of each. The answers to the others come behind it, and the client says goodbye, too.
pub fn going_away() -> Exchange {
    let get = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82]);
    let goaway = |last: u32, error: u32, debug: &[u8]| {
        let numbers = [last.to_be_bytes(), error.to_be_bytes()].concat();
        frame(GOAWAY, 0, 0, &[&numbers, debug].concat())
    };
    let post = [frame(HEADERS, END_HEADERS, 5, &[0x83]), frame(DATA, 0, 5, b"half")];
    let answered = [
        ok(1),
        // First of a stream that never was, then of the last that is answered.
        goaway(0x7fff_ffff, 0, b""),
        frame(HEADERS, END_HEADERS, 3, &[0x8e]),
        goaway(3, 2, b"going away"),
        frame(DATA, END_STREAM, 3, b"last words"),
    ];
    Exchange::of(
        "a server that goes away",
        [
            (Side::Client, client(&[get(1), get(3), post.concat(), get(7)])),
            (Side::Server, server(&answered)),
            (Side::Client, goaway(0, 0, b"")),
        ],
        L7Protocol::L7_HTTP2,
    )
    .left_open()
    .bodies(4, 10)
    .request(GET, V2, 200)
    .request(GET, V2, 500)
    .request(POST, V2, 0)
    .request(GET, V2, 0)
    .error(HttpError::HTTP_ERROR_CANCELLED)
    .error(HttpError::HTTP_ERROR_CANCELLED)
}
