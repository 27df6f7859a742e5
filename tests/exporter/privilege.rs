//! What the agent may do once it runs, and that it needs no more.

use std::{fs, process::Command, thread};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    fill::Pod,
    flows::Listener,
    http::get,
    node::{Node, Service, eventually, weir},
    otlp_receiver,
    traffic::{self, Served},
    unit::Unit,
};

/// CAP_BPF, of linux/capability.h.
const BPF: u64 = 1 << 39;

/// A line of a thread's status, as a number.
fn mask(thread: &std::path::Path, name: &str) -> u64 {
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn once_it_serves_no_thread_of_it_has_more_than_one_capability() {
    let node = Node::new("dropped");
    let _web = Pod::new(&node, "web");
    let agent = node.agent();
    eventually("ready", || get("/readyz").status == 200);
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let threads: Vec<_> = threads.map(|entry| entry.unwrap().path()).collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        for set in ["CapEff:", "CapPrm:", "CapInh:"] {
            assert_eq!(mask(&thread, set) & !BPF, 0, "{set} of {}", thread.display());
        }
        assert_eq!(mask(&thread, "NoNewPrivs:"), 1);
    }
}

#[test]
fn root_without_any_capability_reads_sweeps_and_asks_about_hooks() {
    let node = Node::new("bare");
    let (_web, _db) = (Pod::new(&node, "web"), Pod::new(&node, "db"));
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--"]).arg(weir().get_program()).arg("agent");
    command.arg("--bpf-dir").arg(node.bpf_dir()).arg("--state-dir").arg(node.path("state"));
    let mut agent = Service::start(command);
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    let thread = format!("/proc/{}", agent.pid());
    assert_eq!(mask(thread.as_ref(), "CapEff:"), 0);
    eventually("ready", || get("/readyz").status == 200);
    let status = |pod: &str, status: u8| {
        let series = r#"weir_attach_status{namespace="shop","#;
        format!(r#"{series}pod="{pod}",hook="clsact"}} {status}"#)
    };
    let page = get("/metrics").body;
    assert!(page.contains(&status("web", 1)) && page.contains(&status("db", 1)), "{page}");
    super::node::run("tc", &["qdisc", "delete", "dev", "web", "clsact"]);
    eventually("a hook that is gone is seen", || get("/metrics").body.contains(&status("web", 0)));
}

#[test]
fn the_unit_in_examples_leaves_it_all_that_it_calls() {
    const UNIT: Unit = Unit("examples/weir-agent.service");
    let node = Node::new("agent-unit");
    let web = Served::new(&node, "web");
    let received = otlp_receiver::grpc(([127, 0, 0, 1], 4317).into());
    let log = node.path("strace");
    let start = UNIT.values("ExecStart");
    assert_eq!(start[..2], ["/opt/cni/bin/weir", "agent"], "where `make install` puts it");
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--no-new-privs"]);
    command.arg(format!("--bounding-set={}", UNIT.capabilities("")));
    command.args(["strace", "-f", "-qq", "-e", "signal=none", "-o", log.to_str().unwrap()]);
    command.arg(weir().get_program()).args(&start[1..]).arg("--bpf-dir").arg(node.bpf_dir());
    command.arg("--state-dir").arg(node.path("state"));
    command.args(["--otlp-endpoint", "http://localhost:4317", "--otlp-interval", "1s"]);
    let mut agent = Service::start(command);
    agent.wait_for("listening on http://127.0.0.1:9920/metrics");
    eventually("ready", || get("/readyz").status == 200);
    for path in ["/", "/metrics", "/metrics?flavor=otel", "/api/pods"] {
        assert_eq!(get(path).status, 200, "{path}");
    }
    let mut listener = Listener::new("");
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let traced = b"GET /200 HTTP/1.1\r\n\
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
        traffic::request(&mut traffic::connect(), traced);
    });
    assert_eq!(listener.flow()["path"], "/200");
    eventually("its span and metrics", || {
        !received.spans().is_empty() && received.metric("weir", "weir.pods").is_some()
    });
    // A pod comes and goes: the records are followed, the maps swept.
    let _db = Pod::new(&node, "db");
    eventually("the pod", || get("/metrics").body.contains(r#"pod="db""#));
    let pid = agent.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    kill(Pid::from_raw(children.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    let (status, said) = agent.end();
    assert_eq!(status, Some(0), "{said:#?}");
    UNIT.assert_allows(&fs::read_to_string(&log).unwrap());
}
