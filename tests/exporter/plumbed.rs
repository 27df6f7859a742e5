//! Pods that the plugin itself plumbed, with servers and steady clients in them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::{Value, json};

use super::node::{Node, PATIENCE, weir};

/// A pod after its ADD.
pub struct Plumbed {
    netns: PathBuf,
    /// Its IPv4 address.
    pub address: IpAddr,
}

impl Plumbed {
    /// Makes a namespace and calls ADD for it with the example's configuration.
    pub fn new(node: &Node, namespace: &str, pod: &str, id: &str) -> Self {
        let netns = node.path(&format!("{id}.netns"));
        fs::write(&netns, "").unwrap();
        let path = netns.clone();
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        });
        made.join().unwrap();
        let mut plugin = weir()
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", &netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        plugin.stdin.take().unwrap().write_all(config(node).to_string().as_bytes()).unwrap();
        let reply = plugin.wait_with_output().unwrap().stdout;
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        let address = reply["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{reply}"));
        Self { netns, address: address.split('/').next().unwrap().parse().unwrap() }
    }

    /// Runs something in the pod, on a thread of its own.
    pub fn run<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let netns = File::open(&self.netns).unwrap();
        thread::spawn(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            inside()
        })
    }

    /// Serves HTTP on port 80: the last part of a path is the status, `/slow` in it takes 60 ms.
    pub fn serve(&self) {
        let at = SocketAddr::new(self.address, 80);
        let listener = self.run(move || TcpListener::bind(at).unwrap()).join().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || answer(stream));
            }
        });
    }

    /// Answers DNS on port 53: every name exists, and has no record.
    pub fn resolve(&self) {
        let at = SocketAddr::new(self.address, 53);
        let socket = self.run(move || UdpSocket::bind(at).unwrap()).join().unwrap();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                query[2] |= 0x80;
                let _ = socket.send_to(&query[..length], from);
            }
        });
    }

    /// Asks for these paths in turn on one connection, so many times a second, until told to stop.
    pub fn ask(&self, server: &Self, paths: &[&str], rate: u32, stop: &Arc<AtomicBool>) {
        let (to, paths, stop) = (server.address, owned(paths), Arc::clone(stop));
        self.run(move || steadily_ask(to, &paths, rate, &stop));
    }

    /// Looks a name up, so many times a second, until told to stop.
    pub fn look_up(&self, server: &Self, rate: u32, stop: &Arc<AtomicBool>) {
        let (to, stop) = (SocketAddr::new(server.address, 53), Arc::clone(stop));
        self.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut number = 0u16;
            steadily(rate, &stop, || {
                number += 1;
                let mut query = number.to_be_bytes().to_vec();
                query.extend_from_slice(b"\x01\0\0\x01\0\0\0\0\0\0\x05stock\x04shop\0\0\x01\0\x01");
                socket.send_to(&query, to).unwrap();
                socket.recv(&mut [0; 512]).unwrap();
            });
        });
    }
}

/// The same from the node itself, which is the outside to its pods.
pub fn ask_from_outside(server: &Plumbed, paths: &[&str], rate: u32, stop: &Arc<AtomicBool>) {
    let (to, paths, stop) = (server.address, owned(paths), Arc::clone(stop));
    thread::spawn(move || steadily_ask(to, &paths, rate, &stop));
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

fn steadily_ask(to: IpAddr, paths: &[String], rate: u32, stop: &AtomicBool) {
    let mut stream = super::http::connect(SocketAddr::new(to, 80));
    let mut paths = paths.iter().cycle();
    steadily(rate, stop, || {
        let path = paths.next().unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: shop.example\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = vec![0; "HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok".len()];
        stream.read_exact(&mut answer).unwrap();
    });
}

/// Keeps to the beat, and makes up for what came late. A thread ends in time: a test has a bound.
fn steadily(rate: u32, stop: &AtomicBool, mut act: impl FnMut()) {
    let begun = Instant::now();
    for beat in 0.. {
        thread::sleep(
            (begun + Duration::from_secs(1) / rate * beat)
                .saturating_duration_since(Instant::now()),
        );
        if stop.load(Relaxed) || begun.elapsed() > Duration::from_secs(300) {
            return;
        }
        act();
    }
}

fn answer(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap();
        if path.contains("/slow") {
            thread::sleep(Duration::from_millis(60));
        }
        let status = path.rsplit('/').next().unwrap();
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The example's, below the node's own directories.
pub fn config(node: &Node) -> Value {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/10-weir.conflist");
    let mut list: Value = serde_json::from_str(&fs::read_to_string(example).unwrap()).unwrap();
    let mut config = list["plugins"][0].take();
    config["cniVersion"] = list["cniVersion"].take();
    config["name"] = list["name"].take();
    config["stateDir"] = json!(node.path("state"));
    config["bpfDir"] = json!(node.bpf_dir());
    config["telemetry"]["required"] = json!(true);
    config
}
