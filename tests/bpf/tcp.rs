//! L3 and L4: bytes, packets, connections, resets, retransmits.

use std::time::Duration;

use weir::telemetry::{
    sys::Skb,
    wire::{CounterKind, Direction, Family, HistogramKind, HttpError, Role, Stat, TcpResult},
};

use crate::{
    frame::{self, ACK, RST, SYN, v4, v6},
    kernel::Kernel,
    stream::{Side, Stream},
};

const SERVER: Role = Role::ROLE_SERVER;
const CLIENT: Role = Role::ROLE_CLIENT;
const GRACE: Duration = Duration::from_secs(60);

fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap()
}

fn kind(kind: CounterKind) -> u8 {
    small(kind.0)
}

fn connections(kernel: &Kernel, role: Role, result: TcpResult) -> u64 {
    let key = (kind(CounterKind::COUNTER_TCP_CONNECTIONS), small(role.0), small(result.0), 0, 0);
    kernel.counts().0.get(&key).copied().unwrap_or_default()
}

#[test]
fn bytes_and_packets_by_direction_and_family() {
    let kernel = Kernel::new();
    let frame4 = frame::udp(v4(2, 1000), v4(3, 2000), &[0; 100]);
    let frame6 = frame::udp(v6(2, 1000), v6(3, 2000), &[0; 50]);
    for _ in 0..3 {
        kernel.leave_pod(&frame4);
    }
    kernel.enter_pod(&frame6);
    // ARP is neither family.
    kernel.enter_pod(&[0xff; 60]);
    let snapshot = kernel.snapshot();
    let network = snapshot.pods[&kernel.attached.pod].network;
    let at = |direction: Direction, family: Family| {
        let counter = network[direction.0 as usize][family.0 as usize];
        (counter.bytes, counter.packets)
    };
    assert_eq!(at(Direction::DIRECTION_TX, Family::FAMILY_IPV4), (3 * 142, 3));
    assert_eq!(at(Direction::DIRECTION_RX, Family::FAMILY_IPV6), (112, 1));
    assert_eq!(at(Direction::DIRECTION_RX, Family::FAMILY_IPV4), (0, 0));
    assert_eq!(at(Direction::DIRECTION_TX, Family::FAMILY_IPV6), (0, 0));
}

#[test]
fn a_handshake_is_one_connection_however_often_its_segments_come() {
    let kernel = Kernel::new();
    for (role, client, server) in
        [(SERVER, v4(9, 40000), v4(2, 80)), (CLIENT, v6(2, 40000), v6(9, 80))]
    {
        let mut stream = Stream::syn(&kernel, role, client, server);
        stream.segment(Side::Client, stream.next(Side::Client).wrapping_sub(1), SYN, &[]);
        assert_eq!(connections(&kernel, role, TcpResult::TCP_RESULT_ESTABLISHED), 0);
        stream.send_flags(Side::Server, SYN | ACK);
        stream.send_flags(Side::Server, SYN | ACK);
        stream.advance(Side::Server, 1);
        stream.send_flags(Side::Client, ACK);
        stream.send_flags(Side::Client, ACK);
        assert_eq!(connections(&kernel, role, TcpResult::TCP_RESULT_ESTABLISHED), 1);
    }
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_TCP_CONNECT), 2);
}

#[test]
fn a_closed_connection_leaves_the_table() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40000), v4(2, 80));
    assert_eq!(kernel.snapshot().maps.iter().find(|m| m.name == "conns").unwrap().entries, 1);
    stream.fin(Side::Client);
    stream.fin(Side::Server);
    stream.send_flags(Side::Client, ACK);
    assert_eq!(kernel.snapshot().maps.iter().find(|m| m.name == "conns").unwrap().entries, 0);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
}

#[test]
fn refused_and_reset_connections() {
    let kernel = Kernel::new();
    let refused = Stream::syn(&kernel, CLIENT, v4(2, 40000), v4(9, 81));
    refused.reset(Side::Server);
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_REFUSED), 1);
    let reset = Stream::open(&kernel, CLIENT, v4(2, 40001), v4(9, 80));
    reset.reset(Side::Server);
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_RESET), 1);
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_ESTABLISHED), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
}

#[test]
fn a_reset_from_nowhere_ends_nothing() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40000), v4(2, 80));
    let far = stream.next(Side::Client).wrapping_add(1 << 30);
    stream.segment(Side::Client, far, RST, &[]);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_RESET), 0);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 0);
}

