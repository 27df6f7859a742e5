//! The node of a test: with a bpffs of its own, and a look at everything that a call could leave.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use weir::telemetry::reader::Maps;

use crate::{
    plugin::{Call, Container, Footprint, Host},
    strike::{self, Course, Strike, Struck},
};

/// An IPAM plugin that keeps a file for each container, whose first letter the address is made of. It
/// refuses to give one twice, and to check one that it didn't give.
const KEEPER: &str = r#"#!/bin/sh
read -r conf
# Whoever called may have been killed before all was written.
case $conf in *'}') ;; *) exit 1 ;; esac
number=$(printf %d "'$CNI_CONTAINERID")
refuse() { echo "{\"code\": 120, \"msg\": \"keeper: $1\"}"; exit 1; }
case $CNI_COMMAND in
ADD)
    [ ! -e KEPT/$CNI_CONTAINERID ] || refuse "$CNI_CONTAINERID has one already"
    : > KEPT/$CNI_CONTAINERID
    echo "{\"ips\": [{\"address\": \"10.77.0.$number/24\"}, {\"address\": \"fd00:77::$number/64\"}]}" ;;
CHECK) [ -e KEPT/$CNI_CONTAINERID ] || refuse "$CNI_CONTAINERID has none" ;;
DEL) rm -f KEPT/$CNI_CONTAINERID ;;
GC)
    for file in KEPT/*; do
        case $conf in
        *"\"containerID\":\"${file##*/}\""*) ;;
        *) rm -f "$file" ;;
        esac
    done ;;
esac
"#;

/// A node on which calls are struck.
pub struct Ground {
    pub host: Host,
    bpffs: PathBuf,
    scratch: PathBuf,
    keys: Vec<(&'static str, Value)>,
    /// Directories of IPAM plugins, as `CNI_PATH` has them.
    cni_path: String,
    /// What the plugins before weir said of a container, by its id.
    before: BTreeMap<String, Value>,
}

/// All that there is.
#[derive(PartialEq)]
pub struct Sight {
    footprint: Footprint,
    pins: Vec<PathBuf>,
    counted: Vec<String>,
    ruleset: String,
}

impl Ground {
    /// A node whose pods have everything that weir does: two families, masquerade, a host port of
    /// TCP and of UDP, whose flows are forgotten, a limit, counting by `attach`.
    pub fn new(label: &str, attach: &str) -> Self {
        let host = Host::new(label);
        let name = host.node.path().file_name().unwrap().to_str().unwrap().to_owned();
        let [bpffs, scratch] =
            ["bpffs", "scratch"].map(|what| std::env::temp_dir().join(format!("{name}-{what}")));
        fs::create_dir(&bpffs).unwrap();
        fs::create_dir(&scratch).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let keys = vec![
            ("ipMasq", json!(true)),
            ("telemetry", json!({"required": true, "attach": attach})),
            ("bpfDir", json!(bpffs.join("weir"))),
        ];
        let cni_path = "/usr/lib/cni".to_owned();
        Self { host, bpffs, scratch, keys, cni_path, before: BTreeMap::new() }
    }

    /// The node, with another IPAM plugin.
    pub fn delegated(self) -> Self {
        let dir = self.host.state_dir().with_file_name("host-local");
        // Debian's host-local speaks no newer version.
        self.with("cniVersion", json!("1.0.0")).with(
            "ipam",
            json!({
                "type": "host-local", "dataDir": dir,
                "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            }),
        )
    }

    /// The node, with an IPAM plugin that knows GC, which Debian's don't.
    pub fn kept(mut self) -> Self {
        let kept = self.host.state_dir().with_file_name("kept");
        fs::create_dir(&kept).unwrap();
        let keeper = self.scratch.join("keeper");
        fs::write(&keeper, KEEPER.replace("KEPT", kept.to_str().unwrap())).unwrap();
        fs::set_permissions(&keeper, fs::Permissions::from_mode(0o755)).unwrap();
        self.cni_path = self.scratch.to_str().unwrap().to_owned();
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        self.with("ipam", json!({"type": "keeper", "routes": routes}))
    }

    /// The node, with one address for pods.
    pub fn cramped(self) -> Self {
        self.with("ipam", json!({"subnet": "10.88.0.0/30"}))
    }

    /// The node, with that key in every call.
    pub fn with(mut self, key: &'static str, value: Value) -> Self {
        self.keys.push((key, value));
        self
    }

    /// What the plugins before weir made for a container: a pair, which stays.
    pub fn chain(&mut self, container: &Container) {
        let netns = container.space.path().to_str().unwrap().to_owned();
        let name = format!("veth{}", container.id);
        self.host
            .node
            .succeed(&format!("ip link add {name} type veth peer name eth0 netns {netns}"));
        let result = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": name}, {"name": "eth0", "sandbox": netns}],
        });
        self.before.insert(container.id.clone(), result);
    }

