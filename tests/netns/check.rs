//! CHECK: silent while all is as ADD made it, and by name when something isn't.

use std::fs;

use serde_json::json;

use crate::plugin::Host;

#[test]
fn all_is_well_straight_after_add_in_every_version_that_has_check() {
    let host = Host::new("well");
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let a = host.container("a");
        let masquerade = json!(true);
        let add = host.call("ADD", Some(&a)).version(version).key("ipMasq", masquerade.clone());
        let reply = add.succeed();
        let before = host.footprint();
        for _ in 0..2 {
            host.check(&a, &reply).version(version).key("ipMasq", masquerade.clone()).succeed();
        }
        host.footprint().assert_is(&before, "afterwards");
        host.del(&a);
    }
}

#[test]
fn what_is_missing_is_named() {
    let host = Host::new("missing");
    for (where_, command, named) in [
        ("pod", "ip addr del 10.88.0.2/32 dev eth0", "10.88.0.2"),
        ("pod", "ip route del default", "0.0.0.0/0"),
        ("pod", "ip link set eth0 down", "down"),
        ("pod", "ip link del eth0", "missing"),
        ("pod", "ip neigh del 169.254.1.1 dev eth0", "169.254.1.1"),
        ("node", "ip route del 10.88.0.2", "10.88.0.2"),
    ] {
        // A fresh network each time, so that the addresses are the same.
        let _ = fs::remove_dir_all(host.state_dir());
        let a = host.container("a");
        let reply = host.add(&a);
        host.check(&a, &reply).succeed();
        if where_ == "pod" { &a.space } else { &host.node }.succeed(command);
        let message = host.check(&a, &reply).refused_without_a_trace(103);
        assert!(message.contains(named), "{command}: {message}");
        host.del(&a);
    }
}

#[test]
fn what_is_not_of_the_kernel_is_compared_too() {
    let host = Host::new("beyond");
    let (a, b) = (host.container("a"), host.container("b"));
    let add = host.call("ADD", Some(&a)).key("ipMasq", json!(true));
    let reply = add.succeed();
    let refused = |named: &str| {
        let message = host.check(&a, &reply).refused_without_a_trace(103);
        assert!(message.contains(named), "{message}");
    };
    host.node.succeed("nft delete table inet weir");
    refused("inet weir");
    host.call("ADD", Some(&b)).key("ipMasq", json!(true)).succeed();
    host.check(&a, &reply).succeed();

    let lease = host.state_dir().join("leases/podnet/10.88.0.2");
    fs::rename(&lease, host.state_dir().join("kept")).unwrap();
    refused("10.88.0.2");
    std::os::unix::fs::symlink("../../attachments/b@eth0", &lease).unwrap();
    refused("somebody else");
    fs::remove_file(&lease).unwrap();
    fs::rename(host.state_dir().join("kept"), &lease).unwrap();
    host.check(&a, &reply).succeed();

    let elsewhere = b.space.path().to_str().unwrap().to_owned();
    let call = host.check(&a, &reply).variable("CNI_NETNS", &elsewhere);
    assert!(call.refused_without_a_trace(103).contains("namespace"));
    host.check(&a, &reply).variable("CNI_NETNS", "/run/netns/vanished").refused(8);
    fs::write(host.record(&a), "{").unwrap();
    refused("unreadable");
    fs::remove_file(host.record(&a)).unwrap();
    refused("no record");
}

#[test]
fn the_result_of_the_chain_is_consulted() {
    let host = Host::new("consulted");
    let a = host.container("a");
    let reply = host.add(&a);
    host.call("CHECK", Some(&a)).refused(7);
    for (pointer, named) in [("/ips/0/address", "10.88.0.2"), ("/interfaces/1/name", "eth0")] {
        let mut changed = reply.clone();
        *changed.pointer_mut(pointer).unwrap() = json!("10.88.0.99/32");
        assert!(host.check(&a, &changed).refused_without_a_trace(103).contains(named));
    }
    let mut changed = reply.clone();
    changed["interfaces"][1]["mac"] = json!("02:00:00:00:00:99");
    assert!(host.check(&a, &changed).refused_without_a_trace(103).contains("02:00:00:00:00:99"));
}

#[test]
fn a_route_that_a_later_plugin_took_away_is_looked_for_only_if_the_result_has_it() {
    let host = Host::new("routeless");
    let a = host.container("a");
    let reply = host.add(&a);
    assert_eq!(reply["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    a.space.succeed("ip route del default");
    assert!(host.check(&a, &reply).refused_without_a_trace(103).contains("route to 0.0.0.0/0"));
    for routes in [json!(null), json!([]), json!([{"dst": "198.51.100.0/24"}])] {
        let mut changed = reply.clone();
        changed["routes"] = routes;
        host.check(&a, &changed).succeed();
    }
    // The one to the gateway is nobody else's.
    a.space.succeed("ip route flush dev eth0");
    let mut changed = reply.clone();
    changed["routes"] = json!([]);
    host.check(&a, &changed).refused_without_a_trace(103);
}

#[test]
fn what_later_plugins_add_is_none_of_our_business() {
    let host = Host::new("later");
    let a = host.container("a");
    let mut reply = host.add(&a);
    for command in [
        "ip addr add 192.0.2.7/32 dev eth0",
        "ip route add 198.51.100.0/24 dev lo",
        "ip link add dummy1 type veth peer name dummy2",
    ] {
        a.space.succeed(command);
    }
    let ips = reply["ips"].as_array_mut().unwrap();
    ips.push(json!({"address": "192.0.2.7/32", "interface": 1}));
    reply["interfaces"].as_array_mut().unwrap().push(json!({"name": "ifb0"}));
    reply["dns"] = json!({"nameservers": ["192.0.2.53"]});
    host.check(&a, &reply).succeed();
}
