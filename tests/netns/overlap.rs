//! A range that reaches over a network of the node's own: the node keeps its addresses and its
//! gateways, whoever asks for them.

use std::fs;

use serde_json::{Value, json};

use crate::{
    node::talk,
    plugin::{Container, Host, ips},
};

/// The node's own networks, 10.9.0.1/24 and fd09::1/64, as ranges.
fn over_the_nodes_own(gateway: &str) -> Value {
    json!({"ranges": [
        [{"subnet": "10.9.0.0/24", "gateway": gateway}],
        [{"subnet": "fd09::/64", "gateway": "fd09::ff"}],
    ]})
}

fn add(host: &Host, container: &Container) -> Vec<String> {
    let call = host.call("ADD", Some(container)).key("ipam", over_the_nodes_own("10.9.0.254"));
    ips(&call.succeed())
}

#[test]
fn the_nodes_own_addresses_and_next_hops_are_passed_over() {
    let host = Host::new("overlap");
    let _world = host.node.outside();
    let routes = |family: &str| host.node.succeed(&format!("ip {family} route show default"));
    let before = [routes("-4"), routes("-6")];
    let a = host.container("a");
    // .1 is the node, .2 its gateway.
    assert_eq!(add(&host, &a), ["10.9.0.3", "fd09::3"]);
    assert_eq!([routes("-4"), routes("-6")], before);
    for gateway in ["10.9.0.2", "fd09::2"] {
        let way = host.node.ip(&format!("route get {gateway}"));
        assert_eq!(way[0]["dev"], "out0", "{way}");
    }
    // Hops of a multipath route, of a route to elsewhere, and of IPv4 by way of IPv6.
    host.node.succeed(
        "ip route add 203.0.113.0/24 nexthop via 10.9.0.4 dev out0 nexthop via 10.9.0.5 dev out0",
    );
    host.node.succeed("ip route add 198.51.100.0/24 via inet6 fd09::4 dev out0");
    host.node.succeed("ip -6 route add 2001:db8:1::/48 via fd09::5 dev out0");
    let b = host.container("b");
    assert_eq!(add(&host, &b), ["10.9.0.6", "fd09::6"]);
}

#[test]
fn an_address_that_the_node_routes_elsewhere_is_passed_over() {
    let host = Host::new("routed");
    let _world = host.node.outside();
    host.node.succeed("ip route add 10.88.0.2/32 dev out0");
    host.node.succeed("ip route add 10.88.0.3/32 via 10.9.0.2");
    // What refuses the whole range where no pod has an address is no pod's route.
    host.node.succeed("ip route add unreachable 10.88.0.0/24");
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    let asks = host.call("ADD", Some(&a)).key("runtimeConfig", json!({"ips": ["10.88.0.2"]}));
    let message = asks.refused_without_a_trace(101);
    assert!(message.contains("10.88.0.2") && message.contains("out0"), "{message}");
    assert_eq!(a.space.links(), ["lo"]);
    assert_eq!(ips(&host.add(&a)), ["10.88.0.4", "fd00:88::2"]);

    // A range of which nothing else is left.
    let full = json!({"subnet": "10.88.0.0/29", "rangeEnd": "10.88.0.4"});
    host.call("STATUS", None).key("ipam", full.clone()).refused(50);
    let message = host.call("ADD", Some(&b)).key("ipam", full).refused_without_a_trace(101);
    assert!(message.contains("10.88.0.3") && message.contains("out0"), "{message}");
}

