//! What can't be followed: each is told of once, by its reason, nothing of it is guessed, and the next
//! connection is counted exactly.

use std::{collections::BTreeMap, time::Duration};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use weir::telemetry::{
    pin,
    wire::{
        CounterKind, DbOperation as Op, DbOutcome, Direction, HistogramKey, HistogramKind,
        HttpError, HttpMethod, HttpVersion, L7Protocol, Role, Stat, TcpResult,
    },
};

use crate::{
    confusion::Listener,
    exchange::{Exchange, http1},
    frame::{self, ACK, v4},
    http1_cases,
    kernel::{Counts, Kernel},
    malformed_cases::{self, HEAD_MAX},
    mysql_cases,
    share::{assert_balanced, elements, stat},
    split,
    stream::{
        Side::{Client, Server},
        Stream,
    },
};

pub const ROLES: [Role; 2] = [Role::ROLE_SERVER, Role::ROLE_CLIENT];
pub const GET: HttpMethod = HttpMethod::HTTP_METHOD_GET;
pub const V1_1: HttpVersion = HttpVersion::HTTP_VERSION_1_1;
pub const ASKS: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
pub const SAYS: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A connection that is lost for these reasons, and what may be counted of it.
fn loses(listener: &mut Listener, exchange: &Exchange, role: Role, reasons: &[(Stat, u64)]) {
    let (before, met) = (listener.kernel.counts(), listener.kernel.gaps());
    listener.hear_as(role, exchange.port, &exchange.turns);
    let what = format!("{}, pod is {role:?}", exchange.name);
    assert_lost(listener, (before, met), &exchange.expected(role), reasons, &what);
}

/// That so much was counted since, and so much was told of as lost.
pub fn assert_lost(
    listener: &Listener,
    (before, mut met): (Counts, BTreeMap<u32, u64>),
    expected: &Counts,
    reasons: &[(Stat, u64)],
    what: &str,
) {
    let mut counted = listener.kernel.counts().since(&before).above_tcp();
    if counted != *expected && protocol(expected) == Some(L7Protocol::L7_HTTP2.0) {
        // What such a connection left open waits for the sweep.
        listener.kernel.maps.sweep(Duration::from_secs(60)).unwrap();
        counted = listener.kernel.counts().since(&before).above_tcp();
    }
    assert_eq!(counted, *expected, "{what}");
    for (reason, n) in reasons {
        *met.entry(reason.0).or_default() += n;
    }
    assert_eq!(listener.kernel.gaps(), met, "{what}");
}

/// What is whole is counted in full, in both roles.
pub fn assert_right(listener: &mut Listener, exchanges: &[Exchange]) {
    for exchange in exchanges {
        ROLES.iter().for_each(|role| loses(listener, exchange, *role, &[]));
    }
}

/// What a connection was taken for, if anything.
fn protocol(counts: &Counts) -> Option<u32> {
    let kind = CounterKind::COUNTER_L7_CONNECTIONS.0;
    counts.0.keys().find(|key| u32::from(key.0) == kind).map(|key| u32::from(key.2))
}

/// Exchanges of a protocol that are whole.
pub fn whole(port: u16, of: &Counts) -> Vec<Exchange> {
    let mut all = split::exchanges();
    let is_of = |one: &Exchange| protocol(&one.expected(Role::ROLE_SERVER)) == protocol(of);
    all.retain(|one| one.port == port && is_of(one));
    all
}

#[test]
fn bytes_that_are_no_message_are_told_of_and_the_next_connection_is_right() {
    let mut listener = Listener::new();
    let broken = malformed_cases::exchanges();
    for exchange in &broken {
        for role in ROLES {
            loses(&mut listener, exchange, role, &[(Stat::STAT_GAP_MALFORMED, 1)]);
        }
        let mut whole = whole(exchange.port, &exchange.expected(Role::ROLE_SERVER));
        assert!(!whole.is_empty(), "{}", exchange.name);
        whole.truncate(2);
        assert_right(&mut listener, &whole);
    }
    assert_balanced(&listener.kernel);
}

