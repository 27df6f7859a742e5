//! What is done to the whole node while its pods come and go.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libbpf_rs::{MapCore, MapFlags};
use weir::telemetry::wire::{RawAttachment, bytes_of};

use crate::{
    ground::Ground,
    maps,
    plan::{Chore, Heal},
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
            Chore::KillAgent => {
                ground.kill_agent();
                ground.start_agent();
            }
            Chore::Full(what, time) => ground.fill(what, Duration::from_millis(time)),
            Chore::Foreign => strew(ground),
            Chore::ClockJump(seconds) => age_the_deleted(ground, seconds),
            Chore::Pause(time) => thread::sleep(Duration::from_millis(time)),
        }
    }
}

/// What the round ends with: everything that a script left to it is taken away.
pub fn finish(ground: &Ground, ends: &[Heal]) {
    sweep_up(ground);
    for end in ends {
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

/// The wall clock is not this test's to set (see `Place::clock_step`): instead, the time at which pods
/// were deleted is moved in the map that the agent reads it from.
fn age_the_deleted(ground: &Ground, seconds: i64) {
    let Some(map) = maps::open(ground, "attachments") else { return };
    for (id, mut attachment) in maps::dump::<u32, RawAttachment>(&map) {
        if attachment.deleted_ns != 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let now = i64::try_from(now.as_nanos()).unwrap();
            attachment.deleted_ns =
                u64::try_from(now.saturating_add(seconds.saturating_mul(1_000_000_000))).unwrap();
            // The agent may have forgotten it meanwhile.
            let _ = map.update(bytes_of(&id), bytes_of(&attachment), MapFlags::EXIST);
        }
    }
}
