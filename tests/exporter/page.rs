//! The page at `/` as a person sees it: Chromium, a real agent, real pods and real traffic.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde_json::json;

use super::{
    browser::Browser,
    fill::Pod,
    http::get,
    node::{Agent, Node, run},
    plumbed::{Plumbed, ask_from_outside},
};

pub const PAGE: &str = "http://127.0.0.1:9920/";

/// A name that a pod may have, and that a careless page would run.
const HOSTILE: &str = r#"<img src=x onerror="document.title='owned'">"#;

/// What a time on the page is.
const MILLISECONDS: &str =
    "((text) => parseFloat(text) * ({ 'µs': 0.001, ms: 1, s: 1000 })[(text ?? '').split(' ')[1]])";

/// Traffic that goes on until this is dropped.
pub struct Shop {
    stop: Arc<AtomicBool>,
    _agent: Agent,
    pub node: Node,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        thread::sleep(Duration::from_millis(150));
    }
}

/// The outside asks `front` (20/s), which asks `web` (40/s, a quarter slowly), which asks `db` (20/s,
/// a quarter in vain) and the resolver (5/s); `evil` asks `web` for what it is named.
pub fn shop(name: &str) -> Shop {
    let node = Node::new(name);
    // The node needs an address of its own to reach its pods from.
    run("ip", &["link", "add", "out0", "type", "veth", "peer", "out1"]);
    run("ip", &["address", "add", "192.0.2.1/24", "dev", "out0"]);
    run("ip", &["link", "set", "out0", "up"]);
    run("ip", &["link", "set", "out1", "up"]);
    let state = node.path("state").display().to_string();
    let mut agent = node.start_agent(&["--listen", "127.0.0.1:9920", "--state-dir", &state]);
    agent.wait_for("listening");
    let pod = |name: &str, id: &str| Plumbed::new(&node, "shop", name, id);
    let (front, web, db, dns) =
        (pod("front", "a"), pod("web", "b"), pod("db", "c"), pod("dns", "d"));
    let evil = pod(HOSTILE, "e");
    let stop = Arc::new(AtomicBool::new(false));
    for server in [&front, &web, &db] {
        server.serve();
    }
    dns.resolve();
    ask_from_outside(&front, &["/200", "/basket/200"], 20, &stop);
    front.ask(&web, &["/items/200", "/items/404", "/items/200", "/slow/200"], 40, &stop);
    web.ask(&db, &["/rows/200", "/rows/200", "/rows/200", "/rows/503"], 20, &stop);
    web.look_up(&dns, 5, &stop);
    evil.ask(&web, &["/<script>document.title='owned'</script>/200"], 2, &stop);
    Shop { stop, _agent: agent, node }
}

/// What stands in a pod's row, by number of the column.
fn cell(pod: &str, column: usize) -> String {
    format!(
        "[...document.querySelectorAll('#pod-rows tr')].find((row) => row.dataset.pod === {})?.cells[{column}].textContent",
        json!(pod)
    )
}

/// Whether a number on the page is near what it should be.
fn near(text: &str, number: f64) -> String {
    format!("Math.abs(parseFloat({text}) - {number}) <= {number} * 0.15 + 0.3")
}

