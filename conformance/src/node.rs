//! A throw-away node: namespaces of network and mounts that live as long as the thread that made them.
//!
//! The plugin runs in the node's network namespace, as on a host. `/run` and `/var/lib` are empty
//! file systems of the node's own, `/sys` shows its network, and a bpffs is mounted: so a plugin keeps
//! its state where it always does, and nothing of it outlives the run.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::Value;

use crate::{Context, Result, process};

/// What the node hides of the machine's own.
pub const HIDDEN: [&str; 2] = ["/run", "/var/lib"];
/// The node's address towards the world.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace.
#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    file: File,
}

/// The namespace that stands for a host's own, and the world outside of it.
#[derive(Debug)]
pub struct Node {
    /// The host.
    pub space: Space,
    /// A directory of the run's own.
    pub dir: PathBuf,
    /// Beyond the default route.
    pub world: Space,
}

impl Node {
    /// Turns the calling thread, which must be this run's own, into a node.
    ///
    /// # Errors
    /// The kernel's words; it takes root.
    pub fn enter() -> Result<Self> {
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        unshare(flags).context(|| "can't make namespaces (are you root?)".into())?;
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).context(|| "can't make mounts private".into())?;
        let hidden = HIDDEN.map(|dir| ("tmpfs", dir));
        for (kind, dir) in hidden.into_iter().chain([("sysfs", "/sys"), ("bpf", "/sys/fs/bpf")]) {
            mount(Some(kind), dir, Some(kind), MsFlags::empty(), none)
                .context(|| format!("can't mount {kind} on {dir}"))?;
        }
        let dir = PathBuf::from("/run/conformance");
        for dir in [dir.as_path(), Path::new("/run/netns")] {
            fs::create_dir_all(dir).context(|| dir.display().to_string())?;
        }
        let space = Space::pin("node")?;
        let world = Space::make("world")?;
        let node = Self { space, dir, world };
        node.connect()?;
        Ok(node)
    }

    /// Gives the node addresses, and a default route into the world.
    fn connect(&self) -> Result<()> {
        for words in [
            "ip link set lo up",
            "ip addr add 192.0.2.1/32 dev lo",
            "ip addr add 2001:db8::1/128 dev lo nodad",
            "ip link add uplink0 type veth peer name uplink1 netns /run/netns/world",
            "ip addr add 198.51.100.1/24 dev uplink0",
            "ip addr add 2001:db8:1::1/64 dev uplink0 nodad",
            "ip link set uplink0 up",
        ] {
            self.space.succeed(words)?;
        }
        for words in [
            "ip link set lo up",
            "ip addr add 198.51.100.2/24 dev uplink1",
            "ip addr add 2001:db8:1::2/64 dev uplink1 nodad",
            "ip link set uplink1 up",
        ] {
            self.world.succeed(words)?;
        }
        self.space.succeed("ip route add default via 198.51.100.2")?;
        self.space.succeed("ip -6 route add default via 2001:db8:1::2").map(drop)
    }
}

impl Space {
    /// A new namespace at `/run/netns/NAME`.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn make(name: &str) -> Result<Self> {
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).context(|| "can't make a namespace".into())?;
                Self::pin(name)
            });
            made.join().unwrap_or_else(|_| Err("a thread ended early".into()))
        })
    }

    /// Gives the calling thread's namespace a path.
    fn pin(name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        let what = || path.display().to_string();
        File::create(&path).context(what)?;
        let own = "/proc/thread-self/ns/net";
        let none = None::<&str>;
        mount(Some(own), &path, none, MsFlags::MS_BIND, none).context(what)?;
        let file = File::open(&path).context(what)?;
        Ok(Self { path, file })
    }

    /// Takes its path away; it ends with the last process or link in it.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn vanish(self) -> Result<()> {
        let what = || self.path.display().to_string();
        umount2(&self.path, MntFlags::MNT_DETACH).context(what)?;
        fs::remove_file(&self.path).context(what)
    }

    /// `/run/netns/NAME`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a closure in the namespace, on a thread of its own.
    ///
    /// # Errors
    /// Those of the closure.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .context(|| format!("can't enter {}", self.path.display()))?;
                inside()
            });
            entered.join().unwrap_or_else(|_| Err("a thread ended early".into()))
        })
    }

    /// Runs a command that must succeed; what it printed.
    ///
    /// # Errors
    /// What it said.
    pub fn succeed(&self, words: &str) -> Result<String> {
        self.run(|| {
            let mut split = words.split_whitespace();
            let mut command = Command::new(split.next().unwrap_or_default());
            let answer = process::finish(command.args(split), b"", None, COMMAND_PATIENCE)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            if answer.status.is_some_and(|status| status.success()) {
                Ok(text(&answer.stdout))
            } else {
                Err(format!("`{words}` failed: {}", text(&answer.stderr)))
            }
        })
    }

    /// `ip -j -d` with these words; nothing printed is an empty list, and so are the empty objects
    /// that it leaves for what it was told not to show.
    ///
    /// # Errors
    /// What it said.
    pub fn ip(&self, words: &str) -> Result<Vec<Value>> {
        let text = self.succeed(&format!("ip -j -d {words}"))?;
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<Value> = serde_json::from_str(&text).context(|| format!("ip {words}"))?;
        Ok(list
            .into_iter()
            .filter(|each| each.as_object().is_some_and(|o| !o.is_empty()))
            .collect())
    }
}
