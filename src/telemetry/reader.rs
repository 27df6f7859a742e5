//! The pinned maps, read at one moment into plain data. No metric names here.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use libbpf_rs::{ErrorKind, MapCore, MapHandle};

use super::{
    Mode,
    hook::{nanoseconds, now},
    pin, sys, traffic,
    wire::{
        AttachMode, CounterKey, Histogram, HistogramKey, NetCounter, RawAttachment, Stat, Wire,
        bytes_of, from_bytes, from_other, text,
    },
};
use crate::error::{Context, Kind, Result};

/// L3 totals, `[direction][family]` by [`Direction`](super::wire::Direction) and
/// [`Family`](super::wire::Family).
pub type Network = [[NetCounter; 2]; 2];

/// An attachment, living or within its grace time after DEL.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`, or empty.
    pub namespace: String,
    /// `K8S_POD_NAME`, or the container id.
    pub pod: String,
    /// `K8S_POD_UID`, or empty.
    pub uid: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// When ADD attached, since the Unix epoch.
    pub created: Duration,
    /// When its totals began: with it, unless their map was lost since.
    pub began: Began,
    /// When DEL detached, since the Unix epoch.
    pub deleted: Option<Duration>,
    /// Host-side interface.
    pub ifindex: u32,
    /// The hook.
    pub mode: Mode,
    /// L3 totals.
    pub network: Network,
}

/// When a pod's totals began, by the maps that they are in, since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Began {
    /// Of the counters.
    pub counters: Duration,
    /// Of the histograms.
    pub histograms: Duration,
    /// Of bytes and packets.
    pub network: Duration,
}

impl Began {
    /// All at one time.
    pub fn at(time: Duration) -> Self {
        Self { counters: time, histograms: time, network: time }
    }

    /// Of each the earlier one.
    #[must_use]
    pub fn or_before(self, other: Self) -> Self {
        Self {
            counters: self.counters.min(other.counters),
            histograms: self.histograms.min(other.histograms),
            network: self.network.min(other.network),
        }
    }
}

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapUsage {
    /// The map's name.
    pub name: &'static str,
    /// Elements in use.
    pub entries: u64,
    /// Elements it can hold.
    pub capacity: u64,
}

/// All totals at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Attachment id to its pod.
    pub pods: BTreeMap<u32, Pod>,
    /// Every counter, in no order.
    pub counters: Vec<(CounterKey, u64)>,
    /// Every histogram, in no order.
    pub histograms: Vec<(HistogramKey, Histogram)>,
    /// Self-statistics, indexed by [`Stat`], summed over CPUs.
    pub stats: Vec<u64>,
    /// The maps that can be full.
    pub maps: Vec<MapUsage>,
    /// Bytes that the kernel has locked for each pinned map, by its name.
    pub memory: Vec<(&'static str, u64)>,
}

/// Runs of the sweep that pass the largest table, of which each looks at a slice.
const SLICES: u32 = 4;

/// A time that is this far ahead of the clock is of a clock that was wrong.
const AHEAD: Duration = Duration::from_secs(60);

/// The maps that are too large to be read for their size alone, and what tallies their elements.
pub(super) const TALLIED: [(&str, Stat, Stat); 5] = [
    ("conns", Stat::STAT_CONNS_CREATED, Stat::STAT_CONNS_REMOVED),
    ("dns_pending", Stat::STAT_DNS_CREATED, Stat::STAT_DNS_REMOVED),
    ("inflight_spill", Stat::STAT_SPILL_CREATED, Stat::STAT_SPILL_REMOVED),
    ("http2", Stat::STAT_HTTP2_CREATED, Stat::STAT_HTTP2_REMOVED),
    ("http2_streams", Stat::STAT_STREAMS_CREATED, Stat::STAT_STREAMS_REMOVED),
];

/// The pinned maps whose fill nobody asks for: arrays, the ring, and what grows with the pods alone.
const REST: [&str; 7] =
    ["half_open", "limits", "listeners", "merged", "records", "shares", "taken"];

