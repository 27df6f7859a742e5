//! The totals of one layout's maps, carried into another's.
//!
//! Keys are carried as they are: the numbers of an enumeration in `wire.h` are never given to another
//! meaning, new ones come at its end.

use std::{os::fd::AsFd, path::Path};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Program};

use super::{
    reader, sys,
    wire::{
        CounterKey, Direction, Family, Histogram, HistogramKey, LimitKey, MergeEntry, MergeKind,
        PodTraffic, RawAttachment, RawLimit, bytes_of, from_bytes, from_other,
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
    Ok(())
}

/// Enters the pods of `old`, the ended ones for the rest of their time, with totals of 0.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn register(old: &Path, new: &Path) -> Result<()> {
    let full = |name| move || format!("the new map {name} takes no further pod");
    let once = |entered: libbpf_rs::Result<()>| match entered {
        // Counted by these maps already, since a reconciliation hooked it anew, or ended there.
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    let (attachments, pods) = (map(new, "attachments")?, map(new, "pods")?);
    for (pod, raw) in reader::dump::<u32, RawAttachment>(&map(old, "attachments")?)? {
        once(attachments.update(bytes_of(&pod), bytes_of(&raw), MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("attachments"))?;
    }
    let cpus = libbpf_rs::num_possible_cpus()
        .context(Kind::Telemetry, || "can't count the possible CPUs".into())?;
    for (ifindex, pod, _) in traffic(old)? {
        let values = vec![bytes_of(&PodTraffic { pod, ..Default::default() }).to_vec(); cpus];
        once(pods.update_percpu(bytes_of(&ifindex), &values, MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("pods"))?;
    }
    let limits = map(new, "limits")?;
    for (key, limit) in reader::dump::<LimitKey, RawLimit>(&map(old, "limits")?)? {
        once(limits.update(bytes_of(&key), bytes_of(&limit), MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("limits"))?;
    }
    Ok(())
}

/// Each interface with its pod and its values by CPU.
fn traffic(dir: &Path) -> Result<Vec<(u32, u32, Vec<PodTraffic>)>> {
    let pods = map(dir, "pods")?;
    let mut all = Vec::new();
    for key in pods.keys() {
        let found = pods
            .lookup_percpu(&key, MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map pods".into())?;
        let values: Vec<PodTraffic> =
            found.iter().flatten().filter_map(|bytes| from_other(bytes)).collect();
        if let (Some(ifindex), Some(first)) = (from_bytes::<u32>(&key), values.first()) {
            all.push((ifindex, first.pod, values));
        }
    }
    Ok(all)
}

/// Adds all totals of `old`, where nobody counts any more, to those of `new`.
///
/// # Errors
/// [`Kind::Telemetry`].
pub fn totals(old: &Path, new: &Path) -> Result<()> {
    let mut entries = Vec::new();
    for (key, n) in reader::dump::<CounterKey, u64>(&map(old, "counters")?)? {
        let fields = u32::from_le_bytes([key.kind, key.role, key.a, key.b]);
        entries.push(entry(MergeKind::MERGE_COUNTER, key.pod, fields, key.c.into(), (n, 0)));
    }
    for (key, histogram) in reader::dump::<HistogramKey, Histogram>(&map(old, "histograms")?)? {
        histogram_entries(key, &histogram, &mut entries);
    }
    for (ifindex, pod, values) in traffic(old)? {
        for value in values {
            traffic_entries(ifindex, pod, &value, &mut entries);
        }
    }
    let stats = map(old, "stats")?;
    for stat in 0..stats.max_entries().min(map(new, "stats")?.max_entries()) {
        let found = stats
            .lookup_percpu(bytes_of(&stat), MapFlags::ANY)
            .context(Kind::Telemetry, || "can't read the map stats".into())?;
        let n = found.iter().flatten().filter_map(|bytes| from_bytes::<u64>(bytes)).sum();
        entries.push(entry(MergeKind::MERGE_STAT, 0, 0, stat, (n, 0)));
    }
    add(new, &entries)
}

fn entry(kind: MergeKind, pod: u32, fields: u32, c: u32, (n, sum): (u64, u64)) -> MergeEntry {
    MergeEntry { kind: kind.0, pod, fields, c, n, sum }
}

/// The sum goes with the first cell that has any.
fn histogram_entries(key: HistogramKey, histogram: &Histogram, entries: &mut Vec<MergeEntry>) {
    let fields = u32::from_le_bytes([key.kind, key.role, key.a, 0]);
    let mut sum = histogram.sum_ns;
    for (cell, &n) in (0..).zip(&histogram.cells) {
        if n > 0 {
            entries.push(entry(MergeKind::MERGE_HISTOGRAM, key.pod, fields, cell, (n, sum)));
            sum = 0;
        }
    }
}

fn traffic_entries(ifindex: u32, pod: u32, value: &PodTraffic, entries: &mut Vec<MergeEntry>) {
    for direction in [Direction::DIRECTION_RX, Direction::DIRECTION_TX] {
        for family in [Family::FAMILY_IPV4, Family::FAMILY_IPV6] {
            let net = value.net[direction.0 as usize][family.0 as usize];
            let fields = direction.0 | family.0 << 8;
            let amounts = (net.bytes, net.packets);
            if net.packets > 0 {
                entries.push(entry(MergeKind::MERGE_TRAFFIC, ifindex, fields, pod, amounts));
            }
        }
    }
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
