//! The plugin as a runtime calls it: the real binary in a node's namespace, with a state dir of the
//! node's own, and the footprint that it leaves there.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::node::{Node, Space};

/// A node on which weir is called, and where it keeps its state.
pub struct Host {
    pub node: Node,
    dir: PathBuf,
}

/// A container: an id and a namespace.
pub struct Container {
    pub id: String,
    pub space: Space,
}

/// A call that is being put together.
pub struct Call<'a> {
    host: &'a Host,
    verb: String,
    variables: Vec<(String, String)>,
    conf: Value,
    under: Vec<String>,
    plugin: PathBuf,
    seconds: u32,
}

/// What there is on a node, a line a thing; two that differ show only their differences.
#[derive(PartialEq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Everything on the node that a pod could leave behind: links, addresses, routes, neighbours,
    /// qdiscs, elements of our nftables table but a network's subnets, which may stay, and the files below
    /// a directory, of state and pins, but the allocator's own, with the pins of a bpffs that is there.
    pub fn of(node: &Node, dir: &Path) -> Self {
        let mut seen: BTreeSet<String> = [
            "ip -o link",
            "ip -o address",
            "ip route show table all",
            "ip -6 route show table all",
            "ip neighbour show nud permanent",
            "tc qdisc show",
        ]
        .iter()
        .flat_map(|words| {
            let lines = node.succeed(words);
            lines.lines().map(|line| format!("{words}: {}", settled(line))).collect::<Vec<_>>()
        })
        // The kernel's own for a router: they come with forwarding, which is the node's.
        .filter(|line| !line.contains(" anycast "))
        // A worker of the kernel's makes it, some time after the address, and it goes with the link.
        .filter(|line| !line.contains(": local fe80:"))
        .collect();
        seen.extend(elements(node));
        let mut files = Vec::new();
        list(dir, &mut files);
        files.retain(|file| file.file_name().unwrap() != "lock");
        seen.extend(files.iter().map(|file| format!("file {}", file.display())));
        Self(seen)
    }

    /// Fails unless the other one is the same.
    pub fn assert_is(&self, before: &Self, when: &str) {
        let more: Vec<_> = self.0.difference(&before.0).collect();
        let less: Vec<_> = before.0.difference(&self.0).collect();
        assert!(more.is_empty() && less.is_empty(), "{when}: more {more:#?}, less {less:#?}");
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Host {
    pub fn new(label: &str) -> Self {
        let node = Node::new(label);
        // A node without any address of its own could not speak to its pods.
        node.succeed("ip addr add 192.0.2.1/32 dev lo");
        node.succeed("ip addr add 2001:db8::1/128 dev lo nodad");
        // The kernel leaves its route to a worker: a footprint taken earlier would lack it.
        let routed = || node.succeed("ip -6 route show table local").contains("2001:db8::1 ");
        assert!((0..500).any(|_| routed() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }));
        let name = node.path().file_name().unwrap().to_owned();
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self { node, dir }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A dual-stack network, uncounted: what telemetry does is other tests' business.
    pub fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "podnet", "type": "weir", "mtu": 1400,
            "ipam": {
                "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
            "telemetry": {"enabled": false},
            "stateDir": self.state_dir(), "bpfDir": self.dir.join("bpf"),
        })
    }

    pub fn container(&self, id: &str) -> Container {
        Container { id: id.to_owned(), space: self.node.pod(id) }
    }

    /// Ends a container as a killed runtime does: its namespace goes, and nobody calls DEL. Waits for
    /// the kernel, which takes a namespace down behind the back of whoever dropped it.
    pub fn end(&self, container: Container) {
        let inside = container.space.links().into_iter().filter(|name| name != "lo").count();
        let links = self.node.links().len();
        drop(container);
        let gone = || self.node.links().len() + inside == links;
        assert!((0..500).any(|_| gone() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }));
    }

    /// A call of a verb, for a container if there is one.
    pub fn call(&self, verb: &str, container: Option<&Container>) -> Call<'_> {
        let (verb, conf) = (verb.to_owned(), self.conf());
        let plugin = env!("CARGO_BIN_EXE_weir").into();
        let (variables, under) = (Vec::new(), Vec::new());
        let call = Call { host: self, verb, variables, conf, under, plugin, seconds: 20 };
        match container {
            None => call,
            Some(container) => call
                .variable("CNI_CONTAINERID", &container.id)
                .variable("CNI_NETNS", container.space.path().to_str().unwrap())
                .variable("CNI_IFNAME", "eth0"),
        }
    }

    /// An ADD that must succeed; its result.
    pub fn add(&self, container: &Container) -> Value {
        self.call("ADD", Some(container)).succeed()
    }

    /// A DEL that must succeed.
    pub fn del(&self, container: &Container) {
        self.call("DEL", Some(container)).succeed();
    }

    /// A CHECK against an ADD's result.
    pub fn check(&self, container: &Container, result: &Value) -> Call<'_> {
        self.call("CHECK", Some(container)).key("prevResult", result.clone())
    }

    /// What `weir reconcile` drops, sorted, each as `what name`; it must succeed.
    pub fn reconcile(&self) -> Vec<String> {
        let [state, bpf] = ["state", "bpf"].map(|dir| self.dir.join(dir).display().to_string());
        self.reconcile_in(&format!("--state-dir {state} --bpf-dir {bpf}"))
    }

    /// The same, with these arguments.
    pub fn reconcile_in(&self, places: &str) -> Vec<String> {
        let weir = env!("CARGO_BIN_EXE_weir");
        let json = self.node.succeed(&format!("{weir} reconcile {places} -o json"));
        let json: Value = serde_json::from_str(&json).unwrap();
        let word = |dropped: &Value, key: &str| dropped[key].as_str().unwrap().to_owned();
        let dropped = json["dropped"].as_array().unwrap().iter();
        let dropped = dropped.map(|it| format!("{} {}", word(it, "what"), word(it, "name")));
        let mut dropped: Vec<_> = dropped.collect();
        dropped.sort();
        dropped
    }

    /// What a pod could leave behind.
    pub fn footprint(&self) -> Footprint {
        Footprint::of(&self.node, &self.dir)
    }

    /// What `weir pods` lists.
    pub fn pods(&self) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["pods", "-o", "json", "--state-dir"]).arg(self.state_dir());
        let output = command.arg("--bpf-dir").arg(self.dir.join("bpf")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The lease files of a network.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let mut files = Vec::new();
        list(&self.state_dir().join("leases").join(network), &mut files);
        let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        let mut leases: Vec<_> = files.iter().map(name).filter(|name| name != "lock").collect();
        leases.sort();
        leases
    }

    pub fn record(&self, container: &Container) -> PathBuf {
        self.state_dir().join("attachments").join(format!("{}@eth0", container.id))
    }
}

