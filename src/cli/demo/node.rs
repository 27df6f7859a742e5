//! The demo's node: a network and a mount namespace of this process, pods in namespaces beside it,
//! and the plugin called as a runtime calls it.
//!
//! Nothing needs a handler to be cleaned up. Every mount, link, program and map belongs to
//! namespaces that only this process and its plugin calls are in, and the kernel takes them down
//! with the last of these, however it ends: Ctrl-C and `kill -9` included.

use std::{
    fs,
    io::{Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use serde_json::{Value, json};

use crate::{
    error::{Context, Error, Kind, Result},
    net::Netns,
};

/// Where a bpffs is on any node, and Weir's default below it.
const BPFFS: &str = "/sys/fs/bpf";
/// The pins of the default configuration, which the demo uses.
pub const BPF_DIR: &str = "/sys/fs/bpf/weir";
const NETNS_DIR: &str = "/run/netns";

/// The configuration that the documentation offers.
const EXAMPLE: &str = include_str!("../../../examples/10-weir.conflist");

/// A plugin call takes milliseconds; under emulation, the first one some seconds.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Moves this process into namespaces of its own, with an empty /run and a bpffs.
///
/// # Errors
/// [`Kind::Environment`] without root's powers; [`Kind::Kernel`] naming the mount that was refused.
pub fn enter() -> Result<()> {
    let no_power = || "weir demo needs root: it makes namespaces and loads BPF programs".to_owned();
    if !Uid::effective().is_root() {
        return Err(Error::new(Kind::Environment, no_power()));
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context(Kind::Environment, no_power)?;
    // Else the mounts below would appear on the host as well.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context(Kind::Kernel, || "can't make the mounts of this namespace private".into())?;
    // A minimal system may not have one yet.
    make_dir("/run")?;
    mount_new("tmpfs", "/run")?;
    make_dir(NETNS_DIR)?;
    mount_new("bpf", BPFFS)
}

fn make_dir(dir: &str) -> Result<()> {
    fs::create_dir_all(dir).context(Kind::Io, || format!("can't make the directory {dir}"))
}

fn mount_new(kind: &str, at: &str) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .context(Kind::Kernel, || format!("can't mount a {kind} on {at}; is {at} there?"))
}

/// A pod as a runtime sees it: a name, a namespace and the plugin calls about it.
#[derive(Debug)]
pub struct Pod {
    /// `K8S_POD_NAME`.
    pub name: &'static str,
    /// Its network namespace.
    pub netns: Netns,
    container_id: String,
}

/// What an ADD brought.
#[derive(Debug)]
pub struct Added {
    /// The plugin's reply, as it stood on its stdout.
    pub reply: Value,
    /// The addresses in it.
    pub addresses: Vec<IpAddr>,
    /// From before the exec to after the exit.
    pub took: Duration,
}

impl Pod {
    /// Makes an empty network namespace under /run/netns, as a runtime does before its ADD.
    ///
    /// # Errors
    /// [`Kind::Kernel`] with the kernel's words.
    pub fn new(name: &'static str) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        fs::write(&path, "").context(Kind::Io, || format!("can't make {}", path.display()))?;
        let made = {
            let path = path.clone();
            // On a thread of its own, which ends in the new namespace: this one stays in the node's.
            thread::spawn(move || bind_new_netns(&path)).join()
        };
        made.map_err(|_| Error::new(Kind::Kernel, "the thread that makes a namespace died"))??;
        Ok(Self { name, netns: Netns::open(&path)?, container_id: format!("demo-{name}") })
    }

    /// Plumbs the pod.
    ///
    /// # Errors
    /// The plugin's own, or [`Kind::Decode`] for a reply that is none.
    pub fn add(&self) -> Result<Added> {
        let started = Instant::now();
        let out = self.call("ADD", &config()?)?;
        let took = started.elapsed();
        let reply: Value = serde_json::from_slice(&out)
            .context(Kind::Decode, || format!("the reply to ADD of {} is no JSON", self.name))?;
        let ips = reply["ips"].as_array().into_iter().flatten();
        let addresses = ips
            .filter_map(|ip| ip["address"].as_str()?.parse::<IpNetwork>().ok())
            .map(|network| network.ip())
            .collect();
        Ok(Added { reply, addresses, took })
    }

    /// Takes the pod's network away again; `added` is what ADD replied, as runtimes hand it back.
    ///
    /// # Errors
    /// The plugin's own.
    pub fn del(&self, added: &Value) -> Result<Duration> {
        let started = Instant::now();
        let mut config = config()?;
        config["prevResult"] = added.clone();
        self.call("DEL", &config)?;
        Ok(started.elapsed())
    }

    /// Starts this very executable as a plugin: CNI's variables, the configuration on stdin.
    fn call(&self, command: &str, config: &Value) -> Result<Vec<u8>> {
        let what = || format!("can't run the plugin for {command} of {}", self.name);
        let mut plugin = Command::new("/proc/self/exe")
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={}", self.name),
            )
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(Kind::Io, what)?;
        if let Some(mut stdin) = plugin.stdin.take() {
            stdin.write_all(config.to_string().as_bytes()).context(Kind::Io, what)?;
        }
        let success = wait(&mut plugin).context(Kind::Io, what)?;
        let mut out = Vec::new();
        if let Some(mut stdout) = plugin.stdout.take() {
            stdout.read_to_end(&mut out).context(Kind::Io, what)?;
        }
        if success { Ok(out) } else { Err(refusal(command, self.name, &out)) }
    }
}

fn bind_new_netns(path: &PathBuf) -> Result<()> {
    let what = || "can't make a network namespace".to_owned();
    unshare(CloneFlags::CLONE_NEWNET).context(Kind::Kernel, what)?;
    let own = Some("/proc/thread-self/ns/net");
    mount(own, path, None::<&str>, MsFlags::MS_BIND, None::<&str>).context(Kind::Kernel, what)
}

/// Whether the plugin succeeded; one that hangs is killed. Looks often, for its time is shown.
fn wait(plugin: &mut Child) -> std::io::Result<bool> {
    let deadline = Instant::now() + CALL_LIMIT;
    loop {
        if let Some(status) = plugin.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() > deadline {
            plugin.kill()?;
            plugin.wait()?;
            let msg = format!("it was still at work after {CALL_LIMIT:?}, and was killed");
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, msg));
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// The error JSON that a plugin leaves on stdout (CNI spec 1.1.0, section "Error").
fn refusal(command: &str, pod: &str, out: &[u8]) -> Error {
    let reply: Value = serde_json::from_slice(out).unwrap_or_default();
    let msg = reply["msg"].as_str().unwrap_or("it ended without an error on stdout");
    let err = Error::new(Kind::Unavailable, format!("{command} of {pod} failed: {msg}"));
    match reply["details"].as_str() {
        Some(details) => err.details(details),
        None => err,
    }
}

/// What a runtime makes of the example's conflist for its one plugin.
fn config() -> Result<Value> {
    let mut list: Value = serde_json::from_str(EXAMPLE)
        .context(Kind::Decode, || "the example's configuration is no JSON".into())?;
    let mut config = list["plugins"][0].take();
    config["cniVersion"] = list["cniVersion"].take();
    config["name"] = list["name"].take();
    // A node starts its pods even if they can't be counted; a demo of counting has to say so.
    config["telemetry"]["required"] = json!(true);
    Ok(config)
}
