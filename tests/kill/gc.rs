//! GC struck: the next one leaves what is listed, and nothing else. CHECK and STATUS struck: they
//! change nothing.

use serde_json::{Value, json};

use crate::{
    ground::Ground,
    plugin::{Call, Container},
    strike::each,
};

fn gc<'a>(ground: &'a Ground, valid: &Container) -> Call<'a> {
    let valid = json!([{"containerID": valid.id, "ifname": "eth0"}]);
    ground.call("GC", None).key("cni.dev/valid-attachments", valid)
}

#[test]
fn a_struck_gc_is_finished_by_the_next() {
    for (attach, samples) in [("clsact", [10, 43]), ("tcx", [21, 86])] {
        let ground = Ground::new("gc", attach);
        let [a, b, c] = ["a", "b", "c"].map(|id| ground.host.container(id));
        let result = ground.call("ADD", Some(&a)).succeed();
        let before = ground.see();
        let add = || {
            for container in [&b, &c] {
                ground.call("ADD", Some(container)).succeed();
            }
        };
        add();
        let course = ground.course(gc(&ground, &a));
        ground.see().assert_is(&before, "unstruck");
        let strikes = [course.kills(samples[0]), course.failures(samples[1])].concat();
        each(&strikes, |strike| {
            add();
            let struck = ground.strike(strike, gc(&ground, &a));
            if !struck.killed && struck.told(strike) {
                ground.see().assert_is(&before, &format!("{strike}, by itself"));
            }
            gc(&ground, &a).succeed();
            ground.see().assert_is(&before, &strike.to_string());
            ground.call("CHECK", Some(&a)).key("prevResult", result.clone()).succeed();
            struck.hit
        });
    }
}

/// Another IPAM plugin is struck, too, and says what it says.
#[test]
fn a_failed_gc_of_another_ipam_plugin_is_finished_by_the_next() {
    let ground = Ground::new("gc-kept", "clsact").kept();
    let [a, b, c] = ["a", "b", "c"].map(|id| ground.host.container(id));
    failed_then_finished(&ground, &a, &[&b, &c], 64);
}

#[test]
fn a_failed_gc_behind_another_plugin_is_finished_by_the_next() {
    for (attach, sample) in [("clsact", 40), ("tcx", 80)] {
        let mut ground = Ground::new("gc-chained", attach);
        let [a, b, c] = ["a", "b", "c"].map(|id| ground.host.container(id));
        for container in [&a, &b, &c] {
            ground.chain(container);
        }
        failed_then_finished(&ground, &a, &[&b, &c], sample);
    }
}

/// Fails the system calls of a GC that has two to take away and one to leave.
fn failed_then_finished(ground: &Ground, stays: &Container, go: &[&Container; 2], sample: u64) {
    let inside = go.map(|container| container.space.links());
    let result = ground.call("ADD", Some(stays)).succeed();
    let add = || go.map(|container| ground.call("ADD", Some(container)).succeed());
    add();
    gc(ground, stays).succeed();
    let before = ground.see();
    add();
    let course = ground.course(gc(ground, stays));
    ground.see().assert_is(&before, "unstruck");
    each(&course.failures(sample), |strike| {
        add();
        let struck = ground.strike(strike, gc(ground, stays));
        assert!(!struck.killed, "{strike}");
        if struck.told(strike) {
            ground.see().assert_is(&before, &format!("{strike}, by itself"));
        }
        gc(ground, stays).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        assert_eq!(go.map(|container| container.space.links()), inside, "{strike}");
        ground.call("CHECK", Some(stays)).key("prevResult", result.clone()).succeed();
        struck.hit
    });
}

#[test]
fn a_struck_check_or_status_changes_nothing() {
    let ground = Ground::new("check", "tcx");
    let a = ground.host.container("a");
    let result = ground.call("ADD", Some(&a)).succeed();
    let before = ground.see();
    let calls = || {
        let check = ground.call("CHECK", Some(&a)).key("prevResult", result.clone());
        [check, ground.call("STATUS", None)]
    };
    for at in 0..2 {
        let call = || calls().into_iter().nth(at).unwrap();
        let course = ground.course(call());
        let strikes = [course.kills(8), course.failures(40)].concat();
        each(&strikes, |strike| {
            let struck = ground.strike(strike, call());
            assert!(struck.killed || struck.told(strike) || !struck.answer.stdout.is_empty());
            // What can't be read is no difference.
            let said = serde_json::from_str::<Value>(&struck.answer.stdout).unwrap_or_default();
            assert_ne!(said["code"], json!(103), "{strike}: {said}");
            ground.see().assert_is(&before, &strike.to_string());
            struck.hit
        });
    }
}
