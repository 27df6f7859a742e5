//! A node of a test's own: the calling thread, moved to new network and mount namespaces.
//!
//! Children of the thread are born into them, and the kernel takes them down with the last of these:
//! nothing is left behind, however a test ends, and nothing of the machine's is touched.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

/// Anything that is waited for is there by then, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The namespaces of a test.
pub struct Node {
    dir: PathBuf,
}

impl Node {
    /// Moves the calling thread into new namespaces with `lo` up and a bpffs mounted.
    pub fn new(name: &str) -> Self {
        assert!(
            geteuid().is_root(),
            "this test needs root: it makes namespaces and mounts a bpffs"
        );
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let dir = std::env::temp_dir().join(format!("weir-exporter-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let node = Self { dir };
        node.mount_bpffs();
        run("ip", &["link", "set", "lo", "up"]);
        node
    }

    /// A file or directory of this node.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where programs and maps are pinned.
    pub fn bpf_dir(&self) -> PathBuf {
        self.path("bpf/weir")
    }

    fn mount_bpffs(&self) {
        let bpffs = self.path("bpf");
        fs::create_dir(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    }

    /// Starts `weir agent` on 127.0.0.1:9920, and returns once it listens.
    pub fn agent(&self) -> Agent {
        let mut agent = self.start_agent(&["--listen", "127.0.0.1:9920"]);
        agent.wait_for("listening on http://127.0.0.1:9920/metrics");
        agent
    }

    /// Starts `weir agent` with these arguments besides those that name this node's directories.
    pub fn start_agent(&self, arguments: &[&str]) -> Agent {
        let mut command = weir();
        command.arg("agent").args(arguments).arg("--bpf-dir").arg(self.bpf_dir());
        Agent(Service::start(command))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is mounted there goes with the namespace; in the machine's own it is an empty directory.
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The binary under test.
pub fn weir() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weir"))
}

/// A long-lived child with its stderr read line by line. It ends with its handle.
pub struct Service {
    child: Child,
    lines: Receiver<String>,
    /// Every line so far.
    pub log: Vec<String>,
}

impl Service {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|err| panic!("can't start {name}: {err}"));
        let (send, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines, log: Vec::new() }
    }

    /// Reads its log up to a line with `text` in it.
    pub fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let Ok(line) = line else { panic!("{text:?} was never said, but {:#?}", self.log) };
            self.log.push(line);
            if self.log.last().unwrap().contains(text) {
                return;
            }
        }
    }

    /// Its log up to now.
    pub fn told(&mut self) -> &[String] {
        self.log.extend(self.lines.try_iter());
        &self.log
    }

    /// Sends a signal and waits for the end; returns the exit status and the rest of the log.
    pub fn stop(mut self, signal: Signal) -> (Option<i32>, Vec<String>) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        let status = wait(&mut self.child);
        let mut log = std::mem::take(&mut self.log);
        log.extend(self.lines.iter());
        (status, log)
    }

    /// Waits for it to end by itself.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        let status = wait(&mut self.child);
        (status, self.lines.iter().collect())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if Instant::now() > end => panic!("{} does not end", child.id()),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `weir agent`.
pub struct Agent(Service);

impl std::ops::Deref for Agent {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

impl std::ops::DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.0
    }
}

impl Agent {
    /// Where [`Node::agent`] listens.
    pub fn address() -> SocketAddr {
        ([127, 0, 0, 1], 9920).into()
    }

    /// The service behind it.
    pub fn into_inner(self) -> Service {
        self.0
    }
}

/// Runs a program that has to succeed; returns its stdout.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|err| panic!("{program} is needed for this test: {err}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
/// Asks again until the answer is right.
pub fn eventually(what: &str, mut right: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !right() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Covers a directory with an empty one.
pub fn hide(dir: &Path) {
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}
