//! A throw-away node: a network namespace of its own with pods beside it, all gone when dropped.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    unistd::geteuid,
};
use serde_json::Value;

/// A named network namespace, deleted when dropped.
pub struct Space {
    name: String,
}

impl Space {
    fn new(label: &str) -> Self {
        assert!(geteuid().is_root(), "this test needs root: it makes network namespaces");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weirtest-{}-{number}-{label}", std::process::id());
        assert_ok(&Command::new("ip").args(["netns", "add", &name]).output().unwrap());
        Self { name }
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs a closure in the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                inside()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command in the namespace, for 20 s at most.
    pub fn command(&self, words: &str) -> Output {
        let net = format!("--net={}", self.path().display());
        let mut command = Command::new("timeout");
        command.args(["20", "nsenter", &net]).args(words.split_whitespace());
        command.output().unwrap()
    }

    /// Runs a command that must succeed; returns its standard output.
    pub fn succeed(&self, words: &str) -> String {
        let output = self.command(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `ip -j -d` with these words, parsed; nothing printed is an empty list.
    pub fn ip(&self, words: &str) -> Value {
        let text = self.succeed(&format!("ip -j -d {words}"));
        if text.trim().is_empty() {
            Value::Array(vec![])
        } else {
            serde_json::from_str(&text).unwrap()
        }
    }

    /// Interface names.
    pub fn links(&self) -> Vec<String> {
        let links = self.ip("link");
        links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A node: the namespace that stands for the host's own.
pub struct Node {
    space: Space,
}

impl Node {
    /// A node with its loopback up and nothing else.
    pub fn new(label: &str) -> Self {
        let space = Space::new(label);
        space.succeed("ip link set lo up");
        Self { space }
    }

    /// An empty namespace for a pod.
    pub fn pod(&self, label: &str) -> Space {
        Space::new(label)
    }

    /// Another namespace behind an interface `out0` of the node (10.9.0.1 and fd09::1; the other end
    /// 10.9.0.2 and fd09::2), which is also the node's default route: the world outside.
    pub fn outside(&self) -> Space {
        let world = Space::new("world");
        let there = world.path();
        self.succeed(&format!(
            "ip link add out0 type veth peer name out1 netns {}",
            there.display()
        ));
        for command in [
            "ip addr add 10.9.0.1/24 dev out0",
            "ip addr add fd09::1/64 dev out0 nodad",
            // A link-local address would still be looking for its double while a test runs.
            "ip link set out0 addrgenmode none",
            "ip link set out0 up",
        ] {
            self.succeed(command);
        }
        for command in [
            "ip addr add 10.9.0.2/24 dev out1",
            "ip addr add fd09::2/64 dev out1 nodad",
            "ip link set out1 addrgenmode none",
            "ip link set out1 up",
            "ip link set lo up",
        ] {
            world.succeed(command);
        }
        self.succeed("ip route add default via 10.9.0.2");
        self.succeed("ip -6 route add default via fd09::2");
        world
    }
}

impl std::ops::Deref for Node {
    type Target = Space;

    fn deref(&self) -> &Space {
        &self.space
    }
}

/// One TCP exchange of a few bytes from `client` to `server`.
pub fn talk(client: &Space, server: &Space, address: IpAddr) -> IpAddr {
    let listener = server.run(|| TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let served = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip()
    });
    client.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    });
    served.join().unwrap()
}

fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
