//! `weir doctor` on the real kernel: what it says, and that it changes nothing by saying it.

use std::{collections::BTreeMap, fs, path::Path, process::Output};

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
    command.arg("--state-dir").arg(node.path("state")).arg("--conf-dir").arg(node.path("conf"));
    command.output().unwrap()
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
    fs::create_dir(node.path("conf")).unwrap();
    fs::write(node.path("conf/10-podnet.conflist"), r#"{"plugins":[{"type":"weir"}]}"#).unwrap();
    let before = everything(&node);
    let output = doctor(&node, &node.bpf_dir());
    assert_eq!(everything(&node), before);
    let said = diagnosis(&output);
    assert!(output.status.success(), "{said:#?}");
    for check in ["kernel", "privileges", "bpffs", "hooks", "nftables", "state", "conflist"] {
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
fn without_privileges_it_says_what_it_could_not_try() {
    let node = Node::new("nobody");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(env!("CARGO_BIN_EXE_weir")).args(["doctor", "-o", "json", "--state-dir"]);
    let output = command.arg(node.path("state")).output().unwrap();
    let said = diagnosis(&output);
    assert!(said["privileges"].1.contains("CAP_NET_ADMIN"), "{said:#?}");
    for check in ["hooks", "nftables"] {
        assert_eq!(said[check].0, "warn", "{said:#?}");
        assert!(said[check].1.contains("network namespace"), "{said:#?}");
    }
}
