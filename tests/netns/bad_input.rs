//! What an ADD must refuse once it looks at the node: each with its code, naming the culprit, and
//! without a trace. What is refused earlier needs no root and is in tests/cli.rs.

use std::fs;

use serde_json::json;

use crate::plugin::Host;

#[test]
fn namespaces_that_are_none_are_code_8() {
    let host = Host::new("bad-netns");
    let _world = host.node.outside();
    let a = host.container("a");
    for netns in [
        "/run/netns/vanished".to_owned(),
        "/etc/passwd".into(),
        "/tmp".into(),
        "/proc/self/ns/net".into(),
        host.node.path().to_str().unwrap().into(),
        // Of the same file system, but of another kind.
        "/proc/self/ns/uts".into(),
    ] {
        let call = host.call("ADD", Some(&a)).variable("CNI_NETNS", &netns);
        let message = call.refused_without_a_trace(8);
        assert!(message.contains(&netns), "{message}");
    }
    assert_eq!(a.space.links(), ["lo"]);
}

#[test]
fn a_taken_interface_name_is_code_102() {
    let host = Host::new("taken");
    let a = host.container("a");
    a.space.succeed("ip link add eth0 type veth peer name other");
    let before = a.space.ip("addr").to_string();
    let message = host.call("ADD", Some(&a)).refused_without_a_trace(102);
    assert!(message.contains("eth0"), "{message}");
    assert_eq!(a.space.ip("addr").to_string(), before);
}

#[test]
fn a_state_dir_that_can_not_be_written_is_code_5() {
    let host = Host::new("unwritable-add");
    let a = host.container("a");
    fs::write(host.state_dir(), "a file").unwrap();
    for dir in [host.state_dir(), host.state_dir().join("below"), "/proc/weir".into()] {
        let call = host.call("ADD", Some(&a)).key("stateDir", json!(dir));
        let message = call.refused_without_a_trace(5);
        assert!(message.contains(dir.to_str().unwrap()), "{message}");
    }
    fs::remove_file(host.state_dir()).unwrap();
    // A link in the place of the directory leads nowhere.
    fs::create_dir(host.state_dir()).unwrap();
    std::os::unix::fs::symlink("/tmp", host.state_dir().join("attachments")).unwrap();
    host.call("ADD", Some(&a)).refused_without_a_trace(5);
    assert_eq!(a.space.links(), ["lo"]);
}

#[test]
fn what_only_the_plan_can_refuse_is_code_7() {
    let host = Host::new("unplannable");
    let a = host.container("a");
    for (key, value, named) in [
        ("mtu", json!(1279), "mtu is 1279: must be 0, or 68 to 65535 bytes, and no less than 1280"),
        ("runtimeConfig", json!({"mac": "01:00:00:00:00:01"}), "01:00:00:00:00:01"),
        ("runtimeConfig", json!({"ips": ["192.0.2.1"]}), "192.0.2.1"),
        ("runtimeConfig", json!({"ips": ["10.88.0.1"]}), "10.88.0.1"),
        ("ipam", json!({"subnet": "10.88.0.0/24", "routes": [{"dst": "::/0"}]}), "::/0"),
    ] {
        let message = host.call("ADD", Some(&a)).key(key, value).refused_without_a_trace(7);
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(a.space.links(), ["lo"]);
}

#[test]
fn an_add_that_fails_leaves_the_nodes_forwarding_as_it_was() {
    let host = Host::new("unforwarded");
    host.node.succeed("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    let forwarding =
        || host.node.succeed("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding");
    let (a, b) = (host.container("a"), host.container("b"));
    a.space.succeed("ip link add eth0 type veth peer name other");
    host.call("ADD", Some(&a)).refused_without_a_trace(102);
    // A route to the address that is found only when the pod's own is added: a rule hides it.
    host.node.succeed("ip route add unreachable default table 7");
    host.node.succeed("ip rule add to 10.88.0.3/32 lookup 7");
    host.node.succeed("ip route add 10.88.0.3/32 dev lo");
    let message = host.call("ADD", Some(&b)).refused_without_a_trace(105);
    assert!(message.contains("10.88.0.3"), "{message}");
    assert_eq!(forwarding(), "0\n0\n");
    host.node.succeed("ip route del 10.88.0.3/32 dev lo");
    host.add(&b);
    assert_eq!(forwarding(), "1\n1\n");
}

#[test]
fn a_resolver_file_that_can_not_be_one_is_named_at_once() {
    let host = Host::new("resolver");
    let a = host.container("a");
    fs::create_dir(host.state_dir()).unwrap();
    let file = |name: &str| host.state_dir().with_file_name(name);
    nix::unistd::mkfifo(&file("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(file("long"), "# nothing\n".repeat(10_000)).unwrap();
    fs::write(file("bytes"), [0xff, 0xfe]).unwrap();
    for (path, code) in [
        (file("fifo"), 7),
        (file("long"), 7),
        (file("bytes"), 7),
        (file("state"), 7),
        ("/dev/zero".into(), 7),
        (file("missing"), 5),
    ] {
        let ipam = json!({"subnet": "10.88.0.0/24", "resolvConf": path});
        let message = host.call("ADD", Some(&a)).key("ipam", ipam).refused_without_a_trace(code);
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
    assert_eq!(a.space.links(), ["lo"]);
}
