//! `weir reload` under traffic: what is counted is what was served, and nobody is without a program.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use libbpf_rs::Program;
use serde_json::{Value, json};
use weir::telemetry::{
    Mode, pin,
    reader::{Maps, Snapshot},
    sys,
    wire::{Direction, Stat},
};

use crate::{
    counted::Counted,
    exchanges::{CONNECTIONS, Over, ask, requests, serve},
    plugin::{Container, ips},
};

/// A server's pod and its client's.
struct Pair {
    counted: Counted,
    server: Container,
    client: Container,
    address: SocketAddr,
    /// The host's side of the server's pair.
    link: String,
}

impl Pair {
    fn new(label: &str, attach: &str) -> Self {
        let counted = Counted::new(label);
        let [server, client] = ["server", "client"].map(|id| counted.host.container(id));
        let reply = counted.call("ADD", Some(&server), attach).succeed();
        counted.call("ADD", Some(&client), attach).succeed();
        let address: IpAddr = ips(&reply)[0].parse().unwrap();
        let link = reply["interfaces"][0]["name"].as_str().unwrap().to_owned();
        Self { counted, server, client, address: (address, 8080).into(), link }
    }

    fn bpf_dir(&self) -> PathBuf {
        self.counted.bpffs.join("weir")
    }

    fn reload(&self) -> Value {
        let weir = env!("CARGO_BIN_EXE_weir");
        let dir = self.bpf_dir();
        let words = format!("{weir} reload -o json --bpf-dir {}", dir.display());
        serde_json::from_str(&self.counted.host.node.succeed(&words)).unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        Maps::open(&self.bpf_dir()).unwrap().snapshot().unwrap()
    }

    /// Requests counted with the right answer, at the server and at the client.
    fn requests(&self) -> [u64; 2] {
        requests(&self.snapshot())
    }
}

/// While so many at once reload, again and again.
fn counted_is_served(attach: &str, at_once: usize) {
    let pair = Pair::new(&format!("reload-{attach}-{at_once}"), attach);
    let (over, closed) = (AtomicBool::new(false), AtomicBool::new(false));
    let served = AtomicU64::new(0);
    let asked: u64 = thread::scope(|scope| {
        // A listener that closes resets whom it has not accepted: not before the last client is done.
        let (_over, _closed) = (Over(&over), Over(&closed));
        serve(&pair.server.space, pair.address, scope, &closed);
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (pair, over, served) = (&pair, &over, &served);
                scope.spawn(move || {
                    let never = AtomicBool::new(false);
                    let mut asked = 0;
                    while !over.load(Ordering::Relaxed) {
                        let some = ask(&pair.client.space, pair.address, &never, 1000);
                        served.fetch_add(some, Ordering::Relaxed);
                        asked += some;
                    }
                    asked
                })
            })
            .collect();
        let mut reloads = 0;
        while reloads < 3 || served.load(Ordering::Relaxed) < 20_000 {
            let begun = Instant::now();
            let loaded: f64 = thread::scope(|scope| {
                let one = || {
                    let done = pair.reload();
                    assert_eq!(done["pods"], 2, "{done}");
                    assert_eq!((&done["from"], &done["refused"]), (&json!([]), &json!([])));
                    done["load_seconds"].as_f64().unwrap()
                };
                let all: Vec<_> = (0..at_once).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|one| one.join().unwrap()).sum()
            });
            // Each has loaded in a time of its own.
            let took = begun.elapsed().as_secs_f64();
            assert!(loaded <= took, "{loaded} s of loading in {took} s");
            reloads += 1;
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(asked >= 20_000);
    assert_eq!(pair.requests(), [asked, asked]);
    let stats = pair.snapshot().stats;
    for lost in [Stat::STAT_GAP_SEQUENCE, Stat::STAT_GAP_CONTENDED, Stat::STAT_GAP_INFLIGHT] {
        assert_eq!(stats[lost.0 as usize], 0, "{lost:?}");
    }
    pair.assert_bytes_are_the_links();
    pair.assert_hooked_by_what_is_pinned();
}

