//! What ends a handshake: that each side has acknowledged the other's SYN. Nothing else does, and nothing is
//! read before.

use weir::telemetry::wire::{CounterKind, HistogramKind, Role, Stat, TcpResult};

use crate::{
    frame::{ACK, End, FIN, SYN, v4},
    http2_cases,
    kernel::{Counts, Kernel},
    share::{assert_balanced, elements, stat},
    stream::{
        Side::{self, Client, Server},
        Stream,
    },
};

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const ROLES: [Role; 2] = [Role::ROLE_SERVER, Role::ROLE_CLIENT];
/// Seconds beyond which nobody waits for a handshake.
const LONG: u64 = 200;

/// Client and server of a connection of the pod in a role.
pub fn ends(role: Role, port: u16) -> (End, End) {
    match role {
        Role::ROLE_SERVER => (v4(9, port), v4(2, 80)),
        _ => (v4(2, port), v4(9, 80)),
    }
}

pub fn syn(kernel: &Kernel, role: Role, port: u16) -> Stream<'_> {
    let (client, server) = ends(role, port);
    Stream::syn(kernel, role, client, server)
}

pub fn results(counts: &Counts, result: TcpResult) -> u64 {
    let is = |key: &(u8, u8, u8, u8, u16)| {
        u32::from(key.0) == CounterKind::COUNTER_TCP_CONNECTIONS.0 && u32::from(key.2) == result.0
    };
    counts.0.iter().filter(|(key, _)| is(key)).map(|(_, n)| n).sum()
}

/// Of the pod's connections: established, and those that nobody answered in time.
pub fn told(kernel: &Kernel) -> (u64, u64) {
    let counts = kernel.counts();
    let of = |result| results(&counts, result);
    (of(TcpResult::TCP_RESULT_ESTABLISHED), of(TcpResult::TCP_RESULT_TIMEOUT))
}

pub fn requests(kernel: &Kernel) -> u64 {
    kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS)
}

/// Everything that a connection may have in a table beside its own element.
fn entries(kernel: &Kernel) -> u32 {
    ["http2", "http2_streams", "inflight_spill", "dns_pending"]
        .iter()
        .map(|map| elements(kernel, map))
        .sum()
}

pub fn exchange(stream: &mut Stream<'_>) {
    stream.send(Client, REQUEST);
    stream.send(Server, RESPONSE);
}

/// Ends what is left, and nothing stays.
pub fn assert_all_ends(kernel: &Kernel) {
    kernel.age_connections_by(LONG);
    assert_balanced(kernel);
    assert_eq!(elements(kernel, "conns"), 0);
    kernel.assert_at_rest();
}

/// Who never got the SYN-ACK doesn't know its number.
#[test]
fn an_acknowledgement_of_something_else_ends_no_handshake() {
    let kernel = Kernel::new();
    for port in 40_000..40_050 {
        let mut stream = syn(&kernel, Role::ROLE_SERVER, port);
        stream.send_flags(Server, SYN | ACK);
        let (seq, answer) = (stream.next(Client), stream.next(Server).wrapping_add(1));
        for off in [u32::MAX, 1, 2, 1000, 1 << 20, 1 << 31, 0u32.wrapping_sub(answer)] {
            let numbers = (seq, answer.wrapping_add(off));
            stream.acknowledging(Client, numbers, ACK, &[]);
            stream.acknowledging(Client, numbers, ACK, REQUEST);
            stream.acknowledging(Client, numbers, ACK | FIN, REQUEST);
        }
        stream.advance(Server, 1);
        // Nor a segment that acknowledges nothing.
        stream.segment(Client, seq, 0, REQUEST);
        stream.segment(Client, seq, FIN, &[]);
        // What the pod says without bytes is what it answers those with.
        stream.send_flags(Server, ACK);
    }
    assert_eq!(told(&kernel), (0, 0));
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_L7_CONNECTIONS), 0);
    // The one that got it goes on as if nothing had been.
    let (client, server) = ends(Role::ROLE_SERVER, 40_000);
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, client, server);
    exchange(&mut stream);
    stream.reset(Client);
    assert_eq!((told(&kernel), requests(&kernel)), ((1, 0), 1));
    assert_all_ends(&kernel);
    assert_eq!(told(&kernel), (1, 49));
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_TCP_CLOSED), 1);
    assert_eq!(kernel.gaps().len(), 0, "{:?}", kernel.gaps());
}

#[test]
fn an_answer_to_another_syn_is_none() {
    let kernel = Kernel::new();
    for (n, role) in (0u16..).zip(ROLES) {
        let mut stream = syn(&kernel, role, 40_000 + n);
        let (seq, isn) = (stream.next(Server), stream.next(Client).wrapping_sub(1));
        for off in [0, 2, 3, 1 << 20, 1 << 31] {
            stream.acknowledging(Server, (seq ^ 77, isn.wrapping_add(off)), SYN | ACK, &[]);
        }
        assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_TCP_CONNECT), u64::from(n));
        stream.accept();
        exchange(&mut stream);
        stream.reset(Client);
    }
    assert_eq!((told(&kernel), requests(&kernel)), ((2, 0), 2));
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_TCP_CONNECT), 2);
}

