//! ADD and DEL of the network part: what the kernel shows, and whether packets flow.

use std::{net::IpAddr, path::Path, thread};

use serde_json::Value;
use weir::{
    attachment::Attachment,
    error::{Error, Kind},
    net::{self, Links, Mark, Netns, Plan, Request, Undo},
    spec::{Address, Route, capability::Bandwidth},
};

use crate::node::{Node, Space, talk};

fn attachment(id: &str) -> Attachment {
    Attachment::new(id, "eth0").unwrap()
}

/// A plan for container `id` with IPv4 and, if asked for, IPv6; both with default routes.
pub fn plan(id: &str, last: u8, ipv6: bool) -> Plan {
    let address = |text: String| Address { address: text.parse().unwrap(), gateway: None };
    let mut addresses = vec![address(format!("10.88.0.{last}/24"))];
    let mut routes = vec![Route::to("0.0.0.0/0".parse().unwrap())];
    if ipv6 {
        addresses.push(address(format!("fd00:88::{last:x}/64")));
        routes.push(Route::to("::/0".parse().unwrap()));
    }
    let request = Request {
        network: "podnet",
        attachment: &attachment(id),
        mtu: 1400,
        mac: None,
        addresses: &addresses,
        routes: &routes,
        ports: &[],
        bandwidth: Bandwidth::default(),
    };
    Plan::new(&request).unwrap()
}

/// Applies the plan as an ADD that succeeds.
pub fn add(node: &Node, pod: &Space, plan: &Plan) -> Result<Links, Error> {
    node.run(|| {
        let mut undo = Undo::new();
        let netns = Netns::open(&pod.path())?;
        let links = net::create(plan, &netns, &mut undo)?.connect()?;
        undo.disarm();
        Ok(links)
    })
}

fn remove(node: &Node, plan: &Plan, index: Option<u32>) -> Result<(), Error> {
    node.run(|| net::remove(index, &plan.mark, None))
}

#[test]
fn the_kernel_shows_what_was_planned() {
    let node = Node::new("shown");
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    let links = add(&node, &pod, &plan).unwrap();

    let host = &node.ip(&format!("link show {}", plan.mark.host_ifname))[0];
    assert_eq!(host["ifindex"], links.host_ifindex);
    assert_eq!(host["ifalias"], "weir:podnet/c1/eth0");
    assert_eq!(host["address"], plan.mark.host_mac.to_string());
    assert_eq!(host["mtu"], 1400);
    assert_eq!(host["operstate"], "UP");
    let inside = &pod.ip("addr show eth0")[0];
    assert_eq!(inside["ifindex"], links.pod_ifindex);
    assert_eq!(inside["address"], plan.pod_mac.to_string());
    assert_eq!(inside["mtu"], 1400);
    assert_eq!(inside["operstate"], "UP");
    assert_eq!(pod.ip("link show lo")[0]["flags"][1], "UP");

    let text =
        |value: &Value| format!("{}/{}", value["local"].as_str().unwrap(), value["prefixlen"]);
    let addresses = inside["addr_info"].as_array().unwrap();
    let shown: Vec<_> = addresses.iter().map(text).collect();
    let link_local = format!("{}/64", plan.pod_link_local.unwrap());
    assert_eq!(shown, ["10.88.0.5/32", "fd00:88::5/128", &link_local]);
    assert!(addresses.iter().all(|address| address["tentative"].is_null()), "{addresses:?}");
    // Ours alone: none of the kernel's own making, hence no duplicate detection either.
    let host = node.ip(&format!("addr show {}", plan.mark.host_ifname))[0]["addr_info"].clone();
    let link_local = format!("{}/128", plan.host_link_local.unwrap());
    assert_eq!(host.as_array().unwrap().iter().map(text).collect::<Vec<_>>(), [link_local]);
}

