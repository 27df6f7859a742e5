//! The plugin under the real libcni: Debian's Go library, driven by conformance/libcni.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::node::{Node, Space, talk};

/// The versions that Debian's libcni (1.1.2) speaks and weir too.
const VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];

/// The compiled driver; built once a run.
pub fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let driver = tmp.join("libcni-driver");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/libcni");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&driver)
            .arg(".")
            .current_dir(source)
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", tmp.join("go-cache"))
            .output()
            .expect("go is missing: install golang-go and golang-github-appc-cni-dev");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        driver
    })
}

/// One network on a node, with everything that it and libcni keep on disk.
pub struct Network {
    pub node: Node,
    /// Of the list `podnet.conflist`, `state`, and the bpffs `bpf`.
    pub dir: PathBuf,
}

impl Network {
    /// With Weir alone.
    pub fn new(version: &str) -> Self {
        let node = Node::new("libcni");
        node.succeed("ip addr add 192.0.2.1/32 dev lo");
        node.succeed("ip addr add 2001:db8::1/128 dev lo nodad");
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = tmp.join(node.path().file_name().unwrap());
        fs::create_dir_all(dir.join("bpf")).unwrap();
        let bpf = dir.join("bpf");
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let list = json!({
            "cniVersion": version,
            "name": "podnet",
            "plugins": [{
                "type": "weir",
                "mtu": 1400,
                "ipMasq": true,
                "ipam": {
                    "type": "weir",
                    "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
                "telemetry": {"enabled": true, "required": true},
                "stateDir": dir.join("state"),
                "bpfDir": bpf.join("weir"),
            }],
        });
        fs::write(dir.join("podnet.conflist"), list.to_string()).unwrap();
        Self { node, dir }
    }

    /// One verb for container `id`; what the driver printed, with its exit status in it.
    fn call(&self, verb: &str, id: &str, netns: &str) -> Value {
        let plugins = Path::new(env!("CARGO_BIN_EXE_weir")).parent().unwrap();
        let file = |name| self.dir.join(name).display().to_string();
        let (conf, cache) = (file("podnet.conflist"), file("cache"));
        let arguments = [
            driver().display().to_string(),
            format!("-conf={conf}"),
            format!("-cache={cache}"),
            format!("-path={}:/usr/lib/cni", plugins.display()),
            format!("-id={id}"),
            format!("-netns={netns}"),
            format!("-args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={id}"),
            verb.into(),
        ];
        let Output { status, stdout, stderr } = self.node.command(&arguments.join(" "));
        let said: Value = serde_json::from_slice(&stdout)
            .unwrap_or_else(|err| panic!("{verb}: {err}: {}", String::from_utf8_lossy(&stderr)));
        assert_eq!(status.success(), said.get("error").is_none(), "{verb}: {said}");
        said
    }

    /// A verb that must succeed.
    pub fn succeed(&self, verb: &str, id: &str, netns: &str) -> Value {
        let said = self.call(verb, id, netns);
        assert!(said.get("error").is_none(), "{verb}: {said}");
        said
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = umount2(&self.dir.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A namespace as CNI names it.
pub fn text(space: &Space) -> String {
    space.path().display().to_string()
}

impl Network {
    /// The records, and after them the leases.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in ["attachments", "leases/podnet"] {
            let entries = fs::read_dir(self.dir.join("state").join(dir)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
            names.sort();
            left.append(&mut names);
        }
        left
    }
}

/// The pod's addresses as the kernel shows them, without link-local ones.
pub fn addresses(pod: &Space) -> Vec<String> {
    let shown = pod.ip("addr show eth0 scope global");
    // ip leaves an empty object for each address that it was told not to show.
    let all = shown[0]["addr_info"].as_array().unwrap();
    all.iter().filter_map(|address| Some(address["local"].as_str()?.to_owned())).collect()
}

#[test]
fn a_pod_lives_and_dies_in_every_version() {
    for version in VERSIONS {
        let network = Network::new(version);
        let pod = network.node.pod("a");
        let netns = text(&pod);

        let result = &network.succeed("add", "c1", &netns)["result"];
        assert_eq!(result["cniVersion"], version);
        let ips = result["ips"].as_array().unwrap();
        let replied: Vec<_> = ips.iter().map(|ip| ip["address"].as_str().unwrap()).collect();
        let bare: Vec<_> = replied.iter().map(|ip| ip.split('/').next().unwrap()).collect();
        assert_eq!(addresses(&pod), bare, "{version}");
        // The 0.x shapes alone say the family.
        let families: Vec<_> = ips.iter().map(|ip| ip["version"].clone()).collect();
        let want =
            if version == "1.0.0" { [Value::Null, Value::Null] } else { ["4".into(), "6".into()] };
        assert_eq!(families, want);
        let pod_interface = result["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .find(|interface| interface["sandbox"] == netns.as_str())
            .unwrap();
        assert_eq!(pod_interface["name"], "eth0");
        assert_eq!(pod_interface["mac"], pod.ip("link show eth0")[0]["address"]);
        for ip in bare {
            talk(&network.node, &pod, ip.parse().unwrap());
        }
        assert_eq!(network.left(), ["c1@eth0", "10.88.0.2", "fd00:88::2"], "{version}");

        if version == "0.3.1" {
            // CHECK came with 0.4.0: libcni refuses by itself.
            let refused = network.call("check", "c1", &netns);
            assert!(refused["error"]["msg"].as_str().unwrap().contains("does not support"));
        } else {
            network.succeed("check", "c1", &netns);
            pod.succeed("ip addr del 10.88.0.2/32 dev eth0");
            let refused = network.call("check", "c1", &netns);
            assert_eq!(refused["error"]["code"], 103, "{refused}");
            assert!(refused["error"]["msg"].as_str().unwrap().contains("10.88.0.2"), "{refused}");
        }

        network.succeed("del", "c1", &netns);
        network.succeed("del", "c1", "");
        network.succeed("del", "c1", "");
        assert_eq!(network.node.links(), ["lo"], "{version}");
        assert_eq!(pod.links(), ["lo"]);
        assert_eq!(network.left(), Vec::<String>::new(), "{version}");
    }
}

#[test]
fn a_refusal_keeps_its_code_through_libcni() {
    let network = Network::new("1.0.0");
    let pod = network.node.pod("a");
    let refused = network.call("add", "c1", "/run/netns/weirtest-none");
    assert_eq!(refused["error"]["code"], 8, "{refused}");
    let own = text(&network.node);
    let refused = network.call("add", "c1", &own);
    assert_eq!(refused["error"]["code"], 8, "{refused}");
    pod.succeed("ip link add eth0 type veth peer name other");
    let refused = network.call("add", "c1", &text(&pod));
    assert_eq!(refused["error"]["code"], 102, "{refused}");
    assert_eq!(network.node.links(), ["lo"]);
}

#[test]
fn the_namespace_may_be_gone_before_the_first_del() {
    let network = Network::new("1.0.0");
    let pod = network.node.pod("a");
    let netns = text(&pod);
    network.succeed("add", "c1", &netns);
    drop(pod);
    network.succeed("del", "c1", &netns);
    assert_eq!(network.node.links(), ["lo"]);
    assert_eq!(network.left(), Vec::<String>::new());
    let next = network.node.pod("b");
    network.succeed("add", "c2", &text(&next));
    network.succeed("del", "c2", &text(&next));
}
