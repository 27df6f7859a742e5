//! CHECK of the network part: each thing that can be taken away is missed by its name.

use weir::{
    error::{Error, Kind},
    net::{self, Netns, Plan},
};

use crate::{
    net_apply::{add, plan},
    node::{Node, Space},
};

fn check(node: &Node, pod: &Space, plan: &Plan, index: Option<u32>) -> Result<(), Error> {
    node.run(|| net::compare(plan, &Netns::open(&pod.path())?, index))
}

/// Breaks one thing on a fresh pod and returns what CHECK says; `HOST` stands for the host side.
fn after(label: &str, command: &str, in_pod: bool) -> String {
    let node = Node::new(label);
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    let links = add(&node, &pod, &plan).unwrap();
    check(&node, &pod, &plan, Some(links.host_ifindex)).unwrap();
    let command = command.replace("HOST", &plan.mark.host_ifname);
    if in_pod {
        pod.succeed(&command)
    } else {
        node.succeed(&command)
    };
    let err = check(&node, &pod, &plan, Some(links.host_ifindex)).expect_err(&command);
    assert_eq!(err.kind(), Kind::Difference, "{err}");
    err.msg().replace(&plan.mark.host_ifname, "HOST")
}

#[test]
fn what_is_missing_on_the_node_is_named() {
    for (command, said) in [
        ("ip link del HOST", "interface HOST is missing on the node"),
        ("ip link set HOST down", "interface HOST on the node is down"),
        ("ip link set HOST alias other", "has alias \"other\" instead of \"weir:podnet/c1/eth0\""),
        ("ip link set HOST mtu 1300", "interface HOST on the node has mtu 1300, not 1400"),
        ("ip route del 10.88.0.5", "route to 10.88.0.5/32 is missing on the node"),
        ("ip -6 route del fd00:88::5", "route to fd00:88::5/128 is missing on the node"),
        ("ip route replace 10.88.0.5/32 dev lo", "route to 10.88.0.5/32 on the node leads away"),
        ("ip neigh del 10.88.0.5 dev HOST", "neighbour 10.88.0.5 of the node is missing"),
        ("ip neigh del fd00:88::5 dev HOST", "neighbour fd00:88::5 of the node is missing"),
        ("sysctl -qw net.ipv4.ip_forward=0", "ipv4/ip_forward is 0 and should be 1"),
        ("sysctl -qw net.ipv6.conf.HOST.accept_ra=2", "HOST/accept_ra is 2 and should be 0"),
    ] {
        let is = after("onnode", command, false);
        assert!(is.contains(said), "{command}: {is}");
    }
}

#[test]
fn what_is_missing_in_the_pod_is_named() {
    for (command, said) in [
        ("ip link set eth0 name eth9", "interface eth0 is missing in the pod"),
        ("ip link set eth0 down", "interface eth0 in the pod is down"),
        ("ip link set eth0 address 02:00:00:00:00:09", "has mac 02:00:00:00:00:09 instead of"),
        ("ip link set eth0 mtu 1500", "interface eth0 in the pod has mtu 1500, above 1400"),
        ("ip addr del 10.88.0.5/32 dev eth0", "address 10.88.0.5 is missing on eth0"),
        ("ip addr del fd00:88::5/128 dev eth0", "address fd00:88::5 is missing on eth0"),
        ("ip route del default", "route to 0.0.0.0/0 via 169.254.1.1 is missing in the pod"),
        ("ip -6 route del default", "route to ::/0 via fe80::1 is missing in the pod"),
        ("ip neigh del 169.254.1.1 dev eth0", "neighbour 169.254.1.1 of the pod is missing"),
        ("ip neigh change fe80::1 lladdr 02:00:00:00:00:09 dev eth0", "fe80::1 of the pod is at"),
    ] {
        let is = after("inpod", command, true);
        assert!(is.contains(said), "{command}: {is}");
    }
}

#[test]
fn ipv6_on_the_link_of_a_pod_without_it_is_named() {
    let node = Node::new("onlyfour");
    let pod = node.pod("a");
    let plan = plan("c1", 5, false);
    let links = add(&node, &pod, &plan).unwrap();
    check(&node, &pod, &plan, Some(links.host_ifindex)).unwrap();
    // No route of the kernel's for it, that every further link would be looked for behind.
    let host = &plan.mark.host_ifname;
    let routes = node.succeed(&format!("ip -6 route show table all dev {host}"));
    assert_eq!(routes.trim(), "");
    node.succeed(&format!("sysctl -qw net.ipv6.conf.{host}.disable_ipv6=0"));
    let err = check(&node, &pod, &plan, Some(links.host_ifindex)).unwrap_err();
    assert!(err.msg().contains("disable_ipv6 is 0 and should be 1"), "{err}");
}

#[test]
fn what_later_plugins_add_is_tolerated() {
    let node = Node::new("later");
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    let links = add(&node, &pod, &plan).unwrap();
    for command in [
        "ip addr add 10.99.0.1/24 dev eth0",
        "ip addr add fd99::1/64 dev eth0",
        "ip route add 203.0.113.0/24 via 169.254.1.1",
        "ip link add extra0 type veth peer name extra1",
        "ip link set eth0 mtu 1300",
        "ip rule add from 10.99.0.1 lookup 100",
        "sysctl -qw net.ipv4.conf.eth0.arp_notify=1",
    ] {
        pod.succeed(command);
    }
    let host = &plan.mark.host_ifname;
    node.succeed(&format!("ip addr add 10.88.0.1/32 dev {host}"));
    node.succeed(&format!("tc qdisc add dev {host} root tbf rate 1gbit burst 64kb latency 50ms"));
    check(&node, &pod, &plan, Some(links.host_ifindex)).unwrap();
    check(&node, &pod, &plan, None).unwrap();
}

#[test]
fn another_pods_interface_is_not_taken_for_ours() {
    let node = Node::new("swapped");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let (first, second) = (plan("c1", 5, true), plan("c2", 6, true));
    let links = add(&node, &a, &first).unwrap();
    let other = add(&node, &b, &second).unwrap();
    let err = check(&node, &b, &first, Some(links.host_ifindex)).unwrap_err();
    assert!(err.msg().contains("is not the peer of"), "{err}");
    let err = check(&node, &a, &first, Some(other.host_ifindex)).unwrap_err();
    assert!(err.msg().contains("has alias"), "{err}");
}

#[test]
fn routes_that_a_later_plugin_moved_to_its_own_table_are_found_there() {
    let node = Node::new("moved");
    let pod = node.pod("a");
    let plan = plan("c1", 5, true);
    let links = add(&node, &pod, &plan).unwrap();
    // As sbr does, with a rule that leads there.
    for command in [
        "ip route add 169.254.1.1 dev eth0 scope link table 100",
        "ip route add default via 169.254.1.1 dev eth0 table 100",
        "ip route del default",
        "ip -6 route add default via fe80::1 dev eth0 table 100",
        "ip -6 route del default",
    ] {
        pod.succeed(command);
    }
    check(&node, &pod, &plan, Some(links.host_ifindex)).unwrap();
    pod.succeed("ip -6 route del default table 100");
    let err = check(&node, &pod, &plan, Some(links.host_ifindex)).unwrap_err();
    assert!(err.msg().contains("route to ::/0 via fe80::1 is missing in the pod"), "{err}");
}
