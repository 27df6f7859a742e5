//! Telemetry inside the verbs: hooked by ADD, compared by CHECK, taken off by DEL; first or chained.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use weir::telemetry::{
    reader::{Maps, Snapshot},
    sys,
    wire::Direction,
};

use crate::{
    node::talk,
    plugin::{Call, Container, Host, ips},
};

/// A host with a bpffs of its own.
pub struct Counted {
    pub host: Host,
    pub bpffs: PathBuf,
}

impl Counted {
    pub fn new(label: &str) -> Self {
        let host = Host::new(label);
        let bpffs = host.state_dir().with_file_name("bpffs");
        fs::create_dir(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self { host, bpffs }
    }

    /// A call with counting required, by the hook `attach`.
    pub fn call(&self, verb: &str, container: Option<&Container>, attach: &str) -> Call<'_> {
        let call = self.host.call(verb, container);
        let call = call.key("telemetry", json!({"required": true, "attach": attach}));
        call.key("bpfDir", json!(self.bpffs.join("weir")))
    }

    pub fn check(&self, container: &Container, attach: &str, result: &Value) -> Call<'_> {
        self.call("CHECK", Some(container), attach).key("prevResult", result.clone())
    }

    pub fn snapshot(&self) -> Snapshot {
        Maps::open(&self.bpffs.join("weir")).unwrap().snapshot().unwrap()
    }

    /// Bytes and packets counted of the only living pod, sent and received.
    pub fn network(&self) -> [[u64; 2]; 2] {
        let snapshot = self.snapshot();
        let mut living = snapshot.pods.values().filter(|pod| pod.deleted.is_none());
        let pod = living.next().unwrap();
        [Direction::DIRECTION_TX, Direction::DIRECTION_RX].map(|direction| {
            let families = &pod.network[direction.0 as usize];
            [families.iter().map(|of| of.bytes).sum(), families.iter().map(|of| of.packets).sum()]
        })
    }

    /// The containers that are counted, by the maps.
    fn living(&self) -> Vec<String> {
        let pods = self.snapshot().pods.into_values();
        pods.filter(|pod| pod.deleted.is_none()).map(|pod| pod.container_id).collect()
    }

    /// The filters on an interface of the node, by direction.
    pub fn filters(&self, name: &str) -> [usize; 2] {
        ["ingress", "egress"].map(|direction| {
            let shown = self.host.node.command(&format!("tc filter show dev {name} {direction}"));
            let shown = String::from_utf8(shown.stdout).unwrap();
            shown.lines().filter(|line| line.contains("weir_")).count()
        })
    }

    /// Pins below the directory; those of programs and maps stay for the next pod.
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut pins = Vec::new();
        let mut dirs = vec![self.bpffs.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                } else {
                    pins.push(entry.path());
                }
            }
        }
        pins.sort();
        pins
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_pod_is_hooked_compared_and_left_without_a_trace() {
    let counted = Counted::new("counted");
    let a = counted.host.container("a");
    // The node's first pod brings the programs and maps, which stay.
    for verb in ["ADD", "DEL"] {
        counted.call(verb, Some(&a), "clsact").succeed();
    }
    let before = counted.host.footprint();
    let result = counted.call("ADD", Some(&a), "clsact").succeed();
    let name = result["interfaces"][0]["name"].as_str().unwrap();
    assert_eq!(counted.filters(name), [1, 1]);
    counted.check(&a, "clsact", &result).succeed();
    counted.host.node.succeed(&format!("tc filter del dev {name} ingress"));
    counted.check(&a, "clsact", &result).refused_without_a_trace(103);
    counted.call("DEL", Some(&a), "clsact").succeed();
    counted.host.footprint().assert_is(&before, "after DEL");
}

#[test]
fn pinned_links_go_with_the_pod() {
    let counted = Counted::new("pinned");
    let (a, b) = (counted.host.container("a"), counted.host.container("b"));
    counted.call("ADD", Some(&a), "clsact").succeed();
    let pins = counted.pins();
    let result = counted.call("ADD", Some(&b), "tcx").succeed();
    assert_eq!(counted.pins().len(), pins.len() + 2);
    counted.check(&b, "tcx", &result).succeed();
    counted.call("DEL", Some(&b), "clsact").succeed();
    assert_eq!(counted.pins(), pins);
}

