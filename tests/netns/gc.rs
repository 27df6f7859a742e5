//! GC: what the runtime doesn't list goes, of the network that was named and of no other.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    delegated::{scratch, script},
    plugin::{Call, Container, Host, ips},
    ports::{both, with_ports},
};

const NEW: &str = "cni.dev/valid-attachments";
const OLD: &str = "cni.dev/attachments";

fn list(containers: &[&Container]) -> Value {
    let entry = |container: &&Container| json!({"containerID": container.id, "ifname": "eth0"});
    containers.iter().map(entry).collect()
}

fn gc<'a>(host: &'a Host, key: &str, valid: Value) -> Call<'a> {
    host.call("GC", None).key(key, valid)
}

#[test]
fn what_is_not_listed_goes_and_what_is_stays() {
    let host = Host::new("listed");
    let before = host.footprint();
    for key in [NEW, OLD] {
        let (a, b) = (host.container("a"), host.container("b"));
        let reply = host.add(&a);
        with_ports(&host, &b, &both("8080")).succeed();
        gc(&host, key, list(&[&a])).succeed();
        gc(&host, key, list(&[&a])).succeed();
        host.check(&a, &reply).succeed();
        assert!(!host.record(&b).exists());
        let mut left = host.leases("podnet");
        left.sort();
        assert_eq!(left, ips(&reply));
        assert_eq!(b.space.links(), ["lo"]);
        gc(&host, key, json!(null)).succeed();
        host.footprint().assert_is(&before, "afterwards");
    }
}

#[test]
fn either_list_saves_where_both_come() {
    let host = Host::new("both");
    let (a, b, c) = (host.container("a"), host.container("b"), host.container("c"));
    for container in [&a, &b, &c] {
        host.add(container);
    }
    gc(&host, NEW, list(&[&a])).key(OLD, list(&[&b])).succeed();
    let left = [&a, &b, &c].map(|container| host.record(container).exists());
    assert_eq!(left, [true, true, false]);
}

#[test]
fn without_a_list_only_the_dead_go() {
    let host = Host::new("unlisted");
    let (a, b) = (host.container("a"), host.container("b"));
    let reply = host.add(&a);
    host.add(&b);
    let of_b = host.record(&b);
    host.end(b);
    host.call("GC", None).succeed();
    assert!(!of_b.exists());
    host.check(&a, &reply).succeed();
}

#[test]
fn records_of_another_boot_are_dead() {
    let host = Host::new("reboot");
    let a = host.container("a");
    host.add(&a);
    host.node.succeed(&format!("ip link del {}", host.node.links()[1]));
    let mut record: Value = serde_json::from_slice(&fs::read(host.record(&a)).unwrap()).unwrap();
    record["bootId"] = json!("another");
    fs::write(host.record(&a), record.to_string()).unwrap();
    host.call("GC", None).succeed();
    assert!(!host.record(&a).exists() && host.leases("podnet").is_empty());
}

#[test]
fn other_networks_are_left_alone() {
    let host = Host::new("others");
    let (a, b) = (host.container("a"), host.container("b"));
    let reply = host.add(&a);
    let other = json!({"subnet": "10.99.0.0/24"});
    host.call("ADD", Some(&b)).key("name", json!("other")).key("ipam", other).succeed();
    let before = host.footprint();
    fs::write(host.state_dir().join("attachments/README"), "foreign").unwrap();
    gc(&host, NEW, json!([])).key("name", json!("third")).succeed();
    fs::remove_file(host.state_dir().join("attachments/README")).unwrap();
    host.footprint().assert_is(&before, "afterwards");
    gc(&host, NEW, json!([])).key("name", json!("other")).succeed();
    host.check(&a, &reply).succeed();
    assert!(!host.record(&b).exists());
}

#[test]
fn unreadable_records_and_leases_of_nobody_go_too() {
    let host = Host::new("garbage");
    let (a, b) = (host.container("a"), host.container("b"));
    host.add(&a);
    let reply = host.add(&b);
    fs::write(host.record(&a), "{").unwrap();
    let leases = host.state_dir().join("leases/podnet");
    std::os::unix::fs::symlink("../../attachments/gone@eth0", leases.join("10.88.0.9")).unwrap();
    fs::write(leases.join("10.88.0.10"), "").unwrap();
    gc(&host, NEW, list(&[&b])).succeed();
    assert!(!host.record(&a).exists());
    assert_eq!(host.leases("podnet"), ips(&reply));
    assert!(leases.join("lock").exists());
    assert_eq!(a.space.links(), ["lo"]);
}

