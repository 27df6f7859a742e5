//! HTTP/1: one exchange of each kind, and what happens when a connection ends early.

use std::{collections::BTreeMap, time::Duration};

use weir::telemetry::wire::{
    CounterKind, HistogramKind, HttpError, HttpMethod, HttpVersion, L7Protocol, Role, Stat,
};

use crate::{
    frame::{ACK, End, FIN, v4},
    http2_end_cases,
    kernel::{Counts, Kernel},
    share::assert_balanced,
    stream::{Side, Stream},
};

/// What the pod's role is in tests that don't vary it.
const SERVER: Role = Role::ROLE_SERVER;

fn ends(port: u16) -> (End, End) {
    (v4(9, port), v4(2, 80))
}

fn open(kernel: &Kernel, port: u16) -> Stream<'_> {
    let (client, server) = ends(port);
    Stream::open(kernel, SERVER, client, server)
}

fn requests(kernel: &Kernel) -> Vec<(u8, u8, u16, u64)> {
    let kind = u8::try_from(CounterKind::COUNTER_HTTP_REQUESTS.0).unwrap();
    let of_kind = |key: &(u8, u8, u8, u8, u16)| key.0 == kind;
    let Counts(counts) = kernel.counts();
    counts.into_iter().filter(|(key, _)| of_kind(key)).map(|(k, n)| (k.2, k.3, k.4, n)).collect()
}

fn errors(kernel: &Kernel, error: HttpError) -> u64 {
    let kind = u8::try_from(CounterKind::COUNTER_HTTP_ERRORS.0).unwrap();
    let key = (kind, 1, u8::try_from(error.0).unwrap(), 0, 0);
    kernel.counts().0.get(&key).copied().unwrap_or_default()
}

const GET: u8 = 1;
const POST: u8 = 3;
const V1_1: u8 = 2;

#[test]
fn the_numbers_of_this_file_are_the_headers() {
    assert_eq!(u32::from(GET), HttpMethod::HTTP_METHOD_GET.0);
    assert_eq!(u32::from(V1_1), HttpVersion::HTTP_VERSION_1_1.0);
}

#[test]
fn an_exchange_counts_when_its_response_is_complete() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell");
    assert_eq!(requests(&kernel), []);
    stream.send(Side::Server, b"o");
    assert_eq!(requests(&kernel), [(GET, V1_1, 200, 1)]);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_RESPONSE_BODY), 5);
}

#[test]
fn early_ends_are_named_and_never_given_a_status() {
    let kernel = Kernel::new();
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let mut stream = open(&kernel, 40001);
    stream.send(Side::Client, request);
    stream.fin(Side::Server);
    assert_eq!(errors(&kernel, HttpError::HTTP_ERROR_NO_RESPONSE), 1);
    let mut stream = open(&kernel, 40002);
    stream.send(Side::Client, request);
    stream.reset(Side::Server);
    assert_eq!(errors(&kernel, HttpError::HTTP_ERROR_RESET), 1);
    let mut stream = open(&kernel, 40003);
    stream.send(Side::Client, request);
    stream.reset(Side::Client);
    assert_eq!(errors(&kernel, HttpError::HTTP_ERROR_CANCELLED), 1);
    let mut stream = open(&kernel, 40004);
    stream.send(Side::Client, request);
    stream.fin(Side::Client);
    stream.fin(Side::Server);
    assert_eq!(errors(&kernel, HttpError::HTTP_ERROR_CANCELLED), 2);
    assert_eq!(requests(&kernel), [(GET, V1_1, 0, 4)]);
    // In the middle of an interim response's head, which is not the answer.
    let mut stream = open(&kernel, 40005);
    stream.send(Side::Client, request);
    stream.send(Side::Server, b"HTTP/1.1 103 Early Hints\r\nLink: x");
    stream.reset(Side::Server);
    assert_eq!(errors(&kernel, HttpError::HTTP_ERROR_RESET), 2);
    assert_eq!(requests(&kernel), [(GET, V1_1, 0, 5)]);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 5);
}

#[test]
fn a_body_until_close_ends_with_the_connection() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    stream.send(Side::Client, b"GET / HTTP/1.0\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.0 200 OK\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(requests(&kernel), []);
    stream.fin(Side::Server);
    assert_eq!(requests(&kernel), [(GET, 1, 200, 1)]);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 0);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_RESPONSE_BODY), 18);
}