#[test]
fn a_later_failure_takes_the_hooks_off_again() {
    let counted = Counted::new("rolled-back");
    let (a, b) = (counted.host.container("a"), counted.host.container("b"));
    counted.call("ADD", Some(&a), "tcx").succeed();
    let pins = counted.pins();
    // Nobody reads the answer: the last step fails.
    let before = counted.host.footprint();
    let answer = counted.call("ADD", Some(&b), "tcx").answer_to("/dev/full");
    assert_eq!(answer.code, Some(1));
    counted.host.footprint().assert_is(&before, "after the failure");
    assert_eq!(counted.pins(), pins);
    assert_eq!(b.space.links(), ["lo"]);
}

#[test]
fn a_chained_pod_is_hooked_at_the_others_link_which_stays() {
    let counted = Counted::new("hooked");
    let host = &counted.host;
    let a = host.container("a");
    let netns = a.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
    });
    let chained = |verb: &str| {
        counted.call(verb, Some(&a), "clsact").key("prevResult", result.clone()).without("ipam")
    };
    for end in ["DEL", "GC"] {
        assert_eq!(chained("ADD").succeed(), result);
        assert_eq!(counted.filters("vethx"), [1, 1]);
        chained("CHECK").succeed();
        match end {
            "DEL" => chained("DEL").succeed(),
            _ => {
                let call = counted.call("GC", None, "clsact");
                call.key("cni.dev/valid-attachments", json!([])).succeed()
            }
        };
        assert_eq!(counted.filters("vethx"), [0, 0], "{end}");
        assert!(host.node.links().contains(&"vethx".into()));
    }
    chained("ADD").succeed();
    host.node.succeed("tc filter del dev vethx egress");
    chained("CHECK").refused_without_a_trace(103);
    // The other plugin's link went first.
    host.node.succeed("ip link del vethx");
    chained("DEL").succeed();
}

#[test]
fn a_chained_pod_is_hooked_also_where_its_predecessors_links_are_not_off_yet() {
    let counted = Counted::new("late-links");
    let host = &counted.host;
    let a = host.container("a");
    let netns = a.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
    });
    let chained =
        |verb: &str| counted.call(verb, Some(&a), "tcx").key("prevResult", result.clone());
    chained("ADD").succeed();
    // Whoever has a link open keeps it on: here we, else the worker of the kernel's that takes it off.
    let links = counted.pins().into_iter().filter(|pin| pin.parent().unwrap().ends_with("links"));
    let open: Vec<_> = links.map(|pin| sys::open_link(&pin).unwrap().unwrap()).collect();
    assert_eq!(open.len(), 2);
    chained("DEL").succeed();
    let taken_off = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        drop(open);
    });
    let begun = Instant::now();
    chained("ADD").succeed();
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    taken_off.join().unwrap();
    chained("CHECK").succeed();

    // Links that stay are somebody's: then it says so, in bounds, and leaves nothing.
    let links = counted.pins().into_iter().filter(|pin| pin.parent().unwrap().ends_with("links"));
    let open: Vec<_> = links.map(|pin| sys::open_link(&pin).unwrap().unwrap()).collect();
    chained("DEL").succeed();
    let refusal = chained("ADD").refused_without_a_trace(104);
    assert!(refusal.contains("links"), "{refusal}");
    drop(open);
}

#[test]
fn status_knows_whether_pods_could_be_counted() {
    let counted = Counted::new("could");
    counted.call("STATUS", None, "auto").succeed();
}

#[test]
fn the_very_first_packets_are_counted() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new("first");
        let (host, a) = (&counted.host, counted.host.container("a"));
        let result = counted.call("ADD", Some(&a), attach).succeed();
        for ip in ips(&result) {
            talk(&host.node, &a.space, ip.parse().unwrap());
        }
        talk(&a.space, &host.node, "192.0.2.1".parse().unwrap());
        talk(&a.space, &host.node, "2001:db8::1".parse().unwrap());
        // What the two ends announce by themselves comes for some seconds more.
        let equal = (0..100).any(|_| {
            let shown = shown(&a);
            let same = counted.network() == shown;
            same || {
                thread::sleep(std::time::Duration::from_millis(50));
                false
            }
        });
        assert!(equal, "{attach}: counted {:?}, shown {:?}", counted.network(), shown(&a));
    }
}

