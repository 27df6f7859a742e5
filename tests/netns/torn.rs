//! Pins that somebody removed while others of their layout stay: it is said, and what was counted comes back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use libbpf_rs::{MapCore, MapHandle};
use serde_json::{Value, json};
use weir::telemetry::{pin, whole};

use crate::{
    counted::Counted,
    node::talk,
    plugin::{Call, Container, ips},
};

/// A node with a counted and limited pod, which has had traffic.
struct Torn {
    counted: Counted,
    pod: Container,
    reply: Value,
}

impl Torn {
    fn new(label: &str) -> Self {
        let counted = Counted::new(label);
        let pod = counted.host.container("a");
        let reply = limited(&counted, "ADD", &pod).succeed();
        let torn = Self { counted, pod, reply };
        torn.goes_on_counting();
        torn
    }

    fn bpf_dir(&self) -> PathBuf {
        self.counted.bpffs.join("weir")
    }

    fn dir(&self) -> PathBuf {
        pin::dir(&self.bpf_dir())
    }

    fn remove(&self, pins: &[&str]) {
        pins.iter().for_each(|pin| fs::remove_file(self.dir().join(pin)).unwrap());
    }

    /// A command with the node's own directories.
    fn command(&self, words: &str) -> Output {
        let (weir, state) = (env!("CARGO_BIN_EXE_weir"), self.counted.host.state_dir());
        let places = format!("--state-dir {} --bpf-dir", state.display());
        let words = words.replace("weir ", &format!("{weir} "));
        self.counted.host.node.command(&format!("{words} {places} {}", self.bpf_dir().display()))
    }

    /// What a command that succeeds did about the pins, put back and begun anew.
    fn mended(&self, command: &str) -> [Value; 2] {
        let output = self.command(&format!("weir {command} -o json"));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let done: Value = serde_json::from_slice(&output.stdout).unwrap();
        ["back", "anew"].map(|what| {
            let mut pins: Vec<_> = done["pins"][what].as_array().unwrap().clone();
            pins.sort_by_key(|pin| pin.as_str().unwrap().to_owned());
            pins.into()
        })
    }

    fn check(&self) -> Call<'_> {
        limited(&self.counted, "CHECK", &self.pod).key("prevResult", self.reply.clone())
    }

    /// Another exchange is added to what there is.
    fn goes_on_counting(&self) {
        let before = self.counted.network();
        let ip = ips(&self.reply)[0].parse().unwrap();
        talk(&self.counted.host.node, &self.pod.space, ip);
        let after = self.counted.network();
        for (before, after) in before.iter().zip(after) {
            assert!(before[1] + 3 <= after[1], "{before:?} {after:?}");
        }
    }

    fn is_whole(&self) {
        for name in whole::MAPS.iter().chain(&whole::PROGRAMS) {
            assert!(self.dir().join(name).exists(), "{name}");
        }
        self.check().succeed();
    }
}

fn limited<'a>(counted: &'a Counted, verb: &str, pod: &Container) -> Call<'a> {
    let rate = json!({"ingressRate": 100_000_000, "egressRate": 100_000_000});
    let call = counted.call(verb, Some(pod), "clsact");
    call.key("runtimeConfig", json!({"bandwidth": rate}))
}

/// The number of a pinned map.
fn id(path: &Path) -> u32 {
    MapHandle::from_pinned_path(path).unwrap().info().unwrap().info.id
}

#[test]
fn whichever_pin_is_gone_it_is_named_and_reconcile_puts_it_back() {
    let torn = Torn::new("torn-each");
    let doctor = || -> Option<Value> {
        let said: Value =
            serde_json::from_slice(&torn.command("weir doctor -o json").stdout).unwrap();
        said.as_array().unwrap().iter().find(|finding| finding["check"] == "pins").cloned()
    };
    assert_eq!(doctor(), None);
    for name in whole::MAPS.iter().chain(&whole::PROGRAMS) {
        let path = torn.dir().join(name);
        let is_map = whole::MAPS.contains(name);
        let before = is_map.then(|| id(&path));
        torn.remove(&[name]);
        let finding = doctor().unwrap();
        assert_eq!(finding["verdict"], "warn", "{finding}");
        assert!(finding["says"].as_str().unwrap().ends_with(&format!("/{name}")), "{finding}");
        assert!(finding["mend"].as_str().unwrap().contains("weir reconcile"), "{finding}");
        assert_eq!(torn.mended("reconcile"), [json!([name]), json!([])]);
        // The very map, with all that is in it.
        assert_eq!(is_map.then(|| id(&path)), before, "{name}");
        torn.is_whole();
        torn.goes_on_counting();
        assert_eq!(doctor(), None, "{name}");
    }
}