#[test]
fn routes_and_neighbours_are_as_planned() {
    let node = Node::new("routes");
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    add(&node, &pod, &plan).unwrap();

    let routes = |space: &Space, words: &str| -> Vec<String> {
        let routes = space.ip(words);
        let show = |r: &Value| match r["gateway"].as_str() {
            Some(gw) => format!(
                "{} via {gw} dev {}",
                r["dst"].as_str().unwrap(),
                r["dev"].as_str().unwrap()
            ),
            None => format!("{} dev {}", r["dst"].as_str().unwrap(), r["dev"].as_str().unwrap()),
        };
        routes.as_array().unwrap().iter().map(show).collect()
    };
    assert_eq!(
        routes(&pod, "-4 route"),
        ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0"]
    );
    let v6 = routes(&pod, "-6 route");
    assert!(v6.contains(&"default via fe80::1 dev eth0".into()), "{v6:?}");
    let host = &plan.mark.host_ifname;
    assert_eq!(routes(&node, "-4 route"), [format!("10.88.0.5 dev {host}")]);
    assert!(routes(&node, "-6 route").contains(&format!("fd00:88::5 dev {host}")));

    let neighbours = |space: &Space| -> Vec<String> {
        let all = space.ip("neigh show nud permanent");
        let show =
            |n: &Value| format!("{} {}", n["dst"].as_str().unwrap(), n["lladdr"].as_str().unwrap());
        let mut all: Vec<_> = all.as_array().unwrap().iter().map(show).collect();
        all.sort();
        all
    };
    let (host_mac, pod_mac) = (plan.mark.host_mac, plan.pod_mac);
    assert_eq!(
        neighbours(&pod),
        [format!("169.254.1.1 {host_mac}"), format!("fe80::1 {host_mac}")]
    );
    assert_eq!(
        neighbours(&node),
        [format!("10.88.0.5 {pod_mac}"), format!("fd00:88::5 {pod_mac}")]
    );
    let guard = format!("cat /proc/sys/net/ipv6/conf/{host}/accept_ra");
    assert_eq!(node.succeed(&guard).trim(), "0");
}

#[test]
fn packets_flow_in_every_direction_at_once() {
    let node = Node::new("flow");
    let (a, b) = (node.pod("a"), node.pod("b"));
    add(&node, &a, &plan("a", 5, true)).unwrap();
    add(&node, &b, &plan("b", 6, true)).unwrap();
    node.succeed("ip addr add 192.0.2.1/32 dev lo");
    node.succeed("ip addr add 2001:db8::1/128 dev lo nodad");

    for (client, server, address, seen) in [
        (&a, &b, "10.88.0.6", "10.88.0.5"),
        (&b, &a, "fd00:88::5", "fd00:88::6"),
        (&a, &*node, "192.0.2.1", "10.88.0.5"),
        (&a, &*node, "2001:db8::1", "fd00:88::5"),
        (&*node, &b, "10.88.0.6", "192.0.2.1"),
        (&*node, &b, "fd00:88::6", "2001:db8::1"),
    ] {
        let peer = talk(client, server, address.parse().unwrap());
        assert_eq!(peer, seen.parse::<IpAddr>().unwrap(), "to {address}");
    }
}

