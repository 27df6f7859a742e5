//! The page's live table against the requests that there were, while streams break, agents end and rows stand
//! still: each request is one row, and whatever is not shown is told of.

use std::{
    net::TcpStream,
    thread::{self, Scope},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    browser::Browser,
    fill::Pod,
    flows::Listener,
    node::Node,
    relay::Relay,
    traffic::{self, Served, request},
};

/// Requests with a number each, over one connection.
struct Asker {
    stream: TcpStream,
    asked: usize,
}

impl Asker {
    fn new<'scope>(scope: &'scope Scope<'scope, '_>, web: &'scope Served) -> Self {
        scope.spawn(|| web.answer_statuses());
        Self { stream: traffic::connect(), asked: 0 }
    }

    fn ask(&mut self, count: usize) {
        for _ in 0..count {
            let head = format!("GET /n/{}/200 HTTP/1.1\r\n\r\n", self.asked);
            request(&mut self.stream, head.as_bytes());
            self.asked += 1;
        }
    }

    /// Each request is a row, the newest first, and none is there twice, also after a while.
    fn all_are_rows(&self, browser: &mut Browser) {
        self.are_rows(browser, self.asked);
        let seen = format!("{} seen", self.asked);
        browser.eventually(&format!("{NOTE} === '{seen}'"));
    }

    /// Of all requests these first are rows.
    fn are_rows(&self, browser: &mut Browser, count: usize) {
        let expected: Vec<_> = (0..count).rev().map(|at| format!("GET /n/{at}/200")).collect();
        let expected = json!(json!(expected).to_string());
        let right = format!("JSON.stringify({ROWS}) === {expected}");
        browser.eventually(&right);
        thread::sleep(Duration::from_millis(600));
        assert_eq!(browser.value(&right), json!(true), "{}", browser.value(ROWS));
    }
}

const ROWS: &str =
    "[...document.querySelectorAll('#flow-rows tr')].map((row) => row.cells[5].textContent)";
const NOTE: &str = "document.getElementById('flow-note').textContent";
const HEALTH: &str = "document.getElementById('health').textContent";

fn live(browser: &mut Browser) {
    browser.eventually(&format!("{HEALTH} === 'live'"));
}

#[test]
fn each_request_is_one_row_however_often_the_stream_breaks() {
    let node = Node::new("page-resume");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let relay = Relay::new();
    // With it records are made all the time: what the page misses, it has to get when it is back.
    let _other = Listener::new("");
    let mut browser = Browser::new(&node);
    browser.open(&Relay::url());
    thread::scope(|scope| {
        let mut asker = Asker::new(scope, &web);
        asker.ask(10);
        asker.all_are_rows(&mut browser);

        browser.hide();
        asker.ask(10);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(browser.value(NOTE), "10 seen", "in the background it listens to nothing");
        browser.show();
        asker.all_are_rows(&mut browser);

        relay.cut();
        asker.ask(10);
        asker.all_are_rows(&mut browser);

        relay.answer("/api/flows", 503, "16 clients are listening already");
        relay.cut();
        asker.ask(10);
        browser.eventually(&format!("{HEALTH}.includes('16 clients')"));
        relay.mend();
        asker.all_are_rows(&mut browser);

        // Into the cache of pages that one may go back to, and out of it.
        browser.value("window.dispatchEvent(new PageTransitionEvent('pagehide'))");
        asker.ask(10);
        browser.value("window.dispatchEvent(new PageTransitionEvent('pageshow'))");
        asker.all_are_rows(&mut browser);
        live(&mut browser);

        browser.value("document.getElementById('show-endpoint-list').click()");
        let ends = "[...document.querySelectorAll('#endpoint-rows tr')].map((row) => \
                    `${row.cells[2].textContent} ${row.cells[3].textContent}`).join()";
        assert_eq!(browser.value(ends), format!("GET /n/*/* {}", asker.asked));
        // A question of one's own begins anew, with what is kept.
        browser.value("document.querySelector('#flow-rows tr').dataset.old = 'yes'");
        browser.fill("filter-status", "200");
        browser.eventually("!document.querySelector('[data-old]')");
        asker.all_are_rows(&mut browser);
        drop(asker);
    });
}

#[test]
fn a_pause_loses_nothing_and_says_what_waits() {
    let node = Node::new("page-pause");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let _other = Listener::new("");
    let relay = Relay::new();
    let mut browser = Browser::new(&node);
    browser.open(&Relay::url());
    let press = "document.getElementById('flow-pause').click()";
    thread::scope(|scope| {
        let mut asker = Asker::new(scope, &web);
        asker.ask(5);
        asker.all_are_rows(&mut browser);
        browser.value(press);
        asker.ask(7);
        browser.eventually(&format!("{NOTE} === '12 seen · 7 wait for the pause to end'"));
        asker.are_rows(&mut browser, 5);
        browser.value(press);
        asker.all_are_rows(&mut browser);
        // Just before the pause, between two changes of what is shown.
        for _ in 0..5 {
            asker.ask(1);
            browser.eventually(&format!("{NOTE}.startsWith('{} seen')", asker.asked));
            browser.value(press);
            browser.value(press);
        }
        asker.ask(1);
        browser.value(press);
        browser.value(press);
        asker.all_are_rows(&mut browser);
        drop(asker);
    });
    drop(relay);
}

#[test]
fn an_agent_that_ends_is_missed_and_its_successor_goes_on() {
    let node = Node::new("page-restart");
    let web = Served::new(&node, "web");
    let agent = node.agent();
    let other = Listener::new("");
    let mut browser = Browser::new(&node);
    browser.open("http://127.0.0.1:9920/");
    thread::scope(|scope| {
        let mut asker = Asker::new(scope, &web);
        asker.ask(5);
        asker.all_are_rows(&mut browser);
        drop(other);
        agent.into_inner().stop(Signal::SIGKILL);
        browser.eventually(&format!("{HEALTH} === 'the agent does not answer'"));
        let _successor = node.agent();
        live(&mut browser);
        let _other = Listener::new("");
        asker.ask(5);
        asker.all_are_rows(&mut browser);
        drop(asker);
    });
}

#[test]
fn what_is_wrong_is_told_of_him_who_is_at_fault() {
    let node = Node::new("page-wrong");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let relay = Relay::new();
    let mut browser = Browser::new(&node);
    browser.open(&Relay::url());
    live(&mut browser);
    relay.answer("/api/pods", 503, "the maps are away");
    browser.eventually(&format!("{HEALTH} === 'the maps are away'"));
    relay.answer("/api/pods", 200, "<p>Please log in");
    browser.eventually(&format!("{HEALTH} === 'what answers here is no agent'"));
    relay.mend();
    live(&mut browser);
    relay.away(true);
    browser.eventually(&format!("{HEALTH} === 'the agent does not answer'"));
    relay.away(false);
    live(&mut browser);
    assert_eq!(browser.value("document.querySelectorAll('#pod-rows tr').length"), 1);
    // What the page can't show is no silence of the agent's, and the page goes on asking.
    relay.answer(
        "/api/pods",
        200,
        r#"{"interval_seconds":1,"pods":[{"namespace":"shop","pod":"odd"}]}"#,
    );
    browser.eventually(&format!("{HEALTH}.startsWith('this page failed')"));
    relay.mend();
    let _second = Pod::new(&node, "second");
    browser.eventually("document.querySelectorAll('#pod-rows tr').length === 2");
    drop(web);
}
