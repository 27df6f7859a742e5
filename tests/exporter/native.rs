//! What Prometheus makes of real traffic: rates, latencies and traces, from either kind of histogram.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use weir::telemetry::wire::HistogramKind;

use super::{
    fill::Pod,
    flows::Listener,
    http::{connect, get, get_openmetrics},
    node::{Agent, Node, eventually},
    prometheus::Prometheus,
    traffic::{self, Served},
};

const NATIVE: &str = "--enable-feature=native-histograms,exemplar-storage";
const DURATION: &str = "weir_http_request_duration_seconds";

/// Between two requests, and what the server waits with each answer.
const PACE: Duration = Duration::from_millis(50);
const LATENCY: Duration = Duration::from_millis(30);
const REQUESTS: u32 = 240;

/// Answers `REQUESTS` requests of one connection, each after a while.
fn answer_slowly(web: &Served) {
    let (mut stream, _) = web.tcp.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for _ in 0..REQUESTS {
        while !lines.next().unwrap().unwrap().is_empty() {}
        thread::sleep(LATENCY);
        stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok").unwrap();
    }
}

/// Sends them at an even pace; returns how long each took, in seconds, shortest first, and when each was
/// answered: a busy machine does not keep to the pace.
fn request_evenly(head: &str) -> (Vec<f64>, Vec<Instant>) {
    let mut stream = traffic::connect();
    let begun = Instant::now();
    let (mut took, answered): (Vec<_>, Vec<_>) = (0..REQUESTS)
        .map(|number| {
            thread::sleep((begun + PACE * number).saturating_duration_since(Instant::now()));
            let asked = Instant::now();
            traffic::request(&mut stream, head.as_bytes());
            (asked.elapsed().as_secs_f64(), Instant::now())
        })
        .unzip();
    took.sort_by(f64::total_cmp);
    (took, answered)
}

