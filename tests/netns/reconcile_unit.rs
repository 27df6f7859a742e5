//! `examples/weir-reconcile.service`: with the capabilities and the system calls that the unit leaves it,
//! `weir reconcile` can do all that it does.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{counted::Counted, plugin::Container, unit::Unit};

const UNIT: Unit = Unit("examples/weir-reconcile.service");

/// Runs the unit's command on the node, without one of the unit's capabilities; what it dropped, and what
/// it said.
fn reconcile(counted: &Counted, without: &str) -> (bool, Vec<String>, String) {
    let start = UNIT.values("ExecStart");
    assert_eq!(start[..2], ["/opt/cni/bin/weir", "reconcile"], "where `make install` puts it");
    let (state, bpf) = (counted.host.state_dir(), counted.bpffs.join("weir"));
    let log = state.with_file_name("strace");
    let words = format!(
        "setpriv --inh-caps=-all --no-new-privs --bounding-set={} \
         strace -f -qq -e signal=none -o {} {} {} -o json --state-dir {} --bpf-dir {}",
        UNIT.capabilities(without),
        log.display(),
        env!("CARGO_BIN_EXE_weir"),
        start[1..].join(" "),
        state.display(),
        bpf.display()
    );
    let output = counted.host.node.command(&words);
    let said = String::from_utf8(output.stderr).unwrap();
    let dropped: Value = serde_json::from_slice(&output.stdout).expect(&said);
    let dropped = dropped["dropped"].as_array().unwrap().iter();
    let dropped = dropped.map(|it| it["what"].as_str().unwrap().to_owned()).collect();
    let made = fs::read_to_string(&log).unwrap();
    fs::remove_file(log).unwrap();
    UNIT.assert_allows(&made);
    (output.status.success(), dropped, said)
}

#[test]
fn the_unit_leaves_it_what_it_needs() {
    let counted = Counted::new("rec-unit");
    let host = &counted.host;
    let containers = ["dead", "stray", "lived-in", "uncounted"].map(|id| host.container(id));
    let reservations = host.state_dir().with_file_name("reservations");
    let ipam = json!({
        "type": "host-local", "dataDir": reservations, "ranges": [[{"subnet": "10.77.0.0/24"}]],
    });
    let add = |container: &Container| {
        let port = 8000 + u16::from(container.id.as_bytes()[0]);
        let mapped = json!([{"hostPort": port, "containerPort": 80, "protocol": "udp"}]);
        let call = counted.call("ADD", Some(container), "clsact").version("1.0.0");
        let call = call.key("runtimeConfig", json!({"portMappings": mapped}));
        call.key("ipMasq", json!(true)).key("ipam", ipam.clone()).succeed()
    };
    let results: Vec<_> = containers.iter().map(add).collect();
    let [dead, stray, lived_in, uncounted] = containers;
    for lost in [&stray, &lived_in] {
        fs::remove_file(host.record(lost)).unwrap();
    }
    // Of another user, as many containers' are.
    let netns = format!("--net={}", lived_in.space.path().display());
    let words = [&netns, "setpriv", "--reuid=65534", "--clear-groups", "sleep", "60"];
    let mut process = Command::new("nsenter").args(words).stdin(Stdio::null()).spawn().unwrap();
    let inside = fs::metadata(lived_in.space.path()).unwrap().ino();
    let entered = || {
        let own = fs::metadata(format!("/proc/{}/ns/net", process.id()));
        own.is_ok_and(|own| own.ino() == inside)
    };
    assert!((0..500).any(|_| entered() || {
        thread::sleep(Duration::from_millis(10));
        false
    }));
    host.end(dead);
    let links = host.node.links().len();
    // Whoever can't see that it is lived in must not take it away.
    let (good, dropped, said) = reconcile(&counted, "CAP_SYS_PTRACE");
    assert!(!good && said.contains("CAP_SYS_PTRACE"), "{said}");
    assert!(!dropped.contains(&"link".to_owned()), "{dropped:?}");
    assert_eq!(host.node.links().len(), links);

    // Programs and maps are lost, too, and the living are counted anew.
    let name = results[3]["interfaces"][0]["name"].as_str().unwrap();
    fs::remove_dir_all(counted.bpffs.join("weir")).unwrap();
    host.node.succeed(&format!("tc qdisc del dev {name} clsact"));
    let (good, dropped, said) = reconcile(&counted, "");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(good, "{said}");
    assert!(dropped.contains(&"link".to_owned()), "{dropped:?}");
    assert!(said.contains("counted again: container uncounted"), "{said}");
    assert_eq!(counted.filters(name), [1, 1]);
    assert_eq!((stray.space.links().len(), lived_in.space.links().len()), (1, 2));
    let call = counted.check(&uncounted, "clsact", &results[3]).version("1.0.0");
    let port =
        json!({"portMappings": [{"hostPort": 8117, "containerPort": 80, "protocol": "udp"}]});
    call.key("ipMasq", json!(true)).key("ipam", ipam.clone()).key("runtimeConfig", port).succeed();
    // What host-local gave the dead is free; of those without a record nobody knows.
    let left = fs::read_dir(reservations.join("podnet")).unwrap().flatten();
    let left = left.filter(|file| file.file_name().to_str().unwrap().starts_with("10."));
    assert_eq!(left.count(), 3);
}
