//! Who is counted, by the map `attachments` of every layout that is pinned: after an upgrade the pods
//! from before it are in an older one, until `weir reload` carries them over.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::{
    hook::{nanoseconds, now},
    lock,
    pin::{self, layouts},
    reader,
    wire::{LimitKey, RawAttachment, RawLimit, bytes_of, from_other},
};
use crate::error::{Context, Kind, Result};

/// One layout's, with the lock by which no reload carries it over meanwhile.
pub(super) struct Registry {
    /// Whether it is this version's.
    pub current: bool,
    map: MapHandle,
    _shared: fs::File,
}

/// Who is counted by the maps of a layout.
pub(super) fn living(dir: &Path) -> Result<Vec<(u32, RawAttachment)>> {
    let path = dir.join("attachments");
    let map = MapHandle::from_pinned_path(&path)
        .context(Kind::Telemetry, || format!("can't open {}", path.display()))?;
    living_in(&map)
}

fn living_in(map: &MapHandle) -> Result<Vec<(u32, RawAttachment)>> {
    let all = reader::dump::<u32, RawAttachment>(map)?;
    Ok(all.into_iter().filter(|(_, raw)| raw.deleted_ns == 0).collect())
}

/// Whether a living pod is counted by the programs of another version, with whose maps its totals are.
///
/// # Errors
/// As [`all`].
pub(super) fn is_anothers(bpf_dir: &Path, pod: u32, patience: Duration) -> Result<bool> {
    // Nearly always there is but one.
    let current = pin::dir(bpf_dir);
    if layouts(bpf_dir)?.iter().all(|dir| *dir == current) {
        return Ok(false);
    }
    let (mut known, mut elsewhere) = (false, false);
    for registry in all(bpf_dir, patience)? {
        if registry.entry(pod)?.is_some_and(|entry| entry.deleted_ns == 0) {
            *if registry.current { &mut known } else { &mut elsewhere } = true;
        }
    }
    Ok(elsewhere && !known)
}

/// The living pods that are counted by the programs of other versions alone.
///
/// # Errors
/// As [`all`].
pub(super) fn of_others(bpf_dir: &Path, patience: Duration) -> Result<BTreeSet<u32>> {
    let current = pin::dir(bpf_dir);
    if layouts(bpf_dir)?.iter().all(|dir| *dir == current) {
        return Ok(BTreeSet::new());
    }
    let (mut known, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    for registry in all(bpf_dir, patience)? {
        let pods = registry.living()?.into_iter().map(|(pod, _)| pod);
        if registry.current { &mut known } else { &mut elsewhere }.extend(pods);
    }
    Ok(&elsewhere - &known)
}

/// Whether an interface is limited by the programs of another version, and by none of this one's.
///
/// # Errors
/// [`Kind::Telemetry`] naming the pin.
pub(super) fn limits_elsewhere(bpf_dir: &Path, ifindex: u32) -> Result<bool> {
    let current = pin::dir(bpf_dir);
    let (mut here, mut elsewhere) = (false, false);
    for dir in layouts(bpf_dir)? {
        // One that a reload removes meanwhile has been carried over.
        let Ok(map) = MapHandle::from_pinned_path(dir.join("limits")) else { continue };
        let limits = reader::dump::<LimitKey, RawLimit>(&map)?;
        if limits.iter().any(|(key, _)| key.ifindex == ifindex) {
            *if dir == current { &mut here } else { &mut elsewhere } = true;
        }
    }
    Ok(elsewhere && !here)
}

/// Every layout's.
///
/// # Errors
/// [`Kind::Telemetry`] naming the pin; [`Kind::TryAgain`]: a reload has swapped programs for ten seconds.
pub(super) fn all(bpf_dir: &Path, patience: Duration) -> Result<Vec<Registry>> {
    'again: loop {
        lock::give_way(bpf_dir, patience)?;
        let mut all = Vec::new();
        for dir in layouts(bpf_dir)? {
            // A reload that was waited for has carried it over, to one that wasn't there before.
            let Some(shared) = lock::share_behind_the_gate(&dir, patience)? else {
                continue 'again;
            };
            let opened = MapHandle::from_pinned_path(dir.join("attachments"));
            match opened {
                Ok(map) => {
                    let current = dir == pin::dir(bpf_dir);
                    all.push(Registry { current, map, _shared: shared });
                }
                // A removal that was killed may have begun with any pin.
                Err(err) if err.kind() == libbpf_rs::ErrorKind::NotFound => {}
                Err(err) => {
                    let failed = || format!("can't open the pinned maps in {}", dir.display());
                    return Err(err).context(Kind::Telemetry, failed);
                }
            }
        }
        return Ok(all);
    }
}

impl Registry {
    /// Who is counted.
    pub(super) fn living(&self) -> Result<Vec<(u32, RawAttachment)>> {
        living_in(&self.map)
    }

    /// The entry of an id.
    pub(super) fn entry(&self, pod: u32) -> Result<Option<RawAttachment>> {
        Ok(self.bytes(pod)?.and_then(|bytes| from_other(&bytes)))
    }

    /// Marks a pod as gone, from now on, unless it is gone already.
    pub(super) fn mark_ended(&self, pod: u32) -> Result<()> {
        let Some(mut bytes) = self.bytes(pod)? else { return Ok(()) };
        let Some(mut entry) = from_other::<RawAttachment>(&bytes) else { return Ok(()) };
        if entry.deleted_ns != 0 {
            return Ok(());
        }
        entry.deleted_ns = nanoseconds(now());
        for (to, from) in bytes.iter_mut().zip(bytes_of(&entry)) {
            *to = *from;
        }
        self.map
            .update(bytes_of(&pod), &bytes, MapFlags::EXIST)
            .context(Kind::Telemetry, || "can't mark the pod as gone in the map attachments".into())
    }

    fn bytes(&self, pod: u32) -> Result<Option<Vec<u8>>> {
        let found = self.map.lookup(bytes_of(&pod), MapFlags::ANY);
        found.context(Kind::Telemetry, || "can't read the map attachments".into())
    }
}