/// The pinned maps, opened for reading (and for sweeping what is dead).
#[derive(Debug)]
pub struct Maps {
    pods: MapHandle,
    attachments: MapHandle,
    counters: MapHandle,
    histograms: MapHandle,
    stats: MapHandle,
    held: MapHandle,
    /// In the order of [`TALLIED`].
    tallied: Vec<MapHandle>,
    /// Those of [`REST`] that are there: without one the totals are as readable.
    rest: Vec<(&'static str, MapHandle)>,
    sweep: OwnedFd,
}

impl Maps {
    /// Opens the pins of this binary's schema.
    ///
    /// # Errors
    /// [`Kind::Telemetry`]: no pod was ever attached, or all by versions with another layout; or no permission.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        let absent = || pin::absent(bpf_dir);
        let map = |name| pin::map(bpf_dir, name)?.ok_or_else(absent);
        Ok(Self {
            pods: map("pods")?,
            attachments: map("attachments")?,
            counters: map("counters")?,
            histograms: map("histograms")?,
            stats: map("stats")?,
            held: map("held")?,
            tallied: TALLIED.iter().map(|(name, ..)| map(name)).collect::<Result<_>>()?,
            rest: REST
                .into_iter()
                .filter_map(|name| Some((name, pin::map(bpf_dir, name).transpose()?)))
                .map(|(name, map)| Ok((name, map?)))
                .collect::<Result<_>>()?,
            sweep: pin::program(bpf_dir, "weir_sweep")?.ok_or_else(absent)?,
        })
    }

    /// Reads everything with batched look-ups.
    ///
    /// # Errors
    /// [`Kind::Telemetry`] naming the map.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let attachments = dump::<u32, RawAttachment>(&self.attachments)?;
        // Behind that: whose interface becomes another's meanwhile lacks something for once, and has nothing twice.
        let traffic = traffic::all(&self.pods)?;
        let pods = attachments.into_iter().map(|(id, raw)| {
            // What it counted before another had its interface, and since.
            let network = match traffic.get(&raw.ifindex) {
                Some((owner, since)) if *owner == id => traffic::sum(raw.net, *since),
                _ => raw.net,
            };
            (id, pod(&raw, network))
        });
        let pods: BTreeMap<_, _> = pods.collect();
        let counters = dump(&self.counters)?;
        let histograms = dump(&self.histograms)?;
        let stats = sys::read_sums(&self.stats)
            .context(Kind::Telemetry, || "can't read the map stats".into())?;
        let maps = self.usage(&stats, &[pods.len(), counters.len(), histograms.len()]);
        Ok(Snapshot { pods, counters, histograms, stats, maps, memory: self.memory()? })
    }

    /// Ends what will not end by itself: idle connections, unanswered queries and SYNs (counted as
    /// such), and every entry of pods whose DEL is longer ago than `grace`.
    ///
    /// # Errors
    /// [`Kind::Telemetry`] naming the map or program.
    pub fn sweep(&self, grace: Duration) -> Result<()> {
        self.run_sweep()?;
        self.purge(grace)
    }

    /// Forgets every pod that ended, with all that it has in any table: what it left open is counted
    /// first, and the share that it had is the living's afterwards.
    ///
    /// # Errors
    /// [`Kind::Telemetry`] naming the map or program.
    pub(super) fn forget_ended(&self) -> Result<()> {
        (0..SLICES).try_for_each(|_| self.run_sweep())?;
        self.purge(Duration::ZERO)?;
        (0..SLICES).try_for_each(|_| self.run_sweep())
    }

    fn run_sweep(&self) -> Result<()> {
        // The program takes a frame because every tc program does; it looks at none.
        sys::test_run(self.sweep.as_fd(), &[0; 14], sys::Skb::default(), 1)
            .context(Kind::Telemetry, || "can't run the program weir_sweep".into())?;
        Ok(())
    }

    /// Removes every entry of pods whose DEL is longer ago than `grace`.
    fn purge(&self, grace: Duration) -> Result<()> {
        let oldest = nanoseconds(now().saturating_sub(grace));
        // A DEL from before the clock was set back.
        let future = nanoseconds(now() + AHEAD);
        let dead: BTreeMap<u32, RawAttachment> = dump::<u32, RawAttachment>(&self.attachments)?
            .into_iter()
            .filter(|(_, raw)| {
                raw.deleted_ns != 0 && (raw.deleted_ns <= oldest || raw.deleted_ns > future)
            })
            .collect();
        if dead.is_empty() {
            return Ok(());
        }
        let counters = dump::<CounterKey, u64>(&self.counters)?;
        let histograms = dump::<HistogramKey, Histogram>(&self.histograms)?;
        // Read after the counters, so that whoever is not in it was gone before they were counted.
        let known = dump::<u32, RawAttachment>(&self.attachments)?.into_iter().map(|(id, _)| id);
        let known: BTreeSet<u32> =
            known.chain(self.owners()?).filter(|id| !dead.contains_key(id)).collect();
        for (key, _) in counters.iter().filter(|(key, _)| !known.contains(&key.pod)) {
            remove(&self.counters, bytes_of(key))?;
        }
        for (key, _) in histograms.iter().filter(|(key, _)| !known.contains(&key.pod)) {
            remove(&self.histograms, bytes_of(key))?;
        }
        for (id, raw) in dead {
            // The interface index may belong to a successor by now.
            if traffic::read(&self.pods, raw.ifindex)?.is_some_and(|(owner, _)| owner == id) {
                remove(&self.pods, bytes_of(&raw.ifindex))?;
            }
            remove(&self.attachments, bytes_of(&id))?;
        }
        Ok(())
    }

    /// Whom the interfaces are of: pods that a reload could not bring over yet, too.
    fn owners(&self) -> Result<Vec<u32>> {
        Ok(traffic::all(&self.pods)?.into_values().map(|(owner, _)| owner).collect())
    }

    /// Entries come from what was read already, or from the kernel side's own tallies.
    fn usage(&self, stats: &[u64], read: &[usize; 3]) -> Vec<MapUsage> {
        let tally = |up: Stat, down: Stat| {
            let at = |stat: Stat| stats.get(stat.0 as usize).copied().unwrap_or_default();
            at(up).saturating_sub(at(down))
        };
        let [pods, counters, histograms] = read.map(|count| count as u64);
        let tallied = TALLIED
            .iter()
            .zip(&self.tallied)
            .map(|(&(name, up, down), map)| (name, map, tally(up, down)));
        [
            ("pods", &self.pods, pods),
            ("attachments", &self.attachments, pods),
            ("counters", &self.counters, counters),
            ("histograms", &self.histograms, histograms),
            ("held", &self.held, u64::from(self.held.max_entries())),
        ]
        .into_iter()
        .chain(tallied)
        .map(|(name, map, entries)| MapUsage {
            name,
            entries,
            capacity: u64::from(map.max_entries()),
        })
        .collect()
    }

    fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let tallied = TALLIED.iter().map(|(name, ..)| *name).zip(&self.tallied);
        [
            ("pods", &self.pods),
            ("attachments", &self.attachments),
            ("counters", &self.counters),
            ("histograms", &self.histograms),
            ("stats", &self.stats),
            ("held", &self.held),
        ]
        .into_iter()
        .chain(tallied)
        .chain(self.rest.iter().map(|(name, map)| (*name, map)))
        .map(|(name, map)| {
            let bytes = locked_bytes(map).context(Kind::Telemetry, || {
                format!("can't read the memory of the map {name} from fdinfo")
            })?;
            Ok((name, bytes))
        })
        .collect()
    }
}

