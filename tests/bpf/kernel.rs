//! The pinned programs and maps of a test: a bpffs and a network namespace of its own.

use std::{
    collections::BTreeMap, iter::repeat, mem::offset_of, os::fd::AsFd, os::fd::OwnedFd, path::Path,
    path::PathBuf, process::Command, sync::RwLock,
};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::time::TimeValLike,
    time::{ClockId, clock_gettime},
};
use weir::telemetry::{
    self, Attached, Choice, Identity, pin,
    reader::{Maps, Snapshot},
    sys::{Skb, read_all, test_pass},
    wire::{
        Conn, CounterKey, CounterKind, Direction, Held, HistogramKey, HistogramKind, NetCounter,
        Stat, from_bytes,
    },
};

/// In a fresh network namespace loopback has index 1; a test run without a device passes it.
const LOOPBACK: u32 = 1;

/// `TC_ACT_UNSPEC`, as tcx `TCX_NEXT`: who is attached behind decides.
const NEXT: i32 = -1;

pub struct Kernel {
    mounted: PathBuf,
    pub attached: Attached,
    programs: RwLock<[OwnedFd; 2]>,
    pub maps: Maps,
}

/// `enum held_state`.
const HELD_CLAIMED: u32 = 1;

/// What changed between two snapshots, by key; the pod's id left out.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Counts(pub BTreeMap<(u8, u8, u8, u8, u16), u64>);

impl Counts {
    pub fn add(&mut self, kind: CounterKind, role: u8, a: u32, b: u32, c: u16, n: u64) {
        let key = (u8::try_from(kind.0).unwrap(), role, small(a), small(b), c);
        *self.0.entry(key).or_default() += n;
    }

    /// What came to them after `before`.
    pub fn since(mut self, before: &Self) -> Self {
        self.0.retain(|key, n| {
            *n -= before.0.get(key).copied().unwrap_or_default();
            *n > 0
        });
        self
    }

    /// All but TCP's own.
    pub fn above_tcp(mut self) -> Self {
        let tcp = [
            CounterKind::COUNTER_TCP_CONNECTIONS,
            CounterKind::COUNTER_TCP_CLOSED,
            CounterKind::COUNTER_TCP_RETRANSMITS,
        ];
        self.0.retain(|key, _| !tcp.iter().any(|kind| kind.0 == u32::from(key.0)));
        self
    }

    pub fn of(&self, kind: CounterKind) -> u64 {
        self.0.iter().filter(|(key, _)| u32::from(key.0) == kind.0).map(|(_, n)| n).sum()
    }
}

/// What the map `counters` has, in the kernel's order and form: tests that compare it thousands of times
/// look at what differs alone.
#[derive(Debug, Default)]
pub struct Tally {
    pod: u32,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Tally {
    /// The pod's counters, less what they were `before`.
    pub fn since(&self, before: &Self) -> Counts {
        // A new key may move others; without one each is where it was.
        let moved = self.keys != before.keys;
        let found: BTreeMap<_, _> = before.entries().filter(|_| moved).collect();
        let mut counts = Counts::default();
        for ((key, n), was) in self.entries().zip(before.values().map(Some).chain(repeat(None))) {
            let was = if moved { found.get(key).copied() } else { was }.unwrap_or_default();
            if n == was {
                continue;
            }
            let CounterKey { pod, kind, role, a, b, c, .. } = from_bytes(key).unwrap();
            assert_eq!(pod, self.pod);
            counts.0.insert((kind, role, a, b, c), n - was);
        }
        counts
    }

    fn values(&self) -> impl Iterator<Item = u64> {
        self.values.chunks_exact(8).map(|n| u64::from_ne_bytes(n.try_into().unwrap()))
    }

    fn entries(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.keys.chunks_exact(size_of::<CounterKey>()).zip(self.values())
    }
}

fn pinned(bpf_dir: &Path) -> [OwnedFd; 2] {
    ["weir_from_pod", "weir_to_pod"].map(|name| pin::program(bpf_dir, name).unwrap().unwrap())
}

fn small(value: u32) -> u8 {
    u8::try_from(value).unwrap()
}

impl Kernel {
    /// Needs root: it mounts, loads and attaches for real, away from the host's namespaces.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads BPF programs: run it as root");
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        let mounted = std::env::temp_dir().join(format!("weir-bpf-{}", nix::unistd::gettid()));
        std::fs::create_dir_all(&mounted).unwrap();
        mount(Some("bpf"), &mounted, Some("bpf"), MsFlags::empty(), nothing).unwrap();
        let bpf_dir = mounted.join("weir");
        let identity = Identity {
            namespace: "ns".into(),
            pod: "pod".into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            ..Default::default()
        };
        let choice = Choice::Clsact;
        let intent = telemetry::intend(choice);
        let attached =
            telemetry::attach(&bpf_dir, choice, LOOPBACK, &identity, intent, |_| Ok(())).unwrap();
        Self {
            attached,
            programs: RwLock::new(pinned(&bpf_dir)),
            maps: Maps::open(&bpf_dir).unwrap(),
            mounted,
        }
    }

