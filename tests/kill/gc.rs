//! GC struck: the next one leaves what is listed, and nothing else. CHECK and STATUS struck: they
//! change nothing.

use serde_json::json;

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
            ground.see().assert_is(&before, &strike.to_string());
            struck.hit
        });
    }
}
