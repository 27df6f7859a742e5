//! An interface that another attachment has after the first one's DEL: each keeps its own totals.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use weir::telemetry::{reader::Network, sys, wire::Direction};

use crate::{counted::Counted, node::Space};

/// Bytes and packets that have passed an interface so far, received by the node and sent.
fn of_the_link(counted: &Counted, name: &str) -> [[u64; 2]; 2] {
    let links = counted.host.node.ip(&format!("-s link show {name}"));
    ["rx", "tx"].map(|direction| {
        let stats = &links[0]["stats64"][direction];
        ["bytes", "packets"].map(|what| stats[what].as_u64().unwrap())
    })
}

/// The same of the totals: what the node receives the pod has sent.
fn summed(network: &Network) -> [[u64; 2]; 2] {
    [1, 0].map(|direction: usize| {
        let families = &network[direction];
        [families.iter().map(|of| of.bytes).sum(), families.iter().map(|of| of.packets).sum()]
    })
}

fn less(now: [[u64; 2]; 2], before: [[u64; 2]; 2]) -> [[u64; 2]; 2] {
    [0, 1].map(|direction: usize| {
        [0, 1].map(|what: usize| now[direction][what] - before[direction][what])
    })
}

/// Sends so many messages from the pod to the node and back; each was received when it returns.
fn exchange(pod: &Space, node: &Space, messages: u64) {
    let bind = |space: &Space, at: &str| {
        let at = at.to_owned();
        let socket = space.run(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (one, other) = (bind(pod, "10.99.0.2:5000"), bind(node, "10.99.0.1:5000"));
    for (from, to) in [(&one, &other), (&other, &one)] {
        for _ in 0..messages {
            from.send_to(b"message", to.local_addr().unwrap()).unwrap();
            to.recv(&mut [0; 8]).unwrap();
        }
    }
}

#[test]
fn each_has_what_passed_in_its_own_time() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new("handed-on");
        let host = &counted.host;
        let a = host.container("a");
        let netns = a.space.path().to_str().unwrap().to_owned();
        host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
        // No greetings of the kernel's between two readings.
        host.node.succeed("sysctl -qw net.ipv6.conf.vethx.disable_ipv6=1");
        a.space.succeed("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
        for (space, dev, own, other) in [(&*host.node, "vethx", 1, 2), (&a.space, "eth0", 2, 1)] {
            space.succeed(&format!("ip link set {dev} address 02:00:00:00:00:0{own} up"));
            space.succeed(&format!("ip addr add 10.99.0.{own}/24 dev {dev}"));
            let neighbour = format!("10.99.0.{other} lladdr 02:00:00:00:00:0{other} dev {dev}");
            space.succeed(&format!("ip neigh add {neighbour} nud permanent"));
        }
        let result = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
        });
        let chained = |verb: &str, id: &str| -> Value {
            let call = counted.call(verb, Some(&a), attach).variable("CNI_CONTAINERID", id);
            call.key("prevResult", result.clone()).without("ipam").succeed()
        };
        let totals = |id: &str| {
            let pods = counted.snapshot().pods.into_values();
            let found: Vec<_> = pods.filter(|pod| pod.container_id == id).collect();
            assert_eq!(found.len(), 1, "{attach}: {id}");
            summed(&found[0].network)
        };
        let mut before = of_the_link(&counted, "vethx");
        let mut ended = Vec::new();
        for (id, messages) in [("first", 7), ("second", 3), ("third", 5)] {
            chained("ADD", id);
            assert_eq!(totals(id), [[0; 2]; 2], "{attach}: {id}");
            exchange(&a.space, &host.node, messages);
            let now = of_the_link(&counted, "vethx");
            let own = less(now, before);
            assert!(own.iter().all(|of| of[1] == messages), "{attach}: {id}: {own:?}");
            assert_eq!(totals(id), own, "{attach}: {id}");
            chained("DEL", id);
            // Links are taken off by a worker of the kernel's.
            let hooked = || {
                host.node.run(|| {
                    let index = if_nametoindex("vethx").unwrap().try_into().unwrap();
                    [Direction::DIRECTION_TX, Direction::DIRECTION_RX]
                        .into_iter()
                        .any(|direction| sys::tcx_in_use(index, direction))
                })
            };
            let deadline = Instant::now() + Duration::from_secs(5);
            while hooked() {
                assert!(Instant::now() < deadline, "{attach}: {id} is hooked after its DEL");
                thread::sleep(Duration::from_millis(5));
            }
            exchange(&a.space, &host.node, 2);
            ended.push((id, own));
            for (id, own) in &ended {
                assert_eq!(totals(id), *own, "{attach}: {id} after its DEL");
            }
            before = of_the_link(&counted, "vethx");
        }
    }
}
