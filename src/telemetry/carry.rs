//! The totals of one layout's maps, carried into another's, each of them once.
//!
//! The kernel adds a run of them and keeps that run, in one step that nobody can kill; then they are taken out of the
//! maps that they came from. So whoever dies anywhere leaves what tells the next which totals are in both.
//!
//! Keys are carried as they are: the numbers of an enumeration in `wire.h` are never given to another
//! meaning, new ones come at its end.

use std::{collections::BTreeMap, os::fd::AsFd, path::Path};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Program};

use super::{
    merge::{self, Stay, map},
    pin,
    reader::{self, Network, TALLIED},
    sys, traffic,
    wire::{
        CounterKey, CounterKind, Direction, Family, Histogram, HistogramKey, MergeEntry, MergeKind,
        MergeRun, Stat, TcpResult, bytes_of, field, from_bytes, from_other, text,
    },
};
use crate::error::{Context, Error, Kind, Result};

/// As many entries as one run of the program takes.
const ENTRIES: usize = 100;

const NONE: MergeEntry = MergeEntry { kind: 0, pod: 0, fields: 0, c: 0, n: 0, sum: 0 };

/// What goes together fits into one run.
const _: () = assert!((Stat::STAT_MAX.0 as usize) < ENTRIES);

/// Totals of the old maps that go together, or not at all, as what weir_merge is given.
struct Total {
    /// Whose they are; `None` for the node's own.
    pod: Option<u32>,
    entries: Vec<MergeEntry>,
}

/// Takes all totals of `old`, where nobody counts any more, over to `new`. Where pods stay, theirs and the node's own
/// stay with them. `open` is how many connections stay behind. Call holding the locks of both, when a run that was cut
/// off is [finished](finish).
///
/// # Errors
/// [`Kind::Telemetry`]. What is over by then is over.
pub fn take(old: &Path, new: &Path, stay: &Stay, open: u64) -> Result<()> {
    let goes = |total: &Total| match total.pod {
        Some(pod) => !stay.pods.contains(&pod),
        None => stay.is_empty(),
    };
    let source = Source::open(old)?;
    let mut totals = source.all(new, open)?.into_iter().filter(goes).peekable();
    while totals.peek().is_some() {
        let mut run = MergeRun { from: field(&pin::name(old)), entries: [NONE; ENTRIES] };
        let mut free = run.entries.iter_mut();
        while let Some(total) = totals.next_if(|total| total.entries.len() <= free.len()) {
            free.by_ref().zip(total.entries).for_each(|(to, entry)| *to = entry);
        }
        add(new, &run)?;
        source.lose(&run)?;
    }
    keep(new, &MergeRun::default())
}

/// The connections in these maps that have not ended. Call before the pods are forgotten there: the agent of that
/// version goes on sweeping, and ends theirs.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn open(old: &Path) -> Result<u64> {
    let source = Source::open(old)?;
    let made = source.stat(Stat::STAT_CONNS_CREATED)?;
    Ok(made.saturating_sub(source.stat(Stat::STAT_CONNS_REMOVED)?))
}

/// Takes out of the old maps what a [`take`] that was killed had added to those in `new`, and not yet taken out. Call
/// holding the locks of all.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn finish(new: &Path) -> Result<()> {
    let path = new.join("merged");
    let merged = match MapHandle::from_pinned_path(&path) {
        // Older versions have none.
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.context(Kind::Telemetry, || format!("can't open {}", path.display()))?,
    };
    let last = merged
        .lookup(bytes_of(&0_u32), MapFlags::ANY)
        .context(Kind::Telemetry, || "can't read the map merged".into())?;
    let run = last.and_then(|bytes| from_other::<MergeRun>(&bytes)).unwrap_or_default();
    let from = text(&run.from);
    if from.is_empty() {
        return Ok(());
    }
    let layouts = new.parent().map(pin::layouts).transpose()?.unwrap_or_default();
    if let Some(old) = layouts.iter().find(|dir| pin::name(dir) == from) {
        Source::open(old)?.lose(&run)?;
    }
    keep(new, &MergeRun::default())
}

