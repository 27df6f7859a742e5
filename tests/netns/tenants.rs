//! Others on the same hooks: they run and count before and after ours, keep what is theirs, and what
//! they take off of ours is noticed and mended.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use libbpf_rs::MapCore;
use serde_json::{Value, json};
use weir::telemetry::{self, Choice, Identity, pin, reader::Maps, wire::Direction};

use crate::{
    counted::Counted,
    node::{Node, talk},
    plugin::{Call, Container, ips},
};

/// A tool of somebody else: a second set of Weir's programs and maps, which knows one interface.
struct Tenant<'a> {
    node: &'a Node,
    link: String,
    dir: PathBuf,
}

impl<'a> Tenant<'a> {
    /// Attached by tcx, both ways.
    fn new(counted: &'a Counted, name: &str, link: &str) -> Self {
        let node = &counted.host.node;
        let ifindex = node.ip(&format!("link show {link}"))[0]["ifindex"].as_u64().unwrap();
        let ifindex = u32::try_from(ifindex).unwrap();
        let dir = counted.bpffs.join(name);
        let identity = Identity { container_id: "tenant".into(), ..Default::default() };
        let intent = telemetry::intend(Choice::Tcx);
        node.run(|| {
            let journal = |_| Ok(());
            telemetry::attach(&dir, Choice::Tcx, ifindex, &identity, intent, journal).unwrap();
        });
        Self { node, link: link.to_owned(), dir }
    }

    /// Its program of what the pod sends once more, by a filter of that priority.
    fn filter(&self, priority: u32) {
        let program = pin::dir(&self.dir).join("weir_from_pod");
        let add = format!("tc filter add dev {} ingress prio {priority} handle 7", self.link);
        self.node.succeed(&format!("{add} bpf da object-pinned {}", program.display()));
    }

    /// Packets that it counted, sent by the pod and received.
    fn packets(&self) -> [u64; 2] {
        packets(&self.dir, "tenant")
    }
}

fn packets(dir: &Path, container_id: &str) -> [u64; 2] {
    let pods = Maps::open(dir).unwrap().snapshot().unwrap().pods;
    let pod = pods.into_values().find(|pod| pod.container_id == container_id).unwrap();
    [Direction::DIRECTION_TX, Direction::DIRECTION_RX].map(|direction| {
        pod.network[direction.0 as usize].iter().map(|family| family.packets).sum()
    })
}

/// A pod with foreign programs around ours.
struct Shared<'a> {
    counted: &'a Counted,
    pod: Container,
    /// The result of ADD.
    reply: Value,
}

impl Shared<'_> {
    fn dir(&self) -> PathBuf {
        self.counted.bpffs.join("weir")
    }

    /// What one exchange adds to the packets that we count and that the other counts.
    fn exchange(&self, tenant: &Tenant<'_>) -> [[u64; 2]; 2] {
        let now = || [packets(&self.dir(), &self.pod.id), tenant.packets()];
        let before = now();
        let ip = ips(&self.reply)[0].parse().unwrap();
        talk(&self.counted.host.node, &self.pod.space, ip);
        let after = now();
        [0, 1].map(|who| [0, 1].map(|way| after[who][way] - before[who][way]))
    }

    fn weir(&self, command: &str) -> (String, String) {
        let (state, bpf) = (self.counted.host.state_dir(), self.dir());
        let weir = env!("CARGO_BIN_EXE_weir");
        let state = match command.starts_with("reload") {
            true => String::new(),
            false => format!("--state-dir {}", state.display()),
        };
        let words = format!("{weir} {command} {state} --bpf-dir {}", bpf.display());
        let output = self.counted.host.node.command(&words);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (said, logged) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{command}: {logged}");
        (said, logged)
    }

    /// How `weir pods` says that the pod is counted.
    fn state(&self) -> String {
        let pods: Value = serde_json::from_str(&self.weir("pods -o json").0).unwrap();
        pods[0]["telemetry"].as_str().unwrap().to_owned()
    }

    fn status(&self) -> String {
        let answer = self.counted.call("STATUS", None, "auto").answer();
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
        answer.stderr
    }

    fn call(&self, verb: &str, attach: &str) -> Call<'_> {
        self.counted.call(verb, Some(&self.pod), attach)
    }
}

