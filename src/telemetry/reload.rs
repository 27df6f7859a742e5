//! Puts this binary's programs in the place of those that run, for all pods, without a packet that
//! passes uncounted: every swap replaces one program by another in a single step.
//!
//! With the layout of the maps unchanged, the new programs go on with the same maps, mid-message. From
//! another layout the totals are carried over: the new programs begin at 0 beside the old, all pods
//! are swapped, and when no old run is under way any more the old totals, which are final then, are
//! added in the kernel. Until that is done the new maps are in no place where anybody looks for them.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use libbpf_rs::{MapHandle, Program};
use nix::errno::Errno;

use super::{
    Mode,
    clsact::Filter,
    load, lock, merge,
    pin::{self, layouts},
    reader,
    registry::living,
    swap::{self, Swap},
    sys,
    wire::{Direction, LimitKey, RawAttachment, RawLimit},
};
use crate::error::{Context, Error, Kind, Result};

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Pods whose programs were swapped.
    pub pods: usize,
    /// From the first swap to the last.
    pub swap: Duration,
    /// For the verifier, before that.
    pub load: Duration,
    /// The layouts that totals were carried over from, by the names of their directories.
    pub from: Vec<String>,
}

/// The verifier's log of programs that [`reload`] could not load, from its end, 1 MiB at most; empty where
/// the kernel refused none.
pub fn verifier_log() -> String {
    load::words()
}

/// The programs that are hooked to pods, by where.
const HOOKED: [(&str, Direction, Filter); 4] = [
    ("weir_from_pod", Direction::DIRECTION_TX, Filter::Count),
    ("weir_to_pod", Direction::DIRECTION_RX, Filter::Count),
    ("weir_limit_from", Direction::DIRECTION_TX, Filter::LimitLast),
    ("weir_limit_to", Direction::DIRECTION_RX, Filter::LimitFirst),
];

/// Loads, swaps and removes what was swapped out. `None`: nothing was ever loaded here, and nothing is now.
///
/// # Errors
/// [`Kind::Telemetry`]: the kernel refused the programs (its verifier's words in the details), and the
/// old ones run on; or it refused a swap, which names the interface. [`Kind::TryAgain`]: another
/// process loads, or hooks a pod, for ten seconds.
pub fn reload(bpf_dir: &Path) -> Result<Option<Reloaded>> {
    libbpf_rs::set_print(None);
    pin::probe(bpf_dir)?;
    if !bpf_dir.is_dir() {
        return Ok(None);
    }
    let _loading = lock::loading(bpf_dir)?;
    let current = pin::dir(bpf_dir);
    let old = others(bpf_dir)?;
    let begun = Instant::now();
    if old.is_empty() && !current.is_dir() {
        return Ok(None);
    }
    let mut done = Reloaded::default();
    if current.is_dir() {
        let new = load::aside(bpf_dir, Some(&current))?;
        done.load = begun.elapsed();
        let swapped = swap_in_place(bpf_dir, &current, &new, &mut done);
        load::clear(&new)?;
        swapped?;
        // Whoever reads these maps waits as well: for them a pod has all its totals, or is not there yet.
        let mut all = old.clone();
        all.push(current.clone());
        all.sort();
        let _held = all.iter().map(|dir| lock::alone(dir)).collect::<Result<Vec<_>>>()?;
        for dir in old {
            if !carried(&current, &dir).is_dir() {
                move_pods(bpf_dir, &dir, &current, &mut done)?;
                merge::take_totals(&dir, &current)?;
            }
            forget(bpf_dir, &current, &dir)?;
        }
        return Ok(Some(done));
    }
    let new = load::aside(bpf_dir, None)?;
    done.load = begun.elapsed();
    // Held until nobody finds the old ones any more: who ends a pod meanwhile would mark it there alone.
    let held = old.iter().map(|dir| lock::alone(dir)).collect::<Result<Vec<_>>>();
    let moved = held.and_then(|held| {
        // All of them, before the first pod is moved.
        old.iter().try_for_each(|dir| merge::fits(dir, &new))?;
        old.iter().try_for_each(|dir| move_whole(bpf_dir, dir, &new, &mut done)).map(|()| held)
    });
    let _held = match moved {
        Ok(held) => held,
        Err(err) => return load::clear(&new).and(Err(err)),
    };
    fs::rename(&new, &current)
        .context(Kind::Telemetry, || format!("can't rename {}", new.display()))?;
    old.iter().try_for_each(|dir| forget(bpf_dir, &current, dir))?;
    Ok(Some(done))
}

/// The directories of other layouts.
fn others(bpf_dir: &Path) -> Result<Vec<PathBuf>> {
    let current = pin::dir(bpf_dir);
    let whole = |dir: &PathBuf| *dir != current && dir.join("attachments").exists();
    Ok(layouts(bpf_dir)?.into_iter().filter(whole).collect())
}

/// The same maps: new pins first, so that whoever hooks a pod from now on takes the new programs.
fn swap_in_place(bpf_dir: &Path, current: &Path, new: &Path, done: &mut Reloaded) -> Result<()> {
    let _alone = lock::alone(current)?;
    let programs = programs(new)?;
    let pods = living(current)?;
    for entry in
        fs::read_dir(new).context(Kind::Telemetry, || format!("can't list {}", new.display()))?
    {
        let from =
            entry.context(Kind::Telemetry, || format!("can't list {}", new.display()))?.path();
        let Some(name) = from.file_name() else { continue };
        fs::rename(&from, current.join(name))
            .context(Kind::Telemetry, || format!("can't rename {}", from.display()))?;
    }
    swap(bpf_dir, &programs, &pods, &limited(current)?, done)
}

