//! Clients that mean no good, or know no better.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{
    fill::Pod,
    http::{connect, get, read, send},
    node::{Agent, Node, eventually},
};

#[test]
fn only_known_paths_and_two_methods_are_answered() {
    let node = Node::new("methods");
    let _agent = node.agent();
    for (request, status) in [
        ("GET /healthz HTTP/1.1", 200),
        ("GET /healthz?x=1 HTTP/1.0", 200),
        ("HEAD /metrics HTTP/1.1", 200),
        ("POST /metrics HTTP/1.1", 405),
        ("DELETE /readyz HTTP/1.1", 405),
        ("BREW /healthz HTTP/1.1", 405),
        ("GET / HTTP/1.1", 200),
        ("GET /page.js?a HTTP/1.1", 200),
        ("POST /page.css HTTP/1.1", 405),
        ("HEAD /api/services HTTP/1.1", 200),
        ("GET /dist/page.js HTTP/1.1", 404),
        ("POST /nowhere HTTP/1.1", 404),
        ("GET /metrics/../../etc/passwd HTTP/1.1", 404),
        ("GET /%2e%2e/etc/passwd HTTP/1.1", 404),
        ("GET //metrics HTTP/1.1", 404),
        ("HEAD /api/flows HTTP/1.1", 200),
        ("POST /api/flows HTTP/1.1", 405),
        ("GET /api/flows?status=teapot HTTP/1.1", 400),
        ("GET /api/flows?%zz=%ff HTTP/1.1", 400),
        ("GET /api/pods HTTP/1.1", 200),
        ("GET /api/ HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 404),
        ("GET /metrics HTTP/9.9", 400),
        ("GET", 400),
        ("\u{0}\u{1}\u{2} / HTTP/1.1", 400),
        ("GET /\u{7f} HTTP/1.1", 400),
    ] {
        let answer = send(format!("{request}\r\nHost: 127.0.0.1:9920\r\n\r\n")).unwrap();
        assert_eq!(answer.status, status, "{request:?}: {}", answer.head);
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
        assert_eq!(answer.header("connection").unwrap_or("close"), "close", "{request:?}");
    }
    let head = send("HEAD /metrics HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    assert!(head.body.is_empty() && head.header("content-length") != Some("0"), "{}", head.head);
}

#[test]
fn what_is_too_big_is_refused_by_name() {
    let node = Node::new("big");
    let agent = node.agent();
    // What an agent touches for the first time in any request is no growth.
    assert_eq!(get("/metrics").status, 200);
    assert_eq!(send("GET /\0 HTTP/1.1\r\n\r\n").map(|answer| answer.status), Some(400));
    let before = resident_kib(&agent);
    let huge = "a".repeat(4 * 1024 * 1024);
    let many: String = (0..1_000).map(|at| format!("X-{at}: y\r\n")).collect();
    for (request, status) in [
        (format!("GET /metrics HTTP/1.1\r\nX: {huge}\r\n\r\n"), 431),
        (format!("GET /metrics HTTP/1.1\r\n{many}\r\n"), 431),
        (format!("GET /{huge} HTTP/1.1\r\n\r\n"), 431),
    ] {
        // Having sent all of it, a client may only see the reset that follows the answer.
        if let Some(answer) = send(request) {
            assert_eq!(answer.status, status, "{}", answer.head);
        }
    }
    let small = "a".repeat(20 * 1024);
    let answer = send(format!("GET /metrics HTTP/1.1\r\nX: {small}"));
    assert_eq!(answer.map(|answer| answer.status), Some(431));
    let grown = resident_kib(&agent).saturating_sub(before);
    assert!(grown < 4 * 1024, "grew by {grown} KiB");
    assert_eq!(get("/healthz").status, 200);
}

#[test]
fn a_body_is_neither_read_nor_a_second_request() {
    let node = Node::new("body");
    let _agent = node.agent();
    let smuggled = "GET /nowhere HTTP/1.1\r\nHost: node\r\n\r\n";
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: node\r\nContent-Length: {}\r\n\r\n{smuggled}",
        smuggled.len()
    );
    let answer = send(request).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    let pipelined = "GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n".repeat(2);
    assert_eq!(send(pipelined).unwrap().body, "ok\n");
}

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let node = Node::new("slow");
    let _agent = node.agent();
    let begun = Instant::now();
    let silent = connect(Agent::address());
    let mut dripping = connect(Agent::address());
    let drip = thread::spawn(move || {
        dripping.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        while dripping.write_all(b"X: y\r\n").is_ok() {
            thread::sleep(Duration::from_millis(200));
            assert!(begun.elapsed() < Duration::from_secs(15), "an endless head is read on and on");
        }
    });
    let answer = read(silent);
    assert!(answer.is_none_or(|answer| answer.status == 408));
    drip.join().unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn ten_thousand_idle_connections_keep_no_one_out() {
    const IDLE: u64 = 10_000;
    let node = Node::new("idle");
    let agent = node.agent();
    // All of them are this process's, too.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let enough = IDLE + 2_000;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(enough), hard.max(enough)).unwrap();
    let idle: Vec<_> = (0..IDLE).map(|_| connect(Agent::address())).collect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(get("/metrics").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(descriptors(&agent) < 200, "{} file descriptors", descriptors(&agent));
    assert!(resident_kib(&agent) < 40 * 1024, "{} KiB", resident_kib(&agent));
    drop(idle);
}

#[test]
fn readers_that_stop_reading_hold_up_no_one() {
    let node = Node::new("stopped");
    // Neither the server's send buffer nor the client's receive buffer takes a whole page.
    for buffer in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{buffer}"), "4096 16384 16384").unwrap();
    }
    let _pods = Pod::many(&node, 60);
    let agent = node.agent();
    eventually("a page", || get("/metrics").body.contains("\nweir_pods 60\n"));
    let mut stopped: Vec<_> = (0..300).map(|_| connect(Agent::address())).collect();
    for stream in &mut stopped {
        // Some are closed already in favour of those that came after them.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n");
    }
    let begun = Instant::now();
    for _ in 0..20 {
        let answer = get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.len() > 200_000 && answer.body.ends_with('\n'));
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let held = descriptors(&agent);
    assert!((100..200).contains(&held), "{held} file descriptors: are the readers stopped at all?");
    assert!(resident_kib(&agent) < 64 * 1024, "{} KiB", resident_kib(&agent));
    drop(stopped);
}

fn descriptors(agent: &Agent) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

/// `VmRSS` of a process.
pub fn resident_kib(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
