//! The node of the bench: namespaces of this process, and empty ones for pods.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::Result;

const NETNS_DIR: &str = "/run/netns";

/// Moves this process to a node with an empty /run and /var/lib/cni, a bpffs, and a default route.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|err| format!("needs root, to make namespaces: {err}"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    mount_new("tmpfs", "/run")?;
    mount_new("bpf", "/sys/fs/bpf")?;
    fs::create_dir_all(NETNS_DIR)?;
    // host-local's lock and leases, on tmpfs like ours: storage is not what is compared.
    fs::create_dir_all("/var/lib/cni")?;
    mount_new("tmpfs", "/var/lib/cni")?;
    for words in [
        "link set lo up",
        "link add up0 type veth peer name up1",
        "link set up0 up",
        "link set up1 up",
        "addr add 10.9.0.1/24 dev up0",
        "addr add fd09::1/64 dev up0 nodad",
        "route add default via 10.9.0.2",
        "-6 route add default via fd09::2",
    ] {
        ip(words)?;
    }
    Ok(())
}

fn mount_new(kind: &str, at: &str) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(|err| format!("can't mount a {kind} on {at}: {err}").into())
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// An empty network namespace with a path.
pub struct Pod {
    path: PathBuf,
}

impl Pod {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What remains goes with this process's mount namespace.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes that many.
pub fn pods(label: &str, count: usize) -> Result<Vec<Pod>> {
    (0..count).map(|number| pod(&format!("{label}{number}"))).collect()
}

fn pod(name: &str) -> Result<Pod> {
    let path = Path::new(NETNS_DIR).join(name);
    fs::write(&path, "")?;
    let bind = {
        let path = path.clone();
        move || -> nix::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        }
    };
    // On a thread of its own, which ends in the new namespace: this one stays in the node's.
    thread::spawn(bind).join().map_err(|_| "the thread that makes a namespace died")??;
    Ok(Pod { path })
}
