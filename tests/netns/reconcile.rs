//! `weir reconcile`: what nobody owns goes, of all networks; what lives stays, whoever lost track.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde_json::{Value, json};
use weir::telemetry::{
    pin,
    wire::{RawAttachment, bytes_of, from_bytes},
};

use crate::{
    counted::Counted,
    plugin::{Container, Host, ips},
    ports::{both, elements, with_ports},
};

const NOTHING: [&str; 0] = [];

/// Changes an attachment's record.
fn change(host: &Host, container: &Container, key: &str, value: Value) {
    let file = host.record(container);
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record[key] = value;
    fs::write(file, record.to_string()).unwrap();
}

fn subnets(host: &Host) -> String {
    let command = host.node.command("nft list set inet weir masquerade4");
    String::from_utf8(command.stdout).unwrap()
}

#[test]
fn the_dead_of_all_networks_go_and_the_living_stay() {
    let host = Host::new("rec-dead");
    let containers = ["living", "dead", "killed", "other"].map(|id| host.container(id));
    let [living, dead, killed, other] = &containers;
    let reply = host.add(living);
    host.add(killed);
    for (container, name) in [(dead, "second"), (other, "third")] {
        let ipam = json!({"subnet": format!("10.{}.0.0/24", name.len())});
        host.call("ADD", Some(container)).key("name", json!(name)).key("ipam", ipam).succeed();
    }
    change(&host, killed, "underWay", json!(true));
    change(&host, other, "bootId", json!("another"));
    let [living, dead, killed, other] = containers;
    host.end(dead);
    let dropped = host.reconcile();
    let attachments =
        ["dead", "killed", "other"].map(|id| format!("attachment container {id} interface eth0"));
    assert_eq!(dropped, attachments);
    assert_eq!(host.reconcile(), NOTHING);
    host.check(&living, &reply).succeed();
    assert_eq!(host.node.links().len(), 2);
    assert_eq!(host.leases("podnet"), ips(&reply));
    assert!(host.leases("second").is_empty() && host.leases("third").is_empty());
    drop((killed, other));
}

#[test]
fn links_and_leases_of_nobody_go_and_foreign_ones_stay() {
    let host = Host::new("rec-stray");
    let (a, b) = (host.container("a"), host.container("b"));
    let name = host.add(&a)["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let reply = host.add(&b);
    fs::remove_file(host.record(&a)).unwrap();
    let leases = host.state_dir().join("leases/podnet");
    symlink("../../attachments/gone@eth0", leases.join("10.88.0.9")).unwrap();
    // It has our names and nobody's mark.
    host.node.succeed("ip link add weir0123456789a type veth peer name other");
    host.node.succeed("ip link set weir0123456789a alias weir:podnet/x/eth0");
    let dropped = host.reconcile();
    let of_a = ["lease 10.88.0.2", "lease 10.88.0.9", "lease fd00:88::2"].map(String::from);
    assert_eq!(dropped, [&of_a[..], &[format!("link {name}")]].concat());
    assert_eq!(host.reconcile(), NOTHING);
    host.check(&b, &reply).succeed();
    assert!(host.node.links().contains(&"weir0123456789a".to_owned()));
}

#[test]
fn a_lost_state_dir_costs_no_running_pod_its_network() {
    let host = Host::new("rec-lost");
    let (a, b) = (host.container("a"), host.container("b"));
    for (container, port) in [(&a, "8080"), (&b, "8081")] {
        with_ports(&host, container, &both(port)).key("ipMasq", json!(true)).succeed();
    }
    let led = || ["8080", "8081"].map(|port| elements(&host).contains(&format!("tcp . {port} ")));
    assert_eq!(led(), [true, true]);
    let netns = format!("--net={}", a.space.path().display());
    let mut process = Command::new("nsenter").args([&netns, "sleep", "60"]).spawn().unwrap();
    let inside = fs::metadata(a.space.path()).unwrap();
    let entered = || {
        use std::os::unix::fs::MetadataExt;
        let own = fs::metadata(format!("/proc/{}/ns/net", process.id()));
        own.is_ok_and(|own| own.ino() == inside.ino())
    };
    assert!((0..500).any(|_| entered() || {
        thread::sleep(Duration::from_millis(10));
        false
    }));
    let links = host.node.links();
    // Another place than the one that the pods were made with.
    let nowhere = host.state_dir().with_file_name("nowhere");
    let places = format!("--state-dir {} --bpf-dir /nowhere/bpf", nowhere.display());
    assert_eq!(host.reconcile_in(&places), NOTHING);
    assert_eq!(host.node.links(), links);

    for container in [&a, &b] {
        fs::remove_file(host.record(container)).unwrap();
    }
    // In a container that has process ids of its own nobody is to be seen, wherever they live.
    let (weir, state) = (env!("CARGO_BIN_EXE_weir"), host.state_dir());
    let places = format!("--state-dir {} --bpf-dir /nowhere/bpf", state.display());
    let apart = format!("unshare --pid --fork --mount-proc {weir} reconcile {places}");
    let output = host.node.command(&apart);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("hostPID"), "{said}");
    assert_eq!(said.matches("may have processes behind it").count(), 2, "{said}");
    assert_eq!((host.node.links(), led()), (links, [true, true]));
    // Of another state dir, and so new that its first process is yet to come.
    let new = host.container("new");
    host.add(&new);
    fs::remove_file(host.record(&new)).unwrap();
    let netns = format!("--net={}", new.space.path().display());
    let (dropped, mut late) = thread::scope(|scope| {
        let late = scope.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            Command::new("nsenter").args([&netns, "sleep", "60"]).spawn().unwrap()
        });
        (host.reconcile(), late.join().unwrap())
    });
    for process in [&mut process, &mut late] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert_eq!(dropped.iter().filter(|what| what.starts_with("link ")).count(), 1, "{dropped:?}");
    assert_eq!(new.space.links().len(), 2);
    assert_eq!((a.space.links().len(), b.space.links().len()), (2, 1));
    // Who lives goes on being reached.
    assert_eq!(led(), [true, false]);
    assert!(subnets(&host).contains("10.88.0.0/24"));
    assert!(host.reconcile().iter().any(|what| what == "masquerade 10.88.0.0/24"));
    assert_eq!(led(), [false, false]);
}

