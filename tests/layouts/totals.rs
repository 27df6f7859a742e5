//! Up and down under load: what was asked is what is counted.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use libbpf_rs::{MapCore, MapHandle};
use serde_json::json;
use weir::telemetry::{
    pin,
    reader::{Maps, Snapshot},
    wire::{CounterKey, CounterKind, Stat, TcpResult},
};

use crate::{
    exchanges::{CONNECTIONS, Over, ask, requests, serve},
    plugin::{Container, ips},
    short::{Connection, Reload, ask_on},
    version::{Upgraded, Version},
};

struct Pair {
    node: Upgraded,
    server: Container,
    client: Container,
    address: SocketAddr,
    /// The host's side of the server's pair.
    link: String,
}

impl Pair {
    fn new(label: &str, attach: &'static str, version: Version) -> Self {
        let node = Upgraded::new(label, attach);
        let [server, client] = ["server", "client"].map(|id| node.host.container(id));
        let reply = node.call(version, "ADD", &server).succeed();
        node.call(version, "ADD", &client).succeed();
        let address: IpAddr = ips(&reply)[0].parse().unwrap();
        let link = reply["interfaces"][0]["name"].as_str().unwrap().to_owned();
        Self { node, server, client, address: (address, 8080).into(), link }
    }

    /// Goes to a version; says when, and how long the swap took.
    fn go(&self, version: Version) -> Reload {
        let before = self.node.layouts();
        let begun = Instant::now();
        let done = self.node.says(version, "reload");
        let swap = Duration::from_secs_f64(done["swap_seconds"].as_f64().unwrap());
        assert_eq!((&done["pods"], &done["from"]), (&json!(2), &json!(before)));
        let after = self.node.layouts();
        assert_eq!((after.len(), after == before), (1, false), "{after:?}");
        assert_eq!(after[0] == pin::SCHEMA, version == Version::This);
        Reload { begun, ended: Instant::now(), swap }
    }

    /// Goes to a version twice at once: the one carries over, the other swaps what it finds then.
    fn go_twice(&self, version: Version) -> Reload {
        let before = self.node.layouts();
        let done = thread::scope(|scope| {
            let one = || {
                let begun = Instant::now();
                let done = self.node.says(version, "reload");
                assert_eq!((&done["pods"], &done["refused"]), (&json!(2), &json!([])), "{done}");
                (begun, Instant::now(), done)
            };
            let (one, other) = (scope.spawn(one), scope.spawn(one));
            [one.join().unwrap(), other.join().unwrap()]
        });
        let (carried, in_place): (Vec<_>, Vec<_>) =
            done.into_iter().partition(|(.., done)| done["from"] == json!(before));
        assert_eq!(in_place.len(), 1);
        assert_eq!(in_place[0].2["from"], json!([]));
        let [(begun, ended, done)] = &carried[..] else { panic!("{carried:?}") };
        let after = self.node.layouts();
        assert_eq!((after.len(), after == before), (1, false), "{after:?}");
        let swap = Duration::from_secs_f64(done["swap_seconds"].as_f64().unwrap());
        Reload { begun: *begun, ended: *ended, swap }
    }

    /// Where the server serves: with one port for each client these don't run out of their own, of which a
    /// connection keeps one for a minute after its end.
    fn addresses(&self) -> Vec<SocketAddr> {
        (0..CONNECTIONS).map(|n| (self.address.ip(), self.address.port() + n).into()).collect()
    }

    /// With nobody underway all that was asked has been counted.
    fn settled(&self) {
        let (never, before) = (AtomicBool::new(false), self.requests());
        let asked = ask(&self.client.space, self.address, &never, 500);
        assert_eq!(self.requests(), before.map(|n| n + asked));
    }

    fn snapshot(&self) -> Snapshot {
        Maps::open(&self.node.bpf_dir()).unwrap().snapshot().unwrap()
    }

    fn requests(&self) -> [u64; 2] {
        requests(&self.snapshot())
    }

