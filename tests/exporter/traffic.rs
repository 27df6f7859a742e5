//! A pod with a network namespace of its own, and a server in it: real connections over its link.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc::channel,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

use super::{
    fill::Pod,
    node::{Node, run},
};

/// The server's address. The node's end of the link is the client.
pub const SERVER: &str = "198.51.100.2";

/// Bytes of each answer.
const ANSWER: usize = "HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok".len();

/// For which an answer to what is below `/slow` is kept back.
const SLOW: Duration = Duration::from_millis(60);

/// Has an IPv6 address looked up by DNS at a socket in a pod, in vain.
pub fn look_up(from: &str, at: &UdpSocket) {
    let question = b"\x03a\x1bb\x03org\x00\x00\x1c\x00\x01";
    let client = UdpSocket::bind((from, 0)).unwrap();
    client.connect(at.local_addr().unwrap()).unwrap();
    client.send(&[&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &question[..]].concat()).unwrap();
    let (_, from) = at.recv_from(&mut [0; 64]).unwrap();
    let answer = [&[0, 7, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0], &question[..]].concat();
    at.send_to(&answer, from).unwrap();
}

/// A counted pod.
pub struct Served {
    _pod: Pod,
    /// On port 80, in the pod.
    pub tcp: TcpListener,
    /// On port 53, in the pod.
    pub udp: UdpSocket,
}

impl Served {
    /// Adds a pod behind a link of that name, with sockets in it. Its namespace lives as long as they.
    pub fn new(node: &Node, link: &str) -> Self {
        let (pod, inside) = inside(node, link, "198.51.100", || {
            let tcp = TcpListener::bind((SERVER, 80)).unwrap();
            (tcp, UdpSocket::bind((SERVER, 53)).unwrap())
        });
        let (tcp, udp) = inside.join().unwrap();
        Self { _pod: pod, tcp, udp }
    }

    /// Answers one connection's requests with the status that the last part of their path names,
    /// until the client is done; what is below `/slow` after [`SLOW`].
    pub fn answer_statuses(&self) {
        let (mut stream, _) = self.tcp.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut lines = Vec::new();
            while !lines.ends_with(b"\r\n\r\n") {
                if reader.read_until(b'\n', &mut lines).unwrap() == 0 {
                    return;
                }
            }
            let line = lines.split(|byte| *byte == b'\n').next().unwrap();
            let target = line.split(|byte| *byte == b' ').nth(1).unwrap();
            let path = target.split(|byte| *byte == b'?').next().unwrap();
            let status = path.rsplit(|byte| *byte == b'/').next().unwrap();
            let status: u16 = std::str::from_utf8(status).unwrap().parse().unwrap();
            if path.starts_with(b"/slow/") {
                thread::sleep(SLOW);
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    }
}

/// Adds a pod behind a link of that name, `.2` of a subnet whose `.1` is the node, and does something in
/// its namespace.
pub fn inside<T: Send + 'static>(
    node: &Node,
    link: &str,
    subnet: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (Pod, JoinHandle<T>) {
    let pod = Pod::new(node, link);
    let (to_pod, moved) = channel::<()>();
    let (tell, told) = channel();
    let inner = format!("{link}.pod");
    let name = inner.clone();
    let inside = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(gettid()).unwrap();
        moved.recv().unwrap();
        run("ip", &["address", "add", &format!("{subnet}.2/24"), "dev", &name]);
        run("ip", &["link", "set", &name, "up"]);
        run("ip", &["route", "add", "default", "via", &format!("{subnet}.1")]);
        work()
    });
    let thread = told.recv().unwrap();
    run("ip", &["link", "set", &inner, "netns", &thread.to_string()]);
    run("ip", &["address", "add", &format!("{subnet}.1/24"), "dev", link]);
    run("ip", &["link", "set", link, "up"]);
    to_pod.send(()).unwrap();
    (pod, inside)
}

/// A connection to the pod.
pub fn connect() -> TcpStream {
    super::http::connect(format!("{SERVER}:80").parse::<SocketAddr>().unwrap())
}

/// Sends a request and reads the answer, which has two bytes.
pub fn request(stream: &mut TcpStream, head: &[u8]) {
    stream.write_all(head).unwrap();
    answers(stream, 1);
}

/// Reads so many answers.
pub fn answers(stream: &mut TcpStream, count: usize) {
    let mut bytes = vec![0; ANSWER * count];
    stream.read_exact(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"\r\n\r\nok"));
}
