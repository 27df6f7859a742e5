//! Whether all pins of a layout are there, and the way to put back those that somebody removed.
//!
//! A map lives as long as a program that uses it, pinned or not. So a pin that was removed is put back from a
//! program that is still pinned, with all that the map holds; only what no program has any more begins anew.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use libbpf_rs::{ErrorKind, MapCore, MapHandle, Program};
use serde::Serialize;

use super::{lock, merge, pin, reload, sys};
use crate::error::{Context, Error, Kind, Result};

/// The maps of this version's layout, by the names of their pins.
pub const MAPS: [&str; 18] = [
    "attachments",
    "conns",
    "counters",
    "dns_pending",
    "half_open",
    "held",
    "histograms",
    "http2",
    "http2_streams",
    "inflight_spill",
    "limits",
    "listeners",
    "merged",
    "pods",
    "records",
    "shares",
    "stats",
    "taken",
];

/// Its programs, likewise.
pub const PROGRAMS: [&str; 6] = [
    "weir_from_pod",
    "weir_limit_from",
    "weir_limit_to",
    "weir_merge",
    "weir_sweep",
    "weir_to_pod",
];

/// What became of pins that somebody had removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Refilled {
    /// Pins that are there again, of what there was.
    pub back: Vec<String>,
    /// Maps that no program had any more: they begin empty.
    pub anew: Vec<String>,
}

impl Refilled {
    /// What there is to say of it, if anything.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        let back = ("pins that were missing are there again", &self.back);
        let anew = ("maps that no program had any more are made anew, and empty", &self.anew);
        let said = [back, anew].into_iter().filter(|(_, pins)| !pins.is_empty());
        said.map(|(what, pins)| format!("{what}: {}", pins.join(", ")))
    }
}

/// Which pins of this version's layout a directory lacks.
pub(super) fn missing(dir: &Path) -> Vec<&'static str> {
    lacks(dir, MAPS.iter().chain(&PROGRAMS))
}

fn lacks<'a>(dir: &Path, names: impl Iterator<Item = &'a &'static str>) -> Vec<&'static str> {
    names.copied().filter(|name| !dir.join(name).exists()).collect()
}

/// Whether a layout's directory has none of its pins: it is as good as none.
pub(super) fn is_bare(dir: &Path) -> bool {
    lacks(dir, MAPS.iter().chain(&PROGRAMS)).len() == MAPS.len() + PROGRAMS.len()
}

/// The pins, as paths below `bpf_dir`, that are missing of layouts that have others left: of this version's any, of
/// another's those that hold who is counted and the totals.
///
/// # Errors
/// [`Kind::Telemetry`]: the directory can't be listed.
pub fn torn(bpf_dir: &Path) -> Result<Vec<String>> {
    let mut torn = Vec::new();
    for dir in pin::layouts(bpf_dir)?.into_iter().filter(|dir| !is_bare(dir)) {
        let missing =
            if dir == pin::dir(bpf_dir) { missing(&dir) } else { lacks(&dir, merge::needed()) };
        let name = pin::name(&dir);
        torn.extend(missing.iter().map(|pin| format!("{name}/{pin}")));
    }
    Ok(torn)
}

/// Makes every layout whole that has some of its pins left.
///
/// # Errors
/// [`Kind::Telemetry`] naming the pin, and the mend where it takes more than this.
pub fn refill(bpf_dir: &Path) -> Result<Refilled> {
    libbpf_rs::set_print(None);
    let mut refilled = Refilled::default();
    // Nearly always there is nothing to do.
    if torn(bpf_dir)?.is_empty() {
        return Ok(refilled);
    }
    let Some(_loading) = lock::loading(bpf_dir)? else { return Ok(refilled) };
    let current = pin::dir(bpf_dir);
    for dir in pin::layouts(bpf_dir)?.into_iter().filter(|dir| !is_bare(dir)) {
        if dir == current {
            let done = reload::complete(bpf_dir)?;
            refilled.back.extend(done.back);
            refilled.anew.extend(done.anew);
        } else {
            refilled.back.extend(refill_other(&dir)?);
        }
    }
    Ok(refilled)
}

/// Puts back what a reload needs of another version's layout. Call holding the lock of those who load.
///
/// # Errors
/// [`Kind::Telemetry`] with the mend: no program has the map any more, and only that version could make it.
pub(super) fn refill_other(dir: &Path) -> Result<Vec<String>> {
    let back = repin(dir, &lacks(dir, merge::needed()))?;
    match lacks(dir, merge::needed()).first() {
        None => Ok(back),
        Some(pin) => {
            let shown = dir.display();
            let msg = format!(
                "{shown} has lost its pin {pin}, so that its totals can't be carried over; reload by the version \
                 that counts there, or begin at 0: rm -r {shown}, then weir reconcile"
            );
            Err(Error::new(Kind::Telemetry, msg))
        }
    }
}

/// Puts the pins of these maps back from the programs that are pinned in the directory; says which. Programs among
/// the names are passed over.
///
/// # Errors
/// [`Kind::Telemetry`] naming the pin, and the privilege that it takes.
pub(super) fn repin(dir: &Path, names: &[&'static str]) -> Result<Vec<String>> {
    let mut back = Vec::new();
    if !names.iter().any(|name| MAPS.contains(name) && !dir.join(name).exists()) {
        return Ok(back);
    }
    for map in maps_in_use(dir)? {
        let name = map.name().to_string_lossy().into_owned();
        let path = dir.join(&name);
        if names.contains(&&*name) && !path.exists() {
            sys::pin(map.as_fd(), &path)
                .context(Kind::Telemetry, || format!("can't pin {}", path.display()))?;
            back.push(name);
        }
    }
    Ok(back)
}

/// The maps of all programs that are pinned in a directory.
fn maps_in_use(dir: &Path) -> Result<Vec<MapHandle>> {
    let mut ids = BTreeSet::new();
    for program in programs(dir)? {
        let used = sys::maps_of(program.as_fd());
        ids.extend(
            used.context(Kind::Telemetry, || "can't ask a pinned program for its maps".into())?,
        );
    }
    let mut maps = Vec::new();
    for id in ids {
        match MapHandle::from_map_id(id) {
            Ok(map) => maps.push(map),
            Err(err) if err.kind() == ErrorKind::PermissionDenied => {
                let msg = format!(
                    "pins are missing in {}, and to put them back takes CAP_SYS_ADMIN: run weir reconcile as root, by hand",
                    dir.display()
                );
                return Err(Error::new(Kind::Telemetry, msg).details(err));
            }
            // Its last program ended meanwhile.
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => {
                return Err(err).context(Kind::Telemetry, || format!("can't open the map {id}"));
            }
        }
    }
    Ok(maps)
}

/// The programs that are pinned in a directory; what else is there is passed over.
fn programs(dir: &Path) -> Result<Vec<OwnedFd>> {
    let failed = || format!("can't list {}", dir.display());
    let mut programs = Vec::new();
    for entry in fs::read_dir(dir).context(Kind::Telemetry, failed)? {
        let path = entry.context(Kind::Telemetry, failed)?.path();
        let is_ours = PROGRAMS.iter().any(|name| path.ends_with(name));
        programs.extend(is_ours.then(|| Program::fd_from_pinned_path(&path).ok()).flatten());
    }
    Ok(programs)
}