#[test]
fn a_pod_of_another_state_dir_goes_on_being_counted() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new("rec-shared");
        let host = &counted.host;
        let [own, a] = ["own", "a"].map(|id| host.container(id));
        // A network of this state dir's, and a pod behind another plugin whose records are elsewhere.
        let result = counted.call("ADD", Some(&own), attach).succeed();
        let netns = a.space.path().to_str().unwrap().to_owned();
        host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
        let before = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
        });
        let theirs = host.state_dir().with_file_name("theirs");
        let chained = |verb: &str| {
            let call = counted.call(verb, Some(&a), attach).key("prevResult", before.clone());
            call.without("ipam").key("stateDir", json!(theirs)).key("name", json!("theirs"))
        };
        chained("ADD").succeed();
        let pins = counted.pins();
        let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
        let here = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
        let weir = env!("CARGO_BIN_EXE_weir");
        let output = host.node.command(&format!("{weir} reconcile {here}"));
        let said = String::from_utf8(output.stderr).unwrap();
        // Also with nobody behind the interface yet.
        assert_eq!(host.reconcile_in(&here), NOTHING, "{attach}: {said}");
        chained("CHECK").succeed();
        counted.check(&own, attach, &result).succeed();
        assert_eq!(counted.pins(), pins, "{attach}");
        if attach == "clsact" {
            assert_eq!(counted.filters("vethx"), [1, 1]);
        }
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("interface vethx of container a interface eth0"), "{said}");
        assert!(said.contains("stateDir") && said.matches("left:").count() == 1, "{said}");

        // Once the interface is gone, it is nobody's, whoever had it.
        host.end(a);
        let dropped = host.reconcile_in(&here);
        assert!(dropped.len() == 1 && dropped[0].starts_with("hook "), "{attach}: {dropped:?}");
        assert_eq!(host.reconcile_in(&here), NOTHING);
        counted.check(&own, attach, &result).succeed();
    }
}

#[test]
fn a_subnet_is_masqueraded_as_long_as_a_pod_needs_it() {
    let host = Host::new("rec-masq");
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    let add = |container: &Container, name: &str, subnet: &str| {
        let call = host.call("ADD", Some(container)).key("name", json!(name));
        call.key("ipMasq", json!(true)).key("ipam", json!({"subnet": subnet})).succeed()
    };
    add(&a, "wide", "10.0.0.0/8");
    add(&b, "narrow", "10.88.0.0/24");
    add(&c, "apart", "192.168.7.0/24");
    assert_eq!(host.reconcile(), NOTHING);
    assert!(subnets(&host).contains("10.0.0.0/8"), "the wider one covers the other");
    host.del(&a);
    host.del(&c);
    assert_eq!(host.reconcile(), ["masquerade 10.0.0.0/8", "masquerade 192.168.7.0/24"]);
    let left = subnets(&host);
    assert!(left.contains("10.88.0.0/24") && !left.contains("/8") && !left.contains("192."));
    host.del(&b);
    assert_eq!(host.reconcile(), ["masquerade 10.88.0.0/24"]);
    assert!(!subnets(&host).contains("10."), "{}", subnets(&host));
}

#[test]
fn unreadable_records_go_where_their_interface_is_gone() {
    let host = Host::new("rec-bad");
    let (a, b) = (host.container("a"), host.container("b"));
    for container in [&a, &b] {
        host.add(container);
        fs::write(host.record(container), "{").unwrap();
    }
    host.end(a);
    let dropped = host.reconcile();
    assert_eq!(dropped, ["attachment container a interface eth0"]);
    assert!(host.record(&b).exists() && b.space.links().len() == 2);
    assert_eq!(host.leases("podnet").len(), 2);
}

