//! The page of a node with 250 pods in Chromium: how soon something is on the screen, and how soon all pods are.
//!
//! ```text
//! cargo bench --bench page [-- ROUNDS]     (root; 10 visits unless said)
//! ```
//!
//! Each visit is the first of a browser that has just started, in turn with another's of a page that says one
//! word: what Chromium itself needs on this machine, without a graphics card. Times are the browser's own, from
//! the beginning of the navigation.

#[path = "../../tests/exporter/browser.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod browser;
#[path = "../../tests/exporter/fill.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]
mod fill;
#[path = "../../tests/exporter/node.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]
mod node;
#[path = "../report/report.rs"]
#[allow(dead_code, reason = "it is of all benches")]
mod report;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::ExitCode,
    thread,
    time::Duration,
};

use browser::Browser;
use fill::Pod;
use node::Node;
use report::{Row, Rows, row::median};
use serde_json::json;

/// Whatever goes wrong ends the bench.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const ROUNDS: usize = 10;
const PODS: usize = 250;
/// What the first paint may take, in milliseconds.
const MOST: f64 = 1_000.0;

const PAGE: &str = "http://127.0.0.1:9920/";
const PLAIN: &str = "127.0.0.1:9930";

fn main() -> ExitCode {
    report::bench("page", run)
}

fn run(rows: &mut Rows) -> Result<()> {
    let rounds = report::number("ROUNDS", ROUNDS)?.max(1);
    let node = Node::new("bench-page");
    let _pods = Pod::many(&node, PODS);
    let _agent = node.agent();
    serve_plain()?;
    let (mut plain, mut first, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("page: visit {round} of {rounds}");
        plain.push(Visit::new(&node)?.painted(&format!("http://{PLAIN}/"))?);
        let mut visit = Visit::new(&node)?;
        first.push(visit.painted(PAGE)?);
        all.push(visit.complete()?);
    }
    let least = median(&plain).ok_or("nothing was measured")?;
    rows.add(Row::of("first paint of a page with one word", "ms", &plain)?)?;
    let beside = |row: Row| {
        let more = row.median - least;
        row.more("the page with one word", more)
    };
    rows.add(beside(Row::of(format!("first paint: {PODS} pods"), "ms", &first)?.at_most(MOST)))?;
    rows.add(beside(Row::of(format!("all pods on the screen: {PODS} pods"), "ms", &all)?))?;
    Ok(())
}

/// One page of one browser.
struct Visit(Browser);

impl Visit {
    fn new(node: &Node) -> Result<Self> {
        let profile = node.path("chromium");
        if profile.exists() {
            // Its predecessor may still be writing.
            for _ in 0..50 {
                if fs::remove_dir_all(&profile).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
        let mut browser = Browser::new(node);
        browser.look(1440, 1250, "light");
        // The moment at which a frame with the last row has been made.
        let source = format!(
            "new MutationObserver((_, observer) => {{ \
               if (document.querySelectorAll('#pod-rows tr').length < {PODS}) return; \
               observer.disconnect(); \
               requestAnimationFrame(() => setTimeout(() => {{ window.complete = performance.now(); }})); \
             }}).observe(document, {{ childList: true, subtree: true }})"
        );
        browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source }));
        Ok(Self(browser))
    }

    /// Milliseconds to its first contentful paint (Paint Timing, section 4.1.2).
    fn painted(&mut self, url: &str) -> Result<f64> {
        self.0.open(url);
        let paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime";
        self.0.eventually(&format!("{paint} > 0"));
        Ok(self.0.value(paint).as_f64().ok_or("a paint without a time")?)
    }

    fn complete(&mut self) -> Result<f64> {
        self.0.eventually("window.complete > 0");
        Ok(self.0.value("window.complete").as_f64().ok_or("pods without a time")?)
    }
}

/// Answers whatever is asked with one word.
fn serve_plain() -> Result<()> {
    const PAGE: &str = "<!doctype html><title>one word</title><link rel=icon href=data:,><p>word";
    let listener = TcpListener::bind(PLAIN)?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(std::result::Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
                PAGE.len()
            );
        }
    });
    Ok(())
}
