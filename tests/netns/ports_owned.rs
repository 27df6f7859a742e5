//! Whose a host port is: taken, given back, left by the dead, missed by CHECK.

use std::{fs, thread, time::Duration};

use serde_json::json;
use weir::{
    attachment::Attachment,
    net::nft::{self, hostport},
    spec::{
        Address,
        capability::{PortMapping, Protocol},
    },
};

use crate::{
    node::Node,
    plugin::Host,
    ports::{both, elements, map, with_ports},
};

#[test]
fn a_taken_port_is_refused_by_the_name_of_who_has_it() {
    let host = Host::new("taken");
    let (a, b) = (host.container("a"), host.container("b"));
    with_ports(&host, &a, &json!([map("8080", "tcp", "80")])).succeed();
    let before = elements(&host);
    let again = with_ports(&host, &b, &json!([map("7070", "udp", "80"), map("8080", "tcp", "81")]));
    let message = again.refused_without_a_trace(7);
    assert!(message.contains("8080/tcp is taken by container a interface eth0"), "{message}");
    assert_eq!(elements(&host), before);
    // Another protocol is another port.
    with_ports(&host, &b, &json!([map("8080", "sctp", "80")])).succeed();
    let taken: String = elements(&host);
    assert!(taken.contains("sctp . 8080") && taken.contains("tcp . 8080"), "{taken}");
    host.del(&a);
    host.del(&b);
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
}

#[test]
fn a_port_of_the_dead_is_free() {
    let host = Host::new("dead");
    let [a, b, c] = ["a", "b", "c"].map(|id| host.container(id));
    with_ports(&host, &a, &both("8080")).succeed();
    let record = host.record(&a);
    drop(a.space);
    // The namespace's end takes the link with it, a moment later.
    assert!((0..500).any(|_| {
        thread::sleep(Duration::from_millis(10));
        !host.node.links().iter().any(|link| link.starts_with("weir"))
    }));
    with_ports(&host, &b, &both("8080")).succeed();
    assert!(!record.exists());
    // So is one whose record was lost, once its link is gone.
    fs::remove_file(host.record(&b)).unwrap();
    let kept = with_ports(&host, &c, &both("8080")).refused(7);
    assert!(kept.contains("container b"), "{kept}");
    let link = host.node.links().into_iter().find(|link| link.starts_with("weir")).unwrap();
    host.node.succeed(&format!("ip link del {link}"));
    with_ports(&host, &c, &both("8080")).succeed();
    assert!(elements(&host).contains("comment \"c/eth0\""), "{}", elements(&host));
    host.del(&c);
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
}

/// An ADD buries some of the dead for the ports it wants, and then gives up.
#[test]
fn ports_of_very_many_dead_are_left_to_reconcile_or_to_the_next_add() {
    const MOST: u16 = 64;
    let host = Host::new("many-dead");
    let b = host.container("b");
    let dead = |number: u16| {
        let owner = Attachment::new(&format!("dead{number}"), "eth0").unwrap();
        let ports = [PortMapping {
            host_port: 8000 + number,
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
        }];
        let address = format!("10.99.0.{}/24", number + 1).parse().unwrap();
        let addresses = [Address { address, gateway: None }];
        host.node.run(|| hostport::expose(&owner, &ports, &addresses)).unwrap();
    };
    (0..=MOST).for_each(dead);
    let wanted: Vec<_> = (0..=MOST).map(|n| map(&(8000 + n).to_string(), "tcp", "80")).collect();
    let add = with_ports(&host, &b, &json!(wanted));
    let said = add.refused(105);
    assert_eq!(host.node.links(), ["lo"]);
    assert!(!host.record(&b).exists() && host.leases("podnet").is_empty());
    assert!(said.contains("run weir reconcile"), "{said}");
    let owners = || host.node.run(hostport::owners).unwrap().into_iter();
    let owners = || owners().map(|owner| owner.container_id().to_owned()).collect::<Vec<_>>();
    assert_eq!(owners(), [format!("dead{MOST}")]);
    add.succeed();
    assert_eq!(owners(), ["b"]);
    host.del(&b);
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
}

#[test]
fn del_without_a_record_takes_the_ports_too() {
    let host = Host::new("unrecorded");
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    with_ports(&host, &a, &both("8080")).succeed();
    with_ports(&host, &b, &both("9090")).succeed();
    fs::write(host.record(&a), "{").unwrap();
    host.del(&a);
    let left = elements(&host);
    assert!(!left.contains("8080") && left.contains("tcp . 9090"), "{left}");
    fs::remove_file(host.record(&b)).unwrap();
    host.del(&b);
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
}

#[test]
fn check_names_what_is_missing() {
    let host = Host::new("ports-check");
    let a = host.container("a");
    let result = with_ports(&host, &a, &both("8080")).succeed();
    let check = host.check(&a, &result);
    check.succeed();
    let link = result["interfaces"][0]["name"].as_str().unwrap();
    for (harm, named, mend) in [
        (
            "nft delete element inet weir hostports4 { tcp . 8080 }".to_owned(),
            "host port 8080/tcp in nftables map inet weir hostports4 is missing",
            "nft add element inet weir hostports4 { tcp . 8080 comment \"a/eth0\" : 10.88.0.2 . 80 }"
                .to_owned(),
        ),
        (
            format!("sysctl -qw net.ipv4.conf.{link}.route_localnet=0"),
            "route_localnet is 0 and should be 1",
            format!("sysctl -qw net.ipv4.conf.{link}.route_localnet=1"),
        ),
        (
            format!("ip -6 route del local ::1 dev {link} table local"),
            "local route to ::1",
            format!("ip -6 route add local ::1 dev {link} table local metric 4096"),
        ),
        (
            "nft flush chain inet weir hostports_guard".to_owned(),
            "no pod speaks to the node's 127.0.0.0/8",
            String::new(),
        ),
    ] {
        host.node.succeed(&harm);
        let message = check.refused(103);
        assert!(message.contains(named), "{harm}: {message}");
        if !mend.is_empty() {
            host.node.succeed(&mend);
            check.succeed();
        }
    }
    host.node.succeed("nft flush ruleset");
    assert!(check.refused(103).contains("host port 8080"));
    host.del(&a);
}

#[test]
fn first_calls_at_once_make_one_table() {
    for round in 0..5 {
        let node = Node::new("ports-race");
        let call = &|number: u16| {
            let owner = Attachment::new(&format!("c{number}"), "eth0").unwrap();
            let address = format!("10.{round}.0.{number}/24").parse().unwrap();
            let addresses = [Address { address, gateway: None }];
            let ports = [PortMapping {
                host_port: 8000 + number,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
            }];
            node.run(|| {
                if number.is_multiple_of(4) {
                    nft::masquerade_ensure(&[addresses[0].subnet()]).unwrap();
                }
                hostport::expose(&owner, &ports, &addresses).unwrap();
                hostport::check(&owner, &ports, &addresses)
            })
        };
        thread::scope(|scope| {
            let calls: Vec<_> = (1..33).map(|number| scope.spawn(move || call(number))).collect();
            calls.into_iter().for_each(|call| call.join().unwrap().unwrap());
        });
        let table = node.succeed("nft list table inet weir");
        assert_eq!(table.matches("dnat ip to").count(), 4, "{table}");
        assert_eq!(table.matches(" masquerade comment").count(), 6, "{table}");
        assert_eq!(node.run(hostport::owners).unwrap().len(), 32);
    }
}