#[test]
fn reload_puts_them_back_too_and_pods_says_what_is_missing() {
    let torn = Torn::new("torn-reload");
    torn.remove(&["attachments", "counters", "weir_sweep"]);
    let output = torn.command("weir pods");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("/counters"), "{said}");
    assert!(said.contains("weir reconcile puts them back") && !said.contains("from 0"), "{said}");
    let back = json!(["attachments", "counters", "weir_sweep"]);
    assert_eq!(torn.mended("reload"), [back, json!([])]);
    torn.is_whole();
    torn.goes_on_counting();
    assert_eq!(torn.mended("reload"), [json!([]), json!([])]);
    assert!(torn.command("weir pods").stderr.is_empty());
}

#[test]
fn an_add_puts_back_what_it_needs_and_the_pods_before_it_are_counted_on() {
    for name in ["weir_to_pod", "attachments", "limits", "weir_limit_to"] {
        let torn = Torn::new("torn-add");
        torn.remove(&[name, "counters"]);
        let b = torn.counted.host.container("b");
        limited(&torn.counted, "ADD", &b).succeed();
        torn.is_whole();
        limited(&torn.counted, "DEL", &b).succeed();
        torn.goes_on_counting();
    }
}

#[test]
fn what_no_program_has_any_more_begins_anew_and_the_rest_goes_on() {
    for (lost, label) in [("counters", "torn-anew"), ("attachments", "torn-lost")] {
        let torn = Torn::new(label);
        let before = torn.counted.network();
        torn.remove(&whole::PROGRAMS);
        torn.remove(&[lost]);
        assert_eq!(torn.mended("reconcile"), [json!(whole::PROGRAMS), json!([lost])]);
        torn.is_whole();
        let after = torn.counted.network();
        assert!(before.iter().zip(after).all(|(before, after)| before[1] <= after[1]), "{lost}");
        torn.goes_on_counting();
    }
}

#[test]
fn an_add_says_what_had_to_begin_anew() {
    let torn = Torn::new("torn-said");
    torn.remove(&whole::PROGRAMS);
    torn.remove(&["histograms"]);
    let b = torn.counted.host.container("b");
    let said = limited(&torn.counted, "ADD", &b).answer();
    assert_eq!(said.code, Some(0), "{said:?}");
    let anew = "weir: maps that no program had any more are made anew, and empty: histograms";
    assert!(said.stderr.lines().any(|line| line == anew), "{said:?}");
    let back = "weir: pins that were missing are there again: weir_from_pod, ";
    assert!(said.stderr.contains(back), "{said:?}");
    torn.is_whole();
    limited(&torn.counted, "DEL", &b).succeed();
}

#[test]
fn without_the_privilege_nothing_begins_anew() {
    let torn = Torn::new("torn-unit");
    let counters = id(&torn.dir().join("counters"));
    let reconcile = "setpriv --bounding-set -sys_admin weir reconcile";
    // A program is loaded as ever.
    torn.remove(&["weir_sweep"]);
    assert!(torn.command(reconcile).status.success());
    torn.is_whole();
    torn.remove(&["counters"]);
    let output = torn.command(reconcile);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_SYS_ADMIN: run weir reconcile"), "{said}");
    assert!(!torn.dir().join("counters").exists());
    torn.mended("reconcile");
    assert_eq!(id(&torn.dir().join("counters")), counters);
}

#[test]
fn an_uninstallation_finds_the_hooks_all_the_same() {
    for lost in [&["attachments"][..], &["attachments", "weir_from_pod", "weir_to_pod"], &[]] {
        let torn = Torn::new("torn-uninstall");
        let link = torn.reply["interfaces"][0]["name"].as_str().unwrap();
        let counting = || {
            let shown = ["ingress", "egress"].map(|side| {
                let words = format!("tc filter show dev {link} {side} pref 49152");
                torn.counted.host.node.succeed(&words)
            });
            shown.iter().filter(|shown| shown.contains("weir_")).count()
        };
        assert_eq!(counting(), 2);
        if lost.is_empty() {
            fs::remove_dir_all(torn.bpf_dir()).unwrap();
        } else {
            torn.remove(lost);
        }
        let nowhere = torn.counted.host.state_dir().with_file_name("nowhere");
        let words = format!("weir uninstall --bin-dir {0} --conf-dir {0}", nowhere.display());
        let output = torn.command(&words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(counting() == 0 && !torn.bpf_dir().exists(), "{lost:?}");
    }
}
