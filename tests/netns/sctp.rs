//! Host ports of SCTP, by raw packets: a kernel that translates SCTP need not have sockets of it. Where it has, it
//! answers too, and its answer goes the same way.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use nix::sys::socket::{SockaddrStorage, recvfrom};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    answer::{BRIEFLY, PATIENCE},
    node::Space,
    plugin::{Host, ips},
    ports::{elements, map, with_ports},
};

/// RFC 9260, section 3.2: types of chunks.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
/// What an INIT asks its answer to bear.
const TAG: u32 = 7;
/// The port of the node, and the one of the pod that it leads to.
const NODE: u16 = 9899;
const POD: u16 = 9900;

/// A packet with one chunk, as it arrived.
#[derive(Debug)]
struct Packet {
    peer: IpAddr,
    source: u16,
    destination: u16,
    chunk: u8,
}

/// A raw socket of SCTP, which gets all that arrives for its namespace.
struct Raw {
    socket: Socket,
    v4: bool,
}

impl Raw {
    fn new(space: &Space, v4: bool) -> Self {
        let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
        let open = || Socket::new(domain, Type::RAW, Some(Protocol::from(132))).unwrap();
        let socket = space.run(open);
        socket.set_read_timeout(Some(BRIEFLY)).unwrap();
        Self { socket, v4 }
    }

    fn send(&self, to: IpAddr, packet: &[u8]) {
        self.socket.send_to(packet, &SocketAddr::new(to, 0).into()).unwrap();
    }

    /// What arrives, if anything does for a while. Its checksum has to be of what arrived.
    fn receive(&self) -> Option<Packet> {
        let mut buffer = [0; 256];
        let (length, from) =
            recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer).ok()?;
        let from = from.unwrap();
        let peer = match self.v4 {
            true => from.as_sockaddr_in().unwrap().ip().into(),
            false => from.as_sockaddr_in6().unwrap().ip().into(),
        };
        // Of IPv4 the header comes too.
        let header = if self.v4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let sctp = &buffer[header..length];
        let mut unsummed = sctp.to_vec();
        unsummed[8..12].fill(0);
        assert_eq!(sctp[8..12], crc32c(&unsummed).to_le_bytes(), "{peer}");
        let number = |at: usize| u16::from_be_bytes([sctp[at], sctp[at + 1]]);
        Some(Packet { peer, source: number(0), destination: number(2), chunk: sctp[12] })
    }
}

/// Answers to whoever begins an association with the pod's port, and keeps who that was, by their port.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<BTreeMap<u16, IpAddr>>>,
}

impl Server {
    fn new(pod: &Space) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let threads = [true, false].map(|v4| {
            let raw = Raw::new(pod, v4);
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(packet) = raw.receive() else { continue };
                    if (packet.chunk, packet.destination) == (INIT, POD) {
                        seen.lock().unwrap().insert(packet.source, packet.peer);
                        raw.send(packet.peer, &sctp(INIT_ACK, TAG, [POD, packet.source]));
                    }
                }
            })
        });
        Self { stop, threads: threads.into(), seen }
    }

    /// Begins an association with a port of the node. Whom the pod sees, if an answer comes back from where
    /// it was asked for.
    fn asked_by(&self, from: &Space, ip: &str) -> Option<IpAddr> {
        static PORT: AtomicU16 = AtomicU16::new(5000);
        let to: IpAddr = ip.parse().unwrap();
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let raw = Raw::new(from, to.is_ipv4());
        raw.send(to, &sctp(INIT, 0, [port, NODE]));
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let Some(packet) = raw.receive() else { continue };
            let answers = [INIT_ACK, ABORT].contains(&packet.chunk);
            if answers && (packet.peer, packet.source, packet.destination) == (to, NODE, port) {
                return self.seen.lock().unwrap().get(&port).copied();
            }
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.drain(..).map(JoinHandle::join).filter(Result::is_err).count();
        assert!(ended == 0 || thread::panicking(), "a packet's checksum was wrong");
    }
}

#[test]
fn a_port_leads_to_the_pod_from_everywhere() {
    let host = Host::new("sctp");
    let world = host.node.outside();
    let (a, b) = (host.container("a"), host.container("b"));
    let result = with_ports(&host, &a, &json!([map("9899", "SCTP", "9900")])).succeed();
    let own = ips(&result);
    let other = ips(&host.add(&b));
    host.check(&a, &result).succeed();
    let server = Server::new(&a.space);

    let seen = |ip: &str| Some(ip.parse::<IpAddr>().unwrap());
    for (node, world_ip, pod) in [("10.9.0.1", "10.9.0.2", 0), ("fd09::1", "fd09::2", 1)] {
        assert_eq!(server.asked_by(&world, node), seen(world_ip), "from outside");
        assert_eq!(server.asked_by(&host.node, node), seen(node), "from the node");
        assert_eq!(server.asked_by(&b.space, node), seen(&other[pod]), "from another pod");
        // Its own address would be its own interface's: the answer would never leave it.
        let itself = server.asked_by(&a.space, node).expect("the pod reaches itself");
        assert_ne!(Some(itself), seen(&own[pod]));
    }
    for loopback in ["127.0.0.1", "127.1.2.3", "::1"] {
        let seen = server.asked_by(&host.node, loopback);
        assert!(seen.is_some_and(|ip| !ip.is_loopback()), "{loopback}: {seen:?}");
    }
    host.del(&a);
    assert!(!elements(&host).contains("elements"), "{}", elements(&host));
    assert_eq!(server.asked_by(&host.node, "127.0.0.1"), None);
}

/// RFC 9260, sections 3.1, 3.3.2 and 3.3.3: an INIT, or its answer, with the checksum.
fn sctp(chunk: u8, tag: u32, ports: [u16; 2]) -> Vec<u8> {
    let mut packet = ports.map(u16::to_be_bytes).concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(TAG.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1_u32.to_be_bytes());
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}