#[test]
fn programs_of_others_before_and_after_our_filters_run_and_count() {
    let counted = Counted::new("tenants-clsact");
    let pod = counted.host.container("a");
    let reply = counted.call("ADD", Some(&pod), "clsact").succeed();
    let link = reply["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let shared = Shared { counted: &counted, pod, reply };
    let tenant = Tenant::new(&counted, "tenant", &link);
    tenant.filter(1);
    tenant.filter(60_000);
    let check = |when: &str| {
        let [[sent, received], theirs] = shared.exchange(&tenant);
        assert!(sent > 0 && received > 0, "{when}");
        assert_eq!(theirs, [3 * sent, received], "{when}");
    };
    check("beside each other");
    shared.weir("reload");
    check("after a reload");
    // Somebody cleans up more than is theirs.
    for side in ["ingress", "egress"] {
        counted.host.node.succeed(&format!("tc filter del dev {link} {side} prio 49152"));
    }
    assert_eq!(shared.state(), "detached");
    assert!(shared.status().contains("is not counted any more; mend it: weir reconcile"));
    let (done, said) = shared.weir("reconcile -o json");
    let mended = json!([{"what": "counted", "containerId": "a", "ifname": "eth0"}]);
    let done: Value = serde_json::from_str(&done).unwrap();
    let pins = json!({"back": [], "anew": []});
    assert_eq!(done, json!({"dropped": [], "mended": mended, "pins": pins, "left": []}));
    assert!(said.contains("counted again: container a"), "{said}");
    assert_eq!((shared.state().as_str(), shared.status().as_str()), ("counted", ""));
    check("after mending");
    let (_, said) = shared.weir("reconcile -o json");
    assert!(!said.contains("counted again"), "{said}");
}

/// A pod with a network of another plugin's, `vethx` on the node, and what that plugin said of it.
fn plumbed_by_another(counted: &Counted) -> (Container, Value) {
    let pod = counted.host.container("a");
    let netns = pod.space.path().to_str().unwrap().to_owned();
    let node = &counted.host.node;
    node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    node.succeed("ip link set vethx up");
    node.succeed("ip addr add 10.7.0.1/24 dev vethx");
    pod.space.succeed("ip addr add 10.7.0.2/24 dev eth0");
    pod.space.succeed("ip link set eth0 up");
    let reply = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
        "ips": [{"address": "10.7.0.2/24", "interface": 1}],
    });
    (pod, reply)
}

#[test]
fn programs_of_others_before_and_after_our_links_run_count_and_stay() {
    let counted = Counted::new("tenants-tcx");
    let (pod, reply) = plumbed_by_another(&counted);
    let node = &counted.host.node;
    let tenant = Tenant::new(&counted, "before", "vethx");
    let shared = Shared { counted: &counted, pod, reply: reply.clone() };
    let chained = |verb| shared.call(verb, "auto").key("prevResult", reply.clone()).without("ipam");
    chained("ADD").succeed();
    let behind = Tenant::new(&counted, "behind", "vethx");
    node.succeed("tc qdisc add dev vethx clsact");
    tenant.filter(1);
    let check = |when: &str| {
        let last = behind.packets();
        let [[sent, received], theirs] = shared.exchange(&tenant);
        assert!(sent > 0 && received > 0, "{when}");
        assert_eq!(theirs, [2 * sent, received], "{when}");
        assert_eq!(behind.packets(), [last[0] + sent, last[1] + received], "{when}");
    };
    check("beside each other");
    shared.weir("reload");
    check("after a reload");
    for pin in fs::read_dir(shared.dir().join("links")).unwrap() {
        let pin = pin.unwrap().path();
        node.succeed(&format!("bpftool link detach pinned {}", pin.display()));
    }
    assert_eq!(shared.state(), "detached");
    let (_, said) = shared.weir("reconcile -o json");
    assert!(said.contains("counted again: container a"), "{said}");
    assert_eq!(shared.state(), "counted");
    check("after mending");
    chained("DEL").succeed();
    // What is theirs is there and counts; so is the qdisc that one of them needs.
    let before = [tenant.packets(), behind.packets()];
    talk(node, &shared.pod.space, "10.7.0.2".parse().unwrap());
    let after = [tenant.packets(), behind.packets()];
    assert_eq!(after[0][0] - before[0][0], 2 * (after[1][0] - before[1][0]));
    assert!(after[1][0] > before[1][0] && after[1][1] > before[1][1]);
    assert!(node.succeed("tc qdisc show dev vethx").contains("clsact"));
}

