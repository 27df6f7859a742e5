//! The files under `examples/` do what the documentation says they do. Others are tried elsewhere:
//! conflists by tests/demo.rs and tests/netns/example_lists.rs, what Prometheus and Grafana read by
//! tests/exporter.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

#[test]
fn the_unit_starts_a_command_that_exists() {
    let unit = fs::read_to_string("examples/weir-agent.service").unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = start.split(' ');
    assert_eq!(words.next(), Some("/opt/cni/bin/weir"), "where `make install` puts it");
    // Arguments before --help are still checked.
    let help = Command::new(env!("CARGO_BIN_EXE_weir")).args(words).arg("--help").output().unwrap();
    assert!(help.status.success(), "{}", String::from_utf8_lossy(&help.stderr));
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("units");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for unit in ["weir-agent.service", "weir-reconcile.service", "weir-reconcile.timer"] {
        let text = fs::read_to_string(Path::new("examples").join(unit)).unwrap();
        // It looks whether the executable is there.
        let file = dir.join(unit);
        fs::write(&file, text.replace("/opt/cni/bin/weir", env!("CARGO_BIN_EXE_weir"))).unwrap();
        command.arg(file);
    }
    let output = command.output().expect("systemd-analyze is missing: install systemd");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let ours: Vec<_> = said.lines().filter(|line| line.contains("weir")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn host_network_managers_are_told_of_our_interfaces_by_words_that_they_know() {
    for (file, wanted) in [
        ("10-weir.network", "[Match] Name=weir* [Link] Unmanaged=yes"),
        ("10-weir.link", "[Match] OriginalName=weir* [Link] NamePolicy=keep MACAddressPolicy=none"),
        ("networkmanager-weir.conf", "[device-weir] match-device=interface-name:weir* managed=0"),
    ] {
        let text = fs::read_to_string(Path::new("examples").join(file)).unwrap();
        let said: Vec<_> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(said.join(" "), wanted, "{file}");
    }
}

fn daemon_set() -> Value {
    serde_saphyr::from_str(&fs::read_to_string("examples/daemonset.yaml").unwrap()).unwrap()
}

/// Both kinds, the first ones first.
fn containers(daemon_set: &Value) -> Vec<&Value> {
    let pod = &daemon_set["spec"]["template"]["spec"];
    ["initContainers", "containers"].iter().flat_map(|kind| pod[kind].as_array().unwrap()).collect()
}

/// Fields of the API's types that the example uses: Kubernetes passes over a misspelt one, or refuses it.
const FIELDS: [(&str, &str); 9] = [
    ("", "apiVersion kind metadata spec"),
    ("/spec", "selector updateStrategy template"),
    ("/spec/updateStrategy", "type rollingUpdate"),
    (
        "/spec/template/spec",
        "priorityClassName hostNetwork automountServiceAccountToken enableServiceLinks \
         terminationGracePeriodSeconds nodeSelector tolerations initContainers containers volumes",
    ),
    ("container", "name image args env ports livenessProbe resources securityContext volumeMounts"),
    (
        "securityContext",
        "runAsUser privileged allowPrivilegeEscalation readOnlyRootFilesystem capabilities seccompProfile",
    ),
    ("capabilities", "add drop"),
    ("volumeMount", "name mountPath readOnly mountPropagation"),
    ("volume", "name hostPath"),
];

fn check_fields(kind: &str, object: &Value) {
    let (_, known) = FIELDS.iter().find(|(name, _)| *name == kind).unwrap();
    let known: Vec<_> = known.split_whitespace().collect();
    for field in object.as_object().unwrap().keys() {
        assert!(known.contains(&field.as_str()), "{kind}: {field}");
    }
}

#[test]
fn the_daemon_set_is_whole_and_asks_for_little() {
    let set = daemon_set();
    assert_eq!((&set["apiVersion"], &set["kind"]), (&json!("apps/v1"), &json!("DaemonSet")));
    for place in ["", "/spec", "/spec/updateStrategy", "/spec/template/spec"] {
        check_fields(place, set.pointer(place).unwrap());
    }
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    volumes.iter().for_each(|volume| check_fields("volume", volume));
    let mut added = Vec::new();
    for container in containers(&set) {
        check_fields("container", container);
        let context = &container["securityContext"];
        check_fields("securityContext", context);
        check_fields("capabilities", &context["capabilities"]);
        assert_eq!(context["privileged"], false);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        added.extend(context["capabilities"]["add"].as_array().into_iter().flatten());
        for mount in container["volumeMounts"].as_array().unwrap() {
            check_fields("volumeMount", mount);
            assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
        }
        let image = container["image"].as_str().unwrap();
        assert_eq!(image, concat!("weir:", env!("CARGO_PKG_VERSION")), "the image of this version");
    }
    assert_eq!(added, [&json!("BPF")]);
}

/// The container's command with its capabilities and no others, on this directory for what it mounts.
fn as_container(container: &Value, root: &Path) -> Command {
    let added = container["securityContext"]["capabilities"]["add"].as_array();
    let added: String = added
        .into_iter()
        .flatten()
        .map(|name| format!(",+{}", name.as_str().unwrap().to_lowercase()))
        .collect();
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--no-new-privs"]).arg(format!("--bounding-set=-all{added}"));
    command.arg(env!("CARGO_BIN_EXE_weir"));
    for argument in container["args"].as_array().unwrap() {
        let mounted = argument.as_str().unwrap().replace("/host", root.to_str().unwrap());
        command.arg(mounted.replace("$(NODE_IP):9920", "127.0.0.1:0"));
    }
    command
}

#[test]
fn what_the_daemon_set_runs_needs_no_more_than_it_has() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("daemon-set");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("opt/cni/bin")).unwrap();
    let set = daemon_set();
    let [install, agent] = containers(&set)[..] else { unreachable!() };
    let output = as_container(install, &root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (put, own) = (root.join("opt/cni/bin/weir"), env!("CARGO_BIN_EXE_weir"));
    assert!(fs::read(&put).unwrap() == fs::read(own).unwrap());

    let mut agent = as_container(agent, &root);
    agent.args(["--state-dir", "/run/weir", "--bpf-dir", "/sys/fs/bpf/weir"]);
    let mut child = agent.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let listening = said.any(|line| line.contains("listening on http://127.0.0.1:"));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(listening);
    // CAP_BPF is number 39.
    assert!(status.contains("CapBnd:\t0000008000000000"), "{status}");
}