fn keep(new: &Path, run: &MergeRun) -> Result<()> {
    map(new, "merged")?
        .update(bytes_of(&0_u32), bytes_of(run), MapFlags::ANY)
        .context(Kind::Telemetry, || "can't write to the map merged".into())
}

fn add(new: &Path, run: &MergeRun) -> Result<()> {
    let path = new.join("weir_merge");
    let program = Program::fd_from_pinned_path(&path)
        .context(Kind::Telemetry, || format!("can't open {}", path.display()))?;
    let mut frame = vec![0; 14];
    frame.extend_from_slice(bytes_of(run));
    let passed = sys::test_pass(program.as_fd(), &frame, sys::Skb::default())
        .context(Kind::Telemetry, || "can't run the program weir_merge".into())?;
    match passed.verdict {
        0 => Ok(()),
        verdict => {
            let msg = format!("the program weir_merge added nothing, and says {verdict}");
            Err(Error::new(Kind::Telemetry, msg))
        }
    }
}

/// The maps that totals come from.
struct Source {
    counters: MapHandle,
    histograms: MapHandle,
    pods: MapHandle,
    stats: MapHandle,
}

impl Source {
    fn open(old: &Path) -> Result<Self> {
        Ok(Self {
            counters: map(old, "counters")?,
            histograms: map(old, "histograms")?,
            pods: map(old, "pods")?,
            stats: map(old, "stats")?,
        })
    }

    /// Takes out what a run has added.
    fn lose(&self, run: &MergeRun) -> Result<()> {
        run.entries.iter().try_for_each(|entry| self.lose_one(entry))
    }

    /// The agent of that layout forgets who ended a minute ago, meanwhile too.
    fn lose_one(&self, entry: &MergeEntry) -> Result<()> {
        let [kind, role, a, b] = entry.fields.to_le_bytes();
        let pod = entry.pod;
        match MergeKind(entry.kind) {
            MergeKind::MERGE_COUNTER => {
                let c = u16::try_from(entry.c).unwrap_or_default();
                let key = CounterKey { pod, kind, role, a, b, c, zero: 0 };
                reader::remove(&self.counters, bytes_of(&key))
            }
            MergeKind::MERGE_HISTOGRAM => {
                let key = HistogramKey { pod, kind, role, a, zero: 0 };
                reader::remove(&self.histograms, bytes_of(&key))
            }
            // The interface may have been given to another pod since.
            MergeKind::MERGE_TRAFFIC if traffic::owner(&self.pods, pod)? == Some(entry.c) => {
                reader::remove(&self.pods, bytes_of(&pod))
            }
            // An older layout has fewer of them.
            MergeKind::MERGE_STAT if entry.c >= self.stats.max_entries() => Ok(()),
            MergeKind::MERGE_STAT => {
                let cpus = libbpf_rs::num_possible_cpus()
                    .context(Kind::Telemetry, || "can't count the possible CPUs".into())?;
                let none = vec![bytes_of(&0_u64).to_vec(); cpus];
                self.stats
                    .update_percpu(bytes_of(&entry.c), &none, MapFlags::ANY)
                    .context(Kind::Telemetry, || "can't write to the old map stats".into())
            }
            // No entry, or more of one that is among these.
            _ => Ok(()),
        }
    }