    pub fn leave_pod(&self, frame: &[u8]) {
        self.pass(0, true, frame);
    }

    pub fn enter_pod(&self, frame: &[u8]) {
        self.pass(0, false, frame);
    }

    /// A frame from or to the pod at an interface; 0: the test's own. Whatever it is, the program has
    /// to leave it as it is, to whoever comes next.
    pub fn pass(&self, ifindex: u32, from_pod: bool, frame: &[u8]) {
        self.pass_as(Skb { ifindex, ..Default::default() }, from_pod, frame);
    }

    /// The same with more of what the kernel knows of it.
    pub fn pass_as(&self, skb: Skb, from_pod: bool, frame: &[u8]) {
        let programs = self.programs.read().unwrap();
        let program = programs[usize::from(!from_pod)].as_fd();
        let passed = test_pass(program, frame, skb).unwrap();
        assert_eq!(passed.verdict, NEXT, "who comes behind decides about every packet");
        assert!(passed.frame == frame, "a packet was changed: {frame:?} {:?}", passed.frame);
    }

    /// Another pod of the node, at an interface of its own, whose index is returned.
    pub fn neighbour(&self) -> u32 {
        let ifindex = Self::interface();
        self.attach(ifindex, "neighbour");
        ifindex
    }

    /// An interface for another pod; its index.
    pub fn interface() -> u32 {
        let words = "link add neighbour type veth peer name neighbour-pod";
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
        nix::net::if_::if_nametoindex("neighbour").unwrap()
    }

    /// What ADD does for a pod with this name and container id.
    pub fn attach(&self, ifindex: u32, name: &str) -> Attached {
        let (pod, container_id) = (name.to_owned(), name.to_owned());
        let identity = Identity { pod, container_id, ..Default::default() };
        let choice = Choice::Clsact;
        let intent = telemetry::intend(choice);
        telemetry::attach(&self.bpf_dir(), choice, ifindex, &identity, intent, |_| Ok(())).unwrap()
    }

    /// What DEL does for it.
    pub fn detach(&self, ifindex: u32, name: &str, attached: &Attached) {
        telemetry::detach(&self.bpf_dir(), name, attached, Some(ifindex)).unwrap();
    }

    /// Takes the programs that are pinned by now.
    pub fn refresh(&self) {
        *self.programs.write().unwrap() = pinned(&self.bpf_dir());
    }

    /// And the maps.
    pub fn reopen(&mut self) {
        self.refresh();
        self.maps = Maps::open(&self.bpf_dir()).unwrap();
    }

    /// What DEL does when the link is gone.
    pub fn end_pod(&self) {
        telemetry::detach(&self.bpf_dir(), "c1", &self.attached, None).unwrap();
    }

