//! A flood of SYNs to pods, which anybody can send in anybody's name: it hides no connection that is
//! answered, and where there is none nothing is forgotten.

use std::cell::Cell;

use weir::telemetry::wire::{CounterKind, Role, ShareTable, Stat, TcpResult};

use crate::{
    frame::{self, SYN, v4},
    kernel::Kernel,
    share::{assert_balanced, counted, elements, stat, taken},
    stream::{
        Side::{Client, Server},
        Stream,
    },
};

const SERVER: Role = Role::ROLE_SERVER;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// `MAX_HALF_OPEN` of `wire.h`.
const HALF_OPEN: u32 = 4096;
/// Seconds beyond which nobody waits for a handshake.
const LONG: u64 = 200;

/// SYNs, each from another end.
struct Flood<'k> {
    kernel: &'k Kernel,
    sent: Cell<u32>,
}

impl<'k> Flood<'k> {
    fn new(kernel: &'k Kernel) -> Self {
        Self { kernel, sent: Cell::new(0) }
    }

    /// To a pod at an interface (0: the test's own), whose address ends with `pod`.
    fn send(&self, ifindex: u32, pod: u8, many: u32) {
        for n in self.sent.get()..self.sent.get() + many {
            let from = v4(
                u8::try_from(20 + n / 50_000).unwrap(),
                u16::try_from(1024 + n % 50_000).unwrap(),
            );
            let syn = frame::tcp(from, v4(pod, 80), 7, SYN, &[]);
            self.kernel.pass(ifindex, false, &syn);
        }
        self.sent.set(self.sent.get() + many);
    }
}

fn asks(kernel: &Kernel, stream: &mut Stream<'_>) -> u64 {
    let before = counted(kernel, CounterKind::COUNTER_HTTP_REQUESTS);
    stream.send(Client, REQUEST);
    stream.send(Server, RESPONSE);
    counted(kernel, CounterKind::COUNTER_HTTP_REQUESTS) - before
}

/// What the first pod, or else all others, had so many of.
fn results(kernel: &Kernel, first: bool, result: TcpResult) -> u64 {
    let counters = kernel.snapshot().counters.into_iter();
    counters
        .filter(|(key, _)| {
            (key.pod == kernel.attached.pod) == first
                && u32::from(key.kind) == CounterKind::COUNTER_TCP_CONNECTIONS.0
                && u32::from(key.a) == result.0
        })
        .map(|(_, n)| n)
        .sum()
}

#[test]
fn connections_that_are_answered_are_counted_in_a_flood_of_those_that_are_not() {
    const CONNECTIONS: u16 = 200;
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let flood = Flood::new(&kernel);
    flood.send(0, 2, 6000);
    let refused = stat(&kernel, Stat::STAT_FULL_CONNS);
    assert_eq!(refused, u64::from(6000 - elements(&kernel, "conns")));
    // While one handshake goes on, 40 others begin.
    let more = || {
        flood.send(0, 2, 15);
        flood.send(neighbour, 3, 5);
    };
    for port in 40_000..40_000 + CONNECTIONS {
        let mut stream = Stream::syn(&kernel, SERVER, v4(9, port), v4(2, 80));
        more();
        stream.accept();
        more();
        assert_eq!(asks(&kernel, &mut stream), 1, "{port}");
        stream.reset(Client);
        assert!(taken(&kernel, ShareTable::SHARE_CONNS) <= HALF_OPEN);
    }
    assert_eq!(counted(&kernel, CounterKind::COUNTER_TCP_CLOSED), u64::from(CONNECTIONS));
    // Each that gave its place up is told of, and no timeout: all but those that are under way.
    let left = elements(&kernel, "conns");
    let forgotten = u64::from(flood.sent.get() - left);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), forgotten);
    kernel.age_connections_by(LONG);
    assert_balanced(&kernel);
    assert_eq!(elements(&kernel, "conns"), 0);
    let timeouts = [true, false]
        .map(|first| results(&kernel, first, TcpResult::TCP_RESULT_TIMEOUT))
        .iter()
        .sum::<u64>();
    assert_eq!(timeouts, u64::from(left));
}

