//! DEL and GC killed: whoever comes next, of any attachment there is all or nothing.

use serde_json::{Value, json};

use crate::{
    ground::Ground,
    plugin::{Call, Container},
    strike::each,
};

/// Who gives the pods their network, or their addresses.
#[derive(Debug, Clone, Copy)]
enum Network {
    Own,
    /// Another plugin's pair.
    Chained,
    /// Another plugin's addresses.
    Delegated,
}

/// Who comes after the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Del,
    Gc,
    Reconcile,
    /// An ADD of the same ids.
    Add,
    /// The same, when the namespace went, and the container has a new one.
    AddAnew,
}

/// What is killed, and what then comes.
struct Case {
    network: Network,
    attach: &'static str,
    killed: &'static str,
    next: Next,
    /// One of how many system calls is struck in a sample.
    sample: u64,
}

const fn case(network: Network, attach: &'static str, killed: &'static str, next: Next) -> Case {
    Case { network, attach, killed, next, sample: 24 }
}

impl Case {
    fn ground(&self) -> Ground {
        let label = format!("{}-{:?}-{:?}", self.killed, self.network, self.next);
        let ground = Ground::new(&label.to_lowercase(), self.attach);
        match self.network {
            Network::Delegated => ground.kept(),
            Network::Own | Network::Chained => ground,
        }
    }

    /// A container, with what was made for it before weir is called.
    fn container(&self, ground: &mut Ground, id: &str) -> Container {
        let container = ground.host.container(id);
        if matches!(self.network, Network::Chained) {
            ground.chain(&container);
        }
        container
    }

    fn call<'a>(&self, ground: &'a Ground, stays: &Container, goes: &Container) -> Call<'a> {
        match self.killed {
            "GC" => gc(ground, stays),
            verb => ground.call(verb, Some(goes)),
        }
    }

    fn run(&self) {
        let mut ground = self.ground();
        let stays = self.container(&mut ground, "a");
        let mut goes = self.container(&mut ground, "b");
        let inside = goes.space.links();
        let result = ground.call("ADD", Some(&stays)).succeed();
        for _ in 0..2 {
            ground.call("ADD", Some(&goes)).succeed();
            ground.call("DEL", Some(&goes)).succeed();
        }
        let before = ground.see();
        ground.call("ADD", Some(&goes)).succeed();
        let course = ground.course(self.call(&ground, &stays, &goes));
        ground.see().assert_is(&before, "unstruck");

        each(&course.kills(self.sample), |strike| {
            let added = ground.call("ADD", Some(&goes)).succeed();
            let struck = ground.strike(strike, self.call(&ground, &stays, &goes));
            if self.next == Next::AddAnew {
                let anew = ground.host.container("b");
                ground.host.end(std::mem::replace(&mut goes, anew));
            }
            if let Some(result) = self.next(&ground, &stays, &goes, added) {
                ground.call("CHECK", Some(&goes)).key("prevResult", result).succeed();
                ground.call("DEL", Some(&goes)).succeed();
            }
            ground.see().assert_is(&before, &strike.to_string());
            assert_eq!(goes.space.links(), inside, "{strike}");
            ground.call("CHECK", Some(&stays)).key("prevResult", result.clone()).succeed();
            struck.hit
        });
    }

    /// Has come what comes next; the result of the attachment's ADD, if it is to be whole.
    fn next(
        &self,
        ground: &Ground,
        stays: &Container,
        goes: &Container,
        added: Value,
    ) -> Option<Value> {
        match self.next {
            Next::Del => {
                ground.call("DEL", Some(goes)).succeed();
                None
            }
            Next::Gc => {
                gc(ground, stays).succeed();
                None
            }
            Next::Reconcile => {
                ground.reconcile();
                // The kill came before anything was begun.
                ground.host.record(goes).exists().then_some(added)
            }
            Next::Add => {
                let answer = ground.call("ADD", Some(goes)).answer();
                if answer.code == Some(0) {
                    return Some(serde_json::from_str(&answer.stdout).unwrap());
                }
                // Likewise.
                assert!(answer.stdout.contains("attached already"), "{}", answer.stdout);
                Some(added)
            }
            Next::AddAnew => Some(ground.call("ADD", Some(goes)).succeed()),
        }
    }
}

fn gc<'a>(ground: &'a Ground, valid: &Container) -> Call<'a> {
    let valid = json!([{"containerID": valid.id, "ifname": "eth0"}]);
    ground.call("GC", None).key("cni.dev/valid-attachments", valid)
}

#[test]
fn a_killed_del_is_finished_by_reconcile() {
    case(Network::Own, "clsact", "DEL", Next::Reconcile).run();
    case(Network::Own, "tcx", "DEL", Next::Reconcile).run();
    case(Network::Delegated, "clsact", "DEL", Next::Reconcile).run();
}

#[test]
fn a_killed_del_is_finished_by_an_add_of_the_same_ids() {
    case(Network::Own, "clsact", "DEL", Next::Add).run();
    case(Network::Own, "tcx", "DEL", Next::Add).run();
    case(Network::Delegated, "clsact", "DEL", Next::Add).run();
}

#[test]
fn a_killed_del_is_finished_by_an_add_of_the_same_ids_in_another_namespace() {
    case(Network::Own, "tcx", "DEL", Next::AddAnew).run();
    case(Network::Delegated, "clsact", "DEL", Next::AddAnew).run();
}

#[test]
fn a_killed_gc_is_finished_by_del() {
    case(Network::Own, "tcx", "GC", Next::Del).run();
    case(Network::Delegated, "clsact", "GC", Next::Del).run();
}

#[test]
fn a_killed_gc_is_finished_by_reconcile() {
    case(Network::Own, "tcx", "GC", Next::Reconcile).run();
    case(Network::Delegated, "clsact", "GC", Next::Reconcile).run();
}

#[test]
fn a_killed_gc_of_another_ipam_plugin_is_finished_by_the_next() {
    case(Network::Delegated, "clsact", "GC", Next::Gc).run();
}

#[test]
fn behind_another_plugin() {
    for (killed, next) in [
        ("DEL", Next::Gc),
        ("DEL", Next::Reconcile),
        ("DEL", Next::Add),
        ("GC", Next::Del),
        ("GC", Next::Gc),
        ("GC", Next::Reconcile),
    ] {
        case(Network::Chained, "tcx", killed, next).run();
    }
    case(Network::Chained, "clsact", "DEL", Next::Reconcile).run();
    case(Network::Chained, "clsact", "GC", Next::Del).run();
}
