//! Split/merge invariance: the same bytes, however they are cut, joined, repeated or overlapped,
//! give the same counts. Every exchange here is run at every offset, in both roles of the pod.

use weir::telemetry::wire::{
    CounterKind, HistogramKind, HttpMethod, HttpVersion, L7Protocol, Role,
};

use crate::{
    frame::{ACK, FIN, v4, v6},
    kernel::{Counts, Kernel},
    stream::{Side, Stream},
};

/// What one side sends, what the other answers, and what that amounts to.
struct Exchange {
    name: &'static str,
    requests: Vec<u8>,
    responses: Vec<u8>,
    /// Method, version, status.
    counted: Vec<(HttpMethod, HttpVersion, u16)>,
    request_body: u64,
    response_body: u64,
}

const V1_0: HttpVersion = HttpVersion::HTTP_VERSION_1_0;
const V1_1: HttpVersion = HttpVersion::HTTP_VERSION_1_1;

fn exchange(
    name: &'static str,
    requests: impl Into<Vec<u8>>,
    responses: impl Into<Vec<u8>>,
    counted: &[(HttpMethod, HttpVersion, u16)],
    (request_body, response_body): (u64, u64),
) -> Exchange {
    let (requests, responses) = (requests.into(), responses.into());
    Exchange { name, requests, responses, counted: counted.to_vec(), request_body, response_body }
}

