//! A reload that is killed, wherever it is, and the next one: what was counted is there once.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use weir::telemetry::{
    pin,
    reader::Maps,
    wire::{CounterKind, HistogramKind, Role},
};

use crate::{
    agents,
    exchanges::{Over, ask, serve},
    plugin::{Container, ips},
    version::{Upgraded, Version},
};

const ASKED: u64 = 50;

/// Requests served by a pod, by container: as many as have a duration, and no connection is open.
fn served(bpf_dir: &Path, container: &str) -> u64 {
    let snapshot = Maps::open(bpf_dir).unwrap().snapshot().unwrap();
    let (pod, _) =
        snapshot.pods.iter().find(|(_, pod)| pod.container_id == container).expect(container);
    let is_its = |of: u32, role: u8| of == *pod && u32::from(role) == Role::ROLE_SERVER.0;
    let count = |kind: CounterKind| -> u64 {
        let of = snapshot.counters.iter().filter(|(key, _)| is_its(key.pod, key.role));
        of.filter(|(key, _)| u32::from(key.kind) == kind.0).map(|(_, n)| n).sum()
    };
    let durations = snapshot.histograms.iter().filter(|(key, _)| {
        is_its(key.pod, key.role) && u32::from(key.kind) == HistogramKind::HISTOGRAM_HTTP_REQUEST.0
    });
    let durations: u64 = durations.flat_map(|(_, histogram)| histogram.cells).sum();
    let closed = count(CounterKind::COUNTER_TCP_CLOSED);
    assert_eq!(closed, count(CounterKind::COUNTER_TCP_CONNECTIONS), "{container}");
    let served = count(CounterKind::COUNTER_HTTP_REQUESTS);
    assert_eq!(served, durations, "{container}");
    served
}

/// A pod that serves requests of the node's.
struct Pod {
    container: Container,
    address: SocketAddr,
}

impl Pod {
    fn new(node: &Upgraded, id: &str) -> Self {
        let container = node.host.container(id);
        let reply = node.call(Version::This, "ADD", &container).succeed();
        let address = format!("{}:8080", ips(&reply)[0]).parse().unwrap();
        Self { container, address }
    }

    /// Serves [`ASKED`] more.
    fn serves(&self, node: &Upgraded) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&over);
            serve(&self.container.space, self.address, scope, &over);
            let never = AtomicBool::new(false);
            assert_eq!(ask(&node.host.node, self.address, &never, ASKED), ASKED);
        });
    }
}

