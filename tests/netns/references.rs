//! In one chain with Debian's reference plugins, by the real libcni: weir first with tuning, portmap,
//! firewall and bandwidth behind it, and weir behind ptp and bridge.

use std::{fs, net::UdpSocket, path::Path};

use serde_json::{Value, json};

use crate::{
    answer::{PATIENCE, Server, tcp},
    bandwidth::{MBIT, tcp_rate},
    counted::Counted,
    libcni::driver,
    node::Space,
    plugin::{Container, ips},
};

const REFERENCES: &str = "/usr/lib/cni";

/// A network's list on a node, which libcni is asked to run.
pub struct Chain {
    pub counted: Counted,
    pub plugins: Value,
    /// The words under which libcni runs; they say where the list is.
    pub under: String,
}

impl Chain {
    /// Weir with these keys, and plugins behind it.
    pub fn first(label: &str, keys: Value, behind: Value) -> Self {
        let counted = Counted::new(label);
        let mut weir = counted.call("ADD", None, "auto").conf().clone();
        weir.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let mut plugins = vec![weir];
        plugins.extend(behind.as_array().unwrap().clone());
        Self::new(counted, json!(plugins))
    }

    /// A plugin of that kind, whose address is host-local's to give, and weir behind it.
    fn behind(kind: &str) -> Self {
        let counted = Counted::new(kind);
        let mut weir = counted.call("ADD", None, "auto").conf().clone();
        weir.as_object_mut().unwrap().remove("ipam");
        let dir = counted.bpffs.with_file_name("host-local");
        let ranges = json!([[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]]);
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        let ipam =
            json!({"type": "host-local", "dataDir": dir, "ranges": ranges, "routes": routes});
        let first = json!({"type": kind, "bridge": "br0", "isGateway": true, "ipam": ipam});
        Self::new(counted, json!([first, weir]))
    }

    fn new(counted: Counted, plugins: Value) -> Self {
        let under = format!("env NETCONFPATH={}", counted.bpffs.parent().unwrap().display());
        Self { counted, plugins, under }
    }

    pub fn node(&self) -> &Space {
        &self.counted.host.node
    }

    /// One verb; what the driver printed.
    pub fn call(&self, verb: &str, container: &Container, capabilities: &Value) -> Value {
        self.run(verb, container, capabilities, &self.plugins)
    }

    fn run(
        &self,
        verb: &str,
        container: &Container,
        capabilities: &Value,
        plugins: &Value,
    ) -> Value {
        let dir = self.counted.bpffs.parent().unwrap();
        let (conf, cache) = (dir.join("10.conflist"), dir.join("cache"));
        let list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins});
        fs::write(&conf, list.to_string()).unwrap();
        let weir = Path::new(env!("CARGO_BIN_EXE_weir")).parent().unwrap();
        let words = [
            self.under.clone(),
            driver().display().to_string(),
            format!("-conf={} -cache={}", conf.display(), cache.display()),
            format!("-path={}:{REFERENCES}", weir.display()),
            format!("-id={} -netns={}", container.id, container.space.path().display()),
            format!("-capabilities={capabilities} {verb}"),
        ];
        let output = self.node().command(&words.join(" "));
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|err| panic!("{verb}: {err}: {output:?}"));
        fs::remove_file(&conf).unwrap();
        said
    }

    pub fn succeed(&self, verb: &str, container: &Container, capabilities: &Value) -> Value {
        let said = self.call(verb, container, capabilities);
        assert!(said.get("error").is_none(), "{verb}: {said}");
        said["result"].clone()
    }

    /// CHECK by all but Debian's portmap, which looks for its IPv4 rules among those of IPv6.
    fn check(&self, container: &Container, capabilities: &Value) -> Value {
        let mut plugins = self.plugins.as_array().unwrap().clone();
        plugins.retain(|plugin| plugin["type"] != "portmap");
        self.run("check", container, capabilities, &json!(plugins))
    }

    /// How many filters and pinned links of ours there are: clsact has the ones, tcx the others.
    pub fn hooks(&self, result: &Value) -> (usize, usize) {
        let name = result["interfaces"][0]["name"].as_str().unwrap();
        let links = fs::read_dir(self.counted.bpffs.join("weir/links"));
        let links = links.map_or(0, Iterator::count);
        (self.counted.filters(name).iter().sum(), links)
    }
}

/// Both directions between the node and the pod, as shares of a rate.
fn shares(chain: &Chain, pod: &Space, result: &Value, rate: u64) -> [f64; 2] {
    let (node, ip) = (chain.node(), ips(result)[0].parse().unwrap());
    let to_pod = tcp_rate(node, pod, ip);
    let from_pod = tcp_rate(pod, node, "192.0.2.1".parse().unwrap());
    [to_pod, from_pod].map(|is| is / rate as f64)
}

