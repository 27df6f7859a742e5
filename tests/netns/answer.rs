//! Who answers on a pod's ports, and who asks: real sockets.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::node::Space;

/// How long a client waits for what must come, and for what must not.
pub const PATIENCE: Duration = Duration::from_secs(3);
pub const BRIEFLY: Duration = Duration::from_millis(300);

/// Tells everybody who asks on TCP or UDP port 80 of a pod by which name it answers, and by which
/// address it sees them.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn new(pod: &Space, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let (tcp, udp) = pod.run(|| {
                let at = SocketAddr::new(any, 80);
                (listen(at), bind(at))
            });
            let stopped = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((mut client, peer)) = tcp.accept() {
                        let _ = write!(client, "{name} sees {}", peer.ip());
                    }
                    let mut buffer = [0; 64];
                    if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(format!("{name} sees {}", peer.ip()).as_bytes(), peer);
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }));
        }
        Self { stop, threads }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(at: SocketAddr) -> TcpListener {
    let socket = open(at, Type::STREAM);
    socket.listen(16).unwrap();
    socket.into()
}

fn bind(at: SocketAddr) -> UdpSocket {
    open(at, Type::DGRAM).into()
}

/// A socket of one family alone: the standard library's of IPv6 takes IPv4 too.
fn open(at: SocketAddr, kind: Type) -> Socket {
    let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
    if at.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.set_nonblocking(true).unwrap();
    socket.bind(&at.into()).unwrap();
    socket
}

/// What a client in `from` is told on a TCP port; none if nobody answers.
pub fn tcp(from: &Space, ip: &str, port: u16) -> Option<String> {
    let at = SocketAddr::new(ip.parse().unwrap(), port);
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE).ok()?;
        let mut text = String::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

/// A UDP client that keeps its port.
pub struct Client(UdpSocket);

impl Client {
    pub fn new(from: &Space, ip: &str, port: u16) -> Self {
        let to = SocketAddr::new(ip.parse().unwrap(), port);
        Self(from.run(|| {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
            socket.connect(to).unwrap();
            socket
        }))
    }

    pub fn ask(&self, patience: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 64];
        // A refusal by ICMP is told on the next call.
        self.0.send(b"?").ok()?;
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }
}

pub fn udp(from: &Space, ip: &str, port: u16) -> Option<String> {
    Client::new(from, ip, port).ask(PATIENCE)
}
