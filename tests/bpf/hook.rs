//! Hooking and unhooking: what a foreign qdisc, a missing device or a detached link does to it.

use std::process::Command;

use weir::{
    error::Kind,
    telemetry::{self, Choice, Identity, Mode},
};

use crate::kernel::Kernel;

/// Runs a command in the test's namespaces.
fn run(words: &str) -> String {
    let mut parts = words.split(' ');
    let output = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A veth whose first end is named `v0`; its index.
fn veth() -> u32 {
    run("ip link add v0 type veth peer name v1");
    let link: serde_json::Value = serde_json::from_str(&run("ip -j link show dev v0")).unwrap();
    u32::try_from(link[0]["ifindex"].as_u64().unwrap()).unwrap()
}

fn attach(
    kernel: &Kernel,
    choice: Choice,
    ifindex: u32,
) -> weir::error::Result<telemetry::Attached> {
    let identity = Identity { pod: "other".into(), ..Default::default() };
    let intent = telemetry::intend(choice);
    telemetry::attach(&kernel.bpf_dir(), choice, ifindex, &identity, intent, |_| Ok(()))
}

#[test]
fn beside_an_ingress_qdisc_auto_takes_tcx_and_clsact_is_refused() {
    let kernel = Kernel::new();
    let ifindex = veth();
    run("tc qdisc add dev v0 ingress");
    let refused = attach(&kernel, Choice::Clsact, ifindex).unwrap_err();
    assert_eq!(refused.kind(), Kind::Telemetry);
    assert!(refused.to_string().contains("ingress qdisc"), "{refused}");
    assert_eq!(run("tc filter show dev v0 ingress"), "");
    assert_eq!(kernel.snapshot().pods.len(), 1, "only the pod of the test itself");

    let attached = attach(&kernel, Choice::Auto, ifindex).unwrap();
    assert_eq!(attached.mode, Mode::Tcx);
    telemetry::verify(&kernel.bpf_dir(), ifindex, &attached).unwrap();
    assert!(run("tc qdisc show dev v0").contains("ingress"), "the foreign qdisc stays");
    // The links' device goes: their pins stay, and say nothing.
    run("ip link del v0");
    let gone = telemetry::verify(&kernel.bpf_dir(), ifindex, &attached).unwrap_err();
    assert_eq!(gone.kind(), Kind::Difference);
    telemetry::detach(&kernel.bpf_dir(), "", &attached, None).unwrap();
    assert_eq!(std::fs::read_dir(kernel.bpf_dir().join("links")).unwrap().count(), 0);
}

#[test]
fn a_filter_that_runs_another_program_is_a_difference() {
    let kernel = Kernel::new();
    let ifindex = veth();
    let attached = attach(&kernel, Choice::Clsact, ifindex).unwrap();
    telemetry::verify(&kernel.bpf_dir(), ifindex, &attached).unwrap();
    for side in ["ingress", "egress"] {
        let shown = run(&format!("tc filter show dev v0 {side}"));
        let program = if side == "ingress" { "weir_from_pod" } else { "weir_to_pod" };
        assert!(shown.contains(program), "{shown}");
    }
    run("tc filter del dev v0 egress");
    let gone = telemetry::verify(&kernel.bpf_dir(), ifindex, &attached).unwrap_err();
    assert_eq!(gone.kind(), Kind::Difference);
    telemetry::detach(&kernel.bpf_dir(), "", &attached, Some(ifindex)).unwrap();
    assert_eq!(run("tc filter show dev v0 ingress"), "");
}

#[test]
fn a_failed_attach_leaves_no_registration() {
    let kernel = Kernel::new();
    for choice in [Choice::Auto, Choice::Clsact, Choice::Tcx] {
        let refused = attach(&kernel, choice, 9999).unwrap_err();
        assert_eq!(refused.kind(), Kind::Telemetry);
        assert_eq!(kernel.snapshot().pods.len(), 1, "only the pod of the test itself");
    }
}
