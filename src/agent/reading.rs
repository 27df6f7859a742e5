//! What a page is made of: the totals at one moment, and what the agent knows of itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    exemplar::{Exemplar, Place},
    families::Flavor,
    family::{Values, values},
    journal::Seen,
    labels::Value,
    otlp::queue::Counts,
    roster::Member,
    server_names::Told,
};
use crate::telemetry::{
    reader::{MapUsage, Snapshot},
    wire::Stat,
};

/// What the agent adds to the totals.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The node's name; empty if it has none.
    pub node: Arc<str>,
    /// Whether the snapshot comes from maps, or there were none to read.
    pub maps_open: bool,
    /// Nanoseconds that taking the snapshot took.
    pub read_ns: u64,
    /// Label sets folded so far, by sample name.
    pub overflow: BTreeMap<&'static str, u64>,
    /// Attachments that came and went.
    pub seen: Seen,
    /// What became of spans, if there is a receiver for them.
    pub spans: Option<Counts>,
    /// TLS handshakes by the name that the client asked for, if they are counted.
    pub server_names: Told,
    /// The names that the page is to have.
    pub flavor: Flavor,
    /// Requests that may stand for others of their bucket.
    pub exemplars: Vec<(Place, Exemplar)>,
}

/// Everything that a page is made of.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The totals.
    pub snapshot: &'a Snapshot,
    /// The attachments, counted or not.
    pub members: &'a [Member],
    /// When they were read, since the Unix epoch.
    pub now: Duration,
    /// The agent's own numbers.
    pub own: Own,
}

impl Reading<'_> {
    /// Attachments that have not been deleted.
    pub fn living(&self) -> u64 {
        self.members.iter().filter(|member| member.state.living()).count() as u64
    }

    /// One self-statistic of the kernel side.
    pub fn stat(&self, stat: Stat) -> u64 {
        self.snapshot.stats.get(stat.0 as usize).copied().unwrap_or(0)
    }

    /// Some self-statistics as the values of one label.
    pub fn stats(&self, names: &[(&'static str, Stat)]) -> Vec<(Values, u64)> {
        names.iter().map(|&(name, stat)| (values([Value::Name(name)]), self.stat(stat))).collect()
    }

    /// What each map takes.
    pub fn memory(&self) -> Vec<(Values, u64)> {
        let memory = self.snapshot.memory.iter();
        memory.map(|&(name, bytes)| (values([Value::Name(name)]), bytes)).collect()
    }

    /// One number of each map that can be full.
    pub fn maps(&self, number: fn(&MapUsage) -> u64) -> Vec<(Values, u64)> {
        let maps = self.snapshot.maps.iter();
        maps.map(|map| (values([Value::Name(map.name)]), number(map))).collect()
    }
}
