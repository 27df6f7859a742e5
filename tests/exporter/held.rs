//! A reload that stands still while it carries totals from one layout's maps to another's: half of them may be in either.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use weir::telemetry::wire::CounterKind;

use super::{
    fill::Pod,
    http::get,
    node::{Node, eventually},
};

#[test]
fn no_total_falls_while_a_reload_carries_totals_over() {
    let node = Node::new("held");
    let web = Pod::new(&node, "web");
    let count = |n| web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, n);
    let labels = r#"pod="web",role="server",method="GET",protocol="1.1",status="200""#;
    let shows = |n: u64| get("/metrics").body.contains(&format!("{labels}}} {n}\n"));
    count(7);
    let first = node.agent();
    eventually("its total", || shows(7));
    let held = || {
        let lock = fs::File::open(node.bpf_dir().join(env!("WEIR_SCHEMA"))).unwrap();
        lock.lock().unwrap();
        lock
    };
    let lock = held();
    count(3);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let begun = Instant::now();
        assert!(shows(7));
        // As long as a scrape may wait for a reload.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    count(9);
    drop(lock);
    eventually("all of it", || shows(9));
    drop(first);
    // One that begins meanwhile has none to show from before.
    let lock = held();
    count(3);
    let _second = node.agent();
    for _ in 0..3 {
        let page = get("/metrics");
        assert!(page.status == 200 && !page.body.contains(labels), "{}", page.body);
        thread::sleep(Duration::from_millis(600));
    }
    count(9);
    drop(lock);
    eventually("all of it", || shows(9));
}
