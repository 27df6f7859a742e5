//! The embedded allocator as host-local's users know it: call by call, each a process of its own.

use std::{collections::HashSet, fs, thread};

use serde_json::{Value, json};

use crate::plugin::{Container, Host, ips};

/// The addresses that an ADD with this `ipam` gives.
fn given(host: &Host, container: &Container, ipam: &Value) -> Vec<String> {
    ips(&host.call("ADD", Some(container)).key("ipam", ipam.clone()).succeed())
}

/// Two ranges of two addresses each.
fn two_ranges() -> Value {
    json!({"ranges": [[
        {"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.5", "rangeEnd": "10.88.0.6", "gateway": "10.88.0.200"},
        {"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.9", "rangeEnd": "10.99.0.10"},
    ]]})
}

#[test]
fn a_round_goes_through_all_ranges_and_gives_what_was_released_last() {
    let host = Host::new("round");
    let ipam = two_ranges();
    let containers: Vec<_> = (0..5).map(|n| host.container(&format!("c{n}"))).collect();
    let mut seen = Vec::new();
    for container in &containers[..3] {
        seen.extend(given(&host, container, &ipam));
    }
    host.del(&containers[0]);
    host.del(&containers[1]);
    // Before any of the two that came free, the one that nobody had.
    for container in [&containers[0], &containers[1], &containers[3]] {
        seen.extend(given(&host, container, &ipam));
    }
    assert_eq!(seen.join(" "), "10.88.0.5 10.88.0.6 10.99.0.9 10.99.0.10 10.88.0.5 10.88.0.6",);
    let add = host.call("ADD", Some(&containers[4])).key("ipam", ipam.clone());
    let message = add.refused_without_a_trace(101);
    assert!(message.contains("10.88.0.0/24") && message.contains("10.99.0.0/24"), "{message}");
    // From a full set the one that comes free is given at once.
    host.del(&containers[2]);
    assert_eq!(given(&host, &containers[4], &ipam), ["10.99.0.9"]);
}

#[test]
fn each_range_brings_its_own_prefix_and_gateway() {
    let host = Host::new("gateways");
    let ipam = two_ranges();
    let mut gateways = Vec::new();
    for n in 0..3 {
        let container = host.container(&format!("c{n}"));
        let reply = host.call("ADD", Some(&container)).key("ipam", ipam.clone()).succeed();
        gateways.push(reply["ips"][0]["gateway"].as_str().unwrap().to_owned());
    }
    assert_eq!(gateways, ["10.88.0.200", "10.88.0.200", "10.99.0.1"]);
}

#[test]
fn what_is_asked_for_is_given_whole_or_not_at_all() {
    let host = Host::new("asked-for");
    let (a, b) = (host.container("a"), host.container("b"));
    let ask = |container, ips: Value| {
        host.call("ADD", Some(container)).key("runtimeConfig", json!({"ips": ips}))
    };
    // Of the other family the next one.
    assert_eq!(ips(&ask(&a, json!(["fd00:88::77"])).succeed()), ["10.88.0.2", "fd00:88::77"]);
    for (wanted, code) in [
        // The second is taken, is in no range, is a gateway, or is the second of its set.
        (json!(["10.88.0.9", "fd00:88::77"]), 101),
        (json!(["10.88.0.9", "fd00:99::1"]), 7),
        (json!(["10.88.0.9", "fd00:88::1"]), 7),
        (json!(["10.88.0.9", "10.88.0.10"]), 7),
        (json!(["10.88.0.0"]), 7),
        (json!(["10.88.0.255"]), 7),
    ] {
        ask(&b, wanted).refused_without_a_trace(code);
    }
    assert_eq!(host.leases("podnet"), ["10.88.0.2", "fd00:88::77"]);
    let both = json!(["10.88.0.9/24", "fd00:88::9/64"]);
    assert_eq!(ips(&ask(&b, both).succeed()), ["10.88.0.9", "fd00:88::9"]);
    // Asking has not moved the round.
    let c = host.container("c");
    assert_eq!(ips(&host.add(&c)), ["10.88.0.3", "fd00:88::2"]);
}

