//! Puts this binary's programs in the place of those that run, for all pods, without a packet that
//! passes uncounted: every swap replaces one program by another in a single step.
//!
//! With the layout of the maps unchanged, the new programs go on with the same maps, mid-message. From
//! another layout the totals are carried over: the new programs begin at 0 beside the old, all pods
//! are swapped, and when no old run is under way any more the old totals, which are final then, are
//! added in the kernel. Until that is done the new maps are in no place where anybody looks for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use libbpf_rs::Program;

pub use super::hooked::Refusal;
use super::{
    hooked::{self, Hook, Programs, limited, programs},
    load, lock,
    merge::{self, Stay},
    pin::{self, layouts, name},
    registry::living,
    sys,
    whole::{self, Refilled},
    wire::{LimitKey, RawAttachment},
};
use crate::error::{Context, Kind, Result};

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
    /// The interfaces that refused. They go on with the programs that they have, and the next reload tries again.
    pub refused: Vec<Refusal>,
    /// The layouts that stay, as pods are counted there by interfaces that refused.
    pub left: Vec<String>,
    /// Pins that somebody had removed.
    pub refilled: Refilled,
}

/// The verifier's log of programs that [`reload`] could not load, from its end, 8 MiB at most; empty where
/// the kernel refused none.
pub fn verifier_log() -> String {
    load::words()
}

/// Loads, swaps and removes what was swapped out. `None`: nothing was ever loaded here, and nothing is now.
///
/// # Errors
/// [`Kind::Telemetry`]: the kernel refused the programs (its verifier's words in the details), and the
/// old ones run on. [`Kind::TryAgain`]: another
/// process loads, or hooks a pod, for ten seconds.
pub fn reload(bpf_dir: &Path) -> Result<Option<Reloaded>> {
    libbpf_rs::set_print(None);
    pin::probe(bpf_dir)?;
    let Some(_loading) = lock::loading(bpf_dir)? else { return Ok(None) };
    let current = pin::dir(bpf_dir);
    let mut done = Reloaded::default();
    let old = others(bpf_dir, &mut done.refilled)?;
    // One without its pins is none, and its pods are lost.
    let bare = whole::is_bare(&current);
    if old.is_empty() && bare {
        return Ok(None);
    }
    if !bare {
        renew(bpf_dir, &mut done)?;
        // Whoever reads these maps waits as well: for them a pod has all its totals, or is not there yet.
        let mut all = old.clone();
        all.push(current.clone());
        all.sort();
        let _held = all.iter().map(|dir| lock::alone(dir)).collect::<Result<Vec<_>>>()?;
        for dir in old {
            let mut stay = Stay::default();
            if !carried(&current, &dir).is_dir() {
                stay = move_pods(bpf_dir, &dir, &current, &mut done)?;
                merge::take_totals(&dir, &current, &stay)?;
            }
            leave(bpf_dir, &current, &dir, &stay, &mut done)?;
        }
        return Ok(Some(done));
    }
    let begun = Instant::now();
    let new = load::aside(bpf_dir, None)?;
    done.load = begun.elapsed();
    // Held until nobody finds the old ones any more: who ends a pod meanwhile would mark it there alone.
    let held = old.iter().map(|dir| lock::alone(dir)).collect::<Result<Vec<_>>>();
    let moved = held.and_then(|mut held| {
        // All of them, before the first pod is moved.
        old.iter().try_for_each(|dir| merge::fits(dir, &new))?;
        let stays = old.iter().map(|dir| move_whole(bpf_dir, dir, &new, &mut done));
        let stays = stays.collect::<Result<Vec<_>>>()?;
        if stays.iter().any(|stay| !stay.is_empty()) {
            // Their totals come when the maps are to be found, to nobody before they are all there.
            held.push(lock::alone(&new)?);
        }
        Ok((held, stays))
    });
    let (_held, stays) = match moved {
        Ok(moved) => moved,
        Err(err) => return load::clear(&new).and(Err(err)),
    };
    load::remove(bpf_dir, &current)?;
    fs::rename(&new, &current)
        .context(Kind::Telemetry, || format!("can't rename {}", new.display()))?;
    for (dir, stay) in old.iter().zip(&stays) {
        if !stay.is_empty() {
            merge::take_totals(dir, &current, stay)?;
        }
        leave(bpf_dir, &current, dir, stay, &mut done)?;
    }
    Ok(Some(done))
}

