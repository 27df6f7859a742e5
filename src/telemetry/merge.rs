//! The totals of one layout's maps, carried into another's.
//!
//! Keys are carried as they are: the numbers of an enumeration in `wire.h` are never given to another
//! meaning, new ones come at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    path::Path,
};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Program};

use super::{
    reader::{self, Network, TALLIED},
    sys, traffic,
    wire::{
        CounterKey, CounterKind, Direction, Family, Histogram, HistogramKey, LimitKey, MergeEntry,
        MergeKind, PodTraffic, RawAttachment, RawLimit, TcpResult, bytes_of, from_bytes,
    },
};
use crate::error::{Context, Error, Kind, Result};

/// The maps that hold who is counted and the totals, and whether their values may grow at the end.
const CARRIED: [(&str, bool); 5] = [
    ("attachments", true),
    ("pods", true),
    ("counters", false),
    ("histograms", false),
    ("stats", false),
];

/// The pins of another layout that a reload can't do without.
pub(super) fn needed() -> impl Iterator<Item = &'static &'static str> {
    CARRIED.iter().map(|(name, _)| name).chain(&["limits"])
}

/// As many entries as one run of the program takes.
const ENTRIES: usize = 100;

fn map(dir: &Path, name: &str) -> Result<MapHandle> {
    let path = dir.join(name);
    MapHandle::from_pinned_path(&path)
        .context(Kind::Telemetry, || format!("can't open {}", path.display()))
}

/// Whether what is carried has the same shape in both, but for what one has more at its end.
///
/// # Errors
/// [`Kind::Telemetry`] naming the map that has not.
pub fn fits(old: &Path, new: &Path) -> Result<()> {
    for (name, grows) in CARRIED {
        let (from, to) = (map(old, name)?, map(new, name)?);
        let value_fits = grows || from.value_size() == to.value_size();
        if from.key_size() != to.key_size() || !value_fits {
            let msg = format!(
                "the totals in {} can't be carried over: the map {name} has another shape; use the \
                 version between, or remove the directory to begin at 0",
                old.display()
            );
            return Err(Error::new(Kind::Telemetry, msg));
        }
    }
    ["attachments", "counters", "histograms", "limits"]
        .into_iter()
        .try_for_each(|name| has_room(old, new, name))
}

/// Whether both fit into the new map.
fn has_room(old: &Path, new: &Path, name: &str) -> Result<()> {
    let (from, to) = (map(old, name)?, map(new, name)?);
    let mut keys: BTreeSet<Vec<u8>> = from.keys().collect();
    keys.extend(to.keys());
    let (needed, room) = (keys.len(), to.max_entries());
    if u32::try_from(needed).is_ok_and(|needed| needed <= room) {
        return Ok(());
    }
    let msg = format!(
        "the totals in {} can't be carried over: the map {name} has {needed} entries, and this version's \
         holds {room}; use a version whose map is larger, or let pods end and be forgotten first",
        old.display()
    );
    Err(Error::new(Kind::Telemetry, msg))
}

/// What is counted by the old maps as before, since an interface refuses the new programs.
#[derive(Debug, Default)]
pub struct Stay {
    /// The pods.
    pub pods: BTreeSet<u32>,
    /// The interfaces, of limits that count for no pod too.
    pub interfaces: BTreeSet<u32>,
}

impl Stay {
    /// Whether nothing stays.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
    }
}

/// What a [`register`] entered: what was there before is none of it.
#[derive(Debug, Default)]
pub struct Entered {
    pods: BTreeSet<u32>,
    limits: Vec<LimitKey>,
}

impl Entered {
    /// Takes these out again. What they counted meanwhile stays, for when they come: so does their entry in
    /// `pods`, by which [`Maps`](reader::Maps) tells them from the dead.
    ///
    /// # Errors
    /// [`Kind::Telemetry`].
    pub fn take_back(
        &self,
        new: &Path,
        pods: impl Iterator<Item = u32>,
        limits: impl Iterator<Item = LimitKey>,
    ) -> Result<()> {
        let attachments = map(new, "attachments")?;
        for pod in pods.filter(|pod| self.pods.contains(pod)) {
            reader::remove(&attachments, bytes_of(&pod))?;
        }
        let map = map(new, "limits")?;
        for key in limits {
            let is_it = |entered: &LimitKey| bytes_of(entered) == bytes_of(&key);
            if self.limits.iter().any(is_it) {
                reader::remove(&map, bytes_of(&key))?;
            }
        }
        Ok(())
    }
}

/// Takes all pods and limits out of an old layout but those that stay, whose totals are still to come.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn forget_but(old: &Path, stay: &Stay) -> Result<()> {
    let attachments = map(old, "attachments")?;
    for (pod, _) in reader::dump::<u32, RawAttachment>(&attachments)? {
        if !stay.pods.contains(&pod) {
            reader::remove(&attachments, bytes_of(&pod))?;
        }
    }
    let limits = map(old, "limits")?;
    for (key, _) in reader::dump::<LimitKey, RawLimit>(&limits)? {
        if !stay.interfaces.contains(&key.ifindex) {
            reader::remove(&limits, bytes_of(&key))?;
        }
    }
    Ok(())
}

