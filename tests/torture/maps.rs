//! The pinned maps, element by element as the kernel has them.

use std::{collections::BTreeSet, fs, mem::offset_of};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use weir::telemetry::{
    pin,
    wire::{
        Conn, CounterKey, Histogram, HistogramKey, LimitKey, PodTraffic, RawAttachment, Wire,
        from_bytes, text,
    },
};

use crate::ground::Ground;

pub fn open(ground: &Ground, name: &str) -> Option<MapHandle> {
    MapHandle::from_pinned_path(pin::dir(&ground.bpf_dir()).join(name)).ok()
}

/// Every element of a map that has one value for all CPUs.
pub fn dump<K: Wire, V: Wire>(map: &MapHandle) -> Vec<(K, V)> {
    let values = map.keys().filter_map(|key| {
        let value = map.lookup(&key, MapFlags::ANY).unwrap()?;
        Some((from_bytes(&key).unwrap(), from_bytes(&value).unwrap()))
    });
    values.collect()
}

/// An attachment that has had no DEL, by the maps.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub container: String,
    pub ifindex: u32,
    pub id: u32,
}

/// What the maps and the pins have.
pub struct Seen {
    pub living: BTreeSet<Counted>,
    /// The interfaces that the map `pods` knows, with the attachment of each.
    pub interfaces: BTreeSet<(u32, u32)>,
    /// The interfaces that have limits, once for each direction.
    pub limited: Vec<u32>,
    /// Elements of no attachment, by map.
    pub unowned: Vec<String>,
    /// The names of the pinned links.
    pub links: BTreeSet<String>,
    /// The names of what else there is in the pin directory.
    pub others: BTreeSet<String>,
}

impl Seen {
    pub fn now(ground: &Ground) -> Self {
        let map = |name| open(ground, name).unwrap_or_else(|| panic!("the map {name} is gone"));
        // First those that belong to others: whoever is new since then has its owner read later.
        let owners = owners(map);
        let interfaces = interfaces(&map("pods"));
        let attachments = dump::<u32, RawAttachment>(&map("attachments"));
        let limits = map("limits");
        let limited = limits.keys().map(|key| from_bytes::<LimitKey>(&key).unwrap().ifindex);
        let mut limited: Vec<_> = limited.collect();
        limited.sort_unstable();
        let (gone, there): (Vec<_>, Vec<_>) =
            attachments.into_iter().partition(|(_, attachment)| attachment.deleted_ns != 0);
        // They are shown for a minute more.
        let deleted: BTreeSet<u32> = gone.iter().map(|(id, _)| *id).collect();
        let living: BTreeSet<_> = there
            .iter()
            .map(|(id, raw)| Counted {
                container: text(&raw.container_id),
                ifindex: raw.ifindex,
                id: *id,
            })
            .collect();
        let known = |pod| deleted.contains(&pod) || living.iter().any(|counted| counted.id == pod);
        let pods = interfaces.iter().map(|(_, pod)| ("pods", *pod));
        let unowned = owners.into_iter().chain(pods).filter(|(_, pod)| !known(*pod));
        let unowned = unowned.map(|(map, pod)| format!("{map}: {pod:08x}")).collect();
        let dir = ground.bpf_dir();
        let (links, others) = (names(&dir.join("links")), names(&dir));
        Self { living, interfaces, limited, unowned, links, others }
    }
}

/// The attachments that elements of other maps name.
fn owners(map: impl Fn(&'static str) -> MapHandle) -> Vec<(&'static str, u32)> {
    let counters = dump::<CounterKey, u64>(&map("counters"));
    let histograms = dump::<HistogramKey, Histogram>(&map("histograms"));
    let conns = map("conns");
    let conns = conns.keys().filter_map(|key| {
        let conn = conns.lookup(&key, MapFlags::ANY).unwrap()?;
        from_bytes::<u32>(&conn[offset_of!(Conn, pod)..])
    });
    let mut owners: Vec<_> = conns.map(|pod| ("conns", pod)).collect();
    owners.extend(counters.iter().map(|(key, _)| ("counters", key.pod)));
    owners.extend(histograms.iter().map(|(key, _)| ("histograms", key.pod)));
    owners
}

fn interfaces(pods: &MapHandle) -> BTreeSet<(u32, u32)> {
    let entries = pods.keys().filter_map(|key| {
        let value = pods.lookup(&key, MapFlags::ANY).unwrap()?;
        Some((from_bytes(&key).unwrap(), from_bytes::<PodTraffic>(&value).unwrap().pod))
    });
    entries.collect()
}

fn names(dir: &std::path::Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