    /// The kernel's own figures of the server's link, from the first packet on. A router solicitation or a
    /// multicast report of the pod's kernel may come between the two readings.
    fn assert_bytes_are_the_links(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let links = self.node.host.node.ip(&format!("-s link show {}", self.link));
            let of = |direction: &str| links[0]["stats64"][direction]["bytes"].as_u64().unwrap();
            let pod = self.snapshot().pods.into_values().find(|pod| pod.container_id == "server");
            let network = pod.unwrap().network;
            let sum = |direction: usize| {
                network[direction].iter().map(|family| family.bytes).sum::<u64>()
            };
            // What the pod sends the host's end receives.
            let (counted, links) = ([sum(1), sum(0)], [of("rx"), of("tx")]);
            if counted == links {
                return;
            }
            assert!(Instant::now() < deadline, "{counted:?} of {links:?}: {network:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Pair {
    /// All are closed by now, those too that were open in a swap and that nobody has seen close.
    fn assert_no_connection_is_left_over(&self) {
        let snapshot = self.snapshot();
        let count = |kind: CounterKind, a: u32| -> u64 {
            let of = |key: &CounterKey| u32::from(key.kind) == kind.0 && u32::from(key.a) == a;
            snapshot.counters.iter().filter(|(key, _)| of(key)).map(|(_, n)| n).sum()
        };
        let established = TcpResult::TCP_RESULT_ESTABLISHED.0;
        let established = count(CounterKind::COUNTER_TCP_CONNECTIONS, established);
        assert_eq!(established, count(CounterKind::COUNTER_TCP_CLOSED, 0));
        let conns = snapshot.maps.iter().find(|map| map.name == "conns").unwrap();
        let pinned = pin::dir(&self.node.bpf_dir()).join("conns");
        let there = MapHandle::from_pinned_path(pinned).unwrap().keys().count();
        assert_eq!(conns.entries, u64::try_from(there).unwrap());
    }
}

/// An open connection is not followed over another layout, and that is told, once.
#[test]
fn a_connection_that_another_layout_leaves_behind_is_told_of() {
    let pair = Pair::new("layouts-left", "clsact", Version::This);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        serve(&pair.server.space, pair.address, scope, &over);
        let open = pair.client.space.run(|| TcpStream::connect(pair.address).unwrap());
        while pair.snapshot().stats[Stat::STAT_CONNS_CREATED.0 as usize] < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        let left = || pair.snapshot().stats[Stat::STAT_LEFT_CONNS.0 as usize];
        assert_eq!(left(), 0);
        for version in [Version::Other, Version::This, Version::Other, Version::This] {
            pair.go(version);
        }
        // One at each pod's end.
        assert_eq!(left(), 2);
        drop(open);
    });
    pair.assert_no_connection_is_left_over();
}

/// On the ways up and down that `go` goes.
fn totals_survive(label: &str, attach: &'static str, go: fn(&Pair, Version) -> Reload) {
    let pair = Pair::new(label, attach, Version::This);
    // Before the clock of the first reload runs.
    Version::Other.weir();
    let (over, busy) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let _over = Over(&over);
        let addresses = pair.addresses();
        addresses.iter().for_each(|to| serve(&pair.server.space, *to, scope, &over));
        pair.settled();
        let _busy = Over(&busy);
        let clients = ask_on(&pair.client.space, &addresses, scope, &busy);
        let watcher = {
            let (pair, busy) = (&pair, &busy);
            scope.spawn(move || watch(pair, busy))
        };
        let mut reloads = Vec::new();
        for version in [Version::Other, Version::This, Version::Other, Version::This] {
            reloads.push(go(&pair, version));
            // For the watcher, and for the totals to grow in either.
            thread::sleep(Duration::from_millis(200));
        }
        busy.store(true, Ordering::Relaxed);
        let connections: Vec<Connection> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(watcher.join().unwrap() >= 2);
        let asked = 500 + connections.iter().map(|connection| connection.asked).sum::<u64>();
        let lost = reloads.iter().map(|reload| reload.may_lose(&connections)).sum::<u64>();
        let seen = pair.requests();
        eprintln!("{seen:?} of {asked}, of which {lost} may be lost");
        assert!(
            seen.iter().all(|n| (asked.saturating_sub(lost)..=asked).contains(n)),
            "{seen:?} of {asked}, of which {lost} may be lost: {:?}",
            pair.snapshot().counters
        );
        pair.settled();
        over.store(true, Ordering::Relaxed);
    });
    pair.assert_bytes_are_the_links();
    pair.assert_no_connection_is_left_over();
}