#[test]
fn a_head_at_its_bound_is_read_and_one_beyond_it_is_lost() {
    let mut listener = Listener::new();
    let request = |len: usize| {
        let (first, last) = ("GET / HTTP/1.1\r\nCookie: ", "\r\n\r\n");
        let turns = [
            (Client, [first, &"c".repeat(len - first.len() - last.len()), last].concat().into()),
            (Server, SAYS.to_vec()),
        ];
        Exchange::of("a head at its bound", turns, L7Protocol::L7_HTTP1)
    };
    assert_right(&mut listener, &[request(HEAD_MAX).request(GET, V1_1, 204)]);
    let beyond = request(HEAD_MAX + 1).request(GET, V1_1, 0).error(HttpError::HTTP_ERROR_MALFORMED);
    for role in ROLES {
        loses(&mut listener, &beyond, role, &[(Stat::STAT_GAP_MALFORMED, 1)]);
    }
    assert_right(&mut listener, &http1_cases::exchanges());
}

/// Nothing is lost of what was never followed: such a connection is of an unknown protocol.
#[test]
fn a_first_line_that_does_not_show_what_it_is_makes_the_protocol_unknown() {
    /// `UNDECIDED_MAX` of `http1.h`.
    const MOST: usize = 8192;
    let mut listener = Listener::new();
    let line = |len: usize, protocol| {
        let (first, last) = ("GET /", " HTTP/1.1\r\n");
        let line = [first, &"p".repeat(len - first.len() - last.len()), last, "\r\n"].concat();
        Exchange::new("a long first line", line, SAYS, protocol)
    };
    // Less its newline.
    let right = [MOST, MOST + 1].map(|len| line(len, L7Protocol::L7_HTTP1));
    let beyond = [MOST + 2, MOST + 300, 3 * MOST].map(|len| line(len, L7Protocol::L7_UNKNOWN));
    for exchange in right.map(|line| line.request(GET, V1_1, 204)).into_iter().chain(beyond) {
        let (first, rest) = exchange.turns[0].1.split_at(MOST - 1);
        let said = [(Client, first), (Client, rest), (Server, SAYS)];
        let cut = exchange.played(said.map(|(side, bytes)| (side, bytes.to_vec())));
        assert_right(&mut listener, &[exchange, cut]);
    }
    assert_right(&mut listener, &http1_cases::exchanges());
}

/// What is compressed on request can't be read; what is not, though both could, can.
#[test]
fn a_session_that_is_compressed_is_told_of() {
    const COMPRESS: u32 = 1 << 5;
    const ZSTD: u32 = 1 << 26;
    const PLAIN: u32 = 0x201;
    let mysql = L7Protocol::L7_MYSQL;
    let insert = mysql_cases::query("insert into t values (1)");
    let login = |server: u32, client: u32| {
        [
            (Server, mysql_cases::greeting(server, 0)),
            (Client, mysql_cases::response(client, 0)),
            (Server, mysql_cases::ok(0)),
        ]
    };
    // In a frame of its own, which says how long it would be; 0: it was not worth it.
    let framed = |packet: &[u8]| {
        let len = u32::try_from(packet.len()).unwrap().to_le_bytes();
        [&len[..3], &[0, 0, 0, 0], packet].concat()
    };
    let compressed = |capabilities: u32| {
        let mut turns = login(capabilities, capabilities).to_vec();
        for _ in 0..2 {
            turns.push((Client, framed(&insert)));
            turns.push((Server, framed(&mysql_cases::ok(0))));
        }
        // Not even what looks as if it were not compressed.
        turns.extend([(Client, insert.clone()), (Server, mysql_cases::ok(0))]);
        Exchange::of("mysql: compressed", turns, mysql)
    };
    let one_sided = |server, client| {
        let mut turns = login(server, client).to_vec();
        turns.extend([(Client, insert.clone()), (Server, mysql_cases::ok(0))]);
        let exchange = Exchange::of("mysql: compressed by one side", turns, mysql);
        exchange.asked(mysql, Op::DB_INSERT, DbOutcome::DB_OK, 1)
    };
    let mut listener = Listener::new();
    for method in [COMPRESS, ZSTD, COMPRESS | ZSTD] {
        for role in ROLES {
            let compressed = compressed(PLAIN | method);
            loses(&mut listener, &compressed, role, &[(Stat::STAT_GAP_ENCODED, 1)]);
        }
        for (server, client) in [(PLAIN | method, PLAIN), (PLAIN, PLAIN | method)] {
            assert_right(&mut listener, &[one_sided(server, client)]);
        }
    }
    assert_right(&mut listener, &mysql_cases::exchanges());
}

