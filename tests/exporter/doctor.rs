//! `weir doctor` on the real kernel: what it says, and that it changes nothing by saying it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::node::{Node, run, weir};

/// Verdict and text of each line.
fn diagnosis(output: &Output) -> BTreeMap<String, (String, String)> {
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = json.as_array().unwrap().iter();
    findings.map(|it| (text(it, "check"), (text(it, "verdict"), text(it, "says")))).collect()
}

fn doctor(node: &Node, bpf_dir: &Path) -> Output {
    let mut command = weir();
    command.args(["doctor", "-o", "json", "--bpf-dir"]).arg(bpf_dir);
    command.arg("--state-dir").arg(node.path("state"));
    of_node(node, command)
}

/// The doctor's output, with the node's own configurations, and plugins: weir alone.
fn of_node(node: &Node, mut command: Command) -> Output {
    command.arg("--conf-dir").arg(node.path("conf")).arg("--bin-dir").arg(node.path("bin"));
    command.output().unwrap()
}

fn configure(node: &Node, file: &str, text: &str) {
    for dir in ["conf", "bin"] {
        fs::create_dir_all(node.path(dir)).unwrap();
    }
    let weir = node.path("bin/weir");
    if !weir.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weir"), weir).unwrap();
    }
    fs::write(node.path("conf").join(file), text).unwrap();
}

/// What a doctor could have changed: links, qdiscs, rules, settings, files.
fn everything(node: &Node) -> Vec<String> {
    let dir = node.path("");
    vec![
        run("ip", &["-j", "address"]),
        run("tc", &["-j", "qdisc"]),
        run("nft", &["list", "ruleset"]),
        fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
        run("find", &[dir.to_str().unwrap(), "-printf", "%p %m %y\n"]),
    ]
}

#[test]
fn a_fit_host_passes_and_stays_as_it_is() {
    let node = Node::new("fit");
    let example = fs::read_to_string("examples/10-weir.conflist").unwrap();
    configure(&node, "10-podnet.conflist", &example);
    let before = everything(&node);
    let output = doctor(&node, &node.bpf_dir());
    assert_eq!(everything(&node), before);
    let said = diagnosis(&output);
    assert!(output.status.success(), "{said:#?}");
    for check in
        ["kernel", "privileges", "bpffs", "hooks", "nftables", "state", "conflist", "forwarding"]
    {
        assert_eq!(said[check].0, "ok", "{check}: {}", said[check].1);
    }
    // A new network namespace forwards only if the host's defaults say so.
    let forwards = before[3].trim() == "1";
    assert_eq!(said["forwarding"].1.contains("net.ipv4.ip_forward"), !forwards);
}

#[test]
fn what_is_missing_fails_with_its_name_and_the_exit_status() {
    let node = Node::new("unfit");
    fs::write(node.path("state"), "a file in the place of the directory").unwrap();
    let output = doctor(&node, &node.path("elsewhere/weir"));
    assert_eq!(output.status.code(), Some(1));
    let said = diagnosis(&output);
    assert_eq!(said["bpffs"].0, "fail", "{said:#?}");
    assert!(said["bpffs"].1.contains("elsewhere"), "{said:#?}");
    assert_eq!(said["state"].0, "fail", "{said:#?}");
    assert_eq!(said["conflist"].0, "warn", "{said:#?}");
}

#[test]
fn a_configuration_that_add_refuses_fails_naming_the_file() {
    let node = Node::new("refused");
    let network = |ipam: &str| {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"weir","ipam":{ipam}}}]}}"#
        )
    };
    for (text, named) in [
        (network(r#"{"subnet":"10.88.0.0/33"}"#), "10.88.0.0/33"),
        (network(r#"{"type":"host-local"}"#), "host-local"),
        ("{".to_owned(), "is not JSON"),
    ] {
        configure(&node, "10-n.conflist", &text);
        let output = doctor(&node, &node.bpf_dir());
        assert_eq!(output.status.code(), Some(1));
        let (verdict, says) = &diagnosis(&output)["conflist"];
        assert!(verdict == "fail" && says.contains("10-n.conflist"), "{says}");
        assert!(says.contains(named), "{says}");
    }
}

#[test]
fn the_places_are_the_configurations_unless_said_otherwise() {
    let node = Node::new("places");
    fs::write(node.path("file"), "").unwrap();
    let text = serde_json::json!({
        "cniVersion": "1.0.0", "name": "n", "type": "weir", "ipam": {"subnet": "10.88.0.0/24"},
        "stateDir": node.path("file"), "bpfDir": "/proc/weir-bpf", "telemetry": {"required": true},
    });
    configure(&node, "10-n.conf", &text.to_string());
    let mut command = weir();
    command.args(["doctor", "-o", "json"]);
    let said = diagnosis(&of_node(&node, command));
    assert!(said["state"].0 == "fail" && said["bpffs"].0 == "fail", "{said:#?}");
    assert!(said["bpffs"].1.starts_with("/proc/weir-bpf"), "{said:#?}");
    assert!(said["bpffs"].1.ends_with("no pod starts (telemetry.required)"), "{said:#?}");
    assert_eq!(diagnosis(&doctor(&node, &node.bpf_dir()))["bpffs"].0, "ok");
}

#[test]
fn ranges_are_held_against_the_nodes_own_routing() {
    let node = Node::new("ranges");
    configure(&node, "10-weir.conflist", &fs::read_to_string("examples/10-weir.conflist").unwrap());
    let verdicts = || {
        let said = diagnosis(&doctor(&node, &node.bpf_dir()));
        ["address", "ranges", "unleased"].map(|check| said[check].clone())
    };
    let [address, ranges, unleased] = verdicts();
    assert_eq!([&*address.0, &*ranges.0, &*unleased.0], ["warn", "ok", "ok"]);
    for words in [
        "link add up0 type veth peer name up1",
        "address add 10.9.0.1/24 dev up0",
        "link set up0 up",
        "link set up1 up",
        "route add default via 10.9.0.2",
    ] {
        run("ip", &words.split(' ').collect::<Vec<_>>());
    }
    let [address, ranges, unleased] = verdicts();
    assert_eq!([&*address.0, &*ranges.0, &*unleased.0], ["ok", "ok", "warn"]);
    assert!(unleased.1.contains("10.88.0.0/24") && unleased.1.contains("up0"), "{}", unleased.1);
    run("ip", &["route", "add", "unreachable", "10.88.0.0/24", "metric", "4096"]);
    run("ip", &["address", "add", "10.88.0.130/25", "dev", "up0"]);
    let [_, ranges, unleased] = verdicts();
    assert_eq!([&*ranges.0, &*unleased.0], ["warn", "ok"]);
    assert!(ranges.1.contains("10.88.0.128/25") && ranges.1.contains("up0"), "{}", ranges.1);
}

#[test]
fn without_privileges_it_says_what_it_could_not_try() {
    let node = Node::new("nobody");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(env!("CARGO_BIN_EXE_weir")).args(["doctor", "-o", "json", "--state-dir"]);
    let output = of_node(&node, {
        command.arg(node.path("state"));
        command
    });
    let said = diagnosis(&output);
    assert!(said["privileges"].1.contains("CAP_NET_ADMIN"), "{said:#?}");
    for check in ["hooks", "nftables"] {
        assert_eq!(said[check].0, "warn", "{said:#?}");
        assert!(said[check].1.contains("network namespace"), "{said:#?}");
    }
}