#[test]
fn totals_survive_the_way_up_and_down_by_filters() {
    totals_survive("layouts-clsact", "clsact", Pair::go);
}

#[test]
fn totals_survive_the_way_up_and_down_by_links() {
    totals_survive("layouts-tcx", "tcx", Pair::go);
}

#[test]
fn totals_survive_two_who_go_the_same_way_at_once() {
    totals_survive("layouts-two", "clsact", Pair::go_twice);
}

/// Scrapes as an agent does, while there is somebody busy and this version's maps are there; says how many had totals.
/// None may have less than one before.
fn watch(pair: &Pair, over: &AtomicBool) -> u64 {
    let (mut last, mut last_bytes, mut scrapes) = ([0, 0], 0, 0);
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
        let Ok(still) = weir::telemetry::hold_still(&pair.node.bpf_dir()) else { continue };
        let opened = Maps::open(&pair.node.bpf_dir()).and_then(|maps| maps.snapshot());
        drop(still);
        let Ok(snapshot) = opened else { continue };
        let now = requests(&snapshot);
        let network = snapshot.pods.values().flat_map(|pod| pod.network.iter().flatten());
        let bytes: u64 = network.map(|net| net.bytes).sum();
        assert!(now[0] >= last[0] && now[1] >= last[1] && bytes >= last_bytes, "{now:?} {last:?}");
        (last, last_bytes) = (now, bytes);
        scrapes += 1;
    }
    scrapes
}

/// The maps are there already, and read all the time, when the pods of the other version come to them.
#[test]
fn a_scrape_sees_a_pod_with_all_its_totals_or_not_at_all() {
    let pair = Pair::new("layouts-scrape", "clsact", Version::Other);
    let (over, busy) = (AtomicBool::new(false), AtomicBool::new(false));
    let bpf_dir = pair.node.bpf_dir();
    let (never, first) = (AtomicBool::new(false), 500);
    thread::scope(|scope| {
        let _over = Over(&over);
        serve(&pair.server.space, pair.address, scope, &over);
        assert_eq!(ask(&pair.client.space, pair.address, &never, first), first);
        let other = pair.node.host.container("other");
        pair.node.call(Version::This, "ADD", &other).succeed();
        let _busy = Over(&busy);
        let watcher = scope.spawn(|| {
            let (mut last, mut seen) = (0, 0);
            while !busy.load(Ordering::Relaxed) {
                let still = weir::telemetry::hold_still(&bpf_dir);
                let snapshot = Maps::open(&bpf_dir).unwrap().snapshot().unwrap();
                drop(still);
                if snapshot.pods.values().any(|pod| pod.container_id == "server") {
                    let [served, _] = requests(&snapshot);
                    assert!(served >= first.max(last), "{served} of {first}, {last} before");
                    (last, seen) = (served, seen + 1);
                }
            }
            seen
        });
        assert_eq!(pair.node.says(Version::This, "reload")["pods"], 3);
        thread::sleep(Duration::from_millis(100));
        busy.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0);
        over.store(true, Ordering::Relaxed);
    });
    pair.settled_at(first);
}

impl Pair {
    fn settled_at(&self, asked: u64) {
        assert_eq!(self.requests(), [asked, asked]);
        self.assert_bytes_are_the_links();
    }
}
