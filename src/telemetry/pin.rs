//! Where programs, maps and links are pinned, and how they are opened again.
//!
//! `<bpf dir>/<schema>/` holds programs and maps of one layout (a hash of the headers that define
//! it); it appears by one rename, so it is whole or absent. `<bpf dir>/links/` holds the tcx links.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use libbpf_rs::{MapHandle, Program};
use nix::sys::{
    statfs::{BPF_FS_MAGIC, statfs},
    statvfs::FsFlags,
};

use super::{whole, wire::Direction};
use crate::error::{Context, Error, Kind, Result};

/// The layout of this binary's maps.
pub const SCHEMA: &str = env!("WEIR_SCHEMA");
/// The directory of the tcx links' pins, of any layout.
const LINKS: &str = "links";

/// The beginning of the names of layouts to which a reload moves pods: where it was killed, they go on being counted
/// there until the next brings them on.
const MOVING: &str = "moving_";

/// Of so many pins that were removed the names are said.
const NAMED: usize = 4;

/// Where a bpffs is mounted, if the node has one at all.
const USUAL: &str = "/sys/fs/bpf";

/// The directory of this schema's pins.
pub fn dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(SCHEMA)
}

/// Where the pins of this schema are while pods are moved to them: in no place where a pod is hooked to them, or their
/// totals are read. Each that was killed has left its own.
pub(super) fn moving(bpf_dir: &Path) -> PathBuf {
    let mut numbered = (1_u32..).map(|number| bpf_dir.join(format!("{MOVING}{SCHEMA}_{number}")));
    numbered.find(|dir| !dir.exists()).unwrap_or_default()
}

/// The directory of the tcx links' pins.
pub fn links(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(LINKS)
}

/// The pin of a tcx link.
pub fn link(bpf_dir: &Path, pod: u32, direction: Direction) -> PathBuf {
    let side = if direction == Direction::DIRECTION_TX { "from" } else { "to" };
    bpf_dir.join(LINKS).join(format!("{pod:08x}_{side}_pod"))
}

/// The directories of all layouts, by their names; none where there is no directory.
///
/// # Errors
/// [`Kind::Telemetry`]: it can't be listed.
pub fn layouts(bpf_dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("can't list {}", bpf_dir.display());
    let entries = match fs::read_dir(bpf_dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(Kind::Telemetry, failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context(Kind::Telemetry, failed)?;
        // What only has such a name is none, and nothing else of it is looked at.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if is_layout(&name(&path)) {
            found.push(path);
        }
    }
    // Whoever locks several does it in this order.
    found.sort();
    Ok(found)
}

/// Whether a directory of that name is a layout's, of whichever version, or one to which pods are moved.
fn is_layout(name: &str) -> bool {
    let is_schema =
        |name: &str| name.len() == SCHEMA.len() && name.bytes().all(|b| b.is_ascii_hexdigit());
    let moving = name.strip_prefix(MOVING).and_then(|name| name.split_once('_'));
    is_schema(name)
        || moving.is_some_and(|(name, number)| is_schema(name) && number.parse::<u32>().is_ok())
}

/// The name of a layout's directory, which is the layout's.
pub(super) fn name(layout: &Path) -> String {
    layout.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The layouts of other versions that are there, by name: a [`reload`](super::reload::reload) would bring their
/// pods over.
///
/// # Errors
/// As [`layouts`].
pub fn other_layouts(bpf_dir: &Path) -> Result<Vec<String>> {
    let current = dir(bpf_dir);
    Ok(layouts(bpf_dir)?.iter().filter(|dir| **dir != current).map(|dir| name(dir)).collect())
}

/// What is so where there are these layouts of other versions.
pub fn others(layouts: &[String]) -> String {
    format!(
        "pods are counted by the programs of another version of Weir, with maps of another layout \
         ({}, where this version's is {SCHEMA})",
        layouts.join(" and ")
    )
}

/// What to do about it.
pub const OTHERS_MEND: &str = "weir reload, and restart the agent";

/// What is so where a reload left some of the totals in these layouts.
pub fn unfinished(layouts: &[String]) -> String {
    format!(
        "a weir reload was cut off, and some of what pods have counted is still in the maps of layout {}",
        layouts.join(" and ")
    )
}

/// What to do about it.
pub const UNFINISHED_MEND: &str = "weir reload carries it over";

/// What is so where these [pins](whole::torn) are missing.
pub fn torn_apart(bpf_dir: &Path, torn: &[String]) -> String {
    let shown = bpf_dir.display();
    let named = torn.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match torn.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("pins were removed from {shown}, and others are there: {named}{more}")
}

/// What to do about it.
pub const TORN_MEND: &str = "weir reconcile puts them back";

/// Why there are no maps of this version.
pub fn absent(bpf_dir: &Path) -> Error {
    // Without a bpffs the cause is that, whoever was counted before.
    if let Err(err) = probe(bpf_dir) {
        return err;
    }
    if let Ok(torn) = whole::torn(bpf_dir)
        && !torn.is_empty()
    {
        return Error::new(Kind::Telemetry, format!("{}; {TORN_MEND}", torn_apart(bpf_dir, &torn)));
    }
    let why = match other_layouts(bpf_dir) {
        Ok(layouts) if !layouts.is_empty() => format!("{}; {OTHERS_MEND}", others(&layouts)),
        _ => "no pod has been counted yet, or they were removed: then weir reconcile counts the living again"
            .to_owned(),
    };
    Error::new(Kind::Telemetry, format!("no maps of this version in {}: {why}", bpf_dir.display()))
}

/// Where a program is pinned, by its id, that interfaces go on with which refused the one that came in its place.
pub(super) fn before(layout: &Path, id: u32) -> PathBuf {
    layout.join(format!("{BEFORE}{id}"))
}

/// The beginning of the names of such pins.
pub(super) const BEFORE: &str = "before_";

/// The attachment ids that have pinned links; names that are none of ours are passed over.
pub fn linked(bpf_dir: &Path) -> Result<Vec<u32>> {
    let dir = bpf_dir.join(LINKS);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err).context(Kind::Telemetry, || failed(&dir)),
    };
    let mut pods = Vec::new();
    for entry in entries {
        let name = entry.context(Kind::Telemetry, || failed(&dir))?.file_name();
        let id = name.to_str().and_then(|name| name.split_once('_'));
        if let Some((id, "from_pod" | "to_pod")) = id {
            pods.extend(u32::from_str_radix(id, 16));
        }
    }
    Ok(pods)
}