#[test]
fn the_living_keep_their_addresses_when_the_state_dir_is_lost() {
    let host = Host::new("lost-leases");
    let wide = json!({
        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let add = |container: &Container, ip: Option<&str>| {
        let asked: Vec<_> = ip.into_iter().collect();
        let call = host.call("ADD", Some(container)).key("ipam", wide.clone());
        call.key("runtimeConfig", json!({"ips": asked}))
    };
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| host.container(id));
    let living = [&a, &b].map(|pod| ips(&add(pod, None).succeed()));
    assert_eq!(living, [["10.88.0.2", "fd00:88::2"], ["10.88.0.3", "fd00:88::3"]]);
    // As many as a node may have, in a row.
    let more = (4..1004).map(|n| format!("route add 10.88.{}.{}/32 dev lo\n", n / 256, n % 256));
    let batch = host.state_dir().with_file_name("routes");
    fs::write(&batch, more.collect::<String>()).unwrap();
    host.node.succeed(&format!("ip -batch {}", batch.display()));
    fs::remove_dir_all(host.state_dir()).unwrap();
    assert_eq!(ips(&add(&c, None).succeed()), ["10.88.3.236", "fd00:88::4"]);
    assert_eq!(ips(&add(&d, None).succeed()), ["10.88.3.237", "fd00:88::5"]);
    for (pod, ips) in [&a, &b].into_iter().zip(&living) {
        for ip in ips {
            talk(&host.node, &pod.space, ip.parse().unwrap());
        }
    }
    // The ids of one of them in a new namespace have its address, as before: its interface is replaced.
    let again = Container { id: "a".into(), space: host.node.pod("again") };
    assert_eq!(ips(&add(&again, Some("10.88.0.2")).succeed())[0], "10.88.0.2");
    assert_eq!(a.space.links(), ["lo"]);
    let message = add(&host.container("e"), Some("10.88.0.3")).refused_without_a_trace(101);
    assert!(message.contains("10.88.0.3 is in use"), "{message}");
}

#[test]
fn a_lease_that_was_lost_costs_no_other_pod_its_add() {
    let host = Host::new("lost-lease");
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    let result = host.add(&a);
    let leases = host.state_dir().join("leases/podnet");
    // Nor is it the one given last any more.
    for name in ["10.88.0.2", "lock"] {
        fs::remove_file(leases.join(name)).unwrap();
    }
    assert_eq!(ips(&host.add(&b)), ["10.88.0.3", "fd00:88::3"]);
    host.check(&a, &result).refused(103);
}

#[test]
fn they_are_refused_to_who_asks_for_them() {
    let host = Host::new("overlap-asked");
    let _world = host.node.outside();
    let a = host.container("a");
    for (ip, why) in [
        ("10.9.0.1", "is the node's own"),
        ("fd09::1", "is the node's own"),
        ("10.9.0.255", "is in none"),
        ("10.9.0.2", "is the next hop of"),
        ("fd09::2", "is the next hop of"),
    ] {
        let call = host.call("ADD", Some(&a)).key("ipam", over_the_nodes_own("10.9.0.254"));
        let answer = call.variable("CNI_ARGS", &format!("IP={ip}")).answer();
        let error: Value = serde_json::from_str(&answer.stdout).unwrap();
        let message = error["msg"].as_str().unwrap();
        assert!(message.contains(ip) && message.contains(why), "{message}");
    }
    let call = host.call("ADD", Some(&a)).key("ipam", over_the_nodes_own("10.9.0.254"));
    call.variable("CNI_ARGS", "IP=10.9.0.2").refused_without_a_trace(101);
}

#[test]
fn a_range_of_nothing_else_is_full_and_says_why() {
    let host = Host::new("overlap-all");
    let _world = host.node.outside();
    host.node.succeed("ip route add local 10.66.0.0/16 dev lo");
    let a = host.container("a");
    let call = |verb: &str, container| {
        host.call(verb, container).key("ipam", json!({"subnet": "10.66.0.0/16"}))
    };
    let message = call("ADD", Some(&a)).refused_without_a_trace(101);
    assert!(message.contains("10.66.0.0/16") && message.contains("the node's own"), "{message}");
    // STATUS takes a network without a directory for one without leases.
    let b = host.container("b");
    host.add(&b);
    call("STATUS", None).refused_without_a_trace(50);
}

#[test]
fn another_ipam_plugin_is_not_believed() {
    let host = Host::new("overlap-delegated");
    let _world = host.node.outside();
    let a = host.container("a");
    let data = host.state_dir().with_file_name("host-local");
    let ranges = json!([[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.2"}]]);
    let ipam = json!({"type": "host-local", "dataDir": data, "ranges": ranges});
    let call = host.call("ADD", Some(&a)).key("ipam", ipam).version("1.0.0");
    let message = call.refused(7);
    assert!(message.contains("10.9.0.2 of host-local is the next hop"), "{message}");
    assert!(!data.join("podnet/10.9.0.2").exists() && !host.record(&a).exists());
    assert_eq!(host.node.ip("route get 10.9.0.2")[0]["dev"], "out0");
}

#[test]
fn status_tells_of_the_overlap() {
    let host = Host::new("overlap-status");
    let _world = host.node.outside();
    let said = |ipam: Value| {
        let answer = host.call("STATUS", None).key("ipam", ipam).answer();
        assert_eq!((answer.code, &*answer.stdout), (Some(0), ""));
        answer.stderr
    };
    let stderr = said(over_the_nodes_own("10.9.0.254"));
    assert!(stderr.contains("range 10.9.0.0/24 overlaps 10.9.0.0/24"), "{stderr}");
    assert!(stderr.contains("range fd09::/64 overlaps") && stderr.contains("on out0"), "{stderr}");
    let wider = said(json!({"subnet": "10.0.0.0/8"}));
    assert!(wider.contains("range 10.0.0.0/8 overlaps 10.9.0.0/24"), "{wider}");
    host.add(&host.container("a"));
    assert_eq!(said(host.conf()["ipam"].clone()), "");
}

#[test]
fn a_route_to_nowhere_for_the_range_stops_packets_to_nobody_and_no_others() {
    let host = Host::new("overlap-nowhere");
    let world = host.node.outside();
    for range in ["10.88.0.0/24", "fd00:88::/64"] {
        host.node.succeed(&format!("ip route add unreachable {range} metric 4096"));
    }
    let (a, b) = (host.container("a"), host.container("b"));
    let before = host.footprint();
    let (of_a, of_b) = (host.add(&a), host.add(&b));
    host.check(&a, &of_a).succeed();
    for ip in ips(&of_b) {
        talk(&a.space, &b.space, ip.parse().unwrap());
        talk(&host.node, &b.space, ip.parse().unwrap());
    }
    world.succeed("ip route add 10.88.0.0/24 via 10.9.0.1");
    talk(&a.space, &world, "10.9.0.2".parse().unwrap());
    let nobody = std::net::SocketAddr::from(([10, 88, 0, 77], 80));
    let wait = std::time::Duration::from_secs(5);
    let refused = a.space.run(|| std::net::TcpStream::connect_timeout(&nobody, wait)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable, "{refused}");
    host.del(&a);
    host.del(&b);
    host.footprint().assert_is(&before, "afterwards");
}
