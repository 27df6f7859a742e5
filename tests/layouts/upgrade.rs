//! The time between the new executable and `weir reload`: pods of the version before live on, end, and
//! are mended, and those of the new version come.

use std::{fs, net::UdpSocket};

use libbpf_rs::{MapCore, MapHandle};
use serde_json::{Value, json};
use weir::telemetry::{pin, reader::Maps, wire::Direction};

use crate::{
    agents,
    plugin::Container,
    version::{Upgraded, Version},
};

/// Container and telemetry.
fn state(words: &str) -> (String, String) {
    let (container, telemetry) = words.split_once(' ').unwrap();
    (container.to_owned(), telemetry.to_owned())
}

/// The mend that a version's doctor has for programs of another.
fn doctor(node: &Upgraded, version: Version) -> Option<String> {
    let (weir, bpf_dir) = (version.weir(), node.bpf_dir());
    let words = format!("{} doctor -o json --bpf-dir {}", weir.display(), bpf_dir.display());
    // Whatever else there is to say of a node without a runtime.
    let said: Value = serde_json::from_slice(&node.host.node.command(&words).stdout).unwrap();
    let line = said.as_array().unwrap().iter().find(|line| line["check"] == "version");
    line.map(|line| line["mend"].as_str().unwrap().to_owned())
}

/// Each pod is ended by a version that did not start it, before and after the totals were carried over.
#[test]
fn who_ends_under_another_version_has_ended_after_it_is_carried_over() {
    for attach in ["clsact", "tcx"] {
        let node = Upgraded::new(&format!("upgrade-{attach}"), attach);
        let [a, b, c] = ["a", "b", "c"].map(|id| node.host.container(id));
        // The node's first pod brings the programs and maps, which stay.
        let first = node.host.container("z");
        for verb in ["ADD", "DEL"] {
            node.call(Version::This, verb, &first).succeed();
        }
        let before = node.host.footprint();
        let nothing =
            json!({"dropped": [], "mended": [], "pins": {"back": [], "anew": []}, "left": []});
        for pod in [&a, &b] {
            node.call(Version::This, "ADD", pod).succeed();
        }
        node.call(Version::Other, "ADD", &c).succeed();
        assert_eq!(node.layouts().len(), 2);
        assert_eq!(
            doctor(&node, Version::Other).as_deref(),
            Some("weir reload, and restart the agent")
        );
        node.call(Version::Other, "DEL", &a).succeed();
        // Nothing is wrong with a pod whose programs are the other version's.
        assert_eq!(node.says(Version::Other, "reconcile"), nothing);
        let done = node.says(Version::Other, "reload");
        assert_eq!((&done["pods"], node.layouts().len()), (&json!(2), 1), "{done}");
        assert_eq!(doctor(&node, Version::Other), None);
        let mut was = ["a deleted", "b counted", "c counted", "z deleted"].map(state);
        assert_eq!(node.pods(Version::Other), was);
        // And back, by the executable of before.
        node.call(Version::This, "DEL", &b).succeed();
        assert_eq!(node.says(Version::This, "reconcile"), nothing);
        let done = node.says(Version::This, "reload");
        assert_eq!((&done["pods"], node.layouts().len()), (&json!(1), 1), "{done}");
        was[1] = state("b deleted");
        assert_eq!(node.pods(Version::This), was);
        node.call(Version::This, "DEL", &c).succeed();
        node.host.footprint().assert_is(&before, "after the DELs");
    }
}

/// Who is counted by maps that a killed reload left on their way is as if by another version's.
#[test]
fn pods_on_the_way_to_another_layout_are_known_end_and_arrive() {
    let node = Upgraded::new("upgrade-moving", "clsact");
    let [a, b, c] = ["a", "b", "c"].map(|id| node.host.container(id));
    let results = [&a, &b].map(|pod| node.call(Version::This, "ADD", pod).succeed());
    let moving = format!("moving_{}_1", pin::SCHEMA);
    fs::rename(pin::dir(&node.bpf_dir()), node.bpf_dir().join(&moving)).unwrap();
    let mut was = ["a other-version", "b other-version"].map(state);
    assert_eq!(node.pods(Version::This), was);
    let mend = doctor(&node, Version::This);
    assert_eq!(mend.as_deref(), Some("weir reload, and restart the agent"));
    agents::finds(&node, &[&moving, ": a, b; weir reload, and restart the agent"]);
    node.call(Version::This, "ADD", &c).succeed();
    for (pod, result) in [&a, &b].into_iter().zip(results) {
        node.call(Version::This, "CHECK", pod).key("prevResult", result).succeed();
    }
    let valid = [&a, &b, &c].map(|pod| json!({"containerID": pod.id, "ifname": "eth0"}));
    let gc = node.host.call("GC", None).key("bpfDir", json!(node.bpf_dir()));
    gc.key("cni.dev/valid-attachments", json!(valid)).succeed();
    assert_eq!(node.says(Version::This, "reconcile")["mended"], json!([]));
    node.call(Version::This, "DEL", &a).succeed();
    was[0] = state("b other-version");
    was[1] = state("c counted");
    assert_eq!(node.pods(Version::This), was);
    // With the one that this version's maps have already.
    let done = node.says(Version::This, "reload");
    assert_eq!((&done["pods"], &done["from"]), (&json!(2), &json!([moving])), "{done}");
    assert_eq!(node.layouts(), [pin::SCHEMA]);
    let are = ["a deleted", "b counted", "c counted"].map(state);
    assert_eq!(node.pods(Version::This), are);
    [&b, &c].into_iter().for_each(|pod| drop(node.call(Version::This, "DEL", pod).succeed()));
    assert_eq!(node.host.node.links(), ["lo"]);
}

