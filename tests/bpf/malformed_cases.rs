//! Connections that are lost in the middle, by either side's doing, with what may be counted of each.

use weir::telemetry::wire::{
    CounterKind, DbOperation as Op, DbOutcome, HttpError, HttpMethod, HttpVersion, L7Protocol,
    Transport,
};

use crate::{
    exchange::Exchange,
    http2_cases::{self as http2, frame},
    kafka_cases as kafka, mysql_cases as mysql, postgresql_cases as postgresql,
    redis_cases::command,
    stream::Side::{self, Client, Server},
};

const GET: HttpMethod = HttpMethod::HTTP_METHOD_GET;
const V1_1: HttpVersion = HttpVersion::HTTP_VERSION_1_1;
const ASKS: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const SAYS: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const OK: DbOutcome = DbOutcome::DB_OK;
/// Of a request that waited when the thread was lost.
const UNTOLD: DbOutcome = DbOutcome::DB_UNTOLD;

/// So many bytes may a head have, as `http1.h` says.
pub const HEAD_MAX: usize = 65_536;

/// A request that waited when the thread was lost.
fn lost(exchange: Exchange, version: HttpVersion) -> Exchange {
    exchange.request(GET, version, 0).error(HttpError::HTTP_ERROR_MALFORMED)
}

fn of(name: &'static str, turns: &[(Side, &[u8])], protocol: L7Protocol) -> Exchange {
    let turns: Vec<_> = turns.iter().map(|(side, bytes)| (*side, bytes.to_vec())).collect();
    Exchange::of(name, turns, protocol)
}

fn http1(name: &'static str, turns: &[(Side, &[u8])]) -> Exchange {
    of(name, turns, L7Protocol::L7_HTTP1)
}

/// A request with this answer.
fn answered(name: &'static str, answer: &str) -> Exchange {
    lost(http1(name, &[(Client, ASKS), (Server, answer.as_bytes())]), V1_1)
}

fn chunked(name: &'static str, chunks: &str) -> Exchange {
    answered(name, &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))
}

fn http1_exchanges() -> Vec<Exchange> {
    let length = |name, lengths: &str| answered(name, &format!("HTTP/1.1 200 OK\r\n{lengths}\r\n"));
    vec![
        http1(
            "a request line that is none",
            &[(Client, ASKS), (Server, SAYS), (Client, b"nonsense\r\n\r\n"), (Server, SAYS)],
        )
        .request(GET, V1_1, 204),
        http1(
            "a request line without a version",
            &[(Client, ASKS), (Server, SAYS), (Client, b"GET /\r\n"), (Server, SAYS)],
        )
        .request(GET, V1_1, 204),
        answered("a status line that is none", "HTTP/2 200 OK\r\n\r\n"),
        answered("a status of no class", "HTTP/1.1 999 OK\r\n\r\n"),
        answered("a status below any", "HTTP/1.1 099 OK\r\n\r\n"),
        length("a length that is no number", "Content-Length: 1x\r\n"),
        length("a length below zero", "Content-Length: -1\r\n"),
        length("no length", "Content-Length:\r\n"),
        length("a length beyond any", "Content-Length: 1152921504606846976\r\n"),
        length("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n"),
        chunked("a chunk's size that is no number", "xyz\r\n"),
        chunked("a chunk that is longer than it said", "1\r\nxx\r\n").bodies(0, 1),
    ]
}

