//! `weir observe` beside a real agent and real traffic.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    flows::{Listener, ask_paced, small_buffers},
    http::get,
    node::{Agent, Node, eventually, weir},
    screen::Screen,
    traffic::{self, Served, inside, request},
};

/// A pod, and an agent that has recorded a request of each of these statuses to it.
fn recorded(name: &str, statuses: &[u16]) -> (Node, Served, Agent) {
    let node = Node::new(name);
    let web = Served::new(&node, "web");
    let agent = node.agent();
    let mut listener = Listener::new("");
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        for status in statuses {
            let head = format!("GET /{status} HTTP/1.1\r\nHost: \"a\r\n\r\n");
            request(&mut stream, head.as_bytes());
            listener.flow();
        }
    });
    (node, web, agent)
}

fn observe(arguments: &[&str]) -> Command {
    let mut command = weir();
    command.arg("observe").args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    observe(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn filters_choose_what_is_printed() {
    let (_node, _web, _agent) = recorded("observe", &[200, 404, 500, 503]);
    let shown = output(&["--since", "1m", "-n", "4"]);
    let shown_text = text(&shown.stdout);
    let lines: Vec<_> = shown_text.lines().collect();
    assert_eq!(lines.len(), 4, "{shown_text}");
    assert!(lines[0].contains("shop/web <- 198.51.100.1:"), "{shown_text}");
    assert!(lines[0].contains(" GET \"a/200 200 "), "{shown_text}");
    assert!(!shown_text.contains('\x1b'), "a pipe is no terminal");
    for (arguments, statuses) in [
        (&["--status", "5xx", "-n", "2"][..], &[500, 503][..]),
        (&["--pod", "shop/web", "--status", "404", "-n", "1"], &[404]),
        (
            &["--path-prefix", "/5", "--protocol", "http", "--slower-than", "1ns", "-n", "2"],
            &[500, 503],
        ),
    ] {
        let shown = output(&[&["--since", "1m", "-o", "json"], arguments].concat());
        let shown: Vec<u64> = text(&shown.stdout)
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64().unwrap())
            .collect();
        assert_eq!(shown, statuses, "{arguments:?}");
    }
}

#[test]
fn each_filter_leaves_out_what_it_says() {
    let node = Node::new("observe-filters");
    let web = Served::new(&node, "web");
    let (_other, dns) =
        inside(&node, "other", "203.0.113", || UdpSocket::bind("203.0.113.2:53").unwrap());
    let _agent = node.agent();
    let mut listener = Listener::new("");
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        request(&mut stream, b"GET /200 HTTP/1.1\r\n\r\n");
        request(&mut stream, b"GET /slow/200 HTTP/1.1\r\n\r\n");
        traffic::look_up("198.51.100.1", &web.udp);
        traffic::look_up("203.0.113.1", &dns.join().unwrap());
        (0..4).for_each(|_| drop(listener.event()));
        thread::sleep(Duration::from_millis(2_500));
        request(&mut stream, b"GET /204 HTTP/1.1\r\n\r\n");
        listener.event();
    });
    // Those before come first, and so would be printed where a filter let them through.
    for (arguments, expected) in [
        (&["--since", "1m", "--slower-than", "40ms"][..], json!(["web", "http", "/slow/200"])),
        (&["--since", "1m", "--protocol", "dns"], json!(["web", "dns", null])),
        (&["--since", "1m", "--pod", "shop/other"], json!(["other", "dns", null])),
        (&["--since", "1m", "--status", "204"], json!(["web", "http", "/204"])),
        (&["--since", "1m", "--path-prefix", "/2"], json!(["web", "http", "/200"])),
        (&["--since", "2s"], json!(["web", "http", "/204"])),
    ] {
        let shown = output(&[arguments, &["-o", "json", "-n", "1"]].concat());
        let flow: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(json!([flow["pod"], flow["protocol"], flow["path"]]), expected, "{arguments:?}");
    }
}