#[test]
fn the_page_shows_rates_failures_latencies_and_who_talks_to_whom() {
    let shop = shop("page");
    let mut browser = Browser::new(&shop.node);
    browser.look(1440, 1250, "light");
    browser.open(PAGE);
    browser.eventually("document.querySelectorAll('#pod-rows tr').length === 5");
    // Columns: name; serves: rate, failed, p99; asks: rate, failed, p99; in, out.
    for (pod, column, rate) in [
        ("shop/front", 1, 20.0),
        ("shop/front", 4, 40.0),
        ("shop/web", 1, 42.0),
        ("shop/web", 4, 25.0),
        ("shop/web", 5, 5.0),
        ("shop/db", 1, 20.0),
        ("shop/db", 2, 5.0),
        ("shop/dns", 1, 5.0),
    ] {
        browser.eventually(&near(&cell(pod, column), rate));
    }
    // A slow answer takes 60 ms, between two of the table's bounds, and a busy machine adds to it.
    let slow = cell("shop/web", 3);
    browser.eventually(&format!("{MILLISECONDS}({slow}) >= 50"));
    browser.eventually(&format!("{MILLISECONDS}({}) < 30", cell("shop/db", 3)));
    browser.eventually("document.getElementById('health').textContent === 'live'");
    the_map_is_right(&mut browser);
    assert_eq!(browser.value("document.title"), "Weir");
    thread::sleep(Duration::from_secs(8));
    browser.picture("light");
    browser.value("document.querySelector('[data-pod=\"shop/web\"] button').click()");
    browser.eventually("document.getElementById('detail-title').textContent === 'shop/web'");
    browser.look(1440, 1250, "dark");
    browser.eventually("document.querySelectorAll('#flow-rows tr').length > 50");
    the_plots_are_right(&mut browser);
    browser.picture("dark-one-pod");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Every pair once, by pod; the node itself is the outside.
fn the_map_is_right(browser: &mut Browser) {
    let titles = "[...document.querySelectorAll('.edge title')].map((title) => title.textContent)";
    for (pair, protocol) in [
        ("outside → shop/front", "http: "),
        ("shop/front → shop/web", "http: "),
        ("shop/web → shop/db", "http: "),
        ("shop/web → shop/dns", "dns: "),
    ] {
        let start = json!(format!("{pair}\n{protocol}"));
        browser.eventually(&format!("{titles}.some((title) => title.startsWith({start}))"));
    }
    browser.eventually(&format!("{titles}.length === 5"));
    browser.eventually(&near(
        "[...document.querySelectorAll('.edge.bad text')].map((text) => text.textContent.replace('http ', ''))[0]",
        20.0,
    ));
    browser.eventually("document.querySelectorAll('.node').length === 6");
}

/// Of `shop/web` as it serves HTTP: what the legends say, and that something is drawn.
fn the_plots_are_right(browser: &mut Browser) {
    let legend = |chart: &str, line: usize| {
        format!(
            "document.querySelectorAll('#chart-{chart} .u-legend .u-value')[{line}]?.textContent"
        )
    };
    // The first value of each is the time.
    browser.eventually(&near(&legend("requests", 1), 42.0));
    browser.eventually(&format!("parseFloat({}) === 0", legend("requests", 2)));
    browser.eventually(&format!("{MILLISECONDS}({}) < 30", legend("latency", 1)));
    browser.eventually(&format!("{MILLISECONDS}({}) >= 50", legend("latency", 2)));
    for line in [1, 2] {
        browser.eventually(&format!("/^[\\d.]+ k?B$/.test({})", legend("network", line)));
    }
    for (chart, colours) in [("requests", 1), ("latency", 2), ("network", 2)] {
        browser.eventually(&format!("{}.size >= {colours}", hues(chart)));
    }
}

/// The colours of lines in a plot, each by the greatest of red, green and blue and the least; grey is none.
fn hues(chart: &str) -> String {
    format!(
        "(() => {{ const canvas = document.querySelector('#chart-{chart} canvas'), hues = new Map(); \
         const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); \
         for (let at = 0; at < data.length; at += 4) {{ const rgb = [...data.slice(at, at + 3)]; \
           if (data[at + 3] < 250 || Math.max(...rgb) - Math.min(...rgb) < 60) continue; \
           const hue = rgb.join(); hues.set(hue, (hues.get(hue) ?? 0) + 1); }} \
         return new Map([...hues].filter(([, pixels]) => pixels >= 20)); }})()"
    )
}

#[test]
fn a_full_node_is_shown() {
    let node = Node::new("page-many");
    let _pods = Pod::many(&node, 250);
    let _agent = node.agent();
    let mut browser = Browser::new(&node);
    browser.look(1440, 1250, "light");
    browser.open(PAGE);
    browser.eventually("document.querySelectorAll('#pod-rows tr').length === 250");
    browser.picture("light-250-pods");
    browser.fill("pod-filter", "P24");
    browser.eventually("document.getElementById('pod-count').textContent === '11 of 250'");
    browser.eventually("document.querySelectorAll('#pod-rows tr').length === 11");
    browser.value("document.querySelector('[data-sort=name]').click()");
    browser.eventually("document.querySelector('#pod-rows button').textContent === 'shop/p24'");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn flows_are_filtered_and_names_are_only_text() {
    let shop = shop("page-flows");
    let mut browser = Browser::new(&shop.node);
    browser.look(1440, 1250, "dark");
    browser.open(PAGE);
    let texts = |column: usize| {
        format!(
            "[...document.querySelectorAll('#flow-rows tr')].map((row) => row.cells[{column}].textContent)"
        )
    };
    let all = |column: usize, test: &str| {
        let texts = texts(column);
        format!("{texts}.length > 4 && {texts}.every((text) => {test})")
    };
    browser.eventually(&format!("{}.includes({})", texts(1), json!(format!("shop/{HOSTILE}"))));
    browser.eventually(&format!(
        "{}.some((text) => text.includes('<script>document.title='))",
        texts(5)
    ));
    browser.eventually(&format!("{}.includes('shop/db')", texts(3)));
    let slow = format!("{MILLISECONDS}(text) >= 25");
    for (field, text, column, test) in [
        ("filter-status", "5xx", 6, "text === '503'"),
        ("filter-status", "404", 6, "text === '404'"),
        ("filter-protocol", "dns", 4, "text === 'dns'"),
        ("filter-path_prefix", "/items/", 5, "text.startsWith('GET /items/')"),
        ("filter-slower_than", "25ms", 7, &slow),
        ("filter-pod", "shop/db", 1, "text === 'shop/db'"),
    ] {
        browser.fill(field, text);
        browser.eventually(&all(column, test));
        browser.value("document.getElementById('flow-clear').click()");
    }
    the_slowest_endpoint_is_first(&mut browser);
    browser.fill("filter-status", "teapot");
    browser.eventually("document.getElementById('flow-error').textContent.includes('such as 404')");
    browser.picture("dark-wrong-filter");
    browser.fill("filter-status", "");
    browser.eventually("document.getElementById('flow-error').textContent === ''");
    browser.value("document.getElementById('flow-pause').click()");
    let count = browser.value("document.querySelectorAll('#flow-rows tr').length");
    thread::sleep(Duration::from_millis(700));
    assert_eq!(browser.value("document.querySelectorAll('#flow-rows tr').length"), count);
    assert_eq!(browser.value("document.querySelectorAll('img, script:not([src])').length"), 0);
    assert_eq!(browser.value("document.title"), "Weir");
    // The one complaint is of the filter that was refused.
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|said| said.contains("status=teapot")), "{complaints:#?}");
}

