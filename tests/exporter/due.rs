//! What is due where living pods are not counted, or not by this version: said wherever one looks.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Output};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    http::get,
    node::{Agent, Node, eventually, weir},
    plumbed::Plumbed,
};

/// What is not so: they were.
const NEVER: &str = "no pod has been counted yet";

/// A command with the node's own directories.
pub fn told(node: &Node, words: &[&str]) -> Output {
    let mut command = weir();
    command.args(words).arg("--bpf-dir").arg(node.bpf_dir());
    command.arg("--state-dir").arg(node.path("state")).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The telemetry of each pod by `weir pods`, and what it says besides.
fn pods(node: &Node) -> (BTreeMap<String, String>, String) {
    let output = told(node, &["pods", "-o", "json"]);
    let text = |pod: &Value, key: &str| pod[key].as_str().unwrap().to_owned();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed = listed.as_array().unwrap().iter();
    (listed.map(|pod| (text(pod, "pod"), text(pod, "telemetry"))).collect(), said(&output))
}

fn states(states: &[(&str, &str)]) -> BTreeMap<String, String> {
    states.iter().map(|(pod, state)| ((*pod).to_owned(), (*state).to_owned())).collect()
}

fn agent(node: &Node) -> Agent {
    let state = node.path("state");
    let arguments = ["--listen", "127.0.0.1:9920", "--state-dir", state.to_str().unwrap()];
    let mut agent = node.start_agent(&arguments);
    agent.wait_for("listening on");
    agent
}

fn attach_status(pod: &str, status: u8) -> String {
    format!("weir_attach_status{{namespace=\"shop\",pod=\"{pod}\",hook=\"clsact\"}} {status}\n")
}

fn lost(number: usize) -> String {
    format!("weir_attachments{{telemetry=\"lost\"}} {number}\n")
}

/// Two pods are counted; then these pins go.
fn pins_go(name: &str, pins: fn(&Node) -> PathBuf) {
    let node = Node::new(name);
    let _pods = ["web", "db"].map(|pod| Plumbed::new(&node, "shop", pod, pod));
    let agent = agent(&node);
    eventually("both are counted", || {
        let page = get("/metrics").body;
        get("/readyz").status == 200 && page.contains(&attach_status("web", 1))
    });
    fs::remove_dir_all(pins(&node)).unwrap();
    eventually("not ready, and why", || {
        let ready = get("/readyz");
        let names = ready.body.contains(": shop/db, shop/web; weir reconcile");
        ready.status == 503 && names && !ready.body.contains(NEVER)
    });
    eventually("on the page", || {
        let page = get("/metrics").body;
        let statuses = ["web", "db"].map(|pod| attach_status(pod, 0));
        statuses.iter().all(|status| page.contains(status)) && page.contains(&lost(2))
    });
    let (listed, remark) = pods(&node);
    assert_eq!(listed, states(&[("web", "lost"), ("db", "lost")]));
    assert!(remark.contains("weir reconcile") && !remark.contains(NEVER), "{remark}");

    // The next pod brings maps again, which know nothing of those before it.
    let _new = Plumbed::new(&node, "shop", "new", "new");
    let now = [("web", "lost"), ("db", "lost"), ("new", "counted")];
    eventually("the new one's status", || get("/metrics").body.contains(&attach_status("new", 1)));
    assert!(get("/metrics").body.contains(&attach_status("web", 0)));
    let ready = get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("shop/web; weir reconcile"), "{ready:?}");
    let (listed, remark) = pods(&node);
    assert_eq!(listed, states(&now));
    assert!(remark.contains("weir reconcile") && !remark.contains(NEVER), "{remark}");

    let mended = told(&node, &["reconcile"]);
    assert!(said(&mended).contains("mended attachments: 2"), "{}", said(&mended));
    assert_eq!(pods(&node), (states(&now.map(|(pod, _)| (pod, "counted"))), String::new()));
    eventually("ready again", || get("/readyz").status == 200);
    eventually("all on the page", || {
        let page = get("/metrics").body;
        let statuses = ["web", "db", "new"].map(|pod| attach_status(pod, 1));
        statuses.iter().all(|status| page.contains(status)) && page.contains(&lost(0))
    });
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let logged = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((logged("weir reconcile"), logged(NEVER)), (1, 0), "{log:#?}");
}

#[test]
fn pins_of_a_layout_that_go_under_counted_pods_are_missed() {
    pins_go("lost-layout", |node| node.bpf_dir().join(env!("WEIR_SCHEMA")));
}

#[test]
fn all_pins_that_go_under_counted_pods_are_missed() {
    pins_go("lost-all", Node::bpf_dir);
}