#[test]
fn who_cannot_keep_up_is_told_how_much_is_missing() {
    let node = Node::new("observe-slow");
    small_buffers();
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let mut quick = Listener::new("");
    let start = |arguments: &[&str]| {
        let mut observer = observe(arguments);
        observer.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (mut json, mut person) = (start(&["-o", "json"]), start(&[]));
    // Until the commands listen.
    thread::sleep(Duration::from_millis(1_500));
    let send = |signal| {
        [&json, &person].iter().for_each(|observer| {
            kill(Pid::from_raw(observer.id().try_into().unwrap()), signal).unwrap();
        });
    };
    send(Signal::SIGSTOP);
    let (requests, heard) = (8_000, AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        scope.spawn(|| ask_paced(requests, &heard));
        for n in 1..=requests {
            assert_eq!(quick.event().0, "");
            heard.store(n, Relaxed);
        }
    });
    send(Signal::SIGCONT);

    let (mut told, mut lost) = (0, 0);
    for line in BufReader::new(json.stdout.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match line["lost"]["records"].as_u64() {
            Some(records) => lost += records,
            None => told += 1,
        }
        if told + lost == requests {
            break;
        }
    }
    assert!(told > 0 && lost > 0, "{told} and {lost}");
    json.kill().unwrap();
    json.wait().unwrap();

    // The last word on stderr is of all that a person misses; the lines are the rest.
    let (printed, missing) = (AtomicU64::new(0), AtomicU64::new(0));
    let stdout = BufReader::new(person.stdout.take().unwrap()).lines();
    let stderr = BufReader::new(person.stderr.take().unwrap()).lines();
    let all = |line: &str| {
        let words = line.strip_suffix(" in all: this command could not keep up with the agent");
        let (_, all) = words.unwrap().split_once(" missing here, ").unwrap();
        all.parse::<u64>().unwrap()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            stdout.for_each(|_| {
                printed.fetch_add(1, Relaxed);
            });
        });
        scope.spawn(|| stderr.for_each(|line| missing.store(all(&line.unwrap()), Relaxed)));
        eventually("all are printed, or said to be missing", || {
            missing.load(Relaxed) > 0 && printed.load(Relaxed) + missing.load(Relaxed) >= requests
        });
        person.kill().unwrap();
    });
    person.wait().unwrap();
    assert_eq!(printed.into_inner() + missing.into_inner(), requests);
}

#[test]
fn in_a_terminal_it_has_colours() {
    let (_node, _web, _agent) = recorded("observe-terminal", &[500]);
    let mut screen = Screen::new(24, 100, &["observe", "--since", "1m", "-n", "1"]);
    let text = screen.until("the record", |text| text.contains(" 500 "));
    let column = text.lines().next().unwrap().find(" 500 ").unwrap() + 1;
    assert_eq!(screen.colour(0, column), vt100::Color::Idx(1), "{text}");
    assert_eq!(screen.end(), Some(0));
}

#[test]
fn colours_are_for_terminals_and_those_who_insist() {
    let (_node, _web, _agent) = recorded("observe-colours", &[500]);
    let shown = output(&["--since", "1m", "-n", "1", "--color", "always"]);
    assert!(text(&shown.stdout).contains("\x1b[31m500\x1b[0m"), "{:?}", text(&shown.stdout));
}

#[test]
fn records_come_as_they_happen_until_the_agent_ends() {
    let (_node, web, agent) = recorded("observe-live", &[]);
    let observer =
        observe(&["-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Until both the command and the agent's wish are there.
    thread::sleep(Duration::from_millis(1_500));
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        for _ in 0..3 {
            request(&mut stream, b"GET /202 HTTP/1.1\r\n\r\n");
        }
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(agent.into_inner().stop(Signal::SIGTERM).0, Some(0));
    let shown = observer.wait_with_output().unwrap();
    assert_eq!(text(&shown.stdout).matches("\"status\":202").count(), 3);
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stderr).contains("ended the stream"), "{}", text(&shown.stderr));
}

#[test]
fn who_waits_in_vain_is_told_why() {
    let node = Node::new("observe-nothing");
    let _agent = node.agent();
    eventually("it has looked", || get("/readyz").body.contains("no pod has been counted yet"));
    let mut observer = observe(&["-n", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(observer.stderr.take().unwrap()).read_line(&mut said).unwrap();
    observer.kill().unwrap();
    observer.wait().unwrap();
    assert!(said.starts_with("weir: records are missing as yet: "), "{said}");
    assert!(said.contains("no pod has been counted yet"), "{said}");
}

#[test]
fn what_went_wrong_is_said_with_the_mend() {
    let _node = Node::new("observe-wrong");
    for (arguments, status, said) in [
        (&[][..], 1, "no agent answers at http://127.0.0.1:9920: start `weir agent`"),
        (&["--agent", "http://127.0.0.1:1"], 1, "say where it listens with --agent"),
        (&["--agent", "https://x"], 2, "such as http://127.0.0.1:9920"),
        (&["--status", "teapot"], 2, "such as 404"),
        (&["--protocol", "gopher"], 2, "there are http, grpc, dns, tls"),
        (&["--slower-than", "5"], 2, "such as 100ms"),
    ] {
        let shown = output(arguments);
        assert_eq!(shown.status.code(), Some(status), "{arguments:?}");
        assert!(text(&shown.stderr).contains(said), "{arguments:?}: {}", text(&shown.stderr));
        assert!(shown.stdout.is_empty());
    }
}