/// Enters the pods of `old`, the ended ones for the rest of their time, with totals of 0.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn register(old: &Path, new: &Path) -> Result<Entered> {
    let full = |name| move || format!("the new map {name} takes no further pod");
    let once = |entered: libbpf_rs::Result<()>| match entered {
        // Counted by these maps already, since a reconciliation hooked it anew, or ended there.
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    };
    let mut entered = Entered::default();
    let (attachments, pods) = (map(new, "attachments")?, map(new, "pods")?);
    for (pod, raw) in reader::dump::<u32, RawAttachment>(&map(old, "attachments")?)? {
        if once(attachments.update(bytes_of(&pod), bytes_of(&raw), MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("attachments"))?
        {
            entered.pods.insert(pod);
        }
    }
    for (ifindex, pod, _) in traffic(old)? {
        let value = PodTraffic { pod, ..Default::default() };
        once(pods.update(bytes_of(&ifindex), bytes_of(&value), MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("pods"))?;
    }
    let limits = map(new, "limits")?;
    for (key, limit) in reader::dump::<LimitKey, RawLimit>(&map(old, "limits")?)? {
        if once(limits.update(bytes_of(&key), bytes_of(&limit), MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("limits"))?
        {
            entered.limits.push(key);
        }
    }
    Ok(entered)
}

/// Each interface with its pod and what has passed it.
fn traffic(dir: &Path) -> Result<Vec<(u32, u32, Network)>> {
    let pods = map(dir, "pods")?;
    let mut all = Vec::new();
    for ifindex in pods.keys().filter_map(|key| from_bytes::<u32>(&key)) {
        all.extend(traffic::read(&pods, ifindex)?.map(|(pod, network)| (ifindex, pod, network)));
    }
    Ok(all)
}

/// A total of the old maps, as what weir_merge is given, and the way to take it out of them.
struct Total {
    /// Whose it is; `None` for the node's own.
    pod: Option<u32>,
    entries: Vec<MergeEntry>,
    map: &'static str,
    key: Vec<u8>,
}

/// Adds all totals of `old`, where nobody counts any more, to those of `new`.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn add_totals(old: &Path, new: &Path) -> Result<()> {
    let entries: Vec<_> = all(old, new)?.into_iter().flat_map(|total| total.entries).collect();
    add(new, &entries)
}

/// As [`add_totals`], and takes them out of `old` as it goes: should the process end meanwhile, who does
/// it again adds no more than the last hundred entries twice. Where pods stay, theirs and the node's own stay
/// with them.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn take_totals(old: &Path, new: &Path, stay: &Stay) -> Result<()> {
    let goes = |total: &Total| match total.pod {
        Some(pod) => !stay.pods.contains(&pod),
        None => stay.is_empty(),
    };
    let mut totals = all(old, new)?.into_iter().filter(goes).peekable();
    while totals.peek().is_some() {
        let (mut entries, mut taken) = (Vec::new(), Vec::new());
        while let Some(total) = totals
            .next_if(|total| entries.is_empty() || entries.len() + total.entries.len() <= ENTRIES)
        {
            entries.extend_from_slice(&total.entries);
            taken.push(total);
        }
        add(new, &entries)?;
        taken.iter().try_for_each(|total| remove(old, total))?;
    }
    Ok(())
}

fn remove(old: &Path, total: &Total) -> Result<()> {
    let map = map(old, total.map)?;
    if total.map == "stats" {
        let failed = || "can't take a total out of the old map stats".into();
        let cpus = libbpf_rs::num_possible_cpus()
            .context(Kind::Telemetry, || "can't count the possible CPUs".into())?;
        let none = vec![bytes_of(&0_u64).to_vec(); cpus];
        return map
            .update_percpu(&total.key, &none, MapFlags::ANY)
            .context(Kind::Telemetry, failed);
    }
    // The agent of that layout forgets who ended a minute ago, meanwhile too.
    reader::remove(&map, &total.key)
}

