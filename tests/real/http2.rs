//! HTTP/2 without TLS: h2load and curl against nghttpd and nginx, by nghttpd's frames, nginx's access
//! log and h2load's own count. And h2load as one more client of HTTP/1.

use std::{fs, path::PathBuf};

use crate::{
    counts::{Counts, assert_counted, assert_none, counts, total},
    nginx::{LABELS, Nginx, REQUESTS, UNMATCHED, assert_bodies, assert_durations, url},
    pair::{BURSTS, Pair, Process, wait_until},
};

/// What h2load says that it got.
#[derive(Default)]
struct Load {
    /// Responses by the first digit of their status.
    statuses: Counts,
    /// Bytes of DATA.
    bodies: u64,
}

impl Load {
    /// Runs it; every request must have been answered.
    fn run(&mut self, pair: &Pair, words: &str) {
        let words = format!("timeout 30 h2load -t 1 {words}");
        let said = pair.ask(&words.split(' ').collect::<Vec<_>>());
        let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        let requests = line("requests: ");
        assert!(requests.contains(" 0 errored, 0 timeout"), "{said}");
        for class in line("status codes: ").split(", ") {
            let (n, class) = class.split_once(' ').unwrap();
            let n = n.parse::<u64>().unwrap();
            if n > 0 {
                *self.statuses.entry(class[..1].to_owned()).or_default() += n;
            }
        }
        let data = line("traffic: ").strip_suffix(") data").unwrap();
        self.bodies += data.rsplit_once('(').unwrap().1.parse::<u64>().unwrap();
    }

    /// What it got is what the client's pod is counted.
    fn assert_counted(&self, pair: &Pair) {
        let mut classes = Counts::new();
        for (status, n) in counts(&pair.metrics(), REQUESTS, "client", &["status"]) {
            *classes.entry(status[..1].to_owned()).or_default() += n;
        }
        assert_eq!(classes, self.statuses, "left is counted, right h2load's own");
        assert_bodies(pair, self.bodies);
    }
}

/// `nghttpd` on port 80 of the server's pod, with a log of the frames.
struct Nghttpd {
    _process: Process,
    log: PathBuf,
}

impl Nghttpd {
    fn start(pair: &Pair) -> Self {
        let (www, log) = (pair.path("nghttpd"), pair.path("nghttpd.log"));
        fs::create_dir(&www).unwrap();
        fs::write(www.join("page"), vec![b'p'; 20_000]).unwrap();
        let (www, path) = (www.to_str().unwrap(), log.to_str().unwrap());
        let script = format!("exec nghttpd --no-tls -v -d {www} 80 >{path}");
        let process = pair.serve(&["sh", "-c", &script]);
        let log_of = || fs::read_to_string(&log).unwrap_or_default();
        wait_until("nghttpd", || log_of().contains("listen :::80"));
        Self { _process: process, log }
    }

    /// Its requests by method, or its responses by status.
    fn said(&self, field: &str) -> Counts {
        let mut found = Counts::new();
        for line in fs::read_to_string(&self.log).unwrap().lines() {
            if let Some((before, value)) = line.split_once(field)
                && (before.trim().is_empty() || before.contains(" recv (stream_id="))
            {
                *found.entry(value.trim().to_owned()).or_default() += 1;
            }
        }
        found
    }
}

#[test]
fn h2load_and_nghttpd_agree_with_what_is_counted() {
    let pair = Pair::new("nghttpd");
    let nghttpd = Nghttpd::start(&pair);
    let body = pair.path("body");
    fs::write(&body, vec![b'b'; 50_000]).unwrap();
    let body = body.display();
    let mut load = Load::default();
    for (address, segments) in pair.addresses.iter().zip(BURSTS) {
        pair.set_burst(segments);
        let base = url(address, 80);
        for words in [
            format!("-n 2000 -c 4 -m 100 {base}/page {base}/absent {base}/page?2"),
            format!("-n 50 -c 5 -m 1 {base}/page"),
            // Windows of 65,535 and 1,023 bytes: bodies in many frames, and waiting for each other.
            format!("-n 100 -c 2 -m 100 -w 16 -W 16 {base}/page"),
            format!("-n 100 -c 2 -m 50 -w 10 {base}/page"),
            format!("-n 200 -c 2 -m 20 -d {body} {base}/page"),
            // No dynamic table in either direction; requests too large for one frame.
            format!("-n 100 -c 1 --header-table-size=0 --encoder-header-table-size=0 {base}/page"),
            format!("-n 20 -c 1 -m 10 -H x-long:{} {base}/page", "long".repeat(5_000)),
        ] {
            load.run(&pair, &words);
        }
    }
    assert_counted(&pair, REQUESTS, &["status"], || nghttpd.said(":status: "));
    assert_counted(&pair, REQUESTS, &["method"], || nghttpd.said(":method: "));
    assert_eq!(counts(&pair.metrics(), REQUESTS, "client", &["protocol"]).len(), 1);
    load.assert_counted(&pair);
    assert_none(&pair, UNMATCHED);
}

#[test]
fn h2load_and_nginx_agree_with_what_is_counted() {
    let pair = Pair::new("h2-nginx");
    let nginx = Nginx::start(&pair);
    let body = pair.path("body");
    fs::write(&body, vec![b'b'; 50_000]).unwrap();
    let body = body.display();
    let mut load = Load::default();
    for (address, segments) in pair.addresses.iter().zip(BURSTS) {
        pair.set_burst(segments);
        let (one, two) = (url(address, 80), url(address, 82));
        for words in [
            format!("-n 2000 -c 4 -m 100 {two}/hello {two}/absent {two}/none {two}/page"),
            format!("-n 40 -c 2 -m 20 {two}/large {two}/hello"),
            format!("-n 200 -c 2 -m 20 -d {body} {two}/hello"),
            format!("--h1 -n 1000 -c 4 {one}/hello {one}/absent {one}/page"),
            // Pipelined.
            format!("--h1 -n 1000 -c 4 -m 8 {one}/hello {one}/none {one}/page"),
            format!("--h1 -n 200 -c 4 -d {body} {one}/hello"),
        ] {
            load.run(&pair, &words);
        }
    }
    assert_counted(&pair, REQUESTS, &LABELS, || nginx.requests());
    assert!(total(&nginx.requests()) > 8_000);
    assert_durations(&pair, &nginx);
    load.assert_counted(&pair);
    assert_none(&pair, UNMATCHED);
}
