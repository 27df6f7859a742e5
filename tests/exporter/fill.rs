//! Attachments and totals put into the real maps by the test, so that it knows what a page must say.

use std::{fs, path::PathBuf, time::Duration};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde_json::Value;
use weir::telemetry::{
    self, Attached, Choice, Identity,
    wire::{
        CounterKey, CounterKind, Histogram, HistogramKey, HistogramKind, RawAttachment, Role,
        bytes_of, from_bytes,
    },
};

use super::node::{Node, run};

/// A counted interface of the node.
pub struct Pod {
    /// Its attachment id.
    pub id: u32,
    container_id: String,
    attached: Attached,
    bpf_dir: PathBuf,
}

impl Pod {
    /// Adds a veth pair of that name and attaches to it; the pod's name is the link's.
    pub fn new(node: &Node, link: &str) -> Self {
        Self::named(node, link, "shop", link)
    }

    /// So many pods, `p0` and on.
    pub fn many(node: &Node, count: usize) -> Vec<Self> {
        let names: Vec<_> = (0..count).map(|at| format!("p{at}")).collect();
        let add = |name| format!("link add {name} type veth peer name {name}.pod\n");
        let batch = node.path("links");
        fs::write(&batch, names.iter().map(add).collect::<String>()).unwrap();
        run("ip", &["-batch", batch.to_str().unwrap()]);
        names.iter().map(|name| Self::on(node, name, "shop", name)).collect()
    }

    /// As [`new`](Self::new), with names of the test's choosing.
    pub fn named(node: &Node, link: &str, namespace: &str, pod: &str) -> Self {
        run("ip", &["link", "add", link, "type", "veth", "peer", "name", &format!("{link}.pod")]);
        Self::on(node, link, namespace, pod)
    }

    /// Attaches to a link that is there.
    pub fn on(node: &Node, link: &str, namespace: &str, pod: &str) -> Self {
        let shown: Value = serde_json::from_str(&run("ip", &["-j", "link", "show", link])).unwrap();
        let ifindex = u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap();
        let identity = Identity {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: "uid".into(),
            container_id: format!("container-{link}"),
            ifname: "eth0".into(),
        };
        let bpf_dir = node.bpf_dir();
        let choice = Choice::Clsact;
        let intent = telemetry::intend(choice);
        let attached =
            telemetry::attach(&bpf_dir, choice, ifindex, &identity, intent, |_| Ok(())).unwrap();
        let container_id = identity.container_id;
        Self { id: attached.pod, container_id, attached, bpf_dir }
    }

    /// Sets a counter of this pod in the role of a server.
    pub fn count(&self, kind: CounterKind, a: u32, b: u32, c: u16, value: u64) {
        self.count_as(Role::ROLE_SERVER, kind, (a, b, c), value);
    }

    /// In one role or the other.
    pub fn count_as(&self, role: Role, kind: CounterKind, (a, b, c): (u32, u32, u16), value: u64) {
        let key = CounterKey {
            pod: self.id,
            kind: byte(kind.0),
            role: byte(role.0),
            a: byte(a),
            b: byte(b),
            c,
            zero: 0,
        };
        self.map("counters").update(bytes_of(&key), bytes_of(&value), MapFlags::ANY).unwrap();
    }

    /// Sets a histogram of this pod in the role of a server: so many durations (nanoseconds) each.
    pub fn observe(&self, kind: HistogramKind, a: u32, durations: &[(u64, u64)]) {
        self.observe_as(Role::ROLE_SERVER, kind, a, durations);
    }

    /// In one role or the other.
    pub fn observe_as(&self, role: Role, kind: HistogramKind, a: u32, durations: &[(u64, u64)]) {
        let key = HistogramKey {
            pod: self.id,
            kind: byte(kind.0),
            role: byte(role.0),
            a: byte(a),
            zero: 0,
        };
        let bounds = telemetry::histogram::bounds_ns();
        let mut histogram = Histogram::default();
        for (duration, times) in durations {
            histogram.cells[bounds.partition_point(|bound| bound < duration)] += times;
            histogram.sum_ns += duration * times;
        }
        self.map("histograms").update(bytes_of(&key), bytes_of(&histogram), MapFlags::ANY).unwrap();
    }

    /// What DEL does once the link is gone.
    pub fn delete(&self) {
        telemetry::detach(&self.bpf_dir, &self.container_id, &self.attached, None).unwrap();
    }

    /// Moves the time of the DEL into the past.
    pub fn delete_earlier(&self, by: Duration) {
        self.change(|attachment| {
            attachment.deleted_ns -= u64::try_from(by.as_nanos()).unwrap();
        });
    }

    /// Changes the entry by which the maps know this pod.
    pub fn change(&self, change: impl FnOnce(&mut RawAttachment)) {
        let map = self.map("attachments");
        let found = map.lookup(bytes_of(&self.id), MapFlags::ANY).unwrap().unwrap();
        let mut attachment = from_bytes(&found).unwrap();
        change(&mut attachment);
        map.update(bytes_of(&self.id), bytes_of(&attachment), MapFlags::EXIST).unwrap();
    }

    /// Takes away the entry by which the maps know this pod, as a reload does that can't bring it over yet.
    pub fn withdraw(&self) -> RawAttachment {
        let map = self.map("attachments");
        let found = map.lookup(bytes_of(&self.id), MapFlags::ANY).unwrap().unwrap();
        map.delete(bytes_of(&self.id)).unwrap();
        from_bytes(&found).unwrap()
    }

    /// Puts it back.
    pub fn enter(&self, entry: &RawAttachment) {
        let map = self.map("attachments");
        map.update(bytes_of(&self.id), bytes_of(entry), MapFlags::NO_EXIST).unwrap();
    }

    /// Pins the map of one name under another.
    pub fn pin_over(&self, name: &str, over: &str) {
        let mut map = self.map(name);
        let pin = self.bpf_dir.join(env!("WEIR_SCHEMA")).join(over);
        fs::remove_file(&pin).unwrap();
        map.pin(&pin).unwrap();
    }

    fn map(&self, name: &str) -> MapHandle {
        MapHandle::from_pinned_path(self.bpf_dir.join(env!("WEIR_SCHEMA")).join(name)).unwrap()
    }
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap()
}
