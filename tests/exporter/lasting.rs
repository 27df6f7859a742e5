//! The page in a tab that stays open for days: what has gone from it is gone from memory, and what was not to be
//! known is no line in a plot.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::{browser::Browser, fill::Pod, node::Node, page::PAGE, relay::Relay};

/// Filters every row away and back, as long as it takes each to have its plot, so many times.
const TOGGLE: &str = "(async (times) => { \
    const field = document.getElementById('pod-filter'); \
    const type = (text) => { field.value = text; field.dispatchEvent(new Event('input')); }; \
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done))); \
    let plots = 0; \
    for (let at = 0; at < times; at += 1) { \
        type('nobody'); type(''); await frame(); await frame(); type(''); \
        plots += document.querySelectorAll('#pod-rows .spark canvas').length; \
    } \
    return plots; })";

/// What the browser itself counts, once nothing is left that could go.
fn counts(browser: &mut Browser) -> [f64; 2] {
    browser.call("HeapProfiler.collectGarbage", json!({}));
    let told = browser.call("Performance.getMetrics", json!({}));
    let metrics = told["metrics"].as_array().unwrap();
    ["Nodes", "JSEventListeners"].map(|name| {
        let found = metrics.iter().find(|metric| metric["name"] == name);
        found.and_then(|metric| metric["value"].as_f64()).unwrap()
    })
}

#[test]
fn rows_that_go_leave_nothing_in_memory() {
    let node = Node::new("page-memory");
    let _pods = Pod::many(&node, 4);
    let _agent = node.agent();
    let mut browser = Browser::new(&node);
    browser.look(1440, 1250, "light");
    browser.open(PAGE);
    browser.eventually("document.querySelectorAll('#pod-rows .spark canvas').length === 4");
    browser.call("Performance.enable", json!({}));
    let mut toggle = |times: u32| {
        let plots = browser.value(&format!("{TOGGLE}({times})"));
        assert!(plots.as_u64() > Some(u64::from(times)), "{plots} plots in {times} toggles");
        counts(&mut browser)
    };
    let before = toggle(20);
    let mut after = before;
    for _ in 0..10 {
        after = toggle(50);
    }
    // A plot has some 20 nodes and as many listeners, and 2,000 were made.
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 200.0, "nodes and listeners: {before:?}, then {after:?}");
    }
}

/// The longest stretch without a line between the first and the last pixel of one, as a part of the plot's width. What is
/// written at its edges, whose pixels have colours where glyphs are smoothed, is none of it; a line at 0 lies on the lower one.
const GAP: &str = "(() => { const canvas = document.querySelector('#chart-network canvas'); \
    const { width, height } = canvas; const { data } = canvas.getContext('2d').getImageData(0, 0, width, height); \
    const drawn = []; \
    const whole = canvas.getBoundingClientRect(), inner = document.querySelector('#chart-network .u-over').getBoundingClientRect(); \
    const scale = width / whole.width, left = Math.ceil((inner.left - whole.left) * scale), right = left + Math.floor(inner.width * scale); \
    const top = Math.ceil((inner.top - whole.top) * scale), bottom = top + Math.ceil((inner.height + 2) * scale); \
    for (let x = left; x < right; x += 1) for (let y = top; y < bottom; y += 1) { \
        const at = 4 * (y * width + x), rgb = [...data.slice(at, at + 3)]; \
        if (data[at + 3] > 0 && Math.max(...rgb) - Math.min(...rgb) > 60) { drawn.push(x); break; } \
    } \
    return Math.max(0, ...drawn.slice(1).map((x, at) => x - drawn[at] - 1)) / width; })()";

#[test]
fn plots_have_a_gap_where_nobody_answered_or_nobody_looked() {
    let node = Node::new("page-gap");
    let _pods = Pod::many(&node, 1);
    let _agent = node.agent();
    let relay = Relay::new();
    let mut browser = Browser::new(&node);
    browser.look(1440, 1250, "light");
    // A poll that a busy machine holds up for a while is no gap, one that it holds up for long is.
    let gap = |browser: &mut Browser| browser.value(GAP).as_f64().unwrap();
    let width = "document.querySelector('#chart-network canvas').width";
    let even = (0..5).any(|_| {
        browser.open(&Relay::url());
        browser.eventually(&format!("{width} > 200"));
        thread::sleep(Duration::from_secs(5));
        gap(&mut browser) < 0.01
    });
    assert!(even, "{}", gap(&mut browser));
    relay.answer("/api/pods", 503, "the maps are away");
    thread::sleep(Duration::from_secs(7));
    relay.mend();
    // The plot is a minute wide, less what the axis takes.
    browser.eventually(&format!("{GAP} > 0.06"));
    thread::sleep(Duration::from_secs(3));
    let once = gap(&mut browser);
    assert!((0.06..0.2).contains(&once), "{once}");
    browser.hide();
    thread::sleep(Duration::from_secs(18));
    browser.show();
    browser.eventually(&format!("{GAP} > {}", once + 0.04));
    assert_eq!(browser.value("document.getElementById('health').textContent"), Value::from("live"));
}