    fn all(&self, new: &Path, open: u64) -> Result<Vec<Total>> {
        let mut totals = counter_totals(&reader::dump::<CounterKey, u64>(&self.counters)?);
        for (key, histogram) in reader::dump::<HistogramKey, Histogram>(&self.histograms)? {
            let entries = histogram_entries(key, &histogram);
            totals.push(Total { pod: Some(key.pod), entries });
        }
        for (ifindex, pod, network) in merge::traffic(&self.pods)? {
            totals.push(Total { pod: Some(pod), entries: traffic_entries(ifindex, pod, &network) });
        }
        let stats = self.stats.max_entries().min(map(new, "stats")?.max_entries());
        let mut entries =
            (0..stats).map(|stat| self.stat_entry(stat)).collect::<Result<Vec<_>>>()?;
        // What was open is not followed any further, and somebody has to say so.
        let stat = Stat::STAT_LEFT_CONNS.0;
        if stat < map(new, "stats")?.max_entries() {
            entries.push(entry(MergeKind::MERGE_STAT, 0, 0, stat, (open, 0)));
        }
        totals.push(Total { pod: None, entries });
        Ok(totals)
    }

    /// Of a tally what was made is gone with the old maps.
    fn stat_entry(&self, stat: u32) -> Result<MergeEntry> {
        let made = TALLIED.iter().find(|(_, _, removed)| removed.0 == stat);
        let n = self.stat(made.map_or(Stat(stat), |(_, made, _)| *made))?;
        Ok(entry(MergeKind::MERGE_STAT, 0, 0, stat, (n, 0)))
    }

    fn stat(&self, stat: Stat) -> Result<u64> {
        let found = self
            .stats
            .lookup_percpu(bytes_of(&stat.0), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map stats".into())?;
        Ok(found.iter().flatten().filter_map(|bytes| from_bytes::<u64>(bytes)).sum())
    }
}

/// Each counter by itself, but for established connections, which go with those that have closed. The entries of the
/// open ones are not carried over, so nobody will see them close: they have closed with the old maps, or would be
/// active for as long as the pod lives.
fn counter_totals(counters: &[(CounterKey, u64)]) -> Vec<Total> {
    let (ended, others): (Vec<_>, Vec<_>) =
        counters.iter().partition(|(key, _)| key.kind == closed());
    let mut ended: BTreeMap<(u32, u8), (CounterKey, u64)> =
        ended.into_iter().map(|&(key, n)| ((key.pod, key.role), (key, n))).collect();
    let of = |key: &CounterKey, n: u64| {
        let fields = u32::from_le_bytes([key.kind, key.role, key.a, key.b]);
        entry(MergeKind::MERGE_COUNTER, key.pod, fields, key.c.into(), (n, 0))
    };
    let mut totals = Vec::new();
    for (key, n) in others {
        let mut entries = vec![of(key, *n)];
        if is_established(key) {
            let (pod, role) = (key.pod, key.role);
            let none = CounterKey { pod, kind: closed(), role, ..CounterKey::default() };
            let (key, gone) = ended.remove(&(pod, role)).unwrap_or((none, 0));
            entries.push(of(&key, gone.max(*n)));
        }
        totals.push(Total { pod: Some(key.pod), entries });
    }
    let rest = ended.into_values();
    totals.extend(rest.map(|(key, n)| Total { pod: Some(key.pod), entries: vec![of(&key, n)] }));
    totals
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

/// The first cell with the sum, then those that have any by twos.
fn histogram_entries(key: HistogramKey, histogram: &Histogram) -> Vec<MergeEntry> {
    let fields = u32::from_le_bytes([key.kind, key.role, key.a, 0]);
    let mut cells = (0..).zip(&histogram.cells).map(|(cell, n)| (cell, *n));
    let (first, n) = cells.next().unwrap_or_default();
    let sum = (n, histogram.sum_ns);
    let mut entries = vec![entry(MergeKind::MERGE_HISTOGRAM, key.pod, fields, first, sum)];
    while let Some((cell, n)) = cells.next() {
        let two = (n, cells.next().map_or(0, |(_, n)| n));
        if two != (0, 0) {
            entries.push(entry(MergeKind::MERGE_CELLS, key.pod, fields, cell, two));
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
            entries.push(entry(MergeKind::MERGE_TRAFFIC, ifindex, fields, pod, amounts));
        }
    }
    entries
}
