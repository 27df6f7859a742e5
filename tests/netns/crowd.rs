//! Many calls at once, of all verbs.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use crate::{
    counted::Counted,
    plugin::{Call, Container, Host, ips},
    ports::{elements, map},
};

const CROWD: usize = 200;

/// A range of exactly as many addresses.
fn range(call: Call<'_>) -> Call<'_> {
    let subnet = "10.88.0.0/24";
    let range = json!({"subnet": subnet, "rangeStart": "10.88.0.2", "rangeEnd": "10.88.0.201"});
    let ranges = json!([[range]]);
    // A full range, which is meant here, keeps no STATUS from being a success.
    let ipam =
        json!({"ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "statusWhenFull": "ready"});
    call.key("ipam", ipam)
}

fn at_once<T: Send>(containers: &[Container], act: impl Fn(&Container) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let act = &act;
        let calls: Vec<_> =
            containers.iter().map(|container| scope.spawn(move || act(container))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

/// Whether the pod answers: it refuses a connection to a port that nobody listens on.
fn answers(host: &Host, ip: &str) -> bool {
    let target = SocketAddr::new(ip.parse().unwrap(), 9);
    let connected = host.node.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
    connected.is_err_and(|err| err.kind() == ErrorKind::ConnectionRefused)
}

fn distinct(texts: impl Iterator<Item = String>) -> usize {
    texts.collect::<HashSet<_>>().len()
}

#[test]
fn a_crowd_fills_a_range_to_the_last_address() {
    let host = Host::new("crowd");
    let before = host.footprint();
    let containers: Vec<_> = (0..CROWD).map(|n| host.container(&format!("c{n}"))).collect();
    let replies =
        at_once(&containers, |container| range(host.call("ADD", Some(container))).succeed());

    let late = host.container("late");
    let refusal = range(host.call("ADD", Some(&late))).refused(101);
    assert!(refusal.contains("10.88.0.0/24"), "{refusal}");
    assert_each_has_its_own(&host, &replies);

    at_once(&containers, |container| host.del(container));
    host.footprint().assert_is(&before, "afterwards");
    range(host.call("ADD", Some(&late))).succeed();
    host.del(&late);
}

/// Addresses, MACs and names of a crowd, and that all of it can be reached.
fn assert_each_has_its_own(host: &Host, replies: &[Value]) {
    let interfaces =
        || replies.iter().flat_map(|reply| reply["interfaces"].as_array().unwrap().iter());
    assert_eq!(distinct(replies.iter().flat_map(ips)), CROWD);
    assert_eq!(distinct(interfaces().map(|interface| interface["mac"].to_string())), 2 * CROWD);
    assert_eq!(distinct(interfaces().map(|interface| interface["name"].to_string())), CROWD + 1);
    let lost: Vec<_> = replies.iter().flat_map(ips).filter(|ip| !answers(host, ip)).collect();
    assert!(lost.is_empty(), "{lost:?} don't answer");
}

#[test]
fn a_check_straight_after_a_crowd_finds_all_right() {
    // Nothing is loaded yet, and each has all that CHECK compares.
    let counted = Counted::new("straight");
    let containers: Vec<_> = (0..100).map(|n| counted.host.container(&format!("c{n}"))).collect();
    let call = |verb: &str, container: &Container| {
        let port = 20_000 + container.id[1..].parse::<u16>().unwrap();
        let ports = json!([map(&port.to_string(), "tcp", "80")]);
        let call = counted.call(verb, Some(container), "auto").within(100);
        call.key("ipMasq", json!(true)).key("runtimeConfig", json!({"portMappings": ports}))
    };
    // Each as soon as its ADD has answered, while the others' are still under way.
    at_once(&containers, |container| {
        let reply = call("ADD", container).succeed();
        call("CHECK", container).key("prevResult", reply).succeed();
    });
    at_once(&containers, |container| call("DEL", container).succeed());
    assert_eq!(counted.host.node.links(), ["lo"]);
    assert!(!elements(&counted.host).contains("elements"));
}

/// Repeats an act as long as the flag is set.
fn while_set(flag: &AtomicBool, act: impl Fn() -> Value) {
    while flag.load(Ordering::Relaxed) {
        act();
    }
}

/// Clears the flag at its end, also at that of a panic.
struct Cleared<'a>(&'a AtomicBool);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn every_verb_goes_beside_every_other() {
    let host = Host::new("mixed");
    let before = host.footprint();
    let still = host.container("still");
    let reply = host.add(&still);
    let containers: Vec<_> = (0..16).map(|n| host.container(&format!("c{n}"))).collect();
    let valid: Vec<_> = containers.iter().chain([&still]).collect();
    let valid: Value =
        valid.iter().map(|it| json!({"containerID": it.id, "ifname": "eth0"})).collect();
    let working = AtomicBool::new(true);
    thread::scope(|scope| {
        let (host, working, still, valid, reply) = (&host, &working, &still, &valid, &reply);
        let check = move || host.check(still, reply).succeed();
        let gc =
            move || host.call("GC", None).key("cni.dev/valid-attachments", valid.clone()).succeed();
        let status = move || host.call("STATUS", None).succeed();
        scope.spawn(move || while_set(working, check));
        scope.spawn(move || while_set(working, gc));
        scope.spawn(move || while_set(working, status));
        let _rest = Cleared(working);
        at_once(&containers, |container| {
            for _ in 0..4 {
                let reply = host.add(container);
                host.check(container, &reply).succeed();
                host.del(container);
            }
        });
    });
    host.check(&still, &reply).succeed();
    host.del(&still);
    host.footprint().assert_is(&before, "afterwards");
}

/// With as many addresses as pods: whoever takes one from the living, or doesn't give one back, is found out.
#[test]
fn a_crowd_comes_goes_and_comes_again_beside_check_gc_and_status() {
    let host = Host::new("mixed-crowd");
    let before = host.footprint();
    let containers: Vec<_> = (0..CROWD).map(|n| host.container(&format!("c{n}"))).collect();
    let entry = |container: &Container| json!({"containerID": container.id, "ifname": "eth0"});
    let valid: Value = containers.iter().map(entry).collect();
    let still = &containers[0];
    let reply = range(host.call("ADD", Some(still))).succeed();
    let add = |container: &Container| {
        let reply = range(host.call("ADD", Some(container)).within(60)).succeed();
        host.check(container, &reply).within(60).succeed();
        reply
    };
    let working = AtomicBool::new(true);
    let counts = [const { AtomicUsize::new(0) }; 3];
    let replies = thread::scope(|scope| {
        let (host, working, valid, reply, counts) = (&host, &working, &valid, &reply, &counts);
        let beside = move |at: usize, call: Box<dyn Fn() -> Value + Send>| {
            scope.spawn(move || {
                while_set(working, || {
                    counts[at].fetch_add(1, Ordering::Relaxed);
                    call()
                })
            });
        };
        let gc = move || host.call("GC", None).key("cni.dev/valid-attachments", valid.clone());
        beside(0, Box::new(move || host.check(still, reply).within(60).succeed()));
        beside(1, Box::new(move || range(gc()).within(60).succeed()));
        beside(2, Box::new(move || range(host.call("STATUS", None)).within(60).succeed()));
        let _rest = Cleared(working);
        at_once(&containers, |container| {
            if container.id == still.id {
                return reply.clone();
            }
            let reply = add(container);
            // Each second one makes room for the others, and takes what they left.
            if container.id.ends_with(['1', '3', '5', '7', '9']) {
                return reply;
            }
            host.call("DEL", Some(container)).within(60).succeed();
            add(container)
        })
    });
    for (verb, count) in ["CHECK", "GC", "STATUS"].iter().zip(counts) {
        let count = count.into_inner();
        assert!(count > 3, "{verb} came {count} times");
    }
    assert_each_has_its_own(&host, &replies);
    let late = host.container("late");
    range(host.call("ADD", Some(&late))).refused(101);
    let pairs: Vec<_> = containers.iter().zip(&replies).collect();
    for (container, reply) in pairs {
        host.check(container, reply).succeed();
    }
    at_once(&containers, |container| host.call("DEL", Some(container)).within(60).succeed());
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn a_stuck_holder_of_the_lock_is_waited_for_in_bounds_and_never_by_status() {
    let host = Host::new("stuck");
    let a = host.container("a");
    host.add(&a);
    for file in ["leases/podnet/lock", "attachments"] {
        let file = fs::File::open(host.state_dir().join(file)).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let b = host.container("b");
        let started = Instant::now();
        host.call("STATUS", None).succeed();
        let status = started.elapsed();
        assert!(status < Duration::from_secs(2), "{status:?}");
        let before = host.footprint();
        let started = Instant::now();
        let said = host.call("ADD", Some(&b)).refused(11);
        let add = started.elapsed();
        host.footprint().assert_is(&before, &said);
        assert!(said.contains("locked by another call"), "{said}");
        assert!((4..9).contains(&add.as_secs()), "{add:?}");
        drop(lock);
        host.add(&b);
        host.del(&b);
    }
}
