//! DEL: nothing is left, whatever is missing or strange by then, and nothing of others is touched.

use std::{fs, path::Path};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use crate::{
    counted::Counted,
    node::talk,
    plugin::{Host, ips},
    ports::{both, elements, with_ports},
};

#[test]
fn nothing_is_left_and_repeats_succeed() {
    let host = Host::new("del");
    let a = host.container("a");
    let before = host.footprint();
    for (masquerade, ports) in [(false, json!([])), (true, json!([])), (true, both("8080"))] {
        with_ports(&host, &a, &ports).key("ipMasq", json!(masquerade)).succeed();
        assert!(host.footprint() != before);
        for _ in 0..3 {
            host.del(&a);
            host.footprint().assert_is(&before, "afterwards");
            assert_eq!(a.space.links(), ["lo"]);
        }
    }
}

#[test]
fn the_namespace_may_be_anything_by_then() {
    let host = Host::new("strange");
    let _world = host.node.outside();
    let before = host.footprint();
    for netns in ["", "/run/netns/vanished", "/etc/passwd", "/tmp", "/proc/self/ns/net"] {
        let a = host.container("a");
        host.add(&a);
        host.call("DEL", Some(&a)).variable("CNI_NETNS", netns).succeed();
        host.footprint().assert_is(&before, &format!("{netns:?}"));
        assert_eq!(a.space.links(), ["lo"], "{netns:?}");
    }
    let a = host.container("a");
    host.add(&a);
    let path = a.space.path().to_str().unwrap().to_owned();
    drop(a.space);
    let call = host.call("DEL", None).variable("CNI_CONTAINERID", "a");
    call.variable("CNI_IFNAME", "eth0").variable("CNI_NETNS", &path).succeed();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn id_and_interface_name_alone_suffice() {
    let host = Host::new("other-net");
    let a = host.container("a");
    let before = host.footprint();
    host.add(&a);
    let call = host.call("DEL", Some(&a)).key("name", json!("renamed")).without("ipam");
    call.key("mtu", json!("wrong by now")).version("0.3.1").succeed();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn a_late_del_of_the_predecessor_leaves_the_successor_alone() {
    let host = Host::new("late");
    let old = host.container("old");
    host.add(&old);
    let new = host.container("new");
    let reply = host.add(&new);
    // The same pod, and the same path, under another id.
    let late = || {
        let path = new.space.path().to_str().unwrap().to_owned();
        host.call("DEL", Some(&old)).variable("CNI_NETNS", &path).succeed();
    };
    late();
    late();
    host.check(&new, &reply).succeed();
    talk(&host.node, &new.space, ips(&reply)[0].parse().unwrap());
}

#[test]
fn a_record_that_can_not_be_read_stops_nothing() {
    let host = Host::new("corrupt");
    let before = host.footprint();
    for junk in ["", "{", "null", r#"{"format":99}"#] {
        let a = host.container("a");
        host.add(&a);
        fs::write(host.record(&a), junk).unwrap();
        host.call("ADD", Some(&a)).refused(102);
        // Nor do others notice.
        let b = host.container("b");
        host.add(&b);
        host.del(&b);
        host.call("DEL", Some(&a)).key("name", json!("another")).succeed();
        host.footprint().assert_is(&before, &format!("{junk:?}"));
    }
}

#[test]
fn a_lost_state_dir_loses_no_link() {
    let host = Host::new("lost");
    let a = host.container("a");
    let before = host.footprint();
    host.add(&a);
    fs::remove_dir_all(host.state_dir()).unwrap();
    host.call("DEL", Some(&a)).key("name", json!("another")).succeed();
    host.footprint().assert_is(&before, "afterwards");
}

/// What the configuration says of the state dir is wrong by now: what bears the attachment's mark goes, and
/// the error comes after that. The addresses wait where they are.
/// A call for which the machine's own default directories are empty ones of its own, or, as `/run/weir`,
/// that one.
fn apart(state_dir: Option<&Path>) -> Vec<String> {
    let bind = |dir: &Path| format!("mkdir /run/weir; mount --bind {} /run/weir;", dir.display());
    let bind = state_dir.map_or(String::new(), bind);
    let hide = "mount -t tmpfs none /run; mount -t bpf none /sys/fs/bpf;";
    let script = format!("{hide} {bind} exec \"$@\"");
    ["unshare", "--mount", "sh", "-ec", &script, "sh"].map(str::to_owned).to_vec()
}

#[test]
fn a_wrong_state_dir_stops_del_from_nothing_but_success() {
    let counted = Counted::new("misplaced");
    let host = &counted.host;
    let (a, b) = (host.container("a"), host.container("b"));
    counted.call("ADD", Some(&b), "tcx").succeed();
    let pins = counted.pins();
    let ports = || json!({"portMappings": both("8080")});
    for value in [json!("run/weir"), json!("/run/../weir"), json!(7)] {
        let shown = value.to_string();
        counted.call("ADD", Some(&a), "tcx").key("runtimeConfig", ports()).succeed();
        assert!(elements(host).contains("elements"), "{shown}");
        let del = || counted.call("DEL", Some(&a), "tcx").key("stateDir", value.clone());
        // However often: its record and its addresses are where only the right one leads.
        for _ in 0..2 {
            let said = del().under(apart(None)).refused(7);
            assert!(said.contains("stateDir") && said.contains(&shown), "{said}");
            assert_eq!(host.node.links().len(), 2, "{shown}: b's alone");
            assert_eq!(a.space.links(), ["lo"], "{shown}");
            assert!(!elements(host).contains("elements"), "{shown}");
            assert_eq!(counted.pins(), pins, "{shown}");
            assert!(host.record(&a).exists(), "{shown}");
        }
        counted.call("DEL", Some(&a), "tcx").succeed();
        assert_eq!(host.leases("podnet").len(), 2, "{shown}");
        assert!(!host.record(&a).exists(), "{shown}");
        // By the record, if that is in the default one.
        counted.call("ADD", Some(&a), "tcx").key("runtimeConfig", ports()).succeed();
        let found = del().under(apart(Some(&host.state_dir()))).answer();
        assert_eq!((found.code, &*found.stdout), (Some(0), ""), "{shown}: {}", found.stderr);
        assert!(found.stderr.contains(&shown), "{}", found.stderr);
        assert_eq!((host.leases("podnet").len(), host.record(&a).exists()), (2, false), "{shown}");
        assert_eq!((host.node.links().len(), counted.pins()), (2, pins.clone()), "{shown}");
    }
    counted.call("DEL", Some(&b), "tcx").succeed();
}

#[test]
fn a_wrong_bpf_dir_is_an_error_of_del_only_where_it_may_lead_to_something() {
    let counted = Counted::new("misplaced-bpf");
    let host = &counted.host;
    let (a, b) = (host.container("a"), host.container("b"));
    let add = |container| counted.call("ADD", Some(container), "tcx").succeed();
    add(&b);
    let pins = counted.pins();
    let del = || {
        let del = counted.call("DEL", Some(&a), "tcx").key("bpfDir", json!("bpf"));
        del.under(apart(None))
    };
    let warned = |when: &str| {
        let answer = del().answer();
        assert_eq!((answer.code, &*answer.stdout), (Some(0), ""), "{when}: {}", answer.stderr);
        let said = r#"bpfDir is "bpf""#;
        assert!(answer.stderr.contains(said), "{when}: {}", answer.stderr);
        let left = "of container a interface eth0 no record, and nothing that can be found without it, is left";
        assert!(answer.stderr.contains(left), "{when}: {}", answer.stderr);
        assert_eq!((host.node.links().len(), counted.pins()), (2, pins.clone()), "{when}");
        assert_eq!((host.leases("podnet").len(), host.record(&a).exists()), (2, false), "{when}");
    };
    warned("that was never there");
    add(&a);
    warned("whose record says where it was counted");
    warned("that is gone");

    add(&a);
    fs::write(host.record(&a), "{").unwrap();
    for _ in 0..2 {
        assert!(del().refused(7).contains("bpfDir"));
        assert!(host.record(&a).exists() && host.node.links().len() == 2);
        assert_ne!(counted.pins(), pins, "its links stay pinned");
    }
    counted.call("DEL", Some(&a), "tcx").succeed();
    assert_eq!((counted.pins(), host.record(&a).exists()), (pins.clone(), false));

    add(&a);
    fs::remove_file(host.record(&a)).unwrap();
    assert!(del().refused(7).contains("bpfDir"), "the maps that count it are elsewhere");
    counted.call("DEL", Some(&b), "tcx").succeed();
}

#[test]
fn a_state_dir_that_is_another_by_now_is_named_with_what_went() {
    let counted = Counted::new("another-dir");
    let host = &counted.host;
    let a = host.container("a");
    let ports = json!({"portMappings": both("8080")});
    let reply = counted.call("ADD", Some(&a), "clsact").key("runtimeConfig", ports).succeed();
    let name = reply["interfaces"][0]["name"].as_str().unwrap();
    let other = host.state_dir().with_file_name("other");
    let del = || counted.call("DEL", Some(&a), "clsact").key("stateDir", json!(other)).answer();
    let (first, second) = (del(), del());
    assert_eq!((first.code, &*first.stdout), (Some(0), ""), "{}", first.stderr);
    let said: Vec<_> = first.stderr.lines().collect();
    assert_eq!(said.len(), 1, "{said:?}");
    for word in
        [other.to_str().unwrap(), "container a", name, "host ports", "counting", "reconcile"]
    {
        assert!(said[0].contains(word), "{word}: {}", said[0]);
    }
    assert_eq!((host.node.links().len(), second.code, &*second.stderr), (1, Some(0), ""));
    assert!(!elements(host).contains("elements"));
    // As it says.
    assert_eq!(host.leases("podnet").len(), 2);
    drop(a);
    let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
    host.reconcile_in(&format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display()));
    assert!(host.leases("podnet").is_empty());
}

#[test]
fn what_only_looks_like_ours_is_left() {
    let host = Host::new("foreign");
    let a = host.container("a");
    let name = host.add(&a)["interfaces"][0]["name"].as_str().unwrap().to_owned();
    host.del(&a);
    host.node.succeed(&format!("ip link add {name} type veth peer name other"));
    host.node.succeed(&format!("ip link set {name} alias somebody-elses"));
    let before = host.footprint();
    let answer = host.call("DEL", Some(&a)).answer();
    assert_eq!((answer.code, &*answer.stderr), (Some(0), ""), "nothing went");
    host.footprint().assert_is(&before, "afterwards");
    assert!(host.call("ADD", Some(&a)).refused_without_a_trace(105).contains(&name));
}

#[test]
fn an_unknown_id_needs_no_lock_and_a_known_one_waits_for_it_in_bounds() {
    let host = Host::new("locked");
    let (a, b) = (host.container("a"), host.container("b"));
    host.add(&a);
    let lock = host.state_dir().join("leases/podnet/lock");
    let lock = Flock::lock(fs::File::open(lock).unwrap(), FlockArg::LockExclusive).unwrap();
    host.del(&b);
    host.call("STATUS", None).succeed();
    host.call("ADD", Some(&b)).refused_without_a_trace(11);
    // The link goes, the address waits for the next DEL.
    host.call("DEL", Some(&a)).refused(11);
    assert_eq!(host.node.links(), ["lo"]);
    assert_eq!(host.leases("podnet"), ["10.88.0.2", "fd00:88::2"]);
    drop(lock);
    host.del(&a);
    assert!(host.leases("podnet").is_empty() && !host.record(&a).exists());
}

#[test]
fn its_return_leaves_nothing_to_wait_for() {
    // DEL returns before the kernel is done with the link: what a runtime does next must not notice.
    let host = Host::new("at-once");
    let before = host.footprint();
    let a = host.container("a");
    for _ in 0..20 {
        // The same names and the same address, at once.
        let reply = host.add(&a);
        host.check(&a, &reply).succeed();
        talk(&host.node, &a.space, ips(&reply)[0].parse().unwrap());
        host.del(&a);
        host.footprint().assert_is(&before, "straight after");
        assert_eq!(a.space.links(), ["lo"]);
    }
    for round in 0..20 {
        // The namespace goes at once.
        let b = host.container(&format!("b{round}"));
        host.add(&b);
        host.del(&b);
        let path = b.space.path();
        let name = path.file_name().unwrap().to_str().unwrap();
        host.node.succeed(&format!("ip netns del {name}"));
        assert!(!path.exists());
        host.footprint().assert_is(&before, "straight after");
    }
}

#[test]
fn many_at_once_go_too() {
    let host = Host::new("del-many");
    let before = host.footprint();
    let containers: Vec<_> = (0..32).map(|n| host.container(&format!("c{n}"))).collect();
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for container in &containers {
                scope.spawn(|| {
                    host.add(container);
                    host.del(container);
                });
            }
        });
        host.footprint().assert_is(&before, "straight after");
        assert!(containers.iter().all(|container| container.space.links() == ["lo"]));
    }
}