fn long_heads() -> Vec<Exchange> {
    let long = "x".repeat(HEAD_MAX);
    let refused = b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n";
    let after = |head: &str| {
        [(Client, head.as_bytes()), (Server, refused), (Client, ASKS), (Server, SAYS)]
            .map(|(side, bytes)| (side, bytes.to_vec()))
    };
    let lines = format!("GET / HTTP/1.1\r\n{}\r\n", "Ab: cd\r\n".repeat(HEAD_MAX / 8));
    let line = format!("GET / HTTP/1.1\r\nCookie: {long}\r\n\r\n");
    let second = format!("GET /{long} HTTP/1.1\r\n\r\n");
    let trailer = format!("1\r\nx\r\n0\r\nA: {long}\r\n\r\n");
    vec![
        // What the client asks behind it is counted again.
        lost(
            Exchange::of("a request's head of too many lines", after(&lines), L7Protocol::L7_HTTP1),
            V1_1,
        )
        .request(GET, V1_1, 204),
        lost(Exchange::of("a header line without end", after(&line), L7Protocol::L7_HTTP1), V1_1)
            .request(GET, V1_1, 204),
        http1(
            "a request line without end behind another",
            &[(Client, ASKS), (Server, SAYS), (Client, second.as_bytes()), (Server, refused)],
        )
        .request(GET, V1_1, 204),
        answered("a response's head too long", &format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n")),
        answered("a status line too long", &format!("HTTP/1.1 200 {long}\r\n\r\n")),
        chunked("trailers too long", &trailer).bodies(0, 1),
        chunked("a chunk's extension too long", &format!("1;{long}\r\nx\r\n0\r\n\r\n")),
    ]
}

/// A request on stream 1 that is answered by none.
fn http2_exchange(name: &'static str, client: &[Vec<u8>], server: &[Vec<u8>]) -> Exchange {
    let requests = [&[http2::get(1)], client].concat();
    lost(http2::http2(name, http2::client(&requests), http2::server(server)), http2::V2)
}

fn http2_exchanges() -> Vec<Exchange> {
    let client = |name, bytes: Vec<u8>| http2_exchange(name, &[bytes], &[http2::ok(1)]);
    let server = |name, bytes: Vec<u8>| http2_exchange(name, &[], &[bytes, http2::ok(1)]);
    let open = || frame(http2::HEADERS, 0, 3, &[0x82]);
    let no_settings = lost(
        http2::http2("a server without SETTINGS", http2::client(&[http2::get(1)]), http2::ok(1)),
        http2::V2,
    );
    vec![
        no_settings,
        client("a CONTINUATION of nothing", frame(9, 4, 3, &[0x82])),
        client("DATA in a block", [open(), frame(http2::DATA, 0, 3, b"x")].concat()),
        client("a CONTINUATION of another stream", [open(), frame(9, 4, 5, &[0x84])].concat()),
        client("DATA of no stream", frame(http2::DATA, 0, 0, b"x")),
        client("SETTINGS of a stream", frame(4, 0, 1, &[])),
        client("padding of an empty frame", frame(http2::DATA, 8, 1, &[])),
        client("too short for a priority", frame(http2::HEADERS, 0x24, 3, &[0; 4])),
        client("an integer without end", frame(http2::HEADERS, 4, 3, &[0xff; 9])),
        server("padding longer than its frame", frame(http2::DATA, 8, 1, &[9, 0])),
        server("a block that ends in a field", frame(http2::HEADERS, 4, 1, &[0x40, 1])),
        server("a promise of no stream", frame(http2::PUSH_PROMISE, 4, 1, &[0, 0, 0])),
    ]
}

/// A look-up that is answered, and behind it a query, or an answer, that is none.
fn dns(name: &'static str, client: &[u8], server: &[u8]) -> Exchange {
    let message =
        |flags: u8| [&[0, 17, 0, 7, flags, 0, 0, 1][..], &[0; 6], &[0, 0, 1, 0, 1]].concat();
    let turns = [
        (Client, message(1)),
        (Server, message(0x81)),
        (Client, client.to_vec()),
        (Server, server.to_vec()),
    ];
    let tcp = Transport::TRANSPORT_TCP.0;
    let mut exchange = Exchange::of(name, turns, L7Protocol::L7_DNS)
        .count(CounterKind::COUNTER_DNS_QUERIES, 0, tcp, 1, 1)
        .count(CounterKind::COUNTER_DNS_RESPONSES, 0, tcp, 1, 1);
    exchange.port = 53;
    exchange
}

fn dns_exchanges() -> Vec<Exchange> {
    let head = |len: u16, flags: u8, questions: u8| {
        [&len.to_be_bytes()[..], &[0, 8, flags, 0, 0, questions], &[0; 6]].concat()
    };
    let long = [head(400, 1, 1), [&[63][..], &[b'x'; 63]].concat().repeat(4), vec![0, 0, 1, 0, 1]];
    vec![
        dns("a message shorter than its header", &head(11, 1, 1), b""),
        dns("two questions", &head(17, 1, 2), b""),
        dns("an answer from the client", &head(17, 0x81, 1), b""),
        dns("a query from the server", b"", &head(17, 1, 1)),
        dns("a label that is none", &[head(17, 1, 1), vec![0xc0]].concat(), b""),
        dns("a name that is too long", &long.concat(), b""),
        dns("a label longer than its message", &[head(17, 1, 1), vec![9]].concat(), b""),
    ]
}

/// A PING that is answered, and what follows; `waits` is asked for before the thread is lost.
fn redis(name: &'static str, client: &str, server: &str, waits: Option<Op>) -> Exchange {
    let ping = command(&["PING"]);
    let turns =
        [(Client, ping.as_str()), (Server, "+PONG\r\n"), (Client, client), (Server, server)];
    let turns = turns.map(|(side, text)| (side, text.as_bytes()));
    let redis = L7Protocol::L7_REDIS;
    let exchange = of(name, &turns, redis).asked(redis, Op::DB_PING, OK, 1);
    waits.into_iter().fold(exchange, |all, op| all.asked(redis, op, UNTOLD, 1))
}

fn redis_exchanges() -> Vec<Exchange> {
    let get = command(&["GET", "k"]);
    let asks = |name, text: &str| redis(name, text, "+OK\r\n", None);
    let says = |name, text: &str| redis(name, &get, text, Some(Op::DB_GET));
    vec![
        asks("a number of arguments that is none", "*x\r\n"),
        asks("an argument that is no string", "*1\r\n+PING\r\n"),
        asks("a string of no length", "*1\r\n$-1\r\n"),
        asks("a line without end", &format!("SET k {}\r\n", "v".repeat(66_000))),
        asks("CLIENT REPLY in a line", "client reply off\r\n"),
        redis("an answer to nothing", "", "+OK\r\n", None),
        says("an answer of no type", "?\r\n"),
        says("an answer without its CR", "+OK\n"),
        says("a string of no number", "$x\r\n"),
        says("more elements than any", "*9999999999999\r\n"),
    ]
}

/// A session that is open, and what follows.
fn postgresql(name: &'static str, client: &[u8], server: &[u8], waits: Option<Op>) -> Exchange {
    let postgresql = L7Protocol::L7_POSTGRESQL;
    let turns = [
        (Client, postgresql::startup()),
        (Server, postgresql::welcome()),
        (Client, client.to_vec()),
        (Server, server.to_vec()),
    ];
    let exchange = Exchange::of(name, turns, postgresql);
    waits.into_iter().fold(exchange, |all, op| all.asked(postgresql, op, UNTOLD, 1))
}

fn postgresql_exchanges() -> Vec<Exchange> {
    let query = postgresql::query("select 1");
    let says = |name, bytes: &[u8]| postgresql(name, &query, bytes, Some(Op::DB_SELECT));
    let selected = postgresql::selected();
    vec![
        postgresql("a request of no type", b"?\0\0\0\x04", b"", None),
        postgresql("a request longer than any", b"Q\x40\0\0\x04", b"", None),
        postgresql("a query without its text", b"Q\0\0\0\x04", b"", None),
        postgresql("an answer to nothing", b"", &selected, None),
        postgresql("ready once too often", b"", b"Z\0\0\0\x05I", None),
        says("an answer of no type", b"?\0\0\0\x04"),
        says("an answer longer than any", b"D\x40\0\0\x04"),
        says("a statement's end without its tag", b"C\0\0\0\x04"),
    ]
}

/// A login, and what follows.
fn mysql(name: &'static str, client: &[u8], server: &[u8], waits: Option<Op>) -> Exchange {
    let mysql = L7Protocol::L7_MYSQL;
    let mut turns = mysql::login();
    turns.extend([(Client, client.to_vec()), (Server, server.to_vec())]);
    let exchange = Exchange::of(name, turns, mysql);
    waits.into_iter().fold(exchange, |all, op| all.asked(mysql, op, UNTOLD, 1))
}

fn mysql_exchanges() -> Vec<Exchange> {
    let query = mysql::query("select 1");
    vec![
        mysql("a command that is empty", b"\0\0\0\0", b"", None),
        mysql("an answer to nothing", b"", &mysql::ok(0), None),
        mysql("a result of no columns", &query, b"\x01\0\0\x01\xfd", Some(Op::DB_SELECT)),
        mysql("a number that is cut", &query, b"\x02\0\0\x01\xfc\0", Some(Op::DB_SELECT)),
    ]
}

/// The versions are asked for, and what follows.
fn kafka(name: &'static str, client: &[u8], server: &[u8], waits: Option<Op>) -> Exchange {
    let kafka = L7Protocol::L7_KAFKA;
    let turns = [
        (Client, kafka::request(18, 0, 1, Some("c"), b"")),
        (Server, kafka::response(1, b"\0\0\0\0\0\0")),
        (Client, client.to_vec()),
        (Server, server.to_vec()),
    ];
    let exchange = Exchange::of(name, turns, kafka).asked(kafka, Op::DB_API_VERSIONS, OK, 1);
    waits.into_iter().fold(exchange, |all, op| all.asked(kafka, op, UNTOLD, 1))
}

fn kafka_exchanges() -> Vec<Exchange> {
    let request = |key, version, body: &[u8]| kafka::request(key, version, 2, Some("c"), body);
    let metadata = request(3, 0, b"\0\0\0\0");
    let asks = |name, bytes: &[u8]| kafka(name, bytes, &kafka::response(2, b""), None);
    let says = |name, bytes: &[u8]| kafka(name, &metadata, bytes, Some(Op::DB_METADATA));
    vec![
        asks("a request of no key", &request(128, 0, b"")),
        asks("a version of none", &request(3, 64, b"")),
        asks("a request shorter than its head", b"\0\0\0\x09\0\x03\0\0\0\0\0\x02\0\0"),
        asks("a Produce that ends in its head", &request(0, 0, b"\0")),
        asks("a name longer than its message", b"\0\0\0\x0a\0\0\0\0\0\0\0\x02\0\x09"),
        asks("fields that nobody has", &request(0, 9, b"\x01\0\0\0")),
        says("an answer to another", &kafka::response(9, b"")),
        says("an answer without an id", b"\0\0\0\x03\0\0\0\x02"),
        kafka("an answer to nothing", b"", &kafka::response(2, b""), None),
    ]
}

/// In each the thread is lost once.
pub fn exchanges() -> Vec<Exchange> {
    let mut all = http1_exchanges();
    all.extend(long_heads());
    all.extend(http2_exchanges());
    all.extend(dns_exchanges());
    all.extend(redis_exchanges());
    all.extend(postgresql_exchanges());
    all.extend(mysql_exchanges());
    all.extend(kafka_exchanges());
    all
}