/// RFC 5961, 3: what is not the very next byte's number is answered, and ends nothing.
#[test]
fn a_reset_that_the_pod_answers_ends_nothing() {
    let kernel = Kernel::new();
    for (role, port) in [(SERVER, 40_000), (CLIENT, 40_001)] {
        let (near, far) = if role == SERVER { (80, port) } else { (port, 80) };
        let (pod, peer) = (v4(2, near), v4(9, far));
        let (mut stream, other, own) = if role == SERVER {
            (Stream::open(&kernel, role, peer, pod), Side::Client, Side::Server)
        } else {
            (Stream::open(&kernel, role, pod, peer), Side::Server, Side::Client)
        };
        for off in [1, 1000, 1 << 20, u32::MAX, u32::MAX - 1000] {
            stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
            stream.segment(other, stream.next(other).wrapping_add(off), RST, &[]);
            stream.send_flags(own, ACK);
            stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
        }
        assert_eq!(connections(&kernel, role, TcpResult::TCP_RESULT_RESET), 0);
        assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 0);
    }
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 10);
    kernel.age_connections();
    kernel.maps.sweep(GRACE).unwrap();
    let counts = kernel.counts();
    assert_eq!(counts.of(CounterKind::COUNTER_TCP_CLOSED), 0, "{counts:?}");
}

/// What ended it is told by the sweep then.
#[test]
fn an_end_that_meets_a_busy_direction_is_counted_as_what_it_was() {
    let kernel = Kernel::new();
    let error = |error: HttpError| {
        let key = |role: u8| (kind(CounterKind::COUNTER_HTTP_ERRORS), role, small(error.0), 0, 0);
        let counts = kernel.counts().0;
        [1, 2].iter().filter_map(|&role| counts.get(&key(role))).sum::<u64>()
    };
    // The connection is the only one, and its end finds the other direction owned.
    let end = |stream: &mut Stream<'_>, busy, end: &dyn Fn(&mut Stream<'_>)| {
        kernel.own(busy, true);
        end(stream);
        kernel.own(busy, false);
        kernel.maps.sweep(GRACE).unwrap();
        kernel.age_connections();
        kernel.maps.sweep(GRACE).unwrap();
        let conns = kernel.snapshot().maps;
        assert_eq!(conns.iter().find(|map| map.name == "conns").unwrap().entries, 0);
    };
    let reset = |side| move |stream: &mut Stream<'_>| stream.reset(side);
    let (rx, tx) = (Direction::DIRECTION_RX, Direction::DIRECTION_TX);

    let mut refused = Stream::syn(&kernel, CLIENT, v4(2, 40_000), v4(9, 81));
    end(&mut refused, tx, &reset(Side::Server));
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_REFUSED), 1);
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_TIMEOUT), 0);

    let asked = |role, client, server| {
        let mut stream = Stream::open(&kernel, role, client, server);
        stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
        stream
    };
    end(&mut asked(CLIENT, v4(2, 40_001), v4(9, 80)), tx, &reset(Side::Server));
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_RESET), 1);
    assert_eq!(error(HttpError::HTTP_ERROR_RESET), 1);

    end(&mut asked(SERVER, v4(9, 40_002), v4(2, 80)), tx, &reset(Side::Client));
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_RESET), 1);
    assert_eq!(error(HttpError::HTTP_ERROR_CANCELLED), 1);

    end(&mut asked(SERVER, v4(9, 40_003), v4(2, 80)), rx, &|stream| stream.fin(Side::Server));
    assert_eq!(error(HttpError::HTTP_ERROR_NO_RESPONSE), 1);

    let mut left = asked(SERVER, v4(9, 40_004), v4(2, 80));
    left.fin(Side::Client);
    end(&mut left, rx, &|stream| stream.fin(Side::Server));
    assert_eq!(error(HttpError::HTTP_ERROR_CANCELLED), 2);
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_RESET), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 4);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 4);
}

/// One that nobody answers was one, though a number was off: the sweep ends that.
#[test]
fn a_reset_out_of_order_that_nothing_follows_ends_the_connection() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40000), v4(2, 80));
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.segment(Side::Client, stream.next(Side::Client).wrapping_add(9), RST, &[]);
    kernel.maps.sweep(GRACE).unwrap();
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_RESET), 0);
    kernel.age_connections();
    kernel.maps.sweep(GRACE).unwrap();
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_RESET), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 1);
    assert_eq!(kernel.snapshot().maps.iter().find(|m| m.name == "conns").unwrap().entries, 0);
}

