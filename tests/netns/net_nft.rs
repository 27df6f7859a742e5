//! Masquerade: the table as `nft` shows it, and the addresses that the outside sees.

use std::{net::IpAddr, thread};

use ipnetwork::IpNetwork;
use weir::{error::Kind, net::nft};

use crate::{
    net_apply::{add, plan},
    node::{Node, talk},
};

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ensure(node: &Node, texts: &[&str]) {
    node.run(|| nft::masquerade_ensure(&networks(texts))).unwrap();
    node.run(|| nft::masquerade_check(&networks(texts))).unwrap();
}

/// The table's text with its white space evened out.
fn table(node: &Node) -> String {
    let text = node.succeed("nft list table inet weir");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const RULES: &str = "chain postrouting { type nat hook postrouting priority srcnat; policy accept; \
     ip saddr @masquerade4 ip daddr != @masquerade4 ip daddr != 224.0.0.0/4 masquerade comment \
     \"weir: IPv4 from pod networks to elsewhere\" \
     ip6 saddr @masquerade6 ip6 daddr != @masquerade6 ip6 daddr != ff00::/8 masquerade comment \
     \"weir: IPv6 from pod networks to elsewhere\" }";

#[test]
fn nft_shows_sets_and_constant_rules() {
    let node = Node::new("nft");
    ensure(&node, &["10.88.0.0/24", "fd00:88::/64"]);
    let first = table(&node);
    assert!(first.contains("elements = { 10.88.0.0/24 }"), "{first}");
    assert!(first.contains("elements = { fd00:88::/64 }"), "{first}");
    let rules = first.replace("meta nfproto ipv4 ", "").replace("meta nfproto ipv6 ", "");
    assert!(rules.contains(RULES), "{first}");

    ensure(&node, &["10.88.0.0/24", "fd00:88::/64"]);
    assert_eq!(table(&node), first, "a repetition changes nothing");
    ensure(&node, &["10.88.1.0/24", "255.255.255.0/24"]);
    let second = table(&node);
    assert!(second.contains("{ 10.88.0.0/24, 10.88.1.0/24, 255.255.255.0/24 }"), "{second}");
}

#[test]
fn overlapping_networks_become_the_wider_one() {
    let node = Node::new("overlap");
    ensure(&node, &["10.1.0.0/16", "fd00:1::/32"]);
    ensure(&node, &["10.2.0.0/16"]);
    ensure(&node, &["10.1.7.0/24"]);
    assert!(table(&node).contains("{ 10.1.0.0/16, 10.2.0.0/16 }"), "{}", table(&node));
    ensure(&node, &["10.0.0.0/8", "fd00::/8"]);
    let wide = table(&node);
    assert!(wide.contains("{ 10.0.0.0/8 }") && wide.contains("{ fd00::/8 }"), "{wide}");
    ensure(&node, &["10.2.0.0/16", "0.0.0.0/0", "10.3.0.0/16"]);
    assert!(table(&node).contains("0.0.0.0/0"), "{}", table(&node));
}

#[test]
fn first_calls_at_once_make_one_table() {
    for round in 0..10 {
        let node = Node::new("race");
        let subnets: Vec<_> = (0..32).map(|n| format!("10.{round}.{n}.0/24")).collect();
        let calls = |subnet: &String| node.run(|| nft::masquerade_ensure(&networks(&[subnet])));
        thread::scope(|scope| {
            let handles: Vec<_> =
                subnets.iter().map(|subnet| scope.spawn(move || calls(subnet))).collect();
            handles.into_iter().for_each(|handle| handle.join().unwrap().unwrap());
        });
        let all: Vec<_> = subnets.iter().map(String::as_str).collect();
        node.run(|| nft::masquerade_check(&networks(&all))).unwrap();
        assert_eq!(table(&node).matches(" masquerade comment").count(), 2, "{}", table(&node));
    }
}

#[test]
fn what_others_deleted_is_noticed_and_mended() {
    let subnets = ["10.88.0.0/24", "fd00:88::/64"];
    for (command, said) in [
        ("nft flush ruleset", "nftables set inet weir masquerade4 is missing"),
        ("nft flush chain inet weir postrouting", "the masquerade rule of masquerade4"),
        (
            "nft delete element inet weir masquerade6 { fd00:88::/64 }",
            "fd00:88::/64 in nftables set",
        ),
    ] {
        let node = Node::new("mended");
        ensure(&node, &subnets);
        node.succeed(command);
        let err = node.run(|| nft::masquerade_check(&networks(&subnets))).unwrap_err();
        assert_eq!(err.kind(), Kind::Difference);
        assert!(err.msg().contains(said), "{command}: {err}");
    }
    let node = Node::new("mended");
    ensure(&node, &subnets);
    for command in ["nft flush table inet weir", "nft delete set inet weir masquerade4"] {
        node.succeed(command);
    }
    ensure(&node, &subnets);
}

#[test]
fn foreign_tables_stay_as_they_are() {
    let node = Node::new("foreign");
    node.succeed("nft add table inet other");
    node.succeed(
        "nft add chain inet other postrouting { type nat hook postrouting priority 100 ; }",
    );
    let before = node.succeed("nft list table inet other");
    ensure(&node, &["10.88.0.0/24"]);
    assert_eq!(node.succeed("nft list table inet other"), before);
}

#[test]
fn the_outside_sees_the_node_and_pods_see_each_other() {
    let node = Node::new("seen");
    let world = node.outside();
    let (a, b) = (node.pod("a"), node.pod("b"));
    add(&node, &a, &plan("a", 5, true)).unwrap();
    add(&node, &b, &plan("b", 6, true)).unwrap();
    ensure(&node, &["10.88.0.0/24", "fd00:88::/64"]);

    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(talk(&a, &world, ip("10.9.0.2")), ip("10.9.0.1"));
    assert_eq!(talk(&a, &world, ip("fd09::2")), ip("fd09::1"));
    assert_eq!(talk(&a, &b, ip("10.88.0.6")), ip("10.88.0.5"));
    assert_eq!(talk(&a, &b, ip("fd00:88::6")), ip("fd00:88::5"));
    assert_eq!(
        talk(&a, &node, ip("10.9.0.1")),
        ip("10.88.0.5"),
        "to the node nothing is posted out"
    );
}
