//! Records as versions before this one wrote them: every verb, and reconcile, goes by them as by today's.
//!
//! `records/` has one of each shape that there was: the first; the first with host ports, before there were
//! limits; and one behind another plugin, before that one's addresses were shown.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    counted::Counted,
    plugin::{Call, Container, ips},
};

const FIRST: &str = include_str!("records/first.json");
const PORTS: &str = include_str!("records/ports.json");
const CHAINED: &str = include_str!("records/chained.json");

/// What ends an attachment.
const ENDS: [&str; 3] = ["DEL", "GC", "reconcile"];

/// What a record says of its own node, boot, call and pod.
const OWN: [&str; 7] =
    ["bootId", "created", "netns", "hostIfname", "hostIfindex", "bpfDir", "telemetry"];

/// Puts a pod's record into the shape that it had then. All that both have says the same.
fn write_as_then(counted: &Counted, pod: &Container, shape: &str) {
    let path = counted.host.record(pod);
    let now: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut then: Value = serde_json::from_str(shape).unwrap();
    for key in OWN {
        // Their own keys, too, are today's.
        let (was, is) = (&then[key], &now[key]);
        let keys = |of: &Value| of.as_object().map(|of| of.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys(was), keys(is), "{key}");
        then[key] = is.clone();
    }
    assert_has(&now, &then);
    assert_ne!(now, then, "there is nothing in it that was otherwise then");
    fs::write(&path, then.to_string()).unwrap();
}

fn assert_has(now: &Value, then: &Value) {
    match then {
        Value::Object(then) => then.iter().for_each(|(key, then)| assert_has(&now[key], then)),
        _ => assert_eq!(now, then),
    }
}

fn weir(counted: &Counted, words: &str) -> Value {
    let (state, bpf) = (counted.host.state_dir(), counted.bpffs.join("weir"));
    let places = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
    let command = format!("{} {words} -o json {places}", env!("CARGO_BIN_EXE_weir"));
    serde_json::from_str(&counted.host.node.succeed(&command)).unwrap()
}

fn is_link(pin: &Path) -> bool {
    pin.parent().unwrap().ends_with("links")
}

/// A pod whose record is of then is as it was, and gets back the hooks that it lacks.
fn is_honoured<'a>(counted: &Counted, call: impl Fn(&str) -> Call<'a>, reply: &Value, link: &str) {
    let is_whole = || {
        call("CHECK").key("prevResult", reply.clone()).succeed();
        assert_eq!(weir(counted, "pods")[0]["telemetry"], "counted");
        let done = weir(counted, "reconcile");
        let nothing = json!([]);
        assert_eq!(
            (&done["dropped"], &done["mended"], &done["left"]),
            (&nothing, &nothing, &nothing),
            "{done}"
        );
    };
    is_whole();
    // However it is hooked.
    counted.host.node.command(&format!("tc qdisc del dev {link} clsact"));
    let links = counted.pins().into_iter().filter(|pin| is_link(pin));
    links.for_each(|link| fs::remove_file(link).unwrap());
    assert_eq!(weir(counted, "pods")[0]["telemetry"], "detached");
    let done = weir(counted, "reconcile");
    assert_eq!(done["mended"].as_array().unwrap().len(), 1, "{done}");
    is_whole();
}

/// Ends it, and forgets it.
fn end(counted: &Counted, pod: Container, how: &str, call: impl Fn(&str, &Container) -> Value) {
    match how {
        "DEL" => drop(call("DEL", &pod)),
        "GC" => {
            let gc = counted.call("GC", None, "clsact");
            gc.key("cni.dev/valid-attachments", json!([])).succeed();
        }
        _ => {
            counted.host.end(pod);
            let done = weir(counted, "reconcile");
            assert_eq!(done["dropped"][0]["what"], "attachment", "{done}");
        }
    }
    // The masquerade of a network's last pod stays until somebody reconciles.
    assert!(fs::read_dir(counted.host.state_dir().join("attachments")).unwrap().next().is_none());
    let done = weir(counted, "reconcile");
    let mut dropped = done["dropped"].as_array().unwrap().iter();
    assert!(dropped.all(|thing| thing["what"] == "masquerade"), "{how}: {done}");
}

#[test]
fn a_plumbed_pod_is_checked_mended_and_ended_by_its_record_of_then() {
    for (shape, attach) in [(FIRST, "clsact"), (PORTS, "tcx")] {
        for how in ENDS {
            let counted = Counted::new("then");
            let pod = counted.host.container("a");
            let call = |verb: &str, pod: &Container| {
                let call = counted.call(verb, Some(pod), attach).key("ipMasq", json!(true));
                let port = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
                let ports = if shape == PORTS { json!([port]) } else { json!([]) };
                call.key("runtimeConfig", json!({"portMappings": ports}))
            };
            let reply = call("ADD", &pod).succeed();
            let rules = || counted.host.node.succeed("nft list ruleset");
            let mapped = || rules().contains(&ips(&reply)[0]);
            assert_eq!(mapped(), shape == PORTS);
            write_as_then(&counted, &pod, shape);
            let link = reply["interfaces"][0]["name"].as_str().unwrap();
            is_honoured(&counted, |verb| call(verb, &pod), &reply, link);
            end(&counted, pod, how, |verb, pod| call(verb, pod).succeed());
            assert_eq!(counted.host.node.links(), ["lo"], "{how}");
            assert!(!mapped() && counted.host.leases("podnet").is_empty(), "{how}");
            assert!(!counted.pins().iter().any(|pin| is_link(pin)), "{how}");
        }
    }
}

#[test]
fn a_chained_pod_is_checked_mended_and_ended_by_its_record_of_then() {
    for how in ENDS {
        let counted = Counted::new("then-chained");
        let pod = counted.host.container("a");
        let netns = pod.space.path().to_str().unwrap().to_owned();
        let veth = format!("ip link add vethx type veth peer name eth0 netns {netns}");
        counted.host.node.succeed(&veth);
        let result = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "vethx"}, {"name": "eth0", "sandbox": netns}],
            "ips": [{"address": "10.77.0.2/24", "interface": 1}],
        });
        let call = |verb: &str, pod: &Container| {
            let call = counted.call(verb, Some(pod), "clsact").without("ipam");
            call.key("prevResult", result.clone())
        };
        call("ADD", &pod).succeed();
        write_as_then(&counted, &pod, CHAINED);
        is_honoured(&counted, |verb| call(verb, &pod), &result, "vethx");
        let stays = how != "reconcile";
        end(&counted, pod, how, |verb, pod| call(verb, pod).succeed());
        if stays {
            assert_eq!(counted.filters("vethx"), [0, 0], "{how}");
        }
        let pods = weir(&counted, "pods");
        assert!(pods.as_array().unwrap().iter().all(|pod| pod["telemetry"] == "deleted"), "{pods}");
    }
}
