//! The map `pods`: whose an interface is, and what has passed it.

use std::collections::BTreeMap;

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use super::{
    hook::{self, Pins},
    reader::{self, Network},
    wire::{PodTraffic, bytes_of, from_other},
};
use crate::error::{Context, Kind, Result};

/// The owner of an interface's entry and its totals, of this layout's map or of another's.
///
/// # Errors
/// [`Kind::Telemetry`].
pub(super) fn read(pods: &MapHandle, ifindex: u32) -> Result<Option<(u32, Network)>> {
    let found = values(pods, bytes_of(&ifindex))
        .context(Kind::Telemetry, || "can't read the map pods".into())?;
    let values = found.iter().filter_map(|bytes| from_other::<PodTraffic>(bytes)).map(total);
    Ok(values.reduce(|(_, one), (owner, other)| (owner, sum(one, other))))
}

/// The same of every interface, by its index, of this layout's map.
///
/// # Errors
/// [`Kind::Telemetry`].
pub(super) fn all(pods: &MapHandle) -> Result<BTreeMap<u32, (u32, Network)>> {
    let all = reader::dump::<u32, PodTraffic>(pods)?.into_iter();
    Ok(all.map(|(ifindex, value)| (ifindex, total(value))).collect())
}

fn total(value: PodTraffic) -> (u32, Network) {
    let network = value.lines.iter().fold(Network::default(), |net, line| sum(net, line.net));
    (value.pod, network)
}

/// In older layouts that was a value for each CPU, with the first of today's lines.
fn values(pods: &MapHandle, key: &[u8]) -> libbpf_rs::Result<Vec<Vec<u8>>> {
    if pods.map_type() == MapType::PercpuHash {
        return Ok(pods.lookup_percpu(key, MapFlags::ANY)?.unwrap_or_default());
    }
    Ok(pods.lookup(key, MapFlags::ANY)?.into_iter().collect())
}

/// Both together.
pub(super) fn sum(mut one: Network, other: Network) -> Network {
    for (to, from) in one.iter_mut().flatten().zip(other.iter().flatten()) {
        to.bytes += from.bytes;
        to.packets += from.packets;
    }
    one
}

/// The attachment whose the interface is.
///
/// # Errors
/// [`Kind::Telemetry`].
pub(super) fn owner(pods: &MapHandle, ifindex: u32) -> Result<Option<u32>> {
    Ok(read(pods, ifindex)?.map(|(owner, _)| owner))
}

/// Enters an interface as the pod's, with totals of 0. What was counted there for another pod, whose link it
/// was, is added to that one's own entry: it keeps its totals for as long as it is shown.
///
/// # Errors
/// [`Kind::Telemetry`].
pub(super) fn enter(pins: &Pins, ifindex: u32, pod: u32) -> Result<()> {
    let before = read(&pins.pods, ifindex)?;
    let traffic = PodTraffic { pod, ..Default::default() };
    pins.pods
        .update(bytes_of(&ifindex), bytes_of(&traffic), MapFlags::ANY)
        .context(Kind::Telemetry, || format!("can't enter interface {ifindex} in the map pods"))?;
    // Behind that: were this call killed between the two, they would else be there twice.
    if let Some((owner, network)) = before
        && owner != pod
        && let Some(mut entry) = hook::registered(pins, owner)?
    {
        entry.net = sum(entry.net, network);
        pins.attachments
            .update(bytes_of(&owner), bytes_of(&entry), MapFlags::EXIST)
            .context(Kind::Telemetry, || "can't write to the map attachments".into())?;
    }
    Ok(())
}