/// The elements of sets and maps of our nftables table, without the subnets of networks.
fn elements(node: &Node) -> Vec<String> {
    let ruleset: Value = serde_json::from_str(&node.succeed("nft -j list ruleset")).unwrap();
    let objects = ruleset["nftables"].as_array().unwrap().iter();
    let sets = objects.filter_map(|object| object.get("map").or_else(|| object.get("set")));
    let ours = sets.filter(|set| {
        let subnets = set["name"].as_str().unwrap().starts_with("masquerade");
        set["family"] == "inet" && set["table"] == "weir" && !subnets
    });
    let elements = ours.flat_map(|set| {
        let all = set["elem"].as_array().cloned().unwrap_or_default();
        all.into_iter().map(move |element| format!("nft {}: {element}", set["name"]))
    });
    elements.collect()
}

/// A line without the state that the kernel gives a link only some time after it was brought up.
fn settled(line: &str) -> String {
    line.replace(" state UNKNOWN ", " state UP ")
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The files below a directory; none where there is none.
fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

impl Call<'_> {
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn key(mut self, key: &str, value: Value) -> Self {
        self.conf[key] = value;
        self
    }

    /// The configuration without the key.
    pub fn without(mut self, key: &str) -> Self {
        self.conf.as_object_mut().unwrap().remove(key);
        self
    }

    pub fn version(self, version: &str) -> Self {
        self.key("cniVersion", json!(version))
    }

    /// The configuration so far.
    #[allow(dead_code, reason = "not a word for tests/kill")]
    pub fn conf(&self) -> &Value {
        &self.conf
    }

    /// The call with another configuration.
    #[allow(dead_code, reason = "not a word for tests/kill")]
    pub fn with(mut self, conf: Value) -> Self {
        self.conf = conf;
        self
    }

    /// The call of another plugin.
    #[allow(dead_code, reason = "not a word for tests/kill")]
    pub fn by(mut self, directory: &str, plugin: &str) -> Self {
        self.plugin = Path::new(directory).join(plugin);
        self
    }

    /// The call as another command runs it, whose words these are.
    pub fn under(mut self, words: Vec<String>) -> Self {
        self.under = words;
        self
    }

    /// The call with another time than 20 s, after which it is ended.
    #[allow(dead_code, reason = "a word for tests/netns")]
    pub fn within(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    pub fn answer(&self) -> Answer {
        self.answer_by(Stdio::piped())
    }

    /// The answer of a call whose stdout is that file.
    pub fn answer_to(&self, path: &str) -> Answer {
        self.answer_by(fs::File::options().write(true).open(path).unwrap().into())
    }

    /// The answer of a call whose stdout is that end of a socket.
    #[allow(dead_code, reason = "a word for tests/netns")]
    pub fn answer_on(&self, socket: UnixStream) -> Answer {
        self.answer_by(OwnedFd::from(socket).into())
    }

    fn answer_by(&self, stdout: Stdio) -> Answer {
        let path = self.host.node.path();
        let mut command = Command::new("timeout");
        let seconds = self.seconds.to_string();
        command.args([&seconds, "nsenter", &format!("--net={}", path.display())]);
        command.args(&self.under).arg(&self.plugin);
        command.env("CNI_COMMAND", &self.verb);
        command.env("CNI_PATH", "/usr/lib/cni");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let written = child.stdin.take().unwrap().write_all(self.conf.to_string().as_bytes());
        // Who is killed before it has read says so by its status.
        assert!(written.is_ok() || written.is_err_and(|err| err.kind() == ErrorKind::BrokenPipe));
        let output = child.wait_with_output().unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What a call printed that must succeed; `null` if nothing.
    pub fn succeed(&self) -> Value {
        let answer = self.answer();
        let said = format!("{} {}{}", self.verb, answer.stdout, answer.stderr);
        assert_eq!(answer.code, Some(0), "{said}");
        if self.verb == "ADD" {
            return serde_json::from_str(&answer.stdout).unwrap();
        }
        assert!(answer.stdout.is_empty(), "{said}");
        Value::Null
    }

    /// The message of a call that must fail with this code.
    pub fn refused(&self, code: u32) -> String {
        let answer = self.answer();
        let said = format!("{} {}{}", self.verb, answer.stdout, answer.stderr);
        assert_eq!(answer.code, Some(1), "{said}");
        let error: Value = serde_json::from_str(&answer.stdout).expect(&said);
        assert_eq!(error["code"], code, "{said}");
        assert!(error["details"].is_null() || error["details"].is_string(), "{said}");
        error["msg"].as_str().unwrap().to_owned()
    }

    /// As [`refused`](Self::refused), and nothing on the node is otherwise than before.
    pub fn refused_without_a_trace(&self, code: u32) -> String {
        let before = self.host.footprint();
        let message = self.refused(code);
        self.host.footprint().assert_is(&before, &message);
        message
    }
}

/// The addresses of an ADD's result, without their prefix lengths.
pub fn ips(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}
