//! `weir top` in a terminal of 80 columns, beside a real agent.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use weir::telemetry::wire::{CounterKind, HistogramKind};

use super::{
    fill::Pod,
    flows::Listener,
    http::get,
    node::{Node, eventually, weir},
    screen::Screen,
    traffic::{self, Served, request},
};

/// Each second so many more requests, and so many that fail.
struct Load<'a> {
    pod: &'a Pod,
    ok: u64,
    failed: u64,
}

impl Load<'_> {
    fn add(&mut self, ok: u64, failed: u64) {
        self.ok += ok;
        self.failed += failed;
        self.pod.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, self.ok);
        self.pod.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 503, self.failed);
        self.pod.observe(
            HistogramKind::HISTOGRAM_HTTP_REQUEST,
            1,
            &[(50_000_000, self.ok + self.failed)],
        );
    }
}

/// The line of a pod's row.
fn row<'a>(screen: &'a str, pod: &str) -> &'a str {
    screen.lines().find(|line| line.trim_start().starts_with(pod)).unwrap_or_default()
}

/// What is in front comes first on the screen.
fn before(screen: &str, first: &str, second: &str) -> bool {
    match (screen.find(first), screen.find(second)) {
        (Some(first), Some(second)) => first < second,
        _ => false,
    }
}

#[test]
fn pods_are_shown_sorted_filtered_and_looked_into_at_80_columns() {
    let node = Node::new("top");
    let (busy, failing) = (Pod::new(&node, "busy"), Pod::new(&node, "failing"));
    let _agent = node.agent();
    let (mut busy, mut failing) =
        (Load { pod: &busy, ok: 0, failed: 0 }, Load { pod: &failing, ok: 0, failed: 0 });
    busy.add(1, 0);
    failing.add(1, 0);
    eventually("both pods", || get("/api/pods").body.matches("\"pod\"").count() == 2);
    let mut screen = Screen::new(24, 80, &["top"]);
    screen.until("the rows", |text| text.contains("shop/busy") && text.contains("shop/failing"));
    assert!(screen.alternate());
    busy.add(9_000, 0);
    failing.add(60, 30);
    let text = screen.until("rates", |text| {
        let failing = row(text, "shop/failing").split_whitespace().nth(3);
        row(text, "shop/busy").contains('k')
            && failing.is_some_and(|errors| errors.parse::<f64>().is_ok_and(|rate| rate > 0.0))
    });
    assert!(before(&text, "shop/busy", "shop/failing"), "{text}");
    for head in ["POD", "REQ/S", "ERR/S", "P50", "P99", "RX/S", "TX/S", "TREND"] {
        assert!(text.contains(head), "{text}");
    }
    assert!(row(&text, "shop/busy").contains("50.0ms"), "{text}");
    assert!(row(&text, "shop/busy").contains('█'), "a trend: {text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    screen.press("s");
    screen.until("the failing pod first", |text| {
        text.contains("by errors") && before(text, "shop/failing", "shop/busy")
    });
    screen.press("/BUS\r");
    screen.until("the filter", |text| {
        text.contains("/BUS")
            && row(text, "shop/failing").is_empty()
            && !row(text, "shop/busy").is_empty()
    });
    screen.press("\r");
    let text = screen.until("a look into the pod", |text| text.contains("serves HTTP"));
    assert!(text.contains("9001") && text.contains("exchanges: none yet"), "{text}");
    screen.press("q");
    assert_eq!(screen.end(), Some(0));
    assert!(!screen.alternate(), "the terminal is given back");
}

#[test]
fn replicas_of_one_workload_can_be_told_apart_at_80_columns() {
    let node = Node::new("top-replicas");
    let replicas = ["x2x8p", "b7kqz"];
    let names = replicas.map(|end| format!("checkout-frontend-7d4b9c6f5d-{end}"));
    let _pods = [0, 1].map(|at| Pod::named(&node, &format!("pod{at}"), "shop", &names[at]));
    let _agent = node.agent();
    let mut screen = Screen::new(24, 80, &["top"]);
    let text = screen.until("the rows", |text| text.matches("shop/").count() == 2);
    for end in replicas {
        let row = text.lines().find(|line| line.contains(end)).unwrap_or_else(|| panic!("{text}"));
        let name = row.split_whitespace().next().unwrap();
        assert!(name.starts_with("shop/check…") && name.ends_with(end), "{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    screen.press("q");
    assert_eq!(screen.end(), Some(0));
}

#[test]
fn looking_into_a_pod_shows_its_exchanges_as_they_end() {
    let node = Node::new("top-detail");
    let web = Served::new(&node, "web");
    let agent = node.agent();
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        request(&mut stream, b"GET /200 HTTP/1.1\r\n\r\n");
        let mut screen = Screen::new(30, 100, &["top"]);
        screen.until("the row", |text| row(text, "shop/web").contains("<-"));
        // All places are taken.
        let others: Vec<_> = (0..16).map(|_| Listener::new("")).collect();
        screen.press("\r");
        screen.until("why there is nothing", |text| {
            text.contains("exchanges: ") && text.contains("503")
        });
        drop(others);
        screen.until("nothing yet", |text| text.contains("exchanges: none yet"));
        // Until the agent has asked the kernel for records.
        thread::sleep(Duration::from_millis(1_500));
        request(&mut stream, b"GET /\x1b[2Jhostile/503 HTTP/1.1\r\n\r\n");
        screen.until("the exchange", |text| text.contains("GET /%1B[2Jhostile/503 503"));
        assert_eq!(agent.into_inner().stop(Signal::SIGTERM).0, Some(0));
        screen.until("what is wrong", |text| text.contains("no agent answers at"));
        screen.press("\x03");
        assert_eq!(screen.end(), Some(0));
    });
}

#[test]
fn into_a_pipe_it_is_printed_once() {
    let node = Node::new("top-once");
    let pod = Pod::new(&node, "web");
    let _agent = node.agent();
    Load { pod: &pod, ok: 0, failed: 0 }.add(7, 0);
    eventually("the pod", || get("/api/pods").body.contains("\"web\""));
    let shown = |arguments: &[&str]| {
        let output = weir().arg("top").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(&[]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(row(&text, "shop/web").contains("<-"), "{text}");
    let json: Value = serde_json::from_str(&shown(&["-o", "json"])).unwrap();
    assert!(json["interval_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(json["pods"][0]["server"]["http"]["total"], 7);
    assert_eq!(shown(&["--filter", "nothing"]).lines().count(), 1);
}

#[test]
fn without_an_agent_the_terminal_is_left_alone() {
    let _node = Node::new("top-alone");
    let mut screen = Screen::new(24, 80, &["top"]);
    screen.until("why", |text| text.contains("start `weir agent`"));
    assert_eq!(screen.end(), Some(1));
    assert!(!screen.alternate());
}
