//! Host ports, by real sockets: from outside, the node, its loopback, another pod and the pod itself.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::{
    answer::{BRIEFLY, Client, PATIENCE, Server, tcp, udp},
    node::Space,
    plugin::{Call, Container, Host, ips},
};

pub fn map(host: &str, protocol: &str, container: &str) -> Value {
    json!({
        "HostPort": host.parse::<u16>().unwrap(), "ContainerPort": container.parse::<u16>().unwrap(),
        "Protocol": protocol, "HostIP": "",
    })
}

pub fn with_ports<'a>(host: &'a Host, container: &Container, ports: &Value) -> Call<'a> {
    let call = host.call("ADD", Some(container));
    call.key("runtimeConfig", json!({"portMappings": ports}))
}

pub fn both(port: &str) -> Value {
    json!([map(port, "tcp", "80"), map(port, "udp", "80")])
}

/// All elements of the maps, as `nft` shows them.
pub fn elements(host: &Host) -> String {
    let mut text = String::new();
    for map in ["hostports4", "hostports6", "hostports_at4", "hostports_at6"] {
        text += &host.node.succeed(&format!("nft list map inet weir {map}"));
    }
    for set in ["hairpin4", "hairpin6"] {
        text += &host.node.succeed(&format!("nft list set inet weir {set}"));
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_port_leads_to_the_pod_from_everywhere() {
    let host = Host::new("ports");
    let world = host.node.outside();
    let (a, b) = (host.container("a"), host.container("b"));
    let result = with_ports(&host, &a, &both("8080")).succeed();
    let own = ips(&result);
    let other = ips(&host.add(&b));
    host.check(&a, &result).succeed();
    let _server = Server::new(&a.space, "a");

    let seen = |ip: &str| Some(format!("a sees {ip}"));
    for ask in [tcp, udp] {
        for (node, world_ip, pod) in [("10.9.0.1", "10.9.0.2", 0), ("fd09::1", "fd09::2", 1)] {
            assert_eq!(ask(&world, node, 8080), seen(world_ip), "from outside");
            assert_eq!(ask(&host.node, node, 8080), seen(node), "from the node");
            assert_eq!(ask(&b.space, node, 8080), seen(&other[pod]), "from another pod");
            // Its own address would be its own interface's: the answer would never leave it.
            let itself = ask(&a.space, node, 8080).expect("the pod reaches itself");
            assert!(!itself.contains(&own[pod]), "{itself}");
        }
        for loopback in ["127.0.0.1", "127.1.2.3", "::1"] {
            let told = ask(&host.node, loopback, 8080);
            assert!(told.is_some_and(|text| text.starts_with("a sees ")), "{loopback}");
        }
        // Others that listen on the same port elsewhere are left alone.
        assert_eq!(ask(&a.space, &own[0], 80), seen(&own[0]));
    }
    assert_eq!(tcp(&a.space, "10.9.0.2", 8080), None, "another host's port is not the node's");

    host.del(&a);
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
    assert_eq!(tcp(&host.node, "127.0.0.1", 8080), None);
}

#[test]
fn a_port_of_one_address_is_of_no_other() {
    let host = Host::new("hostip");
    let world = host.node.outside();
    let (a, b) = (host.container("a"), host.container("b"));
    let ports = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "2001:db8::1"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "::"},
        // Not the node's: nobody's way there may be caught.
        {"hostPort": 8082, "containerPort": 80, "protocol": "tcp", "hostIP": "10.9.0.2"},
    ]);
    let result = with_ports(&host, &a, &ports).succeed();
    host.check(&a, &result).succeed();
    let _server = Server::new(&a.space, "a");
    world.succeed("ip route add 192.0.2.1 via 10.9.0.1");
    world.succeed("ip route add 2001:db8::1 via fd09::1");

    for (from, ip, port, answers) in [
        (&*host.node, "127.0.0.1", 8080, true),
        (&host.node, "192.0.2.1", 8080, true),
        (&host.node, "10.9.0.1", 8080, false),
        (&world, "192.0.2.1", 8080, true),
        (&world, "2001:db8::1", 8080, true),
        (&world, "10.9.0.1", 8080, false),
        (&world, "fd09::1", 8080, false),
        (&world, "fd09::1", 8081, true),
        (&host.node, "::1", 8081, true),
        (&world, "10.9.0.1", 8081, false),
        (&host.node, "10.9.0.2", 8082, false),
        (&a.space, "10.9.0.2", 8082, false),
    ] {
        assert_eq!(tcp(from, ip, port).is_some(), answers, "{ip} port {port}");
    }
    // Any address is anybody's that has none of its own.
    with_ports(&host, &b, &both("8080")).succeed();
    let _other = Server::new(&b.space, "b");
    assert!(tcp(&world, "10.9.0.1", 8080).unwrap().starts_with('b'));
    assert!(tcp(&world, "192.0.2.1", 8080).unwrap().starts_with('a'));
}