impl Pair {
    /// Every hook runs the program that is pinned, and no reload has left anything beside it.
    fn assert_hooked_by_what_is_pinned(&self) {
        let entries = fs::read_dir(self.bpf_dir()).unwrap().map(Result::unwrap);
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        assert!(names.iter().all(|name| name == pin::SCHEMA || name == "links"), "{names:?}");
        let pinned = ["weir_from_pod", "weir_to_pod"].map(|name| {
            let path = pin::dir(&self.bpf_dir()).join(name);
            let program = Program::fd_from_pinned_path(path).unwrap();
            Program::id_from_fd(program.as_fd()).unwrap()
        });
        for (pod, of) in self.snapshot().pods {
            let run = [Direction::DIRECTION_TX, Direction::DIRECTION_RX].map(|direction| {
                if of.mode == Mode::Clsact {
                    let side = ["egress", "ingress"][direction.0 as usize];
                    return self.filter(of.ifindex, side);
                }
                let link = sys::open_link(&pin::link(&self.bpf_dir(), pod, direction));
                link.unwrap().unwrap().info().unwrap().prog_id
            });
            assert_eq!(run, pinned, "{of:?}");
        }
    }

    /// The program of the only filter of ours on a side of an interface.
    fn filter(&self, ifindex: u32, side: &str) -> u32 {
        let node = &self.counted.host.node;
        let links = node.ip("link");
        let link = links.as_array().unwrap().iter().find(|link| link["ifindex"] == ifindex);
        let name = link.unwrap()["ifname"].as_str().unwrap().to_owned();
        let shown = node.succeed(&format!("tc filter show dev {name} {side}"));
        let ids: Vec<_> = shown.split(" id ").skip(1).collect();
        let [id] = ids[..] else { panic!("{shown}") };
        id.split(' ').next().unwrap().parse().unwrap()
    }

    /// The kernel's own figures of the server's link, from the first packet on.
    fn assert_bytes_are_the_links(&self) {
        let links = self.counted.host.node.ip(&format!("-s link show {}", self.link));
        let stats = &links[0]["stats64"];
        let of = |direction: &str| {
            ["bytes", "packets"].map(|what| stats[direction][what].as_u64().unwrap())
        };
        let pod = self.snapshot().pods.into_values().find(|pod| pod.container_id == "server");
        let network = pod.unwrap().network;
        let sum =
            |direction: usize| network[direction].iter().map(|family| family.bytes).sum::<u64>();
        // What the pod sends the host's end receives.
        assert_eq!([sum(1), sum(0)], [of("rx")[0], of("tx")[0]], "{network:?}");
    }
}

#[test]
fn counted_is_served_while_filters_are_swapped() {
    counted_is_served("clsact", 1);
}

#[test]
fn counted_is_served_while_links_are_swapped() {
    counted_is_served("tcx", 1);
}

#[test]
fn two_reloads_at_once_come_one_after_the_other() {
    for attach in ["clsact", "tcx"] {
        counted_is_served(attach, 2);
    }
}

