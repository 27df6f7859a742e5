//! A place of a pod: performs its script, and judges each answer where it comes.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use serde_json::Value;

use crate::{
    ground::{Ground, killed_after},
    plan::{Heal, Script, Spoil, Step},
    plugin::{Answer, Container},
    pod::Pod,
};

/// A place, with the pod that it has.
pub struct Place {
    number: usize,
    pub pod: Option<Pod>,
    /// What waits for the round's end to be healed. Its namespaces are there until then.
    struck: Vec<Container>,
    round: u64,
    lives: usize,
}

impl Place {
    pub fn new(number: usize) -> Self {
        Self { number, pod: None, struck: Vec::new(), round: 0, lives: 0 }
    }

    /// What a container is called that the script makes; in this round only.
    pub fn id(place: usize, round: u64, life: usize) -> String {
        format!("p{place}-r{round}-{life}")
    }

    /// More of them than a script makes.
    pub const LIVES: usize = 8;

    pub fn perform(&mut self, ground: &Ground, round: u64, script: &Script) {
        (self.round, self.lives) = (round, 0);
        if self.pod.is_some() != script.begins {
            self.step(ground, if script.begins { Step::Add } else { Step::Del });
        }
        for &step in &script.steps {
            self.step(ground, step);
        }
    }

    /// When the round's end has healed what was struck.
    pub fn bury(&mut self) {
        for container in self.struck.drain(..) {
            // What a lost namespace had went with it.
            if container.space.path().exists() {
                assert_eq!(container.space.links(), ["lo"], "{} is left its end", container.id);
            }
        }
    }

    fn step(&mut self, ground: &Ground, step: Step) {
        let needs_none = matches!(step, Step::Add | Step::AddKilled(..) | Step::DelOfNobody);
        // An ADD may have been refused for want of space: what would follow has no pod.
        if self.pod.is_some() == needs_none && step != Step::DelOfNobody {
            return;
        }
        ground.note(step);
        match step {
            Step::Add => self.add(ground),
            Step::AddKilled(after, heal) => self.add_killed(ground, after, heal),
            Step::AddAgain => {
                let pod = self.pod.as_ref().unwrap();
                let before = ground.fillings();
                let answer = ground.call("ADD", &pod.container, self.number).answer();
                let refused = code(&answer) == 102 || code(&answer) == 5 && ground.full(before);
                assert!(refused, "ADD again of {}: {answer:?}", pod.id());
            }
            Step::Check => self.check(ground),
            Step::Del => {
                let container = self.pod.take().unwrap().stop();
                self.end(ground, container);
            }
            Step::DelKilled(after, heal) => {
                let container = self.pod.take().unwrap().stop();
                let call = ground.call("DEL", &container, self.number);
                call.under(killed_after(after)).answer();
                self.heal(ground, container, heal);
            }
            Step::DelOfNobody => {
                let nobody = ground.host.container(&self.next_id());
                ground.call("DEL", &nobody, self.number).succeed();
            }
            Step::LoseNetns(heal) => {
                let container = self.pod.take().unwrap().stop();
                self.heal(ground, without_namespace(container), heal);
            }
            Step::Spoil(spoil, heal) => {
                let pod = self.pod.take().unwrap();
                self.spoil(ground, &pod.container, spoil);
                self.heal(ground, pod.stop(), heal);
            }
            Step::SpoilAWhile(spoil, time) => self.spoil_a_while(ground, spoil, time),
            Step::LoseLease => self.lose_lease(ground),
            Step::ClockJump(seconds) => self.clock_step(ground, seconds),
        }
    }

    fn next_id(&mut self) -> String {
        self.lives += 1;
        assert!(self.lives <= Self::LIVES);
        Self::id(self.number, self.round, self.lives)
    }

    fn add(&mut self, ground: &Ground) {
        let container = ground.host.container(&self.next_id());
        let before = ground.fillings();
        let answer = ground.call("ADD", &container, self.number).answer();
        if answer.code == Some(0) {
            let result = serde_json::from_str(&answer.stdout).unwrap();
            self.pod = Some(Pod::new(container, self.number, result));
            return;
        }
        // All or nothing: the pod is none, and the round's end shows whether anything is left. There is no
        // reason but a full state dir: an address whose lease was deleted under a living pod is passed over,
        // since its route is there.
        let full = ground.full(before) && code(&answer) == 5;
        assert!(full, "ADD of {}: {answer:?}", container.id);
        ground.note("ADD refused: no space");
        ground.refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(container.space.links(), ["lo"], "a refused ADD left something");
    }

    fn add_killed(&mut self, ground: &Ground, after: u64, heal: Heal) {
        let container = ground.host.container(&self.next_id());
        let call = ground.call("ADD", &container, self.number);
        call.under(killed_after(after)).answer();
        self.heal(ground, container, heal);
    }

