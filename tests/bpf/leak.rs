//! What ends leaves nothing in the tables, however it ended, and whoever is forgotten meanwhile.

use weir::telemetry::wire::{CounterKind, Role, ShareTable, Stat};

use crate::{
    frame::v4,
    http2_cases,
    kernel::Kernel,
    share::{assert_balanced, counted, elements, stat, taken},
    stream::{Side, Stream},
};

const SERVER: Role = Role::ROLE_SERVER;

fn open(kernel: &Kernel, port: u16) -> Stream<'_> {
    Stream::open(kernel, SERVER, v4(9, port), v4(2, 80))
}

/// Connections that leave no place for a further stream of the pod.
fn all_streams(kernel: &Kernel) -> Vec<Stream<'_>> {
    let mut streams: Vec<_> = (0..8).map(|n| open(kernel, 20_000 + n)).collect();
    for stream in &mut streams {
        stream.send(Side::Client, &http2_cases::client(&[]));
        stream.send(Side::Server, &http2_cases::server(&[]));
        for id in 0..2000 {
            stream.send(Side::Client, &http2_cases::get(2 * id + 1));
        }
    }
    streams
}

/// A connection that the server agrees to go on with in HTTP/2.
fn upgraded(kernel: &Kernel, port: u16) -> Stream<'_> {
    let mut stream = open(kernel, port);
    let (asks, agreed) = http2_cases::upgrade();
    stream.send(Side::Client, &asks);
    stream.send(Side::Server, &agreed);
    stream
}

#[test]
fn an_upgrade_whose_request_finds_no_place_leaves_nothing() {
    let kernel = Kernel::new();
    let mut streams = all_streams(&kernel);
    let refused = stat(&kernel, Stat::STAT_FULL_STREAMS);
    assert!(refused > 0);
    streams.extend((0..100).map(|n| upgraded(&kernel, 30_000 + n)));
    assert_eq!(stat(&kernel, Stat::STAT_FULL_STREAMS), refused + 100);
    streams.iter().for_each(|stream| stream.reset(Side::Client));
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_HTTP2), 0);
}

#[test]
fn of_a_pod_that_is_forgotten_in_the_middle_of_http2_nothing_stays() {
    let kernel = Kernel::new();
    let mut streams = all_streams(&kernel);
    streams.extend((0..100).map(|n| upgraded(&kernel, 30_000 + n)));
    assert!(taken(&kernel, ShareTable::SHARE_HTTP2) > 100);
    kernel.forget(kernel.attached.pod);
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_HTTP2), 0);
    assert_eq!(taken(&kernel, ShareTable::SHARE_STREAMS), 0);
    assert_eq!(elements(&kernel, "shares"), 0);
}

/// The server's first bytes look like it, the client's don't.
#[test]
fn what_only_the_server_took_for_http2_leaves_nothing() {
    let kernel = Kernel::new();
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\xff\xfe", &[0; 40]] {
        let mut stream = open(&kernel, 20_000);
        stream.send(Side::Server, &http2_cases::server(&[]));
        stream.send(Side::Client, first);
        stream.send(Side::Server, &http2_cases::ok(1));
        stream.fin(Side::Client);
        stream.fin(Side::Server);
    }
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_HTTP2), 0);
}

#[test]
fn of_a_pod_that_is_forgotten_with_a_pipeline_nothing_stays() {
    let kernel = Kernel::new();
    let mut stream = open(&kernel, 20_000);
    stream.send(Side::Client, &b"GET / HTTP/1.1\r\n\r\n".repeat(100));
    assert!(taken(&kernel, ShareTable::SHARE_SPILL) > 90);
    kernel.forget(kernel.attached.pod);
    assert_balanced(&kernel);
    assert_eq!(taken(&kernel, ShareTable::SHARE_SPILL), 0);
    assert_eq!(taken(&kernel, ShareTable::SHARE_CONNS), 0);
    assert_eq!(taken(&kernel, ShareTable::SHARE_COUNTERS), 0);
    assert_eq!(elements(&kernel, "shares"), 0);
    assert_eq!(elements(&kernel, "counters"), 0, "nobody would remove them");
}

/// More than twice as many as there may be at a time: what the dead had is free for the next.
#[test]
fn without_an_agent_the_last_of_many_pods_is_counted_as_the_first() {
    const STATUSES: u16 = 24;
    let kernel = Kernel::new();
    let ifindex = Kernel::interface();
    let requests = b"GET / HTTP/1.1\r\n\r\n".repeat(STATUSES.into());
    let responses: String = (0..STATUSES)
        .map(|n| format!("HTTP/1.1 {} x\r\nContent-Length: 0\r\n\r\n", 200 + n))
        .collect();
    for n in 0..2100u16 {
        let name = format!("pod{n}");
        let attached = kernel.attach(ifindex, &name);
        let client = v4(9, 20_000 + n);
        let mut stream = Stream::open_at(&kernel, ifindex, SERVER, client, v4(3, 80));
        stream.send(Side::Client, &requests);
        stream.send(Side::Server, responses.as_bytes());
        for full in [Stat::STAT_FULL_CONNS, Stat::STAT_FULL_COUNTERS] {
            assert_eq!(stat(&kernel, full), 0, "{full:?}, pod {n}");
        }
        kernel.detach(ifindex, &name, &attached);
    }
    let mut stream = open(&kernel, 20_000);
    stream.send(Side::Client, &requests);
    stream.send(Side::Server, responses.as_bytes());
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), u64::from(STATUSES));
}