#[test]
fn a_load_that_the_kernel_refuses_leaves_the_old_programs_and_says_why() {
    let pair = Pair::new("reload-refused", "clsact");
    let (never, dir) = (AtomicBool::new(false), pair.bpf_dir());
    let filters = || {
        let shown = ["ingress", "egress"].map(|side| {
            pair.counted.host.node.succeed(&format!("tc filter show dev {} {side}", pair.link))
        });
        let pinned = ["weir_from_pod", "weir_to_pod"].map(|name| pin::dir(&dir).join(name));
        (shown, pinned.map(|pin| pin.exists()), fs::read_dir(&dir).unwrap().count())
    };
    let before = filters();
    let weir = env!("CARGO_BIN_EXE_weir");
    // Root without what loading takes: the kernel refuses the first program.
    let drop = "setpriv --bounding-set=-bpf,-sys_admin,-perfmon";
    let log = pair.counted.host.state_dir().with_file_name("verifier.log");
    let places = format!("--bpf-dir {} --verifier-log {}", dir.display(), log.display());
    let words = format!("{drop} {weir} reload {places}");
    let output = pair.counted.host.node.command(&words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the kernel refused the BPF programs"), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    assert_eq!(filters(), before);
    // Without the right to what the verifier allows root alone: its log names the instruction.
    let words = format!("setpriv --bounding-set=-sys_admin,-perfmon {weir} reload {places}");
    let output = pair.counted.host.node.command(&words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("the verifier's log is in {}", log.display())), "{said}");
    let kept = fs::read_to_string(&log).unwrap();
    assert!(kept.contains("BEGIN PROG LOAD LOG") && kept.contains("processed "), "{kept}");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&log).unwrap();
    assert_eq!(filters(), before);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        serve(&pair.server.space, pair.address, scope, &over);
        assert_eq!(ask(&pair.client.space, pair.address, &never, 50), 50);
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(pair.requests(), [50, 50]);
    assert_eq!(pair.reload()["pods"], 2);
}

#[test]
fn interfaces_that_refuse_are_all_named_and_the_others_swapped() {
    let pair = Pair::new("reload-some", "clsact");
    let node = &pair.counted.host.node;
    let third = pair.counted.host.container("third");
    let reply = pair.counted.call("ADD", Some(&third), "clsact").succeed();
    let links = [pair.link.clone(), reply["interfaces"][0]["name"].as_str().unwrap().to_owned()];
    let filter = |place: &str, program: &str| {
        let ours = format!("prio {} handle {:#x}", 49_152, 0x7765_6972);
        let program = pin::dir(&pair.bpf_dir()).join(program);
        let bpf = format!("bpf da object-pinned {}", program.display());
        node.succeed(&format!("tc filter add {place} {ours} {bpf}"));
    };
    // Somebody has their hooks in blocks that are shared out, where no filter of an interface can be replaced.
    for (block, link) in [71, 73].iter().zip(&links) {
        let (ingress, egress) = (block, block + 1);
        node.succeed(&format!("tc qdisc del dev {link} clsact"));
        let blocks = format!("ingress_block {ingress} egress_block {egress}");
        node.succeed(&format!("tc qdisc add dev {link} {blocks} clsact"));
        filter(&format!("block {ingress}"), "weir_from_pod");
        filter(&format!("block {egress}"), "weir_to_pod");
    }
    let ask = |asked: u64| {
        let (never, over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let _over = Over(&over);
            serve(&pair.server.space, pair.address, scope, &over);
            assert_eq!(ask(&pair.client.space, pair.address, &never, 50), 50);
        });
        assert_eq!(pair.requests(), [asked; 2]);
    };
    ask(50);
    let words = format!("{} reload -o json --bpf-dir", env!("CARGO_BIN_EXE_weir"));
    let output = node.command(&format!("{words} {}", pair.bpf_dir().display()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["pods"], &done["left"]), (&json!(1), &json!([])), "{done}");
    let refused = done["refused"].as_array().unwrap();
    let refused: Vec<_> = refused.iter().map(|it| (&it["interface"], &it["pod"])).collect();
    let expected = [(&json!(links[0]), &json!("server")), (&json!(links[1]), &json!("third"))];
    assert_eq!(refused, expected);
    for link in &links {
        assert!(said.contains(&format!("interface {link} (")), "{said}");
    }
    assert!(said.contains("2 interfaces go on") && said.contains("not supported"), "{said}");
    // The old programs go on, with the same maps: nothing is wrong with the pods.
    ask(100);
    let kept = || {
        let pins = fs::read_dir(pin::dir(&pair.bpf_dir())).unwrap().map(Result::unwrap);
        pins.filter(|pin| pin.file_name().to_str().unwrap().starts_with("before_")).count()
    };
    for _ in 0..2 {
        pair.counted.check(&third, "clsact", &reply).succeed();
        let (weir, state) = (env!("CARGO_BIN_EXE_weir"), pair.counted.host.state_dir());
        let places =
            format!("--state-dir {} --bpf-dir {}", state.display(), pair.bpf_dir().display());
        let pods: Value =
            serde_json::from_str(&node.succeed(&format!("{weir} pods -o json {places}"))).unwrap();
        let states = pods.as_array().unwrap().iter().map(|pod| pod["telemetry"].clone());
        assert_eq!(states.collect::<Vec<_>>(), ["counted"; 3]);
        assert_eq!(kept(), 2);
        assert_eq!(
            node.command(&format!("{words} {}", pair.bpf_dir().display())).status.code(),
            Some(1)
        );
    }
    for link in &links {
        node.succeed(&format!("tc qdisc del dev {link} clsact"));
        node.succeed(&format!("tc qdisc add dev {link} clsact"));
        filter(&format!("dev {link} ingress"), "weir_from_pod");
        filter(&format!("dev {link} egress"), "weir_to_pod");
    }
    assert_eq!(pair.reload()["pods"], 3);
    assert_eq!(kept(), 0);
    ask(150);
}