    fn check(&mut self, ground: &Ground) {
        let pod = self.pod.as_ref().unwrap();
        let call = ground.call("CHECK", &pod.container, self.number);
        call.key("prevResult", pod.result.clone()).succeed();
    }

    /// DEL, twice, and nothing is left in the pod.
    fn end(&self, ground: &Ground, container: Container) {
        for _ in 0..2 {
            ground.call("DEL", &container, self.number).succeed();
        }
        if container.space.path().exists() {
            assert_eq!(container.space.links(), ["lo"], "{} after DEL", container.id);
        }
    }

    /// Has what is struck end by `heal`; see [`crate::plan`] for why by that.
    fn heal(&mut self, ground: &Ground, container: Container, heal: Heal) {
        match heal {
            Heal::Del => self.end(ground, container),
            Heal::Gc => {
                ground.wanted.lock().unwrap().remove(&container.id);
                self.struck.push(container);
            }
            Heal::Reconcile => self.struck.push(without_namespace(container)),
        }
    }

    fn record(&self, ground: &Ground, container: &Container) -> PathBuf {
        ground.host.record(container)
    }

    fn spoil(&self, ground: &Ground, container: &Container, spoil: Spoil) {
        let record = self.record(ground, container);
        match spoil {
            // In place, as a failing disk has it; a full one lets that be.
            Spoil::Truncated => {
                let file = fs::File::options().write(true).open(record).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
            Spoil::Garbage => {
                let _ = fs::write(record, [0x80, 0xff, 0, b'{'].repeat(32));
            }
            Spoil::Deleted => fs::remove_file(record).unwrap(),
        }
    }

    /// Nobody takes a living pod for dead because its record can't be read: GC lists it, and its
    /// interface is there for reconcile to see.
    fn spoil_a_while(&mut self, ground: &Ground, spoil: Spoil, time: u64) {
        let pod = self.pod.as_ref().unwrap();
        let record = self.record(ground, &pod.container);
        let aside = record.with_file_name(format!("aside {}", pod.id()));
        // Beside it, so that there is room for it whatever happens.
        if fs::copy(&record, &aside).is_err() {
            let _ = fs::remove_file(aside);
            return;
        }
        self.spoil(ground, &pod.container, spoil);
        thread::sleep(Duration::from_millis(time));
        fs::rename(aside, record).unwrap();
        self.check(ground);
    }

    fn lose_lease(&mut self, ground: &Ground) {
        let pod = self.pod.take().unwrap();
        let leases = ground.host.state_dir().join("leases/podnet");
        fs::remove_file(leases.join(pod.ips()[0].to_string())).unwrap();
        let call = ground.call("CHECK", &pod.container, self.number);
        let answer = call.key("prevResult", pod.result.clone()).answer();
        assert_eq!(code(&answer), 103, "CHECK without a lease: {answer:?}");
        assert!(answer.stdout.contains("leased"), "{answer:?}");
        self.end(ground, pod.stop());
    }

    /// The wall clock itself is the machine's, no namespace has one of its own, and a static executable
    /// takes no other by preloading: it can't be set here. What a step changes for Weir is the age of
    /// what it reads, and that is moved instead: the time in the record, and of its file.
    fn clock_step(&mut self, ground: &Ground, seconds: i64) {
        let pod = self.pod.as_ref().unwrap();
        let file = self.record(ground, &pod.container);
        let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let created = record["created"].as_u64().unwrap();
        record["created"] = created.saturating_add_signed(seconds).into();
        let aside = file.with_file_name(format!("aside {}", pod.id()));
        // No space for it is what other steps are for.
        let written = fs::write(&aside, record.to_string());
        let moved = written.and_then(|()| {
            let at = fs::metadata(&file)?.modified()?;
            let distance = Duration::from_secs(seconds.unsigned_abs());
            let at = if seconds < 0 { at - distance } else { at + distance };
            fs::File::options().write(true).open(&aside)?.set_modified(at)?;
            fs::rename(&aside, &file)
        });
        if moved.is_err() {
            let _ = fs::remove_file(aside);
        }
        self.check(ground);
    }
}

/// A container whose namespace is gone, but for its name.
fn without_namespace(container: Container) -> Container {
    let path = container.space.path();
    let name = path.file_name().unwrap().to_str().unwrap();
    if path.exists() {
        // A connection may have it in use for a moment more; the kernel takes it down then.
        let mut command = Command::new("ip");
        assert!(command.args(["netns", "del", name]).status().unwrap().success());
    }
    container
}

/// The code of an error; 0 of none that can be read.
fn code(answer: &Answer) -> u64 {
    let said: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
    said["code"].as_u64().unwrap_or_default()
}