/// Bytes and packets that the kernel shows of the container's interface, sent and received.
pub fn shown(container: &Container) -> [[u64; 2]; 2] {
    let stats = container.space.ip("-s link show eth0")[0]["stats64"].clone();
    ["tx", "rx"].map(|side| ["bytes", "packets"].map(|what| stats[side][what].as_u64().unwrap()))
}

#[test]
fn what_an_unreadable_record_led_to_is_found_in_the_maps() {
    let counted = Counted::new("unreadable");
    let (a, b) = (counted.host.container("a"), counted.host.container("b"));
    counted.call("ADD", Some(&b), "tcx").succeed();
    let pins = counted.pins();
    counted.call("ADD", Some(&a), "tcx").succeed();
    assert_eq!(counted.pins().len(), pins.len() + 2);
    fs::write(counted.host.record(&a), "{").unwrap();
    counted.call("DEL", Some(&a), "tcx").succeed();
    assert_eq!(counted.pins(), pins);
    assert_eq!(counted.living(), ["b"]);

    // A lost state dir is told from an id that never was by the link alone.
    fs::remove_dir_all(counted.host.state_dir()).unwrap();
    counted.call("DEL", Some(&b), "tcx").succeed();
    assert_eq!(counted.pins().len(), pins.len() - 2);
    assert_eq!(counted.living(), [""; 0]);
}

#[test]
fn hooks_of_nobody_go_by_reconcile() {
    let counted = Counted::new("unowned");
    let host = &counted.host;
    let (a, b) = (host.container("a"), host.container("b"));
    let result = counted.call("ADD", Some(&b), "tcx").succeed();
    let pins = counted.pins();
    counted.call("ADD", Some(&a), "tcx").succeed();
    // Its record is lost, and then its pod ends.
    fs::remove_file(host.record(&a)).unwrap();
    host.end(a);
    // A loader was killed.
    fs::create_dir(counted.bpffs.join("weir/loading")).unwrap();
    let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
    let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
    let dropped = host.reconcile_in(&places);
    let kinds: Vec<_> = dropped.iter().map(|it| it.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["hook", "lease", "lease", "remnant"], "{dropped:?}");
    assert_eq!(counted.pins(), pins);
    assert!(!bpf.join("loading").exists());
    assert_eq!(counted.living(), ["b"]);
    counted.check(&b, "tcx", &result).succeed();
    assert!(host.reconcile_in(&places).is_empty());
}

#[test]
fn the_hooks_on_anothers_link_go_without_a_readable_record() {
    let counted = Counted::new("unreadable-chained");
    let host = &counted.host;
    let a = host.container("a");
    let netns = a.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
    });
    let chained = |verb: &str, id: &str| {
        let call = counted.call(verb, Some(&a), "clsact").variable("CNI_CONTAINERID", id);
        call.key("prevResult", result.clone()).without("ipam")
    };
    let lose = |id: &str| {
        fs::write(host.state_dir().join(format!("attachments/{id}@eth0")), "").unwrap();
    };
    chained("ADD", "a").succeed();
    assert_eq!(counted.filters("vethx"), [1, 1]);
    // Another container has got the interface since: its hooks are not the first one's to take.
    chained("ADD", "successor").succeed();
    lose("a");
    chained("DEL", "a").succeed();
    assert_eq!(counted.filters("vethx"), [1, 1]);
    assert_eq!(counted.living(), ["successor"]);
    lose("successor");
    chained("DEL", "successor").succeed();
    assert_eq!(counted.filters("vethx"), [0, 0]);
    assert_eq!(counted.living(), [""; 0]);
    assert!(host.node.links().contains(&"vethx".into()));
}

