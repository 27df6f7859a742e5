//! A node for a runtime: namespaces of network and mounts that end with the test's thread, and what
//! a runtime leaves outside of those, its control groups.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, geteuid},
};
use serde_json::{Value, json};

use crate::cgroup;

/// Whatever is waited for is there by then, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// The network of the node's runtime.
pub const CONFLIST: &str = "/run/cni/net.d/10-weir.conflist";

/// The calling thread's namespaces.
pub struct Node {
    /// The control group that its containers are to be put under, by its path in each hierarchy.
    pub cgroup: String,
}

impl Node {
    /// Makes the calling thread a node: its own network with an address, its own `/run`, `/var/lib` and
    /// bpffs, and weir in `/run/cni`. Fails where no control groups can be made, without which no runtime
    /// runs anything.
    pub fn enter(label: &str) -> Self {
        assert!(geteuid().is_root(), "this test needs root: it makes namespaces");
        if let Err(why) = cgroup::probe() {
            panic!("{why}. {}", cgroup::MEND);
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        // Not /sys itself, below which the control groups are mounted.
        for (kind, dir) in [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("bpf", "/sys/fs/bpf")] {
            mount(Some(kind), dir, Some(kind), MsFlags::empty(), none).unwrap();
        }
        for words in [
            "ip link set lo up",
            "ip addr add 192.0.2.1/32 dev lo",
            "ip addr add 2001:db8::1/128 dev lo nodad",
        ] {
            succeed(words);
        }
        let node = Self { cgroup: format!("/weirtest-{}-{label}", std::process::id()) };
        node.install_weir();
        node
    }

    /// Puts weir beside the reference plugins, which runtimes need for the loopback.
    fn install_weir(&self) {
        for dir in ["/run/cni/bin", "/run/cni/net.d"] {
            fs::create_dir_all(dir).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_weir"), "/run/cni/bin/weir").unwrap();
        symlink("/usr/lib/cni/loopback", "/run/cni/bin/loopback").unwrap();
        fs::write(CONFLIST, list(0)).unwrap();
    }

    /// Takes weir and its network away again, as on a node that has none yet.
    pub fn forget_weir(&self) {
        for file in ["/run/cni/bin/weir", CONFLIST] {
            fs::remove_file(file).unwrap();
        }
    }

    /// What there is on the node, a line a thing.
    pub fn footprint(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        for words in [
            "ip -br link",
            "ip -o address",
            "ip route show table all",
            "ip -6 route show table all",
            "ip neighbour show nud permanent",
            "tc qdisc show",
            "nft list ruleset",
        ] {
            let lines = succeed(words);
            // The kernel's own for a router, which come with forwarding.
            let kept = lines.lines().filter(|line| !line.starts_with("anycast "));
            seen.extend(kept.map(|line| format!("{words}: {}", line.trim())));
        }
        for dir in ["/run/weir", "/run/netns", "/sys/fs/bpf"] {
            files(Path::new(dir), &mut seen);
        }
        seen
    }

    /// Waits until the node is as it was; fails with the difference.
    pub fn await_same(&self, before: &BTreeSet<String>) {
        let same = wait_for(|| (self.footprint() == *before).then_some(()));
        let now = self.footprint();
        let (more, less): (Vec<_>, Vec<_>) =
            (now.difference(before).collect(), before.difference(&now).collect());
        assert!(same.is_some(), "left behind {more:#?}, gone {less:#?}");
    }

    /// The records that weir has of attachments.
    pub fn records(&self) -> Vec<Value> {
        let files = fs::read_dir("/run/weir/attachments").into_iter().flatten();
        files
            .map(|file| serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap())
            .collect()
    }
}

impl Drop for Node {
    /// Ends what a failed test left running, and takes away the control groups that a runtime leaves
    /// empty, the deepest first.
    fn drop(&mut self) {
        end_processes();
        let own = self.cgroup.trim_start_matches('/');
        // Those of containers have mounts of their own.
        below(own).iter().for_each(|group| end_group(group));
        // conmon, podman's helper, has one of that name.
        below("libpod_parent").iter().rev().for_each(|group| drop(fs::remove_dir(group)));
        // Whoever was killed a moment ago is in its group until the kernel is through with it.
        wait_for(|| {
            let groups = below(own);
            groups.iter().rev().for_each(|group| drop(fs::remove_dir(group)));
            groups.is_empty().then_some(())
        });
    }
}

/// Ends every process in the calling thread's mount namespace, which is the node's own; this one is
/// in it with no other thread.
fn end_processes() {
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let own = namespace(Path::new("/proc/thread-self"));
    for process in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        let id = process.file_name().and_then(|name| name.to_str()?.parse().ok());
        if let Some(id) = id.filter(|_| own.is_some() && namespace(&process) == own) {
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// The control groups below those of a name, and these themselves.
fn below(parent: &str) -> Vec<PathBuf> {
    let below = |group: &PathBuf| group.iter().any(|part| part == parent);
    cgroup::all().into_iter().filter(below).collect()
}

fn end_group(group: &Path) {
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // 0 is one that this namespace can't see, and to kill(2) all of the caller's own group.
    for id in processes.lines().filter_map(|line| line.parse().ok()).filter(|id| *id > 0) {
        let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
    }
}

/// A network of weir's, of both families, whose pods have everything.
pub fn list(mtu: u32) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "podnet",
        "plugins": [{
            "type": "weir",
            "mtu": mtu,
            "ipMasq": true,
            "ipam": {
                "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
            "telemetry": {"required": true},
            "capabilities": {"portMappings": true, "bandwidth": true},
        }],
    });
    list.to_string()
}

fn files(dir: &Path, seen: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), seen);
        } else {
            seen.insert(format!("file {}", entry.path().display()));
        }
    }
}

/// Runs a command, for a minute at most, that must succeed; what it printed.
pub fn succeed(words: &str) -> String {
    let output = Command::new("timeout")
        .arg("60")
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Asks until there is an answer, or patience ends.
pub fn wait_for<T>(ask: impl Fn() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            None if Instant::now() < until => thread::sleep(Duration::from_millis(50)),
            answer => return answer,
        }
    }
}

/// A process that runs beside the test, and ends with it, as do those that it started.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it; its log goes to a file.
    pub fn start(command: &mut Command, log: &str) -> Self {
        let log = fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let _ = killpg(group, signal);
            for _ in 0..40 {
                if matches!(self.0.try_wait(), Ok(Some(_))) {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}