#[test]
fn strict_reverse_path_filtering_is_satisfied() {
    let node = Node::new("rpfilter");
    node.succeed("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    let (a, b) = (node.pod("a"), node.pod("b"));
    add(&node, &a, &plan("a", 5, false)).unwrap();
    add(&node, &b, &plan("b", 6, false)).unwrap();
    talk(&a, &b, "10.88.0.6".parse().unwrap());
    assert_eq!(node.succeed("cat /proc/sys/net/ipv4/conf/all/rp_filter").trim(), "1");
}

#[test]
fn ipv6_switched_off_in_the_pod_is_switched_on_for_our_interface() {
    let node = Node::new("v6off");
    let pod = node.pod("a");
    pod.succeed("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let plan = plan("a", 5, true);
    add(&node, &pod, &plan).unwrap();
    // The node has no IPv6 address of its own: it talks from its end's.
    let peer = talk(&node, &pod, "fd00:88::5".parse().unwrap());
    assert_eq!(peer, IpAddr::V6(plan.host_link_local.unwrap()));
    assert_eq!(pod.succeed("cat /proc/sys/net/ipv6/conf/lo/disable_ipv6").trim(), "1");
}

#[test]
fn the_host_side_of_an_ipv4_pod_gets_no_address_at_all() {
    let node = Node::new("v4host");
    let pod = node.pod("a");
    let plan = plan("a", 5, false);
    add(&node, &pod, &plan).unwrap();
    let name = &plan.mark.host_ifname;
    assert_eq!(node.ip(&format!("link show {name}"))[0]["inet6_addr_gen_mode"], "none");
    assert_eq!(node.ip(&format!("addr show {name}"))[0]["addr_info"], Value::Array(vec![]));
}

#[test]
fn a_link_too_small_for_ipv6_carries_ipv4() {
    let node = Node::new("small");
    node.succeed("ip addr add 192.0.2.1/32 dev lo");
    let pod = node.pod("a");
    let mut plan = plan("a", 5, false);
    plan.mtu = 1000;
    let links = add(&node, &pod, &plan).unwrap();
    talk(&node, &pod, "10.88.0.5".parse().unwrap());
    let netns = pod.path();
    let check = || net::compare(&plan, &Netns::open(&netns)?, Some(links.host_ifindex));
    node.run(check).unwrap();
}

#[test]
fn a_taken_name_is_refused_and_nothing_is_changed() {
    let node = Node::new("taken");
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    add(&node, &pod, &plan).unwrap();
    let before = (node.ip("link"), pod.ip("addr"), node.ip("route"));

    let again = add(&node, &pod, &plan).unwrap_err();
    assert_eq!(again.kind(), Kind::NameTaken);
    assert!(again.msg().contains("eth0 already exists"), "{again}");
    assert_eq!((node.ip("link"), pod.ip("addr"), node.ip("route")), before);
}

#[test]
fn a_leftover_of_our_own_is_replaced_and_a_foreign_one_is_not() {
    let node = Node::new("leftover");
    let plan = plan("c1", 5, true);
    let name = &plan.mark.host_ifname;
    let pod = node.pod("a");
    node.succeed(&format!("ip link add {name} type bridge"));
    let foreign = add(&node, &pod, &plan).unwrap_err();
    assert_eq!(foreign.kind(), Kind::Kernel);
    assert!(foreign.msg().contains("isn't this attachment's"), "{foreign}");
    assert_eq!(node.ip(&format!("link show {name}"))[0]["ifalias"], Value::Null);
    assert_eq!(node.ip(&format!("link show {name}"))[0]["operstate"], "DOWN");
    assert_eq!(pod.links(), ["lo"]);

    node.succeed(&format!("ip link set {name} alias {}", plan.mark.alias));
    add(&node, &pod, &plan).unwrap();
    assert_eq!(node.ip(&format!("link show {name}"))[0]["linkinfo"]["info_kind"], "veth");

    // A call that was killed before it could set the alias, its pod gone since.
    remove(&node, &plan, None).unwrap();
    for command in ["ip link add {} type bridge", "ip link set {} address MAC"] {
        let mac = plan.mark.host_mac.to_string();
        node.succeed(&command.replace("{}", name).replace("MAC", &mac));
    }
    add(&node, &pod, &plan).unwrap();
    assert_eq!(node.ip(&format!("link show {name}"))[0]["ifalias"], plan.mark.alias.as_str());
}

#[test]
fn an_address_in_use_is_named_and_rolled_back() {
    let node = Node::new("inuse");
    node.succeed("ip addr add 192.0.2.1/32 dev lo");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let first = plan("first", 5, true);
    add(&node, &a, &first).unwrap();
    let before = node.ip("link");

    let second = plan("second", 5, true);
    let netns = b.path();
    let refused = node.run(|| {
        let mut undo = Undo::new();
        let netns = Netns::open(&netns).unwrap();
        net::create(&second, &netns, &mut undo).unwrap().connect().unwrap_err()
    });
    assert_eq!(refused.kind(), Kind::Kernel);
    assert!(refused.msg().contains("10.88.0.5 is in use"), "{refused}");
    assert!(refused.msg().contains("weir:podnet/first/eth0"), "{refused}");
    assert_eq!(node.ip("link"), before);
    assert_eq!(b.links(), ["lo"]);
    talk(&node, &a, "10.88.0.5".parse().unwrap());
}

#[test]
fn removal_goes_by_alias_and_repeats() {
    let node = Node::new("removal");
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    let links = add(&node, &pod, &plan).unwrap();

    // Another attachment's record names our index, or our name: it must not take our link.
    let stranger = crate::net_apply::plan("c2", 6, true);
    remove(&node, &stranger, Some(links.host_ifindex)).unwrap();
    node.run(|| net::remove(None, &Mark::new("other", &attachment("c1")), None)).unwrap();
    assert_eq!(pod.links(), ["lo", "eth0"]);

    node.succeed(&format!("ip link set {} name elsewhere", plan.mark.host_ifname));
    for _ in 0..3 {
        remove(&node, &plan, Some(links.host_ifindex)).unwrap();
    }
    assert_eq!(node.links(), ["lo"]);
    assert_eq!(pod.links(), ["lo"]);
    assert_eq!(node.ip("-4 route"), Value::Array(vec![]));
}

#[test]
fn the_hosts_own_namespace_is_never_a_pod() {
    let node = Node::new("own");
    let own = node.path();
    let refused = node.run(|| Netns::open(&own).unwrap_err());
    assert_eq!(refused.kind(), Kind::Netns);
    assert!(refused.msg().contains("the host's own"), "{refused}");
    let gone = node.run(|| Netns::open(Path::new("/run/netns/weirtest-none")).unwrap_err());
    assert_eq!(gone.kind(), Kind::Netns);
}

#[test]
fn many_at_once_all_pass_the_check_straight_after() {
    let node = Node::new("many");
    let pods: Vec<_> = (2..66).map(|last| (last, node.pod("p"))).collect();
    let plans: Vec<_> = thread::scope(|scope| {
        let add = |last: u8, pod| {
            let plan = plan(&format!("c{last}"), last, true);
            let links = add(&node, pod, &plan).unwrap();
            let check =
                || net::compare(&plan, &Netns::open(&pod.path())?, Some(links.host_ifindex));
            node.run(check).unwrap();
            plan
        };
        let handles: Vec<_> =
            pods.iter().map(|(last, pod)| scope.spawn(move || add(*last, pod))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!(node.links().len(), 1 + plans.len());
    node.succeed("ip addr add 192.0.2.1/32 dev lo");
    for (last, pod) in &pods[..3] {
        talk(&node, pod, format!("10.88.0.{last}").parse().unwrap());
    }
    thread::scope(|scope| {
        plans.iter().for_each(|plan| {
            scope.spawn(|| remove(&node, plan, None).unwrap());
        });
    });
    assert_eq!(node.links(), ["lo"]);
}

#[test]
fn what_a_route_asks_for_reaches_the_kernel() {
    let node = Node::new("metrics");
    let pod = node.pod("a");
    let address = Address { address: "10.88.0.5/24".parse().unwrap(), gateway: None };
    let route = Route {
        mtu: Some(1300),
        advmss: Some(1200),
        priority: Some(7),
        table: Some(1000),
        ..Route::to("203.0.113.0/24".parse().unwrap())
    };
    let request = Request {
        network: "podnet",
        attachment: &attachment("a"),
        mtu: 1400,
        mac: "02:00:00:00:00:05".parse().ok(),
        addresses: &[address],
        routes: &[route],
        ports: &[],
        bandwidth: Bandwidth::default(),
    };
    let plan = Plan::new(&request).unwrap();
    let links = add(&node, &pod, &plan).unwrap();
    let route = &pod.ip("route show table 1000")[0];
    assert_eq!(route["dst"], "203.0.113.0/24");
    assert_eq!(route["gateway"], "169.254.1.1");
    assert_eq!(route["metric"], 7);
    assert_eq!(route["metrics"][0], serde_json::json!({"mtu": 1300, "advmss": 1200}));
    assert_eq!(pod.ip("link show eth0")[0]["address"], "02:00:00:00:00:05");
    let netns = pod.path();
    let check = || net::compare(&plan, &Netns::open(&netns)?, Some(links.host_ifindex));
    node.run(check).unwrap();
    pod.succeed("ip route del 203.0.113.0/24 table 1000");
    let err = node.run(check).unwrap_err();
    assert!(err.msg().contains("route to 203.0.113.0/24 via 169.254.1.1 is missing"), "{err}");
}

#[test]
fn the_mtu_follows_the_default_routes() {
    let node = Node::new("mtu");
    assert_eq!(node.run(net::default_mtu).unwrap(), 1500);
    let world = node.outside();
    node.succeed("ip link set out0 mtu 9000");
    assert_eq!(node.run(net::default_mtu).unwrap(), 9000);
    node.succeed("ip link add tun0 mtu 1420 type veth peer name tun1");
    node.succeed("ip link set tun1 up");
    node.succeed("ip link set tun0 up");
    node.succeed("ip route add default dev tun0 metric 5");
    assert_eq!(node.run(net::default_mtu).unwrap(), 9000, "metric 0 wins");
    node.succeed("ip -6 route add default dev tun0 metric 1");
    assert_eq!(node.run(net::default_mtu).unwrap(), 1420, "IPv6 leads through tun0");
    node.succeed("ip -6 route del default dev tun0 metric 1");
    node.succeed("ip route add blackhole 192.0.2.0/24");
    node.succeed("ip -6 route add unreachable 2001:db8::/32");
    assert_eq!(node.run(net::default_mtu).unwrap(), 9000, "documentation prefixes are filtered");
    node.succeed("ip link set out0 mtu 1000");
    assert_eq!(node.run(net::default_mtu).unwrap(), 1280, "the least for IPv6");
    drop(world);
}