#[test]
fn the_hooks_on_anothers_link_go_without_any_record() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new("lost-chained");
        let host = &counted.host;
        let [a, b] = ["a", "b"].map(|id| host.container(id));
        let [of_a, of_b] = [&a, &b].map(|pod| {
            let netns = pod.space.path().to_str().unwrap().to_owned();
            let name = format!("veth{}", pod.id);
            let add = format!("ip link add {name} type veth peer name eth0 netns {netns}");
            host.node.succeed(&add);
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": name}, {"name": "eth0", "sandbox": netns}],
            })
        });
        let chained = |verb: &str, pod, result: &Value| {
            counted.call(verb, Some(pod), attach).key("prevResult", result.clone())
        };
        // A clsact qdisc stays for others.
        for (verb, pod, result) in [("ADD", &a, &of_a), ("DEL", &a, &of_a), ("ADD", &b, &of_b)] {
            chained(verb, pod, result).succeed();
        }
        let (before, pins) = (host.footprint(), counted.pins());
        // Told by the result of the plugin before, or by a configuration without IPAM.
        for knows in ["prevResult", "ipam"] {
            let record = host.record(&a);
            chained("ADD", &a, &of_a).succeed();
            assert_eq!(counted.living().len(), 2);
            fs::remove_file(record).unwrap();
            let del = match knows {
                "prevResult" => chained("DEL", &a, &of_a),
                _ => counted.call("DEL", Some(&a), attach).without("ipam"),
            };
            let answer = del.answer();
            assert_eq!(answer.code, Some(0), "{attach}: {answer:?}");
            assert!(answer.stderr.contains("its counting"), "{attach}: {answer:?}");
            host.footprint().assert_is(&before, knows);
            assert_eq!(counted.filters("vetha"), [0, 0], "{attach}");
            assert_eq!(counted.pins(), pins, "{attach}");
            assert_eq!(counted.living(), ["b"], "{attach}");
            // What was never added is as silent as before.
            assert_eq!(del.answer().stderr, "");
        }
        chained("CHECK", &b, &of_b).succeed();
    }
}

/// What the kernel would not give us a moment ago is not what can't be read.
#[test]
fn a_record_out_of_reach_costs_no_living_pod_its_counting() {
    let counted = Counted::new("out-of-reach");
    let host = &counted.host;
    let a = host.container("a");
    let netns = a.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
    });
    let chained = |verb: &str, container: Option<&Container>| {
        counted.call(verb, container, "clsact").key("prevResult", result.clone()).without("ipam")
    };
    // No file can be opened any more that has the record's name: the node is out of them.
    let exhausted = "strace -qq -o /dev/null -P a@eth0 -e inject=openat:error=ENFILE";
    let exhausted: Vec<_> = exhausted.split(' ').map(str::to_owned).collect();
    let gc = |under: &[String]| {
        let call = chained("GC", None).key("cni.dev/valid-attachments", json!([]));
        call.under(under.to_vec())
    };
    chained("ADD", Some(&a)).succeed();
    let whole = || {
        assert_eq!(counted.filters("vethx"), [1, 1]);
        assert_eq!(counted.living(), ["a"]);
        chained("CHECK", Some(&a)).succeed();
    };
    let (weir, state) = (env!("CARGO_BIN_EXE_weir"), host.state_dir());
    let places = format!(
        "--state-dir {} --bpf-dir {}",
        state.display(),
        counted.bpffs.join("weir").display()
    );
    let reconciled =
        host.node.command(&format!("{} {weir} reconcile {places}", exhausted.join(" ")));
    let said = String::from_utf8(reconciled.stderr).unwrap();
    assert!(reconciled.status.code() == Some(1) && said.contains("a@eth0"), "{said}");
    whole();
    assert!(gc(&exhausted).refused(5).contains("a@eth0"));
    whole();
    assert!(host.reconcile_in(&places).is_empty());
    whole();
    // A DEL takes away what it finds without, and the next one the rest.
    assert!(chained("DEL", Some(&a)).under(exhausted.clone()).refused(5).contains("a@eth0"));
    assert!(host.record(&a).exists());
    chained("DEL", Some(&a)).succeed();
    assert_eq!(counted.filters("vethx"), [0, 0]);
    chained("ADD", Some(&a)).succeed();
    whole();
    gc(&[]).succeed();
    assert_eq!(counted.filters("vethx"), [0, 0]);
    assert!(!host.record(&a).exists());
}