fn all(old: &Path, new: &Path) -> Result<Vec<Total>> {
    let mut totals = Vec::new();
    let counters = reader::dump::<CounterKey, u64>(&map(old, "counters")?)?;
    let mut open = open(&counters);
    for (key, n) in counters {
        let fields = u32::from_le_bytes([key.kind, key.role, key.a, key.b]);
        let mut entries =
            vec![entry(MergeKind::MERGE_COUNTER, key.pod, fields, key.c.into(), (n, 0))];
        if let Some(n) = is_established(&key).then(|| open.remove(&(key.pod, key.role))).flatten() {
            let fields = u32::from_le_bytes([closed(), key.role, 0, 0]);
            entries.push(entry(MergeKind::MERGE_COUNTER, key.pod, fields, 0, (n, 0)));
        }
        totals.push(Total {
            pod: Some(key.pod),
            entries,
            map: "counters",
            key: bytes_of(&key).to_vec(),
        });
    }
    for (key, histogram) in reader::dump::<HistogramKey, Histogram>(&map(old, "histograms")?)? {
        let entries = histogram_entries(key, &histogram);
        totals.push(Total {
            pod: Some(key.pod),
            entries,
            map: "histograms",
            key: bytes_of(&key).to_vec(),
        });
    }
    for (ifindex, pod, network) in traffic(old)? {
        let entries = traffic_entries(ifindex, pod, &network);
        totals.push(Total {
            pod: Some(pod),
            entries,
            map: "pods",
            key: bytes_of(&ifindex).to_vec(),
        });
    }
    let stats = map(old, "stats")?;
    for stat in 0..stats.max_entries().min(map(new, "stats")?.max_entries()) {
        // Of a tally what was made is gone with the old maps.
        let made = TALLIED.iter().find(|(_, _, removed)| removed.0 == stat);
        let of = made.map_or(stat, |(_, made, _)| made.0);
        let found = stats
            .lookup_percpu(bytes_of(&of), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map stats".into())?;
        let n = found.iter().flatten().filter_map(|bytes| from_bytes::<u64>(bytes)).sum();
        let entries = vec![entry(MergeKind::MERGE_STAT, 0, 0, stat, (n, 0))];
        totals.push(Total { pod: None, entries, map: "stats", key: bytes_of(&stat).to_vec() });
    }
    Ok(totals)
}

/// Connections that are open, by pod and role. Their entries are not carried over, so nobody will see
/// them close: they have closed with the old maps, or would be active for as long as the pod lives.
fn open(counters: &[(CounterKey, u64)]) -> BTreeMap<(u32, u8), u64> {
    let mut open: BTreeMap<_, u64> = BTreeMap::new();
    for (key, n) in counters.iter().filter(|(key, _)| is_established(key)) {
        *open.entry((key.pod, key.role)).or_default() += n;
    }
    for (key, n) in counters.iter().filter(|(key, _)| key.kind == closed()) {
        if let Some(open) = open.get_mut(&(key.pod, key.role)) {
            *open = open.saturating_sub(*n);
        }
    }
    open
}

fn is_established(key: &CounterKey) -> bool {
    u32::from(key.kind) == CounterKind::COUNTER_TCP_CONNECTIONS.0
        && u32::from(key.a) == TcpResult::TCP_RESULT_ESTABLISHED.0
}

fn closed() -> u8 {
    CounterKind::COUNTER_TCP_CLOSED.0.to_le_bytes()[0]
}

fn entry(kind: MergeKind, pod: u32, fields: u32, c: u32, (n, sum): (u64, u64)) -> MergeEntry {
    MergeEntry { kind: kind.0, pod, fields, c, n, sum }
}

/// The sum goes with the first cell that has any.
fn histogram_entries(key: HistogramKey, histogram: &Histogram) -> Vec<MergeEntry> {
    let fields = u32::from_le_bytes([key.kind, key.role, key.a, 0]);
    let mut entries = Vec::new();
    let mut sum = histogram.sum_ns;
    for (cell, &n) in (0..).zip(&histogram.cells) {
        if n > 0 {
            entries.push(entry(MergeKind::MERGE_HISTOGRAM, key.pod, fields, cell, (n, sum)));
            sum = 0;
        }
    }
    entries
}

fn traffic_entries(ifindex: u32, pod: u32, network: &Network) -> Vec<MergeEntry> {
    let mut entries = Vec::new();
    for direction in [Direction::DIRECTION_RX, Direction::DIRECTION_TX] {
        for family in [Family::FAMILY_IPV4, Family::FAMILY_IPV6] {
            let net = network[direction.0 as usize][family.0 as usize];
            let fields = direction.0 | family.0 << 8;
            let amounts = (net.bytes, net.packets);
            if net.packets > 0 {
                entries.push(entry(MergeKind::MERGE_TRAFFIC, ifindex, fields, pod, amounts));
            }
        }
    }
    entries
}

fn add(new: &Path, entries: &[MergeEntry]) -> Result<()> {
    let path = new.join("weir_merge");
    let program = Program::fd_from_pinned_path(&path)
        .context(Kind::Telemetry, || format!("can't open {}", path.display()))?;
    for some in entries.chunks(ENTRIES) {
        let mut frame = vec![0; 14];
        some.iter().for_each(|entry| frame.extend_from_slice(bytes_of(entry)));
        sys::test_run(program.as_fd(), &frame, sys::Skb::default(), 1)
            .context(Kind::Telemetry, || "can't run the program weir_merge".into())?;
    }
    Ok(())
}
