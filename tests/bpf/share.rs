//! The tables that all pods fill: whatever one does, there is room for the others.

use std::{mem, time::Duration};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use weir::telemetry::{
    pin,
    wire::{CounterKind, Role, Share, ShareTable, Stat},
};

use crate::{
    dns,
    frame::{self, ACK, v4},
    http2_cases,
    kernel::Kernel,
    stream::{Side, Stream},
};

const SERVER: Role = Role::ROLE_SERVER;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// What the first pod has counted of a kind.
pub fn counted(kernel: &Kernel, kind: CounterKind) -> u64 {
    counted_of(kernel, kernel.attached.pod, kind)
}

fn counted_of(kernel: &Kernel, pod: u32, kind: CounterKind) -> u64 {
    let counters = kernel.snapshot().counters.into_iter();
    counters
        .filter(|(key, _)| key.pod == pod && u32::from(key.kind) == kind.0)
        .map(|(_, n)| n)
        .sum()
}

pub fn stat(kernel: &Kernel, stat: Stat) -> u64 {
    kernel.snapshot().stats[stat.0 as usize]
}

/// What all pods have taken of a table, by what the programs keep of it.
pub fn taken(kernel: &Kernel, table: ShareTable) -> u32 {
    let path = pin::dir(&kernel.bpf_dir()).join("taken");
    let map = MapHandle::from_pinned_path(path).unwrap();
    let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    assert_eq!(bytes.len(), mem::size_of::<Share>());
    let at = table.0 as usize * 4;
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The elements of a map, by the kernel.
pub fn elements(kernel: &Kernel, map: &str) -> u32 {
    let map = MapHandle::from_pinned_path(pin::dir(&kernel.bpf_dir()).join(map)).unwrap();
    u32::try_from(map.keys().count()).unwrap()
}

fn capacity(kernel: &Kernel, map: &str) -> u32 {
    MapHandle::from_pinned_path(pin::dir(&kernel.bpf_dir()).join(map)).unwrap().max_entries()
}

/// Connections of the neighbour, more than there may be.
fn crowd(kernel: &Kernel, neighbour: u32, many: u16) -> Vec<Stream<'_>> {
    let open = |n: u16| {
        let client = v4(u8::try_from(10 + n / 1000).unwrap(), 20_000 + n % 1000);
        Stream::open_at(kernel, neighbour, SERVER, client, v4(3, 80))
    };
    (0..many).map(open).collect()
}

fn own(kernel: &Kernel, port: u16) -> Stream<'_> {
    Stream::open(kernel, SERVER, v4(9, port), v4(2, 80))
}

/// After a sweep nothing is kept of what ended, and of each table as much as is in its map.
pub fn assert_balanced(kernel: &Kernel) {
    for _ in 0..8 {
        kernel.maps.sweep(Duration::from_secs(60)).unwrap();
    }
    for (table, map) in [
        (ShareTable::SHARE_CONNS, "conns"),
        (ShareTable::SHARE_HTTP2, "http2"),
        (ShareTable::SHARE_STREAMS, "http2_streams"),
        (ShareTable::SHARE_SPILL, "inflight_spill"),
        (ShareTable::SHARE_DNS, "dns_pending"),
        (ShareTable::SHARE_COUNTERS, "counters"),
    ] {
        assert_eq!(taken(kernel, table), elements(kernel, map), "{map}");
    }
    // What the agent tells of the maps is what was put in less what was taken out.
    for map in kernel.snapshot().maps.iter().filter(|map| map.name != "pods") {
        assert_eq!(map.entries, u64::from(elements(kernel, map.name)), "{}", map.name);
    }
}

