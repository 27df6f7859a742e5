//! ADD: what the reply says is what the kernel has, and packets flow; what fails leaves no trace.

use std::{collections::HashSet, fs, net::IpAddr, path::Path, thread};

use serde_json::{Value, json};

use crate::{
    node::talk,
    plugin::{Container, Host, ips},
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_reply_says_what_the_kernel_has() {
    let host = Host::new("reply");
    let a = host.container("a");
    let reply = host.add(&a);
    let [outside, inside] = &reply["interfaces"].as_array().unwrap()[..] else {
        panic!("{reply}");
    };
    let name = outside["name"].as_str().unwrap();
    assert!(name.starts_with("weir") && name.len() == 15, "{name}");
    assert!(outside.get("sandbox").is_none());
    assert_eq!(inside["name"], "eth0");
    assert_eq!(inside["sandbox"], a.space.path().to_str().unwrap());
    for (interface, space) in [(outside, &*host.node), (inside, &a.space)] {
        let link = &space.ip(&format!("link show {}", interface["name"].as_str().unwrap()))[0];
        assert_eq!(link["address"], interface["mac"]);
        assert_eq!(link["mtu"], interface["mtu"]);
        assert_eq!(link["operstate"], "UP");
    }
    let has = a.space.ip("addr show eth0")[0]["addr_info"].clone();
    for ip in reply["ips"].as_array().unwrap() {
        assert_eq!(ip["interface"], 1);
        let held = has.as_array().unwrap().iter().any(|held| {
            let text = format!("{}/{}", held["local"].as_str().unwrap(), held["prefixlen"]);
            ip["address"] == text
        });
        assert!(held, "{ip} is not in {has}");
    }
    assert_eq!(ips(&reply), ["10.88.0.2", "fd00:88::2"]);
    assert_eq!(reply["ips"][0]["gateway"], "10.88.0.1");
    assert_eq!(reply["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    for family in ["-4", "-6"] {
        let routes = a.space.ip(&format!("{family} route show default"));
        assert_eq!(routes[0]["dev"], "eth0");
    }
}

#[test]
fn pods_and_node_reach_one_another_in_both_families() {
    let host = Host::new("reach");
    let _world = host.node.outside();
    let (a, b) = (host.container("a"), host.container("b"));
    let (of_a, of_b) = (ips(&host.add(&a)), ips(&host.add(&b)));
    for family in 0..2 {
        assert_eq!(talk(&a.space, &b.space, address(&of_b[family])), address(&of_a[family]));
        assert_eq!(talk(&b.space, &a.space, address(&of_a[family])), address(&of_b[family]));
        talk(&host.node, &a.space, address(&of_a[family]));
        let node = address(["10.9.0.1", "fd09::1"][family]);
        assert_eq!(talk(&a.space, &host.node, node), address(&of_a[family]));
    }
}

#[test]
fn the_outside_sees_the_node_where_ip_masq_is_set_and_the_pod_elsewhere() {
    let host = Host::new("masq");
    let world = host.node.outside();
    world.succeed("ip route add 10.88.0.0/16 via 10.9.0.1");
    world.succeed("ip -6 route add fd00:88::/32 via fd09::1");
    let (masked, plain) = (host.container("masked"), host.container("plain"));
    let of_masked = ips(&host.call("ADD", Some(&masked)).key("ipMasq", json!(true)).succeed());
    let elsewhere = json!({
        "ranges": [[{"subnet": "10.88.1.0/24"}], [{"subnet": "fd00:88:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let call = host.call("ADD", Some(&plain)).key("ipam", elsewhere).key("name", json!("plain"));
    let of_plain = ips(&call.succeed());
    for (family, node) in ["10.9.0.1", "fd09::1"].into_iter().enumerate() {
        let outside = address(["10.9.0.2", "fd09::2"][family]);
        assert_eq!(talk(&masked.space, &world, outside), address(node));
        assert_eq!(talk(&plain.space, &world, outside), address(&of_plain[family]));
        // To each other they are what docs/network.md says.
        let seen = talk(&masked.space, &plain.space, address(&of_plain[family]));
        let nodes = host.node.succeed("ip -o addr");
        assert!(nodes.contains(&format!(" {seen}/")), "{seen} is none of {nodes}");
        let seen = talk(&plain.space, &masked.space, address(&of_masked[family]));
        assert_eq!(seen, address(&of_plain[family]));
    }
}

#[test]
fn every_version_gets_its_own_shape() {
    let host = Host::new("versions");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let a = host.container("a");
        let reply = host.call("ADD", Some(&a)).version(version).succeed();
        assert_eq!(reply["cniVersion"], version);
        let old = version.starts_with('0');
        for (ip, family) in reply["ips"].as_array().unwrap().iter().zip(["4", "6"]) {
            assert_eq!(ip.get("version"), old.then(|| json!(family)).as_ref(), "{reply}");
        }
        for interface in reply["interfaces"].as_array().unwrap() {
            assert_eq!(interface.get("mtu").is_some(), version == "1.1.0", "{reply}");
        }
        host.call("DEL", Some(&a)).version(version).succeed();
    }
}

#[test]
fn a_second_add_is_refused_and_the_first_lives_on() {
    let host = Host::new("repeat");
    let a = host.container("a");
    let reply = host.add(&a);
    for network in ["podnet", "other"] {
        let call = host.call("ADD", Some(&a)).key("name", json!(network));
        assert!(call.refused_without_a_trace(102).contains("eth0"));
    }
    host.check(&a, &reply).succeed();
    talk(&host.node, &a.space, address(&ips(&reply)[0]));
}

#[test]
fn a_second_interface_gets_addresses_of_its_own_and_works() {
    let host = Host::new("second");
    let (a, b) = (host.container("a"), host.container("b"));
    let first = host.add(&a);
    let second = |verb: &str, container: &Container| {
        let ranges = json!([[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]]);
        let call = host.call(verb, Some(container)).key("name", json!("second"));
        call.variable("CNI_IFNAME", "net1").key("ipam", json!({"ranges": ranges}))
    };
    let (of_a, of_b) = (second("ADD", &a).succeed(), second("ADD", &b).succeed());
    assert_eq!(ips(&of_a), ["10.99.0.2", "fd00:99::2"]);
    for (from, to) in ips(&of_a).iter().zip(ips(&of_b)) {
        assert_eq!(talk(&a.space, &b.space, address(&to)), address(from));
    }
    host.check(&a, &first).succeed();
    second("CHECK", &a).key("prevResult", of_a).succeed();
    second("DEL", &a).succeed();
    host.check(&a, &first).succeed();
    talk(&a.space, &host.node, address("192.0.2.1"));
}

#[test]
fn what_the_runtime_asks_for_is_given_in_either_spelling() {
    let host = Host::new("asked");
    for (id, runtime) in [
        ("a", json!({"ips": ["10.88.0.77/24", "fd00:88::77"], "mac": "02:00:00:00:00:77"})),
        ("b", json!({"IPs": ["10.88.0.78"], "Mac": "02:00:00:00:00:78"})),
    ] {
        let container = host.container(id);
        let call = host.call("ADD", Some(&container)).key("runtimeConfig", runtime.clone());
        let reply = call.succeed();
        assert_eq!(ips(&reply)[0], format!("10.88.0.7{}", if id == "a" { 7 } else { 8 }));
        let link = &container.space.ip("link show eth0")[0];
        assert_eq!(link["address"], runtime.get("mac").or(runtime.get("Mac")).unwrap().clone());
        host.check(&container, &reply).key("runtimeConfig", runtime).succeed();
    }
    let c = host.container("c");
    let call = host.call("ADD", Some(&c)).variable("CNI_ARGS", "IgnoreUnknown=1;IP=10.88.0.79");
    assert_eq!(ips(&call.succeed())[0], "10.88.0.79");
}

#[test]
fn a_mac_may_be_asked_for_in_three_ways_and_the_runtimes_counts() {
    let host = Host::new("macs");
    let mac = |last: &str| format!("02:00:00:00:00:{last}");
    let args = json!({"cni": {"mac": mac("a2"), "ips": ["10.88.0.32"]}});
    let runtime = json!({"MAC": mac("a3"), "ips": []});
    for (ways, last) in [(0, "a1"), (1, "a2"), (2, "a3")] {
        let a = host.container(&format!("c{ways}"));
        let environment = format!("K8S_POD_NAME=p;MAC={};IgnoreUnknown=1", mac("a1"));
        let mut call = host.call("ADD", Some(&a)).variable("CNI_ARGS", &environment);
        if ways >= 1 {
            call = call.key("args", args.clone());
        }
        if ways >= 2 {
            call = call.key("runtimeConfig", runtime.clone());
        }
        let reply = call.succeed();
        assert_eq!(a.space.ip("link show eth0")[0]["address"], mac(last).as_str());
        assert_eq!(reply["interfaces"][1]["mac"], mac(last).as_str());
        if ways >= 1 {
            assert_eq!(ips(&reply)[0], "10.88.0.32", "an empty list asks for nothing");
        }
        // It may send and be sent to by that MAC.
        for ip in ips(&reply) {
            talk(&host.node, &a.space, address(&ip));
        }
        host.check(&a, &reply).succeed();
        host.del(&a);
    }
}

#[test]
fn the_mtu_is_the_default_routes_unless_the_configuration_has_one() {
    let host = Host::new("mtu");
    let _world = host.node.outside();
    host.node.succeed("ip link set out0 mtu 1380");
    let a = host.container("a");
    let reply = host.call("ADD", Some(&a)).key("mtu", json!(0)).succeed();
    assert_eq!(reply["interfaces"][1]["mtu"], 1380);
    assert_eq!(a.space.ip("link show eth0")[0]["mtu"], 1380);
}

#[test]
fn a_pod_that_can_not_be_counted_starts_unless_counting_is_required() {
    let host = Host::new("uncounted");
    let a = host.container("a");
    // A bpfDir that is on no bpffs.
    let counted =
        |required: bool| host.call("ADD", Some(&a)).key("telemetry", json!({"required": required}));
    counted(true).refused_without_a_trace(104);
    assert!(a.space.ip("link show").as_array().unwrap().len() == 1);
    let answer = counted(false).answer();
    assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    assert!(answer.stderr.contains("uncounted"), "{}", answer.stderr);
}

#[test]
fn many_at_once_get_addresses_and_names_of_their_own() {
    let host = Host::new("many");
    let containers: Vec<_> = (0..32).map(|n| host.container(&format!("c{n}"))).collect();
    let before = host.footprint();
    let replies = at_once(&containers, |container| host.add(container));
    let unique = |texts: Vec<String>| texts.into_iter().collect::<HashSet<_>>().len();
    assert_eq!(unique(replies.iter().flat_map(ips).collect()), 64);
    let interfaces = replies.iter().flat_map(|reply| reply["interfaces"].as_array().unwrap());
    assert_eq!(unique(interfaces.map(|interface| interface["mac"].to_string()).collect()), 64);
    at_once(&containers, |container| {
        let reply = &replies[container.id[1..].parse::<usize>().unwrap()];
        host.check(container, reply).succeed();
        talk(&host.node, &container.space, address(&ips(reply)[0]));
        host.del(container);
    });
    host.footprint().assert_is(&before, "afterwards");
}

fn at_once<T: Send>(containers: &[Container], act: impl Fn(&Container) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let act = &act;
        let calls: Vec<_> =
            containers.iter().map(|container| scope.spawn(move || act(container))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

#[test]
fn a_full_range_takes_the_addresses_of_the_dead_and_of_nobody_else() {
    let host = Host::new("full");
    let small =
        json!({"subnet": "10.88.0.0/29", "rangeStart": "10.88.0.2", "rangeEnd": "10.88.0.3"});
    let add = |container: &Container| host.call("ADD", Some(container)).key("ipam", small.clone());
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    add(&a).succeed();
    add(&b).succeed();
    assert!(add(&c).refused_without_a_trace(101).contains("10.88.0.0/29"));

    // A namespace that lives on without its path is not dead.
    let held = fs::File::open(b.space.path()).unwrap();
    host.node.succeed(&format!("umount -l {}", b.space.path().display()));
    fs::remove_file(b.space.path()).unwrap();
    add(&c).refused_without_a_trace(101);
    drop(held);

    // The runtime died with the pod, and nobody called DEL.
    let gone = || host.node.links().len() == 2;
    assert!((0..500).any(|_| gone() || {
        thread::sleep(std::time::Duration::from_millis(10));
        false
    }));
    assert_eq!(ips(&add(&c).succeed()), ["10.88.0.3"]);
    assert!(!host.record(&b).exists());
    assert!(host.record(&a).exists());
}

#[test]
fn routes_without_a_default_lead_to_the_subnet() {
    let host = Host::new("subnet");
    let (a, b) = (host.container("a"), host.container("b"));
    let add = |container: &Container| {
        let ipam: Value = json!({"ranges": [[{"subnet": "10.88.0.0/24"}]]});
        ips(&host.call("ADD", Some(container)).key("ipam", ipam).succeed()).remove(0)
    };
    let (_, of_b) = (add(&a), add(&b));
    talk(&a.space, &b.space, address(&of_b));
    assert!(a.space.ip("route show default").as_array().unwrap().is_empty());
}

#[test]
fn a_second_interface_leaves_the_routes_of_the_first() {
    for routes in [json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]), json!([])] {
        let host = Host::new("twice");
        let a = host.container("a");
        let call = |verb: &str, ifname: &str| {
            let ranges = json!([[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]);
            let call = host.call(verb, Some(&a)).variable("CNI_IFNAME", ifname);
            call.key("ipam", json!({"ranges": ranges, "routes": routes}))
        };
        let first = call("ADD", "eth0").succeed();
        let before = [a.space.ip("-4 route"), a.space.ip("-6 route")];
        let second = call("ADD", "net1").succeed();
        assert_eq!(ips(&second), ["10.88.0.3", "fd00:88::3"]);
        call("CHECK", "eth0").key("prevResult", first.clone()).succeed();
        call("CHECK", "net1").key("prevResult", second).succeed();
        let through_the_gateway = |routes: &Value| {
            let routes = routes.as_array().unwrap().iter();
            routes.filter(|route| route["gateway"].is_string()).cloned().collect::<Vec<_>>()
        };
        for (family, before) in ["-4", "-6"].into_iter().zip(&before) {
            let after = a.space.ip(&format!("{family} route"));
            assert!(after.to_string().contains("net1"), "{after}");
            assert_eq!(through_the_gateway(&after), through_the_gateway(before));
        }
        call("DEL", "net1").succeed();
        call("CHECK", "eth0").key("prevResult", first).succeed();
        assert_eq!([a.space.ip("-4 route"), a.space.ip("-6 route")], before);
    }
}

#[test]
fn an_address_that_came_free_is_taken_whoever_freed_it() {
    let host = Host::new("freed");
    let small = json!({"subnet": "10.88.0.0/30"});
    let add = |container: &Container| host.call("ADD", Some(container)).key("ipam", small.clone());
    let (a, b) = (host.container("a"), host.container("b"));
    add(&a).succeed();
    // A dead pod that can't be taken away whole: a directory lies where its tcx link was pinned. Its
    // address comes free all the same, as it does where another ADD or a DEL was faster.
    let mut record: Value = serde_json::from_slice(&fs::read(host.record(&a)).unwrap()).unwrap();
    record["bootId"] = json!("another");
    record["telemetry"] = json!({"pod": 7, "mode": "tcx"});
    fs::write(host.record(&a), record.to_string()).unwrap();
    let pin = Path::new(record["bpfDir"].as_str().unwrap()).join("links/00000007_from_pod");
    fs::create_dir_all(&pin).unwrap();
    let answer = add(&b).answer();
    assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    assert!(answer.stderr.contains("can't take away container a"), "{}", answer.stderr);
    assert_eq!(host.leases("podnet"), ["10.88.0.2"]);
}
