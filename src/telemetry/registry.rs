//! Who is counted, by the map `attachments` of every layout that is pinned: after an upgrade the pods
//! from before it are in an older one, until `weir reload` carries them over.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::{
    hook::{nanoseconds, now},
    lock, merge,
    pin::{self, layouts},
    reader::{self, Network, Pod},
    wire::{LimitKey, RawAttachment, RawLimit, bytes_of, from_other},
};
use crate::error::{Context, Kind, Result};

/// Who is counted, by the maps of every layout, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// Whose pins these are.
    pub bpf_dir: PathBuf,
    /// By this version's maps: attachment ids, each with the time of its DEL, since the Unix epoch, until its
    /// grace time is over. `None`: there are no such maps.
    pub here: Option<BTreeMap<u32, Option<Duration>>>,
    /// The layouts of other versions, by name.
    pub layouts: Vec<String>,
    /// Of those the ones whose pods a reload that was cut off has brought over, and not all of their totals.
    pub unfinished: Vec<String>,
    /// The living that the maps of other versions alone have.
    pub elsewhere: BTreeMap<u32, Elsewhere>,
}

/// Who is counted by the maps of another version.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The name of that layout.
    pub layout: String,
    /// Without its totals, which are that version's to read.
    pub pod: Pod,
}

/// A census that goes on being right while it is held: no reload carries pods over meanwhile.
#[derive(Debug)]
pub struct Still {
    /// Who is counted.
    pub census: Census,
    _held: Vec<Registry>,
}

/// One layout's, with the lock by which no reload carries it over meanwhile.
#[derive(Debug)]
pub(super) struct Registry {
    /// Whether it is this version's.
    pub current: bool,
    layout: String,
    map: MapHandle,
    _shared: fs::File,
}

/// Who is counted by the maps of a layout; nobody where there is no such pin.
pub(super) fn living(dir: &Path) -> Result<Vec<(u32, RawAttachment)>> {
    let path = dir.join("attachments");
    match MapHandle::from_pinned_path(&path) {
        Err(err) if err.kind() == libbpf_rs::ErrorKind::NotFound => Ok(Vec::new()),
        opened => living_in(
            &opened.context(Kind::Telemetry, || format!("can't open {}", path.display()))?,
        ),
    }
}

fn living_in(map: &MapHandle) -> Result<Vec<(u32, RawAttachment)>> {
    let all = reader::dump::<u32, RawAttachment>(map)?;
    Ok(all.into_iter().filter(|(_, raw)| raw.deleted_ns == 0).collect())
}

/// Notes of all pods of a layout that what they have in these maps begins at 0 now. Call holding its lock alone.
///
/// # Errors
/// [`Kind::Telemetry`].
pub(super) fn begin_anew(dir: &Path, lost: &[&str]) -> Result<()> {
    let is_lost = |map: &str| lost.contains(&map);
    if is_lost("attachments") || !["counters", "histograms", "pods"].into_iter().any(is_lost) {
        return Ok(());
    }
    let map = merge::map(dir, "attachments")?;
    let at = nanoseconds(now());
    for (pod, mut raw) in reader::dump::<u32, RawAttachment>(&map)? {
        let began = [
            ("counters", &mut raw.counters_ns),
            ("histograms", &mut raw.histograms_ns),
            ("pods", &mut raw.network_ns),
        ];
        began.into_iter().filter(|(map, _)| is_lost(map)).for_each(|(_, began)| *began = at);
        map.update(bytes_of(&pod), bytes_of(&raw), MapFlags::EXIST)
            .context(Kind::Telemetry, || "can't write to the map attachments".into())?;
    }
    Ok(())
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

/// Takes the census. Waits no longer than `patience`, also not for who waits to swap programs: to look takes
/// no time that he would miss.
///
/// # Errors
/// As [`all`]; [`Kind::Telemetry`] with the mend: there is no bpffs, or no permission.
pub(super) fn census(bpf_dir: &Path, patience: Duration) -> Result<Still> {
    pin::probe(bpf_dir)?;
    let held = loop {
        if let Some(held) = open(bpf_dir, patience)? {
            break held;
        }
    };
    let mut census = Census { bpf_dir: bpf_dir.to_owned(), ..Census::default() };
    for registry in &held {
        let all = reader::dump::<u32, RawAttachment>(&registry.map)?.into_iter();
        if registry.current {
            census.here = Some(all.map(|(pod, raw)| (pod, reader::deleted(&raw))).collect());
        } else {
            census.layouts.push(registry.layout.clone());
            let mut all = all.peekable();
            if all.peek().is_none() && has_totals(&bpf_dir.join(&registry.layout))? {
                census.unfinished.push(registry.layout.clone());
            }
            let living = all.filter(|(_, raw)| raw.deleted_ns == 0);
            census.elsewhere.extend(living.map(|(id, raw)| {
                let pod = reader::pod(&raw, Network::default());
                (id, Elsewhere { layout: registry.layout.clone(), pod })
            }));
        }
    }
    if let Some(here) = &census.here {
        census.elsewhere.retain(|pod, _| here.get(pod) != Some(&None));
    }
    Ok(Still { census, _held: held })
}

/// Whether a layout has totals of pods. Of those that it knows; who forgets a pod takes its totals away first, or
/// carries them over.
fn has_totals(dir: &Path) -> Result<bool> {
    for name in ["counters", "histograms"] {
        if merge::map(dir, name)?.keys().next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
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
    loop {
        lock::give_way(bpf_dir, patience)?;
        if let Some(all) = open(bpf_dir, patience)? {
            return Ok(all);
        }
    }
}

/// As [`all`], for who gave way; `None`: a reload that was waited for has carried a layout over, to one that
/// wasn't there before.
fn open(bpf_dir: &Path, patience: Duration) -> Result<Option<Vec<Registry>>> {
    let mut all = Vec::new();
    for dir in layouts(bpf_dir)? {
        let Some(shared) = lock::share_behind_the_gate(&dir, patience)? else { return Ok(None) };
        match MapHandle::from_pinned_path(dir.join("attachments")) {
            Ok(map) => {
                let current = dir == pin::dir(bpf_dir);
                all.push(Registry { current, layout: pin::name(&dir), map, _shared: shared });
            }
            // A removal that was killed may have begun with any pin.
            Err(err) if err.kind() == libbpf_rs::ErrorKind::NotFound => {}
            Err(err) => {
                let why = pin::read_only(&dir).map(|why| format!(": {why}")).unwrap_or_default();
                let failed = || format!("can't open the pinned maps in {}{why}", dir.display());
                return Err(err).context(Kind::Telemetry, failed);
            }
        }
    }
    Ok(Some(all))
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
