//! What a node meets in a year: the next call heals it, or says what to do.

use std::{fs, os::unix::fs::symlink, process::Command};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use weir::telemetry::pin;

use crate::{
    counted::Counted,
    plugin::{Host, ips},
};

/// A file system of the test's on a directory, gone when dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(dir: std::path::PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        Self(dir)
    }

    fn remount(&self, flags: MsFlags) {
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>)
            .unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_state_dir_that_became_read_only_stops_add_names_itself_and_heals() {
    let host = Host::new("read-only");
    let mounted = Mounted::new(host.state_dir());
    let (a, b) = (host.container("a"), host.container("b"));
    let reply = host.add(&a);
    mounted.remount(MsFlags::MS_RDONLY);
    let said = host.call("ADD", Some(&b)).refused_without_a_trace(5);
    assert!(said.contains(host.state_dir().to_str().unwrap()), "{said}");
    host.check(&a, &reply).succeed();
    // What can be taken away is; its record waits for the next DEL.
    host.call("DEL", Some(&a)).refused(5);
    assert!(host.record(&a).exists() && a.space.links() == ["lo"]);
    mounted.remount(MsFlags::empty());
    host.del(&a);
    assert!(!host.record(&a).exists() && host.leases("podnet").is_empty());
    host.add(&b);
    host.del(&b);
}

#[test]
fn a_bpffs_that_became_read_only_is_named_with_its_mend_and_heals() {
    let counted = Counted::new("bpffs-read-only");
    let host = &counted.host;
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    let add = |pod| counted.call("ADD", Some(pod), "clsact");
    let del = |pod| counted.call("DEL", Some(pod), "clsact");
    let remount = |flags| {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(None::<&str>, &counted.bpffs, None::<&str>, flags, None::<&str>).unwrap();
    };
    add(&a).succeed();
    remount(MsFlags::MS_RDONLY);
    let shown = counted.bpffs.display();
    let mend = format!("the bpffs on {shown} is mounted read-only; mount -o remount,rw {shown}");
    let said = add(&b).refused(104);
    assert!(said.contains(&mend), "{said}");
    let optional = json!({"required": false, "attach": "clsact"});
    let answer = counted.call("ADD", Some(&c), "clsact").key("telemetry", optional).answer();
    assert!(
        answer.stderr.contains(&mend) && c.space.links() == ["lo", "eth0"],
        "{}",
        answer.stderr
    );
    // What can be taken away is; its record waits for the next DEL.
    let said = del(&a).refused(104);
    assert!(said.contains(&mend) && a.space.links() == ["lo"], "{said}");
    assert!(host.record(&a).exists());
    let said = counted.call("STATUS", None, "clsact").refused(50);
    assert!(said.contains(&mend), "{said}");
    let bpf_dir = format!("--bpf-dir {shown}/weir");
    for command in ["reload", "doctor"] {
        let output =
            host.node.command(&format!("{} {command} {bpf_dir}", env!("CARGO_BIN_EXE_weir")));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("is mounted read-only"), "{command}: {said}");
        assert!(said.contains(&format!("mount -o remount,rw {shown}")), "{command}: {said}");
    }
    remount(MsFlags::empty());
    [&a, &b, &c].into_iter().for_each(|pod| drop(del(pod).succeed()));
    assert!(host.leases("podnet").is_empty() && host.node.links() == ["lo"]);
    let ended = counted.snapshot().pods.into_values().all(|pod| pod.deleted.is_some());
    assert!(ended, "{:?}", counted.snapshot().pods);
}

#[test]
fn a_full_state_dir_stops_add_and_leaves_nothing() {
    let host = Host::new("full");
    let mounted = Mounted::new(host.state_dir());
    let (a, b) = (host.container("a"), host.container("b"));
    host.add(&a);
    let filler = mounted.0.join("filler");
    fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    let said = host.call("ADD", Some(&b)).refused_without_a_trace(5);
    assert!(said.contains(host.state_dir().to_str().unwrap()), "{said}");
    host.del(&a);
    fs::remove_file(filler).unwrap();
    host.add(&b);
    host.del(&b);
}