/// Of all that is lost, late or said twice before the server has the client's word.
#[test]
fn any_segment_that_acknowledges_the_answer_ends_it() {
    let kernel = Kernel::new();
    let many = REQUEST.repeat(3);
    let (first, second) = many.split_at(REQUEST.len() + 7);
    let (mut opened, mut asked) = (0, 0);
    for (n, role) in (0u16..).zip(ROLES) {
        // The client's ACK alone is lost, its first bytes come last, and each part twice.
        let mut stream = syn(&kernel, role, 40_000 + n);
        stream.send_flags(Server, SYN | ACK);
        stream.send_flags(Server, SYN | ACK);
        stream.advance(Server, 1);
        let seq = stream.next(Client);
        let then = seq.wrapping_add(u32::try_from(first.len()).unwrap());
        for (at, bytes) in [(then, second), (then, second), (seq, first), (seq, first)] {
            stream.segment(Client, at, ACK, bytes);
        }
        stream.send_flags(Client, ACK);
        stream.advance(Client, many.len());
        for _ in 0..3 {
            stream.send(Server, RESPONSE);
        }
        stream.fin(Client);
        stream.fin(Server);
        (opened, asked) = (opened + 1, asked + 3);
        assert_eq!((told(&kernel), requests(&kernel)), ((opened, 0), asked));
        // The server has forgotten its first answer, and gives another.
        let mut stream = syn(&kernel, role, 41_000 + n);
        let old = stream.next(Server).wrapping_sub(5000);
        stream.acknowledging(Server, (old, stream.next(Client)), SYN | ACK, &[]);
        stream.accept();
        exchange(&mut stream);
        stream.reset(Client);
        (opened, asked) = (opened + 1, asked + 1);
        assert_eq!((told(&kernel), requests(&kernel)), ((opened, 0), asked));
    }
    assert_eq!(kernel.gaps().len(), 0, "{:?}", kernel.gaps());
    assert_all_ends(&kernel);
}

/// Where the programs were attached in its middle.
#[test]
fn a_handshake_of_which_a_part_never_passed_is_a_gap_and_no_connection() {
    let kernel = Kernel::new();
    for (n, role) in (0u16..).zip(ROLES) {
        // The SYN-ACK did not.
        let mut stream = syn(&kernel, role, 40_000 + n);
        stream.advance(Server, 1);
        stream.send_flags(Client, ACK);
        exchange(&mut stream);
        exchange(&mut stream);
        assert_eq!(elements(&kernel, "conns"), 0, "{role:?}");
        assert_eq!(stat(&kernel, Stat::STAT_GAP_SEQUENCE), u64::from(n) + 1);
        // The next on the same ports is right again.
        let mut stream = syn(&kernel, role, 40_000 + n);
        stream.accept();
        exchange(&mut stream);
        stream.reset(Client);
        assert_eq!((told(&kernel), requests(&kernel)), ((u64::from(n) + 1, 0), u64::from(n) + 1));
    }
    // The client's acknowledgement never passed, and a server sends bytes only behind that.
    let mut stream = syn(&kernel, Role::ROLE_SERVER, 42_000);
    stream.send_flags(Server, SYN | ACK);
    stream.advance(Server, 1);
    stream.send(Server, b"SSH-2.0-x\r\n");
    assert_eq!(told(&kernel), (3, 0));
    stream.reset(Server);
    assert_all_ends(&kernel);
    assert_eq!(told(&kernel), (3, 0));
}

/// The last bytes of the connection before, on the same ports, are no word about the new one.
#[test]
fn the_end_of_the_connection_before_takes_nothing_from_the_next() {
    let kernel = Kernel::new();
    for (n, role) in (0u16..).zip(ROLES) {
        let mut stream = syn(&kernel, role, 40_000);
        for off in [1u32 << 30, 1 << 24] {
            let numbers =
                (stream.next(Server).wrapping_sub(off), stream.next(Client).wrapping_sub(off));
            stream.acknowledging(Server, numbers, FIN | ACK, &[]);
            stream.acknowledging(Client, (numbers.1, numbers.0), FIN | ACK, &[]);
        }
        stream.accept();
        exchange(&mut stream);
        stream.reset(Client);
        assert_eq!((told(&kernel), requests(&kernel)), ((u64::from(n) + 1, 0), u64::from(n) + 1));
    }
    assert_eq!(kernel.gaps().len(), 0, "{:?}", kernel.gaps());
}

/// RFC 9293, 3.5: both sides begin at once, and neither's SYN is answered by a SYN-ACK of its own.
#[test]
fn syns_that_cross_are_one_connection() {
    let kernel = Kernel::new();
    let (pod, peer) = (v4(2, 40_000), v4(9, 41_000));
    let stream = Stream::syn(&kernel, Role::ROLE_CLIENT, pod, peer);
    let (own, other) = (stream.next(Client).wrapping_sub(1), stream.next(Server));
    stream.acknowledging(Server, (other, 0), SYN, &[]);
    stream.acknowledging(Client, (own, other.wrapping_add(1)), SYN | ACK, &[]);
    assert_eq!(told(&kernel), (0, 0));
    stream.acknowledging(Server, (other, own.wrapping_add(1)), SYN | ACK, &[]);
    assert_eq!(told(&kernel), (1, 0));
    assert_eq!(elements(&kernel, "conns"), 1);
    stream.acknowledging(Server, (other.wrapping_add(1), own.wrapping_add(1)), 4, &[]);
    assert_all_ends(&kernel);
    assert_eq!(told(&kernel), (1, 0));
}

