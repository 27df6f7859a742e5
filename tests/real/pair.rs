//! A server's pod and its client's on one node, both counted, and the agent that exposes it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    node::Space,
    plugin::{Container, Host, ips},
};

/// Anything that is waited for is there by then, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);
const AGENT: &str = "127.0.0.1:9920";

/// As many segments in a packet as there are, and one.
pub const BURSTS: [u32; 2] = [65_535, 1];

/// How many requests there were, by operation and outcome.
pub type Requests = BTreeMap<(String, String), u64>;

pub struct Pair {
    server: Container,
    client: Container,
    /// The server's addresses, IPv4 and IPv6.
    pub addresses: Vec<String>,
    _agent: Process,
    host: Host,
    dir: PathBuf,
}

impl Pair {
    pub fn new(label: &str) -> Self {
        Self::with_agent(label, &[])
    }

    /// The same, with more words for the agent.
    pub fn with_agent(label: &str, words: &[&str]) -> Self {
        let host = Host::new(label);
        let dir = host.state_dir().with_file_name("real");
        let bpffs = dir.join("bpf");
        fs::create_dir_all(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let (server, client) = (host.container("server"), host.container("client"));
        let add = |container: &Container| {
            let call = host.call("ADD", Some(container));
            let call = call.key("telemetry", json!({"required": true}));
            call.key("bpfDir", json!(bpffs.join("weir"))).succeed()
        };
        let addresses = ips(&add(&server));
        add(&client);
        let mut agent = within(&host.node, &[env!("CARGO_BIN_EXE_weir"), "agent"]);
        agent.args(["--listen", AGENT, "--bpf-dir"]).arg(bpffs.join("weir"));
        agent.arg("--state-dir").arg(host.state_dir()).args(words);
        let agent = Process::start(agent);
        Self { server, client, addresses, _agent: agent, host, dir }
    }

    /// A file for a server and its clients on this machine; never a socket of the machine's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a server in its pod.
    pub fn serve(&self, words: &[&str]) -> Process {
        Process::start(within(&self.server.space, words))
    }

    /// Runs a client in the other pod, which must succeed; returns what it printed.
    pub fn ask(&self, words: &[&str]) -> String {
        run(within(&self.client.space, words))
    }

    /// The same for one that may fail, as some are meant to.
    pub fn try_to_ask(&self, words: &[&str]) -> String {
        let script = "\"$@\"; [ $? -lt 100 ]";
        self.ask(&[&["sh", "-c", script, "sh"], words].concat())
    }

    /// Asks the server in its own pod, over the loopback, which is not counted.
    pub fn ask_aside(&self, words: &[&str]) -> String {
        run(within(&self.server.space, words))
    }

    /// A listener in the server's pod, for both families.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.server.space.run(|| TcpListener::bind(("::", port)).unwrap())
    }

    /// How many segments both pods hand to their interfaces as one packet.
    pub fn set_burst(&self, segments: u32) {
        let command = format!("ip link set eth0 gso_max_segs {segments}");
        for pod in [&self.server, &self.client] {
            pod.space.succeed(&command);
        }
    }

    /// Runs a closure in the client's pod.
    pub fn at_client<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.client.space.run(inside)
    }

    /// The requests to databases that `role` counted, once there are `total` of them.
    pub fn requests(&self, role: &str, system: &str, total: u64) -> Requests {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = requests(&self.metrics(), role, system);
            if found.values().sum::<u64>() >= total || Instant::now() > end {
                return found;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// How many of them have a duration.
    pub fn durations(&self, role: &str, system: &str) -> u64 {
        series(&self.metrics(), "weir_db_request_duration_seconds_count", role, system)
            .map(|(_, n)| n)
            .sum()
    }

    pub fn metrics(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.host.node.run(scrape) {
                Ok(page) => return page,
                Err(err) if Instant::now() > end => panic!("the agent does not answer: {err}"),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Nothing was lost sight of.
    pub fn assert_no_gap(&self) {
        let gaps = self.gaps();
        assert!(gaps.is_empty(), "{gaps:#?}");
    }

    /// What the agent says that it could not follow, or had no room for.
    pub fn gaps(&self) -> Vec<String> {
        let page = self.metrics();
        let told = ["weir_parse_gaps_total{", "weir_events_lost_total{"];
        let lines = page.lines().filter(|line| told.iter().any(|name| line.starts_with(name)));
        lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = umount2(&self.dir.join("bpf"), MntFlags::MNT_DETACH);
    }
}

fn scrape() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(AGENT)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// The series of a family for that role and system: their labels, and a number.
fn series<'a>(
    page: &'a str,
    family: &'a str,
    role: &'a str,
    system: &'a str,
) -> impl Iterator<Item = (&'a str, u64)> {
    let lines = page.lines().filter_map(move |line| line.strip_prefix(family)?.rsplit_once(' '));
    lines
        .filter(move |(labels, _)| label(labels, "role") == Some(role))
        .filter(move |(labels, _)| label(labels, "system") == Some(system))
        .map(|(labels, value)| (labels, value.parse().unwrap()))
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

fn requests(page: &str, role: &str, system: &str) -> Requests {
    let mut found = Requests::new();
    for (labels, n) in series(page, "weir_db_requests_total", role, system) {
        let [operation, outcome] =
            ["operation", "outcome"].map(|name| label(labels, name).unwrap().to_owned());
        *found.entry((operation, outcome)).or_default() += n;
    }
    found
}

/// A child that ends with its handle.
pub struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nsenter executes the command in its own place, so this is the server itself.
        let _ = kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM);
        let end = Instant::now() + Duration::from_secs(10);
        while self.0.try_wait().unwrap().is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command in a namespace.
fn within(space: &Space, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", space.path().display())).args(words);
    command
}

/// Runs what must succeed in good time; returns its standard output.
pub fn run(mut command: Command) -> String {
    let name = format!("{command:?}");
    command.stdin(Stdio::null());
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `ready` says so.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