#[test]
fn after_an_upgrade_nothing_is_parsed() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    stream.send(Side::Client, b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
    stream.send(
        Side::Server,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
    );
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.1 500 Oh\r\n\r\n");
    assert_eq!(requests(&kernel), [(GET, V1_1, 101, 1)]);
    assert!(kernel.snapshot().stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0));
}

#[test]
fn what_is_no_http_is_named_once_and_left_alone() {
    let kernel = Kernel::new();
    let firsts: [(&[u8], L7Protocol); 5] = [
        // A hello that is not answered by TLS: both sides must agree.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", L7Protocol::L7_UNKNOWN),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", L7Protocol::L7_HTTP2),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", L7Protocol::L7_UNKNOWN),
        (b"*1\r\n$4\r\nPING\r\n", L7Protocol::L7_UNKNOWN),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", L7Protocol::L7_UNKNOWN),
    ];
    for (port, (first, _)) in (40000..).zip(firsts) {
        let mut stream = open(&kernel, port);
        stream.send(Side::Client, first);
        stream.send(Side::Server, b"HTTP/1.1 200 OK\r\n\r\n");
    }
    for protocol in [L7Protocol::L7_HTTP2, L7Protocol::L7_UNKNOWN] {
        let kind = u8::try_from(CounterKind::COUNTER_L7_CONNECTIONS.0).unwrap();
        let expected = firsts.iter().filter(|(_, named)| *named == protocol).count() as u64;
        let key = (kind, 1, u8::try_from(protocol.0).unwrap(), 0, 0);
        assert_eq!(kernel.counts().0.get(&key), Some(&expected), "{protocol:?}");
    }
    assert_eq!(requests(&kernel), []);
}

#[test]
fn every_counter_is_read_however_many_there_are() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    let mut expected = 0;
    for method in ["GET", "POST", "PUT"] {
        for status in 200..600 {
            stream.send(Side::Client, format!("{method} / HTTP/1.1\r\n\r\n").as_bytes());
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
            stream.send(Side::Server, answer.as_bytes());
            expected += 1;
        }
    }
    let read = requests(&kernel);
    assert_eq!((read.len(), read.iter().map(|r| r.3).sum::<u64>()), (expected, expected as u64));
}

#[test]
fn a_jump_beyond_any_window_is_told_and_ends_the_parsing() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.advance(Side::Client, 1 << 22);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    // The pod has it all, by its own word.
    stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(kernel.snapshot().stats[Stat::STAT_GAP_SEQUENCE.0 as usize], 1);
    assert_eq!(requests(&kernel), []);
    // What leaves the pod is its own word.
    let mut stream = Stream::open(&kernel, Role::ROLE_CLIENT, v4(2, 40_000), v4(9, 80));
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.advance(Side::Client, 1 << 22);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(kernel.snapshot().stats[Stat::STAT_GAP_SEQUENCE.0 as usize], 2);
}

/// By a way that is not seen: its length was known, so that nothing is missed.
#[test]
fn much_of_a_body_may_come_unseen() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    let head = b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n";
    stream.send(Side::Client, head);
    stream.advance(Side::Client, 9_999_000);
    stream.send_flags(Side::Server, ACK);
    stream.send(Side::Client, &[b'x'; 1000]);
    stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(requests(&kernel), [(GET, V1_1, 204, 1), (POST, V1_1, 204, 1)]);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUEST_BODY), 10_000_000);
    assert_eq!(kernel.snapshot().stats[Stat::STAT_GAP_SEQUENCE.0 as usize], 0);
}

/// Whoever knows or guesses a connection's ends can send such to a pod, which drops it.
#[test]
fn a_segment_out_of_the_window_that_the_pod_does_not_acknowledge_hides_nothing() {
    let kernel = Kernel::new();
    let upload = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n";
    for (at, port) in (40_000..40_031).enumerate() {
        let mut stream = open(&kernel, port);
        let forge = |stream: &Stream<'_>| {
            let far = stream.next(Side::Client).wrapping_add(1 << at.max(22));
            for flags in [ACK, ACK | FIN] {
                stream.segment(Side::Client, far, flags, b"GET / HTTP/1.1\r\n\r\n");
            }
            // The pod's answer to that.
            stream.send_flags(Side::Server, ACK);
        };
        for _ in 0..3 {
            forge(&stream);
            stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
            forge(&stream);
            stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
        }
        stream.send(Side::Client, upload);
        forge(&stream);
        stream.send(Side::Client, b"some");
        stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
        stream.reset(Side::Client);
    }
    assert_eq!(requests(&kernel), [(GET, V1_1, 204, 93), (POST, V1_1, 204, 31)]);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUEST_BODY), 31 * 4);
    let stats = kernel.snapshot().stats;
    assert!(stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0), "{stats:?}");
}