fn failed(dir: &Path) -> String {
    format!("can't list {}", dir.display())
}

/// Opens a pinned map; `None` when there is no pin.
pub fn map(bpf_dir: &Path, name: &str) -> Result<Option<MapHandle>> {
    let path = dir(bpf_dir).join(name);
    opened(MapHandle::from_pinned_path(&path), "map", &path)
}

/// Opens a pinned program; `None` when there is no pin.
pub fn program(bpf_dir: &Path, name: &str) -> Result<Option<OwnedFd>> {
    let path = dir(bpf_dir).join(name);
    opened(Program::fd_from_pinned_path(&path), "program", &path)
}

fn opened<T>(opened: libbpf_rs::Result<T>, what: &str, path: &Path) -> Result<Option<T>> {
    let failed = |mend: &str| format!("can't open the pinned {what} {}{mend}", path.display());
    match opened {
        Ok(pin) => Ok(Some(pin)),
        Err(err) => match err.kind() {
            libbpf_rs::ErrorKind::NotFound => Ok(None),
            libbpf_rs::ErrorKind::PermissionDenied if !nix::unistd::geteuid().is_root() => {
                Err(err).context(Kind::Telemetry, || failed("; run as root"))
            }
            _ => {
                let why = read_only(path).map(|why| format!(": {why}")).unwrap_or_default();
                Err(err).context(Kind::Telemetry, || failed(&why))
            }
        },
    }
}

/// That the bpffs which `path` is on is mounted read-only, with the mend, if it is so: nothing is pinned there then, and
/// the kernel opens a pinned map to be written to, or a program, on no superblock that is.
pub(super) fn read_only(path: &Path) -> Option<String> {
    let there = path.ancestors().find(|dir| dir.exists())?;
    let found = statfs(there).ok()?;
    if found.filesystem_type() != BPF_FS_MAGIC || !found.flags().contains(FsFlags::ST_RDONLY) {
        return None;
    }
    let device = |dir: &Path| fs::metadata(dir).ok().map(|found| found.dev());
    let point = there.ancestors().take_while(|dir| device(dir) == device(there)).last()?;
    let shown = point.display();
    Some(format!("the bpffs on {shown} is mounted read-only; mount -o remount,rw {shown}"))
}

/// Makes `bpf_dir` (mode 0700) if its parent is on a bpffs; an existing one must be ours and on a bpffs.
pub fn prepare(bpf_dir: &Path) -> Result<()> {
    probe(bpf_dir)?;
    match fs::DirBuilder::new().mode(0o700).create(bpf_dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
            Err(err).context(Kind::Telemetry, || format!("can't make {}", bpf_dir.display()))
        }
        _ => Ok(()),
    }
}

/// Whether `bpf_dir` is, or could be made, a directory of ours on a bpffs. Changes nothing.
pub fn probe(bpf_dir: &Path) -> Result<()> {
    let user = nix::unistd::geteuid().as_raw();
    let place = match fs::symlink_metadata(bpf_dir) {
        Ok(found) if !found.is_dir() || found.uid() != user => {
            let shown = bpf_dir.display();
            // To anybody else, root's own directory is right as it is: it holds the counts.
            let msg = if found.uid() == 0 && found.is_dir() {
                format!("{shown} belongs to root; run as root")
            } else if user == 0 {
                format!("{shown} is no directory of root's; remove it")
            } else {
                format!("{shown} is no directory of this user's; run as root")
            };
            return Err(Error::new(Kind::Telemetry, msg));
        }
        Ok(_) => bpf_dir,
        Err(_) => bpf_dir.parent().unwrap_or(bpf_dir),
    };
    let on_bpffs = statfs(place).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if on_bpffs {
        return Ok(());
    }
    let shown = bpf_dir.display();
    let msg = if bpf_dir.starts_with(USUAL) && place.exists() {
        format!("{shown} is not on a bpffs; mount one: mount -t bpf bpf {USUAL}")
    } else if place.exists() {
        format!("{shown} is not on a bpffs; choose a directory on one, such as {USUAL}/weir")
    } else {
        format!("{} does not exist; choose a directory below {USUAL}", place.display())
    };
    Err(Error::new(Kind::Telemetry, msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_mount_over_what_is_there() {
        let mend = |dir: &str| probe(Path::new(dir)).unwrap_err().msg().to_owned();
        for dir in ["/nonexist", "/tmp/nope", "/", "/tmp", "/proc/x", "/no/such/dir"] {
            let mend = mend(dir);
            assert!(!mend.contains("mount"), "{mend}");
        }
        assert!(mend("/no/such/dir").starts_with("/no/such does not exist; "));
        assert!(mend("/nonexist").ends_with("such as /sys/fs/bpf/weir"));
    }
}
