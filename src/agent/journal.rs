//! The node's records, followed by inotify(7): read again when one of them has changed, and each that
//! came or went is counted, however short it was there.
//!
//! A node adds pods in bursts and scrapes every few seconds: what a listing would not show any more, the
//! kernel has kept as an event. Only in the second in which the directory itself comes into being may one
//! come and go unseen; the maps have it nevertheless, if it is counted. A watch belongs to one directory; another one in its place is noticed
//! by its identity.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent},
};

use crate::{
    attachment::Attachment,
    error::Result,
    record::{self, Entry},
};

/// Attachments that came and went since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// An ADD began.
    pub added: u64,
    /// A DEL, a GC or a failed ADD took its record away.
    pub removed: u64,
}

/// The records as they were read last.
#[derive(Debug)]
pub struct Journal {
    state_dir: PathBuf,
    watch: Option<Watch>,
    /// File names that are there, as far as events told.
    names: BTreeSet<String>,
    records: Vec<(Attachment, Entry)>,
    stale: bool,
    /// Whether it is known what was there before the agent.
    begun: bool,
    seen: Seen,
}

#[derive(Debug)]
struct Watch {
    inotify: Inotify,
    directory: (u64, u64),
}

impl Journal {
    /// Of this state dir, which need not be there yet.
    pub fn new(state_dir: PathBuf) -> Self {
        let (names, records) = (BTreeSet::new(), Vec::new());
        let mut journal = Self {
            state_dir,
            watch: None,
            names,
            records,
            stale: true,
            begun: false,
            seen: Seen::default(),
        };
        journal.follow();
        journal.begun = true;
        journal
    }

    /// Takes the events of the meantime. Their queue holds some thousands, so it has to be called often.
    pub fn follow(&mut self) {
        let directory = record::directory(&self.state_dir);
        let now = identity(&directory);
        if self.watch.as_ref().map(|watch| watch.directory) != now {
            self.drain();
            self.watch = now.and_then(|identity| Watch::of(&directory, identity));
            self.stale = true;
            self.relist();
        }
        self.drain();
    }

    /// The records, read again if they have changed since.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::error::Kind::Io): the directory can't be listed. What was known is forgotten.
    pub fn records(&mut self) -> Result<&[(Attachment, Entry)]> {
        self.follow();
        if self.stale || self.watch.is_none() || self.records.iter().any(|(_, it)| unsettled(it)) {
            self.records.clear();
            self.records = record::list(&self.state_dir)?;
            self.stale = false;
        }
        Ok(&self.records)
    }

    /// Whether records have changed since they were read, as far as events tell.
    pub fn has_news(&mut self) -> bool {
        self.follow();
        self.stale && self.watch.is_some()
    }

    /// The records as they were read last.
    pub fn known(&self) -> &[(Attachment, Entry)] {
        &self.records
    }

    /// What came and went so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    fn drain(&mut self) {
        let Some(watch) = &self.watch else { return };
        let mut overflow = false;
        loop {
            let events = match watch.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            for event in events {
                self.stale = true;
                overflow |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                take(&event, &mut self.names, &mut self.seen);
            }
        }
        if overflow {
            self.relist();
        }
    }

    /// Finds out what came and went from what is there: after that, events tell.
    fn relist(&mut self) {
        let listed = fs::read_dir(record::directory(&self.state_dir)).into_iter().flatten();
        let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let names: BTreeSet<_> =
            names.filter(|name| Attachment::from_file_name(name).is_some()).collect();
        if std::mem::replace(&mut self.begun, true) {
            self.seen.added += names.difference(&self.names).count() as u64;
            self.seen.removed += self.names.difference(&names).count() as u64;
        }
        self.names = names;
    }
}