#[test]
fn any_address_said_in_several_ways_is_one_mapping() {
    let host = Host::new("any-hostip");
    let (a, b) = (host.container("a"), host.container("b"));
    let of = |host_ip: &str, container: u16| json!({"hostPort": 8080, "containerPort": container, "protocol": "tcp", "hostIP": host_ip});
    let ports = json!([of("", 80), of("0.0.0.0", 80), of("::", 80), of("::ffff:0.0.0.0", 80)]);
    let result = with_ports(&host, &a, &ports).succeed();
    host.check(&a, &result).succeed();
    assert_eq!(elements(&host).matches("tcp . 8080 ").count(), 2, "{}", elements(&host));
    let _server = Server::new(&a.space, "a");
    for ip in ["127.0.0.1", "::1"] {
        assert!(tcp(&host.node, ip, 8080).is_some(), "{ip}");
    }
    host.del(&a);

    for other in ["0.0.0.0", "::"] {
        let ports = json!([of("", 80), of(other, 81)]);
        let message = with_ports(&host, &b, &ports).refused_without_a_trace(7);
        assert!(message.contains("portMappings[0]"), "{message}");
        assert!(message.contains("portMappings[1]"), "{message}");
    }
    // Of two families they are two, and may lead to two ports.
    with_ports(&host, &b, &json!([of("0.0.0.0", 80), of("::", 81)])).succeed();
    let shown = elements(&host);
    assert!(shown.contains("10.88.0.3 . 80") && shown.contains("fd00:88::3 . 81"), "{shown}");
}

/// Has a space send what is for 127.0.0.0/8 to its gateway (CVE-2020-8558).
pub fn send_loopback_to(space: &Space, device: &str, gateway: &str) {
    space.succeed(&format!("sysctl -qw net.ipv4.conf.{device}.route_localnet=1"));
    space.succeed("ip addr del 127.0.0.1/8 dev lo");
    space.succeed(&format!("ip route add 127.0.0.0/8 via {gateway} dev {device}"));
}

/// Whether somebody takes a connection from the space to this port of 127.0.0.1.
pub fn reached(space: &Space, port: u16) -> bool {
    let at = SocketAddr::new([127, 0, 0, 1].into(), port);
    space.run(|| TcpStream::connect_timeout(&at, BRIEFLY)).is_ok()
}

#[test]
fn neither_a_pod_nor_a_neighbour_gets_at_the_nodes_loopback() {
    let host = Host::new("loopback");
    let world = host.node.outside();
    let (a, b) = (host.container("a"), host.container("b"));
    with_ports(&host, &a, &both("8080")).succeed();
    let loopback_alone = json!([{"hostPort": 9090, "containerPort": 80, "hostIP": "127.0.0.1"}]);
    with_ports(&host, &b, &loopback_alone).succeed();
    let _servers = (Server::new(&a.space, "a"), Server::new(&b.space, "b"));
    let _node = Server::new(&host.node, "node");
    assert!(tcp(&host.node, "127.0.0.1", 80).is_some());
    assert!(tcp(&host.node, "127.0.0.1", 9090).is_some());

    // A pod, and a host on the same network, that know the trick.
    for (space, device, gateway) in
        [(&a.space, "eth0", "169.254.1.1"), (&world, "out1", "10.9.0.1")]
    {
        send_loopback_to(space, device, gateway);
        for port in [80, 8080, 9090] {
            assert!(!reached(space, port), "{device} reached port {port}");
        }
    }
    // That it is the table which keeps them out shows when its rules go.
    host.node.succeed("nft flush chain inet weir hostports_guard");
    assert!(reached(&a.space, 80));
    host.node.succeed("nft flush chain inet weir hostports_in");
    let rule = "dnat ip to ip daddr . meta l4proto . th dport map @hostports_at4";
    host.node.succeed(&format!("nft add rule inet weir hostports_in {rule}"));
    assert!(reached(&world, 9090));
}

#[test]
fn a_client_that_goes_on_sending_reaches_the_next_pod() {
    let host = Host::new("udp");
    let world = host.node.outside();
    let [a, b, c] = ["a", "b", "c"].map(|id| host.container(id));
    // Before the first host port of a node its kernel need not track anything.
    with_ports(&host, &c, &both("1")).succeed();
    let (v4, v6) = (Client::new(&world, "10.9.0.1", 5353), Client::new(&world, "fd09::1", 5353));
    // To a port of the same number on another host, whose flow is nobody's business.
    let bystander = Client::new(&host.node, "10.9.0.2", 5353);
    let elsewhere = Server::new(&world, "world");
    bystander.ask(BRIEFLY);
    let flows = || host.node.succeed("cat /proc/net/nf_conntrack");
    let kept = "dst=10.9.0.2 sport";

    // Before anybody has the port: the kernel remembers that it leads to nobody.
    assert_eq!((v4.ask(BRIEFLY), v6.ask(BRIEFLY)), (None, None));
    assert!(flows().contains("src=10.9.0.2 dst=10.9.0.1"), "{}", flows());
    // A few ports are forgotten by filter, of many the whole table is read.
    for (container, name, others) in [(&a, "a", 0), (&b, "b", 100)] {
        let mut ports = vec![map("5353", "udp", "80")];
        ports.extend((0..others).map(|number| map(&format!("{}", 20_000 + number), "udp", "80")));
        with_ports(&host, container, &json!(ports)).succeed();
        let _server = Server::new(&container.space, name);
        for (client, seen) in [(&v4, "10.9.0.2"), (&v6, "fd09::2")] {
            // The first may only collect the refusal of the one before it.
            let told = client.ask(BRIEFLY).or_else(|| client.ask(PATIENCE));
            assert_eq!(told, Some(format!("{name} sees {seen}")));
        }
        host.del(container);
        assert!(!flows().contains("dport=5353 src=10.88"), "{}", flows());
    }
    assert_eq!(flows().matches(kept).count(), 1, "{}", flows());
    drop(elsewhere);
}