/// The directories of other layouts, whole. An empty one, which counts nobody, goes.
fn others(bpf_dir: &Path, refilled: &mut Refilled) -> Result<Vec<PathBuf>> {
    let mut others = layouts(bpf_dir)?;
    others.retain(|dir| *dir != pin::dir(bpf_dir));
    for dir in others.iter().filter(|dir| whole::is_bare(dir)) {
        // Whatever else somebody has in a directory of such a name is theirs.
        let _ = fs::remove_dir(dir);
    }
    others.retain(|dir| !whole::is_bare(dir));
    for dir in &others {
        refilled.back.extend(whole::refill_other(dir)?);
    }
    Ok(others)
}

/// Makes this version's layout whole, of which some pins are there; new programs come for all pods where one is
/// missing. Call holding the lock of those who load.
///
/// # Errors
/// As [`reload`].
pub(super) fn complete(bpf_dir: &Path) -> Result<Refilled> {
    let current = pin::dir(bpf_dir);
    let back = whole::repin(&current, &whole::missing(&current))?;
    let mut done = Reloaded::default();
    if !whole::missing(&current).is_empty() {
        renew(bpf_dir, &mut done)?;
    }
    done.refilled.back.extend(back);
    Ok(done.refilled)
}

/// New programs for the maps of this version's layout, of which those that are missing come back, or begin anew.
fn renew(bpf_dir: &Path, done: &mut Reloaded) -> Result<()> {
    let current = pin::dir(bpf_dir);
    let begun = Instant::now();
    done.refilled.back.extend(whole::repin(&current, &whole::missing(&current))?);
    let (maps, programs): (Vec<_>, Vec<_>) =
        whole::missing(&current).into_iter().partition(|pin| whole::MAPS.contains(pin));
    let new = load::aside(bpf_dir, Some(&current))?;
    done.load = begun.elapsed();
    let swapped = swap_in_place(bpf_dir, &current, &new, done);
    load::clear(&new)?;
    swapped?;
    done.refilled.anew.extend(maps.into_iter().map(str::to_owned));
    done.refilled.back.extend(programs.into_iter().map(str::to_owned));
    Ok(())
}

/// The same maps: new pins first, so that whoever hooks a pod from now on takes the new programs.
fn swap_in_place(bpf_dir: &Path, current: &Path, new: &Path, done: &mut Reloaded) -> Result<()> {
    let _alone = lock::alone(current)?;
    // One that is missing runs nowhere that could be known of.
    let before = hooked::there(current);
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
    // One that refuses goes on with the program of before, and with the same maps.
    let swapped = Swapped::all(bpf_dir, &programs, &pods, &limited(current)?, done);
    keep(current, &before, &swapped.running())
}

/// Pins the programs of before that interfaces go on with, so that who finds one there knows it for ours. Those of
/// earlier reloads go when nobody runs them any more.
fn keep(current: &Path, before: &[OwnedFd], running: &BTreeSet<u32>) -> Result<()> {
    let failed = || format!("can't clear {}", current.display());
    for entry in fs::read_dir(current).context(Kind::Telemetry, failed)? {
        let path = entry.context(Kind::Telemetry, failed)?.path();
        let id = name(&path).strip_prefix(pin::BEFORE).map(str::parse::<u32>);
        if id.is_some_and(|id| !id.is_ok_and(|id| running.contains(&id))) {
            fs::remove_file(&path).context(Kind::Telemetry, failed)?;
        }
    }
    for program in before {
        let id = Program::id_from_fd(program.as_fd())
            .context(Kind::Telemetry, || "can't ask for a program of before".into())?;
        let path = pin::before(current, id);
        if running.contains(&id) && !path.exists() {
            sys::pin(program.as_fd(), &path)
                .context(Kind::Telemetry, || format!("can't pin {}", path.display()))?;
        }
    }
    Ok(())
}

/// Moves the pods of another layout, and their totals, to maps that nobody finds yet; not the totals where some
/// have to stay. The directory that says so appears with the maps: should this process end before the old ones
/// are removed, the next reload doesn't add their totals again.
fn move_whole(bpf_dir: &Path, old: &Path, new: &Path, done: &mut Reloaded) -> Result<Stay> {
    let stay = move_pods(bpf_dir, old, new, done)?;
    if stay.is_empty() {
        merge::add_totals(old, new)?;
        let sign = carried(new, old);
        fs::create_dir(&sign)
            .context(Kind::Telemetry, || format!("can't make {}", sign.display()))?;
    }
    Ok(stay)
}

/// What says, within a layout's directory, that the totals of another are in its maps.
fn carried(new: &Path, old: &Path) -> PathBuf {
    new.join(format!("carried-{}", name(old)))
}

