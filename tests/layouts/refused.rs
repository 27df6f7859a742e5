//! An interface that refuses the programs of another layout: its pod stays where it is counted, the others go,
//! and the next reload brings it after them.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::atomic::AtomicBool,
    thread,
};

use libbpf_rs::MapHandle;
use serde_json::{Value, json};
use weir::telemetry::{
    pin,
    reader::Maps,
    wire::{CounterKind, Direction, Role},
};

use crate::{
    exchanges::{Over, ask, requests, serve},
    plugin::{Container, ips},
    version::{Upgraded, Version},
};

const SOME: u64 = 50;

struct Three {
    node: Upgraded,
    server: Container,
    client: Container,
    _third: Container,
    address: SocketAddr,
    /// What the server's ADD said.
    reply: Value,
    /// The host's side of the server's pair.
    link: String,
    /// The programs of the version before.
    before: PathBuf,
}

impl Three {
    fn new(label: &str, attach: &'static str) -> Self {
        let node = Upgraded::new(label, attach);
        let [server, client, third] =
            ["server", "client", "third"].map(|id| node.host.container(id));
        let reply = node.call(Version::This, "ADD", &server).succeed();
        for pod in [&client, &third] {
            node.call(Version::This, "ADD", pod).succeed();
        }
        let address: IpAddr = ips(&reply)[0].parse().unwrap();
        let link = reply["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let before = pin::dir(&node.bpf_dir());
        let address = (address, 8080).into();
        Self { node, server, client, _third: third, address, reply, link, before }
    }

    fn ask(&self) {
        let (never, over) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let _over = Over(&over);
            serve(&self.server.space, self.address, scope, &over);
            assert_eq!(ask(&self.client.space, self.address, &never, SOME), SOME);
        });
    }

    fn tc(&self, words: &str) {
        self.node.host.node.succeed(&format!("tc {words}"));
    }

    /// The program of the version before into our place, where somebody has taken it off.
    fn filter(&self, place: &str, program: &str) {
        let ours = format!("prio {} handle {:#x}", 49_152, 0x7765_6972);
        let program = self.before.join(program);
        self.tc(&format!("filter add {place} {ours} bpf da object-pinned {}", program.display()));
    }

    /// Somebody has the pod's hooks in blocks that are shared out, where no filter of an interface can be replaced:
    /// those of both sides, or what comes from the pod alone.
    fn share_blocks(&self, both: bool) {
        let link = &self.link;
        self.tc(&format!("qdisc del dev {link} clsact"));
        let egress = if both { "egress_block 78" } else { "" };
        self.tc(&format!("qdisc add dev {link} ingress_block 77 {egress} clsact"));
        self.filter("block 77", "weir_from_pod");
        let place = if both { "block 78".to_owned() } else { format!("dev {link} egress") };
        self.filter(&place, "weir_to_pod");
    }

    fn share_none(&self) {
        let link = &self.link;
        self.tc(&format!("qdisc del dev {link} clsact"));
        self.tc(&format!("qdisc add dev {link} clsact"));
        self.filter(&format!("dev {link} ingress"), "weir_from_pod");
        self.filter(&format!("dev {link} egress"), "weir_to_pod");
    }

    /// The program that runs on packets to the pod, by its number; none where tc shows no filter of a shared block.
    fn program(&self) -> Option<String> {
        let shown = format!("tc filter show dev {} egress", self.link);
        let shown = self.node.host.node.succeed(&shown);
        Some(shown.split_once(" id ")?.1.split(' ').next()?.to_owned())
    }

    /// A reload by the other version that can't move the server's pod, of which is said then that it is so.
    fn is_refused(&self, why: &str, state: &str) {
        let weir = Version::Other.weir();
        let words = format!("{} reload -o json --bpf-dir", weir.display());
        let words = format!("{words} {}", self.node.bpf_dir().display());
        let output = self.node.host.node.command(&words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let done: Value = serde_json::from_slice(&output.stdout).unwrap();
        let both = json!([pin::SCHEMA]);
        assert_eq!(
            (&done["pods"], &done["from"], &done["left"]),
            (&json!(2), &both, &both),
            "{done}"
        );
        let refused = done["refused"].as_array().unwrap();
        assert_eq!((refused.len(), &refused[0]["pod"]), (1, &json!("server")), "{done}");
        let named =
            format!("interface {} ({}) of the pod server", self.link, refused[0]["ifindex"]);
        assert!(said.contains(&named) && said.contains(why), "{said}");
        assert!(said.contains("1 interface goes on") && said.contains("weir reload"), "{said}");
        assert_eq!(self.node.layouts().len(), 2);
        let states = [("client", "counted"), ("server", state), ("third", "counted")];
        let states = states.map(|(pod, state)| (pod.to_owned(), state.to_owned()));
        assert_eq!(self.node.pods(Version::Other), states);
    }

    /// Requests that the server's pod has served, by the maps of the version before.
    fn served(&self) -> u64 {
        let snapshot = Maps::open(&self.node.bpf_dir()).unwrap().snapshot().unwrap();
        let pods: Vec<_> = snapshot.pods.values().map(|pod| &pod.container_id).collect();
        assert_eq!(pods, ["server"]);
        let of = snapshot.counters.iter().filter(|(key, _)| {
            u32::from(key.kind) == CounterKind::COUNTER_HTTP_REQUESTS.0
                && u32::from(key.role) == Role::ROLE_SERVER.0
        });
        of.map(|(_, n)| n).sum()
    }

    /// Up, now that nobody refuses, and down, to where this test can read.
    fn is_finished(&self, asked: u64) {
        let done = self.node.says(Version::Other, "reload");
        assert_eq!((&done["refused"], &done["left"]), (&json!([]), &json!([])), "{done}");
        assert_eq!(self.node.layouts().len(), 1);
        assert!(self.node.pods(Version::Other).iter().all(|(_, state)| state == "counted"));
        self.ask();
        let done = self.node.says(Version::This, "reload");
        assert_eq!((&done["pods"], self.node.layouts().len()), (&json!(3), 1), "{done}");
        let snapshot = Maps::open(&self.node.bpf_dir()).unwrap().snapshot().unwrap();
        assert_eq!(requests(&snapshot), [asked + SOME; 2]);
    }
}