/// A pod that has served [`ASKED`] requests of the node's.
fn served_pod(node: &Upgraded, id: &str) -> Container {
    let pod = Pod::new(node, id);
    pod.serves(node);
    pod.container
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

/// The system calls of a reload that tell how far it is, each with its number among those of its name.
struct Course(Vec<(String, usize, String)>);

impl Course {
    /// A reload under `strace`, killed in the place of one of these calls if there is one; says whether it got to its
    /// end.
    fn run(node: &Upgraded, strike: Option<&(String, usize)>) -> (Self, bool) {
        let log = node.host.state_dir().with_file_name("course");
        let inject = strike.map(|(call, nth)| format!("-e inject={call}:signal=KILL:when={nth}"));
        let words = format!(
            "strace -f -qq -o {} -e trace=bpf,membarrier,/^rename {} {} reload --bpf-dir {}",
            log.display(),
            inject.unwrap_or_default(),
            Version::This.weir().display(),
            node.bpf_dir().display()
        );
        let ended = node.host.node.command(&words).status.success();
        let text = fs::read_to_string(&log).unwrap();
        let mut numbers = BTreeMap::<String, usize>::new();
        let calls = text.lines().filter_map(|line| {
            let (call, rest) = line.split_once(' ')?.1.trim_start().split_once('(')?;
            let number = numbers.entry(call.to_owned()).or_default();
            *number += 1;
            Some((call.to_owned(), *number, rest.to_owned()))
        });
        (Self(calls.collect()), ended)
    }

    /// Where all is loaded: the calls in whose place a kill leaves something else than the one before.
    fn strikes(&self) -> Vec<(String, usize)> {
        let loaded = self.0.iter().rposition(|(.., rest)| rest.starts_with("BPF_OBJ_PIN")).unwrap();
        let calls = &self.0[loaded + 1..];
        let adds = |(.., rest): &(String, usize, String)| rest.starts_with("BPF_PROG_TEST_RUN");
        // Also with one of them taken away.
        let is_one =
            |at: usize| calls[at].0 != "bpf" || calls[at.saturating_sub(2)..=at].iter().any(adds);
        let strikes = (0..calls.len()).filter(|at| is_one(*at));
        strikes.map(|at| (calls[at].0.clone(), calls[at].1)).collect()
    }

    /// Whether the last call but one added totals, and the last didn't come to take them away.
    fn ends_between(&self) -> bool {
        let [.., (.., added), (.., taken)] = &self.0[..] else { return false };
        added.starts_with("BPF_PROG_TEST_RUN") && taken.starts_with("BPF_MAP_DELETE_ELEM")
    }
}

/// A node where pods that serve are counted by another layout's maps; at each strike they serve before it and after it,
/// before the next reload, and are counted once. `own`: pods of this version's that there are already.
fn killed_anywhere(label: &str, attach: &'static str, own: bool) {
    let node = Upgraded::new(label, attach);
    let (bpf_dir, current) = (node.bpf_dir(), pin::dir(&node.bpf_dir()));
    let other = bpf_dir.join("0123456789abcdef");
    let pods = ["a", "b"].map(|id| Pod::new(&node, id));
    let (mut served_by, mut between, mut moving) = ([0; 2], 0, 0);
    let mut strikes = vec![None];
    let mut round = 0;
    while round < strikes.len() {
        let strike: Option<(String, usize)> = strikes[round].clone();
        pods.iter().for_each(|pod| pod.serves(&node));
        fs::rename(&current, &other).unwrap();
        let own = own.then(|| Pod::new(&node, "own"));
        own.iter().for_each(|pod| pod.serves(&node));
        let (course, ended) = Course::run(&node, strike.as_ref());
        assert_eq!(ended, strike.is_none(), "{strike:?}");
        pods.iter().chain(&own).for_each(|pod| pod.serves(&node));
        served_by = served_by.map(|n| n + 2 * ASKED);
        if strike.is_none() {
            strikes.extend(course.strikes().into_iter().map(Some));
        } else {
            if own.is_some() && course.ends_between() && between == 0 {
                let says = "a weir reload was cut off, and some of what pods have counted is still in the maps of layout 0123456789abcdef; weir reload carries it over";
                agents::finds(&node, &[says]);
            }
            between += usize::from(course.ends_between());
            moving += usize::from(node.layouts().iter().any(|name| name.starts_with("moving_")));
            node.says(Version::This, "reload");
        }
        assert_eq!(node.layouts(), [pin::SCHEMA], "{strike:?}");
        for (pod, n) in pods.iter().zip(served_by) {
            assert_eq!(served(&bpf_dir, &pod.container.id), n, "{} {strike:?}", pod.container.id);
        }
        if let Some(own) = own {
            assert_eq!(served(&bpf_dir, "own"), 2 * ASKED, "{strike:?}");
            node.call(Version::This, "DEL", &own.container).succeed();
            // So that the next round is as this one.
            Maps::open(&bpf_dir).unwrap().sweep(Duration::ZERO).unwrap();
            node.host.end(own.container);
        }
        round += 1;
    }
    eprintln!("{} strikes, {between} between adding and taking, {moving} on the way", round - 1);
    assert!(between > 0 && (moving > 0) != own, "{strikes:?}");
}

#[test]
fn what_is_counted_from_a_killed_reload_to_the_next_is_there_by_filters() {
    killed_anywhere("struck-clsact", "clsact", false);
}

#[test]
fn what_is_counted_from_a_killed_reload_to_the_next_is_there_by_links() {
    killed_anywhere("struck-tcx", "tcx", false);
}

#[test]
fn what_a_killed_reload_brought_to_pods_of_this_version_is_there_once() {
    killed_anywhere("struck-own", "clsact", true);
}