/// Removes a layout whose totals are carried over, and the sign that they are; or, where pods stay, what it
/// knows of the others.
fn leave(bpf_dir: &Path, new: &Path, old: &Path, stay: &Stay, done: &mut Reloaded) -> Result<()> {
    if !stay.is_empty() {
        done.left.push(name(old));
        return merge::forget_but(old, stay);
    }
    load::remove(bpf_dir, old)?;
    load::clear(&carried(new, old))
}

/// Moves the pods of another layout to the maps in `new`, but for those whose interface refuses. The totals of
/// the others are final then.
fn move_pods(bpf_dir: &Path, old: &Path, new: &Path, done: &mut Reloaded) -> Result<Stay> {
    merge::fits(old, new)?;
    let ours = programs(new)?;
    let entered = merge::register(old, new)?;
    let (pods, limited) = (living(old)?, limited(old)?);
    let swapped = Swapped::all(bpf_dir, &ours, &pods, &limited, done);
    let mut stay = Stay::default();
    if !swapped.refused.is_empty() {
        let half = swapped.put_back(programs(old).ok().as_ref());
        let stays = |ifindex: u32| swapped.refused.contains_key(&ifindex);
        stay.interfaces = swapped.refused.keys().copied().collect();
        stay.pods =
            pods.iter().filter(|(_, raw)| stays(raw.ifindex)).map(|(pod, _)| *pod).collect();
        let back = |ifindex: u32| stays(ifindex) && !half.contains(&ifindex);
        let pods = pods.iter().filter(|(_, raw)| back(raw.ifindex)).map(|(pod, _)| *pod);
        let limits = limited.into_iter().filter(|key| back(key.ifindex));
        entered.take_back(new, pods, limits)?;
    }
    if sys::wait_for_runs().is_err() {
        // A kernel with nohz_full has no such barrier; no run takes so long.
        std::thread::sleep(Duration::from_millis(200));
    }
    done.from.push(name(old));
    Ok(stay)
}

/// The hooks of a layout after a swap.
struct Swapped {
    hooks: Vec<Hook>,
    /// By hook.
    answers: Vec<Result<bool, String>>,
    /// The interfaces that refused, each with its first word.
    refused: BTreeMap<u32, String>,
}

impl Swapped {
    /// Swaps every hook of every pod, and every limit; one whose interface is gone meanwhile has none.
    fn all(
        bpf_dir: &Path,
        programs: &Programs,
        pods: &[(u32, RawAttachment)],
        limited: &[LimitKey],
        done: &mut Reloaded,
    ) -> Self {
        let hooks = hooked::hooks(bpf_dir, pods, limited);
        let begun = Instant::now();
        let answers = hooked::swap(programs, &hooks.iter().collect::<Vec<_>>());
        done.swap += begun.elapsed();
        let mut refused = BTreeMap::new();
        for (hook, answer) in hooks.iter().zip(&answers) {
            if let Err(why) = answer {
                refused.entry(hook.ifindex).or_insert_with(|| why.clone());
            }
        }
        let there = hooks.iter().zip(&answers).filter(|(_, answer)| **answer == Ok(true));
        let whole = there.filter(|(hook, _)| !refused.contains_key(&hook.ifindex));
        done.pods += whole.filter_map(|(hook, _)| hook.pod).collect::<BTreeSet<_>>().len();
        done.refused.extend(refused.iter().map(|(at, why)| Refusal::new(*at, why, pods)));
        Self { hooks, answers, refused }
    }

    /// The ids of the programs in the filters of interfaces that refused.
    fn running(&self) -> BTreeSet<u32> {
        let of = self.hooks.iter().filter(|hook| self.refused.contains_key(&hook.ifindex));
        of.filter_map(Hook::running).collect()
    }

    /// Has the interfaces that refused one program run none of the others either: a connection is followed by
    /// the programs of both directions together. Says which can't even go back.
    fn put_back(&self, old: Option<&Programs>) -> BTreeSet<u32> {
        let halves = self.hooks.iter().zip(&self.answers).filter(|(hook, answer)| {
            self.refused.contains_key(&hook.ifindex) && **answer == Ok(true)
        });
        let halves: Vec<&Hook> = halves.map(|(hook, _)| hook).collect();
        let back = match old {
            Some(old) => hooked::swap(old, &halves),
            None => halves.iter().map(|_| Err(String::new())).collect(),
        };
        let stuck = halves.iter().zip(back).filter(|(_, answer)| answer.is_err());
        stuck.map(|(hook, _)| hook.ifindex).collect()
    }
}
