//! `weir observe` beside a real agent and real traffic.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    flows::Listener,
    node::{Agent, Node, weir},
    traffic::{self, Served, request},
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