fn exchanges() -> Vec<Exchange> {
    use HttpMethod as M;
    let (get, head, post) = (M::HTTP_METHOD_GET, M::HTTP_METHOD_HEAD, M::HTTP_METHOD_POST);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let long = format!(
        "GET /{} HTTP/1.1\r\nCookie: {}\r\nHost: a\r\n\r\n",
        "p".repeat(700),
        "c".repeat(600)
    );
    vec![
        exchange("get", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ok, &[(get, V1_1, 200)], (0, 2)),
        exchange("http/1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 404 Not Found\r\nContent-Length: 3\r\n\r\nnot", &[(get, V1_0, 404)], (0, 3)),
        exchange("head has no body", "HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", format!("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{ok}"), &[(head, V1_1, 200), (get, V1_1, 200)], (0, 2)),
        exchange("204 and 304", "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", &[(get, V1_1, 204), (get, V1_1, 304)], (0, 0)),
        exchange("post with continue", "POST /u HTTP/1.1\r\nExpect: 100-continue\r\ncontent-LENGTH:   11\r\n\r\nGET / HTTP/", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", &[(post, V1_1, 201)], (11, 0)),
        exchange("chunked both ways", "PUT /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5;ext=1\r\nGET /\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\n\r\n1\r\nx\r\n0f\r\nHTTP/1.1 500 Oh\r\n000\r\n\r\n", &[(M::HTTP_METHOD_PUT, V1_1, 200)], (15, 16)),
        exchange("chunked wins over a length", "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n{ok}"), &[(get, V1_1, 200), (get, V1_1, 200)], (0, 6)),
        exchange("bare newlines and an empty line before", "\r\nDELETE /y HTTP/1.1\nHost: a\n\n", "HTTP/1.1 202 Accepted\nContent-Length: 1\n\nx", &[(M::HTTP_METHOD_DELETE, V1_1, 202)], (0, 1)),
        exchange("methods", "OPTIONS * HTTP/1.1\r\n\r\nTRACE / HTTP/1.1\r\n\r\nPATCH /z HTTP/1.1\r\nContent-Length: 1\r\n\r\n!QUERY / HTTP/1.1\r\n\r\nPROPFIND /d HTTP/1.1\r\n\r\n", ok.repeat(5), &[(M::HTTP_METHOD_OPTIONS, V1_1, 200), (M::HTTP_METHOD_TRACE, V1_1, 200), (M::HTTP_METHOD_PATCH, V1_1, 200), (M::HTTP_METHOD_QUERY, V1_1, 200), (M::HTTP_METHOD_OTHER, V1_1, 200)], (1, 10)),
        exchange("tunnel", "CONNECT a:443 HTTP/1.1\r\n\r\n\x16\x03\x01GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03HTTP/1.1 500 Oh\r\n\r\n", &[(M::HTTP_METHOD_CONNECT, V1_1, 200)], (0, 0)),
        exchange("lines longer than the window", long, format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 2\r\n\r\nok", "s".repeat(900)), &[(get, V1_1, 200)], (0, 2)),
        exchange("headers that look like framing", "GET / HTTP/1.1\r\nX-Content-Length: 7\r\nContent-Length-X: 9\r\nContent-Type: a\r\nTransfer-Encodings: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: text/plain; a=Content-Length: 5\r\nContent-Length: 2\r\n\r\nok", &[(get, V1_1, 200)], (0, 2)),
        exchange("sixty pipelined of changing methods", "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nPOST /c HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".repeat(20), format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx").repeat(20), &[(get, V1_1, 200), (head, V1_1, 200), (post, V1_1, 503)].repeat(20), (60, 60)),
    ]
}

impl Exchange {
    fn expected(&self, role: Role) -> Counts {
        let role = u8::try_from(role.0).unwrap();
        let mut counts = Counts::default();
        for &(method, version, status) in &self.counted {
            counts.add(CounterKind::COUNTER_HTTP_REQUESTS, role, method.0, version.0, status, 1);
        }
        counts.add(CounterKind::COUNTER_L7_CONNECTIONS, role, L7Protocol::L7_HTTP1.0, 0, 0, 1);
        for (kind, bytes) in [
            (CounterKind::COUNTER_HTTP_REQUEST_BODY, self.request_body),
            (CounterKind::COUNTER_HTTP_RESPONSE_BODY, self.response_body),
        ] {
            if bytes > 0 {
                counts.add(kind, role, 0, 0, 0, bytes);
            }
        }
        counts
    }
}

/// Runs exchanges on ever new connections and compares what each added.
struct Runner {
    kernel: Kernel,
    runs: u32,
    exchanges: u64,
}

impl Runner {
    fn new() -> Self {
        Self { kernel: Kernel::new(), runs: 0, exchanges: 0 }
    }

    /// `play` sends the bytes of both sides; all else is done here.
    fn run(&mut self, exchange: &Exchange, how: &str, play: impl FnOnce(&mut Stream<'_>)) {
        let role = if self.runs.is_multiple_of(2) { Role::ROLE_SERVER } else { Role::ROLE_CLIENT };
        let port = u16::try_from(1024 + self.runs % 60_000).unwrap();
        self.runs += 1;
        let (pod, peer) =
            if self.runs % 4 < 2 { (v4(2, 80), v4(9, port)) } else { (v6(2, 80), v6(9, port)) };
        let before = self.kernel.counts();
        let (client, server) = if role == Role::ROLE_SERVER { (peer, pod) } else { (pod, peer) };
        let mut stream = Stream::open(&self.kernel, role, client, server);
        play(&mut stream);
        stream.fin(Side::Client);
        stream.fin(Side::Server);
        let mut added = self.kernel.counts();
        added.0.retain(|key, n| {
            *n -= before.0.get(key).copied().unwrap_or_default();
            let tcp = [
                CounterKind::COUNTER_TCP_CONNECTIONS,
                CounterKind::COUNTER_TCP_CLOSED,
                CounterKind::COUNTER_TCP_RETRANSMITS,
            ];
            *n > 0 && !tcp.iter().any(|kind| kind.0 == u32::from(key.0))
        });
        assert_eq!(added, exchange.expected(role), "{} {how}, pod is {role:?}", exchange.name);
        self.exchanges += exchange.counted.len() as u64;
    }

    /// Every exchange is in the histogram as well, and no gap was met.
    fn finish(self) {
        assert_eq!(self.kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), self.exchanges);
        let stats = self.kernel.snapshot().stats;
        assert!(stats[..6].iter().all(|&n| n == 0), "gaps: {stats:?}");
        println!("{} connections, {} exchanges", self.runs, self.exchanges);
    }
}

#[test]
fn whole() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        for _ in 0..4 {
            runner.run(&exchange, "whole", |stream| {
                stream.send(Side::Client, &exchange.requests);
                stream.send(Side::Server, &exchange.responses);
            });
        }
    }
    runner.finish();
}

