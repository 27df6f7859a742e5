use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use std::path::PathBuf;

use super::*;
use crate::record::NetnsRef;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(ifname: &str) -> Record {
    let attachment = Attachment::new("c1", ifname).unwrap();
    let netns = NetnsRef { path: "/run/netns/x".into(), dev: 4, ino: 5 };
    Record::new(&attachment, "podnet", netns).unwrap()
}

#[test]
fn a_record_is_written_once_updated_and_forgotten() {
    let dir = Scratch::new("record");
    let mut record = record("eth0");
    let attachment = record.attachment().unwrap();
    assert!(matches!(find(&dir.0, &attachment).unwrap(), Entry::Absent));

    let mut begun = record.begin(&dir.0).unwrap();
    let refused = record.begin(&dir.0).unwrap_err();
    assert_eq!(refused.kind(), Kind::NameTaken);

    record.host_ifindex = Some(7);
    record.under_way = false;
    begun.update(&record).unwrap();
    let Entry::Record(found) = find(&dir.0, &attachment).unwrap() else { panic!("no record") };
    assert_eq!(*found, record);

    remove(&dir.0, &attachment).unwrap();
    remove(&dir.0, &attachment).unwrap();
    assert!(list(&dir.0).unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.0.join(ATTACHMENTS)).unwrap().count(), 0);
}

#[test]
fn an_add_that_writes_its_record_again_is_never_taken_for_a_killed_one() {
    let dir = Scratch::new("rewritten");
    let mut record = record("eth0");
    let attachment = record.attachment().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                if let Entry::Record(found) = find(&dir.0, &attachment).unwrap() {
                    assert!(!found.abandoned, "after {looks} looks");
                    looks += 1;
                }
            }
            looks
        });
        for _ in 0..2000 {
            record.under_way = true;
            let mut begun = record.begin(&dir.0).unwrap();
            begun.update(&record).unwrap();
            record.under_way = false;
            begun.update(&record).unwrap();
            remove(&dir.0, &attachment).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn what_is_no_record_is_unreadable_and_stops_nobody() {
    let dir = Scratch::new("unreadable");
    let good = record("eth0");
    drop(good.begin(&dir.0).unwrap());
    let below = dir.0.join(ATTACHMENTS);
    fs::copy(below.join("c1@eth0"), below.join("c2@eth0")).unwrap();
    fs::write(below.join("c1@eth1"), "").unwrap();
    fs::write(below.join("c1@eth2"), r#"{"format":1}"#).unwrap();
    std::os::unix::fs::symlink("c1@eth0", below.join("c1@eth3")).unwrap();
    fs::create_dir(below.join("c1@eth4")).unwrap();
    nix::unistd::mkfifo(&below.join("c1@eth5"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(below.join("README"), "").unwrap();

    let entries = list(&dir.0).unwrap();
    assert_eq!(entries.len(), 7);
    for (attachment, entry) in entries {
        let readable = matches!(entry, Entry::Record(_));
        assert_eq!(readable, attachment.file_name() == "c1@eth0", "{attachment}");
    }
}

#[test]
fn an_add_that_is_dead_is_told_from_one_under_way() {
    let dir = Scratch::new("abandoned");
    let mut record = record("eth0");
    let attachment = record.attachment().unwrap();
    let state = || {
        let Entry::Record(found) = find(&dir.0, &attachment).unwrap() else { panic!() };
        (found.under_way, found.abandoned)
    };
    let mut begun = record.begin(&dir.0).unwrap();
    assert_eq!(state(), (true, false));
    begun.update(&record).unwrap();
    assert_eq!((state(), state()), ((true, false), (true, false)));
    assert_eq!(pause_adds(&dir.0, Duration::ZERO).unwrap_err().kind(), Kind::TryAgain);
    drop(begun);
    // A process that a test beside this one starts has the lock until it executes its program.
    let ended = || state() == (true, true);
    assert!((0..500).any(|_| ended() || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
    assert!(pause_adds(&dir.0, PATIENCE).unwrap().is_some());

    remove(&dir.0, &attachment).unwrap();
    let mut begun = record.begin(&dir.0).unwrap();
    record.under_way = false;
    begun.update(&record).unwrap();
    drop(begun);
    assert_eq!(state(), (false, false));
}

#[test]
fn one_whose_end_has_begun_or_whose_boot_is_over_is_leaving() {
    let dir = Scratch::new("leaving");
    let mut record = record("eth0");
    let attachment = record.attachment().unwrap();
    let is_leaving = || {
        let Entry::Record(found) = find(&dir.0, &attachment).unwrap() else { panic!() };
        found.leaving
    };
    record.under_way = false;
    record.begin(&dir.0).unwrap().update(&record).unwrap();
    assert!(!is_leaving());
    let claim = |until| crate::record::claim(&dir.0, &attachment, until).unwrap();
    // As above: another test's child may have the lock for a moment.
    let held = claim(std::time::Instant::now() + Duration::from_secs(20)).unwrap();
    held.mark_ending();
    assert!(is_leaving(), "whoever has the lock");
    drop(held);
    assert!(is_leaving());
    remove(&dir.0, &attachment).unwrap();
    record.boot_id = "another".to_owned();
    record.begin(&dir.0).unwrap().update(&record).unwrap();
    assert!(is_leaving());
}

#[test]
fn a_killed_write_leaves_nothing_after_del() {
    let dir = Scratch::new("killed");
    let attachment = record("eth0").attachment().unwrap();
    state::create(&dir.0, &[ATTACHMENTS]).unwrap();
    fs::write(dir.0.join(ATTACHMENTS).join(".c1@eth0"), "{").unwrap();
    remove(&dir.0, &attachment).unwrap();
    assert_eq!(fs::read_dir(dir.0.join(ATTACHMENTS)).unwrap().count(), 0);
}
