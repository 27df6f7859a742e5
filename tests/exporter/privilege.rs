//! What the agent may do once it runs, and that it needs no more.

use std::{fs, process::Command};

use super::{
    fill::Pod,
    http::get,
    node::{Node, Service, eventually, weir},
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