#[test]
fn a_thousand_stale_records_go_within_a_second() {
    let host = Host::new("rec-many");
    let a = host.container("a");
    host.add(&a);
    let text = fs::read_to_string(host.record(&a)).unwrap();
    let (records, leases) =
        (host.state_dir().join("attachments"), host.state_dir().join("leases/podnet"));
    host.end(a);
    host.reconcile();
    let forge = |number: usize| {
        let (id, ip) =
            (format!("stale{number}"), format!("10.88.{}.{}", 1 + number / 200, 2 + number % 200));
        let text = text.replace(r#""containerId":"a""#, &format!(r#""containerId":"{id}""#));
        let text = text.replace("10.88.0.2/", &format!("{ip}/"));
        fs::write(records.join(format!("{id}@eth0")), text).unwrap();
        symlink(format!("../../attachments/{id}@eth0"), leases.join(ip)).unwrap();
    };
    let left = |dir: &PathBuf| fs::read_dir(dir).unwrap().count();
    // What else the machine does strikes now and then, hardly three times.
    let times = (0..3).map(|_| {
        (0..1000).for_each(forge);
        let started = Instant::now();
        assert_eq!(host.reconcile().len(), 1000);
        let took = started.elapsed();
        assert_eq!((left(&records), left(&leases)), (0, 1), "the lock stays");
        took
    });
    let fastest = times.min().unwrap();
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[test]
fn beside_other_calls_it_takes_nothing_that_lives() {
    let host = Host::new("rec-beside");
    let containers: Vec<_> = (0..24).map(|n| host.container(&format!("c{n}"))).collect();
    // Else there may be a moment without any pod, and the masquerade goes as it should.
    let stays = host.container("stays");
    host.call("ADD", Some(&stays)).key("ipMasq", json!(true)).succeed();
    thread::scope(|scope| {
        let workers: Vec<_> = containers
            .chunks(6)
            .map(|containers| {
                let host = &host;
                scope.spawn(move || {
                    for container in containers {
                        let add = || host.call("ADD", Some(container)).key("ipMasq", json!(true));
                        add().succeed();
                        host.del(container);
                        let reply = add().succeed();
                        let check = host.check(container, &reply).key("ipMasq", json!(true));
                        check.succeed();
                    }
                })
            })
            .collect();
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert_eq!(host.reconcile(), NOTHING);
        }
    });
    assert_eq!(host.leases("podnet").len(), 50);
    for container in containers.iter().chain([&stays]) {
        host.del(container);
    }
    assert_eq!(host.reconcile(), ["masquerade 10.88.0.0/24", "masquerade fd00:88::/64"]);
}

#[test]
fn what_can_not_be_dropped_is_said_and_fails() {
    let host = Host::new("rec-fail");
    let (a, b) = (host.container("a"), host.container("b"));
    host.add(&a);
    host.add(&b);
    change(&host, &a, "telemetry", json!({"pod": 7, "mode": "tcx"}));
    let pins = host.state_dir().with_file_name("bpf").join("links");
    // A directory lies where its link was pinned.
    fs::create_dir_all(pins.join("00000007_from_pod")).unwrap();
    host.end(a);
    host.end(b);
    let weir = env!("CARGO_BIN_EXE_weir");
    let [state, bpf] = [host.state_dir(), host.state_dir().with_file_name("bpf")];
    let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
    let output = host.node.command(&format!("{weir} reconcile {places}"));
    assert_eq!(output.status.code(), Some(1));
    let (said, logged) = (output.stdout, output.stderr);
    let (said, logged) = (String::from_utf8(said).unwrap(), String::from_utf8(logged).unwrap());
    assert!(said.contains("container b"), "the others go all the same: {said}");
    assert!(logged.contains("00000007_from_pod"), "{logged}");
    fs::remove_dir(pins.join("00000007_from_pod")).unwrap();
    assert_eq!(host.reconcile(), ["attachment container a interface eth0"]);
}

/// The interface's number was given on, and who had it before has an entry in the maps yet.
#[test]
fn a_stray_hook_goes_without_those_of_the_pod_that_has_its_interface_now() {
    let counted = Counted::new("rec-number");
    let host = &counted.host;
    let a = host.container("a");
    let result = counted.call("ADD", Some(&a), "clsact").succeed();
    let bpf_dir = counted.bpffs.join("weir");
    let map = MapHandle::from_pinned_path(pin::dir(&bpf_dir).join("attachments")).unwrap();
    let key = map.keys().next().unwrap();
    let mut entry: RawAttachment =
        from_bytes(&map.lookup(&key, MapFlags::ANY).unwrap().unwrap()).unwrap();
    entry.container_id[0] = 122;
    map.update(bytes_of(&7_u32), bytes_of(&entry), MapFlags::NO_EXIST).unwrap();
    let places =
        format!("--state-dir {} --bpf-dir {}", host.state_dir().display(), bpf_dir.display());
    let weir = env!("CARGO_BIN_EXE_weir");
    let done = host.node.succeed(&format!("{weir} reconcile {places} -o json"));
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["dropped"][0]["name"], "00000007", "{done}");
    // Had they gone, they would have been put back.
    assert_eq!((&done["mended"], &done["left"]), (&json!([]), &json!([])), "{done}");
    counted.check(&a, "clsact", &result).succeed();
}
