//! Loads the programs once per boot and pins them.
//!
//! Verifying takes tens of milliseconds, an ADD one: so the first ADD loads under a lock and every
//! later one finds the pins. A loader that dies leaves a temporary directory, never half a schema.

use std::{
    collections::BTreeSet,
    fs,
    mem::MaybeUninit,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use libbpf_rs::{
    MapCore, PrintLevel,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use super::{
    histogram, lock, pin, reload, whole,
    wire::{PodTraffic, WeirSkelBuilder},
};
use crate::error::{Context, Error, Kind, Result};

/// The directory of a load under way. A bpffs takes no name with a dot in it.
const TEMPORARY: &str = "loading";

/// A layout that is being removed.
const LEAVING: &str = "leaving";

/// Makes sure that programs and maps of this schema are pinned under `bpf_dir`.
///
/// # Errors
/// `Kind::Telemetry`: no bpffs, no permission, or the verifier's word; `Kind::TryAgain`: another
/// process held the lock for ten seconds. Nothing is left pinned.
pub fn ensure(bpf_dir: &Path) -> Result<()> {
    // Who uninstalls removes the directory itself: it may go between its making and its lock.
    for _ in 0..4 {
        if whole::missing(&pin::dir(bpf_dir)).is_empty() {
            return Ok(());
        }
        pin::prepare(bpf_dir)?;
        let Some(_lock) = lock::loading(bpf_dir)? else { continue };
        let bare = whole::is_bare(&pin::dir(bpf_dir));
        if bare {
            return load(bpf_dir);
        }
        let refilled = reload::complete(bpf_dir)?;
        refilled.remarks().for_each(|remark| eprintln!("weir: {remark}"));
        return Ok(());
    }
    let msg = format!("{} is removed as often as it is made", bpf_dir.display());
    Err(Error::new(Kind::TryAgain, msg))
}

/// Removes what a loader left that died; says whether there was such. One that loads is left alone.
pub fn clear_killed(bpf_dir: &Path) -> Result<bool> {
    let left = [TEMPORARY, LEAVING].map(|name| bpf_dir.join(name));
    if !left.iter().any(|left| left.is_dir()) {
        return Ok(false);
    }
    let dir = fs::File::open(bpf_dir)
        .context(Kind::Telemetry, || format!("can't open {}", bpf_dir.display()))?;
    if dir.try_lock().is_err() {
        return Ok(false);
    }
    left.iter().try_for_each(|left| clear(left)).map(|()| true)
}

/// Removes what a loader left that died. Call holding the lock.
pub fn clear_under_lock(bpf_dir: &Path) -> Result<()> {
    lock::clear_gate(bpf_dir)?;
    clear(&bpf_dir.join(LEAVING))?;
    clear(&bpf_dir.join(TEMPORARY))
}

/// Loads into a directory of a temporary name and publishes it by renaming, in the place of one without pins.
fn load(bpf_dir: &Path) -> Result<()> {
    let temporary = aside(bpf_dir, None)?;
    remove(bpf_dir, &pin::dir(bpf_dir))?;
    let published = fs::rename(&temporary, pin::dir(bpf_dir))
        .context(Kind::Telemetry, || format!("can't rename {}", temporary.display()));
    if published.is_err() {
        clear(&temporary)?;
    }
    published
}

/// Loads beside what is there, into a directory that no ADD looks at. Call holding the lock.
///
/// # Errors
/// As [`ensure`]; nothing is left of it then.
pub fn aside(bpf_dir: &Path, maps: Option<&Path>) -> Result<PathBuf> {
    let temporary = bpf_dir.join(TEMPORARY);
    // Only the holder of the lock gets here, so what is there was left by a loader that died.
    clear(&temporary)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&temporary)
        .context(Kind::Telemetry, || format!("can't make {}", temporary.display()))?;
    match load_and_pin(&temporary, maps) {
        Ok(()) => Ok(temporary),
        Err(err) => clear(&temporary).and(Err(err)),
    }
}

/// Removes a layout's pins: by one renaming first, so that nobody finds a part of them. Call holding the
/// lock.
pub fn remove(bpf_dir: &Path, dir: &Path) -> Result<()> {
    let leaving = bpf_dir.join(LEAVING);
    clear(&leaving)?;
    match fs::rename(dir, &leaving) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        renamed => {
            renamed.context(Kind::Telemetry, || format!("can't rename {}", dir.display()))?
        }
    }
    clear(&leaving)
}

