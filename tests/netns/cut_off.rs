//! Somebody deletes the interface of a pod that lives: all who look say so, and none that a command mends it.

use std::{fs::File, process::Command};

use serde_json::{Value, json};

use crate::{
    counted::Counted,
    node::talk,
    plugin::{Container, ips},
};

#[test]
fn a_pod_whose_interface_was_deleted_is_said_to_be_made_anew() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new("cut-off");
        let host = &counted.host;
        let [a, b] = ["a", "b"].map(|id| host.container(id));
        let [reply, _] = [&a, &b].map(|pod| counted.call("ADD", Some(pod), attach).succeed());
        let name = reply["interfaces"][0]["name"].as_str().unwrap();
        let weir = |words: &str| {
            let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
            let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
            let weir = env!("CARGO_BIN_EXE_weir");
            let output = host.node.command(&format!("{weir} {words} -o json {places}"));
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            (output.status.code(), said, String::from_utf8(output.stderr).unwrap())
        };
        let states = || -> Vec<Value> {
            let (_, pods, _) = weir("pods");
            pods.as_array().unwrap().iter().map(|pod| pod["telemetry"].clone()).collect()
        };
        assert_eq!(states(), ["counted", "counted"]);
        host.node.succeed(&format!("ip link del {name}"));
        assert_eq!(states(), ["disconnected", "counted"], "{attach}");
        let anew = "let their runtime make them anew";
        let (_, _, said) = weir("pods");
        assert!(said.contains("gone from the node") && said.contains(anew), "{said}");
        let (_, findings, _) = weir("doctor");
        let mut findings = findings.as_array().unwrap().iter();
        let finding = findings.find(|finding| finding["check"] == "pods").unwrap();
        let says = finding["says"].as_str().unwrap();
        assert!(
            finding["verdict"] == "warn" && says.ends_with("network with them: a"),
            "{finding}"
        );
        assert!(finding["mend"].as_str().unwrap().starts_with(anew), "{finding}");
        let (status, done, said) = weir("reconcile");
        let left = done["left"][0].as_str().unwrap();
        assert!(
            left.starts_with(&format!("interface {name} of container a interface eth0 is gone"))
        );
        assert!(left.contains("make the pod anew") && done["dropped"] == json!([]), "{done}");
        assert_eq!((status, said.matches("left:").count()), (Some(0), 1), "{said}");
        let (_, done, said) = weir("reload");
        assert_eq!(done["uncounted"][0]["telemetry"], "disconnected", "{done}");
        assert!(said.contains(anew) && !said.contains("weir reconcile puts"), "{said}");
        let noted = counted.call("STATUS", None, attach).answer().stderr;
        assert!(noted.contains(&format!("interface {name} of container a")), "{noted}");
        counted.check(&a, attach, &reply).refused(103);
        // So it is made anew.
        let again = |pod: &Container| {
            counted.call("DEL", Some(pod), attach).succeed();
            counted.call("ADD", Some(pod), attach).succeed()
        };
        let reply = again(&a);
        counted.check(&a, attach, &reply).succeed();
        let (_, done, _) = weir("reconcile");
        assert_eq!(done["left"], json!([]));
    }
}

/// Somebody gives it another name: it is known by its number and its alias.
#[test]
fn a_pod_whose_interface_was_renamed_is_as_it_was() {
    for attach in ["clsact", "tcx"] {
        let counted = Counted::new("renamed");
        let host = &counted.host;
        let a = host.container("a");
        let reply = counted.call("ADD", Some(&a), attach).succeed();
        let name = reply["interfaces"][0]["name"].as_str().unwrap();
        let ip = ips(&reply)[0].parse().unwrap();
        let weir = |words: &str| -> Value {
            let (state, bpf) = (host.state_dir(), counted.bpffs.join("weir"));
            let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
            let weir = env!("CARGO_BIN_EXE_weir");
            let output = host.node.command(&format!("{weir} {words} -o json {places}"));
            serde_json::from_slice(&output.stdout).unwrap()
        };
        host.node.succeed(&format!("ip link set {name} name other0"));
        let is_as_it_was = || {
            assert_eq!(weir("pods")[0]["telemetry"], "counted", "{attach}");
            counted.check(&a, attach, &reply).succeed();
            let before = counted.network();
            talk(&host.node, &a.space, ip);
            let after = counted.network();
            assert!(
                before.iter().zip(after).all(|(b, a)| b[1] + 3 <= a[1]),
                "{before:?} {after:?}"
            );
            let done = weir("reconcile");
            assert_eq!(
                (&done["dropped"], &done["mended"], &done["left"]),
                (&json!([]), &json!([]), &json!([])),
                "{done}"
            );
        };
        is_as_it_was();
        let noted = counted.call("STATUS", None, attach).answer().stderr;
        assert!(!noted.contains("is gone"), "{noted}");
        // Its hooks come back there as anywhere.
        if attach == "clsact" {
            host.node.succeed("tc qdisc del dev other0 clsact");
            assert_eq!(weir("pods")[0]["telemetry"], "detached");
            assert_eq!(weir("reconcile")["mended"].as_array().unwrap().len(), 1);
            is_as_it_was();
        }
        // A process may hold a namespace whose path is gone.
        let held = File::open(a.space.path()).unwrap();
        let path = a.space.path();
        let netns = path.file_name().unwrap().to_str().unwrap();
        assert!(Command::new("ip").args(["netns", "del", netns]).status().unwrap().success());
        let done = weir("reconcile");
        assert_eq!(done["dropped"], json!([]), "{done}");
        assert_eq!(host.node.links(), ["lo", "other0"]);
        counted.call("DEL", Some(&a), attach).succeed();
        assert_eq!(host.node.links(), ["lo"]);
        drop(held);
    }
}
