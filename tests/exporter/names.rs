//! By which names the agent is called: a site that has its name mean 127.0.0.1 is answered with nothing of the node's.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use nix::sys::{signal::Signal, utsname::uname};

use super::{
    browser::Browser,
    http::{Answer, send},
    node::Node,
};

fn ask(path: &str, host: &str) -> Answer {
    send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap()
}

#[test]
fn only_by_a_name_of_its_own_is_the_page_answered() {
    let node = Node::new("names");
    let mut agent = node.start_agent(&[
        "--listen",
        "127.0.0.1:9920",
        "--allow-host",
        "weir.example.org",
        "--allow-host",
        "Other.Example.Org",
    ]);
    agent.wait_for("listening");
    let own = uname().unwrap().nodename().to_str().unwrap().to_owned();
    let evil = "rebound.example.net:9920";
    for path in ["/", "/page.js", "/page.css", "/api/pods", "/api/flows?since=5m", "/api/services"]
    {
        let refused = ask(path, evil);
        assert_eq!(refused.status, 421, "{path}");
        assert!(refused.body.contains("--allow-host rebound.example.net\n"), "{}", refused.body);
        assert!(refused.body.lines().count() == 1, "{}", refused.body);
    }
    for host in [
        "127.0.0.1:9920",
        "[::1]:9920",
        "localhost:9920",
        &own,
        "weir.example.org",
        "other.example.org:80",
    ] {
        assert_eq!(ask("/", host).status, 200, "{host}");
        assert_eq!(ask("/api/pods", host).status, 200, "{host}");
    }
    // Scrapers and probes have their own names for it, and HTTP/1.0 knows none.
    for path in ["/metrics", "/healthz"] {
        assert_eq!(ask(path, evil).status, 200, "{path}");
    }
    assert_ne!(ask("/readyz", evil).status, 421);
    assert_eq!(send("GET /api/pods HTTP/1.0\r\n\r\n").unwrap().status, 200);
    assert_eq!(agent.into_inner().stop(Signal::SIGTERM).0, Some(0));
}

#[test]
fn what_another_site_has_a_browser_ask_for_it_does_not_get() {
    let node = Node::new("sites");
    let _agent = node.agent();
    let ask = |path: &str, site: &str| {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9920\r\nSec-Fetch-Site: {site}\r\n\r\n"
        );
        send(head).unwrap().status
    };
    for path in ["/api/pods", "/api/flows", "/api/services"] {
        assert_eq!((ask(path, "cross-site"), ask(path, "same-site")), (403, 403), "{path}");
    }
    assert_eq!((ask("/api/pods", "same-origin"), ask("/api/pods", "none")), (200, 200));
    // One follows a link to the page from anywhere, and a scraper is no browser.
    assert_eq!((ask("/", "cross-site"), ask("/metrics", "cross-site")), (200, 200));

    // So a browser says it: of a page at another port and name, and of the agent's own.
    let other = TcpListener::bind("127.0.0.1:9921").unwrap();
    let heads = thread::spawn(move || [head(&other), head(&other)]);
    let mut browser = Browser::resolving(&node, "elsewhere.example.net", "127.0.0.1");
    browser.open("http://127.0.0.1:9920/");
    browser.eventually("document.getElementById('health')?.textContent === 'live'");
    browser.open("http://elsewhere.example.net:9921/");
    browser.value("fetch('http://127.0.0.1:9921/api/flows', { mode: 'no-cors' }).then(() => 1)");
    let [_, asked] = heads.join().unwrap();
    assert!(
        asked.starts_with("GET /api/flows ") && asked.contains("Sec-Fetch-Site: cross-site"),
        "{asked}"
    );
    assert_eq!(send(asked).unwrap().status, 403);
}

/// Answers one request for anything; returns its head.
fn head(at: &TcpListener) -> String {
    loop {
        let (mut stream, _) = at.accept().unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(stream.try_clone().unwrap()).lines() {
            let line = line.unwrap();
            lines.push(format!("{line}\r\n"));
            if line.is_empty() {
                break;
            }
        }
        let _ =
            stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        if lines.first().is_some_and(|line| !line.contains("favicon")) {
            return lines.concat();
        }
    }
}

#[test]
fn a_browser_that_was_led_here_by_a_foreign_name_gets_nothing() {
    let node = Node::new("rebinding");
    let _agent = node.agent();
    let mut browser = Browser::resolving(&node, "rebound.example.net", "127.0.0.1");
    browser.open("http://rebound.example.net:9920/");
    let text = browser.value("document.body.innerText");
    assert!(text.as_str().unwrap().contains("--allow-host rebound.example.net"), "{text}");
    let read =
        "fetch('/api/pods').then(async (answer) => `${answer.status} ${await answer.text()}`)";
    let told = browser.value(read);
    assert!(told.as_str().unwrap().starts_with("421 this agent"), "{told}");
    browser.open("http://localhost:9920/");
    browser.eventually("document.getElementById('health')?.textContent === 'live'");
}
