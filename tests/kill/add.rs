//! ADD struck: whoever comes next, nothing is left of it.

use serde_json::{Value, json};

use crate::{
    ground::{Ground, Sight},
    plugin::Container,
    strike::{Course, Strike, each},
};

/// The course of an ADD on a node that has seen one already, and what there was before.
fn course(ground: &Ground, a: &Container) -> (Course, Sight) {
    for _ in 0..2 {
        ground.call("ADD", Some(a)).succeed();
        ground.call("DEL", Some(a)).succeed();
    }
    let before = ground.see();
    let course = ground.course(ground.call("ADD", Some(a)));
    ground.call("DEL", Some(a)).succeed();
    ground.see().assert_is(&before, "unstruck");
    (course, before)
}

fn killed_then_del(ground: &Ground, a: &Container, sample: u64) {
    let inside = a.space.links();
    let (course, before) = course(ground, a);
    each(&course.kills(sample), |strike| {
        let struck = ground.strike(strike, ground.call("ADD", Some(a)));
        ground.call("DEL", Some(a)).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        assert_eq!(a.space.links(), inside, "{strike}");
        struck.hit
    });
}

fn failed(ground: &Ground, a: &Container, sample: u64) {
    let inside = a.space.links();
    let (course, before) = course(ground, a);
    let assert_gone = |strike: &Strike| {
        ground.see().assert_is(&before, &strike.to_string());
        assert_eq!(a.space.links(), inside, "{strike}");
    };
    each(&course.failures(sample), |strike| {
        let struck = ground.strike(strike, ground.call("ADD", Some(a)));
        if struck.told(strike) {
            // What one could do without: the pod is as it should be all the same.
            let result: Value = serde_json::from_str(&struck.answer.stdout).unwrap();
            ground.call("CHECK", Some(a)).key("prevResult", result).succeed();
        } else if !struck.again {
            // Where the strike befell another IPAM plugin's DEL, too, the record stays for the next one.
            assert_gone(strike);
        }
        ground.call("DEL", Some(a)).succeed();
        assert_gone(strike);
        struck.hit
    });
}

#[test]
fn a_killed_add_is_finished_by_del() {
    for (attach, sample) in [("clsact", 18), ("tcx", 54)] {
        let ground = Ground::new("add-del", attach);
        killed_then_del(&ground, &ground.host.container("a"), sample);
    }
}

#[test]
fn a_failed_add_says_so_and_leaves_nothing() {
    for (attach, sample) in [("clsact", 72), ("tcx", 216)] {
        let ground = Ground::new("add-fail", attach);
        failed(&ground, &ground.host.container("a"), sample);
    }
}

/// UDP flows that stay for half a minute are no reason to keep a pod from starting, or from ending.
#[test]
fn flows_that_could_not_be_forgotten_are_said() {
    let ground = Ground::new("add-flows", "clsact");
    let a = ground.host.container("a");
    let (of_add, before) = course(&ground, &a);
    ground.call("ADD", Some(&a)).succeed();
    let of_del = ground.course(ground.call("DEL", Some(&a)));
    for (verb, course) in [("ADD", of_add), ("DEL", of_del)] {
        each(&course.failures_of("NFNL_SUBSYS_CTNETLINK"), |strike| {
            if verb == "DEL" {
                ground.call("ADD", Some(&a)).succeed();
            }
            let struck = ground.strike(strike, ground.call(verb, Some(&a)));
            assert!(struck.told(strike), "{verb}: {strike}: {:?}", struck.answer);
            let said = struck.answer.stderr.contains("UDP flows to a host port may go");
            assert!(said, "{verb}: {strike}: {:?}", struck.answer);
            ground.call("DEL", Some(&a)).succeed();
            ground.see().assert_is(&before, &strike.to_string());
            struck.hit
        });
    }
}

#[test]
fn behind_another_plugin() {
    for (attach, sample) in [("clsact", 28), ("tcx", 86)] {
        let mut ground = Ground::new("add-chained", attach);
        let a = ground.host.container("a");
        ground.chain(&a);
        killed_then_del(&ground, &a, sample);
        failed(&ground, &a, 4 * sample);
    }
}

