//! HTTP/1 in numbers: `wrk`, and bare pipelining, against nginx by its access log.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    counts::{Counts, assert_counted, assert_none, counts, total},
    nginx::{LABELS, Nginx, REQUESTS, UNMATCHED, assert_bodies, assert_durations, url},
    pair::{BURSTS, Pair},
};

#[test]
fn wrk_is_counted_to_the_last_request() {
    let pair = Pair::new("wrk");
    let nginx = Nginx::start(&pair);
    let modes = [&[][..], &["-H", "Connection: close"]];
    for ((address, more), segments) in pair.addresses.iter().zip(modes).zip(BURSTS) {
        pair.set_burst(segments);
        let url = format!("{}/hello", url(address, 80));
        pair.ask(&[&["timeout", "20", "wrk", "-t1", "-c32", "-d1s"], more, &[&url]].concat());
    }
    // wrk leaves with a request under way on each connection: whether a client that is gone has got
    // the response to it is a matter of taste.
    let only = &["method", "protocol"];
    let own = || {
        let mut own = Counts::new();
        for (what, n) in nginx.requests() {
            *own.entry(what.rsplit_once(' ').unwrap().0.to_owned()).or_default() += n;
        }
        own
    };
    assert_counted(&pair, REQUESTS, only, own);
    assert!(total(&own()) > 1_000, "{:?}", own());
    for role in ["server", "client"] {
        let mut by_status = counts(&pair.metrics(), REQUESTS, role, &["status"]);
        by_status.remove("200");
        assert!(total(&by_status) <= 64, "{role}: {by_status:?}");
    }
    assert_durations(&pair, &nginx);
    assert_none(&pair, UNMATCHED);
}

#[test]
fn pipelined_requests_are_told_apart() {
    const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: nginx\r\n\r\n";
    let pair = Pair::new("pipelined");
    let nginx = Nginx::start(&pair);
    let converse = |bytes: &[u8], piece: usize| {
        pair.at_client(|| {
            let mut stream = TcpStream::connect((pair.addresses[0].as_str(), 80)).unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in bytes.chunks(piece) {
                stream.write_all(piece).unwrap();
            }
            let mut answers = String::new();
            stream.read_to_string(&mut answers).unwrap();
            answers.matches("HTTP/1.1 200 OK").count()
        })
    };
    let requests = |n: usize| {
        let last = b"GET /hello HTTP/1.1\r\nHost: nginx\r\nConnection: close\r\n\r\n";
        [REQUEST.repeat(n - 1), last.to_vec()].concat()
    };
    // As much as a segment takes, odd pieces, and a byte a segment.
    for segments in BURSTS {
        pair.set_burst(segments);
        for (n, piece) in [(2_000, usize::MAX), (500, 61), (10, 1)] {
            assert_eq!(converse(&requests(n), piece), n);
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert_eq!(total(&nginx.requests()), 2 * 2_510);
    assert_bodies(&pair, nginx.bodies());
    assert_none(&pair, UNMATCHED);
}
