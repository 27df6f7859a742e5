//! What stands between the frame's header and the transport's changes nothing of what is counted.

use std::{
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use weir::telemetry::wire::{CounterKind, Role, Stat};

use crate::{
    dns,
    frame::{self, ACK, End, FIN, SYN, v4, v6},
    kernel::{Counts, Kernel},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Where the IP header begins.
const IP: usize = 14;

type Change = fn(Vec<u8>) -> Vec<u8>;

fn lengthened(mut frame: Vec<u8>, at: usize, by: usize) -> Vec<u8> {
    let len = u16::from_be_bytes([frame[at], frame[at + 1]]) + u16::try_from(by).unwrap();
    frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
    frame
}

/// As many IPv4 options as there may be: a router alert, and nothing.
fn options(frame: Vec<u8>) -> Vec<u8> {
    let mut frame = lengthened(frame, IP + 2, 40);
    frame[IP] = 0x4f;
    let options = [&[0x94, 4, 0, 0][..], &[1; 36]].concat();
    frame.splice(IP + 20..IP + 20, options);
    frame
}

/// An IPv6 header of this kind, with this length and these bytes, before what is there.
fn extension(frame: Vec<u8>, kind: u8, len: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = lengthened(frame, IP + 4, 2 + rest.len());
    let next = std::mem::replace(&mut frame[IP + 6], kind);
    frame.splice(IP + 40..IP + 40, [&[next, len][..], rest].concat());
    frame
}

fn hop_by_hop(frame: Vec<u8>) -> Vec<u8> {
    extension(frame, 0, 0, &[5, 2, 0, 0, 1, 0])
}

fn destination_options(frame: Vec<u8>) -> Vec<u8> {
    extension(frame, 60, 2, &[&[1, 20][..], &[0; 20]].concat())
}

fn routing(frame: Vec<u8>) -> Vec<u8> {
    extension(frame, 43, 0, &[4, 0, 0, 0, 0, 0])
}

/// A fragment header of a whole packet (RFC 6946).
fn atomic_fragment(frame: Vec<u8>) -> Vec<u8> {
    extension(frame, 44, 0, &[0, 0, 0, 0, 0, 7])
}

fn all(frame: Vec<u8>) -> Vec<u8> {
    hop_by_hop(routing(atomic_fragment(destination_options(frame))))
}

/// With a tag that no device took off (IEEE 802.1Q): priority 5, network 7.
fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0x00, 0xa0, 0x07]);
    frame
}

/// A connection and a look-up, every frame of them changed so; what that counts.
fn counted(kernel: &Kernel, client: End, server: End, change: Change) -> (Counts, u64) {
    let gaps =
        || kernel.snapshot().stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().sum::<u64>();
    let before = (kernel.counts(), gaps());
    let up = |numbers, flags, payload: &[u8]| {
        kernel
            .enter_pod(&change(frame::tcp_acknowledging(client, server, numbers, flags, payload)));
    };
    let down = |numbers, flags, payload: &[u8]| {
        kernel
            .leave_pod(&change(frame::tcp_acknowledging(server, client, numbers, flags, payload)));
    };
    let [asked, answered] = [REQUEST, RESPONSE].map(|bytes| u32::try_from(bytes.len()).unwrap());
    up((7, 0), SYN, &[]);
    down((70, 8), SYN | ACK, &[]);
    up((8, 71), ACK, &[]);
    up((8, 71), ACK, REQUEST);
    down((71, 8 + asked), ACK, RESPONSE);
    up((8 + asked, 71 + answered), FIN | ACK, &[]);
    down((71 + answered, 9 + asked), FIN | ACK, &[]);
    let (resolver, name) = (End { port: 53, ..client }, End { port: 5000, ..server });
    let query = dns::message(7, 0x0100, &["example", "org"], 1);
    kernel.leave_pod(&change(frame::udp(name, resolver, &query)));
    let response = dns::message(7, 0x8183, &["example", "org"], 1);
    kernel.enter_pod(&change(frame::udp(resolver, name, &response)));
    let mut added = kernel.counts();
    added.0.retain(|key, n| {
        *n -= before.0.0.get(key).copied().unwrap_or_default();
        *n > 0
    });
    (added, gaps() - before.1)
}

