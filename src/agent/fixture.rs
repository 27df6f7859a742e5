//! Snapshots for unit tests.

use std::time::Duration;

use super::{
    exemplar::{Exemplar, Place},
    roster::{Member, State, join},
};
use crate::telemetry::{
    Census, Mode,
    histogram::bounds_ns,
    reader::{Began, MapUsage, Pod, Snapshot},
    wire::{
        CounterKey, CounterKind, Histogram, HistogramKey, HistogramKind, NetCounter, Role, Stat,
    },
};

/// When the readings of the tests are taken, since the Unix epoch.
pub const NOW: Duration = Duration::from_secs(2_000);

/// A pod of namespace `shop` that was made at second 1,000.5, with one container of its own name.
pub fn pod(name: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        pod: name.into(),
        uid: String::new(),
        container_id: name.into(),
        ifname: "eth0".into(),
        created: Duration::from_millis(1_000_500),
        began: Began::at(Duration::from_millis(1_000_500)),
        deleted: None,
        ifindex: 7,
        mode: Mode::Clsact,
        network: [
            [NetCounter { bytes: 10, packets: 1 }, NetCounter { bytes: 20, packets: 2 }],
            [NetCounter { bytes: 30, packets: 3 }, NetCounter { bytes: 40, packets: 4 }],
        ],
    }
}

/// A counter key of attachment `pod` in the role of a server.
pub fn counter(pod: u32, kind: CounterKind, a: u32, b: u32, c: u16) -> CounterKey {
    CounterKey {
        pod,
        kind: byte(kind.0),
        role: byte(Role::ROLE_SERVER.0),
        a: byte(a),
        b: byte(b),
        c,
        zero: 0,
    }
}

/// A histogram key of attachment `pod` in the role of a server.
pub fn histogram_key(pod: u32, kind: HistogramKind, a: u32) -> HistogramKey {
    HistogramKey { pod, kind: byte(kind.0), role: byte(Role::ROLE_SERVER.0), a: byte(a), zero: 0 }
}

/// The second bucket of the histogram of GET requests that attachment 1 serves.
pub const PLACE: Place = Place { pod: 1, kind: 1, role: 1, a: 1, bucket: 1 };

/// A request of [`PLACE`]'s bucket: 7 ms, half a second before [`NOW`].
pub fn exemplar() -> Exemplar {
    let at = NOW - Duration::from_millis(500);
    Exemplar { trace_id: "1".repeat(32), duration_ns: 7_000_000, at }
}

/// The cells that durations (nanoseconds) fall into, as the kernel side puts them there.
pub fn histogram(durations: &[u64]) -> Histogram {
    let bounds = bounds_ns();
    let mut histogram = Histogram { sum_ns: durations.iter().sum(), ..Histogram::default() };
    for duration in durations {
        histogram.cells[bounds.partition_point(|bound| bound < duration)] += 1;
    }
    histogram
}

/// Pods with attachment ids from 1 on, in this order, and no counters.
pub fn snapshot(pods: impl IntoIterator<Item = Pod>) -> Snapshot {
    Snapshot {
        pods: (1..).zip(pods).collect(),
        stats: vec![0; Stat::STAT_MAX.0 as usize],
        maps: vec![MapUsage { name: "counters", entries: 3, capacity: 100 }],
        memory: vec![("counters", 4_096)],
        ..Snapshot::default()
    }
}

/// Pods `p0`, `p1`… in these states.
pub fn members(states: &[State]) -> Vec<Member> {
    let pods = (0..states.len()).map(|at| pod(&format!("p{at}")));
    let mut members = join(&[], None, &snapshot(pods).pods);
    members.iter_mut().zip(states).for_each(|(member, state)| member.state = state.clone());
    members
}

/// Of the pods of a snapshot, by the maps in `/x`.
pub fn census(snapshot: &Snapshot) -> Census {
    let here = snapshot.pods.iter().map(|(id, pod)| (*id, pod.deleted)).collect();
    Census { bpf_dir: "/x".into(), here: Some(here), ..Census::default() }
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap()
}