#[test]
fn foreign_files_among_records_and_leases_are_passed_over_and_stay() {
    let host = Host::new("foreign");
    let a = host.container("a");
    host.add(&a);
    let (records, leases) =
        (host.state_dir().join("attachments"), host.state_dir().join("leases/podnet"));
    for dir in [&records, &leases] {
        fs::write(dir.join("README"), "not ours").unwrap();
        fs::create_dir(dir.join("directory")).unwrap();
        symlink("/etc/passwd", dir.join("link@eth0")).unwrap();
        let fifo = dir.join("pipe@eth0");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    }
    let above = host.state_dir().join("leases");
    fs::create_dir(above.join("Other Tool")).unwrap();
    fs::write(above.join("README"), "not ours").unwrap();
    symlink("/etc", above.join("link")).unwrap();
    // Its leases are looked for in every network.
    let c = host.container("c");
    host.add(&c);
    fs::write(host.record(&c), "{").unwrap();
    host.del(&c);
    assert!(host.reconcile().iter().all(|dropped| dropped.starts_with("attachment ")));
    let b = host.container("b");
    let reply = host.add(&b);
    host.check(&b, &reply).succeed();
    host.call("GC", None)
        .key(
            "cni.dev/valid-attachments",
            json!([
                {"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth0"},
            ]),
        )
        .succeed();
    let pods = host.pods();
    let ours = pods.as_array().unwrap().iter().filter(|pod| pod["network"] == "podnet");
    assert_eq!(ours.count(), 2, "{pods}");
    for container in [&a, &b] {
        host.del(container);
    }
    for dir in [&records, &leases] {
        assert!(dir.join("README").exists() && dir.join("directory").exists());
    }
    assert!(fs::read_to_string("/etc/passwd").unwrap().contains("root"));
}

#[test]
fn a_link_in_the_place_of_the_state_dir_is_refused() {
    let host = Host::new("linked");
    let a = host.container("a");
    let elsewhere = host.state_dir().with_file_name("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, host.state_dir()).unwrap();
    let said = host.call("ADD", Some(&a)).refused_without_a_trace(5);
    assert!(said.contains(host.state_dir().to_str().unwrap()), "{said}");
    assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[test]
fn a_directory_in_the_place_of_a_record_stops_nothing_and_is_named_where_it_must_stay() {
    let host = Host::new("directory");
    let a = host.container("a");
    let before = host.footprint();
    let ports = json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]});
    let spoil = || {
        host.call("ADD", Some(&a)).key("runtimeConfig", ports.clone()).succeed();
        fs::remove_file(host.record(&a)).unwrap();
        fs::create_dir(host.record(&a)).unwrap();
    };
    let is_gone = || {
        let table = host.node.succeed("nft list table inet weir");
        assert!(!table.contains("elements"), "{table}");
        assert_eq!((host.node.links(), a.space.links()), (vec!["lo".into()], vec!["lo".into()]));
        assert!(host.leases("podnet").is_empty());
    };
    spoil();
    host.call("ADD", Some(&a)).refused(102);
    host.del(&a);
    is_gone();
    host.footprint().assert_is(&before, "an empty one");

    spoil();
    let theirs = host.record(&a).join("theirs");
    fs::write(&theirs, "not ours").unwrap();
    for _ in 0..2 {
        let said = host.call("DEL", Some(&a)).refused(5);
        assert!(said.contains(&format!("rm -r {}", host.record(&a).display())), "{said}");
        is_gone();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "not ours");
    }
    fs::remove_dir_all(host.record(&a)).unwrap();
    host.del(&a);
    host.footprint().assert_is(&before, "one with files");
}

#[test]
fn a_read_only_proc_sys_stops_add_unless_the_node_has_the_settings() {
    let host = Host::new("proc-sys");
    let a = host.container("a");
    let settings = |value: u8| {
        let keys = ["ipv4.ip_forward", "ipv6.conf.all.forwarding"];
        for key in keys {
            host.node.succeed(&format!("sysctl -qw net.{key}={value}"));
        }
        // A new interface begins with it.
        host.node.succeed(&format!("sysctl -qw net.ipv6.conf.default.accept_ra={}", 1 - value));
    };
    settings(0);
    let hide = r#"mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys; exec "$@""#;
    let under = || ["unshare", "--mount", "sh", "-ec", hide, "sh"].map(str::to_owned).to_vec();
    let before = host.footprint();
    let add = || host.call("ADD", Some(&a)).under(under());
    let answer = add().answer();
    assert_eq!(answer.code, Some(1), "{}", answer.stdout);
    for word in ["\"code\":105", "/proc/sys/net/ipv6/conf/weir", "Read-only file system"] {
        assert!(answer.stdout.contains(word), "{word}: {}", answer.stdout);
    }
    host.footprint().assert_is(&before, "refused");
    host.node.succeed("sysctl -qw net.ipv6.conf.default.accept_ra=0");
    assert!(add().refused_without_a_trace(105).contains("/proc/sys/net/ipv4/ip_forward to 1"));
    assert_eq!(a.space.links(), ["lo"]);

    settings(1);
    let reply = add().succeed();
    host.check(&a, &reply).under(under()).succeed();
    crate::node::talk(&host.node, &a.space, ips(&reply)[1].parse().unwrap());
    host.call("DEL", Some(&a)).under(under()).succeed();
    assert_eq!(host.node.links(), ["lo"]);
}

