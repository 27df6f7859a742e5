//! podman with `network_backend = "cni"`.

use std::{fs, net::IpAddr, path::Path};

use serde_json::Value;

use crate::{
    image,
    metrics::{Agent, fetch},
    node::{Node, succeed},
};

/// runc, since Debian's crun refuses a machine with control groups of both versions; limits that need
/// no CAP_SYS_RESOURCE.
const CONFIG: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "none"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/run/cni/bin"]
network_config_dir = "/run/cni/net.d"
default_network = "podnet"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"#;

fn podman(words: &str) -> String {
    succeed(&format!(
        "env CONTAINERS_CONF=/run/containers.conf podman --storage-driver vfs {words}"
    ))
    .trim()
    .to_owned()
}

fn run(node: &Node, name: &str, more: &str) -> (String, Vec<IpAddr>) {
    let cgroup = &node.cgroup;
    let id = podman(&format!(
        "run -d --name {name} --network podnet --cgroup-parent {cgroup} {more} {}",
        image::NAME
    ));
    let inspected: Value = serde_json::from_str(&podman(&format!("inspect {name}"))).unwrap();
    let network = &inspected[0]["NetworkSettings"]["Networks"]["podnet"];
    let ips = ["IPAddress", "GlobalIPv6Address"].map(|key| network[key].as_str().unwrap());
    (id, ips.iter().map(|ip| ip.parse().unwrap()).collect())
}

#[test]
fn containers_talk_are_counted_by_name_and_leave_nothing() {
    let node = Node::enter("podman");
    fs::write("/run/containers.conf", CONFIG).unwrap();
    let archive = image::archive(Path::new("/run"));
    podman(&format!("load -i {}", archive.display()));

    run(&node, "first", "-p 8080:80");
    podman("rm -f -t 0 first");
    let before = node.footprint();

    let agent = Agent::start();
    let (id, ips) = run(&node, "web", "-p 8080:80");
    run(&node, "client", "");
    let record = node.records().into_iter().find(|record| record["containerId"] == id.as_str());
    assert_eq!(record.unwrap()["pod"]["name"], "web");
    for ip in &ips {
        let url = match ip {
            IpAddr::V4(ip) => format!("http://{ip}/"),
            IpAddr::V6(ip) => format!("http://[{ip}]/"),
        };
        assert_eq!(podman(&format!("exec client /bin/wget -q -O - {url}")), "hello");
        fetch(*ip, 80);
    }
    fetch("192.0.2.1".parse().unwrap(), 8080);

    let served = [("pod", "web"), ("role", "server"), ("status", "200")];
    agent.await_value("weir_http_requests_total", &served, 5.0);
    agent.await_value("weir_http_requests_total", &[("pod", "client"), ("role", "client")], 2.0);

    // One is stopped and then removed, the other removed as it runs.
    podman("stop -t 0 web");
    podman("rm web");
    podman("rm -f -t 0 client");
    node.await_same(&before);
    assert!(node.records().is_empty());
}