#[test]
fn all_work_behind_weir() {
    const RATE: u64 = 20 * MBIT;
    let tuning = json!({
        "type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "mtu": 1300, "promisc": true,
    });
    let shaping = json!({
        "type": "bandwidth", "ingressRate": RATE, "ingressBurst": RATE / 10,
        "egressRate": RATE, "egressBurst": RATE / 10,
    });
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let behind = json!([tuning, portmap, {"type": "firewall"}, shaping]);
    let chain = Chain::first("behind-us", json!({}), behind);
    let world = chain.counted.host.node.outside();
    let a = chain.counted.host.container("a");
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
    let asked = json!({"portMappings": [mapping]});
    // The first brings iptables' tables, the programs and the maps, which stay.
    for verb in ["add", "del"] {
        chain.succeed(verb, &a, &asked);
    }
    let before = chain.counted.host.footprint();

    let result = chain.succeed("add", &a, &asked);
    assert!(chain.check(&a, &asked).get("error").is_none());
    assert_eq!(chain.hooks(&result), (0, 2), "the slot is left to the bandwidth plugin");
    assert_eq!(a.space.ip("link show eth0")[0]["mtu"], 1300);
    let server = Server::new(&a.space, "a");
    assert!(tcp(&world, "10.9.0.1", 8080).is_some());
    assert!(tcp(chain.node(), "127.0.0.1", 8080).is_some());
    drop(server);
    for share in shares(&chain, &a.space, &result, RATE) {
        assert!((0.85..1.05).contains(&share), "{share}");
    }
    let [[sent, _], [received, _]] = chain.counted.network();
    assert!(sent > RATE / 8 && received > RATE / 8, "{sent} {received}");
    assert!(chain.check(&a, &asked).get("error").is_none());
    chain.succeed("del", &a, &asked);
    chain.counted.host.footprint().assert_is(&before, "after del");
}

#[test]
fn a_limit_that_both_are_told_of_is_the_others_to_make() {
    const RATE: u64 = 20 * MBIT;
    let capabilities = json!({"capabilities": {"bandwidth": true}});
    let mut shaping = capabilities.clone();
    shaping["type"] = json!("bandwidth");
    let chain = Chain::first("both-told", capabilities, json!([shaping]));
    let [a, b] = ["a", "b"].map(|id| chain.counted.host.container(id));
    let limit = json!({"bandwidth": {
        "ingressRate": RATE, "ingressBurst": RATE / 10, "egressRate": RATE, "egressBurst": RATE / 10,
    }});
    let result = chain.succeed("add", &a, &limit);
    assert_eq!(chain.hooks(&result), (0, 2));
    for share in shares(&chain, &a.space, &result, RATE) {
        assert!((0.85..1.05).contains(&share), "{share}");
    }
    chain.succeed("check", &a, &limit);
    // One without a limit pays nothing for it.
    let result = chain.succeed("add", &b, &json!({}));
    assert_eq!(chain.hooks(&result), (2, 2));
    for container in [&a, &b] {
        chain.succeed("del", container, &limit);
    }
}

#[test]
fn a_mac_that_tuning_sets_too_cuts_nobody_off() {
    let capabilities = json!({"capabilities": {"mac": true}});
    let mut tuning = capabilities.clone();
    tuning["type"] = json!("tuning");
    let chain = Chain::first("tuned", capabilities, json!([tuning]));
    let _world = chain.counted.host.node.outside();
    let a = chain.counted.host.container("a");
    let asked = json!({"mac": "02:00:00:00:00:2a"});
    let result = chain.succeed("add", &a, &asked);
    assert_eq!(a.space.ip("link show eth0")[0]["address"], "02:00:00:00:00:2a");
    assert!(!a.space.succeed("ip neighbour").contains("PERMANENT"), "the kernel forgets at all");
    chain.succeed("check", &a, &asked);
    let _server = Server::new(&a.space, "a");
    for ip in ips(&result) {
        assert!(tcp(chain.node(), &ip, 80).is_some(), "{ip}");
    }
    chain.succeed("check", &a, &asked);
    chain.succeed("del", &a, &asked);
}

