//! Pins that somebody removed from the layout of the version before, when its pods wait for their reload.

use std::fs;

use serde_json::json;
use weir::telemetry::{pin, reader::Maps, whole};

use crate::{
    node::talk,
    plugin::ips,
    version::{Upgraded, Version},
};

const NO_PINS: [&str; 0] = [];

#[test]
fn a_layout_that_lost_some_of_its_pins_is_carried_over_or_named() {
    let node = Upgraded::new("torn", "clsact");
    let dir = pin::dir(&node.bpf_dir());
    let [a, b] = ["a", "b"].map(|id| node.host.container(id));
    let reply = node.call(Version::This, "ADD", &a).succeed();
    let ip = ips(&reply)[0].parse().unwrap();
    talk(&node.host.node, &a.space, ip);
    for name in ["attachments", "counters", "limits"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    // The programs that are pinned still have all of them.
    let done = node.says(Version::Other, "reload");
    assert_eq!(
        done["pins"],
        json!({"back": ["attachments", "counters", "limits"], "anew": NO_PINS})
    );
    assert_eq!((&done["pods"], node.layouts().len()), (&json!(1), 1), "{done}");
    // And back, to where this test can read.
    node.says(Version::This, "reload");
    let packets = || -> u64 {
        let pods = Maps::open(&node.bpf_dir()).unwrap().snapshot().unwrap().pods;
        let pod = pods.values().find(|pod| pod.container_id == "a").unwrap();
        pod.network.iter().flatten().map(|of| of.packets).sum()
    };
    let before = packets();
    assert!(before >= 6, "{before}");
    node.call(Version::Other, "ADD", &b).succeed();

    // Now none has the map.
    for name in whole::PROGRAMS.iter().chain(&["counters"]) {
        fs::remove_file(dir.join(name)).unwrap();
    }
    let weir = Version::Other.weir();
    let reload = format!("{} reload --bpf-dir {}", weir.display(), node.bpf_dir().display());
    let output = node.host.node.command(&reload);
    let said = String::from_utf8(output.stderr).unwrap();
    let mend = format!(
        "has lost its pin counters, so that its totals can't be carried over; reload by the \
         version that counts there, or begin at 0: rm -r {}, then weir reconcile",
        dir.display()
    );
    assert!(output.status.code() == Some(1) && said.contains(&mend), "{said}");
    // By the version that counts there.
    let done = node.says(Version::This, "reload");
    assert_eq!(done["pins"]["anew"], json!(["counters"]), "{done}");
    assert!(packets() >= before);
    assert_eq!(node.layouts(), [pin::SCHEMA]);

    // Without any pin it counts nobody, and a reload takes it away.
    node.says(Version::Other, "reload");
    fs::create_dir(&dir).unwrap();
    node.says(Version::Other, "reload");
    assert!(!dir.exists());
    assert!(node.pods(Version::Other).iter().all(|(_, state)| state == "counted"));
}

#[test]
fn as_the_mend_says_a_torn_layout_is_removed_and_its_pods_are_counted_anew() {
    let node = Upgraded::new("torn-mend", "clsact");
    let dir = pin::dir(&node.bpf_dir());
    let a = node.host.container("a");
    let reply = node.call(Version::This, "ADD", &a).succeed();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(node.pods(Version::Other), [("a".to_owned(), "lost".to_owned())]);
    node.says(Version::Other, "reconcile");
    assert_eq!(node.pods(Version::Other), [("a".to_owned(), "counted".to_owned())]);
    node.call(Version::Other, "CHECK", &a).key("prevResult", reply).succeed();
}