#[test]
fn a_pod_that_ended_has_its_connections_ended_by_the_sweep() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40000), v4(2, 80));
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    kernel.maps.sweep(GRACE).unwrap();
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 0);
    kernel.end_pod();
    kernel.maps.sweep(GRACE).unwrap();
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
    assert_eq!(kernel.snapshot().maps.iter().find(|m| m.name == "conns").unwrap().entries, 0);
    kernel.maps.sweep(Duration::ZERO).unwrap();
    let snapshot = kernel.snapshot();
    assert!(snapshot.pods.is_empty() && snapshot.counters.is_empty(), "{snapshot:?}");
    assert!(snapshot.histograms.is_empty());
}

#[test]
fn a_segment_sent_again_is_a_retransmit_and_one_that_was_late_is_not() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40000), v4(2, 80));
    stream.send(Side::Client, b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n");
    let late = stream.next(Side::Client);
    // The second hundred bytes overtake the first.
    stream.segment(Side::Client, late.wrapping_add(100), ACK, &[b'x'; 100]);
    stream.segment(Side::Client, late, ACK, &[b'x'; 100]);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_RETRANSMITS), 0);
    stream.segment(Side::Client, late.wrapping_add(100), ACK, &[b'x'; 100]);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_RETRANSMITS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUEST_BODY), 200);
}

#[test]
fn a_reused_pair_of_ports_is_a_new_connection_once_the_server_says_so() {
    let kernel = Kernel::new();
    let (client, server) = (v4(9, 40000), v4(2, 80));
    let mut old = Stream::open(&kernel, SERVER, client, server);
    old.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    // A SYN alone, stray or forged, ends nothing.
    let mut new = Stream::syn_from(&kernel, SERVER, client, server, 7_000_000);
    old.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    old.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 0);
    new.accept();
    // The old one's second request was never answered; the new one starts afresh.
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
    new.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    new.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 3);
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_ESTABLISHED), 2);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_TCP_CONNECT), 2);
}

/// Nor of a connection that one side has closed: the answer may be under way still.
#[test]
fn a_stray_syn_ends_no_connection_that_the_client_has_closed() {
    let kernel = Kernel::new();
    let (client, server) = (v4(9, 40000), v4(2, 80));
    let mut old = Stream::open(&kernel, SERVER, client, server);
    old.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    old.fin(Side::Client);
    Stream::syn_from(&kernel, SERVER, client, server, 7_000_000);
    old.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    old.fin(Side::Server);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 0);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
}

#[test]
fn a_syn_repeated_after_its_answer_got_lost_is_no_second_connection() {
    let kernel = Kernel::new();
    let (client, server) = (v4(9, 40000), v4(2, 80));
    let stream = Stream::syn(&kernel, SERVER, client, server);
    stream.send_flags(Side::Server, SYN | ACK);
    let mut stream = Stream::open(&kernel, SERVER, client, server);
    stream.send(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    stream.send(Side::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_TCP_CONNECT), 1);
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_ESTABLISHED), 1);
}

#[test]
fn an_unanswered_syn_that_another_replaces_timed_out() {
    let kernel = Kernel::new();
    let (client, server) = (v4(2, 40000), v4(9, 80));
    Stream::syn(&kernel, CLIENT, client, server);
    Stream::syn_from(&kernel, CLIENT, client, server, 7_000_000).accept();
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_TIMEOUT), 1);
    assert_eq!(connections(&kernel, CLIENT, TcpResult::TCP_RESULT_ESTABLISHED), 1);
}

#[test]
fn fragments_and_nonsense_are_counted_and_harm_nothing() {
    let kernel = Kernel::new();
    let mut fragment = frame::tcp(v4(9, 40000), v4(2, 80), 1, ACK, b"GET / HTTP/1.1\r\n\r\n");
    fragment[14 + 6] = 0x20; // more fragments
    kernel.enter_pod(&fragment);
    for cut in 14..54 {
        let frame = frame::tcp(v4(9, 40000), v4(2, 80), 1, SYN, &[]);
        kernel.enter_pod(&frame[..cut.max(34)]);
    }
    let snapshot = kernel.snapshot();
    assert_eq!(snapshot.stats[Stat::STAT_GAP_FRAGMENT.0 as usize], 1);
}