#[test]
fn a_filter_of_others_in_the_very_place_of_ours_stays_is_named_and_goes_on_counting() {
    const PLACE: &str = "prio 49152 handle 0x77656972";
    let counted = Counted::new("tenants-place");
    let (pod, reply) = plumbed_by_another(&counted);
    let node = &counted.host.node;
    let shared = Shared { counted: &counted, pod, reply: reply.clone() };
    let call =
        |verb, attach| shared.call(verb, attach).key("prevResult", reply.clone()).without("ipam");
    let filters = || {
        ["ingress", "egress"].map(|side| node.succeed(&format!("tc filter show dev vethx {side}")))
    };
    // A classic one, which has no program of an id, and takes every packet.
    let file = counted.host.state_dir().with_file_name("all.bytecode");
    fs::write(&file, "1,6 0 0 4294967295,").unwrap();
    let classic = format!("bpf bytecode-file {}", file.display());

    // It was there before ours: links do beside it, our filters don't.
    node.succeed("tc qdisc add dev vethx clsact");
    node.succeed(&format!("tc filter add dev vethx egress {PLACE} {classic}"));
    let before = filters();
    call("ADD", "auto").succeed();
    assert_eq!(fs::read_dir(shared.dir().join("links")).unwrap().count(), 2);
    call("CHECK", "auto").succeed();
    call("DEL", "auto").succeed();
    let said = call("ADD", "clsact").refused(104);
    let mend = said.split_once("take it off: ").expect(&said).1.split_once(", or set ").unwrap().0;
    assert_eq!(filters(), before, "{said}");
    // Nor with a priority that is tc's own choice.
    node.succeed(mend);
    node.succeed(&format!("tc filter add dev vethx egress protocol ip {classic}"));
    let before = filters();
    let said = call("ADD", "clsact").refused(104);
    assert!(said.contains("tc filter show dev vethx egress"), "{said}");
    assert_eq!(filters(), before, "{said}");
    node.succeed("tc filter del dev vethx egress");

    // It came in the place of ours: of what the pod sends it counts what it should of what the pod gets.
    call("ADD", "clsact").succeed();
    assert_eq!(counted.filters("vethx"), [1, 1]);
    let tenant = Tenant::new(&counted, "tenant", "vethx");
    let other = pin::dir(&tenant.dir).join("weir_to_pod");
    let other = format!("bpf da object-pinned {}", other.display());
    node.succeed(&format!("tc filter replace dev vethx ingress {PLACE} {other}"));
    node.succeed(&format!("tc filter replace dev vethx egress {PLACE} {classic}"));
    let before = filters();
    let stays = |when: &str| {
        assert_eq!(filters(), before, "{when}");
        let [_, [sent, received]] = shared.exchange(&tenant);
        assert!(sent > 0 && received > sent, "{when}: {sent}, {received}");
    };
    stays("at first");
    assert_eq!(shared.state(), "detached");
    call("CHECK", "clsact").refused(103);
    shared.weir("reload");
    stays("after a reload");
    let (weir, state) = (env!("CARGO_BIN_EXE_weir"), counted.host.state_dir());
    let places = format!("--state-dir {} --bpf-dir {}", state.display(), shared.dir().display());
    let output = node.command(&format!("{weir} reconcile {places}"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("tc filter del dev vethx ingress {PLACE} bpf")), "{said}");
    stays("after a reconciliation");
    call("DEL", "clsact").succeed();
    stays("after DEL");
}

