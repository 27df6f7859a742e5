//! The two versions, and a node whose pods are counted by the one or the other.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Condvar, Mutex, OnceLock, PoisonError},
    thread,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::plugin::{Call, Container, Host};

/// A version of Weir, by its layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The one that the other tests test.
    This,
    /// What has a field more in its connections, and at the end of what is carried over.
    Other,
}

impl Version {
    /// Its executable.
    pub fn weir(self) -> PathBuf {
        static OTHER: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Self::This => env!("CARGO_BIN_EXE_weir").into(),
            Self::Other => OTHER.get_or_init(build).clone(),
        }
    }
}

/// Builds the other version's, under a name of its own, beside this one's.
fn build() -> PathBuf {
    eprintln!("building the version with the other layout");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--locked", "--features", "other-layout"]);
    cargo.args(["--bin", "weir-other-layout"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Path::new(env!("CARGO_BIN_EXE_weir")).with_file_name("weir-other-layout")
}

/// One of as many nodes at a time as there are processors: loading takes one whole, and a reload waits
/// ten seconds for another's at most.
struct Turn;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn take() -> Self {
        let most = thread::available_parallelism().map_or(1, usize::from);
        let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = TAKEN.1.wait_while(taken, |taken| *taken >= most);
        *taken.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        TAKEN.1.notify_one();
    }
}

/// A node with a bpffs.
pub struct Upgraded {
    pub host: Host,
    bpffs: PathBuf,
    attach: &'static str,
    _turn: Turn,
}

impl Upgraded {
    /// Counts by the hook `attach`.
    pub fn new(label: &str, attach: &'static str) -> Self {
        let turn = Turn::take();
        let host = Host::new(label);
        let bpffs = host.state_dir().with_file_name("bpffs");
        fs::create_dir(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self { host, bpffs, attach, _turn: turn }
    }

    pub fn bpf_dir(&self) -> PathBuf {
        self.bpffs.join("weir")
    }

    /// A version's call, with counting required.
    pub fn call(&self, version: Version, verb: &str, container: &Container) -> Call<'_> {
        self.host
            .call(verb, Some(container))
            .by("", version.weir().to_str().unwrap())
            .key("telemetry", json!({"required": true, "attach": self.attach}))
            .key("bpfDir", json!(self.bpf_dir()))
    }

    /// What a version's command of this name says, as JSON.
    pub fn says(&self, version: Version, command: &str) -> Value {
        let (weir, state) = (version.weir(), self.host.state_dir());
        let state = if command == "reload" {
            String::new()
        } else {
            format!("--state-dir {}", state.display())
        };
        let words = format!(
            "{} {command} -o json --bpf-dir {} {state}",
            weir.display(),
            self.bpf_dir().display()
        );
        serde_json::from_str(&self.host.node.succeed(&words)).unwrap()
    }

    /// The telemetry of the pods, by container, as a version's `weir pods` lists it.
    pub fn pods(&self, version: Version) -> Vec<(String, String)> {
        let pods = self.says(version, "pods");
        let word = |pod: &Value, key: &str| pod[key].as_str().unwrap().to_owned();
        let pods = pods.as_array().unwrap().iter();
        let mut pods: Vec<_> =
            pods.map(|pod| (word(pod, "containerId"), word(pod, "telemetry"))).collect();
        pods.sort();
        pods
    }

    /// The directories of the layouts that are pinned.
    pub fn layouts(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bpf_dir()).unwrap().map(Result::unwrap);
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name != "links").collect()
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
    }
}
