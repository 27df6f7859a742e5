//! HTTP/1: `wrk`, `curl` and bare pipelining against nginx, by nginx's access log and the clients' own
//! words.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    counts::{Counts, assert_counted, counts, total},
    nginx::{LABELS, Nginx, REQUESTS, assert_bodies, assert_durations, url},
    pair::Pair,
};

/// What `curl` saw: transfers by method and status, and bytes of the responses' bodies.
#[derive(Default)]
struct Seen {
    requests: Counts,
    bodies: u64,
}

/// Runs `curl`, which keeps its connection for all URLs.
fn curl(pair: &Pair, seen: &mut Seen, words: &str) {
    // curl fails where it gets no answer, which is what some are for.
    let script = "\"$@\"; [ $? -lt 100 ]";
    let mut all = vec!["sh", "-c", script, "sh", "timeout", "20", "curl", "-s", "--globoff"];
    all.extend(["-w", "%{method}_%{http_code}_%{size_download}\\n"]);
    for word in words.split_whitespace() {
        all.push(word);
        if word.starts_with("http://") {
            all.extend(["-o", "/dev/null"]);
        }
    }
    let said = pair.ask(&all);
    assert!(!said.is_empty(), "{words:?}");
    for line in said.lines() {
        let [method, status, body] = line.split('_').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let method = if method == "BREW" { "_OTHER" } else { method };
        let status = if status == "000" { "0" } else { status };
        *seen.requests.entry(format!("{method} {status}")).or_default() += 1;
        seen.bodies += body.parse::<u64>().unwrap();
    }
}

#[test]
fn whatever_curl_asks_nginx_is_counted_as_both_say() {
    let pair = Pair::new("curl");
    let nginx = Nginx::start(&pair);
    let upload = pair.path("upload");
    fs::write(&upload, vec![b'u'; 2_000_000]).unwrap();
    let upload = upload.display();
    let mut seen = Seen::default();
    for address in &pair.addresses {
        let base = url(address, 80);
        for words in [
            // Keep-alive, then one connection a request, then the older version.
            &format!("{base}/hello {base}/page {base}/absent"),
            &format!("-H Connection:close {base}/page"),
            &format!("-0 {base}/page"),
            &format!("-0 -H Connection:keep-alive {base}/page {base}/hello"),
            &format!("-I {base}/page {base}/absent {base}/none"),
            &format!("{base}/none {base}/moved"),
            // Conditions and ranges.
            &format!("-z 2099-01-01 {base}/page {base}/page"),
            &format!("-r 0-99 {base}/page"),
            &format!("-r 0-9,20-29 {base}/page"),
            &format!("-r 90000- {base}/page"),
            // Bodies: with a length, in chunks, asked for and not, refused.
            &format!("-T {upload} {base}/put1 {base}/put1"),
            &format!("-T {upload} -H Transfer-Encoding:chunked {base}/put2"),
            &format!("-T {upload} -H Expect:100-continue {base}/put2"),
            &format!("-T {upload} -H Expect: {base}/put2"),
            &format!("-T {upload} -H Expect:100-continue {base}/small"),
            &format!("-T {upload} -H Transfer-Encoding:chunked {base}/small"),
            &format!("-d some=thing {base}/hello {base}/page"),
            &format!("-X DELETE {base}/put1 {base}/put1"),
            &format!("-X OPTIONS {base}/page"),
            &format!("-X BREW {base}/hello"),
            &format!("-H Host: {base}/hello"),
            &format!("{base}/closes"),
            &format!("{base}/large"),
            &format!("-Z {base}/large {base}/page {base}/hello"),
        ] {
            curl(&pair, &mut seen, words);
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert_counted(&pair, REQUESTS, &["method", "status"], || seen.requests.clone());
    assert_durations(&pair, &nginx);
    // nginx takes "100 Continue" for a part of the body.
    assert_bodies(&pair, seen.bodies);
}

#[test]
fn wrk_is_counted_to_the_last_request() {
    let pair = Pair::new("wrk");
    let nginx = Nginx::start(&pair);
    for (address, more) in pair.addresses.iter().zip([&[][..], &["-H", "Connection: close"]]) {
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
    for (n, piece) in [(2_000, usize::MAX), (500, 61), (10, 1)] {
        assert_eq!(converse(&requests(n), piece), n);
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert_eq!(total(&nginx.requests()), 2_510);
    assert_bodies(&pair, nginx.bodies());
}