#[test]
fn many_segments_may_overtake_one() {
    let kernel = Kernel::new();
    for (at, port) in (40000..40020).enumerate() {
        let mut stream = open(&kernel, port);
        let start = stream.next(Side::Client);
        let one = b"GET /a/path HTTP/1.1\r\nHost: a\r\n\r\n";
        let all = one.repeat(1_000);
        let most = 1 + 150 * (at + 1);
        let pieces: Vec<_> = all.chunks(most).enumerate().collect();
        let send = |stream: &Stream<'_>, (nth, piece): (usize, &[u8])| {
            let from = u32::try_from(nth * most).unwrap();
            stream.segment(Side::Client, start.wrapping_add(from), ACK, piece);
        };
        // The first, and one in the middle, come after all others; some come twice.
        let (first, late) = (pieces[0], pieces[pieces.len() / 2]);
        for piece in pieces.iter().filter(|piece| piece.0 != first.0 && piece.0 != late.0) {
            send(&stream, *piece);
            if piece.0.is_multiple_of(3) {
                send(&stream, *piece);
            }
        }
        let end = start.wrapping_add(u32::try_from(all.len()).unwrap());
        stream.segment(Side::Client, end, ACK | FIN, &[]);
        send(&stream, late);
        send(&stream, first);
        stream.advance(Side::Client, all.len() + 1);
        for _ in 0..10 {
            stream.send(Side::Server, &b"HTTP/1.1 204 No Content\r\n\r\n".repeat(100));
        }
        stream.fin(Side::Server);
        assert_eq!(requests(&kernel), [(GET, V1_1, 204, 1_000 * (at as u64 + 1))]);
    }
    let stats = kernel.snapshot().stats;
    assert!(stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().all(|&n| n == 0), "{stats:?}");
}

#[test]
fn a_hole_that_is_never_filled_is_told() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 40000);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    let lost = stream.next(Side::Client).wrapping_add(500);
    stream.segment(Side::Client, lost, ACK, b"GET / HTTP/1.1\r\n\r\n");
    stream.fin(Side::Server);
    stream.reset(Side::Client);
    assert_eq!(kernel.snapshot().stats[Stat::STAT_GAP_SEQUENCE.0 as usize], 1);
    assert_eq!(requests(&kernel), [(GET, V1_1, 0, 1)]);
    assert_eq!(errors(&kernel, HttpError::HTTP_ERROR_MALFORMED), 1);
}

/// What the server did not look at has no status, and the connection's end is its error; what it answered
/// has the status alone.
#[test]
fn streams_above_the_last_that_goaway_names_end_with_the_connection() {
    type Ending = fn(&mut Stream<'_>);
    let kernel = Kernel::new();
    let exchange = http2_end_cases::going_away();
    let ends: [(Ending, HttpError); 4] = [
        (|stream| stream.fin(Side::Server), HttpError::HTTP_ERROR_NO_RESPONSE),
        (|stream| stream.reset(Side::Server), HttpError::HTTP_ERROR_RESET),
        (|stream| stream.fin(Side::Client), HttpError::HTTP_ERROR_CANCELLED),
        (|stream| stream.reset(Side::Client), HttpError::HTTP_ERROR_CANCELLED),
    ];
    let mut expected = BTreeMap::new();
    for (n, (end, error)) in ends.into_iter().enumerate() {
        let mut stream = open(&kernel, 40_000 + u16::try_from(n).unwrap());
        exchange.turns.iter().for_each(|(side, bytes)| stream.send(*side, bytes));
        end(&mut stream);
        stream.fin(Side::Client);
        stream.fin(Side::Server);
        kernel.maps.sweep(Duration::from_secs(60)).unwrap();
        *expected.entry(error.0).or_insert(0) += 2;
        for (error, n) in &expected {
            assert_eq!(errors(&kernel, HttpError(*error)), *n, "{expected:?}");
        }
        let times = n as u64 + 1;
        let all = [(GET, 3, 0, times), (GET, 3, 200, times), (GET, 3, 500, times)];
        assert_eq!(requests(&kernel), [&all[..], &[(POST, 3, 0, times)]].concat());
        assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 4 * times);
    }
    assert_balanced(&kernel);
}