/// Removes a directory of pins, if it is there.
pub fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).context(Kind::Telemetry, || format!("can't remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// What libbpf printed while it loaded, the verifier's log within: the end says why.
static PRINTED: Mutex<String> = Mutex::new(String::new());

/// As much as is kept of it, from its end: a verifier that gives up has said some megabytes.
const PRINTED_MAX: usize = 8 << 20;

fn keep(_: PrintLevel, text: String) {
    if let Ok(mut printed) = PRINTED.lock() {
        printed.push_str(&text);
        let mut cut = printed.len().saturating_sub(PRINTED_MAX);
        while !printed.is_char_boundary(cut) {
            cut += 1;
        }
        printed.drain(..cut);
    }
}

/// What the kernel said of the programs that it refused last, in this process; empty if it refused none.
pub fn words() -> String {
    PRINTED.lock().map(|printed| printed.clone()).unwrap_or_default()
}

fn refused(err: libbpf_rs::Error) -> Error {
    let msg = "the kernel refused the BPF programs (CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, Linux 5.17 or newer?)";
    Error::new(Kind::Telemetry, msg).details(err).details(verdict(&words()))
}

/// The lines of a verifier's log that say why, or the last ones of any other.
fn verdict(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines.iter().position(|line| line.starts_with("processed ")).unwrap_or(lines.len());
    lines[end.saturating_sub(3)..end].join(" | ")
}

/// Per-CPU scratch, and the variables of the programs, which each load has of its own.
fn is_scratch(name: &std::ffi::OsStr) -> bool {
    name == "cursors" || name.as_encoded_bytes().contains(&b'.')
}

/// Loads and pins below `dir`: programs and maps, or, to go on with the maps that are pinned in
/// `maps`, the programs, and those maps alone that are not.
fn load_and_pin(dir: &Path, maps: Option<&Path>) -> Result<()> {
    if let Ok(mut printed) = PRINTED.lock() {
        printed.clear();
    }
    libbpf_rs::set_print(Some((PrintLevel::Warn, keep)));
    let mut storage = MaybeUninit::uninit();
    let mut open = WeirSkelBuilder::default()
        .open(&mut storage)
        .context(Kind::Telemetry, || "can't open the built-in BPF object".into())?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        for (to, from) in rodata.histogram_bounds.iter_mut().zip(histogram::bounds_ns()) {
            *to = from;
        }
        let cpus = libbpf_rs::num_possible_cpus()
            .context(Kind::Telemetry, || "can't count the possible CPUs".into())?;
        rodata.lines_are_shared = u32::from(cpus > PodTraffic::default().lines.len());
    }
    let mut reused = BTreeSet::new();
    if let Some(pinned) = maps {
        for mut map in open.open_object_mut().maps_mut().filter(|map| !is_scratch(map.name())) {
            let path = pinned.join(map.name());
            // One that somebody removed begins anew.
            if path.exists() {
                map.reuse_pinned_map(&path)
                    .context(Kind::Telemetry, || format!("can't go on with {}", path.display()))?;
                reused.insert(map.name().to_owned());
            }
        }
    }
    let loaded = open.load();
    if let (Ok(_), Ok(mut printed)) = (&loaded, PRINTED.lock()) {
        // Warnings of what was tried on the way are nothing that anybody asks for.
        printed.clear();
    }
    let mut skel = loaded.map_err(refused)?;
    let failed = |path: &Path| format!("can't pin {}", path.display());
    for mut map in skel.object_mut().maps_mut().filter(|map| !is_scratch(map.name())) {
        if !reused.contains(map.name()) {
            let path = dir.join(map.name());
            map.pin(&path).context(Kind::Telemetry, || failed(&path))?;
        }
    }
    for mut program in skel.object_mut().progs_mut() {
        let path = dir.join(program.name());
        program.pin(&path).context(Kind::Telemetry, || failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_are_known_by_name() {
        let mut storage = MaybeUninit::uninit();
        let open = WeirSkelBuilder::default().open(&mut storage).unwrap();
        let object = open.open_object();
        let names = |names: &mut dyn Iterator<Item = &std::ffi::OsStr>| -> BTreeSet<String> {
            names.map(|name| name.to_str().unwrap().to_owned()).collect()
        };
        let maps = names(&mut object.maps().map(|map| map.name()).filter(|name| !is_scratch(name)));
        assert_eq!(maps, whole::MAPS.map(String::from).into());
        let programs = names(&mut object.progs().map(|program| program.name()));
        assert_eq!(programs, whole::PROGRAMS.map(String::from).into());
        // As long as the kernel keeps a name.
        assert!(maps.iter().all(|name| name.len() < 16));
    }

    #[test]
    fn the_verdict_is_what_stands_before_the_count() {
        let log = "0: R1=ctx()\n1: (79) r2 = *(u64 *)(r5 +8)\nR5 invalid mem access 'scalar'\n\
                   processed 2 insns (limit 1000000)\n-- END PROG LOAD LOG --\n";
        assert!(verdict(log).ends_with("R5 invalid mem access 'scalar'"), "{}", verdict(log));
        assert_eq!(verdict("libbpf: failed to find BTF\n"), "libbpf: failed to find BTF");
        assert_eq!(verdict(""), "");
    }
}