/// Also of a pod that nobody counts: its limit moves with the programs, and goes with the pod.
#[test]
fn limits_go_over_and_go_with_their_pods() {
    let node = Upgraded::new("upgrade-limits", "clsact");
    let [a, b] = ["a", "b"].map(|id| node.host.container(id));
    let limits = json!({"bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000,
    }});
    let call = |version: Version, verb: &str, pod: &Container, counted: bool| {
        let call = node.call(version, verb, pod).key("runtimeConfig", limits.clone());
        call.key("telemetry", json!({"enabled": counted, "required": counted}))
    };
    let there = || {
        let [layout] = node.layouts().try_into().unwrap();
        let limits = MapHandle::from_pinned_path(node.bpf_dir().join(layout).join("limits"));
        limits.unwrap().keys().count()
    };
    call(Version::This, "ADD", &a, true).succeed();
    let result = call(Version::This, "ADD", &b, false).succeed();
    assert_eq!(there(), 4);
    let check = |version: Version| {
        call(version, "CHECK", &b, false).key("prevResult", result.clone()).succeed();
    };
    check(Version::Other);
    call(Version::Other, "DEL", &a, true).succeed();
    node.says(Version::Other, "reload");
    assert_eq!(there(), 2);
    check(Version::Other);
    call(Version::Other, "DEL", &b, false).succeed();
    assert_eq!(there(), 0);
}

/// A pod whose record is lost is found in the maps of the version that started it.
#[test]
fn without_a_record_the_other_versions_maps_lead_to_the_pod() {
    let node = Upgraded::new("upgrade-lost", "tcx");
    let a = node.host.container("a");
    node.call(Version::This, "ADD", &a).succeed();
    fs::remove_file(node.host.record(&a)).unwrap();
    // It waits for the reload all the same, and is named.
    assert_eq!(node.pods(Version::Other), [state("a other-version")]);
    let (weir, bpf_dir) = (Version::Other.weir(), node.bpf_dir());
    let words = format!("{} pods --bpf-dir {}", weir.display(), bpf_dir.display());
    let words = format!("{words} --state-dir {}", node.host.state_dir().display());
    let said = String::from_utf8(node.host.node.command(&words).stderr).unwrap();
    assert!(said.contains(": a; weir reload, and restart the agent"), "{said}");
    node.call(Version::Other, "DEL", &a).succeed();
    let pods = Maps::open(&node.bpf_dir()).unwrap().snapshot().unwrap().pods;
    assert!(pods.values().all(|pod| pod.deleted.is_some()), "{pods:?}");
    assert_eq!(node.host.node.links(), ["lo"]);
    assert!(pin::linked(&node.bpf_dir()).unwrap().is_empty());
}

/// An interface that has another pod by now keeps what was counted of this one.
#[test]
fn an_interfaces_number_that_was_given_on_keeps_the_new_pods_traffic() {
    let node = Upgraded::new("upgrade-number", "clsact");
    let [a, b] = ["a", "b"].map(|id| node.host.container(id));
    // Chained, so that the pair is this test's, and its number, too.
    let plumb = |pod: &Container| {
        let netns = pod.space.path().display().to_string();
        let pair = format!("ip link add vethx index 77 type veth peer name eth0 netns {netns}");
        node.host.node.succeed(&pair);
        node.host.node.succeed("ip addr add 10.7.0.1/24 dev vethx");
        node.host.node.succeed("ip link set vethx up");
        pod.space.succeed("ip addr add 10.7.0.2/24 dev eth0");
        pod.space.succeed("ip link set eth0 up");
        let interface = json!({"name": "eth0", "sandbox": netns});
        json!({"cniVersion": "1.1.0", "interfaces": [interface]})
    };
    // Nobody listens, and what comes back is the kernel's to limit: only what goes to the pod is counted on.
    let send = |many: usize| {
        node.host.node.run(|| {
            let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
            (0..many).for_each(|_| drop(socket.send_to(&[0; 1000], "10.7.0.2:9")));
        });
    };
    let prev = plumb(&a);
    node.call(Version::This, "ADD", &a).key("prevResult", prev.clone()).succeed();
    send(100);
    node.call(Version::Other, "DEL", &a).key("prevResult", prev).succeed();
    node.host.node.succeed("ip link del vethx");
    let prev = plumb(&b);
    node.call(Version::Other, "ADD", &b).key("prevResult", prev).succeed();
    send(10);
    node.says(Version::Other, "reload");
    node.says(Version::This, "reload");
    let pods = Maps::open(&node.bpf_dir()).unwrap().snapshot().unwrap().pods;
    let to = |id: &str| {
        let pod = pods.values().find(|pod| pod.container_id == id).unwrap();
        let families = &pod.network[Direction::DIRECTION_RX.0 as usize];
        families.iter().map(|family| family.bytes).sum::<u64>()
    };
    // A frame: 1,000 bytes behind 8 of UDP, 20 of IP, 14 of Ethernet; and some of ARP and IPv6.
    assert!((10 * 1042..12 * 1042).contains(&to("b")), "{pods:#?}");
}