#[test]
fn where_no_pod_was_counted_nothing_is_loaded() {
    let counted = Counted::new("reload-nothing");
    let weir = env!("CARGO_BIN_EXE_weir");
    let reload = |dir: &str, code: i32| {
        let words = format!("{weir} reload -o json --bpf-dir {dir}");
        let output = counted.host.node.command(&words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        (output.stdout, said)
    };
    let dir = counted.bpffs.join("weir");
    let shown = dir.display().to_string();
    // A directory that isn't there, and one in which a pod's agent waits.
    for there in [false, true] {
        let (done, said) = reload(&shown, 0);
        assert_eq!(serde_json::from_slice::<Value>(&done).unwrap()["pods"], 0);
        assert!(said.contains(&format!("nothing to reload in {shown}")), "{said}");
        assert!(said.contains("--bpf-dir"), "{said}");
        let pins = counted.pins();
        assert!(!pins.iter().any(|pin| pin.starts_with(&dir)), "{pins:?}");
        assert_eq!(dir.exists(), there);
        fs::create_dir_all(dir.join("links")).unwrap();
    }
    let (_, said) = reload("/nowhere/weir", 1);
    assert!(said.contains("/nowhere does not exist"), "{said}");
}

#[test]
fn pods_that_start_and_end_meanwhile_have_the_programs_of_the_day() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new(&format!("reload-add-{attach}"));
        let pods = ["a", "b", "c"].map(|id| counted.host.container(id));
        counted.call("ADD", Some(&pods[0]), attach).succeed();
        counted.call("DEL", Some(&pods[0]), attach).succeed();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&over);
            let adders: Vec<_> = pods
                .iter()
                .map(|pod| {
                    let (counted, over) = (&counted, &over);
                    scope.spawn(move || {
                        let mut rounds = 0;
                        while !over.load(Ordering::Relaxed) {
                            let reply = counted.call("ADD", Some(pod), attach).succeed();
                            // Compares the program in the filter with the one that is pinned.
                            counted.check(pod, attach, &reply).succeed();
                            counted.call("DEL", Some(pod), attach).succeed();
                            rounds += 1;
                        }
                        rounds
                    })
                })
                .collect();
            for _ in 0..4 {
                let weir = env!("CARGO_BIN_EXE_weir");
                let dir = counted.bpffs.join("weir");
                let words = format!("{weir} reload --bpf-dir {}", dir.display());
                counted.host.node.succeed(&words);
            }
            over.store(true, Ordering::Relaxed);
            assert!(adders.into_iter().all(|adder| adder.join().unwrap() > 0));
        });
        assert_eq!(counted.host.node.links(), ["lo"]);
    }
}