#[test]
fn tags_options_and_extension_headers_change_no_count() {
    let kernel = Kernel::new();
    let plain: Change = |frame| frame;
    let (client, server) = (v4(9, 40_000), v4(2, 80));
    let expected = counted(&kernel, client, server, plain);
    assert_eq!(expected.0.of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(expected.0.of(CounterKind::COUNTER_DNS_RESPONSES), 1);
    assert_eq!(expected.1, 0);
    let changes: [(&str, Change); 3] = [
        ("options", options),
        ("tag", tagged),
        ("tag and options", |frame| tagged(options(frame))),
    ];
    for (name, change) in changes {
        assert_eq!(counted(&kernel, client, server, change), expected, "{name}");
    }
    let (client, server) = (v6(9, 40_000), v6(2, 80));
    let changes: [(&str, Change); 8] = [
        ("none", plain),
        ("tag", tagged),
        ("tag and all", |frame| tagged(all(frame))),
        ("hop-by-hop", hop_by_hop),
        ("destination", destination_options),
        ("routing", routing),
        ("atomic fragment", atomic_fragment),
        ("all", all),
    ];
    for (name, change) in changes {
        assert_eq!(counted(&kernel, client, server, change), expected, "{name}");
    }
}

/// The first has all that is read of it, and what comes behind is told of as a gap.
#[test]
fn a_dns_response_in_fragments_is_an_answer() {
    let kernel = Kernel::new();
    for (ours, theirs) in [(v4(2, 5000), v4(9, 53)), (v6(2, 5000), v6(9, 53))] {
        let query = dns::message(7, 0x0100, &["example", "org"], 16);
        kernel.leave_pod(&frame::udp(ours, theirs, &query));
        let mut whole = frame::udp(theirs, ours, &dns::message(7, 0x8180, &["example", "org"], 16));
        whole.extend([b't'; 1000]);
        let fragment = |frame: Vec<u8>, offset: u16, more: bool| {
            if ours.addr.is_ipv4() {
                let mut frame = frame;
                let field = (offset / 8) | (u16::from(more) << 13);
                frame[IP + 6..IP + 8].copy_from_slice(&field.to_be_bytes());
                return frame;
            }
            let field = (offset | u16::from(more)).to_be_bytes();
            extension(frame, 44, 0, &[field[0], field[1], 0, 0, 0, 7])
        };
        kernel.enter_pod(&fragment(whole.clone(), 0, true));
        // What would be another answer, if it were read.
        kernel.enter_pod(&fragment(whole, 1480, false));
    }
    let role = u8::try_from(Role::ROLE_CLIENT.0).unwrap();
    let mut expected = Counts::default();
    expected.add(CounterKind::COUNTER_DNS_QUERIES, role, 0, 0, 16, 2);
    expected.add(CounterKind::COUNTER_DNS_RESPONSES, role, 0, 0, 16, 2);
    assert_eq!(kernel.counts(), expected);
    assert_eq!(kernel.snapshot().stats[Stat::STAT_GAP_FRAGMENT.0 as usize], 2);
}

/// Before a program on ingress sees a frame the kernel has taken its tag off, and keeps it beside the frame; on
/// egress the tag is where the sender put it.
#[test]
fn a_frame_whose_tag_the_kernel_took_off_is_read_like_any_other() {
    let kernel = Kernel::new();
    let ifindex = kernel.neighbour();
    for device in ["neighbour", "neighbour-pod"] {
        let up = Command::new("ip").args(["link", "set", device, "up"]).status().unwrap();
        assert!(up.success(), "{device}");
    }
    let send = |device: &str, frame: &[u8]| {
        let mut links = nix::ifaddrs::getifaddrs().unwrap();
        let address = links
            .find_map(|it| {
                it.address.filter(|_| it.interface_name == device)?.as_link_addr().copied()
            })
            .unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).unwrap();
        let sent = sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    };
    let (asks, serves) = (v4(2, 5_000), v4(9, 53));
    let (query, response) = (
        frame::udp(asks, serves, &dns::message(7, 0x0100, &["example", "org"], 1)),
        frame::udp(serves, asks, &dns::message(7, 0x8180, &["example", "org"], 1)),
    );
    send("neighbour-pod", &tagged(query));
    send("neighbour", &tagged(response));
    let (queries, responses) =
        (CounterKind::COUNTER_DNS_QUERIES, CounterKind::COUNTER_DNS_RESPONSES);
    let deadline = Instant::now() + Duration::from_secs(5);
    while kernel.counts_at(ifindex).of(responses) == 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let counts = kernel.counts_at(ifindex);
    assert_eq!((counts.of(queries), counts.of(responses)), (1, 1), "{counts:?}");
}
