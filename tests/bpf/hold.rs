//! The places for segments that came before their turn: they are a node's, and no pod's alone.

use weir::telemetry::wire::{CounterKind, Role, Stat};

use crate::{
    dns,
    frame::{ACK, udp, v4},
    kernel::Kernel,
    parallel::stay_on,
    stream::{Side, Stream},
};

const SERVER: Role = Role::ROLE_SERVER;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Requests of all pods.
fn requests(kernel: &Kernel) -> u64 {
    let of = |kind: u8| u32::from(kind) == CounterKind::COUNTER_HTTP_REQUESTS.0;
    let snapshot = kernel.snapshot();
    snapshot.counters.iter().filter(|(key, _)| of(key.kind)).map(|(_, n)| n).sum()
}

fn gaps(kernel: &Kernel) -> u64 {
    kernel.snapshot().stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().sum()
}

/// A byte behind each of `many` holes.
fn holes(stream: &Stream<'_>, many: u32) {
    for hole in 0..many {
        let seq = stream.next(Side::Client).wrapping_add(100 + 2 * hole);
        stream.segment(Side::Client, seq, ACK, b"x");
    }
}

/// A request of which the second half comes first, and its response.
fn disordered(stream: &mut Stream<'_>) {
    let (first, second) = REQUEST.split_at(10);
    let start = stream.next(Side::Client);
    stream.segment(Side::Client, start.wrapping_add(10), ACK, second);
    stream.segment(Side::Client, start, ACK, first);
    stream.advance(Side::Client, REQUEST.len());
    stream.send(Side::Server, RESPONSE);
}

#[test]
fn a_pod_with_holes_in_all_its_connections_blinds_no_other() {
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    // What is refused a place gives all that it has back: none asks for more than there may be.
    for each in [32, 16, 8, 1] {
        let open = |n| Stream::open_at(&kernel, neighbour, SERVER, v4(9, n), v4(3, 80));
        let hostile: Vec<_> = (20_000..20_000 + 64 / each).map(open).collect();
        hostile.iter().for_each(|stream| holes(stream, each.into()));
        let mut stream = Stream::open(&kernel, SERVER, v4(9, 40_000 + each), v4(2, 80));
        let before = [requests(&kernel), gaps(&kernel)];
        disordered(&mut stream);
        assert_eq!([requests(&kernel), gaps(&kernel)], [before[0] + 1, before[1]], "{each}");
        hostile.iter().for_each(|stream| stream.reset(Side::Client));
    }
}

#[test]
fn the_places_of_a_connection_that_ended_are_free() {
    let kernel = Kernel::new();
    for n in 0..100 {
        let mut stream = Stream::open(&kernel, SERVER, v4(9, 20_000 + n), v4(2, 80));
        holes(&stream, 16);
        stream.reset(Side::Client);
        let before = gaps(&kernel);
        stream = Stream::open(&kernel, SERVER, v4(9, 40_000 + n), v4(2, 80));
        disordered(&mut stream);
        assert_eq!([requests(&kernel), gaps(&kernel)], [u64::from(n) + 1, before]);
        stream.reset(Side::Client);
    }
}

/// A hole that nobody filled for so long that the sweep took the places back.
#[test]
fn a_connection_is_taken_up_again_though_the_sweep_took_its_places() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40_000), v4(2, 80));
    stream.send(Side::Client, REQUEST);
    stream.send(Side::Server, RESPONSE);
    holes(&stream, 5);
    kernel.age_held();
    kernel.maps.sweep(std::time::Duration::from_secs(60)).unwrap();
    stream.advance(Side::Client, 3 << 20);
    stream.send(Side::Client, b"\xf7 what nobody knows");
    stream.send(Side::Server, b"\xf7 an answer to that");
    for asked in 2..=4 {
        stream.send(Side::Client, REQUEST);
        stream.send(Side::Server, RESPONSE);
        assert_eq!([requests(&kernel), gaps(&kernel)], [asked, 1]);
    }
}

/// As long as it lives, what is behind the hole is kept, and no sooner given on.
#[test]
fn what_waits_for_its_turn_survives_a_sweep() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, SERVER, v4(9, 40_000), v4(2, 80));
    let (first, second) = REQUEST.split_at(10);
    let start = stream.next(Side::Client);
    stream.segment(Side::Client, start.wrapping_add(10), ACK, second);
    kernel.maps.sweep(std::time::Duration::from_secs(60)).unwrap();
    stream.segment(Side::Client, start, ACK, first);
    stream.advance(Side::Client, REQUEST.len());
    stream.send(Side::Server, RESPONSE);
    assert_eq!([requests(&kernel), gaps(&kernel)], [1, 0]);
}

/// What is read of a place is no other message's, of whatever pod, which the same CPU handles next.
#[test]
fn behind_bytes_that_waited_a_look_up_is_read_from_its_own_packet() {
    stay_on(0);
    let kernel = Kernel::new();
    let stream = Stream::open(&kernel, SERVER, v4(9, 20_000), v4(2, 80));
    let request = [REQUEST.trim_ascii_end(), b"\r\nX: ", &[b'x'; 200], b"\r\n\r\n"].concat();
    let (first, second) = request.split_at(10);
    let start = stream.next(Side::Client);
    stream.segment(Side::Client, start.wrapping_add(10), ACK, second);
    stream.segment(Side::Client, start, ACK, first);
    let (asks, serves) = (v4(2, 5000), v4(9, 53));
    kernel.leave_pod(&udp(asks, serves, &dns::message(7, 0x0100, &["a"], 1)));
    kernel.enter_pod(&udp(serves, asks, &dns::message(7, 0x8180, &["a"], 1)));
    let counts = kernel.counts();
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_QUERIES), 1);
    assert_eq!(counts.of(CounterKind::COUNTER_DNS_RESPONSES), 1);
    for kind in [CounterKind::COUNTER_DNS_MALFORMED, CounterKind::COUNTER_DNS_UNMATCHED] {
        assert_eq!(counts.of(kind), 0, "{counts:?}");
    }
    assert_eq!(gaps(&kernel), 0);
}