/// What finds no place while another CPU reads is told of, and the next connection is right.
#[test]
fn what_comes_to_a_busy_direction_and_finds_no_place_is_told_of() {
    let kernel = Kernel::new();
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40_000), v4(2, 80));
    stream.send(Client, ASKS);
    kernel.own(Direction::DIRECTION_RX, true);
    // None goes on where another ends: each would take a place of its own, and a direction has 32.
    for hole in 0..40 {
        let seq = stream.next(Client).wrapping_add(100 * (hole + 1));
        stream.segment(Client, seq, ACK, ASKS);
    }
    assert_eq!(kernel.gaps(), [(Stat::STAT_GAP_CONTENDED.0, 8)].into());
    kernel.own(Direction::DIRECTION_RX, false);
    stream.reset(Client);
    // The holes were never filled.
    let told = [(Stat::STAT_GAP_CONTENDED.0, 8), (Stat::STAT_GAP_SEQUENCE.0, 1)].into();
    assert_eq!(kernel.gaps(), told);
    let malformed =
        http1("", "", "", &[], (0, 0)).request(GET, V1_1, 0).error(HttpError::HTTP_ERROR_MALFORMED);
    let before = kernel.counts().above_tcp();
    assert_eq!(before, malformed.expected(Role::ROLE_SERVER));

    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40_001), v4(2, 80));
    stream.send(Client, ASKS);
    stream.send(Server, SAYS);
    stream.reset(Client);
    let right = http1("", "", "", &[(GET, V1_1, 204)], (0, 0)).expected(Role::ROLE_SERVER);
    assert_eq!(kernel.counts().since(&before).above_tcp(), right);
    assert_eq!(kernel.gaps(), told);
    assert_balanced(&kernel);
}

/// Both sides close at once, each on a CPU of its own: the end that waits for the other CPU lacks nothing.
#[test]
fn an_end_that_waits_for_another_cpu_at_the_end_is_no_gap() {
    let kernel = Kernel::new();
    for (n, port) in (40_000..40_002).enumerate() {
        let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, port), v4(2, 80));
        stream.send(Client, ASKS);
        stream.send(Server, SAYS);
        kernel.own(Direction::DIRECTION_RX, true);
        stream.fin(Client);
        kernel.own(Direction::DIRECTION_RX, false);
        if n == 0 {
            stream.fin(Server);
        } else {
            stream.reset(Server);
        }
        assert_eq!(kernel.gaps(), [].into(), "{n}");
    }
    let counts = kernel.counts();
    // What nobody could read any more is one.
    let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, 40_002), v4(2, 80));
    kernel.own(Direction::DIRECTION_RX, true);
    stream.send(Client, ASKS);
    kernel.own(Direction::DIRECTION_RX, false);
    stream.reset(Server);
    assert_eq!(kernel.gaps(), [(Stat::STAT_GAP_SEQUENCE.0, 1)].into());
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_REQUESTS), 2, "{counts:?}");
    assert_eq!(counts.of(CounterKind::COUNTER_HTTP_ERRORS), 0, "{counts:?}");
    assert_balanced(&kernel);
}

