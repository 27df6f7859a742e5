//! Another IPAM plugin: Debian's host-local behind weir, and ones that fail.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    node::talk,
    plugin::{Host, ips},
};

/// A directory of the test's own.
fn scratch(host: &Host, name: &str) -> PathBuf {
    let dir = host.state_dir().with_file_name(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn host_local(host: &Host) -> Value {
    json!({
        "type": "host-local", "dataDir": scratch(host, "host-local"),
        "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    })
}

/// The reservations that host-local has.
fn reserved(host: &Host) -> Vec<String> {
    let dir = scratch(host, "host-local").join("podnet");
    let names = fs::read_dir(dir).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name != "lock" && !name.starts_with("last_")).collect();
    names.sort();
    names
}

#[test]
fn host_local_gives_and_takes_back() {
    let host = Host::new("host-local");
    let a = host.container("a");
    let ipam = host_local(&host);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let call =
            |verb: &str| host.call(verb, Some(&a)).key("ipam", ipam.clone()).version(version);
        let reply = call("ADD").succeed();
        let given = ips(&reply);
        assert_eq!(reserved(&host), given);
        assert_eq!(reply["ips"][0]["gateway"], "10.77.0.1");
        assert_eq!(reply["ips"][0]["interface"], 1);
        talk(&host.node, &a.space, given[1].parse().unwrap());
        if version != "0.3.1" {
            call("CHECK").key("prevResult", reply).succeed();
        }
        call("DEL").variable("CNI_NETNS", "").succeed();
        call("DEL").succeed();
        assert!(reserved(&host).is_empty());
    }
}

#[test]
fn its_addresses_are_released_where_the_configuration_has_changed_by_del() {
    let host = Host::new("changed");
    let a = host.container("a");
    host.call("ADD", Some(&a)).key("ipam", host_local(&host)).version("1.0.0").succeed();
    assert_eq!(reserved(&host).len(), 2);
    host.call("DEL", Some(&a)).key("name", json!("renamed")).succeed();
    assert!(reserved(&host).is_empty());
}

#[test]
fn a_failure_behind_the_lease_gives_it_back() {
    let host = Host::new("give-back");
    let a = host.container("a");
    a.space.succeed("ip link add eth0 type veth peer name other");
    let call = host.call("ADD", Some(&a)).key("ipam", host_local(&host)).version("1.0.0");
    call.refused(102);
    assert!(reserved(&host).is_empty() && !host.record(&a).exists());
    let wrong = json!({"type": "host-local", "dataDir": scratch(&host, "host-local")});
    let call = host.call("ADD", Some(&a)).key("ipam", wrong).version("1.0.0");
    // host-local's own code for it.
    call.refused(999);
    assert!(!host.record(&a).exists());
}

#[test]
fn one_that_fails_is_told_to_delete() {
    let host = Host::new("told");
    let a = host.container("a");
    let dir = scratch(&host, "plugins");
    for (script, code) in [
        ("echo garbage", 6),
        ("echo null", 6),
        (r#"echo '{"ips":[]}'"#, 6),
        (r#"echo '{"code":42,"msg":"no"}'; exit 1"#, 42),
        ("exit 1", 5),
    ] {
        let calls = dir.join("calls");
        let text = format!(
            "#!/bin/sh\ncat > /dev/null; echo $CNI_COMMAND $CNI_CONTAINERID >> {}\n\
             [ $CNI_COMMAND = ADD ] || exit 0\n{script}\n",
            calls.display()
        );
        fs::write(dir.join("broken"), text).unwrap();
        fs::set_permissions(dir.join("broken"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.to_str().unwrap();
        let call = host.call("ADD", Some(&a)).key("ipam", json!({"type": "broken"}));
        call.variable("CNI_PATH", path).refused(code);
        assert_eq!(fs::read_to_string(&calls).unwrap(), "ADD a\nDEL a\n", "{script}");
        fs::remove_file(&calls).unwrap();
        assert!(!host.record(&a).exists());
        assert_eq!(host.node.links(), ["lo"]);
    }
}

#[test]
fn one_that_hangs_holds_status_for_two_seconds() {
    let host = Host::new("hanging");
    let dir = scratch(&host, "plugins");
    fs::write(dir.join("sleeper"), "#!/bin/sh\nexec sleep 15\n").unwrap();
    fs::set_permissions(dir.join("sleeper"), fs::Permissions::from_mode(0o755)).unwrap();
    let call = host.call("STATUS", None).key("ipam", json!({"type": "sleeper"}));
    let call = call.variable("CNI_PATH", dir.to_str().unwrap());
    let began = std::time::Instant::now();
    let message = call.refused_without_a_trace(50);
    assert!(message.contains("sleeper"), "{message}");
    assert!((2..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