#[test]
fn what_became_of_the_state_dir_keeps_no_link_and_no_port() {
    let host = Host::new("unopenable");
    let a = host.container("a");
    let ports = json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]});
    host.call("ADD", Some(&a)).key("runtimeConfig", ports).succeed();
    let aside = host.state_dir().with_file_name("aside");
    fs::rename(host.state_dir(), &aside).unwrap();
    fs::write(host.state_dir(), "").unwrap();
    let said = host.call("DEL", Some(&a)).refused(5);
    assert!(said.contains(host.state_dir().to_str().unwrap()), "{said}");
    assert_eq!(host.node.links(), ["lo"]);
    let table = host.node.succeed("nft list table inet weir");
    assert!(!table.contains("elements"), "{table}");
    fs::remove_file(host.state_dir()).unwrap();
    fs::rename(&aside, host.state_dir()).unwrap();
    host.del(&a);
    assert!(host.leases("podnet").is_empty() && !host.record(&a).exists());
}

#[test]
fn a_bpffs_that_went_with_its_pins_costs_no_pod_its_network_and_comes_back() {
    let counted = Counted::new("bpffs-gone");
    let (a, b) = (counted.host.container("a"), counted.host.container("b"));
    let call = |verb, pod| {
        let call = counted.call(verb, Some(pod), "clsact");
        call.key("telemetry", json!({"required": false}))
    };
    let reply = call("ADD", &a).succeed();
    umount2(&counted.bpffs, MntFlags::MNT_DETACH).unwrap();
    let answer = call("ADD", &b).answer();
    assert_eq!(answer.code, Some(0), "{}", answer.stdout);
    assert!(answer.stderr.contains("is not on a bpffs"), "{}", answer.stderr);
    call("DEL", &b).succeed();
    let nothing = None::<&str>;
    mount(Some("bpf"), &counted.bpffs, Some("bpf"), MsFlags::empty(), nothing).unwrap();
    let (state, bpf) = (counted.host.state_dir(), counted.bpffs.join("weir"));
    counted.host.reconcile_in(&format!(
        "--state-dir {} --bpf-dir {}",
        state.display(),
        bpf.display()
    ));
    counted.check(&a, "clsact", &reply).succeed();
    crate::node::talk(&counted.host.node, &a.space, ips(&reply)[0].parse().unwrap());
    assert!(counted.network().iter().all(|[_, packets]| *packets > 0));
    call("DEL", &a).succeed();
}

#[test]
fn a_layouts_directory_without_its_pins_is_filled_again() {
    let counted = Counted::new("emptied");
    let (a, b) = (counted.host.container("a"), counted.host.container("b"));
    let result = counted.call("ADD", Some(&a), "clsact").succeed();
    let bpf_dir = counted.bpffs.join("weir");
    for some in ["", "stats"] {
        for pin in fs::read_dir(pin::dir(&bpf_dir)).unwrap().map(|pin| pin.unwrap().path()) {
            if some.is_empty() || !pin.ends_with(some) {
                fs::remove_file(pin).unwrap();
            }
        }
        counted.check(&a, "clsact", &result).refused(103);
        if some.is_empty() {
            let state = counted.host.state_dir();
            let (state, bpf) = (state.display(), bpf_dir.display());
            counted.host.reconcile_in(&format!("--state-dir {state} --bpf-dir {bpf}"));
            counted.check(&a, "clsact", &result).succeed();
        } else {
            counted.call("ADD", Some(&b), "clsact").succeed();
        }
    }
}
