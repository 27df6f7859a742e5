//! DEL struck: the next DEL, or GC, leaves nothing.

use serde_json::json;

use crate::{
    ground::Ground,
    plugin::Container,
    strike::{Strike, each},
};

fn struck_then_del(ground: &Ground, a: &Container, samples: [u64; 2]) {
    let inside = a.space.links();
    for _ in 0..2 {
        ground.call("ADD", Some(a)).succeed();
        ground.call("DEL", Some(a)).succeed();
    }
    let before = ground.see();
    ground.call("ADD", Some(a)).succeed();
    let course = ground.course(ground.call("DEL", Some(a)));
    let mut strikes = [course.kills(samples[0]), course.failures(samples[1])].concat();
    if inside == ["lo"] {
        strikes.push(Strike::of_the_one_aside());
    }
    each(&strikes, |strike| {
        ground.call("ADD", Some(a)).succeed();
        let struck = ground.strike(strike, ground.call("DEL", Some(a)));
        if !struck.killed && struck.told(strike) {
            ground.see().assert_is(&before, &format!("{strike}, by itself"));
        }
        ground.call("DEL", Some(a)).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        assert_eq!(a.space.links(), inside, "{strike}");
        struck.hit
    });
}

#[test]
fn a_struck_del_is_finished_by_the_next() {
    for (attach, samples) in [("clsact", [9, 43]), ("tcx", [18, 72])] {
        let ground = Ground::new("del-del", attach);
        struck_then_del(&ground, &ground.host.container("a"), samples);
    }
}

#[test]
fn it_ends_when_the_removal_is_announced_and_not_when_it_is_answered() {
    let ground = Ground::new("del-soon", "clsact");
    let a = ground.host.container("a");
    for _ in 0..3 {
        let call = |verb| ground.call(verb, Some(&a)).without("runtimeConfig");
        call("ADD").succeed();
        assert!(ground.leaves_the_wait_to_another(call("DEL")));
    }
}

#[test]
fn behind_another_plugin() {
    for attach in ["clsact", "tcx"] {
        let mut ground = Ground::new("del-chained", attach);
        let a = ground.host.container("a");
        ground.chain(&a);
        struck_then_del(&ground, &a, [18, 72]);
    }
}

#[test]
fn with_another_ipam_plugin() {
    let ground = Ground::new("del-ipam", "clsact").delegated();
    struck_then_del(&ground, &ground.host.container("a"), [21, 108]);
}

#[test]
fn without_a_record() {
    let ground = Ground::new("del-bare", "tcx");
    let a = ground.host.container("a");
    for _ in 0..2 {
        ground.call("ADD", Some(&a)).succeed();
        ground.call("DEL", Some(&a)).succeed();
    }
    let before = ground.see();
    let add = || {
        ground.call("ADD", Some(&a)).succeed();
        std::fs::write(ground.host.record(&a), "{").unwrap();
    };
    add();
    let course = ground.course(ground.call("DEL", Some(&a)));
    let strikes = [course.kills(27), course.failures(108)].concat();
    each(&strikes, |strike| {
        add();
        let struck = ground.strike(strike, ground.call("DEL", Some(&a)));
        assert!(struck.killed || !struck.told(strike) || !ground.host.record(&a).exists());
        // Nobody else is given an address to which something leads yet.
        let leads = ground.host.node.links() != ["lo"]
            || ground.host.node.succeed("nft list ruleset").contains("8097");
        assert!(!leads || !ground.host.leases("podnet").is_empty(), "{strike}");
        ground.call("DEL", Some(&a)).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        struck.hit
    });
}

#[test]
fn a_struck_del_is_finished_by_gc() {
    let ground = Ground::new("del-gc", "tcx");
    let a = ground.host.container("a");
    for _ in 0..2 {
        ground.call("ADD", Some(&a)).succeed();
        ground.call("DEL", Some(&a)).succeed();
    }
    let before = ground.see();
    ground.call("ADD", Some(&a)).succeed();
    let course = ground.course(ground.call("DEL", Some(&a)));
    each(&course.kills(18), |strike| {
        ground.call("ADD", Some(&a)).succeed();
        let struck = ground.strike(strike, ground.call("DEL", Some(&a)));
        ground.call("GC", None).key("cni.dev/valid-attachments", json!([])).succeed();
        ground.see().assert_is(&before, &strike.to_string());
        struck.hit
    });
}