#[test]
fn a_round_trip_is_of_a_segment_that_was_sent_once() {
    let kernel = Kernel::new();
    let observed = || kernel.observations(HistogramKind::HISTOGRAM_TCP_RTT);
    for (port, role) in [(40000, Role::ROLE_CLIENT), (40001, Role::ROLE_SERVER)] {
        let before = observed();
        let (near, far) = (v4(2, port), v4(9, 7));
        let (client, server) = if role == Role::ROLE_CLIENT { (near, far) } else { (far, near) };
        let (pod, peer) = if role == Role::ROLE_CLIENT {
            (Side::Client, Side::Server)
        } else {
            (Side::Server, Side::Client)
        };
        let mut stream = Stream::open(&kernel, role, client, server);
        stream.send(peer, b"\x01the peer's segments are not timed");
        stream.send_flags(pod, ACK);
        assert_eq!(observed(), before);
        let start = stream.next(pod);
        stream.send(pod, b"\x01hello");
        stream.send_flags(peer, ACK);
        assert_eq!(observed(), before + 1);
        stream.send_flags(peer, ACK);
        assert_eq!(observed(), before + 1, "an acknowledgement again");
        std::thread::sleep(std::time::Duration::from_millis(120));
        stream.send(pod, b"\x01once more");
        stream.segment(pod, start.wrapping_add(6), ACK, b"\x01once more");
        stream.send_flags(peer, ACK);
        assert_eq!(observed(), before + 1, "which of the two was acknowledged?");
    }
}

#[test]
fn a_tagged_frame_is_read_like_any_other() {
    let kernel = Kernel::new();
    let (client, server) = (v6(9, 40000), v6(2, 80));
    let tagged = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        frame
    };
    kernel.enter_pod(&tagged(frame::tcp_acknowledging(client, server, (7, 0), SYN, &[])));
    kernel.leave_pod(&tagged(frame::tcp_acknowledging(server, client, (8, 8), SYN | ACK, &[])));
    kernel.enter_pod(&tagged(frame::tcp_acknowledging(client, server, (8, 9), ACK, &[])));
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CONNECTIONS), 1);
}

/// What GSO has yet to cut, or GRO put together, is so many packets, and so is what comes again of it.
#[test]
fn a_super_packet_is_as_many_packets_as_it_has_segments() {
    let kernel = Kernel::new();
    let (client, server) = (v4(9, 40_000), v4(2, 80));
    let mut stream = Stream::open(&kernel, SERVER, client, server);
    // The request is as long as three segments; its middle comes before its beginning.
    let request = format!("GET /{} HTTP/1.1\r\n\r\n", "p".repeat(3_000)).into_bytes();
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n{}", "b".repeat(3_000));
    let retransmitted = |direction: Direction| {
        let key = (kind(CounterKind::COUNTER_TCP_RETRANSMITS), 0, small(direction.0), 0, 0);
        kernel.counts().0.get(&key).copied().unwrap_or_default()
    };
    let pass = |stream: &Stream<'_>, side, at: u32, payload: &[u8], gso_segs: u32| {
        let from_pod = side == Side::Server;
        let (from, to, other) =
            if from_pod { (server, client, Side::Client) } else { (client, server, Side::Server) };
        let seq = stream.next(side).wrapping_add(at);
        let frame = frame::tcp_acknowledging(from, to, (seq, stream.next(other)), ACK, payload);
        let mut expected = kernel.passed(kernel.attached.pod);
        kernel.pass_as(Skb { gso_segs, ..Default::default() }, from_pod, &frame);
        let of_side = &mut expected[usize::from(from_pod)];
        of_side.0 += frame.len() as u64;
        of_side.1 += u64::from(gso_segs.max(1));
        assert_eq!(kernel.passed(kernel.attached.pod), expected);
    };
    let (rx, tx) = (Direction::DIRECTION_RX, Direction::DIRECTION_TX);
    // Held, and again; then what it waited for, and again all of it, and a part.
    pass(&stream, Side::Client, 1_000, &request[1_000..], 45);
    assert_eq!(retransmitted(rx), 0);
    pass(&stream, Side::Client, 1_000, &request[1_000..], 45);
    assert_eq!(retransmitted(rx), 45);
    pass(&stream, Side::Client, 0, &request[..1_000], 3);
    assert_eq!(retransmitted(rx), 45);
    pass(&stream, Side::Client, 0, &request, 65);
    assert_eq!(retransmitted(rx), 45 + 65);
    pass(&stream, Side::Client, 0, &request[..1_000], 0);
    pass(&stream, Side::Client, 0, &request[..1_000], 1);
    assert_eq!(retransmitted(rx), 45 + 65 + 2);
    stream.advance(Side::Client, request.len());
    assert_eq!(retransmitted(tx), 0);
    pass(&stream, Side::Server, 0, response.as_bytes(), 45);
    assert_eq!(retransmitted(tx), 0);
    pass(&stream, Side::Server, 0, response.as_bytes(), 45);
    assert_eq!(retransmitted(tx), 45);
    assert_eq!(retransmitted(rx), 45 + 65 + 2);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_RESPONSE_BODY), 3_000);
    assert_eq!(connections(&kernel, SERVER, TcpResult::TCP_RESULT_ESTABLISHED), 1);
}
