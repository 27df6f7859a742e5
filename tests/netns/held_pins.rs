//! A reload that stands still with the lock of the pins in its hands: nobody goes without a network for
//! it, and STATUS waits for nothing.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::json;
use weir::telemetry::pin;

use crate::{counted::Counted, plugin::Container};

#[test]
fn pods_start_and_the_node_stays_ready_while_a_reload_stands_still() {
    let counted = Counted::new("held-pins");
    let [a, b] = ["a", "b"].map(|id| counted.host.container(id));
    let result = counted.call("ADD", Some(&a), "clsact").succeed();
    let bpf_dir = counted.bpffs.join("weir");
    let gate = bpf_dir.join("waiting");
    fs::create_dir(&gate).unwrap();
    for held in [pin::dir(&bpf_dir), gate.clone()] {
        let lock = fs::File::open(&held).unwrap();
        lock.lock().unwrap();
        let begun = Instant::now();
        counted.call("STATUS", None, "clsact").within(4).succeed();
        eprintln!("STATUS in {:?} while {} is held", begun.elapsed(), held.display());
        // A failed CHECK may end the pod: that it can't be told whether it is counted is a note, unless it must be.
        let check = |required: bool| {
            let call = counted.call("CHECK", Some(&a), "clsact").within(8);
            let call = call.key("telemetry", json!({"required": required}));
            call.key("prevResult", result.clone())
        };
        let answer = check(false).answer();
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert!(answer.stderr.contains("whether the pod is counted is not known"), "{answer:?}");
        check(true).refused(11);
        drop(lock);
    }
    // Where the pod may go uncounted it does, after the ten seconds that a load may take.
    let lock = fs::File::open(&gate).unwrap();
    lock.lock().unwrap();
    let add = counted.call("ADD", Some(&b), "clsact").key("telemetry", json!({"required": false}));
    let answer = add.within(60).answer();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stderr.contains("the pod goes uncounted"), "{answer:?}");
    assert_eq!(counted.host.node.links().len(), 3);
    drop(lock);
    counted.call("DEL", Some(&b), "clsact").succeed();
    counted.call("DEL", Some(&a), "clsact").succeed();
    assert_eq!(counted.host.node.links(), ["lo"]);
}

/// Between a reload's new pins and its swaps every filter is a stranger's.
#[test]
fn a_limit_is_neither_judged_nor_set_while_a_reload_swaps() {
    let counted = Counted::new("held-limit");
    let [a, b] = ["a", "b"].map(|id| counted.host.container(id));
    let rate = json!({"ingressRate": 10_000_000, "ingressBurst": 1_000_000});
    let call = |verb: &str, pod: &Container| {
        let call = counted.call(verb, Some(pod), "clsact").within(8);
        let call = call.key("telemetry", json!({"enabled": false}));
        call.key("runtimeConfig", json!({"bandwidth": rate}))
    };
    let result = call("ADD", &a).succeed();
    let check = || call("CHECK", &a).key("prevResult", result.clone());
    check().succeed();
    let dir = pin::dir(&counted.bpffs.join("weir"));
    let [to, from, aside] =
        ["weir_limit_to", "weir_limit_from", "aside"].map(|name| dir.join(name));
    let swap = || {
        for (old, new) in [(&to, &aside), (&from, &to), (&aside, &from)] {
            fs::rename(old, new).unwrap();
        }
    };
    let lock = fs::File::open(&dir).unwrap();
    lock.lock().unwrap();
    swap();
    let answer = check().answer();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stderr.contains("whether the pod's limit is in force is not known"));
    swap();
    thread::scope(|scope| {
        let adding = scope.spawn(|| call("ADD", &b).succeed());
        thread::sleep(Duration::from_millis(500));
        // Its pair is there, and its filter isn't yet.
        let filters = || -> Vec<_> {
            let links = counted.host.node.links().into_iter().filter(|name| name != "lo");
            links.map(|name| counted.filters(&name)[1]).collect()
        };
        assert_eq!(filters().iter().sum::<usize>(), 1, "{:?}", filters());
        assert_eq!(filters().len(), 2);
        drop(lock);
        adding.join().unwrap();
        assert_eq!(filters(), [1, 1]);
    });
    check().succeed();
    swap();
    check().refused(103);
}