fn a_pod_that_stays_is_counted(label: &str, both: bool) {
    let three = Three::new(label, "clsact");
    three.ask();
    three.share_blocks(both);
    let program = three.program();
    assert!(both || program.is_some());
    three.ask();
    for round in [2, 3] {
        // It is counted, as before.
        three.is_refused("not supported", "other-version");
        let call = three.node.call(Version::Other, "CHECK", &three.server);
        call.key("prevResult", three.reply.clone()).succeed();
        // One direction's alone would follow no exchange.
        assert_eq!(three.program(), program);
        assert_eq!(three.served(), round * SOME);
        three.ask();
        assert_eq!(three.served(), (round + 1) * SOME);
    }
    three.share_none();
    three.ask();
    three.is_finished(5 * SOME);
}

#[test]
fn a_pod_whose_filters_cannot_be_swapped_stays_until_they_can() {
    a_pod_that_stays_is_counted("refused", true);
}

#[test]
fn a_pod_with_one_filter_that_cannot_be_swapped_keeps_both() {
    a_pod_that_stays_is_counted("refused-half", false);
}

#[test]
fn a_pod_with_a_link_that_cannot_be_swapped_keeps_both() {
    let three = Three::new("refused-link", "tcx");
    three.ask();
    let bpf_dir = three.node.bpf_dir();
    let snapshot = Maps::open(&bpf_dir).unwrap().snapshot().unwrap();
    let (id, _) = snapshot.pods.iter().find(|(_, pod)| pod.container_id == "server").unwrap();
    let pinned = pin::link(&bpf_dir, *id, Direction::DIRECTION_RX);
    // Somebody has put something else in the place of its pin.
    let elsewhere = bpf_dir.with_file_name("elsewhere");
    fs::rename(&pinned, &elsewhere).unwrap();
    let mut map = MapHandle::from_pinned_path(three.before.join("stats")).unwrap();
    map.pin(&pinned).unwrap();
    three.ask();
    // By its pin its link is gone; where else it is pinned nobody knows.
    three.is_refused("Invalid argument", "detached");
    assert_eq!(three.served(), 2 * SOME);
    three.ask();
    assert_eq!(three.served(), 3 * SOME);
    fs::rename(&elsewhere, &pinned).unwrap();
    three.is_finished(3 * SOME);
}

/// One side runs the new program, the other refuses it, and the program of before is not to be had any more.
#[test]
fn a_pod_that_cannot_even_go_back_is_named_and_the_next_reload_finishes() {
    let three = Three::new("refused-stuck", "clsact");
    three.ask();
    three.share_blocks(false);
    three.ask();
    fs::remove_file(three.before.join("weir_limit_to")).unwrap();
    // Its two programs have different maps, by which no exchange can be followed.
    three.is_refused("not supported", "detached");
    assert_eq!(three.served(), 2 * SOME);
    // Its network is whole all the same.
    three.ask();
    three.share_none();
    three.ask();
    assert_eq!(three.served(), 3 * SOME);
    let done = three.node.says(Version::Other, "reload");
    assert_eq!((&done["refused"], &done["left"]), (&json!([]), &json!([])), "{done}");
    three.ask();
    three.node.says(Version::This, "reload");
    let snapshot = Maps::open(&three.node.bpf_dir()).unwrap().snapshot().unwrap();
    assert_eq!(requests(&snapshot), [4 * SOME, 5 * SOME]);
}

/// The kernel has swapped by the time that the answer to it is lost.
#[test]
fn a_swap_whose_answer_is_lost_is_no_refusal() {
    let three = Three::new("refused-unheard", "clsact");
    three.ask();
    let calls = three.node.host.state_dir().with_file_name("calls");
    let weir = Version::Other.weir();
    // The first answers are about who is in the six filters.
    let unheard = format!(
        "strace -qq -o {} -e trace=recvfrom -e inject=recvfrom:error=ENOBUFS:when=7 {} reload -o json --bpf-dir {}",
        calls.display(),
        weir.display(),
        three.node.bpf_dir().display()
    );
    let done: Value = serde_json::from_str(&three.node.host.node.succeed(&unheard)).unwrap();
    let calls = fs::read_to_string(&calls).unwrap();
    assert_eq!(calls.matches("(INJECTED)").count(), 1, "{calls}");
    assert_eq!(
        (&done["pods"], &done["refused"], &done["left"]),
        (&json!(3), &json!([]), &json!([])),
        "{done}"
    );
    three.is_finished(SOME);
}
