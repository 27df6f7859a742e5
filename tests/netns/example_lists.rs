//! The lists of the examples that have Weir behind another plugin, run by libcni with Debian's plugins.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    libcni::{Network, addresses, text},
    node::talk,
};

/// The example on a node of the test's own: state, leases and pins below the test's directory.
fn network(example: &str) -> Network {
    let mut network = Network::new("1.0.0");
    network.ports = false;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
    let mut list: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let dir = &network.dir;
    for plugin in list["plugins"].as_array_mut().unwrap() {
        let kind = plugin["type"].as_str().unwrap().to_owned();
        if kind == "flannel" {
            *plugin = delegated_by_flannel(plugin);
        }
        if kind == "weir" {
            plugin["stateDir"] = json!(dir.join("state"));
            plugin["bpfDir"] = json!(dir.join("bpf/weir"));
            plugin["telemetry"] = json!({"enabled": true, "required": true});
        }
        if plugin["ipam"]["type"] == "host-local" {
            plugin["ipam"]["dataDir"] = json!(dir.join("leases"));
        }
    }
    fs::write(dir.join("podnet.conflist"), list.to_string()).unwrap();
    network
}

/// What flannel's plugin makes of its configuration and of the subnet that its daemon has for the
/// node, and calls the bridge plugin with. It is no package of Debian's.
fn delegated_by_flannel(plugin: &Value) -> Value {
    let mut delegate = plugin["delegate"].clone();
    delegate["type"] = json!("bridge");
    delegate["ipMasq"] = json!(false);
    delegate["mtu"] = json!(1450);
    delegate["ipam"] = json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24"}]],
    });
    delegate
}

/// What `weir pods` lists.
fn pods(network: &Network) -> Vec<Value> {
    let dir = network.dir.display();
    let listed = network.node.succeed(&format!(
        "{} pods -o json --state-dir {dir}/state --bpf-dir {dir}/bpf/weir",
        env!("CARGO_BIN_EXE_weir"),
    ));
    serde_json::from_str(&listed).unwrap()
}

#[test]
fn every_list_gives_pods_a_network_and_counts_them() {
    for (example, families) in [("10-weir-after-ptp.conflist", 2), ("10-flannel-weir.conflist", 1)]
    {
        let network = network(example);
        let (a, b) = (network.node.pod("a"), network.node.pod("b"));
        for (id, pod) in [("c1", &a), ("c2", &b)] {
            network.succeed("add", id, &text(pod));
            assert_eq!(addresses(pod).len(), families, "{example}");
            network.succeed("check", id, &text(pod));
        }
        talk(&a, &b, addresses(&b)[0].parse().unwrap());
        let pods = pods(&network);
        let counted: Vec<_> = pods.iter().map(|pod| &pod["telemetry"]).collect();
        assert_eq!(counted, ["counted", "counted"], "{example}: {pods:?}");
        for (id, pod) in [("c1", &a), ("c2", &b)] {
            network.succeed("del", id, &text(pod));
            assert_eq!(pod.links(), ["lo"], "{example}");
        }
        assert!(self::pods(&network).iter().all(|pod| pod["telemetry"] != "counted"));
    }
}