/// An end that comes meanwhile is told of too, and made up for by the sweep.
#[test]
fn an_end_that_comes_to_a_busy_direction_is_told_of_and_made_up_for() {
    let kernel = Kernel::new();
    for (n, busy) in [Direction::DIRECTION_RX, Direction::DIRECTION_TX].into_iter().enumerate() {
        let (n, port) = (n as u64, 40_000 + u16::try_from(n).unwrap());
        let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, port), v4(2, 80));
        stream.send(Client, ASKS);
        kernel.own(busy, true);
        stream.reset(Client);
        assert_eq!(kernel.gaps(), [(Stat::STAT_GAP_CONTENDED.0, n + 1)].into(), "{busy:?}");
        assert_eq!(elements(&kernel, "conns"), 1, "{busy:?}");
        kernel.own(busy, false);
        kernel.age_connections_by(60);
        kernel.maps.sweep(Duration::from_secs(60)).unwrap();
        assert_eq!(elements(&kernel, "conns"), 0, "{busy:?}");
        let mut expected = Counts::default();
        let server = u8::try_from(Role::ROLE_SERVER.0).unwrap();
        for (kind, a, b) in [
            (CounterKind::COUNTER_L7_CONNECTIONS, L7Protocol::L7_HTTP1.0, 0),
            (CounterKind::COUNTER_HTTP_REQUESTS, GET.0, V1_1.0),
            (CounterKind::COUNTER_HTTP_ERRORS, HttpError::HTTP_ERROR_CANCELLED.0, 0),
            (CounterKind::COUNTER_TCP_CONNECTIONS, TcpResult::TCP_RESULT_ESTABLISHED.0, 0),
            (CounterKind::COUNTER_TCP_CONNECTIONS, TcpResult::TCP_RESULT_RESET.0, 0),
            (CounterKind::COUNTER_TCP_CLOSED, 0, 0),
        ] {
            expected.add(kind, server, a, b, 0, n + 1);
        }
        assert_eq!(kernel.counts(), expected, "{busy:?}");
    }
    assert_balanced(&kernel);
}

/// Their pods are gone by the time that anybody looks: what finds no place is told of, and counted.
#[test]
fn a_table_of_histograms_that_is_full_is_told_of() {
    let kernel = Kernel::new();
    let table =
        MapHandle::from_pinned_path(pin::dir(&kernel.bpf_dir()).join("histograms")).unwrap();
    let key = |pod: u32| [&pod.to_ne_bytes()[..], &[0; size_of::<HistogramKey>() - 4]].concat();
    let value = vec![0; usize::try_from(table.value_size()).unwrap()];
    let strangers = 1_000_000..1_000_000 + table.max_entries();
    for pod in strangers.clone() {
        table.update(&key(pod), &value, MapFlags::NO_EXIST).unwrap();
    }
    let ask = |port| {
        let mut stream = Stream::open(&kernel, Role::ROLE_SERVER, v4(9, port), v4(2, 80));
        stream.send(Client, ASKS);
        stream.send(Server, SAYS);
        stream.reset(Client);
    };
    ask(40_000);
    // The handshake's, and the request's; the round trip was not timed, since nobody acknowledged it.
    let told = stat(&kernel, Stat::STAT_FULL_HISTOGRAMS);
    assert_eq!(told, 2);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 1);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 0);

    strangers.for_each(|pod| table.delete(&key(pod)).unwrap());
    ask(40_001);
    assert_eq!(stat(&kernel, Stat::STAT_FULL_HISTOGRAMS), told);
    assert_eq!(kernel.counts().of(CounterKind::COUNTER_HTTP_REQUESTS), 2);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_HTTP_REQUEST), 1);
    assert_eq!(kernel.observations(HistogramKind::HISTOGRAM_TCP_CONNECT), 1);
}

/// A program that is left at an interface whose pod is gone counts nothing for nobody.
#[test]
fn packets_of_an_interface_without_a_pod_are_told_of() {
    let kernel = Kernel::new();
    let ifindex = Kernel::interface();
    let before = kernel.counts();
    let syn = frame::tcp(v4(9, 40_000), v4(3, 80), 1, frame::SYN, &[]);
    for n in 1..=3 {
        kernel.pass(ifindex, n % 2 == 0, &syn);
        assert_eq!(stat(&kernel, Stat::STAT_UNKNOWN_INTERFACE), n);
    }
    assert_eq!(kernel.counts(), before);
    assert_eq!(elements(&kernel, "conns"), 0);

    kernel.attach(ifindex, "neighbour");
    kernel.pass(ifindex, false, &syn);
    assert_eq!(stat(&kernel, Stat::STAT_UNKNOWN_INTERFACE), 3);
    assert_eq!(elements(&kernel, "conns"), 1);
}