/// Those that nobody ends are told of when their time is over, whatever is begun and answered meanwhile.
#[test]
fn without_a_flood_no_handshake_is_forgotten() {
    const FEW: u16 = 50;
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let silent: Vec<_> =
        (0..FEW).map(|n| Stream::syn(&kernel, SERVER, v4(8, 30_000 + n), v4(2, 80))).collect();
    for n in 0..10_000u16 {
        let client = v4(u8::try_from(10 + n / 1000).unwrap(), 20_000 + n % 1000);
        let stream = if n % 2 == 0 {
            Stream::open(&kernel, SERVER, client, v4(2, 80))
        } else {
            Stream::open_at(&kernel, neighbour, SERVER, client, v4(3, 80))
        };
        stream.reset(Client);
    }
    assert_eq!(elements(&kernel, "conns"), u32::from(FEW));
    kernel.age_connections_by(LONG);
    assert_balanced(&kernel);
    assert_eq!(elements(&kernel, "conns"), 0);
    drop(silent);
    let of = |first, result| results(&kernel, first, result);
    assert_eq!(of(true, TcpResult::TCP_RESULT_TIMEOUT), u64::from(FEW));
    assert_eq!(of(false, TcpResult::TCP_RESULT_TIMEOUT), 0);
    for first in [true, false] {
        assert_eq!(of(first, TcpResult::TCP_RESULT_ESTABLISHED), 5000);
    }
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), 0);
}

#[test]
fn a_flood_on_one_pod_takes_no_places_of_another_s() {
    // Four of them among eight at random, so that one could go, is one run of 25,000.
    const FEW: u16 = 6;
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let flood = Flood::new(&kernel);
    // The first pod's are older than all of the flood, and some come into the midst of it.
    let begin = |from: u16| -> Vec<_> {
        let begin = |n| Stream::syn(&kernel, SERVER, v4(9, from + n), v4(2, 80));
        (0..FEW).map(begin).collect()
    };
    let mut mine = begin(30_000);
    flood.send(neighbour, 3, 8000);
    mine.extend(begin(31_000));
    flood.send(neighbour, 3, 8000);
    for stream in &mut mine[..usize::from(FEW) + 2] {
        stream.accept();
        assert_eq!(asks(&kernel, stream), 1);
    }
    kernel.age_connections_by(LONG);
    assert_balanced(&kernel);
    let timeouts = results(&kernel, true, TcpResult::TCP_RESULT_TIMEOUT);
    assert_eq!(timeouts, u64::from(FEW) - 2);
}

#[test]
fn what_gives_its_place_up_is_no_handshake_that_is_through() {
    let kernel = Kernel::new();
    let flood = Flood::new(&kernel);
    let mut open = Stream::open(&kernel, SERVER, v4(9, 40_000), v4(2, 80));
    // What the pod begins itself has no place there.
    let own: Vec<_> = (0..HALF_OPEN / 2)
        .map(|n| {
            let port = u16::try_from(10_000 + n).unwrap();
            Stream::syn(&kernel, Role::ROLE_CLIENT, v4(2, port), v4(9, 80))
        })
        .collect();
    let old = Stream::syn(&kernel, SERVER, v4(9, 40_001), v4(2, 80));
    let others = elements(&kernel, "conns") - 1;
    // Far more than there are places: the old one has given its own up.
    flood.send(0, 2, 20 * HALF_OPEN);
    let there = elements(&kernel, "conns") - others;
    assert!(there <= HALF_OPEN, "{there}");
    let forgotten = u64::from(20 * HALF_OPEN + 1 - there);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), forgotten);
    assert_eq!(asks(&kernel, &mut open), 1);
    let mut old = old;
    old.accept();
    assert_eq!(asks(&kernel, &mut old), 0, "nobody knows where its bytes begin");
    // A SYN that is sent again begins anew.
    let mut again = Stream::open(&kernel, SERVER, v4(9, 40_001), v4(2, 80));
    assert_eq!(asks(&kernel, &mut again), 1);
    for mut stream in own {
        stream.accept();
        assert_eq!(asks(&kernel, &mut stream), 1);
    }
    kernel.age_connections_by(LONG);
    assert_balanced(&kernel);
}

/// RFC 7413: a SYN may have bytes with it.
#[test]
fn what_a_handshake_that_is_forgotten_had_is_free() {
    let kernel = Kernel::new();
    let flood = Flood::new(&kernel);
    for n in 0..8 {
        Stream::syn_with(&kernel, SERVER, v4(9, 40_000 + n), v4(2, 80), REQUEST);
    }
    flood.send(0, 2, 20 * HALF_OPEN);
    // A later one finds the places that they had.
    let mut stream = Stream::syn_with(&kernel, SERVER, v4(9, 41_000), v4(2, 80), REQUEST);
    stream.advance(Client, REQUEST.len());
    stream.accept();
    stream.send(Server, RESPONSE);
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 1);
    kernel.age_connections_by(LONG);
    assert_balanced(&kernel);
    kernel.assert_at_rest();
}