/// A pod by its entry, with these totals.
pub(super) fn pod(raw: &RawAttachment, network: Network) -> Pod {
    let began = |ns| Duration::from_nanos(if ns == 0 { raw.created_ns } else { ns });
    Pod {
        namespace: text(&raw.pod_namespace),
        pod: text(&raw.pod_name),
        uid: text(&raw.pod_uid),
        container_id: text(&raw.container_id),
        ifname: text(&raw.ifname),
        created: Duration::from_nanos(raw.created_ns),
        began: Began {
            counters: began(raw.counters_ns),
            histograms: began(raw.histograms_ns),
            network: began(raw.network_ns),
        },
        deleted: deleted(raw),
        ifindex: raw.ifindex,
        mode: mode(raw),
        network,
    }
}

/// The kernel's own figure, from the map's fdinfo (`memlock`, bytes).
fn locked_bytes(map: &MapHandle) -> std::io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path)?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_default())
}

/// When DEL was there, since the Unix epoch, if it was.
pub(super) fn deleted(raw: &RawAttachment) -> Option<Duration> {
    (raw.deleted_ns != 0).then(|| Duration::from_nanos(raw.deleted_ns))
}

/// The hook that an attachment was given.
pub(super) fn mode(raw: &RawAttachment) -> Mode {
    if raw.mode == AttachMode::ATTACH_TCX.0 { Mode::Tcx } else { Mode::Clsact }
}

/// Every entry of a map, of this layout or of another, whose values may end elsewhere.
pub(super) fn dump<K: Wire, V: Wire>(map: &MapHandle) -> Result<Vec<(K, V)>> {
    let failed = || format!("can't read the map {}", map.name().to_string_lossy());
    let (key, value) = (size_of::<K>(), map.value_size() as usize);
    let (keys, values) = sys::read_all(map, key).context(Kind::Telemetry, failed)?;
    let entries = keys.chunks_exact(key).zip(values.chunks_exact(value));
    Ok(entries.filter_map(|(key, value)| Some((from_bytes(key)?, from_other(value)?))).collect())
}

/// Removes an entry; one that is gone is no error.
pub(super) fn remove(map: &MapHandle, key: &[u8]) -> Result<()> {
    match map.delete(key) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err).context(Kind::Telemetry, || {
            format!("can't delete from the map {}", map.name().to_string_lossy())
        }),
        _ => Ok(()),
    }
}