#[test]
fn cut_in_two_at_every_offset() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        for cut in 1..exchange.requests.len() {
            runner.run(&exchange, &format!("with requests cut at {cut}"), |stream| {
                let (first, second) = exchange.requests.split_at(cut);
                stream.send(Side::Client, first);
                stream.send(Side::Client, second);
                stream.send(Side::Server, &exchange.responses);
            });
        }
        for cut in 1..exchange.responses.len() {
            runner.run(&exchange, &format!("with responses cut at {cut}"), |stream| {
                let (first, second) = exchange.responses.split_at(cut);
                stream.send(Side::Client, &exchange.requests);
                stream.send(Side::Server, first);
                stream.send(Side::Server, second);
            });
        }
    }
    runner.finish();
}

#[test]
fn a_byte_a_segment() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        runner.run(&exchange, "bytewise", |stream| {
            exchange.requests.chunks(1).for_each(|byte| stream.send(Side::Client, byte));
            exchange.responses.chunks(1).for_each(|byte| stream.send(Side::Server, byte));
        });
    }
    runner.finish();
}

/// xorshift64*: the seed alone decides a run, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(bits).unwrap() % limit
    }
}

/// `bytes` in pieces of random size, some again and some overlapping what was before.
fn pieces(len: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut sent = 0;
    while sent < len {
        let most = if random.below(3) == 0 { 8 } else { 1400 };
        let end = (sent + 1 + random.below(most)).min(len);
        pieces.push((sent, end));
        sent = end;
        if random.below(3) == 0 {
            // Again, from anywhere, and maybe with bytes that are new.
            let from = random.below(sent);
            let to = (from + 1 + random.below(1400)).min(len);
            pieces.push((from, to));
            sent = sent.max(to);
        }
    }
    pieces
}

fn send_pieces(stream: &mut Stream<'_>, side: Side, bytes: &[u8], pieces: &[(usize, usize)]) {
    let start = stream.next(side);
    for &(from, to) in pieces {
        let seq = start.wrapping_add(u32::try_from(from).unwrap());
        stream.segment(side, seq, ACK, &bytes[from..to]);
    }
    stream.advance(side, bytes.len());
}

/// A seed of its own for every run, told in each failure.
fn seed() -> u64 {
    let seed = std::process::id().into();
    println!("seed {seed}");
    seed
}

#[test]
fn cut_joined_repeated_and_overlapped_at_random() {
    let seed = seed();
    let mut random = Random(seed);
    let mut runner = Runner::new();
    for round in 0..60 {
        for exchange in exchanges() {
            runner.run(&exchange, &format!("seed {seed} round {round}"), |stream| {
                let requests = pieces(exchange.requests.len(), &mut random);
                send_pieces(stream, Side::Client, &exchange.requests, &requests);
                let responses = pieces(exchange.responses.len(), &mut random);
                send_pieces(stream, Side::Server, &exchange.responses, &responses);
            });
        }
    }
    runner.finish();
}

#[test]
fn out_of_order_at_random() {
    let seed = seed();
    let mut random = Random(seed);
    let mut runner = Runner::new();
    let mut disordered = |len: usize| {
        let mut pieces = pieces(len, &mut random);
        for _ in 0..pieces.len() / 2 {
            // Within the share of one direction, so that nothing has to be given up.
            let at = random.below(pieces.len());
            let other = (at + 1 + random.below(3)).min(pieces.len() - 1);
            pieces.swap(at, other);
        }
        pieces
    };
    for round in 0..60 {
        for exchange in exchanges() {
            let requests = disordered(exchange.requests.len());
            let responses = disordered(exchange.responses.len());
            let how = format!("seed {seed} round {round}: {requests:?} {responses:?}");
            runner.run(&exchange, &how, |stream| {
                send_pieces(stream, Side::Client, &exchange.requests, &requests);
                send_pieces(stream, Side::Server, &exchange.responses, &responses);
            });
        }
    }
    runner.finish();
}

#[test]
fn a_fin_that_overtakes_the_last_bytes_waits_for_them() {
    let mut runner = Runner::new();
    for exchange in exchanges() {
        runner.run(&exchange, "with the FIN first", |stream| {
            stream.send(Side::Client, &exchange.requests);
            let bytes = &exchange.responses;
            let (first, last) = bytes.split_at(bytes.len() - 1);
            let end = stream.next(Side::Server).wrapping_add(u32::try_from(bytes.len()).unwrap());
            stream.send(Side::Server, first);
            stream.segment(Side::Server, end, ACK | FIN, &[]);
            stream.send(Side::Server, last);
        });
    }
    runner.finish();
}