/// The median of what was answered a second in the 8 s before each of the last seconds.
fn rate_of(answered: &[Instant]) -> f64 {
    let last = answered[answered.len() - 1];
    let mut rates: Vec<_> = (0..3)
        .map(|back| {
            let late = |at: &&Instant| (last - **at).as_secs_f64() - f64::from(back);
            answered.iter().filter(|at| (0.0..8.0).contains(&late(at))).count() as f64 / 8.0
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[1]
}

#[test]
fn rate_and_quantiles_over_what_was_scraped_are_those_of_the_traffic() {
    let node = Node::new("promql");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let classic = Prometheus::with(&node, 9090, &[]);
    let native = Prometheus::with(&node, 9091, &[NATIVE]);
    let both = [&classic, &native];
    eventually("scrapes", || both.iter().all(|it| it.value("up") == Some(1.0)));
    let _listener = Listener::new("");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let head = format!("GET / HTTP/1.1\r\nTraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n");
    let (took, answered) = thread::scope(|scope| {
        scope.spawn(|| answer_slowly(&web));
        request_evenly(&head)
    });
    let ended = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let total = "weir_http_requests_total";
    eventually("the last request", || {
        both.iter().all(|it| it.value(total) == Some(REQUESTS.into()))
    });

    // A page may be a second old, so a rate between two of them is a little off, either way.
    let expected = rate_of(&answered);
    for prometheus in both {
        let rates = format!("quantile_over_time(0.5, rate({total}[8s])[3s:1s] @ {ended})");
        let rate = prometheus.value(&rates).unwrap();
        assert!((rate - expected).abs() < expected * 0.15, "{rate} of {expected} a second");
    }
    // A classic bucket here goes from 25 to 50 ms, a native one is at most a fifth wide.
    let median = took[took.len() / 2];
    let of = |it: &Prometheus, q, suffix| {
        it.value(&format!("histogram_quantile({q}, rate({DURATION}{suffix}[12s]))")).unwrap()
    };
    let (broad, fine) = (of(&classic, 0.5, "_bucket"), of(&native, 0.5, ""));
    assert!((0.025..=0.05).contains(&broad), "{broad}");
    assert!((fine / median - 1.0).abs() < 0.2, "{fine}, and the client saw {median}");
    assert_eq!(native.value(&format!("histogram_count({DURATION})")), Some(REQUESTS.into()));
    let sum = native.value(&format!("histogram_sum({DURATION})")).unwrap();
    let mean = took.iter().sum::<f64>();
    assert!((sum / mean - 1.0).abs() < 0.1, "{sum} s, and the client saw {mean} s");

    let exemplars = native.ask("query_exemplars?start=0&end=99999999999&", DURATION);
    let exemplar = &exemplars[0]["exemplars"][0];
    assert_eq!(exemplar["labels"], json!({ "trace_id": trace }), "{exemplars}");
    let value: f64 = exemplar["value"].as_str().unwrap().parse().unwrap();
    assert!((0.03..=took[took.len() - 1]).contains(&value), "{value}");
    let page = get_openmetrics().body;
    let marked = format!(" # {{trace_id=\"{trace}\"}} 0.03");
    assert!(page.contains(&marked) && !get("/metrics").body.contains(" # {"), "{page}");
}

#[test]
fn a_native_histogram_has_each_observation_in_its_bucket() {
    let node = Node::new("native");
    let web = Pod::new(&node, "web");
    web.observe(
        HistogramKind::HISTOGRAM_HTTP_REQUEST,
        1,
        &[(1_000, 2), (20_000_000, 75), (200_000_000, 25), (1_000_000_000, 1), (90_000_000_000, 4)],
    );
    let _agent = node.agent();
    eventually("a pod", || get("/metrics").body.contains("\nweir_pods 1\n"));
    let prometheus = Prometheus::with(&node, 9090, &[NATIVE]);
    eventually("a scrape", || prometheus.value("up") == Some(1.0));
    let data = prometheus.ask("query?", DURATION);
    let histogram = &data["result"][0]["histogram"][1];
    assert_eq!((&histogram["count"], &histogram["sum"]), (&json!("107"), &json!("367.500002")));
    let buckets: Vec<(f64, f64, f64)> = histogram["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| {
            let number = |at: usize| bucket[at].as_str().unwrap().parse().unwrap();
            (number(1), number(2), number(3))
        })
        .collect();
    let counts: Vec<_> = buckets.iter().map(|(_, _, count)| *count).collect();
    assert_eq!(counts, [2.0, 75.0, 25.0, 1.0, 4.0]);
    for ((lower, upper, _), value) in buckets.iter().zip([1e-6, 0.02, 0.2, 1.0]) {
        assert!(*lower < value && value <= *upper, "{value} in {lower} to {upper}");
    }
    // More than 64 s is told as just that.
    assert_eq!(buckets[4].0, 64.0);
}

#[test]
fn a_page_is_compressed_for_who_takes_it() {
    let node = Node::new("gzip");
    let _web = Pod::new(&node, "web");
    let _agent = node.agent();
    eventually("a pod", || get("/metrics").body.contains("\nweir_pods 1\n"));
    let mut stream = connect(Agent::address());
    ask(&mut stream, "Accept-Encoding: br, gzip;q=0.5\r\n");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (head, body) = answer.split_at(end);
    let head = std::str::from_utf8(head).unwrap();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(head.contains("vary: accept, accept-encoding\r\n"), "{head}");
    let mut page = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut page).unwrap();
    assert!(page.contains("\nweir_pods 1\n") && body.len() * 4 < page.len(), "{}", body.len());
    assert_eq!(get("/metrics").header("content-encoding"), None);
}

fn ask(stream: &mut TcpStream, headers: &str) {
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: node\r\n{headers}\r\n").unwrap();
}

#[test]
fn a_flavor_that_is_none_is_answered_with_those_that_are() {
    let node = Node::new("flavor");
    let _agent = node.agent();
    let refused = get("/metrics?flavor=beyla");
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (400, "flavor is one of weir, otel, hubble\n")
    );
    assert_eq!(get("/metrics?flavor=weir&other=x").status, 200);
}