#[test]
fn a_pod_whose_limit_others_took_off_is_held_to_it_again() {
    let rate = json!({"ingressRate": 50_000_000, "ingressBurst": 1_000_000,
        "egressRate": 50_000_000, "egressBurst": 1_000_000});
    for enabled in [true, false] {
        let counted = Counted::new(&format!("limit-lost-{enabled}"));
        let pod = counted.host.container("a");
        let call = |verb| {
            let call = counted.call(verb, Some(&pod), "auto");
            let call =
                if enabled { call } else { call.key("telemetry", json!({"enabled": false})) };
            call.key("runtimeConfig", json!({"bandwidth": rate}))
        };
        let reply = call("ADD").succeed();
        let link = reply["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let node = &counted.host.node;
        let check = || call("CHECK").key("prevResult", reply.clone());
        check().succeed();
        let shared = Shared {
            counted: &counted,
            pod: counted.host.container("other"),
            reply: reply.clone(),
        };
        for (side, priority) in [("egress", 49151), ("ingress", 49153)] {
            node.succeed(&format!("tc filter del dev {link} {side} prio {priority}"));
            assert!(check().refused(103).contains("of the limit"));
            let (done, said) = shared.weir("reconcile -o json");
            let done: Value = serde_json::from_str(&done).unwrap();
            assert_eq!(
                (&done["dropped"], &done["mended"][0]["what"]),
                (&json!([]), &json!("limited"))
            );
            assert!(said.contains("limited again: container a"), "{said}");
            assert!(!said.contains("counted again"), "{said}");
            check().succeed();
        }
        let (_, said) = shared.weir("reconcile -o json");
        assert!(!said.contains("again"), "{said}");
        call("DEL").succeed();
    }
}

/// A DEL beside a reconciliation that is slow at every call of bpf(2), after another number of them each time.
#[test]
fn a_del_while_hooks_are_put_back_leaves_nothing_behind() {
    const MOMENTS: usize = 12;
    let counted = Counted::new("hooks-del");
    let (host, weir) = (&counted.host, counted.bpffs.join("weir"));
    let rate = json!({"ingressRate": 50_000_000, "ingressBurst": 1_000_000});
    let calls = host.state_dir().with_file_name("calls");
    let slow = format!(
        "strace -qq -o {} -e trace=bpf -e inject=bpf:delay_enter=20000 {} reconcile --state-dir {} --bpf-dir {}",
        calls.display(),
        env!("CARGO_BIN_EXE_weir"),
        host.state_dir().display(),
        weir.display()
    );
    let made = || fs::read_to_string(&calls).unwrap_or_default().lines().count();
    let call = |verb: &str, pod: &Container| {
        let call = counted.call(verb, Some(pod), "clsact");
        call.key("runtimeConfig", json!({"bandwidth": rate}))
    };
    // Whether it mended the pod, with a DEL after so many calls.
    let reconciled = |id: &str, after: Option<usize>| {
        let pod = host.container(id);
        let reply = call("ADD", &pod).succeed();
        let link = reply["interfaces"][0]["name"].as_str().unwrap();
        host.node.succeed(&format!("tc qdisc del dev {link} clsact"));
        // Attach adds to the map what is missing, too.
        let limits = pin::map(&weir, "limits").unwrap().unwrap();
        limits.keys().for_each(|key| limits.delete(&key).unwrap());
        let _ = fs::remove_file(&calls);
        let output = thread::scope(|scope| {
            let reconciling = scope.spawn(|| host.node.command(&slow));
            if let Some(after) = after {
                while made() < after && !reconciling.is_finished() {
                    thread::sleep(Duration::from_millis(5));
                }
                call("DEL", &pod).succeed();
            }
            reconciling.join().unwrap()
        });
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        if after.is_none() {
            call("DEL", &pod).succeed();
        }
        assert_eq!(limits.keys().count(), 0, "{after:?}: {said}");
        let living = Maps::open(&weir).unwrap().snapshot().unwrap().pods.into_values();
        assert_eq!(living.filter(|pod| pod.deleted.is_none()).count(), 0, "{after:?}: {said}");
        [said.contains("counted again"), said.contains("limited again")]
    };
    assert_eq!(reconciled("unhindered", None), [true; 2]);
    let all = made();
    assert!(all >= MOMENTS, "{all}");
    let mended = (0..MOMENTS).filter(|moment| {
        let mended = reconciled(&format!("c{moment}"), Some(all * moment / MOMENTS));
        assert_eq!(mended[0], mended[1], "{moment}: both or neither");
        mended[0]
    });
    let mended = mended.count();
    assert!((1..MOMENTS).contains(&mended), "DEL came too early or too late each time: {mended}");
}

#[test]
fn a_pod_whose_maps_were_lost_is_counted_again() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new(&format!("maps-lost-{attach}"));
        let pod = counted.host.container("a");
        let reply = counted.call("ADD", Some(&pod), attach).succeed();
        let shared = Shared { counted: &counted, pod, reply };
        fs::remove_dir_all(shared.dir()).unwrap();
        let missing = shared.counted.check(&shared.pod, attach, &shared.reply).refused(103);
        assert!(missing.contains("no programs are pinned"), "{missing}");
        let (_, said) = shared.weir("reconcile -o json");
        assert!(said.contains("counted again: container a"), "{said}");
        assert_eq!(shared.state(), "counted");
        shared.counted.check(&shared.pod, attach, &shared.reply).succeed();
        talk(&counted.host.node, &shared.pod.space, ips(&shared.reply)[0].parse().unwrap());
        assert!(packets(&shared.dir(), "a").iter().all(|&n| n > 0));
        shared.call("DEL", attach).succeed();
    }
}