    /// A file of this test's own, which is no part of the bpffs.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.mounted.with_extension(name)
    }

    pub fn bpf_dir(&self) -> PathBuf {
        self.mounted.join("weir")
    }

    pub fn snapshot(&self) -> Snapshot {
        self.maps.snapshot().unwrap()
    }

    /// All counters of this pod.
    pub fn counts(&self) -> Counts {
        self.tally().since(&Tally::default())
    }

    /// The map `counters` as it is, which is no more work for us than what the kernel has of it.
    pub fn tally(&self) -> Tally {
        let path = pin::dir(&self.bpf_dir()).join("counters");
        let map = MapHandle::from_pinned_path(path).unwrap();
        let (keys, values) = read_all(&map, size_of::<CounterKey>()).unwrap();
        Tally { pod: self.attached.pod, keys, values }
    }

    /// All counters of the pod at an interface.
    pub fn counts_at(&self, ifindex: u32) -> Counts {
        let Snapshot { pods, counters, .. } = self.snapshot();
        let (&id, _) = pods.iter().find(|(_, pod)| pod.ifindex == ifindex).unwrap();
        let of_pod = counters.into_iter().filter(|(key, _)| key.pod == id);
        Counts(of_pod.map(|(key, n)| ((key.kind, key.role, key.a, key.b, key.c), n)).collect())
    }

    /// Bytes and packets to and from a pod, of both families.
    pub fn passed(&self, pod: u32) -> [(u64, u64); 2] {
        let network = self.snapshot().pods[&pod].network;
        [Direction::DIRECTION_RX, Direction::DIRECTION_TX].map(|direction| {
            let families = network[direction.0 as usize];
            let sum = |of: fn(&NetCounter) -> u64| families.iter().map(of).sum();
            (sum(|counter| counter.bytes), sum(|counter| counter.packets))
        })
    }

    /// How often each reason for not following was met; those that were not are left out.
    pub fn gaps(&self) -> BTreeMap<u32, u64> {
        let stats = self.snapshot().stats;
        let reasons = (Stat::STAT_GAP_SEQUENCE.0..=Stat::STAT_GAP_FRAGMENT.0).zip(stats);
        reasons.filter(|(_, n)| *n > 0).collect()
    }

    /// What a CPU leaves that stands still while it reads a direction of the only connection: the
    /// direction is owned until this is called again with `false`.
    pub fn own(&self, direction: Direction, owned: bool) {
        let path = pin::dir(&self.bpf_dir()).join("conns");
        let conns = MapHandle::from_pinned_path(path).unwrap();
        let key = conns.keys().next().unwrap();
        let mut conn = conns.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        let half =
            offset_of!(Conn, half) + direction.0 as usize * size_of_val(&Conn::default().half[0]);
        conn[half..half + 4].copy_from_slice(&u32::from(owned).to_ne_bytes());
        conns.update(&key, &conn, MapFlags::EXIST).unwrap();
    }

    /// As if nothing had passed for two minutes.
    pub fn age_connections(&self) {
        self.age_connections_by(120);
    }

    /// As if nothing had passed for so many seconds.
    pub fn age_connections_by(&self, seconds: u64) {
        let path = pin::dir(&self.bpf_dir()).join("conns");
        let conns = MapHandle::from_pinned_path(path).unwrap();
        // All first: one that is written anew stands before those of its bucket that were passed.
        for key in conns.keys().collect::<Vec<_>>() {
            let mut conn = conns.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            let seen = offset_of!(Conn, seen_ns);
            let before = u64::from_ne_bytes(conn[seen..seen + 8].try_into().unwrap());
            conn[seen..seen + 8]
                .copy_from_slice(&before.wrapping_sub(seconds * 1_000_000_000).to_ne_bytes());
            conns.update(&key, &conn, MapFlags::EXIST).unwrap();
        }
    }

    /// What an ADD without a free place does to pods that ended: nobody knows the id any more.
    pub fn forget(&self, pod: u32) {
        let pod = pod.to_ne_bytes();
        for name in ["attachments", "counters", "histograms"] {
            let path = pin::dir(&self.bpf_dir()).join(name);
            let map = MapHandle::from_pinned_path(path).unwrap();
            let keys: Vec<_> = map.keys().filter(|key| key.starts_with(&pod)).collect();
            keys.iter().for_each(|key| map.delete(key).unwrap());
        }
    }

    /// With no program under way no direction is owned, and no place for early segments claimed.
    pub fn assert_at_rest(&self) {
        let open =
            |name| MapHandle::from_pinned_path(pin::dir(&self.bpf_dir()).join(name)).unwrap();
        let (conns, held) = (open("conns"), open("held"));
        for key in conns.keys() {
            let conn = conns.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            for direction in 0..2 {
                let half =
                    offset_of!(Conn, half) + direction * size_of_val(&Conn::default().half[0]);
                assert_eq!(conn[half..half + 4], [0; 4], "direction {direction} is owned");
            }
        }
        for key in held.keys() {
            let place = held.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            let state = offset_of!(Held, state);
            let state = u32::from_ne_bytes(place[state..state + 4].try_into().unwrap());
            assert_ne!(state, HELD_CLAIMED, "a place stays claimed");
        }
    }

    /// As if all look-ups under way had been asked so many seconds before.
    pub fn age_queries_by(&self, seconds: u64) {
        let path = pin::dir(&self.bpf_dir()).join("dns_pending");
        let pending = MapHandle::from_pinned_path(path).unwrap();
        // All first, as with connections.
        for key in pending.keys().collect::<Vec<_>>() {
            let mut query = pending.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            // `struct dns_query` begins with it, or this is nothing like a time of the last hour's.
            let before = u64::from_ne_bytes(query[..8].try_into().unwrap());
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
            let ago = u64::try_from(now.num_nanoseconds()).unwrap().wrapping_sub(before);
            assert!(ago < 3_600_000_000_000, "asked {ago} ns ago");
            query[..8].copy_from_slice(&before.wrapping_sub(seconds * 1_000_000_000).to_ne_bytes());
            pending.update(&key, &query, MapFlags::EXIST).unwrap();
        }
    }

    /// As if all that is held had been waiting since the machine was started.
    pub fn age_held(&self) {
        let held = MapHandle::from_pinned_path(pin::dir(&self.bpf_dir()).join("held")).unwrap();
        for key in held.keys() {
            let mut place = held.lookup(&key, MapFlags::ANY).unwrap().unwrap();
            let since = offset_of!(Held, since_ns);
            place[since..since + 8].fill(0);
            held.update(&key, &place, MapFlags::ANY).unwrap();
        }
    }

    /// All observations of one kind of histogram.
    pub fn observations(&self, kind: HistogramKind) -> u64 {
        let of = |key: &HistogramKey| u32::from(key.kind) == kind.0;
        let snapshot = self.snapshot();
        snapshot.histograms.iter().filter(|(key, _)| of(key)).flat_map(|(_, h)| h.cells).sum()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        umount2(&self.mounted, MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_dir(&self.mounted).unwrap();
    }
}
