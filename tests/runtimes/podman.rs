//! podman with `network_backend = "cni"`.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};

use crate::{
    image,
    metrics::{Agent, fetch, get},
    node::{Node, succeed, wait_for},
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

/// podman's default filter of system calls, which lets bpf(2) through to CAP_SYS_ADMIN alone, with CAP_BPF in that
/// place, as containerd's and Docker's have it besides; its file.
fn filter() -> &'static str {
    let default = fs::read_to_string("/usr/share/containers/seccomp.json").unwrap();
    let mut filter: Value = serde_json::from_str(&default).unwrap();
    let rules = filter["syscalls"].as_array_mut().unwrap();
    for rule in &mut *rules {
        rule["names"].as_array_mut().unwrap().retain(|name| name != "bpf");
    }
    let allowed =
        json!({"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}});
    rules.push(allowed);
    let file = "/run/filter.json";
    fs::write(file, filter.to_string()).unwrap();
    file
}

/// Of a container of the DaemonSet: its image, and the words to run it by, with what stands for the node's
/// directories besides /run/weir and /sys/fs/bpf.
fn container(of: &Value, host: &[(&str, &str)]) -> String {
    let context = &of["securityContext"];
    assert_eq!(
        (&context["readOnlyRootFilesystem"], &context["capabilities"]["drop"]),
        (&json!(true), &json!(["ALL"]))
    );
    assert_eq!(context["allowPrivilegeEscalation"], false);
    let mut words =
        "--read-only --cap-drop all --security-opt no-new-privileges --user 0".to_owned();
    for capability in context["capabilities"]["add"].as_array().into_iter().flatten() {
        words += &format!(" --cap-add {}", capability.as_str().unwrap());
    }
    for mount in of["volumeMounts"].as_array().unwrap() {
        let at = mount["mountPath"].as_str().unwrap();
        let from = host.iter().find(|(path, _)| *path == at).map_or(at, |(_, from)| from);
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        words += &format!(" -v {from}:{at}:{mode}");
    }
    words += &format!(" {}", of["image"].as_str().unwrap());
    for word in of["args"].as_array().unwrap() {
        words += &format!(" {}", word.as_str().unwrap().replace("$(NODE_IP)", "192.0.2.1"));
    }
    words
}

#[test]
fn the_image_of_the_examples_is_built_and_runs_as_the_daemonset_says() {
    let node = Node::enter("image");
    fs::write("/run/containers.conf", CONFIG).unwrap();
    let archive = image::archive(Path::new("/run"));
    podman(&format!("load -i {}", archive.display()));
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let set = fs::read_to_string(examples.join("daemonset.yaml")).unwrap();
    let set: Value = serde_saphyr::from_str(&set).unwrap();
    let pod = &set["spec"]["template"]["spec"];
    let (install, agent) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(install["image"], agent["image"]);

    // What `make build` leaves, but for its optimisation and what debuggers read.
    fs::create_dir_all("/run/release").unwrap();
    succeed(&format!("strip -o /run/release/weir {}", env!("CARGO_BIN_EXE_weir")));
    let (name, file) = (install["image"].as_str().unwrap(), examples.join("Dockerfile"));
    podman(&format!("build -t {name} -f {} /run/release", file.display()));
    let words = format!("run --rm --network none --cgroup-parent {}", node.cgroup);
    let version = podman(&format!("{words} {name} --version"));
    assert_eq!(version.lines().next(), Some(concat!("weir ", env!("CARGO_PKG_VERSION"))));

    fs::create_dir("/run/host").unwrap();
    podman(&format!("{words} {}", container(install, &[("/host/opt/cni/bin", "/run/host")])));
    let installed = Path::new("/run/host/weir");
    assert!(fs::read(installed).unwrap() == fs::read("/run/release/weir").unwrap());
    assert_eq!(fs::metadata(installed).unwrap().permissions().mode() & 0o777, 0o755);

    run(&node, "web", "");
    let words = format!("run -d --name agent --network host --cgroup-parent {}", node.cgroup);
    let filter = format!("--security-opt seccomp={}", filter());
    podman(&format!("{words} {filter} {}", container(agent, &[])));
    let at = "192.0.2.1:9920".parse().unwrap();
    let ready = wait_for(|| get(at, "/readyz").filter(|answer| answer.contains(" 200 ")));
    assert!(ready.is_some(), "{:?}, {}", get(at, "/readyz"), podman("ps -a"));
    let page = get(at, "/metrics").unwrap();
    assert!(page.contains("weir_network_bytes_total{namespace=\"\",pod=\"web\""), "{page}");
    podman("rm -f -t 0 agent web");
}