/// All that can be made by two segments in anybody's name.
#[test]
fn a_pair_of_forged_segments_holds_nothing_for_long() {
    let kernel = Kernel::new();
    // So many have a place each but once in ten million runs.
    for port in 20_000..20_500 {
        let stream = syn(&kernel, Role::ROLE_SERVER, port);
        stream.send_flags(Server, SYN | ACK);
        stream.acknowledging(Client, (stream.next(Client), 1), ACK, &[]);
    }
    assert_all_ends(&kernel);
    assert_eq!(told(&kernel), (0, 500));
}

/// RFC 7413. The bytes of a SYN are read when the handshake is through, and have no place in any table of what
/// they ask for before.
#[test]
fn bytes_of_a_syn_are_read_behind_the_handshake() {
    let kernel = Kernel::new();
    let http2 = [http2_cases::client(&[]), http2_cases::get(1)].concat();
    let answer = [http2_cases::server(&[]), http2_cases::ok(1)].concat();
    let pipelined = (REQUEST.repeat(20), RESPONSE.repeat(20));
    let (mut asked, mut opened, mut port) = (0, 0, 40_000);
    for role in ROLES {
        for (n, request, response) in [(1, &http2, &answer), (20, &pipelined.0, &pipelined.1)] {
            for taken in [request.len(), request.len() / 2, 0] {
                for early in [false, true] {
                    port += 1;
                    // A server answers early only what it took whole.
                    if early && taken < request.len() {
                        continue;
                    }
                    let (client, server) = ends(role, port);
                    let mut stream = Stream::syn_with(&kernel, role, client, server, request);
                    assert_eq!(entries(&kernel), 0);
                    stream.advance(Client, taken);
                    stream.send_flags(Server, SYN | ACK);
                    assert_eq!((entries(&kernel), requests(&kernel)), (0, asked));
                    stream.advance(Server, 1);
                    if early {
                        stream.send(Server, response);
                    }
                    stream.send_flags(Client, ACK);
                    opened += 1;
                    assert_eq!(told(&kernel), (opened, 0));
                    // What was not taken is sent again.
                    if taken < request.len() {
                        stream.send(Client, &request[taken..]);
                    }
                    if !early {
                        stream.send(Server, response);
                    }
                    asked += n;
                    assert_eq!(requests(&kernel), asked, "{role:?} {n} {taken} {early}");
                    stream.reset(Client);
                }
            }
        }
    }
    assert_eq!(kernel.gaps().len(), 0, "{:?}", kernel.gaps());
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_ERRORS), 0);
    assert_all_ends(&kernel);
}

#[test]
fn syns_with_bytes_fill_no_table_and_what_has_no_place_is_a_gap() {
    let kernel = Kernel::new();
    let http2 = [http2_cases::client(&[]), http2_cases::get(1)].concat();
    let open = |port: u16, bytes: &[u8]| {
        let (client, server) = ends(Role::ROLE_SERVER, port);
        Stream::syn_with(&kernel, Role::ROLE_SERVER, client, server, bytes)
    };
    for port in 20_000..20_400 {
        open(port, if port % 2 == 0 { &http2 } else { &[] });
    }
    assert_eq!(entries(&kernel), 0);
    // One whose bytes found no place: the server took them, and nobody here knows what they were.
    let mut lost = open(40_000, REQUEST);
    lost.advance(Client, REQUEST.len());
    lost.accept();
    lost.send(Server, RESPONSE);
    exchange(&mut lost);
    assert_eq!((told(&kernel), requests(&kernel)), ((1, 0), 0));
    assert_eq!(stat(&kernel, Stat::STAT_GAP_SEQUENCE), 1);
    // Segments that overtake each other have their places all the same.
    let mut stream = syn(&kernel, Role::ROLE_SERVER, 41_000);
    stream.accept();
    let many = REQUEST.repeat(25);
    let seq = stream.next(Client);
    for at in (0..25).rev() {
        let from = at * REQUEST.len();
        let seq = seq.wrapping_add(u32::try_from(from).unwrap());
        stream.segment(Client, seq, ACK, &many[from..from + REQUEST.len()]);
    }
    stream.advance(Client, many.len());
    stream.send(Server, &RESPONSE.repeat(25));
    assert_eq!(requests(&kernel), 25);
    for stream in [lost, stream] {
        stream.reset(Side::Client);
    }
    assert_all_ends(&kernel);
    assert_eq!(told(&kernel), (2, 400));
    assert_eq!(stat(&kernel, Stat::STAT_GAP_SEQUENCE), 1);
}
