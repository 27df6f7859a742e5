//! containerd on a node, and the pods that it is asked for.

use std::{fs, path::Path, process::Command};

use crate::{
    cri::{Cri, Pod},
    image,
    node::{Daemon, succeed, wait_for},
};

/// Where it listens.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/run/containerd.toml";

/// Starts it, with the image in its store. Besides the network of `/run/cni/net.d` it has these handlers with a
/// directory of network configurations each.
pub fn start(handlers: &[(&str, &str)]) -> Daemon {
    // The tests' machines lack CAP_SYS_RESOURCE; and what is off here needs kernel modules of its own.
    let mut config = format!(
        r#"
version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni/bin"
    conf_dir = "/run/cni/net.d"
"#,
        image::NAME
    );
    // What says nothing of runc would take the place of the handler that there is by default.
    let default = [("runc", "")];
    let all = handlers.iter().chain(if handlers.is_empty() { &[][..] } else { &default });
    for (name, conf_dir) in all {
        config += &format!(
            "  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}]\n    \
             runtime_type = \"io.containerd.runc.v2\"\n    cni_conf_dir = {conf_dir:?}\n"
        );
    }
    fs::write(CONFIG, config).unwrap();
    let mut command = Command::new("containerd");
    let daemon = Daemon::start(command.args(["--config", CONFIG]), "/run/containerd.log");
    let cri = Cri { socket: Path::new(SOCKET) };
    let log = || fs::read_to_string("/run/containerd.log").unwrap();
    assert!(wait_for(|| cri.conditions().ok()).is_some(), "{}", log());
    let archive = image::archive(Path::new("/run"));
    succeed(&format!("ctr -n k8s.io images import {}", archive.display()));
    daemon
}

/// A pod of the namespace `shop`.
pub fn pod<'a>(name: &'a str, ports: &'a [(u16, u16)], cgroup: &'a str) -> Pod<'a> {
    let uid = "2f1d6a1c-0000-4000-8000-000000000000";
    Pod { namespace: "shop", name, uid, ports, annotations: &[], cgroup, handler: "" }
}

/// What the kubelet does at a pod's end: it stops a sandbox more than once.
pub fn end(cri: &Cri<'_>, sandbox: &str) {
    cri.stop(sandbox).unwrap();
    cri.stop(sandbox).unwrap();
    assert!(!cri.status(sandbox).unwrap().0);
    cri.remove(sandbox).unwrap();
    cri.remove(sandbox).unwrap();
}
