//! Who is counted and limited by one layout's maps, entered into another's, if those fit.

use std::{collections::BTreeSet, path::Path};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

use super::{
    reader::{self, Network},
    traffic,
    wire::{LimitKey, PodTraffic, RawAttachment, RawLimit, bytes_of, from_bytes},
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

/// A map of a layout, which must be there.
pub(super) fn map(dir: &Path, name: &str) -> Result<MapHandle> {
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
    let known = |pod: u32| {
        let found = attachments.lookup(bytes_of(&pod), MapFlags::ANY);
        found
            .map(|found| found.is_some())
            .context(Kind::Telemetry, || "can't read the new map attachments".into())
    };
    for (pod, raw) in reader::dump::<u32, RawAttachment>(&map(old, "attachments")?)? {
        if once(attachments.update(bytes_of(&pod), bytes_of(&raw), MapFlags::NO_EXIST))
            .context(Kind::Telemetry, full("attachments"))?
        {
            entered.pods.insert(pod);
        }
    }
    for (ifindex, pod, _) in traffic(&map(old, "pods")?)? {
        // One that is forgotten would stay for ever: with its attachment goes what of it would be swept.
        if !known(pod)? {
            continue;
        }
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
pub(super) fn traffic(pods: &MapHandle) -> Result<Vec<(u32, u32, Network)>> {
    let mut all = Vec::new();
    for ifindex in pods.keys().filter_map(|key| from_bytes::<u32>(&key)) {
        all.extend(traffic::read(pods, ifindex)?.map(|(pod, network)| (ifindex, pod, network)));
    }
    Ok(all)
}
