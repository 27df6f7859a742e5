//! Puts this binary's programs in the place of those that run, for all pods, without a packet that
//! passes uncounted: every swap replaces one program by another in a single step.
//!
//! With the layout of the maps unchanged, the new programs go on with the same maps, mid-message. From
//! another layout the totals are carried over: the new programs begin at 0 beside the old, all pods
//! are swapped, and when no old run is under way any more the old totals, which are final then, are
//! added in the kernel. Until that is done the new maps are in no place where they are read.

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
    carry,
    hooked::{self, Hook, Programs, limited, programs},
    load, lock,
    merge::{self, Entered, Stay},
    pin::{self, layouts, name},
    registry::{self, living},
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
    /// Those pods: who was on the way when a reload was killed is found in two layouts.
    moved: BTreeSet<u32>,
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
    super::probe(bpf_dir)?;
    let Some(_loading) = lock::loading(bpf_dir)? else { return Ok(None) };
    let mut done = Reloaded::default();
    let old = others(bpf_dir, &mut done.refilled)?;
    // One without its pins is none, and its pods are lost.
    let bare = whole::is_bare(&pin::dir(bpf_dir));
    if old.is_empty() && bare {
        return Ok(None);
    }
    if bare {
        move_to_new(bpf_dir, &old, &mut done)?;
    } else {
        renew(bpf_dir, &mut done)?;
        join(bpf_dir, &old, &mut done)?;
    }
    Ok(Some(done))
}

/// Brings the pods of other layouts to the maps of this version's, which count others already.
fn join(bpf_dir: &Path, old: &[PathBuf], done: &mut Reloaded) -> Result<()> {
    let current = pin::dir(bpf_dir);
    // Whoever reads these maps waits as well: for them a pod has all its totals, or is not there yet.
    let mut all = old.to_vec();
    all.push(current.clone());
    all.sort();
    let _held = all.iter().map(|dir| lock::alone(dir)).collect::<Result<Vec<_>>>()?;
    all.iter().try_for_each(|dir| carry::finish(dir))?;
    for dir in old {
        merge::fits(dir, &current)?;
        let entered = merge::register(dir, &current)?;
        let stay = bring_over(bpf_dir, dir, &current, &entered, done)?;
        leave(bpf_dir, dir, &stay, done)?;
    }
    Ok(())
}

/// Moves the pods of other layouts, with their totals, to new maps of this version's, which nobody finds before all
/// are there.
///
/// Who is killed meanwhile leaves those maps as one more layout, from which the next reload takes what they have counted.
fn move_to_new(bpf_dir: &Path, old: &[PathBuf], done: &mut Reloaded) -> Result<()> {
    let begun = Instant::now();
    let loaded = load::aside(bpf_dir, None)?;
    done.load = begun.elapsed();
    let (current, moving) = (pin::dir(bpf_dir), pin::moving(bpf_dir));
    let prepared = prepare(old, &loaded).and_then(|prepared| {
        let failed = || format!("can't rename {}", loaded.display());
        fs::rename(&loaded, &moving).context(Kind::Telemetry, failed).map(|()| prepared)
    });
    let (_held, entered) = match prepared {
        Ok(prepared) => prepared,
        Err(err) => return load::clear(&loaded).and(Err(err)),
    };
    let moved = old.iter().zip(&entered).map(|(dir, entered)| {
        // The totals of the ones before are there by now.
        merge::fits(dir, &moving)?;
        bring_over(bpf_dir, dir, &moving, entered, done)
    });
    let moved = moved.collect::<Result<Vec<_>>>();
    // Also where something failed: there are pods that are counted by them.
    load::remove(bpf_dir, &current)?;
    fs::rename(&moving, &current)
        .context(Kind::Telemetry, || format!("can't rename {}", moving.display()))?;
    old.iter().zip(&moved?).try_for_each(|(dir, stay)| leave(bpf_dir, dir, stay, done))
}

/// All that can fail before the first pod is moved. The locks are held until nobody finds the old maps any more: who
/// ends a pod meanwhile would mark it there alone.
fn prepare(old: &[PathBuf], new: &Path) -> Result<(Vec<fs::File>, Vec<Entered>)> {
    let mut held = old.iter().map(|dir| lock::alone(dir)).collect::<Result<Vec<_>>>()?;
    held.push(lock::alone(new)?);
    old.iter().try_for_each(|dir| carry::finish(dir))?;
    old.iter().try_for_each(|dir| merge::fits(dir, new))?;
    let entered = old.iter().map(|dir| merge::register(dir, new)).collect::<Result<_>>()?;
    Ok((held, entered))
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
    let swapped = swap_in_place(bpf_dir, &current, &new, &maps, done);
    load::clear(&new)?;
    swapped?;
    done.refilled.anew.extend(maps.into_iter().map(str::to_owned));
    done.refilled.back.extend(programs.into_iter().map(str::to_owned));
    Ok(())
}

/// The same maps: new pins first, so that whoever hooks a pod from now on takes the new programs.
fn swap_in_place(
    bpf_dir: &Path,
    current: &Path,
    new: &Path,
    lost: &[&str],
    done: &mut Reloaded,
) -> Result<()> {
    let _alone = lock::alone(current)?;
    registry::begin_anew(current, lost)?;
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

/// Moves pods of another layout with their totals. It forgets them before: whoever reads there sees a pod with all its
/// totals, or not any more.
fn bring_over(
    bpf_dir: &Path,
    old: &Path,
    new: &Path,
    entered: &Entered,
    done: &mut Reloaded,
) -> Result<Stay> {
    let stay = move_pods(bpf_dir, old, new, entered, done)?;
    let open = carry::open(old)?;
    merge::forget_but(old, &stay)?;
    carry::take(old, new, &stay, open)?;
    done.from.push(name(old));
    Ok(stay)
}

/// Removes a layout, unless pods stay there.
fn leave(bpf_dir: &Path, old: &Path, stay: &Stay, done: &mut Reloaded) -> Result<()> {
    if stay.is_empty() {
        return load::remove(bpf_dir, old);
    }
    done.left.push(name(old));
    Ok(())
}

/// Moves the pods of another layout to the maps in `new`, where they are entered, but for those whose interface
/// refuses. The totals of the others are final then.
fn move_pods(
    bpf_dir: &Path,
    old: &Path,
    new: &Path,
    entered: &Entered,
    done: &mut Reloaded,
) -> Result<Stay> {
    let ours = programs(new)?;
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
        done.moved.extend(whole.filter_map(|(hook, _)| hook.pod));
        done.pods = done.moved.len();
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