/// Of two paths that differ in a number one row; of exchanges within the node one end.
fn the_slowest_endpoint_is_first(browser: &mut Browser) {
    browser.value("document.getElementById('show-endpoint-list').click()");
    let cell = |column: usize| {
        format!("document.querySelector('#endpoint-rows tr')?.cells[{column}].textContent")
    };
    browser.eventually(&format!("{} === 'GET /slow/*'", cell(2)));
    assert_eq!(browser.value(&cell(0)), "shop/web");
    browser.eventually(&format!("{MILLISECONDS}({}) >= 50", cell(5)));
    browser.eventually(
        "[...document.querySelectorAll('#endpoint-rows tr')].some((row) => \
         row.cells[0].textContent === 'shop/db' && /^\\d+ \\(\\d+ %\\)$/.test(row.cells[4].textContent))",
    );
    browser.picture("dark-endpoints");
    browser.value("document.getElementById('show-flow-list').click()");
}

#[test]
fn the_colours_are_the_systems_or_the_ones_chosen() {
    let node = Node::new("page-colours");
    let _agent = node.agent();
    let mut browser = Browser::new(&node);
    let ground = "getComputedStyle(document.documentElement).backgroundColor";
    browser.look(1000, 800, "light");
    browser.open(PAGE);
    let light = browser.value(ground);
    browser.look(1000, 800, "dark");
    let dark = browser.value(ground);
    assert_ne!(light, dark);
    // From the system's to light, and kept over a visit.
    browser.value("document.getElementById('theme').click()");
    assert_eq!(browser.value(ground), light);
    browser.open(PAGE);
    assert_eq!(browser.value(ground), light);
    browser.value("document.getElementById('theme').click()");
    browser.look(1000, 800, "light");
    assert_eq!(browser.value(ground), dark);
    browser.picture("empty");
    browser.value("document.getElementById('theme').click()");
    assert_eq!(browser.value(ground), light);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn nothing_may_run_but_the_page_itself() {
    let node = Node::new("page-policy");
    let _agent = node.agent();
    for path in ["/", "/page.js", "/page.css"] {
        let answer = get(path);
        assert_eq!(answer.status, 200);
        let policy = answer.header("content-security-policy").unwrap();
        let parts: Vec<&str> = policy.split("; ").collect();
        for part in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"]
        {
            assert!(parts.contains(&part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    }
    let mut browser = Browser::new(&node);
    browser.open(PAGE);
    // Were a name ever taken for HTML, the browser would still not run it.
    browser.value(&format!("document.body.insertAdjacentHTML('beforeend', {})", json!(HOSTILE)));
    browser.value("{ const s = document.createElement('script'); s.textContent = 'document.title = \"owned\"'; document.body.append(s); }");
    let refused = "fetch('http://127.0.0.1:1/').then(() => 'sent', (error) => error.name)";
    assert_eq!(browser.value(refused), "TypeError");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(browser.value("document.title"), "Weir");
    let complaints = browser.complaints().join("\n");
    assert!(complaints.contains("Content Security Policy"), "{complaints}");
}

#[test]
fn no_name_is_another_pods() {
    let node = Node::new("page-slashes");
    let names = [("x0", "a", "b"), ("x1", "", "a/b"), ("x2", "a/b", "c"), ("x3", "a", "b/c")];
    let _pods = names.map(|(link, namespace, pod)| Pod::named(&node, link, namespace, pod));
    let _agent = node.agent();
    let mut browser = Browser::new(&node);
    browser.open(PAGE);
    let rows =
        "[...document.querySelectorAll('#pod-rows tr')].map((row) => row.dataset.pod).sort()";
    let expected = json!(["a%2Fb", "a%2Fb/c", "a/b", "a/b%2Fc"]);
    browser.eventually(&format!("JSON.stringify({rows}) === {}", json!(expected.to_string())));
    // Whose exchanges are asked for when one is chosen.
    browser.value("document.querySelector('#pod-rows tr[data-pod=\"a/b%2Fc\"] button').click()");
    browser.eventually("document.getElementById('filter-pod').value === 'a/b%2Fc'");
    browser.eventually("document.getElementById('flow-error').textContent === ''");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
