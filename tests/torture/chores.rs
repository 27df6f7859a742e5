//! What is done to the whole node while its pods come and go.

use std::{fs, os::unix::fs::symlink, path::PathBuf, thread, time::Duration};

use libbpf_rs::{MapCore, MapFlags};
use weir::telemetry::wire::{RawAttachment, bytes_of};

use crate::{
    ground::{Ground, killed_after},
    maps,
    plan::{Chore, Doomed, Heal, Round},
};

/// Does what has to be done, in turn.
pub fn perform(ground: &Ground, chores: &[Chore]) {
    for &chore in chores {
        if !matches!(chore, Chore::Pause(_)) {
            ground.note(chore);
        }
        match chore {
            Chore::Gc => ground.gc(),
            Chore::Reconcile => ground.reconcile(),
            Chore::Status => status(ground),
            Chore::Reload => ground.reload(),
            Chore::GcOfTheDead => drop(ground.call_for_all("GC").succeed()),
            Chore::Killed(doomed, after) => kill(ground, doomed, after),
            Chore::KillAgent(time) => {
                ground.kill_agent();
                thread::sleep(Duration::from_millis(time));
                ground.start_agent();
            }
            Chore::Full(what, time) => ground.fill(what, Duration::from_millis(time)),
            Chore::Foreign => strew(ground),
            Chore::ClockJump(seconds) => age_the_deleted(ground, seconds),
            Chore::Pause(time) => thread::sleep(Duration::from_millis(time)),
        }
    }
}

/// Whatever it had done by then, the round's end, and whoever comes before that, goes on from there.
fn kill(ground: &Ground, doomed: Doomed, after: u64) {
    match doomed {
        Doomed::Gc => drop(ground.gc_call().under(killed_after(after)).answer()),
        Doomed::Reconcile => ground.weir_killed("reconcile", after),
        Doomed::Reload => ground.weir_killed("reload", after),
    }
}

/// What the round ends with: everything that a script left to it is taken away.
pub fn finish(ground: &Ground, round: &Round) {
    sweep_up(ground);
    for end in &round.ends {
        match end {
            Heal::Gc => ground.gc(),
            Heal::Reconcile => ground.reconcile(),
            Heal::Del => {}
        }
    }
}

/// STATUS must be a success: nobody fills the state dir meanwhile, for this thread is who does.
fn status(ground: &Ground) {
    ground.call_for_all("STATUS").succeed();
}

/// Where what is not Weir's lies: in each directory of the state dir, under names that are no
/// attachment's and no address's; what is called as ours are is taken for ours.
fn foreign(ground: &Ground) -> Vec<PathBuf> {
    let state = ground.host.state_dir();
    let dirs = [state.join("attachments"), state.join("leases/podnet"), state.join("leases")];
    let names = ["README", "directory", "link"];
    dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))).collect()
}

fn strew(ground: &Ground) {
    for path in foreign(ground) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let made = match name {
            "README" => fs::write(&path, ""),
            "directory" => fs::create_dir(&path),
            _ => symlink("/nowhere", &path),
        };
        // It may be there from before.
        made.or_else(|err| path.symlink_metadata().map(drop).map_err(|_| err)).unwrap();
    }
}

/// Takes away what was strewn, all of which must be there still.
fn sweep_up(ground: &Ground) {
    let there: Vec<_> =
        foreign(ground).into_iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    assert!(there.is_empty() || there.len() == 9, "of the foreign files only {there:?} are left");
    for path in there {
        match path.file_name().unwrap().to_str().unwrap() {
            "directory" => fs::remove_dir_all(path).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
    }
}

/// The wall clock is not this test's to set (see `Place::clock_step`): instead, the times of pods that were
/// deleted are moved in the map that the agent reads them from, as if the clock had been set back or forth
/// since. One that seems younger than its successor must not be shown in its place.
fn age_the_deleted(ground: &Ground, seconds: i64) {
    let Some(map) = maps::open(ground, "attachments") else { return };
    let step = seconds.saturating_mul(1_000_000_000);
    for (id, mut attachment) in maps::dump::<u32, RawAttachment>(&map) {
        if attachment.deleted_ns != 0 {
            attachment.created_ns = attachment.created_ns.saturating_add_signed(step);
            attachment.deleted_ns = attachment.deleted_ns.saturating_add_signed(step);
            // The agent may have forgotten it meanwhile.
            let _ = map.update(bytes_of(&id), bytes_of(&attachment), MapFlags::EXIST);
        }
    }
}