/// Whether it may change without an event: an ADD under way ends with its process.
fn unsettled(entry: &Entry) -> bool {
    match entry {
        Entry::Record(record) => record.under_way,
        Entry::Absent | Entry::Unreadable(_) | Entry::OutOfReach(_) => true,
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    fs::metadata(directory).ok().map(|found| (found.dev(), found.ino()))
}

impl Watch {
    /// None where the user's watches are used up: the records are read at each scrape then.
    fn of(directory: &Path, identity: (u64, u64)) -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            // That an end has begun is told by the file's mode.
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(directory, events).ok()?;
        Some(Self { inotify, directory: identity })
    }
}

/// Counts a record's first appearance and its end; another version of it is neither.
fn take(event: &InotifyEvent, names: &mut BTreeSet<String>, seen: &mut Seen) {
    let Some(name) = event.name.as_ref().and_then(|name| name.to_str()) else { return };
    if Attachment::from_file_name(name).is_none() {
        return;
    }
    let comes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    let goes = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    if event.mask.intersects(comes) && names.insert(name.to_owned()) {
        seen.added += 1;
    } else if event.mask.intersects(goes) && names.remove(name) {
        seen.removed += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::record::{NetnsRef, Record};

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let dir = Self(std::env::temp_dir().join(format!("weir-journal-{id}-{name}")));
            fs::create_dir_all(dir.attachments()).unwrap();
            dir
        }

        fn attachments(&self) -> PathBuf {
            record::directory(&self.0)
        }

        fn file(&self, container: u32) -> PathBuf {
            let attachment = Attachment::new(&format!("c{container}"), "eth0").unwrap();
            self.attachments().join(attachment.file_name())
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_that_comes_and_goes_is_counted_and_those_before_are_not() {
        let dir = Dir::new("counted");
        fs::write(dir.file(0), "").unwrap();
        let mut journal = Journal::new(dir.0.clone());
        journal.follow();
        for container in 1..=500 {
            fs::write(dir.file(container), "").unwrap();
            fs::remove_file(dir.file(container)).unwrap();
        }
        fs::write(dir.attachments().join("no attachment's"), "").unwrap();
        fs::write(dir.file(0), "another version").unwrap();
        journal.follow();
        assert_eq!(journal.seen(), Seen { added: 500, removed: 500 });
        assert_eq!(journal.records().unwrap().len(), 1);
    }

    #[test]
    fn a_directory_that_is_replaced_or_comes_late_is_followed() {
        let dir = Dir::new("replaced");
        fs::remove_dir_all(&dir.0).unwrap();
        let mut journal = Journal::new(dir.0.clone());
        assert!(journal.records().unwrap().is_empty());
        fs::create_dir_all(dir.attachments()).unwrap();
        journal.follow();
        fs::write(dir.file(1), "").unwrap();
        assert_eq!(journal.records().unwrap().len(), 1);
        // Kept, so that its number is not given to the new one.
        fs::rename(&dir.0, dir.0.with_extension("old")).unwrap();
        fs::create_dir_all(dir.attachments()).unwrap();
        assert!(journal.records().unwrap().is_empty());
        assert_eq!(journal.seen(), Seen { added: 1, removed: 1 });
        fs::write(dir.file(2), "").unwrap();
        assert_eq!(journal.records().unwrap().len(), 1);
        fs::remove_dir_all(dir.0.with_extension("old")).unwrap();
    }

    #[test]
    fn an_end_that_begins_is_noticed() {
        let dir = Dir::new("ending");
        let attachment = Attachment::new("c1", "eth0").unwrap();
        let netns = NetnsRef { path: "/run/netns/x".into(), dev: 4, ino: 5 };
        let mut record = Record::new(&attachment, "podnet", netns).unwrap();
        record.under_way = false;
        record.begin(&dir.0).unwrap().update(&record).unwrap();
        let mut journal = Journal::new(dir.0.clone());
        let mut is_leaving = || {
            let [(_, Entry::Record(record))] = journal.records().unwrap() else { panic!() };
            record.leaving
        };
        assert!(!is_leaving());
        let claimed = record::claim(&dir.0, &attachment, Instant::now() + Duration::from_secs(20));
        claimed.unwrap().unwrap().mark_ending();
        assert!(is_leaving());
    }
}
