//! Behind another plugin: its result comes back field for field, and nothing of its is touched.

use serde_json::{Value, json};
use weir::net::{self, Netns};

use crate::{
    node::Space,
    plugin::{Container, Host},
};

/// What a plugin before us made: a veth pair, and a result with fields that nobody knows.
fn plumbed(host: &Host, container: &Container) -> Value {
    let netns = container.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "vethx", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "sandbox": netns, "x-vendor": [1, null, {"a": 1.5}]},
        ],
        "ips": [{"address": "10.7.0.2/24", "interface": 1, "gateway": "10.7.0.1"}],
        "routes": null,
        "x-vendor": {"kept": true},
    })
}

#[test]
fn the_result_comes_back_and_the_link_stays() {
    let host = Host::new("chained");
    let a = host.container("a");
    let result = plumbed(&host, &a);
    let before = host.footprint();
    for ipam in [json!(null), json!({"type": "no-such-ipam"})] {
        let call = |verb: &str| {
            let call = host.call(verb, Some(&a)).key("prevResult", result.clone());
            call.key("ipam", ipam.clone())
        };
        assert_eq!(call("ADD").succeed(), result);
        assert!(host.leases("podnet").is_empty());
        host.call("ADD", Some(&a)).key("prevResult", result.clone()).refused_without_a_trace(102);
        host.check(&a, &result).succeed();
        let pods = host.pods();
        assert_eq!(pods[0]["addresses"], json!(["10.7.0.2"]), "{pods}");
        // Addresses are the other plugin's, however often it is asked, and whatever the configuration says.
        for _ in 0..3 {
            call("DEL").succeed();
        }
        host.footprint().assert_is(&before, "afterwards");
        assert_eq!(a.space.links().len(), 2);
    }
}

#[test]
fn a_pair_between_two_containers_is_not_taken_for_the_hosts() {
    let host = Host::new("nested");
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    // The same two numbers everywhere: a and b by the host, c by b.
    let path = |container: &Container| container.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vetha type veth peer name eth0 netns {}", path(&a)));
    b.space.succeed(&format!("ip link add vethc type veth peer name eth0 netns {}", path(&c)));
    let numbers = |space: &Space, name: &str| {
        let link = &space.ip(&format!("link show {name}"))[0];
        (link["ifindex"].as_u64().unwrap(), link["link_index"].as_u64().unwrap())
    };
    assert_eq!(numbers(&host.node, "vetha"), numbers(&b.space, "vethc"));
    assert_eq!(numbers(&a.space, "eth0"), numbers(&c.space, "eth0"));

    let found = |container: &Container| {
        let found = host.node.run(|| {
            let netns = Netns::open(&container.space.path()).unwrap();
            net::host_side(&netns, "eth0").unwrap()
        });
        found.map(|link| link.name)
    };
    assert_eq!((found(&a), found(&c)), (Some("vetha".into()), None));

    let interface = json!({"name": "eth0", "sandbox": path(&c)});
    let add = host.call("ADD", Some(&c)).key("telemetry", json!({"required": true}));
    let add = add.key("prevResult", json!({"interfaces": [interface]}));
    let message = add.refused_without_a_trace(104);
    assert!(message.contains("other end on the host"), "{message}");
}

#[test]
fn gc_forgets_it_and_leaves_the_link() {
    let host = Host::new("chained-gc");
    let a = host.container("a");
    let result = plumbed(&host, &a);
    let before = host.footprint();
    host.call("ADD", Some(&a)).key("prevResult", result).succeed();
    host.call("GC", None).key("cni.dev/valid-attachments", json!([])).without("ipam").succeed();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn a_result_without_the_containers_interface_is_refused() {
    let host = Host::new("chained-bad");
    let a = host.container("a");
    for result in [
        json!({}),
        json!({"interfaces": []}),
        json!({"ips": [{"address": "10.7.0.2/24"}]}),
        json!({"interfaces": [{"name": "eth0"}]}),
        json!({"interfaces": [{"name": "eth1", "sandbox": "/run/netns/x"}]}),
        json!({"interfaces": {}}),
    ] {
        let add = host.call("ADD", Some(&a)).key("prevResult", result);
        assert!(add.refused_without_a_trace(7).contains("prevResult"));
    }
}

#[test]
fn an_interface_that_can_not_be_counted_is_passed_on_unless_counting_is_required() {
    let host = Host::new("chained-uncounted");
    let a = host.container("a");
    // Both ends are in the container: nothing on the host to hook to.
    a.space.succeed("ip link add eth0 type veth peer name other");
    let netns = a.space.path().to_str().unwrap().to_owned();
    let result = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": netns}]});
    let add = |required: bool| {
        let call = host.call("ADD", Some(&a)).key("prevResult", result.clone());
        call.key("telemetry", json!({"required": required}))
    };
    add(true).refused_without_a_trace(104);
    assert_eq!(add(false).succeed(), result);
}

#[test]
fn a_namespace_of_another_kind_is_code_8_also_for_who_goes_uncounted() {
    let host = Host::new("chained-netns");
    let a = host.container("a");
    let result = plumbed(&host, &a);
    for netns in ["/proc/self/ns/mnt", "/proc/self/ns/uts"] {
        for telemetry in [json!({"required": false}), json!({"enabled": false})] {
            let call = host.call("ADD", Some(&a)).key("prevResult", result.clone());
            let call = call.key("telemetry", telemetry).variable("CNI_NETNS", netns);
            assert!(call.refused_without_a_trace(8).contains(netns));
        }
    }
}
