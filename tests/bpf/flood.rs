//! A flood of SYNs to pods, which anybody can send in anybody's name: it hides no connection that is
//! answered before some thousand others are begun.

use std::cell::Cell;

use weir::telemetry::wire::{CounterKind, Role, ShareTable, Stat};

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

#[test]
fn connections_that_are_answered_are_counted_in_a_flood_of_those_that_are_not() {
    const CONNECTIONS: u16 = 200;
    let kernel = Kernel::new();
    let neighbour = kernel.neighbour();
    let flood = Flood::new(&kernel);
    let more = || {
        flood.send(0, 2, 100);
        flood.send(neighbour, 3, 50);
    };
    for port in 40_000..40_000 + CONNECTIONS {
        let mut stream = Stream::syn(&kernel, SERVER, v4(9, port), v4(2, 80));
        more();
        stream.accept();
        more();
        stream.send(Client, REQUEST);
        more();
        stream.send(Server, RESPONSE);
        stream.reset(Client);
        assert!(taken(&kernel, ShareTable::SHARE_CONNS) <= HALF_OPEN);
    }
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), u64::from(CONNECTIONS));
    assert_eq!(counted(&kernel, CounterKind::COUNTER_TCP_CLOSED), u64::from(CONNECTIONS));
    // Each that gave its place up is told of: all but those that are under way.
    let left = elements(&kernel, "conns");
    let forgotten = u64::from(flood.sent.get() - left);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), forgotten);
    kernel.age_connections_by(200);
    assert_balanced(&kernel);
    assert_eq!(elements(&kernel, "conns"), 0);
}

#[test]
fn the_oldest_handshake_gives_its_place_up_and_none_that_is_through() {
    let kernel = Kernel::new();
    let flood = Flood::new(&kernel);
    let asks = |stream: &mut Stream<'_>| {
        let before = counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS);
        stream.send(Client, REQUEST);
        stream.send(Server, RESPONSE);
        counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS) - before
    };
    let [mut oldest, mut next] =
        [40_000, 40_001].map(|port| Stream::syn(&kernel, SERVER, v4(9, port), v4(2, 80)));
    flood.send(0, 2, HALF_OPEN - 2);
    let told = || (elements(&kernel, "conns"), stat(&kernel, Stat::STAT_FULL_CONNS));
    assert_eq!(told(), (HALF_OPEN, 0));
    flood.send(0, 2, 1);
    assert_eq!(told(), (HALF_OPEN, 1));
    // It was forgotten: nobody knows where its bytes begin.
    oldest.accept();
    assert_eq!(asks(&mut oldest), 0);
    next.accept();
    assert_eq!(asks(&mut next), 1);
    // Its place is the next that is taken; what is through loses nothing by that.
    flood.send(0, 2, HALF_OPEN);
    assert_eq!(told(), (HALF_OPEN + 1, u64::from(HALF_OPEN)));
    assert_eq!(asks(&mut next), 1);
    // A SYN that is sent again begins anew.
    let mut again = Stream::open(&kernel, SERVER, v4(9, 40_000), v4(2, 80));
    assert_eq!(asks(&mut again), 1);
    // What the pod begins itself has no place there.
    let own: Vec<_> = (0..HALF_OPEN / 2)
        .map(|n| {
            let port = u16::try_from(10_000 + n).unwrap();
            Stream::syn(&kernel, Role::ROLE_CLIENT, v4(2, port), v4(9, 80))
        })
        .collect();
    flood.send(0, 2, 2 * HALF_OPEN);
    for mut stream in own {
        stream.accept();
        assert_eq!(asks(&mut stream), 1);
    }
    kernel.age_connections_by(200);
    assert_balanced(&kernel);
}

/// RFC 7413: a SYN may have bytes of requests with it.
#[test]
fn what_a_handshake_that_is_forgotten_had_is_free() {
    let kernel = Kernel::new();
    let flood = Flood::new(&kernel);
    let stream = Stream::syn(&kernel, SERVER, v4(9, 40_000), v4(2, 80));
    let isn = stream.next(Client).wrapping_sub(1);
    stream.segment(Client, isn, SYN, &REQUEST.repeat(50));
    assert!(elements(&kernel, "inflight_spill") > 40);
    flood.send(0, 2, HALF_OPEN);
    assert_eq!(elements(&kernel, "inflight_spill"), 0);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_CONNS), 1);
    assert_eq!(counted(&kernel, CounterKind::COUNTER_HTTP_REQUESTS), 0);
    assert_balanced(&kernel);
}