    /// Forgets the programs and maps, as a reboot does.
    pub fn unload(&self) {
        let _ = fs::remove_dir_all(self.bpffs.join("weir"));
    }

    pub fn call(&self, verb: &str, container: Option<&Container>) -> Call<'_> {
        let mut call = self.host.call(verb, container).variable("CNI_PATH", &self.cni_path);
        if let Some(container) = container {
            if let Some(result) = self.before.get(&container.id) {
                call = call.key("prevResult", result.clone());
            }
            let port = 8000 + u16::from(container.id.as_bytes()[0]);
            let rate = 100_000_000;
            let runtime = json!({
                "portMappings": [
                    {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
                    {"hostPort": port, "containerPort": 80, "protocol": "udp"},
                ],
                "bandwidth": {
                    "ingressRate": rate, "ingressBurst": rate,
                    "egressRate": rate, "egressBurst": rate,
                },
            });
            call = call.key("runtimeConfig", runtime);
        }
        self.keys.iter().fold(call, |call, (key, value)| call.key(key, value.clone()))
    }

    /// Has `weir reconcile` drop what nobody owns.
    pub fn reconcile(&self) {
        let (state, bpf) = (self.host.state_dir(), self.bpffs.join("weir"));
        let dirs = format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display());
        let places = format!("{dirs} --cni-path {}", self.cni_path);
        self.host.reconcile_in(&places);
    }

    /// Makes the call under the strike.
    ///
    /// host-local is struck, too. Where it makes a reservation and is killed before it wrote whose that is, it
    /// never frees it (plugins#498), and nobody else can: such a one is no leftover of ours.
    pub fn strike(&self, strike: &Strike, call: Call<'_>) -> Struck {
        let struck = strike.on(call, &self.scratch);
        let reservations = self.host.state_dir().with_file_name("host-local").join("podnet");
        for file in fs::read_dir(reservations).into_iter().flatten().map(Result::unwrap) {
            let name = file.file_name().into_string().unwrap();
            let of_nobody = file.metadata().unwrap().len() == 0;
            if of_nobody && name.parse::<IpAddr>().is_ok() {
                fs::remove_file(file.path()).unwrap();
            }
        }
        struck
    }

    /// The system calls of the call, which is made and must succeed.
    pub fn course(&self, call: Call<'_>) -> Course {
        Course::of(call, &self.scratch)
    }

    /// As [`strike::leaves_the_wait_to_another`].
    pub fn leaves_the_wait_to_another(&self, call: Call<'_>) -> bool {
        strike::leaves_the_wait_to_another(call, &self.scratch)
    }

    pub fn see(&self) -> Sight {
        let counted = Maps::open(&self.bpffs.join("weir")).and_then(|maps| maps.snapshot());
        let living = counted.map(|snapshot| {
            let pods = snapshot.pods.into_values().filter(|pod| pod.deleted.is_none());
            pods.map(|pod| pod.container_id).collect()
        });
        Sight {
            footprint: self.host.footprint(),
            pins: pins(&self.bpffs),
            ruleset: self.host.node.succeed("nft list ruleset"),
            counted: living.unwrap_or_default(),
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.bpffs);
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

impl Sight {
    /// Fails unless the other one is the same.
    pub fn assert_is(&self, before: &Self, when: &str) {
        self.footprint.assert_is(&before.footprint, when);
        assert_eq!(self.pins, before.pins, "{when}");
        assert_eq!(self.counted, before.counted, "{when}");
        assert_eq!(self.ruleset, before.ruleset, "{when}");
    }
}

/// Everything below a bpffs.
fn pins(bpffs: &Path) -> Vec<PathBuf> {
    let mut pins = Vec::new();
    let mut dirs = vec![bpffs.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
            pins.push(entry.path());
        }
    }
    pins.sort();
    pins
}
