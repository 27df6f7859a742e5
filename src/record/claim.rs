//! The end of an attachment is one process's work at a time.
//!
//! DEL, GC, `weir reconcile` and an ADD in need of an address may come upon the same dead attachment, and
//! its ids may be used anew the moment its record is gone: who went on with what it had read before would
//! take the successor's network away. So whoever ends an attachment holds its record until that is gone,
//! and judges what the record says once it is held.

use std::{
    fs::{File, Permissions, TryLockError},
    os::unix::fs::PermissionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::journal::{self, Entry};
use crate::{
    attachment::Attachment,
    error::{Context, Kind, Result},
    state::{self, ATTACHMENTS, Dir},
};

/// An attachment that nobody else ends while this lives. Where the journal has nothing, nothing is held.
#[derive(Debug)]
pub struct Claim {
    /// What the journal has of it. A record under way is abandoned: its ADD would hold it. So is one whose
    /// end has begun.
    pub entry: Entry,
    /// What can't be opened as a file can't be locked.
    held: Option<File>,
}

impl Claim {
    /// Marks the attachment as one whose end has begun: should we not come to an end with it, it is
    /// abandoned, and whoever comes next goes on.
    ///
    /// The mark is the record's mode, since it takes no space: a record that can't be marked on a full disk
    /// is one that can't be finished there. Where it can't be set, only a kill makes a difference.
    pub fn mark_ending(&self) {
        if let Some(file) = &self.held {
            let _ = file.set_permissions(Permissions::from_mode(journal::ENDING));
        }
    }
}

/// Claims an attachment, if need be when its ADD, an IPAM plugin that outlives it, or who else ends the
/// attachment lets go of it; `None` where that is not so by `until`.
///
/// # Errors
/// [`Kind::Io`]: the directory or the record can't be read; what is none is [`Entry::Unreadable`].
pub fn claim(state_dir: &Path, attachment: &Attachment, until: Instant) -> Result<Option<Claim>> {
    const PAUSE: Duration = Duration::from_millis(5);
    let Some(dir) = state::open(state_dir, &[ATTACHMENTS])? else {
        return Ok(Some(Claim { entry: Entry::Absent, held: None }));
    };
    loop {
        if let Some(claim) = attempt(&dir, attachment)? {
            return Ok(Some(claim));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

/// One try; `None` where somebody holds the record, or put another one into its place.
fn attempt(dir: &Dir, attachment: &Attachment) -> Result<Option<Claim>> {
    let free = |entry| Ok(Some(Claim { entry, held: None }));
    let (bytes, file) = match journal::open(dir, attachment) {
        Ok(found) => found,
        Err(Entry::OutOfReach(why)) => return Err(why),
        Err(entry) => return free(entry),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(err)) => {
            return Err(err).context(Kind::Io, || format!("can't lock the record of {attachment}"));
        }
    }
    if !journal::is_in_place(&file) {
        return Ok(None);
    }
    let mut entry = journal::decode(&bytes, attachment);
    if let Entry::Record(record) = &mut entry {
        record.abandoned = record.under_way || journal::is_ending(&file);
    }
    Ok(Some(Claim { entry, held: Some(file) }))
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;
    use crate::record::{NetnsRef, Record, find, remove};

    #[test]
    fn who_began_to_end_an_attachment_and_did_not_is_told_by_the_record() {
        let dir = env::temp_dir().join(format!("weir-ending-{}", process::id()));
        fs::create_dir(&dir).unwrap();
        let attachment = Attachment::new("c1", "eth0").unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 4, ino: 5 };
        let mut record = Record::new(&attachment, "podnet", netns).unwrap();
        let mut begun = record.begin(&dir).unwrap();
        record.under_way = false;
        begun.update(&record).unwrap();
        drop(begun);
        let claim = || claim(&dir, &attachment, Instant::now() + Duration::from_secs(20)).unwrap();
        let is_abandoned =
            |entry: &Entry| matches!(entry, Entry::Record(record) if record.abandoned);
        let found = || find(&dir, &attachment).unwrap();

        let first = claim().unwrap();
        assert!(!is_abandoned(&first.entry) && !is_abandoned(&found()));
        first.mark_ending();
        assert!(!is_abandoned(&found()), "it is being ended");
        drop(first);
        // As above: another test's child may have the lock for a moment.
        let until = Instant::now() + Duration::from_secs(20);
        while !is_abandoned(&found()) {
            assert!(Instant::now() < until);
        }
        assert!(is_abandoned(&claim().unwrap().entry));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_at_a_time_ends_an_attachment_and_who_comes_second_finds_what_is_there_by_then() {
        let dir = env::temp_dir().join(format!("weir-claim-{}", process::id()));
        fs::create_dir(&dir).unwrap();
        let attachment = Attachment::new("c1", "eth0").unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 4, ino: 5 };
        let record = Record::new(&attachment, "podnet", netns).unwrap();
        let claim = |patience| claim(&dir, &attachment, Instant::now() + patience).unwrap();
        let (at_once, patiently) = (Duration::ZERO, Duration::from_secs(20));
        assert!(matches!(claim(at_once).unwrap().entry, Entry::Absent));

        let begun = record.begin(&dir).unwrap();
        assert!(claim(at_once).is_none(), "its ADD is under way");
        drop(begun);
        // Not at once: a process that a test beside this one starts has the lock until it executes its
        // program.
        let first = claim(patiently).unwrap();
        assert!(matches!(&first.entry, Entry::Record(record) if record.abandoned));
        assert!(claim(at_once).is_none(), "somebody ends it");
        thread::scope(|scope| {
            let second = scope.spawn(|| claim(patiently).unwrap());
            thread::sleep(Duration::from_millis(50));
            assert!(!second.is_finished(), "it is not ended yet");
            remove(&dir, &attachment).unwrap();
            drop(first);
            assert!(matches!(second.join().unwrap().entry, Entry::Absent));
        });
        fs::remove_dir_all(&dir).unwrap();
    }
}
