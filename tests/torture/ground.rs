//! The node: its state dir on a small tmpfs and a bpffs of its own, the agent, and the calls as a
//! runtime makes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{
    plan::{Scarce, Shape},
    plugin::{Call, Container, Host},
    pod,
};

/// Whatever is waited for is there by then, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The node and its runtime.
pub struct Ground {
    pub host: Host,
    bpffs: PathBuf,
    agent: Mutex<Option<Child>>,
    /// The containers that a GC lists: those that live, and those that a call may be under way for.
    pub wanted: Mutex<BTreeSet<String>>,
    /// How often the state dir has become full, or had room again: odd while it is full.
    fillings: AtomicU64,
    /// How often what was done.
    done: Mutex<BTreeMap<String, u64>>,
    /// Of the calls, those that were made, and those that said why not.
    pub calls: AtomicU64,
    pub refused: AtomicU64,
}

impl Ground {
    pub fn new() -> Self {
        let host = Host::new("torture");
        let state = host.state_dir();
        let bpffs = state.with_file_name("bpffs");
        for dir in [&state, &bpffs] {
            fs::create_dir(dir).unwrap();
        }
        let small = Some("size=3m,nr_inodes=3000,mode=700");
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), small).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let [fillings, calls, refused] = [const { AtomicU64::new(0) }; 3];
        let (agent, wanted, done) = Default::default();
        Self { host, bpffs, agent, wanted, fillings, done, calls, refused }
    }

    pub fn bpf_dir(&self) -> PathBuf {
        self.bpffs.join("weir")
    }

    /// Where the files of the agent are.
    fn beside(&self, name: &str) -> PathBuf {
        self.host.state_dir().with_file_name(name)
    }

    /// A call for a container whose pod is of the place.
    pub fn call(&self, verb: &str, container: &Container, place: usize) -> Call<'_> {
        let shape = Shape::of(place);
        let attach = if shape.tcx { "tcx" } else { "clsact" };
        let telemetry = json!({"required": true, "attach": attach});
        let mut runtime = json!({});
        if let Some(port) = pod::host_port(place) {
            runtime["portMappings"] =
                json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        }
        if shape.limited {
            let rate = 1_000_000_000;
            runtime["bandwidth"] = json!({
                "ingressRate": rate, "ingressBurst": rate,
                "egressRate": rate, "egressBurst": rate,
            });
        }
        let call = self.everywhere(self.host.call(verb, Some(container)));
        let call = call.key("telemetry", telemetry).key("runtimeConfig", runtime);
        match pod::name(place) {
            None => call,
            Some(name) => {
                let namespace = pod::NAMESPACE;
                let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
                call.variable("CNI_ARGS", &args)
            }
        }
    }

    /// A call for no container.
    pub fn call_for_all(&self, verb: &str) -> Call<'_> {
        self.everywhere(self.host.call(verb, None)).key("telemetry", json!({"required": true}))
    }

    fn everywhere<'a>(&self, call: Call<'a>) -> Call<'a> {
        self.calls.fetch_add(1, SeqCst);
        call.key("bpfDir", json!(self.bpf_dir())).key("ipMasq", json!(true))
    }

    /// GC with the containers that are wanted now.
    pub fn gc(&self) {
        self.gc_call().succeed();
    }

    pub fn gc_call(&self) -> Call<'_> {
        let wanted = self.wanted.lock().unwrap().clone();
        let valid: Vec<_> =
            wanted.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        self.call_for_all("GC").key("cni.dev/valid-attachments", Value::Array(valid))
    }

    pub fn reconcile(&self) {
        self.calls.fetch_add(1, SeqCst);
        self.host.reconcile_in(&self.places());
    }

    /// Swaps the programs: however many ADDs there are, they let it through.
    pub fn reload(&self) {
        self.calls.fetch_add(1, SeqCst);
        let (weir, bpf) = (env!("CARGO_BIN_EXE_weir"), self.bpf_dir());
        self.host.node.succeed(&format!("{weir} reload --bpf-dir {}", bpf.display()));
    }

    /// A command of Weir's, killed after so many microseconds.
    pub fn weir_killed(&self, command: &str, after: u64) {
        self.calls.fetch_add(1, SeqCst);
        let under = killed_after(after).join(" ");
        let places = match command {
            "reload" => format!("--bpf-dir {}", self.bpf_dir().display()),
            _ => self.places(),
        };
        let weir = env!("CARGO_BIN_EXE_weir");
        self.host.node.command(&format!("{under} {weir} {command} {places}"));
    }

    fn places(&self) -> String {
        let (state, bpf) = (self.host.state_dir(), self.bpf_dir());
        format!("--state-dir {} --bpf-dir {}", state.display(), bpf.display())
    }

    /// Starts the agent; returns when it listens.
    pub fn start_agent(&self) {
        let net = format!("--net={}", self.host.node.path().display());
        let log = File::options().append(true).create(true).open(self.beside("agent.log"));
        let mut command = Command::new("nsenter");
        command.args([&net, env!("CARGO_BIN_EXE_weir"), "agent"]);
        command.args(self.places().split(' ')).stdout(Stdio::null()).stderr(log.unwrap());
        let mut agent = self.agent.lock().unwrap();
        *agent = Some(command.spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        while self.get("/healthz").is_err() {
            let ended = agent.as_mut().unwrap().try_wait().unwrap();
            let late = Instant::now() > end;
            assert!(ended.is_none() && !late, "the agent: {ended:?} {}", self.agent_log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the agent by SIGKILL.
    pub fn kill_agent(&self) {
        if let Some(mut agent) = self.agent.lock().unwrap().take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.beside("agent.log")).unwrap_or_default()
    }

    /// What the agent answers, as OpenMetrics where it may be.
    pub fn get(&self, path: &str) -> Result<String, std::io::Error> {
        let to = SocketAddr::from(([127, 0, 0, 1], 9920));
        let mut stream = self.host.node.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let accept = "application/openmetrics-text;version=1.0.0";
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: n\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let whole = text.starts_with("HTTP/1.1 200") && !text.contains("# TYPE")
            || text.ends_with("# EOF\n");
        if whole { Ok(text) } else { Err(std::io::Error::other("cut off")) }
    }

    /// Fills the state dir's file system, for a time.
    pub fn fill(&self, what: Scarce, time: Duration) {
        let filler = self.host.state_dir().join("filler");
        fs::create_dir(&filler).unwrap();
        self.fillings.fetch_add(1, SeqCst);
        match what {
            Scarce::Bytes => {
                let mut file = File::create(filler.join("bytes")).unwrap();
                // In steps of a page: it ends where nothing more has room.
                while file.write_all(&[1; 4096]).is_ok() {}
            }
            Scarce::Files => {
                let made = (0..).take_while(|n| File::create(filler.join(n.to_string())).is_ok());
                made.for_each(drop);
            }
        }
        thread::sleep(time);
        fs::remove_dir_all(&filler).unwrap();
        self.fillings.fetch_add(1, SeqCst);
    }

    pub fn fillings(&self) -> u64 {
        self.fillings.load(SeqCst)
    }

    /// Whether the state dir has been full at any time since there were so many fillings.
    pub fn full(&self, before: u64) -> bool {
        !before.is_multiple_of(2) || self.fillings() != before
    }

    /// Remembers that something was done.
    pub fn note(&self, what: impl ToString) {
        *self.done.lock().unwrap().entry(what.to_string()).or_default() += 1;
    }

    pub fn done(&self) -> BTreeMap<String, u64> {
        self.done.lock().unwrap().clone()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.kill_agent();
        if thread::panicking() {
            let log = self.agent_log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "torture: the agent's last words: {:#?}",
                &lines[lines.len().saturating_sub(8)..]
            );
        }
        for dir in [self.host.state_dir(), self.bpffs.clone()] {
            let _ = umount2(&dir, MntFlags::MNT_DETACH);
        }
    }
}

/// SIGKILL so many microseconds after its start.
pub fn killed_after(after: u64) -> Vec<String> {
    let time = format!("{}.{:06}", after / 1_000_000, after % 1_000_000);
    ["timeout", "-s", "KILL", &time].map(str::to_owned).to_vec()
}
