//! A reload that is killed, wherever it is, and the next one: what was counted is there once.

use std::{
    fs,
    path::Path,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use weir::telemetry::{
    pin,
    reader::Maps,
    wire::{CounterKind, Role},
};

use crate::{
    exchanges::{Over, ask, serve},
    plugin::{Container, ips},
    version::{Upgraded, Version},
};

const ASKED: u64 = 50;

/// Requests served by pods, by container.
fn served(bpf_dir: &Path, container: &str) -> u64 {
    let snapshot = Maps::open(bpf_dir).unwrap().snapshot().unwrap();
    let (pod, _) =
        snapshot.pods.iter().find(|(_, pod)| pod.container_id == container).expect(container);
    let of = snapshot.counters.iter().filter(|(key, _)| {
        key.pod == *pod
            && u32::from(key.kind) == CounterKind::COUNTER_HTTP_REQUESTS.0
            && u32::from(key.role) == Role::ROLE_SERVER.0
    });
    of.map(|(_, n)| n).sum()
}

/// A pod that has served [`ASKED`] requests of the node's.
fn served_pod(node: &Upgraded, id: &str) -> Container {
    let pod = node.host.container(id);
    let reply = node.call(Version::This, "ADD", &pod).succeed();
    let address = format!("{}:8080", ips(&reply)[0]).parse().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        serve(&pod.space, address, scope, &over);
        let never = AtomicBool::new(false);
        assert_eq!(ask(&node.host.node, address, &never, ASKED), ASKED);
    });
    pod
}

/// Two pods, each in a layout of its own that is not this version's: as if two versions had gone by
/// without a reload.
#[test]
fn what_a_killed_reload_carried_is_there_once() {
    let node = Upgraded::new("killed", "clsact");
    let (bpf_dir, current) = (node.bpf_dir(), pin::dir(&node.bpf_dir()));
    let others = ["0123456789abcdef", "fedcba9876543210"].map(|name| bpf_dir.join(name));
    let pods = ["a", "b"].map(|id| served_pod(&node, id));
    let _ = pods;
    let mut whole = Duration::ZERO;
    // The first is not killed, and tells how long it takes.
    for before_its_end in [None, Some(0), Some(2), Some(5), Some(10), Some(20), Some(40), Some(80)]
    {
        // One layout holds both now; the other one is of this version, and empty.
        fs::rename(&current, &others[0]).unwrap();
        let c = served_pod(&node, &format!("c{}", before_its_end.unwrap_or(999)));
        fs::rename(&current, &others[1]).unwrap();
        if let Some(before_its_end) = before_its_end {
            let time = whole.saturating_sub(Duration::from_millis(before_its_end)).as_secs_f64();
            let weir = Version::This.weir();
            let weir = format!("{} reload --bpf-dir {}", weir.display(), bpf_dir.display());
            node.host.node.command(&format!("timeout -s KILL {time} {weir}"));
        }
        let begun = Instant::now();
        let done = node.says(Version::This, "reload");
        if before_its_end.is_none() {
            whole = begun.elapsed();
            assert_eq!(done["from"], json!(["0123456789abcdef", "fedcba9876543210"]));
        }
        assert_eq!(node.layouts(), [pin::SCHEMA], "{before_its_end:?}");
        for id in ["a", "b", c.id.as_str()] {
            assert_eq!(served(&bpf_dir, id), ASKED, "{id}, killed {before_its_end:?} ms before");
        }
        node.call(Version::This, "DEL", &c).succeed();
    }
}
