//! HTTP in all its forms: `curl` against nginx, by nginx's access log and by what `curl` saw.

use std::fs;

use crate::{
    counts::{Counts, assert_counted},
    nginx::{LABELS, Nginx, REQUESTS, assert_bodies, assert_durations, url},
    pair::{BURSTS, Pair},
};

/// What `curl` saw: transfers by method and status, and bytes of the responses' bodies.
#[derive(Default)]
struct Seen {
    requests: Counts,
    bodies: u64,
}

/// Runs `curl`, which keeps its connection for all URLs.
fn curl(pair: &Pair, seen: &mut Seen, words: &str) {
    let mut all = vec!["timeout", "20", "curl", "-s", "--globoff"];
    all.extend(["-w", "%{method}_%{http_code}_%{size_download}\\n"]);
    for word in words.split_whitespace() {
        all.push(word);
        if word.starts_with("http://") {
            all.extend(["-o", "/dev/null"]);
        }
    }
    let said = pair.try_to_ask(&all);
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

/// What can be asked in every version.
fn whatever(base: &str, upload: &str) -> Vec<String> {
    vec![
        format!("{base}/hello {base}/page {base}/absent"),
        format!("-I {base}/page {base}/absent {base}/none"),
        format!("{base}/none {base}/moved {base}/large"),
        // Conditions and ranges.
        format!("-z 2099-01-01 {base}/page {base}/page"),
        format!("-r 0-99 {base}/page"),
        format!("-r 0-9,20-29 {base}/page"),
        format!("-r 90000- {base}/page"),
        // A body.
        format!("-T {upload} {base}/put1 {base}/put1"),
        format!("-X DELETE {base}/put1 {base}/put1"),
        format!("-X OPTIONS {base}/page"),
        format!("-X BREW {base}/hello"),
        format!("-Z {base}/large {base}/page {base}/hello"),
        format!("{base}/closes"),
    ]
}

#[test]
fn whatever_is_asked_in_http1_is_counted_as_both_ends_say() {
    let pair = Pair::new("curl");
    let nginx = Nginx::start(&pair);
    let upload = upload(&pair);
    let mut seen = Seen::default();
    for (address, segments) in pair.addresses.iter().zip(BURSTS) {
        pair.set_burst(segments);
        let base = url(address, 80);
        for words in whatever(&base, &upload).into_iter().chain([
            format!("-H Connection:close {base}/page"),
            format!("-0 {base}/page"),
            format!("-0 -H Connection:keep-alive {base}/page {base}/hello"),
            format!("-H Host: {base}/hello"),
            // Without a length, and with and without asking first.
            format!("-T {upload} -H Transfer-Encoding:chunked {base}/put2"),
            format!("-d some=thing {base}/page {base}/hello"),
            format!("-T {upload} {base}/small"),
            format!("-T {upload} -H Transfer-Encoding:chunked {base}/small"),
            format!("-T {upload} -H Expect:100-continue {base}/put2"),
            format!("-T {upload} -H Expect:100-continue {base}/small"),
            format!("-T {upload} -H Expect: {base}/put2"),
        ]) {
            curl(&pair, &mut seen, &words);
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert_counted(&pair, REQUESTS, &["method", "status"], || seen.requests.clone());
    assert_durations(&pair, &nginx);
    // nginx takes "100 Continue" for a part of the body.
    assert_bodies(&pair, seen.bodies);
}

#[test]
fn whatever_is_asked_in_http2_is_counted_as_both_ends_say() {
    let pair = Pair::new("curl-h2");
    let nginx = Nginx::start(&pair);
    let upload = upload(&pair);
    let mut seen = Seen::default();
    for (address, segments) in pair.addresses.iter().zip(BURSTS) {
        pair.set_burst(segments);
        let asked = whatever(&url(address, 82), &upload);
        for words in asked.iter().filter(|words| !words.starts_with("-T")) {
            // This curl (7.88) does not manage to use such a connection twice.
            let (urls, others): (Vec<_>, Vec<_>) =
                words.split(' ').partition(|word| word.starts_with("http://"));
            for url in urls {
                let words = format!("--http2-prior-knowledge {} {url}", others.join(" "));
                curl(&pair, &mut seen, &words);
            }
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert_counted(&pair, REQUESTS, &["method", "status"], || seen.requests.clone());
    assert_bodies(&pair, seen.bodies);
    // Of an answer before the end of the request's body, this curl may say that it never came; and of
    // its longer bodies nginx may say that they are no good (400).
    for address in &pair.addresses {
        let base = url(address, 82);
        for words in [
            format!("-T {upload} {base}/put1"),
            format!("-T {upload} {base}/put1"),
            format!("-T {upload} {base}/small"),
            format!("-d some=thing {base}/page"),
            format!("-d some=thing {base}/hello"),
        ] {
            curl(&pair, &mut Seen::default(), &format!("--http2-prior-knowledge {words}"));
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    for early in ["PUT 2 413", "POST 2 405", "POST 2 200"] {
        assert_eq!(nginx.requests().get(early), Some(&2));
    }
    assert_durations(&pair, &nginx);
}

#[test]
fn a_client_that_leaves_amid_the_response_is_counted_with_its_status() {
    let pair = Pair::new("leaves");
    let nginx = Nginx::start(&pair);
    for address in &pair.addresses {
        for (port, version) in [(80, ""), (82, "--http2-prior-knowledge")] {
            let words = format!("{version} --limit-rate 20k -m 0.3 {}/huge", url(address, port));
            curl(&pair, &mut Seen::default(), &words);
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert_eq!(nginx.requests(), [("GET 1.1 200".into(), 2), ("GET 2 200".into(), 2)].into());
    let cancelled = || [("cancelled".to_owned(), 4)].into();
    assert_counted(&pair, "weir_http_errors_total", &["error"], cancelled);
}

fn upload(pair: &Pair) -> String {
    let path = pair.path("upload");
    fs::write(&path, vec![b'u'; 2_000_000]).unwrap();
    path.to_str().unwrap().to_owned()
}
