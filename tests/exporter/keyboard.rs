//! The page by keyboard, by pointer and for who hears it: what one aims at keeps its place.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use weir::telemetry::wire::{CounterKind, HttpMethod, HttpVersion};

use super::{
    browser::Browser,
    fill::Pod,
    node::Node,
    page::{PAGE, shop},
};

/// Which pod's node on the map has the focus.
const FOCUSED: &str = "document.activeElement.closest('.node')?.dataset.pod";
const TITLE: &str = "document.getElementById('detail-title').textContent";

fn node_of(pod: &str) -> String {
    format!("document.querySelector('.node[data-pod={}]')", json!(pod))
}

/// What a screen reader is told of on the map: roles and names.
fn heard(browser: &mut Browser) -> Vec<(String, String)> {
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().unwrap();
    let id = |node: &Value| node["nodeId"].as_str().unwrap().to_owned();
    let map = nodes.iter().find(|node| node["name"]["value"] == "Service map").expect("the map");
    let mut within = vec![id(map)];
    let mut at = 0;
    while let Some(parent) = within.get(at).cloned() {
        let node = nodes.iter().find(|node| id(node) == parent);
        let children = node.and_then(|node| node["childIds"].as_array());
        within
            .extend(children.into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)));
        at += 1;
    }
    let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
    let told = nodes.iter().filter(|node| node["ignored"] == false && within.contains(&id(node)));
    told.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
}

#[test]
fn the_map_is_heard_and_used_by_keyboard() {
    let shop = shop("page-keys");
    let mut browser = Browser::new(&shop.node);
    browser.look(1440, 900, "light");
    browser.open(PAGE);
    browser.eventually("document.querySelectorAll('.edge').length === 5");
    browser.call("Accessibility.enable", json!({}));
    let told = heard(&mut browser);
    // What is said to be a picture has nothing in it for whoever hears the page.
    assert!(told.contains(&("group".into(), "Service map".into())), "{told:?}");
    for pod in ["shop/front", "shop/web", "shop/db", "shop/dns"] {
        assert!(told.contains(&("button".into(), pod.into())), "{pod}: {told:?}");
    }
    let edges = told.iter().filter(|(_, name)| name.starts_with("shop/front → shop/web http: "));
    assert_eq!(edges.count(), 1, "{told:?}");
    // Its neighbours alone are drawn then, in other places, and it goes on having the focus.
    browser.press("Tab");
    let front = node_of("shop/front");
    browser.value(&format!("{front}.focus()"));
    for key in [" ", "Enter"] {
        let above = browser.value("scrollY");
        browser.press(key);
        browser.eventually(&format!("{TITLE} === 'shop/front'"));
        browser.eventually("document.querySelectorAll('.edge').length === 2");
        assert_eq!(browser.value(FOCUSED), "shop/front", "after {key:?}");
        assert_eq!(browser.value(&format!("{front}.getAttribute('aria-pressed')")), "true");
        assert_eq!(browser.value("scrollY"), above, "{key:?} scrolls");
        browser.press(key);
        browser.eventually(&format!("{TITLE} === 'All pods'"));
        browser.eventually("document.querySelectorAll('.edge').length === 5");
        assert_eq!(browser.value(FOCUSED), "shop/front", "after {key:?}");
    }
    browser.press("Tab");
    assert_ne!(browser.value(FOCUSED), "shop/front");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn rows_stand_still_under_the_pointer_and_the_rest_waits() {
    let shop = shop("page-pointer");
    let mut browser = Browser::new(&shop.node);
    browser.look(1440, 1250, "light");
    browser.open(PAGE);
    browser.eventually("document.querySelectorAll('#flow-rows tr').length > 50");
    let first = "document.querySelector('#flow-rows tr').textContent";
    let note = "document.getElementById('flow-note').textContent";
    browser.point("document.querySelector('#flow-rows tr:nth-child(4)')");
    browser.eventually(&format!("/ · \\d+ wait while you are at the rows/.test({note})"));
    let before = browser.value(first);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(browser.value(first), before);
    browser.point("document.querySelector('h1')");
    browser.eventually(&format!("{first} !== {before}"));
    browser.eventually(&format!("!{note}.includes('wait')"));
    // By keyboard: the pod's name in a row.
    browser.press("Tab");
    browser.value("document.querySelector('#flow-rows tr:nth-child(4) button').focus()");
    browser.eventually(&format!("/ · \\d+ wait while you are at the rows/.test({note})"));
    let before = browser.value(first);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(browser.value(first), before);
    browser.value("document.activeElement.blur()");
    browser.eventually(&format!("{first} !== {before}"));
}

/// Serves ever more requests, by what the maps say.
fn grow(pod: &Pod, served: &mut u64, by: u64) {
    *served += by;
    let (get, v1_1) = (HttpMethod::HTTP_METHOD_GET.0, HttpVersion::HTTP_VERSION_1_1.0);
    pod.count(CounterKind::COUNTER_HTTP_REQUESTS, get, v1_1, 200, *served);
}

#[test]
fn pods_are_sorted_anew_when_nobody_is_at_their_rows() {
    let node = Node::new("page-order");
    let pods = Pod::many(&node, 3);
    let _agent = node.agent();
    let mut browser = Browser::new(&node);
    browser.look(1440, 1250, "light");
    browser.open(PAGE);
    let mut served = [0, 0, 0];
    let order =
        "[...document.querySelectorAll('#pod-rows tr')].map((row) => row.dataset.pod).join()";
    let button =
        |pod: &str| format!("document.querySelector('#pod-rows [data-pod={}] button')", json!(pod));
    let mut until = |browser: &mut Browser, by: [u64; 3], right: &str| {
        for _ in 0..200 {
            pods.iter()
                .zip(&mut served)
                .zip(by)
                .for_each(|((pod, served), by)| grow(pod, served, by));
            if browser.value(right) == json!(true) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{right}: {}", browser.value(order));
    };
    until(&mut browser, [2, 1, 0], &format!("{order} === 'shop/p0,shop/p1,shop/p2'"));
    // By pointer: the rates say otherwise, the rows stay.
    let rate = "parseFloat(document.querySelector('#pod-rows [data-pod=\"shop/p2\"]').cells[1].textContent)";
    browser.point(&button("shop/p1"));
    until(&mut browser, [0, 0, 30], &format!("{rate} > 150"));
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(browser.value(order), "shop/p0,shop/p1,shop/p2");
    browser.point("document.querySelector('h1')");
    until(&mut browser, [0, 0, 30], &format!("{order}.startsWith('shop/p2')"));
    // By keyboard the same; and who asks for another order gets it, and keeps the focus.
    browser.press("Tab");
    browser.value(&format!("{}.focus()", button("shop/p2")));
    let rate = rate.replace("p2", "p1");
    until(&mut browser, [0, 60, 0], &format!("{rate} > 400"));
    thread::sleep(Duration::from_millis(1_500));
    assert!(browser.value(order).as_str().unwrap().starts_with("shop/p2"));
    browser.value("document.querySelector('[data-sort=name]').click()");
    browser.eventually(&format!("{order} === 'shop/p0,shop/p1,shop/p2'"));
    browser.value("document.querySelector('[data-sort=name]').click()");
    browser.eventually(&format!("{order} === 'shop/p2,shop/p1,shop/p0'"));
    assert_eq!(browser.value(&format!("document.activeElement === {}", button("shop/p2"))), true);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
