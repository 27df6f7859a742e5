//! Pods that come and go, and their records: none is missed, and nothing is shown that isn't so.

use std::{
    collections::BTreeSet,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};

use super::{
    http::get,
    node::{Agent, Node, eventually, weir},
    plumbed, traffic,
};

const PODS: usize = 1_000;
const WORKERS: usize = 4;

/// A pod's namespace, by a file of that name.
fn namespace(path: &Path) {
    std::fs::write(path, "").unwrap();
    let path = path.to_owned();
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    });
    made.join().unwrap();
}

fn call(verb: &str, number: usize, netns: &Path, config: &str) {
    let mut plugin = weir()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", format!("churn{number}"))
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=churn;K8S_POD_NAME=p{number:04}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    plugin.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let output = plugin.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout));
}

/// The pods of namespace `churn` on a page.
fn shown() -> Vec<String> {
    let start = r#"weir_network_bytes_total{namespace="churn",pod=""#;
    let page = get("/metrics").body;
    let names = page.lines().filter_map(|line| line.strip_prefix(start)?.split('"').next());
    names.map(str::to_owned).collect()
}

/// An agent that follows the node's records.
fn agent(node: &Node) -> Agent {
    let state = node.path("state");
    let arguments = ["--listen", "127.0.0.1:9920", "--state-dir", state.to_str().unwrap()];
    let mut agent = node.start_agent(&arguments);
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    agent
}

#[test]
fn of_a_thousand_quick_pods_none_is_missed() {
    let node = Node::new("churn");
    let config = plumbed::config(&node).to_string();
    // The directories come with a node's first pod.
    let first = node.path("first.netns");
    namespace(&first);
    call("ADD", PODS, &first, &config);
    call("DEL", PODS, &first, &config);
    let _agent = agent(&node);
    let (next, done, seen) =
        (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let begun = Instant::now();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let netns = node.path(&format!("churn{worker}.netns"));
            let (next, done, config) = (&next, &done, &config);
            scope.spawn(move || {
                namespace(&netns);
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= PODS {
                        done.fetch_add(1, Relaxed);
                        return;
                    }
                    call("ADD", number, &netns, config);
                    call("DEL", number, &netns, config);
                }
            });
        }
        // As a scraper: every few seconds, and once more when all is over.
        while done.load(Relaxed) < WORKERS {
            thread::sleep(Duration::from_secs(3));
            seen.lock().unwrap().extend(shown());
        }
    });
    let took = begun.elapsed();
    eventually("the last one's end", || {
        seen.lock().unwrap().extend(shown());
        get("/metrics").body.contains("\nweir_attachment_events_total{event=\"removed\"} 1000\n")
    });
    let page = get("/metrics").body;
    assert!(page.contains("\nweir_attachment_events_total{event=\"added\"} 1000\n"), "{page}");
    assert!(page.contains("\nweir_pods 0\n"), "{page}");
    let all: BTreeSet<_> = (0..PODS).map(|number| format!("p{number:04}")).collect();
    let missed: Vec<_> = all.difference(&seen.into_inner().unwrap()).cloned().collect();
    assert!(missed.is_empty(), "{} in {took:?}: {missed:?}", missed.len());
}

#[test]
fn every_series_that_begins_at_0_is_there_when_add_returns() {
    let node = Node::new("at-once");
    let _agent = agent(&node);
    let families = include_str!("../../docs/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `weir_") && line.contains("(from 0)"));
    let families: Vec<&str> = families.map(|line| line.split('`').nth(1).unwrap()).collect();
    assert!(families.len() > 10, "{families:?}");
    // The first has the maps made; and a page of a moment ago has none of the next.
    for name in ["first", "second", "third"] {
        let _pod = plumbed::Plumbed::new(&node, "shop", name, name);
        let page = get("/metrics").body;
        for family in &families {
            let start = format!("{family}{{namespace=\"shop\",pod=\"{name}\",");
            let mut series = page.lines().filter(|line| line.starts_with(&start)).peekable();
            assert!(series.peek().is_some(), "no {start} in {page}");
            // The kernel of a pod greets its network at once.
            let greets = family.starts_with("weir_network_");
            assert!(greets || series.all(|line| line.ends_with(" 0")), "{start}: {page}");
        }
    }
}

#[test]
fn no_name_fills_a_page_and_none_breaks_one() {
    let node = Node::new("long-name");
    let _agent = agent(&node);
    let long = "x".repeat(65_536);
    let _pods = [("long", &*long), ("odd", "a/b\n\"c")]
        .map(|(id, name)| plumbed::Plumbed::new(&node, "shop", name, id));
    for path in ["/metrics", "/metrics?flavor=otel", "/api/pods"] {
        let page = get(path).body;
        assert!(page.contains(&"x".repeat(255)) && !page.contains(&"x".repeat(256)), "{path}");
        assert!(page.len() < 200_000, "{path}: {} bytes", page.len());
        assert!(page.contains("a/b\\n\\\"c"), "{path}: {page}");
    }
}

#[test]
fn a_state_dir_that_vanishes_costs_no_counts_and_fills_no_log() {
    let node = Node::new("vanished");
    let agent = agent(&node);
    let pods = ["one", "two"].map(|name| plumbed::Plumbed::new(&node, "shop", name, name));
    pods.iter().for_each(plumbed::Plumbed::serve);
    let asked = |number: u64| {
        let [one, two] = &pods;
        let to = SocketAddr::new(two.address, 80);
        let ask = move || {
            let mut stream = super::http::connect(to);
            traffic::request(&mut stream, b"GET /200 HTTP/1.1\r\n\r\n");
        };
        one.run(ask).join().unwrap();
        let served = r#"weir_http_requests_total{namespace="shop",pod="two",role="server",method="GET",protocol="1.1",status="200"}"#;
        let line = format!("{served} {number}\n");
        eventually("it is counted", || get("/metrics").body.contains(&line));
    };
    let states = |counted: u64, unrecorded: u64| {
        let [counted, unrecorded] = [("counted", counted), ("unrecorded", unrecorded)]
            .map(|(state, n)| format!("weir_attachments{{telemetry=\"{state}\"}} {n}\n"));
        eventually("the pods' states", || {
            let page = get("/metrics").body;
            page.contains(&counted) && page.contains(&unrecorded)
        });
    };
    asked(1);
    states(2, 0);
    let (state, aside) = (node.path("state"), node.path("aside"));
    std::fs::rename(&state, &aside).unwrap();
    states(0, 2);
    for number in 2..5 {
        asked(number);
        thread::sleep(Duration::from_millis(1_100));
    }
    std::fs::rename(&aside, &state).unwrap();
    states(2, 0);
    asked(5);
    let (_, log) = agent.into_inner().stop(Signal::SIGTERM);
    let once: BTreeSet<_> = log.iter().collect();
    assert_eq!(once.len(), log.len(), "{log:#?}");
}
