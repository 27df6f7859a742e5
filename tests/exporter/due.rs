//! What is due where living pods are not counted, or not by this version: said wherever one looks.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Output, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    http::get,
    node::{Agent, Node, eventually, run, weir},
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

/// What the doctor finds of the pods.
fn diagnosis(node: &Node) -> Value {
    let output = told(node, &["doctor", "-o", "json"]);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut findings = findings.as_array().unwrap().iter();
    findings.find(|finding| finding["check"] == "pods").unwrap().clone()
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

    let reloaded = told(&node, &["reload"]);
    let remark = said(&reloaded);
    assert!(
        reloaded.status.success() && remark.contains("there is nothing to reload in"),
        "{remark}"
    );
    assert!(remark.contains(": shop/db, shop/web; weir reconcile"), "{remark}");
    assert!(!remark.contains("no pod has been counted"), "{remark}");
    let pods_of =
        |finding: &Value| finding["says"].as_str().unwrap().contains(": shop/db, shop/web");
    let finding = diagnosis(&node);
    assert!(finding["verdict"] == "warn" && pods_of(&finding), "{finding}");
    assert_eq!(finding["mend"], "weir reconcile");

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
    assert_eq!(diagnosis(&node)["verdict"], "ok");
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
fn pods_whose_hooks_were_taken_off_are_named_by_doctor_and_by_reload() {
    let node = Node::new("hookless");
    let names = ["a", "b", "c", "d", "e", "f"];
    let _pods = names.map(|pod| Plumbed::new(&node, "shop", pod, pod));
    assert_eq!(diagnosis(&node)["verdict"], "ok");
    let clean = told(&node, &["reload", "-o", "json"]);
    let done: Value = serde_json::from_slice(&clean.stdout).unwrap();
    assert_eq!((&done["pods"], &done["uncounted"]), (&6.into(), &json!([])), "{done}");
    let listed: Value =
        serde_json::from_slice(&told(&node, &["pods", "-o", "json"]).stdout).unwrap();
    let ends = listed.as_array().unwrap().iter().filter(|pod| pod["pod"] != "f");
    for index in ends.map(|pod| &pod["hostIfindex"]) {
        let links: Value = serde_json::from_str(&run("ip", &["-j", "link"])).unwrap();
        let mut links = links.as_array().unwrap().iter();
        let link = links.find(|link| link["ifindex"] == *index).unwrap();
        run("tc", &["qdisc", "del", "dev", link["ifname"].as_str().unwrap(), "clsact"]);
    }
    let named = "took their hooks off: shop/a, shop/b, shop/c and 2 others";
    let finding = diagnosis(&node);
    assert!(finding["says"].as_str().unwrap().contains(named), "{finding}");
    assert_eq!((&finding["verdict"], &finding["mend"]), (&json!("warn"), &json!("weir reconcile")));
    let reloaded = told(&node, &["reload", "-o", "json"]);
    let remark = said(&reloaded);
    assert!(reloaded.status.success(), "{remark}");
    assert!(remark.contains(&format!("{named}; weir reconcile")), "{remark}");
    let done: Value = serde_json::from_slice(&reloaded.stdout).unwrap();
    let uncounted = done["uncounted"].as_array().unwrap();
    assert_eq!((&done["pods"], uncounted.len()), (&1.into(), 5), "{done}");
    assert_eq!(
        (&uncounted[0]["pod"], &uncounted[0]["telemetry"]),
        (&json!("a"), &json!("detached"))
    );
    // It has put nothing back, so that what was said stays so until it is mended.
    assert!(diagnosis(&node)["says"].as_str().unwrap().contains(named));
    assert!(told(&node, &["reconcile"]).status.success());
    assert_eq!(diagnosis(&node)["verdict"], "ok");
    assert!(!said(&told(&node, &["reload"])).contains("hooks"));
}

#[test]
fn a_pod_whose_interface_was_deleted_is_not_shown_as_counted() {
    let node = Node::new("cut-off");
    let _pods = ["web", "db"].map(|pod| Plumbed::new(&node, "shop", pod, pod));
    let _agent = agent(&node);
    eventually("both are counted", || {
        let page = get("/metrics").body;
        ["web", "db"].iter().all(|pod| page.contains(&attach_status(pod, 1)))
    });
    let links: Value = serde_json::from_str(&run("ip", &["-j", "link"])).unwrap();
    let mut links = links.as_array().unwrap().iter();
    let link = links.find(|link| link["ifalias"] == "weir:podnet/web/eth0").unwrap();
    run("ip", &["link", "del", link["ifname"].as_str().unwrap()]);
    eventually("one is not", || {
        let page = get("/metrics").body;
        let cut = "weir_attachments{telemetry=\"disconnected\"} 1\n";
        page.contains(&attach_status("web", 0))
            && page.contains(&attach_status("db", 1))
            && page.contains(cut)
    });
    let (listed, remark) = pods(&node);
    assert_eq!(listed, states(&[("web", "disconnected"), ("db", "counted")]));
    assert!(remark.contains("with them: shop/web; let their runtime make them anew"), "{remark}");
}

#[test]
fn pins_of_a_layout_that_go_under_counted_pods_are_missed() {
    pins_go("lost-layout", |node| node.bpf_dir().join(env!("WEIR_SCHEMA")));
}

#[test]
fn single_pins_that_go_under_the_agent_are_named_and_come_back_with_all_that_was_counted() {
    let node = Node::new("torn");
    let web = Plumbed::new(&node, "shop", "web", "web");
    let agent = agent(&node);
    let packets = || -> Option<f64> {
        let page = get("/metrics").body;
        let series =
            r#"weir_network_packets_total{namespace="shop",pod="web",direction="rx",family="4"} "#;
        page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok())
    };
    let send = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..10).for_each(|_| drop(socket.send_to(b"x", (web.address, 9))));
    };
    send();
    eventually("ready, and ten packets", || {
        get("/readyz").status == 200 && packets().is_some_and(|packets| packets >= 10.0)
    });
    // What the agent reads, and what it doesn't.
    for (pin, is_shown) in [("counters", false), ("shares", true)] {
        fs::remove_file(node.bpf_dir().join(env!("WEIR_SCHEMA")).join(pin)).unwrap();
        let before = packets().unwrap_or_default();
        send();
        eventually("not ready, and why", || {
            let ready = get("/readyz");
            let named = ready.body.contains(&format!("/{pin}; weir reconcile puts them back"));
            ready.status == 503 && named && !ready.body.contains(NEVER)
        });
        // No page is kept for so long.
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(packets().is_some(), is_shown, "{pin}");
        let (_, remark) = pods(&node);
        assert!(remark.contains(&format!("/{pin}; weir reconcile")), "{remark}");
        assert!(told(&node, &["reconcile"]).status.success());
        eventually("ready again", || get("/readyz").status == 200);
        eventually("and no less", || packets().is_some_and(|packets| packets >= before + 10.0));
    }
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let logged = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((logged("/counters"), logged("/shares")), (1, 1), "{log:#?}");
}

#[test]
fn all_pins_that_go_under_counted_pods_are_missed() {
    pins_go("lost-all", Node::bpf_dir);
}
