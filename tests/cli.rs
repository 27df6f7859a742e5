//! The binary as a runtime starts it: environment and stdin in, one JSON object and an exit status
//! out. Nothing in here needs root, because all of it is refused (or answered) before the kernel is
//! touched.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

/// A call for an attachment that exists nowhere, with a state dir that nothing must appear in.
struct Call {
    variables: Vec<(&'static str, String)>,
    stdin: Vec<u8>,
    state_dir: PathBuf,
}

impl Call {
    fn new(verb: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("weir-cli-{}-{number}", std::process::id());
        let state_dir = std::env::temp_dir().join(name);
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/no-such-namespace"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/nowhere"),
        ];
        let variables = variables.map(|(name, value)| (name, value.to_owned())).to_vec();
        let mut call = Self { variables, stdin: Vec::new(), state_dir };
        call.stdin = call.conf().to_string().into_bytes();
        call
    }

    fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "n", "type": "weir",
            "ipam": {"ranges": [[{"subnet": "10.0.0.0/24"}]]},
            "stateDir": self.state_dir, "bpfDir": self.state_dir.join("bpf"),
        })
    }

    /// With these keys changed; `null` takes a key away.
    fn keys(mut self, changes: Value) -> Self {
        let mut conf = self.conf();
        for (key, value) in changes.as_object().unwrap() {
            conf[key] = value.clone();
        }
        self.stdin = conf.to_string().into_bytes();
        self
    }

    fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
        self
    }

    fn output(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A call that refuses to read on closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        child.wait_with_output().unwrap()
    }

    /// The error object of a call that must fail and leave nothing behind.
    fn refused(&self, code: u32) -> Value {
        let output = self.output();
        let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|err| {
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            unreachable!("{err}: stdout {stdout:?}, stderr {stderr:?}")
        });
        assert_eq!(output.status.code(), Some(1), "{object}");
        assert_eq!(object["code"], code, "{object}");
        assert!(object["cniVersion"].is_string(), "{object}");
        assert!(!self.state_dir.exists(), "{object}");
        object
    }

    /// The message of a call that must fail.
    fn message(&self, code: u32) -> String {
        self.refused(code)["msg"].as_str().unwrap().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const VERBS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

#[test]
fn without_a_verb_it_explains_itself_on_stderr() {
    for verb in ["", "absent"] {
        let mut call = Call::new("");
        call.variables.retain(|(name, _)| verb.is_empty() || *name != "CNI_COMMAND");
        let output = call.output();
        assert!(output.status.success() && output.stdout.is_empty());
        assert!(text(&output.stderr).contains("CNI plugin"), "{}", text(&output.stderr));
    }
}

#[test]
fn version_needs_only_the_command_and_repeats_the_version_it_is_given() {
    let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let dummies =
        Call::new("VERSION").variable("CNI_CONTAINERID", "").variable("CNI_NETNS", "dummy");
    for (stdin, echoed) in [
        ("", "1.1.0"),
        ("not json", "1.1.0"),
        ("{}", "1.1.0"),
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9","name":"../x"}"#, "9.9.9"),
    ] {
        let output = dummies.stdin_of(stdin).output();
        assert!(output.status.success());
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(reply, json!({"cniVersion": echoed, "supportedVersions": all}));
    }
}

#[test]
fn version_by_hand_has_the_layout_of_the_maps_below_it() {
    let said = |flag: &str| {
        let weir = Command::new(env!("CARGO_BIN_EXE_weir")).arg(flag).output().unwrap();
        assert!(weir.status.success() && weir.stderr.is_empty());
        text(&weir.stdout)
    };
    let (version, layout) = (env!("CARGO_PKG_VERSION"), env!("WEIR_SCHEMA"));
    assert_eq!(said("-V"), format!("weir {version}\n"));
    assert_eq!(said("--version"), format!("weir {version}\nlayout of the maps: {layout}\n"));
}

impl Call {
    fn stdin_of(&self, text: &str) -> Self {
        let (variables, state_dir) = (self.variables.clone(), self.state_dir.clone());
        Self { variables, state_dir, stdin: text.into() }
    }
}

#[test]
fn undecodable_stdin_is_code_6_for_every_verb() {
    for verb in VERBS {
        for stdin in ["", "{", "[]", "null", "\"x\"", "{} trailing"] {
            Call::new(verb).stdin(stdin).refused(6);
        }
        Call::new(verb).stdin(vec![b'['; 200_000]).refused(6);
        Call::new(verb).stdin([0xff, 0xfe, b'{', b'}']).refused(6);
    }
}

#[test]
fn endless_stdin_is_code_5_in_bounded_memory() {
    let message = Call::new("ADD").stdin(vec![b' '; 8 << 20]).message(5);
    assert!(message.contains("1048576"), "{message}");
}

#[test]
fn missing_variables_are_code_4_and_named_together() {
    for (verb, missing) in [
        ("ADD", "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"),
        ("CHECK", "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"),
        ("DEL", "[CNI_CONTAINERID,CNI_IFNAME]"),
    ] {
        let mut call = Call::new(verb);
        call.variables.truncate(1);
        let message = call.message(4);
        assert!(message.contains(missing), "{message}");
        let empty = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]
            .into_iter()
            .fold(Call::new(verb), |call, name| call.variable(name, ""));
        assert!(empty.message(4).contains(missing));
    }
}