#[test]
fn with_another_ipam_plugin() {
    let ground = Ground::new("add-ipam", "clsact").delegated();
    let a = ground.host.container("a");
    killed_then_del(&ground, &a, 21);
    failed(&ground, &a, 108);
}

#[test]
fn a_killed_add_is_finished_by_gc() {
    let ground = Ground::new("add-gc", "tcx");
    let a = ground.host.container("a");
    let (course, before) = course(&ground, &a);
    each(&course.kills(36), |strike| {
        let struck = ground.strike(strike, ground.call("ADD", Some(&a)));
        ground.call("GC", None).key("cni.dev/valid-attachments", json!([])).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        assert_eq!(a.space.links(), ["lo"], "{strike}");
        struck.hit
    });
}

#[test]
fn a_killed_add_is_finished_by_reconcile() {
    let ground = Ground::new("add-rec", "tcx");
    let a = ground.host.container("a");
    let (course, _) = course(&ground, &a);
    // It ends the masquerade of a network without pods, which a DEL doesn't.
    ground.reconcile();
    let before = ground.see();
    each(&course.but_the_answer().kills(28), |strike| {
        let struck = ground.strike(strike, ground.call("ADD", Some(&a)));
        ground.reconcile();
        ground.see().assert_is(&before, &strike.to_string());
        assert_eq!(a.space.links(), ["lo"], "{strike}");
        struck.hit
    });
}

#[test]
fn the_only_address_is_to_be_had_from_a_killed_add_whose_pod_lives() {
    let ground = Ground::new("add-add", "clsact").cramped();
    let [a, b] = ["a", "b"].map(|id| ground.host.container(id));
    let (course, before) = course(&ground, &b);
    each(&course.but_the_answer().kills(36), |strike| {
        let struck = ground.strike(strike, ground.call("ADD", Some(&a)));
        // Another container, and then the same one, though no DEL came.
        for container in [&b, &a] {
            ground.call("ADD", Some(container)).succeed();
            ground.call("DEL", Some(container)).succeed();
        }
        // Without a list it takes away the dead alone.
        ground.call("GC", None).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        struck.hit
    });
}

#[test]
fn the_only_address_is_to_be_had_when_its_pod_died_with_the_call() {
    let ground = Ground::new("add-dead", "tcx").cramped();
    let b = ground.host.container("b");
    let (course, before) = course(&ground, &b);
    each(&course.kills(54), |strike| {
        let a = ground.host.container("a");
        let struck = ground.strike(strike, ground.call("ADD", Some(&a)));
        ground.host.end(a);
        ground.call("ADD", Some(&b)).succeed();
        ground.call("DEL", Some(&b)).succeed();
        ground.call("GC", None).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        struck.hit
    });
}

#[test]
fn a_killed_load_is_begun_anew() {
    let ground = Ground::new("add-load", "tcx");
    let (a, b) = (ground.host.container("a"), ground.host.container("b"));
    let (_, before) = course(&ground, &a);
    ground.unload();
    let course = ground.course(ground.call("ADD", Some(&a)));
    ground.call("DEL", Some(&a)).succeed();
    each(&course.kills(288), |strike| {
        ground.unload();
        let struck = ground.strike(strike, ground.call("ADD", Some(&a)));
        ground.call("DEL", Some(&a)).succeed();
        loaded(&ground, &b);
        ground.call("DEL", Some(&b)).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        struck.hit
    });
}

#[test]
fn a_failed_load_says_so() {
    let ground = Ground::new("load-fail", "clsact");
    let a = ground.host.container("a");
    let (_, before) = course(&ground, &a);
    ground.unload();
    let course = ground.course(ground.call("ADD", Some(&a)));
    ground.call("DEL", Some(&a)).succeed();
    each(&course.after_the_probes().failures(180), |strike| {
        ground.unload();
        let struck = ground.strike(strike, ground.call("ADD", Some(&a)));
        struck.told(strike);
        ground.call("DEL", Some(&a)).succeed();
        loaded(&ground, &a);
        ground.call("DEL", Some(&a)).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        struck.hit
    });
}

/// An ADD that loads, for which a busy machine may need its time.
fn loaded(ground: &Ground, container: &Container) {
    ground.call("ADD", Some(container)).within(70).succeed();
}