#[test]
fn what_tuning_alone_sets_cuts_nobody_off_and_check_tolerates_it_and_no_other() {
    const THEIRS: &str = "02:00:00:00:00:2b";
    let tuning = json!({
        "type": "tuning", "mac": THEIRS, "mtu": 9000, "promisc": true, "allmulti": true,
    });
    let chain = Chain::first("untuned", json!({}), json!([tuning]));
    let world = chain.counted.host.node.outside();
    let a = chain.counted.host.container("a");
    let none = json!({});
    let result = chain.succeed("add", &a, &none);
    let link = a.space.ip("link show eth0")[0].clone();
    assert_eq!((&link["address"], &link["mtu"]), (&json!(THEIRS), &json!(9000)));
    assert_eq!((&link["promiscuity"], &link["allmulti"]), (&json!(1), &json!(1)));
    chain.succeed("check", &a, &none);
    let (_pod, _world) = (Server::new(&a.space, "a"), Server::new(&world, "world"));
    for ip in ips(&result) {
        assert!(tcp(chain.node(), &ip, 80).is_some(), "{ip}");
    }
    let own = &ips(&result)[0];
    world.succeed(&format!("ip route add {own} via 10.9.0.1"));
    assert_eq!(tcp(&a.space, "10.9.0.2", 80), Some(format!("world sees {own}")));
    // As long as the pod's interface takes: the node's end, too, has to take it.
    let _node = Server::new(chain.node(), "node");
    let longest = a.space.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&[0; 9000 - 28], "192.0.2.1:80").unwrap();
        socket.recv(&mut [0; 64])
    });
    longest.expect("the node answers the longest packet");
    chain.succeed("check", &a, &none);

    a.space.succeed("ip link set eth0 address 02:00:00:00:00:2c");
    let refused = chain.call("check", &a, &none);
    assert_eq!(refused["error"]["code"], 103, "{refused}");
    let msg = refused["error"]["msg"].as_str().unwrap();
    for word in ["02:00:00:00:00:2c instead of", THEIRS, "capability mac", "confDir"] {
        assert!(msg.contains(word), "{word}: {msg}");
    }
    chain.succeed("del", &a, &none);
}

#[test]
fn behind_ptp_and_bridge_weir_only_counts() {
    for kind in ["ptp", "bridge"] {
        let chain = Chain::behind(kind);
        let host = &chain.counted.host;
        let a = host.container("a");
        let none = json!({});
        for verb in ["add", "del"] {
            chain.succeed(verb, &a, &none);
        }
        let pins = chain.counted.pins();

        let result = chain.succeed("add", &a, &none);
        chain.succeed("check", &a, &none);
        let interfaces = result["interfaces"].as_array().unwrap();
        let veth = interfaces.iter().filter_map(|interface| interface["name"].as_str());
        let veth = veth.clone().find(|name| name.starts_with("veth")).unwrap();
        assert_eq!(chain.counted.filters(veth), [1, 1], "{kind}");
        let server = Server::new(&a.space, "a");
        for ip in ips(&result) {
            assert!(tcp(chain.node(), &ip, 80).is_some(), "{kind} {ip}");
        }
        drop(server);
        let [[sent, _], [received, _]] = chain.counted.network();
        assert!(sent > 100 && received > 100, "{kind}: {sent} {received}");
        chain.node().succeed(&format!("tc filter del dev {veth} egress"));
        let refused = chain.call("check", &a, &none);
        assert_eq!(refused["error"]["code"], 103, "{kind}: {refused}");
        chain.succeed("del", &a, &none);
        assert!(!host.record(&a).exists() && chain.counted.pins() == pins, "{kind}");
        assert!(!chain.node().links().iter().any(|link| link.starts_with("veth")), "{kind}");
        assert!(host.leases("podnet").is_empty());
    }
}

#[test]
fn what_ptp_and_bridge_said_comes_back_field_for_field() {
    for kind in ["ptp", "bridge"] {
        let chain = Chain::behind(kind);
        let host = &chain.counted.host;
        let a = host.container("a");
        let mut first = chain.plugins[0].clone();
        first["name"] = json!("podnet");
        first["cniVersion"] = json!("1.0.0");
        let said = host.call("ADD", Some(&a)).with(first.clone()).by(REFERENCES, kind).succeed();
        let call = |verb: &str| {
            let call = chain.counted.call(verb, Some(&a), "auto").without("ipam");
            call.version("1.0.0").key("prevResult", said.clone())
        };
        assert_eq!(call("ADD").succeed(), said, "{kind}");
        call("CHECK").succeed();
        // GC takes our part, and nothing of the other's.
        let gc = chain.counted.call("GC", None, "auto").without("ipam");
        gc.key("cni.dev/valid-attachments", json!([])).succeed();
        assert!(!host.record(&a).exists());
        first["prevResult"] = said.clone();
        host.call("CHECK", Some(&a)).with(first.clone()).by(REFERENCES, kind).succeed();
        call("DEL").succeed();
        host.call("DEL", Some(&a)).with(first).by(REFERENCES, kind).succeed();
    }
}