#[test]
fn unreadable_records_of_another_ipam_plugin_are_told_by_their_interface() {
    let host = Host::new("garbage-delegated");
    let before = host.footprint();
    let dir = scratch(&host, "plugins");
    let path = script(
        &host,
        "keeper",
        "cat > /dev/null; cd $(dirname $0)\n\
         case $CNI_COMMAND in DEL) rm -f lease-$CNI_CONTAINERID;; ADD) touch lease-$CNI_CONTAINERID\n\
         echo \"{\\\"ips\\\":[{\\\"address\\\":\\\"10.77.0.${CNI_CONTAINERID#c}/24\\\"}]}\";; esac",
    );
    let [lost, kept, elsewhere] = ["c2", "c3", "c4"].map(|id| host.container(id));
    let path = path.to_str().unwrap();
    let add = |pod, network: &str| {
        let call = host.call("ADD", Some(pod)).key("ipam", json!({"type": "keeper"}));
        call.key("name", json!(network)).variable("CNI_PATH", path).succeed()
    };
    let gc = |network: &str, valid: Value| {
        let call = gc(&host, NEW, valid).key("ipam", json!({"type": "keeper"}));
        call.key("name", json!(network)).variable("CNI_PATH", path).succeed()
    };
    let pods = [(&lost, "podnet"), (&kept, "podnet"), (&elsewhere, "other")];
    for (pod, network) in pods {
        add(pod, network);
        fs::write(host.record(pod), "{").unwrap();
    }
    gc("podnet", list(&[&kept]));
    for (pod, _) in pods {
        let gone = pod.id == lost.id;
        assert_eq!(host.record(pod).exists(), !gone, "{}", pod.id);
        assert_eq!(dir.join(format!("lease-{}", pod.id)).exists(), !gone, "{}", pod.id);
        assert_eq!(pod.space.links() == ["lo"], gone, "{}", pod.id);
    }
    gc("podnet", json!([]));
    gc("other", json!([]));
    fs::remove_dir_all(&dir).unwrap();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn a_list_that_can_not_be_read_removes_nothing() {
    let host = Host::new("bad-list");
    let a = host.container("a");
    host.add(&a);
    for wrong in [json!({}), json!([{"containerID": "../a", "ifname": "eth0"}]), json!(["a"])] {
        gc(&host, NEW, wrong).refused_without_a_trace(7);
    }
}

#[test]
fn leases_that_can_not_be_read_stop_nothing_else() {
    let host = Host::new("no-leases");
    let containers: Vec<_> = (0..6).map(|n| host.container(&format!("c{n}"))).collect();
    for (at, container) in containers.iter().enumerate() {
        host.add(container);
        if at % 2 == 0 {
            fs::write(host.record(container), "{").unwrap();
        }
    }
    fs::remove_dir_all(host.state_dir().join("leases/podnet")).unwrap();
    fs::write(host.state_dir().join("leases/podnet"), "no directory").unwrap();
    let message = gc(&host, NEW, json!([])).refused(5);
    assert!(message.contains("leases/podnet"), "{message}");
    let left = containers.iter().filter(|container| container.space.links() != ["lo"]);
    assert_eq!(
        left.count(),
        0,
        "their interfaces tell of those whose records can't be read either"
    );
    let records = || containers.iter().filter(|container| host.record(container).exists()).count();
    assert_eq!(records(), 3, "those stay whose leases could not be released");
    fs::remove_file(host.state_dir().join("leases/podnet")).unwrap();
    gc(&host, NEW, json!([])).succeed();
    assert_eq!(records(), 0);
}

#[test]
fn leases_whose_lock_is_held_are_waited_for_once() {
    let host = Host::new("held-leases");
    let pods: Vec<_> = (0..6).map(|n| host.container(&format!("c{n}"))).collect();
    let before = host.footprint();
    for pod in &pods {
        host.add(pod);
    }
    let file = host.state_dir().join("leases/podnet/lock");
    let lock = fs::File::open(&file).unwrap();
    lock.lock().unwrap();
    let begun = Instant::now();
    let answer = gc(&host, NEW, json!([])).within(60).answer();
    let took = begun.elapsed();
    let error: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(error["code"], 11, "{answer:?}");
    assert!(error["msg"].as_str().unwrap().contains(file.to_str().unwrap()), "{error}");
    let holder = format!("{} (", std::process::id());
    assert!(error["details"].as_str().unwrap().contains(&holder), "{error}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let left = pods.iter().filter(|pod| pod.space.links() != ["lo"]).count();
    assert_eq!((left, host.node.links()), (0, vec!["lo".to_owned()]));
    let held = pods.iter().filter(|pod| host.record(pod).exists()).count();
    assert_eq!(held, pods.len(), "a record stays as long as its leases");
    drop(lock);
    gc(&host, NEW, json!([])).succeed();
    host.footprint().assert_is(&before, "afterwards");
}