#[test]
fn bad_names_and_unknown_verbs_are_code_4() {
    for verb in ["add", "UPDATE", "../ADD"] {
        assert!(Call::new(verb).message(4).contains(verb));
    }
    for verb in ["ADD", "DEL", "CHECK"] {
        for (name, value) in [
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_CONTAINERID", ".a"),
            ("CNI_IFNAME", "../../etc"),
            ("CNI_IFNAME", "much-too-long-for-the-kernel"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", ".."),
        ] {
            let message = Call::new(verb).variable(name, value).message(4);
            assert!(message.contains(name) && message.contains(value), "{message}");
        }
    }
    let message = Call::new("ADD").variable("CNI_ARGS", "IgnoreUnknown=1;IP=nowhere").message(4);
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn foreign_versions_are_code_1_naming_both_sides() {
    for verb in VERBS {
        for version in ["0.1.0", "0.2.0", "1.2.0", "2.0.0", "x"] {
            let message = Call::new(verb).keys(json!({"cniVersion": version})).message(1);
            assert!(message.contains(version) && message.contains("0.3.0, 0.3.1"), "{message}");
        }
        assert!(Call::new(verb).keys(json!({"cniVersion": null})).message(1).contains("0.1.0"));
    }
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")] {
        let error = Call::new(verb).keys(json!({"cniVersion": version})).refused(1);
        assert_eq!(error["cniVersion"], version);
        assert!(error["msg"].as_str().unwrap().contains(verb), "{error}");
    }
}

#[test]
fn bad_or_missing_names_are_code_7() {
    for verb in VERBS {
        for name in [json!(null), json!(""), json!("../x"), json!("a/b"), json!(1)] {
            Call::new(verb).keys(json!({"name": name})).refused(7);
        }
    }
}

#[test]
fn a_known_key_with_a_wrong_value_is_code_7_naming_both() {
    for (keys, key, value) in [
        (json!({"mtu": "big"}), "mtu", "big"),
        (json!({"mtu": 1_000_000}), "mtu", "1000000"),
        (json!({"ipMasq": "yes"}), "ipMasq", "yes"),
        (json!({"ipam": {"ranges": [[{"subnet": "10.0.0.0/99"}]]}}), "subnet", "10.0.0.0/99"),
        (json!({"ipam": {"type": "../evil"}}), "ipam.type", "../evil"),
        (json!({"telemetry": {"attach": "xdp"}}), "telemetry.attach", "xdp"),
        (json!({"stateDir": "relative"}), "stateDir", "relative"),
        (json!({"bpfDir": "/a/../b"}), "bpfDir", "/a/../b"),
        (json!({"runtimeConfig": {"IPs": ["x"]}}), "runtimeConfig.ips", "x"),
        (json!({"prevResult": 7}), "prevResult", "7"),
        (json!({"prevResult": {"dns": {}}}), "prevResult", "dns"),
    ] {
        let message = Call::new("ADD").keys(keys).message(7);
        assert!(message.contains(key) && message.contains(value), "{message}");
    }
    Call::new("ADD").keys(json!({"ipam": null})).refused(7);
    Call::new("CHECK").refused(7);
}

#[test]
fn a_missing_ipam_plugin_is_named() {
    let call = || Call::new("STATUS").keys(json!({"ipam": {"type": "no-such-ipam"}}));
    assert!(call().message(7).contains("no-such-ipam"));
    assert!(call().variable("CNI_PATH", "").message(4).contains("CNI_PATH"));
}

#[test]
fn the_namespace_is_checked_before_anything_is_made() {
    for (netns, why) in [
        ("/run/netns/no-such-namespace", "no-such-namespace"),
        ("/etc/passwd", "/etc/passwd"),
        ("/tmp", "/tmp"),
        ("/proc/self/ns/net", "own"),
    ] {
        let message = Call::new("ADD").variable("CNI_NETNS", netns).message(8);
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn del_of_nothing_is_success_however_odd_its_namespace() {
    for netns in ["", "/run/netns/no-such-namespace", "/etc/passwd", "/tmp", "/proc/self/ns/net"] {
        for version in ["0.3.0", "0.4.0", "1.1.0"] {
            let call = Call::new("DEL").variable("CNI_NETNS", netns);
            let output = call.keys(json!({"cniVersion": version, "mtu": "wrong"})).output();
            assert!(output.status.success(), "{}", text(&output.stdout));
            assert!(output.stdout.is_empty() && output.stderr.is_empty());
        }
    }
}

#[test]
fn every_kind_of_error_is_one_object_in_the_version_that_was_asked_for() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let error = Call::new("ADD").keys(json!({"cniVersion": version, "mtu": -1})).refused(7);
        assert_eq!(error["cniVersion"], version);
    }
}

#[test]
fn more_ranges_than_anybody_needs_are_refused_at_once() {
    let sets: Vec<_> = (0..30_000)
        .map(|at| json!([{"subnet": format!("10.{}.{}.0/30", at / 256, at % 256)}]))
        .collect();
    let began = std::time::Instant::now();
    let message = Call::new("ADD").keys(json!({"ipam": {"ranges": sets}})).message(7);
    assert!(message.contains("30000 ranges are more"), "{message}");
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
