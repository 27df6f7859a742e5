use std::{fs, path::PathBuf, thread};

use super::*;
use crate::ipam::range::Range;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-pool-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn pool(&self) -> Pool<'_> {
        Pool { state_dir: &self.0, network: "n" }
    }

    /// Allocates for container `id`, whose record is written as ADD would.
    fn allocate(&self, id: &str, sets: &[RangeSet], requested: &[IpAddr]) -> Result<String> {
        let leased =
            self.pool().allocate(&owner(id), sets, requested, &mut |_| Ok(None), |_| {
                self.record(id);
                Ok(())
            })?;
        let ips: Vec<_> = leased.iter().map(|address| address.ip().to_string()).collect();
        Ok(ips.join(" "))
    }

    fn record(&self, id: &str) {
        let dir = state::create(&self.0, &[ATTACHMENTS]).unwrap();
        dir.create_file(&owner(id).file_name(), b"{}").unwrap();
    }

    fn release(&self, id: &str) {
        let held = self.pool().held_by(&owner(id)).unwrap();
        self.pool().release(&owner(id), held).unwrap();
        fs::remove_file(self.0.join(ATTACHMENTS).join(owner(id).file_name())).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn owner(id: &str) -> Attachment {
    Attachment::new(id, "eth0").unwrap()
}

fn set(subnet: &str) -> RangeSet {
    let range = Range::new(subnet.parse().unwrap(), None, None, None).unwrap();
    RangeSet::new(vec![range]).unwrap()
}

fn kind(refused: Result<String>) -> Kind {
    refused.unwrap_err().kind()
}

#[test]
fn an_address_just_released_is_the_last_to_be_given_again() {
    let scratch = Scratch::new("round");
    let sets = [set("10.0.0.0/29"), set("fd00::/64")];
    assert_eq!(scratch.allocate("a", &sets, &[]).unwrap(), "10.0.0.2 fd00::2");
    scratch.release("a");
    for (id, wanted) in [
        ("b", "10.0.0.3 fd00::3"),
        ("c", "10.0.0.4 fd00::4"),
        ("d", "10.0.0.5 fd00::5"),
        ("e", "10.0.0.6 fd00::6"),
        ("f", "10.0.0.2 fd00::7"),
    ] {
        assert_eq!(scratch.allocate(id, &sets, &[]).unwrap(), wanted);
    }
    assert_eq!(kind(scratch.allocate("g", &sets, &[])), Kind::Exhausted);
    assert_eq!(
        kind(scratch.pool().check_free(&sets, &mut |_| Ok(None)).map(|()| String::new())),
        Kind::Exhausted
    );
    scratch.release("d");
    scratch.pool().check_free(&sets, &mut |_| Ok(None)).unwrap();
    assert_eq!(scratch.allocate("g", &sets, &[]).unwrap(), "10.0.0.5 fd00::8");
}

#[test]
fn a_requested_address_is_given_or_refused_but_never_another() {
    let scratch = Scratch::new("requested");
    let sets = [set("10.0.0.0/24"), set("fd00::/64")];
    let ask = |id: &str, ips: &[&str]| {
        let ips: Vec<_> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        scratch.allocate(id, &sets, &ips)
    };
    assert_eq!(ask("a", &["10.0.0.9"]).unwrap(), "10.0.0.9 fd00::2");
    assert_eq!(kind(ask("b", &["10.0.0.9"])), Kind::Exhausted);
    assert_eq!(kind(ask("b", &["10.0.1.9"])), Kind::Config);
    assert_eq!(kind(ask("b", &["10.0.0.1"])), Kind::Config);
    assert_eq!(kind(ask("b", &["10.0.0.3", "10.0.0.4"])), Kind::Config);
    // What was refused took nothing, and what was asked for moved no cursor.
    assert_eq!(ask("b", &[]).unwrap(), "10.0.0.2 fd00::3");
}

#[test]
fn leases_of_nobody_are_taken_when_nothing_else_is_left() {
    let scratch = Scratch::new("orphans");
    let sets = [set("10.0.0.0/29")];
    let leases = scratch.0.join(LEASES).join("n");
    for id in ["a", "b"] {
        scratch.allocate(id, &sets, &[]).unwrap();
    }
    // A lease whose record is gone, the empty file of a killed call of other software, and a
    // link that leads out of the state dir.
    fs::remove_file(scratch.0.join(ATTACHMENTS).join("a@eth0")).unwrap();
    fs::write(leases.join("10.0.0.4"), "").unwrap();
    std::os::unix::fs::symlink("../../../etc/passwd", leases.join("10.0.0.5")).unwrap();
    for (id, wanted) in [("c", "10.0.0.6"), ("d", "10.0.0.2"), ("e", "10.0.0.4")] {
        assert_eq!(scratch.allocate(id, &sets, &[]).unwrap(), wanted);
    }
    assert_eq!(scratch.allocate("f", &sets, &[]).unwrap(), "10.0.0.5");
    assert_eq!(kind(scratch.allocate("g", &sets, &[])), Kind::Exhausted);
}

#[test]
fn nothing_is_leased_that_the_journal_does_not_have() {
    let scratch = Scratch::new("journal");
    let sets = [set("10.0.0.0/24")];
    let refuse = |_: &[Address]| Err(Error::new(Kind::Io, "disk full"));
    let refused = scratch.pool().allocate(&owner("a"), &sets, &[], &mut |_| Ok(None), refuse);
    assert_eq!(refused.unwrap_err().kind(), Kind::Io);
    assert!(scratch.pool().held_by(&owner("a")).unwrap().is_empty());
    assert_eq!(scratch.allocate("b", &sets, &[]).unwrap(), "10.0.0.2");
}

#[test]
fn only_the_owner_releases_and_checks() {
    let scratch = Scratch::new("owner");
    let ip: IpAddr = "10.0.0.2".parse().unwrap();
    let pool = scratch.pool();
    scratch.allocate("a", &[set("10.0.0.0/24")], &[]).unwrap();
    pool.release(&owner("b"), [ip]).unwrap();
    pool.check(&owner("a"), [ip].into_iter()).unwrap();
    let stranger = pool.check(&owner("b"), [ip].into_iter()).unwrap_err();
    assert_eq!(stranger.kind(), Kind::Difference);
    pool.release(&owner("a"), [ip]).unwrap();
    pool.release(&owner("a"), [ip]).unwrap();
    assert!(pool.check(&owner("a"), [ip].into_iter()).unwrap_err().msg().contains("10.0.0.2"));
}

#[test]
fn a_cursor_that_can_not_be_read_begins_from_the_start() {
    let scratch = Scratch::new("cursor");
    let sets = [set("10.0.0.0/24")];
    state::create(&scratch.0, &[LEASES, "n"]).unwrap();
    let lock = scratch.0.join(LEASES).join("n").join(LOCK);
    for (id, junk) in [("a", &b"\xff\xfe"[..]), ("b", b"10.0.0.300\n"), ("c", &[b'\n'; 9000])] {
        fs::write(&lock, junk).unwrap();
        let first_free = scratch.allocate(id, &sets, &[]).unwrap();
        assert!(["10.0.0.2", "10.0.0.3", "10.0.0.4"].contains(&&*first_free), "{first_free}");
    }
}

#[test]
fn callers_at_once_never_get_the_same_address() {
    let scratch = Scratch::new("parallel");
    let sets = [set("10.0.0.0/26")];
    let mut given: Vec<String> = thread::scope(|scope| {
        let calls: Vec<_> = (0..32)
            .map(|n| {
                let (scratch, sets) = (&scratch, &sets);
                scope.spawn(move || scratch.allocate(&format!("c{n}"), sets, &[]).unwrap())
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 32);
}
