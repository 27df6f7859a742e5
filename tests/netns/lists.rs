//! Where the network's list may be, which tells Weir of the plugins behind it: Debian's `bandwidth`, which wants
//! the qdisc slot, and `tuning`, which sets the MAC.

use std::fs;

use serde_json::{Value, json};

use crate::{
    answer::{Server, tcp},
    plugin::{Container, ips},
    references::Chain,
};

const THEIRS: &str = "02:00:00:00:00:2b";
/// Runs the rest of its words where `$1` has the list `$2`, in a mount namespace of its own: no list of this
/// machine is in sight there.
const IN_PLACE: &str = "set -e; place=$1; list=$2; shift 2
mount -t tmpfs tmpfs /mnt; cp -a /etc/. /mnt; rm -rf /mnt/cni /mnt/kubernetes
mount --move /mnt /etc; mount -t tmpfs tmpfs /var
mkdir -p $place; cp $list $place
exec \"$@\"\n";

fn chain(label: &str, keys: Value) -> Chain {
    let shaping = json!({"type": "bandwidth", "egressRate": 1_000_000, "egressBurst": 1_000_000});
    Chain::first(label, keys, json!([shaping, {"type": "tuning", "mac": THEIRS}]))
}

/// What ADD, a packet and DEL say of a pod for whose network the list is found.
fn works(chain: &Chain, pod: &Container, place: &str) {
    let none = json!({});
    let result = chain.succeed("add", pod, &none);
    assert_eq!(chain.hooks(&result), (0, 2), "{place}: the slot is bandwidth's");
    let name = result["interfaces"][0]["name"].as_str().unwrap();
    let qdiscs = chain.node().succeed(&format!("tc qdisc show dev {name}"));
    assert!(qdiscs.contains("qdisc ingress"), "{place}: {qdiscs}");
    assert_eq!(pod.space.ip("link show eth0")[0]["address"], THEIRS);
    let server = Server::new(&pod.space, "pod");
    for ip in ips(&result) {
        assert!(tcp(chain.node(), &ip, 80).is_some(), "{place}: {ip}");
    }
    drop(server);
    chain.succeed("del", pod, &none);
}

#[test]
fn a_list_is_found_where_the_runtimes_keep_theirs() {
    let mut chain = chain("places", json!({}));
    let dir = chain.counted.host.state_dir().parent().unwrap().to_owned();
    let script = dir.join("in-place");
    fs::write(&script, IN_PLACE).unwrap();
    let pod = chain.counted.host.container("a");
    // The node answers for the gateway of a pod with a MAC of its own, which takes a default route.
    let _world = chain.counted.host.node.outside();
    let mut under = |place: &str| {
        chain.under =
            format!("unshare -m sh {} {place} {}/10.conflist", script.display(), dir.display());
        chain.call("add", &pod, &json!({}))
    };
    // Where nobody looks: without the list the slot is taken when bandwidth asks for it.
    let refused = under("/etc/elsewhere");
    let said = refused["error"]["msg"].as_str().unwrap_or_default();
    assert!(said.contains("file exists"), "{refused}");
    chain.succeed("del", &pod, &json!({}));
    let before = chain.counted.host.footprint();
    for place in [
        "/etc/cni/net.d",
        "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "/var/snap/microk8s/current/args/cni-network",
        "/etc/kubernetes/cni/net.d",
        "/etc/cni/multus/net.d",
        "/etc/cni/net.d/default",
    ] {
        let words = format!("unshare -m sh {} {place}", script.display());
        chain.under = format!("{words} {}/10.conflist", dir.display());
        works(&chain, &chain.counted.host.container("b"), place);
    }
    chain.counted.host.footprint().assert_is(&before, "afterwards");
}

/// Verdict and mend of what doctor says of the lists.
fn doctor(chain: &Chain) -> Option<(String, String)> {
    let dir = chain.counted.host.state_dir();
    let dir = dir.parent().unwrap().display();
    let weir = env!("CARGO_BIN_EXE_weir");
    let places = format!("--state-dir {dir}/state --bpf-dir {dir}/bpffs/weir --conf-dir {dir}");
    let output = chain.node().command(&format!("{weir} doctor -o json {places}"));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lists = said.as_array().unwrap().iter().find(|finding| finding["check"] == "lists")?;
    let text = |key: &str| lists[key].as_str().unwrap_or_default().to_owned();
    Some((text("verdict"), text("mend")))
}

#[test]
fn a_list_elsewhere_is_found_by_conf_dir_and_doctor_tells_of_one_that_is_not() {
    let mut chain = chain("conf-dir", json!({}));
    let dir = chain.counted.host.state_dir().parent().unwrap().to_owned();
    let pod = chain.counted.host.container("a");
    let _world = chain.counted.host.node.outside();
    let none = json!({});
    chain.under = "env".to_owned();
    assert_eq!(doctor(&chain), None, "no pod, no network to look for");
    let weir = chain.plugins[0].clone();
    chain.plugins = json!([weir]);
    chain.succeed("add", &pod, &none);
    let (verdict, mend) = doctor(&chain).unwrap();
    assert!(verdict == "warn" && mend.contains("\"confDir\": \"DIR\""), "{verdict} {mend}");
    // The driver's list, which is gone when it ends.
    let keep = |chain: &Chain| {
        let list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": chain.plugins});
        fs::write(dir.join("20.conflist"), list.to_string()).unwrap();
    };
    let shaping = json!({"type": "bandwidth", "egressRate": 1_000_000, "egressBurst": 1_000_000});
    let tuning = json!({"type": "tuning", "mac": THEIRS});
    chain.plugins = json!([weir, shaping, tuning]);
    keep(&chain);
    let (verdict, mend) = doctor(&chain).unwrap();
    let expected = format!("\"confDir\": \"{}\"", dir.display());
    assert!(verdict == "warn" && mend.contains(&expected), "{verdict} {mend}");
    chain.plugins[0]["confDir"] = json!(dir);
    keep(&chain);
    let (verdict, mend) = doctor(&chain).unwrap();
    assert_eq!((&*verdict, &*mend), ("ok", ""));
    chain.succeed("del", &pod, &none);
    works(&chain, &pod, "confDir");
    fs::remove_file(dir.join("20.conflist")).unwrap();

    // A wrong one keeps no DEL from its work.
    let host = &chain.counted.host;
    let before = host.footprint();
    for wrong in [json!("net.d"), json!("/a/../b"), json!(7)] {
        let call =
            |verb: &str| chain.counted.call(verb, Some(&pod), "auto").key("confDir", wrong.clone());
        assert!(call("ADD").refused_without_a_trace(7).contains("confDir"));
        assert!(
            host.call("STATUS", None).key("confDir", wrong.clone()).refused(7).contains("confDir")
        );
        chain.counted.call("ADD", Some(&pod), "auto").succeed();
        call("DEL").succeed();
    }
    host.footprint().assert_is(&before, "afterwards");
}
