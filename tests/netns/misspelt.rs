//! Keys that nobody reads, plugins that are not there, and what a configuration of before has left: who looks is
//! told, and no call is refused for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::{Value, json};

use crate::{counted::Counted, plugin::Host};

/// A list of one network.
fn list(ipam: &Value) -> Value {
    let weir = json!({"type": "weir", "ipMasq": true, "ipam": ipam});
    json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": [weir]})
}

fn site(host: &Host) -> PathBuf {
    let dir = host.state_dir().with_file_name("site");
    fs::create_dir_all(dir.join("net.d")).unwrap();
    dir
}

fn weir(host: &Host, words: &str) -> Output {
    host.node.command(&format!("{} {words}", env!("CARGO_BIN_EXE_weir")))
}

/// What the doctor finds of one thing.
fn finding(host: &Host, bpf_dir: &Path, check: &str) -> Option<Value> {
    let (state, site) = (host.state_dir(), site(host));
    let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf_dir.display());
    let conf = format!("--conf-dir {}/net.d --bin-dir {}", site.display(), site.display());
    let said = weir(host, &format!("doctor -o json {places} {conf}")).stdout;
    let said: Value = serde_json::from_slice(&said).unwrap();
    said.as_array().unwrap().iter().find(|finding| finding["check"] == check).cloned()
}

#[test]
fn a_key_that_does_nothing_is_named_by_install_doctor_and_add() {
    let host = Host::new("misspelt");
    let site = site(&host);
    let range = json!({"subnet": "10.88.0.0/24", "rangeStrat": "10.88.0.9"});
    let typo = json!({"ranges": [[range]]});
    let conf = site.join("mine.conflist");
    fs::write(&conf, list(&typo).to_string()).unwrap();
    let dirs = format!("--bin-dir {0} --conf-dir {0}/net.d", site.display());
    let output = weir(&host, &format!("install --conf {} {dirs}", conf.display()));
    let said = String::from_utf8(output.stderr).unwrap();
    let named = "ipam.ranges[0][0].rangeStrat (rangeStart?)";
    assert!(output.status.success() && said.contains(named), "{said}");
    assert!(said.contains("mine.conflist has a key") && !said.contains("asks for"), "{said}");
    let said = finding(&host, &host.state_dir(), "conflist").unwrap();
    assert!(said["verdict"] == "warn" && said["says"].as_str().unwrap().ends_with(named), "{said}");

    // The pod starts; only what is nearly a key of Weir's is said.
    let a = host.container("a");
    let add = |key: &str| host.call("ADD", Some(&a)).key("ipam", typo.clone()).key(key, json!(1));
    let answer = add("toolOfOthers").answer();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(answer.stderr.matches("weir:").count(), 1, "{answer:?}");
    assert!(answer.stderr.contains(named), "{answer:?}");
    host.del(&a);
    let answer = host.call("ADD", Some(&a)).key("toolOfOthers", json!(1)).answer();
    assert_eq!((answer.code, &*answer.stderr), (Some(0), ""));
}

#[test]
fn a_plugin_that_is_not_there_is_named_by_install() {
    let host = Host::new("misspelt-type");
    let site = site(&host);
    let conf = site.join("mine.conflist");
    fs::write(&conf, list(&json!({"type": "whereabouts"})).to_string()).unwrap();
    let dirs = format!("--bin-dir {0} --conf-dir {0}/net.d", site.display());
    let install = || {
        let output = weir(&host, &format!("install --force --conf {} {dirs}", conf.display()));
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = install();
    let named = format!("asks for what is not in {}: whereabouts; no pod starts", site.display());
    assert!(said.contains(&named), "{said}");
    fs::copy(env!("CARGO_BIN_EXE_weir"), site.join("whereabouts")).unwrap();
    assert!(!install().contains("asks for"));
}

#[test]
fn a_subnet_that_a_wrong_configuration_left_is_named_by_doctor() {
    let host = Host::new("left-subnet");
    let site = site(&host);
    let a = host.container("a");
    let add = |subnet: &str| {
        let call = host.call("ADD", Some(&a)).key("ipMasq", json!(true));
        call.key("ipam", json!({"subnet": subnet})).succeed();
    };
    let conf = list(&json!({"subnet": "10.88.0.0/24"}));
    fs::write(site.join("net.d/10-weir.conflist"), conf.to_string()).unwrap();
    let found = || finding(&host, &host.state_dir(), "masquerade");
    add("10.88.0.0/24");
    assert_eq!(found(), None);
    host.del(&a);
    // The next pod of the network needs it.
    assert_eq!(found(), None);
    add("10.0.0.0/8");
    assert_eq!(found(), None);
    host.del(&a);
    let set = || host.node.succeed("nft list set inet weir masquerade4");
    assert!(set().contains("10.0.0.0/8"), "{}", set());
    let said = found().unwrap();
    assert!(said["says"].as_str().unwrap().ends_with(": 10.0.0.0/8"), "{said}");
    assert_eq!((&said["verdict"], &said["mend"]), (&json!("warn"), &json!("weir reconcile")));
    assert_eq!(host.reconcile(), ["masquerade 10.0.0.0/8"]);
    assert_eq!(found(), None);
}

#[test]
fn pods_without_a_record_are_named_by_doctor() {
    let counted = Counted::new("no-record");
    let host = &counted.host;
    let [a, b] = ["a", "b"].map(|id| host.container(id));
    counted.call("ADD", Some(&a), "clsact").succeed();
    let found = || finding(host, &counted.bpffs.join("weir"), "records");
    assert_eq!(found(), None);
    // Behind another plugin only the maps know it.
    let netns = b.space.path().to_str().unwrap().to_owned();
    host.node.succeed(&format!("ip link add vethx type veth peer name eth0 netns {netns}"));
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
    });
    counted.call("ADD", Some(&b), "clsact").key("prevResult", before).without("ipam").succeed();
    assert_eq!(found(), None);
    let aside = host.state_dir().with_file_name("aside");
    fs::rename(host.state_dir(), &aside).unwrap();
    let said = found().unwrap();
    let named = "container a interface eth0, container b interface eth0";
    assert!(said["verdict"] == "warn" && said["says"].as_str().unwrap().ends_with(named), "{said}");
    assert!(said["mend"].as_str().unwrap().contains("--state-dir"), "{said}");
    fs::rename(&aside, host.state_dir()).unwrap();
    assert_eq!(found(), None);
}