/// Moves the pods of another layout, and their totals, to maps that nobody finds yet. The directory that
/// says so appears with the maps: should this process end before the old ones are removed, the next reload
/// doesn't add their totals again.
fn move_whole(bpf_dir: &Path, old: &Path, new: &Path, done: &mut Reloaded) -> Result<()> {
    move_pods(bpf_dir, old, new, done)?;
    merge::add_totals(old, new)?;
    let sign = carried(new, old);
    fs::create_dir(&sign).context(Kind::Telemetry, || format!("can't make {}", sign.display()))
}

/// What says, within a layout's directory, that the totals of another are in its maps.
fn carried(new: &Path, old: &Path) -> PathBuf {
    new.join(format!("carried-{}", old.file_name().unwrap_or_default().to_string_lossy()))
}

/// Removes a layout whose totals are carried over, and the sign that they are.
fn forget(bpf_dir: &Path, new: &Path, old: &Path) -> Result<()> {
    load::remove(bpf_dir, old)?;
    load::clear(&carried(new, old))
}

/// Moves the pods of another layout to the maps in `new`. Its totals are final then.
fn move_pods(bpf_dir: &Path, old: &Path, new: &Path, done: &mut Reloaded) -> Result<()> {
    merge::fits(old, new)?;
    let programs = programs(new)?;
    merge::register(old, new)?;
    let (pods, limited) = (living(old)?, limited(old)?);
    if let Err(err) = swap(bpf_dir, &programs, &pods, &limited, done) {
        // Some are swapped by now, to maps that may go with this error: nobody would know them there.
        let back = self::programs(old)
            .and_then(|programs| swap(bpf_dir, &programs, &pods, &limited, done));
        return Err(back.err().into_iter().fold(err, |err, also| err.details(also)));
    }
    if sys::wait_for_runs().is_err() {
        // A kernel with nohz_full has no such barrier; no run takes so long.
        std::thread::sleep(Duration::from_millis(200));
    }
    let name = old.file_name().unwrap_or_default();
    done.from.push(name.to_string_lossy().into_owned());
    Ok(())
}

fn programs(dir: &Path) -> Result<[OwnedFd; 4]> {
    let [a, b, c, d] = HOOKED.map(|(name, ..)| {
        let path = dir.join(name);
        Program::fd_from_pinned_path(&path)
            .context(Kind::Telemetry, || format!("can't open {}", path.display()))
    });
    Ok([a?, b?, c?, d?])
}

/// What is limited by the programs of a layout, whether it is counted or not.
fn limited(dir: &Path) -> Result<Vec<LimitKey>> {
    let path = dir.join("limits");
    let map = MapHandle::from_pinned_path(&path)
        .context(Kind::Telemetry, || format!("can't open {}", path.display()))?;
    let all = reader::dump::<LimitKey, RawLimit>(&map)?;
    Ok(all.into_iter().map(|(key, _)| key).collect())
}

/// Swaps every hook of every pod, and every limit; one whose interface is gone meanwhile has none. Links are opened
/// before the first swap, filters swapped many at a time.
fn swap(
    bpf_dir: &Path,
    programs: &[OwnedFd; 4],
    pods: &[(u32, RawAttachment)],
    limited: &[LimitKey],
    done: &mut Reloaded,
) -> Result<()> {
    let (mut filters, mut links) = (Vec::new(), Vec::new());
    for (&(name, direction, filter), program) in HOOKED.iter().zip(programs) {
        let program = program.as_fd();
        if filter != Filter::Count {
            let theirs = limited.iter().filter(|key| key.direction == direction.0);
            for ifindex in theirs.filter_map(|key| i32::try_from(key.ifindex).ok()) {
                filters.push((None, Swap { program, name, ifindex, direction, filter }));
            }
            continue;
        }
        for (pod, raw) in pods {
            if reader::mode(raw) == Mode::Tcx {
                let pin = pin::link(bpf_dir, *pod, direction);
                let link = sys::open_link(&pin)
                    .context(Kind::Telemetry, || format!("can't open {}", pin.display()))?;
                links.extend(link.map(|link| (*pod, raw.ifindex, link, program)));
            } else if let Ok(ifindex) = i32::try_from(raw.ifindex) {
                filters.push((Some(*pod), Swap { program, name, ifindex, direction, filter }));
            }
        }
    }
    let refused = |ifindex: u32, err: &dyn std::fmt::Display| {
        let msg = format!("the kernel refused the swap of a program on interface {ifindex}");
        Error::new(Kind::Telemetry, msg).details(err)
    };
    let begun = Instant::now();
    let mut swapped = BTreeSet::new();
    for (pod, ifindex, link, program) in &links {
        match sys::link_update(link, *program) {
            // Its device is gone.
            Err(err) if err.raw_os_error() == Some(Errno::ENOLINK as i32) => false,
            Err(err) => return Err(refused(*ifindex, &err)),
            Ok(()) => swapped.insert(*pod),
        };
    }
    let requests: Vec<_> = filters.iter().map(|(_, swap)| *swap).collect();
    let there = swap::filters(&requests).map_err(|(position, err)| {
        let ifindex = requests.get(position).map_or(0, |swap| swap.ifindex.unsigned_abs());
        refused(ifindex, &err)
    })?;
    let there = filters.iter().zip(there).filter(|(_, there)| *there);
    swapped.extend(there.filter_map(|((pod, _), _)| *pod));
    done.swap += begun.elapsed();
    done.pods += swapped.len();
    Ok(())
}