#[test]
fn a_pod_with_more_connections_than_there_may_be_blinds_no_other() {
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let all = capacity(&kernel, "conns");
    let mut hostile = crowd(&kernel, neighbour, u16::try_from(all + 1000).unwrap());
    assert_eq!(elements(&kernel, "conns"), all * 4 / 5 + 1);
    let refused = stat(&kernel, Stat::STAT_FULL_CONNS);
    assert!(refused >= 1000, "{refused}");

    // Of a connection without a place all packets are counted, and nothing above.
    let pods = kernel.snapshot().pods;
    let (&pod, _) = pods.iter().find(|(_, pod)| pod.ifindex == neighbour).unwrap();
    let requests = || counted_of(&kernel, pod, CounterKind::COUNTER_HTTP_REQUESTS);
    let before = kernel.passed(pod);
    let last = hostile.last_mut().unwrap();
    last.send(Side::Client, REQUEST);
    last.send(Side::Server, RESPONSE);
    last.send_flags(Side::Client, ACK);
    let [rx, tx] = kernel.passed(pod);
    let headers = frame::tcp(v4(9, 1), v4(2, 1), 0, ACK, b"").len() as u64;
    let more = |was: (u64, u64), packets, payload: &[u8]| {
        (was.0 + packets * headers + payload.len() as u64, was.1 + packets)
    };
    assert_eq!(rx, more(before[0], 2, REQUEST));
    assert_eq!(tx, more(before[1], 1, RESPONSE));
    assert_eq!(requests(), 0);
    // Of one with a place, the request as well.
    hostile[0].send(Side::Client, REQUEST);
    hostile[0].send(Side::Server, RESPONSE);
    assert_eq!(requests(), 1);

    let mine: Vec<_> = (0..5000)
        .map(|n| {
            let mut stream = own(&kernel, 20_000 + n);
            stream.send(Side::Client, REQUEST);
            stream
        })
        .collect();
    for mut stream in mine {
        stream.send(Side::Server, RESPONSE);
        stream.reset(Side::Client);
    }
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 5000);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), refused);

    hostile.iter().for_each(|stream| stream.reset(Side::Client));
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_CONNS), 0);
}

#[test]
fn a_pod_with_ever_new_statuses_blinds_no_other_and_its_share_goes_with_it() {
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let mut hostile = Stream::open_at(&kernel, neighbour, SERVER, v4(9, 20_000), v4(3, 80));
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "QUERY", "X"] {
        for version in [0, 1] {
            let request = format!("{method} / HTTP/1.{version}\r\nConnection: keep-alive\r\n\r\n");
            for status in 200..600 {
                hostile.send(Side::Client, request.as_bytes());
                let response = format!("HTTP/1.{version} {status} x\r\nContent-Length: 0\r\n\r\n");
                hostile.send(Side::Server, response.as_bytes());
            }
        }
    }
    let most = capacity(&kernel, "counters") / 9 + 1;
    let has = elements(&kernel, "counters");
    assert!((most..most + 50).contains(&has), "{has} of at most {most}");
    assert!(stat(&kernel, Stat::STAT_FULL_COUNTERS) > 2000);

    let mut stream = own(&kernel, 20_000);
    stream.send(Side::Client, REQUEST);
    stream.send(Side::Server, RESPONSE);
    stream.reset(Side::Client);
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 1);

    hostile.reset(Side::Client);
    kernel.end_pod();
    kernel.maps.sweep(Duration::ZERO).unwrap();
    assert_balanced(&kernel);
    assert!(elements(&kernel, "counters") >= most);
    assert_eq!(elements(&kernel, "shares"), 1);
}

#[test]
fn a_pod_that_floods_dns_blinds_no_other() {
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let all = capacity(&kernel, "dns_pending");
    for id in 0..u16::try_from(all + 1000).unwrap() {
        let query = dns::message(id, 0x0100, &["example", "org"], 1);
        kernel.pass(neighbour, true, &frame::udp(v4(3, 5000), v4(9, 53), &query));
    }
    let refused = stat(&kernel, Stat::STAT_FULL_DNS);
    assert!(refused >= 1000, "{refused}");

    for id in 0..2000 {
        let query = dns::message(id, 0x0100, &["example", "org"], 1);
        kernel.leave_pod(&frame::udp(v4(2, 5000), v4(9, 53), &query));
    }
    for id in 0..2000 {
        let response = dns::message(id, 0x8180, &["example", "org"], 1);
        kernel.enter_pod(&frame::udp(v4(9, 53), v4(2, 5000), &response));
    }
    assert_eq!(counted(&kernel, CounterKind::COUNTER_DNS_RESPONSES), 2000);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_DNS), refused);
    assert_balanced(&kernel);
}