#[test]
fn an_address_may_be_asked_for_in_three_ways_and_the_runtimes_counts() {
    let host = Host::new("three-ways");
    let a = host.container("a");
    let call = || {
        let call = host.call("ADD", Some(&a)).variable("CNI_ARGS", "IgnoreUnknown=1;IP=10.88.0.31");
        call.key("args", json!({"cni": {"ips": ["10.88.0.32"]}}))
    };
    let runtime = json!({"IPs": ["10.88.0.33"]});
    assert_eq!(ips(&call().key("runtimeConfig", runtime).succeed())[0], "10.88.0.33");
    host.del(&a);
    assert_eq!(ips(&call().succeed())[0], "10.88.0.32");
    host.del(&a);
    assert_eq!(ips(&call().without("args").succeed())[0], "10.88.0.31");
}

#[test]
fn the_runtimes_ranges_come_before_the_configurations() {
    let host = Host::new("ip-ranges");
    let a = host.container("a");
    let ranges = json!([[{"subnet": "10.66.0.0/24", "rangeStart": "10.66.0.7"}]]);
    let ipam = json!({"subnet": "10.55.0.0/24", "gateway": "10.55.0.254"});
    let call = host.call("ADD", Some(&a)).key("ipam", ipam);
    let reply = call.key("runtimeConfig", json!({"IPRanges": ranges})).succeed();
    assert_eq!(ips(&reply), ["10.66.0.7", "10.55.0.1"]);
    assert_eq!(reply["ips"][1]["gateway"], "10.55.0.254");
}

#[test]
fn the_keys_of_host_local_that_have_no_use_here_are_taken() {
    let host = Host::new("data-dir");
    let a = host.container("a");
    let resolver = host.state_dir().with_file_name("resolv.conf");
    fs::write(&resolver, "nameserver 192.0.2.53\nsearch a.example\n").unwrap();
    let ipam = json!({
        "type": "weir", "dataDir": "/nowhere", "subnet": "10.55.0.0/24", "rangeStart": "10.55.0.9",
        "rangeEnd": "10.55.0.20", "gateway": "10.55.0.1", "resolvConf": resolver, "ranges": null,
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.55.0.1"}, {"dst": "192.168.0.7/16"}],
    });
    let answer = host.call("ADD", Some(&a)).key("ipam", ipam).answer();
    assert_eq!((answer.code, &*answer.stderr), (Some(0), ""), "{}", answer.stdout);
    let reply: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(ips(&reply), ["10.55.0.9"]);
    assert_eq!(reply["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]}));
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.55.0.1"}, {"dst": "192.168.0.0/16"}]);
    assert_eq!(reply["routes"], routes);
}

#[test]
fn a_changed_range_takes_effect_and_leaves_the_old_leases() {
    let host = Host::new("changed-range");
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    assert_eq!(given(&host, &a, &json!({"subnet": "10.55.0.0/24"})), ["10.55.0.2"]);
    let other = json!({"subnet": "10.66.0.0/24"});
    assert_eq!(given(&host, &b, &other), ["10.66.0.2"]);
    // A range that grew around a lease does not give it twice.
    let wide =
        json!({"subnet": "10.55.0.0/16", "rangeStart": "10.55.0.2", "rangeEnd": "10.55.0.3"});
    assert_eq!(given(&host, &c, &wide), ["10.55.0.3"]);
    for container in [&a, &b, &c] {
        host.del(container);
    }
    assert!(host.leases("podnet").is_empty());
}

#[test]
fn as_many_at_once_as_there_are_addresses_get_one_each_and_one_more_none() {
    let host = Host::new("exact");
    let ipam = json!({"ranges": [[
        {"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.2", "rangeEnd": "10.88.0.9"},
        {"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.2", "rangeEnd": "10.99.0.9"},
    ]]});
    let containers: Vec<_> = (0..17).map(|n| host.container(&format!("c{n}"))).collect();
    let answers: Vec<_> = thread::scope(|scope| {
        let add = |container| {
            let (host, ipam) = (&host, &ipam);
            scope
                .spawn(move || host.call("ADD", Some(container)).key("ipam", ipam.clone()).answer())
        };
        let calls: Vec<_> = containers.iter().map(add).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let replies =
        answers.iter().map(|answer| serde_json::from_str::<Value>(&answer.stdout).unwrap());
    let (good, bad): (Vec<_>, Vec<_>) = replies.partition(|reply| reply.get("code").is_none());
    let unique: HashSet<_> = good.iter().flat_map(ips).collect();
    assert_eq!((good.len(), unique.len(), bad.len()), (16, 16, 1));
    assert_eq!(bad[0]["code"], 101, "{}", bad[0]);
    assert_eq!(host.leases("podnet").len(), 16);
}