#[test]
fn a_pod_with_http2_connections_and_streams_without_end_blinds_no_other() {
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let mut hostile = crowd(&kernel, neighbour, u16::try_from(capacity(&kernel, "http2")).unwrap());
    for stream in &mut hostile {
        stream.send(Side::Client, &http2_cases::client(&[]));
        stream.send(Side::Server, &http2_cases::server(&[]));
    }
    for stream in &mut hostile[..16] {
        for id in 0..1200 {
            stream.send(Side::Client, &http2_cases::get(2 * id + 1));
        }
    }
    let full = || [Stat::STAT_FULL_HTTP2, Stat::STAT_FULL_STREAMS].map(|it| stat(&kernel, it));
    let refused = full();
    assert!(refused.iter().all(|&n| n > 500), "{refused:?}");

    let mut stream = own(&kernel, 20_000);
    stream.send(Side::Client, &http2_cases::client(&[]));
    stream.send(Side::Server, &http2_cases::server(&[]));
    for id in 0..1000 {
        stream.send(Side::Client, &http2_cases::get(2 * id + 1));
    }
    for id in 0..1000 {
        stream.send(Side::Server, &http2_cases::ok(2 * id + 1));
    }
    stream.reset(Side::Client);
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 1000);
    assert_eq!(full(), refused);

    hostile.iter().for_each(|stream| stream.reset(Side::Client));
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_HTTP2), 0);
}

#[test]
fn a_pod_with_pipelines_without_end_blinds_no_other() {
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let mut hostile = crowd(&kernel, neighbour, 5);
    for stream in &mut hostile {
        for _ in 0..400 {
            stream.send(Side::Client, &REQUEST.repeat(10));
        }
    }
    let refused = stat(&kernel, Stat::STAT_GAP_INFLIGHT);
    assert!(refused > 1000, "{refused}");

    let mut stream = own(&kernel, 20_000);
    for (side, message) in [(Side::Client, REQUEST), (Side::Server, RESPONSE)] {
        for _ in 0..3 {
            stream.send(side, &message.repeat(100));
        }
    }
    stream.reset(Side::Client);
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 300);
    assert_eq!(stat(&kernel, Stat::STAT_GAP_INFLIGHT), refused);

    hostile.iter().for_each(|stream| stream.reset(Side::Client));
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_SPILL), 0);
}

/// Anybody can send a SYN in anybody's name, and nobody answers those.
#[test]
fn handshakes_that_others_leave_open_take_no_places_of_the_pod_s_own_connections() {
    let kernel = Kernel::new();
    let early: Vec<_> = (0..100).map(|n| own(&kernel, 30_000 + n)).collect();
    for n in 0..30_000u16 {
        let from = v4(u8::try_from(10 + n / 1000).unwrap(), 20_000 + n % 1000);
        Stream::syn(&kernel, SERVER, from, v4(2, 80));
    }
    let refused = stat(&kernel, Stat::STAT_FULL_CONNS);
    assert!(refused > 20_000, "{refused}");

    let asks = |n: u16| Stream::open(&kernel, Role::ROLE_CLIENT, v4(2, 20_000 + n), v4(9, 8080));
    let mine: Vec<_> = early.into_iter().chain((0..5000).map(asks)).collect();
    for mut stream in mine {
        stream.send(Side::Client, REQUEST);
        stream.send(Side::Server, RESPONSE);
    }
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 5100);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), refused);
    kernel.age_connections_by(200);
    assert_balanced(&kernel);
}

#[test]
fn queries_that_a_pod_is_asked_take_no_places_of_its_own_look_ups() {
    let kernel = Kernel::new();
    let many = u16::try_from(capacity(&kernel, "dns_pending") + 1000).unwrap();
    for id in 0..many {
        let query = dns::message(id, 0x0100, &["example", "org"], 1);
        kernel.enter_pod(&frame::udp(v4(9, 5000), v4(2, 53), &query));
    }
    let refused = stat(&kernel, Stat::STAT_FULL_DNS);
    assert!(refused >= 1000, "{refused}");
    for id in 0..5000 {
        let query = dns::message(id, 0x0100, &["example", "org"], 1);
        kernel.leave_pod(&frame::udp(v4(2, 5000), v4(9, 53), &query));
    }
    for id in 0..5000 {
        let response = dns::message(id, 0x8180, &["example", "org"], 1);
        kernel.enter_pod(&frame::udp(v4(9, 53), v4(2, 5000), &response));
    }
    assert_eq!(counted(&kernel, CounterKind::COUNTER_DNS_RESPONSES), 5000);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_DNS), refused);
    assert_balanced(&kernel);
}
